//! The ledger on a job's way: recall, claim, renew, complete, fail, release. Each step reads what stands there and writes over
//! exactly that; what a record means is `domain::record`'s.

use std::{sync::Arc, time::Duration};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    Pipeline,
    course::{Course, Known},
    judge::{End, Success},
};
use crate::{
    blob_store::Blob,
    domain::{
        Dependency, Evidence, ImportMode, MailboxId, Reason, RestoreError,
        event::Failure,
        hex::hex,
        record::{Admission, NewClaim, Record, Standing, State, admit},
    },
    exchange::{Boottime, Fence},
    ledger::{Etag, Held, Ledger, Operation, Taken, Written},
};

/// How much earlier than its lease a worker stops itself: stores count whole seconds, and what is handed over takes a moment to leave.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// Reads and writes again after a lost write, before the job comes back later.
const ROUNDS: usize = 8;

impl Pipeline {
    /// Reads the job's record where there may be one, and stops where it says so.
    pub(super) async fn recall(&self, course: &mut Course) -> Result<(), End> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        if !course.may_be_known() {
            return Ok(());
        }
        self.read(ledger, course).await?;
        if course.record().is_none() && course.journey.is_in_doubt() {
            let what = "the record of an import whose outcome is unknown is gone";
            return Err(End::Undecidable { failure: Failure::new(Reason::OutcomeUnknown, what), seen: None });
        }
        self.admitted(course).await
    }

    async fn read(&self, ledger: &Ledger, course: &mut Course) -> Result<(), End> {
        let held = ledger.read(&course.job.id).await.map_err(|error| self.heard(course, error))?;
        self.neighbours.good(Dependency::Ledger, &course.job.id);
        course.known = Known::Read(held.map(Arc::new));
        Ok(())
    }

    /// Asks what the record that was read allows. `Ok` means: may claim.
    async fn admitted(&self, course: &mut Course) -> Result<(), End> {
        let standing = course.record().map(|held| &held.standing);
        let record = standing.map(|s| s.record.clone());
        match admit(standing, &course.claimant) {
            Admission::Claim => self.not_a_crash_loop(course),
            Admission::TellImported => Err(recorded_success(record.as_ref())),
            Admission::TellFailed => Err(End::FailedBefore(recorded_failure(record.as_ref()))),
            Admission::TellUnknown => Err(End::UnknownBefore {
                failure: recorded_failure(record.as_ref()),
                claim: record.and_then(|r| r.trail).map(|t| t.claim_id),
            }),
            Admission::Busy { left } => Err(End::Busy { left }),
            Admission::LaterRound => Err(End::LaterRound),
            Admission::Reused => Err(End::Trouble(RestoreError::job(
                Reason::JobIdReused,
                "the ledger knows this job id with another payload",
            ))),
            Admission::Doubt => {
                Box::pin(self.resolve(course)).await?;
                self.not_a_crash_loop(course)?;
                let what = "an earlier import had no answer, and looking has shown that it did not happen";
                Err(End::NotImported(RestoreError::passing(
                    Dependency::Exchange,
                    Reason::ExchangeUnavailable,
                    what,
                )))
            }
        }
    }

    fn not_a_crash_loop(&self, course: &Course) -> Result<(), End> {
        let begun = course.record().map_or(0, |held| held.standing.record.begun);
        if begun >= self.crash_limit { Err(End::CrashLoop) } else { Ok(()) }
    }

    /// Counts the beginning of a job that has come back suspiciously often; one such job at a time.
    pub(super) async fn begin_if_suspect(
        &self,
        course: &mut Course,
    ) -> Result<Option<OwnedSemaphorePermit>, End> {
        if course.message.delivery_count() < u64::from(self.crash_limit) {
            return Ok(None);
        }
        let Some(ledger) = &self.ledger else {
            tracing::warn!(job_id = %course.job.id, deliveries = course.message.delivery_count(), "came back often; without a ledger nobody can tell why");
            return Ok(None);
        };
        let permit = tokio::select! {
            permit = self.suspects.clone().acquire_owned() => permit.ok(),
            () = self.not_to_begin() => return Err(End::NotBegun),
        };
        if course.begun {
            return Ok(permit);
        }
        for _ in 0..ROUNDS {
            self.read(ledger, course).await?;
            let counted = match course.record() {
                None => Record::unclaimed(course.job.id.as_str(), &course.claimant).begun(&course.claimant),
                // Never under a live lease, nor over an end.
                Some(held) => match held.standing.record.state {
                    State::Released => held.standing.record.begun(&course.claimant),
                    State::Importing
                    | State::Imported { .. }
                    | State::Failed { .. }
                    | State::Unknown { .. } => return Ok(permit),
                },
            };
            if counted.begun > self.crash_limit {
                return Err(End::CrashLoop);
            }
            if Box::pin(self.write_over_known(ledger, course, counted, Operation::Begin)).await? {
                course.begun = true;
                return Ok(permit);
            }
        }
        Err(contended())
    }

    /// Writes over what is known to stand there; `false`: something else stands there.
    async fn write_over_known(
        &self,
        ledger: &Ledger,
        course: &mut Course,
        record: Record,
        operation: Operation,
    ) -> Result<bool, End> {
        let over = course.record().map(|held| held.etag.clone());
        let written = ledger.write(&course.job.id, &record, over.as_ref(), operation).await;
        match written.map_err(|error| self.heard(course, error))? {
            Written::Stands(etag) => {
                course.known = Known::Read(Some(held(record, etag)));
                Ok(true)
            }
            Written::Lost => Ok(false),
        }
    }

    /// Claims the job right before its first byte is sent.
    pub(super) async fn claim(
        &self,
        course: &mut Course,
        blob: &Blob,
        mailbox: &MailboxId,
    ) -> Result<Fence, End> {
        let Some(ledger) = &self.ledger else { return Ok(Fence::none()) };
        self.timed("claim", self.try_claim(ledger, course, blob, mailbox)).await.0
    }

    async fn try_claim(
        &self,
        ledger: &Ledger,
        course: &mut Course,
        blob: &Blob,
        mailbox: &MailboxId,
    ) -> Result<Fence, End> {
        for _ in 0..ROUNDS {
            let lease = self.lease(blob.length());
            let claim_id = uuid::Uuid::new_v4().to_string();
            let new = NewClaim {
                claim_id: claim_id.clone(),
                worker: self.worker.name.clone(),
                now: self.exchange.server_clock().now(),
                mailbox: mailbox.as_str().to_owned(),
                tenant: course.job.tenant.clone(),
                mode: course.job.mode.as_str(),
                lease,
                etag: blob.etag().map(str::to_owned),
                search_key: blob.search_key_hint().map(|key| hex(&key)),
            };
            let record = match course.record() {
                None => {
                    Record::unclaimed(course.job.id.as_str(), &course.claimant).claimed(&course.claimant, new)
                }
                Some(held) => held.standing.record.claimed(&course.claimant, new),
            };
            // Measured from before the claim is written: others count from when it was.
            let fence = Fence::until(Boottime::now().plus(lease.saturating_sub(LEASE_MARGIN)));
            let over = course.record().map(|held| held.etag.clone());
            let etag = match ledger.write(&course.job.id, &record, over.as_ref(), Operation::Claim).await {
                Ok(Written::Stands(etag)) => Some(etag),
                Ok(Written::Lost) => None,
                Err(error) => self.claim_after_all(ledger, course, &claim_id, error).await?,
            };
            if let Some(etag) = etag {
                self.neighbours.good(Dependency::Ledger, &course.job.id);
                let held = held(record, etag);
                course.known = Known::Read(Some(held.clone()));
                course.claim = Some(held);
                return Ok(fence);
            }
            self.read(ledger, course).await?;
            self.admitted(course).await?;
        }
        Err(contended())
    }

    /// A claim whose answer was lost may stand all the same.
    async fn claim_after_all(
        &self,
        ledger: &Ledger,
        course: &mut Course,
        claim_id: &str,
        error: RestoreError,
    ) -> Result<Option<Etag>, End> {
        self.read(ledger, course).await.map_err(|_| self.heard(course, error))?;
        let ours =
            |held: &&Arc<Held>| held.standing.record.trail.as_ref().is_some_and(|t| t.claim_id == claim_id);
        Ok(course.record().filter(ours).map(|held| held.etag.clone()))
    }

    fn lease(&self, length: u64) -> Duration {
        self.exchange.send_timeout(length) + LEASE_MARGIN
    }

    /// Renews the claim for one more body.
    pub(super) async fn renew(&self, course: &mut Course, mailbox: &MailboxId) -> Result<Fence, End> {
        let (Some(ledger), Some(claim)) = (&self.ledger, course.claim.clone()) else {
            return Ok(Fence::none());
        };
        let lease = self.lease(course.likely_length());
        let record = claim.standing.record.renewed(mailbox.as_str(), lease);
        let fence = Fence::until(Boottime::now().plus(lease.saturating_sub(LEASE_MARGIN)));
        let written = ledger.write(&course.job.id, &record, Some(&claim.etag), Operation::Renew).await;
        match written.map_err(|error| self.heard(course, error))? {
            Written::Stands(etag) => {
                let held = held(record, etag);
                course.known = Known::Read(Some(held.clone()));
                course.claim = Some(held);
                Ok(fence)
            }
            Written::Lost => {
                course.claim = None;
                Err(contended())
            }
        }
    }

    /// Gives up what the attempt has written down, since it ended in an ordinary way and certainly without an item. Where the
    /// ledger is away the claim runs out by itself, and looking tells.
    pub(super) async fn let_go(&self, course: &mut Course) {
        let Some(ledger) = &self.ledger else { return };
        let (record, etag) = match (course.claim.take(), course.record()) {
            (Some(claim), _) => (claim.standing.record.released(), claim.etag.clone()),
            (None, Some(held)) if course.begun && matches!(held.standing.record.state, State::Released) => {
                (held.standing.record.ended_well(), held.etag.clone())
            }
            (None, _) => return,
        };
        course.begun = false;
        match ledger.write(&course.job.id, &record, Some(&etag), Operation::Release).await {
            Ok(Written::Stands(etag)) => course.known = Known::Read(Some(held(record, etag))),
            Ok(Written::Lost) | Err(_) => course.known = Known::Read(None),
        }
    }

    /// Records the import: the item is taken, then the record completed. `Ok(Err(end))`: the item is another job's.
    pub(super) async fn complete(
        &self,
        course: &mut Course,
        success: &Success,
    ) -> Result<Result<Success, End>, RestoreError> {
        let Some(ledger) = &self.ledger else { return Ok(Ok(success.clone())) };
        self.timed("complete", self.try_complete(ledger, course, success)).await.0
    }

    async fn try_complete(
        &self,
        ledger: &Ledger,
        course: &mut Course,
        success: &Success,
    ) -> Result<Result<Success, End>, RestoreError> {
        if course.record().is_some_and(|held| matches!(held.standing.record.state, State::Imported { .. })) {
            return Ok(Ok(success.clone()));
        }
        let mailbox = course.mailbox();
        if course.job.mode == ImportMode::Create
            && success.evidence != Evidence::Found
            && ledger
                .take(&course.job.id, &course.job.tenant, &mailbox, &success.imported.item_id, None)
                .await?
                != Taken::Ours
        {
            // A copy that says so would say it for ever.
            course.journey.imported = None;
            let what = "the import's answer names an item that another job has taken";
            let error = RestoreError::new(crate::domain::Fault::InDoubt, Reason::OutcomeUnknown, what);
            return Ok(Err(self.in_doubt(course, error).await));
        }
        let mut over = course.claim.clone().or_else(|| course.record().cloned());
        let mut success = success.clone();
        for _ in 0..ROUNDS {
            let base = over.as_ref().map_or_else(
                || Record::unclaimed(course.job.id.as_str(), &course.claimant),
                |held| held.standing.record.clone(),
            );
            if let Ok(Some((recorded, duplicates))) = base.proof() {
                return Ok(Ok(merged(success, recorded, duplicates)));
            }
            let facts = course.facts.as_ref();
            let record = base.imported(
                &success.imported,
                facts.map(|f| hex(&f.sha256)),
                facts.map(|f| f.bytes),
                &success.duplicates,
            );
            let etag = over.as_ref().map(|held| &held.etag);
            if let Written::Stands(etag) =
                ledger.write(&course.job.id, &record, etag, Operation::Complete).await?
            {
                course.claim = None;
                course.known = Known::Read(Some(held(record, etag)));
                return Ok(Ok(success));
            }
            over = ledger.read(&course.job.id).await?.map(Arc::new);
            success.duplicates.dedup();
        }
        Err(RestoreError::passing(
            Dependency::Ledger,
            Reason::StorageUnavailable,
            "the record changes under every write",
        ))
    }

    /// Records a failure before it is told. `Err`: the record says something else, which has to be judged.
    pub(super) async fn fail(&self, course: &mut Course, failure: &Failure) -> Result<(), End> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        if failure.reason.ends_message() {
            return Ok(());
        }
        let claim = course.claim.take();
        let mut read = claim.is_some();
        if let Some(claim) = claim {
            // Ours, and certainly without an item: the failure is written straight over it.
            let (standing, etag) = (released(&claim.standing), claim.etag.clone());
            course.known = Known::Read(Some(Arc::new(Held { standing, etag })));
        }
        for _ in 0..ROUNDS {
            if !read {
                self.read(ledger, course).await?;
            }
            read = false;
            match self.admitted(course).await {
                Ok(()) | Err(End::CrashLoop | End::NotImported(_)) => {}
                Err(End::FailedBefore(_)) => return Ok(()),
                Err(end) => return Err(end),
            }
            let record = match course.record() {
                None => Record::unclaimed(course.job.id.as_str(), &course.claimant)
                    .failed(&course.claimant, failure),
                Some(held) => held.standing.record.failed(&course.claimant, failure),
            };
            if self.write_over_known(ledger, course, record, Operation::Fail).await? {
                return Ok(());
            }
        }
        Err(contended())
    }

    /// Records that nobody knows, before it is told. Gives the claim that a person can resolve it by.
    pub(super) async fn record_unknown(
        &self,
        course: &mut Course,
        failure: &Failure,
    ) -> Result<Option<String>, End> {
        let Some(ledger) = &self.ledger else { return Ok(None) };
        for _ in 0..ROUNDS {
            let Some(held) = course.claim.take().or_else(|| course.record().cloned()) else {
                return Ok(None);
            };
            let claim = held.standing.record.trail.as_ref().map(|t| t.claim_id.clone());
            if matches!(held.standing.record.state, State::Unknown { .. }) {
                return Ok(claim);
            }
            let record = held.standing.record.unknown(failure);
            course.known = Known::Read(Some(held));
            if self.write_over_known(ledger, course, record, Operation::Unknown).await? {
                return Ok(claim);
            }
            self.read(ledger, course).await?;
            match self.admitted(course).await {
                Err(End::Undecidable { .. }) => {}
                Err(end) => return Err(end),
                Ok(()) => return Err(contended()),
            }
        }
        Err(contended())
    }
}

/// A record that we have just written or hold; its times are those of no answer and are never judged by.
fn held(record: Record, etag: Etag) -> Arc<Held> {
    let never = crate::domain::UnixMillis::default();
    Arc::new(Held { standing: Standing { record, written: never, now: never }, etag })
}

fn released(standing: &Standing) -> Standing {
    Standing { record: standing.record.released(), ..*standing }
}

fn recorded_success(record: Option<&Record>) -> End {
    match record.map(Record::proof) {
        Some(Ok(Some((imported, duplicates)))) => {
            End::Imported(Success { imported, evidence: Evidence::Ledger, duplicates })
        }
        Some(Ok(None) | Err(_)) | None => End::Trouble(RestoreError::passing(
            Dependency::Ledger,
            Reason::StorageUnavailable,
            "the record says imported, but names no item",
        )),
    }
}

fn recorded_failure(record: Option<&Record>) -> Failure {
    record
        .and_then(Record::failure)
        .unwrap_or_else(|| Failure::new(Reason::Internal, "the record names no reason"))
}

fn contended() -> End {
    End::Busy { left: Duration::from_secs(2) }
}

/// Two imports of one job: the record's is the first, ours is told beside it.
fn merged(
    success: Success,
    recorded: crate::domain::Imported,
    mut duplicates: Vec<crate::domain::ItemId>,
) -> Success {
    if success.imported.item_id == recorded.item_id {
        let duplicates = if duplicates.is_empty() { success.duplicates } else { duplicates };
        return Success { imported: recorded, evidence: success.evidence, duplicates };
    }
    duplicates.push(success.imported.item_id);
    Success { imported: recorded, evidence: success.evidence, duplicates }
}
