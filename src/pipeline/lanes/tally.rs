//! What the metrics show, kept up to date by differences, so that reading it costs nothing.

use super::lane::{State, Why};

/// Jobs waiting by cause, lanes by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Jobs that wait for a place.
    pub slot: u32,
    /// Jobs that wait for room in their mailbox's windows.
    pub quota: u32,
    /// Jobs that wait for the end of a pause.
    pub throttled: u32,
    /// Lanes with jobs, not paused.
    pub active: u32,
    /// Lanes that are paused.
    pub paused: u32,
}

impl Tally {
    /// One lane's part.
    #[must_use]
    pub fn of(state: State, waiting: u64, paused: bool) -> Self {
        let jobs = u32::try_from(waiting).unwrap_or(u32::MAX);
        let mut tally = Self::default();
        match state {
            State::Idle(_) | State::Busy => {}
            State::Ready | State::Blocked(Why::Slot, _) => tally.slot = jobs,
            State::Blocked(Why::Quota, _) => tally.quota = jobs,
            State::Blocked(Why::Throttled, _) => tally.throttled = jobs,
        }
        tally.paused = u32::from(paused);
        tally.active = u32::from(!paused && !matches!(state, State::Idle(_)));
        tally
    }

    /// The same, while everything is paused from above.
    #[must_use]
    pub const fn frozen(self) -> Self {
        Self {
            slot: 0,
            quota: 0,
            throttled: self.slot + self.quota + self.throttled,
            active: 0,
            paused: self.active + self.paused,
        }
    }

    /// Puts `new` in the place of `old`.
    pub const fn replace(&mut self, old: Self, new: Self) {
        self.slot = self.slot - old.slot + new.slot;
        self.quota = self.quota - old.quota + new.quota;
        self.throttled = self.throttled - old.throttled + new.throttled;
        self.active = self.active - old.active + new.active;
        self.paused = self.paused - old.paused + new.paused;
    }

    /// The jobs that wait for this.
    #[must_use]
    pub const fn waiting(&self, why: Why) -> u32 {
        match why {
            Why::Slot => self.slot,
            Why::Quota => self.quota,
            Why::Throttled => self.throttled,
        }
    }
}
