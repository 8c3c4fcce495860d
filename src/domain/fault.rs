//! Whose trouble an error is. The pipeline asks this one question; what follows from it is a `Verdict`.

use std::time::Duration;

use super::reason::Reason;

/// A neighbour that a job needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dependency {
    /// The object storage that holds the blobs.
    Storage,
    /// Graph and the import host.
    Exchange,
    /// The token endpoint.
    Identity,
    /// The object storage that holds the records.
    Ledger,
}

impl Dependency {
    /// Every dependency.
    pub const ALL: [Self; 4] = [Self::Storage, Self::Exchange, Self::Identity, Self::Ledger];

    /// The word in logs and in the label `cause`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Exchange => "exchange",
            Self::Identity => "identity",
            Self::Ledger => "ledger",
        }
    }
}

/// What a limit that Exchange named is counted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ThrottleScope {
    /// One application on one mailbox: the usual case.
    Mailbox,
    /// One application in one tenant.
    Tenant,
    /// The application everywhere.
    App,
}

/// Which limit Exchange named; the label `limit` of `restore_throttled_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// "Application is over its IncomingBytes limit": bytes of request body per window.
    IncomingBytes,
    /// "Application is over its MailboxConcurrency limit": requests at once.
    MailboxConcurrency,
    /// Requests per window.
    Requests,
    /// `ErrorServerBusy`, a 503 that asks for patience.
    ServerBusy,
    /// A 429 that names none of these.
    Other,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 5] =
        [Self::IncomingBytes, Self::MailboxConcurrency, Self::Requests, Self::ServerBusy, Self::Other];

    /// The word in the label `limit`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IncomingBytes => "incoming_bytes",
            Self::MailboxConcurrency => "mailbox_concurrency",
            Self::Requests => "requests",
            Self::ServerBusy => "server_busy",
            Self::Other => "other",
        }
    }
}

/// How far trouble of our own reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OursScope {
    /// Our credential or keys are refused: nothing can be done for any job.
    Everything,
    /// One neighbour is away for everybody.
    Dependency(Dependency),
    /// One tenant has withdrawn its consent or does not know us.
    Tenant,
}

/// Whose trouble an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The job's own: it would meet it again anywhere, at any time.
    Job,
    /// A neighbour's, and likely to pass.
    Passing {
        /// Which neighbour.
        dependency: Dependency,
        /// What the neighbour asked for; it wins over our own delay when longer.
        retry_after: Option<Duration>,
    },
    /// A limit was named.
    Throttled {
        /// What it is counted over.
        scope: ThrottleScope,
        /// Which one.
        limit: Limit,
        /// What Exchange asked for.
        retry_after: Option<Duration>,
    },
    /// The import may have happened: its body was handed over to the last byte (or may have been) and no answer tells.
    InDoubt,
    /// Ours: no job is to blame.
    Ours {
        /// How far it reaches.
        scope: OursScope,
    },
}

/// An error on a job's way: whose trouble, which reason, and what a person should read.
///
/// `message` names no secret and no item content; it is shown in events, dead letters and logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RestoreError {
    /// Whose trouble.
    pub fault: Fault,
    /// The word of the contract.
    pub reason: Reason,
    /// What could not be done: lower case, no full stop.
    pub message: String,
    /// HTTP status of the answer that said so, if there was one.
    pub http_status: Option<u16>,
    /// Exchange's own error code, if the answer held one.
    pub graph_code: Option<String>,
    /// Exchange's request id, to be quoted to Microsoft's support.
    pub request_id: Option<String>,
}

impl RestoreError {
    /// An error without an answer behind it.
    #[must_use]
    pub fn new(fault: Fault, reason: Reason, message: impl Into<String>) -> Self {
        Self { fault, reason, message: message.into(), http_status: None, graph_code: None, request_id: None }
    }

    /// The job's own trouble.
    #[must_use]
    pub fn job(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Fault::Job, reason, message)
    }

    /// A neighbour's passing trouble.
    #[must_use]
    pub fn passing(dependency: Dependency, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Fault::Passing { dependency, retry_after: None }, reason, message)
    }

    /// Trouble of our own.
    #[must_use]
    pub fn ours(scope: OursScope, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Fault::Ours { scope }, reason, message)
    }

    /// The same error, as another's trouble.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }
}
