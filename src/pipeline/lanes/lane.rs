//! One mailbox: its jobs waiting, what it has spent, what it was refused, and what it waits for.

use std::{collections::VecDeque, sync::Arc};

use super::{
    core::Rules,
    fair::Account,
    ration::Ration,
    tally::Tally,
    window::{Millis, Quota, Window},
};
use crate::domain::Limit;

/// Into how many parts a share of the windows is counted.
pub const SHARES: u32 = 64;
/// What is spent of a quota, in [`SHARES`].
fn used(window: &Window, quota: &Quota) -> u32 {
    let shares = u128::from(window.spent()) * u128::from(SHARES) / u128::from(quota.amount);
    u32::try_from(shares).unwrap_or(SHARES).max(1)
}

/// Seconds that a limit pauses when Exchange asks for none: what practitioners found best on the rolling window.
const PAUSES: [u64; 4] = [15, 30, 45, 60];
/// How often at most a lane that runs dry believes in fewer sleepers, milliseconds.
const DRY: u64 = 5_000;
/// How long one request is taken to last before one has been seen.
const FIRST_GUESS: u32 = 250;

/// What a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// A place: the worker's or the mailbox's.
    Slot,
    /// Room in the mailbox's windows.
    Quota,
    /// The end of a pause that Exchange asked for.
    Throttled,
}

impl Why {
    /// Every cause.
    pub const ALL: [Self; 3] = [Self::Slot, Self::Quota, Self::Throttled];

    /// The word in the label `why` of `restore_jobs_waiting`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Quota => "quota",
            Self::Throttled => "throttled",
        }
    }
}

/// How long until the next try, after `refusals` in a row (this one not counted). What Exchange asks for counts, as long as
/// it turns out to be enough: refused again, our own schedule is the least. Less than a second is a second.
#[must_use]
pub fn pause(refusals: u8, retry_after: Option<u64>) -> u64 {
    let own = |refusals: u8| PAUSES[usize::from(refusals).min(PAUSES.len() - 1)] * 1_000;
    let least = refusals.checked_sub(1).map_or(1_000, own);
    retry_after.map_or(own(refusals), |asked| asked.max(least))
}

/// The order within a lane: the higher priority first, then the earlier.
pub type Order = (u8, u64);

/// A job that waits.
#[derive(Debug)]
pub struct Waiting<T> {
    /// Its place in the row.
    pub order: Order,
    /// Size of its request.
    pub bytes: u64,
    /// The queue it came from.
    pub queue: u16,
    /// The caller's.
    pub token: T,
}

/// So many jobs of so many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Jobs.
    pub jobs: u64,
    /// Bytes of their requests.
    pub bytes: u64,
}

impl Load {
    /// Both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { jobs: self.jobs.saturating_add(other.jobs), bytes: self.bytes.saturating_add(other.bytes) }
    }

    /// One job more.
    pub const fn add(&mut self, bytes: u64) {
        self.jobs = self.jobs.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// An eighth less.
    pub const fn shrink(&mut self) {
        self.jobs -= self.jobs.div_ceil(8);
        self.bytes -= self.bytes.div_ceil(8);
    }

    /// One job less.
    pub const fn sub(&mut self, bytes: u64) {
        self.jobs = self.jobs.saturating_sub(1);
        self.bytes = if self.jobs == 0 { 0 } else { self.bytes.saturating_sub(bytes) };
    }
}

/// What a lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No job; nothing is left to remember from this moment on.
    Idle(Millis),
    /// Jobs at work or at rest, none waiting.
    Busy,
    /// Its next job may go as soon as the worker has a place.
    Ready,
    /// Its next job may not go: why, and until when if time alone ends it.
    Blocked(Why, Option<Millis>),
}

/// The mean, moved towards `seen` by an eighth.
fn mean(mean: u32, seen: u64) -> u32 {
    let seen = u32::try_from(seen).unwrap_or(u32::MAX);
    mean - mean / 8 + seen / 8
}

/// One mailbox.
#[derive(Debug)]
pub struct Lane<T> {
    /// `tenant/mailbox`.
    pub name: Arc<str>,
    /// Index of its tenant.
    pub tenant: u32,
    /// The queue its jobs come from.
    pub queue: u16,
    /// Jobs at work.
    pub at_work: u32,
    /// Jobs that wait in memory for something else than their turn: another attempt, a claim.
    pub resting: u32,
    /// Its account with its tenant.
    pub account: Account,
    /// Places at once.
    pub concurrency: Ration,
    /// Part of the windows, in [`SHARES`].
    pub share: Ration,
    /// No job goes before.
    pub paused_until: Millis,
    /// Jobs refused that sleep in the broker, as far as is known.
    pub parked: Load,
    /// The moment for which the core holds a timer.
    pub timer: Option<Millis>,
    /// Its part in its tenant's tally.
    pub counted: Tally,
    /// Whether its queue counts it among those that hold jobs.
    pub holds: bool,
    waiting: VecDeque<Waiting<T>>,
    waiting_bytes: u64,
    reserved: Option<Order>,
    bytes: Window,
    requests: Window,
    refusals: u8,
    inherited: bool,
    since: Millis,
    last_start: Millis,
    last_end: Millis,
    duration: u32,
    slot_wait: u32,
    ready_since: Option<Millis>,
    line: Millis,
    dry_at: Millis,
}

impl<T> Lane<T> {
    /// A lane nobody has worked on; `inherited`: by this worker, while another one may have a moment ago.
    #[must_use]
    pub fn new(name: Arc<str>, tenant: u32, queue: u16, inherited: bool, now: Millis, rules: &Rules) -> Self {
        Self {
            name,
            tenant,
            queue,
            at_work: 0,
            resting: 0,
            account: Account::default(),
            concurrency: Ration::whole(rules.per_mailbox),
            share: Ration::whole(SHARES),
            paused_until: Millis(0),
            parked: Load::default(),
            timer: None,
            counted: Tally::default(),
            holds: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            reserved: None,
            bytes: Window::default(),
            requests: Window::default(),
            refusals: 0,
            inherited,
            since: now,
            last_start: now,
            last_end: now,
            duration: FIRST_GUESS,
            slot_wait: 0,
            ready_since: None,
            line: Millis(0),
            dry_at: Millis(0),
        }
    }

    /// Forgets what Exchange has forgotten, and says what the lane is doing. A job that does not fit reserves the lane.
    pub fn state(&mut self, now: Millis, rules: &Rules) -> State {
        self.bytes.expire(now);
        self.requests.expire(now);
        self.inherited &= now < self.since.plus(rules.bytes.every.max(rules.requests.every));
        let state = self.peek(now, rules);
        if matches!(state, State::Blocked(Why::Quota, _)) {
            self.reserved = self.next().map(|next| next.order);
        }
        self.ready_since = (state == State::Ready).then(|| self.ready_since.unwrap_or(now));
        state
    }

    /// What the lane is doing.
    #[must_use]
    pub fn peek(&self, now: Millis, rules: &Rules) -> State {
        let Some(next) = self.next() else {
            let idle = self.at_work == 0 && self.resting == 0;
            return if idle { State::Idle(self.lapses(rules)) } else { State::Busy };
        };
        if self.paused_until > now {
            return State::Blocked(Why::Throttled, Some(self.paused_until));
        }
        if !self.has_place(now, rules) {
            let alone = self.inherits(now, &rules.bytes).then(|| self.since.plus(rules.bytes.every));
            return State::Blocked(Why::Slot, alone);
        }
        match self.fits_at(next.bytes, now, rules) {
            Some(at) if at <= now => State::Ready,
            at => State::Blocked(Why::Quota, at),
        }
    }

    /// Whether one job more may be at work.
    #[must_use]
    pub fn has_place(&self, now: Millis, rules: &Rules) -> bool {
        self.at_work < self.places(now, rules)
    }

    /// Jobs at once. One, while jobs of another owner may still be at work.
    #[must_use]
    pub fn places(&self, now: Millis, rules: &Rules) -> u32 {
        if self.inherits(now, &rules.bytes) { 1 } else { self.concurrency.level() }
    }

    fn inherits(&self, now: Millis, quota: &Quota) -> bool {
        self.inherited && now < self.since.plus(quota.every)
    }

    /// When a request of `bytes` has room in both windows; `None`: not before a request at work has ended.
    #[must_use]
    pub fn fits_at(&self, bytes: u64, now: Millis, rules: &Rules) -> Option<Millis> {
        let by_bytes = self.fits_one(&self.bytes, bytes, now, &rules.bytes)?;
        Some(by_bytes.max(self.fits_one(&self.requests, 1, now, &rules.requests)?))
    }

    /// Milliseconds until the windows have room for the job that goes next and for one of `bytes`; a whole period when
    /// that depends on requests at work.
    #[must_use]
    pub fn full_for(&self, bytes: u64, now: Millis, rules: &Rules) -> u64 {
        let own = self.fits_at(bytes, now, rules);
        let next = self.next().map_or(Some(now), |next| self.fits_at(next.bytes, now, rules));
        match (own, next) {
            (Some(own), Some(next)) => own.max(next).since(now),
            _ => rules.bytes.every,
        }
    }

    fn fits_one(&self, window: &Window, amount: u64, now: Millis, quota: &Quota) -> Option<Millis> {
        let limit = self.limit(quota);
        let paced = if self.inherits(now, quota) {
            // The former owner's spending is unknown: take it as whole and even, so that room appears at the quota's pace,
            // and at the latest when all of it is forgotten.
            self.last_start.plus(quota.time_for(amount, limit)).min(self.since.plus(quota.every))
        } else {
            now
        };
        if window.fits(amount, limit) {
            Some(paced)
        } else {
            window.fits_at(amount, limit).map(|at| at.max(paced))
        }
    }

    fn limit(&self, quota: &Quota) -> u64 {
        let part = u128::from(quota.amount) * u128::from(self.share.level()) / u128::from(SHARES);
        u64::try_from(part).unwrap_or(u64::MAX).max(1)
    }

    /// When nothing of this lane differs from a new one: not before its windows are empty and its pause is over, and what it
    /// learnt from refusals is kept for two periods.
    fn lapses(&self, rules: &Rules) -> Millis {
        let period = rules.bytes.every.max(rules.requests.every);
        let windows = self.bytes.empty_at().max(self.requests.empty_at()).unwrap_or_default();
        let learnt = !self.share.is_whole(SHARES)
            || !self.concurrency.is_whole(rules.per_mailbox)
            || self.refusals > 0
            || self.parked.jobs > 0;
        let lessons = if learnt { self.last_end.max(self.paused_until).plus(2 * period) } else { Millis(0) };
        let inherited = if self.inherited { self.since.plus(period) } else { Millis(0) };
        windows.max(self.paused_until).max(lessons).max(inherited)
    }

    /// Adds a job to the row.
    pub fn push(&mut self, job: Waiting<T>) {
        self.waiting_bytes = self.waiting_bytes.saturating_add(job.bytes);
        let at = self.waiting.partition_point(|other| other.order < job.order);
        self.waiting.insert(at, job);
    }

    /// The job that goes next: the one that has reserved the lane, else the first.
    fn next(&self) -> Option<&Waiting<T>> {
        self.waiting.get(self.next_at())
    }

    fn next_at(&self) -> usize {
        self.reserved.and_then(|order| self.find(order)).unwrap_or(0)
    }

    fn find(&self, order: Order) -> Option<usize> {
        self.waiting.binary_search_by(|job| job.order.cmp(&order)).ok()
    }

    /// Takes a job out of the row, wherever it stands.
    pub fn remove(&mut self, order: Order) -> Option<Waiting<T>> {
        let at = self.find(order)?;
        self.take_at(at)
    }

    fn take_at(&mut self, at: usize) -> Option<Waiting<T>> {
        let job = self.waiting.remove(at)?;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(job.bytes);
        self.reserved.take_if(|order| *order == job.order);
        if self.waiting.is_empty() && self.waiting.capacity() > 8 {
            self.waiting = VecDeque::new();
        }
        Some(job)
    }

    /// Takes the next job to work, and accounts for it.
    pub fn start(&mut self, now: Millis) -> Option<Waiting<T>> {
        let job = self.take_at(self.next_at())?;
        self.at_work += 1;
        self.last_start = now;
        let waited = self.ready_since.take().map_or(0, |since| now.since(since));
        self.slot_wait = mean(self.slot_wait, waited);
        self.bytes.begin(job.bytes);
        self.requests.begin(1);
        Some(job)
    }

    /// The request at work is of another size.
    pub fn correct(&mut self, from: u64, to: u64) {
        self.bytes.correct(from, to);
    }

    /// The request at work is over.
    pub fn sent(&mut self, bytes: u64, now: Millis, rules: &Rules) {
        self.bytes.end(bytes, now, &rules.bytes);
        self.requests.end(1, now, &rules.requests);
    }

    /// A request beside the jobs', over now: it counts like theirs.
    pub fn beside(&mut self, now: Millis, rules: &Rules) {
        self.requests.begin(1);
        self.requests.end(1, now, &rules.requests);
    }

    /// The request at work was never sent.
    pub fn unused(&mut self, bytes: u64) {
        self.bytes.correct(bytes, 0);
        self.requests.correct(1, 0);
    }

    /// A job at work gives its place back.
    pub fn end(&mut self, started: Millis, now: Millis) {
        self.at_work = self.at_work.saturating_sub(1);
        self.last_end = now;
        self.duration = mean(self.duration, now.since(started));
        if self.at_work == 0 && self.waiting.is_empty() && now.since(self.dry_at) >= DRY {
            // The lane ran dry: some of what was thought to sleep for it sleeps for another worker, or not at all.
            self.dry_at = now;
            self.parked.shrink();
        }
    }

    /// A request has succeeded.
    pub fn succeeded(&mut self, now: Millis, rules: &Rules) {
        self.refusals = 0;
        let Some(next) = self.next() else { return };
        if self.fits_at(next.bytes, now, rules).is_none_or(|at| at > now) {
            self.share.succeeded(now, SHARES);
        } else if !self.has_place(now, rules) {
            self.concurrency.succeeded(now, rules.per_mailbox);
        }
    }

    /// Exchange has refused. Answers to requests that were at work when the lane was paused tell nothing new.
    pub fn throttled(&mut self, limit: Limit, retry_after: Option<u64>, now: Millis, rules: &Rules) {
        let known = self.paused_until > now;
        let refusals = if known { 0 } else { self.refusals };
        self.paused_until = self.paused_until.max(now.plus(pause(refusals, retry_after)));
        // After a hand-over it is the former owner's spending that is refused, not this one's.
        if known || self.inherited {
            return;
        }
        self.refusals = self.refusals.saturating_add(1);
        let period = rules.bytes.every;
        self.concurrency.refused(now, rules.per_mailbox, 0, period);
        match limit {
            Limit::IncomingBytes => self.share.refused(now, SHARES, used(&self.bytes, &rules.bytes), period),
            Limit::Requests => self.share.refused(now, SHARES, used(&self.requests, &rules.requests), period),
            Limit::Other => self.share.refused(now, SHARES, 0, period),
            // Neither says that a window was exceeded.
            Limit::MailboxConcurrency | Limit::ServerBusy => {}
        }
    }

    /// Jobs waiting.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        u64::try_from(self.waiting.len()).unwrap_or(u64::MAX)
    }

    /// Jobs waiting that go before one that would come now with this priority.
    #[must_use]
    pub fn ahead_of(&self, priority: u8) -> u64 {
        let ahead = self.waiting.partition_point(|job| job.order.0 <= u8::MAX - priority);
        u64::try_from(ahead).unwrap_or(u64::MAX)
    }

    /// Milliseconds until the turn of a job that is sent away: a new one goes behind all that are known to wait or sleep; one
    /// that comes back early keeps its turn; one whose turn is past lines up with its likes behind those that wait.
    pub fn turn(&mut self, bytes: u64, said: Option<u64>, now: Millis, rules: &Rules) -> u64 {
        match said {
            None => self.time_for(self.load().plus(self.parked), now, rules),
            Some(0) => {
                let behind = now.plus(self.row(now, rules));
                let turn = self.line.max(behind);
                self.line = turn.plus(self.pace(Load { jobs: 1, bytes }, now, rules));
                turn.since(now)
            }
            Some(ahead) => ahead,
        }
    }

    /// The least time, in milliseconds, until all that wait have gone to work.
    #[must_use]
    pub fn row(&self, now: Millis, rules: &Rules) -> u64 {
        self.time_for(self.load(), now, rules)
    }

    fn load(&self) -> Load {
        Load { jobs: self.waiting(), bytes: self.waiting_bytes }
    }

    /// The least time, in milliseconds, until so many jobs have gone to work: what fits now goes at once.
    fn time_for(&self, load: Load, now: Millis, rules: &Rules) -> u64 {
        let [bytes, requests] = [(&self.bytes, &rules.bytes), (&self.requests, &rules.requests)]
            .map(|(window, quota)| window.room(self.limit(quota)));
        let beyond =
            Load { jobs: load.jobs.saturating_sub(requests), bytes: load.bytes.saturating_sub(bytes) };
        let quotas = self.by_quota(beyond, rules);
        self.paused_until.since(now).saturating_add(quotas.max(self.by_places(load, now, rules)))
    }

    /// Whether the whole quota, and nothing that may change, sets the pace.
    #[must_use]
    pub fn is_bound_by_quota(&self, now: Millis, rules: &Rules) -> bool {
        let load = self.load().plus(self.parked);
        self.share.is_whole(SHARES) && self.by_quota(load, rules) >= self.by_places(load, now, rules)
    }

    /// The time that so many jobs take in a long row.
    fn pace(&self, load: Load, now: Millis, rules: &Rules) -> u64 {
        self.by_quota(load, rules).max(self.by_places(load, now, rules))
    }

    fn by_quota(&self, load: Load, rules: &Rules) -> u64 {
        let bytes = rules.bytes.time_for(load.bytes, self.limit(&rules.bytes));
        bytes.max(rules.requests.time_for(load.jobs, self.limit(&rules.requests)))
    }

    /// By the mean time at work, and the mean wait for a place of the worker's.
    fn by_places(&self, load: Load, now: Millis, rules: &Rules) -> u64 {
        let each = (self.duration / self.places(now, rules).max(1)).max(self.slot_wait);
        load.jobs.saturating_mul(u64::from(each))
    }

    /// Spent and allowed: bytes, then requests.
    #[must_use]
    pub fn spending(&self, rules: &Rules) -> [(u64, u64); 2] {
        [(self.bytes.spent(), self.limit(&rules.bytes)), (self.requests.spent(), self.limit(&rules.requests))]
    }

    /// Bytes of the jobs waiting.
    #[must_use]
    pub const fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// Whether a job that does not fit has reserved the lane.
    #[must_use]
    pub const fn is_reserved(&self) -> bool {
        self.reserved.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_wish_else_the_practice() {
        let own: Vec<_> = (0..6).map(|n| pause(n, None) / 1_000).collect();
        assert_eq!(own, [15, 30, 45, 60, 60, 60]);
        assert_eq!(pause(0, Some(3_600_000)), 3_600_000);
        let asked: Vec<_> = (0..6).map(|n| pause(n, Some(0)) / 1_000).collect();
        assert_eq!(asked, [1, 15, 30, 45, 60, 60]);
    }
}
