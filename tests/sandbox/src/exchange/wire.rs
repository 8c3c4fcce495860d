//! Sockets: TLS, HTTP/1.1 and HTTP/2, and the ways in which a connection can end badly.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{fault::Cut, host::Part};
use crate::authority::accepted;

const NOTHING: u8 = 0;
const CLOSE: u8 = 1;
const RESET: u8 = 2;

/// A connection's strings: lets a request end the connection that it came on.
#[derive(Debug, Default)]
pub(super) struct Line {
    ended: CancellationToken,
    reset: AtomicU8,
    trap: AtomicU8,
}

impl Line {
    /// Ends the connection now.
    pub(super) fn sever(&self, cut: Cut) {
        if cut == Cut::Reset {
            self.reset.store(RESET, Ordering::SeqCst);
        }
        self.ended.cancel();
    }

    /// Ends the connection when the next byte comes.
    pub(super) fn set_trap(&self, cut: Cut) {
        let how = if cut == Cut::Reset { RESET } else { CLOSE };
        self.trap.store(how, Ordering::SeqCst);
    }
}

/// The connections that are open.
#[derive(Debug, Default)]
pub(super) struct Lines {
    next: u64,
    open: BTreeMap<u64, (Part, Arc<Line>)>,
}

impl Lines {
    pub(super) fn add(&mut self, part: Part, line: Arc<Line>) -> u64 {
        self.next += 1;
        self.open.insert(self.next, (part, line));
        self.next
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.open.remove(&id);
    }

    pub(super) fn of(&self, part: Part) -> impl Iterator<Item = &Arc<Line>> {
        self.open.values().filter(move |(of, _)| *of == part).map(|(_, line)| line)
    }
}

/// The TCP stream below TLS.
struct Wire {
    stream: TcpStream,
    line: Arc<Line>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.line.reset.load(Ordering::SeqCst) == RESET {
            // Without it the reset would be an ordinary close; nothing else can be done here.
            self.stream.set_zero_linger().ok();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let trap = self.line.trap.load(Ordering::SeqCst);
        if trap == NOTHING || buf.filled().len() == before {
            return read;
        }
        self.line.sever(if trap == RESET { Cut::Reset } else { Cut::Close });
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum ReplyBody {
    /// All of it.
    Full(Option<Bytes>),
    /// The first half of it, then the connection ends.
    Half { whole: u64, part: Option<Bytes>, flushed: bool },
    /// So many bytes of nothing.
    Huge { left: u64 },
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match &mut *self {
            ReplyBody::Full(body) => body.take().map(|body| Ok(Frame::data(body))),
            ReplyBody::Half { part, flushed, .. } => match part.take() {
                Some(part) => Some(Ok(Frame::data(part))),
                // A pause, in which the half is sent.
                None if !*flushed => {
                    *flushed = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                None => Some(Err(io::ErrorKind::ConnectionAborted.into())),
            },
            ReplyBody::Huge { left: 0 } => None,
            ReplyBody::Huge { left } => {
                const BLOCK: &[u8] = &[b' '; 16 * 1024];
                let piece = usize::try_from(*left).unwrap_or(usize::MAX).min(BLOCK.len());
                *left -= piece as u64;
                cx.waker().wake_by_ref();
                Some(Ok(Frame::data(Bytes::from_static(BLOCK).slice(..piece))))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ReplyBody::Full(None) | ReplyBody::Huge { left: 0 })
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Full(body) => SizeHint::with_exact(body.as_ref().map_or(0, |b| b.len() as u64)),
            ReplyBody::Half { whole, .. } => SizeHint::with_exact(*whole),
            ReplyBody::Huge { .. } => SizeHint::new(),
        }
    }
}

/// Whether the reply cannot be given because the connection has ended.
#[derive(Debug)]
pub(super) struct Severed;

impl std::fmt::Display for Severed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut by script")
    }
}

impl std::error::Error for Severed {}

/// What answers the requests of a listener.
pub(super) trait Host: Clone + Send + Sync + 'static {
    fn reply(
        &self,
        line: Arc<Line>,
        request: hyper::Request<hyper::body::Incoming>,
    ) -> impl Future<Output = Result<hyper::Response<ReplyBody>, Severed>> + Send;

    /// A connection was accepted; what this gives is dropped with it.
    fn opened(&self, line: Arc<Line>) -> impl Send + 'static;
}

/// Serves a listener until `stop`.
pub(super) async fn listen(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    host: impl Host,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors: let connections end.
            tokio::task::yield_now().await;
            continue;
        };
        let (tls, host, stop) = (tls.clone(), host.clone(), stop.clone());
        tokio::spawn(async move {
            let line = Arc::new(Line::default());
            let _open = host.opened(Arc::clone(&line));
            tokio::select! {
                () = stop.cancelled() => {}
                () = line.ended.cancelled() => {}
                () = connection(stream, tls, host, Arc::clone(&line)) => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, host: impl Host, line: Arc<Line>) {
    // Only latency depends on it.
    stream.set_nodelay(true).ok();
    let wire = Wire { stream, line: Arc::clone(&line) };
    if let Some(stream) = accepted(wire, tls).await {
        requests(TokioIo::new(stream), host, line).await;
    }
}

async fn requests<I>(io: I, host: impl Host, line: Arc<Line>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let (host, line) = (host.clone(), Arc::clone(&line));
        async move { host.reply(line, request).await }
    });
    // How a connection ends shows in what its requests did; the error adds nothing.
    auto::Builder::new(TokioExecutor::new()).serve_connection(io, service).await.ok();
}
