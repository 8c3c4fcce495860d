//! Queues and exchanges: what they are, and making sure of them without breaking what is there.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use tracing::warn;

use super::{
    BrokerError, MISSING, amqp_code, answered,
    connection::Connection,
    message::{cut, short},
};
use crate::{
    contract::names::Names,
    domain::{Shard, ShardCount},
};

/// -1 means unlimited only on RabbitMQ 4 and later; on 3.x it dead-letters at the first return. A large positive limit holds on
/// all. Source: rabbitmq-server#12250, measured on 3.10, 4.0 and 4.3.
const DELIVERY_LIMIT: i32 = 1_000_000;

/// What to do about queues that are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Declare {
    /// Declare what is missing, use what is there.
    #[default]
    Missing,
    /// Everything must be there.
    Nothing,
}

/// A wait tier: its word in the queue's name and its time to live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// As configured, for example `30s`.
    pub name: String,
    /// The time that a job waits there.
    pub ttl: Duration,
}

/// A queue of the fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// The direct exchange it is bound to.
    pub exchange: String,
    /// The routing key of its binding.
    pub key: String,
    /// Its arguments.
    pub arguments: FieldTable,
}

/// Every queue of a fleet without shards.
#[must_use]
pub fn queues(names: &Names, tiers: &[Tier]) -> Vec<Queue> {
    let queue = |name: String, arguments| Queue {
        exchange: names.exchange().into(),
        key: name.clone(),
        name,
        arguments,
    };
    let given_up = names.given_up();
    let mut queues = vec![
        queue(names.jobs().into(), dead_lettering(names.exchange(), &given_up)),
        queue(given_up, quorum()),
        queue(names.results(), quorum()),
        queue(names.dead_letters().into(), quorum()),
    ];
    for tier in tiers {
        let mut arguments = dead_lettering(names.exchange(), names.jobs());
        let ttl = i64::try_from(tier.ttl.as_millis()).unwrap_or(i64::MAX);
        arguments.insert(short("x-message-ttl"), AMQPValue::LongLongInt(ttl));
        queues.push(queue(names.wait(&tier.name), arguments));
    }
    queues
}

/// The argument without which a shard would have as many owners as there are workers.
pub(super) const SINGLE_ACTIVE_CONSUMER: &str = "x-single-active-consumer";

/// The queue of one shard.
#[must_use]
pub fn shard(names: &Names, shard: Shard) -> Queue {
    let mut arguments = dead_lettering(names.exchange(), &names.given_up());
    arguments.insert(short(SINGLE_ACTIVE_CONSUMER), AMQPValue::Boolean(true));
    Queue {
        name: names.shard(shard),
        exchange: names.shards_exchange(shard.count()),
        key: shard.number().to_string(),
        arguments,
    }
}

pub(super) fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(short("x-queue-type"), AMQPValue::LongString("quorum".into()));
    arguments.insert(short("x-delivery-limit"), AMQPValue::LongInt(DELIVERY_LIMIT));
    arguments
}

/// At-least-once dead-lettering needs both the strategy and `reject-publish`; without the second the broker falls back to
/// at-most-once in silence. Source: RabbitMQ, "Quorum Queues", section "Dead Lettering".
fn dead_lettering(exchange: &str, routing_key: &str) -> FieldTable {
    let mut arguments = quorum();
    for (name, value) in [
        ("x-dead-letter-exchange", exchange),
        ("x-dead-letter-routing-key", routing_key),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-overflow", "reject-publish"),
    ] {
        arguments.insert(short(name), AMQPValue::LongString(value.into()));
    }
    arguments
}

/// The same as RabbitMQ's definitions, for those who declare by other means.
#[must_use]
pub fn definitions(names: &Names, tiers: &[Tier], shards: Option<ShardCount>, vhost: &str) -> Value {
    let (mut declared, mut bindings) = (Vec::new(), Vec::new());
    let mut all = queues(names, tiers);
    all.extend(shards.iter().flat_map(|count| count.shards()).map(|n| shard(names, n)));
    for Queue { name, exchange, key, arguments } in all {
        bindings.push(json!({
            "source": exchange, "vhost": vhost, "destination": name, "destination_type": "queue",
            "routing_key": key, "arguments": {},
        }));
        declared.push(json!({
            "name": name, "vhost": vhost, "durable": true, "auto_delete": false, "arguments": plain(&arguments),
        }));
    }
    let exchanges = [names.exchange().to_owned()].into_iter().chain(shards.map(|n| names.shards_exchange(n)));
    let exchange = |name| {
        json!({
            "name": name, "vhost": vhost, "type": "direct", "durable": true, "auto_delete": false,
            "internal": false, "arguments": {},
        })
    };
    json!({
        "exchanges": exchanges.map(exchange).collect::<Vec<_>>(),
        "queues": declared,
        "bindings": bindings,
    })
}

/// Arguments as JSON: ours are texts, numbers and booleans.
#[expect(clippy::wildcard_enum_match_arm, reason = "no queue of ours has an argument of any other type")]
fn plain(arguments: &FieldTable) -> Value {
    let value = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => json!(text.to_string()),
        AMQPValue::LongInt(n) => json!(n),
        AMQPValue::LongLongInt(n) => json!(n),
        AMQPValue::Boolean(yes) => json!(yes),
        _ => Value::Null,
    };
    arguments
        .into_iter()
        .map(|(name, v)| (name.to_string(), value(v)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Makes sure of the exchange and every queue. Each declaration has a throw-away channel of its own, since a refused one
/// closes its channel with everything on it.
///
/// # Errors
/// When something is missing and must not be or cannot be declared.
pub(super) async fn ensure(
    connection: &Connection,
    names: &Names,
    tiers: &[Tier],
    declare: Declare,
) -> Result<(), BrokerError> {
    ensure_exchange(connection, names.exchange(), declare).await?;
    for queue in queues(names, tiers) {
        ensure_queue(connection, &queue, declare).await?;
    }
    Ok(())
}

/// Requests under way at once: a layout has up to thousands of queues.
pub(super) const AT_ONCE: usize = 16;

/// Makes sure of a sharded layout, after [`ensure`].
///
/// # Errors
/// As [`ensure`]; also when a shard is there without single active consumer.
pub(super) async fn ensure_shards(
    connection: &Connection,
    names: &Names,
    count: ShardCount,
    declare: Declare,
) -> Result<(), BrokerError> {
    ensure_exchange(connection, &names.shards_exchange(count), declare).await?;
    let each = stream::iter(count.shards());
    each.map(Ok)
        .try_for_each_concurrent(AT_ONCE, async |n| ensure_queue(connection, &shard(names, n), declare).await)
        .await
}

/// Those shards of a layout that are there. None is, where the exchange is not: it is declared first.
///
/// # Errors
/// When the broker cannot be asked.
pub(super) async fn existing_shards(
    connection: &Connection,
    names: &Names,
    count: ShardCount,
) -> Result<Vec<Shard>, BrokerError> {
    match ensure_exchange(connection, &names.shards_exchange(count), Declare::Nothing).await {
        Ok(()) => {}
        Err(BrokerError::Topology { why, .. }) if why == MISSING => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let found = stream::iter(count.shards()).map(|n| async move {
        match declare_queue(connection, &shard(names, n), true).await {
            Ok(_) => Ok(Some(n)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(BrokerError::from(error)),
        }
    });
    found.buffer_unordered(AT_ONCE).try_filter_map(async |n| Ok(n)).try_collect().await
}

/// Consumers of the job queue: each worker has one.
///
/// # Errors
/// When the broker cannot be asked.
pub(super) async fn workers(connection: &Connection, names: &Names) -> Result<u32, BrokerError> {
    let channel = connection.channel().await?;
    let options = QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
    let declared = answered(channel.queue_declare(cut(names.jobs()), options, FieldTable::default())).await;
    close(&channel).await;
    Ok(declared?.consumer_count())
}

/// What a look at the topology found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Queues that are there.
    pub queues: usize,
    /// Those of them whose arguments are not known, since our user may not declare them.
    pub uncompared: usize,
}

/// Looks at the exchange and every queue, and declares nothing: where a queue is there, an equal declaration compares its
/// arguments. That needs a right (`configure`) which a worker that declares nothing does without.
///
/// # Errors
/// When something is missing or has other arguments; when we have to declare and may not.
pub(super) async fn check(
    connection: &Connection,
    names: &Names,
    tiers: &[Tier],
    shards: Option<ShardCount>,
    declare: Declare,
) -> Result<Checked, BrokerError> {
    ensure_exchange(connection, names.exchange(), Declare::Nothing).await?;
    let mut queues = queues(names, tiers);
    if let Some(count) = shards {
        ensure_exchange(connection, &names.shards_exchange(count), Declare::Nothing).await?;
        queues.extend(count.shards().map(|n| shard(names, n)));
    }
    let mut uncompared = 0;
    for queue in &queues {
        let fault = |error| BrokerError::topology("queue", &queue.name, error);
        declare_queue(connection, queue, true).await.map_err(fault)?;
        match declare_queue(connection, queue, false).await {
            Ok(_) => {}
            Err(error) if declare == Declare::Nothing && amqp_code(&error) == Some(403) => uncompared += 1,
            Err(error) => return Err(fault(error)),
        }
    }
    Ok(Checked { queues: queues.len(), uncompared })
}

async fn ensure_exchange(connection: &Connection, name: &str, declare: Declare) -> Result<(), BrokerError> {
    let passive = ExchangeDeclareOptions { passive: true, durable: true, ..Default::default() };
    let declared = |channel: Channel, options| async move {
        let arguments = FieldTable::default();
        answered(channel.exchange_declare(cut(name), ExchangeKind::Direct, options, arguments)).await
    };
    match declared(connection.channel().await?, passive).await {
        Ok(()) => Ok(()),
        Err(error) if declare == Declare::Missing && is_missing(&error) => {
            let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
            Ok(declared(connection.channel().await?, durable).await?)
        }
        Err(error) => Err(BrokerError::topology("exchange", name, error)),
    }
}

async fn ensure_queue(connection: &Connection, queue: &Queue, declare: Declare) -> Result<(), BrokerError> {
    match declare_queue(connection, queue, true).await {
        Ok(_) => {}
        Err(error) if declare == Declare::Missing && is_missing(&error) => {
            declare_queue(connection, queue, false)
                .await
                .map_err(|e| BrokerError::topology("queue", &queue.name, e))?;
        }
        Err(error) => return Err(BrokerError::topology("queue", &queue.name, error)),
    }
    if declare == Declare::Nothing {
        return Ok(());
    }
    if let Err(error) = declare_queue(connection, queue, false).await {
        // The broker names one difference; whether single active consumer is another cannot be known.
        if queue.arguments.inner().contains_key(SINGLE_ACTIVE_CONSUMER) {
            return Err(BrokerError::topology("queue", &queue.name, error));
        }
        warn!(queue = queue.name, error = %error, "the queue has other arguments than this worker would give it; it is used as it is");
    }
    let channel = connection.channel().await?;
    let (name, exchange, key) = (cut(&queue.name), cut(&queue.exchange), cut(&queue.key));
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    answered(channel.queue_bind(name, exchange, key, options, arguments)).await?;
    close(&channel).await;
    Ok(())
}

async fn declare_queue(connection: &Connection, queue: &Queue, passive: bool) -> lapin::Result<lapin::Queue> {
    let channel = connection.channel().await?;
    let options = QueueDeclareOptions { passive, durable: true, ..Default::default() };
    let declared = answered(channel.queue_declare(cut(&queue.name), options, queue.arguments.clone())).await;
    close(&channel).await;
    declared
}

/// Closes a throw-away channel. That it is gone already is what was wanted.
pub(super) async fn close(channel: &Channel) {
    if channel.status().connected() && answered(channel.close(200, short("done"))).await.is_err() {
        tracing::debug!("a throw-away channel was closed by the broker first");
    }
}

fn is_missing(error: &lapin::Error) -> bool {
    amqp_code(error) == Some(404)
}
