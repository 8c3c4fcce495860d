//! The other side of the queues: publishes jobs, takes events and dead letters, looks at queues.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use tokio::time::timeout;

use crate::wait::until;

/// How long an event may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Events that a measurement settles at once.
const TOGETHER: usize = 64;
/// Default of `fleet.shards`.
const SHARDS: u16 = 64;

/// A connection to one vhost.
pub struct Emitter {
    connection: Connection,
    channel: Channel,
    results: Option<Consumer>,
    prefix: String,
}

/// An event, or a dead letter.
#[derive(Clone, Debug)]
pub struct Message {
    /// The body.
    pub body: Vec<u8>,
    /// Headers that are texts or numbers.
    pub headers: BTreeMap<String, String>,
    /// `message-id`.
    pub message_id: Option<String>,
    /// `correlation-id`.
    pub correlation_id: Option<String>,
    /// `type`.
    pub kind: Option<String>,
    /// Everything else.
    pub properties: BasicProperties,
}

impl Message {
    /// The body as JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn json(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }
}

impl From<Delivery> for Message {
    fn from(delivery: Delivery) -> Self {
        let text = |id: &Option<lapin::types::ShortString>| id.as_ref().map(ToString::to_string);
        let headers = delivery.properties.headers().iter().flatten();
        let headers = headers.filter_map(|(name, value)| Some((name.to_string(), plain(value)?))).collect();
        Self {
            headers,
            message_id: text(delivery.properties.message_id()),
            correlation_id: text(delivery.properties.correlation_id()),
            kind: text(delivery.properties.kind()),
            properties: delivery.properties,
            body: delivery.data,
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a header of any other type is left to `properties`")]
fn plain(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        AMQPValue::LongLongInt(n) => Some(n.to_string()),
        AMQPValue::LongInt(n) => Some(n.to_string()),
        AMQPValue::LongUInt(n) => Some(n.to_string()),
        _ => None,
    }
}

impl Emitter {
    /// Connects; `prefix` as in `broker.prefix`.
    ///
    /// # Errors
    /// If the broker does not take us.
    pub async fn connect(uri: &str, prefix: &str) -> Result<Self> {
        let connection = Connection::connect(uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel, results: None, prefix: prefix.into() })
    }

    fn name(&self, queue: &str) -> String {
        format!("{}.{queue}", self.prefix)
    }

    /// Publishes a job as an emitter does.
    ///
    /// # Errors
    /// If the broker does not take it.
    pub async fn publish(&self, job: &Value) -> Result<()> {
        let properties =
            BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(2);
        self.publish_raw(job.to_string().as_bytes(), properties).await
    }

    /// Publishes any bytes to the job queue.
    ///
    /// # Errors
    /// If the broker does not take them.
    pub async fn publish_raw(&self, body: &[u8], properties: BasicProperties) -> Result<()> {
        self.publish_to(&self.name("jobs"), body, properties).await
    }

    /// Publishes any bytes to any queue, through the default exchange.
    ///
    /// # Errors
    /// If the broker does not take them.
    pub async fn publish_to(&self, queue: &str, body: &[u8], properties: BasicProperties) -> Result<()> {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let confirm =
            self.channel.basic_publish("".into(), queue.into(), options, body, properties).await?.await?;
        match confirm {
            Confirmation::Ack(None) => Ok(()),
            other @ (Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested) => {
                bail!("the broker did not take the message: {other:?}")
            }
        }
    }

    /// Publishes many jobs, confirmed together.
    ///
    /// # Errors
    /// If the broker does not take one.
    pub async fn publish_all(&self, jobs: impl IntoIterator<Item = Value>) -> Result<usize> {
        let mut confirms = Vec::new();
        for job in jobs {
            let properties =
                BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(2);
            let queue = self.name("jobs");
            let options = BasicPublishOptions::default();
            confirms.push(
                self.channel
                    .basic_publish("".into(), queue.into(), options, job.to_string().as_bytes(), properties)
                    .await?,
            );
        }
        let n = confirms.len();
        for confirm in confirms {
            if !matches!(confirm.await?, Confirmation::Ack(None)) {
                bail!("the broker did not take a job");
            }
        }
        Ok(n)
    }

    /// The next result event.
    ///
    /// # Errors
    /// If none comes in time.
    pub async fn next_result(&mut self) -> Result<Message> {
        let delivery = self.next_delivery().await?;
        delivery.acker.ack(BasicAckOptions::default()).await?;
        Ok(delivery.into())
    }

    async fn next_delivery(&mut self) -> Result<Delivery> {
        if self.results.is_none() {
            let queue = self.name("results");
            self.results = Some(self.consume(&queue).await?);
        }
        let results = self.results.as_mut().context("consumes")?;
        let next = timeout(LIMIT, results.next()).await.context("no event in time")?;
        Ok(next.context("the events ended")??)
    }

    /// So many result events, settled in batches: for measurements, where one settlement for each would be the broker's
    /// work and ours.
    ///
    /// # Errors
    /// If one is missing.
    pub async fn events(&mut self, count: usize) -> Result<Vec<Value>> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            let had = events.len();
            let delivery =
                self.next_delivery().await.with_context(|| format!("{had} of {count} jobs were told"))?;
            events.push(serde_json::from_slice(&delivery.data)?);
            if events.len() == count || events.len().is_multiple_of(TOGETHER) {
                delivery.acker.ack(BasicAckOptions { multiple: true }).await?;
            }
        }
        Ok(events)
    }

    /// Consumes a queue.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn consume(&self, queue: &str) -> Result<Consumer> {
        let channel = self.connection.create_channel().await?;
        Ok(channel
            .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await?)
    }

    /// Result events until every one of these jobs has one, by job id; repeats are kept.
    ///
    /// # Errors
    /// If one is missing.
    pub async fn results_of(&mut self, jobs: usize) -> Result<BTreeMap<String, Vec<Value>>> {
        let mut results: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        while results.len() < jobs {
            let had = results.len();
            let event = self
                .next_result()
                .await
                .with_context(|| format!("{had} of {jobs} jobs were told"))?
                .json()?;
            let id = event["jobId"].as_str().context("an event without jobId")?.to_owned();
            results.entry(id).or_default().push(event);
        }
        Ok(results)
    }

    /// Takes what a queue holds now.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn take_all(&self, queue: &str) -> Result<Vec<Message>> {
        let channel = self.connection.create_channel().await?;
        let mut messages = Vec::new();
        while let Some(got) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await? {
            messages.push(got.delivery.into());
        }
        Ok(messages)
    }

    /// Waits for so many dead letters and takes them.
    ///
    /// # Errors
    /// If they do not come.
    pub async fn dead_letters(&self, count: u32) -> Result<Vec<Message>> {
        let queue = self.name("dead-letters");
        self.depth_reaches(&queue, count).await?;
        self.take_all(&queue).await
    }

    /// Messages that are ready in a queue.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn depth(&self, queue: &str) -> Result<u32> {
        let channel = self.connection.create_channel().await?;
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
        channel.close(200, "done".into()).await?;
        Ok(declared.message_count())
    }

    /// Waits until a queue holds so many ready messages.
    ///
    /// # Errors
    /// If it takes too long.
    pub async fn depth_reaches(&self, queue: &str, count: u32) -> Result<()> {
        until(&format!("{count} messages in {queue}"), LIMIT, async || {
            Ok((self.depth(queue).await? >= count).then_some(()))
        })
        .await
    }

    /// Jobs that nobody works on: ready in the job queue and, where a fleet has made them, in the shards of the default layout.
    ///
    /// # Errors
    /// If the job queue is not there.
    pub async fn jobs(&self) -> Result<u32> {
        let mut jobs = self.depth(&self.name("jobs")).await?;
        for shard in 0..SHARDS {
            match self.depth(&self.name(&format!("shards.{SHARDS}.{shard}"))).await {
                Ok(depth) => jobs += depth,
                Err(_) => break,
            }
        }
        Ok(jobs)
    }

    /// Waits until so many jobs lie where nobody works on them.
    ///
    /// # Errors
    /// If it takes too long.
    pub async fn jobs_reach(&self, count: u32) -> Result<()> {
        until(&format!("{count} jobs that nobody works on"), LIMIT, async || {
            Ok((self.jobs().await? >= count).then_some(()))
        })
        .await
    }

    /// A connection's channel for anything else.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn channel(&self) -> Result<Channel> {
        Ok(self.connection.create_channel().await?)
    }
}
