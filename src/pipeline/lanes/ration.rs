//! How much of something is used: cut when Exchange refuses, to half at most, and won back step by step by successes.
//!
//! What fleets that share a mailbox need is built in, since their workers know of each other only by refusals. A cut stops
//! at what was really used, if that is known: then all that was used by all of them together is just what Exchange grants.
//! A step up that is refused is taken back, not answered by halving, and the next one waits longer (one period, then two,
//! four, eight); and a reduced level that held for fifty successes is forgiven one refusal: another's step caused it.

use super::window::Millis;

/// Successes that a step up must have behind it.
pub const SUCCESSES: u16 = 50;
/// How often the wait before a step up is doubled at most.
const PATIENCE: u8 = 4;

/// A level between 1 and a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ration {
    level: u32,
    /// The level before a step up that has not yet held for fifty successes.
    before: Option<u32>,
    successes: u16,
    patience: u8,
    not_before: Millis,
}

impl Ration {
    /// The whole.
    #[must_use]
    pub const fn whole(whole: u32) -> Self {
        Self { level: whole, before: None, successes: 0, patience: 0, not_before: Millis(0) }
    }

    /// The present level.
    #[must_use]
    pub const fn level(&self) -> u32 {
        self.level
    }

    /// Whether a fresh one could not be told from this.
    #[must_use]
    pub const fn is_whole(&self, whole: u32) -> bool {
        self.level >= whole && self.before.is_none() && self.patience == 0
    }

    /// Exchange has refused when `used` of this was used (0: not known). `period` is how long a step up that failed is
    /// remembered, in milliseconds.
    pub fn refused(&mut self, now: Millis, whole: u32, used: u32, period: u64) {
        let proven = self.successes >= SUCCESSES && self.level < whole;
        self.successes = 0;
        if let Some(before) = self.before.take() {
            self.level = before;
            self.patience = (self.patience + 1).min(PATIENCE);
            self.not_before = now.plus(period << (self.patience - 1));
        } else if !proven {
            self.level = used.min(self.level - 1).max(self.level / 2).max(1);
        }
    }

    /// A request has succeeded while this was what kept the next one waiting: nothing else tells whether more would do.
    pub fn succeeded(&mut self, now: Millis, whole: u32) {
        if self.is_whole(whole) {
            return;
        }
        self.successes = self.successes.saturating_add(1).min(SUCCESSES);
        if self.successes < SUCCESSES {
            return;
        }
        if self.before.take().is_some() {
            self.patience = self.patience.saturating_sub(1);
        }
        if self.level >= whole {
            self.patience = 0;
        } else if now >= self.not_before {
            self.before = Some(self.level);
            self.level = (self.level + (self.level / 8).max(1)).min(whole);
            self.successes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn succeed(ration: &mut Ration, times: u16, whole: u32) {
        for _ in 0..times {
            ration.succeeded(Millis(0), whole);
        }
    }

    #[test]
    fn halves_never_below_one_and_recovers_a_step_per_fifty() {
        let mut ration = Ration::whole(4);
        for level in [2, 1, 1] {
            ration.refused(Millis(0), 4, 0, 1_000);
            assert_eq!(ration.level(), level);
        }
        for level in [2, 3, 4] {
            succeed(&mut ration, 49, 4);
            assert_eq!(ration.level(), level - 1);
            succeed(&mut ration, 1, 4);
            assert_eq!(ration.level(), level);
        }
        succeed(&mut ration, 50, 4);
        assert_eq!(ration, Ration { not_before: ration.not_before, successes: 50, ..Ration::whole(4) });
        assert!(ration.is_whole(4));
    }

    #[test]
    fn a_cut_stops_at_what_was_used_and_at_half() {
        for (used, level) in [(64, 63), (50, 50), (32, 32), (3, 32)] {
            let mut ration = Ration::whole(64);
            ration.refused(Millis(0), 64, used, 1_000);
            assert_eq!(ration.level(), level);
        }
    }

    #[test]
    fn a_refused_step_is_taken_back_and_the_next_waits_longer() {
        let mut ration = Ration::whole(4);
        ration.refused(Millis(0), 4, 0, 1_000);
        for wait in [1_000, 2_000, 4_000, 8_000, 8_000] {
            let mut now = ration.not_before;
            while ration.level() == 2 {
                ration.succeeded(now, 4);
            }
            now = now.plus(1);
            ration.refused(now, 4, 0, 1_000);
            assert_eq!((ration.level(), ration.not_before), (2, now.plus(wait)));
        }
    }

    #[test]
    fn a_proven_reduced_level_is_forgiven_once() {
        let mut ration = Ration::whole(64);
        ration.refused(Millis(0), 64, 0, 1_000);
        ration.not_before = Millis(u64::MAX);
        succeed(&mut ration, 50, 64);
        ration.refused(Millis(0), 64, 0, 1_000);
        assert_eq!(ration.level(), 32);
        ration.refused(Millis(0), 64, 0, 1_000);
        assert_eq!(ration.level(), 16);
    }
}
