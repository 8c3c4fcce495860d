//! Notices that a connection is lost, while something else is waited for: lapin (4.12) never answers a request that comes just
//! when its connection ends.

use futures_util::{StreamExt as _, stream::BoxStream};
use lapin::{Connection, Event};
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

/// Hears what a connection says of itself. One a connection: each of its events is told to one listener only.
pub(super) struct LossWatch(BoxStream<'static, Event>);

impl std::fmt::Debug for LossWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LossWatch(…)")
    }
}

impl LossWatch {
    pub(super) fn of(connection: &Connection) -> Self {
        Self(connection.events_listener().boxed())
    }

    /// Resolves when the connection is lost. May be dropped before: nothing is missed by that.
    pub(super) async fn lost(&mut self) -> ConnectionLost {
        loop {
            match self.0.next().await {
                None => return ConnectionLost("its events ended".into()),
                // A channel's own trouble shows at its consumer.
                Some(Event::Error(error)) if amqp_code(&error).is_some() => {}
                Some(Event::Error(error)) => return ConnectionLost(error.to_string()),
                Some(Event::ConnectionBlocked(why)) => warn!(why, "the broker blocks this connection"),
                Some(Event::ConnectionUnblocked) => info!("the broker no longer blocks this connection"),
                Some(_) => {}
            }
        }
    }

    /// The answer, unless the connection is lost before it comes.
    ///
    /// # Errors
    /// The work's own, or the loss.
    pub(super) async fn unless_lost<T, E: From<ConnectionLost>>(
        &mut self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            done = work => done,
            lost = self.lost() => Err(lost.into()),
        }
    }
}
