//! Composition root of `run`: configuration → connected parts → running pipeline → drained. The only room that knows every room.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep},
};
use tracing::{info, warn};

use crate::{
    admin::{self, Admin, Check},
    blob_store::BlobStore,
    broker::{Broker, BrokerError, Intent},
    config::{self, Config},
    contract::{Parser, Worker},
    domain::{Dependency, Fault, OursScope, RestoreError, TenantId, retry::Backoff, tenancy::Tenants},
    exchange::Exchange,
    ledger::{Ledger, ProbeError},
    lifecycle::{Ending, Lifecycle},
    metrics::Metrics,
    pipeline::{
        HeldJobs, InDoubt, Pipeline,
        judge::Policy,
        lanes::Lanes,
        neighbours::{Neighbours, Paused},
    },
};

/// Why the worker did not come to run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be used, or a neighbour is not what it must be.
    #[error("{0}")]
    Configuration(String),
    /// A neighbour refuses our credentials.
    #[error("{0}")]
    Refused(String),
    /// A neighbour stayed away for `startup.wait`.
    #[error("{0}")]
    Unavailable(String),
    /// A fault of this machine.
    #[error("{0}")]
    Internal(String),
}

/// Deliveries on their way to their task.
const HAND_OVER: usize = 64;
/// Delays between tries at the start, and between probes in a pause.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// The worker's parts.
struct App {
    config: Config,
    pipeline: Arc<Pipeline>,
    life: Lifecycle,
    intent: watch::Sender<Intent>,
    /// What the start waits for; empty when it is over.
    starting: Arc<Mutex<String>>,
}

/// Runs the worker until it is told to end.
///
/// # Errors
/// [`StartError`], before any job was taken.
pub async fn run(config: Config) -> Result<Ending, StartError> {
    let life = Lifecycle::new();
    let app = App::build(config, life.clone()).await?;
    app.listen().await?;
    let ending = {
        let (life, grace) = (life.clone(), app.config.grace);
        life.clone().spawn_beside(async move { life.end(grace).await })
    };
    tokio::select! {
        started = app.wait_for_neighbours() => started?,
        () = life.draining().cancelled() => {}
    }
    app.start();
    let ending = ending.await.map_err(|e| StartError::Internal(e.to_string()))?;
    let ending = ending.map_err(|e| StartError::Internal(format!("signals cannot be listened to: {e}")))?;
    app.pipeline.broker.close().await;
    info!(?ending, "ended");
    Ok(ending)
}

impl App {
    async fn build(config: Config, life: Lifecycle) -> Result<Self, StartError> {
        let metrics = Metrics::register(
            env!("CARGO_PKG_VERSION"),
            option_env!("RESTORE_WORKER_REVISION").unwrap_or("unknown"),
        );
        let metrics = Arc::new(metrics.map_err(|e| StartError::Internal(e.to_string()))?);
        for warning in config::warnings(&config) {
            warn!("{warning}");
        }
        Pipeline::at_zero(&metrics);
        let parser = Parser { default_tenant: config.default_tenant.clone() };
        let broker = Broker::new(config.broker.clone(), parser, Arc::clone(&metrics));
        let blobs = BlobStore::connect(config.storage.clone(), Arc::clone(&metrics)).await;
        let exchange = Exchange::connect(config.exchange.clone(), Arc::clone(&metrics));
        let ledger = match config.ledger.clone() {
            Some(settings) => Some(
                Ledger::connect(settings, Arc::clone(&metrics)).await.map_err(StartError::Configuration)?,
            ),
            None => None,
        };
        let neighbours = Neighbours::new(config.retry.backoff);
        let everything = neighbours.everything();
        let pipeline = Pipeline {
            worker: Worker { name: config.broker.worker.clone(), version: env!("CARGO_PKG_VERSION").into() },
            broker,
            blobs: blobs.map_err(StartError::Configuration)?,
            exchange: exchange.map_err(StartError::Configuration)?,
            ledger,
            lanes: Lanes::new(config.lanes, Arc::clone(&metrics)),
            neighbours,
            policy: policy(&config),
            hold: config.retry.hold,
            crash_limit: config.retry.crash_limit,
            in_doubt: in_doubt(&config),
            tenants: Tenants::new(
                config.exchange.identity.allowed_tenants.clone(),
                config.exchange.identity.tenant.clone(),
            ),
            log: config.identifiers,
            metrics,
            life: life.clone(),
            everything,
            suspects: Arc::new(Semaphore::new(1)),
            held: HeldJobs::default(),
            unroutable: AtomicBool::new(false),
        };
        let (intent, _) = watch::channel(Intent::Run);
        Ok(Self {
            config,
            pipeline: Arc::new(pipeline),
            life,
            intent,
            starting: Arc::new(Mutex::new("starting".into())),
        })
    }

    /// Health and metrics are served from the first moment, so that a start that waits can be seen.
    async fn listen(&self) -> Result<(), StartError> {
        let cannot = |address, error| StartError::Internal(format!("cannot listen on {address}: {error}"));
        let admin = Arc::new(self.admin());
        let address = self.config.admin.listen;
        let listener = TcpListener::bind(address).await.map_err(|e| cannot(address, e))?;
        info!(listen = %listener.local_addr().map_err(|e| cannot(address, e))?, "serving health and metrics");
        drop(self.life.spawn_beside(admin::serve(listener, Arc::clone(&admin))));
        if let Some(address) = self.config.admin.inspect {
            let listener = TcpListener::bind(address).await.map_err(|e| cannot(address, e))?;
            drop(self.life.spawn_beside(admin::serve_inspect(listener, admin)));
        }
        Ok(())
    }

    fn admin(&self) -> Admin {
        let (live, ready, lanes, metrics) = (
            Arc::clone(&self.pipeline),
            Arc::clone(&self.pipeline),
            Arc::clone(&self.pipeline),
            Arc::clone(&self.pipeline),
        );
        let starting = Arc::clone(&self.starting);
        Admin {
            live: Box::new(move || {
                vec![Check {
                    name: "consumer",
                    trouble: live.broker.is_deaf().then(|| "deaf: an echo did not come back".into()),
                }]
            }),
            ready: Box::new(move || readiness(&ready, &starting)),
            lanes: Box::new(move |top, mailbox| {
                serde_json::to_value(lanes.lanes.snapshot(top, mailbox)).unwrap_or(serde_json::Value::Null)
            }),
            metrics: Box::new(move || {
                metrics.metrics.oldest_job_age.set(metrics.held.oldest().unwrap_or_default().as_secs_f64());
                let active = i64::try_from(metrics.broker.shards_active()).unwrap_or(i64::MAX);
                metrics.metrics.shards_active.set(active);
                metrics.metrics.render()
            }),
        }
    }

    /// A neighbour that is away is waited for; one that refuses us, or is not what it must be, is not.
    async fn wait_for_neighbours(&self) -> Result<(), StartError> {
        let deadline = Instant::now() + self.config.startup_wait;
        let pipeline = &self.pipeline;
        self.until_there("the broker", deadline, async || {
            pipeline.broker.open().await.map_err(StartError::from)
        })
        .await?;
        self.until_there("the storage", deadline, async || {
            pipeline.blobs.probe().await.map(drop).map_err(StartError::from)
        })
        .await?;
        if let Some(ledger) = &pipeline.ledger {
            self.until_there("the ledger", deadline, async || ledger.probe().await.map_err(StartError::from))
                .await?;
        }
        if let Some(tenant) = &self.config.default_tenant {
            self.until_there("Exchange", deadline, async || self.probe_exchange(tenant).await).await?;
        }
        Ok(())
    }

    async fn probe_exchange(&self, tenant: &TenantId) -> Result<(), StartError> {
        match self.pipeline.exchange.probe(Some(tenant)).await {
            Ok(_) => Ok(()),
            // Other tenants may be fine.
            Err(error) if matches!(error.fault, Fault::Ours { scope: OursScope::Tenant }) => {
                warn!(%error, "identity.tenant_id does not authorize this application");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn until_there(
        &self,
        what: &'static str,
        deadline: Instant,
        ask: impl AsyncFn() -> Result<(), StartError>,
    ) -> Result<(), StartError> {
        let backoff = Backoff::try_new(AGAIN.0, AGAIN.1).expect("two constants in order");
        for n in 0.. {
            let error = match ask().await {
                Ok(()) => return Ok(()),
                Err(StartError::Unavailable(error)) => error,
                Err(error) => return Err(error),
            };
            let message = format!("waiting for {what}: {error}");
            if Instant::now() >= deadline {
                return Err(StartError::Unavailable(format!("{message} (startup.wait is over)")));
            }
            warn!("{message}");
            self.set_starting(&message);
            sleep(
                backoff
                    .delay(n, fastrand::f64(), None)
                    .min(deadline.saturating_duration_since(Instant::now())),
            )
            .await;
        }
        Ok(())
    }

    fn set_starting(&self, what: &str) {
        what.clone_into(&mut self.starting.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Starts everything that runs until the drain.
    fn start(&self) {
        self.set_starting("");
        let (deliveries, taken) = mpsc::channel(HAND_OVER);
        let (broker, intent) = (self.pipeline.broker.clone(), self.intent.subscribe());
        drop(self.life.spawn(async move { broker.consume(intent, deliveries).await }));
        drop(self.life.spawn(Arc::clone(&self.pipeline).consume(taken)));
        let pipeline = Arc::clone(&self.pipeline);
        self.life.spawn_until_drained(async move { pipeline.lanes.run().await });
        let pipeline = Arc::clone(&self.pipeline);
        self.life.spawn_until_drained(async move { pipeline.exchange.keep_tokens_fresh().await });
        drop(self.life.spawn(steer(Arc::clone(&self.pipeline), self.intent.clone())));
        info!(version = env!("CARGO_PKG_VERSION"), worker = self.config.broker.worker, "running");
    }
}

/// Tells the consumer what to do: pause while everything is paused, drain when the process does.
async fn steer(pipeline: Arc<Pipeline>, intent: watch::Sender<Intent>) {
    let mut everything = pipeline.everything.clone();
    let draining = pipeline.life.draining().clone();
    loop {
        let paused = everything.borrow_and_update().clone();
        let wanted = match (&paused, draining.is_cancelled()) {
            (_, true) => Intent::Drain,
            (Some(_), false) => Intent::Pause,
            (None, false) => Intent::Run,
        };
        show_state(&pipeline.metrics, wanted, paused.as_ref());
        intent.send_replace(wanted);
        if wanted == Intent::Drain {
            return;
        }
        tokio::select! {
            () = draining.cancelled() => {}
            _ = everything.changed() => {}
            () = probe_until_well(&pipeline, paused.as_ref()), if paused.is_some() => pipeline.neighbours.resume(),
        }
    }
}

/// Asks every neighbour, with growing pauses, until all of them take us again.
async fn probe_until_well(pipeline: &Pipeline, paused: Option<&Paused>) {
    let backoff = Backoff::try_new(AGAIN.0, AGAIN.1).expect("two constants in order");
    for n in 0.. {
        sleep(backoff.delay(n, fastrand::f64(), None)).await;
        match probe_all(pipeline, paused).await {
            Ok(()) => return,
            Err(error) => warn!(reason = error.reason.as_str(), %error, "still paused"),
        }
    }
}

async fn probe_all(pipeline: &Pipeline, paused: Option<&Paused>) -> Result<(), RestoreError> {
    pipeline.blobs.probe().await?;
    if let Some(ledger) = &pipeline.ledger {
        ledger.reachable().await?;
    }
    if let Some(tenant) = paused.and_then(|p| p.tenant.as_ref()) {
        // A token that is held may still pass for one: the login has to say so itself.
        pipeline.exchange.probe_login(tenant).await?;
        pipeline.exchange.probe(Some(tenant)).await?;
    }
    Ok(())
}

fn show_state(metrics: &Metrics, intent: Intent, paused: Option<&Paused>) {
    let (state, cause) = match (intent, paused) {
        (Intent::Drain, _) => ("draining", ""),
        (Intent::Pause, Some(paused)) => ("paused", paused.reason.as_str()),
        (Intent::Pause, None) => ("paused", ""),
        (Intent::Run, _) => ("running", ""),
    };
    metrics.consumer_state.reset();
    metrics.consumer_state.with_label_values(&[state, cause]).set(1);
}

fn readiness(pipeline: &Pipeline, starting: &Mutex<String>) -> Vec<Check> {
    let starting = starting.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let check = |name, trouble: Option<String>| Check { name, trouble };
    let mut checks = vec![
        check("started", (!starting.is_empty()).then_some(starting)),
        check("consuming", (!pipeline.broker.is_consuming()).then(|| "no jobs are being taken".into())),
        check("draining", pipeline.life.draining().is_cancelled().then(|| "the process ends".into())),
        check(
            "credentials",
            pipeline.everything.borrow().as_ref().map(|p| format!("{}: {}", p.reason, p.message)),
        ),
        check(
            "events",
            pipeline
                .unroutable
                .load(Ordering::Relaxed)
                .then(|| "reply_unroutable: broker.results leads nowhere".into()),
        ),
    ];
    for dependency in Dependency::ALL {
        let away = pipeline.neighbours.is_away(dependency);
        checks.push(check(
            dependency.as_str(),
            away.then(|| "away: several jobs met this without a success between them".into()),
        ));
    }
    checks
}

fn policy(config: &Config) -> Policy {
    let retry = &config.retry;
    Policy { attempts: retry.attempts, backoff: retry.backoff, max_parked: retry.max_parked }
}

fn in_doubt(config: &Config) -> InDoubt {
    let config::InDoubt { look, settle, clock_margin } = config.in_doubt;
    InDoubt { look, settle, clock_margin, request_timeout: config.exchange.request_timeout }
}

impl From<BrokerError> for StartError {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Refused(_) => Self::Refused(error.to_string()),
            BrokerError::Unavailable(_) => Self::Unavailable(error.to_string()),
            BrokerError::Topology { .. } => Self::Configuration(error.to_string()),
        }
    }
}

impl From<RestoreError> for StartError {
    fn from(error: RestoreError) -> Self {
        match error.fault {
            Fault::Ours { scope: OursScope::Everything | OursScope::Tenant } => {
                Self::Refused(error.to_string())
            }
            Fault::Ours { scope: OursScope::Dependency(_) }
            | Fault::Passing { .. }
            | Fault::Throttled { .. }
            | Fault::InDoubt => Self::Unavailable(error.to_string()),
            Fault::Job => Self::Configuration(error.to_string()),
        }
    }
}

impl From<ProbeError> for StartError {
    fn from(error: ProbeError) -> Self {
        match error {
            ProbeError::Unconditional(_) => Self::Configuration(format!("ledger.store: {error}")),
            ProbeError::Lacking { .. } => Self::Refused(format!("ledger.bucket: {error}")),
            ProbeError::Unavailable(error) => match error.http_status {
                Some(403) => Self::Refused(format!("ledger.bucket: {error}")),
                Some(400..500) => Self::Configuration(format!("ledger.bucket: {error}")),
                Some(_) | None => error.into(),
            },
        }
    }
}
