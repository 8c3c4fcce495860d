//! A strict model of what the worker talks to at Microsoft: Entra, Graph and Exchange's import host.
//!
//! It refuses what the real services refuse, keeps what they keep, and misbehaves by script ([`Fault`]). A request
//! that no right client would send is refused **and** recorded ([`Exchange::violations`]), so that a test can say
//! there was none. What is known about the real services, and how surely, is in the facts; guesses (statuses of
//! store errors) are options.

mod answer;
mod assertion;
mod client_certificate;
mod directory;
mod entra;
mod fault;
mod flow;
mod framing;
mod graph;
mod handles;
mod host;
mod import;
mod query;
mod sight;
mod store;
mod text;
mod throttle;
mod upload;
mod wire;
mod world;

#[cfg(test)]
mod tests;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::{TlsAcceptor, rustls};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::{
    answer::{Answer, ErrorShape},
    client_certificate::ClientCertificate,
    directory::{ALL_ROLES, Consent, ROLE_FOLDERS, ROLE_IMPORT, ROLE_READ, ROLE_READ_WRITE},
    fault::{Cut, Effect, Fault, FaultId, Gate, Meanwhile, Operation, UrlTwist, When},
    framing::{ItemFacts, ReadItem, read_framing},
    host::Part,
    sight::{Moment, Sight, Watch},
    store::{MailboxKind, StoredItem},
    throttle::{Limits, RetryAfter, Usage},
    world::SeenRequest,
};
use self::{
    host::Front,
    world::{Shared, World},
};
use crate::authority::Authority;

/// How the model behaves where the real services are free to, or where nobody knows.
#[derive(Clone, Debug)]
pub struct Options {
    /// The servers' TLS; ALPN is set by us. `None`: an own authority ([`Exchange::ca_pem`]).
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The name in our URLs; it must lead to 127.0.0.1 and be in the certificate.
    pub host: String,
    /// Ports of login, Graph, import host and managed identity; 0 takes a free one.
    pub ports: [u16; 4],
    /// Where import URLs point instead of at us, for instance at a proxy: `https://host:port`.
    pub import_base: Option<String>,
    /// How an item's bytes are read and judged.
    pub read_item: ReadItem,
    /// Limits per application and mailbox.
    pub limits: Limits,
    /// Lifetime of access tokens.
    pub token_lifetime: Duration,
    /// Lifetime of import sessions.
    pub session_lifetime: Duration,
    /// 200 or 201: Microsoft's pages differ.
    pub session_status: u16,
    /// 200 or 201.
    pub import_status: u16,
    /// Status of an expired session's URL.
    pub expired_status: u16,
    /// Status of "Operation on Archive mailbox not allowed".
    pub archive_status: u16,
    /// 409 or 412.
    pub stale_key_status: u16,
    /// How the import host writes errors.
    pub error_shape: ErrorShape,
    /// Items in a page of a list.
    pub page_size: usize,
    /// Whether `$filter` and `$expand` work together on items.
    pub filter_with_expand: bool,
    /// How much later an item shows in lists.
    pub list_delay: Duration,
    /// The largest import body, else 413.
    pub largest_body: u64,
    /// Whether a refused body is read on and charged.
    pub read_refused: bool,
    /// Seed of ids and of [`Fault::chance`].
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: None,
            host: "localhost".to_owned(),
            ports: [0; 4],
            import_base: None,
            read_item: read_framing,
            limits: Limits::default(),
            token_lifetime: Duration::from_secs(3599),
            session_lifetime: Duration::from_hours(1),
            session_status: 200,
            import_status: 200,
            expired_status: 401,
            archive_status: 400,
            stale_key_status: 409,
            error_shape: ErrorShape::Odata,
            page_size: 10,
            filter_with_expand: true,
            list_delay: Duration::ZERO,
            largest_body: 512 * 1024 * 1024,
            read_refused: true,
            seed: 1,
        }
    }
}

/// The running model. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Exchange {
    shared: Arc<Shared>,
    ca_pem: Option<Arc<str>>,
    _stop: Arc<DropGuard>,
}

impl Exchange {
    /// Starts four listeners on 127.0.0.1: login, Graph and import host with TLS, managed identity without.
    ///
    /// # Errors
    /// If a port cannot be had or a certificate cannot be made.
    pub async fn start(options: Options) -> Result<Self> {
        let (server, ca_pem) = if let Some(server) = options.tls.clone() {
            (server, None)
        } else {
            let authority = Authority::new("Exchange")?;
            (authority.server(&[&options.host, "127.0.0.1"])?, Some(Arc::from(authority.pem())))
        };
        let [login, graph, import, identity] = bind(options.ports).await?;
        let url = |listener: &TcpListener| -> Result<String> {
            Ok(format!("https://{}:{}", options.host, listener.local_addr()?.port()))
        };
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            login: url(&login)?,
            graph: url(&graph)?,
            import: options.import_base.clone().map_or_else(|| url(&import), Ok)?,
            identity: format!("http://{}", identity.local_addr()?),
            identity_secret: uuid::Uuid::new_v4().to_string(),
            changed: watch::channel(0).0,
            stop: stop.clone(),
            tasks: TaskTracker::new(),
            watch: std::sync::OnceLock::new(),
            world: Mutex::new(World { dice: fastrand::Rng::with_seed(options.seed), ..World::default() }),
            options,
        });
        let tls = acceptor(&server);
        for (part, listener) in [(Part::Login, login), (Part::Graph, graph), (Part::Import, import)] {
            let host = Front { part, shared: Arc::clone(&shared) };
            tokio::spawn(wire::listen(listener, Some(tls.clone()), host, stop.clone()));
        }
        let host = Front { part: Part::Identity, shared: Arc::clone(&shared) };
        tokio::spawn(wire::listen(identity, None, host, stop.clone()));
        Ok(Self { shared, ca_pem, _stop: Arc::new(stop.drop_guard()) })
    }
}

async fn bind(ports: [u16; 4]) -> Result<[TcpListener; 4]> {
    let one = |port| async move {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
    };
    Ok([one(ports[0]).await?, one(ports[1]).await?, one(ports[2]).await?, one(ports[3]).await?])
}

fn acceptor(server: &rustls::ServerConfig) -> TlsAcceptor {
    let mut server = server.clone();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(server))
}
