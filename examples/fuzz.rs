//! Feeds changed and random bytes to what reads hostile ones, for a given time:
//! `cargo run --release --example fuzz -- framing|item|base64|decode|job SECONDS [SEED]`.
//!
//! Looks for panics, and for answers that depend on how the bytes were cut into chunks. The corpus is
//! `tests/fixtures/fts` and `tests/fixtures/jobs`, and what was once found there. Stands in for `cargo fuzz`, which needs a nightly compiler.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use restore_worker::{
    blob_store::decode::{Form, Limits, decode},
    contract::{Parser, Wrapping},
    domain::{Compression, Encoding, Metadata},
    fts::{Preflight, PreflightMode, base64_text::Decoder, item::Inspector},
};
use tokio::time::Instant;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [target, seconds, seed @ ..] = &*args else { bail!("usage: fuzz TARGET SECONDS [SEED]") };
    let seed = seed.first().map_or(Ok(fastrand::u64(..)), |seed| seed.parse()).context("seed")?;
    let (end, corpus) = (
        Instant::now() + Duration::from_secs(seconds.parse()?),
        if target == "job" { jobs()? } else { corpus()? },
    );
    let mut rng = fastrand::Rng::with_seed(seed);
    println!("{target}: seed {seed}, corpus of {}", corpus.len());
    let mut runs = 0_u64;
    while Instant::now() < end {
        let bytes = change(&mut rng, &corpus);
        let cut = 1 + rng.usize(..bytes.len().max(1));
        let same = match target.as_str() {
            "framing" => judged(&bytes, bytes.len().max(1)) == judged(&bytes, cut),
            "item" => told(&bytes, bytes.len().max(1))? == told(&bytes, cut)?,
            "base64" => text(&bytes, bytes.len().max(1)) == text(&bytes, cut),
            "job" => job(&mut rng, bytes.clone()),
            "decode" => decoded(&mut rng, &bytes, cut)?,
            _ => bail!("no such target: {target}"),
        };
        if !same {
            bail!("run {runs}: another answer in chunks of {cut}: {bytes:02x?}");
        }
        runs += 1;
    }
    println!("{target}: {runs} runs, nothing found");
    Ok(())
}

/// Each sample, and a whole stream made of its inner bytes.
fn corpus() -> anyhow::Result<Vec<Vec<u8>>> {
    let mut corpus = Vec::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fts"))? {
        let path = entry?.path();
        let bytes = std::fs::read(&path)?;
        if path.extension().is_some_and(|extension| extension == "b64") {
            let mut raw = Vec::new();
            let mut decoder = Decoder::default();
            // The samples end where their authors cut them.
            decoder.feed(&bytes, &mut raw).ok();
            decoder.finish(&mut raw).ok();
            if let Some((head, inner)) = raw.split_at_checked(70) {
                let length = u32::try_from(inner.len())?.to_le_bytes();
                corpus.push([&head[..62], &2_u32.to_le_bytes(), &length, inner].concat());
            }
            corpus.push(raw);
        }
        corpus.push(bytes);
    }
    Ok(corpus)
}

fn jobs() -> anyhow::Result<Vec<Vec<u8>>> {
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jobs"))?;
    files.map(|entry| Ok(std::fs::read(entry?.path())?)).collect()
}

/// Broken further as JSON is broken. What is taken for a job is the same job when it is written down again, its metadata the same
/// value (their text is kept as it came, numbers included that no machine holds).
fn job(rng: &mut fastrand::Rng, mut bytes: Vec<u8>) -> bool {
    const TOKENS: [&str; 14] = [
        "\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "null",
        "1e999",
        "-1",
        "\\u0000",
        "\\ud800",
        "{\"jobId\":\"x\"}",
        "\u{feff}",
    ];
    for _ in 0..rng.usize(..4) {
        let at = rng.usize(..=bytes.len());
        bytes.splice(at..at, TOKENS[rng.usize(..TOKENS.len())].bytes()).for_each(drop);
    }
    let parser = Parser::default();
    let parse = |bytes: &[u8]| {
        parser.parse(bytes, Wrapping { content_type: None, kind: None, cloud_event_type: None })
    };
    let Ok(mut first) = parse(&bytes) else { return true };
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
        return first.metadata.is_some();
    };
    let Ok(mut second) = parse(value.to_string().as_bytes()) else { return false };
    let value = |metadata: Option<Metadata>| {
        metadata.map(|m| serde_json::from_str::<serde_json::Value>(m.as_json_text()).ok())
    };
    value(first.metadata.take()) == value(second.metadata.take()) && first == second
}

/// A member of the corpus with a few changes, or two of them spliced, or noise.
fn change(rng: &mut fastrand::Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    const WORDS: [u32; 14] = [
        0,
        1,
        2,
        0xFFFF_FFFF,
        0x8000_0000,
        0x4000_0003,
        0x4001_0003,
        0x4002_0003,
        0x4003_0003,
        0x4004_0003,
        0x400E_0003,
        0x8001_94B0,
        0x8001_101F,
        0x001A_84B0,
    ];
    let mut bytes = corpus[rng.usize(..corpus.len())].clone();
    if rng.u8(..) < 40 {
        let other = &corpus[rng.usize(..corpus.len())];
        bytes.truncate(rng.usize(..=bytes.len()));
        bytes.extend_from_slice(&other[rng.usize(..=other.len())..]);
    }
    for _ in 0..rng.usize(..8) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(..6) {
            0 => bytes.truncate(at),
            1 => bytes.splice(at..at, WORDS[rng.usize(..WORDS.len())].to_le_bytes()).for_each(drop),
            2 => bytes
                .splice(at..at, (0..rng.usize(..20)).map(|_| rng.u8(..)).collect::<Vec<_>>())
                .for_each(drop),
            3 if at + 4 <= bytes.len() => {
                bytes[at..at + 4].copy_from_slice(&WORDS[rng.usize(..WORDS.len())].to_le_bytes());
            }
            4 => bytes.splice(at..at, *b"=== Truncated Data ===").for_each(drop),
            _ if at < bytes.len() => bytes[at] = rng.u8(..),
            _ => {}
        }
    }
    bytes
}

fn judged(bytes: &[u8], chunk: usize) -> String {
    let mut preflight = Preflight::new(PreflightMode::Framing);
    for chunk in bytes.chunks(chunk) {
        if let Err(refusal) = preflight.feed(chunk) {
            return kind(&refusal);
        }
    }
    preflight.finish().map_or_else(|refusal| kind(&refusal), |report| format!("{report:?}"))
}

/// Refused or not. Which rule speaks first may depend on how much had come when it spoke: Exchange's mark may still lie ahead.
fn kind(_: &restore_worker::fts::Refusal) -> String {
    "refused".into()
}

fn told(bytes: &[u8], chunk: usize) -> anyhow::Result<String> {
    let mut inspector = Inspector::default();
    bytes.chunks(chunk).for_each(|chunk| inspector.feed(chunk));
    Ok(serde_json::to_string(&inspector.finish())?)
}

fn text(bytes: &[u8], chunk: usize) -> Option<Vec<u8>> {
    let (mut decoder, mut out) = (Decoder::default(), Vec::new());
    for chunk in bytes.chunks(chunk) {
        decoder.feed(chunk, &mut out).ok()?;
    }
    decoder.finish(&mut out).ok()?;
    Some(out)
}

fn decoded(rng: &mut fastrand::Rng, bytes: &[u8], chunk: usize) -> anyhow::Result<bool> {
    let (compression, magic): (_, &[u8]) = match rng.u8(..3) {
        0 => (Compression::None, b""),
        1 => (Compression::Gzip, &[0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0]),
        _ => (Compression::Zstd, &[0x28, 0xB5, 0x2F, 0xFD]),
    };
    let encoding = if rng.bool() { Encoding::Raw } else { Encoding::Base64 };
    let stored = [magic, bytes].concat();
    let chunks: Vec<_> = stored.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let limits = Limits { output: 1 << 20, window: 1 << 20 };
    let decoded = decode(stream::iter(chunks), Form { compression, encoding }, limits);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    // At an error the stream ends.
    let items = runtime.block_on(decoded.collect::<Vec<_>>());
    Ok(items.iter().rev().skip(1).all(Result::is_ok))
}
