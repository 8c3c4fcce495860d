//! A blob as a stream of known length, verified.
//!
//! ```text
//! allow → GET → fetch (limits on every wait) → decode (gzip, zstd, base64 text) → verify (size, digest, preflight) → chunks
//! ```
//!
//! Promises: memory does not grow with the blob; the last bytes are given out only after size, digest and preflight have
//! passed; output never goes beyond `max_blob`, windows never beyond `max_window`. Must never: retry (one pass more, to
//! learn a length, is no retry), or hold a whole blob beyond `retain`.

mod allow;
mod answer;
mod blob;
pub mod decode;
mod facts;
mod fetch;
mod verify;

use std::sync::Arc;

use futures_util::StreamExt as _;

use crate::{
    domain::{
        BlobRef, Compression, Dependency, Encoding, Fault, OursScope, Reason, RestoreError, RestoreJob,
    },
    fts::{Finding, PreflightMode},
    metrics::Metrics,
    s3_client::{self, Client, Failure},
};

pub use allow::LedgerKeys;
pub use blob::{Blob, BlobChunks};
pub use facts::{BlobFacts, Facts};
pub use fetch::Object;
use verify::{Expected, Verify};

/// What the store needs to know; values only, no files.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the storage is.
    pub client: s3_client::Settings,
    /// Empty: any bucket.
    pub allowed_buckets: Vec<String>,
    /// May hold `{tenantId}` and `{mailboxId}`.
    pub allowed_prefix: Option<String>,
    /// Where the ledger lies; its keys are never a blob.
    pub ledger: Option<LedgerKeys>,
    /// Largest blob, in FTS bytes after decoding.
    pub max_blob: u64,
    /// Largest zstd window, in bytes; rounded down to a power of two.
    pub max_window: u64,
    /// Bytes per second below which storage is given up, counted only while it is waited for.
    pub min_download_rate: u64,
    /// Largest blob that is kept in memory for another try, in bytes.
    pub retain: u64,
    /// How much preflight refuses.
    pub preflight: PreflightMode,
}

/// What the storage says of an object that is missing, as far as a probe can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// That it is missing.
    IsTold,
    /// The same as of one that our keys may not read: they lack `s3:ListBucket`, or may read nothing there.
    LooksForbidden,
}

/// The storage that holds the blobs. A cheap handle.
#[derive(Clone, Debug)]
pub struct BlobStore {
    client: Client,
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
}

impl BlobStore {
    /// Makes the client. Asks no storage.
    ///
    /// # Errors
    /// A sentence for the operator, when a setting cannot be used.
    pub async fn connect(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, String> {
        let client = s3_client::connect(&settings.client).await?;
        if settings.allowed_buckets.is_empty() {
            tracing::warn!(
                "storage.allowed_buckets is empty: jobs may name any bucket that our keys can read"
            );
        }
        Metrics::at_zero(&metrics.bytes, [["fetched"]]);
        Metrics::at_zero(&metrics.preflight_findings, Finding::ALL.iter().map(|finding| [finding.as_str()]));
        Ok(Self { client, settings: Arc::new(settings), metrics })
    }

    /// Opens a job's blob. A small one (`retain`) is read and verified here; of a larger one, errors of its bytes come
    /// out of its chunks. One whose length nobody has told (compressed, or base64 text, without `size`) is read twice.
    ///
    /// # Errors
    /// [`RestoreError`] with a `blob_*`, `bucket_not_allowed` or `storage_unavailable` reason.
    pub async fn open(&self, job: &RestoreJob) -> Result<Blob, RestoreError> {
        allow::check(&self.settings, job)?;
        let object = self.get(&job.blob, None).await?;
        match self.length(&job.blob, object.length)? {
            Some(length) if length <= self.settings.retain => {
                self.retain(&job.blob, object, Some(length)).await
            }
            Some(length) => Ok(self.stream(
                &job.blob,
                object,
                Expected::of(&job.blob, Some(length), self.settings.max_blob),
            )),
            None => Box::pin(self.open_twice(&job.blob, object)).await,
        }
    }

    /// Reads a job's blob to its end, without importing it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn identify(&self, job: &RestoreJob) -> Result<Facts, RestoreError> {
        let (facts, mut chunks) = self.open(job).await?.into_parts();
        while let Some(chunk) = chunks.next().await {
            chunk?;
        }
        facts.get().ok_or_else(|| RestoreError::job(Reason::Internal, "a blob ended without a verdict"))
    }

    /// Asks whether the storage can be reached and takes our keys: one small request. Of an allowed bucket it asks for an
    /// object that need not exist, where jobs' objects may lie; without one it lists one bucket, which need not be permitted.
    ///
    /// # Errors
    /// [`RestoreError`]: `Ours` when the keys are refused, `Passing` when there is no answer.
    pub async fn probe(&self) -> Result<Missing, RestoreError> {
        let failure = if let Some(bucket) = self.settings.allowed_buckets.first() {
            let prefix = self.settings.allowed_prefix.as_deref().unwrap_or_default();
            let fixed = prefix.split('{').next().unwrap_or_default();
            let key = format!("{fixed}restore-worker/probe");
            let request = self.client.get_object().bucket(bucket).key(key).range("bytes=0-0");
            Box::pin(request.send()).await.err().map(|error| Failure::read(&error))
        } else {
            let request = self.client.list_buckets().max_buckets(1);
            Box::pin(request.send()).await.err().map(|error| Failure::read(&error))
        };
        match failure {
            Some(failure) if failure.keys_refused() || failure.passes() => {
                Err(failure.unavailable(Dependency::Storage))
            }
            Some(failure) if failure.status == Some(403) && !self.settings.allowed_buckets.is_empty() => {
                Ok(Missing::LooksForbidden)
            }
            Some(_) | None => Ok(Missing::IsTold),
        }
    }

    /// One object as it is stored, for a person: no allow-list, no limits but those on waiting.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn read_object(&self, bucket: &str, key: &str) -> Result<Object, RestoreError> {
        self.get(&BlobRef::plain(bucket, key), None).await
    }

    async fn get(&self, blob: &BlobRef, same_as: Option<&fetch::Version>) -> Result<Object, RestoreError> {
        let got = Box::pin(fetch::get(&self.client, blob, same_as)).await;
        let object = match got {
            Ok(object) => object,
            Err(error) => return Err(Box::pin(self.whose(error)).await),
        };
        Ok(object.limited(
            self.settings.client.read_timeout,
            self.settings.min_download_rate,
            self.metrics.bytes.with_label_values(&["fetched"]),
        ))
    }

    /// Refused keys stop all work, so one job's strange key or bucket must not look like them: asks again for something
    /// harmless.
    async fn whose(&self, error: RestoreError) -> RestoreError {
        if error.fault == (Fault::Ours { scope: OursScope::Everything }) && self.probe().await.is_ok() {
            let message = format!("{}, for this object only", error.message);
            return RestoreError { fault: Fault::Job, reason: Reason::BlobForbidden, message, ..error };
        }
        error
    }

    /// The FTS length of an object, where it is known before reading.
    fn length(&self, blob: &BlobRef, stored: u64) -> Result<Option<u64>, RestoreError> {
        let max = self.settings.max_blob;
        let plain = blob.encoding == Encoding::Raw && blob.compression == Compression::None;
        let length = if plain { Some(stored) } else { blob.size };
        if length.is_some_and(|length| length > max) || stored > decode::longest_text(max) {
            return Err(answer::too_large(max));
        }
        if plain && blob.size.is_some_and(|size| size != stored) {
            return Err(answer::size_differs(blob.size.unwrap_or_default(), stored));
        }
        Ok(length)
    }

    fn stream(&self, blob: &BlobRef, object: Object, expected: Expected) -> Blob {
        let (length, etag) = (expected.length.unwrap_or_default(), object.version.etag.clone());
        let decoded = decode::decode(object, decode::Form::of(blob), self.limits());
        let facts = BlobFacts::default();
        let verify =
            Verify::new(decoded, expected, self.settings.preflight, facts.clone(), Arc::clone(&self.metrics));
        Blob::streaming(length, etag, facts, verify)
    }

    /// Reads a blob whole; the caller knows that it is small.
    async fn retain(
        &self,
        blob: &BlobRef,
        object: Object,
        length: Option<u64>,
    ) -> Result<Blob, RestoreError> {
        let expected = Expected::of(blob, length, self.settings.max_blob);
        let etag = object.version.etag.clone();
        let (facts, kept) = self.read_through(blob, object, expected).await?;
        let Some(kept) = kept else {
            return Err(RestoreError::job(Reason::Internal, "a small blob was not kept"));
        };
        Ok(Blob::kept(kept, etag, &facts))
    }

    /// Reads once for length, digest and verdict, then again for the bytes; small ones need no second time.
    async fn open_twice(&self, blob: &BlobRef, object: Object) -> Result<Blob, RestoreError> {
        let version = object.version.clone();
        let expected = Expected::of(blob, None, self.settings.max_blob);
        let (facts, kept) = self.read_through(blob, object, expected).await?;
        let Some(facts) = facts.get() else {
            return Err(RestoreError::job(Reason::Internal, "a blob ended without a verdict"));
        };
        if let Some(kept) = kept {
            return Ok(Blob::kept(kept, version.etag, &BlobFacts::of(facts)));
        }
        let object = self.get(blob, Some(&version)).await?;
        Ok(self.stream(blob, object, Expected::again(&facts)).hinted(facts.identity.search_key))
    }

    async fn read_through(
        &self,
        blob: &BlobRef,
        object: Object,
        expected: Expected,
    ) -> Result<(BlobFacts, Option<blob::Kept>), RestoreError> {
        let decoded = decode::decode(object, decode::Form::of(blob), self.limits());
        let facts = BlobFacts::default();
        let verify =
            Verify::new(decoded, expected, self.settings.preflight, facts.clone(), Arc::clone(&self.metrics));
        let kept = blob::keep_small(verify, self.settings.retain).await?;
        Ok((facts, kept))
    }

    fn limits(&self) -> decode::Limits {
        decode::Limits { output: self.settings.max_blob, window: self.settings.max_window }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
