//! `submit`: publishes jobs of a JSONL file, confirmed, and follows them to their end if asked to.
//!
//! Promises: a file with a line that is no job publishes nothing; memory does not grow with the jobs but for one bit each (and
//! sixteen bytes for each result of an earlier run); an event is acked after it is in the results file. Publishing a job again
//! is harmless: its id is its idempotency key.

mod follow;
mod input;
mod lines;
mod progress;
mod publish;
mod results;
mod tally;
mod told;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    follow::Followed,
    input::{Input, Survey},
    progress::Progress,
    results::Results,
    tally::Tally,
    told::{Bits, Finished},
};
use super::{
    Exit,
    operator::{self, Trouble, patiently, print, told},
};
use crate::{
    app::StartError,
    broker::{Broker, Replies},
    config::Operator,
    contract::Parser,
    domain::hex::hex,
};

/// What to submit.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Jobs, one JSON object a line; - for standard input
    #[arg(value_name = "FILE.jsonl")]
    input: Input,
    /// Stay until every job has ended, with a progress bar and a summary
    #[arg(long)]
    wait: bool,
    /// Append each job's result event to this file; a run that was stopped goes on from it
    #[arg(long, value_name = "OUT.jsonl", requires = "wait")]
    results: Option<PathBuf>,
}

/// One run.
struct Run {
    input: Input,
    settings: Operator,
    broker: Broker,
    parser: Parser,
    /// Our name at the broker.
    user: Option<String>,
    /// The reply queue, where events are waited for.
    queue: Option<String>,
    /// The first part of each job's correlation id.
    id: String,
    finished: Finished,
    /// How many jobs there are; unknown while standard input is read.
    jobs: Mutex<Option<u64>>,
    /// The last line that is known: no event is about a later one.
    last: AtomicU64,
    bits: Mutex<Bits>,
    tally: Mutex<Tally>,
    began: Instant,
    /// Begin nothing new.
    stop: CancellationToken,
}

/// A lock that is held for an instant only.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes, follows, and says how it ended.
pub(super) async fn run(args: Args, file: Option<PathBuf>) -> Exit {
    operator::ended(Box::pin(submit(args, file)).await)
}

async fn submit(args: Args, file: Option<PathBuf>) -> Result<Exit, Trouble> {
    let settings = operator::settings(file)?;
    let parser = Parser { default_tenant: settings.default_tenant.clone() };
    let survey = args.input.survey(&parser).await?;
    if let Some(survey) = survey.as_ref().filter(|survey| survey.refused > 0) {
        refuse(survey);
        return Ok(Exit::Failed);
    }
    if args.wait && !settings.broker.results.honour_reply_to {
        let why = "submit --wait needs broker.results.honour_reply_to: true, here and in the workers";
        return Err(StartError::Configuration(why.into()).into());
    }
    let (results, finished) = match &args.results {
        Some(path) => Results::open(path).await.map(|(results, finished)| (Some(results), finished))?,
        None => (None, Finished::default()),
    };
    if let Some(path) = args.results.as_ref().filter(|_| finished.len() > 0) {
        told(&format!("{} jobs have their result in {} and are skipped", finished.len(), path.display()));
    }
    let broker = operator::broker(&settings)?;
    let user = settings.broker.address.user().await?;
    let queue = args.wait.then(|| broker.names().replies(&queue_id(args.results.as_deref())));
    let run = Run {
        id: survey.as_ref().map_or_else(random, |survey| survey.digest.clone()),
        last: AtomicU64::new(survey.as_ref().map_or(0, |survey| survey.last)),
        jobs: Mutex::new(survey.map(|survey| survey.jobs)),
        input: args.input,
        settings,
        parser,
        user,
        queue,
        finished,
        bits: Mutex::default(),
        tally: Mutex::default(),
        began: Instant::now(),
        stop: CancellationToken::new(),
        broker,
    };
    run.to_its_end(results).await
}

fn refuse(survey: &Survey) {
    for reason in &survey.reasons {
        told(reason);
    }
    let shown = u64::try_from(survey.reasons.len()).unwrap_or(u64::MAX);
    if survey.refused > shown {
        told(&format!("… and {} more", survey.refused - shown));
    }
    told(&format!(
        "nothing was published: {} of {} lines are no jobs",
        survey.refused,
        survey.refused + survey.jobs
    ));
}

/// The same for the same results file on the same machine, so that a run that goes on hears what was told meanwhile.
fn queue_id(results: Option<&Path>) -> String {
    let Some(path) = results.and_then(|path| std::path::absolute(path).ok()) else { return random() };
    let mut place = rustix::system::uname().nodename().to_bytes().to_vec();
    place.push(0);
    place.extend_from_slice(path.as_os_str().as_encoded_bytes());
    hex(&digest(&SHA256, &place).as_ref()[..8])
}

fn random() -> String {
    hex(&uuid::Uuid::new_v4().as_bytes()[..8])
}

impl Run {
    async fn to_its_end(&self, results: Option<Results>) -> Result<Exit, Trouble> {
        let patience = self.settings.startup_wait;
        patiently(patience, async || self.broker.connect().await).await?;
        let progress = Progress::new();
        let followed = self.with_signals(results, &progress).await;
        progress.end();
        let followed = followed?;
        self.broker.close().await;
        let tally = held(&self.tally).clone();
        print(&format!("{}\n", tally.summary(self.queue.is_some())))?;
        if followed == Followed::Stopped {
            told(&self.how_to_go_on());
        }
        Ok(match followed {
            Followed::Aborted => Exit::Aborted,
            Followed::ToTheEnd if tally.is_clean() => Exit::Done,
            Followed::ToTheEnd | Followed::Stopped => Exit::Failed,
        })
    }

    fn how_to_go_on(&self) -> String {
        match &self.queue {
            Some(_) => "stopped; with --results the same command goes on where this run ended".into(),
            None => "stopped; a job that is published twice is imported once".into(),
        }
    }

    async fn replies(&self) -> Result<Option<Replies>, Trouble> {
        match &self.queue {
            Some(queue) => {
                let patience = self.settings.startup_wait;
                Ok(Some(patiently(patience, async || self.broker.replies(queue).await).await?))
            }
            None => Ok(None),
        }
    }
}
