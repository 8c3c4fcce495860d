//! The life of one job: enter the lane, restore, judge, report, settle.
//!
//! Promises: every delivery ends in exactly one verdict; what may have happened is recorded before it happens, and what has
//! ended is recorded before it is told; the delivery is settled last. One job's trouble stays its own. Only this room decides:
//! adapters neither retry nor wait.

mod attempt;
mod claims;
mod course;
mod doubt;
pub mod health;
mod intake;
pub mod judge;
pub mod lanes;
pub mod neighbours;
mod report;
mod wait;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::Instrument as _;

use self::{
    course::Course,
    judge::{End, Policy, Situation, Success, Verdict, judge},
    lanes::Lanes,
    neighbours::{Neighbours, Paused},
    wait::{Held, Wait, Waited},
};
use crate::{
    blob_store::BlobStore,
    broker::{Broker, Envelope, Message, Settlement, Source},
    contract::{Malformed, Worker},
    domain::{
        Dependency, Fault, Imported, Journey, Outcome, Reason, RestoreError, event::Failure, tenancy::Tenants,
    },
    exchange::Exchange,
    ledger::Ledger,
    lifecycle::Lifecycle,
    metrics::Metrics,
    telemetry::trace,
};

/// How doubt is dealt with.
#[derive(Clone, Copy, Debug)]
pub struct InDoubt {
    /// Whether to look into mailboxes.
    pub look: bool,
    /// Before this time after the claim's end "not there" proves nothing.
    pub settle: Duration,
    /// Between our clock, Exchange's and the store's.
    pub clock_margin: Duration,
    /// How long an answer may be on its way.
    pub request_timeout: Duration,
}

/// Everything that a job needs. Shared by all jobs as one `Arc`.
#[derive(Debug)]
pub struct Pipeline {
    /// Where jobs come from and events go.
    pub broker: Broker,
    /// Where blobs lie.
    pub blobs: BlobStore,
    /// Where items go.
    pub exchange: Exchange,
    /// What is written down; `None`: delivery is at least once.
    pub ledger: Option<Ledger>,
    /// Who may work on a mailbox now.
    pub lanes: Lanes,
    /// Who is away.
    pub neighbours: Neighbours,
    /// Limits of patience.
    pub policy: Policy,
    /// A job waits in memory up to this.
    pub hold: Duration,
    /// Beginnings that never ended.
    pub crash_limit: u32,
    /// How doubt is dealt with.
    pub in_doubt: InDoubt,
    /// Whose jobs are done.
    pub tenants: Tenants,
    /// Who tells.
    pub worker: Worker,
    /// How identifiers appear in the log.
    pub log: report::Identifiers,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Signals and tasks.
    pub life: Lifecycle,
    /// The pause of everything.
    pub everything: watch::Receiver<Option<Paused>>,
    /// One suspect at a time.
    pub suspects: Arc<Semaphore>,
    /// Jobs in hand.
    pub held: Held,
    /// Whether events find no queue: shown by readiness.
    pub unroutable: std::sync::atomic::AtomicBool,
}

pub use course::MAX_UNACKED;
pub use report::Identifiers;
pub use wait::Held as HeldJobs;

impl Pipeline {
    /// The counters of what happens to jobs, before anything has happened.
    pub fn at_zero(metrics: &Metrics) {
        Self::ends_at_zero(metrics);
        Metrics::at_zero(
            &metrics.in_doubt,
            ["found", "not_imported", "unknown"].map(|resolution| [resolution]),
        );
        Metrics::at_zero(&metrics.intake, ["sharded", "rejected"].map(|outcome| [outcome]));
    }

    /// Takes deliveries until there are no more; each runs as a task of its own.
    pub async fn consume(self: Arc<Self>, mut deliveries: mpsc::Receiver<Envelope>) {
        while let Some(envelope) = deliveries.recv().await {
            let Envelope { source, job, message, journey, received, settlement } = envelope;
            let pipeline = Arc::clone(&self);
            drop(match job {
                Ok(job) => {
                    let course = Course::new(job, message, source, journey, received);
                    self.life.spawn(pipeline.run_job(Box::new(course), settlement))
                }
                Err(malformed) => {
                    self.rejected(source);
                    self.life.spawn(pipeline.end_message(malformed, message, journey, settlement))
                }
            });
        }
    }

    /// One job's delivery from beginning to end. What most jobs do not come to is boxed here and below: a job that waits holds no
    /// room for it.
    async fn run_job(self: Arc<Self>, course: Box<Course>, settlement: Settlement) {
        let _in_hand = self.held.enter(course.journey.began());
        if let Some(shard) = self.broker.destination(course.source, &course.job.mailbox) {
            let handed_on =
                Box::pin(self.hand_on(shard, &course.message, &course.journey, &settlement)).await;
            if handed_on != Waited::Here {
                return settle(handed_on.into(), settlement).await;
            }
        }
        let span = self.span(&course);
        Box::pin(self.run_course(course, settlement)).instrument(span).await;
    }

    fn span(&self, course: &Course) -> tracing::Span {
        let (traceparent, tracestate) = (course.message.traceparent(), course.message.tracestate());
        let names = self.broker.names();
        let queue = match course.source {
            Source::Jobs => names.jobs().to_owned(),
            Source::Shard(shard) => names.shard(shard),
            Source::GivenUp => names.given_up(),
        };
        trace::job(&trace::Delivery {
            queue: &queue,
            job_id: course.job.id.as_str(),
            replay: course.journey.replay,
            attempt: course.journey.attempt,
            traceparent: traceparent.as_deref(),
            tracestate: tracestate.as_deref(),
        })
    }

    async fn run_course(&self, mut course: Box<Course>, settlement: Settlement) {
        let mut verdict = self.not_before(&course);
        loop {
            match self.follow(&mut course, verdict, &settlement).await {
                Next::Judge(end) => verdict = Some(self.judge(&course, *end)),
                Next::Attempt => {
                    // Only while it lasts: a job that waits should not hold the room of an attempt.
                    let end = Box::pin(self.guarded_attempt(&mut course)).await;
                    verdict = Some(self.judge_attempt(&mut course, end).await);
                }
                last @ (Next::Ack | Next::GiveBack | Next::Void) => return settle(last, settlement).await,
            }
        }
    }

    /// Does what the verdict says; the delivery is settled by the caller, last.
    async fn follow(&self, course: &mut Course, verdict: Option<Verdict>, settlement: &Settlement) -> Next {
        match verdict {
            None => Next::Attempt,
            // Each end is boxed: a job that waits does not hold the room of what may follow.
            Some(Verdict::Done(success)) => Box::pin(self.done(course, success, settlement)).await,
            Some(Verdict::Bury(failure)) => Box::pin(self.bury(course, failure, settlement)).await,
            Some(Verdict::Unknown { failure, seen, claim }) => {
                Box::pin(self.unknown(course, failure, seen, claim, settlement)).await
            }
            Some(Verdict::Retry { after }) => {
                course.journey.attempt = course.journey.attempt.saturating_add(1);
                let wait = Wait { after, why: "retry", counts: false, may_hold: true };
                Box::pin(self.wait(course, &wait, settlement)).await.into()
            }
            Some(Verdict::Park { after, why, counts, may_hold }) => {
                Box::pin(self.wait(course, &Wait { after, why, counts, may_hold }, settlement)).await.into()
            }
            Some(Verdict::Return) => Next::GiveBack,
        }
    }

    /// Item index → record completed → event → ack. Whatever the ledger answers, what is in hand is a success.
    async fn done(&self, course: &mut Course, success: Success, settlement: &Settlement) -> Next {
        match self.complete(course, &success).await {
            Ok(Ok(success)) => self.tell(course, succeeded(success), settlement).await,
            Ok(Err(end)) => Next::Judge(Box::new(end)),
            Err(error) => self.done_without_the_ledger(course, success, error, settlement).await,
        }
    }

    /// Event and ack wait for the ledger, in a copy if that takes too long. Told before it is recorded, the end could not be kept:
    /// if this worker died, the job that comes back could only guess, and until its item is taken a copy's job may take it.
    async fn done_without_the_ledger(
        &self,
        course: &mut Course,
        success: Success,
        error: RestoreError,
        settlement: &Settlement,
    ) -> Next {
        // At every try the same: said once.
        if course.journey.imported.replace(success.imported).is_none() {
            tracing::warn!(job_id = %course.job.id, %error, "imported, but the ledger does not take it; it will be told when it does");
        }
        let after = self.hold.min(Duration::from_secs(5));
        let wait = Wait { after, why: "claim", counts: false, may_hold: true };
        match self.wait(course, &wait, settlement).await {
            // The delivery is gone, the answer is not: without it the job that comes back could only guess.
            Waited::Void => tokio::select! {
                () = tokio::time::sleep(after) => Next::Attempt,
                () = self.life.closing().cancelled() => Next::Void,
            },
            waited @ (Waited::Here | Waited::Elsewhere | Waited::NoMore) => waited.into(),
        }
    }

    /// Record failed → event → dead letter → ack; unless the record knows better.
    async fn bury(&self, course: &mut Course, failure: Failure, settlement: &Settlement) -> Next {
        if let Err(end) = self.fail(course, &failure).await {
            return Next::Judge(Box::new(end));
        }
        let reason = failure.reason;
        let detail = failure.message.clone();
        let told = self.tell(course, Outcome::Failed(failure), settlement).await;
        if !matches!(told, Next::Ack) {
            return told;
        }
        self.dead_letter(course, reason, &detail, None, settlement).await
    }

    /// Record unknown → event → dead letter → ack.
    async fn unknown(
        &self,
        course: &mut Course,
        failure: Failure,
        seen: Option<Imported>,
        claim: Option<String>,
        settlement: &Settlement,
    ) -> Next {
        let claim = match claim {
            Some(claim) => Some(claim),
            None => match self.record_unknown(course, &failure).await {
                Ok(claim) => claim,
                Err(end) => return Next::Judge(Box::new(end)),
            },
        };
        let detail = failure.message.clone();
        let told = self.tell(course, Outcome::Unknown { failure, seen }, settlement).await;
        if !matches!(told, Next::Ack) {
            return told;
        }
        let claim = claim.or_else(|| course.journey.claim.clone());
        self.dead_letter(course, Reason::OutcomeUnknown, &detail, claim.as_deref(), settlement).await
    }

    /// A message that is no job: event if its id could be read → dead letter → ack. It neither obeys nor writes a record.
    async fn end_message(
        self: Arc<Self>,
        malformed: Malformed,
        message: Message,
        journey: Journey,
        settlement: Settlement,
    ) {
        let _in_hand = self.held.enter(journey.began());
        settle(self.tell_message(&malformed, &message, &journey, &settlement).await, settlement).await;
    }

    /// A panic is a fault of this program, never the end of a delivery: what was claimed is in doubt.
    async fn guarded_attempt(&self, course: &mut Course) -> End {
        if let Ok(end) = AssertUnwindSafe(self.attempt(course)).catch_unwind().await {
            return end;
        }
        tracing::error!(job_id = %course.job.id, "a fault of this program: the attempt panicked");
        let error = RestoreError::new(
            Fault::InDoubt,
            Reason::Internal,
            "the attempt ended by a fault of this program",
        );
        if course.claim.is_some() {
            Box::pin(self.in_doubt(course, error)).await
        } else {
            End::NotImported(error)
        }
    }

    /// Judges what an attempt came to, and gives up its claim where it certainly made no item.
    async fn judge_attempt(&self, course: &mut Course, end: End) -> Verdict {
        if let Some(dependency) = neighbour_met(&end) {
            Box::pin(self.ask_for_a_lone_job(course, dependency)).await;
        }
        let verdict = self.judge(course, end);
        course.previous_attempt = tokio::time::Instant::now();
        if matches!(verdict, Verdict::Retry { .. } | Verdict::Park { .. } | Verdict::Return) {
            Box::pin(self.let_go(course)).await;
        }
        verdict
    }

    fn judge(&self, course: &Course, end: End) -> Verdict {
        if let End::Trouble(error) | End::NotImported(error) = &end {
            self.log_trouble(course, error);
        }
        let situation = self.situation(course, &end);
        judge(end, &situation, &self.policy)
    }

    fn situation(&self, course: &Course, end: &End) -> Situation {
        let works_for_others = if let End::Trouble(error) | End::NotImported(error) = end {
            self.works_for_others(course, error)
        } else {
            false
        };
        Situation {
            attempt: course.journey.attempt,
            parked: course.journey.parked,
            works_for_others,
            mailbox_succeeds: self.neighbours.mailbox_succeeds(&course.job.mailbox, course.received),
            dice: fastrand::f64(),
        }
    }

    /// Whether what this job met has been fine for another since its previous attempt.
    fn works_for_others(&self, course: &Course, error: &RestoreError) -> bool {
        let well = |dependency| {
            self.neighbours.works_for_others(dependency, &course.job.id, course.previous_attempt)
        };
        match error.fault {
            Fault::Passing { dependency, .. } => well(dependency),
            // Nobody else's trouble: a fault of this program.
            Fault::InDoubt if error.reason == Reason::Internal => true,
            Fault::InDoubt => well(Dependency::Exchange),
            Fault::Job | Fault::Throttled { .. } | Fault::Ours { .. } => false,
        }
    }

    /// A job that is alone with its trouble: a probe's answer counts as another's. Where several jobs have met the same, only a
    /// job's success counts.
    async fn ask_for_a_lone_job(&self, course: &Course, dependency: Dependency) {
        let neighbours = &self.neighbours;
        if neighbours.is_away(dependency)
            || neighbours.works_for_others(dependency, &course.job.id, course.previous_attempt)
        {
            return;
        }
        let well = match dependency {
            Dependency::Storage => self.blobs.probe().await.is_ok(),
            Dependency::Exchange => self.exchange.probe(Some(&course.job.tenant)).await.is_ok(),
            Dependency::Identity => self.exchange.probe_login(&course.job.tenant).await.is_ok(),
            Dependency::Ledger => return,
        };
        if well {
            neighbours.probe_answered(dependency);
        }
    }

    /// A copy that came back from its wait tier early waits the rest.
    fn not_before(&self, course: &Course) -> Option<Verdict> {
        let left = course.journey.not_before?.since(course::now());
        // A tier's time to live and this header are the same time; a forged one is bounded by the longest delay.
        let longest = self.broker.tiers().last().map_or(self.hold, |tier| tier.ttl);
        (left > Duration::from_millis(50)).then(|| Verdict::Park {
            after: left.min(longest),
            why: "retry",
            counts: false,
            may_hold: true,
        })
    }
}

/// The last thing that happens to a delivery.
async fn settle(next: Next, settlement: Settlement) {
    match next {
        Next::Ack => {
            settlement.ack().await;
        }
        Next::GiveBack | Next::Judge(_) | Next::Attempt => {
            settlement.give_back().await;
        }
        // The channel is gone: the broker delivers the job again, and the ledger tells its end.
        Next::Void => {}
    }
}

/// The neighbour whose passing trouble ended an attempt; a doubt that turned out as no import was Exchange's.
fn neighbour_met(end: &End) -> Option<Dependency> {
    if let End::Trouble(RestoreError { fault: Fault::Passing { dependency, .. }, .. }) = end {
        return Some(*dependency);
    }
    matches!(end, End::NotImported(error) if error.reason != Reason::Internal).then_some(Dependency::Exchange)
}

/// What follows for the delivery.
enum Next {
    /// Another attempt.
    Attempt,
    /// The record, or the broker, said something that has to be judged first.
    Judge(Box<End>),
    /// Everything is recorded and told.
    Ack,
    /// Back to the queue.
    GiveBack,
    /// The channel is gone.
    Void,
}

impl From<Waited> for Next {
    fn from(waited: Waited) -> Self {
        match waited {
            Waited::Here => Self::Attempt,
            Waited::Elsewhere => Self::Ack,
            Waited::NoMore => Self::GiveBack,
            Waited::Void => Self::Void,
        }
    }
}

fn succeeded(success: Success) -> Outcome {
    let Success { imported, evidence, duplicates } = success;
    Outcome::Succeeded { imported, evidence, duplicates }
}
