//! One broker for the whole run; a stack of its own for each test.

use std::{collections::BTreeMap, path::Path, process::Stdio};

use anyhow::{Context as _, Result};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use restore_sandbox::{
    emitter::Emitter,
    exchange,
    fts::ItemSpec,
    proxy::Proxy,
    rabbitmq::{Broker, Options},
    stack::{RECORDS, Stack, create_job, exchange_options},
    worker::Worker,
};
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, sync::OnceCell};

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

/// A proxy before the stack's broker, and the URI that leads through it.
pub(crate) async fn broker_behind_a_proxy(stack: &Stack) -> Result<(Proxy, String)> {
    let (login, place) = stack.uri.split_once('@').context("a login")?;
    let (address, vhost) = place.split_once('/').context("a vhost")?;
    let proxy = Proxy::start(address.parse()?).await?;
    let uri = format!("{login}@{}/{vhost}", proxy.addr());
    Ok((proxy, uri))
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

/// Restores one item to a mailbox of its own.
pub(crate) async fn restores(stack: &Stack, worker: &Worker, id: &str) -> Result<()> {
    let mut emitter = stack.emitter().await?;
    stack.store(id, &ItemSpec::mail(1, 200_000));
    emitter.publish(&create_job(id, &stack.mailbox(id), id)).await?;
    let told = told(&mut emitter, worker).await?;
    assert_eq!((&told["jobId"], &told["status"]), (&id.into(), &"succeeded".into()), "{told:#}");
    Ok(())
}

/// A start with these variables that does not come to be: exit code and output.
pub(crate) async fn ends(
    stack: &Stack,
    mut variables: BTreeMap<String, String>,
) -> Result<(Option<i32>, String)> {
    variables.insert("RESTORE_WORKER__STARTUP__WAIT".into(), "1s".into());
    let mut worker = Worker::spawn(binary(), &variables, &stack.log())?;
    Ok((worker.wait().await?.code(), worker.output()))
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

/// Runs another command of the binary to its end.
pub(crate) async fn command(stack: &Stack, arguments: &[&str], stdin: &[u8]) -> Result<Output> {
    command_with(&stack.variables(), arguments, stdin).await
}

/// The same with variables of its own.
pub(crate) async fn command_with(
    variables: &BTreeMap<String, String>,
    arguments: &[&str],
    stdin: &[u8],
) -> Result<Output> {
    let mut child = tokio::process::Command::new(binary())
        .args(arguments)
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take().context("its input")?;
    let (fed, output) = tokio::join!(
        async move {
            // A command that does not read it may be gone already.
            drop(input.write_all(stdin).await);
        },
        tokio::time::timeout(std::time::Duration::from_secs(120), child.wait_with_output())
    );
    let () = fed;
    let output = output.context("the command did not end")??;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Output { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) })
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Lines of JSON.
pub(crate) fn jsonl(values: impl IntoIterator<Item = Value>) -> String {
    values.into_iter().map(|value| format!("{value}\n")).collect::<Vec<_>>().concat()
}

/// A letter of an import whose outcome is unknown: the answer was lost, and nobody looks (`in_doubt.look` is off).
pub(crate) async fn unknown(stack: &Stack, emitter: &mut Emitter, job: &str, mailbox: &str) -> Result<()> {
    stack.store("unknown.fts", &ItemSpec::mail(77, 10_000));
    let lost = exchange::Effect::RefuseAfterBody(exchange::Answer::status(504));
    stack.exchange.add_fault(exchange::Fault::new(exchange::Operation::Import, lost).mailbox(mailbox))?;
    emitter.publish(&create_job(job, mailbox, "unknown.fts")).await?;
    let event = emitter.next_result().await?.json()?;
    anyhow::ensure!(event["status"] == "unknown", "{event:#}");
    Ok(())
}
