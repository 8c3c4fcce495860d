//! The blow that is to be struck next, struck at once by whoever sees a worker reach the step; what was seen is kept.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    fleet::{self, Fleet},
    hex,
    step::{Blow, Step},
};
use crate::{
    exchange::{Moment, Sight, Watch as WatchExchange},
    s3::{Next, Seen, Watch as WatchStorage},
    stack::{BLOBS, RECORDS},
};

/// Sights that are kept for the story of a job.
const KEPT: usize = 400_000;

/// What is armed, what has landed, what was seen.
#[derive(Debug)]
pub(super) struct Strikes {
    fleet: Arc<Fleet>,
    began: Instant,
    state: Mutex<State>,
    landed: Notify,
}

#[derive(Debug, Default)]
struct State {
    armed: Option<(Step, Blow)>,
    tally: Tally,
    seen: VecDeque<(Duration, String)>,
}

/// How often what has landed where.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// SIGKILLs by step.
    pub(super) kills: BTreeMap<Step, u64>,
    /// SIGSTOPs by step.
    pub(super) freezes: BTreeMap<Step, u64>,
    /// Jobs whose worker was killed when their event was out.
    pub(super) told: Vec<String>,
}

impl Strikes {
    pub(super) fn new(fleet: Arc<Fleet>) -> Self {
        Self { fleet, began: Instant::now(), state: Mutex::default(), landed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms a blow and waits until it has landed; `false`: nobody came by in time.
    pub(super) async fn strike(&self, step: Step, blow: Blow, patience: Duration) -> bool {
        let landed = self.landed.notified();
        self.lock().armed = Some((step, blow));
        let waited = tokio::time::timeout(patience, landed).await.is_ok();
        let left = self.lock().armed.take();
        waited || left.is_none()
    }

    /// Strikes a place now, wherever its worker is.
    pub(super) fn strike_anywhere(&self, place: usize, blow: Blow) -> bool {
        self.land(Step::Anywhere, place, blow)
    }

    /// How often what has landed.
    pub(super) fn tally(&self) -> Tally {
        self.lock().tally.clone()
    }

    /// A worker is at a step. Tells whether it was killed there.
    pub(super) fn reached(&self, step: Step, place: Option<usize>) -> bool {
        let Some(place) = place else { return false };
        let mut state = self.lock();
        let Some((_, blow)) = state.armed.filter(|(armed, _)| *armed == step) else { return false };
        state.armed = None;
        drop(state);
        if !self.land(step, place, blow) {
            // It is dying already, or frozen: the next one that comes by.
            self.lock().armed.get_or_insert((step, blow));
            return false;
        }
        self.landed.notify_waiters();
        blow == Blow::Kill
    }

    /// The event of a job is out.
    pub(super) fn told(&self, job: &str, worker: &str) {
        self.note(format!("{worker} told {job}"));
        if self.reached(Step::Told, fleet::place_of(worker)) {
            self.lock().tally.told.push(job.to_owned());
        }
    }

    fn land(&self, step: Step, place: usize, blow: Blow) -> bool {
        let landed = self.fleet.strike(place, blow);
        if landed {
            let mut state = self.lock();
            let tally = match blow {
                Blow::Kill => &mut state.tally.kills,
                Blow::Freeze(_) => &mut state.tally.freezes,
            };
            *tally.entry(step).or_default() += 1;
            drop(state);
            self.note(format!("{} {blow:?} at {step:?}", fleet::name(place)));
        }
        landed
    }

    /// Keeps a line for the stories.
    pub(super) fn note(&self, what: String) {
        let at = self.began.elapsed();
        let mut state = self.lock();
        if state.seen.len() >= KEPT {
            state.seen.pop_front();
        }
        state.seen.push_back((at, what));
    }

    /// What was seen and holds one of these texts; blows and broker troubles always.
    pub(super) fn seen_about(&self, texts: &[&str]) -> Vec<String> {
        let state = self.lock();
        let about = state.seen.iter().filter(|(_, what)| texts.iter().any(|text| what.contains(text)));
        about.map(|(at, what)| format!("{:9.3} {what}", at.as_secs_f64())).collect()
    }

    fn storage_step(request: &Seen, done: bool) -> Option<Step> {
        let (bucket, key) = request.path.split_once('/')?;
        let put = request.method == hyper::Method::PUT;
        let holds = |text: &[u8]| request.body.windows(text.len()).any(|part| part == text);
        match (bucket, put, done) {
            (BLOBS, false, false) => Some(Step::Delivered),
            (BLOBS, false, true) => Some(Step::Fetching),
            (RECORDS, false, false) if key.contains("jobs/") => Some(Step::Recalling),
            (RECORDS, true, true) if key.contains("items/") => Some(Step::Taken),
            (RECORDS, true, _) if key.contains("jobs/") => {
                if holds(br#""state":"imported""#) {
                    Some(if done { Step::Completed } else { Step::Completing })
                } else if holds(br#""state":"importing""#) && !holds(br#""leaseEnded""#) {
                    Some(if done { Step::Claimed } else { Step::Claiming })
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    fn storage(&self, request: &Seen, status: Option<u16>) -> Next {
        let place = fleet::place_of(&request.access_key);
        // A conditional write that was refused, or a missing record, is no step done.
        let step = Self::storage_step(request, status.is_some())
            .filter(|_| status.is_none_or(|status| (200..300).contains(&status)));
        if let Some(status) = status
            && request.path.starts_with(RECORDS)
        {
            // A record is JSON; an item's index is a job's id in the SDK's framing, which breaks lines.
            let text = String::from_utf8_lossy(&request.body).replace(['\r', '\n'], " ");
            let body = text.find('{').and_then(|from| text.get(from..=text.rfind('}')?));
            let body = body.unwrap_or(&text);
            self.note(format!("{} {} {} {status} {body}", request.access_key, request.method, request.path));
        }
        match step {
            Some(step) if self.reached(step, place) => Next::Cut,
            Some(_) | None => Next::GoOn,
        }
    }
}

impl WatchStorage for Strikes {
    fn arrived(&self, request: &Seen) -> Next {
        self.storage(request, None)
    }

    fn done(&self, request: &Seen, status: u16) -> Next {
        self.storage(request, Some(status))
    }
}

impl WatchExchange for Strikes {
    fn saw(&self, sight: &Sight<'_>) {
        let place = fleet::place_of(sight.client_id);
        let step = match sight.moment {
            Moment::SessionOpened => Some(Step::SessionOpen),
            Moment::Receiving => Some(Step::Sending),
            Moment::Stored => Some(Step::Stored),
            Moment::StoredLate => None,
        };
        if let Some(item) = sight.item_id {
            let key = hex(sight.search_key.unwrap_or_default());
            self.note(format!("{} {:?} {item} key={key}", sight.client_id, sight.moment));
        }
        if let Some(step) = step {
            self.reached(step, place);
        }
    }
}
