//! May the closing bytes of an import still leave? Asked by the body at the moment of its last frame.
//!
//! The deadline is on a clock that runs on while the machine is suspended: a worker that wakes after its lease must not
//! complete an import that another worker may already have taken over.

use std::{fmt, sync::Arc, task::Waker, time::Duration};

use futures_util::task::AtomicWaker;
use rustix::time::{ClockId, clock_gettime};
use tokio_util::sync::CancellationToken;

/// A moment of `CLOCK_BOOTTIME`: time since the machine started, suspension included. Means nothing on another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boottime(Duration);

impl Boottime {
    /// The present moment.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        // Neither is ever negative: the clock starts at zero with the machine.
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
        Self(Duration::new(seconds, nanos))
    }

    /// Later by `duration`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// How much later than `earlier`; zero when it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The fence of one send: a deadline and a flag. Clones share both.
#[derive(Clone)]
pub struct Fence {
    deadline: Option<Boottime>,
    shared: Arc<Shared>,
}

struct Shared {
    aborted: CancellationToken,
    waker: AtomicWaker,
}

impl Fence {
    /// The closing bytes may leave before `deadline`.
    #[must_use]
    pub fn until(deadline: Boottime) -> Self {
        Self { deadline: Some(deadline), ..Self::none() }
    }

    /// The closing bytes may leave at any time, unless the send is aborted.
    #[must_use]
    pub fn none() -> Self {
        let shared = Shared { aborted: CancellationToken::new(), waker: AtomicWaker::new() };
        Self { deadline: None, shared: Arc::new(shared) }
    }

    /// Ends the send before its closing bytes (a drain that cannot wait for it). Without effect once they have left.
    pub fn abort(&self) {
        self.shared.aborted.cancel();
        self.shared.waker.wake();
    }

    /// Whether [`Self::abort`] was called.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.shared.aborted.is_cancelled()
    }

    /// Waits for [`Self::abort`].
    pub(super) async fn aborted(&self) {
        self.shared.aborted.cancelled().await;
    }

    /// Whether the deadline has passed.
    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.deadline.is_some_and(|deadline| Boottime::now() >= deadline)
    }

    /// Wakes this task when the send is aborted. One send, one fence: the last registration counts.
    pub(super) fn register(&self, waker: &Waker) {
        self.shared.waker.register(waker);
    }

    /// Wakes whoever is registered.
    pub(super) fn wake(&self) {
        self.shared.waker.wake();
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence")
            .field("deadline", &self.deadline)
            .field("aborted", &self.is_aborted())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_closes_at_its_deadline_and_at_an_abort() {
        assert!(!Fence::none().has_passed());
        assert!(Fence::until(Boottime::now()).has_passed());
        let fence = Fence::until(Boottime::now().plus(Duration::from_mins(1)));
        let other = fence.clone();
        assert!(!fence.has_passed() && !other.is_aborted());
        fence.abort();
        assert!(other.is_aborted());
    }
}
