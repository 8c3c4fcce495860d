//! Opens a connection (address, credentials, TLS, heartbeat), and notices that it is lost while something on it is waited for.

use std::{sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use lapin::{
    Channel, ConnectionProperties,
    tcp::AsyncTcpStream,
    uri::{AMQPScheme, AMQPUri, SASLMechanism},
};
use secrecy::ExposeSecret as _;
use tracing::debug;

use super::{
    BrokerError, answered,
    loss::{self, ConnectionLost},
    message::short,
    tls::Tls,
};
use crate::secret::Secret;

/// How the worker signs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// User and password.
    #[default]
    Plain,
    /// The client certificate names the user.
    External,
}

/// Where the broker is and who we are there.
#[derive(Clone, Debug)]
pub struct Address {
    /// `amqp(s)://…`, perhaps with credentials.
    pub uri: Secret,
    /// Wins over the URI's.
    pub username: Option<String>,
    /// Wins over the URI's; read again at each new connection.
    pub password: Option<Secret>,
    /// Plain or external.
    pub auth: Auth,
    /// A peer that stopped answering is noticed after twice this time.
    pub heartbeat: Duration,
    /// For `amqps`.
    pub tls: Tls,
}

/// How long connection and handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What RabbitMQ proposes by itself; the lower wins. Said ahead, because lapin makes two buffers of 32 frames for each connection:
/// of a length that is known they are pages that nobody has touched, grown later they are written, 4 MiB each.
const FRAME_MAX: u32 = 128 * 1024;

impl Address {
    /// Connects. The name shows in the broker's list of connections.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] when the broker refuses the credentials or the vhost, else [`BrokerError::Unavailable`].
    pub(super) async fn connect(&self, name: &str) -> Result<Connection, BrokerError> {
        let uri = self.resolve().await?;
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let tls = self.tls.clone();
        // Not on a thread that drives everything else: a volume may be slow.
        let tls_config = tokio::task::spawn_blocking(move || tls.read())
            .await
            .map_err(|error| BrokerError::Unavailable(error.to_string()))?
            .map_err(|(key, why)| BrokerError::Refused(format!("{key}: {why}")))?;
        let server_name = self.tls.server_name.clone();
        let runtime = lapin::runtime::default_runtime()?;
        let connecting = lapin::Connection::connector(
            uri,
            runtime,
            async move |uri, runtime| {
                let host = uri.authority.host;
                let address = runtime.to_socket_addrs((host.clone(), uri.authority.port));
                let stream = AsyncTcpStream::connect(&runtime, address).await?;
                match uri.scheme {
                    AMQPScheme::AMQP => Ok(stream),
                    AMQPScheme::AMQPS => {
                        let name = server_name.as_ref().unwrap_or(&host);
                        Ok(stream.into_tls(name, tls_config.as_ref()).await?)
                    }
                }
            },
            properties,
        );
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => Ok(Connection::of(connected?)),
            Err(_) => {
                Err(BrokerError::Unavailable(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())))
            }
        }
    }

    /// The vhost.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] when the address cannot be read.
    pub async fn vhost(&self) -> Result<String, BrokerError> {
        Ok(self.resolve().await?.vhost)
    }

    /// The user that the broker knows us as; `None` where a certificate names it.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] when the address cannot be read.
    pub async fn user(&self) -> Result<Option<String>, BrokerError> {
        match self.auth {
            Auth::Plain => Ok(Some(self.resolve().await?.authority.userinfo.username)),
            Auth::External => Ok(None),
        }
    }

    /// The address as it is now. Never shows the URI in an error: it may hold a password.
    async fn resolve(&self) -> Result<AMQPUri, BrokerError> {
        let text = self.uri.read().await.map_err(BrokerError::Refused)?;
        let mut uri = parse_uri(text.expose_secret()).map_err(BrokerError::Refused)?;
        if let Some(username) = &self.username {
            uri.authority.userinfo.username.clone_from(username);
        }
        if let Some(password) = &self.password {
            let password = password.read().await.map_err(BrokerError::Refused)?;
            password.expose_secret().clone_into(&mut uri.authority.userinfo.password);
        }
        let seconds = self.heartbeat.as_secs().clamp(1, u64::from(u16::MAX));
        uri.query.heartbeat = Some(u16::try_from(seconds).unwrap_or(u16::MAX));
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        if self.auth == Auth::External {
            uri.query.auth_mechanism = Some(SASLMechanism::External);
        }
        Ok(uri)
    }
}

/// Parses an AMQP URI; the error does not show it.
///
/// # Errors
/// A sentence.
pub fn parse_uri(text: &str) -> Result<AMQPUri, String> {
    text.parse::<AMQPUri>().map_err(|_| "must be an AMQP URI such as amqps://host:5671/vhost".to_owned())
}

/// A connection, and the news of its loss. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connection {
    inner: Arc<lapin::Connection>,
    /// One for all who wait: lapin tells each event to one listener only.
    lost: Shared<BoxFuture<'static, ConnectionLost>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl Connection {
    fn of(inner: lapin::Connection) -> Self {
        let lost = loss::lost(inner.events_listener()).boxed().shared();
        Self { inner: Arc::new(inner), lost }
    }

    /// A new channel.
    ///
    /// # Errors
    /// When the broker does not open it in time, or the connection is lost before.
    pub(super) async fn channel(&self) -> lapin::Result<Channel> {
        self.unless_lost(answered(self.inner.create_channel())).await
    }

    /// Resolves when the connection is lost. May be dropped before: nothing is missed by that.
    pub(super) async fn lost(&self) -> ConnectionLost {
        self.lost.clone().await
    }

    /// The answer, unless the connection is lost before it comes: lapin (4.12) never answers a request that comes just when its
    /// connection ends.
    ///
    /// # Errors
    /// The work's own, or the loss.
    pub(super) async fn unless_lost<T, E: From<ConnectionLost>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            done = work => done,
            lost = self.lost() => Err(lost.into()),
        }
    }

    pub(super) fn stands(&self) -> bool {
        self.inner.status().connected()
    }

    /// Whether the broker takes nothing on it for now: nothing is written, the opening of a channel and acks included.
    pub(super) fn is_blocked(&self) -> bool {
        self.inner.status().blocked()
    }

    /// Closes it.
    pub(super) async fn close(&self) {
        if let Err(error) = answered(self.inner.close(200, short("done"))).await {
            debug!(%error, "a connection was gone already");
        }
    }
}
