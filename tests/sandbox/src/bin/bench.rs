//! The worker's cost and speed beside the floor: items of several sizes over TLS, with all guarantees on, against the same servers
//! in one run. The floor (`examples/floor.rs`) fetches, digests, encodes and sends the same bytes and does nothing else.

#![expect(clippy::cast_precision_loss, reason = "rates and ratios for a person")]

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use restore_sandbox::{
    emitter::Emitter,
    exchange::{ALL_ROLES, Operation},
    fts::ItemSpec,
    measure::{beside, measured},
    rabbitmq::{Broker, Options},
    stack::{BLOBS, CLIENT_ID, Stack, TENANT, create_job, exchange_options},
    worker::Worker,
};
use tokio::time::sleep;

/// The worker's cost and speed beside the floor.
#[derive(Debug, Parser)]
struct Cli {
    /// Repetitions; medians are told.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Sizes to measure, as they stand in the table.
    #[arg(long, value_delimiter = ',', default_values_t = SIZES.map(|size| size.name.to_owned()))]
    sizes: Vec<String>,
    /// Measure idling and waiting, too.
    #[arg(long)]
    rest: bool,
}

/// A size of item, and how many make a repetition.
#[derive(Clone, Copy)]
struct Size {
    name: &'static str,
    bytes: usize,
    items: usize,
    at_once: usize,
}

const SIZES: [Size; 4] = [
    Size { name: "4KiB", bytes: 4 << 10, items: 2_000, at_once: 64 },
    Size { name: "32KiB", bytes: 32 << 10, items: 2_000, at_once: 64 },
    Size { name: "1MiB", bytes: 1 << 20, items: 200, at_once: 64 },
    Size { name: "150MiB", bytes: 150 << 20, items: 8, at_once: 4 },
];
const MAILBOXES: usize = 16;

/// What a repetition came to.
#[derive(Clone, Copy, Default)]
struct Figures {
    seconds: f64,
    cpu: f64,
    calls: f64,
}

fn main() -> ExitCode {
    measured("bench", run(Cli::parse()))
}

async fn run(cli: Cli) -> Result<()> {
    let (binary, floor) = (beside("restore-worker")?, beside("examples/floor")?);
    let broker = Broker::from_env_or_start(Options::from_env()).await?;
    let stack = Stack::start(broker.create_vhost("bench").await?, exchange_options()).await?;
    let mailboxes: Vec<_> = (0..MAILBOXES).map(|n| stack.mailbox(&format!("m{n}"))).collect();
    let mut none = Bench::start(&stack, &binary, "none").await?;
    let mut s3 = Bench::start(&stack, &binary, "s3").await?;
    println!("medians of {}; CPU is user + system of the process alone; x: times the floor", cli.repeat);
    println!(
        "{:>7} {:>9} {:>10} {:>9} {:>12} {:>12} {:>7} {:>7} {:>8} {:>9}",
        "size", "", "items/s", "MB/s", "CPU ms/item", "CPU s/GiB", "CPU x", "speed x", "calls", "RSS MiB"
    );
    for size in SIZES.into_iter().filter(|size| cli.sizes.iter().any(|name| name == size.name)) {
        stack.store(&key(size), &ItemSpec::mail(size.bytes as u64, size.bytes));
        let (mut base, mut without, mut with) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=cli.repeat {
            let floor = run_floor(&stack, &floor, size, &mailboxes).await?;
            let (a, b) = (none.run(&stack, size, &mailboxes).await?, s3.run(&stack, size, &mailboxes).await?);
            // The first warms up: sessions, connections, the allocator.
            if round > 0 {
                base.push(floor);
                without.push(a);
                with.push(b);
            }
        }
        let base = median(&base);
        row(size, "floor", base, base, None);
        row(size, "no ledger", median(&without), base, Some(none.peak()?));
        row(size, "ledger", median(&with), base, Some(s3.peak()?));
        stack.s3.backend().remove(BLOBS, &key(size));
    }
    if cli.rest {
        Box::pin(rest(&stack, &binary)).await?;
    }
    let violations = stack.exchange.violations();
    ensure!(violations.is_empty(), "requests that no right client sends: {violations:?}");
    Ok(())
}

fn key(size: Size) -> String {
    format!("{}.fts", size.name)
}

async fn run_floor(stack: &Stack, floor: &Path, size: Size, mailboxes: &[String]) -> Result<Figures> {
    let token = stack.exchange.issue_token(TENANT, CLIENT_ID, &ALL_ROLES, Duration::from_secs(3_600));
    let token_file = stack.dir().join("floor.token");
    std::fs::write(&token_file, token)?;
    let output = tokio::process::Command::new(floor)
        .args([&stack.s3.endpoint(), BLOBS, &key(size), &size.items.to_string(), &size.at_once.to_string()])
        .arg(stack.dir().join("ca.pem"))
        .arg(token_file)
        .arg(stack.exchange.graph_url())
        .args(mailboxes)
        .envs(stack.s3.credentials())
        .output()
        .await?;
    ensure!(output.status.success(), "the floor failed: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    let mut next = || numbers.next().context("two numbers")?.context("a number");
    Ok(Figures { seconds: next()?, cpu: next()?, calls: 1.0 })
}

/// A worker with queues of its own.
struct Bench {
    worker: Worker,
    emitter: Emitter,
    prefix: String,
    published: usize,
}

impl Bench {
    async fn start(stack: &Stack, binary: &Path, ledger: &str) -> Result<Self> {
        let prefix = format!("bench-{ledger}");
        let bucket = if ledger == "none" { "" } else { restore_sandbox::stack::RECORDS };
        let variables = [
            ("BROKER__PREFIX", prefix.as_str()),
            ("LEDGER__STORE", ledger),
            ("LEDGER__BUCKET", bucket),
            ("FLEET__MODE", "shared"),
            ("LANES__UPLOAD_WINDOW__BYTES", "100000GB"),
            ("LANES__UPLOAD_WINDOW__REQUESTS", "100000000"),
            ("EXCHANGE__REQUEST_TIMEOUT", "120s"),
            ("LOG__LEVEL", "info"),
        ];
        let worker = stack.named_worker(binary, &prefix, &variables).await?;
        let emitter = Emitter::connect(&stack.uri, &prefix).await?;
        Ok(Self { worker, emitter, prefix, published: 0 })
    }

    async fn run(&mut self, stack: &Stack, size: Size, mailboxes: &[String]) -> Result<Figures> {
        let first = self.published;
        self.published += size.items;
        let jobs: Vec<_> = (first..self.published)
            .map(|n| create_job(&format!("{}-{n}", self.prefix), &mailboxes[n % mailboxes.len()], &key(size)))
            .collect();
        let operations = [Operation::Import, Operation::OpenSession, Operation::ListItems];
        let calls = |stack: &Stack| operations.iter().map(|o| stack.exchange.requests(*o)).sum::<u64>();
        // The jobs lie there before it begins, as the floor's do.
        self.worker.signal("STOP").await?;
        self.emitter.publish_all(jobs).await?;
        let (before, cpu, began) = (calls(stack), cpu_of(&self.worker)?, Instant::now());
        self.worker.signal("CONT").await?;
        let told = self.emitter.results_of(size.items).await?;
        let figures = Figures {
            seconds: began.elapsed().as_secs_f64(),
            cpu: cpu_of(&self.worker)? - cpu,
            calls: (calls(stack) - before) as f64 / size.items as f64,
        };
        let failed = told.values().flatten().find(|event| event["status"] != "succeeded");
        ensure!(failed.is_none(), "a job failed: {failed:?}");
        Ok(figures)
    }

    /// Peak RSS so far, MiB.
    fn peak(&self) -> Result<f64> {
        self.worker.memory("VmHWM:")
    }
}

/// CPU seconds of a worker so far. Source: `proc(5)`, `/proc/pid/stat`, fields 14 and 15, in hundredths.
fn cpu_of(worker: &Worker) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.id().context("a process")?))?;
    let fields: Vec<&str> =
        stat.rsplit_once(')').context("a name in brackets")?.1.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok()).context("a number");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

fn median(figures: &[Figures]) -> Figures {
    let of = |part: fn(&Figures) -> f64| {
        let mut values: Vec<_> = figures.iter().map(part).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    Figures { seconds: of(|f| f.seconds), cpu: of(|f| f.cpu), calls: of(|f| f.calls) }
}

fn row(size: Size, who: &str, figures: Figures, base: Figures, peak: Option<f64>) {
    let (items, bytes) = (size.items as f64, (size.items * size.bytes) as f64);
    println!(
        "{:>7} {who:>9} {:>10.1} {:>9.1} {:>12.3} {:>12.2} {:>7.2} {:>7.2} {:>8.3} {:>9}",
        size.name,
        items / figures.seconds,
        bytes / figures.seconds / 1e6,
        figures.cpu * 1_000.0 / items,
        figures.cpu / bytes * f64::from(1 << 30),
        figures.cpu / base.cpu,
        base.seconds / figures.seconds,
        figures.calls,
        peak.map_or("-".into(), |peak| format!("{peak:.0}")),
    );
}

/// What a worker costs that has nothing to do, and one whose ten thousand jobs all wait.
async fn rest(stack: &Stack, binary: &Path) -> Result<()> {
    const JOBS: usize = 10_000;
    let variables = [
        ("BROKER__PREFIX", "rest"),
        ("BROKER__PREFETCH", "20000"),
        ("RETRY__HOLD", "1h"),
        ("FLEET__MODE", "shared"),
    ];
    let worker = stack.named_worker(binary, "rest", &variables).await?;
    let cpu = cpu_of(&worker)?;
    sleep(Duration::from_secs(20)).await;
    let idle = worker.memory("VmRSS:")?;
    println!("\nidle for 20 s: {:.0} ms CPU, {idle:.1} MiB RSS", (cpu_of(&worker)? - cpu) * 1_000.0);
    let mailbox = stack.mailbox("waits");
    stack.exchange.throttle_tenant(TENANT, Some(Duration::from_secs(3_000)))?;
    let emitter = Emitter::connect(&stack.uri, "rest").await?;
    let jobs = (0..JOBS).map(|n| {
        let mut job = create_job(&format!("rest-{n}"), &mailbox, "32KiB.fts");
        job["metadata"] = serde_json::json!({ "filler": "x".repeat(700) });
        job
    });
    stack.store("32KiB.fts", &ItemSpec::mail(1, 32 << 10));
    emitter.publish_all(jobs).await?;
    sleep(Duration::from_secs(20)).await;
    let cpu = cpu_of(&worker)?;
    sleep(Duration::from_secs(10)).await;
    println!(
        "{JOBS} jobs of 1 KiB waiting: {:.1} MiB more, {:.0} ms CPU in 10 s",
        worker.memory("VmRSS:")? - idle,
        (cpu_of(&worker)? - cpu) * 1_000.0
    );
    Ok(())
}
