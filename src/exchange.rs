//! Exchange: import sessions, imports, and looking for what was imported, through Microsoft Graph.
//!
//! Promises: one request each; bytes are moved and errors translated into whose trouble they are (`answer`), nothing is
//! retried but what keeps a token alive. An import that was not sent to its last byte is told apart from one that may
//! have happened. Tokens and import URLs never leave this room: not in logs, errors, `Debug` or metrics.
//!
//! No HTTP type leaves this room either.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::Stream;
use reqwest::{Client, Method};

use crate::{
    domain::{GraphVersion, ItemId, MailboxId, RestoreError, TenantId},
    metrics::Metrics,
};

mod answer;
mod body;
mod client;
mod clock;
mod counted;
pub mod fence;
mod graph;
pub mod identity;
mod import;
mod look;
mod session;
#[cfg(test)]
mod tests;
mod wire;

pub use crate::domain::SeenItem;
pub use clock::ServerClock;
pub use fence::{Boottime, Fence};
pub use identity::TokenFacts;
pub use import::{ImportAnswer, ImportFailure, ImportItem};
pub use look::Look;
pub use session::ImportSession;

use answer::Call;
use clock::Offset;
use graph::{Graph, Request, Root};
use identity::Identity;
use session::{ImportHost, Key, Sessions};

/// What configuration says of Exchange.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Graph's root and version, like `https://graph.microsoft.com/v1.0`.
    pub graph: String,
    /// Hosts that import URLs may have. An entry without a port allows https' own port only; `localhost:1234` allows
    /// that port only.
    pub import_hosts: Vec<String>,
    /// How long before its end a session is renewed; never more than half of its life.
    pub session_margin: Duration,
    /// Longest wait for an answer after a request's last byte; for Graph, for the whole request.
    pub request_timeout: Duration,
    /// Bytes of request body per second that an upload must reach.
    pub min_upload_rate: u64,
    /// Certificates trusted beside the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// How to sign in.
    pub identity: identity::Settings,
}

/// What is worth one more try after a refused import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing.
    None,
    /// Forget the session and open another: the refusal may be the old session's.
    ReopenSession,
    /// Open a session of this mailbox and post there: the folder lives in it.
    Redirect(MailboxId),
}

/// The way to Exchange. One for the process, shared by reference.
#[derive(Debug)]
pub struct Exchange {
    root: Root,
    hosts: Vec<ImportHost>,
    margin: Duration,
    request_timeout: Duration,
    min_upload_rate: u64,
    graph: Client,
    spare: Client,
    import: Client,
    identity: Identity,
    sessions: Sessions,
    offset: Offset,
    metrics: Arc<Metrics>,
}

impl Settings {
    /// Longest time that the import of `length` FTS bytes takes.
    #[must_use]
    pub fn send_timeout(&self, length: u64) -> Duration {
        send_timeout(length, self.request_timeout, self.min_upload_rate)
    }
}

/// The label `event` of a session that was refused.
const REJECTED: &str = "rejected";

fn send_timeout(length: u64, request_timeout: Duration, min_upload_rate: u64) -> Duration {
    let bytes = body::base64_length(length).saturating_add(AROUND);
    let seconds = bytes.div_ceil(min_upload_rate.max(1));
    request_timeout.saturating_add(Duration::from_secs(seconds))
}

impl Exchange {
    /// Prepares everything; connects nowhere.
    ///
    /// # Errors
    /// What is wrong with the configuration, with its key.
    pub fn connect(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, String> {
        let root = Root::parse(&settings.graph)?;
        if settings.import_hosts.is_empty() {
            return Err("exchange.import_hosts: must not be empty".into());
        }
        if settings.min_upload_rate == 0 || settings.request_timeout.is_zero() {
            return Err("exchange: min_upload_rate and request_timeout must be more than zero".into());
        }
        let hosts =
            settings.import_hosts.iter().map(|host| ImportHost::parse(host)).collect::<Result<_, _>>()?;
        let ca_pem = settings.ca_pem.as_deref();
        let graph = client::graph(ca_pem, settings.request_timeout)?;
        let local = client::local(settings.request_timeout)?;
        let identity =
            Identity::new(settings.identity, root.scope(), graph.clone(), local, Arc::clone(&metrics))?;
        counted::at_zero(&metrics);
        Metrics::at_zero(&metrics.bytes, [["uploaded"]]);
        Metrics::at_zero(&metrics.sessions, session::Event::ALL.map(|event| [event.as_str()]));
        Metrics::at_zero(&metrics.sessions, [[REJECTED]]);
        Ok(Self {
            root,
            hosts,
            margin: settings.session_margin,
            request_timeout: settings.request_timeout,
            min_upload_rate: settings.min_upload_rate,
            graph,
            spare: client::spare(ca_pem, settings.request_timeout)?,
            import: client::import(ca_pem)?,
            identity,
            sessions: Sessions::new(),
            offset: Offset::new(),
            metrics,
        })
    }

    /// A session of the mailbox: kept from earlier, or opened (once for many waiters). `version` stands in for the
    /// configured one.
    ///
    /// # Errors
    /// Whose trouble it is that there is none.
    pub async fn session(
        &self,
        tenant: &TenantId,
        mailbox: &MailboxId,
        version: Option<GraphVersion>,
    ) -> Result<ImportSession, RestoreError> {
        let version = version.unwrap_or(self.root.version);
        let key = Key { tenant: tenant.clone(), mailbox: mailbox.clone(), version };
        let (session, event) = self.sessions.get(key.clone(), Box::pin(self.open(key))).await?;
        self.metrics.sessions.with_label_values(&[event.as_str()]).inc();
        Ok(session)
    }

    /// The session was refused: the next [`Self::session`] opens another, unless that has happened already.
    pub async fn forget_session(&self, session: &ImportSession) {
        if self.sessions.forget(session).await {
            self.metrics.sessions.with_label_values(&[REJECTED]).inc();
        }
    }

    /// Sends one item through the session: once, without any retry.
    ///
    /// # Errors
    /// [`ImportFailure`]; an error that the chunks yield is returned as it is.
    pub async fn import_item<S>(
        &self,
        session: &ImportSession,
        item: ImportItem<'_>,
        chunks: S,
        fence: Fence,
    ) -> Result<ImportAnswer, ImportFailure>
    where
        S: Stream<Item = Result<Bytes, RestoreError>> + Send + Unpin + 'static,
    {
        let send = import::Send {
            client: &self.import,
            metrics: &self.metrics,
            url: session.url(),
            fresh: session.is_fresh(),
            overall: self.send_timeout(item.length),
            answer_within: self.request_timeout,
        };
        send.run(item, chunks, fence).await
    }

    /// Longest time that the import of `length` FTS bytes takes.
    #[must_use]
    pub fn send_timeout(&self, length: u64) -> Duration {
        send_timeout(length, self.request_timeout, self.min_upload_rate)
    }

    /// Every item of a folder that was created since a moment.
    ///
    /// # Errors
    /// Whose trouble it is that it cannot be said: a page that cannot be read is an error, never "none".
    pub async fn list_imported(&self, look: &Look) -> Result<Vec<SeenItem>, RestoreError> {
        let graph = self.sender();
        match look::list(&graph, &self.root, look, true).await {
            // Whether filter and expansion go together is documented nowhere: without the filter they do.
            Err(error) if error.http_status == Some(400) => look::list(&graph, &self.root, look, false).await,
            outcome => outcome,
        }
    }

    /// One item, as it is now; none if the folder does not hold it.
    ///
    /// # Errors
    /// Whose trouble it is that it cannot be said.
    pub async fn read_item(
        &self,
        tenant: &TenantId,
        mailbox: &MailboxId,
        version: Option<GraphVersion>,
        folder: &crate::domain::FolderId,
        item: &ItemId,
    ) -> Result<Option<SeenItem>, RestoreError> {
        let look = Look {
            tenant: tenant.clone(),
            mailbox: mailbox.clone(),
            version,
            folder: folder.clone(),
            since: crate::domain::UnixMillis::default(),
        };
        look::read(&self.sender(), &self.root, &look, item).await
    }

    /// Whether a token can be had and Graph answers. Without a tenant the configured one is asked for.
    ///
    /// # Errors
    /// Whose trouble it is.
    pub async fn probe(&self, tenant: Option<&TenantId>) -> Result<TokenFacts, RestoreError> {
        let tenant = tenant.or(self.identity.default_tenant()).ok_or_else(|| {
            RestoreError::job(
                crate::domain::Reason::TenantNotAllowed,
                "identity.tenant_id: not set, so no tenant to probe",
            )
        })?;
        let token = self.identity.token(tenant).await?;
        let url = self.root.url(self.root.version, &[])?;
        let request = Request { operation: "probe", call: Call::Probe, method: Method::GET, url };
        let graph = self.sender();
        let (answer, hints) = graph.send(tenant, &request).await?;
        if answer.status().is_server_error() || answer.status().as_u16() == 401 {
            return Err(graph.refused(request.call, answer, &hints).await);
        }
        Ok(token.facts())
    }

    /// Asks the login for a new token: one that is held says nothing about who issues them.
    ///
    /// # Errors
    /// As a job would meet them.
    pub async fn probe_login(&self, tenant: &TenantId) -> Result<(), RestoreError> {
        self.identity.ask(tenant).await
    }

    /// Exchange's clock, as its recent answers tell it.
    #[must_use]
    pub fn server_clock(&self) -> ServerClock {
        self.offset.clock()
    }

    /// Renews tokens well before their end, for ever: to be spawned by the application and dropped at its end.
    pub async fn keep_tokens_fresh(&self) {
        self.identity.keep_fresh().await;
    }

    async fn open(&self, key: Key) -> Result<ImportSession, RestoreError> {
        let segments = ["admin", "exchange", "mailboxes", key.mailbox.as_str(), "createImportSession"];
        let url = self.root.url(key.version, &segments)?;
        let request = Request { operation: "create_session", call: Call::Session, method: Method::POST, url };
        let graph = self.sender();
        let (answer, hints) = graph.send(&key.tenant, &request).await?;
        if !answer.status().is_success() {
            return Err(graph.refused(request.call, answer, &hints).await);
        }
        let body =
            client::read(answer, session::MAX_ANSWER).await.map_err(|why| session::unread(&why, &hints))?;
        let (url, lifetime) = session::decode(&body, &hints, clock::own_clock(), &self.hosts)?;
        Ok(ImportSession::new(key, url, lifetime, self.margin, hints.request_id))
    }

    fn sender(&self) -> Graph<'_> {
        Graph {
            client: &self.graph,
            spare: &self.spare,
            identity: &self.identity,
            offset: &self.offset,
            metrics: &self.metrics,
        }
    }
}

/// JSON around the base64, at most: three ids of about 200 characters, their keys and the braces.
const AROUND: u64 = 1_024;
