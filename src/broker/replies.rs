//! A reply queue of one's own: where an emitter hears how its jobs ended.
//!
//! Promises: the queue outlives the connection and the process, so that whoever comes back finds what was told meanwhile; one
//! that nobody comes back to ends by itself. Nothing is acked before its reader says so.

use std::time::Duration;

use futures_util::{StreamExt as _, stream::ReadyChunks};
use lapin::{
    Channel, Consumer,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    Broker, BrokerError, answered,
    connection::Connection,
    message::{cut, short},
};

/// A queue that nobody uses for this long is removed by the broker.
const FORGOTTEN: Duration = Duration::from_hours(24 * 7);
/// Events held unacked at most.
const PREFETCH: u16 = 512;
/// Events handed out together at most.
const CHUNK: usize = 256;

/// An event as it came. It may have been written by anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// `correlation-id`.
    pub correlation_id: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// The consumer of a reply queue.
#[derive(Debug)]
pub struct Replies {
    channel: Channel,
    queue: String,
    consumer: ReadyChunks<Consumer>,
    /// A consumer that was registered while its connection ended does not hear of it.
    connection: Connection,
    /// The last delivery that was handed out and not acked.
    last: Option<u64>,
}

impl Broker {
    /// Declares a reply queue, if it is not there, and consumes it.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn replies(&self, queue: &str) -> Result<Replies, BrokerError> {
        let connection = self.publisher().connection().await?;
        let (channel, consumer) = connection.unless_lost(begin(&connection, queue)).await?;
        Ok(Replies {
            channel,
            queue: queue.to_owned(),
            consumer: consumer.ready_chunks(CHUNK),
            connection,
            last: None,
        })
    }
}

async fn begin(connection: &Connection, queue: &str) -> Result<(Channel, Consumer), BrokerError> {
    let told = |error| BrokerError::queue(queue, error);
    let channel = connection.channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert(short("x-queue-type"), AMQPValue::LongString("quorum".into()));
    let expires = i64::try_from(FORGOTTEN.as_millis()).unwrap_or(i64::MAX);
    arguments.insert(short("x-expires"), AMQPValue::LongLongInt(expires));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    answered(channel.queue_declare(cut(queue), durable, arguments)).await.map_err(told)?;
    answered(channel.basic_qos(PREFETCH, BasicQosOptions::default())).await.map_err(told)?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(cut(queue), short(""), options, arguments);
    let consumer = answered(consumer).await.map_err(told)?;
    Ok((channel, consumer))
}

impl Replies {
    /// The next events. May be dropped before it is ready: nothing is lost by that.
    ///
    /// # Errors
    /// When the connection is lost: what was not acked comes again on the next one.
    pub async fn next(&mut self) -> Result<Vec<Reply>, BrokerError> {
        let ended = || BrokerError::Unavailable("the reply queue's consumer ended".into());
        let consumer = &mut self.consumer;
        let deliveries =
            self.connection.unless_lost(async { consumer.next().await.ok_or_else(ended) }).await?;
        let mut replies = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let delivery = delivery?;
            self.last = Some(delivery.delivery_tag);
            let id = delivery.properties.correlation_id().as_ref().map(ShortString::as_str);
            replies.push(Reply { correlation_id: id.map(str::to_owned), body: delivery.data });
        }
        Ok(replies)
    }

    /// Acks everything that was handed out.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn ack(&mut self) -> Result<(), BrokerError> {
        match self.last.take() {
            Some(last) => {
                Ok(answered(self.channel.basic_ack(last, BasicAckOptions { multiple: true })).await?)
            }
            None => Ok(()),
        }
    }

    /// Removes the queue: nothing more is to come.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn remove(self) -> Result<(), BrokerError> {
        answered(self.channel.queue_delete(cut(&self.queue), QueueDeleteOptions::default())).await?;
        Ok(())
    }

    /// Leaves the queue for whoever comes back.
    pub async fn leave(self) {
        super::topology::close(&self.channel).await;
    }
}
