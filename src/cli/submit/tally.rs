//! What came of the jobs so far, and how it reads.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde::Deserialize;

use crate::domain::Reason;

/// How a job ended, as far as a tally cares. Fits a byte, so that a million of them fit a megabyte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// Succeeded.
    Succeeded,
    /// Failed or unknown, by the place of its reason in [`Reason::ALL`]; past its end: a reason of a later version.
    Failed(u8),
    /// Unknown.
    Unknown,
}

/// What an event must say to be counted. Consumers tolerate what later versions add.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Told {
    pub job_id: String,
    status: String,
    #[serde(default)]
    pub bytes: Option<u64>,
    #[serde(default)]
    error: Option<Why>,
}

#[derive(Debug, Deserialize)]
struct Why {
    code: String,
}

impl Told {
    /// Reads an event; `None`: it is none.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// How the job ended. A status of a later version is nobody's success.
    pub(super) fn end(&self) -> End {
        match (self.status.as_str(), &self.error) {
            ("succeeded", _) => End::Succeeded,
            ("failed", Some(why)) => {
                let place = Reason::ALL.iter().position(|reason| reason.as_str() == why.code);
                End::Failed(place.and_then(|n| u8::try_from(n).ok()).unwrap_or(u8::MAX))
            }
            ("failed", None) => End::Failed(u8::MAX),
            (_, _) => End::Unknown,
        }
    }
}

/// Counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Published by this run.
    pub published: u64,
    /// Skipped, since their result is there.
    pub skipped: u64,
    /// Refused lines.
    pub refused: u64,
    /// FTS bytes that were imported.
    pub bytes: u64,
    succeeded: u64,
    unknown: u64,
    failed: BTreeMap<u8, u64>,
}

impl Tally {
    /// Counts a job's end.
    pub(super) fn count(&mut self, end: End) {
        match end {
            End::Succeeded => self.succeeded += 1,
            End::Unknown => self.unknown += 1,
            End::Failed(reason) => *self.failed.entry(reason).or_default() += 1,
        }
    }

    fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Jobs that ended.
    pub(super) fn ended(&self) -> u64 {
        self.succeeded + self.unknown + self.failures()
    }

    /// Whether every end was a success, and every line a job.
    pub(super) fn is_clean(&self) -> bool {
        self.unknown == 0 && self.refused == 0 && self.failed.is_empty()
    }

    /// The failures by reason, the most frequent first: `3 failed (blob_not_found 2, mailbox_full 1)`; empty if there are none.
    pub(super) fn troubles(&self) -> String {
        let mut text = String::new();
        if !self.failed.is_empty() {
            let mut reasons: Vec<(&u8, &u64)> = self.failed.iter().collect();
            reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), **reason));
            let reasons: Vec<_> =
                reasons.iter().map(|(reason, n)| format!("{} {n}", word(**reason))).collect();
            write!(text, "{} failed ({})", self.failures(), reasons.join(", "))
                .expect("writing to a String cannot fail");
        }
        if self.unknown > 0 {
            let comma = if text.is_empty() { "" } else { ", " };
            write!(text, "{comma}{} unknown", self.unknown).expect("writing to a String cannot fail");
        }
        text
    }

    /// One line on how far things are.
    pub(super) fn line(&self, total: Option<u64>, published: u64, took: Duration) -> String {
        let (ended, rate) = (self.ended(), self.rate(took));
        let of = total.map(|total| format!("/{total}")).unwrap_or_default();
        let mut text =
            format!("{published} published, {ended}{of} ended, {rate:.0}/s, {}", bytes(self.bytes));
        if let Some(left) = total.map(|total| total.saturating_sub(ended)).filter(|_| rate > 0.0) {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let seconds = left as f64 / rate;
            write!(text, ", {seconds:.0} s left").expect("writing to a String cannot fail");
        }
        let troubles = self.troubles();
        if troubles.is_empty() { text } else { format!("{text}, {troubles}") }
    }

    /// Ends per second of this run.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn rate(&self, took: Duration) -> f64 {
        self.ended().saturating_sub(self.skipped) as f64 / took.as_secs_f64().max(0.001)
    }

    /// The last line: what came of everything.
    pub(super) fn summary(&self, waited: bool) -> String {
        let mut text = format!("{} jobs published", self.published);
        if self.skipped > 0 {
            write!(text, ", {} skipped (their result is in the file)", self.skipped)
                .expect("writing to a String cannot fail");
        }
        if self.refused > 0 {
            write!(text, ", {} lines refused", self.refused).expect("writing to a String cannot fail");
        }
        if waited {
            write!(text, "; {} succeeded ({})", self.succeeded, bytes(self.bytes))
                .expect("writing to a String cannot fail");
            let troubles = self.troubles();
            if !troubles.is_empty() {
                write!(text, ", {troubles}").expect("writing to a String cannot fail");
            }
        }
        text
    }
}

fn word(reason: u8) -> &'static str {
    Reason::ALL.get(usize::from(reason)).map_or("other", |reason| reason.as_str())
}

/// Bytes as a person reads them.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "for a person")]
    let mut value = n as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if value < 1_024.0 {
            break;
        }
        (value, unit) = (value / 1_024.0, next);
    }
    if unit == "bytes" { format!("{n} bytes") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(json: &str) -> End {
        Told::read(json.as_bytes()).expect("an event").end()
    }

    #[test]
    fn ends_are_told_by_reason() {
        let mut tally = Tally { published: 5, ..Tally::default() };
        for event in [
            r#"{"jobId":"1","status":"succeeded","novelty":{}}"#,
            r#"{"jobId":"2","status":"failed","error":{"code":"blob_not_found","message":"no"}}"#,
            r#"{"jobId":"3","status":"failed","error":{"code":"blob_not_found"}}"#,
            r#"{"jobId":"4","status":"failed","error":{"code":"of_a_later_version"}}"#,
            r#"{"jobId":"5","status":"unknown","error":{"code":"outcome_unknown"}}"#,
        ] {
            tally.count(end(event));
        }
        assert_eq!(tally.ended(), 5);
        assert!(!tally.is_clean());
        assert_eq!(
            tally.summary(true),
            "5 jobs published; 1 succeeded (0 bytes), 3 failed (blob_not_found 2, other 1), 1 unknown"
        );
        assert_eq!(
            tally.line(Some(10), 5, Duration::from_secs(5)),
            "5 published, 5/10 ended, 1/s, 0 bytes, 5 s left, 3 failed (blob_not_found 2, other 1), 1 unknown"
        );
    }

    #[test]
    fn bytes_for_a_person() {
        for (n, text) in [(0, "0 bytes"), (1_023, "1023 bytes"), (1_536, "1.5 KiB"), (5 << 40, "5.0 TiB")] {
            assert_eq!(bytes(n), text);
        }
    }
}
