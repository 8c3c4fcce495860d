//! The life of the process: signals, tracked tasks, draining within a grace period.
//!
//! The only room that spawns, so that a drain knows every task.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

/// Kept from the grace period for what must follow an upload: its claim released, its outcome told, the connection closed.
/// A quarter of a short grace, never more than this.
const AFTERWARDS: Duration = Duration::from_secs(10);

/// Tokens and tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    draining: CancellationToken,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// How the process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything in flight ended.
    Drained,
    /// The grace period was over first.
    GraceOver,
    /// A second signal.
    Aborted,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// A life that has just begun.
    #[must_use]
    pub fn new() -> Self {
        let draining = CancellationToken::new();
        Self { closing: CancellationToken::new(), draining, tasks: TaskTracker::new() }
    }

    /// Runs a task that a drain waits for.
    #[expect(clippy::disallowed_methods, reason = "this is the room that spawns")]
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        tokio::spawn(self.tasks.track_future(task))
    }

    /// Runs a task that ends when the drain begins, wherever it is.
    pub fn spawn_until_drained(&self, task: impl Future<Output = ()> + Send + 'static) {
        let draining = self.draining.clone();
        drop(self.spawn(async move {
            draining.run_until_cancelled(task).await;
        }));
    }

    /// Runs a task that nobody waits for: it ends with the process.
    #[expect(clippy::disallowed_methods, reason = "this is the room that spawns")]
    pub fn spawn_beside<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        tokio::spawn(task)
    }

    /// Cancelled by the first signal: begin nothing new.
    #[must_use]
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled shortly before the grace period is over: uploads are to stop before their closing bytes.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Begins the drain without a signal.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Waits for the end: for the drain to begin, then for every task to end, for the grace period or a second signal.
    ///
    /// # Errors
    /// When signals cannot be listened to.
    pub async fn end(&self, grace: Duration) -> std::io::Result<Ending> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => info!(signal = "SIGTERM", "draining"),
            _ = interrupt.recv() => info!(signal = "SIGINT", "draining"),
            () = self.draining.cancelled() => info!("draining"),
        }
        self.draining.cancel();
        self.tasks.close();
        let afterwards = AFTERWARDS.min(grace / 4);
        let closing = async {
            tokio::time::sleep(grace.saturating_sub(afterwards)).await;
            warn!("the grace period is nearly over; uploads stop before their closing bytes");
            self.closing.cancel();
            tokio::time::sleep(afterwards).await;
        };
        Ok(tokio::select! {
            () = self.tasks.wait() => Ending::Drained,
            () = closing => Ending::GraceOver,
            _ = terminate.recv() => Ending::Aborted,
            _ = interrupt.recv() => Ending::Aborted,
        })
    }
}
