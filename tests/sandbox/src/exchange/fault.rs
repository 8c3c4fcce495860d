//! Faults by script: which request meets which trouble, how often, and what has happened.
//!
//! A script is a list of [`Fault`]s. Each request asks at three points of its life: when its head is in
//! ([`Stage::Head`]), when its body is complete but unjudged ([`Stage::Body`]), and when it would succeed
//! ([`Stage::Commit`]). All faults that match fire, in the order in which they were added; of those that end a
//! request the first wins.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

use super::answer::Answer;

/// What a request wants; also the key of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `POST /{tenant}/oauth2/v2.0/token`
    Token,
    /// The managed identity endpoint.
    ManagedIdentity,
    /// `createImportSession`
    OpenSession,
    /// `importItem`
    Import,
    /// `GET …/folders/{id}/items`
    ListItems,
    /// `GET …/folders/{id}/items/{id}`
    ReadItem,
    /// `GET …/folders`
    ListFolders,
    /// A request the model does not know.
    Unknown,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// In order (FIN).
    Close,
    /// With a reset (RST).
    Reset,
}

/// A barrier that a test opens: requests that meet it wait there.
#[derive(Clone, Debug)]
pub struct Gate(Arc<GateState>);

#[derive(Debug)]
struct GateState {
    barrier: Semaphore,
    arrivals: watch::Sender<u64>,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(GateState { barrier: Semaphore::new(0), arrivals: watch::channel(0).0 }))
    }
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everybody pass, now and later.
    pub fn open(&self) {
        self.0.barrier.close();
    }

    /// Waits until `count` requests have come to the gate since it was made.
    pub async fn arrived(&self, count: u64) {
        let mut seen = self.0.arrivals.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        seen.wait_for(|n| *n >= count).await.ok();
    }

    async fn pass(&self) {
        self.0.arrivals.send_modify(|n| *n += 1);
        // A closed semaphore is an open gate.
        self.0.barrier.acquire().await.ok();
    }
}

/// When something withheld goes on.
#[derive(Clone, Debug)]
pub enum When {
    /// After this time.
    After(Duration),
    /// When a test opens the gate.
    Open(Gate),
}

impl When {
    pub(super) async fn wait(&self) {
        match self {
            When::After(time) => tokio::time::sleep(*time).await,
            When::Open(gate) => gate.pass().await,
        }
    }
}

/// What the client meets while its item is stored only later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// The connection ends without an answer.
    Cut(Cut),
    /// Nothing comes; the connection stays.
    Silence,
    /// A gateway's 504.
    Timeout,
}

/// How an import URL is bent.
#[derive(Clone, Debug)]
pub enum UrlTwist {
    /// The same path on another `host[:port]`.
    Host(String),
    /// The same URL with `http:`.
    Http,
    /// Anything.
    Exact(String),
}

/// One trouble.
#[derive(Clone, Debug)]
pub enum Effect {
    // -- when the head is in --
    /// Nothing is read until then.
    Wait(When),
    /// Answered before the body is read. Nothing is stored.
    Refuse(Answer),
    /// The connection ends before the body is read.
    CutBeforeBody(Cut),
    /// The connection ends when so many bytes of the body were read.
    CutInBody {
        /// Bytes of the body that are read.
        after: u64,
        /// How it ends.
        cut: Cut,
    },
    /// The body is read at this pace.
    SlowBody {
        /// Bytes per second.
        bytes_per_second: u64,
    },
    /// The session is deleted now, before its time, and the request answered with this status.
    EndSession {
        /// 401, 403, 404 or 410.
        status: u16,
    },
    // -- when the body is complete, before it is judged --
    /// Answered after the whole body. Nothing is stored.
    RefuseAfterBody(Answer),
    // -- when the request would succeed --
    /// The item is stored only then, though the client has long been left alone.
    LateCommit {
        /// When it is stored.
        when: When,
        /// What the client meets at once.
        meanwhile: Meanwhile,
    },
    /// Done, but answered with this.
    AnswerInstead(Answer),
    /// Done, but the connection ends without an answer.
    CutAfter(Cut),
    /// Done, but no answer ever comes.
    Silence,
    /// Done; the answer comes only then.
    WaitAfter(When),
    /// Done; half of the answer's body comes, then the connection ends.
    HalfAnswer,
    /// Done; the 2xx names no item.
    WithoutItemId,
    /// Done; the answer's keys are in Pascal case.
    PascalCase,
    /// Done; the 2xx is no JSON.
    NotJson,
    /// Done; the answer is a stream of so many bytes without length.
    HugeAnswer {
        /// Bytes of the body.
        bytes: u64,
    },
    /// Done and answered; the connection ends at the first byte of the next request on it (HTTP/1.1).
    CutNextRequest(Cut),
    /// Session: `expirationDateTime` is this text, or missing.
    Expiration(Option<String>),
    /// Session: the import URL is bent.
    ImportUrl(UrlTwist),
}

/// The point in a request's life at which a fault is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Head,
    Body,
    Commit,
}

impl Effect {
    /// The effect's name in reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Effect::Wait(_) => "wait",
            Effect::Refuse(_) => "refuse",
            Effect::CutBeforeBody(_) => "cut_before_body",
            Effect::CutInBody { .. } => "cut_in_body",
            Effect::SlowBody { .. } => "slow_body",
            Effect::EndSession { .. } => "end_session",
            Effect::RefuseAfterBody(_) => "refuse_after_body",
            Effect::LateCommit { .. } => "late_commit",
            Effect::AnswerInstead(_) => "answer_instead",
            Effect::CutAfter(_) => "cut_after",
            Effect::Silence => "silence",
            Effect::WaitAfter(_) => "wait_after",
            Effect::HalfAnswer => "half_answer",
            Effect::WithoutItemId => "without_item_id",
            Effect::PascalCase => "pascal_case",
            Effect::NotJson => "not_json",
            Effect::HugeAnswer { .. } => "huge_answer",
            Effect::CutNextRequest(_) => "cut_next_request",
            Effect::Expiration(_) => "expiration",
            Effect::ImportUrl(_) => "import_url",
        }
    }

    fn stage(&self) -> Stage {
        match self {
            Effect::Wait(_)
            | Effect::Refuse(_)
            | Effect::CutBeforeBody(_)
            | Effect::CutInBody { .. }
            | Effect::SlowBody { .. }
            | Effect::EndSession { .. } => Stage::Head,
            Effect::RefuseAfterBody(_) => Stage::Body,
            Effect::LateCommit { .. }
            | Effect::AnswerInstead(_)
            | Effect::CutAfter(_)
            | Effect::Silence
            | Effect::WaitAfter(_)
            | Effect::HalfAnswer
            | Effect::WithoutItemId
            | Effect::PascalCase
            | Effect::NotJson
            | Effect::HugeAnswer { .. }
            | Effect::CutNextRequest(_)
            | Effect::Expiration(_)
            | Effect::ImportUrl(_) => Stage::Commit,
        }
    }
}

/// An effect and the requests that meet it. Made by [`Fault::new`], narrowed by the methods.
#[derive(Clone, Debug)]
pub struct Fault {
    operation: Operation,
    effect: Effect,
    tenant: Option<String>,
    mailbox: Option<String>,
    folder: Option<String>,
    search_key: Option<Vec<u8>>,
    skip: u64,
    times: Option<u64>,
    chance: Option<f64>,
}

impl Fault {
    /// Meets the next request of this operation, once.
    #[must_use]
    pub fn new(operation: Operation, effect: Effect) -> Self {
        Self {
            operation,
            effect,
            tenant: None,
            mailbox: None,
            folder: None,
            search_key: None,
            skip: 0,
            times: Some(1),
            chance: None,
        }
    }

    /// Only requests for this tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Only requests for this mailbox.
    #[must_use]
    pub fn mailbox(mut self, mailbox: impl Into<String>) -> Self {
        self.mailbox = Some(mailbox.into());
        self
    }

    /// Only requests for this folder; of imports it is known when the body is complete.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<String>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Only imports of an item with this search key; known when the body is complete.
    #[must_use]
    pub fn search_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.search_key = Some(key.into());
        self
    }

    /// Lets so many matching requests pass first.
    #[must_use]
    pub fn skip(mut self, requests: u64) -> Self {
        self.skip = requests;
        self
    }

    /// Fires so many times.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Fires until it is cleared.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    /// Fires with this probability (0 to 1) at each matching request.
    #[must_use]
    pub fn chance(mut self, chance: f64) -> Self {
        self.chance = Some(chance);
        self
    }

    fn check(&self) -> Result<()> {
        let by_body = self.folder.is_some() || self.search_key.is_some();
        let before_body = self.effect.stage() == Stage::Head && self.operation == Operation::Import;
        ensure!(
            !(by_body && before_body),
            "an import's folder and search key are known only after its body: {} comes before",
            self.effect.name()
        );
        Ok(())
    }

    fn selects(&self, stage: Stage, target: &Target<'_>) -> bool {
        let same =
            |want: &Option<String>, have: Option<&str>| want.as_deref().is_none_or(|w| Some(w) == have);
        self.effect.stage() == stage
            && self.operation == target.operation
            && same(&self.tenant, target.tenant)
            && same(&self.mailbox, target.mailbox)
            && same(&self.folder, target.folder)
            && self.search_key.as_deref().is_none_or(|w| Some(w) == target.search_key)
    }
}

/// What is known of a request when a fault is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) operation: Operation,
    pub(super) tenant: Option<&'a str>,
    pub(super) mailbox: Option<&'a str>,
    pub(super) folder: Option<&'a str>,
    pub(super) search_key: Option<&'a [u8]>,
}

impl<'a> Target<'a> {
    pub(super) fn of(operation: Operation) -> Self {
        Self { operation, tenant: None, mailbox: None, folder: None, search_key: None }
    }

    pub(super) fn in_mailbox(operation: Operation, tenant: Option<&'a str>, mailbox: &'a str) -> Self {
        Self { tenant, mailbox: Some(mailbox), ..Self::of(operation) }
    }
}

/// Names a fault that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId(u64);

/// The script and its record.
#[derive(Debug, Default)]
pub(super) struct Script {
    next: u64,
    faults: BTreeMap<FaultId, Fault>,
    fired: BTreeMap<FaultId, u64>,
    fired_by_name: BTreeMap<&'static str, u64>,
}

impl Script {
    pub(super) fn add(&mut self, fault: Fault) -> Result<FaultId> {
        fault.check()?;
        let id = FaultId(self.next);
        self.next += 1;
        self.faults.insert(id, fault);
        Ok(id)
    }

    pub(super) fn clear(&mut self, id: FaultId) {
        self.faults.remove(&id);
    }

    pub(super) fn clear_all(&mut self) {
        self.faults.clear();
    }

    pub(super) fn fired(&self, id: FaultId) -> u64 {
        self.fired.get(&id).copied().unwrap_or(0)
    }

    pub(super) fn fired_by_name(&self) -> BTreeMap<&'static str, u64> {
        self.fired_by_name.clone()
    }

    /// The effects that this request meets at this stage; they count as fired.
    pub(super) fn take(
        &mut self,
        stage: Stage,
        target: &Target<'_>,
        dice: &mut fastrand::Rng,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (id, fault) in &mut self.faults {
            if !fault.selects(stage, target) || fault.chance.is_some_and(|chance| dice.f64() >= chance) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            fault.times = fault.times.map(|left| left - 1);
            *self.fired.entry(*id).or_default() += 1;
            *self.fired_by_name.entry(fault.effect.name()).or_default() += 1;
            effects.push(fault.effect.clone());
        }
        self.faults.retain(|_, fault| fault.times != Some(0));
        effects
    }
}
