//! Which jobs may wait in memory, and how long the others should sleep in the broker.
//!
//! A queue delivers no more than its prefetch before jobs are settled. So nobody is sent away as long as that window has
//! room; when it is three quarters full, a lane that holds its fair part of those three quarters gets no more, and the
//! rest lets everybody else's jobs through. When it is nearly full, a job that cannot go within seconds is sent away too,
//! so that mailboxes that are all paused cannot close the queue to the one that is not.
//!
//! Who is sent away sleeps for half the time that its lane's known jobs need at least, waiting and sleeping ones alike. So
//! jobs wake twice as fast as the lane can take them and it never runs dry; each job bounces about twice on the average,
//! and at most as often as the backlog's time can be halved.

use super::{
    core::{Entry, Rules},
    lane::{Lane, Why},
    window::Millis,
};

/// A lane may always hold so many jobs: one at work and the next.
const FLOOR: u64 = 2;
/// A lane that is ready again within so many milliseconds is not worth a bounce.
const SOON: u64 = 5_000;
/// The shortest sleep, milliseconds.
const SHORTEST: u64 = 1_000;
/// The longest: estimates get stale.
const LONGEST: u64 = 6 * 3_600_000;

/// What one queue has delivered that is not yet settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Jobs waiting and at work.
    pub held: u64,
    /// Lanes that hold them.
    pub active: u64,
}

/// What a job would have to wait for besides its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Milliseconds that its lane is certainly closed.
    pub closed: u64,
    /// Why.
    pub why: Why,
    /// Whether its lane could take it now.
    pub at_once: bool,
}

impl Outlook {
    /// The outlook of `entry` in its lane; `elsewhere`: the end of its tenant's or the app's pause.
    #[must_use]
    pub fn of<T>(lane: &Lane<T>, entry: &Entry<'_>, elsewhere: Millis, now: Millis, rules: &Rules) -> Self {
        let paused = lane.paused_until.max(elsewhere).since(now);
        let full = lane.full_for(entry.request_bytes, now, rules);
        let why = match (paused, full) {
            (0, 0) => Why::Slot,
            (0, _) => Why::Quota,
            _ => Why::Throttled,
        };
        let closed = paused.max(full);
        Self { closed, why, at_once: closed == 0 && lane.waiting() == 0 && lane.has_place(now, rules) }
    }

    /// How long the job should sleep, in milliseconds.
    #[must_use]
    pub fn sleep<T>(&self, lane: &Lane<T>, now: Millis, rules: &Rules) -> u64 {
        let needed = lane.backlog_time(now, rules).max(self.closed);
        (needed / 2).clamp(SHORTEST, LONGEST)
    }
}

/// Whether a job may not wait in memory.
#[must_use]
pub fn is_beyond<T>(lane: &Lane<T>, entry: &Entry<'_>, queue: Queue, outlook: &Outlook, hold: u64) -> bool {
    let usable = hold - hold / 4;
    if queue.held < usable.max(1) {
        return false;
    }
    let nearly_full = queue.held >= hold - hold / 8;
    let mine = u64::from(lane.at_work) + lane.ahead_of(entry.priority);
    let newcomer = u64::from(lane.at_work == 0 && lane.waiting() == 0);
    let part = usable / (queue.active + newcomer).max(1);
    // Those that have slept go before newcomers, else a lane that is always flooded would let them sleep for ever.
    let part = if lane.parked.jobs > 0 && !entry.parked { part / 2 } else { part };
    mine >= part.max(FLOOR) || (nearly_full && outlook.closed > SOON)
}
