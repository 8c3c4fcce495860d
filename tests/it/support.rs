//! One broker for the whole run; a stack of its own for each test.

use std::path::Path;

use anyhow::{Context as _, Result};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use restore_sandbox::{
    emitter::Emitter,
    exchange,
    rabbitmq::{Broker, Options},
    stack::{RECORDS, Stack, exchange_options},
    worker::Worker,
};
use serde_json::Value;
use tokio::sync::OnceCell;

/// The binary under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_restore-worker"))
}

static BROKER: OnceCell<Broker> = OnceCell::const_new();

/// The broker that all tests share, each in a vhost of its own.
pub(crate) async fn broker() -> Result<&'static Broker> {
    BROKER.get_or_try_init(|| Broker::from_env_or_start(Options::from_env())).await
}

/// A stack named after its test.
pub(crate) async fn stack(name: &str) -> Result<Stack> {
    stack_with(name, exchange_options()).await
}

/// A stack with an Exchange of its own kind.
pub(crate) async fn stack_with(name: &str, options: exchange::Options) -> Result<Stack> {
    Stack::start(broker().await?.create_vhost(name).await?, options).await
}

/// Times so short that a doubt is over within seconds. A lease is 7 s then: a send's 2 s, and the margin.
pub(crate) const QUICK: [(&str, &str); 3] =
    [("EXCHANGE__REQUEST_TIMEOUT", "1s"), ("IN_DOUBT__SETTLE", "2s"), ("IN_DOUBT__CLOCK_MARGIN", "1s")];

/// A worker with [`QUICK`] times.
pub(crate) async fn quick_worker(stack: &Stack) -> Result<Worker> {
    stack.worker(binary(), &QUICK).await
}

/// [`QUICK`] times and more variables.
pub(crate) fn quick_and<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    QUICK.iter().chain(more).copied().collect()
}

/// The next event's JSON.
pub(crate) async fn told(emitter: &mut Emitter, worker: &Worker) -> Result<Value> {
    emitter.next_result().await.with_context(|| worker.output())?.json()
}

/// The job's record, as it lies in the store.
pub(crate) fn record(stack: &Stack, job: &str) -> Result<Value> {
    let keys = stack.s3.backend().keys(RECORDS, "restore-ledger/jobs/");
    let name = format!("/{job}.json");
    let key = keys.iter().find(|key| key.ends_with(&name)).with_context(|| format!("a record of {job}"))?;
    Ok(serde_json::from_slice(&stack.s3.backend().get(RECORDS, key).context("a body")?)?)
}

/// Properties of a job, with headers that are texts.
pub(crate) fn headers(pairs: &[(&str, &str)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        let value = match value.parse::<i64>() {
            Ok(number) => AMQPValue::LongLongInt(number),
            Err(_) => AMQPValue::LongString((*value).into()),
        };
        table.insert((*name).into(), value);
    }
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_headers(table)
}
