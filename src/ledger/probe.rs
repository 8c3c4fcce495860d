//! Whether a store can hold a ledger at all: asked once at the start, and by `check`.

use super::{Etag, Ledger, Operation, Written, is_missing};
use crate::{
    domain::{Dependency, RestoreError},
    s3_client::Failure,
};

/// Why a store cannot hold a ledger.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProbeError {
    /// It cannot be reached, or not by us, now.
    #[error("{0}")]
    Unavailable(RestoreError),
    /// It does not honour conditional writes: no ledger can lie there.
    #[error("the store does not honour conditional writes: {0}")]
    Unconditional(&'static str),
    /// Our keys lack a right, so that no record could be read.
    #[error("the keys lack {right}: {failure} for {what}")]
    Lacking {
        /// The right, as S3 names it.
        right: &'static str,
        /// The store's answer.
        failure: Failure,
        /// What was asked for.
        what: &'static str,
    },
}

/// Writers of the probe that race for one key.
const RACERS: usize = 8;

impl Ledger {
    /// Proves that a record can be told from a missing one, and that the store honours conditional writes: a second creation is
    /// refused, a change over an older version is refused, and of racing writers one wins (some stores ignore the header; some
    /// test and then write).
    ///
    /// # Errors
    /// [`ProbeError`].
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let key = format!("{}probe/{}", self.prefix, uuid::Uuid::new_v4());
        let race = format!("{key}-race");
        let probed = self.probe_with(&key, &race).await;
        if !matches!(probed, Err(ProbeError::Unavailable(_))) {
            self.clear(&key).await;
            self.clear(&race).await;
        }
        probed
    }

    async fn probe_with(&self, key: &str, race: &str) -> Result<(), ProbeError> {
        let first =
            self.probe_put(key, None).await?.ok_or(ProbeError::Unconditional("a new key was refused"))?;
        self.probe_get(key, "s3:GetObject", "a key that was just written").await?;
        self.probe_get(
            race,
            "s3:ListBucket",
            "a missing key, so that it looks like one that may not be read",
        )
        .await?;
        if self.probe_put(key, None).await?.is_some() {
            return Err(ProbeError::Unconditional(
                "If-None-Match: * did not keep an object from being written over",
            ));
        }
        if self.probe_put(key, Some(&first)).await?.is_none() {
            return Err(ProbeError::Unconditional("If-Match refused the version that stands there"));
        }
        if self.probe_put(key, Some(&first)).await?.is_some() {
            return Err(ProbeError::Unconditional("If-Match did not refuse an older version"));
        }
        let racers = futures_util::future::join_all((0..RACERS).map(|_| self.probe_put(race, None))).await;
        let mut winners = 0;
        for racer in racers {
            winners += usize::from(racer?.is_some());
        }
        if winners == 1 {
            Ok(())
        } else {
            Err(ProbeError::Unconditional("of several writers at once more than one won"))
        }
    }

    /// Reads a key, which need not be there. Without `s3:ListBucket` a missing one is answered with 403, as one that may not be
    /// read is. Source: Amazon S3 API Reference, `GetObject`, section "Permissions".
    async fn probe_get(&self, key: &str, right: &'static str, what: &'static str) -> Result<(), ProbeError> {
        let request = self.client.get_object().bucket(&*self.bucket).key(key);
        let Err(error) = Box::pin(request.send()).await else { return Ok(()) };
        let failure = Failure::read(&error);
        if is_missing(&failure) {
            return Ok(());
        }
        if failure.status == Some(403) && !failure.keys_refused() {
            return Err(ProbeError::Lacking { right, failure, what });
        }
        Err(ProbeError::Unavailable(failure.unavailable(Dependency::Ledger)))
    }

    /// A probe's object that stays behind harms nobody; the lifecycle rule removes it.
    async fn clear(&self, key: &str) {
        if let Err(error) = self.client.delete_object().bucket(&*self.bucket).key(key).send().await {
            tracing::debug!(error = %Failure::read(&error), "a probe's object could not be removed");
        }
    }

    async fn probe_put(&self, key: &str, over: Option<&Etag>) -> Result<Option<Etag>, ProbeError> {
        // Each writer has a body of its own, so that no two have the same ETag.
        let body = uuid::Uuid::new_v4().to_string().into_bytes();
        match self.put(key, body, over, Operation::Probe).await.map_err(ProbeError::Unavailable)? {
            Written::Stands(etag) => Ok(Some(etag)),
            Written::Lost => Ok(None),
        }
    }
}
