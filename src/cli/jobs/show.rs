//! `jobs show`: a record in words, or as JSON.

use std::{fmt::Write as _, path::PathBuf};

use serde_json::json;

use super::{ledger, read};
use crate::{
    cli::{
        Exit,
        operator::{Trouble, print, shown},
    },
    contract::rfc3339,
    domain::{
        JobId, UnixMillis,
        record::{Standing, State},
    },
};

/// Prints a job's record.
pub(super) async fn show(job: &JobId, json: bool, file: Option<PathBuf>) -> Result<Exit, Trouble> {
    let standing = read(&ledger(file).await?, job).await?.standing;
    if json {
        let shown = json!({
            "record": standing.record,
            "written": rfc3339(standing.written),
            "read": rfc3339(standing.now),
            "leaseLeftMs": u64::try_from(standing.lease_left().as_millis()).unwrap_or(u64::MAX),
        });
        print(&format!("{shown:#}\n"))?;
    } else {
        print(&text(&standing))?;
    }
    Ok(Exit::Done)
}

/// What a state means.
fn meaning(standing: &Standing) -> String {
    let left = standing.lease_left();
    match &standing.record.state {
        State::Importing if !left.is_zero() => {
            format!("importing: a worker's claim holds for {} s at most", left.as_secs().max(1))
        }
        State::Importing => "importing: the claim is over, and nobody knows yet whether the item was imported; a worker will look".into(),
        State::Released => "released: certainly not imported yet; still being worked on".into(),
        State::Imported { .. } => "imported".into(),
        State::Failed { .. } => "failed: certainly not imported, and told so; a replay tries again".into(),
        State::Unknown { .. } => {
            "unknown: nobody can say whether the item was imported, and told so; look into the mailbox, then `jobs resolve`".into()
        }
    }
}

fn text(standing: &Standing) -> String {
    let record = &standing.record;
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        writeln!(text, "{name:<14} {}", shown(value)).expect("writing to a String cannot fail");
    };
    row("job", &record.job_id);
    row("state", &meaning(standing));
    match &record.state {
        State::Imported { item_id, change_key, sha256, bytes, duplicates } => {
            row("item", item_id);
            row("change key", change_key);
            if let Some(bytes) = bytes {
                row("bytes", &bytes.to_string());
            }
            if let Some(sha256) = sha256 {
                row("sha256", sha256);
            }
            for duplicate in duplicates {
                row("also made", duplicate);
            }
        }
        State::Failed { reason, message } | State::Unknown { reason, message } => {
            row("reason", reason);
            row("message", message);
        }
        State::Importing | State::Released => {}
    }
    row("round", &record.replay.to_string());
    row("written", &rfc3339(standing.written));
    if record.begun > 0 {
        row("begun", &format!("{} beginnings that never ended", record.begun));
    }
    if let Some(trail) = &record.trail {
        row("claim", &trail.claim_id);
        row("worker", &trail.worker);
        row("first claim", &rfc3339(UnixMillis(trail.first_claim)));
        row("mailbox", &trail.mailbox);
        for (name, value) in [("tenant", &trail.tenant), ("mode", &trail.mode)] {
            if let Some(value) = value {
                row(name, value);
            }
        }
        row("sends", &trail.sends.to_string());
        if let Some(ended) = trail.lease_ended {
            row("claim ended", &rfc3339(UnixMillis(ended)));
        }
    }
    text
}
