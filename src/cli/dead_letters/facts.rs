//! What a letter says, as far as a person chooses by it. Read leniently: a letter may hold anything.

use serde::Serialize;
use serde_json::Value;

use crate::{
    broker::Letter,
    cli::operator::shown,
    contract::rfc3339,
    domain::{Reason, UnixMillis},
};

/// A letter, for filters and for show. Texts come from others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    /// The job, if it can be read.
    pub job_id: Option<String>,
    pub reason: Option<String>,
    pub detail: Option<String>,
    /// Round of replay.
    pub replay: u32,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submitted_by: Option<String>,
    /// The claim of the unknown record behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// When a worker first received the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_received: Option<String>,
    #[serde(skip)]
    pub received: Option<UnixMillis>,
}

impl Facts {
    pub(super) fn of(letter: &Letter, now: UnixMillis) -> Self {
        let body: Value = serde_json::from_slice(letter.message.body()).unwrap_or_default();
        // The job of a structured CloudEvent is its data.
        let job = body.get("jobId").map_or_else(|| body.get("data").unwrap_or(&body), |_| &body);
        let field = |name: &str| job.get(name).and_then(Value::as_str).map(str::to_owned);
        let (journey, marks) = (letter.message.journey(now), letter.marks.clone());
        Self {
            job_id: field("jobId"),
            reason: marks.reason,
            detail: marks.detail,
            replay: journey.replay,
            attempts: journey.attempt,
            restore_id: field("restoreId"),
            tenant_id: field("tenantId"),
            mailbox_id: field("mailboxId"),
            submitted_by: journey.submitted_by,
            claim: marks.claim,
            first_received: marks.first_received.map(rfc3339),
            received: marks.first_received,
        }
    }

    /// The reason, or a word for its absence.
    pub(super) fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or("(none)")
    }

    /// Whether the outcome is unknown: then sending the job back does not import it, unless that is forced.
    pub(super) fn is_unknown(&self) -> bool {
        self.reason.as_deref() == Some(Reason::OutcomeUnknown.as_str())
    }

    /// One line for a person.
    pub(super) fn line(&self, now: UnixMillis) -> String {
        let text = |text: &Option<String>| shown(text.as_deref().unwrap_or("-"));
        let detail: String = text(&self.detail).chars().take(100).collect();
        format!(
            "{:<36} {:<22} {:>5} {:>6} {:<40} {detail}",
            text(&self.job_id),
            shown(self.reason()),
            self.replay,
            self.received.map_or_else(|| "-".to_owned(), |received| age(now, received)),
            text(&self.mailbox_id),
        )
    }

    /// What stands above those lines.
    pub(super) fn heading() -> String {
        format!("{:<36} {:<22} {:>5} {:>6} {:<40} DETAIL", "JOB", "REASON", "ROUND", "AGE", "MAILBOX")
    }
}

fn age(now: UnixMillis, then: UnixMillis) -> String {
    match now.since(then).as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3_600 => format!("{}m", s / 60),
        s @ 3_600..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}
