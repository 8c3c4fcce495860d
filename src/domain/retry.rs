//! How long to wait: exponential backoff with full jitter, checked once and infallible afterwards.

use std::time::Duration;

/// `base × 2^n`, capped at `max`, with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
}

impl Default for Backoff {
    /// The configuration's defaults: 5 s to 10 min.
    fn default() -> Self {
        Self { base: Duration::from_secs(5), max: Duration::from_mins(10) }
    }
}

impl Backoff {
    /// A backoff between `base` and `max`.
    ///
    /// # Errors
    /// A sentence, when `base` is zero or `max` is below `base`.
    pub fn try_new(base: Duration, max: Duration) -> Result<Self, String> {
        if base.is_zero() {
            return Err("must be longer than zero".into());
        }
        if max < base {
            return Err("must not be shorter than the base".into());
        }
        Ok(Self { base, max })
    }

    /// The first delay, before jitter.
    #[must_use]
    pub const fn base(&self) -> Duration {
        self.base
    }

    /// The longest delay.
    #[must_use]
    pub const fn max(&self) -> Duration {
        self.max
    }

    /// The delay before try `n + 1` (`n` tries have failed, counted from 0), for `dice` in 0..1. A server's `retry_after`
    /// wins when longer, and is never cut: whoever asks for an hour gets an hour.
    #[must_use]
    pub fn delay(&self, n: u32, dice: f64, retry_after: Option<Duration>) -> Duration {
        let cap = self.base.saturating_mul(2_u32.saturating_pow(n.min(31))).min(self.max);
        // Full jitter, but never so short that a retry is no wait at all.
        let jittered = cap.mul_f64(dice.clamp(0.0, 1.0)).max(self.base / 10);
        jittered.max(retry_after.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_delay_never_exceeds_its_cap(base in 1_u64..10_000, factor in 1_u64..1_000, n in 0_u32..100, dice in 0.0..1.0_f64) {
            let max = Duration::from_millis(base * factor);
            let backoff = Backoff::try_new(Duration::from_millis(base), max).expect("valid");
            prop_assert!(backoff.delay(n, dice, None) <= max);
            prop_assert!(backoff.delay(n, dice, None) > Duration::ZERO);
        }

        #[test]
        fn a_servers_wish_wins_when_longer(asked in 0_u64..100_000, dice in 0.0..1.0_f64) {
            let backoff = Backoff::try_new(Duration::from_secs(1), Duration::from_secs(10)).expect("valid");
            prop_assert!(backoff.delay(3, dice, Some(Duration::from_millis(asked))) >= Duration::from_millis(asked));
        }
    }
}
