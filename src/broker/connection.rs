//! Opens a connection: address, credentials, TLS, heartbeat.

use std::time::Duration;

use lapin::{
    Connection, ConnectionProperties,
    tcp::AsyncTcpStream,
    uri::{AMQPScheme, AMQPUri, SASLMechanism},
};
use secrecy::ExposeSecret as _;

use super::{BrokerError, tls::Tls};
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
    pub async fn connect(&self, name: &str) -> Result<Connection, BrokerError> {
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
        let connecting = Connection::connector(
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
            Ok(connected) => Ok(connected?),
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
