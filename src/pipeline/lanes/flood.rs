//! Which jobs may wait in memory, and how long the others should sleep in the broker.
//!
//! A queue delivers no more than its prefetch before jobs are settled. So nobody is sent away as long as that window has
//! room; when it is three quarters full, a lane that holds its fair part of those three quarters gets no more, and the
//! rest lets everybody else's jobs through. When it is nearly full, a job that cannot go within seconds is sent away too,
//! so that mailboxes that are all paused cannot close the queue to the one that is not. Jobs that wait in memory for something
//! else than their turn ([`rest`](super::rest)) are counted and sent away alike. A mailbox of a shard holds, room or not, no more
//! than a minute of its quota, and the next job.
//!
//! Who is sent away is told its turn: when all that is known to be ahead of it in its lane will have gone at the best. It
//! carries its turn with it, sleeps for a part of the time until then, and again each time it comes back to a full row. So a
//! lane never runs dry while its jobs sleep, jobs come back about in order whatever wait tiers there are, and a job bounces
//! about as often as the backlog's time can be halved, whoever owns the mailbox by then. The part is seven eighths where
//! the quota alone sets the pace, since nothing makes a lane faster than its quota; else a half.

use super::{
    core::{Entry, Parked, Rules},
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
/// The longest row of a shard's mailbox, milliseconds: when the shard goes to another owner, the broker holds it back until
/// what was delivered to this one is settled, and all its mailboxes stand still so long.
const HANDOVER: u64 = 60_000;

/// What one queue has delivered that is not yet settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Jobs waiting, at work and at rest.
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

    /// When the job's turn will be, and how long it should sleep.
    #[must_use]
    pub fn park<T>(&self, lane: &mut Lane<T>, entry: &Entry<'_>, now: Millis, rules: &Rules) -> Parked {
        let turn = lane.turn(entry.request_bytes, entry.turn, now, rules).max(self.closed);
        // By its quota alone a lane is never faster than foreseen, but its places and a reduced share may recover meanwhile.
        let sleep = if lane.is_bound_by_quota(now, rules) { turn / 8 * 7 } else { turn / 2 };
        Parked { after: sleep.clamp(SHORTEST, LONGEST), turn, why: self.why }
    }
}

/// Whether a job that cannot go for `closed` milliseconds may not wait in memory.
#[must_use]
pub fn is_beyond<T>(
    lane: &Lane<T>,
    entry: &Entry<'_>,
    queue: Queue,
    closed: u64,
    now: Millis,
    rules: &Rules,
) -> bool {
    let shard = entry.queue != 0;
    let hold = if shard { rules.hold_per_shard } else { rules.hold };
    let mine = u64::from(lane.at_work) + u64::from(lane.resting) + lane.ahead_of(entry.priority);
    if shard && mine >= FLOOR && closed.max(lane.row(now, rules)) >= HANDOVER {
        return true;
    }
    let usable = hold - hold / 4;
    if queue.held < usable.max(1) {
        return false;
    }
    let nearly_full = queue.held >= hold - hold / 8;
    let newcomer = u64::from(!lane.holds);
    let part = usable / (queue.active + newcomer).max(1);
    // Whose turn it is finds room before those that come early, and these before newcomers, else a lane that is always
    // flooded would let some sleep for ever.
    let part = match entry.turn {
        Some(0) => part,
        Some(_) => part - part / 4,
        None if lane.parked.jobs > 0 => part / 2,
        None => part,
    };
    mine >= part.max(FLOOR) || (nearly_full && closed > SOON)
}
