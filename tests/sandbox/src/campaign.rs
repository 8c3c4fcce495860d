//! The crash campaign: real workers against the real broker and the models, killed, frozen and cut off at chosen steps of a
//! job's life, and an oracle outside of them that knows what has to come of it.
//!
//! Everything is rolled from one seed; what the seed cannot fix is the machine's own timing. Nothing here asks a worker
//! anything: steps are recognised by what storage, Exchange and broker see.

mod courier;
mod fleet;
mod jobs;
mod queues;
mod report;
mod step;
mod strikes;
mod troubles;
mod verdict;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::ValueEnum;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::troubles::Family;
use self::{
    courier::{Book, Publisher},
    fleet::Fleet,
    jobs::Jobs,
    report::Report,
    step::{Blow, Step},
    strikes::Strikes,
    troubles::{Standing, Trouble},
    verdict::{Findings, Item, Kind},
};
use crate::{
    exchange::ALL_ROLES,
    rabbitmq::{Installation, Options, RabbitMq},
    s3::ACCESS_KEY,
    seaweedfs::SeaweedFs,
    stack::{CLIENT_SECRET, RECORDS, Stack, TENANT, exchange_options},
};

/// What a campaign is to be.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Rounds; each kills about thirty times, freezes five times and restarts the broker once.
    #[arg(long, default_value_t = 20)]
    pub rounds: u32,
    /// Rolls everything.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Jobs that are under way at once.
    #[arg(long, default_value_t = 60)]
    pub jobs: usize,
    /// Worker processes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub workers: u8,
    /// `ledger.store` of the workers.
    #[arg(long, default_value = "s3")]
    pub ledger: LedgerKind,
    /// `in_doubt.settle` of the workers, such as `4s`. Items are stored at most 1.9 s late.
    #[arg(long, default_value = "4s")]
    pub settle: String,
    /// `fleet.mode` of the workers.
    #[arg(long, default_value = "auto")]
    pub mode: String,
    /// Families of faults that are left out.
    #[arg(long, value_delimiter = ',')]
    pub faults_off: Vec<Family>,
    /// The campaign is to find items that nobody was told of: the proof that it can.
    #[arg(long)]
    pub expect_duplicates: bool,
}

/// `ledger.store`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LedgerKind {
    /// Records, in the server whose requests are watched and tampered with.
    S3,
    /// Records on `SeaweedFS`: a foreign server, whose requests nobody sees. Needs `pip`.
    Seaweedfs,
    /// None.
    None,
}

/// Kills, freezes, restarts, cuts and troubles of a round.
const ROUND: [(Deed, usize); 5] =
    [(Deed::Kill, 30), (Deed::Freeze, 5), (Deed::Restart, 1), (Deed::Cut, 1), (Deed::Trouble, 5)];
/// How long a step is waited for.
const PATIENCE: Duration = Duration::from_secs(4);
/// `exchange.request_timeout` of the workers; a lease is that, a second for the bytes and a margin of five.
const REQUEST_TIMEOUT: &str = "1s";
const LEASE: Duration = Duration::from_secs(7);
/// What RabbitMQ gives a consumer for one delivery (half an hour by itself). 4.3 may leave a shard to a worker that is dead until
/// then (`docs/fleet.md`).
const CONSUMER_TIMEOUT: Duration = Duration::from_mins(1);
/// The campaign's virtual host.
const VHOST: &str = "campaign";
/// How long everything may take to come to rest.
const REST: Duration = Duration::from_secs(300);
/// After what time without rest the broker is asked what it knows.
const LOOK_AFTER: Duration = Duration::from_secs(20);

/// Something that is done to the workers or their neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Kill,
    Freeze,
    Restart,
    Cut,
    Trouble,
}

impl Deed {
    fn family(self) -> Option<Family> {
        match self {
            Self::Kill => Some(Family::Kills),
            Self::Freeze => Some(Family::Freezes),
            Self::Restart => Some(Family::Broker),
            Self::Cut => Some(Family::Connections),
            Self::Trouble => None,
        }
    }
}

/// Runs a campaign and prints its report; tells whether it came out as it was to.
///
/// # Errors
/// If a part of the sandbox does not start, or the broker does not come back.
pub async fn run(args: &Args, binary: &Path) -> Result<bool> {
    let began = Instant::now();
    let mut campaign = Campaign::start(args.clone(), binary).await?;
    println!(
        "crash campaign: seed {}, {} rounds, {} workers, ledger {:?}, settle {}",
        args.seed, args.rounds, args.workers, args.ledger, args.settle
    );
    for round in 1..=args.rounds {
        campaign.round().await?;
        campaign.progress(round, began);
    }
    campaign.calm_down().await;
    let rested = campaign.rest().await;
    let report = campaign.judge(rested, began.elapsed()).await?;
    report.print();
    campaign.tell_stories(&report.findings)?;
    Ok(if args.expect_duplicates { report.findings.count(Kind::Doubled) > 0 } else { report.holds() })
}

/// A campaign under way.
struct Campaign {
    args: Args,
    dice: fastrand::Rng,
    // Before the node: nobody is to see it end.
    fleet: Arc<Fleet>,
    strikes: Arc<Strikes>,
    book: Arc<Book>,
    stack: Arc<Stack>,
    standing: Standing,
    mailboxes: Vec<String>,
    publishing: CancellationToken,
    under_way: JoinSet<Result<()>>,
    lasting: JoinSet<Result<()>>,
    done: Done,
    _stop: DropGuard,
    _foreign: Option<SeaweedFs>,
    node: RabbitMq,
}

/// What was done beside strikes.
#[derive(Clone, Debug, Default)]
struct Done {
    restarts: u64,
    cuts: u64,
    missed: u64,
    troubles: BTreeMap<Trouble, u64>,
}

impl Campaign {
    async fn start(args: Args, binary: &Path) -> Result<Self> {
        let extra_config = vec![format!("consumer_timeout = {}", CONSUMER_TIMEOUT.as_millis())];
        let options = Options { extra_config, ..Options::from_env() };
        if matches!(options.installation, Installation::System) {
            crate::rabbitmq::ensure_installed().await?;
        }
        let node = RabbitMq::start(options).await?;
        let uri = node.create_vhost(VHOST).await?;
        let options = crate::exchange::Options { seed: args.seed, ..exchange_options() };
        let stack = Arc::new(Stack::start(uri.clone(), options).await?);
        let names: Vec<_> = (0..usize::from(args.workers)).map(fleet::name).collect();
        let foreign = match args.ledger {
            LedgerKind::Seaweedfs => Some(foreign_ledger(binary, &names).await?),
            LedgerKind::S3 | LedgerKind::None => None,
        };
        let ledger = foreign.as_ref().map(SeaweedFs::endpoint);
        let places = (0..names.len()).map(|n| variables(&stack, &args, n, ledger.as_deref())).collect();
        let fleet = Arc::new(Fleet::new(binary, places, stack.dir()));
        let strikes = Arc::new(Strikes::new(Arc::clone(&fleet)));
        stack.s3.faults().watch(Arc::clone(&strikes) as Arc<dyn crate::s3::Watch>);
        stack.exchange.watch(Arc::clone(&strikes) as Arc<dyn crate::exchange::Watch>);
        let off = args.faults_off.clone();
        let standing = Standing::put_in_the_way(&stack, |family| !off.contains(&family))?;
        let book = Arc::new(Book::default());
        let jobs = Jobs::new(&stack, args.seed);
        let mailboxes = jobs.mailboxes().to_vec();
        let (stop, publishing) = (CancellationToken::new(), CancellationToken::new());
        let mut under_way = JoinSet::new();
        under_way.spawn(Arc::clone(&fleet).keep(stop.clone()));
        let listening = courier::listen(uri.clone(), Arc::clone(&book), Arc::clone(&strikes));
        under_way.spawn(async move {
            listening.await;
            Ok(())
        });
        let publisher = Publisher::new(&uri, Arc::clone(&book));
        under_way.spawn(publish(publisher, jobs, Arc::clone(&stack), args.jobs, publishing.clone()));
        Ok(Self {
            dice: fastrand::Rng::with_seed(args.seed),
            args,
            fleet,
            strikes,
            book,
            stack,
            standing,
            mailboxes,
            publishing,
            under_way,
            lasting: JoinSet::new(),
            done: Done::default(),
            _stop: stop.drop_guard(),
            _foreign: foreign,
            node,
        })
    }

    fn has(&self, family: Family) -> bool {
        !self.args.faults_off.contains(&family)
    }

    /// A round: its deeds in any order, one after the other, while jobs keep coming.
    async fn round(&mut self) -> Result<()> {
        let mut deeds: Vec<Deed> = ROUND
            .into_iter()
            .filter(|(deed, _)| deed.family().is_none_or(|family| self.has(family)))
            .flat_map(|(deed, times)| std::iter::repeat_n(deed, times))
            .collect();
        self.dice.shuffle(&mut deeds);
        for deed in deeds {
            while let Some(ended) = self.under_way.try_join_next() {
                ended??;
            }
            sleep(Duration::from_millis(self.dice.u64(20..400))).await;
            match deed {
                Deed::Kill => self.kill().await,
                Deed::Freeze => self.freeze().await,
                Deed::Restart => self.restart().await?,
                Deed::Cut => self.cut().await?,
                Deed::Trouble => self.trouble(),
            }
        }
        Ok(())
    }

    /// At the step that has seen the fewest so far: each is to be seen often.
    async fn kill(&mut self) {
        let tally = self.strikes.tally().kills;
        let ledger = self.args.ledger == LedgerKind::S3;
        let mut steps: Vec<Step> =
            Step::ALL.into_iter().filter(|step| ledger || !step.needs_ledger()).collect();
        self.dice.shuffle(&mut steps);
        steps.sort_by_key(|step| tally.get(step).copied().unwrap_or_default());
        let Some(step) = steps.get(self.dice.usize(..3.min(steps.len()))).copied() else { return };
        self.strike(step, Blow::Kill).await;
    }

    /// Mostly longer than a lease; sometimes only longer than the fence, or a breath.
    async fn freeze(&mut self) {
        if self.fleet.frozen() + 1 >= self.fleet.len().max(2) {
            sleep(LEASE / 2).await;
        }
        let time = match self.dice.u32(..10) {
            0 => Duration::from_millis(self.dice.u64(200..2_000)),
            1 | 2 => Duration::from_millis(self.dice.u64(2_000..7_000)),
            _ => LEASE + Duration::from_millis(self.dice.u64(500..5_000)),
        };
        let ledger = self.args.ledger == LedgerKind::S3;
        let steps: Vec<Step> =
            Step::FREEZES.into_iter().filter(|step| ledger || !step.needs_ledger()).collect();
        let step = self.dice.choice(steps).unwrap_or(Step::Anywhere);
        self.strike(step, Blow::Freeze(time)).await;
    }

    async fn strike(&mut self, step: Step, blow: Blow) {
        let landed = if step == Step::Anywhere {
            let place = self.dice.usize(..self.fleet.len());
            self.strikes.strike_anywhere(place, blow)
        } else {
            self.strikes.strike(step, blow, PATIENCE).await
        };
        self.done.missed += u64::from(!landed);
    }

    async fn restart(&mut self) -> Result<()> {
        self.strikes.note("broker killed".into());
        let place = self.dice.bool().then(|| self.dice.usize(..self.fleet.len()));
        let after = Duration::from_millis(self.dice.u64(..5_000));
        let kills = self.has(Family::Kills);
        let strikes = Arc::clone(&self.strikes);
        let meanwhile = async {
            sleep(after).await;
            if let Some(place) = place.filter(|_| kills) {
                strikes.strike_anywhere(place, Blow::Kill);
            }
        };
        let (restarted, ()) = tokio::join!(self.node.restart(), meanwhile);
        restarted?;
        self.book.broker_back();
        self.strikes.note("broker back".into());
        self.done.restarts += 1;
        Ok(())
    }

    async fn cut(&mut self) -> Result<()> {
        self.strikes.note("connections closed".into());
        self.node.rabbitmqctl(&["close_all_connections", "-p", VHOST, "by the campaign"]).await?;
        self.done.cuts += 1;
        Ok(())
    }

    fn trouble(&mut self) {
        let known: Vec<Trouble> = Trouble::ALL.into_iter().filter(|t| self.has(t.family())).collect();
        let Some(trouble) = self.dice.choice(known) else { return };
        let time = Duration::from_millis(self.dice.u64(300..3_000));
        *self.done.troubles.entry(trouble).or_default() += 1;
        self.strikes.note(format!("{} for {time:?}", trouble.describe()));
        let stack = Arc::clone(&self.stack);
        self.lasting.spawn(async move { trouble.last(&stack, time).await });
    }

    fn progress(&self, round: u32, began: Instant) {
        let tally = self.strikes.tally();
        println!(
            "  round {round:>3}  {:>4} s  {:>6} jobs  {:>3} open  {:>4} kills  {:>3} freezes  {:>3} blows missed",
            began.elapsed().as_secs(),
            self.book.jobs().len(),
            self.book.open().len(),
            tally.kills.values().sum::<u64>(),
            tally.freezes.values().sum::<u64>(),
            self.done.missed,
        );
    }

    /// No more jobs, no more faults.
    async fn calm_down(&mut self) {
        self.publishing.cancel();
        while let Some(lasted) = self.lasting.join_next().await {
            drop(lasted);
        }
        self.stack.exchange.clear_faults();
        self.stack.s3.faults().clear_all();
        self.fleet.thaw();
        self.strikes.note("all faults end".into());
    }

    /// Waits until every job is told and the queues are empty. Tells what does not come to rest.
    async fn rest(&mut self) -> Vec<String> {
        let (deadline, look_at) = (Instant::now() + REST, Instant::now() + LOOK_AFTER);
        let mut looked = false;
        loop {
            let open = self.book.open();
            let pending = self.stack.exchange.pending_commits();
            let queues = queues::list(&self.node).await;
            let restless: Vec<String> = match &queues {
                Ok(queues) => {
                    queues.iter().filter(|queue| !queue.is_at_rest()).map(queues::Queue::describe).collect()
                }
                Err(error) => vec![format!("{error:#}")],
            };
            if open.is_empty() && pending == 0 && restless.is_empty() {
                return Vec::new();
            }
            if Instant::now() >= deadline {
                return restless;
            }
            if !looked && Instant::now() >= look_at {
                looked = true;
                println!("  not at rest after {LOOK_AFTER:?}: {}", restless.join(", "));
                queues::tell(&self.node).await;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn judge(&mut self, mut troubled: Vec<String>, took: Duration) -> Result<Report> {
        let items = self.mailboxes.iter().flat_map(|mailbox| {
            let items = self.stack.exchange.items(mailbox).into_iter();
            items.map(|item| Item { id: item.item_id, mailbox: mailbox.clone(), sha256: item.sha256 })
        });
        let items: Vec<Item> = items.collect();
        let (jobs, events) = (self.book.jobs(), self.book.events());
        let findings = verdict::judge(&jobs, &events, &items);
        troubled.extend(self.book.odd());
        troubled.extend(self.fleet.own_ends());
        troubled.extend(self.fleet.lines_about(&["panicked", "a fault of this program"]));
        let ended = |status: &str| {
            events.values().filter(|told| told.last().is_some_and(|told| told.status == status)).count()
        };
        let letters =
            queues::list(&self.node).await?.into_iter().find(|queue| queue.name == "restore.dead-letters");
        let letters = letters.map_or(0, |queue| queue.ready);
        let buried = ended("failed") + ended("unknown");
        if letters < buried as u64 {
            troubled.push(format!("{letters} dead letters for {buried} jobs that failed or are unknown"));
        }
        let told_again = self
            .strikes
            .tally()
            .told
            .iter()
            .filter(|job| events.get(*job).is_some_and(|t| t.len() > 1))
            .count();
        Ok(Report {
            args: self.args.clone(),
            took,
            jobs: jobs.len(),
            items: items.len(),
            findings,
            tally: self.strikes.tally(),
            told_again,
            woken: self.fleet.woken_after(LEASE),
            starts: self.fleet.starts(),
            done: self.done.clone(),
            first_results: self.book.first_results(),
            exchange: self.stack.exchange.fired_by_name(),
            storage: self.standing.fired(&self.stack),
            violations: self.stack.exchange.violations(),
            troubled,
        })
    }

    /// Everything known of the first jobs that something is wrong with, and the workers' logs.
    fn tell_stories(&self, findings: &Findings) -> Result<()> {
        if findings.wrongs.is_empty() {
            return Ok(());
        }
        let events = self.book.events();
        let jobs = self.book.jobs();
        let most = if self.args.expect_duplicates { 1 } else { 5 };
        for wrong in findings.wrongs.iter().take(most) {
            println!("\n=== {:?}: {}: {}", wrong.kind, wrong.jobs.join(", "), wrong.what);
            let mut texts: Vec<String> = Vec::new();
            for id in &wrong.jobs {
                println!("  job {:?}", jobs.get(id));
                texts.push(id.clone());
                for told in events.get(id).into_iter().flatten() {
                    println!("  event {}", told.text);
                    texts.extend(told.names().cloned());
                }
                let Some(job) = jobs.get(id) else { continue };
                for item in self.stack.exchange.items(&job.mailbox) {
                    if item.sha256 == job.sha256 {
                        println!("  item {item:?}");
                        texts.extend(item.search_key);
                        texts.push(item.item_id);
                    }
                }
            }
            let mut about: Vec<&str> = texts.iter().map(String::as_str).collect();
            for line in self.fleet.lines_about(&about) {
                println!("  log {line}");
            }
            about.extend(["Kill", "Freeze", "broker", "connections", "away", ": 5", ": 4"]);
            let seen = self.strikes.seen_about(&about);
            let own = |line: &String| texts.iter().any(|text| line.contains(text.as_str()));
            let (first, last) = (seen.iter().position(own), seen.iter().rposition(own));
            if let (Some(first), Some(last)) = (first, last) {
                for line in seen.get(first.saturating_sub(5)..=last).unwrap_or_default() {
                    println!("  seen {line}");
                }
            }
        }
        let kept = std::env::temp_dir().join(format!("restore-crash-test-{}", std::process::id()));
        std::fs::create_dir_all(&kept)?;
        for (n, log) in self.fleet.logs() {
            std::fs::copy(log, kept.join(format!("{}.log", fleet::name(n))))?;
        }
        println!("\n  the workers' logs: {}", kept.display());
        Ok(())
    }
}

/// Bytes as hexadecimal text.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// Publishes as long as the campaign lasts, never more than so many jobs ahead of the workers.
async fn publish(
    mut publisher: Publisher,
    mut jobs: Jobs,
    stack: Arc<Stack>,
    most: usize,
    stop: CancellationToken,
) -> Result<()> {
    while !stop.is_cancelled() {
        if publisher.open_jobs() >= most {
            sleep(Duration::from_millis(5)).await;
            continue;
        }
        for publication in jobs.next(&stack) {
            publisher.publish(&publication).await;
        }
    }
    Ok(())
}

/// The access key of a place's worker.
fn access_key(name: &str) -> String {
    format!("{ACCESS_KEY}-{name}")
}

/// A server for the ledger alone.
async fn foreign_ledger(binary: &Path, names: &[String]) -> Result<SeaweedFs> {
    let keys: Vec<_> = names.iter().map(|name| access_key(name)).collect();
    let cache = binary.with_file_name("seaweedfs");
    let server = SeaweedFs::start_for(&cache, &keys).await?;
    server.create_bucket(&keys[0], RECORDS).await?;
    Ok(server)
}

/// The variables of one place: its own credentials everywhere, by which the models tell the workers apart.
fn variables(stack: &Stack, args: &Args, place: usize, ledger: Option<&str>) -> BTreeMap<String, String> {
    let name = fleet::name(place);
    let client = format!("app-{name}");
    stack.exchange.add_app(&client, CLIENT_SECRET);
    stack.exchange.grant(TENANT, &client, &ALL_ROLES);
    let mut variables = stack.variables_and(&[
        ("IDENTITY__CLIENT_ID", client.as_str()),
        ("BROKER__PREFETCH", "24"),
        ("BROKER__HEARTBEAT", "3s"),
        ("BROKER__CONFIRM_TIMEOUT", "5s"),
        ("EXCHANGE__REQUEST_TIMEOUT", REQUEST_TIMEOUT),
        ("LANES__UPLOAD_WINDOW__BYTES", "1000GB"),
        ("LANES__UPLOAD_WINDOW__REQUESTS", "100000000"),
        ("IN_DOUBT__SETTLE", args.settle.as_str()),
        ("IN_DOUBT__CLOCK_MARGIN", "1s"),
        ("RETRY__ATTEMPTS", "50"),
        ("LEDGER__STORE", if args.ledger == LedgerKind::None { "none" } else { "s3" }),
        ("LEDGER__ENDPOINT", ledger.unwrap_or_default()),
        ("FLEET__MODE", args.mode.as_str()),
        ("FLEET__SHARDS", "16"),
        ("STARTUP__WAIT", "60s"),
    ]);
    variables.insert("AWS_ACCESS_KEY_ID".into(), access_key(&name));
    variables.insert("HOSTNAME".into(), name);
    variables
}
