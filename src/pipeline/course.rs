//! What is known of one job while a delivery of it is in hand.

use std::{ops::Range, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    blob_store::{Blob, Facts},
    broker::{Message, Source},
    domain::{Journey, MailboxId, Metadata, RestoreJob, Timings, UnixMillis, record::Claimant},
    exchange::ImportItem,
    ledger::{self, Held},
    telemetry::trace,
};

/// One delivery stays unacked at most this long; the broker's consumer time-out is 30 minutes by default.
/// Source: RabbitMQ, "Consumers", section "Delivery Acknowledgement Timeout".
pub const MAX_UNACKED: Duration = Duration::from_mins(20);

/// What the ledger is known to hold.
#[derive(Clone, Debug, Default)]
pub(super) enum Known {
    /// Nobody has read yet; a first delivery usually has no record.
    #[default]
    Unread,
    /// This stood there when it was last read or written.
    Read(Option<Arc<Held>>),
}

/// One job's way through this worker, for as long as its delivery is in hand.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) job: Box<RestoreJob>,
    pub(super) message: Message,
    /// Where the job's metadata stands in the message, as long as the job itself lacks it: only the event wants it, and a job
    /// that waits does not hold it twice.
    metadata: Option<Range<usize>>,
    pub(super) source: Source,
    pub(super) journey: Journey,
    pub(super) claimant: Claimant,
    /// When this delivery came.
    pub(super) received: Instant,
    /// When the attempt before this one ended; at first, when the delivery came.
    pub(super) previous_attempt: Instant,
    pub(super) known: Known,
    /// Our own claim, while it stands.
    pub(super) claim: Option<Arc<Held>>,
    /// Whether a beginning of this suspect is counted in the record.
    pub(super) begun: bool,
    /// The blob, if it is small enough to be kept for another attempt.
    pub(super) retained: Option<Blob>,
    pub(super) facts: Option<Facts>,
    pub(super) request_id: Option<String>,
    pub(super) timings: Timings,
}

impl Course {
    pub(super) fn new(
        mut job: Box<RestoreJob>,
        message: Message,
        source: Source,
        journey: Journey,
        received: Instant,
    ) -> Self {
        let metadata = job.metadata.as_ref().and_then(|metadata| place_of(metadata, &message));
        if metadata.is_some() {
            job.metadata = None;
        }
        let claimant = Claimant {
            fingerprint: ledger::fingerprint(&job),
            replay: journey.replay,
            force: journey.force.clone(),
        };
        Self {
            job,
            message,
            metadata,
            source,
            journey,
            claimant,
            received,
            previous_attempt: received,
            known: Known::Unread,
            claim: None,
            begun: false,
            retained: None,
            facts: None,
            request_id: None,
            timings: Timings::default(),
        }
    }

    /// Gives the job its metadata again, for its event.
    pub(super) fn with_metadata(&mut self) {
        if let Some(place) = self.metadata.take() {
            let text = self.message.body().get(place).and_then(|text| std::str::from_utf8(text).ok());
            self.job.metadata = text.and_then(|text| Metadata::from_json_text(text).ok());
        }
    }

    /// The trace that the job belongs to: of the span that is exported, else as its message says.
    pub(super) fn trace_id(&self) -> Option<String> {
        let traceparent = trace::current().or_else(|| self.message.traceparent())?;
        trace::trace_id(&traceparent).map(str::to_owned)
    }

    /// Whether the ledger may know this job: anything but a plain first delivery.
    pub(super) fn may_be_known(&self) -> bool {
        let journey = &self.journey;
        self.message.redelivered()
            || self.source == Source::GivenUp
            || journey.attempt > 0
            || journey.replay > 0
            || journey.not_before.is_some()
            || journey.force.is_some()
            || journey.claim.is_some()
            || matches!(self.known, Known::Read(_))
    }

    /// The record as it was last read or written.
    pub(super) fn record(&self) -> Option<&Arc<Held>> {
        match &self.known {
            Known::Read(held) => held.as_ref(),
            Known::Unread => None,
        }
    }

    /// The mailbox to post to: the job's, unless an earlier send of the same round went elsewhere.
    pub(super) fn mailbox(&self) -> MailboxId {
        let trail = self.record().and_then(|held| held.standing.record.trail.as_ref());
        trail
            .filter(|trail| trail.sends > 0)
            .and_then(|trail| MailboxId::parse(&trail.mailbox).ok())
            .unwrap_or_else(|| self.job.mailbox.clone())
    }

    /// What is to be imported, of so many FTS bytes.
    pub(super) fn item(&self, length: u64) -> ImportItem<'_> {
        ImportItem { folder: &self.job.folder, mode: &self.job.mode, length }
    }

    /// How long the delivery may still be held.
    pub(super) fn patience(&self) -> Duration {
        MAX_UNACKED.saturating_sub(self.received.elapsed())
    }

    /// A blob of this length, or the best guess before it is opened.
    pub(super) fn likely_length(&self) -> u64 {
        let blob = &self.job.blob;
        let retained = self.retained.as_ref().map(Blob::length);
        retained
            .or(self.facts.as_ref().map(|f| f.bytes))
            .or(blob.size)
            .or(blob.range.map(|r| r.length))
            .unwrap_or(GUESS)
    }
}

/// Length that is assumed of a blob of which nothing is said: a mail's average in Exchange Online.
const GUESS: u64 = 128 * 1024;

/// Where these words stand in the message that said them.
fn place_of(metadata: &Metadata, message: &Message) -> Option<Range<usize>> {
    let text = metadata.as_json_text();
    let at = std::str::from_utf8(message.body()).ok()?.find(text)?;
    Some(at..at + text.len())
}

/// Now, by this machine's clock.
pub(super) fn now() -> UnixMillis {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    UnixMillis(i64::try_from(now).unwrap_or(i64::MAX))
}
