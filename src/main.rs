//! Parses the command line, runs one command, chooses the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use restore_worker::cli::{Cli, Exit};

/// Most of what a small item costs are small pieces of memory for its requests: a fifth of the CPU with the C library's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(cli.run());
            // What still runs is cut off: the drain has said what that means.
            runtime.shutdown_background();
            exit
        }
        Err(_) => Exit::Internal,
    };
    ExitCode::from(exit.code())
}
