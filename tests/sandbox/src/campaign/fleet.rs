//! The workers: real processes in numbered places, started again whenever they end.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::step::Blow;
use crate::supervised::{self, Supervised};

/// How often a place is looked at.
const LOOK: Duration = Duration::from_millis(15);

/// The places. Their processes end with it.
#[derive(Debug)]
pub(super) struct Fleet {
    places: Vec<Mutex<Place>>,
}

#[derive(Debug)]
struct Place {
    binary: PathBuf,
    variables: BTreeMap<String, String>,
    log: PathBuf,
    running: Option<Supervised>,
    /// A blow has ended it, or is about to.
    struck: bool,
    thaw_at: Option<Instant>,
    frozen_at: Instant,
    /// Freezes that it has woken from, by how long they were.
    woken: Vec<Duration>,
    starts: u64,
    /// Ends that nobody has caused.
    own_ends: Vec<String>,
}

/// The name of a place's worker: its host name, and the tail of its credentials.
pub(super) fn name(place: usize) -> String {
    format!("place-{place}")
}

/// The place that a name is of.
pub(super) fn place_of(name: &str) -> Option<usize> {
    name.rsplit_once("place-")?.1.parse().ok()
}

impl Fleet {
    /// Places with these variables each; nothing runs yet.
    pub(super) fn new(binary: &Path, places: Vec<BTreeMap<String, String>>, logs: &Path) -> Self {
        let place = |(n, variables): (usize, BTreeMap<String, String>)| {
            Mutex::new(Place {
                binary: binary.to_owned(),
                variables,
                log: logs.join(format!("{}.log", name(n))),
                running: None,
                struck: false,
                thaw_at: None,
                frozen_at: Instant::now(),
                woken: Vec::new(),
                starts: 0,
                own_ends: Vec::new(),
            })
        };
        Self { places: places.into_iter().enumerate().map(place).collect() }
    }

    fn place(&self, n: usize) -> Option<MutexGuard<'_, Place>> {
        self.places.get(n).map(|place| place.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many places there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Keeps every place occupied until it is told to stop.
    pub(super) async fn keep(self: Arc<Self>, stop: CancellationToken) -> Result<()> {
        let mut keepers = JoinSet::new();
        for n in 0..self.len() {
            let (fleet, stop) = (Arc::clone(&self), stop.clone());
            keepers.spawn(async move {
                while !stop.is_cancelled() {
                    if let Some(mut place) = fleet.place(n) {
                        place.look()?;
                    }
                    sleep(LOOK).await;
                }
                anyhow::Ok(())
            });
        }
        while let Some(kept) = keepers.join_next().await {
            kept??;
        }
        Ok(())
    }

    /// Strikes whoever is at a place; `false`: nobody is there to be struck.
    pub(super) fn strike(&self, n: usize, blow: Blow) -> bool {
        self.place(n).is_some_and(|mut place| place.strike(blow))
    }

    /// How many are frozen now.
    pub(super) fn frozen(&self) -> usize {
        (0..self.len()).filter(|n| self.place(*n).is_some_and(|place| place.thaw_at.is_some())).count()
    }

    /// Wakes all who are frozen.
    pub(super) fn thaw(&self) {
        for n in 0..self.len() {
            if let Some(mut place) = self.place(n) {
                place.thaw();
            }
        }
    }

    /// How many have woken from a freeze of at least this time.
    pub(super) fn woken_after(&self, time: Duration) -> usize {
        let woken = (0..self.len()).filter_map(|n| self.place(n)).flat_map(|place| place.woken.clone());
        woken.filter(|frozen| *frozen >= time).count()
    }

    /// Starts so far.
    pub(super) fn starts(&self) -> u64 {
        (0..self.len()).filter_map(|n| self.place(n)).map(|place| place.starts).sum()
    }

    /// Ends that nobody has caused, and panics.
    pub(super) fn own_ends(&self) -> Vec<String> {
        (0..self.len()).filter_map(|n| self.place(n)).flat_map(|place| place.own_ends.clone()).collect()
    }

    /// Log lines that hold one of these texts, with the place's name before each.
    pub(super) fn lines_about(&self, texts: &[&str]) -> Vec<String> {
        let mut lines = Vec::new();
        for (n, log) in self.logs() {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let about = text.lines().filter(|line| texts.iter().any(|text| line.contains(text)));
            lines.extend(about.map(|line| format!("{} {line}", name(n))));
        }
        lines.sort_by_key(|line| {
            line.split_once("\"timestamp\":").map_or(String::new(), |(_, rest)| rest.to_owned())
        });
        lines
    }

    /// The places' log files.
    pub(super) fn logs(&self) -> Vec<(usize, PathBuf)> {
        (0..self.len()).filter_map(|n| Some((n, self.place(n)?.log.clone()))).collect()
    }
}

impl Place {
    fn look(&mut self) -> Result<()> {
        if self.thaw_at.is_some_and(|at| at <= Instant::now()) {
            self.thaw();
        }
        if let Some(running) = &mut self.running {
            let Some(status) = running.ended()? else { return Ok(()) };
            if !self.struck {
                self.own_ends.push(format!("{} ended by itself: {status}", self.log.display()));
            }
            self.running = None;
        }
        self.start()
    }

    fn start(&mut self) -> Result<()> {
        let mut command = supervised::command(&self.binary);
        command
            .arg("run")
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(&self.variables);
        self.running = Some(Supervised::spawn(command, &self.log).context("cannot start a worker")?);
        self.struck = false;
        self.thaw_at = None;
        self.starts += 1;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> bool {
        // As long as it is not waited for, which happens under this lock, the number is nobody else's.
        let id = self.running.as_ref().and_then(|running| Pid::from_raw(i32::try_from(running.id()).ok()?));
        id.is_some_and(|id| kill_process(id, signal).is_ok())
    }

    fn strike(&mut self, blow: Blow) -> bool {
        if self.struck {
            return false;
        }
        match blow {
            Blow::Kill => {
                self.struck = self.signal(Signal::KILL);
                self.struck
            }
            Blow::Freeze(time) => {
                let frozen = self.thaw_at.is_none() && self.signal(Signal::STOP);
                if frozen {
                    self.frozen_at = Instant::now();
                    self.thaw_at = Some(self.frozen_at + time);
                }
                frozen
            }
        }
    }

    fn thaw(&mut self) {
        if self.thaw_at.take().is_some() && self.signal(Signal::CONT) && !self.struck {
            self.woken.push(self.frozen_at.elapsed());
        }
    }
}
