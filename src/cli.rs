//! The command line: one file for each command.

mod check;
mod contract;
mod dead_letters;
pub mod inspect;
mod jobs;
mod operator;
mod run;
mod submit;

use std::{path::PathBuf, sync::Arc};

use clap::{Parser, Subcommand};

use crate::{
    app::StartError,
    blob_store::BlobStore,
    config::{Problems, Sources},
    metrics::Metrics,
};

/// Puts Exchange mailbox items back: consumes restore jobs from RabbitMQ, fetches FTS blobs from S3 and imports them
/// through Microsoft Graph.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
pub struct Cli {
    /// YAML file; the environment (`RESTORE_WORKER__SECTION__KEY`) wins over it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The worker: consumes jobs until it is told to end.
    Run,
    /// Whether configuration, broker, storage, ledger, identity and Graph are as a worker needs them. Changes nothing.
    Check(check::Args),
    /// Publishes restore jobs from a JSONL file, confirmed by the broker, and follows them to their end if asked to.
    ///
    /// Every line is checked as a worker would check it. A file with a line that is no job publishes nothing; of standard input
    /// each good line is published and the others are told. A job that is published twice is imported once, so a run that was
    /// stopped may simply be started again: with --results it skips the jobs whose result is in that file.
    Submit(submit::Args),
    /// Jobs that ended as failed or unknown: lists them, sends them back, removes them.
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// What the ledger knows of a job; ends one whose outcome is unknown.
    #[command(subcommand)]
    Jobs(jobs::Command),
    /// What other programs rely on, for machines: schemas, an AsyncAPI document, RabbitMQ definitions.
    #[command(subcommand)]
    Contract(contract::Command),
    /// What an FTS blob is: framing, class, subject, dates, sizes, recipients, attachments, findings.
    Inspect(inspect::Args),
}

/// How the program ends; the numbers are the contract's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Done,
    /// Something failed.
    Failed,
    /// A neighbour is unavailable.
    Unavailable,
    /// A fault of this program or machine.
    Internal,
    /// The drain did not finish in the grace period.
    GraceOver,
    /// Credentials are refused.
    Refused,
    /// The configuration is wrong.
    Configuration,
    /// Stopped by a second signal.
    Aborted,
}

impl Exit {
    /// The exit code. 2 (usage) is the argument parser's own.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::GraceOver => 75,
            Self::Refused => 77,
            Self::Configuration => 78,
            Self::Aborted => 130,
        }
    }
}

impl StartError {
    /// The exit that says so.
    const fn exit(&self) -> Exit {
        match self {
            Self::Configuration(_) => Exit::Configuration,
            Self::Refused(_) => Exit::Refused,
            Self::Unavailable(_) => Exit::Unavailable,
            Self::Internal(_) => Exit::Internal,
        }
    }
}

impl Cli {
    /// Runs the command.
    pub async fn run(self) -> Exit {
        match self.command {
            Command::Run => Box::pin(run::run(self.config)).await,
            Command::Check(args) => Box::pin(check::run(args, self.config)).await,
            Command::Submit(args) => Box::pin(submit::run(args, self.config)).await,
            Command::DeadLetters(command) => Box::pin(dead_letters::run(command, self.config)).await,
            Command::Jobs(command) => Box::pin(jobs::run(command, self.config)).await,
            Command::Contract(command) => contract::run(command, self.config).await,
            Command::Inspect(args) => inspect(args, self.config).await,
        }
    }
}

#[expect(clippy::print_stderr, reason = "a command's own words to a person")]
async fn inspect(args: inspect::Args, file: Option<PathBuf>) -> Exit {
    let store = || async {
        let settings = Sources::of_process(file).storage()?;
        let metrics = Metrics::register(env!("CARGO_PKG_VERSION"), "")?;
        BlobStore::connect(settings, Arc::new(metrics)).await.map_err(anyhow::Error::msg)
    };
    match inspect::run(&args, store).await {
        Ok(()) => Exit::Done,
        Err(error) => {
            eprintln!("restore-worker: {error:#}");
            if error.is::<Problems>() { Exit::Configuration } else { Exit::Failed }
        }
    }
}
