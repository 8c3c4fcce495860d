//! Publishes: mandatory, confirmed, each confirm matched to its own message.
//!
//! One publish is in flight per channel, since a returned message is handed to whichever confirm of its channel resolves next.
//! A pool of channels gives the throughput. A channel whose confirm did not come in time is closed, never used again.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::sync::Semaphore;
use tracing::{debug, info};

use super::{
    BrokerError, Settings, amqp_code, answered,
    connection::Connection,
    held,
    message::{Message, PERSISTENT, cut, put_text, short},
};
use crate::{
    contract::{
        Rendered,
        names::{APP_ID, JOB_TYPE, RESULT_TYPE, header},
    },
    domain::{Journey, Reason, Shard},
    metrics::Metrics,
};

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No queue is bound under this routing key.
    #[error("unroutable: no queue takes messages for {0}")]
    Unroutable(String),
    /// The broker said no (a full queue, for instance).
    #[error("the broker refused the message")]
    Refused,
    /// Nobody can say; the message may have been taken. Publishing again is harmless.
    #[error("the broker did not confirm: {0}")]
    Unconfirmed(String),
}

/// What is published: the label `kind` of `restore_publish_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Event,
    Park,
    Shard,
    DeadLetter,
    Echo,
    Job,
    Replay,
}

impl Kind {
    /// What a worker publishes; commands count for themselves alone.
    const OF_A_WORKER: [Self; 5] = [Self::Event, Self::Park, Self::Shard, Self::DeadLetter, Self::Echo];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Park => "park",
            Self::Shard => "shard",
            Self::DeadLetter => "dead_letter",
            Self::Echo => "echo",
            Self::Job => "job",
            Self::Replay => "replay",
        }
    }
}

/// The label `cause` of a publishing connection that was made anew.
const CONNECTION_LOST: &str = "publish_connection_lost";
/// Every outcome of a publish.
const OUTCOMES: [&str; 4] = ["confirmed", "unroutable", "refused", "unconfirmed"];

/// The label `outcome`.
fn outcome(published: &Result<(), PublishError>) -> &'static str {
    let [confirmed, unroutable, refused, unconfirmed] = OUTCOMES;
    match published {
        Ok(()) => confirmed,
        Err(PublishError::Unroutable(_)) => unroutable,
        Err(PublishError::Refused) => refused,
        Err(PublishError::Unconfirmed(_)) => unconfirmed,
    }
}

/// The counters of publishing, before anything has happened.
pub(super) fn at_zero(metrics: &Metrics) {
    for kind in Kind::OF_A_WORKER {
        Metrics::at_zero(&metrics.publish, OUTCOMES.map(|outcome| [kind.as_str(), outcome]));
    }
    Metrics::at_zero(&metrics.broker_reconnects, [[CONNECTION_LOST]]);
}

/// Where an event goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventAddress<'a> {
    /// `broker.results`.
    Results,
    /// The job's own `reply-to`, through the default exchange.
    ReplyTo(&'a str),
}

/// A job as an emitter publishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submission<'a> {
    /// JSON.
    pub body: &'a [u8],
    /// The job's id, which becomes the message's.
    pub job_id: &'a str,
    /// Comes back in the job's event.
    pub correlation_id: Option<&'a str>,
    /// Where the event is to go.
    pub reply_to: Option<&'a str>,
    /// The broker refuses any name but that of the connection's own user.
    pub user_id: Option<&'a str>,
    /// The mailbox's shard, to save the intake's hop; `None`: to the jobs, as everybody may.
    pub shard: Option<Shard>,
}

/// A connection on its way: whoever waits for it drives it, so that nobody waits for one who is not polled.
type Connecting = Shared<BoxFuture<'static, Result<Connection, BrokerError>>>;

/// The publishing connection and its channels. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Publisher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    permits: Semaphore,
    connection: Mutex<Option<Connection>>,
    connecting: Mutex<Option<Connecting>>,
    idle: Mutex<Vec<Channel>>,
}

impl Publisher {
    pub(super) fn new(settings: Arc<Settings>, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            permits: Semaphore::new(settings.publish_channels),
            settings,
            metrics,
            connection: Mutex::new(None),
            connecting: Mutex::new(None),
            idle: Mutex::new(Vec::new()),
        }))
    }

    /// Publishes a job's event. `unroutable_reply_to` names the job's own queue when it could not be used.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn event(
        &self,
        to: EventAddress<'_>,
        rendered: &Rendered,
        message: &Message,
        job_id: &str,
        unroutable_reply_to: Option<&str>,
    ) -> Result<(), PublishError> {
        let results = &self.0.settings.results;
        let (exchange, key) = match to {
            EventAddress::Results => (results.exchange.as_str(), results.routing_key.as_str()),
            EventAddress::ReplyTo(queue) => ("", queue),
        };
        let properties =
            event_properties(rendered, message, job_id, &self.0.settings.source(), unroutable_reply_to);
        self.publish(Kind::Event, exchange, key, &rendered.body, properties).await
    }

    /// Publishes a copy of a job to a wait tier, by its place in `broker.wait_tiers`.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn park(&self, tier: usize, message: &Message, journey: &Journey) -> Result<(), PublishError> {
        let settings = &self.0.settings;
        let queue = settings
            .tiers
            .get(tier)
            .map_or(settings.names.jobs().to_owned(), |t| settings.names.wait(&t.name));
        self.publish(Kind::Park, settings.names.exchange(), &queue, message.body(), message.copy(journey))
            .await
    }

    /// Publishes a copy of a job to a shard.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn hand_on(
        &self,
        shard: Shard,
        message: &Message,
        journey: &Journey,
    ) -> Result<(), PublishError> {
        let exchange = self.0.settings.names.shards_exchange(shard.count());
        let key = shard.number().to_string();
        self.publish(Kind::Shard, &exchange, &key, message.body(), message.copy(journey)).await
    }

    /// Publishes a new job.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn job(&self, job: &Submission<'_>) -> Result<(), PublishError> {
        let names = &self.0.settings.names;
        let now = u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0);
        let mut properties = BasicProperties::default()
            .with_content_type(short("application/json"))
            .with_type(short(JOB_TYPE))
            .with_delivery_mode(PERSISTENT)
            .with_message_id(cut(job.job_id))
            .with_app_id(short(APP_ID))
            .with_timestamp(now);
        if let Some(id) = job.correlation_id {
            properties = properties.with_correlation_id(cut(id));
        }
        if let Some(queue) = job.reply_to {
            properties = properties.with_reply_to(cut(queue));
        }
        if let Some(user) = job.user_id {
            properties = properties.with_user_id(cut(user));
        }
        let (exchange, key) = match job.shard {
            Some(shard) => (names.shards_exchange(shard.count()), shard.number().to_string()),
            None => (names.exchange().to_owned(), names.jobs().to_owned()),
        };
        self.publish(Kind::Job, &exchange, &key, job.body, properties).await
    }

    /// Publishes a dead letter's job again: body untouched, properties by the allow-list.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn replay(&self, message: &Message, journey: &Journey) -> Result<(), PublishError> {
        let names = &self.0.settings.names;
        let properties = message.copy(journey);
        self.publish(Kind::Replay, names.exchange(), names.jobs(), message.body(), properties).await
    }

    /// Publishes a dead letter: the body untouched.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn dead_letter(
        &self,
        message: &Message,
        journey: &Journey,
        reason: Reason,
        detail: &str,
        claim: Option<&str>,
    ) -> Result<(), PublishError> {
        let names = &self.0.settings.names;
        let properties = message.letter(journey, reason, detail, claim);
        self.publish(Kind::DeadLetter, names.exchange(), names.dead_letters(), message.body(), properties)
            .await
    }

    /// Publishes an echo to a queue of a consuming channel.
    pub(super) async fn echo(&self, queue: &str, body: &[u8]) -> Result<(), PublishError> {
        let exchange = self.0.settings.names.exchange().to_owned();
        self.publish(Kind::Echo, &exchange, queue, body, BasicProperties::default()).await
    }

    /// Whether the connection stands (it is made when first needed).
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.standing().is_some()
    }

    /// Closes the connection; what was confirmed is safe.
    pub async fn close(&self) {
        let connection = held(&self.0.connection).take();
        if let Some(connection) = connection {
            connection.close().await;
        }
    }

    async fn publish(
        &self,
        kind: Kind,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), PublishError> {
        // Boxed, so that a job that only may publish later does not hold the room for it.
        let published = Box::pin(self.try_publish(exchange, key, body, properties)).await;
        self.0.metrics.publish.with_label_values(&[kind.as_str(), outcome(&published)]).inc();
        published
    }

    async fn try_publish(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), PublishError> {
        let unconfirmed = |error: &dyn std::fmt::Display| PublishError::Unconfirmed(error.to_string());
        let _permit = self.0.permits.acquire().await.map_err(|e| unconfirmed(&e))?;
        let patience = self.0.settings.confirm_timeout;
        let (connection, channel) = match tokio::time::timeout(patience, self.channel()).await {
            Ok(opened) => opened.map_err(|e| unconfirmed(&e))?,
            Err(_) => return Err(unconfirmed(&format!("no channel within {} s", patience.as_secs()))),
        };
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let confirmed =
            async { channel.basic_publish(cut(exchange), cut(key), options, body, properties).await?.await };
        match tokio::time::timeout(patience, connection.unless_lost(confirmed)).await {
            Ok(Ok(Confirmation::Ack(None))) => {
                self.give_back(channel);
                Ok(())
            }
            Ok(Ok(Confirmation::Ack(Some(_)))) => {
                self.give_back(channel);
                Err(PublishError::Unroutable(key.to_owned()))
            }
            Ok(Ok(Confirmation::Nack(_))) => {
                self.give_back(channel);
                Err(PublishError::Refused)
            }
            Ok(Ok(Confirmation::NotRequested)) => Err(unconfirmed(&"the channel is not in confirm mode")),
            // The exchange is missing, or not for us: the broker has closed the channel.
            Ok(Err(error)) if is_refusal(&error) => Err(PublishError::Refused),
            Ok(Err(error)) => Err(unconfirmed(&error)),
            Err(_) => {
                abandon(&channel).await;
                Err(unconfirmed(&format!("no confirm within {} s", patience.as_secs())))
            }
        }
    }

    async fn channel(&self) -> Result<(Connection, Channel), BrokerError> {
        let connection = self.connection().await?;
        if connection.is_blocked() {
            return Err(BrokerError::Unavailable("the publishing connection is blocked".into()));
        }
        while let Some(channel) = held(&self.0.idle).pop() {
            if channel.status().connected() {
                return Ok((connection, channel));
            }
        }
        let channel = connection.channel().await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        connection.unless_lost(answered(confirms)).await?;
        Ok((connection, channel))
    }

    fn give_back(&self, channel: Channel) {
        held(&self.0.idle).push(channel);
    }

    /// The connection, made anew if it is lost: once for all who ask.
    pub(super) async fn connection(&self) -> Result<Connection, BrokerError> {
        if let Some(connection) = self.standing() {
            return Ok(connection);
        }
        let connecting = held(&self.0.connecting)
            .get_or_insert_with(|| {
                let publisher = self.clone();
                async move { publisher.connect().await }.boxed().shared()
            })
            .clone();
        connecting.await
    }

    fn standing(&self) -> Option<Connection> {
        held(&self.0.connection).as_ref().filter(|c| c.stands()).cloned()
    }

    async fn connect(&self) -> Result<Connection, BrokerError> {
        // Another may have been made between the caller's look and this.
        let connected = match self.standing() {
            Some(connection) => Ok(connection),
            None => self.connect_anew().await,
        };
        *held(&self.0.connecting) = None;
        connected
    }

    async fn connect_anew(&self) -> Result<Connection, BrokerError> {
        let name = self.0.settings.connection_name("publish");
        let connection = self.0.settings.address.connect(&name).await?;
        if held(&self.0.connection).replace(connection.clone()).is_some() {
            self.0.metrics.broker_reconnects.with_label_values(&[CONNECTION_LOST]).inc();
            info!("the publishing connection stands again");
        }
        Ok(connection)
    }
}

fn is_refusal(error: &lapin::Error) -> bool {
    matches!(amqp_code(error), Some(403 | 404))
}

/// How long the broker may take to close a channel that did not confirm. A blocked connection writes nothing, so it never will.
const ABANDON: Duration = Duration::from_secs(1);

async fn abandon(channel: &Channel) {
    if tokio::time::timeout(ABANDON, channel.close(200, short("no confirm in time"))).await.is_err() {
        debug!("a channel that did not confirm could not be closed in time");
    }
}

fn event_properties(
    rendered: &Rendered,
    message: &Message,
    job_id: &str,
    source: &str,
    unroutable_reply_to: Option<&str>,
) -> BasicProperties {
    let mut headers = message.trace_headers();
    for (name, value) in [
        ("cloudEvents_specversion", "1.0"),
        ("cloudEvents_type", RESULT_TYPE),
        ("cloudEvents_source", source),
        ("cloudEvents_id", &rendered.message_id),
        ("cloudEvents_time", &rendered.time),
    ] {
        put_text(&mut headers, name, value);
    }
    if let Some(traceparent) = &rendered.traceparent {
        put_text(&mut headers, header::TRACE[0], traceparent);
    }
    if let Some(subject) = &rendered.subject {
        put_text(&mut headers, "cloudEvents_subject", subject);
    }
    if let Some(queue) = unroutable_reply_to {
        put_text(&mut headers, header::UNROUTABLE_REPLY_TO, queue);
    }
    BasicProperties::default()
        .with_content_type(short("application/json"))
        .with_delivery_mode(PERSISTENT)
        .with_message_id(cut(&rendered.message_id))
        .with_correlation_id(cut(message.correlation_id().unwrap_or(job_id)))
        .with_type(short(RESULT_TYPE))
        .with_app_id(short(APP_ID))
        .with_timestamp(rendered.unix_seconds)
        .with_headers(headers)
}
