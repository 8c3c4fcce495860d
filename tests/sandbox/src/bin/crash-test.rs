//! `crash-test`: the crash campaign. Exit code 1 if anything was lost, doubled in silence or falsely told.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use restore_sandbox::campaign;

/// Kills, freezes and cuts off real workers while they restore, and checks what came of every job.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    campaign: campaign::Args,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("crash-test: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let binary = std::env::current_exe().context("cannot tell where this program is")?;
    let binary = binary.with_file_name("restore-worker");
    ensure!(binary.is_file(), "restore-worker is not built: `make crash-test` builds it");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            outcome = Box::pin(campaign::run(&cli.campaign, &binary)) => outcome,
            stopped = tokio::signal::ctrl_c() => stopped.map(|()| false).map_err(Into::into),
        }
    })
}
