//! File + environment → configuration, checked once; every problem is reported at once, with its key and source.
//!
//! The only room that reads configuration files and the environment. Inside there are only finished types: each part's own
//! settings.

pub mod layers;
mod rabbitmq;
mod reader;

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

pub use self::reader::parse_duration;
use self::{
    layers::{DEFAULTS, Leaves, Problem, SECRETS, Source, flatten_environment, flatten_yaml},
    reader::Reader,
};
use crate::{
    blob_store, broker,
    domain::{TenantId, retry::Backoff},
    exchange,
    fts::PreflightMode,
    ledger,
    pipeline::{Identifiers, MAX_UNACKED, lanes},
    s3_client, telemetry,
};

/// Where the configuration is looked for when none is named.
pub const DEFAULT_FILE: &str = "/etc/restore-worker/restore-worker.yaml";

/// The finished configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// RabbitMQ.
    pub broker: broker::Settings,
    /// Blobs.
    pub storage: blob_store::Settings,
    /// Graph, import host, identity.
    pub exchange: exchange::Settings,
    /// `identity.tenant_id`.
    pub default_tenant: Option<TenantId>,
    /// Pacing.
    pub lanes: lanes::Settings,
    /// Attempts and patience.
    pub retry: Retry,
    /// Records; `None`: `store: none`.
    pub ledger: Option<ledger::Settings>,
    /// Doubt.
    pub in_doubt: InDoubt,
    /// Listeners.
    pub admin: Admin,
    /// Log lines.
    pub log: telemetry::Settings,
    /// How mailbox, folder and key appear in the log.
    pub identifiers: Identifiers,
    /// How long a neighbour that is away at the start is waited for.
    pub startup_wait: Duration,
    /// The grace period of a drain.
    pub grace: Duration,
}

/// Section `retry`.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Then the job fails.
    pub attempts: u32,
    /// Delays between attempts.
    pub backoff: Backoff,
    /// In memory up to this.
    pub hold: Duration,
    /// Beginnings that never ended.
    pub crash_limit: u32,
    /// Parked this long, where it counts.
    pub max_parked: Duration,
}

/// Section `in_doubt`.
#[derive(Clone, Copy, Debug)]
pub struct InDoubt {
    /// Whether to look.
    pub look: bool,
    /// Before this "not there" proves nothing.
    pub settle: Duration,
    /// Between the clocks.
    pub clock_margin: Duration,
}

/// Section `admin`.
#[derive(Clone, Copy, Debug)]
pub struct Admin {
    /// `/livez /readyz /metrics`.
    pub listen: SocketAddr,
    /// `/lanes`.
    pub inspect: Option<SocketAddr>,
}

/// What the commands of emitters and operators need.
#[derive(Clone, Debug)]
pub struct Operator {
    /// RabbitMQ.
    pub broker: broker::Settings,
    /// `identity.tenant_id`.
    pub default_tenant: Option<TenantId>,
    /// How long a broker that is away is waited for.
    pub startup_wait: Duration,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl std::error::Error for Problems {}

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = self.0.len();
        write!(f, "the configuration has {n} problem{}:", if n == 1 { "" } else { "s" })?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// What the configuration is read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`; else [`DEFAULT_FILE`], if it is there.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(String, String)>,
}

impl Sources {
    /// The process's own environment, and a file that the command line names.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>) -> Self {
        Self {
            file,
            environment: std::env::vars_os()
                .filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.environment.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).filter(|v| !v.is_empty())
    }

    fn file_leaves(&self, problems: &mut Vec<Problem>) -> Leaves {
        let (path, must) = match &self.file {
            Some(path) => (path.clone(), true),
            None => (PathBuf::from(DEFAULT_FILE), false),
        };
        let source = Source::File(path.clone());
        let problem = |what: String| Problem { key: "the file".into(), source: source.clone(), what };
        let leaves = match std::fs::read_to_string(&path) {
            Ok(text) => flatten_yaml(&text, &source).map_err(problem),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must => Ok(Leaves::new()),
            Err(error) => Err(problem(format!("cannot be read: {error}"))),
        };
        leaves.unwrap_or_else(|p| {
            problems.push(p);
            Leaves::new()
        })
    }

    /// The merged values, each with its source; secrets masked.
    #[must_use]
    pub fn effective(&self) -> String {
        let mut problems = Vec::new();
        let reader = self.reader(&mut problems);
        let mut text = String::new();
        for (key, (value, source)) in reader.merged() {
            if value.is_null() {
                continue;
            }
            let secret = SECRETS.contains(&key.as_str());
            let shown = if secret { "(secret)".to_owned() } else { reader::plain_text(value) };
            writeln!(text, "{key} = {shown}    # {source}").expect("writing to a String cannot fail");
        }
        text
    }

    fn reader(&self, problems: &mut Vec<Problem>) -> Reader {
        let defaults = flatten_yaml(DEFAULTS, &Source::Default).unwrap_or_else(|what| {
            problems.push(Problem { key: "the defaults".into(), source: Source::Default, what });
            Leaves::new()
        });
        let file = self.file_leaves(problems);
        let azure = self.azure();
        Reader::new(&defaults, vec![azure, file, flatten_environment(self.environment.clone())])
    }

    /// The Azure SDKs' variables, below the file and our own variables.
    fn azure(&self) -> Leaves {
        let pairs = [
            ("AZURE_TENANT_ID", "identity.tenant_id"),
            ("AZURE_CLIENT_ID", "identity.client_id"),
            ("AZURE_CLIENT_SECRET", "identity.client_secret"),
            ("AZURE_CLIENT_CERTIFICATE_PATH", "identity.certificate_file"),
            ("AZURE_CLIENT_CERTIFICATE_PASSWORD", "identity.certificate_password"),
            ("AZURE_AUTHORITY_HOST", "identity.authority"),
        ];
        let leaf = |(variable, key): (&str, &str)| {
            let value = self.variable(variable)?;
            Some((key.to_owned(), (Value::String(value), Source::Environment(variable.to_owned()))))
        };
        pairs.into_iter().filter_map(leaf).collect()
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn read(&self) -> Result<Config, Problems> {
        let mut problems = Vec::new();
        let mut reader = self.reader(&mut problems);
        let config = self.build(&mut reader);
        match reader.finish(config) {
            Ok(config) if problems.is_empty() => Ok(config),
            Ok(_) => Err(Problems(problems)),
            Err(more) => {
                problems.extend(more);
                Err(Problems(problems))
            }
        }
    }

    /// Reads what concerns the storage alone: for commands that need nothing else.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn storage(&self) -> Result<blob_store::Settings, Problems> {
        let mut problems = Vec::new();
        let mut reader = self.reader(&mut problems);
        let settings = storage(&mut reader, None);
        reader.finish(settings).map_err(Problems)
    }

    /// Reads what concerns the broker alone: for commands of emitters and operators.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn operator(&self) -> Result<Operator, Problems> {
        let mut problems = Vec::new();
        let mut reader = self.reader(&mut problems);
        let operator = Operator {
            broker: rabbitmq::settings(&mut reader, self.variable("HOSTNAME")),
            default_tenant: reader.optional("identity.tenant_id", TenantId::parse),
            startup_wait: reader.duration_or_zero("startup.wait"),
        };
        let read = reader.finish(operator);
        match read {
            Ok(operator) if problems.is_empty() => Ok(operator),
            Ok(_) => Err(Problems(problems)),
            Err(more) => Err(Problems(problems.into_iter().chain(more).collect())),
        }
    }

    /// Reads what concerns the ledger alone; `None`: there is none.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn ledger(&self) -> Result<Option<ledger::Settings>, Problems> {
        let mut problems = Vec::new();
        let mut reader = self.reader(&mut problems);
        let settings = ledger(&mut reader);
        reader.finish(settings).map_err(Problems)
    }

    /// With what has no key of its own: the platform sets it.
    fn exchange(&self, r: &mut Reader, tenant: Option<TenantId>) -> exchange::Settings {
        let mut settings = exchange(r, tenant);
        settings.identity.federated_token_file =
            self.variable("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from);
        settings.identity.metadata_host = self.variable("AZURE_POD_IDENTITY_AUTHORITY_HOST");
        settings
    }

    fn build(&self, r: &mut Reader) -> Config {
        let default_tenant = r.optional("identity.tenant_id", TenantId::parse);
        let grace = r.duration("shutdown.grace");
        let ledger = ledger(r);
        let config = Config {
            broker: rabbitmq::settings(r, self.variable("HOSTNAME")),
            storage: storage(r, ledger.as_ref()),
            exchange: self.exchange(r, default_tenant.clone()),
            lanes: lanes(r),
            default_tenant,
            retry: retry(r),
            ledger,
            in_doubt: InDoubt {
                look: r.boolean("in_doubt.look"),
                settle: r.duration_or_zero("in_doubt.settle"),
                clock_margin: r.duration_or_zero("in_doubt.clock_margin"),
            },
            admin: admin(r),
            log: self.log(r),
            identifiers: r
                .choice("log.identifiers", &[("plain", Identifiers::Plain), ("hashed", Identifiers::Hashed)]),
            startup_wait: r.duration_or_zero("startup.wait"),
            grace,
        };
        let largest = config.exchange.send_timeout(config.storage.max_blob);
        if largest > MAX_UNACKED {
            r.refuse(
                "exchange.request_timeout",
                format!(
                    "with storage.max_blob at exchange.min_upload_rate an import may take {} s; a delivery is held for {} s at most, so the largest items would never begin",
                    largest.as_secs(),
                    MAX_UNACKED.as_secs()
                ),
            );
        }
        config
    }
}

fn storage(r: &mut Reader, ledger: Option<&ledger::Settings>) -> blob_store::Settings {
    let text = |text: &str| Ok::<_, String>(text.to_owned());
    blob_store::Settings {
        client: s3_client::Settings {
            endpoint: r.optional("storage.endpoint", url),
            region: r.text("storage.region"),
            path_style: r.boolean("storage.path_style"),
            ca_pem: r.file("storage.ca_file"),
            connect_timeout: r.duration("storage.connect_timeout"),
            read_timeout: r.duration("storage.read_timeout"),
        },
        allowed_buckets: r.list("storage.allowed_buckets", text),
        allowed_prefix: r.text("storage.allowed_prefix"),
        ledger: ledger.map(|l| blob_store::LedgerKeys { bucket: l.bucket.clone(), prefix: l.prefix.clone() }),
        max_blob: r.bytes("storage.max_blob"),
        max_window: r.bytes("storage.max_window"),
        min_download_rate: r.bytes("storage.min_download_rate"),
        retain: r.parsed("storage.retain", reader::parse_bytes),
        preflight: r.choice(
            "preflight",
            &[
                ("off", PreflightMode::Off),
                ("framing", PreflightMode::Framing),
                ("strict", PreflightMode::Strict),
            ],
        ),
    }
}

fn url(text: &str) -> Result<String, String> {
    if text.starts_with("https://") || text.starts_with("http://") {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err("must be a URL such as https://s3.example.com".into())
    }
}

fn ledger(r: &mut Reader) -> Option<ledger::Settings> {
    let with_s3 = r.choice("ledger.store", &[("s3", true), ("none", false)]);
    let bucket = r.text("ledger.bucket");
    let own = |r: &mut Reader, key: &str, twin: &str| r.text(key).or_else(|| r.text(twin));
    let path_style = r
        .optional("ledger.path_style", |t| t.parse::<bool>().map_err(|_| "must be true or false"))
        .unwrap_or_else(|| r.text("storage.path_style").as_deref() == Some("true"));
    if !with_s3 {
        return None;
    }
    if bucket.is_none() {
        r.refuse("ledger.bucket", "must be set with ledger.store: s3 (or choose store: none by name: then \"succeeded\" can mean twice)");
    }
    Some(ledger::Settings {
        client: s3_client::Settings {
            endpoint: own(r, "ledger.endpoint", "storage.endpoint")
                .map(|e| e.trim_end_matches('/').to_owned()),
            region: own(r, "ledger.region", "storage.region"),
            path_style,
            ca_pem: r.file("storage.ca_file"),
            connect_timeout: r.duration("storage.connect_timeout"),
            read_timeout: r.duration("storage.read_timeout"),
        },
        bucket: bucket.unwrap_or_default(),
        prefix: r.text("ledger.prefix").unwrap_or_default(),
    })
}

fn exchange(r: &mut Reader, tenant: Option<TenantId>) -> exchange::Settings {
    use exchange::identity::Kind;
    let kinds = [
        Kind::Auto,
        Kind::ClientSecret,
        Kind::Certificate,
        Kind::WorkloadIdentity,
        Kind::ManagedIdentity,
        Kind::TokenFile,
    ];
    let identity = exchange::identity::Settings {
        kind: r.choice("identity.kind", &kinds.map(|kind| (kind.as_str(), kind))),
        client_id: r.text("identity.client_id"),
        client_secret: r.secret("identity.client_secret"),
        certificate_file: r.text("identity.certificate_file").map(PathBuf::from),
        certificate_password: r.secret("identity.certificate_password"),
        token_file: r.text("identity.token_file").map(PathBuf::from),
        authority: r.text("identity.authority"),
        tenant,
        allowed_tenants: r.list("identity.allowed_tenants", TenantId::parse),
        federated_token_file: None,
        metadata_host: None,
    };
    exchange::Settings {
        graph: r.parsed("exchange.graph", url),
        import_hosts: r.list("exchange.import_hosts", |text| Ok::<_, String>(text.to_owned())),
        session_margin: r.duration("exchange.session_margin"),
        request_timeout: r.duration("exchange.request_timeout"),
        min_upload_rate: r.bytes("exchange.min_upload_rate"),
        ca_pem: r.file("exchange.ca_file"),
        identity,
    }
}

fn lanes(r: &mut Reader) -> lanes::Settings {
    let places =
        |r: &mut Reader, key| usize::try_from(r.integer::<u32>(key, 1, 100_000)).unwrap_or(usize::MAX);
    lanes::Settings {
        in_flight: places(r, "lanes.in_flight"),
        per_mailbox: places(r, "lanes.per_mailbox"),
        window_bytes: r.bytes("lanes.upload_window.bytes"),
        window_requests: r.integer("lanes.upload_window.requests", 1, u64::MAX),
        every_bytes: r.duration("lanes.upload_window.every_bytes"),
        every_requests: r.duration("lanes.upload_window.every_requests"),
        share: r.parsed("lanes.share", |text| match text.parse::<f64>() {
            Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
            Ok(_) | Err(_) => Err("must be more than 0 and at most 1"),
        }),
        hold: usize::from(r.integer("broker.prefetch", 1, u16::MAX)),
        hold_per_shard: usize::from(r.integer("fleet.prefetch", 1, u16::MAX)),
    }
}

fn retry(r: &mut Reader) -> Retry {
    let base = r.duration("retry.base");
    let max = r.duration("retry.max");
    let backoff = Backoff::try_new(base, max).map_err(|why| r.refuse("retry.max", why)).ok();
    Retry {
        attempts: r.integer("retry.attempts", 1, 1_000),
        backoff: backoff.unwrap_or_default(),
        hold: r.duration_or_zero("retry.hold"),
        crash_limit: r.integer("retry.crash_limit", 1, 1_000),
        max_parked: r.duration("retry.max_parked"),
    }
}

fn admin(r: &mut Reader) -> Admin {
    let address =
        |text: &str| text.parse::<SocketAddr>().map_err(|_| "must be an address such as 0.0.0.0:9464");
    let anywhere = SocketAddr::from(([0, 0, 0, 0], 9464));
    Admin {
        listen: r.optional("admin.listen", address).unwrap_or(anywhere),
        inspect: r.optional("admin.inspect", address),
    }
}

impl Sources {
    fn log(&self, r: &mut Reader) -> telemetry::Settings {
        let endpoints = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
        let disabled =
            self.variable("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let (format, level) = lines(r);
        telemetry::Settings {
            format,
            level,
            traces: !disabled && endpoints.iter().any(|name| self.variable(name).is_some()),
            service_named: self.variable("OTEL_SERVICE_NAME").is_some()
                || self
                    .variable("OTEL_RESOURCE_ATTRIBUTES")
                    .is_some_and(|text| text.contains("service.name=")),
            worker: self.variable("HOSTNAME").unwrap_or_else(|| "restore-worker".into()),
        }
    }
}

fn lines(r: &mut Reader) -> (telemetry::Format, tracing::Level) {
    let level = |text: &str| {
        text.parse::<tracing::Level>().map_err(|_| "must be one of error, warn, info, debug, trace")
    };
    (
        r.choice("log.format", &[("json", telemetry::Format::Json), ("text", telemetry::Format::Text)]),
        r.optional("log.level", level).unwrap_or(tracing::Level::INFO),
    )
}

/// Says what a start should warn about.
#[must_use]
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.ledger.is_none() {
        warnings.push(
            "ledger.store is none: a redelivered job is done again, and \"succeeded\" can mean twice".into(),
        );
    }
    if config.storage.allowed_buckets.is_empty() {
        warnings.push("storage.allowed_buckets is empty: jobs may name any bucket".into());
    }
    let largest = config.exchange.send_timeout(config.storage.max_blob);
    let longest = config.retry.hold + largest;
    if longest > MAX_UNACKED {
        warnings.push(format!(
            "a delivery may be held for {} s (retry.hold + one send of storage.max_blob at exchange.min_upload_rate); the broker's consumer time-out is 1800 s by default",
            longest.as_secs()
        ));
    }
    warnings
}

/// The path of a configuration file, for messages.
#[must_use]
pub fn shown(path: Option<&Path>) -> String {
    path.map_or_else(|| DEFAULT_FILE.to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests;
