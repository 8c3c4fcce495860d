//! A job's end → the result event, its properties and its message id.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::domain::hex::hex;
use crate::domain::{BlobRef, Event, ImportMode, Outcome, Reason, RestoreJob, UnixMillis};

/// Who tells.
#[derive(Clone, Debug)]
pub struct Worker {
    /// `HOSTNAME`: under Kubernetes the pod's name.
    pub name: String,
    /// This program's version.
    pub version: String,
}

/// What an event is about: a job, or a message that is none, of which only the id could be read.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The job's id.
    pub job_id: &'a str,
    /// The job, if the message is one.
    pub job: Option<&'a RestoreJob>,
    /// The message's body, for its digest.
    pub body: &'a [u8],
}

/// An event, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// JSON.
    pub body: Vec<u8>,
    /// Deterministic: repeats can be dropped by it.
    pub message_id: String,
    /// `mailboxId`, for the CloudEvents attribute `subject`.
    pub subject: Option<String>,
    /// `completedAt`.
    pub time: String,
    /// The same in unix seconds, for the AMQP timestamp.
    pub unix_seconds: u64,
    /// W3C context of the span that tells; `None`: as the job's message carries it.
    pub traceparent: Option<String>,
}

/// `<jobId>/<replay>/<status>`; where a message ended rather than a job, `/<16 hex of its body's SHA-256>` behind.
#[must_use]
pub fn event_id(subject: Subject<'_>, event: &Event) -> String {
    let id = format!("{}/{}/{}", subject.job_id, event.replay, event.outcome.status());
    if event.outcome.failure().is_some_and(|failure| failure.reason.ends_message()) {
        return format!("{id}/{}", hex(&digest(&SHA256, subject.body).as_ref()[..8]));
    }
    id
}

/// Renders the event of a job, or of a message that is none.
///
/// # Errors
/// Never in practice: everything in it is a string, a number or text that was parsed as JSON.
pub fn render(
    subject: Subject<'_>,
    submitted_by: Option<&str>,
    event: &Event,
    worker: &Worker,
    completed_at: UnixMillis,
) -> Result<Rendered, serde_json::Error> {
    let job = subject.job;
    let time = rfc3339(completed_at);
    let (item, recovered, evidence, duplicates) = match &event.outcome {
        Outcome::Succeeded { imported, evidence, duplicates } => {
            let duplicates = duplicates.iter().map(|d| d.as_str().to_owned()).collect();
            (Some(imported), evidence.as_str() != "answer", Some(evidence.as_str()), duplicates)
        }
        Outcome::Unknown { seen, .. } => (seen.as_ref(), false, None, Vec::new()),
        Outcome::Failed(_) => (None, false, None, Vec::new()),
    };
    let wire = WireEvent {
        job_id: subject.job_id,
        restore_id: job.and_then(|j| j.restore_id.as_deref()),
        requested_by: job.and_then(|j| j.requested_by.as_deref()),
        submitted_by,
        replay: event.replay,
        status: event.outcome.status(),
        tenant_id: job.map(|j| j.tenant.as_str()),
        mailbox_id: job.map(|j| j.mailbox.as_str()),
        folder_id: job.map(|j| j.folder.as_str()),
        mode: job.map(|j| j.mode.as_str()),
        blob: job.map(|j| WireBlob::from(&j.blob)),
        item_id: item.map(|i| i.item_id.as_str()).or_else(|| updated_item(job, &event.outcome)),
        change_key: item.map(|i| i.change_key.as_str()),
        recovered: evidence.map(|_| recovered),
        evidence,
        duplicates,
        bytes: event.bytes,
        sha256: event.sha256.map(|digest| hex(&digest)),
        attempts: event.attempts,
        request_id: event.request_id.as_deref(),
        timings: event.timings.map(|t| WireTimings {
            queued_ms: millis(t.queued),
            fetch_ms: millis(t.fetch),
            session_ms: millis(t.session),
            import_ms: millis(t.import),
            total_ms: millis(t.total),
        }),
        findings: &event.findings,
        error: event.outcome.failure().map(|f| WireError {
            code: f.reason.as_str(),
            last: f.last.map(Reason::as_str),
            message: &f.message,
            http_status: f.http_status,
            graph_code: f.graph_code.as_deref(),
            request_id: f.request_id.as_deref(),
        }),
        worker: WireWorker { name: &worker.name, version: &worker.version },
        completed_at: &time,
        metadata: job
            .and_then(|j| j.metadata.as_ref())
            .map(|m| serde_json::from_str::<&RawValue>(m.as_json_text()))
            .transpose()?,
    };
    Ok(Rendered {
        body: serde_json::to_vec(&wire)?,
        message_id: event_id(subject, event),
        subject: job.map(|j| j.mailbox.as_str().to_owned()),
        time,
        unix_seconds: u64::try_from(completed_at.0 / 1_000).unwrap_or(0),
        traceparent: None,
    })
}

/// An update names its item on every end but failed, where nothing is claimed of it.
fn updated_item<'a>(job: Option<&'a RestoreJob>, outcome: &Outcome) -> Option<&'a str> {
    match (&job?.mode, outcome) {
        (ImportMode::Update { item_id, .. }, Outcome::Unknown { .. } | Outcome::Succeeded { .. }) => {
            Some(item_id.as_str())
        }
        (ImportMode::Update { .. } | ImportMode::Create, _) => None,
    }
}

/// A moment as RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn rfc3339(moment: UnixMillis) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(moment.0) * 1_000_000)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "restore.result.v1")]
pub(super) struct WireEvent<'a> {
    /// The job's id.
    job_id: &'a str,
    /// As in the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_id: Option<&'a str>,
    /// As in the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_by: Option<&'a str>,
    /// AMQP `user-id` of the emitter, which the broker has checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    submitted_by: Option<&'a str>,
    /// Round of replay: of several the highest counts, of one round's events the latest `completedAt`.
    replay: u32,
    /// How the job ended: succeeded, failed or unknown. Later versions may add others.
    #[schemars(extend("examples" = ["succeeded", "failed", "unknown"]))]
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mailbox_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    folder_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blob: Option<WireBlob<'a>>,
    /// Always on succeeded; on unknown what is there now, if it could be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    item_id: Option<&'a str>,
    /// The item's version, as `itemId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    change_key: Option<&'a str>,
    /// Whether success is not known from the import's own answer in this attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<bool>,
    /// answer (the import's own), ledger (told again), found (by looking).
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<&'a str>,
    /// Further items that the same job is known to have made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    duplicates: Vec<String>,
    /// FTS bytes that were imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// Of these bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// Attempts spent, the last one included.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    /// Exchange's request id of the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    /// Where the time went.
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<WireTimings>,
    /// Preflight's warnings.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    findings: &'a [String],
    /// Only on failed and unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<WireError<'a>>,
    /// Who tells.
    worker: WireWorker<'a>,
    /// RFC 3339.
    completed_at: &'a str,
    /// As in the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    metadata: Option<&'a RawValue>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WireBlob<'a> {
    bucket: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<WireRange>,
}

#[derive(Serialize, JsonSchema)]
struct WireRange {
    offset: u64,
    length: u64,
}

impl<'a> From<&'a BlobRef> for WireBlob<'a> {
    fn from(blob: &'a BlobRef) -> Self {
        Self {
            bucket: &blob.bucket,
            key: &blob.key,
            version_id: blob.version_id.as_deref(),
            range: blob.range.map(|r| WireRange { offset: r.offset, length: r.length }),
        }
    }
}

#[expect(clippy::struct_field_names, reason = "the contract's names")]
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WireTimings {
    queued_ms: u64,
    fetch_ms: u64,
    session_ms: u64,
    import_ms: u64,
    total_ms: u64,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WireError<'a> {
    /// A reason code. Later versions may add others.
    #[schemars(extend("examples" = Reason::ALL.map(Reason::as_str).to_vec()))]
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    graph_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
struct WireWorker<'a> {
    name: &'a str,
    version: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        contract::{Parser, Wrapping},
        domain::{ChangeKey, Evidence, Imported, ItemId, event::Failure},
    };

    fn worker() -> Worker {
        Worker { name: "w-1".into(), version: "0.1.0".into() }
    }

    fn event(outcome: Outcome) -> Event {
        Event {
            outcome,
            replay: 2,
            bytes: Some(7),
            sha256: Some([0xab; 32]),
            attempts: Some(1),
            request_id: Some("r".into()),
            timings: None,
            findings: Vec::new(),
        }
    }

    fn job() -> RestoreJob {
        let body =
            br#"{"jobId":"j-1","tenantId":"contoso.com","mailboxId":"m","folderId":"f","mode":"create",
            "blob":{"bucket":"b","key":"k","range":{"offset":1,"length":2}},"metadata":{"a":1.0}}"#;
        Parser::default().parse(body, Wrapping::default()).expect("job")
    }

    #[test]
    fn a_success_names_the_item() {
        let imported = Imported {
            item_id: ItemId::parse("I").expect("id"),
            change_key: ChangeKey::parse("C").expect("key"),
        };
        let event = event(Outcome::Succeeded { imported, evidence: Evidence::Answer, duplicates: vec![] });
        let job = job();
        let subject = Subject { job_id: "j-1", job: Some(&job), body: b"" };
        let rendered =
            render(subject, Some("anna"), &event, &worker(), UnixMillis(1_700_000_000_123)).expect("renders");
        assert_eq!(rendered.message_id, "j-1/2/succeeded");
        let text = String::from_utf8(rendered.body).expect("UTF-8");
        for part in [
            r#""itemId":"I","changeKey":"C","recovered":false,"evidence":"answer""#,
            r#""completedAt":"2023-11-14T22:13:20.123Z""#,
            r#""metadata":{"a":1.0}"#,
            r#""submittedBy":"anna""#,
            r#""range":{"offset":1,"length":2}"#,
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn what_is_no_job_is_told_apart_by_its_body() {
        let event = event(Outcome::Failed(Failure::new(Reason::JobMalformed, "no")));
        let id = |body: &[u8]| event_id(Subject { job_id: "j-1", job: None, body }, &event);
        assert_eq!(id(b"abc"), "j-1/2/failed/ba7816bf8f01cfea");
        assert_ne!(id(b"abc"), id(b"abd"));
    }
}
