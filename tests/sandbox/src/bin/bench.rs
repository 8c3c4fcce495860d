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
    authority::Authority,
    emitter::Emitter,
    exchange::{ALL_ROLES, Effect, Fault, Operation, When},
    fts::ItemSpec,
    measure::{beside, measured},
    rabbitmq::{Broker, Options, TlsFiles},
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
    /// Milliseconds by which Exchange's answers to imports come later in a second set of rows; 0: none. On few cores worker, broker
    /// and servers share what the floor, which has no broker, shares with the servers alone: speeds compare where waiting dominates.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency: u64,
    /// `fleet.mode` of the workers; `sharded` adds the intake's hop and wants RabbitMQ 4.
    #[arg(long, default_value = "shared")]
    mode: String,
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
    Size { name: "4KiB", bytes: 4 << 10, items: 4_000, at_once: 64 },
    Size { name: "32KiB", bytes: 32 << 10, items: 4_000, at_once: 64 },
    Size { name: "1MiB", bytes: 1 << 20, items: 200, at_once: 64 },
    Size { name: "150MiB", bytes: 150 << 20, items: 8, at_once: 4 },
];
const MAILBOXES: usize = 16;
/// Items of a repetition with a far service, at most.
const FAR_ITEMS: usize = 1_000;

/// The worker's way to the broker: variables.
type Way<'a> = [(&'a str, &'a str)];

/// What a repetition came to: seconds, and CPU seconds of each process.
#[derive(Clone, Copy, Default)]
struct Figures {
    seconds: f64,
    cpu: f64,
    broker: f64,
    servers: f64,
    calls: f64,
}

/// The processes beside the one that is measured: the broker, where it is ours, and this one, which serves storage and Exchange
/// and takes the events.
#[derive(Clone, Copy)]
struct Others {
    broker: Option<u32>,
}

impl Others {
    /// CPU seconds so far: broker, servers.
    fn cpu(self) -> Result<(f64, f64)> {
        Ok((self.broker.map_or(Ok(0.0), cpu_of)?, cpu_of(std::process::id())?))
    }
}

fn main() -> ExitCode {
    measured("bench", run(Cli::parse()))
}

async fn run(cli: Cli) -> Result<()> {
    let (binary, floor) = (beside("restore-worker")?, beside("examples/floor")?);
    let authority = Authority::new("bench")?;
    let dir = tempfile::tempdir_in("/tmp")?;
    let tls = TlsFiles::write(dir.path(), &authority, &["localhost"], false)?;
    let broker = Broker::from_env_or_start(Options { tls: Some(tls.clone()), ..Options::from_env() }).await?;
    let others = Others { broker: broker.pid() };
    let uri = broker.create_vhost("bench").await?;
    // The emitter's part is none of what is measured: it takes the plain way, as it does everywhere.
    let stack = Stack::start_tls(uri.clone(), &authority, exchange_options()).await?;
    let uri = broker.tls_uri("bench").unwrap_or_else(|| {
        println!(
            "a broker that was there already (AMQP_URI) is spoken to as its URI says, perhaps without TLS"
        );
        uri
    });
    let ca = tls.authority.display().to_string();
    let way = [("BROKER__URI", uri.as_str()), ("BROKER__TLS__CA_FILE", ca.as_str())];
    let mailboxes: Vec<_> = (0..MAILBOXES).map(|n| stack.mailbox(&format!("m{n}"))).collect();
    let none = Bench::start(&stack, &binary, others, "none", &cli.mode, &way).await?;
    let s3 = Bench::start(&stack, &binary, others, "s3", &cli.mode, &way).await?;
    let mut side = Side { stack: &stack, floor: &floor, mailboxes: &mailboxes, none, s3, others };
    println!(
        "medians of {}; CPU is user + system of the process alone, ms per item for broker and servers; x: times the floor",
        cli.repeat
    );
    println!(
        "{:>13} {:>9} {:>10} {:>9} {:>12} {:>12} {:>7} {:>7} {:>9} {:>9} {:>8} {:>9}",
        "size",
        "",
        "items/s",
        "MB/s",
        "CPU ms/item",
        "CPU s/GiB",
        "CPU x",
        "speed x",
        "broker",
        "servers",
        "calls",
        "RSS MiB"
    );
    for size in SIZES.into_iter().filter(|size| cli.sizes.iter().any(|name| name == size.name)) {
        stack.store(&key(size), &ItemSpec::mail(size.bytes as u64, size.bytes));
        side.rows(size, size.name, cli.repeat).await?;
        if cli.latency > 0 {
            let late = When::After(Duration::from_millis(cli.latency));
            let far =
                stack.exchange.add_fault(Fault::new(Operation::Import, Effect::WaitAfter(late)).always())?;
            let fewer = Size { items: size.items.min(FAR_ITEMS), ..size };
            side.rows(fewer, &format!("{} +{}ms", size.name, cli.latency), cli.repeat).await?;
            stack.exchange.clear_fault(far);
        }
        stack.s3.backend().remove(BLOBS, &key(size));
    }
    if cli.rest {
        Box::pin(rest(&stack, &binary, &way)).await?;
    }
    let violations = stack.exchange.violations();
    ensure!(violations.is_empty(), "requests that no right client sends: {violations:?}");
    Ok(())
}

fn key(size: Size) -> String {
    format!("{}.fts", size.name)
}

/// Floor and workers, side by side.
struct Side<'a> {
    stack: &'a Stack,
    floor: &'a Path,
    mailboxes: &'a [String],
    none: Bench,
    s3: Bench,
    others: Others,
}

impl Side<'_> {
    /// Three rows: floor, worker without ledger, worker with it.
    async fn rows(&mut self, size: Size, name: &str, repeat: usize) -> Result<()> {
        let (mut base, mut without, mut with) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=repeat {
            let floor = run_floor(self.stack, self.floor, self.others, size, self.mailboxes).await?;
            let none = self.none.run(self.stack, size, self.mailboxes).await?;
            let s3 = self.s3.run(self.stack, size, self.mailboxes).await?;
            // The first warms up: sessions, connections, the allocator.
            if round > 0 {
                base.push(floor);
                without.push(none);
                with.push(s3);
            }
        }
        let base = median(&base);
        row(size, name, "floor", base, base, None);
        row(size, name, "no ledger", median(&without), base, Some(self.none.peak()?));
        row(size, name, "ledger", median(&with), base, Some(self.s3.peak()?));
        Ok(())
    }
}

async fn run_floor(
    stack: &Stack,
    floor: &Path,
    others: Others,
    size: Size,
    mailboxes: &[String],
) -> Result<Figures> {
    let token = stack.exchange.issue_token(TENANT, CLIENT_ID, &ALL_ROLES, Duration::from_secs(3_600));
    let token_file = stack.dir().join("floor.token");
    std::fs::write(&token_file, token)?;
    let before = others.cpu()?;
    let output = tokio::process::Command::new(floor)
        .args([&stack.s3.endpoint(), BLOBS, &key(size), &size.items.to_string(), &size.at_once.to_string()])
        .arg(stack.dir().join("ca.pem"))
        .arg(stack.storage_ca())
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
    let after = others.cpu()?;
    let (seconds, cpu) = (next()?, next()?);
    Ok(Figures { seconds, cpu, broker: after.0 - before.0, servers: after.1 - before.1, calls: 1.0 })
}

/// A worker with queues of its own.
struct Bench {
    worker: Worker,
    emitter: Emitter,
    others: Others,
    prefix: String,
    published: usize,
}

impl Bench {
    async fn start(
        stack: &Stack,
        binary: &Path,
        others: Others,
        ledger: &str,
        mode: &str,
        way: &Way<'_>,
    ) -> Result<Self> {
        let prefix = format!("bench-{ledger}");
        let bucket = if ledger == "none" { "" } else { restore_sandbox::stack::RECORDS };
        let variables = [
            ("BROKER__PREFIX", prefix.as_str()),
            // More than a repetition's jobs: none waits for another's settlement to be delivered.
            ("BROKER__PREFETCH", "8192"),
            ("LEDGER__STORE", ledger),
            ("LEDGER__BUCKET", bucket),
            ("FLEET__MODE", mode),
            ("LANES__UPLOAD_WINDOW__BYTES", "100000GB"),
            ("LANES__UPLOAD_WINDOW__REQUESTS", "100000000"),
            ("EXCHANGE__REQUEST_TIMEOUT", "120s"),
            ("LOG__LEVEL", "info"),
        ];
        let worker = stack.named_worker(binary, &prefix, &[way, &variables[..]].concat()).await?;
        let emitter = Emitter::connect(&stack.uri, &prefix).await?;
        Ok(Self { worker, emitter, others, prefix, published: 0 })
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
        let (before, cpu, others) = (calls(stack), cpu_of_worker(&self.worker)?, self.others.cpu()?);
        let began = Instant::now();
        self.worker.signal("CONT").await?;
        let events = self.emitter.events(size.items).await?;
        let seconds = began.elapsed().as_secs_f64();
        let after = self.others.cpu()?;
        let figures = Figures {
            seconds,
            cpu: cpu_of_worker(&self.worker)? - cpu,
            broker: after.0 - others.0,
            servers: after.1 - others.1,
            calls: (calls(stack) - before) as f64 / size.items as f64,
        };
        let failed = events.iter().find(|event| event["status"] != "succeeded");
        ensure!(failed.is_none(), "a job failed: {failed:?}");
        Ok(figures)
    }

    /// Peak RSS so far, MiB.
    fn peak(&self) -> Result<f64> {
        self.worker.memory("VmHWM:")
    }
}

fn cpu_of_worker(worker: &Worker) -> Result<f64> {
    cpu_of(worker.id().context("a process")?)
}

/// CPU seconds of a process so far. Source: `proc(5)`, `/proc/pid/stat`, fields 14 and 15, in hundredths.
fn cpu_of(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
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
    Figures {
        seconds: of(|f| f.seconds),
        cpu: of(|f| f.cpu),
        broker: of(|f| f.broker),
        servers: of(|f| f.servers),
        calls: of(|f| f.calls),
    }
}

fn row(size: Size, name: &str, who: &str, figures: Figures, base: Figures, peak: Option<f64>) {
    let (items, bytes) = (size.items as f64, (size.items * size.bytes) as f64);
    println!(
        "{name:>13} {who:>9} {:>10.1} {:>9.1} {:>12.3} {:>12.2} {:>7.2} {:>7.2} {:>9.3} {:>9.3} {:>8.3} {:>9}",
        items / figures.seconds,
        bytes / figures.seconds / 1e6,
        figures.cpu * 1_000.0 / items,
        figures.cpu / bytes * f64::from(1 << 30),
        figures.cpu / base.cpu,
        base.seconds / figures.seconds,
        figures.broker * 1_000.0 / items,
        figures.servers * 1_000.0 / items,
        figures.calls,
        peak.map_or("-".into(), |peak| format!("{peak:.0}")),
    );
}

/// What a worker costs that has nothing to do, and one whose ten thousand jobs all wait.
async fn rest(stack: &Stack, binary: &Path, way: &Way<'_>) -> Result<()> {
    const JOBS: usize = 10_000;
    let variables = [
        ("BROKER__PREFIX", "rest"),
        ("BROKER__PREFETCH", "20000"),
        ("RETRY__HOLD", "1h"),
        ("FLEET__MODE", "shared"),
    ];
    let worker = stack.named_worker(binary, "rest", &[way, &variables[..]].concat()).await?;
    let cpu = cpu_of_worker(&worker)?;
    sleep(Duration::from_secs(20)).await;
    let idle = worker.memory("VmRSS:")?;
    println!("\nidle for 20 s: {:.0} ms CPU, {idle:.1} MiB RSS", (cpu_of_worker(&worker)? - cpu) * 1_000.0);
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
    let cpu = cpu_of_worker(&worker)?;
    sleep(Duration::from_secs(10)).await;
    println!(
        "{JOBS} jobs of 1 KiB waiting: {:.1} MiB more, {:.0} ms CPU in 10 s",
        worker.memory("VmRSS:")? - idle,
        (cpu_of_worker(&worker)? - cpu) * 1_000.0
    );
    Ok(())
}
