//! The intake: a job of the common queue goes on to its mailbox's shard, and a stray to its own.
//!
//! Nothing is decided here about the job itself: its copy carries everything that is known of it, and the original is settled
//! when the copy is confirmed. Should the worker die between the two, both copies run, and the ledger makes that once.

use tracing::warn;

use super::{Pipeline, report::Patience, wait::Waited};
use crate::{
    broker::{Message, PublishError, Settlement, Source},
    domain::{Journey, Shard},
};

impl Pipeline {
    /// Passes a copy on; [`Waited::Here`]: nobody takes it, so it has to be done here, owner or not.
    pub(super) async fn hand_on(
        &self,
        shard: Shard,
        message: &Message,
        journey: &Journey,
        settlement: &Settlement,
    ) -> Waited {
        let mut patience = Patience::new();
        loop {
            let error = match self.broker.publisher().hand_on(shard, message, journey).await {
                Ok(()) => {
                    self.metrics.intake.with_label_values(&["sharded"]).inc();
                    return Waited::Elsewhere;
                }
                Err(error) => error,
            };
            if matches!(error, PublishError::Unroutable(_)) {
                warn!(%shard, %error, "the shard's queue is gone; the job is done here");
                return Waited::Here;
            }
            if let Some(end) = self.before_another_try(&error, &mut patience, settlement).await {
                return end;
            }
        }
    }

    /// Counts a message that is no job, where a job would have gone on.
    pub(super) fn rejected(&self, source: Source) {
        if source == Source::Jobs && self.broker.is_sharded() {
            self.metrics.intake.with_label_values(&["rejected"]).inc();
        }
    }
}
