//! Names of the contract: message types, headers, queues.

use crate::domain::{Shard, ShardCount};

/// AMQP `type` (and CloudEvents `type`) of a job.
pub const JOB_TYPE: &str = "restore.job.v1";
/// AMQP `type` (and CloudEvents `type`) of a result event.
pub const RESULT_TYPE: &str = "restore.result.v1";
/// AMQP `app-id` of everything that the worker publishes.
pub const APP_ID: &str = "restore-worker";

/// Largest job message, in bytes.
pub const MAX_JOB: usize = 256 * 1024;

/// Headers of our own. The broker owns `x-`; forged ones can harm only their own job.
pub mod header {
    /// Attempts spent.
    pub const ATTEMPT: &str = "restore-attempt";
    /// Milliseconds spent parked for a throttled mailbox without any success, or for a paused tenant.
    pub const PARKED: &str = "restore-parked";
    /// Not before this moment (unix ms).
    pub const NOT_BEFORE: &str = "restore-not-before";
    /// When the job's turn in its mailbox's lane comes (unix ms), so that a sleep in a wait tier does not cost its place.
    pub const TURN: &str = "restore-turn";
    /// When a worker first received the job (unix ms).
    pub const FIRST_RECEIVED: &str = "restore-first-received";
    /// When an operator sent the job back (unix ms): its age counts from then on.
    pub const REPLAYED_AT: &str = "restore-replayed-at";
    /// Round of replay.
    pub const REPLAY: &str = "restore-replay";
    /// Reason code of a dead letter.
    pub const REASON: &str = "restore-reason";
    /// What a person should read beside the reason.
    pub const DETAIL: &str = "restore-detail";
    /// The job's own `reply-to`, where it could not be used.
    pub const UNROUTABLE_REPLY_TO: &str = "restore-unroutable-reply-to";
    /// AMQP `user-id` of the emitter, on copies (which carry none).
    pub const SUBMITTED_BY: &str = "restore-submitted-by";
    /// The claim id of an unknown record, against which one new import is allowed.
    pub const FORCE: &str = "restore-force";
    /// `itemId,changeKey` of an import that only its record misses.
    pub const IMPORTED: &str = "restore-imported";
    /// The claim id of the unknown record behind a dead letter.
    pub const CLAIM: &str = "restore-claim";

    /// Prefixes of CloudEvents attributes: written and read, and read only.
    pub const CLOUD_EVENTS: [&str; 2] = ["cloudEvents_", "cloudEvents:"];
    /// W3C trace context.
    pub const TRACE: [&str; 2] = ["traceparent", "tracestate"];
}

/// Queue names, derived from `broker.prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    prefix: String,
    jobs: String,
    dead_letters: String,
}

impl Names {
    /// Names for a prefix; `jobs` and `dead_letters` may be named otherwise.
    #[must_use]
    pub fn new(prefix: &str, jobs: Option<String>, dead_letters: Option<String>) -> Self {
        Self {
            prefix: prefix.into(),
            jobs: jobs.unwrap_or_else(|| format!("{prefix}.jobs")),
            dead_letters: dead_letters.unwrap_or_else(|| format!("{prefix}.dead-letters")),
        }
    }

    /// The direct exchange that everything goes through.
    #[must_use]
    pub fn exchange(&self) -> &str {
        &self.prefix
    }

    /// Work.
    #[must_use]
    pub fn jobs(&self) -> &str {
        &self.jobs
    }

    /// Where a job waits for the time that `tier` names, for example `30s`.
    #[must_use]
    pub fn wait(&self, tier: &str) -> String {
        format!("{}.wait.{tier}", self.jobs)
    }

    /// What the broker itself gave up.
    #[must_use]
    pub fn given_up(&self) -> String {
        format!("{}.given-up", self.prefix)
    }

    /// Result events.
    #[must_use]
    pub fn results(&self) -> String {
        format!("{}.results", self.prefix)
    }

    /// Jobs that ended as failed or unknown.
    #[must_use]
    pub fn dead_letters(&self) -> &str {
        &self.dead_letters
    }

    /// The direct exchange of a sharded layout; a shard's number is its routing key.
    #[must_use]
    pub fn shards_exchange(&self, count: ShardCount) -> String {
        format!("{}.shards.{}", self.prefix, count.get())
    }

    /// One shard's queue.
    #[must_use]
    pub fn shard(&self, shard: Shard) -> String {
        format!("{}.shards.{shard}", self.prefix)
    }

    /// A queue on which a worker tries how this broker chooses between consumers.
    #[must_use]
    pub fn probe(&self, id: &str) -> String {
        format!("{}.shards.probe.{id}", self.prefix)
    }

    /// A consuming channel's own queue, by which it proves that it still hears.
    #[must_use]
    pub fn echo(&self, id: &str) -> String {
        format!("{}.echo.{id}", self.prefix)
    }

    /// A reply queue of one run of `submit`.
    #[must_use]
    pub fn replies(&self, id: &str) -> String {
        format!("{}.replies.{id}", self.prefix)
    }

    /// Whether a queue is one of the fleet's own (a job must not have its events sent there).
    #[must_use]
    pub fn is_own(&self, queue: &str) -> bool {
        queue == self.jobs
            || queue == self.dead_letters
            || queue == self.given_up()
            || queue.starts_with(&format!("{}.wait.", self.jobs))
            || queue.starts_with(&format!("{}.shards.", self.prefix))
            || queue.starts_with(&format!("{}.echo.", self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn the_fleets_own_queues_are_known() {
        let names = Names::new("restore", None, None);
        for own in [
            "restore.jobs",
            "restore.jobs.wait.5s",
            "restore.dead-letters",
            "restore.given-up",
            "restore.shards.64.3",
            &names.echo("1"),
        ] {
            assert!(names.is_own(own), "{own}");
        }
        for other in ["restore.results", "amq.gen-1", "emitter.replies", "restore.jobs2"] {
            assert!(!names.is_own(other), "{other}");
        }
    }
}
