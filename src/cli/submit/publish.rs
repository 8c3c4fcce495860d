//! The publishing half: a bounded number of jobs on their way, each until the broker has confirmed it.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};

use super::{
    Run, held,
    input::{SHOWN, parse},
    lines::Line,
};
use crate::{
    app::StartError,
    broker::{Mode, PublishError, Submission, Wanted},
    cli::operator::{Trouble, told},
    domain::{JobId, Shard, retry::Backoff},
};

/// Delays between tries to publish one job.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often the broker may refuse one job. Longer than that no full queue is waited for.
const REFUSALS: u32 = 5;

impl Run {
    /// Publishes every line that has no result yet. Afterwards the number of jobs is known.
    pub(super) async fn publish(&self) -> Result<(), Trouble> {
        let window = self.settings.broker.publish_channels;
        let mut lines = self.input.lines().await?;
        let mut on_their_way = FuturesUnordered::new();
        let mut jobs = 0;
        loop {
            let line = tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                Some(published) = on_their_way.next() => { published?; continue; }
                line = lines.next(), if on_their_way.len() < window => line?,
            };
            let Some(line) = line else { break };
            self.last.fetch_max(line.number, Ordering::Relaxed);
            let Some((id, shard)) = self.accept(&line) else { continue };
            jobs += 1;
            if let (false, Ok(body)) = (self.has_result(&line, &id), line.text) {
                on_their_way.push(self.publish_one(line.number, id, shard, body));
            }
        }
        while let Some(published) = on_their_way.next().await {
            published?;
        }
        if !self.stop.is_cancelled() {
            *held(&self.jobs) = Some(jobs);
        }
        Ok(())
    }

    /// The job's id and, in a fleet that is sharded by name, its mailbox's shard. A line that is no job is told, and left out.
    fn accept(&self, line: &Line) -> Option<(JobId, Option<Shard>)> {
        let fleet = self.settings.broker.fleet;
        let sharded = fleet.mode == Wanted::Is(Mode::Sharded);
        match parse(&self.parser, line) {
            Ok(job) => Some((job.id, sharded.then(|| fleet.shards.shard_of(&job.mailbox)))),
            Err(why) => {
                let mut tally = held(&self.tally);
                tally.refused += 1;
                if tally.refused <= SHOWN as u64 {
                    told(&format!("{why}; the other lines go on"));
                }
                None
            }
        }
    }

    /// Whether an earlier run has the job's result, or this one has heard of it already.
    fn has_result(&self, line: &Line, id: &JobId) -> bool {
        if held(&self.bits).get(line.number) {
            return true;
        }
        let Some(end) = self.finished.end(id.as_str()) else { return false };
        if held(&self.bits).set(line.number) {
            let mut tally = held(&self.tally);
            tally.skipped += 1;
            tally.count(end);
        }
        true
    }

    async fn publish_one(
        &self,
        line: u64,
        id: JobId,
        shard: Option<Shard>,
        body: Vec<u8>,
    ) -> Result<(), StartError> {
        let correlation_id = self.queue.as_ref().map(|_| format!("{}/{line}", self.id));
        let mut job = Submission {
            body: &body,
            job_id: id.as_str(),
            correlation_id: correlation_id.as_deref(),
            reply_to: self.queue.as_deref(),
            user_id: self.user.as_deref(),
            shard,
        };
        let backoff = Backoff::try_new(AGAIN.0, AGAIN.1).expect("two constants in order");
        let deadline = Instant::now() + self.settings.startup_wait;
        let mut refusals = 0;
        for tries in 0.. {
            match self.broker.publisher().job(&job).await {
                Ok(()) => break,
                // No such layout (any more), or not for us: the intake knows the way.
                Err(PublishError::Unroutable(_) | PublishError::Refused) if job.shard.take().is_some() => {
                    continue;
                }
                Err(error @ PublishError::Unroutable(_)) => {
                    return Err(StartError::Configuration(format!(
                        "{error} (does a worker declare the queues?)"
                    )));
                }
                Err(PublishError::Refused) if refusals < REFUSALS => refusals += 1,
                Err(PublishError::Refused) => {
                    return Err(StartError::Refused(format!(
                        "the broker refuses jobs on exchange {}: it is missing, not for our user, or the queue is full",
                        self.broker.names().exchange()
                    )));
                }
                Err(PublishError::Unconfirmed(why)) if Instant::now() >= deadline => {
                    return Err(StartError::Unavailable(format!("jobs cannot be published: {why}")));
                }
                Err(PublishError::Unconfirmed(_)) => {}
            }
            sleep(backoff.delay(tries, fastrand::f64(), None)).await;
        }
        held(&self.tally).published += 1;
        Ok(())
    }
}
