//! How a job ended.

use std::time::Duration;

use super::{
    fault::RestoreError,
    job::{ChangeKey, ItemId},
    reason::Reason,
};

/// Proof of success. No way leads from it back to a second import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The item.
    pub item_id: ItemId,
    /// Its version.
    pub change_key: ChangeKey,
}

/// How success is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The import's own answer, in this attempt.
    Answer,
    /// The ledger: told again.
    Ledger,
    /// Looking found the item.
    Found,
}

impl Evidence {
    /// The contract's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Ledger => "ledger",
            Self::Found => "found",
        }
    }
}

/// The three ends of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The item is in its mailbox.
    Succeeded {
        /// Which item.
        imported: Imported,
        /// How that is known.
        evidence: Evidence,
        /// Further items that the same job is known to have made.
        duplicates: Vec<ItemId>,
    },
    /// The item is not in its mailbox because of this job.
    Failed(Failure),
    /// Nobody can say.
    Unknown {
        /// Why.
        failure: Failure,
        /// What is there now, if it could be seen.
        seen: Option<Imported>,
    },
}

impl Outcome {
    /// `succeeded`, `failed` or `unknown`.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Succeeded { .. } => "succeeded",
            Self::Failed(_) => "failed",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// The failure behind failed and unknown.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Succeeded { .. } => None,
            Self::Failed(failure) | Self::Unknown { failure, .. } => Some(failure),
        }
    }
}

/// Why a job failed; the event's `error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason that ended the job.
    pub reason: Reason,
    /// The last trouble before that, when attempts ran out.
    pub last: Option<Reason>,
    /// What a person should read.
    pub message: String,
    /// HTTP status of the answer that said so.
    pub http_status: Option<u16>,
    /// Exchange's own code.
    pub graph_code: Option<String>,
    /// Exchange's request id.
    pub request_id: Option<String>,
}

impl Failure {
    /// A failure without an answer behind it.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            last: None,
            message: message.into(),
            http_status: None,
            graph_code: None,
            request_id: None,
        }
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        Self {
            reason: error.reason,
            last: None,
            message: error.message,
            http_status: error.http_status,
            graph_code: error.graph_code,
            request_id: error.request_id,
        }
    }
}

/// Where a job's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From first reception to the beginning of the last attempt.
    pub queued: Duration,
    /// Opening the blob.
    pub fetch: Duration,
    /// Token and session.
    pub session: Duration,
    /// The import request.
    pub import: Duration,
    /// From first reception to the end.
    pub total: Duration,
}

/// What is told of a job's end, beside what the job itself says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The end.
    pub outcome: Outcome,
    /// Which round of replay.
    pub replay: u32,
    /// FTS bytes that were imported.
    pub bytes: Option<u64>,
    /// Their SHA-256.
    pub sha256: Option<[u8; 32]>,
    /// Attempts spent, this one included.
    pub attempts: Option<u32>,
    /// Exchange's request id of the last answer.
    pub request_id: Option<String>,
    /// Where the time went.
    pub timings: Option<Timings>,
    /// Preflight's warnings.
    pub findings: Vec<String>,
}

impl Event {
    /// An end of which nothing else is known.
    #[must_use]
    pub const fn bare(outcome: Outcome, replay: u32) -> Self {
        Self {
            outcome,
            replay,
            bytes: None,
            sha256: None,
            attempts: None,
            request_id: None,
            timings: None,
            findings: Vec::new(),
        }
    }
}
