//! All mailboxes of this worker, without a clock: whoever calls says what time it is.
//!
//! Promises: places and windows are never exceeded; if a place is free and a lane is ready, [`Core::admit`] gives one;
//! every call costs O(log lanes); an idle lane is forgotten as soon as forgetting changes nothing.
//!
//! Time may only go forward from call to call. Each call first lets time pass: pauses end, windows empty.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    fair::Turns,
    flood::{self, Queue},
    lane::{Lane, Order, State, Waiting, Why},
    ration::Ration,
    slab::Slab,
    tally::Tally,
    tenant::Tenant,
    window::{Millis, Quota},
};
use crate::domain::{Limit, ThrottleScope};

/// The limits that this worker keeps.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The worker's places.
    pub in_flight: u32,
    /// Places of one mailbox.
    pub per_mailbox: u32,
    /// Bytes of request bodies per mailbox.
    pub bytes: Quota,
    /// Requests per mailbox.
    pub requests: Quota,
    /// Jobs that the common queue delivers at most before some are settled: its prefetch.
    pub hold: u64,
    /// The same of a shard's queue.
    pub hold_per_shard: u64,
}

/// A job that wants to enter.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Whose mailbox.
    pub tenant: &'a str,
    /// Which mailbox.
    pub mailbox: &'a str,
    /// Size of the request body (base64), as far as is known.
    pub request_bytes: u64,
    /// The higher first within a lane.
    pub priority: u8,
    /// Whether the job may wait in memory.
    pub may_hold: bool,
    /// Which of the worker's queues delivered it; 0: the common one.
    pub queue: u16,
    /// In how many milliseconds its turn is, as it was told when it was parked; `None`: it was not.
    pub turn: Option<u64>,
    /// Whether another worker may have worked on this mailbox within the last period.
    pub inherited: bool,
}

/// A job in the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    lane: u32,
    order: Order,
}

/// A job that waits in memory outside its row, to be given back by [`Core::wake`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a place of the prefetch is counted as taken until it is given back"]
pub struct Resting {
    lane: u32,
    queue: u16,
}

/// The right to work on a mailbox now, to be given back by [`Core::end`].
#[derive(Debug)]
#[must_use = "a grant holds a place until it is ended"]
pub struct Grant {
    lane: u32,
    queue: u16,
    bytes: u64,
    started: Millis,
    open: bool,
}

impl Grant {
    /// The size that is accounted for.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A job that may not wait here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    /// For how many milliseconds it should sleep.
    pub after: u64,
    /// In how many milliseconds its turn is.
    pub turn: u64,
    /// What it would have waited for.
    pub why: Why,
}

/// What was heard of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A request succeeded.
    Succeeded,
    /// A limit was named.
    Throttled {
        /// What it is counted over.
        scope: ThrottleScope,
        /// Which one.
        limit: Limit,
        /// Milliseconds that Exchange asked for.
        retry_after: Option<u64>,
    },
    /// Anything else: tells nothing about limits.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Lane(u32),
    Tenant(u32),
    App,
}

/// All lanes. `T` is what the caller keeps with a waiting job.
#[derive(Debug)]
pub struct Core<T> {
    pub(super) rules: Rules,
    pub(super) lanes: Slab<Lane<T>>,
    names: HashMap<Arc<str>, u32>,
    pub(super) tenants: Slab<Tenant>,
    tenant_names: HashMap<Arc<str>, u32>,
    turns: Turns,
    alarms: BTreeSet<(Millis, Alarm)>,
    pub(super) queues: HashMap<u16, Queue>,
    arrivals: BTreeMap<u64, Millis>,
    last_seq: u64,
    pub(super) places: Ration,
    pub(super) at_work: u32,
    pub(super) paused_until: Millis,
    refusals: u8,
    tally: Tally,
}

impl<T> Core<T> {
    /// No lanes yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            lanes: Slab::default(),
            names: HashMap::new(),
            tenants: Slab::default(),
            tenant_names: HashMap::new(),
            turns: Turns::default(),
            alarms: BTreeSet::new(),
            queues: HashMap::new(),
            arrivals: BTreeMap::new(),
            last_seq: 0,
            places: Ration::whole(rules.in_flight),
            at_work: 0,
            paused_until: Millis(0),
            refusals: 0,
            tally: Tally::default(),
        }
    }

    /// A job joins the row of its mailbox, or is sent away to sleep in the broker. Follow with [`Core::admit`].
    ///
    /// # Errors
    /// [`Parked`], with the token given back.
    pub fn enter(&mut self, now: Millis, entry: &Entry<'_>, token: T) -> Result<Ticket, (Parked, T)> {
        self.advance(now);
        let id = self.open(now, entry);
        if entry.turn.is_some() {
            self.lanes[id].parked.sub(entry.request_bytes);
        }
        if let Some(parked) = self.refusal(id, now, entry) {
            self.lanes[id].parked.add(entry.request_bytes);
            self.settle(id, now);
            return Err((parked, token));
        }
        self.last_seq += 1;
        let order = (u8::MAX - entry.priority, self.last_seq);
        self.arrivals.insert(self.last_seq, now);
        self.queues.entry(entry.queue).or_default().held += 1;
        self.lanes[id].push(Waiting { order, bytes: entry.request_bytes, queue: entry.queue, token });
        self.settle(id, now);
        Ok(Ticket { lane: id, order })
    }

    /// A job leaves the row. `None`: it is not there any more, it was admitted.
    pub fn leave(&mut self, now: Millis, ticket: Ticket) -> Option<T> {
        self.advance(now);
        let job = self.lanes.get_mut(ticket.lane)?.remove(ticket.order)?;
        self.arrivals.remove(&job.order.1);
        self.unhold(job.queue);
        self.settle(ticket.lane, now);
        Some(job.token)
    }

    /// A job waits `pause` milliseconds in memory for something else than its turn. `None`: its queue's prefetch has no room
    /// for that.
    pub fn rest(&mut self, now: Millis, entry: &Entry<'_>, pause: u64) -> Option<Resting> {
        self.advance(now);
        let id = self.open(now, entry);
        let rests = !self.is_beyond(id, now, entry, pause);
        if rests {
            self.queues.entry(entry.queue).or_default().held += 1;
            self.lanes[id].resting += 1;
        }
        self.settle(id, now);
        rests.then_some(Resting { lane: id, queue: entry.queue })
    }

    /// The wait is over.
    pub fn wake(&mut self, now: Millis, resting: Resting) {
        let Resting { lane, queue } = resting;
        self.advance(now);
        self.lanes[lane].resting = self.lanes[lane].resting.saturating_sub(1);
        self.unhold(queue);
        self.settle(lane, now);
    }

    /// Admits the job whose turn it is, if a place is free and one is ready. Call until it gives `None`.
    pub fn admit(&mut self, now: Millis) -> Option<(T, Grant)> {
        self.advance(now);
        if self.paused_until > now || self.at_work >= self.places.level() {
            return None;
        }
        let tenant_id = self.turns.first()?;
        let tenant = &mut self.tenants[tenant_id];
        let id = tenant.turns.first()?;
        let lane = &mut self.lanes[id];
        let job = lane.start(now)?;
        tenant.turns.take(id, &mut lane.account, job.bytes);
        self.turns.take(tenant_id, &mut tenant.account, job.bytes);
        self.at_work += 1;
        self.arrivals.remove(&job.order.1);
        self.settle(id, now);
        let grant = Grant { lane: id, queue: job.queue, bytes: job.bytes, started: now, open: true };
        Some((job.token, grant))
    }

    /// The request will be of another size than was thought.
    pub fn correct(&mut self, now: Millis, grant: &mut Grant, bytes: u64) {
        if !grant.open {
            return;
        }
        self.advance(now);
        self.lanes[grant.lane].correct(grant.bytes, bytes);
        self.charge(grant, bytes);
        self.settle(grant.lane, now);
    }

    /// The request is over, and was of this size. The place is kept.
    pub fn sent(&mut self, now: Millis, grant: &mut Grant, bytes: u64) {
        self.correct(now, grant, bytes);
        if std::mem::replace(&mut grant.open, false) {
            self.lanes[grant.lane].sent(bytes, now, &self.rules);
            self.settle(grant.lane, now);
        }
    }

    /// No request was sent, nor will be. The place is kept.
    pub fn unused(&mut self, now: Millis, grant: &mut Grant) {
        if std::mem::replace(&mut grant.open, false) {
            self.advance(now);
            self.lanes[grant.lane].unused(grant.bytes);
            self.charge(grant, 0);
            self.settle(grant.lane, now);
        }
    }

    /// The place is free again. If nothing was said before, the request counts as sent and over now.
    pub fn end(&mut self, now: Millis, mut grant: Grant) {
        let bytes = grant.bytes;
        self.sent(now, &mut grant, bytes);
        self.advance(now);
        self.lanes[grant.lane].end(grant.started, now);
        self.at_work = self.at_work.saturating_sub(1);
        self.unhold(grant.queue);
        self.settle(grant.lane, now);
    }

    /// A request for a mailbox beside its jobs' imports: a session opened, a look.
    pub fn beside(&mut self, now: Millis, tenant: &str, mailbox: &str) {
        self.advance(now);
        if let Some(id) = self.names.get(name(tenant, mailbox).as_str()).copied() {
            self.lanes[id].beside(now, &self.rules);
            self.settle(id, now);
        }
    }

    /// What Exchange said to a request for a mailbox.
    pub fn hear(&mut self, now: Millis, tenant: &str, mailbox: &str, word: Word) {
        self.advance(now);
        match word {
            Word::Succeeded => self.succeeded(now, tenant, mailbox),
            Word::Throttled { scope: ThrottleScope::Mailbox, limit, retry_after } => {
                let id = self.open(now, &Entry::about(tenant, mailbox));
                self.lanes[id].throttled(limit, retry_after, now, &self.rules);
                self.settle(id, now);
            }
            Word::Throttled { scope: ThrottleScope::Tenant, retry_after, .. } => {
                let id = self.open_tenant(tenant);
                let until = self.tenants[id].throttled(now, retry_after);
                self.alarms.insert((until, Alarm::Tenant(id)));
                self.settle_tenant(id, now);
            }
            Word::Throttled { scope: ThrottleScope::App, retry_after, .. } => {
                self.app_throttled(now, retry_after);
            }
            Word::Other => {}
        }
    }

    fn succeeded(&mut self, now: Millis, tenant: &str, mailbox: &str) {
        self.refusals = 0;
        if self.at_work >= self.places.level() {
            self.places.succeeded(now, self.rules.in_flight);
        }
        if let Some(id) = self.names.get(name(tenant, mailbox).as_str()).copied() {
            let lane = &mut self.lanes[id];
            lane.succeeded(now, &self.rules);
            self.tenants[lane.tenant].refusals = 0;
            self.settle(id, now);
        }
    }

    fn app_throttled(&mut self, now: Millis, retry_after: Option<u64>) {
        let known = self.paused_until > now;
        let pause = super::lane::pause(if known { 0 } else { self.refusals }, retry_after);
        self.alarms.remove(&(self.paused_until, Alarm::App));
        self.paused_until = self.paused_until.max(now.plus(pause));
        self.alarms.insert((self.paused_until, Alarm::App));
        if !known {
            self.refusals = self.refusals.saturating_add(1);
            self.places.refused(now, self.rules.in_flight, 0, self.rules.bytes.every);
        }
    }

    /// When something may become ready although nobody calls.
    #[must_use]
    pub fn next_alarm(&self) -> Option<Millis> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Millis) {
        while let Some(due) = self.alarms.first().copied().filter(|(at, _)| *at <= now) {
            self.alarms.remove(&due);
            let (_, alarm) = due;
            match alarm {
                Alarm::Lane(id) => {
                    self.lanes[id].timer = None;
                    self.settle(id, now);
                }
                Alarm::Tenant(id) => self.settle_tenant(id, now),
                Alarm::App => {}
            }
        }
    }

    /// Why this entry may not wait in memory, and how long it should sleep.
    fn refusal(&mut self, id: u32, now: Millis, entry: &Entry<'_>) -> Option<Parked> {
        let place = self.at_work < self.places.level();
        let lane = &self.lanes[id];
        let elsewhere = self.paused_until.max(self.tenants[lane.tenant].paused_until);
        let outlook = flood::Outlook::of(lane, entry, elsewhere, now, &self.rules);
        let refused = if entry.may_hold {
            self.is_beyond(id, now, entry, outlook.closed)
        } else {
            !(place && outlook.at_once)
        };
        refused.then(|| outlook.park(&mut self.lanes[id], entry, now, &self.rules))
    }

    /// Whether this entry may not wait in memory, where it would for at least `closed` milliseconds.
    fn is_beyond(&self, id: u32, now: Millis, entry: &Entry<'_>, closed: u64) -> bool {
        let queue = self.queues.get(&entry.queue).copied().unwrap_or_default();
        flood::is_beyond(&self.lanes[id], entry, queue, closed, now, &self.rules)
    }

    fn charge(&mut self, grant: &mut Grant, bytes: u64) {
        let lane = &mut self.lanes[grant.lane];
        let tenant = &mut self.tenants[lane.tenant];
        tenant.turns.correct(grant.lane, &mut lane.account, grant.bytes, bytes);
        self.turns.correct(lane.tenant, &mut tenant.account, grant.bytes, bytes);
        grant.bytes = bytes;
    }

    fn unhold(&mut self, queue: u16) {
        if let Some(held) = self.queues.get_mut(&queue) {
            held.held = held.held.saturating_sub(1);
            if *held == Queue::default() {
                self.queues.remove(&queue);
            }
        }
    }

    /// The lane of a mailbox, made if there is none.
    fn open(&mut self, now: Millis, entry: &Entry<'_>) -> u32 {
        let name = name(entry.tenant, entry.mailbox);
        if let Some(id) = self.names.get(name.as_str()) {
            return *id;
        }
        let name: Arc<str> = name.into();
        let tenant = self.open_tenant(entry.tenant);
        self.tenants[tenant].lanes += 1;
        let lane = Lane::new(Arc::clone(&name), tenant, entry.queue, entry.inherited, now, &self.rules);
        let id = self.lanes.insert(lane);
        self.names.insert(name, id);
        id
    }

    fn open_tenant(&mut self, tenant: &str) -> u32 {
        if let Some(id) = self.tenant_names.get(tenant) {
            return *id;
        }
        let name: Arc<str> = tenant.into();
        let id = self.tenants.insert(Tenant::new(Arc::clone(&name)));
        self.tenant_names.insert(name, id);
        id
    }

    /// Brings every index in line with what a lane is doing; forgets it when nothing is left to remember.
    fn settle(&mut self, id: u32, now: Millis) {
        let lane = &mut self.lanes[id];
        let state = lane.state(now, &self.rules);
        let paused = lane.paused_until > now;
        let tenant_id = lane.tenant;
        let tenant = &mut self.tenants[tenant_id];
        tenant.turns.set(id, &mut lane.account, state == State::Ready);
        let part = Tally::of(state, lane.waiting(), paused);
        tenant.tally.replace(std::mem::replace(&mut lane.counted, part), part);
        self.count_holder(id, !matches!(state, State::Idle(_)));
        self.set_timer(id, state, now);
        if matches!(state, State::Idle(lapses) if lapses <= now) {
            self.forget(id);
        }
        self.settle_tenant(tenant_id, now);
    }

    fn settle_tenant(&mut self, id: u32, now: Millis) {
        let Some(tenant) = self.tenants.get_mut(id) else { return };
        let paused = tenant.paused_until > now;
        let ready = !paused && !tenant.turns.is_empty();
        self.turns.set(id, &mut tenant.account, ready);
        let part = tenant.part(now);
        self.tally.replace(std::mem::replace(&mut tenant.counted, part), part);
        if tenant.lanes == 0 && !paused {
            self.tenant_names.remove(&tenant.name);
            self.tenants.remove(id);
        }
    }

    fn count_holder(&mut self, id: u32, holds: bool) {
        let lane = &mut self.lanes[id];
        if std::mem::replace(&mut lane.holds, holds) == holds {
            return;
        }
        let queue = self.queues.entry(lane.queue).or_default();
        queue.active = if holds { queue.active + 1 } else { queue.active.saturating_sub(1) };
        if *queue == Queue::default() {
            self.queues.remove(&lane.queue);
        }
    }

    fn set_timer(&mut self, id: u32, state: State, now: Millis) {
        let lane = &mut self.lanes[id];
        let pause = Some(lane.paused_until).filter(|until| *until > now);
        let timer = match state {
            State::Idle(lapses) => Some(pause.unwrap_or(lapses)).filter(|at| *at > now),
            State::Busy | State::Ready => pause,
            State::Blocked(_, until) => until,
        };
        if lane.timer == timer {
            return;
        }
        if let Some(old) = std::mem::replace(&mut lane.timer, timer) {
            self.alarms.remove(&(old, Alarm::Lane(id)));
        }
        self.alarms.extend(timer.map(|at| (at, Alarm::Lane(id))));
    }

    fn forget(&mut self, id: u32) {
        if let Some(lane) = self.lanes.remove(id) {
            self.names.remove(&lane.name);
            let tenant = &mut self.tenants[lane.tenant];
            tenant.lanes = tenant.lanes.saturating_sub(1);
        }
    }

    /// The arrival of the job that has waited longest.
    #[must_use]
    pub fn oldest_waiting(&self) -> Option<Millis> {
        self.arrivals.first_key_value().map(|(_, at)| *at)
    }

    /// Jobs waiting by cause, lanes by state.
    #[must_use]
    pub fn tally(&self, now: Millis) -> Tally {
        if self.paused_until > now { self.tally.frozen() } else { self.tally }
    }

    /// Places taken and places there are now.
    #[must_use]
    pub const fn places(&self) -> (u32, u32) {
        (self.at_work, self.places.level())
    }

    /// Lanes that are known, with or without jobs.
    #[must_use]
    pub fn known(&self) -> usize {
        self.lanes.len()
    }
}

/// Neither a tenant nor a mailbox holds a slash.
fn name(tenant: &str, mailbox: &str) -> String {
    [tenant, "/", mailbox].concat()
}

impl<'a> Entry<'a> {
    /// An entry that names only whom it is about.
    #[must_use]
    pub const fn about(tenant: &'a str, mailbox: &'a str) -> Self {
        Self {
            tenant,
            mailbox,
            request_bytes: 0,
            priority: 0,
            may_hold: true,
            queue: 0,
            turn: None,
            inherited: false,
        }
    }
}
