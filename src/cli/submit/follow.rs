//! The following half: publishes, hears, shows, until every job has ended or a signal stops it.

use std::{pin::pin, sync::atomic::Ordering};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    Run, held,
    progress::{EVERY, Progress},
    results::Results,
    tally::Told,
};
use crate::{
    broker::{BrokerError, Replies, Reply},
    cli::operator::{Signals, Trouble},
};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// Everything that was to be done is done.
    ToTheEnd,
    /// A signal stopped it; what was on its way to the broker has arrived.
    Stopped,
    /// A second signal.
    Aborted,
}

impl Run {
    pub(super) async fn with_signals(
        &self,
        results: Option<Results>,
        progress: &Progress,
    ) -> Result<Followed, Trouble> {
        let mut first = Signals::listen()?;
        let stop = self.stop.clone();
        let aborted = async move {
            first.next().await;
            stop.cancel();
            first.next().await;
        };
        tokio::select! {
            followed = self.follow(results, progress) => followed,
            () = aborted => Ok(Followed::Aborted),
        }
    }

    async fn follow(&self, mut results: Option<Results>, progress: &Progress) -> Result<Followed, Trouble> {
        // Before the first job is published: what an earlier run's jobs told meanwhile need not be asked again.
        let mut replies = self.replies().await?;
        let published = CancellationToken::new();
        let publishing = async {
            self.publish().await?;
            published.cancel();
            Ok(())
        };
        let hearing = self.hear(&mut replies, results.as_mut(), progress, &published);
        {
            // Side by side, so that whatever the one waits for, the other goes on.
            let mut both = pin!(async { tokio::try_join!(publishing, hearing) });
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    done = &mut both => { done?; break; }
                    _ = ticks.tick() => self.show(progress),
                }
            }
        }
        self.leave(replies, results.is_some()).await;
        if let Some(results) = results {
            results.finish().await?;
        }
        self.show(progress);
        Ok(if self.stop.is_cancelled() && !self.is_complete() {
            Followed::Stopped
        } else {
            Followed::ToTheEnd
        })
    }

    /// Hears until everything is published and everything has ended, or the run is stopped.
    async fn hear(
        &self,
        replies: &mut Option<Replies>,
        mut results: Option<&mut Results>,
        progress: &Progress,
        published: &CancellationToken,
    ) -> Result<(), Trouble> {
        while !(published.is_cancelled() && (self.stop.is_cancelled() || self.is_complete())) {
            tokio::select! {
                biased;
                heard = next(replies.as_mut()) => match heard {
                    Ok(heard) => {
                        self.take(heard, results.as_deref_mut()).await?;
                        self.ack(replies).await?;
                    }
                    Err(error) => {
                        progress.say(&format!("{error}; connecting again"));
                        *replies = self.replies().await?;
                    }
                },
                () = published.cancelled(), if !published.is_cancelled() => {}
                () = self.stop.cancelled(), if published.is_cancelled() => {}
            }
        }
        Ok(())
    }

    /// Whether every job that there is has ended; without `--wait`: is published.
    fn is_complete(&self) -> bool {
        let Some(jobs) = *held(&self.jobs) else { return false };
        let tally = held(&self.tally);
        match self.queue {
            Some(_) => tally.ended() >= jobs,
            None => tally.published + tally.skipped >= jobs,
        }
    }

    /// Counts and keeps the events that are ours and new. Others are nobody's: of an earlier input, or repeats.
    async fn take(&self, replies: Vec<Reply>, mut results: Option<&mut Results>) -> Result<(), Trouble> {
        for reply in replies {
            let line = reply.correlation_id.as_deref().and_then(|id| self.line(id));
            let (Some(line), Some(told)) = (line, Told::read(&reply.body)) else { continue };
            // A run that was killed has written it and not acked it: the publisher counts it at its line.
            if self.finished.end(&told.job_id).is_some() || !held(&self.bits).set(line) {
                continue;
            }
            if let Some(results) = results.as_mut() {
                results.append(&reply.body).await?;
            }
            let mut tally = held(&self.tally);
            tally.count(told.end());
            tally.bytes += told.bytes.unwrap_or(0);
        }
        match results {
            Some(results) => Ok(results.flush().await?),
            None => Ok(()),
        }
    }

    /// The line of a correlation id of ours. The queue can be written by others, so a line that cannot be is nobody's.
    fn line(&self, correlation_id: &str) -> Option<u64> {
        let line = correlation_id.strip_prefix(&self.id)?.strip_prefix('/')?.parse().ok()?;
        (1..=self.last.load(Ordering::Relaxed)).contains(&line).then_some(line)
    }

    async fn ack(&self, replies: &mut Option<Replies>) -> Result<(), Trouble> {
        if let Some(heard) = replies
            && heard.ack().await.is_err()
        {
            // They come again on the next connection, and are known as repeats.
            *replies = self.replies().await?;
        }
        Ok(())
    }

    /// A queue to which more is to come is left for the run that goes on; without a results file there is none, and what is
    /// still to come goes where events go by default.
    async fn leave(&self, replies: Option<Replies>, goes_on: bool) {
        let Some(replies) = replies else { return };
        if goes_on && !self.is_complete() {
            replies.leave().await;
        } else if replies.remove().await.is_err() {
            tracing::debug!("the reply queue could not be removed; the broker does so when nobody uses it");
        }
    }

    fn show(&self, progress: &Progress) {
        let (tally, jobs) = (held(&self.tally).clone(), *held(&self.jobs));
        let done = if self.queue.is_some() { tally.ended() } else { tally.published + tally.skipped };
        progress.show(&tally, tally.published, done, jobs, self.began.elapsed());
    }
}

async fn next(replies: Option<&mut Replies>) -> Result<Vec<Reply>, BrokerError> {
    match replies {
        Some(replies) => replies.next().await,
        None => std::future::pending().await,
    }
}
