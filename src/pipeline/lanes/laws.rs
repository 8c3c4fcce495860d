//! The laws of the core, against a model that knows nothing of it: a list of requests and sums over it.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{
    core::{Core, Entry, Grant, Resting, Rules, Word},
    window::{Millis, Quota},
};
use crate::domain::{Limit, ThrottleScope};

const RULES: Rules = Rules {
    in_flight: 3,
    per_mailbox: 2,
    bytes: Quota { amount: 100, every: 1_000 },
    requests: Quota { amount: 7, every: 1_500 },
    hold: 10_000,
    hold_per_shard: 10_000,
};
const MAILBOXES: [&str; 4] = ["a", "b", "c", "d"];

/// Two mailboxes of each tenant.
fn tenant(mailbox: &str) -> &'static str {
    if mailbox < "c" { "t.one" } else { "t.two" }
}

fn entry(mailbox: &str, bytes: u64) -> Entry<'_> {
    Entry { request_bytes: bytes, ..Entry::about(tenant(mailbox), mailbox) }
}

/// A request as the model sees it.
#[derive(Clone, Debug)]
struct Seen {
    mailbox: &'static str,
    bytes: u64,
    start: u64,
    end: Option<u64>,
}

#[derive(Clone, Debug)]
enum Act {
    Enter(&'static str, u64),
    Wait(u64),
    End(usize),
    Unsent(usize),
    Leave(usize),
    Rest(&'static str),
    Wake(usize),
    Refuse(&'static str, u64),
}

fn acts(refusals: bool) -> impl Strategy<Value = Vec<Act>> {
    let mailbox = || prop::sample::select(&MAILBOXES[..]);
    let act = prop_oneof![
        8 => (mailbox(), 1..140_u64).prop_map(|(m, b)| Act::Enter(m, b)),
        6 => (1..700_u64).prop_map(Act::Wait),
        8 => (0..8_usize).prop_map(Act::End),
        1 => (0..8_usize).prop_map(Act::Unsent),
        1 => (0..40_usize).prop_map(Act::Leave),
        1 => mailbox().prop_map(Act::Rest),
        1 => (0..8_usize).prop_map(Act::Wake),
        u32::from(refusals) => (mailbox(), 1..5_000_u64).prop_map(|(m, r)| Act::Refuse(m, r)),
    ];
    prop::collection::vec(act, 1..300)
}

struct World {
    core: Core<usize>,
    rules: Rules,
    now: u64,
    seen: Vec<Seen>,
    rows: HashMap<&'static str, Vec<(usize, u64)>>,
    tickets: Vec<(&'static str, usize, super::core::Ticket)>,
    working: Vec<(usize, Grant)>,
    resting: Vec<Resting>,
    paused: HashMap<&'static str, u64>,
    admitted: Vec<(u64, usize)>,
    next: usize,
}

impl World {
    fn new(rules: Rules) -> Self {
        Self {
            core: Core::new(rules),
            rules,
            now: 0,
            seen: Vec::new(),
            rows: HashMap::new(),
            tickets: Vec::new(),
            working: Vec::new(),
            resting: Vec::new(),
            paused: HashMap::new(),
            admitted: Vec::new(),
            next: 0,
        }
    }

    fn at(&self) -> Millis {
        Millis(self.now)
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Enter(mailbox, bytes) => self.enter(mailbox, bytes),
            Act::Wait(span) => self.wait(span),
            Act::End(n) => self.end(n, true),
            Act::Unsent(n) => self.end(n, false),
            Act::Leave(n) => self.leave(n),
            Act::Rest(mailbox) => self.rest(mailbox),
            Act::Wake(n) => self.wake(n),
            Act::Refuse(mailbox, span) => {
                let word = Word::Throttled {
                    scope: ThrottleScope::Mailbox,
                    limit: Limit::IncomingBytes,
                    retry_after: Some(span),
                };
                self.core.hear(self.at(), tenant(mailbox), mailbox, word);
                let until = self.paused.entry(mailbox).or_default();
                *until = (*until).max(self.now + span.max(1_000));
            }
        }
        self.pump();
    }

    fn enter(&mut self, mailbox: &'static str, bytes: u64) {
        self.next += 1;
        let ticket = self.core.enter(self.at(), &entry(mailbox, bytes), self.next).expect("may wait");
        self.tickets.push((mailbox, self.next, ticket));
        self.rows.entry(mailbox).or_default().push((self.next, bytes));
    }

    fn leave(&mut self, n: usize) {
        if n < self.tickets.len() {
            let (mailbox, job, ticket) = self.tickets.remove(n);
            if self.core.leave(self.at(), ticket).is_some() {
                self.rows.entry(mailbox).or_default().retain(|(other, _)| *other != job);
            }
        }
    }

    fn rest(&mut self, mailbox: &'static str) {
        self.resting.extend(self.core.rest(self.at(), &entry(mailbox, 1), 1_000));
    }

    fn wake(&mut self, n: usize) {
        if n < self.resting.len() {
            let resting = self.resting.remove(n);
            self.core.wake(self.at(), resting);
        }
    }

    fn end(&mut self, n: usize, sent: bool) {
        if n >= self.working.len() {
            return;
        }
        let (at, mut grant) = self.working.remove(n);
        self.seen[at].end = Some(self.now);
        if !sent {
            self.core.unused(self.at(), &mut grant);
            self.seen[at].bytes = 0;
            // As if it had never been.
            self.seen[at].start = u64::MAX;
        }
        self.core.end(self.at(), grant);
    }

    /// Time passes alarm by alarm.
    fn wait(&mut self, span: u64) {
        let until = self.now + span;
        while let Some(at) = self.core.next_alarm().filter(|at| at.0 <= until) {
            self.now = self.now.max(at.0);
            self.pump();
        }
        self.now = until;
    }

    fn pump(&mut self) {
        while let Some((job, grant)) = self.core.admit(self.at()) {
            let mailbox = *self
                .rows
                .iter()
                .find(|(_, row)| row.iter().any(|(other, _)| *other == job))
                .expect("who is admitted was waiting")
                .0;
            self.rows.entry(mailbox).or_default().retain(|(other, _)| *other != job);
            self.admitted.push((self.now, job));
            self.seen.push(Seen { mailbox, bytes: grant.bytes(), start: self.now, end: None });
            self.working.push((self.seen.len() - 1, grant));
            self.check_limits(mailbox);
        }
    }

    /// Requests that Exchange may count within the window that ends now; `slack` is added to the window.
    fn counted(&self, mailbox: &str, every: u64, slack: u64) -> impl Iterator<Item = &Seen> {
        let now = self.now;
        self.seen.iter().filter(move |seen| {
            seen.mailbox == mailbox
                && seen.start <= now
                && seen.end.is_none_or(|end| end + every + slack >= now)
        })
    }

    fn check_limits(&self, mailbox: &str) {
        let working =
            |mailbox: &str| self.working.iter().filter(|(at, _)| self.seen[*at].mailbox == mailbox).count();
        assert!(self.working.len() <= 3 && working(mailbox) <= 2, "more than the places");
        let bytes: u64 = self.counted(mailbox, self.rules.bytes.every, 0).map(|seen| seen.bytes).sum();
        let alone = self.counted(mailbox, self.rules.bytes.every, 0).count() == 1;
        assert!(bytes <= self.rules.bytes.amount || alone, "{bytes} bytes in a window");
        let requests = self.counted(mailbox, self.rules.requests.every, 0).count();
        assert!(u64::try_from(requests).expect("few") <= self.rules.requests.amount, "{requests} requests");
        assert!(self.paused.get(mailbox).is_none_or(|until| *until <= self.now), "went in spite of a pause");
    }

    /// If a place is free, then no first of a row has a place in its lane and room in its windows.
    fn check_nobody_waits_in_vain(&self) {
        if self.working.len() >= 3 {
            return;
        }
        for (mailbox, row) in &self.rows {
            let Some((job, size)) = row.first() else { continue };
            let places = self.working.iter().filter(|(at, _)| self.seen[*at].mailbox == *mailbox).count();
            let bytes: u64 = self.counted(mailbox, self.rules.bytes.every, 2).map(|seen| seen.bytes).sum();
            let requests = self.counted(mailbox, self.rules.requests.every, 4).count();
            let room = bytes == 0 || bytes + size <= self.rules.bytes.amount;
            let full = u64::try_from(requests).expect("few") >= self.rules.requests.amount;
            assert!(places >= 2 || !room || full, "{job} of {mailbox} waits for nothing");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Places, windows and pauses hold, whatever happens.
    #[test]
    fn never_above_places_or_windows(acts in acts(true)) {
        let mut world = World::new(RULES);
        for act in &acts {
            world.act(act);
        }
    }

    #[test]
    fn work_conserving(acts in acts(false)) {
        let mut world = World::new(RULES);
        for act in &acts {
            world.act(act);
            world.check_nobody_waits_in_vain();
        }
    }

    /// Whoever waits goes, large ones too; and when all is done and forgotten, nothing is left.
    #[test]
    fn no_lane_starves_and_nothing_is_left(acts in acts(true)) {
        let mut world = World::new(RULES);
        for act in &acts {
            world.act(act);
        }
        let mut rounds = 0;
        while world.rows.values().any(|row| !row.is_empty()) || !world.working.is_empty() {
            world.act(&Act::Wait(400));
            while !world.working.is_empty() {
                world.act(&Act::End(0));
            }
            rounds += 1;
            prop_assert!(rounds < 4_000, "{:?} still wait", world.rows);
        }
        while !world.resting.is_empty() {
            world.act(&Act::Wake(0));
        }
        world.act(&Act::Wait(100_000));
        prop_assert_eq!(world.core.known(), 0);
        prop_assert_eq!(world.core.next_alarm(), None);
        prop_assert_eq!(world.core.oldest_waiting(), None);
        prop_assert!(world.core.queues.is_empty());
        prop_assert_eq!(world.core.tally(world.at()), super::tally::Tally::default());
        prop_assert_eq!(world.core.places().0, 0);
    }

    /// A world in which every lane is kept (an empty pass holds it) admits the same jobs at the same moments.
    #[test]
    fn forgetting_changes_nothing(acts in acts(false)) {
        let roomy = Rules { in_flight: 100, ..RULES };
        let (mut forgets, mut keeps) = (World::new(roomy), World::new(Rules { per_mailbox: 3, ..roomy }));
        let mut held = Vec::new();
        for mailbox in MAILBOXES {
            keeps.core.enter(Millis(0), &entry(mailbox, 0), 0).expect("may wait");
            let (_, mut grant) = keeps.core.admit(Millis(0)).expect("room");
            keeps.core.unused(Millis(0), &mut grant);
            held.push(grant);
        }
        for act in &acts {
            forgets.core_only(act);
            keeps.core_only(act);
        }
        prop_assert_eq!(keeps.core.known(), MAILBOXES.len());
        prop_assert_eq!(forgets.admitted, keeps.admitted);
    }

    /// The higher priority first, the earlier first within one.
    #[test]
    fn priorities_hold_within_a_lane(priorities in prop::collection::vec(0..4_u8, 1..40)) {
        let now = Millis(0);
        let mut core = Core::new(Rules { requests: Quota { amount: 1_000, every: 1_000 }, per_mailbox: 1, ..RULES });
        for (n, priority) in priorities.iter().enumerate() {
            core.enter(now, &Entry { priority: *priority, ..entry("a", 1) }, (*priority, n)).expect("may wait");
        }
        let mut order = Vec::new();
        while let Some((job, grant)) = core.admit(now) {
            order.push(job);
            core.end(now, grant);
        }
        let mut sorted = order.clone();
        sorted.sort_by_key(|(priority, n)| (std::cmp::Reverse(*priority), *n));
        prop_assert_eq!(order.len(), priorities.len().min(100));
        prop_assert_eq!(order, sorted);
    }

    /// A job that does not fit goes within a window after those at work have ended, however many and however urgent the others.
    #[test]
    fn a_reservation_leads_to_admission_within_a_window(large in 60..300_u64, small in prop::collection::vec(1..50_u64, 1..60)) {
        let mut world = World::new(RULES);
        for bytes in &small {
            world.act(&Act::Enter("a", *bytes));
            world.act(&Act::End(0));
        }
        let ahead = world.rows.get("a").map_or(0, Vec::len);
        world.act(&Act::Enter("a", large));
        let job = world.next;
        let mut first_at = None;
        for n in 0..60_000_usize {
            let urgent = Entry { priority: 9, ..entry("a", 1 + u64::try_from(n % 40).expect("small")) };
            let row = world.rows.get("a").cloned().unwrap_or_default();
            if first_at.is_none() && row.first().is_none_or(|(first, _)| *first == job) {
                first_at = Some(world.now);
            }
            if !row.iter().any(|(other, _)| *other == job) {
                break;
            }
            // Urgent ones come all the time once it is first and has reserved its lane.
            if let Some(at) = first_at {
                prop_assert!(world.now <= at + 1_600, "{job} waits since {at}, now {}", world.now);
                world.next += 1;
                let token = world.next;
                world.core.enter(world.at(), &urgent, token).expect("may wait");
                world.rows.entry("a").or_default().push((token, urgent.request_bytes));
            }
            world.act(&Act::Wait(20));
            while !world.working.is_empty() {
                world.act(&Act::End(0));
            }
        }
        prop_assert!(world.admitted.iter().any(|(_, admitted)| *admitted == job), "{ahead} ahead");
    }

    /// Lanes that always have jobs get equal bytes: tenants first, then their mailboxes.
    #[test]
    fn shares_by_bytes_are_equal(sizes in prop::array::uniform4(1..1_000_u64)) {
        let wide = Quota { amount: u64::MAX / 4, every: 1_000 };
        let mut core = Core::new(Rules { in_flight: 1, bytes: wide, requests: wide, ..RULES });
        // One mailbox of the first tenant, three of the second.
        let lanes = [("t.one", "a"), ("t.two", "b"), ("t.two", "c"), ("t.two", "d")];
        let mut got = [0_u64; 4];
        let enter = |core: &mut Core<usize>, n: usize| {
            let entry = Entry { request_bytes: sizes[n], ..Entry::about(lanes[n].0, lanes[n].1) };
            core.enter(Millis(0), &entry, n).expect("may wait");
        };
        for n in [0, 1, 2, 3, 0, 1, 2, 3] {
            enter(&mut core, n);
        }
        for _ in 0..1_000 {
            let (n, grant) = core.admit(Millis(0)).expect("all are ready");
            got[n] += sizes[n];
            enter(&mut core, n);
            core.end(Millis(0), grant);
        }
        let most = 3 * sizes.iter().max().expect("four");
        prop_assert!(got[0].abs_diff(got[1] + got[2] + got[3]) <= most, "tenants: {:?}", got);
        for n in [2, 3] {
            prop_assert!(got[1].abs_diff(got[n]) <= most, "mailboxes: {:?}", got);
        }
    }
}

impl World {
    /// The same without the model's limits, which know of three places only.
    fn core_only(&mut self, act: &Act) {
        match *act {
            Act::Wait(span) => {
                let until = self.now + span;
                while let Some(at) = self.core.next_alarm().filter(|at| at.0 <= until) {
                    self.now = self.now.max(at.0);
                    self.admit_all();
                }
                self.now = until;
            }
            Act::Enter(mailbox, bytes) => self.enter(mailbox, bytes),
            Act::End(n) => self.end(n, true),
            Act::Unsent(n) => self.end(n, false),
            Act::Leave(n) => self.leave(n),
            Act::Rest(mailbox) => self.rest(mailbox),
            Act::Wake(n) => self.wake(n),
            Act::Refuse(..) => {}
        }
        self.admit_all();
    }

    fn admit_all(&mut self) {
        let mut admitted = Vec::new();
        while let Some((job, grant)) = self.core.admit(self.at()) {
            admitted.push((job, grant));
        }
        // Without contention the order within a moment is nobody's business.
        admitted.sort_by_key(|(job, _)| *job);
        for (job, grant) in admitted {
            self.admitted.push((self.now, job));
            self.seen.push(Seen { mailbox: "", bytes: grant.bytes(), start: self.now, end: None });
            self.working.push((self.seen.len() - 1, grant));
        }
    }
}

#[test]
fn what_was_learnt_from_a_refusal_is_kept_for_two_periods() {
    let mut core: Core<()> = Core::new(RULES);
    let word = Word::Throttled { scope: ThrottleScope::Mailbox, limit: Limit::Other, retry_after: None };
    core.hear(Millis(0), "t", "a", word);
    core.advance(Millis(15_000 + 2 * 1_500 - 1));
    assert_eq!(core.known(), 1);
    core.advance(Millis(15_000 + 2 * 1_500));
    assert_eq!((core.known(), core.next_alarm()), (0, None));
}

#[test]
fn a_lane_taken_over_is_paced_for_one_window() {
    let mut core = Core::new(RULES);
    let inherited = Entry { inherited: true, ..entry("a", 10) };
    for n in 0..40 {
        core.enter(Millis(0), &inherited, n).expect("may wait");
    }
    let mut starts = Vec::new();
    let mut now = Millis(0);
    while let Some(at) = core.next_alarm().filter(|at| at.0 < 1_000) {
        now = now.max(at);
        while let Some((_, grant)) = core.admit(now) {
            starts.push(now.0);
            core.end(now, grant);
        }
    }
    // 10 bytes at 100 bytes per second; 1 request at 7 per 1.5 s is slower.
    assert_eq!(starts, [214, 428, 642, 856]);
}

/// A core with a prefetch of 64, and a flood of `jobs` of one mailbox: who was sent away.
fn flooded(jobs: usize) -> (Core<usize>, Vec<super::core::Parked>) {
    let mut core = Core::new(Rules { hold: 64, bytes: Quota { amount: 1_000, every: 1_000 }, ..RULES });
    let mut parked = Vec::new();
    for n in 0..jobs {
        parked.extend(core.enter(Millis(0), &entry("a", 100), n).err().map(|(parked, _)| parked));
    }
    (core, parked)
}

#[test]
fn a_flood_holds_three_quarters_of_the_prefetch_and_leaves_the_rest_to_others() {
    assert!(flooded(48).1.is_empty());
    let (mut core, parked) = flooded(1_000);
    assert_eq!(parked.len(), 1_000 - 48);
    for n in 0..4 {
        core.enter(Millis(0), &entry("b", 100), n).expect("has its own part");
    }
    // Another queue is not concerned.
    core.enter(Millis(0), &Entry { queue: 7, ..entry("a", 100) }, 0).expect("its prefetch has room");
}

#[test]
fn turns_follow_the_order_and_no_job_sleeps_past_its_own() {
    let (mut core, parked) = flooded(1_000);
    assert!(parked.is_sorted_by_key(|parked| parked.turn));
    assert!(parked.iter().all(|parked| parked.after <= parked.turn.max(1_000)));
    // 7 requests per 1.5 s: the last of a thousand.
    let last = parked.last().expect("many").turn;
    assert!((210_000..215_000).contains(&last), "{last}");
    // Who comes back early keeps its turn; who comes late lines up behind those that wait, not behind those that sleep.
    let early = Entry { turn: Some(100_000), ..entry("a", 100) };
    assert_eq!(core.enter(Millis(1), &early, 0).map_err(|(parked, _)| parked.turn), Err(100_000));
    let late = Entry { turn: Some(0), ..entry("a", 100) };
    let turn =
        core.enter(Millis(1), &late, 0).map_err(|(parked, _)| parked.turn).expect_err("the row is full");
    assert!(turn < 12_000, "{turn}");
}

#[test]
fn what_is_asked_beside_the_jobs_counts_as_requests() {
    let mut core = Core::new(Rules { requests: Quota { amount: 2, every: 1_000 }, ..RULES });
    core.enter(Millis(0), &entry("a", 1), 0).expect("waits");
    let (_, mut grant) = core.admit(Millis(0)).expect("the first request");
    core.beside(Millis(0), tenant("a"), "a");
    core.beside(Millis(0), tenant("nobody"), "nobody");
    core.sent(Millis(0), &mut grant, 1);
    core.end(Millis(0), grant);
    core.enter(Millis(0), &entry("a", 1), 1).expect("waits");
    assert!(core.admit(Millis(999)).is_none());
    assert!(core.admit(Millis(1_100)).is_some());
}

#[test]
fn paused_mailboxes_cannot_close_the_queue() {
    let (mut core, _) = flooded(1_000);
    let word = |seconds: u64| Word::Throttled {
        scope: ThrottleScope::Mailbox,
        limit: Limit::ServerBusy,
        retry_after: Some(seconds * 1_000),
    };
    let names: Vec<_> = (0..30).map(|n| format!("p{n}")).collect();
    for name in &names {
        core.hear(Millis(0), tenant(name), name, word(60));
    }
    let refused = names.iter().filter(|name| core.enter(Millis(0), &entry(name, 1), 0).is_err()).count();
    assert_eq!(refused, 30 - (56 - 48), "seven eighths of the prefetch are the most");
    core.enter(Millis(0), &entry("healthy", 1), 0).expect("goes at once");
}

/// When a shard goes to another owner, all its mailboxes stand still until what was delivered to this one is settled.
#[test]
fn a_mailbox_of_a_shard_holds_no_more_than_a_minute_of_its_quota() {
    let quota = Quota { amount: 100, every: 300_000 };
    let mut core = Core::new(Rules { bytes: quota, requests: quota, ..RULES });
    let large = Entry { queue: 7, ..entry("a", 10) };
    // What its window has room for goes at once, and is no reason to send anybody away; a minute is two jobs.
    let held = (0..40).filter(|n| core.enter(Millis(0), &large, *n).is_ok()).count();
    assert_eq!(held, 12);
    // The common queue has no owner to change.
    core.enter(Millis(0), &Entry { queue: 0, ..large }, 0).expect("may wait");
    // Another mailbox has its own minute.
    core.enter(Millis(0), &Entry { queue: 7, ..entry("b", 10) }, 0).expect("may wait");
    let paused = Word::Throttled {
        scope: ThrottleScope::Mailbox,
        limit: Limit::ServerBusy,
        retry_after: Some(90_000),
    };
    core.hear(Millis(0), tenant("c"), "c", paused);
    let held =
        (0..40).filter(|n| core.enter(Millis(0), &Entry { queue: 7, ..entry("c", 1) }, *n).is_ok()).count();
    assert_eq!(held, 2, "the next ones, as soon as the pause is over");
}

#[test]
fn who_waits_for_another_attempt_holds_a_place_like_who_waits_in_the_row() {
    let (now, rules) = (Millis(0), Rules { hold: 64, ..RULES });
    let mut core: Core<usize> = Core::new(rules);
    let mut resting: Vec<_> = (0..1_000).filter_map(|_| core.rest(now, &entry("a", 1), 20_000)).collect();
    assert_eq!(resting.len(), 48, "three quarters of the prefetch");
    core.enter(now, &entry("a", 1), 0).map_err(|_| ()).expect_err("its part is taken");
    // Others have theirs, until the prefetch is nearly full: then only who is soon back.
    let others: Vec<_> = (0..20).filter_map(|_| core.rest(now, &entry("b", 1), 20_000)).collect();
    assert_eq!(others.len(), 8);
    assert!(core.rest(now, &entry("c", 1), 20_000).is_none());
    resting.extend(core.rest(now, &entry("c", 1), 1_000));
    core.enter(now, &entry("d", 1), 0).expect("goes at once");
    assert_eq!((resting.len(), core.tally(now).active), (49, 4));
    for resting in resting.into_iter().chain(others) {
        core.wake(now, resting);
    }
    assert_eq!(core.queues[&0].held, 1);
}
