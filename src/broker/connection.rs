//! Opens a connection: address, credentials, TLS, heartbeat.

use std::time::Duration;

use lapin::{
    Connection, ConnectionProperties,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPUri, SASLMechanism},
};
use secrecy::ExposeSecret as _;

use super::BrokerError;
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

/// A client certificate.
#[derive(Clone)]
pub struct ClientCertificate {
    /// PEM.
    pub certificate: Vec<u8>,
    /// PEM, PKCS#8.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCertificate(…)")
    }
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
    /// Added to the system's roots.
    pub ca_pem: Option<String>,
    /// For a broker that asks for one.
    pub client: Option<ClientCertificate>,
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
        let runtime = lapin::runtime::default_runtime()?;
        let connecting = Connection::connect_uri_with_config(uri, properties, self.tls(), runtime);
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

    fn tls(&self) -> OwnedTLSConfig {
        let identity = self.client.clone().map(|c| OwnedIdentity::PKCS8 { pem: c.certificate, key: c.key });
        OwnedTLSConfig { identity, cert_chain: self.ca_pem.clone() }
    }
}

/// Parses an AMQP URI; the error does not show it.
///
/// # Errors
/// A sentence.
pub fn parse_uri(text: &str) -> Result<AMQPUri, String> {
    text.parse::<AMQPUri>().map_err(|_| "must be an AMQP URI such as amqps://host:5671/vhost".to_owned())
}
