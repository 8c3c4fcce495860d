//! The proxy of a company network: HTTP `CONNECT`, and plain HTTP passed on, with a password if one is wanted.
//!
//! Every tunnel leads to this machine, whatever the host: names that nobody else knows can be reached through it alone.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// The largest head of a request.
const LARGEST_HEAD: usize = 16 * 1024;

/// A running proxy; it ends, with its tunnels, when it is dropped.
pub struct Tunnel {
    addr: SocketAddr,
    gate: Arc<Gate>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Gate {
    /// `user:password`.
    credential: Option<String>,
    hosts: Mutex<BTreeSet<String>>,
    refused: Mutex<u64>,
}

impl Tunnel {
    /// Listens on a free port of loopback; `credential` is the `user:password` that it wants.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(credential: Option<&str>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen as a proxy")?;
        let addr = listener.local_addr()?;
        let gate = Arc::new(Gate { credential: credential.map(str::to_owned), ..Gate::default() });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&gate)));
        Ok(Self { addr, gate, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// What `HTTPS_PROXY` or `HTTP_PROXY` is set to, with this `user:password`.
    #[must_use]
    pub fn url(&self, credential: Option<&str>) -> String {
        let credential = credential.map(|c| format!("{c}@")).unwrap_or_default();
        format!("http://{credential}{}", self.addr)
    }

    /// The `host:port` of every tunnel so far.
    #[must_use]
    pub fn hosts(&self) -> BTreeSet<String> {
        self.gate.hosts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests answered 407.
    #[must_use]
    pub fn refused(&self) -> u64 {
        *self.gate.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, gate: Arc<Gate>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = open.join_next() => {}
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                let gate = Arc::clone(&gate);
                open.spawn(async move { tunnel(client, &gate).await });
            },
        }
    }
}

async fn tunnel(mut client: TcpStream, gate: &Gate) -> Result<()> {
    let head = head(&mut client).await?;
    let mut lines = head.lines();
    let (method, target) = lines.next().and_then(|line| line.split_once(' ')).context("a request line")?;
    let target = target.split(' ').next().context("a target")?;
    let connect = method == "CONNECT";
    let place = if connect {
        target.to_owned()
    } else {
        let plain = target.strip_prefix("http://").context("plain HTTP, or CONNECT")?;
        plain.split('/').next().context("a host")?.to_owned()
    };
    let wanted = gate.credential.as_ref().map(|credential| format!("Basic {}", STANDARD.encode(credential)));
    let shown = lines
        .filter_map(|line| line.split_once(": "))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("proxy-authorization").then_some(value));
    if wanted.is_some() && wanted.as_deref() != shown {
        *gate.refused.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let answer = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"proxy\"\r\nContent-Length: 0\r\n\r\n";
        return Ok(client.write_all(answer.as_bytes()).await?);
    }
    let port: u16 = place.rsplit_once(':').context("a port")?.1.parse()?;
    gate.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    if connect {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    } else {
        // A server takes a target with its host, too (RFC 9112, section 3.2.2).
        server.write_all(head.as_bytes()).await?;
    }
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// The head of a request, byte by byte: what follows belongs to the tunnel.
async fn head(client: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < LARGEST_HEAD, "a head that does not end");
        head.push(client.read_u8().await?);
    }
    Ok(String::from_utf8(head)?)
}
