//! `restore-sandbox`: the demo, a sandbox to play in, and the installation of what tests need.

mod demo;
mod sample;
mod serve;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use restore_sandbox::rabbitmq::ensure_installed;
use tokio::signal::unix::{SignalKind, signal};

/// Everything that restore-worker talks to, on one machine, without accounts.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Restores a few hundred items through the real binary, and checks each one.
    Demo(demo::Args),
    /// Leaves RabbitMQ, S3 and Exchange running and prints what to export.
    Serve,
    /// Publishes sample jobs to what `serve` started, and shows their events.
    SubmitSample(sample::Args),
    /// Installs what the tests need and the toolchain does not bring: RabbitMQ.
    Install,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(until_stopped(cli.command)),
        Err(error) => complain(&error.into()),
    }
}

/// Runs a command until it or the person before the screen ends it. What it has started ends with it.
async fn until_stopped(command: Command) -> ExitCode {
    let outcome = tokio::select! {
        outcome = run(command) => outcome,
        stopped = stopped() => stopped.map(|()| ExitCode::from(130)),
    };
    outcome.unwrap_or_else(|error| complain(&error))
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo(args) => {
            Ok(if Box::pin(demo::run(&args)).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Serve => Box::pin(serve::run()).await.map(|()| ExitCode::SUCCESS),
        Command::SubmitSample(args) => {
            Ok(if sample::submit(&args).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Install => ensure_installed().await.map(|()| ExitCode::SUCCESS),
    }
}

/// Ctrl-C or SIGTERM.
async fn stopped() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn complain(error: &anyhow::Error) -> ExitCode {
    eprintln!("restore-sandbox: {error:#}");
    ExitCode::FAILURE
}

/// The worker's binary: beside our own.
fn worker_binary() -> Result<PathBuf> {
    let binary = std::env::current_exe().context("cannot tell where this program is")?;
    let binary = binary.with_file_name("restore-worker");
    ensure!(
        binary.is_file(),
        "{} is missing: build it with `cargo build --workspace --bins` (`make demo` does)",
        binary.display()
    );
    Ok(binary)
}

/// A line of a start: what, its particulars, how long it took.
fn started(what: &str, particulars: &str, since: Instant) {
    println!("  {what:<10} {particulars:<58} {:>5.1} s", since.elapsed().as_secs_f64());
}

/// Bytes for people.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit behind the point")]
fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        1_048_576.0.. => format!("{:.1} MiB", bytes / 1_048_576.0),
        1_024.0.. => format!("{:.1} KiB", bytes / 1_024.0),
        _ => format!("{bytes} bytes"),
    }
}

/// Events in this time count as none.
const NO_MORE: Duration = Duration::from_millis(200);
