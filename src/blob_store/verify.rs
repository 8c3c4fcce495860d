//! The verdict on a blob's bytes while they pass: size, digest, preflight.
//!
//! Promises: the last chunk is held back until all three have passed, so whoever sends what comes out never sends a whole
//! blob that fails. Memory: one chunk.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use aws_lc_rs::digest::{self, SHA256};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use crate::{
    domain::{BlobRef, Reason, RestoreError},
    fts::{Preflight, PreflightMode, Refusal},
    metrics::Metrics,
};

use super::{
    answer,
    decode::Decoded,
    facts::{BlobFacts, Facts},
};

/// What must come out.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    /// FTS bytes, where known.
    pub(super) length: Option<u64>,
    /// The job's own word for it.
    size: Option<u64>,
    sha256: Option<[u8; 32]>,
    /// Most bytes of any blob.
    max: u64,
    /// This is the second pass: another length or digest means that the object changed.
    again: bool,
}

impl Expected {
    /// What the job says, `length` bytes if that is known, and never more than `max`.
    pub(super) fn of(blob: &BlobRef, length: Option<u64>, max: u64) -> Self {
        Self { length, size: blob.size, sha256: blob.sha256, max, again: false }
    }

    /// What an earlier pass has found.
    pub(super) fn again(facts: &Facts) -> Self {
        Self { length: Some(facts.bytes), size: None, sha256: Some(facts.sha256), max: u64::MAX, again: true }
    }

    fn too_many(&self, bytes: u64) -> Option<RestoreError> {
        if self.length.is_some_and(|length| bytes > length) {
            return Some(self.differs(bytes));
        }
        (bytes > self.max).then(|| answer::too_large(self.max))
    }

    fn differs(&self, bytes: u64) -> RestoreError {
        match self.length.or(self.size) {
            _ if self.again => answer::changed(),
            Some(length) if bytes > length => {
                answer::corrupt(format!("the blob has more than the expected {length} bytes"))
            }
            Some(length) => answer::size_differs(length, bytes),
            None => answer::corrupt("the blob has another size than expected"),
        }
    }

    fn check(&self, bytes: u64, sha256: &[u8; 32]) -> Result<(), RestoreError> {
        if self.length.is_some_and(|length| length != bytes) || self.size.is_some_and(|size| size != bytes) {
            return Err(self.differs(bytes));
        }
        match &self.sha256 {
            Some(expected) if expected != sha256 && self.again => Err(answer::changed()),
            Some(expected) if expected != sha256 => {
                Err(answer::corrupt("the blob's SHA-256 is not the one that the job says"))
            }
            _ => Ok(()),
        }
    }
}

/// The bytes, verified.
pub(super) struct Verify {
    bytes: Decoded,
    expected: Expected,
    /// `None` once judged.
    preflight: Option<Preflight>,
    digest: digest::Context,
    count: u64,
    held: Option<Bytes>,
    facts: BlobFacts,
    metrics: Arc<Metrics>,
    ended: bool,
}

impl std::fmt::Debug for Verify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verify")
            .field("expected", &self.expected)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Verify {
    pub(super) fn new(
        bytes: Decoded,
        expected: Expected,
        mode: PreflightMode,
        facts: BlobFacts,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            bytes,
            expected,
            preflight: Some(Preflight::new(mode)),
            digest: digest::Context::new(&SHA256),
            count: 0,
            held: None,
            facts,
            metrics,
            ended: false,
        }
    }

    /// How many bytes must come out, where that is known ahead.
    pub(super) fn expected_length(&self) -> Option<u64> {
        self.expected.length
    }

    /// Takes a chunk in and gives out the one before it.
    fn took(&mut self, chunk: Bytes) -> Result<Option<Bytes>, RestoreError> {
        self.count += chunk.len() as u64;
        if let Some(error) = self.expected.too_many(self.count) {
            return Err(error);
        }
        self.digest.update(&chunk);
        if let Some(preflight) = &mut self.preflight {
            preflight.feed(&chunk).map_err(|refusal| refused(&self.metrics, &refusal))?;
            if let Some(key) = preflight.search_key() {
                self.facts.hint(key);
            }
        }
        Ok(self.held.replace(chunk))
    }

    /// The end: the verdict, then the chunk that was held back.
    fn judge(&mut self) -> Result<Option<Bytes>, RestoreError> {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.digest.clone().finish().as_ref());
        self.expected.check(self.count, &sha256)?;
        let Some(preflight) = self.preflight.take() else { return Ok(None) };
        let report = preflight.finish().map_err(|refusal| refused(&self.metrics, &refusal))?;
        if !self.expected.again {
            for (finding, _, _) in report.findings.iter() {
                self.metrics.preflight_findings.with_label_values(&[finding.as_str()]).inc();
            }
        }
        let findings = report.findings.texts();
        self.facts.fill(Facts { bytes: self.count, sha256, identity: report.identity, findings });
        Ok(self.held.take())
    }
}

fn refused(metrics: &Metrics, refusal: &Refusal) -> RestoreError {
    metrics.preflight_findings.with_label_values(&[refusal.finding.as_str()]).inc();
    RestoreError::job(Reason::BlobNotFts, refusal.to_string())
}

impl Stream for Verify {
    type Item = Result<Bytes, RestoreError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.ended {
            let next = match ready!(this.bytes.poll_next_unpin(cx)) {
                Some(Ok(chunk)) if chunk.is_empty() => continue,
                Some(chunk) => chunk.and_then(|chunk| this.took(chunk)),
                None => {
                    this.ended = true;
                    this.judge()
                }
            };
            this.ended |= next.is_err();
            if let Some(item) = next.transpose() {
                return Poll::Ready(Some(item));
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests;
