//! Queues and exchanges: what they are, and making sure of them without breaking what is there.

use std::time::Duration;

use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use tracing::warn;

use super::{
    BrokerError, amqp_code,
    message::{cut, short},
};
use crate::contract::names::Names;

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
    /// Its name, and the routing key of its binding.
    pub name: String,
    /// Its arguments.
    pub arguments: FieldTable,
}

/// Every queue of a fleet without shards.
#[must_use]
pub fn queues(names: &Names, tiers: &[Tier]) -> Vec<Queue> {
    let given_up = names.given_up();
    let mut queues = vec![
        Queue { name: names.jobs().into(), arguments: dead_lettering(names.exchange(), &given_up) },
        Queue { name: given_up, arguments: quorum() },
        Queue { name: names.results(), arguments: quorum() },
        Queue { name: names.dead_letters().into(), arguments: quorum() },
    ];
    for tier in tiers {
        let mut arguments = dead_lettering(names.exchange(), names.jobs());
        let ttl = i64::try_from(tier.ttl.as_millis()).unwrap_or(i64::MAX);
        arguments.insert(short("x-message-ttl"), AMQPValue::LongLongInt(ttl));
        queues.push(Queue { name: names.wait(&tier.name), arguments });
    }
    queues
}

fn quorum() -> FieldTable {
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
pub fn definitions(names: &Names, tiers: &[Tier], vhost: &str) -> Value {
    let exchange = names.exchange();
    let (mut declared, mut bindings) = (Vec::new(), Vec::new());
    for Queue { name, arguments } in queues(names, tiers) {
        bindings.push(json!({
            "source": exchange, "vhost": vhost, "destination": name, "destination_type": "queue",
            "routing_key": name, "arguments": {},
        }));
        declared.push(json!({
            "name": name, "vhost": vhost, "durable": true, "auto_delete": false, "arguments": plain(&arguments),
        }));
    }
    json!({
        "exchanges": [{
            "name": exchange, "vhost": vhost, "type": "direct", "durable": true, "auto_delete": false,
            "internal": false, "arguments": {},
        }],
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
pub async fn ensure(
    connection: &Connection,
    names: &Names,
    tiers: &[Tier],
    declare: Declare,
) -> Result<(), BrokerError> {
    ensure_exchange(connection, names.exchange(), declare).await?;
    for queue in queues(names, tiers) {
        ensure_queue(connection, names.exchange(), &queue, declare).await?;
    }
    Ok(())
}

/// Looks at the exchange and every queue, and declares nothing: where a queue is there, an equal declaration compares its
/// arguments.
///
/// # Errors
/// When something is missing or has other arguments.
pub async fn check(connection: &Connection, names: &Names, tiers: &[Tier]) -> Result<usize, BrokerError> {
    ensure_exchange(connection, names.exchange(), Declare::Nothing).await?;
    let queues = queues(names, tiers);
    for queue in &queues {
        for passive in [true, false] {
            let declared = declare_queue(connection, queue, passive).await;
            declared.map_err(|e| BrokerError::topology("queue", &queue.name, e))?;
        }
    }
    Ok(queues.len())
}

async fn ensure_exchange(connection: &Connection, name: &str, declare: Declare) -> Result<(), BrokerError> {
    let passive = ExchangeDeclareOptions { passive: true, durable: true, ..Default::default() };
    let declared = |channel: Channel, options| async move {
        channel.exchange_declare(cut(name), ExchangeKind::Direct, options, FieldTable::default()).await
    };
    match declared(connection.create_channel().await?, passive).await {
        Ok(()) => Ok(()),
        Err(error) if declare == Declare::Missing && is_missing(&error) => {
            let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
            Ok(declared(connection.create_channel().await?, durable).await?)
        }
        Err(error) => Err(BrokerError::topology("exchange", name, error)),
    }
}

async fn ensure_queue(
    connection: &Connection,
    exchange: &str,
    queue: &Queue,
    declare: Declare,
) -> Result<(), BrokerError> {
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
        warn!(queue = queue.name, error = %error, "the queue has other arguments than this worker would give it; it is used as it is");
    }
    let channel = connection.create_channel().await?;
    let key = cut(&queue.name);
    channel
        .queue_bind(key.clone(), cut(exchange), key, QueueBindOptions::default(), FieldTable::default())
        .await?;
    close(&channel).await;
    Ok(())
}

async fn declare_queue(connection: &Connection, queue: &Queue, passive: bool) -> lapin::Result<lapin::Queue> {
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { passive, durable: true, ..Default::default() };
    let declared = channel.queue_declare(cut(&queue.name), options, queue.arguments.clone()).await;
    close(&channel).await;
    declared
}

/// Closes a throw-away channel. That it is gone already is what was wanted.
pub(super) async fn close(channel: &Channel) {
    if channel.status().connected() && channel.close(200, short("done")).await.is_err() {
        tracing::debug!("a throw-away channel was closed by the broker first");
    }
}

fn is_missing(error: &lapin::Error) -> bool {
    amqp_code(error) == Some(404)
}
