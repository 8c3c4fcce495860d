//! All of the model's state behind one lock, and what every part of it needs: the clock, the dice, the counters.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::SystemTime,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Options,
    answer::Answer,
    directory::{Directory, Token},
    fault::{Effect, Operation, Script, Stage, Target},
    sight::{Sight, Watch},
    store::{Session, Store},
    text,
    throttle::{Meter, Refusal, RetryAfter},
    wire::Lines,
};

/// A request that was answered, or cut.
#[derive(Clone, Debug, Serialize)]
pub struct SeenRequest {
    /// What it wanted.
    pub operation: Operation,
    /// The mailbox it named.
    pub mailbox: Option<String>,
    /// The status answered; 0 if the connection was cut or left without an answer.
    pub status: u16,
    /// Ours.
    pub request_id: String,
    /// The client's.
    pub client_request_id: Option<String>,
}

/// The most violations kept: one is a failure already.
const VIOLATIONS: usize = 1000;

/// The last requests kept.
const SEEN: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) dice: fastrand::Rng,
    pub(super) clock_offset_ms: i64,
    pub(super) directory: Directory,
    pub(super) store: Store,
    pub(super) script: Script,
    /// By application and mailbox.
    pub(super) meters: HashMap<(String, String), Meter>,
    pub(super) violations: Vec<String>,
    pub(super) counts: BTreeMap<(Operation, u16), u64>,
    pub(super) seen: VecDeque<SeenRequest>,
    pub(super) secrets: Vec<String>,
    pub(super) pending_commits: u64,
    pub(super) aborted_uploads: u64,
    pub(super) lines: Lines,
}

impl World {
    /// Exchange's clock, unix milliseconds.
    pub(super) fn now_ms(&self) -> i64 {
        let real = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(real.as_millis()).unwrap_or(i64::MAX).saturating_add(self.clock_offset_ms)
    }

    /// An item id and a change key as Exchange shapes them; the former is URL-safe, the latter is not.
    pub(super) fn new_keys(&mut self) -> (String, String) {
        loop {
            let mut id = [0; 48];
            self.dice.fill(&mut id);
            let id = format!("AAMkAG{}AAA=", URL_SAFE_NO_PAD.encode(id));
            if self.store.given.insert(id.clone()) {
                return (id, self.new_change_key());
            }
        }
    }

    pub(super) fn new_change_key(&mut self) -> String {
        let mut key = [0; 16];
        self.dice.fill(&mut key);
        format!("CQAAABYAAAB{}", STANDARD.encode(key))
    }

    /// A text that looks like a JWT with these claims; its signature is noise, for we know what we issued.
    pub(super) fn mint(&mut self, claims: &Value) -> String {
        let mut signature = [0; 32];
        self.dice.fill(&mut signature);
        let header = json!({"typ": "JWT", "alg": "RS256", "kid": "1Syt5restoreSandbox"});
        let parts = [header.to_string(), claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part));
        let jwt = format!("{}.{}.{}", parts[0], parts[1], URL_SAFE_NO_PAD.encode(signature));
        self.secrets.push(jwt.clone());
        jwt
    }

    pub(super) fn issue(&mut self, token: Token) -> String {
        let now = self.now_ms() / 1000;
        let mut claims = json!({
            "aud": "https://graph.microsoft.com",
            "iss": format!("https://sts.windows.net/{}/", token.tenant),
            "tid": token.tenant, "appid": token.client_id,
            "iat": now, "nbf": now, "exp": token.expires_ms / 1000,
            "uti": self.dice.u64(..).to_string(),
        });
        match &token.delegated {
            Some((_, scopes)) => claims["scp"] = json!(scopes.join(" ")),
            None if !token.roles.is_empty() => claims["roles"] = json!(token.roles),
            None => {}
        }
        let jwt = self.mint(&claims);
        self.directory.tokens.insert(jwt.clone(), token);
        jwt
    }

    pub(super) fn session(&self, authtoken: &str) -> Option<&Session> {
        self.store.sessions.get(authtoken)
    }
}

pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) login: String,
    pub(super) graph: String,
    pub(super) import: String,
    pub(super) identity: String,
    pub(super) identity_secret: String,
    pub(super) changed: watch::Sender<u64>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) watch: OnceLock<Arc<dyn Watch>>,
    pub(super) world: Mutex<World>,
}

impl Shared {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        // A panic elsewhere leaves plain data behind.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell_change(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub(super) fn violation(&self, text: String) {
        tracing::warn!(violation = text, "a request that Exchange would not expect");
        let mut world = self.world();
        if world.violations.len() < VIOLATIONS {
            world.violations.push(text);
        }
    }

    pub(super) fn show(&self, sight: &Sight<'_>) {
        if let Some(watch) = self.watch.get() {
            watch.saw(sight);
        }
    }

    pub(super) fn take(&self, stage: Stage, target: &Target<'_>) -> Vec<Effect> {
        let mut world = self.world();
        let World { script, dice, .. } = &mut *world;
        script.take(stage, target, dice)
    }

    pub(super) fn count(&self, seen: SeenRequest) {
        let mut world = self.world();
        *world.counts.entry((seen.operation, seen.status)).or_default() += 1;
        if world.seen.len() >= SEEN {
            world.seen.pop_front();
        }
        world.seen.push_back(seen);
        drop(world);
        self.tell_change();
    }

    /// Lets a request in, or answers 429.
    pub(super) fn enter(
        self: &Arc<Self>,
        client_id: &str,
        mailbox: &str,
        body: u64,
    ) -> Result<Place, Answer> {
        let limits = &self.options.limits;
        let now = Instant::now();
        let key = (client_id.to_owned(), mailbox.to_owned());
        let mut world = self.world();
        let entered = world
            .meters
            .entry(key.clone())
            .or_insert_with(|| Meter::new(limits, now))
            .enter(limits, body, now);
        let now_ms = world.now_ms();
        drop(world);
        self.tell_change();
        match entered {
            Ok(()) => Ok(Place { shared: Arc::clone(self), key, missing: body }),
            Err(refusal) => Err(self.too_many(refusal, now_ms)),
        }
    }

    fn too_many(&self, refusal: Refusal, now_ms: i64) -> Answer {
        let seconds = refusal.retry_after.as_secs() + u64::from(refusal.retry_after.subsec_nanos() > 0);
        let answer = Answer::too_many(refusal.limit, None);
        match self.options.limits.retry_after {
            RetryAfter::Seconds => answer.header("retry-after", seconds.max(1).to_string()),
            RetryAfter::Date => {
                let at = now_ms + i64::try_from(seconds + 1).unwrap_or(i64::MAX).saturating_mul(1000);
                answer.header("retry-after", text::http_date(at))
            }
            RetryAfter::Missing => answer,
        }
    }
}

/// A place among the requests at work; given back when it is dropped.
pub(super) struct Place {
    shared: Arc<Shared>,
    key: (String, String),
    missing: u64,
}

impl Place {
    /// So many bytes of the body have come.
    pub(super) fn came(&mut self, bytes: usize) {
        self.missing = self.missing.saturating_sub(bytes as u64);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(meter) = self.shared.world().meters.get_mut(&self.key) {
            meter.leave(self.missing);
        }
        self.shared.tell_change();
    }
}
