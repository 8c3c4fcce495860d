//! `dead-letters`: the jobs that ended as failed or unknown, as an operator goes through them.
//!
//! Promises: touches only letters that lay there at the start; a letter leaves the queue after what follows from it is confirmed,
//! so that an interruption leaves two copies at worst, which the ledger makes harmless. What is not meant keeps its place, as far
//! as the broker allows (quorum queues count each look as a return).

mod facts;
mod filter;
mod report;

use std::{fmt::Write as _, path::PathBuf};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde_json::Value;

use self::{facts::Facts, filter::Filter, report::Report};
use super::{
    Exit,
    operator::{self, Signals, Trouble, patiently, print, shown, told},
};
use crate::{
    app::StartError,
    broker::{Broker, Letter, Letters, PublishError},
    domain::UnixMillis,
};

/// What to do with dead letters.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Command {
    /// The letters, a line each, and how many there are by reason
    List {
        #[command(flatten)]
        filter: Filter,
        /// Print at most so many; all are counted
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Everything about one job's letters, body included
    Show {
        /// The job's id
        #[arg(value_name = "JOB_ID")]
        job: String,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Sends jobs back to the workers, for a further round
    ///
    /// A job that was imported after all is told as succeeded, not imported again. Letters whose outcome is unknown are left
    /// where they are, since a further round tells them as unknown again: end them with `jobs resolve`, or use --force.
    Replay {
        #[command(flatten)]
        filter: Filter,
        /// Send back at most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Also jobs whose outcome is unknown: each may be imported once more, and its item may then be there twice
        #[arg(long)]
        force: bool,
        /// Only show what would be sent back
        #[arg(long)]
        dry_run: bool,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Removes letters for good; the ledger still knows how the jobs ended
    #[command(group(clap::ArgGroup::new("which").required(true).multiple(true)
        .args(["reason", "mailbox", "tenant", "restore_id", "job", "older_than", "newer_than", "all"])))]
    Drop {
        #[command(flatten)]
        filter: Filter,
        /// Every letter
        #[arg(long)]
        all: bool,
        /// Remove at most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Only show what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

/// What becomes of the letters that are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Show,
    Replay { force: bool },
    Drop,
}

/// One way through the queue.
struct Round {
    filter: Filter,
    action: Action,
    dry_run: bool,
    limit: u64,
    json: bool,
    now: UnixMillis,
}

/// Goes through the letters, and says how it ended.
pub(super) async fn run(command: Command, file: Option<PathBuf>) -> Exit {
    operator::ended(Box::pin(go(command, file)).await)
}

async fn go(command: Command, file: Option<PathBuf>) -> Result<Exit, Trouble> {
    let settings = operator::settings(file)?;
    let broker = operator::broker(&settings)?;
    let letters = patiently(settings.startup_wait, async || broker.letters().await).await?;
    let now = operator::now();
    let round = |filter, action, dry_run, limit: Option<u64>, json| Round {
        filter,
        action,
        dry_run,
        limit: limit.unwrap_or(u64::MAX),
        json,
        now,
    };
    let exit = match command {
        Command::Show { job, json } => show(&job, json, letters, now).await?,
        Command::List { filter, limit, json } => {
            round(filter, Action::Show, true, limit, json).go(&broker, letters).await?
        }
        Command::Replay { filter, limit, force, dry_run, json } => {
            round(filter, Action::Replay { force }, dry_run, limit, json).go(&broker, letters).await?
        }
        Command::Drop { filter, limit, dry_run, json, all: _ } => {
            round(filter, Action::Drop, dry_run, limit, json).go(&broker, letters).await?
        }
    };
    broker.close().await;
    Ok(exit)
}

impl Round {
    async fn go(&self, broker: &Broker, mut letters: Letters) -> Result<Exit, Trouble> {
        let mut report = Report::new(self.json)?;
        let mut done = 0;
        let went = self.through(broker, &mut letters, &mut report, &mut done).await;
        letters.end().await;
        report.end(&self.did(&report, done), done)?;
        if report.kept > 0 {
            told(&format!(
                "{} letters were left: their outcome is unknown (jobs resolve ends one; --force imports once more)",
                report.kept
            ));
        }
        Ok(if went? { Exit::Done } else { Exit::Failed })
    }

    /// Looks at every letter of the start; whether nothing stopped it.
    async fn through(
        &self,
        broker: &Broker,
        letters: &mut Letters,
        report: &mut Report,
        done: &mut u64,
    ) -> Result<bool, Trouble> {
        let mut signals = Signals::listen()?;
        let mut on_their_way = FuturesUnordered::new();
        let mut left = self.limit;
        while left > 0 || self.action == Action::Show {
            if signals.came() {
                break;
            }
            let Some(letter) = letters.next().await? else { break };
            report.seen += 1;
            let facts = Facts::of(&letter, self.now);
            if !self.filter.matches(&facts, self.now) {
                continue;
            }
            if facts.is_unknown() && self.action == (Action::Replay { force: false }) {
                report.kept += 1;
                continue;
            }
            report.count(&facts);
            if left > 0 && (self.dry_run || self.json) {
                report.letter(&facts, self.now)?;
            }
            left = left.saturating_sub(1);
            if !self.dry_run {
                on_their_way.push(self.act(broker, letter, facts));
            }
            while on_their_way.len() >= WINDOW
                && let Some(acted) = on_their_way.next().await
            {
                acted?;
                *done += 1;
            }
        }
        while let Some(acted) = on_their_way.next().await {
            acted?;
            *done += 1;
        }
        Ok(!signals.came())
    }

    async fn act(&self, broker: &Broker, letter: Letter, facts: Facts) -> Result<(), StartError> {
        if let Action::Replay { force } = self.action {
            let force = facts.claim.filter(|_| force);
            let journey = letter.message.journey(self.now).replayed(self.now, force);
            broker.publisher().replay(&letter.message, &journey).await.map_err(|error| match error {
                PublishError::Unroutable(_) | PublishError::Refused => {
                    StartError::Configuration(format!("a job cannot be sent back: {error}"))
                }
                PublishError::Unconfirmed(_) => {
                    StartError::Unavailable(format!("a job cannot be sent back: {error}"))
                }
            })?;
        }
        Ok(letter.remove().await?)
    }

    fn did(&self, report: &Report, done: u64) -> String {
        let matched = report.matched;
        match (self.action, self.dry_run) {
            (Action::Show, _) => format!("{matched} letters"),
            (Action::Replay { .. }, true) => format!("{matched} jobs would be sent back"),
            (Action::Replay { .. }, false) => format!("{done} jobs sent back"),
            (Action::Drop, true) => format!("{matched} letters would be removed"),
            (Action::Drop, false) => format!("{done} letters removed"),
        }
    }
}

/// Letters on their way at once.
const WINDOW: usize = 16;

async fn show(job: &str, json: bool, mut letters: Letters, now: UnixMillis) -> Result<Exit, Trouble> {
    let filter = Filter::of_job(job);
    let mut found = 0;
    let mut shown_letters = Vec::new();
    while let Some(letter) = letters.next().await? {
        let facts = Facts::of(&letter, now);
        if !filter.matches(&facts, now) {
            continue;
        }
        found += 1;
        if json {
            shown_letters.push(whole(&letter, &facts)?);
        } else {
            print(&text(&letter, &facts))?;
        }
    }
    letters.end().await;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&shown_letters).map_err(anyhow::Error::from)?))?;
    } else if found == 0 {
        told(&format!("no dead letter of job {} lies here", shown(job)));
    }
    Ok(if found > 0 { Exit::Done } else { Exit::Failed })
}

/// A letter with its body: as JSON where it is some, else as text.
fn whole(letter: &Letter, facts: &Facts) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(facts)?;
    let body = letter.message.body();
    value["body"] = serde_json::from_slice(body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()));
    Ok(value)
}

fn text(letter: &Letter, facts: &Facts) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            writeln!(text, "{name:<15} {}", shown(value)).expect("writing to a String cannot fail");
        }
    };
    row("job", facts.job_id.as_deref());
    row("reason", facts.reason.as_deref());
    row("detail", facts.detail.as_deref());
    row("round", Some(&facts.replay.to_string()));
    row("attempts", Some(&facts.attempts.to_string()));
    row("restore", facts.restore_id.as_deref());
    row("tenant", facts.tenant_id.as_deref());
    row("mailbox", facts.mailbox_id.as_deref());
    row("submitted by", facts.submitted_by.as_deref());
    row("first received", facts.first_received.as_deref());
    row("claim", facts.claim.as_deref());
    row("reply to", letter.message.reply_to());
    if let Err(malformed) = &letter.job {
        row("no job", Some(&malformed.why));
    }
    let body = serde_json::from_slice::<Value>(letter.message.body())
        .and_then(|body| serde_json::to_string_pretty(&body))
        .unwrap_or_else(|_| shown(&String::from_utf8_lossy(letter.message.body())));
    text.push_str(&body);
    text.push_str("\n\n");
    text
}
