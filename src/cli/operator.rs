//! What the commands of emitters and operators share: the broker, reached with patience, and words to a person.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep},
};

use super::Exit;
use crate::{
    app::StartError,
    broker::Broker,
    config::{Operator, Sources},
    contract::Parser,
    domain::{UnixMillis, retry::Backoff},
    metrics::Metrics,
};

/// Delays between tries to reach a neighbour.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// A neighbour, or the configuration.
    #[error("{0}")]
    Start(#[from] StartError),
    /// Anything else that failed.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl Trouble {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Start(error) => error.exit(),
            Self::Failed(_) => Exit::Failed,
        }
    }
}

impl From<crate::broker::BrokerError> for Trouble {
    fn from(error: crate::broker::BrokerError) -> Self {
        Self::Start(error.into())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Reads what concerns the broker.
pub(super) fn settings(file: Option<PathBuf>) -> Result<Operator, StartError> {
    Sources::of_process(file).operator().map_err(|problems| StartError::Configuration(problems.to_string()))
}

/// The broker, not connected yet.
pub(super) fn broker(settings: &Operator) -> Result<Broker, StartError> {
    let metrics = Metrics::register(env!("CARGO_PKG_VERSION"), "")
        .map_err(|error| StartError::Internal(error.to_string()))?;
    let parser = Parser { default_tenant: settings.default_tenant.clone() };
    Ok(Broker::new(settings.broker.clone(), parser, Arc::new(metrics)))
}

/// Asks until the neighbour answers, it refuses, or `patience` (`startup.wait`) is over.
pub(super) async fn patiently<T, E: Into<StartError>>(
    patience: Duration,
    ask: impl AsyncFn() -> Result<T, E>,
) -> Result<T, StartError> {
    let backoff = Backoff::try_new(AGAIN.0, AGAIN.1).expect("two constants in order");
    let deadline = Instant::now() + patience;
    let mut tries = 0;
    loop {
        let why = match ask().await.map_err(Into::into) {
            Ok(answer) => return Ok(answer),
            Err(StartError::Unavailable(why)) => why,
            Err(error) => return Err(error),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(StartError::Unavailable(format!("{why} (startup.wait is over)")));
        }
        told(&format!("{why}; trying again for {} s", left.as_secs()));
        sleep(backoff.delay(tries, fastrand::f64(), None).min(left)).await;
        tries += 1;
    }
}

/// Signals that ask a command to stop.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they no longer end the process.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Whether one has come.
    pub(super) fn came(&mut self) -> bool {
        self.next().now_or_never().is_some()
    }
}

/// A line on standard error.
#[expect(clippy::print_stderr, reason = "a command's own words to a person")]
pub(super) fn told(text: &str) {
    eprintln!("restore-worker: {text}");
}

/// Text on standard output. Whoever closed it has seen enough.
pub(super) fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Ends a command: says what went wrong, if something did.
pub(super) fn ended(result: Result<Exit, Trouble>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(trouble) => {
            told(&trouble.to_string());
            trouble.exit()
        }
    }
}

/// Text that may have been written by anybody, as it may be shown on a terminal.
pub(super) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Now, by this machine's clock.
pub(super) fn now() -> UnixMillis {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    UnixMillis(i64::try_from(now).unwrap_or(i64::MAX))
}
