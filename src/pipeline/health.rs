//! Whether a neighbour works for others: the pure half of "whose trouble".
//!
//! What a job meets alone is the job's. What several jobs meet without a success between them is the neighbour's: then nobody's
//! attempts are spent, and jobs try one at a time, with growing pauses, until one gets through.

use std::{collections::HashSet, time::Duration};

use crate::domain::{JobId, retry::Backoff};

/// Jobs that must agree before a neighbour is away.
const SEVERAL: usize = 3;

/// What one neighbour has answered lately. `N` is a monotonic moment.
#[derive(Clone, Debug)]
pub struct Health<N> {
    /// The last good answers of two different jobs, the later first.
    good: [Option<(N, JobId)>; 2],
    /// Jobs that met trouble since the last good answer; at most [`SEVERAL`].
    failing: HashSet<JobId>,
    /// While away: trials so far, and when the next one may go.
    trials: u32,
    next_trial: Option<N>,
}

impl<N> Default for Health<N> {
    fn default() -> Self {
        Self { good: [None, None], failing: HashSet::new(), trials: 0, next_trial: None }
    }
}

/// What a job that needs the neighbour is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Go on.
    Go,
    /// The neighbour is away: ask again then.
    Wait(Duration),
}

impl<N> Health<N>
where
    N: Copy + PartialOrd + std::ops::Sub<N, Output = Duration> + std::ops::Add<Duration, Output = N>,
{
    /// A job got a good answer.
    pub fn good(&mut self, job: &JobId, now: N) {
        self.answered(job, now);
        self.failing.clear();
        self.trials = 0;
        self.next_trial = None;
    }

    /// Somebody got a good answer that proves nothing for jobs: a probe asks for less than they do, so what they have met
    /// still counts.
    pub fn answered(&mut self, who: &JobId, now: N) {
        if self.good[0].as_ref().is_some_and(|(_, last)| last != who) {
            self.good[1] = self.good[0].take();
        }
        self.good[0] = Some((now, who.clone()));
    }

    /// A job met passing trouble. Tells whether the neighbour has just gone away.
    pub fn bad(&mut self, job: &JobId, now: N, backoff: &Backoff, dice: f64) -> bool {
        let before = self.is_away();
        if self.failing.len() < SEVERAL {
            self.failing.insert(job.clone());
        }
        let news = self.is_away() && !before;
        if news {
            // Only trials lengthen the pause: jobs that were under way already must not.
            self.next_trial = Some(now + backoff.delay(0, dice, None));
        }
        news
    }

    /// Whether the neighbour is away for everybody.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.failing.len() >= SEVERAL
    }

    /// Whether another job got a good answer at or after `since`. Never while the neighbour is away: what a probe was told
    /// before several jobs agreed is overtaken.
    #[must_use]
    pub fn works_for_others(&self, job: &JobId, since: N) -> bool {
        !self.is_away() && self.good.iter().flatten().any(|(at, other)| other != job && *at >= since)
    }

    /// Asks to go on. While the neighbour is away one job at a time may try; each trial is taken by who asks first.
    pub fn pass(&mut self, now: N, backoff: &Backoff, dice: f64) -> Pass {
        if !self.is_away() {
            return Pass::Go;
        }
        match self.next_trial {
            Some(at) if at > now => Pass::Wait(at - now),
            Some(_) | None => {
                // Until this trial is heard of; a trial that never tells does not close the door for ever.
                self.trials = self.trials.saturating_add(1);
                self.next_trial = Some(now + backoff.delay(self.trials, dice, None));
                Pass::Go
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A moment that can be written down.
    #[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
    struct At(u64);

    impl std::ops::Sub for At {
        type Output = Duration;
        fn sub(self, earlier: Self) -> Duration {
            Duration::from_secs(self.0.saturating_sub(earlier.0))
        }
    }

    impl std::ops::Add<Duration> for At {
        type Output = Self;
        fn add(self, later: Duration) -> Self {
            Self(self.0 + later.as_secs())
        }
    }

    fn job(id: &str) -> JobId {
        JobId::parse(id).expect("id")
    }

    fn backoff() -> Backoff {
        Backoff::try_new(Duration::from_secs(10), Duration::from_secs(40)).expect("valid")
    }

    #[test]
    fn several_jobs_without_a_success_between_them_make_it_away() {
        let mut health = Health::default();
        assert!(!health.bad(&job("a"), At(1), &backoff(), 1.0));
        assert!(!health.bad(&job("a"), At(2), &backoff(), 1.0), "the same job again is still one");
        health.good(&job("x"), At(3));
        for (id, away) in [("a", false), ("b", false), ("c", true), ("d", false)] {
            assert_eq!(health.bad(&job(id), At(4), &backoff(), 1.0), away, "{id}");
        }
        assert!(health.is_away());
        health.good(&job("d"), At(5));
        assert!(!health.is_away());
    }

    #[test]
    fn a_probes_answer_does_not_wipe_out_what_jobs_have_met() {
        let mut health = Health::default();
        for (n, id) in ["a", "b", "c"].into_iter().enumerate() {
            let now = At(2 * n as u64);
            health.bad(&job(id), now, &backoff(), 1.0);
            health.answered(&job("probe"), now + Duration::from_secs(1));
        }
        assert!(health.is_away() && !health.works_for_others(&job("c"), At(0)));
        health.good(&job("d"), At(9));
        assert!(health.works_for_others(&job("c"), At(9)));
    }

    #[test]
    fn while_away_one_at_a_time_tries_with_growing_pauses() {
        let mut health = Health::default();
        for id in ["a", "b", "c"] {
            health.bad(&job(id), At(0), &backoff(), 1.0);
        }
        assert_eq!(health.pass(At(0), &backoff(), 1.0), Pass::Wait(Duration::from_secs(10)));
        assert_eq!(health.pass(At(10), &backoff(), 1.0), Pass::Go);
        assert!(matches!(health.pass(At(10), &backoff(), 1.0), Pass::Wait(_)), "one at a time");
        for id in ["d", "e", "f"] {
            health.bad(&job(id), At(11), &backoff(), 1.0);
        }
        assert_eq!(
            health.pass(At(11), &backoff(), 1.0),
            Pass::Wait(Duration::from_secs(19)),
            "only trials lengthen it"
        );
        assert_eq!(health.pass(At(30), &backoff(), 1.0), Pass::Go);
    }

    #[test]
    fn only_another_jobs_answer_counts() {
        let mut health = Health::default();
        health.good(&job("a"), At(5));
        assert!(!health.works_for_others(&job("a"), At(0)));
        assert!(health.works_for_others(&job("b"), At(5)));
        assert!(!health.works_for_others(&job("b"), At(6)));
        health.good(&job("b"), At(7));
        health.good(&job("b"), At(8));
        assert!(health.works_for_others(&job("a"), At(6)) && health.works_for_others(&job("b"), At(5)));
    }
}
