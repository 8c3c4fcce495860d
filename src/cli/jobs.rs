//! `jobs`: what the ledger knows of a job, and a person's word on one whose outcome is unknown.

mod resolve;
mod show;

use std::{path::PathBuf, sync::Arc};

use super::{
    Exit,
    operator::{self, Trouble},
};
use crate::{
    app::StartError,
    config::Sources,
    domain::{ChangeKey, Imported, ItemId, JobId, RestoreError},
    ledger::{Held, Ledger},
    metrics::Metrics,
};

/// What to do with a job's record.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Command {
    /// What the ledger knows of a job
    Show {
        /// The job's id
        #[arg(value_name = "JOB_ID", value_parser = job_id)]
        job: JobId,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Ends a job whose outcome is unknown by what a person found in the mailbox, and tells it
    ///
    /// Only an unknown record can be ended, by a conditional write over exactly what was read. Its event goes where the job's
    /// events go; the dead letter is removed if the item was imported. A job that was not imported can then be sent back with
    /// `dead-letters replay --job JOB_ID --force`.
    #[command(group(clap::ArgGroup::new("found").required(true).args(["imported", "not_imported"])))]
    Resolve {
        /// The job's id
        #[arg(value_name = "JOB_ID", value_parser = job_id)]
        job: JobId,
        /// The item is in the mailbox; its id and change key
        #[arg(long, value_name = "ITEMID,CHANGEKEY", value_parser = imported)]
        imported: Option<Imported>,
        /// The item is not in the mailbox
        #[arg(long)]
        not_imported: bool,
    },
}

fn job_id(text: &str) -> Result<JobId, String> {
    JobId::parse(text).map_err(|invalid| invalid.to_string())
}

fn imported(text: &str) -> Result<Imported, String> {
    let (item_id, change_key) = text.split_once(',').ok_or("must be ITEMID,CHANGEKEY")?;
    let wrong = |invalid: crate::domain::Invalid| invalid.to_string();
    Ok(Imported {
        item_id: ItemId::parse(item_id).map_err(wrong)?,
        change_key: ChangeKey::parse(change_key).map_err(wrong)?,
    })
}

/// Shows or resolves, and says how it ended.
pub(super) async fn run(command: Command, file: Option<PathBuf>) -> Exit {
    operator::ended(match command {
        Command::Show { job, json } => Box::pin(show::show(&job, json, file)).await,
        Command::Resolve { job, imported, not_imported: _ } => {
            Box::pin(resolve::resolve(&job, imported, file)).await
        }
    })
}

async fn ledger(file: Option<PathBuf>) -> Result<Ledger, StartError> {
    let settings = Sources::of_process(file)
        .ledger()
        .map_err(|problems| StartError::Configuration(problems.to_string()))?;
    let none = || StartError::Configuration("ledger.store is none: no job has a record".into());
    let metrics = Metrics::register(env!("CARGO_PKG_VERSION"), "")
        .map_err(|error| StartError::Internal(error.to_string()))?;
    Ledger::connect(settings.ok_or_else(none)?, Arc::new(metrics)).await.map_err(StartError::Configuration)
}

async fn read(ledger: &Ledger, job: &JobId) -> Result<Held, Trouble> {
    let held = ledger.read(job).await.map_err(|error: RestoreError| StartError::from(error))?;
    let none = || {
        anyhow::anyhow!(
            "the ledger has no record of job {job}: no worker has begun it, or the record was removed"
        )
    };
    Ok(held.ok_or_else(none)?)
}
