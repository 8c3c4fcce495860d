//! Mailboxes at their own quota, for real: workers against the broker and the model, with Exchange's windows scaled down. Says how
//! much of each mailbox's bytes was used, what was refused, and how long a mailbox stands still when a worker joins, leaves or dies.

#![expect(clippy::cast_precision_loss, reason = "shares and seconds for a person")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use futures_util::StreamExt as _;
use lapin::options::BasicAckOptions;
use restore_sandbox::{
    emitter::Emitter,
    exchange::{self, Limits},
    fts::ItemSpec,
    measure::{beside, measured},
    rabbitmq::{Broker, Options},
    stack::{CLIENT_ID, Stack, create_job, exchange_options},
    worker::Worker,
};
use serde_json::Value;
use tokio::time::sleep;

/// Mailboxes at their quota, with windows scaled down.
#[derive(Debug, Parser)]
struct Cli {
    /// Worker processes.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Mailboxes, each with more jobs than its windows let through.
    #[arg(long, default_value_t = 40)]
    mailboxes: usize,
    /// Shards of the fleet.
    #[arg(long, default_value_t = 256)]
    shards: u16,
    /// Seconds of the bytes' window (Exchange's: 300), to which the worker's tiers are scaled. The requests' window is twice as long.
    #[arg(long, default_value_t = 20)]
    window: u64,
    /// Windows that are measured, after one and a half that are not.
    #[arg(long, default_value_t = 2)]
    windows: u64,
    /// Items of mean size that fill a bytes' window.
    #[arg(long, default_value_t = 100)]
    items: u64,
    /// `fleet.prefetch`.
    #[arg(long, default_value_t = 32)]
    prefetch: u16,
    /// `fleet.mode`, one run each.
    #[arg(long, value_delimiter = ',', default_values_t = ["sharded".to_owned(), "shared".to_owned()])]
    modes: Vec<String>,
    /// Then lets a worker join, one leave and one die.
    #[arg(long)]
    changes: bool,
}

/// Seconds of Exchange's window of bytes.
const EXCHANGES_WINDOW: u64 = 300;
/// Mean bytes of an item; each is a fifth to nine fifths of it.
const MEAN: u64 = 10_000;
/// Blobs; every job takes one of them.
const BLOBS: u64 = 50;
/// What each mailbox should use of its quota, per cent.
const WANTED: f64 = 98.0;
/// How long what changes in the fleet is watched at least. A mailbox that has spent its window stands still for a part of one.
const WATCH: Duration = Duration::from_secs(25);

/// When which worker told of which mailbox.
type Told = Arc<Mutex<Vec<(Instant, String, String)>>>;

fn main() -> ExitCode {
    measured("bench-quota", run(Cli::parse()))
}

async fn run(cli: Cli) -> Result<()> {
    let binary = beside("restore-worker")?;
    let broker = Broker::from_env_or_start(Options::from_env()).await?;
    println!(
        "{} workers, {} mailboxes, {} shards, a window of {} s for about {} items; measured over {} windows",
        cli.workers, cli.mailboxes, cli.shards, cli.window, cli.items, cli.windows
    );
    for mode in &cli.modes {
        let stack = Stack::start(broker.create_vhost(mode).await?, options(&cli)).await?;
        Box::pin(bench(&cli, mode, &stack, &binary)).await?;
    }
    Ok(())
}

/// Bytes of a request body for an item: base64 and the JSON around it.
const fn request(bytes: u64) -> u64 {
    bytes.div_ceil(3) * 4 + 100
}

fn limits(cli: &Cli) -> Limits {
    Limits {
        bytes: request(MEAN) * cli.items,
        bytes_window: Duration::from_secs(cli.window),
        // As many as fit with items of half the mean size, so that now one limit binds and now the other.
        requests: cli.items * 4,
        requests_window: Duration::from_secs(cli.window * 2),
        ..Limits::default()
    }
}

fn options(cli: &Cli) -> exchange::Options {
    exchange::Options { limits: limits(cli), ..exchange_options() }
}

async fn worker(cli: &Cli, mode: &str, stack: &Stack, binary: &Path, n: usize) -> Result<Worker> {
    let limits = limits(cli);
    let numbers = [limits.bytes, limits.requests].map(|n| n.to_string());
    let windows = [limits.bytes_window, limits.requests_window].map(|w| format!("{}s", w.as_secs()));
    let (shards, prefetch) = (cli.shards.to_string(), cli.prefetch.to_string());
    // The worker's own times by default, scaled down like the window.
    let scaled = |seconds: u64| format!("{}ms", seconds * 1_000 * cli.window / EXCHANGES_WINDOW);
    let (hold, base) = (scaled(20), scaled(5));
    let tiers = [5, 30, 120, 600, 3_600, 21_600].map(scaled).join(",");
    let variables = [
        ("FLEET__MODE", mode),
        ("FLEET__SHARDS", &shards),
        ("FLEET__PREFETCH", &prefetch),
        ("LANES__UPLOAD_WINDOW__BYTES", &numbers[0]),
        ("LANES__UPLOAD_WINDOW__REQUESTS", &numbers[1]),
        ("LANES__UPLOAD_WINDOW__EVERY_BYTES", &windows[0]),
        ("LANES__UPLOAD_WINDOW__EVERY_REQUESTS", &windows[1]),
        ("BROKER__WAIT_TIERS", &tiers),
        ("RETRY__HOLD", &hold),
        ("RETRY__BASE", &base),
        ("EXCHANGE__REQUEST_TIMEOUT", "30s"),
        // Where it listens is told at this level.
        ("LOG__LEVEL", "info"),
    ];
    stack.named_worker(binary, &format!("restore-worker-{mode}-{n}"), &variables).await
}

async fn bench(cli: &Cli, mode: &str, stack: &Stack, binary: &Path) -> Result<()> {
    let mut workers = Vec::new();
    for n in 0..cli.workers {
        workers.push(worker(cli, mode, stack, binary, n).await?);
    }
    let mailboxes: Vec<_> = (0..cli.mailboxes).map(|n| stack.mailbox(&format!("m{n}"))).collect();
    let mut sizes = Vec::new();
    for n in 0..BLOBS {
        let size = MEAN / 5 + MEAN * 8 / 5 * n / (BLOBS - 1);
        let item = ItemSpec::mail(n, usize::try_from(size)?);
        stack.store(&format!("{n}.fts"), &item);
        sizes.push(item.to_bytes().len());
    }
    let emitter = stack.emitter().await?;
    let told = listen(&emitter).await?;
    // Watching what changes takes as long as two windows more; so does what begins with a window at once.
    let each = cli.items * (cli.windows + 4) + if cli.changes { cli.items * 5 } else { 0 };
    for n in 0..each {
        let (blob, size) = (format!("{}.fts", n % BLOBS), sizes[usize::try_from(n % BLOBS)?]);
        // A job that does not say its size is taken for 128 KiB until it is fetched: a tenth of a window as small as these.
        let jobs = mailboxes.iter().enumerate().map(|(m, id)| {
            let mut job = create_job(&format!("{mode}-{m}-{n}"), id, &blob);
            job["blob"]["size"] = size.into();
            job
        });
        emitter.publish_all(jobs).await?;
    }
    let began = Instant::now();
    sleep(Duration::from_millis(cli.window * 1_500)).await;
    let (before, since) = (bytes_of(stack, &mailboxes), Instant::now());
    let told_before = told.lock().unwrap_or_else(PoisonError::into_inner).len();
    sleep(Duration::from_secs(cli.window * cli.windows)).await;
    let (after, windows) = (bytes_of(stack, &mailboxes), since.elapsed().as_secs_f64() / cli.window as f64);
    let told_now = told.lock().unwrap_or_else(PoisonError::into_inner).len() - told_before;
    println!("\n{mode} ({:.0} s after the first job)", began.elapsed().as_secs_f64());
    report(cli, stack, &mailboxes, &before, &after, windows);
    println!("  jobs told             {:>8.1} per second", told_now as f64 / since.elapsed().as_secs_f64());
    if cli.changes {
        Box::pin(changes(cli, mode, stack, binary, &mut workers, &mailboxes, &told)).await?;
    }
    let violations = stack.exchange.violations();
    ensure!(violations.is_empty(), "requests that no right client sends: {violations:?}");
    Ok(())
}

async fn listen(emitter: &Emitter) -> Result<Told> {
    let told = Told::default();
    let mut events = emitter.consume("restore.results").await?;
    let book = Arc::clone(&told);
    tokio::spawn(async move {
        while let Some(Ok(delivery)) = events.next().await {
            let event: Value = serde_json::from_slice(&delivery.data).unwrap_or_default();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let line = (Instant::now(), text(&event["worker"]["name"]), text(&event["mailboxId"]));
            book.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            if delivery.acker.ack(BasicAckOptions::default()).await.is_err() {
                return;
            }
        }
    });
    Ok(told)
}

fn bytes_of(stack: &Stack, mailboxes: &[String]) -> Vec<u64> {
    mailboxes.iter().map(|m| stack.exchange.usage(CLIENT_ID, m).bytes).collect()
}

fn report(cli: &Cli, stack: &Stack, mailboxes: &[String], before: &[u64], after: &[u64], windows: f64) {
    let quota = limits(cli).bytes as f64 * windows;
    let mut used: Vec<f64> = after.iter().zip(before).map(|(a, b)| (a - b) as f64 / quota * 100.0).collect();
    let mut short: Vec<_> = mailboxes.iter().zip(used.clone()).filter(|(_, used)| *used < WANTED).collect();
    short.sort_by(|a, b| a.1.total_cmp(&b.1));
    used.sort_by(f64::total_cmp);
    let sum: f64 = used.iter().sum();
    let jain =
        sum * sum / (used.len() as f64 * used.iter().map(|u| u * u).sum::<f64>()).max(f64::MIN_POSITIVE);
    println!(
        "  of the byte quota     least {:.1} %  median {:.1} %  mean {:.1} %  most {:.1} %   Jain {jain:.4}",
        used.first().unwrap_or(&0.0),
        used[used.len() / 2],
        sum / used.len() as f64,
        used.last().unwrap_or(&0.0),
    );
    if let Some((id, used)) = short.first() {
        println!("  below {WANTED} %            {} of them; the least {used:.1} % is {id}", short.len());
    }
    let usages: Vec<_> = mailboxes.iter().map(|m| stack.exchange.usage(CLIENT_ID, m)).collect();
    let (requests, refused): (u64, u64) =
        usages.iter().fold((0, 0), |(n, r), u| (n + u.requests, r + u.refused()));
    let by = |of: fn(&exchange::Usage) -> u64| usages.iter().map(of).sum::<u64>();
    let (bytes, count, places) =
        (by(|u| u.refused_bytes), by(|u| u.refused_requests), by(|u| u.refused_concurrency));
    let lasted = usages.iter().map(|u| u.age_ms).max().unwrap_or(0) as f64 / 1_000.0 / cli.window as f64;
    println!(
        "  refused               {refused} of {requests} requests ({:.2} %): {:.3} per mailbox and window; for bytes {bytes}, requests {count}, places {places}",
        refused as f64 * 100.0 / requests.max(1) as f64,
        refused as f64 / (mailboxes.len() as f64 * lasted.max(1.0)),
    );
    let sessions: u64 = mailboxes.iter().map(|m| stack.exchange.sessions_opened(m)).sum();
    println!("  sessions per mailbox  {:.2}", sessions as f64 / mailboxes.len() as f64);
}

/// The active shards of a worker, as it shows them.
async fn shards(worker: &mut Worker) -> Result<f64> {
    worker.metric("restore_shards_active", &[]).await
}

async fn changes(
    cli: &Cli,
    mode: &str,
    stack: &Stack,
    binary: &Path,
    workers: &mut Vec<Worker>,
    mailboxes: &[String],
    told: &Told,
) -> Result<()> {
    let watch = WATCH.max(Duration::from_secs(cli.window));
    let joined = Instant::now();
    let name = format!("restore-worker-{mode}-{}", cli.workers);
    workers.push(worker(cli, mode, stack, binary, cli.workers).await?);
    sleep(watch).await;
    let newcomer = workers.last_mut().context("the one that joined")?;
    println!(
        "  a worker joins        its first event after {}, {:.0} of {} mailboxes moved (ideal {:.1}), {:.0} shards active there",
        first_of(told, joined, |line| line.1 == name),
        owned(told, &name, joined).len(),
        cli.mailboxes,
        cli.mailboxes as f64 / (cli.workers as f64 + 1.0),
        shards(newcomer).await?,
    );
    for (what, kill) in [("a worker leaves", false), ("a worker is killed", true)] {
        let mut gone = workers.remove(0);
        let name = format!("restore-worker-{mode}-{}", usize::from(kill));
        let since = Instant::now();
        let orphans = owned(told, &name, joined);
        if kill {
            gone.kill().await?;
        } else {
            gone.terminate().await?;
        }
        let ended = since.elapsed().as_secs_f64();
        sleep(watch).await;
        // Whoever has spent its window stands still whatever happens to the workers: silences of the windows before say how long.
        let others = mailboxes.iter().filter(|id| !orphans.contains(*id)).cloned().collect();
        println!("  {what:<21} within {ended:.1} s");
        for (whose, these) in [("its own", orphans), ("the others", others)] {
            println!(
                "    {whose:<19} {} mailboxes; {}",
                these.len(),
                again(told, since, Duration::from_secs(cli.window * 2), &name, &these)
            );
        }
    }
    Ok(())
}

/// The mailboxes of which a worker has told since, and nobody else after it.
fn owned(told: &Told, worker: &str, since: Instant) -> BTreeSet<String> {
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let last: BTreeMap<_, _> =
        told.iter().filter(|line| line.0 >= since).map(|line| (&line.2, &line.1)).collect();
    last.into_iter().filter(|(_, last)| *last == worker).map(|(mailbox, _)| mailbox.clone()).collect()
}

fn first_of(told: &Told, since: Instant, which: impl Fn(&(Instant, String, String)) -> bool) -> String {
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let first = told.iter().find(|line| line.0 >= since && which(line));
    first.map_or("never".into(), |line| format!("{:.1} s", (line.0 - since).as_secs_f64()))
}

/// How long each of these mailboxes stood still until another worker than the one that went told of it, and how long it was silent:
/// over that time, and at longest in the time before.
fn again(told: &Told, since: Instant, before: Duration, gone: &str, mailboxes: &BTreeSet<String>) -> String {
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut last, mut longest) = (BTreeMap::new(), BTreeMap::new());
    let (mut waits, mut silences) = (BTreeMap::new(), BTreeMap::new());
    for (at, worker, mailbox) in told.iter().filter(|line| line.0 + before >= since) {
        if !mailboxes.contains(mailbox) || (*at >= since && worker == gone) {
            continue;
        }
        let silent = last.insert(mailbox, *at).map_or(0.0, |last| (*at - last).as_secs_f64());
        if *at < since {
            let longest = longest.entry(mailbox).or_insert(silent);
            *longest = longest.max(silent);
        } else {
            waits.entry(mailbox).or_insert((*at - since).as_secs_f64());
            silences.entry(mailbox).or_insert(silent);
        }
    }
    let [waits, silences, longest] = [waits, silences, longest].map(|seconds| {
        let mut seconds: Vec<f64> = seconds.into_values().collect();
        seconds.sort_by(f64::total_cmp);
        seconds
    });
    let median = |seconds: &[f64]| seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN);
    match waits.last() {
        Some(last) => format!(
            "{} flow again: median after {:.1} s, the last after {last:.1} s; silent for {:.1} s then, for {:.1} s at longest before (medians)",
            waits.len(),
            median(&waits),
            median(&silences),
            median(&longest),
        ),
        None => "none flows again".into(),
    }
}
