//! `restore-worker inspect`: what an exported item is, from a file, standard input or straight from object storage.
//!
//! Promises: streams (a 150 MB item takes no more memory than a small one), undoes gzip, zstd and base64 text by
//! themselves, never fails on what it does not understand: it says up to where it did.

mod render;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    pin::Pin,
};

use anyhow::{Context as _, bail};
use aws_lc_rs::digest::{self, SHA256};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use serde::Serialize;
use tokio_util::io::ReaderStream;

use crate::{
    blob_store::{
        BlobStore,
        decode::{self, Decoded, Form, Limits},
    },
    domain::{Compression, Encoding},
    fts::{
        envelope::MAGIC,
        item::{Inspector, Item, hex},
    },
};

/// What to look at.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[doc = "A file, - for standard input, or `s3://bucket/key`"]
    pub source: Source,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// Where the bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// An object.
    Object {
        /// Its bucket.
        bucket: String,
        /// Its key.
        key: String,
    },
}

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        let Some(object) = text.strip_prefix("s3://") else { return Ok(Self::File(text.into())) };
        match object.split_once('/') {
            Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => {
                Ok(Self::Object { bucket: bucket.into(), key: key.into() })
            }
            _ => Err("an object is written s3://bucket/key".into()),
        }
    }
}

/// What is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Inspection {
    /// How the item was stored, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stored_as: Vec<&'static str>,
    /// Of the FTS bytes: what a job's `blob.sha256` should say.
    sha256: String,
    /// Why reading ended before the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<String>,
    #[serde(flatten)]
    item: Item,
}

/// Largest zstd window for a person's own use: what `zstd --long` writes.
const WINDOW: u64 = 128 << 20;
/// Bytes that are enough to tell a stored form.
const SNIFF: usize = 16;
/// Compression in base64 in compression, and a little more: deeper is no stored form but a riddle.
const MAX_STEPS: usize = 4;

/// Looks at the source and prints what it is. `store` is asked for only when the source is an object.
///
/// # Errors
/// When the source cannot be opened. Bytes that are no item are no error: the text says so.
pub async fn run<F>(args: &Args, store: impl FnOnce() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<BlobStore>>,
{
    let text = report(args, store).await?;
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

async fn report<F>(args: &Args, store: impl FnOnce() -> F) -> anyhow::Result<String>
where
    F: Future<Output = anyhow::Result<BlobStore>>,
{
    let inspection = inspect(open(&args.source, store).await?).await;
    if args.json {
        return Ok(serde_json::to_string_pretty(&inspection)? + "\n");
    }
    Ok(render::text(&inspection))
}

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

async fn open<F>(source: &Source, store: impl FnOnce() -> F) -> anyhow::Result<Chunks>
where
    F: Future<Output = anyhow::Result<BlobStore>>,
{
    const CHUNK: usize = 64 * 1024;
    match source {
        Source::Stdin => Ok(Box::pin(ReaderStream::with_capacity(tokio::io::stdin(), CHUNK))),
        Source::File(path) => {
            let file = tokio::fs::File::open(path).await;
            let file = file.with_context(|| format!("cannot open {}", path.display()))?;
            if file.metadata().await?.is_dir() {
                bail!("{} is a directory", path.display());
            }
            Ok(Box::pin(ReaderStream::with_capacity(file, CHUNK)))
        }
        Source::Object { bucket, key } => Ok(Box::pin(store().await?.read_object(bucket, key).await?)),
    }
}

async fn inspect(chunks: Chunks) -> Inspection {
    let (mut stored_as, mut chunks) = (Vec::new(), sniffed(chunks).await);
    while let Some(form) = chunks.form().filter(|_| stored_as.len() < MAX_STEPS) {
        stored_as.push(name(form));
        let limits = Limits { output: u64::MAX, window: WINDOW };
        let decoded: Decoded = decode::decode(chunks.whole(), form, limits);
        chunks = sniffed(Box::pin(decoded.map(|chunk| chunk.map_err(io::Error::other)))).await;
    }
    let (mut inspector, mut digest, mut broken) = (Inspector::default(), digest::Context::new(&SHA256), None);
    let mut chunks = chunks.whole();
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => {
                digest.update(&chunk);
                inspector.feed(&chunk);
            }
            Err(error) => {
                broken = Some(error.to_string());
                break;
            }
        }
    }
    let mut item = inspector.finish();
    item.restorable &= broken.is_none();
    let sha256 = hex(digest.finish().as_ref());
    Inspection { stored_as, sha256, broken, item }
}

/// A stream whose first bytes have been read.
struct Sniffed {
    head: Vec<io::Result<Bytes>>,
    start: Vec<u8>,
    rest: Chunks,
}

async fn sniffed(mut rest: Chunks) -> Sniffed {
    let (mut head, mut start) = (Vec::new(), Vec::new());
    while start.len() < SNIFF {
        let Some(chunk) = rest.next().await else { break };
        let failed = chunk.is_err();
        if let Ok(bytes) = &chunk {
            start.extend_from_slice(&bytes[..bytes.len().min(SNIFF)]);
        }
        head.push(chunk);
        if failed {
            break;
        }
    }
    Sniffed { head, start, rest }
}

impl Sniffed {
    /// The stored form that the first bytes show; `None` for an item as it is, or anything else.
    fn form(&self) -> Option<Form> {
        let form = |compression, encoding| Some(Form { compression, encoding });
        let text: Vec<u8> = self.start.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        match &*self.start {
            start if start.starts_with(&MAGIC) => None,
            [0x1F, 0x8B, ..] => form(Compression::Gzip, Encoding::Raw),
            [0x28, 0xB5, 0x2F, 0xFD, ..] => form(Compression::Zstd, Encoding::Raw),
            // The head of an item, of gzip or of zstd in base64.
            _ if [&b"AQAAAAgA"[..], b"H4sI", b"KLUv/"].iter().any(|magic| text.starts_with(magic)) => {
                form(Compression::None, Encoding::Base64)
            }
            _ => None,
        }
    }

    /// All of it, from the beginning.
    fn whole(self) -> Chunks {
        Box::pin(stream::iter(self.head).chain(self.rest))
    }
}

const fn name(form: Form) -> &'static str {
    match (form.compression, form.encoding) {
        (Compression::Gzip, _) => "gzip",
        (Compression::Zstd, _) => "zstd",
        (Compression::None, _) => "base64",
    }
}

#[cfg(test)]
mod tests;
