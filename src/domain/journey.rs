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

    /// The first step of a further round: attempts and parked time begin anew, and nothing is waited for. `force` is the claim
    /// of the unknown record against which this round may import once more.
    #[must_use]
    pub fn replayed(&self, force: Option<String>) -> Self {
        Self {
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
            replay: 1,
            submitted_by: Some("anna".into()),
            force: Some("used".into()),
            claim: Some("claim".into()),
            imported: None,
        };
        let expected = Journey {
            first_received: UnixMillis(3),
            replay: 2,
            submitted_by: Some("anna".into()),
            claim: Some("claim".into()),
            ..Journey::default()
        };
        assert_eq!(spent.replayed(None), expected);
        assert!(spent.replayed(None).is_in_doubt() && !spent.replayed(Some("claim".into())).is_in_doubt());
        assert_eq!(spent.replayed(Some("claim".into())).force.as_deref(), Some("claim"));
    }
}
