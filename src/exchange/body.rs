//! The body of an import request: JSON around base64, streamed, of a length that is known ahead.
//!
//! Promises: the closing bytes are a frame of their own, yielded only after the source has ended well (a blob checks
//! itself at its end) and only while the fence is open; so a body that was not completed cannot be an import, and
//! [`Progress::was_completed`] is a fact. Memory: one chunk and its base64. Never re-encodes what it has yielded.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body, Frame, SizeHint};
use serde_json::json;
use tokio::sync::Notify;

use super::fence::Fence;
use crate::domain::{Dependency, Fault, FolderId, ImportMode, Reason, RestoreError};

/// What closes the string and the object.
const CLOSING: &[u8] = b"\"}";

/// Everything before the base64: Pascal-case keys, `Data` last, as every known client sends them.
pub(super) fn head(folder: &FolderId, mode: &ImportMode) -> Bytes {
    let text = |text: &str| json!(text).to_string();
    let keys = match mode {
        ImportMode::Create => String::new(),
        ImportMode::Update { item_id, change_key } => {
            format!("\"ItemId\":{},\"ChangeKey\":{},", text(item_id.as_str()), text(change_key.as_str()))
        }
    };
    let (folder, mode) = (text(folder.as_str()), text(mode.as_str()));
    Bytes::from(format!("{{\"FolderId\":{folder},\"Mode\":{mode},{keys}\"Data\":\""))
}

/// Length of the base64 of `length` bytes, padding included.
pub(super) const fn base64_length(length: u64) -> u64 {
    length.div_ceil(3).saturating_mul(4)
}

/// Length of a whole body with this head, of `length` FTS bytes.
pub(super) fn request_bytes(head: &[u8], length: u64) -> u64 {
    let around = u64::try_from(head.len() + CLOSING.len()).unwrap_or(u64::MAX);
    around.saturating_add(base64_length(length))
}

const OPEN: u8 = 0;
const HELD: u8 = 1;
const CUT: u8 = 2;
const COMPLETED: u8 = 3;

/// What sender and body know of each other.
#[derive(Debug)]
pub(super) struct Progress {
    state: AtomicU8,
    handed: AtomicU64,
    failure: Mutex<Option<RestoreError>>,
    completed: Notify,
    fence: Fence,
}

impl Progress {
    pub(super) fn new(fence: Fence) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(OPEN),
            handed: AtomicU64::new(0),
            failure: Mutex::new(None),
            completed: Notify::new(),
            fence,
        })
    }

    /// Whether the closing bytes were handed over: the import may happen.
    pub(super) fn was_completed(&self) -> bool {
        self.state.load(Ordering::SeqCst) == COMPLETED
    }

    /// Waits for the closing bytes.
    pub(super) async fn completed(&self) {
        let notified = self.completed.notified();
        if !self.was_completed() {
            notified.await;
        }
    }

    /// Yields nothing more for now (an answer has come early and is being read).
    pub(super) fn hold(&self) {
        self.turn(OPEN, HELD);
    }

    /// Fails the body, unless it is complete: a refused upload must neither cost quota nor become complete.
    pub(super) fn cut(&self) {
        self.turn(OPEN, CUT);
        self.turn(HELD, CUT);
        self.fence.wake();
    }

    /// Waits until the send is aborted while the body is open, and fails the body. A connection that takes no more bytes
    /// does not ask the body for any, so the body alone would never hear of it.
    pub(super) async fn aborted(&self) {
        self.fence.aborted().await;
        if !self.end_early() {
            std::future::pending::<()>().await;
        }
    }

    /// Fails the body if it is still open, and tells whether it failed in this way, now or before.
    fn end_early(&self) -> bool {
        if self.turn(OPEN, CUT) {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert(passing("the import was ended before its body was complete"));
        }
        self.state.load(Ordering::SeqCst) == CUT
    }

    /// Bytes handed over so far.
    pub(super) fn handed(&self) -> u64 {
        self.handed.load(Ordering::Relaxed)
    }

    /// Why the body failed itself, if it did.
    pub(super) fn take_failure(&self) -> Option<RestoreError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn turn(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn fail(&self, error: RestoreError) -> BodyFailed {
        self.turn(OPEN, CUT);
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        BodyFailed
    }
}

/// The body ended itself; why is in its [`Progress`].
#[derive(Debug, thiserror::Error)]
#[error("the body of the import ended itself before its closing bytes")]
pub(super) struct BodyFailed;

enum Part {
    Head(Bytes),
    Data,
    /// `true`: has let the connection write what it holds.
    Closing(bool),
    End,
}

/// The body; see the module.
pub(super) struct ImportBody<S> {
    part: Part,
    // Only for `Sync`, which the HTTP client wants: never locked, `get_mut` is enough.
    source: Mutex<S>,
    carry: Vec<u8>,
    expected: u64,
    seen: u64,
    left: u64,
    progress: Arc<Progress>,
}

impl<S> ImportBody<S> {
    /// A body of `length` FTS bytes from `source`.
    pub(super) fn new(head: Bytes, length: u64, source: S, progress: Arc<Progress>) -> Self {
        let left = request_bytes(&head, length);
        Self {
            part: Part::Head(head),
            source: Mutex::new(source),
            carry: Vec::with_capacity(3),
            expected: length,
            seen: 0,
            left,
            progress,
        }
    }

    fn hand_over(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.left = self.left.saturating_sub(length);
        self.progress.handed.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    /// Base64 of the chunk behind what was carried over; up to two bytes are carried on.
    fn encode(&mut self, chunk: &[u8]) -> Result<Bytes, RestoreError> {
        self.seen = self.seen.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if self.seen > self.expected {
            return Err(self.wrong_length());
        }
        let need = (3 - self.carry.len()) % 3;
        let (first, rest) = chunk.split_at(need.min(chunk.len()));
        self.carry.extend_from_slice(first);
        if !self.carry.len().is_multiple_of(3) {
            return Ok(Bytes::new());
        }
        let whole = rest.len() - rest.len() % 3;
        // Into room of its own length: the encoder's `String` fills by way of a buffer, one more copy of every byte.
        let carried = self.carry.len() / 3 * 4;
        let mut text = vec![0; carried + whole / 3 * 4];
        let (first, rest_of_text) = text.split_at_mut(carried);
        encode_into(&self.carry, first);
        encode_into(&rest[..whole], rest_of_text);
        self.carry.clear();
        self.carry.extend_from_slice(&rest[whole..]);
        Ok(Bytes::from(text))
    }

    /// The end of the base64, when the source has ended.
    fn end(&mut self) -> Result<Bytes, RestoreError> {
        if self.seen != self.expected {
            return Err(self.wrong_length());
        }
        let text = STANDARD.encode(&self.carry);
        self.carry.clear();
        Ok(Bytes::from(text))
    }

    fn wrong_length(&self) -> RestoreError {
        let relation = if self.seen > self.expected { "more" } else { "fewer" };
        RestoreError::job(
            Reason::BlobCorrupt,
            format!("the blob yielded {relation} bytes than its length of {}", self.expected),
        )
    }

    fn close(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        if self.progress.fence.has_passed() {
            let error = passing("the lease ran out before the body was complete, so the import was not sent");
            return Poll::Ready(Some(Err(self.progress.fail(error))));
        }
        if !self.progress.turn(OPEN, COMPLETED) {
            return Poll::Ready(Some(Err(BodyFailed)));
        }
        self.part = Part::End;
        self.progress.completed.notify_waiters();
        self.hand_over(Bytes::from_static(CLOSING))
    }
}

/// Base64 of whole groups of three bytes, into exactly its room.
fn encode_into(bytes: &[u8], text: &mut [u8]) {
    STANDARD.encode_slice(bytes, text).expect("three bytes are four letters");
}

fn passing(message: &str) -> RestoreError {
    let fault = Fault::Passing { dependency: Dependency::Exchange, retry_after: None };
    RestoreError::new(fault, Reason::ExchangeUnavailable, message)
}

impl<S> Body for ImportBody<S>
where
    S: Stream<Item = Result<Bytes, RestoreError>> + Unpin,
{
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        if matches!(this.part, Part::End) {
            return Poll::Ready(None);
        }
        this.progress.fence.register(context.waker());
        loop {
            match this.progress.state.load(Ordering::SeqCst) {
                HELD => return Poll::Pending,
                CUT => return Poll::Ready(Some(Err(BodyFailed))),
                _ => {}
            }
            if this.progress.fence.is_aborted() {
                this.progress.end_early();
                return Poll::Ready(Some(Err(BodyFailed)));
            }
            match &mut this.part {
                Part::Head(head) => {
                    let head = std::mem::take(head);
                    this.part = Part::Data;
                    return this.hand_over(head);
                }
                Part::Data => {
                    let source = this.source.get_mut().unwrap_or_else(PoisonError::into_inner);
                    let text = if let Some(chunk) = std::task::ready!(Pin::new(source).poll_next(context)) {
                        chunk.and_then(|chunk| this.encode(&chunk))
                    } else {
                        this.part = Part::Closing(false);
                        this.end()
                    };
                    match text {
                        Err(error) => return Poll::Ready(Some(Err(this.progress.fail(error)))),
                        Ok(text) if text.is_empty() => {}
                        Ok(text) => return this.hand_over(text),
                    }
                }
                Part::Closing(flushed) if !*flushed => {
                    // The connection writes what it holds before it asks again: a peer that is gone shows itself
                    // before the closing bytes, not after.
                    *flushed = true;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Part::Closing(_) => return this.close(),
                Part::End => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.part, Part::End)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::{ChangeKey, ItemId},
        exchange::fence::Boottime,
    };

    type Chunk = Result<Bytes, RestoreError>;

    fn body(
        chunks: Vec<Chunk>,
        length: u64,
        fence: Fence,
    ) -> (ImportBody<impl Stream<Item = Chunk> + Unpin>, Arc<Progress>) {
        let progress = Progress::new(fence);
        let head = head(&FolderId::parse("f\"older").expect("an id"), &ImportMode::Create);
        (ImportBody::new(head, length, stream::iter(chunks), Arc::clone(&progress)), progress)
    }

    /// Polls to the end; a `Pending` is polled again.
    fn drain<S: Stream<Item = Chunk> + Unpin>(mut body: ImportBody<S>) -> (Vec<u8>, bool) {
        let mut context = Context::from_waker(Waker::noop());
        let mut sent = Vec::new();
        for _ in 0..10_000 {
            match Pin::new(&mut body).poll_frame(&mut context) {
                Poll::Pending => {}
                Poll::Ready(None) => return (sent, true),
                Poll::Ready(Some(Err(BodyFailed))) => return (sent, false),
                Poll::Ready(Some(Ok(frame))) => sent.extend_from_slice(&frame.into_data().expect("data")),
            }
        }
        (sent, false)
    }

    fn chunks(pieces: &[Vec<u8>]) -> (Vec<Chunk>, Vec<u8>, u64) {
        let whole = pieces.concat();
        let length = u64::try_from(whole.len()).expect("fits");
        (pieces.iter().map(|piece| Ok(Bytes::from(piece.clone()))).collect(), whole, length)
    }

    proptest! {
        #[test]
        fn any_chunking_makes_the_same_json(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..20),
        ) {
            let (chunks, whole, length) = chunks(&pieces);
            let (body, progress) = body(chunks, length, Fence::none());
            let told = body.size_hint().exact().expect("a length");
            let (sent, well) = drain(body);
            prop_assert!(well && progress.was_completed());
            prop_assert_eq!(told, u64::try_from(sent.len()).expect("fits"));
            prop_assert_eq!(progress.handed(), told);
            let json: serde_json::Value = serde_json::from_slice(&sent).expect("JSON");
            prop_assert_eq!(json["FolderId"].as_str(), Some("f\"older"));
            prop_assert_eq!(STANDARD.decode(json["Data"].as_str().expect("text")).expect("base64"), whole);
        }

        #[test]
        fn a_wrong_length_never_completes(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..10),
            wrong in 0_u64..300,
        ) {
            let (chunks, _, length) = chunks(&pieces);
            prop_assume!(wrong != length);
            let (body, progress) = body(chunks, wrong, Fence::none());
            let (sent, well) = drain(body);
            prop_assert!(!well && !progress.was_completed() && !sent.ends_with(CLOSING));
            prop_assert_eq!(progress.take_failure().map(|error| error.reason), Some(Reason::BlobCorrupt));
        }
    }

    #[test]
    fn keys_come_in_order_and_data_last() {
        let folder = FolderId::parse("AAA=").expect("an id");
        assert_eq!(
            head(&folder, &ImportMode::Create),
            "{\"FolderId\":\"AAA=\",\"Mode\":\"create\",\"Data\":\""
        );
        let item_id = ItemId::parse("I").expect("an id");
        let change_key = ChangeKey::parse("C").expect("a key");
        assert_eq!(
            head(&folder, &ImportMode::Update { item_id, change_key }),
            "{\"FolderId\":\"AAA=\",\"Mode\":\"update\",\"ItemId\":\"I\",\"ChangeKey\":\"C\",\"Data\":\""
        );
    }

    #[test]
    fn the_sources_own_error_is_kept() {
        let own = RestoreError::job(Reason::BlobCorrupt, "digest differs");
        let (body, progress) = body(vec![Ok(Bytes::from_static(b"abc")), Err(own.clone())], 3, Fence::none());
        let (sent, well) = drain(body);
        assert!(!well && !progress.was_completed() && !sent.ends_with(CLOSING));
        assert_eq!(progress.take_failure(), Some(own));
    }

    #[test]
    fn a_passed_fence_keeps_the_closing_bytes() {
        let (body, progress) = body(vec![Ok(Bytes::from_static(b"abc"))], 3, Fence::until(Boottime::now()));
        let (sent, well) = drain(body);
        assert!(!well && !progress.was_completed() && sent.ends_with(b"YWJj"));
        let error = progress.take_failure().expect("a failure");
        assert!(error.message.contains("lease ran out") && error.reason == Reason::ExchangeUnavailable);
    }

    #[test]
    fn an_abort_and_a_cut_end_it_and_a_hold_pauses_it() {
        for how in ["abort", "cut", "hold"] {
            let fence = Fence::none();
            let (mut body, progress) = body(vec![Ok(Bytes::from_static(b"abc"))], 3, fence.clone());
            let mut context = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut body).poll_frame(&mut context).is_ready());
            match how {
                "abort" => fence.abort(),
                "cut" => progress.cut(),
                _ => progress.hold(),
            }
            assert_eq!(Pin::new(&mut body).poll_frame(&mut context).is_pending(), how == "hold");
            progress.cut();
            let (sent, well) = drain(body);
            assert!(!well && sent.is_empty() && !progress.was_completed(), "{how}");
        }
    }

    #[test]
    fn the_closing_bytes_come_after_a_pause_of_their_own() {
        let (mut body, progress) = body(vec![Ok(Bytes::from_static(b"abc"))], 3, Fence::none());
        let mut context = Context::from_waker(Waker::noop());
        let mut poll = || Pin::new(&mut body).poll_frame(&mut context);
        assert!(poll().is_ready() && poll().is_ready());
        assert!(poll().is_pending() && !progress.was_completed());
        assert!(poll().is_ready() && progress.was_completed());
        progress.cut();
        assert!(progress.was_completed());
    }
}
