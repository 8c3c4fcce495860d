//! A sliding window: what a mailbox has spent of one quota, bytes or requests.
//!
//! Exchange counts a request somewhere between its first byte and its answer, and nobody tells when. So an amount counts
//! as spent from the start of the request until a whole period after its end: however Exchange counts, its window is never
//! exceeded. Bounded: ends are rounded up to a grain of the period, so a window holds at most [`GRAINS`] + 2 entries. One grain
//! more is waited, because Exchange's own window may be cut into slices, too.

use std::collections::VecDeque;

/// A moment: whole milliseconds since some origin of the caller's, never going back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// Later by `span` milliseconds.
    #[must_use]
    pub const fn plus(self, span: u64) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// Milliseconds since `earlier`; zero when it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Into how many grains a period is cut: the memory of a window, and what of the quota is lost (a grain and a half).
pub const GRAINS: u64 = 512;

/// So much in any period of so many milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes or requests, at least 1.
    pub amount: u64,
    /// Milliseconds, at least 1.
    pub every: u64,
}

impl Quota {
    /// When what ended `now` is forgotten by Exchange for certain.
    const fn lapse(&self, now: Millis) -> Millis {
        // One more, because the moment was cut to whole milliseconds.
        let exact = now.0.saturating_add(self.every).saturating_add(1);
        let grain = self.every / GRAINS;
        if grain < 2 {
            Millis(exact)
        } else {
            Millis(exact.div_ceil(grain).saturating_add(1).saturating_mul(grain))
        }
    }

    /// Milliseconds in which the quota, at `limit` of its amount, grows by `amount`.
    #[must_use]
    pub fn time_for(&self, amount: u64, limit: u64) -> u64 {
        let time = u128::from(amount) * u128::from(self.every) / u128::from(limit.max(1));
        u64::try_from(time).unwrap_or(u64::MAX)
    }
}

/// What is spent, at work and ended.
#[derive(Clone, Debug, Default)]
pub struct Window {
    at_work: u64,
    ended_sum: u64,
    ended: VecDeque<(Millis, u64)>,
}

impl Window {
    /// A request starts.
    pub fn begin(&mut self, amount: u64) {
        self.at_work = self.at_work.saturating_add(amount);
    }

    /// A request at work is larger or smaller than was thought.
    pub fn correct(&mut self, from: u64, to: u64) {
        self.at_work = self.at_work.saturating_sub(from).saturating_add(to);
    }

    /// A request at work has ended.
    pub fn end(&mut self, amount: u64, now: Millis, quota: &Quota) {
        self.at_work = self.at_work.saturating_sub(amount);
        if amount == 0 {
            return;
        }
        let lapse = quota.lapse(now);
        self.ended_sum = self.ended_sum.saturating_add(amount);
        match self.ended.back_mut() {
            Some(last) if last.0 >= lapse => last.1 = last.1.saturating_add(amount),
            Some(_) | None => self.ended.push_back((lapse, amount)),
        }
    }

    /// Forgets what Exchange has forgotten.
    pub fn expire(&mut self, now: Millis) {
        while let Some((_, amount)) = self.ended.pop_front_if(|(lapse, _)| *lapse <= now) {
            self.ended_sum = self.ended_sum.saturating_sub(amount);
        }
        if self.ended.is_empty() && self.ended.capacity() > 8 {
            self.ended = VecDeque::new();
        }
    }

    /// Spent now.
    #[must_use]
    pub const fn spent(&self) -> u64 {
        self.at_work.saturating_add(self.ended_sum)
    }

    /// What is left of `limit`.
    #[must_use]
    pub const fn room(&self, limit: u64) -> u64 {
        limit.saturating_sub(self.spent())
    }

    /// Whether `amount` fits; more than the whole limit fits into an empty window.
    #[must_use]
    pub const fn fits(&self, amount: u64, limit: u64) -> bool {
        self.spent() == 0 || amount <= self.room(limit)
    }

    /// When `amount` will fit if nothing changes; `None`: not before a request at work has ended.
    #[must_use]
    pub fn fits_at(&self, amount: u64, limit: u64) -> Option<Millis> {
        let alone = amount > limit;
        let must_go = if alone { self.spent() } else { amount.saturating_sub(self.room(limit)) };
        let mut gone = 0_u64;
        for (lapse, ended) in &self.ended {
            gone = gone.saturating_add(*ended);
            if gone >= must_go {
                return Some(*lapse);
            }
        }
        None
    }

    /// When the last of what has ended is forgotten.
    #[must_use]
    pub fn empty_at(&self) -> Option<Millis> {
        self.ended.back().map(|(lapse, _)| *lapse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { amount: 100, every: 1_000 };

    #[test]
    fn an_amount_counts_from_its_start_until_a_period_after_its_end() {
        let mut window = Window::default();
        window.begin(60);
        assert!(!window.fits(50, 100));
        assert_eq!(window.fits_at(50, 100), None);
        window.end(60, Millis(500), &QUOTA);
        assert_eq!(window.fits_at(50, 100), Some(Millis(1_501)));
        window.expire(Millis(1_500));
        assert!(!window.fits(50, 100));
        window.expire(Millis(1_501));
        assert!(window.fits(50, 100));
    }

    #[test]
    fn more_than_the_window_goes_alone() {
        let mut window = Window::default();
        assert!(window.fits(500, 100));
        window.begin(1);
        assert!(!window.fits(500, 100));
        window.end(1, Millis(10), &QUOTA);
        assert_eq!(window.fits_at(500, 100), Some(Millis(1_011)));
    }

    #[test]
    fn a_window_is_bounded_however_many_requests_end() {
        let quota = Quota { amount: 1, every: 300_000 };
        let mut window = Window::default();
        for now in 0..1_000_000 {
            window.begin(1);
            window.end(1, Millis(now), &quota);
            window.expire(Millis(now));
        }
        assert!(u64::try_from(window.ended.len()).expect("small") <= GRAINS + 3);
    }
}
