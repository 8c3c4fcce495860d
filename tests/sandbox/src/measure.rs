//! What every program of measurement needs: a runtime, an end that tells, and the worker that was built beside it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};

/// Runs a measurement to its end; an error is told and ends the process with 2.
#[must_use]
pub fn measured(program: &str, measurement: impl Future<Output = Result<()>>) -> ExitCode {
    let run = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(measurement)
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// A binary that was built beside this one.
///
/// # Errors
/// If it is not there.
pub fn beside(name: &str) -> Result<PathBuf> {
    let binary = std::env::current_exe().context("cannot tell where this program is")?.with_file_name(name);
    ensure!(binary.is_file(), "{name} is not built beside this program: `make bench…` builds it");
    Ok(binary)
}
