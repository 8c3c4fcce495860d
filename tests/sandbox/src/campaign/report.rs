//! The campaign's tables.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Args, Done, LedgerKind,
    step::Step,
    strikes::Tally,
    troubles::LOST_ANSWERS,
    verdict::{Findings, Kind},
};

/// What a campaign has come to.
pub(super) struct Report {
    pub(super) args: Args,
    pub(super) took: Duration,
    pub(super) jobs: usize,
    pub(super) items: usize,
    pub(super) findings: Findings,
    pub(super) tally: Tally,
    pub(super) told_again: usize,
    pub(super) woken: usize,
    pub(super) starts: u64,
    pub(super) done: Done,
    /// After a restart of the broker, the shortest first.
    pub(super) first_results: Vec<Duration>,
    /// The model's faults, by name.
    pub(super) exchange: BTreeMap<&'static str, u64>,
    /// The storage's.
    pub(super) storage: BTreeMap<&'static str, u64>,
    /// Requests that no right client sends.
    pub(super) violations: Vec<String>,
    /// What did not come to rest, ended by itself or panicked.
    pub(super) troubled: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub(super) fn holds(&self) -> bool {
        self.findings.wrongs.is_empty() && self.violations.is_empty() && self.troubled.is_empty()
    }

    pub(super) fn print(&self) {
        let Args { rounds, seed, jobs, workers, ledger, settle, .. } = &self.args;
        let ledger = match ledger {
            LedgerKind::S3 => "s3",
            LedgerKind::Seaweedfs => "s3 (SeaweedFS)",
            LedgerKind::None => "none",
        };
        println!(
            "\nseed {seed}  rounds {rounds}  workers {workers}  jobs at once {jobs}  ledger {ledger}  settle {settle}"
        );
        self.outcome();
        self.blows();
        self.neighbours();
        let wrong = self.violations.iter().chain(&self.troubled);
        for line in wrong.clone().take(20) {
            println!("  wrong: {line}");
        }
        println!("\n  {}", if self.holds() { "Everything holds." } else { "Something does not hold." });
    }

    fn outcome(&self) {
        let findings = &self.findings;
        println!();
        row("lost", findings.count(Kind::Lost));
        row("silently duplicated", findings.count(Kind::Doubled));
        row("falsely told", findings.count(Kind::FalselyTold));
        row("unknown without reason", findings.count(Kind::Unfounded));
        row("jobs", self.jobs);
        for (end, count) in &findings.ends {
            row(&format!("  {end}"), count);
        }
        row("recovered (ledger, look)", findings.recovered);
        row("items in mailboxes", self.items);
        row("duplicates that events name", findings.named_duplicates);
        row("events told again", findings.repeats);
        row("unknown, then succeeded", findings.amended);
        row("requests that no right client sends", self.violations.len());
        row("duration", format!("{} s", self.took.as_secs()));
    }

    fn blows(&self) {
        let total = |steps: &BTreeMap<Step, u64>| steps.values().sum::<u64>();
        println!("\n  {:<42}{:>8}{:>9}", "struck at", "kills", "freezes");
        for step in Step::ALL {
            let of = |steps: &BTreeMap<Step, u64>| steps.get(&step).copied().unwrap_or_default();
            println!("  {:<42}{:>8}{:>9}", step.describe(), of(&self.tally.kills), of(&self.tally.freezes));
        }
        println!("  {:<42}{:>8}{:>9}", "all", total(&self.tally.kills), total(&self.tally.freezes));
        row("woken after the lease was over", self.woken);
        row("killed with the event out, told again", self.told_again);
        row("blows for which nobody came by", self.done.missed);
        row("worker starts", self.starts);
    }

    fn neighbours(&self) {
        println!();
        row("broker killed and restarted", self.done.restarts);
        if let (Some(median), Some(longest)) =
            (self.first_results.get(self.first_results.len() / 2), self.first_results.last())
        {
            row("  first result after: median", format!("{:.1} s", median.as_secs_f64()));
            row("  first result after: longest", format!("{:.1} s", longest.as_secs_f64()));
        }
        row("connections closed (all at once)", self.done.cuts);
        let lost: u64 = LOST_ANSWERS.iter().filter_map(|name| self.exchange.get(name)).sum();
        let killed = self.tally.kills.get(&Step::Stored).copied().unwrap_or_default();
        row("answers lost after the item was stored", format!("{} ({killed} by a kill)", lost + killed));
        row(
            "items stored after the client gave up",
            self.exchange.get("late_commit").copied().unwrap_or_default(),
        );
        for (trouble, count) in &self.done.troubles {
            row(trouble.describe(), count);
        }
        for (what, count) in &self.storage {
            row(what, count);
        }
        row("bodies read slowly", self.exchange.get("slow_body").copied().unwrap_or_default());
    }
}

fn row(what: &str, value: impl std::fmt::Display) {
    println!("  {what:<42}{value:>8}");
}
