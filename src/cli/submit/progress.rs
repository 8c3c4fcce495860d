//! How far things are: a bar where a person looks at a terminal, a line now and then where a log is written.

use std::{cell::Cell, io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::tally::{Tally, bytes};
use crate::cli::operator::told;

/// How often a bar is drawn.
pub(super) const EVERY: Duration = Duration::from_millis(250);
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows progress on standard error.
pub(super) enum Progress {
    /// On a terminal.
    Bar(ProgressBar),
    /// Elsewhere.
    Lines {
        /// When the last line was written.
        last: Cell<Instant>,
    },
}

impl Progress {
    pub(super) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: Cell::new(Instant::now()) };
        }
        let style = ProgressStyle::with_template(
            "{bar:30} {pos}/{len} {percent}% {elapsed_precise} ETA {eta_precise}\n{wide_msg}",
        );
        let bar = ProgressBar::new(0);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self::Bar(bar)
    }

    /// Draws, if it is time. `done` of `total` is the bar: ends where they are waited for, else what is published.
    pub(super) fn show(&self, tally: &Tally, published: u64, done: u64, total: Option<u64>, took: Duration) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(total.unwrap_or(published + tally.skipped).max(1));
                bar.set_position(done);
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                let rate = tally.bytes as f64 / took.as_secs_f64().max(0.001);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "an estimate, never negative"
                )]
                let rate = bytes(rate as u64);
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                let jobs = done.saturating_sub(tally.skipped) as f64 / took.as_secs_f64().max(0.001);
                let (bytes, troubles) = (bytes(tally.bytes), tally.troubles());
                let comma = if troubles.is_empty() { "" } else { ", " };
                bar.set_message(format!("{jobs:.0} jobs/s, {bytes} ({rate}/s){comma}{troubles}"));
            }
            Self::Lines { last } if last.get().elapsed() >= LINE_EVERY => {
                last.set(Instant::now());
                told(&tally.line(total, published, took));
            }
            Self::Lines { .. } => {}
        }
    }

    /// A line for a person, above the bar.
    pub(super) fn say(&self, text: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| told(text)),
            Self::Lines { .. } => told(text),
        }
    }

    /// Nothing more is shown: the summary says it all.
    pub(super) fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
