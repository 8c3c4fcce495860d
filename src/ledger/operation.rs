//! What the ledger is asked for, as its metric names it.

use crate::metrics::Metrics;

/// What a record is written for; the label `operation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A suspect's attempt begins.
    Begin,
    /// Before the first byte of an import.
    Claim,
    /// Before one more body of the same claim.
    Renew,
    /// The import's answer names the item.
    Complete,
    /// Certainly not imported, and about to be told so.
    Fail,
    /// Certainly not imported yet.
    Release,
    /// The claim is over, and nobody knows.
    Doubt,
    /// Nobody can say, and about to be told so.
    Unknown,
    /// A person's word.
    Resolve,
    /// An item becomes a job's.
    Take,
    /// The start asks whether the store can be used.
    Probe,
}

impl Operation {
    const ALL: [Self; 11] = [
        Self::Begin,
        Self::Claim,
        Self::Renew,
        Self::Complete,
        Self::Fail,
        Self::Release,
        Self::Doubt,
        Self::Unknown,
        Self::Resolve,
        Self::Take,
        Self::Probe,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Claim => "claim",
            Self::Renew => "renew",
            Self::Complete => "complete",
            Self::Fail => "fail",
            Self::Release => "release",
            Self::Doubt => "doubt",
            Self::Unknown => "unknown",
            Self::Resolve => "resolve",
            Self::Take => "take",
            Self::Probe => "probe",
        }
    }
}

/// The counters of requests, before anything has happened.
pub(super) fn at_zero(metrics: &Metrics) {
    for operation in Operation::ALL {
        let outcomes = ["stands", "lost", "error"];
        Metrics::at_zero(&metrics.ledger_operations, outcomes.map(|outcome| [operation.as_str(), outcome]));
    }
    Metrics::at_zero(&metrics.ledger_operations, [["read", "none"], ["read", "found"], ["read", "error"]]);
}
