//! What `open` gives out: a blob of known length, and its chunks.

use std::{
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};

use crate::domain::RestoreError;

use super::{facts::BlobFacts, verify::Verify};

/// Bytes in one chunk of a retained blob: a multiple of three.
const CHUNK: usize = 48 * 1024;

/// FTS bytes of known length.
#[derive(Debug)]
pub struct Blob {
    length: u64,
    etag: Option<String>,
    facts: BlobFacts,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Read and verified.
    Kept(Kept),
    /// To be read; boxed, for it is large. The mutex is never locked: it lets a blob be shared between threads, which a
    /// stream cannot.
    Stream(Mutex<Box<Verify>>),
}

/// The chunks of a small blob, as they came.
pub(super) type Kept = Bytes;

impl Blob {
    pub(super) fn kept(kept: Kept, etag: Option<String>, facts: &BlobFacts) -> Self {
        Self { length: kept.len() as u64, etag, facts: facts.clone(), source: Source::Kept(kept) }
    }

    pub(super) fn streaming(length: u64, etag: Option<String>, facts: BlobFacts, verify: Verify) -> Self {
        Self { length, etag, facts, source: Source::Stream(Mutex::new(Box::new(verify))) }
    }

    /// The same blob with a search key that is known already.
    pub(super) fn hinted(self, search_key: Option<Vec<u8>>) -> Self {
        if let Some(key) = search_key {
            self.facts.hint(&key);
        }
        self
    }

    /// FTS bytes, after decoding.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The stored object's entity tag, as the storage wrote it.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// The item's search key, if it is known before the bytes have passed by.
    #[must_use]
    pub fn search_key_hint(&self) -> Option<Vec<u8>> {
        self.facts.search_key_hint()
    }

    /// The same blob again without fetching, if it was small enough to be kept.
    #[must_use]
    pub fn retained(&self) -> Option<Self> {
        match &self.source {
            Source::Kept(kept) => Some(Self::kept(kept.clone(), self.etag.clone(), &self.facts)),
            Source::Stream(_) => None,
        }
    }

    /// The facts-to-be and the bytes.
    #[must_use]
    pub fn into_parts(self) -> (BlobFacts, BlobChunks) {
        (self.facts, BlobChunks { source: self.source })
    }
}

/// A blob's bytes. The last item comes only after size, digest and preflight have passed; if they fail the stream ends
/// with an error and never gives out all bytes.
#[derive(Debug)]
pub struct BlobChunks {
    source: Source,
}

impl Stream for BlobChunks {
    type Item = Result<Bytes, RestoreError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.get_mut().source {
            Source::Kept(kept) if kept.is_empty() => Poll::Ready(None),
            Source::Kept(kept) => Poll::Ready(Some(Ok(kept.split_to(kept.len().min(CHUNK))))),
            Source::Stream(verify) => {
                verify.get_mut().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(cx)
            }
        }
    }
}

/// Reads a blob to its verified end and keeps it if it has at most `most` bytes: copied once, into room of its length where that
/// is known. What comes off the wire is not kept as it is, for a chunk may hold a buffer far larger than itself.
pub(super) async fn keep_small(mut verify: Verify, most: u64) -> Result<Option<Kept>, RestoreError> {
    let length = verify.expected_length().unwrap_or_default();
    let room = |length| BytesMut::with_capacity(usize::try_from(length).unwrap_or_default());
    let mut kept = (length <= most).then(|| room(length));
    while let Some(chunk) = verify.next().await {
        let chunk = chunk?;
        let fits = kept.as_ref().is_some_and(|kept| (kept.len() + chunk.len()) as u64 <= most);
        match &mut kept {
            Some(kept) if fits => kept.extend_from_slice(&chunk),
            _ => kept = None,
        }
    }
    Ok(kept.map(BytesMut::freeze))
}
