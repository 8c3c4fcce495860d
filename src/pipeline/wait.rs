//! Waiting: in memory for a short while, in a wait tier beyond. Never by giving a delivery back in a loop.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::IntGauge;
use tokio::time::sleep;
use tracing::warn;

use super::{
    Pipeline,
    course::{Course, now},
    lanes::Rest,
    report::Patience,
};
use crate::{
    broker::{Message, PublishError, Settlement, Source, Tier},
    domain::{Journey, UnixMillis},
};

/// A wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// How long.
    pub(super) after: Duration,
    /// What for: the label `why`.
    pub(super) why: &'static str,
    /// Whether it counts towards `max_parked`.
    pub(super) counts: bool,
    /// Whether it may be spent in memory.
    pub(super) may_hold: bool,
}

/// What became of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// It is time for another attempt, here.
    Here,
    /// A confirmed copy waits in a tier: the original has done its part.
    Elsewhere,
    /// Nothing more begins here.
    NoMore,
    /// The channel is gone.
    Void,
}

impl Pipeline {
    /// Waits, here or elsewhere.
    pub(super) async fn wait(&self, course: &mut Course, wait: &Wait, settlement: &Settlement) -> Waited {
        let Wait { after, why, counts, may_hold } = *wait;
        // A job that its lane sent away asks its lane again as soon as its copy is back, however early: only there is known
        // whether it may wait in memory.
        let tier = self.broker.tiers().get(tier_for(self.broker.tiers(), after)).filter(|_| !may_hold);
        course.journey.not_before = Some(now().plus(tier.map_or(after, |tier| after.min(tier.ttl))));
        if counts {
            course.journey.parked = course.journey.parked.saturating_add(after);
        }
        if course.source == Source::GivenUp {
            return self.wait_for_the_given_up(course, after, why, settlement).await;
        }
        let Some(rest) = self.rest(course, wait) else {
            return self.park(course, after, why, settlement).await;
        };
        let waiting = self.waiting(why);
        let waited = tokio::select! {
            () = sleep(after) => if settlement.is_void() { Waited::Void } else { Waited::Here },
            // What it has learnt by now must not be lost with the delivery: it goes on as a copy.
            () = self.not_to_begin() => self.park(course, after, why, settlement).await,
        };
        drop((waiting, rest));
        waited
    }

    /// Room to wait in memory, if the wait is short enough for that.
    fn rest(&self, course: &Course, wait: &Wait) -> Option<Rest> {
        let sending = self.exchange.send_timeout(course.likely_length());
        let short = wait.after <= self.hold && wait.after.saturating_add(sending) <= course.patience();
        (wait.may_hold && short).then(|| self.lanes.rest(self.entry(course), wait.after)).flatten()
    }

    /// What the broker gave up must not become work again: it waits here, and goes back to its own queue.
    async fn wait_for_the_given_up(
        &self,
        course: &Course,
        after: Duration,
        why: &'static str,
        settlement: &Settlement,
    ) -> Waited {
        let waiting = self.waiting(why);
        let long = after > course.patience();
        let waited = tokio::select! {
            () = sleep(after.min(course.patience())) => if long { Waited::NoMore } else { Waited::Here },
            () = self.not_to_begin() => Waited::NoMore,
        };
        drop(waiting);
        if settlement.is_void() { Waited::Void } else { waited }
    }

    /// A copy of the job waits in the tier that fits.
    async fn park(
        &self,
        course: &Course,
        after: Duration,
        why: &'static str,
        settlement: &Settlement,
    ) -> Waited {
        let waiting = self.waiting(why);
        // Boxed: most waits end here, and need no room for a publish.
        let parked = Box::pin(self.park_message(&course.message, &course.journey, after, settlement)).await;
        drop(waiting);
        parked
    }

    /// Publishes a copy to the tier that fits, for as long as that takes.
    pub(super) async fn park_message(
        &self,
        message: &Message,
        journey: &Journey,
        after: Duration,
        settlement: &Settlement,
    ) -> Waited {
        let mut patience = Patience::new();
        let tier = tier_for(self.broker.tiers(), after);
        loop {
            let Err(error) = self.broker.publisher().park(tier, message, journey).await else {
                return Waited::Elsewhere;
            };
            if let Some(end) = self.before_another_try(&error, &mut patience, settlement).await {
                return end;
            }
        }
    }

    /// A copy that no queue took will be published again in a moment, unless that has become pointless.
    pub(super) async fn before_another_try(
        &self,
        error: &PublishError,
        patience: &mut Patience,
        settlement: &Settlement,
    ) -> Option<Waited> {
        warn!(%error, "no queue took the copy of a job; publishing it again");
        if settlement.is_void() {
            return Some(Waited::Void);
        }
        tokio::select! {
            () = sleep(patience.next()) => None,
            () = self.life.closing().cancelled() => Some(Waited::NoMore),
        }
    }

    /// Counts a job as waiting for as long as the value lives.
    pub(super) fn waiting(&self, why: &'static str) -> Waiting {
        let gauge = self.metrics.jobs_waiting.with_label_values(&[why]);
        gauge.inc();
        Waiting(gauge)
    }
}

/// A job that waits.
pub(super) struct Waiting(IntGauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The longest tier that is not longer than the wait: a copy that comes back early waits the rest. The shortest, if all are longer.
fn tier_for(tiers: &[Tier], after: Duration) -> usize {
    tiers.iter().rposition(|tier| tier.ttl <= after).unwrap_or(0)
}

/// The jobs in hand, by the moment that their age counts from.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<Mutex<BTreeMap<UnixMillis, usize>>>);

impl Held {
    /// Counts a job for as long as the value lives.
    #[must_use]
    pub fn enter(&self, began: UnixMillis) -> InHand {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(began).or_default() += 1;
        InHand { held: self.clone(), began }
    }

    /// Age of the oldest.
    #[must_use]
    pub fn oldest(&self) -> Option<Duration> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.first_key_value().map(|(first, _)| now().since(*first))
    }
}

/// A job in hand.
#[derive(Debug)]
pub struct InHand {
    held: Held,
    began: UnixMillis,
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut held = self.held.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.began) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.began);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tier_that_fits() {
        let tiers: Vec<_> =
            [5, 30, 120].map(|s| Tier { name: format!("{s}s"), ttl: Duration::from_secs(s) }).into();
        for (after, tier) in [(1, 0), (5, 0), (29, 0), (30, 1), (119, 1), (500, 2)] {
            assert_eq!(tier_for(&tiers, Duration::from_secs(after)), tier, "{after}");
        }
    }

    #[test]
    fn the_oldest_job_in_hand() {
        let held = Held::default();
        let first = held.enter(UnixMillis(5));
        let second = held.enter(UnixMillis(5));
        let later = held.enter(now());
        drop(first);
        assert!(held.oldest().expect("one is held") > Duration::from_secs(1_000));
        drop(second);
        assert!(held.oldest().expect("one is held") < Duration::from_secs(10));
        drop(later);
        assert_eq!(held.oldest(), None);
    }
}
