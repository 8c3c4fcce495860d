//! Sample items in the sandbox that `serve` leaves running, and jobs for them.

use anyhow::{Context as _, Result, ensure};
use restore_sandbox::{
    emitter::Emitter,
    fts::ItemSpec,
    stack::{Stack, TENANT, create_job},
};
use serde_json::Value;

/// Blobs that lie ready.
const BLOBS: u64 = 50;
/// Mailboxes that lie ready.
const MAILBOXES: u64 = 5;

/// What is published.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Jobs to publish.
    #[arg(long, default_value_t = 10)]
    jobs: u32,
}

/// Puts the sample blobs and mailboxes there.
pub(crate) fn lay_out(stack: &Stack) {
    for n in 0..MAILBOXES {
        drop(stack.mailbox(&mailbox(n)));
    }
    for n in 0..BLOBS {
        let total = 4_096 << (n % 10);
        stack.store(&blob(n), &ItemSpec::mail(n, total));
    }
}

/// A job for the n-th sample.
pub(crate) fn job(id: &str, n: u64) -> Value {
    create_job(id, &format!("MBX:{}@{TENANT}", mailbox(n % MAILBOXES)), &blob(n % BLOBS))
}

fn mailbox(n: u64) -> String {
    format!("sample{}", n + 1)
}

fn blob(n: u64) -> String {
    format!("samples/{:03}.fts", n + 1)
}

/// Publishes jobs and shows their events; tells whether all succeeded.
pub(crate) async fn submit(args: &Args) -> Result<bool> {
    let uri = std::env::var("AMQP_URI").context("AMQP_URI is not set: export what `serve` printed")?;
    let mut emitter = Emitter::connect(&uri, "restore").await.context("cannot connect to AMQP_URI")?;
    let there = emitter.depth("restore.results").await;
    ensure!(
        there.is_ok(),
        "the queues are not there yet: start `restore-worker run` first, it declares them"
    );
    let run = uuid::Uuid::new_v4().simple().to_string();
    let jobs = (0..u64::from(args.jobs)).map(|n| job(&format!("sample-{}-{n}", &run[..8]), n));
    let published = emitter.publish_all(jobs).await?;
    println!("published {published} jobs");
    let told = emitter.results_of(published).await?;
    for event in told.values().flatten() {
        let text = |key: &str| event[key].as_str().unwrap_or("").to_owned();
        let (bytes, took) = (event["bytes"].as_u64().unwrap_or(0), &event["timings"]["totalMs"]);
        let reason = event["error"]["code"].as_str().unwrap_or("");
        println!(
            "  {} {} {reason} {} {bytes} bytes in {took} ms",
            text("jobId"),
            text("status"),
            text("mailboxId")
        );
    }
    Ok(told.values().flatten().all(|event| event["status"] == "succeeded"))
}
