//! Which objects a job may name. Pure.

use crate::domain::{Reason, RestoreError, RestoreJob};

use super::Settings;

/// Where the ledger's records lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerKeys {
    /// Its bucket.
    pub bucket: String,
    /// The beginning of its keys.
    pub prefix: String,
}

/// Refuses what no job may read.
pub(super) fn check(settings: &Settings, job: &RestoreJob) -> Result<(), RestoreError> {
    let (bucket, key) = (job.blob.bucket.as_str(), job.blob.key.as_str());
    if !settings.allowed_buckets.is_empty()
        && !settings.allowed_buckets.iter().any(|allowed| allowed == bucket)
    {
        return Err(RestoreError::job(
            Reason::BucketNotAllowed,
            "the bucket is not in storage.allowed_buckets",
        ));
    }
    if settings.allowed_buckets.is_empty() && !is_bucket_name(bucket) {
        return Err(RestoreError::job(Reason::BucketNotAllowed, "the bucket's name is none"));
    }
    let refuse = |why: &str| Err(RestoreError::job(Reason::BlobNotAllowed, why));
    let ledger = settings.ledger.as_ref().filter(|ledger| ledger.bucket == bucket);
    // A server that resolves such segments would lead the key out of its prefix.
    if (settings.allowed_prefix.is_some() || ledger.is_some()) && key.split(['/', '\\']).any(is_dots) {
        return refuse("the key holds a relative path segment");
    }
    if ledger.is_some_and(|ledger| collapse(key).starts_with(&collapse(&ledger.prefix))) {
        return refuse("the key is one of the ledger's own");
    }
    match &settings.allowed_prefix {
        Some(template) if !within(template, job) => refuse("the key is outside storage.allowed_prefix"),
        _ => Ok(()),
    }
}

/// Whether the key begins with the template, filled in. Behind a template that ends in a placeholder the key must go on
/// with `/`, or the owner `t1` could name what belongs to `t10`.
fn within(template: &str, job: &RestoreJob) -> bool {
    let prefix =
        template.replace("{tenantId}", job.tenant.as_str()).replace("{mailboxId}", job.mailbox.as_str());
    match job.blob.key.strip_prefix(&prefix) {
        Some(rest) => !template.ends_with('}') || rest.starts_with('/'),
        None => false,
    }
}

/// Whether text can be a bucket's name and nothing else: it becomes part of a host name or a path. What an operator allows
/// by name (an access point, say) need not look like this.
fn is_bucket_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    // AWS's limit is 63 today and was 255 once.
    (1..=255).contains(&text.len())
        && text.bytes().all(plain)
        && !text.contains("..")
        && !text.starts_with('.')
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

/// The key without leading and doubled slashes, which some servers drop, in lower case, as some file systems read it.
fn collapse(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for segment in key.split('/').filter(|segment| !segment.is_empty()) {
        if !out.is_empty() {
            out.push('/');
        }
        out.push_str(&segment.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob_store::testing;

    #[test]
    fn what_a_job_may_name() {
        use Reason::{BlobNotAllowed, BucketNotAllowed};
        let prefix = Some("backups/{tenantId}/{mailboxId}");
        for (name, buckets, prefix, bucket, key, refused) in [
            ("anything when nothing is set", vec![], None, "b", "k", None),
            ("an allowed bucket", vec!["a", "b"], None, "b", "k", None),
            (
                "an access point that is allowed",
                vec!["arn:aws:s3:x:1:accesspoint/a"],
                None,
                "arn:aws:s3:x:1:accesspoint/a",
                "k",
                None,
            ),
            (
                "an access point that is not",
                vec![],
                None,
                "arn:aws:s3:x:1:accesspoint/a",
                "k",
                Some(BucketNotAllowed),
            ),
            ("a bucket that is a path", vec![], None, "b/../ledger", "k", Some(BucketNotAllowed)),
            ("a bucket that is a host", vec![], None, "evil.example.com/", "k", Some(BucketNotAllowed)),
            ("dots for a bucket", vec![], None, "..", "k", Some(BucketNotAllowed)),
            ("another bucket", vec!["a"], None, "b", "k", Some(BucketNotAllowed)),
            ("bucket names are not prefixes", vec!["b"], None, "bb", "k", Some(BucketNotAllowed)),
            ("its own", vec![], prefix, "b", "backups/contoso.com/anna/1.fts", None),
            ("another mailbox", vec![], prefix, "b", "backups/contoso.com/anna2/1.fts", Some(BlobNotAllowed)),
            ("another tenant", vec![], prefix, "b", "backups/fabrikam.com/anna/1.fts", Some(BlobNotAllowed)),
            (
                "up and over",
                vec![],
                prefix,
                "b",
                "backups/contoso.com/anna/../bob/1.fts",
                Some(BlobNotAllowed),
            ),
            ("dots in names are fine", vec![], prefix, "b", "backups/contoso.com/anna/..1.fts", None),
            ("a fixed prefix", vec![], Some("in/"), "b", "in/1", None),
            ("outside a fixed prefix", vec![], Some("in/"), "b", "inn/1", Some(BlobNotAllowed)),
            ("the ledger", vec![], None, "ledger", "restore-ledger/jobs/00/x.json", Some(BlobNotAllowed)),
            (
                "the ledger behind slashes",
                vec![],
                None,
                "ledger",
                "//restore-ledger//jobs/00/x.json",
                Some(BlobNotAllowed),
            ),
            (
                "the ledger by another case",
                vec![],
                None,
                "ledger",
                "Restore-Ledger/jobs",
                Some(BlobNotAllowed),
            ),
            (
                "the ledger by a detour",
                vec![],
                None,
                "ledger",
                "x/../restore-ledger/jobs/00/x.json",
                Some(BlobNotAllowed),
            ),
            ("beside the ledger", vec![], None, "ledger", "blobs/1.fts", None),
            ("the ledger's prefix in another bucket", vec![], None, "b", "restore-ledger/1.fts", None),
        ] {
            let mut settings = testing::settings("http://127.0.0.1:1");
            settings.allowed_buckets = buckets.into_iter().map(str::to_owned).collect();
            settings.allowed_prefix = prefix.map(str::to_owned);
            settings.ledger = Some(LedgerKeys { bucket: "ledger".into(), prefix: "restore-ledger/".into() });
            let got = check(&settings, &testing::job(bucket, key)).err().map(|error| error.reason);
            assert_eq!(got, refused, "{name}");
        }
    }
}
