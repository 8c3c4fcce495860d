//! The neighbours as this worker sees them: who is away, which tenant is paused, and whether everything is.
//! A thin shell around [`Health`]: clock, lock, wake-ups.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tracing::{error, info, warn};

use super::health::{Health, Pass};
use crate::domain::{
    Dependency, Fault, JobId, MailboxId, OursScope, Reason, RestoreError, TenantId, retry::Backoff,
};

/// Why everything is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// The reason code: the label `cause`.
    pub reason: Reason,
    /// What a person should read.
    pub message: String,
    /// The tenant of the job that met it: to be asked for again.
    pub tenant: Option<TenantId>,
}

/// See the file's head.
#[derive(Debug)]
pub struct Neighbours {
    backoff: Backoff,
    inner: Mutex<Inner>,
    changed: Notify,
    everything: watch::Sender<Option<Paused>>,
}

#[derive(Debug, Default)]
struct Inner {
    health: HashMap<Dependency, Health<Instant>>,
    tenants: HashMap<TenantId, Health<Instant>>,
    /// Mailboxes that were forbidden, or whose import host was, since one was not.
    forbidden: Vec<MailboxId>,
    /// When a mailbox last had a success; forgotten when too many.
    succeeded: HashMap<MailboxId, Instant>,
}

/// The longest pause between trials of a neighbour that is away: so soon after it is back work goes on.
const LONGEST: Duration = Duration::from_secs(30);
/// Mailboxes that must agree before a refusal is no longer one mailbox's.
const SEVERAL_MAILBOXES: usize = 3;
/// Tenants and mailboxes remembered at most.
const REMEMBERED: usize = 10_000;

impl Neighbours {
    /// All well.
    #[must_use]
    pub fn new(backoff: Backoff) -> Self {
        let backoff =
            Backoff::try_new(backoff.base().min(LONGEST), backoff.max().min(LONGEST)).unwrap_or(backoff);
        Self {
            backoff,
            inner: Mutex::default(),
            changed: Notify::new(),
            everything: watch::Sender::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A good answer.
    pub fn good(&self, dependency: Dependency, job: &JobId) {
        let mut inner = self.lock();
        let health = inner.health.entry(dependency).or_default();
        let was_away = health.is_away();
        health.good(job, Instant::now());
        drop(inner);
        if was_away {
            info!(dependency = dependency.as_str(), "works again");
            self.changed.notify_waiters();
        }
    }

    /// A probe got a good answer: for a job that is alone with its trouble.
    pub fn probe_answered(&self, dependency: Dependency) {
        if let Ok(probe) = JobId::parse("a probe, no job") {
            self.lock().health.entry(dependency).or_default().answered(&probe, Instant::now());
        }
    }

    /// A mailbox took an item.
    pub fn mailbox_took(&self, tenant: &TenantId, mailbox: &MailboxId) {
        let mut inner = self.lock();
        inner.forbidden.clear();
        inner.tenants.remove(tenant);
        if inner.succeeded.len() >= REMEMBERED {
            inner.succeeded.clear();
        }
        inner.succeeded.insert(mailbox.clone(), Instant::now());
    }

    /// Whether the mailbox took an item at or after `since`.
    #[must_use]
    pub fn mailbox_succeeds(&self, mailbox: &MailboxId, since: Instant) -> bool {
        self.lock().succeeded.get(mailbox).is_some_and(|at| *at >= since)
    }

    /// Hears of trouble, and says whose it is: a refusal of one mailbox is the job's, unless several mailboxes agree.
    #[must_use]
    pub fn hear(
        &self,
        error: RestoreError,
        job: &JobId,
        tenant: &TenantId,
        mailbox: &MailboxId,
    ) -> RestoreError {
        let now = Instant::now();
        let dice = fastrand::f64();
        let mut inner = self.lock();
        match error.fault {
            Fault::Passing { dependency, .. } | Fault::Ours { scope: OursScope::Dependency(dependency) } => {
                if inner.health.entry(dependency).or_default().bad(job, now, &self.backoff, dice) {
                    warn!(dependency = dependency.as_str(), error = %error, "away: several jobs met this without a success between them");
                }
                error
            }
            Fault::Ours { scope: OursScope::Tenant } => {
                if inner.tenants.len() >= REMEMBERED {
                    inner.tenants.clear();
                }
                let health = inner.tenants.entry(tenant.clone()).or_default();
                // One refusal is enough: a tenant's consent is nobody else's.
                for n in 0..SEVERAL_MAILBOXES {
                    if let Ok(id) = JobId::parse(&format!("tenant {n}")) {
                        health.bad(&id, now, &self.backoff, dice);
                    }
                }
                warn!(%tenant, error = %error, "the tenant is paused");
                error
            }
            Fault::Ours { scope: OursScope::Everything } => {
                drop(inner);
                self.pause(&error, tenant);
                error
            }
            Fault::Job if matches!(error.reason, Reason::MailboxForbidden | Reason::ImportHostNotAllowed) => {
                if !inner.forbidden.contains(mailbox) && inner.forbidden.len() < SEVERAL_MAILBOXES {
                    inner.forbidden.push(mailbox.clone());
                }
                if inner.forbidden.len() < SEVERAL_MAILBOXES {
                    return error;
                }
                let health = inner.health.entry(Dependency::Exchange).or_default();
                if health.bad(job, now, &self.backoff, dice) {
                    warn!(dependency = "exchange", error = %error, "away: several mailboxes refuse us without a success between them");
                }
                error.with_fault(Fault::Ours { scope: OursScope::Dependency(Dependency::Exchange) })
            }
            // No answer is trouble of Exchange's, too, though only looking tells what became of this job.
            Fault::InDoubt if error.reason != Reason::Internal => {
                let health = inner.health.entry(Dependency::Exchange).or_default();
                if health.bad(job, now, &self.backoff, dice) {
                    warn!(dependency = "exchange", error = %error, "away: several jobs had no answer without a success between them");
                }
                error
            }
            Fault::Job | Fault::Throttled { .. } | Fault::InDoubt => error,
        }
    }

    /// Whether the dependency has answered another job well since then.
    #[must_use]
    pub fn works_for_others(&self, dependency: Dependency, job: &JobId, since: Instant) -> bool {
        self.lock().health.get(&dependency).is_some_and(|health| health.works_for_others(job, since))
    }

    /// Whether the dependency is away for everybody.
    #[must_use]
    pub fn is_away(&self, dependency: Dependency) -> bool {
        self.lock().health.get(&dependency).is_some_and(Health::is_away)
    }

    /// Those that are away.
    #[must_use]
    pub fn away(&self) -> Vec<Dependency> {
        Dependency::ALL.into_iter().filter(|d| self.is_away(*d)).collect()
    }

    /// Waits until no needed dependency is away, or this job may be the one that tries; at most `patience`.
    ///
    /// # Errors
    /// How long to stay away, when patience is over first.
    pub async fn pass(&self, patience: Duration) -> Result<(), Duration> {
        let deadline = Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            let Some(wait) = self.longest_wait() else { return Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(wait);
            }
            // Woken, or time to ask again: both lead to another look.
            drop(timeout(wait.min(left), changed).await);
        }
    }

    fn longest_wait(&self) -> Option<Duration> {
        let (now, dice) = (Instant::now(), fastrand::f64());
        let mut inner = self.lock();
        // Nobody takes a trial while it waits for another dependency.
        let waits =
            inner.health.values_mut().filter(|h| h.is_away()).map(|h| h.pass(now, &self.backoff, dice));
        waits.fold(None, |longest, pass| match pass {
            Pass::Go => longest,
            Pass::Wait(wait) => Some(longest.map_or(wait, |l: Duration| l.max(wait))),
        })
    }

    /// Whether a tenant is paused, and how long until one of its jobs may try.
    #[must_use]
    pub fn tenant_paused(&self, tenant: &TenantId) -> Option<Duration> {
        let mut inner = self.lock();
        match inner.tenants.get_mut(tenant)?.pass(Instant::now(), &self.backoff, fastrand::f64()) {
            Pass::Go => None,
            Pass::Wait(wait) => Some(wait),
        }
    }

    /// Pauses everything: our credential or keys are refused.
    pub fn pause(&self, error: &RestoreError, tenant: &TenantId) {
        let paused =
            Paused { reason: error.reason, message: error.to_string(), tenant: Some(tenant.clone()) };
        let news = self
            .everything
            .send_if_modified(|current| current.is_none() && current.replace(paused).is_none());
        if news {
            error!(reason = error.reason.as_str(), %error, "everything is paused: no job can be done until this is mended");
        }
    }

    /// Ends the pause of everything.
    pub fn resume(&self) {
        if self.everything.send_if_modified(|current| current.take().is_some()) {
            info!("the pause of everything is over");
        }
    }

    /// The pause of everything, to be watched.
    #[must_use]
    pub fn everything(&self) -> watch::Receiver<Option<Paused>> {
        self.everything.subscribe()
    }
}
