//! One tenant's token: kept, renewed at half of its life in the background, asked for once by many waiters; a failure
//! backs off, so that many jobs do not hammer the sign-in host.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::{
    claims::TokenFacts,
    source::{Issued, Source},
};
use crate::{
    domain::{RestoreError, TenantId, UnixMillis},
    exchange::clock::own_clock,
    metrics::Metrics,
};

/// How often the background looks for what is due.
pub(super) const ROUND: Duration = Duration::from_secs(15);
/// A tenant that nobody asks for is forgotten.
pub(super) const IDLE: Duration = Duration::from_hours(2);
/// A token with less left than this (or a quarter of its life) is not handed out unless renewing fails.
const MARGIN: Duration = Duration::from_mins(2);
/// First pause after a failure; doubled up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// A bearer token. `Debug` does not show it.
#[derive(Clone)]
pub(in crate::exchange) struct Token {
    text: SecretString,
    facts: TokenFacts,
}

impl Token {
    /// The text for the `Authorization` header.
    pub(in crate::exchange) fn bearer(&self) -> &str {
        self.text.expose_secret()
    }

    /// What it says of itself.
    pub(in crate::exchange) fn facts(&self) -> TokenFacts {
        self.facts.clone()
    }

    fn is_same(&self, other: &Self) -> bool {
        self.bearer() == other.bearer()
    }

    fn left(&self) -> Duration {
        self.facts.expires.since(own_clock())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// How a token is had.
pub(super) struct Renewal<'a> {
    pub(super) source: &'a Source,
    pub(super) tenant: &'a TenantId,
    /// The configured tenant: a refusal that is not understood is ours, not the tenant's.
    pub(super) home: bool,
    pub(super) metrics: &'a Metrics,
}

struct Held {
    token: Token,
    /// Half of its life, or when a file is to be read again.
    due: UnixMillis,
    margin: Duration,
}

struct Failed {
    error: RestoreError,
    at: Instant,
    pause: Duration,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    failed: Option<Failed>,
}

/// One tenant's place for a token.
#[derive(Default)]
pub(super) struct Slot {
    state: Mutex<State>,
    gate: tokio::sync::Mutex<()>,
    warned: AtomicBool,
}

impl Slot {
    /// The token that is held, or a new one; never `refused`.
    pub(super) async fn get(
        &self,
        renewal: &Renewal<'_>,
        refused: Option<&Token>,
    ) -> Result<Token, RestoreError> {
        if let Some(token) = self.usable(renewal, refused) {
            return Ok(token);
        }
        let asked = Instant::now();
        let _gate = self.gate.lock().await;
        // Whoever held the gate may have asked for all who waited.
        if let Some(token) = self.usable(renewal, refused) {
            return Ok(token);
        }
        if let Some(error) = self.failure(asked) {
            return self.last_resort(refused).ok_or(error);
        }
        match self.renew(renewal).await {
            Ok(token) if refused.is_some_and(|refused| refused.is_same(&token)) => {
                Err(renewal.source.refused_again())
            }
            Ok(token) => Ok(token),
            Err(error) => self.last_resort(refused).ok_or(error),
        }
    }

    /// Asks the login anew, whatever token is held: only its answer tells whether it works. Not again within a failure's pause.
    pub(super) async fn ask(&self, renewal: &Renewal<'_>) -> Result<(), RestoreError> {
        let asked = Instant::now();
        let _gate = self.gate.lock().await;
        match self.failure(asked) {
            Some(error) => Err(error),
            None => self.renew(renewal).await.map(drop),
        }
    }

    /// Renews in the background what is due; failures are told when somebody needs the token.
    pub(super) async fn renew_if_due(&self, renewal: &Renewal<'_>) {
        let due = |state: &State| state.held.as_ref().is_some_and(|held| held.due <= own_clock());
        if !self.with(|state| due(state)) {
            return;
        }
        let _gate = self.gate.lock().await;
        if self.with(|state| due(state))
            && self.failure(Instant::now()).is_none()
            && let Err(error) = self.renew(renewal).await
        {
            tracing::warn!(%error, "a token could not be renewed; the present one is used while it lasts");
        }
    }

    fn usable(&self, renewal: &Renewal<'_>, refused: Option<&Token>) -> Option<Token> {
        self.with(|state| {
            let held = state.held.as_ref()?;
            let read_again = renewal.source.is_file() && held.due <= own_clock();
            let same = refused.is_some_and(|refused| refused.is_same(&held.token));
            (!same && !read_again && held.token.left() > held.margin).then(|| held.token.clone())
        })
    }

    /// A token that ends soon is better than none.
    fn last_resort(&self, refused: Option<&Token>) -> Option<Token> {
        self.with(|state| {
            let token = &state.held.as_ref()?.token;
            let same = refused.is_some_and(|refused| refused.is_same(token));
            (!same && !token.left().is_zero()).then(|| token.clone())
        })
    }

    /// The last failure, if it answers a question asked at `asked`: it came later, or its pause is not over.
    fn failure(&self, asked: Instant) -> Option<RestoreError> {
        self.with(|state| {
            let failed = state.failed.as_ref()?;
            (failed.at >= asked || failed.at.elapsed() < failed.pause).then(|| failed.error.clone())
        })
    }

    /// Asks for a token; only with the gate held.
    async fn renew(&self, renewal: &Renewal<'_>) -> Result<Token, RestoreError> {
        let issued = renewal.source.issue(renewal.tenant, renewal.home, renewal.metrics).await;
        match issued {
            Ok(issued) => Ok(self.keep(issued)),
            Err(error) => {
                self.with(|state| {
                    let last = state.failed.as_ref().map(|failed| failed.pause.saturating_mul(2));
                    let pause = last.unwrap_or(PAUSE).min(MAX_PAUSE);
                    state.failed = Some(Failed { error: error.clone(), at: Instant::now(), pause });
                });
                Err(error)
            }
        }
    }

    fn keep(&self, issued: Issued) -> Token {
        let facts = TokenFacts::read(issued.text.expose_secret(), issued.expires);
        if let Some(warning) = facts.warning()
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("{warning}");
        }
        let now = own_clock();
        let token = Token { text: issued.text, facts };
        let half = now.plus(token.left() / 2);
        let due = issued.read_again.map_or(half, |after| half.min(now.plus(after)));
        self.with(|state| {
            state.failed = None;
            let margin = MARGIN.min(token.left() / 4);
            state.held = Some(Held { token: token.clone(), due, margin });
        });
        token
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
