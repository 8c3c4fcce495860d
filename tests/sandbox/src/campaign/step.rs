//! The steps of a job's life as they are seen from outside, and the blows that are struck there.

use std::time::Duration;

/// Where in a job's life a blow is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The record is being asked for: the job was delivered, nothing is known yet.
    Recalling,
    /// The blob is being asked for: the job was delivered, nothing was done.
    Delivered,
    /// The blob's answer is on its way.
    Fetching,
    /// A session was opened; nobody was told.
    SessionOpen,
    /// The claim is on its way and never lands.
    Claiming,
    /// The claim stands; nobody was told.
    Claimed,
    /// In the middle of the import's body.
    Sending,
    /// The item was stored; nobody was told.
    Stored,
    /// The item was taken for the job; nobody was told.
    Taken,
    /// `complete` is on its way and never lands.
    Completing,
    /// The record is complete; nobody was told.
    Completed,
    /// The event is out; the delivery is not acked.
    Told,
    /// Any moment.
    Anywhere,
}

impl Step {
    /// Every step, in a job's order.
    pub(super) const ALL: [Self; 13] = [
        Self::Recalling,
        Self::Delivered,
        Self::Fetching,
        Self::SessionOpen,
        Self::Claiming,
        Self::Claimed,
        Self::Sending,
        Self::Stored,
        Self::Taken,
        Self::Completing,
        Self::Completed,
        Self::Told,
        Self::Anywhere,
    ];
    /// Steps at which a freeze is worth most: what was begun before it may be taken over during it.
    pub(super) const FREEZES: [Self; 8] = [
        Self::Fetching,
        Self::SessionOpen,
        Self::Claimed,
        Self::Sending,
        Self::Stored,
        Self::Taken,
        Self::Completed,
        Self::Anywhere,
    ];

    /// Whether a worker without a ledger comes by here.
    pub(super) const fn needs_ledger(self) -> bool {
        matches!(
            self,
            Self::Recalling
                | Self::Claiming
                | Self::Claimed
                | Self::Taken
                | Self::Completing
                | Self::Completed
        )
    }

    /// The step in the report.
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::Recalling => "reading the record",
            Self::Delivered => "delivered, before the blob",
            Self::Fetching => "during the blob's fetch",
            Self::SessionOpen => "session opened, not told",
            Self::Claiming => "claim on its way, lost",
            Self::Claimed => "claim stands, not told",
            Self::Sending => "in the middle of the body",
            Self::Stored => "item stored, not told",
            Self::Taken => "item taken, not told",
            Self::Completing => "complete on its way, lost",
            Self::Completed => "complete stands, before the event",
            Self::Told => "event out, before the ack",
            Self::Anywhere => "any moment",
        }
    }
}

/// What a worker meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT after this time.
    Freeze(Duration),
}
