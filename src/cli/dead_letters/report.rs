//! What is printed: lines for a person, or one JSON object, either as the letters come.

use std::{collections::BTreeMap, io};

use serde::Serialize;

use super::facts::Facts;
use crate::{
    cli::operator::{print, shown},
    domain::UnixMillis,
};

/// Prints letters and counts them by reason.
pub(super) struct Report {
    json: bool,
    printed: u64,
    /// Letters that were looked at.
    pub seen: u64,
    /// Of these the ones that are meant.
    pub matched: u64,
    /// Of these the ones that were left, since the outcome is unknown.
    pub kept: u64,
    reasons: BTreeMap<String, u64>,
}

/// Reasons that are counted one by one: the codes are fewer, and anybody can write a letter.
const MOST_REASONS: usize = 100;

#[derive(Serialize)]
struct Totals<'a> {
    seen: u64,
    matched: u64,
    done: u64,
    kept: u64,
    reasons: &'a BTreeMap<String, u64>,
}

impl Report {
    pub(super) fn new(json: bool) -> io::Result<Self> {
        if json {
            print("{\"letters\":[")?;
        }
        Ok(Self { json, printed: 0, seen: 0, matched: 0, kept: 0, reasons: BTreeMap::new() })
    }

    /// Counts a letter that is meant.
    pub(super) fn count(&mut self, facts: &Facts) {
        self.matched += 1;
        let known = self.reasons.contains_key(facts.reason()) || self.reasons.len() < MOST_REASONS;
        let reason = if known { facts.reason() } else { "(others)" };
        *self.reasons.entry(reason.to_owned()).or_default() += 1;
    }

    /// Prints a letter.
    pub(super) fn letter(&mut self, facts: &Facts, now: UnixMillis) -> io::Result<()> {
        self.printed += 1;
        match (self.json, self.printed) {
            (true, n) => {
                let comma = if n == 1 { "" } else { "," };
                print(&format!("{comma}\n  {}", serde_json::to_string(facts)?))
            }
            (false, 1) => print(&format!("{}\n{}\n", Facts::heading(), facts.line(now))),
            (false, _) => print(&format!("{}\n", facts.line(now))),
        }
    }

    /// Prints the counts. `did`: what was done with the letters that are meant, and how many that was.
    pub(super) fn end(&self, did: &str, done: u64) -> io::Result<()> {
        if self.json {
            let (seen, matched, kept) = (self.seen, self.matched, self.kept);
            let totals = Totals { seen, matched, done, kept, reasons: &self.reasons };
            let totals = serde_json::to_string(&totals)?;
            return print(&format!("\n],{}\n", totals.trim_start_matches('{')));
        }
        let reasons: Vec<_> =
            self.reasons.iter().map(|(reason, n)| format!("{} {n}", shown(reason))).collect();
        let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
        print(&format!("{did}{reasons}; {} letters looked at\n", self.seen))
    }
}
