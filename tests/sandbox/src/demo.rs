//! The demo: a few hundred items through the real binary, some trouble in its way, and a look at every one of them.

mod plan;
mod progress;
mod report;
mod troubles;
mod verdict;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use restore_sandbox::{
    emitter::Emitter,
    rabbitmq::{Broker, Options},
    stack::{Stack, exchange_options},
    worker::Worker,
};
use serde_json::Value;
use tokio::time::timeout;

use self::{plan::Plan, progress::Progress, report::Figures, troubles::Troubles};
use crate::{NO_MORE, size, started, worker_binary};

/// What is restored.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Items to restore; every fourth is an update.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    items: u32,
    /// Mailboxes to restore them to.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    mailboxes: u32,
    /// The same seed makes the same items.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the demo; tells whether everything holds.
pub(crate) async fn run(args: &Args) -> Result<bool> {
    let binary = worker_binary()?;
    println!("\nrestore-worker demo: {} items for {} mailboxes\n", args.items, args.mailboxes);
    let broker = Broker::from_env_or_start(Options::with_management());
    let (broker, vhost) = start_broker(broker).await?;
    let stack = Stack::start(broker.create_vhost(&vhost).await?, exchange_options()).await?;

    let since = Instant::now();
    let mut plan = Plan::make(args.items, args.mailboxes, args.seed);
    let jobs = plan.lay_out(&stack).await?;
    started("S3", &format!("in memory: {} blobs, {}", jobs.len(), size(plan.bytes())), since);
    let troubles = Troubles::put_in_the_way(&stack, &plan)?;
    started("Exchange", "a strict model over TLS: login, Graph, import host", Instant::now());

    let since = Instant::now();
    // Exchange's limits per mailbox are off here, so the worker need not pace itself by them.
    let mut worker = stack.worker(&binary, &[("LANES__UPLOAD_WINDOW__BYTES", "1000GB")]).await?;
    started("Worker", "the real binary, ready", since);

    let mut emitter = stack.emitter().await?;
    let since = Instant::now();
    let told = restore(&plan, &jobs, &mut emitter).await;
    let took = since.elapsed();
    let told = told.inspect_err(|_| keep_log(&worker))?;

    let (_, metrics) = worker.get("/metrics").await?;
    Figures { plan: &plan, told: &told, took, metrics: &metrics, exchange: &stack.exchange }.print();
    println!("  {:<13}{}\n", "troubles", troubles.describe(&stack));

    let ended = worker.terminate().await?;
    let told = with_repeats(told, &mut emitter).await?;
    let mut checks = verdict::of_items(&plan, &told, &stack);
    checks.push(verdict::of_queues(&emitter).await?);
    checks.push(verdict::of_output(&worker, &stack));
    checks.push(verdict::of_end(ended));
    if let Some(management) = broker.management() {
        management.delete_vhost(&vhost).await?;
    }
    let holds = report::checks(&checks);
    if !holds {
        keep_log(&worker);
    }
    Ok(holds)
}

async fn start_broker(broker: impl Future<Output = Result<Broker>>) -> Result<(Broker, String)> {
    let since = Instant::now();
    let broker = broker.await?;
    let management = broker.management().context("a broker with the management plugin")?;
    let overview = management.get("/api/overview").await?;
    let version = overview["rabbitmq_version"].as_str().unwrap_or("");
    let whose = match broker {
        Broker::Own(_) => "a private node",
        Broker::Existing { .. } => "the one that AMQP_URI names",
    };
    started("RabbitMQ", &format!("{version}, {whose}"), since);
    Ok((broker, format!("restore-demo-{}", uuid::Uuid::new_v4().simple())))
}

/// Events by job id.
type Told = BTreeMap<String, Vec<Value>>;

/// Publishes the jobs and follows their events to the last.
async fn restore(plan: &Plan, jobs: &[Value], emitter: &mut Emitter) -> Result<Told> {
    emitter.publish_all(jobs.iter().cloned()).await?;
    let mut progress = Progress::start(jobs.len() as u64, plan.bytes());
    let mut told = Told::new();
    while told.len() < jobs.len() {
        let n = told.len();
        let event = emitter.next_result().await.with_context(|| format!("{n} jobs were told"))?.json()?;
        let id = event["jobId"].as_str().context("an event without jobId")?.to_owned();
        if !told.contains_key(&id) {
            progress.advance(event["bytes"].as_u64().unwrap_or(0));
        }
        told.entry(id).or_default().push(event);
    }
    progress.finish();
    Ok(told)
}

/// Adds events that came behind the last first one.
async fn with_repeats(mut told: Told, emitter: &mut Emitter) -> Result<Told> {
    while let Ok(event) = timeout(NO_MORE, emitter.next_result()).await {
        let event = event?.json()?;
        told.entry(event["jobId"].as_str().unwrap_or_default().to_owned()).or_default().push(event);
    }
    Ok(told)
}

/// Keeps the worker's log beyond our own end, for whoever looks for the cause.
fn keep_log(worker: &Worker) {
    let log = std::env::temp_dir().join("restore-demo-worker.log");
    match std::fs::write(&log, worker.output()) {
        Ok(()) => println!("\n  the worker's log: {}", log.display()),
        Err(error) => println!("\n  the worker's log cannot be kept: {error}"),
    }
}

/// Items for a time.
fn per_second(count: f64, took: Duration) -> f64 {
    count / took.as_secs_f64().max(0.001)
}
