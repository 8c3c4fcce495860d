//! The table at the end.

use std::time::Duration;

use restore_sandbox::{
    exchange::{Exchange, Operation},
    worker::sum,
};
use serde_json::Value;

use super::{Told, per_second, plan::Plan, verdict::Check};
use crate::size;

/// What the table is made of.
pub(super) struct Figures<'a> {
    pub(super) plan: &'a Plan,
    pub(super) told: &'a Told,
    pub(super) took: Duration,
    pub(super) metrics: &'a str,
    pub(super) exchange: &'a Exchange,
}

impl Figures<'_> {
    /// Prints it.
    #[expect(clippy::cast_precision_loss, reason = "shown with one or two digits behind the point")]
    pub(super) fn print(&self) {
        let items = self.plan.items.len();
        let updates = self.plan.items.iter().filter(|item| item.updates.is_some()).count();
        let bytes = self.plan.bytes();
        let sizes = || self.plan.items.iter().map(|item| item.size);
        let (least, most) = (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
        let rate = per_second(bytes as f64 / 1_048_576.0, self.took);
        line("items", &format!("{items}: {} created, {updates} updated", items - updates));
        line("bytes", &format!("{} ({} to {} each)", size(bytes), size(least), size(most)));
        line("duration", &format!("{:.1} s", self.took.as_secs_f64()));
        line("rate", &format!("{:.1} items/s, {rate:.1} MiB/s", per_second(items as f64, self.took)));
        line("retries", &format!("{} attempts beyond the first of an item", self.retries()));
        line(
            "throttles",
            &format!("{} answers that named a limit", sum(self.metrics, "restore_throttled_total", &[])),
        );
        line("doubts", &format!("{} imports without an answer, settled by looking", self.found()));
        line("Graph calls", &self.calls(items as f64));
    }

    fn retries(&self) -> u64 {
        self.last_events().filter_map(|event| event["attempts"].as_u64()).map(|n| n.saturating_sub(1)).sum()
    }

    fn found(&self) -> usize {
        self.last_events().filter(|event| event["evidence"] == "found").count()
    }

    fn last_events(&self) -> impl Iterator<Item = &Value> {
        self.told.values().filter_map(|events| events.last())
    }

    #[expect(clippy::cast_precision_loss, reason = "a handful of requests")]
    fn calls(&self, items: f64) -> String {
        let imports = self.exchange.requests(Operation::Import);
        let sessions = self.exchange.requests(Operation::OpenSession);
        let looks = [Operation::ListItems, Operation::ReadItem, Operation::ListFolders];
        let looks: u64 = looks.into_iter().map(|look| self.exchange.requests(look)).sum();
        let all = imports + sessions + looks;
        let per_item = all as f64 / items;
        format!("{per_item:.2} per item: {imports} imports, {sessions} sessions, {looks} looks")
    }
}

fn line(what: &str, value: &str) {
    println!("  {what:<13}{value}");
}

/// Prints what was checked; tells whether all of it holds.
pub(super) fn checks(checks: &[Check]) -> bool {
    for check in checks {
        println!("  {} {}", if check.problems.is_empty() { "✓" } else { "✗" }, check.what);
        for problem in check.problems.iter().take(5) {
            println!("      {problem}");
        }
        if check.problems.len() > 5 {
            println!("      … and {} more", check.problems.len() - 5);
        }
    }
    let holds = checks.iter().all(|check| check.problems.is_empty());
    println!("\n  {}", if holds { "Everything holds." } else { "Something does not hold." });
    holds
}
