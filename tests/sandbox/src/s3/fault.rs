//! Trouble by script: what a client of object storage may meet.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response,
    body::{Frame, Incoming},
};
use s3s::service::S3Service;
use tokio::sync::Notify;

use super::watch::{Next, Seen, Watch};

/// What happens instead of, or beside, the real answer.
#[derive(Clone, Debug)]
pub enum Effect {
    /// This status and code; nothing is read or written.
    Answer {
        /// HTTP status.
        status: u16,
        /// S3's code, for example `SlowDown`.
        code: &'static str,
    },
    /// The real answer, later.
    Delay(Duration),
    /// The real answer, its body cut after so many bytes.
    CutBody(usize),
    /// The real answer, its body standing still after so many bytes until the fault is cleared.
    StallBody(usize),
    /// Done, but the connection ends without an answer.
    LoseAnswer,
    /// The connection ends without an answer, and nothing is done.
    Cut,
}

/// One trouble.
#[derive(Clone, Debug)]
pub struct Fault {
    method: Option<Method>,
    key_prefix: String,
    effect: Effect,
    left: Option<u64>,
    chance: f64,
}

impl Fault {
    /// A trouble of every request, once.
    #[must_use]
    pub fn new(effect: Effect) -> Self {
        Self { method: None, key_prefix: String::new(), effect, left: Some(1), chance: 1.0 }
    }

    /// Only for this method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Only for `bucket/key…` that begin so.
    #[must_use]
    pub fn key(mut self, bucket_and_key: &str) -> Self {
        bucket_and_key.clone_into(&mut self.key_prefix);
        self
    }

    /// So many times.
    #[must_use]
    pub const fn times(mut self, times: u64) -> Self {
        self.left = Some(times);
        self
    }

    /// Until it is cleared.
    #[must_use]
    pub const fn always(mut self) -> Self {
        self.left = None;
        self
    }

    /// With this probability.
    #[must_use]
    pub const fn chance(mut self, chance: f64) -> Self {
        self.chance = chance;
        self
    }
}

/// Names a fault, to clear or count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId(u64);

/// The script. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    out: AtomicBool,
    script: Mutex<Script>,
    cleared: Notify,
    watch: OnceLock<Arc<dyn Watch>>,
}

#[derive(Debug, Default)]
struct Script {
    next: u64,
    faults: BTreeMap<FaultId, Fault>,
    fired: BTreeMap<FaultId, u64>,
    requests: BTreeMap<String, u64>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Script> {
        self.0.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a trouble; the first that fits a request fires.
    #[expect(clippy::must_use_candidate, reason = "what changes the script also tells how to take it back")]
    pub fn add(&self, fault: Fault) -> FaultId {
        let mut script = self.lock();
        script.next += 1;
        let id = FaultId(script.next);
        script.faults.insert(id, fault);
        id
    }

    /// Removes a trouble; bodies that stood still for it go on.
    pub fn clear(&self, id: FaultId) {
        self.lock().faults.remove(&id);
        self.0.cleared.notify_waiters();
    }

    /// Removes every trouble.
    pub fn clear_all(&self) {
        self.lock().faults.clear();
        self.set_out(false);
        self.0.cleared.notify_waiters();
    }

    /// How often it fired.
    #[must_use]
    pub fn fired(&self, id: FaultId) -> u64 {
        self.lock().fired.get(&id).copied().unwrap_or_default()
    }

    /// An outage: connections end before a word.
    pub fn set_out(&self, out: bool) {
        self.0.out.store(out, Ordering::SeqCst);
    }

    pub(super) fn is_out(&self) -> bool {
        self.0.out.load(Ordering::SeqCst)
    }

    /// Requests by method.
    #[must_use]
    pub fn requests(&self, method: &str) -> u64 {
        self.lock().requests.get(method).copied().unwrap_or_default()
    }

    /// Shows every request to somebody, from now on. Only the first who asks is heard.
    pub fn watch(&self, watch: Arc<dyn Watch>) {
        self.0.watch.set(watch).ok();
    }

    fn meet(&self, method: &Method, path: &str) -> Option<(FaultId, Effect)> {
        let mut script = self.lock();
        *script.requests.entry(method.to_string()).or_default() += 1;
        let fits = |fault: &Fault| {
            fault.method.as_ref().is_none_or(|m| m == method)
                && path.trim_start_matches('/').starts_with(&fault.key_prefix)
                && fault.left != Some(0)
                && (fault.chance >= 1.0 || fastrand::f64() < fault.chance)
        };
        let (id, fault) = script.faults.iter_mut().find(|(_, fault)| fits(fault))?;
        if let Some(left) = &mut fault.left {
            *left -= 1;
        }
        let (id, effect) = (*id, fault.effect.clone());
        *script.fired.entry(id).or_default() += 1;
        Some((id, effect))
    }

    async fn until_cleared(&self, id: FaultId) {
        loop {
            let cleared = self.0.cleared.notified();
            if !self.lock().faults.contains_key(&id) {
                return;
            }
            cleared.await;
        }
    }
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Answers one request, with or without trouble. An error ends the connection.
pub(super) async fn answer(
    service: S3Service,
    faults: Faults,
    request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let lost = || io::Error::new(io::ErrorKind::ConnectionReset, "by script");
    if faults.is_out() {
        return Err(lost());
    }
    let met = faults.meet(request.method(), request.uri().path());
    match &met {
        Some((_, Effect::Answer { status, code })) => return refuse(*status, code),
        Some((_, Effect::Cut)) => return Err(lost()),
        Some((_, Effect::Delay(time))) => tokio::time::sleep(*time).await,
        Some((_, Effect::CutBody(_) | Effect::StallBody(_) | Effect::LoseAnswer)) | None => {}
    }
    let watch = faults.0.watch.get();
    let (seen, request) = match watch {
        Some(_) => Seen::of(request).await?,
        None => (Seen::default(), request.map(s3s::Body::from)),
    };
    if watch.is_some_and(|watch| watch.arrived(&seen) == Next::Cut) {
        return Err(lost());
    }
    let answer = service.call(request).await.map_err(|e| io::Error::other(format!("{e:?}")))?;
    if watch.is_some_and(|watch| watch.done(&seen, answer.status().as_u16()) == Next::Cut) {
        return Err(lost());
    }
    let body = |answer: Response<s3s::Body>| answer.map(|body| body.map_err(io::Error::other).boxed_unsync());
    match met {
        Some((_, Effect::LoseAnswer)) => Err(lost()),
        Some((_, Effect::CutBody(after))) => {
            // What was given out before has to leave first.
            let cut = async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(lost())
            };
            Ok(answer.map(|body| cut_after(body, after, cut)))
        }
        Some((id, Effect::StallBody(after))) => {
            let wait = async move {
                faults.until_cleared(id).await;
                Ok(())
            };
            Ok(answer.map(|body| cut_after(body, after, wait)))
        }
        Some((_, Effect::Answer { .. } | Effect::Cut | Effect::Delay(_))) | None => Ok(body(answer)),
    }
}

fn refuse(status: u16, code: &str) -> io::Result<Response<Body>> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>by script</Message></Error>"
    );
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    Response::builder()
        .status(status)
        .header("content-type", "application/xml")
        .body(body)
        .map_err(io::Error::other)
}

/// The body's first bytes, then whatever `then` says, then the rest.
fn cut_after(
    body: s3s::Body,
    after: usize,
    then: impl Future<Output = io::Result<()>> + Send + 'static,
) -> Body {
    let mut left = after;
    let mut then = Some(Box::pin(then));
    let stream = body.into_data_stream().then(move |chunk| {
        let waits = match &chunk {
            Ok(chunk) if chunk.len() > left => then.take(),
            Ok(chunk) => {
                left -= chunk.len();
                None
            }
            Err(_) => None,
        };
        async move {
            if let Some(waits) = waits {
                waits.await?;
            }
            chunk.map(Frame::data).map_err(io::Error::other)
        }
    });
    StreamBody::new(stream).boxed_unsync()
}
