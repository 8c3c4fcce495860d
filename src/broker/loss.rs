//! That a connection is lost, and why consuming ended.

use std::{io, pin::pin};

use futures_util::{Stream, StreamExt as _};
use lapin::Event;
use tracing::{info, warn};

use super::{BrokerError, amqp_code};

/// A connection is gone, with the reason.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ConnectionLost(pub String);

impl From<ConnectionLost> for BrokerError {
    fn from(lost: ConnectionLost) -> Self {
        Self::Unavailable(lost.0)
    }
}

/// What lapin itself answers, when it does.
impl From<ConnectionLost> for lapin::Error {
    fn from(lost: ConnectionLost) -> Self {
        io::Error::new(io::ErrorKind::ConnectionReset, lost).into()
    }
}

/// Why consuming ended; the label `cause` of `restore_broker_reconnects_total`.
#[derive(Debug)]
pub(super) enum Lost {
    Connect(BrokerError),
    Connection(String),
    Channel(String),
    Cancelled,
    Deaf,
}

impl Lost {
    /// Every cause.
    pub(super) const CAUSES: [&str; 5] =
        ["connect_failed", "connection_lost", "channel_closed", "consumer_cancelled", "deaf"];

    pub(super) const fn cause(&self) -> &'static str {
        let [connect, connection, channel, cancelled, deaf] = Self::CAUSES;
        match self {
            Self::Connect(_) => connect,
            Self::Connection(_) => connection,
            Self::Channel(_) => channel,
            Self::Cancelled => cancelled,
            Self::Deaf => deaf,
        }
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "{error}"),
            Self::Connection(why) => write!(f, "the connection was lost: {why}"),
            Self::Channel(why) => write!(f, "the channel was closed: {why}"),
            Self::Cancelled => f.write_str("the broker cancelled the consumer"),
            Self::Deaf => f.write_str("the channel stands but an echo did not come back"),
        }
    }
}

impl From<BrokerError> for Lost {
    fn from(error: BrokerError) -> Self {
        Self::Connect(error)
    }
}

impl From<ConnectionLost> for Lost {
    fn from(lost: ConnectionLost) -> Self {
        Self::Connection(lost.0)
    }
}

impl From<lapin::Error> for Lost {
    fn from(error: lapin::Error) -> Self {
        match amqp_code(&error) {
            Some(_) => Self::Channel(error.to_string()),
            None => Self::Connection(error.to_string()),
        }
    }
}

/// Hears what a connection says of itself, until it says that it is lost.
pub(super) async fn lost(events: impl Stream<Item = Event>) -> ConnectionLost {
    let mut events = pin!(events);
    loop {
        match events.next().await {
            None => return ConnectionLost("its events ended".into()),
            // A channel's own trouble shows at its consumer, or in its answers.
            Some(Event::Error(error)) if error.is_amqp_soft_error() => {}
            Some(Event::Error(error)) => return ConnectionLost(error.to_string()),
            Some(Event::ConnectionBlocked(why)) => warn!(why, "the broker blocks this connection"),
            Some(Event::ConnectionUnblocked) => info!("the broker no longer blocks this connection"),
            Some(_) => {}
        }
    }
}
