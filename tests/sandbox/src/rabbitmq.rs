//! The real RabbitMQ, as a private node: own ports, data, log and cookie, on loopback only, nothing of it left
//! behind however the process ends.
//!
//! Measured (Debian's 3.10.8, two cores): see the tests' output; a node is meant to be started once and shared,
//! a test takes a virtual host of its own.

mod install;
mod management;
mod node;
mod ports;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

pub use install::{ensure_installed, is_installed};
pub use management::Management;
pub use node::RabbitMq;

use crate::authority::Authority;

/// Which installation a node is started from.
#[derive(Clone, Debug, Default)]
pub enum Installation {
    /// The system's package.
    #[default]
    System,
    /// A root directory with another distribution in it (needs root), where `/tmp` and `/proc` are mounted.
    Chroot(PathBuf),
}

/// What a node is started with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where its programs come from.
    pub installation: Installation,
    /// With the management plugin: virtual hosts in milliseconds, and questions over HTTP.
    pub management: bool,
    /// More lines for `rabbitmq.conf`, such as `consumer_timeout = 5000`. Unknown keys stop the boot.
    pub extra_config: Vec<String>,
    /// More Erlang terms for `advanced.config`, such as `{rabbit, [{channel_tick_interval, 3000}]}`.
    pub advanced_config: Vec<String>,
    /// With a TLS listener beside the plain one.
    pub tls: Option<TlsFiles>,
    /// Further plugins, such as `rabbitmq_auth_mechanism_ssl`.
    pub plugins: Vec<&'static str>,
}

impl Options {
    /// With the management plugin; of the installation that `RABBITMQ_ROOT` names (`tests/brokers.sh`), else the system's.
    #[must_use]
    pub fn from_env() -> Self {
        let root = std::env::var("RABBITMQ_ROOT").ok().filter(|root| !root.is_empty());
        let installation = root.map_or(Installation::System, |root| Installation::Chroot(root.into()));
        Self { installation, ..Self::with_management() }
    }

    /// With the management plugin, which is what tests want.
    #[must_use]
    pub fn with_management() -> Self {
        Self { management: true, ..Self::default() }
    }
}

/// PEM files for the broker's TLS listener.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority whose client certificates are accepted.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The key of that certificate.
    pub key: PathBuf,
    /// Refuses clients without a certificate of the authority.
    pub require_client: bool,
}

impl TlsFiles {
    /// Writes them into a directory, which an installation in a root of its own must see: below `/tmp`. The certificate is for
    /// these names.
    ///
    /// # Errors
    /// If a name is none, or a file cannot be written.
    pub fn write(dir: &Path, authority: &Authority, names: &[&str], require_client: bool) -> Result<Self> {
        let [ca, certificate, key] = ["broker-ca.pem", "broker.pem", "broker.key"].map(|name| dir.join(name));
        let signed = authority.sign("broker", names)?;
        fs::write(&ca, authority.pem())?;
        fs::write(&certificate, signed.certificate_pem)?;
        fs::write(&key, signed.key_pem)?;
        Ok(Self { authority: ca, certificate, key, require_client })
    }
}

/// The broker the tests talk to.
#[derive(Debug)]
pub enum Broker {
    /// A private node, which may be killed and restarted.
    Own(Box<RabbitMq>),
    /// One that was there already, named by `AMQP_URI`.
    Existing {
        /// `amqp://…`, its path ignored.
        uri: String,
        /// From `RABBITMQ_MANAGEMENT_URI`.
        management: Option<Management>,
    },
}

impl Broker {
    /// Takes the broker that the environment names, or else installs RabbitMQ if need be and starts a node.
    pub async fn from_env_or_start(options: Options) -> Result<Self> {
        if let Ok(uri) = std::env::var("AMQP_URI") {
            let management = std::env::var("RABBITMQ_MANAGEMENT_URI").ok();
            let management = management.map(|uri| Management::at(&uri)).transpose()?;
            return Ok(Self::Existing { uri, management });
        }
        if matches!(options.installation, Installation::System) {
            ensure_installed().await?;
        }
        Ok(Self::Own(Box::new(RabbitMq::start(options).await?)))
    }

    /// Creates a virtual host and gives the URI to use it by.
    pub async fn create_vhost(&self, name: &str) -> Result<String> {
        match self {
            Self::Own(node) => node.create_vhost(name).await,
            Self::Existing { uri, management } => {
                let management = management
                    .as_ref()
                    .context("AMQP_URI alone is not enough: set RABBITMQ_MANAGEMENT_URI too")?;
                management.create_vhost(name).await?;
                Ok(with_vhost(uri, name))
            }
        }
    }

    /// `amqps://…` of a virtual host, where the node is ours and was started with TLS.
    #[must_use]
    pub fn tls_uri(&self, vhost: &str) -> Option<String> {
        match self {
            Self::Own(node) => node.tls_uri(vhost),
            Self::Existing { .. } => None,
        }
    }

    /// The HTTP interface, where there is one.
    #[must_use]
    pub fn management(&self) -> Option<&Management> {
        match self {
            Self::Own(node) => node.management(),
            Self::Existing { management, .. } => management.as_ref(),
        }
    }

    /// The node's process, where it is ours.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Own(node) => node.pid(),
            Self::Existing { .. } => None,
        }
    }

    /// The node, where it is ours to kill and restart.
    pub fn own(&mut self) -> Option<&mut RabbitMq> {
        match self {
            Self::Own(node) => Some(node),
            Self::Existing { .. } => None,
        }
    }
}

/// Puts a virtual host into a URI in place of the one it has; its query stays.
fn with_vhost(uri: &str, vhost: &str) -> String {
    let (base, query) =
        uri.split_once('?').map_or((uri, String::new()), |(base, query)| (base, format!("?{query}")));
    let start = base.find("://").map_or(0, |at| at + 3);
    let end = base.get(start..).and_then(|rest| rest.find('/')).map_or(base.len(), |at| start + at);
    format!("{}/{}{query}", base.get(..end).unwrap_or(base), escaped(vhost))
}

/// Escapes what may not stand in one segment of a path.
fn escaped(segment: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    segment.bytes().map(escape).collect::<Vec<_>>().concat()
}

/// The last lines of a text.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_host_takes_the_place_of_the_one_in_the_uri() {
        let cases = [
            ("amqp://u:p@h:1", "a", "amqp://u:p@h:1/a"),
            ("amqp://u:p@h:1/", "a b", "amqp://u:p@h:1/a%20b"),
            ("amqps://h/%2f?heartbeat=5", "x", "amqps://h/x?heartbeat=5"),
        ];
        for (uri, vhost, expected) in cases {
            assert_eq!(with_vhost(uri, vhost), expected);
        }
    }

    #[test]
    fn a_tail_is_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
