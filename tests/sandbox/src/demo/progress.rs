//! How far it is: a bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::per_second;
use crate::size;

/// Between two plain lines.
const EVERY: Duration = Duration::from_secs(2);

/// The line.
pub(super) struct Progress {
    bar: ProgressBar,
    since: Instant,
    last: Instant,
    bytes: u64,
    all_bytes: u64,
}

impl Progress {
    /// Shows nothing done of `items` with `bytes` in all.
    pub(super) fn start(items: u64, all_bytes: u64) -> Self {
        println!();
        let style = ProgressStyle::with_template("  {bar:32} {pos}/{len} items   {msg}");
        let bar = ProgressBar::new(items);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ "));
        let now = Instant::now();
        Self { bar, since: now, last: now, bytes: 0, all_bytes }
    }

    /// One more item.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.bar.inc(1);
        self.bar.set_message(self.particulars());
        let done = Some(self.bar.position()) == self.bar.length();
        if self.bar.is_hidden() && (done || self.last.elapsed() >= EVERY) {
            self.last = Instant::now();
            let (at, of) = (self.bar.position(), self.bar.length().unwrap_or(0));
            println!("  {at:>4}/{of} items   {}", self.particulars());
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "shown"
    )]
    fn particulars(&self) -> String {
        let rate = per_second(self.bytes as f64, self.since.elapsed()) as u64;
        format!("{} of {}   {}/s", size(self.bytes), size(self.all_bytes), size(rate))
    }

    /// Leaves the full bar where it is.
    pub(super) fn finish(self) {
        self.bar.abandon();
        println!();
    }
}
