//! A strict model of Exchange's limiter. It shares nothing with the lanes: it keeps every request of the last window.

use std::collections::VecDeque;

/// Answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Imported,
    /// With Retry-After in milliseconds, if it says one.
    Refused(Option<u64>),
}

/// What Exchange knows of one application on one mailbox.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    log: VecDeque<(u64, u64)>,
    log_bytes: u64,
    requests: VecDeque<u64>,
    at_once: u32,
    pub(crate) imported: u64,
    pub(crate) imported_requests: u64,
    pub(crate) refused: u64,
    /// Bytes that somebody else with the same application spends per second: a mailbox that is always full.
    pub(crate) hostile: bool,
}

pub(crate) const WINDOW: u64 = 300_000;
pub(crate) const WINDOW_BYTES: u64 = 150_000_000;
pub(crate) const REQUEST_WINDOW: u64 = 600_000;
pub(crate) const WINDOW_REQUESTS: usize = 10_000;

impl Mailbox {
    /// A request begins: places are counted at once.
    pub(crate) fn begin(&mut self) -> Answer {
        self.at_once += 1;
        if self.at_once > 4 { Answer::Refused(None) } else { Answer::Imported }
    }

    /// The body has been received: bytes and requests are counted, those of a refused request too.
    pub(crate) fn count(&mut self, now: u64, bytes: u64) -> Answer {
        while self.log.front().is_some_and(|(at, _)| at + WINDOW <= now) {
            self.log_bytes -= self.log.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        while self.requests.front().is_some_and(|at| at + REQUEST_WINDOW <= now) {
            self.requests.pop_front();
        }
        let full = self.log_bytes > 0 && self.log_bytes + bytes > WINDOW_BYTES;
        let many = self.requests.len() >= WINDOW_REQUESTS;
        let wait = self.log.front().map(|(at, _)| (at + WINDOW - now).div_ceil(1_000) * 1_000);
        self.requests.push_back(now);
        self.log.push_back((now, bytes));
        self.log_bytes += bytes;
        if self.hostile {
            Answer::Refused(Some(60_000))
        } else if full || many {
            Answer::Refused(wait)
        } else {
            Answer::Imported
        }
    }

    /// The answer is given.
    pub(crate) fn end(&mut self, answer: Answer, bytes: u64) {
        self.at_once -= 1;
        match answer {
            Answer::Imported => {
                self.imported += bytes;
                self.imported_requests += 1;
            }
            Answer::Refused(_) => self.refused += 1,
        }
    }
}
