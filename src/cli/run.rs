//! `run`: the worker.

use std::path::PathBuf;

use super::Exit;
use crate::{app, config::Sources, lifecycle::Ending, telemetry};

/// Reads the configuration, runs the worker, and says how it ended.
#[expect(clippy::print_stderr, reason = "before logging is set up, a person reads standard error")]
pub(super) async fn run(file: Option<PathBuf>) -> Exit {
    let config = match Sources::of_process(file).read() {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("restore-worker: {problems}");
            return Exit::Configuration;
        }
    };
    let traces = match telemetry::start(&config.log) {
        Ok(traces) => traces,
        Err(error) => {
            eprintln!("restore-worker: logging cannot be set up: {error}");
            return Exit::Configuration;
        }
    };
    let ended = Box::pin(app::run(config)).await;
    if let Some(traces) = traces {
        traces.end();
    }
    match ended {
        Ok(Ending::Drained) => Exit::Done,
        Ok(Ending::GraceOver) => Exit::GraceOver,
        Ok(Ending::Aborted) => Exit::Aborted,
        Err(error) => {
            tracing::error!(%error, "not started");
            eprintln!("restore-worker: {error}");
            error.exit()
        }
    }
}
