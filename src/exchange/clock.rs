//! Exchange's clock, as the `Date` of its recent answers tells it.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::domain::UnixMillis;

/// No answer yet.
const UNKNOWN: i64 = i64::MIN;

/// Offset between own clock and the other side's; fed by every answer.
#[derive(Debug)]
pub(super) struct Offset(AtomicI64);

impl Offset {
    pub(super) const fn new() -> Self {
        Self(AtomicI64::new(UNKNOWN))
    }

    /// Takes the `Date` of an answer that has just come, `took` after its request left.
    pub(super) fn hear(&self, date: UnixMillis, took: Duration) {
        // A `Date` is cut to whole seconds: half a second more is the best guess. It was written on the way.
        let seen = own_clock().minus(took / 2);
        let offset = date.plus(Duration::from_millis(500)).0.saturating_sub(seen.0);
        self.0.store(offset, Ordering::Relaxed);
    }

    pub(super) fn clock(&self) -> ServerClock {
        let offset = self.0.load(Ordering::Relaxed);
        ServerClock { offset: (offset != UNKNOWN).then_some(offset) }
    }
}

/// Exchange's clock: own clock, corrected by the `Date` of the last Graph answer; right to about a second.
#[derive(Clone, Copy, Debug)]
pub struct ServerClock {
    offset: Option<i64>,
}

impl ServerClock {
    /// The present moment by Exchange's clock, or by the own one while [`Self::offset_known`] is false.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        UnixMillis(own_clock().0.saturating_add(self.offset.unwrap_or_default()))
    }

    /// Whether an answer has told the offset.
    #[must_use]
    pub const fn offset_known(&self) -> bool {
        self.offset.is_some()
    }
}

/// The own clock.
pub(super) fn own_clock() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_heard() {
        let offset = Offset::new();
        assert!(!offset.clock().offset_known());
        offset.hear(own_clock().plus(Duration::from_hours(1)), Duration::ZERO);
        let ahead = offset.clock().now().since(own_clock());
        assert!(offset.clock().offset_known());
        assert!(ahead > Duration::from_secs(3_598) && ahead < Duration::from_secs(3_602), "{ahead:?}");
    }
}
