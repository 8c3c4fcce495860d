//! The limits of one application in one mailbox: bytes and requests in sliding windows, requests at once.
//!
//! 150 MB of request body per 5 minutes, 10,000 requests per 10 minutes, 4 at once (facts, section 4). A body
//! larger than the whole window is let in when the window is empty. A refused request still counts as a request
//! ("all requests accrue against your usage limits"), and so do the bytes of a refused body that the client goes
//! on sending.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

/// The limits, and how a refusal names the time to wait.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of request bodies in [`Limits::bytes_window`].
    pub bytes: u64,
    /// Default 5 minutes.
    pub bytes_window: Duration,
    /// Requests in [`Limits::requests_window`].
    pub requests: u64,
    /// Default 10 minutes.
    pub requests_window: Duration,
    /// Requests at once.
    pub concurrent: usize,
    /// Whether sessions and looks count beside imports.
    pub graph_counts: bool,
    /// How `Retry-After` is written.
    pub retry_after: RetryAfter,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 150_000_000,
            bytes_window: Duration::from_mins(5),
            requests: 10_000,
            requests_window: Duration::from_mins(10),
            concurrent: 4,
            graph_counts: true,
            retry_after: RetryAfter::Seconds,
        }
    }
}

impl Limits {
    /// No limit at all.
    #[must_use]
    pub fn none() -> Self {
        Self { bytes: u64::MAX, requests: u64::MAX, concurrent: usize::MAX, ..Self::default() }
    }
}

/// How `Retry-After` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// In seconds.
    Seconds,
    /// As an HTTP date.
    Date,
    /// Not at all.
    Missing,
}

/// What a mailbox has carried and refused for one application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Bodies' bytes let in.
    pub bytes: u64,
    /// Requests let in.
    pub requests: u64,
    /// Refusals for bytes (`IncomingBytes`).
    pub refused_bytes: u64,
    /// Refusals for the number of requests.
    pub refused_requests: u64,
    /// Refusals for requests at once (`MailboxConcurrency`).
    pub refused_concurrency: u64,
    /// Bytes that came after a refusal.
    pub bytes_after_refusal: u64,
    /// Requests at work now.
    pub at_work: usize,
    /// The most requests at work at one time.
    pub peak_concurrency: usize,
    /// Bytes let in by each bytes-window, one after the other from the first request on.
    pub windows: Vec<u64>,
    /// Milliseconds since the first request.
    pub age_ms: u64,
}

impl Usage {
    /// All refusals.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused_bytes + self.refused_requests + self.refused_concurrency
    }
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) limit: &'static str,
    pub(super) retry_after: Duration,
}

/// A sum over the last `length`, kept in slices so that it costs the same at any rate.
#[derive(Debug)]
struct Window {
    length: Duration,
    slices: VecDeque<(u64, u64)>,
    sum: u64,
}

const SLICES: u128 = 600;

impl Window {
    fn new(length: Duration) -> Self {
        Self { length, slices: VecDeque::new(), sum: 0 }
    }

    fn slice(&self, age: Duration) -> u64 {
        let width = (self.length.as_nanos() / SLICES).max(1);
        u64::try_from(age.as_nanos() / width).unwrap_or(u64::MAX)
    }

    fn forget(&mut self, age: Duration) {
        let now = self.slice(age);
        while let Some(&(slice, amount)) = self.slices.front()
            && u128::from(slice) + SLICES < u128::from(now)
        {
            self.slices.pop_front();
            self.sum -= amount;
        }
    }

    fn add(&mut self, age: Duration, amount: u64) {
        let now = self.slice(age);
        self.sum += amount;
        match self.slices.back_mut() {
            Some((slice, sum)) if *slice == now => *sum += amount,
            _ => self.slices.push_back((now, amount)),
        }
    }

    /// Takes back what was added and did not come.
    fn refund(&mut self, amount: u64) {
        let mut left = amount.min(self.sum);
        self.sum -= left;
        for (_, sum) in self.slices.iter_mut().rev() {
            let part = left.min(*sum);
            *sum -= part;
            left -= part;
        }
    }

    /// How long until `amount` fits below `limit`, if it waits for old slices to go.
    fn room_in(&self, age: Duration, amount: u64, limit: u64) -> Duration {
        let width =
            Duration::from_nanos(u64::try_from((self.length.as_nanos() / SLICES).max(1)).unwrap_or(1));
        let mut sum = self.sum;
        for &(slice, part) in &self.slices {
            sum -= part;
            if sum == 0 || sum.saturating_add(amount) <= limit {
                let gone = width.saturating_mul(u32::try_from(slice + 1).unwrap_or(u32::MAX)) + self.length;
                return gone.saturating_sub(age) + width;
            }
        }
        Duration::ZERO
    }
}

/// The meter of one application in one mailbox.
#[derive(Debug)]
pub(super) struct Meter {
    since: Instant,
    bytes: Window,
    requests: Window,
    usage: Usage,
}

impl Meter {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            since: now,
            bytes: Window::new(limits.bytes_window),
            requests: Window::new(limits.requests_window),
            usage: Usage::default(),
        }
    }

    /// Lets a request in and charges its body, or says which limit is reached.
    pub(super) fn enter(&mut self, limits: &Limits, body: u64, now: Instant) -> Result<(), Refusal> {
        let age = now.saturating_duration_since(self.since);
        self.bytes.forget(age);
        self.requests.forget(age);
        if self.usage.at_work >= limits.concurrent {
            self.usage.refused_concurrency += 1;
            self.requests.add(age, 1);
            return Err(Refusal { limit: "MailboxConcurrency", retry_after: Duration::from_secs(1) });
        }
        if self.requests.sum >= limits.requests {
            self.usage.refused_requests += 1;
            let retry_after = self.requests.room_in(age, 1, limits.requests);
            return Err(Refusal { limit: "Requests", retry_after });
        }
        if body > 0 && self.bytes.sum > 0 && self.bytes.sum.saturating_add(body) > limits.bytes {
            self.usage.refused_bytes += 1;
            self.requests.add(age, 1);
            let retry_after = self.bytes.room_in(age, body, limits.bytes);
            return Err(Refusal { limit: "IncomingBytes", retry_after });
        }
        self.requests.add(age, 1);
        self.bytes.add(age, body);
        self.count(age, body);
        self.usage.requests += 1;
        self.usage.at_work += 1;
        self.usage.peak_concurrency = self.usage.peak_concurrency.max(self.usage.at_work);
        Ok(())
    }

    fn count(&mut self, age: Duration, body: u64) {
        self.usage.bytes += body;
        let index = age.as_nanos() / self.bytes.length.as_nanos().max(1);
        let index = usize::try_from(index).unwrap_or(usize::MAX).min(100_000);
        if self.usage.windows.len() <= index {
            self.usage.windows.resize(index + 1, 0);
        }
        if let Some(window) = self.usage.windows.get_mut(index) {
            *window += body;
        }
    }

    /// Ends a request; what was charged and did not come is given back.
    pub(super) fn leave(&mut self, missing: u64) {
        self.usage.at_work = self.usage.at_work.saturating_sub(1);
        self.usage.bytes = self.usage.bytes.saturating_sub(missing);
        if let Some(window) = self.usage.windows.last_mut() {
            *window = window.saturating_sub(missing);
        }
        self.bytes.refund(missing);
    }

    /// Charges bytes that came though the request was refused.
    pub(super) fn charge_refused(&mut self, bytes: u64, now: Instant) {
        self.usage.bytes_after_refusal += bytes;
        self.bytes.add(now.saturating_duration_since(self.since), bytes);
    }

    pub(super) fn usage(&self, now: Instant) -> Usage {
        let age_ms = u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        Usage { age_ms, ..self.usage.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { bytes: 100, requests: 1000, concurrent: 2, ..Limits::default() }
    }

    #[test]
    fn the_window_slides_and_says_when_there_is_room() {
        let (limits, start) = (limits(), Instant::now());
        let mut meter = Meter::new(&limits, start);
        assert_eq!(meter.enter(&limits, 60, start), Ok(()));
        meter.leave(0);
        let later = start + Duration::from_secs(100);
        assert_eq!(meter.enter(&limits, 40, later), Ok(()));
        meter.leave(0);
        let Err(refusal) = meter.enter(&limits, 60, later) else { return assert_eq!("let in", "refused") };
        assert_eq!(refusal.limit, "IncomingBytes");
        assert!(refusal.retry_after >= Duration::from_secs(200), "{refusal:?}");
        assert!(refusal.retry_after <= Duration::from_secs(203), "{refusal:?}");
        assert_eq!(meter.enter(&limits, 60, later + refusal.retry_after), Ok(()));
    }

    #[test]
    fn a_body_larger_than_the_window_goes_alone() {
        let (limits, start) = (limits(), Instant::now());
        let mut meter = Meter::new(&limits, start);
        assert_eq!(meter.enter(&limits, 500, start), Ok(()));
        meter.leave(0);
        assert!(meter.enter(&limits, 1, start).is_err());
    }

    #[test]
    fn a_cut_body_costs_what_came() {
        let (limits, start) = (limits(), Instant::now());
        let mut meter = Meter::new(&limits, start);
        assert_eq!(meter.enter(&limits, 100, start), Ok(()));
        meter.leave(90);
        assert_eq!(meter.enter(&limits, 90, start), Ok(()));
        assert_eq!(meter.usage(start).bytes, 100);
    }

    #[test]
    fn places_are_counted() {
        let (limits, start) = (limits(), Instant::now());
        let mut meter = Meter::new(&limits, start);
        assert_eq!(meter.enter(&limits, 1, start), Ok(()));
        assert_eq!(meter.enter(&limits, 1, start), Ok(()));
        assert_eq!(meter.enter(&limits, 1, start).map_err(|r| r.limit), Err("MailboxConcurrency"));
        meter.leave(0);
        assert_eq!(meter.enter(&limits, 1, start), Ok(()));
        assert_eq!(meter.usage(start).peak_concurrency, 2);
    }
}
