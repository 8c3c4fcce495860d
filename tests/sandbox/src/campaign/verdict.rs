//! The oracle: jobs, events and items → what was lost, doubled or falsely told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::jobs::{Events, Job, Told};

/// An item as it lies in its mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) mailbox: String,
    pub(super) sha256: String,
}

/// What is wrong, and with which jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) kind: Kind,
    pub(super) jobs: Vec<String>,
    pub(super) what: String,
}

/// Kinds of wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Accepted, and never told.
    Lost,
    /// More items than the events name.
    Doubled,
    /// An event says what is not so.
    FalselyTold,
    /// Unknown, where the design does not allow it.
    Unfounded,
}

/// The oracle's findings.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    pub(super) wrongs: Vec<Wrong>,
    /// Jobs by how they ended: `succeeded`, `failed crash_loop` …
    pub(super) ends: BTreeMap<String, u64>,
    /// Jobs whose success was known by the ledger or by a look.
    pub(super) recovered: u64,
    /// Events beyond the first of a job.
    pub(super) repeats: u64,
    /// Jobs told as unknown first and as succeeded then (a lost answer came to light).
    pub(super) amended: u64,
    /// Further items that events name.
    pub(super) named_duplicates: u64,
}

impl Findings {
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.wrongs.iter().filter(|wrong| wrong.kind == kind).count()
    }

    fn wrong(&mut self, kind: Kind, jobs: &[&Job], what: impl Into<String>) {
        let jobs = jobs.iter().map(|job| job.id.clone()).collect();
        self.wrongs.push(Wrong { kind, jobs, what: what.into() });
    }
}

/// Judges everything.
pub(super) fn judge(jobs: &BTreeMap<String, Job>, events: &Events, items: &[Item]) -> Findings {
    let mut findings = Findings::default();
    for id in events.keys().filter(|id| !jobs.contains_key(*id)) {
        let what = format!("an event of a job that was never published: {id}");
        findings.wrong(Kind::FalselyTold, &[], what);
    }
    let by_id: BTreeMap<&str, &Item> = items.iter().map(|item| (item.id.as_str(), item)).collect();
    let mut copies: BTreeMap<(&str, &str), Vec<&Job>> = BTreeMap::new();
    for job in jobs.values() {
        let told = events.get(&job.id).map(Vec::as_slice).unwrap_or_default();
        judge_job(job, told, &by_id, &mut findings);
        if job.update.is_none() {
            copies.entry((&job.mailbox, &job.sha256)).or_default().push(job);
        }
    }
    let mut lying: BTreeMap<(&str, &str), Vec<&Item>> = BTreeMap::new();
    for item in items {
        lying.entry((&item.mailbox, &item.sha256)).or_default().push(item);
    }
    for (place, jobs) in &copies {
        let items = lying.get(place).map(Vec::as_slice).unwrap_or_default();
        judge_copies(jobs, events, items, &mut findings);
    }
    findings
}

/// One job's own events.
fn judge_job(job: &Job, told: &[Told], items: &BTreeMap<&str, &Item>, findings: &mut Findings) {
    let Some(last) = told.last() else {
        findings.wrong(Kind::Lost, &[job], "no event");
        return;
    };
    findings.repeats += told.len() as u64 - 1;
    let end = match &last.reason {
        Some(reason) => format!("{} {reason}", last.status),
        None => last.status.clone(),
    };
    *findings.ends.entry(end).or_default() += 1;
    findings.recovered += u64::from(last.status == "succeeded" && last.recovered);
    findings.named_duplicates += last.duplicates.len() as u64;
    agree(job, told, findings);
    for told in told {
        match told.status.as_str() {
            "succeeded" => judge_success(job, told, items, findings),
            "failed" => judge_failure(job, items, findings),
            "unknown" if job.update.is_some() || !job.keyed => {}
            "unknown" => {
                findings.wrong(Kind::Unfounded, &[job], "unknown, though the item can be recognised");
            }
            other => findings.wrong(Kind::FalselyTold, &[job], format!("status {other}")),
        }
    }
}

/// Whether a job's events say the same.
fn agree(job: &Job, told: &[Told], findings: &mut Findings) {
    let statuses: BTreeSet<&str> = told.iter().map(|told| told.status.as_str()).collect();
    if statuses.len() > 1 {
        let last = told.last().map(|told| told.status.as_str());
        if statuses.contains("failed") || last != Some("succeeded") {
            findings.wrong(Kind::FalselyTold, &[job], format!("events contradict each other: {statuses:?}"));
        } else {
            findings.amended += 1;
        }
    }
    let successes = || told.iter().filter(|told| told.status == "succeeded");
    for (one, other) in successes().zip(successes().skip(1)) {
        // A later event may name more than an earlier one, never less.
        if !one.names().all(|item| other.names().any(|named| named == item)) {
            findings.wrong(Kind::FalselyTold, &[job], "events name different items");
        }
    }
}

fn judge_success(job: &Job, told: &Told, items: &BTreeMap<&str, &Item>, findings: &mut Findings) {
    if told.item.is_none() {
        findings.wrong(Kind::FalselyTold, &[job], "succeeded without an item");
    }
    if let Some((item, _)) = &job.update
        && told.item.as_ref() != Some(item)
    {
        findings.wrong(Kind::FalselyTold, &[job], "an update names another item");
    }
    if told.sha256.as_ref().is_some_and(|sha256| *sha256 != job.sha256) {
        findings.wrong(Kind::FalselyTold, &[job], "the event names another digest");
    }
    for name in told.names() {
        match items.get(name.as_str()) {
            Some(item) if item.sha256 == job.sha256 && item.mailbox == job.mailbox => {}
            Some(_) => {
                findings.wrong(Kind::FalselyTold, &[job], format!("{name} is not what was to be restored"));
            }
            None => findings.wrong(Kind::FalselyTold, &[job], format!("{name} does not exist")),
        }
    }
}

fn judge_failure(job: &Job, items: &BTreeMap<&str, &Item>, findings: &mut Findings) {
    if let Some((item, before)) = &job.update
        && items.get(item.as_str()).is_some_and(|item| item.sha256 != *before)
    {
        findings.wrong(Kind::FalselyTold, &[job], "failed, but the item was updated");
    }
}

/// Jobs that restored the same bytes into one folder, and what lies there.
fn judge_copies(jobs: &[&Job], events: &Events, items: &[&Item], findings: &mut Findings) {
    let ended = |job: &Job| events.get(&job.id).and_then(|told| told.last());
    let mut named: BTreeMap<&str, &str> = BTreeMap::new();
    for job in jobs {
        let Some(told) = ended(job).filter(|told| told.status == "succeeded") else { continue };
        for item in told.names() {
            if let Some(other) = named.insert(item, &job.id)
                && other != job.id
            {
                findings.wrong(Kind::FalselyTold, jobs, format!("{item} is told as the item of two jobs"));
            }
        }
    }
    let unnamed = items.iter().filter(|item| !named.contains_key(item.id.as_str())).count();
    let count =
        |status: &str| jobs.iter().filter(|job| ended(job).is_some_and(|told| told.status == status)).count();
    // A job that nobody knows of may have its item; so may one that was lost, which is told already.
    let untold = jobs.iter().filter(|job| ended(job).is_none()).count();
    let excess = unnamed.saturating_sub(count("unknown") + untold);
    if excess == 0 {
        return;
    }
    if count("failed") > 0 && excess <= count("failed") {
        findings.wrong(
            Kind::FalselyTold,
            jobs,
            format!("failed, but {excess} items lie there that no event names"),
        );
    } else {
        findings.wrong(Kind::Doubled, jobs, format!("{excess} items lie there that no event names"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, keyed: bool) -> (String, Job) {
        let job = Job { id: id.into(), mailbox: "m".into(), sha256: "s".into(), update: None, keyed };
        (id.into(), job)
    }

    fn update(id: &str, item: &str) -> (String, Job) {
        let (id, job) = job(id, true);
        (id, Job { update: Some((item.into(), "before".into())), ..job })
    }

    fn told(status: &str, items: &[&str]) -> Told {
        let mut items = items.iter().map(|item| (*item).to_owned());
        Told {
            status: status.into(),
            item: items.next(),
            duplicates: items.collect(),
            sha256: None,
            reason: None,
            recovered: false,
            completed_at: None,
            text: String::new(),
        }
    }

    fn item(id: &str) -> Item {
        Item { id: id.into(), mailbox: "m".into(), sha256: "s".into() }
    }

    /// Name, jobs, events, items, what is wrong.
    type Case = (&'static str, Vec<(String, Job)>, Vec<(&'static str, Vec<Told>)>, Vec<Item>, Vec<Kind>);

    #[test]
    fn what_is_wrong_is_found() {
        use Kind::{Doubled, FalselyTold, Lost, Unfounded};
        let ok = |items: &[&str]| told("succeeded", items);
        let one = || vec![job("a", true)];
        let two = || vec![job("a", true), job("b", true)];
        let cases: Vec<Case> = vec![
            ("all is well", one(), vec![("a", vec![ok(&["x"])])], vec![item("x")], vec![]),
            ("told twice", one(), vec![("a", vec![ok(&["x"]), ok(&["x"])])], vec![item("x")], vec![]),
            ("never told", one(), vec![], vec![item("x")], vec![Lost]),
            (
                "one item too many",
                one(),
                vec![("a", vec![ok(&["x"])])],
                vec![item("x"), item("y")],
                vec![Doubled],
            ),
            ("named twice", one(), vec![("a", vec![ok(&["x", "y"])])], vec![item("x"), item("y")], vec![]),
            ("no such item", one(), vec![("a", vec![ok(&["x"])])], vec![], vec![FalselyTold]),
            (
                "failed, but there",
                one(),
                vec![("a", vec![told("failed", &[])])],
                vec![item("x")],
                vec![FalselyTold],
            ),
            ("failed honestly", one(), vec![("a", vec![told("failed", &[])])], vec![], vec![]),
            (
                "unknown without need",
                one(),
                vec![("a", vec![told("unknown", &[])])],
                vec![item("x")],
                vec![Unfounded],
            ),
            (
                "unknown by nature",
                vec![job("a", false)],
                vec![("a", vec![told("unknown", &[])])],
                vec![item("x")],
                vec![],
            ),
            (
                "one item for two",
                two(),
                vec![("a", vec![ok(&["x"])]), ("b", vec![ok(&["x"])])],
                vec![item("x")],
                vec![FalselyTold],
            ),
            (
                "copies",
                two(),
                vec![("a", vec![ok(&["x"])]), ("b", vec![ok(&["y"])])],
                vec![item("x"), item("y")],
                vec![],
            ),
            (
                "contradiction",
                one(),
                vec![("a", vec![ok(&["x"]), told("failed", &[])])],
                vec![item("x")],
                vec![FalselyTold, FalselyTold],
            ),
            (
                "two names",
                one(),
                vec![("a", vec![ok(&["x"]), ok(&["y"])])],
                vec![item("x"), item("y")],
                vec![FalselyTold, Doubled],
            ),
            (
                "grown",
                one(),
                vec![("a", vec![ok(&["x"]), ok(&["x", "y"])])],
                vec![item("x"), item("y")],
                vec![],
            ),
            ("updated", vec![update("a", "x")], vec![("a", vec![ok(&["x"])])], vec![item("x")], vec![]),
            (
                "not updated",
                vec![update("a", "x")],
                vec![("a", vec![told("failed", &[])])],
                vec![item("x")],
                vec![FalselyTold],
            ),
        ];
        for (name, jobs, events, items, expected) in cases {
            let events = events.into_iter().map(|(id, told)| (id.to_owned(), told)).collect();
            let findings = judge(&jobs.into_iter().collect(), &events, &items);
            let kinds: Vec<Kind> = findings.wrongs.iter().map(|wrong| wrong.kind).collect();
            assert_eq!(kinds, expected, "{name}: {:?}", findings.wrongs);
        }
    }
}
