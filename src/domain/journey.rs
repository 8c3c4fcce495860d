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
    /// When a worker first received the job, in whatever round (own clock): no item of the job is older.
    pub first_received: UnixMillis,
    /// When it was sent back for this round of replay (own clock).
    pub replayed_at: Option<UnixMillis>,
    /// Round of replay.
    pub replay: u32,
    /// AMQP `user-id` of the emitter.
    pub submitted_by: Option<String>,
    /// Claim id of the unknown record against which one new import is allowed.
    pub force: Option<String>,
    /// Claim id of the unknown record that the job's dead letter was written for.
    pub claim: Option<String>,
    /// An import that only its record misses.
    pub imported: Option<Imported>,
}

impl Journey {
    /// Whether the job's import is known to be in doubt, whatever became of its record, and nobody allowed another one.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.claim.is_some() && self.claim != self.force
    }

    /// What the job's age counts from: how long its letter lay is nobody's delay.
    #[must_use]
    pub fn began(&self) -> UnixMillis {
        self.replayed_at.map_or(self.first_received, |at| at.max(self.first_received))
    }

    /// The first step of a further round: attempts, parked time and age begin anew, and nothing is waited for. `force` is the
    /// claim of the unknown record against which this round may import once more.
    #[must_use]
    pub fn replayed(&self, now: UnixMillis, force: Option<String>) -> Self {
        Self {
            replayed_at: Some(now),
            attempt: 0,
            parked: Duration::ZERO,
            not_before: None,
            turn: None,
            replay: self.replay.saturating_add(1),
            force,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_begins_anew_and_keeps_who_asked() {
        let spent = Journey {
            attempt: 8,
            parked: Duration::from_secs(5),
            not_before: Some(UnixMillis(1)),
            turn: Some(UnixMillis(2)),
            first_received: UnixMillis(3),
            replayed_at: Some(UnixMillis(4)),
            replay: 1,
            submitted_by: Some("anna".into()),
            force: Some("used".into()),
            claim: Some("claim".into()),
            imported: None,
        };
        let expected = Journey {
            first_received: UnixMillis(3),
            replayed_at: Some(UnixMillis(9)),
            replay: 2,
            submitted_by: Some("anna".into()),
            claim: Some("claim".into()),
            ..Journey::default()
        };
        let again = |force: Option<&str>| spent.replayed(UnixMillis(9), force.map(str::to_owned));
        assert_eq!(again(None), expected);
        assert_eq!((spent.began(), again(None).began()), (UnixMillis(4), UnixMillis(9)));
        assert!(again(None).is_in_doubt() && !again(Some("claim")).is_in_doubt());
        assert_eq!(again(Some("claim")).force.as_deref(), Some("claim"));
    }
}
