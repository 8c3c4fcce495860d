//! A restore job that can be done, in types that cannot be wrong: each value is parsed once, at the edge.

use std::{fmt, time::Duration};

/// Why a value is refused: which one, and what is wrong with it. Never holds the value itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Invalid {
    /// The contract's name of the field.
    pub field: &'static str,
    /// What is wrong, lower case, no full stop.
    pub why: String,
}

impl Invalid {
    /// A refusal of `field`.
    #[must_use]
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }
}

/// A moment, in milliseconds since 1970 UTC. Whose clock it was read from is said where it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// Later by `duration`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Earlier by `duration`.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How much later than `earlier`; zero when it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Declares a newtype over a checked string.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $field:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks the text.
            ///
            /// # Errors
            /// [`Invalid`], when the text is none of this kind.
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                match $check(text) {
                    Ok(()) => Ok(Self(text.into())),
                    Err(why) => Err(Invalid { field: $field, why }),
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text! {
    /// Chosen by the emitter; the idempotency key. 1–200 bytes of printable ASCII.
    JobId, "jobId", check_job_id
}
text! {
    /// Entra tenant: a GUID or a domain name.
    TenantId, "tenantId", check_tenant
}
text! {
    /// One path segment of Graph's `/admin/exchange/mailboxes/{mailboxId}`. Usually `MBX:<guid>@<tenant>`, but not required to be.
    MailboxId, "mailboxId", check_path_segment
}
text! {
    /// The folder that the item goes to. Also a path segment when the folder is looked into.
    FolderId, "folderId", check_exchange_id
}
text! {
    /// An item of a mailbox.
    ItemId, "itemId", check_exchange_id
}
text! {
    /// The version of an item.
    ChangeKey, "changeKey", check_exchange_id
}

/// Longest id of Exchange that is taken; real ones are below 200 characters.
const MAX_EXCHANGE_ID: usize = 1_024;
/// Longest mailbox id that is taken.
const MAX_MAILBOX_ID: usize = 512;

fn check_job_id(text: &str) -> Result<(), String> {
    within(text, 200)?;
    if text.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
        Ok(())
    } else {
        Err("must be printable ASCII".into())
    }
}

fn check_tenant(text: &str) -> Result<(), String> {
    within(text, 253)?;
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if is_guid(text) || (text.contains('.') && text.split('.').all(label)) {
        Ok(())
    } else {
        Err("must be a GUID or a domain name".into())
    }
}

fn check_path_segment(text: &str) -> Result<(), String> {
    within(text, MAX_MAILBOX_ID)?;
    if text == "." || text == ".." {
        return Err("must not be a relative path".into());
    }
    if text.chars().any(|c| matches!(c, '/' | '\\' | '?' | '#' | '%') || c.is_control()) {
        return Err("must be one path segment: no / \\ ? # %, no control characters".into());
    }
    Ok(())
}

fn check_exchange_id(text: &str) -> Result<(), String> {
    within(text, MAX_EXCHANGE_ID)?;
    if text.chars().all(|c| c.is_ascii_graphic()) { Ok(()) } else { Err("must be visible ASCII".into()) }
}

fn within(text: &str, max: usize) -> Result<(), String> {
    match text.len() {
        0 => Err("must not be empty".into()),
        n if n > max => Err(format!("must be at most {max} bytes, is {n}")),
        _ => Ok(()),
    }
}

/// Whether the text is a GUID in its 8-4-4-4-12 form.
#[must_use]
pub fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

impl MailboxId {
    /// The tenant that an id of the form `MBX:…@tenant` names.
    #[must_use]
    pub fn tenant_part(&self) -> Option<&str> {
        self.as_str().strip_prefix("MBX:").and_then(|rest| rest.rsplit_once('@')).map(|(_, tenant)| tenant)
    }
}

/// Create a new item, or write over one. An update without its keys cannot be written down.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImportMode {
    /// A new item; a repetition makes a second one.
    Create,
    /// The content of an existing item in the folder.
    Update {
        /// Which item.
        item_id: ItemId,
        /// The version that the update replaces.
        change_key: ChangeKey,
    },
}

impl ImportMode {
    /// The words of both modes.
    pub const WORDS: [&str; 2] = ["create", "update"];

    /// `create` or `update`: the contract's word, Graph's `Mode`, and the metric label.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update { .. } => "update",
        }
    }
}

/// Bytes of an object that hold the item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes; at least 1.
    pub length: u64,
}

/// The stored form of the FTS bytes, below compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    #[default]
    Raw,
    /// Base64 text, perhaps with line breaks.
    Base64,
}

/// How the stored form is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// Where the item's bytes are and what is known of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobRef {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// A version of the object.
    pub version_id: Option<String>,
    /// An item inside a packed object.
    pub range: Option<ByteRange>,
    /// Stored form.
    pub encoding: Encoding,
    /// Compression of the stored form.
    pub compression: Compression,
    /// FTS bytes after decoding.
    pub size: Option<u64>,
    /// SHA-256 of the FTS bytes after decoding.
    pub sha256: Option<[u8; 32]>,
}

impl BlobRef {
    /// A whole object whose bytes are the FTS bytes, nothing else being known of them.
    #[must_use]
    pub fn plain(bucket: &str, key: &str) -> Self {
        Self {
            bucket: bucket.into(),
            key: key.into(),
            version_id: None,
            range: None,
            encoding: Encoding::Raw,
            compression: Compression::None,
            size: None,
            sha256: None,
        }
    }
}

/// Which version of Graph opens the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GraphVersion {
    /// Generally available; refuses archive mailboxes.
    V1,
    /// Needed for archive mailboxes.
    Beta,
}

impl GraphVersion {
    /// The path segment, and the contract's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1.0",
            Self::Beta => "beta",
        }
    }
}

/// The job's `metadata`: the text of a JSON object of at most 16 KiB, echoed as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata(Box<str>);

impl Metadata {
    /// Largest text, in bytes.
    pub const MAX: usize = 16 * 1024;

    /// Takes the text of a JSON object (the caller has parsed it).
    ///
    /// # Errors
    /// [`Invalid`], when it is longer than [`Self::MAX`] or no object.
    pub fn from_json_text(text: &str) -> Result<Self, Invalid> {
        if !text.trim_start().starts_with('{') {
            return Err(Invalid::new("metadata", "must be a JSON object"));
        }
        if text.len() > Self::MAX {
            return Err(Invalid::new("metadata", format!("must be at most 16 KiB, is {} bytes", text.len())));
        }
        Ok(Self(text.into()))
    }

    /// The JSON text.
    #[must_use]
    pub fn as_json_text(&self) -> &str {
        &self.0
    }
}

/// A job that can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreJob {
    /// The idempotency key.
    pub id: JobId,
    /// Groups the jobs of one restore.
    pub restore_id: Option<String>,
    /// For the audit trail.
    pub requested_by: Option<String>,
    /// The job's tenant, or the configured one.
    pub tenant: TenantId,
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Where the item goes.
    pub folder: FolderId,
    /// Create or update.
    pub mode: ImportMode,
    /// Where the bytes are.
    pub blob: BlobRef,
    /// In place of the configured version.
    pub graph_version: Option<GraphVersion>,
    /// Later than this the job fails as `job_expired`.
    pub not_after: Option<UnixMillis>,
    /// Echoed.
    pub metadata: Option<Metadata>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_at_the_edge() {
        let long = "x".repeat(10_000);
        for (name, result, accepted) in [
            ("job id", JobId::parse("0f6d2c1e").map(drop), true),
            ("job id with a space", JobId::parse("a b").map(drop), true),
            ("empty job id", JobId::parse("").map(drop), false),
            ("long job id", JobId::parse(&long).map(drop), false),
            ("job id with a line break", JobId::parse("a\nb").map(drop), false),
            ("job id beyond ASCII", JobId::parse("jöb").map(drop), false),
            ("tenant guid", TenantId::parse("a7809c93-1111-2222-3333-444455556666").map(drop), true),
            ("tenant domain", TenantId::parse("contoso.onmicrosoft.com").map(drop), true),
            ("tenant word", TenantId::parse("common").map(drop), false),
            ("tenant path", TenantId::parse("../x.y").map(drop), false),
            ("mailbox", MailboxId::parse("MBX:e0643f21@a7809c93").map(drop), true),
            ("mailbox as address", MailboxId::parse("anna@contoso.com").map(drop), true),
            ("mailbox as path", MailboxId::parse("../../users/x?").map(drop), false),
            ("mailbox dots", MailboxId::parse("..").map(drop), false),
            ("mailbox percent", MailboxId::parse("a%2fb").map(drop), false),
            ("mailbox of 10,000 characters", MailboxId::parse(&long).map(drop), false),
            ("folder", FolderId::parse("EDSVrdi3lRAAEED0yTAAA=").map(drop), true),
            ("folder with a space", FolderId::parse("a b").map(drop), false),
        ] {
            assert_eq!(result.is_ok(), accepted, "{name}: {result:?}");
        }
    }

    #[test]
    fn a_refusal_names_the_field_and_not_the_value() {
        let refusal = MailboxId::parse("secret/../path").expect_err("refused").to_string();
        assert!(refusal.starts_with("mailboxId: ") && !refusal.contains("secret"), "{refusal}");
    }

    #[test]
    fn the_tenant_part_of_a_mailbox_id() {
        let part = |id: &str| MailboxId::parse(id).expect("id").tenant_part().map(str::to_owned);
        assert_eq!(part("MBX:e0643f21@a7809c93").as_deref(), Some("a7809c93"));
        assert_eq!(part("anna@contoso.com"), None);
    }
}
