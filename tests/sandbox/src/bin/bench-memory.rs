//! The worker's memory while it restores sixteen items of 150 MB at once, in every form in which a blob may be stored. Says the peak
//! above the idle worker.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Parser;
use restore_sandbox::{
    emitter::Emitter,
    fts::ItemSpec,
    measure::{beside, measured},
    rabbitmq::{Broker, Options},
    stack::{BLOBS, Stack, create_job, exchange_options},
    wait::until,
};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The worker's memory with large items.
#[derive(Debug, Parser)]
struct Cli {
    /// Items at once, each for a mailbox of its own.
    #[arg(long, default_value_t = 16)]
    items: usize,
    /// Their size, MB.
    #[arg(long, default_value_t = 150)]
    size: usize,
    /// Stored forms, one worker each.
    #[arg(long, value_delimiter = ',', default_values_t = ["raw", "base64", "gzip", "zstd"].map(str::to_owned))]
    forms: Vec<String>,
}

/// How long the items of one form may take.
const PATIENCE: Duration = Duration::from_mins(5);

fn main() -> ExitCode {
    measured("bench-memory", run(Cli::parse()))
}

async fn run(cli: Cli) -> Result<()> {
    let binary = beside("restore-worker")?;
    let broker = Broker::from_env_or_start(Options::from_env()).await?;
    let stack = Stack::start(broker.create_vhost("bench-memory").await?, exchange_options()).await?;
    println!("{} items of {} MB at once, MiB of the worker's resident memory", cli.items, cli.size);
    println!("{:>7} {:>8} {:>8} {:>8} {:>14}", "form", "idle", "peak", "more", "MiB/s of items");
    for form in &cli.forms {
        Box::pin(measure(&cli, form, &stack, &binary)).await?;
    }
    let violations = stack.exchange.violations();
    ensure!(violations.is_empty(), "requests that no right client sends: {violations:?}");
    Ok(())
}

/// The item as it is stored, and what its job says of that.
async fn stored(form: &str, item: Vec<u8>) -> Result<(Vec<u8>, serde_json::Value)> {
    Ok(match form {
        "raw" => (item, json!({})),
        "base64" => (STANDARD.encode(item).into_bytes(), json!({"encoding": "base64"})),
        "gzip" => (all(GzipEncoder::new(item.as_slice())).await?, json!({"compression": "gzip"})),
        "zstd" => (all(ZstdEncoder::new(item.as_slice())).await?, json!({"compression": "zstd"})),
        _ => anyhow::bail!("no form {form}: raw, base64, gzip or zstd"),
    })
}

async fn all(mut encoder: impl AsyncRead + Unpin) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    encoder.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

async fn measure(cli: &Cli, form: &str, stack: &Stack, binary: &Path) -> Result<()> {
    let bytes = cli.size * 1_000_000;
    let (body, says) = stored(form, ItemSpec::mail(1, bytes).to_bytes().to_vec()).await?;
    stack.s3.backend().put(BLOBS, form, vec![body.into()]);
    let prefix = format!("memory-{form}");
    let in_flight = cli.items.to_string();
    let variables = [
        ("BROKER__PREFIX", prefix.as_str()),
        ("FLEET__MODE", "shared"),
        ("LANES__IN_FLIGHT", &in_flight),
        ("LANES__UPLOAD_WINDOW__BYTES", "100000GB"),
        ("EXCHANGE__REQUEST_TIMEOUT", "120s"),
    ];
    let worker = stack.named_worker(binary, &prefix, &variables).await?;
    let mut emitter = Emitter::connect(&stack.uri, &prefix).await?;
    let idle = worker.memory("VmRSS:")?;
    let began = std::time::Instant::now();
    for n in 0..cli.items {
        let mut job = create_job(&format!("{form}-{n}"), &stack.mailbox(&format!("m{n}")), form);
        for (name, value) in says.as_object().into_iter().flatten() {
            job["blob"][name] = value.clone();
        }
        emitter.publish(&job).await?;
    }
    let (results, all) = (format!("{prefix}.results"), u32::try_from(cli.items)?);
    until("every item", PATIENCE, async || Ok((emitter.depth(&results).await? >= all).then_some(()))).await?;
    let told = emitter.results_of(cli.items).await?;
    let failed = told.values().flatten().find(|event| event["status"] != "succeeded");
    ensure!(failed.is_none(), "a job failed: {failed:?}");
    #[expect(clippy::cast_precision_loss, reason = "a rate for a person")]
    let rate = (cli.items * bytes) as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64();
    let peak = worker.memory("VmHWM:")?;
    println!("{form:>7} {idle:>8.1} {peak:>8.1} {:>8.1} {rate:>14.0}", peak - idle);
    stack.s3.backend().remove(BLOBS, form);
    Ok(())
}
