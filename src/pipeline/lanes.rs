//! Who may work on a mailbox now.
//!
//! Exchange limits each application on each mailbox: bytes and requests per window, requests at once. A restore is fast
//! only if many mailboxes are driven at once, each close to its own limits, and none waits for another's. Here is the
//! decision, as two layers: a pure core ([`core::Core`]: data and `now` in, data out) and this thin shell, which gives it
//! a clock, wakes those who wait, and shows what happens in metrics.
//!
//! Promises: a mailbox never gets more than its windows and places, whenever Exchange counts; a limit heard for a mailbox,
//! a tenant or the app pauses exactly that; equal turns by bytes, first between tenants, then between their mailboxes; a
//! flood of one mailbox keeps nobody else out; what is idle is forgotten; no polling. Never: I/O, retries, settling.
//!
//! The parts: [`window`] (what was spent), [`ration`] (halving and recovering), [`lane`] (one mailbox), [`tenant`],
//! [`fair`] (whose turn), [`flood`] (who may wait in memory), [`rest`] (waits for something else), [`snapshot`] (for `/lanes`),
//! [`tally`] (for metrics).

pub mod core;
pub mod fair;
pub mod flood;
pub mod lane;
#[cfg(test)]
mod laws;
mod pass;
pub mod ration;
pub mod rest;
pub mod slab;
pub mod snapshot;
pub mod tally;
pub mod tenant;
#[cfg(test)]
mod tests;
pub mod window;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use self::{
    core::{Core, Grant, Parked, Rules, Ticket, Word},
    window::{Millis, Quota},
};
pub use self::{
    lane::Why,
    pass::LanePass,
    rest::Rest,
    snapshot::{LaneSnapshot, PausedTenant, Snapshot},
};
use crate::{
    domain::{Limit, MailboxId, TenantId, ThrottleScope},
    metrics::Metrics,
};

/// The limits that this worker keeps; checked by the configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Jobs at work at once, in the whole worker.
    pub in_flight: usize,
    /// Jobs at work at once on one mailbox.
    pub per_mailbox: usize,
    /// Bytes of request body per mailbox and window.
    pub window_bytes: u64,
    /// Requests per mailbox and window.
    pub window_requests: u64,
    /// The window of bytes.
    pub every_bytes: Duration,
    /// The window of requests.
    pub every_requests: Duration,
    /// The part of both windows that is this worker's, above 0 and at most 1.
    pub share: f64,
    /// Jobs that the common queue delivers at most before some are settled: its prefetch.
    pub hold: usize,
    /// The same of a shard's queue.
    pub hold_per_shard: usize,
}

impl Settings {
    fn rules(&self) -> Rules {
        let places = |places: usize| u32::try_from(places).unwrap_or(u32::MAX).max(1);
        Rules {
            in_flight: places(self.in_flight),
            per_mailbox: places(self.per_mailbox),
            bytes: Quota {
                amount: part(self.window_bytes, self.share),
                every: millis(self.every_bytes).max(1),
            },
            requests: Quota {
                amount: part(self.window_requests, self.share),
                every: millis(self.every_requests).max(1),
            },
            hold: u64::try_from(self.hold).unwrap_or(u64::MAX),
            hold_per_shard: u64::try_from(self.hold_per_shard).unwrap_or(u64::MAX),
        }
    }
}

/// A `share` of `amount`, in steps of a millionth, at least 1.
fn part(amount: u64, share: f64) -> u64 {
    let millionths = Duration::from_secs(1).mul_f64(share.clamp(0.0, 1.0)).as_micros();
    u64::try_from(u128::from(amount) * millionths / 1_000_000).unwrap_or(u64::MAX).max(1)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A job that wants to enter.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Whose mailbox.
    pub tenant: &'a TenantId,
    /// Which mailbox.
    pub mailbox: &'a MailboxId,
    /// Size of the request body (base64), as far as is known; [`LanePass::adjust`] corrects it.
    pub request_bytes: u64,
    /// The message's priority: the higher first within a lane.
    pub priority: u8,
    /// Whether the job may wait in memory; else it enters at once or is refused.
    pub may_hold: bool,
    /// Which of the worker's queues delivered it; 0: the common one. The prefetch is counted per queue.
    pub queue: u16,
    /// How far ahead its turn is, as [`Refused::Park`] told when it was parked (zero when that is past); `None`: it was not
    /// parked for its lane. Carried with the message, else the job goes to the end of its lane each time it comes back.
    pub turn: Option<Duration>,
    /// Whether another worker may have worked on this mailbox within the last window (a fleet of more than one, and the
    /// shard came to this worker less than a window ago). Read only when the lane is new.
    pub inherited: bool,
}

impl<'a> Entry<'a> {
    /// A job of priority 0 from queue 0 that may wait.
    #[must_use]
    pub const fn new(tenant: &'a TenantId, mailbox: &'a MailboxId, request_bytes: u64) -> Self {
        Self {
            tenant,
            mailbox,
            request_bytes,
            priority: 0,
            may_hold: true,
            queue: 0,
            turn: None,
            inherited: false,
        }
    }

    fn pure(&self) -> core::Entry<'a> {
        core::Entry {
            tenant: self.tenant.as_str(),
            mailbox: self.mailbox.as_str(),
            request_bytes: self.request_bytes,
            priority: self.priority,
            may_hold: self.may_hold,
            queue: self.queue,
            turn: self.turn.map(millis),
            inherited: self.inherited,
        }
    }
}

/// A job that may not wait in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It should sleep in the broker.
    #[error("waits for {} elsewhere, for {after:?}", .why.as_str())]
    Park {
        /// For how long: at most half the time that what is ahead of it in its lane needs.
        after: Duration,
        /// When its turn is, counted from now: to be given back in [`Entry::turn`].
        turn: Duration,
        /// What it waits for.
        why: Why,
    },
}

impl From<Parked> for Refused {
    fn from(Parked { after, turn, why }: Parked) -> Self {
        Self::Park { after: Duration::from_millis(after), turn: Duration::from_millis(turn), why }
    }
}

/// What was heard about a mailbox from Exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A request succeeded.
    Succeeded,
    /// A limit was named.
    Throttled {
        /// What it is counted over.
        scope: ThrottleScope,
        /// Which one.
        limit: Limit,
        /// What Exchange asked for.
        retry_after: Option<Duration>,
    },
    /// Anything else: tells nothing about limits.
    Other,
}

impl Heard {
    fn pure(self) -> Word {
        match self {
            Self::Succeeded => Word::Succeeded,
            Self::Throttled { scope, limit, retry_after } => {
                Word::Throttled { scope, limit, retry_after: retry_after.map(millis) }
            }
            Self::Other => Word::Other,
        }
    }
}

/// The lanes of this worker. Clones are the same lanes.
#[derive(Clone, Debug)]
pub struct Lanes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    core: Mutex<Core<Waker>>,
    origin: Instant,
    longest_window: Duration,
    alarm: Notify,
    metrics: Arc<Metrics>,
    /// How many jobs were last shown as waiting, by [`Why::ALL`].
    shown: [AtomicI64; Why::ALL.len()],
}

type Waker = oneshot::Sender<LanePass>;

impl Lanes {
    /// Lanes without jobs. Call within a runtime; [`Lanes::run`] must run beside.
    #[must_use]
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let core = Mutex::new(Core::new(settings.rules()));
        let shared = Shared {
            core,
            origin: Instant::now(),
            longest_window: settings.every_bytes.max(settings.every_requests),
            alarm: Notify::new(),
            metrics,
            shown: Default::default(),
        };
        let lanes = Self { shared: Arc::new(shared) };
        lanes.within(|_, _| ());
        lanes
    }

    /// Waits until the mailbox may be worked on. Dropping the future leaves the row.
    ///
    /// # Errors
    /// [`Refused`], at once, when the job may not wait in memory.
    pub async fn enter(&self, entry: Entry<'_>) -> Result<LanePass, Refused> {
        let (waker, woken) = oneshot::channel();
        let entered =
            self.within(|core, now| core.enter(now, &entry.pure(), waker).map_err(|(parked, _)| parked));
        let ticket = entered?;
        let mut place = Place { lanes: self, ticket: Some(ticket) };
        let pass = woken
            .await
            .expect("the row keeps the waker until it admits, and only this future leaves the row");
        place.ticket = None;
        Ok(pass.received())
    }

    /// Tells what Exchange said to a request for a mailbox: before the pass is dropped, so that nobody enters in between.
    pub fn hear(&self, tenant: &TenantId, mailbox: &MailboxId, heard: Heard) {
        if heard != Heard::Other {
            self.within(|core, now| core.hear(now, tenant.as_str(), mailbox.as_str(), heard.pure()));
        }
    }

    /// A request for a mailbox beside its jobs' imports (a session opened, a look), which Exchange counts, too.
    pub fn beside(&self, tenant: &TenantId, mailbox: &MailboxId) {
        self.within(|core, now| core.beside(now, tenant.as_str(), mailbox.as_str()));
    }

    /// After this long, what somebody else has spent on a mailbox no longer counts.
    #[must_use]
    pub fn longest_window(&self) -> Duration {
        self.shared.longest_window
    }

    /// What is going on: at most `top` of the busiest mailboxes, or only one. For people: costs time in proportion to all lanes.
    #[must_use]
    pub fn snapshot(&self, top: usize, mailbox: Option<&str>) -> Snapshot {
        self.within(|core, now| core.snapshot(now, top, mailbox))
    }

    /// How long the oldest job has waited in memory.
    #[must_use]
    pub fn oldest_waiting(&self) -> Option<Duration> {
        let now = self.now();
        self.lock().oldest_waiting().map(|at| Duration::from_millis(now.since(at)))
    }

    /// Wakes the lanes exactly when a pause ends or a window has room. Never ends: whoever runs it drops it at shutdown.
    pub async fn run(&self) {
        loop {
            let alarm = self.lock().next_alarm();
            let rings = alarm.and_then(|at| self.shared.origin.checked_add(Duration::from_millis(at.0)));
            let rung = async {
                match rings {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = rung => self.within(|_, _| ()),
                () = self.shared.alarm.notified() => {}
            }
        }
    }

    fn now(&self) -> Millis {
        Millis(millis(self.shared.origin.elapsed()))
    }

    fn lock(&self) -> MutexGuard<'_, Core<Waker>> {
        self.shared.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the core, admits whom that lets in, and wakes them when the lock is free again.
    fn within<R>(&self, act: impl FnOnce(&mut Core<Waker>, Millis) -> R) -> R {
        let mut core = self.lock();
        let now = self.now();
        core.advance(now);
        let before = core.next_alarm();
        let result = act(&mut core, now);
        let admitted: Vec<_> = std::iter::from_fn(|| core.admit(now)).collect();
        let after = core.next_alarm();
        self.show(&core, now);
        drop(core);
        for (waker, grant) in admitted {
            // Whoever has gone away meanwhile drops the pass unread, which gives everything back.
            drop(waker.send(LanePass::new(self.clone(), grant)));
        }
        if after.is_some_and(|at| before.is_none_or(|before| at < before)) {
            self.shared.alarm.notify_one();
        }
        result
    }

    fn show(&self, core: &Core<Waker>, now: Millis) {
        let metrics = &self.shared.metrics;
        let tally = core.tally(now);
        let (busy, places) = core.places();
        // The pipeline counts jobs under the same words, so only what has changed here is added. The core is locked.
        for (why, shown) in Why::ALL.into_iter().zip(&self.shared.shown) {
            let waiting = i64::from(tally.waiting(why));
            let change = waiting - shown.swap(waiting, Ordering::Relaxed);
            metrics.jobs_waiting.with_label_values(&[why.as_str()]).add(change);
        }
        metrics.jobs_in_flight.set(busy.into());
        metrics.slots.with_label_values(&["busy"]).set(busy.into());
        metrics.slots.with_label_values(&["free"]).set(places.saturating_sub(busy).into());
        metrics.lanes.with_label_values(&["active"]).set(tally.active.into());
        metrics.lanes.with_label_values(&["paused"]).set(tally.paused.into());
    }
}

/// A place in the row, left when dropped.
struct Place<'a> {
    lanes: &'a Lanes,
    ticket: Option<Ticket>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            // The waker is dropped with the row's entry; if the job was admitted meanwhile, the pass in the channel goes back by itself.
            drop(self.lanes.within(|core, now| core.leave(now, ticket)));
        }
    }
}

impl Lanes {
    fn correct(&self, grant: &mut Grant, bytes: u64) {
        self.within(|core, now| core.correct(now, grant, bytes));
    }

    fn sent(&self, grant: &mut Grant, bytes: u64) {
        self.within(|core, now| core.sent(now, grant, bytes));
    }

    fn unused(&self, grant: &mut Grant) {
        self.within(|core, now| core.unused(now, grant));
    }

    fn end(&self, grant: Grant) {
        self.within(|core, now| core.end(now, grant));
    }
}
