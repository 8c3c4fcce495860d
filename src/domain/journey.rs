//! What a job carries from delivery to delivery, in headers of our own.

use std::time::Duration;

use super::{event::Imported, job::UnixMillis};

/// A job's way so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journey {
    /// Attempts spent.
    pub attempt: u32,
    /// Time parked for a throttled mailbox without any success, or for a paused tenant.
    pub parked: Duration,
    /// Not to be begun before (own clock).
    pub not_before: Option<UnixMillis>,
    /// When its turn in its lane comes (own clock), as the lane told when it was sent to sleep.
    pub turn: Option<UnixMillis>,
    /// When a worker first received the job (own clock).
    pub first_received: UnixMillis,
    /// Round of replay.
    pub replay: u32,
    /// AMQP `user-id` of the emitter.
    pub submitted_by: Option<String>,
    /// Claim id of the unknown record against which one new import is allowed.
    pub force: Option<String>,
    /// An import that only its record misses.
    pub imported: Option<Imported>,
}
