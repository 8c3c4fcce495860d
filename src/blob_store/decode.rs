//! The stored form undone, as a stream: decompression, then base64 text.
//!
//! Promises: output never beyond the limit (text between the two steps never beyond [`longest_text`] of it), zstd windows
//! never beyond `window`, a few chunks in memory. Everything behind the last gzip member or zstd frame must be another.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use async_compression::{
    tokio::bufread::{GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::{
    domain::{BlobRef, Compression, Encoding, Reason, RestoreError},
    fts::{base64_text, looks_like},
};

use super::answer;

/// Bytes in one decompressed chunk: a multiple of three, so that its base64 needs no carry.
const CHUNK: usize = 48 * 1024;
/// Text that is decoded at once: what becomes of it is one [`CHUNK`].
const TEXT: usize = CHUNK / 3 * 4;

/// A stored form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// The outer step.
    pub compression: Compression,
    /// The inner step.
    pub encoding: Encoding,
}

impl Form {
    /// The form that a job tells.
    #[must_use]
    pub const fn of(blob: &BlobRef) -> Self {
        Self { compression: blob.compression, encoding: blob.encoding }
    }
}

/// How far decoding goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes that come out.
    pub output: u64,
    /// Largest zstd window in bytes.
    pub window: u64,
}

/// The longest base64 text that is read for `bytes`: a line break behind every few characters at worst, and a little more.
#[must_use]
pub const fn longest_text(bytes: u64) -> u64 {
    bytes.saturating_mul(2).saturating_add(4096)
}

/// A stream of decoded bytes.
pub type Decoded = Pin<Box<dyn Stream<Item = Result<Bytes, RestoreError>> + Send>>;

/// Undoes the stored form of `stored`, whose errors may hold a [`RestoreError`].
pub fn decode<S>(stored: S, form: Form, limits: Limits) -> Decoded
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let bytes = decompress(stored, form.compression, limits);
    match form.encoding {
        Encoding::Raw => bytes,
        Encoding::Base64 => Box::pin(Text::new(bytes, limits.output)),
    }
}

fn decompress<S>(stored: S, compression: Compression, limits: Limits) -> Decoded
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    match compression {
        Compression::None => Box::pin(stored.map(|chunk| chunk.map_err(|error| ours(error, "the bytes")))),
        Compression::Gzip => {
            let mut decoder = GzipDecoder::new(StreamReader::new(Box::pin(stored)));
            decoder.multiple_members(true);
            chunks(decoder, "gzip")
        }
        Compression::Zstd => {
            let window = DParameter::window_log_max(window_log(limits.window));
            let mut decoder = ZstdDecoder::with_params(StreamReader::new(Box::pin(stored)), &[window]);
            decoder.multiple_members(true);
            chunks(decoder, "zstd")
        }
    }
}

/// The largest power of two within `window`, as zstd wants it: 10 to 31.
fn window_log(window: u64) -> u32 {
    window.checked_ilog2().unwrap_or(0).clamp(10, 31)
}

fn chunks(reader: impl AsyncRead + Send + 'static, what: &'static str) -> Decoded {
    Box::pin(
        ReaderStream::with_capacity(reader, CHUNK).map(move |chunk| chunk.map_err(|error| ours(error, what))),
    )
}

/// The error of the bytes below comes through as it was; what is left is the decoder's.
fn ours(error: io::Error, what: &str) -> RestoreError {
    match error.downcast::<RestoreError>() {
        Ok(error) => error,
        Err(error) if error.to_string().contains(ZSTD_WINDOW) => RestoreError::job(
            Reason::BlobTooLarge,
            "the blob was compressed with a zstd window larger than storage.max_window",
        ),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            answer::corrupt(format!("{what} does not decode: it ends too early"))
        }
        Err(_) => answer::corrupt(format!("{what} does not decode")),
    }
}

/// How zstd says that a frame wants a larger window (`ZSTD_error_frameParameter_windowTooLarge`); the crate gives no code.
const ZSTD_WINDOW: &str = "requires too much memory";

/// Base64 text decoded.
struct Text {
    source: Decoded,
    decoder: base64_text::Decoder,
    /// Text that waits.
    waiting: Bytes,
    /// How much text may still come.
    room: u64,
    max: u64,
    /// The first bytes, to say what it is instead.
    head: Vec<u8>,
    ended: bool,
}

impl Text {
    fn new(text: Decoded, max: u64) -> Self {
        let decoder = base64_text::Decoder::default();
        Self {
            source: text,
            decoder,
            waiting: Bytes::new(),
            room: longest_text(max),
            max,
            head: Vec::new(),
            ended: false,
        }
    }

    fn took(&mut self, text: Bytes) -> Result<(), RestoreError> {
        self.room = self.room.checked_sub(text.len() as u64).ok_or_else(|| answer::too_large(self.max))?;
        if self.head.len() < 16 {
            self.head.extend_from_slice(&text[..text.len().min(16)]);
        }
        self.waiting = text;
        Ok(())
    }

    /// Decodes some of what waits.
    fn some(&mut self) -> Result<Bytes, RestoreError> {
        let text = self.waiting.split_to(self.waiting.len().min(TEXT));
        let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
        self.decoder.feed(&text, &mut out).map_err(|found| self.undecodable(found))?;
        Ok(out.into())
    }

    fn last(&mut self) -> Result<Bytes, RestoreError> {
        let mut out = Vec::new();
        self.decoder.finish(&mut out).map_err(|found| self.undecodable(found))?;
        Ok(out.into())
    }

    fn undecodable(&self, found: base64_text::Undecodable) -> RestoreError {
        if found.fault == base64_text::Fault::TruncationMark {
            return RestoreError::job(
                Reason::BlobNotFts,
                format!("truncation_mark: {found}: export the item again"),
            );
        }
        let instead = looks_like(&self.head).filter(|_| found.at < 16);
        let instead = instead.map(|what| format!("; it looks like {what}")).unwrap_or_default();
        answer::corrupt(format!("base64_invalid: {found}{instead}"))
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, RestoreError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let decoded = if self.waiting.is_empty() {
                match ready!(self.source.poll_next_unpin(cx)) {
                    Some(Ok(text)) => match self.took(text) {
                        Ok(()) => continue,
                        Err(error) => Err(error),
                    },
                    Some(Err(error)) => Err(error),
                    None => {
                        self.ended = true;
                        self.last()
                    }
                }
            } else {
                self.some()
            };
            match decoded {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(bytes))),
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl Stream for Text {
    type Item = Result<Bytes, RestoreError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_chunk(cx)
    }
}

#[cfg(test)]
mod tests;
