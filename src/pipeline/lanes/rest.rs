//! Waiting in memory for something else than the lane: another attempt, a claim, the moment that a copy was parked for.
//!
//! Such a job holds a place of its queue's prefetch just as one in the row does. Not counted, a mailbox whose jobs fail for a
//! while would close its queue to all others, and the lanes would see an empty one.

use std::time::Duration;

use super::{Entry, Lanes, core::Resting, millis};

/// A wait in memory that is counted; over when dropped.
#[derive(Debug)]
#[must_use = "the wait counts until it is dropped"]
pub struct Rest {
    lanes: Lanes,
    resting: Resting,
}

impl Lanes {
    /// Counts a job that will wait `pause` in memory. `None`: it should sleep in the broker, by the rules for a row.
    #[must_use]
    pub fn rest(&self, entry: Entry<'_>, pause: Duration) -> Option<Rest> {
        let resting = self.within(|core, now| core.rest(now, &entry.pure(), millis(pause)))?;
        Some(Rest { lanes: self.clone(), resting })
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.lanes.within(|core, now| core.wake(now, self.resting));
    }
}
