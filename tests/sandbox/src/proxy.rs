//! A TCP proxy on loopback that can lose, hold and refuse connections: the network's bad days, on demand.
//!
//! Every task ends when the [`Proxy`] is dropped.

mod deliveries;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use self::deliveries::Deliveries;

/// How much a direction may hold when it is stalled, in bytes.
const BUFFER: usize = 16 * 1024;
/// How long a closed connection is read until the other side has closed too.
const CLOSING: Duration = Duration::from_secs(1);
/// How long to wait after a failed accept: the process may be out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Stands between a client and its target.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    switches: Arc<Switches>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Switches {
    target: watch::Sender<SocketAddr>,
    stalled: watch::Sender<bool>,
    deaf: AtomicBool,
    /// How the connections that are open at a change have to end.
    ending: watch::Sender<Ending>,
    refusing: AtomicBool,
    connections: AtomicUsize,
    accepted: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Close,
    Cut,
}

impl Proxy {
    /// Begins to forward a free port of loopback to the target.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen as a proxy on loopback")?;
        let addr = listener.local_addr().context("learn the proxy's port")?;
        let switches = Arc::new(Switches {
            target: watch::Sender::new(target),
            stalled: watch::Sender::new(false),
            deaf: AtomicBool::new(false),
            ending: watch::Sender::new(Ending::Close),
            refusing: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
        });
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, Arc::clone(&switches))));
        Ok(Self { addr, switches, _accepting: accepting })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Resets all open connections, on both sides.
    pub fn cut(&self) {
        self.switches.ending.send_replace(Ending::Cut);
    }

    /// Closes all open connections in good order, on both sides.
    pub fn close(&self) {
        self.switches.ending.send_replace(Ending::Close);
    }

    /// Stops forwarding both ways; sockets stay open, new connections are taken and hang too. What is being
    /// written at this moment, 16 KiB a direction at most, may still arrive.
    pub fn stall(&self) {
        self.switches.stalled.send_replace(true);
    }

    /// Forwards again, what was held first.
    pub fn resume(&self) {
        self.switches.stalled.send_replace(false);
    }

    /// Whether the deliveries of an AMQP server are left out, while everything else passes: a channel that stands and hears
    /// nothing. For connections that began to speak AMQP through this proxy.
    pub fn deafen(&self, deaf: bool) {
        self.switches.deaf.store(deaf, SeqCst);
    }

    /// Whether new connections are closed as soon as they are accepted. Open ones go on.
    pub fn refuse(&self, refusing: bool) {
        self.switches.refusing.store(refusing, SeqCst);
    }

    /// Forwards new connections to another target. Open ones go on.
    pub fn retarget(&self, target: SocketAddr) {
        self.switches.target.send_replace(target);
    }

    /// How many connections are open; refused ones never are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.switches.connections.load(SeqCst)
    }

    /// How many connections were ever accepted, refused ones included.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.switches.accepted.load(SeqCst)
    }
}

async fn accept(listener: TcpListener, switches: Arc<Switches>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = open.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    switches.accepted.fetch_add(1, SeqCst);
                    if !switches.refusing.load(SeqCst) {
                        open.spawn(Connection::new(&switches).forward(client));
                    }
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// Counted from its making to its drop.
struct Connection {
    switches: Arc<Switches>,
    ending: watch::Receiver<Ending>,
}

impl Connection {
    fn new(switches: &Arc<Switches>) -> Self {
        switches.connections.fetch_add(1, SeqCst);
        Self { switches: Arc::clone(switches), ending: switches.ending.subscribe() }
    }

    async fn forward(mut self, mut client: TcpStream) {
        let target = *self.switches.target.borrow();
        let connected = tokio::select! {
            connected = TcpStream::connect(target) => connected.ok(),
            _ = self.ending.changed() => None,
        };
        let Some(mut server) = connected else { return reset(&client) };
        let ending = tokio::select! {
            done = exchange(&mut client, &mut server, &self.switches) => match done {
                Ok(()) => Ending::Close,
                Err(_) => Ending::Cut,
            },
            _ = self.ending.changed() => *self.ending.borrow(),
        };
        match ending {
            Ending::Cut => {
                reset(&client);
                reset(&server);
            }
            Ending::Close => {
                drop(self);
                tokio::join!(finish(client), finish(server));
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.switches.connections.fetch_sub(1, SeqCst);
    }
}

/// Forwards both ways until both sides have finished, or one has failed.
async fn exchange(client: &mut TcpStream, server: &mut TcpStream, switches: &Switches) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    tokio::try_join!(
        pump(from_client, to_server, switches.stalled.subscribe(), |read| read),
        pump(from_server, to_client, switches.stalled.subscribe(), {
            let mut deliveries = Deliveries::default();
            move |read| deliveries.left_out(read, &switches.deaf)
        }),
    )?;
    Ok(())
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut stalled: watch::Receiver<bool>,
    mut filter: impl FnMut(Vec<u8>) -> Vec<u8>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        flowing(&mut stalled).await?;
        let read = from.read(&mut buffer).await?;
        flowing(&mut stalled).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&filter(buffer[..read].to_vec())).await?;
    }
}

async fn flowing(stalled: &mut watch::Receiver<bool>) -> io::Result<()> {
    stalled.wait_for(|stalled| !stalled).await.map(drop).map_err(io::Error::other)
}

/// The socket is reset when it is dropped. One that is gone already needs no reset.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().ok();
}

/// Says that nothing more comes, and reads on for a while: a socket with unread bytes would be reset.
async fn finish(mut stream: TcpStream) {
    stream.shutdown().await.ok();
    timeout(CLOSING, tokio::io::copy(&mut stream, &mut tokio::io::sink())).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const QUIET: Duration = Duration::from_millis(150);

    /// A server that answers each connection with a greeting, then with what it is sent.
    async fn echo(greeting: &'static [u8]) -> anyhow::Result<(SocketAddr, AbortOnDropHandle<()>)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let serving = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                open.spawn(async move {
                    stream.write_all(greeting).await?;
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        Ok((addr, AbortOnDropHandle::new(serving)))
    }

    async fn through(proxy: &Proxy) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(proxy.addr()).await?;
        assert_eq!(heard(&mut stream, 1).await?, b">");
        Ok(stream)
    }

    async fn heard(stream: &mut TcpStream, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        timeout(SOON, stream.read_exact(&mut bytes)).await??;
        Ok(bytes)
    }

    async fn echoes(stream: &mut TcpStream, word: &[u8]) -> anyhow::Result<bool> {
        stream.write_all(word).await?;
        Ok(heard(stream, word.len()).await? == word)
    }

    async fn end_of(stream: &mut TcpStream) -> anyhow::Result<io::Result<usize>> {
        Ok(timeout(SOON, stream.read(&mut [0; 8])).await?)
    }

    async fn until_open(proxy: &Proxy, connections: usize) -> anyhow::Result<()> {
        let reached = async {
            while proxy.connections() != connections {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, reached).await.context("the number of connections was never reached")
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_a_half_closed_side_still_hears() -> anyhow::Result<()> {
        let (target, _serving) = echo(b">").await?;
        let proxy = Proxy::start(target).await?;
        let mut stream = through(&proxy).await?;
        assert!(echoes(&mut stream, &vec![7; 100_000]).await?);
        assert_eq!((proxy.connections(), proxy.accepted()), (1, 1));
        stream.write_all(b"last").await?;
        stream.shutdown().await?;
        assert_eq!(heard(&mut stream, 4).await?, b"last");
        assert_eq!(end_of(&mut stream).await??, 0);
        until_open(&proxy, 0).await
    }

    #[tokio::test]
    async fn a_cut_is_a_reset_and_the_next_connection_works() -> anyhow::Result<()> {
        let (target, _serving) = echo(b">").await?;
        let proxy = Proxy::start(target).await?;
        let (mut one, mut two) = (through(&proxy).await?, through(&proxy).await?);
        proxy.cut();
        for stream in [&mut one, &mut two] {
            let error = end_of(stream).await?.expect_err("a reset is an error");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        until_open(&proxy, 0).await?;
        assert!(echoes(&mut through(&proxy).await?, b"again").await?);
        assert_eq!(proxy.accepted(), 3);
        Ok(())
    }

    #[tokio::test]
    async fn a_close_is_an_end_in_good_order() -> anyhow::Result<()> {
        let (target, _serving) = echo(b">").await?;
        let proxy = Proxy::start(target).await?;
        let mut stream = through(&proxy).await?;
        proxy.close();
        assert_eq!(end_of(&mut stream).await??, 0);
        until_open(&proxy, 0).await
    }

    #[tokio::test]
    async fn a_stalled_connection_hangs_and_goes_on_where_it_was() -> anyhow::Result<()> {
        let (target, _serving) = echo(b">").await?;
        let proxy = Proxy::start(target).await?;
        let mut stream = through(&proxy).await?;
        proxy.stall();
        stream.write_all(b"held").await?;
        let mut late = TcpStream::connect(proxy.addr()).await?;
        assert!(timeout(QUIET, stream.read(&mut [0; 8])).await.is_err());
        assert!(timeout(QUIET, late.read(&mut [0; 8])).await.is_err());
        assert_eq!(proxy.connections(), 2);
        proxy.resume();
        assert_eq!(heard(&mut stream, 4).await?, b"held");
        assert_eq!(heard(&mut late, 1).await?, b">");
        Ok(())
    }

    #[tokio::test]
    async fn a_stalled_connection_can_be_cut_and_closed() -> anyhow::Result<()> {
        let (target, _serving) = echo(b">").await?;
        let proxy = Proxy::start(target).await?;
        let mut stream = through(&proxy).await?;
        proxy.stall();
        stream.write_all(b"never heard").await?;
        proxy.close();
        assert_eq!(end_of(&mut stream).await??, 0);
        let mut late = TcpStream::connect(proxy.addr()).await?;
        until_open(&proxy, 1).await?;
        proxy.cut();
        assert!(end_of(&mut late).await?.is_err());
        Ok(())
    }

    #[tokio::test]
    async fn new_connections_are_refused_and_open_ones_go_on() -> anyhow::Result<()> {
        let (target, _serving) = echo(b">").await?;
        let proxy = Proxy::start(target).await?;
        let mut stream = through(&proxy).await?;
        proxy.refuse(true);
        assert_eq!(end_of(&mut TcpStream::connect(proxy.addr()).await?).await??, 0);
        assert!(echoes(&mut stream, b"still").await?);
        proxy.refuse(false);
        assert!(echoes(&mut through(&proxy).await?, b"welcome").await?);
        assert_eq!((proxy.connections() >= 1, proxy.accepted()), (true, 3));
        Ok(())
    }

    #[tokio::test]
    async fn a_new_target_is_for_new_connections_and_a_dead_one_is_a_reset() -> anyhow::Result<()> {
        let (first, _first) = echo(b">").await?;
        let (second, serving) = echo(b"2").await?;
        let proxy = Proxy::start(first).await?;
        let mut stream = through(&proxy).await?;
        proxy.retarget(second);
        assert!(echoes(&mut stream, b"first").await?);
        assert_eq!(heard(&mut TcpStream::connect(proxy.addr()).await?, 1).await?, b"2");
        drop(serving);
        while TcpStream::connect(second).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(end_of(&mut TcpStream::connect(proxy.addr()).await?).await?.is_err());
        Ok(())
    }

    #[tokio::test]
    async fn everything_ends_with_the_proxy() -> anyhow::Result<()> {
        let (target, _serving) = echo(b">").await?;
        let proxy = Proxy::start(target).await?;
        let (mut stream, switches, addr) =
            (through(&proxy).await?, Arc::downgrade(&proxy.switches), proxy.addr());
        drop(proxy);
        assert!(matches!(end_of(&mut stream).await?, Ok(0) | Err(_)));
        let gone = async {
            while switches.upgrade().is_some() || TcpStream::connect(addr).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, gone).await.context("a task lives on")
    }
}
