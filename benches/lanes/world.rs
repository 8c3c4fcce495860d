//! A broker, workers and Exchange under a virtual clock.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use restore_worker::{
    domain::{Limit, ThrottleScope},
    pipeline::lanes::{
        core::{Core, Entry, Grant, Rules, Word},
        window::{Millis, Quota},
    },
};

use crate::exchange::{self, Answer, Mailbox};

/// The broker's wait queues, as configured by default.
const TIERS: [u64; 6] = [5_000, 30_000, 120_000, 600_000, 3_600_000, 21_600_000];
/// Deliveries per millisecond and worker: five thousand a second.
const DELIVERIES: usize = 5;

pub(crate) fn rules() -> Rules {
    Rules {
        in_flight: 64,
        per_mailbox: 4,
        bytes: Quota { amount: exchange::WINDOW_BYTES, every: exchange::WINDOW },
        requests: Quota { amount: 10_000, every: exchange::REQUEST_WINDOW },
        hold: 512,
        hold_per_shard: 32,
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) mailbox: usize,
    pub(crate) bytes: u64,
    pub(crate) bounces: u32,
    pub(crate) turn: Option<u64>,
    pub(crate) held: u64,
    pub(crate) started: Option<u64>,
    pub(crate) done: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Deliver(usize),
    Count(usize),
    End(usize),
    Wake(usize),
    Alarm(usize),
    Leave(usize),
    Join(usize),
}

#[derive(Debug)]
struct Request {
    worker: usize,
    job: usize,
    grant: Option<Grant>,
    answer: Answer,
}

#[derive(Debug)]
struct Worker {
    core: Core<usize>,
    unsettled: u64,
    delivering: bool,
    alarm: Option<u64>,
    gone: bool,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) jobs: Vec<Job>,
    pub(crate) mailboxes: Vec<Mailbox>,
    names: Vec<String>,
    /// The queue's number, as the lanes know it.
    source: u16,
    prefetch: u64,
    workers: Vec<Worker>,
    queue: VecDeque<usize>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    requests: Vec<Request>,
    free: Vec<usize>,
    seq: u64,
    dice: fastrand::Rng,
    /// When the last job of each mailbox went to work.
    last_start: Vec<u64>,
    /// The longest that a job stood first in its lane.
    pub(crate) longest_turn: u64,
}

impl World {
    pub(crate) fn new(mailboxes: usize, workers: usize, rules: Rules) -> Self {
        let worker =
            || Worker { core: Core::new(rules), unsettled: 0, delivering: false, alarm: None, gone: false };
        Self {
            now: 0,
            jobs: Vec::new(),
            mailboxes: (0..mailboxes).map(|_| Mailbox::default()).collect(),
            names: (0..mailboxes).map(|n| format!("MBX:{n}")).collect(),
            source: 0,
            prefetch: rules.hold,
            workers: (0..workers).map(|_| worker()).collect(),
            queue: VecDeque::new(),
            events: BinaryHeap::new(),
            requests: Vec::new(),
            free: Vec::new(),
            seq: 0,
            dice: fastrand::Rng::with_seed(7),
            last_start: vec![0; mailboxes],
            longest_turn: 0,
        }
    }

    /// The same with a shard's queue.
    pub(crate) fn of_a_shard(mailboxes: usize, rules: Rules) -> Self {
        Self { source: 1, prefetch: rules.hold_per_shard, ..Self::new(mailboxes, 1, rules) }
    }

    pub(crate) fn publish(&mut self, mailbox: usize, bytes: u64) {
        self.queue.push_back(self.jobs.len());
        self.jobs.push(Job { mailbox, bytes, bounces: 0, turn: None, held: 0, started: None, done: None });
    }

    /// A worker goes away at a moment: it takes nothing more and finishes what it does.
    pub(crate) fn leave_at(&mut self, worker: usize, at: u64) {
        self.at(at, Event::Leave(worker));
    }

    /// A worker comes only at a moment.
    pub(crate) fn join_at(&mut self, worker: usize, at: u64) {
        self.workers[worker].gone = true;
        self.at(at, Event::Join(worker));
    }

    fn at(&mut self, time: u64, event: Event) {
        self.seq += 1;
        self.events.push(Reverse((time, self.seq, event)));
    }

    pub(crate) fn run_until(&mut self, end: u64) {
        self.offer();
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            if time > end {
                self.events.push(Reverse((time, 0, event)));
                break;
            }
            self.now = time;
            self.happen(event);
        }
        self.now = end;
    }

    /// Until every job is done, or the time is over.
    pub(crate) fn run_to_the_end(&mut self, end: u64) {
        while self.now < end && self.jobs.iter().any(|job| job.done.is_none()) {
            self.run_until(self.now + 60_000);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(worker) => self.deliver(worker),
            Event::Count(at) => {
                let Request { job, answer, .. } = self.requests[at];
                let Job { mailbox, bytes, .. } = self.jobs[job];
                let counted = self.mailboxes[mailbox].count(self.now, bytes);
                if answer == Answer::Imported {
                    self.requests[at].answer = counted;
                }
            }
            Event::End(at) => self.end(at),
            Event::Wake(job) => {
                self.queue.push_back(job);
                self.offer();
            }
            Event::Alarm(worker) => {
                self.workers[worker].alarm = None;
                self.pump(worker);
            }
            Event::Leave(worker) => self.workers[worker].gone = true,
            Event::Join(worker) => {
                self.workers[worker].gone = false;
                self.offer();
            }
        }
    }

    fn offer(&mut self) {
        for worker in 0..self.workers.len() {
            let Worker { unsettled, delivering, gone, .. } = self.workers[worker];
            if !delivering && !gone && !self.queue.is_empty() && unsettled < self.prefetch {
                self.workers[worker].delivering = true;
                self.at(self.now + 1, Event::Deliver(worker));
            }
        }
    }

    fn deliver(&mut self, worker: usize) {
        self.workers[worker].delivering = false;
        for _ in 0..DELIVERIES {
            if self.workers[worker].unsettled >= self.prefetch || self.workers[worker].gone {
                break;
            }
            let Some(job) = self.queue.pop_front() else { break };
            self.enter(worker, job);
        }
        self.offer();
    }

    fn enter(&mut self, worker: usize, job: usize) {
        let Job { mailbox, bytes, turn, .. } = self.jobs[job];
        let turn = turn.map(|turn| turn.saturating_sub(self.now));
        let entry = Entry {
            request_bytes: bytes,
            turn,
            queue: self.source,
            ..Entry::about("contoso.com", &self.names[mailbox])
        };
        let Worker { core, unsettled, .. } = &mut self.workers[worker];
        match core.enter(Millis(self.now), &entry, job) {
            Ok(_) => {
                *unsettled += 1;
                self.jobs[job].held = self.now;
                self.pump(worker);
            }
            Err((sleep, job)) => {
                self.jobs[job].bounces += 1;
                self.jobs[job].turn = Some(self.now + sleep.turn);
                self.sleep(job, sleep.after);
            }
        }
    }

    /// The longest tier that is not longer than asked; nothing is shorter than the first.
    fn sleep(&mut self, job: usize, after: u64) {
        let tier = TIERS.iter().rev().find(|tier| **tier <= after).unwrap_or(&TIERS[0]);
        self.at(self.now + tier, Event::Wake(job));
    }

    fn pump(&mut self, worker: usize) {
        let now = Millis(self.now);
        while let Some((job, grant)) = self.workers[worker].core.admit(now) {
            self.start(worker, job, grant);
        }
        let Worker { core, alarm, .. } = &mut self.workers[worker];
        if let Some(next) = core.next_alarm().map(|at| at.0.max(self.now))
            && alarm.is_none_or(|alarm| next < alarm)
        {
            *alarm = Some(next);
            self.at(next, Event::Alarm(worker));
        }
    }

    /// 200 to 400 ms of latency, 3 to 7 MB per second.
    fn start(&mut self, worker: usize, job: usize, grant: Grant) {
        let Job { mailbox, bytes, held, .. } = self.jobs[job];
        self.jobs[job].started = Some(self.now);
        let turn = self.now - held.max(self.last_start[mailbox]);
        self.longest_turn = self.longest_turn.max(turn);
        self.last_start[mailbox] = self.now;
        let lasts = self.dice.u64(200..400) + bytes / self.dice.u64(3_000..7_000);
        let answer = self.mailboxes[mailbox].begin();
        let request = Request { worker, job, grant: Some(grant), answer };
        let at = self.free.pop().unwrap_or(self.requests.len());
        if at == self.requests.len() {
            self.requests.push(request);
        } else {
            self.requests[at] = request;
        }
        // Nobody knows when Exchange counts.
        let counted = self.now + self.dice.u64(0..=lasts);
        self.at(counted, Event::Count(at));
        self.at(self.now + lasts, Event::End(at));
    }

    fn end(&mut self, at: usize) {
        let Request { worker, job, ref mut grant, answer } = self.requests[at];
        let grant = grant.take().expect("a request ends once");
        self.free.push(at);
        let Job { mailbox, bytes, .. } = self.jobs[job];
        self.mailboxes[mailbox].end(answer, bytes);
        let word = match answer {
            Answer::Imported => Word::Succeeded,
            Answer::Refused(retry_after) => Word::Throttled {
                scope: ThrottleScope::Mailbox,
                limit: retry_after.map_or(Limit::MailboxConcurrency, |_| Limit::IncomingBytes),
                retry_after,
            },
        };
        let now = Millis(self.now);
        let Worker { core, unsettled, .. } = &mut self.workers[worker];
        core.hear(now, "contoso.com", &self.names[mailbox], word);
        core.end(now, grant);
        *unsettled -= 1;
        match answer {
            Answer::Imported => self.jobs[job].done = Some(self.now),
            Answer::Refused(after) => {
                self.jobs[job].turn = None;
                self.sleep(job, after.unwrap_or(15_000));
            }
        }
        self.pump(worker);
        self.offer();
    }
}
