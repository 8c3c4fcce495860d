//! Waiting for something that can only be looked at: asks again at short intervals, never longer than told.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// How long to wait before looking again.
const INTERVAL: Duration = Duration::from_millis(10);

/// Asks `found` until it gives a value, an error, or `limit` has passed.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut found: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = found().await? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what} did not happen within {limit:?}");
        }
        sleep(INTERVAL).await;
    }
}
