//! In doubt: an import may have happened, and nobody was told. Looks, takes what is the job's, and knows how long a look that
//! finds nothing proves nothing.
//!
//! A closed connection cancels nothing at the server: it may store the item minutes later. So *found* may be concluded from any
//! look, *not imported* only from one that began after settling.

use std::time::Duration;

use super::{
    InDoubt, Pipeline,
    course::{Course, Known},
    judge::{End, Success},
};
use crate::{
    domain::{
        Dependency, Evidence, Fault, ImportMode, Imported, ItemIdentity, MailboxId, OursScope, Reason,
        RestoreError, UnixMillis,
        doubt::{SeenItem, hits},
        event::Failure,
        hex::unhex,
        job::{ChangeKey, ItemId},
        record::{Standing, State, Trail},
    },
    exchange::Look,
    ledger::{Ledger, Operation, Taken, Written},
};

/// A look that could not be made is tried again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Pipeline {
    /// Our own import had no answer: notes it, and looks at once.
    pub(super) async fn in_doubt(&self, course: &mut Course, error: RestoreError) -> End {
        tracing::warn!(job_id = %course.job.id, error = %error, "in doubt: the import may have happened");
        let job = &course.job;
        let error = self.neighbours.hear(error, &job.id, &job.tenant, &job.mailbox);
        let Some(ledger) = &self.ledger else { return self.look_without_a_ledger(course, error).await };
        if let Some(claim) = course.claim.take() {
            course.known = Known::Read(Some(claim));
        }
        match self.note(ledger, course, false).await {
            Ok(()) => match Box::pin(self.resolve(course)).await {
                Ok(()) => End::NotImported(error),
                Err(end) => end,
            },
            Err(end) => end,
        }
    }

    /// Notes that the claim is over, once: lease and settling are judged by that from then on.
    async fn note(&self, ledger: &Ledger, course: &mut Course, died: bool) -> Result<(), End> {
        let Some(held) = course.record().cloned() else { return Err(unsettled(LOOK_AGAIN)) };
        if held.standing.is_unnoted() {
            // Our own claim's end is now, by the store's clock, which only an answer tells: read it first.
            let now = if died {
                held.standing.lease_end()
            } else {
                let read = self.reread(ledger, course).await?;
                // Another may have taken over a claim that was over: the lease that stands there now is not ours to end.
                if read.claim_id() != held.standing.claim_id() {
                    return Err(unsettled(LOOK_AGAIN));
                }
                read.now
            };
            let over = course.record().cloned().unwrap_or(held);
            let record = over.standing.record.doubted(now, died);
            match ledger.write(&course.job.id, &record, Some(&over.etag), Operation::Doubt).await {
                Ok(Written::Stands(_)) => {}
                Ok(Written::Lost) => return Err(unsettled(LOOK_AGAIN)),
                Err(error) => return Err(self.look_failed(course, error)),
            }
        }
        self.reread(ledger, course).await.map(drop)
    }

    async fn reread(&self, ledger: &Ledger, course: &mut Course) -> Result<Standing, End> {
        match ledger.read(&course.job.id).await {
            Ok(Some(held)) => {
                let standing = held.standing.clone();
                course.known = Known::Read(Some(held.into()));
                Ok(standing)
            }
            // Somebody removed the record: what it knew is lost, and the doubt with it cannot be resolved by it.
            Ok(None) => Err(End::Undecidable {
                failure: Failure::new(
                    Reason::OutcomeUnknown,
                    "the job's record is gone while its import was in doubt",
                ),
                seen: None,
            }),
            Err(error) => Err(self.look_failed(course, error)),
        }
    }

    /// Looks for what a claim that is over has left behind. `Ok`: certainly nothing, and the record is released.
    pub(super) async fn resolve(&self, course: &mut Course) -> Result<(), End> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let died = course.claim.is_none();
        self.note(ledger, course, died).await?;
        let Some(held) = course.record().cloned() else { return Err(unsettled(LOOK_AGAIN)) };
        let (State::Importing, Some(trail)) =
            (&held.standing.record.state, held.standing.record.trail.clone())
        else {
            // Somebody else resolved it meanwhile.
            return Err(unsettled(LOOK_AGAIN));
        };
        let settles_in = held.standing.settles_in(self.in_doubt.settle);
        let settling = Settling { ends: held.standing.now.plus(settles_in), now: held.standing.now };
        let looked = self.look(ledger, course, &trail, settling).await;
        match looked {
            Ok(Looked::Nothing) if settles_in.is_zero() => {
                let record = held.standing.record.found_nothing();
                match ledger.write(&course.job.id, &record, Some(&held.etag), Operation::Release).await {
                    Ok(Written::Stands(_)) => {
                        self.reread(ledger, course).await?;
                        self.doubt_ended("not_imported");
                        Ok(())
                    }
                    Ok(Written::Lost) => Err(unsettled(LOOK_AGAIN)),
                    Err(error) => Err(self.look_failed(course, error)),
                }
            }
            Ok(Looked::Nothing) => Err(unsettled(settles_in)),
            Ok(Looked::Young { ripens_in }) => Err(unsettled(ripens_in)),
            Ok(Looked::Taken(success)) => {
                // It took the item, whatever became of its answer.
                self.neighbours.good(Dependency::Exchange, &course.job.id);
                self.doubt_ended("found");
                Err(End::Imported(success))
            }
            Ok(Looked::Undecidable { why, seen }) => {
                self.doubt_ended("unknown");
                Err(End::Undecidable { failure: Failure::new(Reason::OutcomeUnknown, why), seen })
            }
            Err(error) => Err(self.look_failed(course, error)),
        }
    }

    async fn look(
        &self,
        ledger: &Ledger,
        course: &mut Course,
        trail: &Trail,
        settling: Settling,
    ) -> Result<Looked, RestoreError> {
        if !self.in_doubt.look {
            return Ok(undecidable("in_doubt.look is off"));
        }
        let mailbox = MailboxId::parse(&trail.mailbox).unwrap_or_else(|_| course.job.mailbox.clone());
        match course.job.mode.clone() {
            ImportMode::Create => self.look_for_created(ledger, course, trail, mailbox, settling).await,
            ImportMode::Update { item_id, change_key } => {
                self.look_at_updated(course, mailbox, item_id, change_key).await
            }
        }
    }

    async fn look_for_created(
        &self,
        ledger: &Ledger,
        course: &mut Course,
        trail: &Trail,
        mailbox: MailboxId,
        settling: Settling,
    ) -> Result<Looked, RestoreError> {
        let identity = match self.identity(course, trail).await? {
            Ok(identity) => identity,
            Err(why) => return Ok(undecidable(why)),
        };
        let since = UnixMillis(trail.first_claim).minus(self.in_doubt.clock_margin);
        let seen = match self.list(course, &mailbox, since).await? {
            Ok(seen) => seen,
            Err(why) => return Ok(undecidable(why)),
        };
        let now = self.exchange.server_clock().now();
        let hits = hits(seen, &identity, since, now, self.in_doubt.ripe_after());
        let (id, tenant) = (&course.job.id, &course.job.tenant);
        // What this job has taken before it lost sight of it comes first: nobody else can have it any more.
        let (mut taken, mut free) = (Vec::new(), Vec::new());
        let mut swapped = Duration::ZERO;
        for item in hits.ripe {
            match ledger.whose(id, tenant, &mailbox, &item.item_id).await? {
                Some(Taken::Ours) => taken.push(item),
                // It may be this job's, found by a copy whose own import is still on the way: that one is this job's then.
                Some(Taken::Others { settles }) => {
                    swapped = swapped.max(settles.map_or(Duration::ZERO, |ends| ends.since(settling.now)));
                }
                None => free.push(item),
            }
        }
        for item in free {
            if taken.len() >= usize::try_from(trail.sends.max(1)).unwrap_or(usize::MAX) {
                break;
            }
            match ledger.take(id, tenant, &mailbox, &item.item_id, Some(settling.ends)).await? {
                Taken::Ours => taken.push(item),
                // Taken since we asked: ask again.
                Taken::Others { .. } => swapped = swapped.max(LOOK_AGAIN),
            }
        }
        match (success(taken), hits.ripens_in.unwrap_or_default().max(swapped)) {
            (Some(success), _) => Ok(Looked::Taken(success)),
            (None, Duration::ZERO) => Ok(Looked::Nothing),
            (None, ripens_in) => Ok(Looked::Young { ripens_in }),
        }
    }

    /// Items made since; or why nobody can look.
    async fn list(
        &self,
        course: &Course,
        mailbox: &MailboxId,
        since: UnixMillis,
    ) -> Result<Result<Vec<SeenItem>, &'static str>, RestoreError> {
        let look = Look {
            tenant: course.job.tenant.clone(),
            mailbox: mailbox.clone(),
            version: course.job.graph_version,
            folder: course.job.folder.clone(),
            since,
        };
        let listed = self.exchange.list_imported(&look).await;
        self.lanes.beside(&look.tenant, &look.mailbox);
        match listed {
            Ok(seen) => Ok(Ok(seen)),
            Err(error) if error.fault == Fault::Job && error.reason == Reason::MailboxForbidden => {
                Ok(Err("no permission to look into the mailbox (MailboxItem.Read.All)"))
            }
            Err(error) if error.fault == Fault::Job => Ok(Err("Exchange refuses to show the folder")),
            Err(error) => Err(error),
        }
    }

    /// By what the item would be recognised: from the blob, if it is still the one that was claimed for.
    async fn identity(
        &self,
        course: &mut Course,
        trail: &Trail,
    ) -> Result<Result<ItemIdentity, &'static str>, RestoreError> {
        if course.facts.is_none() {
            let blob = match self.blobs.open(&course.job).await {
                Ok(blob) => blob,
                Err(error) if error.fault == Fault::Job => {
                    return Ok(Err(
                        "the blob is gone or changed since the import, so its item cannot be recognised",
                    ));
                }
                Err(error) => return Err(error),
            };
            if trail.etag.is_some() && blob.etag() != trail.etag.as_deref() {
                return Ok(Err("the blob has changed since the import, so its item cannot be recognised"));
            }
            course.facts = match self.blobs.identify(&course.job).await {
                Ok(facts) => Some(facts),
                Err(error) if error.fault == Fault::Job => {
                    return Ok(Err("the blob cannot be read any more"));
                }
                Err(error) => return Err(error),
            };
        }
        let mut identity = course.facts.as_ref().map(|f| f.identity.clone()).unwrap_or_default();
        if let Some(key) = trail.search_key.as_deref().and_then(unhex) {
            identity.search_key = Some(key);
        }
        match identity.search_key {
            Some(_) => Ok(Ok(identity)),
            None => Ok(Err("the blob holds no search key, so its item cannot be recognised")),
        }
    }

    async fn look_at_updated(
        &self,
        course: &Course,
        mailbox: MailboxId,
        item_id: ItemId,
        change_key: ChangeKey,
    ) -> Result<Looked, RestoreError> {
        let job = &course.job;
        let read =
            self.exchange.read_item(&job.tenant, &mailbox, job.graph_version, &job.folder, &item_id).await;
        match read {
            Ok(Some(item)) if item.change_key.as_ref() == Some(&change_key) => Ok(Looked::Nothing),
            Ok(Some(item)) => Ok(Looked::Undecidable {
                why: "the item has changed since the update was sent: perhaps by it, perhaps by somebody else",
                seen: item.as_imported(),
            }),
            Ok(None) => Ok(undecidable("the item that was to be updated is not there any more")),
            Err(error) if error.fault == Fault::Job => Ok(undecidable("Exchange refuses to show the item")),
            Err(error) => Err(error),
        }
    }

    /// Delivery is at least once then: one look, and what it does not find is done again.
    async fn look_without_a_ledger(&self, course: &mut Course, error: RestoreError) -> End {
        let failed = End::NotImported(error);
        let (ImportMode::Create, true, Some(facts)) = (&course.job.mode, self.in_doubt.look, &course.facts)
        else {
            return failed;
        };
        let identity = facts.identity.clone();
        let since = course.journey.first_received.minus(self.in_doubt.clock_margin);
        let Ok(Ok(seen)) = self.list(course, &course.job.mailbox, since).await else { return failed };
        let hits = hits(seen, &identity, since, self.exchange.server_clock().now(), Duration::ZERO);
        match success(hits.ripe.into_iter().take(1).collect()) {
            Some(success) => {
                self.doubt_ended("found");
                End::Imported(success)
            }
            None => failed,
        }
    }

    /// A look that could not be made says nothing; the record stays as it is, and the job comes back.
    fn look_failed(&self, course: &Course, error: RestoreError) -> End {
        let heard = self.heard(course, error);
        if matches!(
            heard,
            End::Trouble(RestoreError { fault: Fault::Ours { scope: OursScope::Everything }, .. })
        ) {
            return End::NotBegun;
        }
        unsettled(LOOK_AGAIN)
    }

    fn doubt_ended(&self, resolution: &str) {
        self.metrics.in_doubt.with_label_values(&[resolution]).inc();
    }
}

/// A doubt's time to settle, in the store's time.
#[derive(Clone, Copy, Debug)]
struct Settling {
    /// When no import of the job can appear any more.
    ends: UnixMillis,
    now: UnixMillis,
}

/// What a look says.
enum Looked {
    Taken(Success),
    Young { ripens_in: Duration },
    Nothing,
    Undecidable { why: &'static str, seen: Option<Imported> },
}

fn undecidable(why: &'static str) -> Looked {
    Looked::Undecidable { why, seen: None }
}

fn unsettled(left: Duration) -> End {
    End::Unsettled { left }
}

/// The first item taken is the job's; the others are told as duplicates.
fn success(taken: Vec<SeenItem>) -> Option<Success> {
    let mut taken = taken.into_iter();
    let first = taken.next()?;
    let imported = first.as_imported()?;
    Some(Success {
        imported,
        evidence: Evidence::Found,
        duplicates: taken.map(|item| item.item_id).collect(),
    })
}

impl InDoubt {
    /// An item younger than this may belong to a job whose answer is still on the way.
    fn ripe_after(&self) -> Duration {
        self.request_timeout + self.clock_margin
    }
}
