//! The check: what lies in the mailboxes against what was to be there, and against what the events say.

use std::process::ExitStatus;

use anyhow::Result;
use restore_sandbox::{
    emitter::Emitter,
    exchange::StoredItem,
    stack::{CLIENT_SECRET, FOLDER, Stack},
    worker::Worker,
};
use serde_json::Value;

use super::{
    Told,
    plan::{Item, Plan},
};

/// Something that is to hold, and where it does not.
pub(super) struct Check {
    pub(super) what: &'static str,
    pub(super) problems: Vec<String>,
}

/// Items, events, and the way to them.
pub(super) fn of_items(plan: &Plan, told: &Told, stack: &Stack) -> Vec<Check> {
    let (mut items, mut events) = (Vec::new(), Vec::new());
    for (n, mailbox) in plan.mailboxes.iter().enumerate() {
        let stored = stack.exchange.items(mailbox);
        let planned: Vec<&Item> = plan.items.iter().filter(|item| item.mailbox == n).collect();
        if stored.len() != planned.len() {
            items.push(format!("{mailbox} holds {} items, not {}", stored.len(), planned.len()));
        }
        for item in planned {
            let same: Vec<&StoredItem> = stored.iter().filter(|s| s.sha256 == item.sha256).collect();
            items.extend(wrong_item(item, &same));
            let told = told.get(&item.job).map_or(&[][..], Vec::as_slice);
            events.extend(wrong_events(item, &same, told));
        }
    }
    vec![
        Check {
            what: "each item is in its mailbox exactly once, with the right bytes (SHA-256)",
            problems: items,
        },
        Check {
            what: "each event says so, with the item's id, change key, size and SHA-256",
            problems: events,
        },
        Check {
            what: "Exchange was sent nothing that it does not take",
            problems: stack.exchange.violations(),
        },
    ]
}

fn wrong_item(item: &Item, same: &[&StoredItem]) -> Option<String> {
    let [stored] = same else { return Some(format!("{} is there {} times", item.job, same.len())) };
    let writes = if item.updates.is_some() { 2 } else { 1 };
    let id_stays =
        item.updates.as_ref().is_none_or(|(id, key)| *id == stored.item_id && *key != stored.change_key);
    let right = id_stays && stored.length == item.size && stored.folder == FOLDER && stored.writes == writes;
    (!right).then(|| format!("{} is there, but not as asked: {stored:?}", item.job))
}

fn wrong_events(item: &Item, same: &[&StoredItem], told: &[Value]) -> Option<String> {
    let stored = same.first()?;
    let right = |event: &Value| {
        event["status"] == "succeeded"
            && event["itemId"] == stored.item_id.as_str()
            && event["changeKey"] == stored.change_key.as_str()
            // An event told again from the ledger may lack these.
            && (event["bytes"].is_null() || event["bytes"] == item.size)
            && (event["sha256"].is_null() || event["sha256"] == item.sha256.as_str())
            && event["duplicates"].is_null()
    };
    match told.iter().find(|event| !right(event)) {
        None if told.is_empty() => Some(format!("{} has no event", item.job)),
        None => None,
        Some(event) => Some(format!("{}: {event}", item.job)),
    }
}

/// Queues.
pub(super) async fn of_queues(emitter: &Emitter) -> Result<Check> {
    let mut problems = Vec::new();
    for queue in ["restore.jobs", "restore.dead-letters", "restore.given-up"] {
        let depth = emitter.depth(queue).await?;
        if depth > 0 {
            problems.push(format!("{queue} holds {depth}"));
        }
    }
    Ok(Check { what: "no job is left behind in a queue", problems })
}

/// What the worker has printed.
pub(super) fn of_output(worker: &Worker, stack: &Stack) -> Check {
    let output = worker.output();
    let secrets = stack.exchange.secrets().into_iter().chain([CLIENT_SECRET.to_owned()]);
    let found = secrets.filter(|secret| output.contains(secret)).count();
    let problems = if found > 0 { vec![format!("{found} secrets are in it")] } else { Vec::new() };
    Check { what: "no token and no secret is in the worker's output", problems }
}

/// Its end.
pub(super) fn of_end(ended: ExitStatus) -> Check {
    let problems = if ended.success() { Vec::new() } else { vec![ended.to_string()] };
    Check { what: "the worker drained and ended with exit code 0", problems }
}
