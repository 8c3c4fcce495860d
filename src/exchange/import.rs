//! The import request: one send of one item, and what became of it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::Stream;
use reqwest::{Client, Response, Url, header};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{
    Remedy,
    answer::{self, Call},
    body::{self, ImportBody, Progress},
    client, clock,
    counted::{count, count_limit},
    fence::Fence,
    graph::{MAX_ERROR, unreachable},
    wire::{self, Hints, Said},
};
use crate::{
    domain::{Fault, FolderId, ImportMode, Imported, Reason, RestoreError},
    metrics::Metrics,
};

/// Largest success body that is read; real ones are below 1 KiB.
const MAX_SUCCESS: usize = 256 * 1024;
/// Longest wait for the text of a refusal.
const ERROR_WITHIN: Duration = Duration::from_secs(1);

/// What is imported: where to, how, and how many FTS bytes will come.
#[derive(Clone, Copy, Debug)]
pub struct ImportItem<'a> {
    /// The folder.
    pub folder: &'a FolderId,
    /// Create or update.
    pub mode: &'a ImportMode,
    /// FTS bytes that the chunks hold, exactly.
    pub length: u64,
}

impl ImportItem<'_> {
    /// Bytes of the request's body, exactly: base64, and the JSON around it. This is what counts against the mailbox's quota.
    #[must_use]
    pub fn request_bytes(&self) -> u64 {
        body::request_bytes(&body::head(self.folder, self.mode), self.length)
    }
}

/// Exchange took the item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportAnswer {
    /// The proof.
    pub imported: Imported,
    /// Exchange's request id.
    pub request_id: Option<String>,
}

/// Exchange did not take the item, or nobody knows.
#[derive(Debug)]
pub struct ImportFailure {
    /// Whose trouble, and why.
    pub error: RestoreError,
    /// The closing bytes were handed over: the import may have happened, unless the answer says otherwise.
    pub completed: bool,
    /// What is worth one more try.
    pub remedy: super::Remedy,
}

/// One send.
pub(super) struct Send<'a> {
    pub(super) client: &'a Client,
    pub(super) metrics: &'a Metrics,
    pub(super) url: &'a Url,
    pub(super) fresh: bool,
    pub(super) overall: Duration,
    pub(super) answer_within: Duration,
}

/// Cuts the body when the send is over or dropped: hyper would go on pulling it to its end.
struct Cutting(Arc<Progress>);

impl Drop for Cutting {
    fn drop(&mut self) {
        self.0.cut();
    }
}

impl Send<'_> {
    /// Sends the item and judges the answer.
    pub(super) async fn run<S>(
        &self,
        item: ImportItem<'_>,
        chunks: S,
        fence: Fence,
    ) -> Result<ImportAnswer, ImportFailure>
    where
        S: Stream<Item = Result<Bytes, RestoreError>> + std::marker::Send + Unpin + 'static,
    {
        let progress = Progress::new(fence);
        let cutting = Cutting(Arc::clone(&progress));
        let head = body::head(item.folder, item.mode);
        let body = ImportBody::new(head, item.length, chunks, Arc::clone(&progress));
        let started = Instant::now();
        let answer = self.exchange(body, &progress).await;
        drop(cutting);
        let completed = progress.was_completed();
        self.metrics.bytes.with_label_values(&["uploaded"]).inc_by(progress.handed());
        let status = answer.as_ref().map_or("error".into(), |heard| heard.status.to_string());
        count(self.metrics, "import", &status, started.elapsed());
        let update = matches!(item.mode, ImportMode::Update { .. });
        let call = Call::Import { update, fresh: self.fresh, completed };
        let (outcome, remedy) = match answer {
            Ok(it) => it.judge(call),
            Err(silence) => (Err(silence.judge(completed, &progress)), Remedy::None),
        };
        outcome.map_err(|error| {
            count_limit(self.metrics, &error);
            ImportFailure { error, completed, remedy }
        })
    }

    /// Sends and reads the answer, within both time-outs.
    async fn exchange<S>(&self, body: ImportBody<S>, progress: &Progress) -> Result<Heard, Silence>
    where
        S: Stream<Item = Result<Bytes, RestoreError>> + std::marker::Send + Unpin + 'static,
    {
        let overdue = async {
            progress.completed().await;
            sleep(self.answer_within).await;
        };
        let both = async {
            tokio::select! {
                heard = self.send_and_read(body, progress) => heard,
                () = overdue => Err(Silence::TimeOut),
                () = progress.aborted() => Err(Silence::Broken("the send was aborted".into())),
            }
        };
        timeout(self.overall, both).await.unwrap_or(Err(Silence::TimeOut))
    }

    async fn send_and_read<S>(&self, body: ImportBody<S>, progress: &Progress) -> Result<Heard, Silence>
    where
        S: Stream<Item = Result<Bytes, RestoreError>> + std::marker::Send + Unpin + 'static,
    {
        let id = Uuid::new_v4().to_string();
        let answer = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header("client-request-id", &id)
            .body(reqwest::Body::wrap(body))
            .send()
            .await
            .map_err(|error| Silence::Broken(client::tell(error)))?;
        // An answer before the closing bytes is a refusal: nothing more leaves while it is read.
        progress.hold();
        let hints = Hints::read(answer.headers(), clock::own_clock());
        let status = answer.status().as_u16();
        tracing::debug!(
            status,
            client_request_id = id,
            request_id = hints.request_id,
            "the import was answered"
        );
        Ok(Heard { status, body: read(answer).await, hints })
    }
}

async fn read(answer: Response) -> Bytes {
    if answer.status().is_success() {
        client::read(answer, MAX_SUCCESS).await.unwrap_or_default()
    } else {
        // The status alone can be judged: a slow text does not make a refusal a doubt.
        timeout(ERROR_WITHIN, client::read_some(answer, MAX_ERROR)).await.unwrap_or_default()
    }
}

/// An answer.
struct Heard {
    status: u16,
    body: Bytes,
    hints: Hints,
}

impl Heard {
    fn judge(self, call: Call) -> (Result<ImportAnswer, RestoreError>, Remedy) {
        let request_id = self.hints.request_id.clone();
        if !(200..300).contains(&self.status) {
            let judged = answer::judge(call, self.status, &self.hints, &Said::decode(&self.body));
            tracing::debug!(status = self.status, known = ?judged.known, fault = ?judged.error.fault, "an answer was judged");
            return (Err(judged.error), judged.remedy);
        }
        // Liberal: any 2xx with both keys is proof, whatever its number.
        let outcome = match wire::imported(&self.body) {
            Some(imported) => Ok(ImportAnswer { imported, request_id }),
            None => Err(RestoreError { request_id, http_status: Some(self.status), ..mute(self.status) }),
        };
        (outcome, Remedy::None)
    }
}

/// A 2xx that names no item: in doubt, whatever was handed over.
fn mute(status: u16) -> RestoreError {
    let message = format!("the import was answered {status} without itemId and changeKey");
    RestoreError::new(Fault::InDoubt, Reason::OutcomeUnknown, message)
}

/// No answer.
enum Silence {
    TimeOut,
    Broken(String),
}

impl Silence {
    /// The body's own failure first; else doubt, if the closing bytes were handed over.
    fn judge(self, completed: bool, progress: &Progress) -> RestoreError {
        if let Some(own) = progress.take_failure() {
            return own;
        }
        let why = match self {
            Self::TimeOut => "no answer came in time".to_owned(),
            Self::Broken(why) => why,
        };
        if completed {
            let message = format!("the import was sent completely, but not answered: {why}");
            RestoreError::new(Fault::InDoubt, Reason::OutcomeUnknown, message)
        } else {
            unreachable(&format!("the import was not sent completely: {why}"))
        }
    }
}
