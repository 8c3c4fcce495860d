//! One attempt: recall what is recorded, enter the lane, fetch, open a session, claim, send.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::{
    Pipeline,
    course::{Course, now},
    judge::{End, Success},
    lanes::{Entry, Heard, LanePass, Refused},
};
use crate::{
    blob_store::Blob,
    broker::Source,
    domain::{Dependency, Evidence, Fault, MailboxId, Reason, RestoreError},
    exchange::{Fence, ImportAnswer, ImportFailure, ImportItem, ImportSession, Remedy},
    telemetry::trace,
};

/// A job that cannot be begun within what its delivery may still be held comes back after this.
const COME_BACK: Duration = Duration::from_secs(5);

impl Pipeline {
    /// Does the work of one stage: below its span, and its time shown. Work that is dropped before its end shows none.
    pub(super) async fn timed<T>(&self, stage: &'static str, work: impl Future<Output = T>) -> (T, Duration) {
        let began = Instant::now();
        let done = work.instrument(trace::stage(stage)).await;
        let took = began.elapsed();
        self.metrics.stage(stage).observe(took.as_secs_f64());
        (done, took)
    }

    /// Tries to do the job, once.
    pub(super) async fn attempt(&self, course: &mut Course) -> End {
        // A suspect's attempt is counted before it begins, and one runs at a time.
        let suspect = match self.begin_if_suspect(course).await {
            Ok(permit) => permit,
            Err(end) => return end,
        };
        let end = self.try_attempt(course).await.unwrap_or_else(|end| end);
        drop(suspect);
        end
    }

    async fn try_attempt(&self, course: &mut Course) -> Result<End, End> {
        if let Some(imported) = course.journey.imported.clone() {
            let success = Success { imported, evidence: Evidence::Ledger, duplicates: Vec::new() };
            return Ok(End::Imported(success));
        }
        self.recall(course).await?;
        self.still_wanted(course)?;
        self.neighbours_are_well(course).await?;
        let mut pass = self.enter(course).await?;
        // Boxed: a job that waits for its turn does not hold the room of its work.
        let success = Box::pin(self.restore(course, &mut pass)).await;
        self.tell_lane(course, &success);
        success.map(End::Imported)
    }

    /// What ends a job before any work.
    fn still_wanted(&self, course: &Course) -> Result<(), End> {
        if course.source == Source::GivenUp {
            return Err(End::GivenUp { expired: course.message.expired() });
        }
        if course.job.not_after.is_some_and(|limit| now() > limit) {
            return Err(End::Expired);
        }
        self.tenants.check(&course.job).map_err(End::Trouble)
    }

    /// While a neighbour is away jobs wait here, and one at a time tries.
    async fn neighbours_are_well(&self, course: &Course) -> Result<(), End> {
        if self.life.draining().is_cancelled() || self.everything.borrow().is_some() {
            return Err(End::NotBegun);
        }
        if let Some(after) = self.neighbours.tenant_paused(&course.job.tenant) {
            let what = RestoreError::ours(
                crate::domain::OursScope::Tenant,
                Reason::TenantNotAuthorized,
                "the tenant is paused: it does not know this application or has withdrawn its consent",
            );
            let long = course.journey.parked >= self.policy.max_parked;
            return Err(if long { End::Trouble(what) } else { End::TenantPaused { after } });
        }
        let patience = course.patience().saturating_sub(self.exchange.send_timeout(course.likely_length()));
        let waiting = self.waiting("paused");
        let passed = tokio::select! {
            passed = self.neighbours.pass(patience) => passed,
            () = self.not_to_begin() => return Err(End::NotBegun),
        };
        drop(waiting);
        // Longer than a delivery may be held: back to the queue, no nearer to any limit.
        passed.map_err(|_| End::NotBegun)
    }

    async fn enter(&self, course: &mut Course) -> Result<LanePass, End> {
        let patience = course.patience().saturating_sub(self.exchange.send_timeout(course.likely_length()));
        let entering = self.lanes.enter(self.entry(course));
        let entered = tokio::select! {
            (entered, _) = self.timed("lane", tokio::time::timeout(patience, entering)) => entered,
            () = self.not_to_begin() => return Err(End::NotBegun),
        };
        match entered {
            Ok(Ok(pass)) => {
                course.journey.turn = None;
                Ok(pass)
            }
            Ok(Err(Refused::Park { after, why, turn })) => {
                course.journey.turn = Some(now().plus(turn));
                Err(End::NoRoom { after, why: why.as_str() })
            }
            Err(_) => Err(End::NoRoom { after: COME_BACK, why: "quota" }),
        }
    }

    /// The job as its lane sees it.
    pub(super) fn entry<'a>(&self, course: &'a Course) -> Entry<'a> {
        let bytes = course.item(course.likely_length()).request_bytes();
        Entry {
            priority: course.message.priority(),
            turn: course.journey.turn.map(|turn| turn.since(now())),
            queue: self.broker.queue_number(course.source),
            inherited: self.broker.had_company(course.source, self.lanes.longest_window()),
            ..Entry::new(&course.job.tenant, &course.job.mailbox, bytes)
        }
    }

    /// Resolves when nothing new may begin.
    pub(super) async fn not_to_begin(&self) {
        let mut everything = self.everything.clone();
        tokio::select! {
            () = self.life.draining().cancelled() => {}
            _ = everything.wait_for(Option::is_some) => {}
        }
    }

    async fn restore(&self, course: &mut Course, pass: &mut LanePass) -> Result<Success, End> {
        course.timings.queued = now().since(course.journey.began());
        let result = self.fetch_and_send(course, pass).await;
        if course.claim.is_none() {
            // Nothing was sent, or what was sent is certainly no item.
            pass.unused();
        }
        result
    }

    async fn fetch_and_send(&self, course: &mut Course, pass: &mut LanePass) -> Result<Success, End> {
        let blob = self.fetch(course).await?;
        pass.adjust(course.item(blob.length()).request_bytes());
        if self.exchange.send_timeout(blob.length()) > course.patience() {
            return Err(End::NoRoom { after: COME_BACK, why: "slot" });
        }
        let mut mailbox = course.mailbox();
        let mut session = self.session(course, &mailbox).await?;
        let mut fence = self.claim(course, &blob, &mailbox).await?;
        let mut next = Some(blob);
        let mut remedied = false;
        loop {
            let blob = match next.take() {
                Some(blob) => blob,
                None => self.fetch(course).await?,
            };
            let failure = match self.send(course, &session, blob, fence).await {
                Ok(answer) => return Ok(self.answered(course, answer)),
                Err(failure) => failure,
            };
            if remedied || failure.error.fault == Fault::InDoubt {
                return Err(self.send_failed(course, failure).await);
            }
            match &failure.remedy {
                Remedy::None => return Err(self.send_failed(course, failure).await),
                Remedy::ReopenSession => self.exchange.forget_session(&session).await,
                Remedy::Redirect(target) => mailbox = target.clone(),
            }
            remedied = true;
            session = self.session(course, &mailbox).await?;
            fence = self.renew(course, &mailbox).await?;
        }
    }

    async fn fetch(&self, course: &mut Course) -> Result<Blob, End> {
        if let Some(blob) = course.retained.as_ref().and_then(Blob::retained) {
            return Ok(blob);
        }
        let (opened, took) = self.timed("fetch", self.blobs.open(&course.job)).await;
        course.timings.fetch = took;
        let blob = opened.map_err(|error| self.heard(course, error))?;
        self.neighbours.good(Dependency::Storage, &course.job.id);
        course.retained = blob.retained();
        Ok(blob)
    }

    async fn session(&self, course: &mut Course, mailbox: &MailboxId) -> Result<ImportSession, End> {
        let opening = self.exchange.session(&course.job.tenant, mailbox, course.job.graph_version);
        let (opened, took) = self.timed("session", Box::pin(opening)).await;
        course.timings.session = took;
        let session = opened.map_err(|error| self.heard(course, error))?;
        if session.is_fresh() {
            self.lanes.beside(&course.job.tenant, mailbox);
        }
        Ok(session)
    }

    async fn send(
        &self,
        course: &mut Course,
        session: &ImportSession,
        blob: Blob,
        fence: Fence,
    ) -> Result<ImportAnswer, ImportFailure> {
        let item = ImportItem { folder: &course.job.folder, mode: &course.job.mode, length: blob.length() };
        let (facts, chunks) = blob.into_parts();
        let sending = self.exchange.import_item(session, item, chunks, fence.clone());
        let mut sending = std::pin::pin!(self.timed("import", sending));
        let (sent, took) = tokio::select! {
            sent = &mut sending => sent,
            () = self.life.closing().cancelled() => {
                // Before its closing bytes: certainly not imported. Later than those: its answer still counts.
                fence.abort();
                sending.await
            }
        };
        course.timings.import = took;
        course.facts = facts.get().or(course.facts.take());
        course.request_id = match &sent {
            Ok(answer) => answer.request_id.clone(),
            Err(failure) => failure.error.request_id.clone(),
        };
        sent
    }

    fn answered(&self, course: &Course, answer: ImportAnswer) -> Success {
        self.neighbours.good(Dependency::Exchange, &course.job.id);
        self.neighbours.good(Dependency::Identity, &course.job.id);
        self.neighbours.mailbox_took(&course.job.tenant, &course.job.mailbox);
        Success { imported: answer.imported, evidence: Evidence::Answer, duplicates: Vec::new() }
    }

    /// A send that did not end in an item that we know of.
    async fn send_failed(&self, course: &mut Course, failure: ImportFailure) -> End {
        let earlier =
            course.claim.as_ref().and_then(|c| c.standing.record.trail.as_ref()).is_some_and(|t| t.sends > 1);
        let conflict_of_our_own = earlier && failure.error.reason == Reason::ChangeKeyConflict;
        if failure.error.fault == Fault::InDoubt || conflict_of_our_own {
            return self.in_doubt(course, failure.error).await;
        }
        let passing = matches!(failure.error.fault, Fault::Passing { .. });
        if passing && !failure.completed && self.life.closing().is_cancelled() {
            // Ended by our own drain: nobody's trouble, and certainly no item.
            return End::NotBegun;
        }
        if failure.error.fault == Fault::Job {
            // A refusal is an answer: Exchange works.
            self.neighbours.good(Dependency::Exchange, &course.job.id);
        }
        self.heard(course, failure.error)
    }

    /// Trouble, with what the neighbours' other answers say of whose it is.
    pub(super) fn heard(&self, course: &Course, error: RestoreError) -> End {
        let job = &course.job;
        End::Trouble(self.neighbours.hear(error, &job.id, &job.tenant, &job.mailbox))
    }

    fn tell_lane(&self, course: &Course, result: &Result<Success, End>) {
        let heard = match result {
            Ok(_) => Heard::Succeeded,
            Err(End::Trouble(RestoreError {
                fault: Fault::Throttled { scope, limit, retry_after }, ..
            })) => Heard::Throttled { scope: *scope, limit: *limit, retry_after: *retry_after },
            Err(_) => Heard::Other,
        };
        self.lanes.hear(&course.job.tenant, &course.job.mailbox, heard);
    }
}
