//! A small message to ourselves, through the publishing connection and back over the consuming one: proves that it still hears.

use std::{pin::Pin, sync::atomic::Ordering, time::Duration};

use futures_util::StreamExt as _;
use lapin::{
    Channel, Consumer,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    PublishError, Publisher, Settings, answered,
    connection::Connection,
    loss::Lost,
    message::{cut, short},
};

/// How often an echo is sent.
const ECHO_EVERY: Duration = Duration::from_secs(30);
/// How long after its own confirm an echo may take.
const ECHO_TIMEOUT: Duration = Duration::from_mins(1);

type Sending = Pin<Box<dyn Future<Output = Result<(), PublishError>> + Send>>;

/// The echo of one consuming connection.
pub(super) struct Echo {
    queue: String,
    consumer: Consumer,
    /// Kept, since the consumer ends with it.
    _channel: Channel,
    publisher: Publisher,
    ticks: tokio::time::Interval,
    /// An echo on its way to the broker; kept here, since a turn may end before it is confirmed.
    sending: Option<Sending>,
    /// Confirmed, and not back yet.
    owed_since: Option<Instant>,
}

impl Echo {
    pub(super) async fn prepare(
        connection: &Connection,
        settings: &Settings,
        publisher: Publisher,
    ) -> Result<Self, Lost> {
        let channel = connection.channel().await?;
        let queue = settings.names.echo(&uuid::Uuid::new_v4().to_string());
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        answered(channel.queue_declare(cut(&queue), options, FieldTable::default())).await?;
        let exchange = cut(settings.names.exchange());
        let (binding, arguments) = (QueueBindOptions::default(), FieldTable::default());
        answered(channel.queue_bind(cut(&queue), exchange, cut(&queue), binding, arguments)).await?;
        let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..Default::default() };
        let consumer = channel.basic_consume(cut(&queue), short(""), options, FieldTable::default());
        let consumer = answered(consumer).await?;
        let mut ticks = interval(ECHO_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { queue, consumer, _channel: channel, publisher, ticks, sending: None, owed_since: None })
    }

    /// One thing that happens to the echo: it comes back, it is time for another, or it is overdue.
    pub(super) async fn turn(&mut self, deaf: &std::sync::atomic::AtomicBool) -> Result<(), Lost> {
        let overdue = self.owed_since.map(|since| since + ECHO_TIMEOUT);
        tokio::select! {
            item = self.consumer.next() => {
                item.ok_or(Lost::Cancelled)??;
                deaf.store(false, Ordering::Relaxed);
                self.owed_since = None;
            }
            () = until(overdue) => {
                deaf.store(true, Ordering::Relaxed);
                return Err(Lost::Deaf);
            }
            sent = finished(&mut self.sending) => {
                self.sending = None;
                // An echo that cannot be confirmed says nothing about the consumer.
                if sent.is_ok() && self.owed_since.is_none() {
                    self.owed_since = Some(Instant::now());
                }
            }
            _ = self.ticks.tick(), if self.sending.is_none() => {
                let (publisher, queue) = (self.publisher.clone(), self.queue.clone());
                self.sending = Some(Box::pin(async move { publisher.echo(&queue, b"echo").await }));
            }
        }
        Ok(())
    }
}

async fn finished(sending: &mut Option<Sending>) -> Result<(), PublishError> {
    match sending {
        Some(sending) => sending.await,
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
