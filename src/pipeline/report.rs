//! Telling a job's end: the event to where it belongs, the dead letter, one log line, the counters.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Next, Pipeline,
    course::{Course, now},
    judge::End,
};
use crate::{
    broker::{EventAddress, Message, PublishError, Settlement},
    contract::{Malformed, Rendered, Subject, event},
    domain::{
        Event, ImportMode, Journey, Outcome, Reason, RestoreError, Timings, event::Failure, hex::hex,
        retry::Backoff,
    },
    metrics::Metrics,
    telemetry::trace,
};

/// How often a job's own reply queue may refuse before the configured one is used.
const REPLY_TRIES: u32 = 3;
/// How long an end waits that no queue takes.
const NOWHERE: Duration = Duration::from_secs(30);
/// Delays between tries to publish.
const PUBLISH: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How mailbox, folder and key appear in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identifiers {
    /// As they are.
    #[default]
    Plain,
    /// The first 16 hexadecimal digits of their SHA-256.
    Hashed,
}

impl Identifiers {
    /// The identifier as it appears.
    #[must_use]
    pub fn show(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Hashed => {
                let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
                hex(&digest.as_ref()[..8])
            }
        }
    }
}

/// What became of telling.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Yes,
    /// Neither the reply queue nor the configured one takes it.
    Nowhere,
    Void,
    /// The process ends first.
    NoMore,
}

impl Pipeline {
    /// Publishes the event of a job's end. `Next::Ack`: it is confirmed.
    pub(super) async fn tell(&self, course: &mut Course, outcome: Outcome, settlement: &Settlement) -> Next {
        course.timings.total = now().since(course.journey.began());
        course.with_metadata();
        let event = Self::event(course, outcome);
        let subject =
            Subject { job_id: course.job.id.as_str(), job: Some(&course.job), body: course.message.body() };
        let submitted_by = course.journey.submitted_by.as_deref();
        let told = match event::render(subject, submitted_by, &event, &self.worker, now()) {
            Ok(rendered) => {
                let rendered = Rendered { traceparent: trace::current(), ..rendered };
                let job_id = course.job.id.as_str();
                self.timed("report", self.publish_event(&rendered, &course.message, job_id, settlement))
                    .await
                    .0
            }
            Err(error) => {
                tracing::error!(job_id = %course.job.id, %error, "an event cannot be written down");
                Told::Nowhere
            }
        };
        match told {
            Told::Yes => {
                self.count(course.job.mode.as_str(), &event.outcome, course.timings.total);
                trace::ended(event.outcome.status(), event.outcome.failure().map(|f| f.reason.as_str()));
                self.log_end(course, &event);
                Next::Ack
            }
            Told::Void => Next::Void,
            Told::NoMore => Next::GiveBack,
            Told::Nowhere => Next::Judge(Box::new(End::NoRoom { after: NOWHERE, why: "retry" })),
        }
    }

    fn event(course: &Course, outcome: Outcome) -> Event {
        let succeeded = matches!(outcome, Outcome::Succeeded { .. });
        let facts = course.facts.as_ref();
        Event {
            replay: course.journey.replay,
            bytes: facts.filter(|_| succeeded).map(|f| f.bytes),
            sha256: facts.filter(|_| succeeded).map(|f| f.sha256),
            attempts: Some(course.journey.attempt.saturating_add(1)),
            request_id: course.request_id.clone(),
            timings: Some(course.timings),
            findings: facts.map(|f| f.findings.clone()).unwrap_or_default(),
            outcome,
        }
    }

    /// To the job's own reply queue, else to `broker.results`; until it is confirmed.
    async fn publish_event(
        &self,
        rendered: &Rendered,
        message: &Message,
        job_id: &str,
        settlement: &Settlement,
    ) -> Told {
        let own = self.broker.reply_queue(message);
        if let Some(queue) = own {
            let to = EventAddress::ReplyTo(queue);
            let told = self.until_confirmed(to, rendered, message, job_id, None, settlement).await;
            if told != Told::Nowhere {
                return told;
            }
            warn!(job_id, queue, "the job's own reply queue takes no event; using broker.results");
        }
        let told =
            self.until_confirmed(EventAddress::Results, rendered, message, job_id, own, settlement).await;
        match told {
            Told::Yes => self.unroutable.store(false, Ordering::Relaxed),
            Told::Nowhere if !self.unroutable.swap(true, Ordering::Relaxed) => {
                tracing::error!(
                    reason = Reason::ReplyUnroutable.as_str(),
                    "no queue takes events: broker.results leads nowhere"
                );
            }
            Told::Nowhere | Told::Void | Told::NoMore => {}
        }
        told
    }

    async fn until_confirmed(
        &self,
        to: EventAddress<'_>,
        rendered: &Rendered,
        message: &Message,
        job_id: &str,
        unroutable: Option<&str>,
        settlement: &Settlement,
    ) -> Told {
        let mut refusals = 0;
        let mut patience = Patience::new();
        loop {
            match self.broker.publisher().event(to, rendered, message, job_id, unroutable).await {
                Ok(()) => return Told::Yes,
                Err(PublishError::Unroutable(_)) => return Told::Nowhere,
                Err(PublishError::Refused) => {
                    refusals += 1;
                    if refusals >= REPLY_TRIES {
                        return Told::Nowhere;
                    }
                }
                Err(PublishError::Unconfirmed(why)) => {
                    warn!(job_id, why, "an event was not confirmed; publishing it again");
                }
            }
            if let Some(end) = self.pause_before_again(&mut patience, settlement).await {
                return end;
            }
        }
    }

    /// Waits before publishing again; `Some`: it makes no sense any more.
    async fn pause_before_again(&self, patience: &mut Patience, settlement: &Settlement) -> Option<Told> {
        if settlement.is_void() {
            return Some(Told::Void);
        }
        tokio::select! {
            () = sleep(patience.next()) => None,
            () = self.life.closing().cancelled() => Some(Told::NoMore),
        }
    }

    /// Publishes the dead letter: body untouched. `Next::Ack`: it is confirmed.
    pub(super) async fn dead_letter(
        &self,
        course: &Course,
        reason: Reason,
        detail: &str,
        claim: Option<&str>,
        settlement: &Settlement,
    ) -> Next {
        self.letter(&course.message, &course.journey, reason, detail, claim, settlement).await
    }

    async fn letter(
        &self,
        message: &Message,
        journey: &Journey,
        reason: Reason,
        detail: &str,
        claim: Option<&str>,
        settlement: &Settlement,
    ) -> Next {
        let mut patience = Patience::new();
        loop {
            match self.broker.publisher().dead_letter(message, journey, reason, detail, claim).await {
                Ok(()) => return Next::Ack,
                Err(error) => warn!(%error, "a dead letter was not taken; publishing it again"),
            }
            match self.pause_before_again(&mut patience, settlement).await {
                None => {}
                Some(Told::Void) => return Next::Void,
                Some(Told::NoMore | Told::Yes | Told::Nowhere) => return Next::GiveBack,
            }
        }
    }

    /// Tells the end of a message that is no job.
    pub(super) async fn tell_message(
        &self,
        malformed: &Malformed,
        message: &Message,
        journey: &Journey,
        settlement: &Settlement,
    ) -> Next {
        let failure = Failure::new(malformed.reason, malformed.why.clone());
        warn!(
            job_id = malformed.job_id.as_ref().map(ToString::to_string),
            reason = malformed.reason.as_str(),
            why = malformed.why,
            "a message is no job"
        );
        let outcome = Outcome::Failed(failure);
        if let Some(id) = &malformed.job_id {
            let event = Event::bare(outcome.clone(), journey.replay);
            let subject = Subject { job_id: id.as_str(), job: None, body: message.body() };
            let rendered =
                event::render(subject, journey.submitted_by.as_deref(), &event, &self.worker, now());
            if let Ok(rendered) = rendered {
                match self.publish_event(&rendered, message, id.as_str(), settlement).await {
                    Told::Yes => {}
                    Told::Nowhere => {
                        return self.park_message(message, journey, NOWHERE, settlement).await.into();
                    }
                    Told::Void => return Next::Void,
                    Told::NoMore => return Next::GiveBack,
                }
            }
        }
        self.count("", &outcome, Duration::ZERO);
        self.letter(message, journey, malformed.reason, &malformed.why, None, settlement).await
    }

    /// The counters of ends, before anything has happened.
    pub(super) fn ends_at_zero(metrics: &Metrics) {
        let (of_messages, of_jobs): (Vec<_>, Vec<_>) = Reason::ALL
            .into_iter()
            .partition(|reason| matches!(reason, Reason::JobMalformed | Reason::JobVersionUnsupported));
        Metrics::at_zero(&metrics.jobs, of_messages.iter().map(|reason| ["", "failed", reason.as_str()]));
        for mode in ImportMode::WORDS {
            Metrics::at_zero(
                &metrics.jobs,
                [[mode, "succeeded", ""], [mode, "unknown", Reason::OutcomeUnknown.as_str()]],
            );
            Metrics::at_zero(&metrics.jobs, of_jobs.iter().map(|reason| [mode, "failed", reason.as_str()]));
        }
    }

    fn count(&self, mode: &str, outcome: &Outcome, total: Duration) {
        let reason = outcome.failure().map_or("", |f| f.reason.as_str());
        let status = outcome.status();
        self.metrics.jobs.with_label_values(&[mode, status, reason]).inc();
        self.metrics.job_duration.with_label_values(&[mode, status]).observe(total.as_secs_f64());
        if status == "succeeded" {
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a double for ever")]
            self.metrics.last_success.set(now().0 as f64 / 1_000.0);
        }
    }

    /// One line for each job at its end.
    fn log_end(&self, course: &Course, event: &Event) {
        let Timings { queued, fetch, session, import, total } = course.timings;
        let failure = event.outcome.failure();
        info!(
            job_id = %course.job.id,
            restore_id = course.job.restore_id,
            requested_by = course.job.requested_by,
            submitted_by = course.journey.submitted_by,
            mode = course.job.mode.as_str(),
            status = event.outcome.status(),
            reason = failure.map(|f| f.reason.as_str()),
            error = failure.map(|f| f.message.as_str()),
            mailbox = self.log.show(course.job.mailbox.as_str()),
            folder = self.log.show(course.job.folder.as_str()),
            bucket = course.job.blob.bucket,
            key = self.log.show(&course.job.blob.key),
            bytes = event.bytes,
            attempts = event.attempts,
            replay = event.replay,
            request_id = event.request_id,
            trace_id = course.trace_id(),
            queued_ms = millis(queued),
            fetch_ms = millis(fetch),
            session_ms = millis(session),
            import_ms = millis(import),
            total_ms = millis(total),
            "job ended"
        );
    }

    /// One line for each trouble that is not the end yet.
    pub(super) fn log_trouble(&self, course: &Course, error: &RestoreError) {
        warn!(
            job_id = %course.job.id,
            reason = error.reason.as_str(),
            http_status = error.http_status,
            graph_code = error.graph_code,
            request_id = error.request_id,
            trace_id = course.trace_id(),
            attempts = course.journey.attempt.saturating_add(1),
            mailbox = self.log.show(course.job.mailbox.as_str()),
            error = %error,
            "attempt failed"
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Growing pauses between tries to publish.
pub(super) struct Patience {
    backoff: Backoff,
    tries: u32,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { backoff: Backoff::try_new(PUBLISH.0, PUBLISH.1).expect("two constants in order"), tries: 0 }
    }

    pub(super) fn next(&mut self) -> Duration {
        self.tries = self.tries.saturating_add(1);
        self.backoff.delay(self.tries, fastrand::f64(), None)
    }
}
