//! A small TLS server that answers as it is told and remembers what it saw: for the HTTP behaviour only, what Exchange
//! itself does is modelled in the sandbox.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, rustls};

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) target: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
    /// Which connection it came on.
    pub(super) connection: usize,
}

/// What is done with a request.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    /// Read its body, then answer: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Answer before its body, then read on slowly.
    Early(u16, String),
    /// Read its body, then close.
    CloseAfter,
    /// Close before its body.
    CloseBefore,
    /// Read its body, then be silent.
    Silent,
    /// Read its body, send these bytes, then close.
    Raw(Vec<u8>),
}

impl Plan {
    pub(super) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::Answer(status, Vec::new(), body.to_string())
    }
}

pub(super) struct Server {
    pub(super) port: u16,
    pub(super) ca_pem: Vec<u8>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Starts; `plan` decides by the request's head (its body is still empty).
    pub(super) async fn start(plan: impl Fn(&Seen) -> Plan + Send + Sync + 'static) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let key =
            rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        spawn(accept(listener, acceptor, Arc::new(plan), Arc::clone(&seen)));
        Self { port, ca_pem: made.cert.pem().into_bytes(), seen }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// What has been seen so far, at targets that hold `part`.
    pub(super) fn seen(&self, part: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|seen| seen.target.contains(part)).cloned().collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's server, not the program's")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(task));
}

type Decide = dyn Fn(&Seen) -> Plan + Send + Sync;

async fn accept(listener: TcpListener, tls: TlsAcceptor, plan: Arc<Decide>, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut connection = 0;
    while let Ok((socket, _)) = listener.accept().await {
        connection += 1;
        let (tls, plan, seen) = (tls.clone(), Arc::clone(&plan), Arc::clone(&seen));
        spawn(async move {
            if let Ok(stream) = tls.accept(socket).await {
                drop(serve(stream, connection, plan, seen).await);
            }
        });
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    connection: usize,
    plan: Arc<Decide>,
    all: Arc<Mutex<Vec<Seen>>>,
) -> std::io::Result<()> {
    loop {
        let Some((mut seen, rest)) = head(&mut stream).await? else { return Ok(()) };
        seen.connection = connection;
        let length: usize =
            seen.headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let todo = plan(&seen);
        if let Plan::Early(status, body) = &todo {
            stream.write_all(answer(*status, &[], body).as_bytes()).await?;
            stream.flush().await?;
        }
        seen.body = rest;
        let length = if matches!(todo, Plan::CloseBefore) { 0 } else { length };
        let outcome = body(&mut stream, &mut seen.body, length, matches!(todo, Plan::Early(..))).await;
        all.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        outcome?;
        match todo {
            Plan::Answer(status, headers, body) => {
                stream.write_all(answer(status, &headers, &body).as_bytes()).await?;
                stream.flush().await?;
            }
            Plan::Early(..) => {}
            Plan::CloseAfter | Plan::CloseBefore => return stream.shutdown().await,
            Plan::Silent => tokio::time::sleep(Duration::from_mins(10)).await,
            Plan::Raw(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
        }
    }
}

fn answer(status: u16, headers: &[(&'static str, String)], body: &str) -> String {
    let mut text =
        format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nrequest-id: r-{status}\r\n", body.len());
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text + "\r\n" + body
}

/// Reads a head; what was read beyond it comes with it.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<(Seen, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = text.split("\r\n");
    let target = lines.next().unwrap_or_default().to_owned();
    let pairs = lines.filter_map(|line| line.split_once(':'));
    let headers = pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Ok(Some((Seen { target, headers, ..Seen::default() }, bytes[end + 4..].to_vec())))
}

async fn body(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    length: usize,
    slowly: bool,
) -> std::io::Result<()> {
    while bytes.len() < length {
        if slowly {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if stream.read_buf(bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
