//! `check`: a line for each thing that a worker needs, and what is wrong with it. Declares nothing, imports nothing.

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
    sync::Arc,
};

use super::Exit;
use crate::{
    app::StartError,
    blob_store::{BlobStore, Missing},
    broker::{Broker, Checked, Mode, Wanted},
    config::{self, Config, Sources},
    contract::{Parser, rfc3339},
    domain::{FolderId, MailboxId, RestoreError, TenantId, UnixMillis},
    exchange::{Exchange, Look},
    ledger::Ledger,
    metrics::Metrics,
};

/// What to check.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Only the configuration: asks nobody, prints what is in force with secrets masked
    #[arg(long)]
    offline: bool,
    /// Opens an import session for this mailbox (imports nothing)
    #[arg(long, value_name = "ID")]
    mailbox: Option<String>,
    /// Looks into this folder of the mailbox
    #[arg(long, value_name = "ID", requires = "mailbox")]
    folder: Option<String>,
}

/// What became of one check.
struct Line {
    name: &'static str,
    result: Result<String, StartError>,
    warning: Option<String>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            Ok(said) => write!(f, "ok      {:<14} {said}", self.name)?,
            Err(error) => write!(f, "FAILED  {:<14} {error}", self.name)?,
        }
        match &self.warning {
            Some(warning) => write!(f, "\n        {:<14} warning: {warning}", ""),
            None => Ok(()),
        }
    }
}

fn line(name: &'static str, result: Result<String, StartError>) -> Line {
    Line { name, result, warning: None }
}

/// Runs every check, prints a line for each, and says how it ended.
#[expect(clippy::print_stdout, reason = "a command's own words to a person")]
pub(super) async fn run(args: Args, file: Option<PathBuf>) -> Exit {
    let shown = config::shown(file.as_deref());
    let sources = Sources::of_process(file);
    let config = match sources.read() {
        Ok(config) => config,
        Err(problems) => {
            println!("{}", line("configuration", Err(StartError::Configuration(problems.to_string()))));
            return Exit::Configuration;
        }
    };
    let mut first = line("configuration", Ok(format!("{shown} and the environment")));
    first.warning = (!config::warnings(&config).is_empty()).then(|| config::warnings(&config).join("; "));
    println!("{first}");
    if args.offline {
        println!("\n{}", sources.effective().trim_end());
        return Exit::Done;
    }
    let mut exit = Exit::Done;
    for line in ask(&args, config).await {
        println!("{line}");
        if let (Err(error), Exit::Done) = (&line.result, exit) {
            exit = error.exit();
        }
    }
    exit
}

async fn ask(args: &Args, config: Config) -> Vec<Line> {
    let metrics = match Metrics::register(env!("CARGO_PKG_VERSION"), "") {
        Ok(metrics) => Arc::new(metrics),
        Err(error) => return vec![line("metrics", Err(StartError::Internal(error.to_string())))],
    };
    let mut lines = vec![broker(&config, &metrics).await, fleet(&config), storage(&config, &metrics).await];
    lines.extend(ledger(&config, &metrics).await);
    lines.extend(Box::pin(exchange(args, &config, &metrics)).await);
    lines
}

async fn broker(config: &Config, metrics: &Arc<Metrics>) -> Line {
    let broker = Broker::new(config.broker.clone(), Parser::default(), Arc::clone(metrics));
    let names = broker.names().clone();
    let checked = broker.check().await.map_err(StartError::from);
    broker.close().await;
    let said = |Checked { queues, uncompared }| match uncompared {
        0 => format!("exchange {} and {queues} queues as they must be", names.exchange()),
        _ => format!(
            "exchange {} and {queues} queues are there; not compared, since this user may not declare them: {uncompared}",
            names.exchange()
        ),
    };
    line("broker", checked.map(said))
}

/// Which queues were looked at is said by the line before; whether this broker deals shards out is only tried by `run`.
fn fleet(config: &Config) -> Line {
    let fleet = config.broker.fleet;
    let said = match fleet.mode {
        Wanted::Is(mode @ Mode::Sharded) => format!(
            "{}: {} shards, each with single active consumer; needs RabbitMQ 4",
            mode.as_str(),
            fleet.shards.get()
        ),
        Wanted::Is(mode @ Mode::Shared) => {
            format!("{}: every worker takes jobs of every mailbox", mode.as_str())
        }
        Wanted::Auto => "auto".into(),
    };
    let warning = (fleet.mode == Wanted::Auto).then(|| {
        "run finds the mode by a trial that declares a queue, so its shards are not checked here; name sharded or shared".into()
    });
    Line { name: "fleet", result: Ok(said), warning }
}

async fn storage(config: &Config, metrics: &Arc<Metrics>) -> Line {
    let probed = async {
        let store = BlobStore::connect(config.storage.clone(), Arc::clone(metrics))
            .await
            .map_err(StartError::Configuration)?;
        store.probe().await.map_err(StartError::from)
    };
    let probed = probed.await;
    let warning = matches!(probed, Ok(Missing::LooksForbidden)).then(|| {
        let bucket = config.storage.allowed_buckets.first().map_or("the bucket", String::as_str);
        format!("without s3:ListBucket on {bucket} a missing blob is told as blob_forbidden (a missing object was answered with 403)")
    });
    Line { name: "storage", result: probed.map(|_| "reachable, our keys are taken".into()), warning }
}

async fn ledger(config: &Config, metrics: &Arc<Metrics>) -> Option<Line> {
    let settings = config.ledger.clone()?;
    let place = format!("s3://{}/{}", settings.bucket, settings.prefix);
    let probed = async {
        let ledger =
            Ledger::connect(settings, Arc::clone(metrics)).await.map_err(StartError::Configuration)?;
        ledger.probe().await.map_err(StartError::from)
    };
    Some(line("ledger", probed.await.map(|()| format!("{place} honours conditional writes"))))
}

async fn exchange(args: &Args, config: &Config, metrics: &Arc<Metrics>) -> Vec<Line> {
    let exchange = match Exchange::connect(config.exchange.clone(), Arc::clone(metrics)) {
        Ok(exchange) => exchange,
        Err(why) => return vec![line("identity", Err(StartError::Configuration(why)))],
    };
    let Some(tenant) = config.default_tenant.clone() else {
        let what = "identity.tenant_id is not set, so there is no tenant to ask for a token of".to_owned();
        return vec![line("identity", Err(StartError::Configuration(what)))];
    };
    let mut lines = vec![token(&exchange, &tenant, config, metrics).await];
    if let Some(mailbox) = &args.mailbox {
        lines.extend(mailbox_lines(&exchange, &tenant, mailbox, args.folder.as_deref()).await);
    }
    lines
}

/// A certificate that ends within this time is worth a warning.
const SOON: std::time::Duration = std::time::Duration::from_hours(24 * 30);

async fn token(exchange: &Exchange, tenant: &TenantId, config: &Config, metrics: &Metrics) -> Line {
    let facts = match exchange.probe(Some(tenant)).await {
        Ok(facts) => facts,
        Err(error) => return line("identity", Err(error.into())),
    };
    let mut said = format!("a token for {tenant}, Graph at {} answers", config.exchange.graph);
    if !facts.roles.is_empty() {
        write!(said, "; roles {}", facts.roles.join(" ")).expect("writing to a String cannot fail");
    }
    let mut warnings: Vec<String> = facts.warning().into_iter().collect();
    #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970 fit an i64")]
    let ends = UnixMillis(metrics.credential_expiry.with_label_values(&["certificate"]).get() as i64 * 1_000);
    if ends > UnixMillis::default() {
        write!(said, "; certificate until {}", rfc3339(ends)).expect("writing to a String cannot fail");
        let left = ends.since(exchange.server_clock().now());
        if left < SOON {
            warnings.push(format!("the certificate ends in {} days", left.as_secs() / 86_400));
        }
    }
    let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
    Line { name: "identity", result: Ok(said), warning }
}

async fn mailbox_lines(
    exchange: &Exchange,
    tenant: &TenantId,
    mailbox: &str,
    folder: Option<&str>,
) -> Vec<Line> {
    let mailbox = match MailboxId::parse(mailbox) {
        Ok(mailbox) => mailbox,
        Err(error) => return vec![line("mailbox", Err(StartError::Configuration(error.to_string())))],
    };
    let opened = Box::pin(exchange.session(tenant, &mailbox, None)).await;
    let mut lines = vec![line(
        "mailbox",
        opened.map(|_| "an import session was opened".into()).map_err(StartError::from),
    )];
    if let Some(folder) = folder {
        lines.push(line("folder", look(exchange, tenant, &mailbox, folder).await));
    }
    lines
}

async fn look(
    exchange: &Exchange,
    tenant: &TenantId,
    mailbox: &MailboxId,
    folder: &str,
) -> Result<String, StartError> {
    let folder = FolderId::parse(folder).map_err(|e| StartError::Configuration(e.to_string()))?;
    let since = exchange.server_clock().now();
    let look = Look { tenant: tenant.clone(), mailbox: mailbox.clone(), version: None, folder, since };
    let seen: Result<_, RestoreError> = exchange.list_imported(&look).await;
    seen.map(|_| "its items can be listed: doubtful imports can be looked for".into())
        .map_err(StartError::from)
}
