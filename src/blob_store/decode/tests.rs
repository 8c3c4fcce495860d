//! Every form in any chunking, and every way in which a form can be wrong.

use async_compression::{
    Level,
    tokio::write::{GzipEncoder, ZstdEncoder},
    zstd::CParameter,
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::domain::Fault;

const LIMITS: Limits = Limits { output: 1 << 20, window: 1 << 20 };

async fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(bytes).await.expect("into memory");
    encoder.shutdown().await.expect("into memory");
    encoder.into_inner()
}

async fn zstd(bytes: &[u8], window: u32) -> Vec<u8> {
    let mut encoder =
        ZstdEncoder::with_quality_and_params(Vec::new(), Level::Fastest, &[CParameter::window_log(window)]);
    encoder.write_all(bytes).await.expect("into memory");
    encoder.shutdown().await.expect("into memory");
    encoder.into_inner()
}

fn lines(bytes: &[u8], width: usize) -> Vec<u8> {
    BASE64_STANDARD.encode(bytes).as_bytes().chunks(width).flat_map(|line| [line, b"\r\n"].concat()).collect()
}

async fn undo(stored: &[u8], form: Form, chunk: usize) -> Result<Vec<u8>, RestoreError> {
    let chunks: Vec<_> = stored.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let mut decoded = decode(futures_util::stream::iter(chunks), form, LIMITS);
    let mut out = Vec::new();
    while let Some(chunk) = decoded.next().await {
        let chunk = chunk?;
        assert!(chunk.len() <= CHUNK + 3 || form == Form::default(), "a chunk of {} bytes", chunk.len());
        out.extend_from_slice(&chunk);
    }
    assert!(decoded.next().await.is_none(), "ends once");
    Ok(out)
}

fn form(compression: Compression, encoding: Encoding) -> Form {
    Form { compression, encoding }
}

async fn store(bytes: &[u8], form: Form, width: usize) -> Vec<u8> {
    let inner = match form.encoding {
        Encoding::Raw => bytes.to_vec(),
        Encoding::Base64 => lines(bytes, width),
    };
    match form.compression {
        Compression::None => inner,
        Compression::Gzip => gzip(&inner).await,
        Compression::Zstd => zstd(&inner, 20).await,
    }
}

const FORMS: [Form; 6] = [
    Form { compression: Compression::None, encoding: Encoding::Raw },
    Form { compression: Compression::None, encoding: Encoding::Base64 },
    Form { compression: Compression::Gzip, encoding: Encoding::Raw },
    Form { compression: Compression::Gzip, encoding: Encoding::Base64 },
    Form { compression: Compression::Zstd, encoding: Encoding::Raw },
    Form { compression: Compression::Zstd, encoding: Encoding::Base64 },
];

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_form_in_any_chunking_gives_the_bytes_back(
        seed in prop::collection::vec(any::<u8>(), 0..300), times in 1_usize..600,
        width in 1_usize..100, chunk in 1_usize..70_000,
    ) {
        let bytes = seed.repeat(times);
        for form in FORMS {
            let got = block_on(async { undo(&store(&bytes, form, width).await, form, chunk).await });
            prop_assert_eq!(got.as_ref().map(Vec::len), Ok(bytes.len()), "{:?}", form);
            prop_assert!(got.is_ok_and(|got| got == bytes), "{:?}", form);
        }
    }

    #[test]
    fn any_bytes_are_survived_in_every_form(bytes in prop::collection::vec(any::<u8>(), 0..300), chunk in 1_usize..70) {
        for form in FORMS {
            let magic: &[u8] = match form.compression {
                Compression::None => b"",
                Compression::Gzip => &[0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0],
                Compression::Zstd => &[0x28, 0xB5, 0x2F, 0xFD],
            };
            let stored = [magic, &bytes].concat();
            if let Err(error) = block_on(undo(&stored, form, chunk)) {
                prop_assert_eq!(error.fault, Fault::Job);
            }
        }
    }
}

#[tokio::test]
async fn what_does_not_decode_is_the_jobs_trouble() {
    use Compression::{Gzip, None, Zstd};
    use Encoding::{Base64, Raw};
    let bytes = vec![7; 100_000];
    let (gz, zst) = (gzip(&bytes).await, zstd(&bytes, 20).await);
    let mut flipped = gz.clone();
    if let Some(crc) = flipped.iter_mut().rev().nth(6) {
        *crc ^= 1;
    }
    let bomb = gzip(&vec![0; (1 << 20) * 3]).await;
    let blank = gzip(&vec![b'\n'; (1 << 20) * 3]).await;
    for (name, stored, form, reason, text) in [
        (
            "gzip cut short",
            gz[..gz.len() - 1].to_vec(),
            form(Gzip, Raw),
            "blob_corrupt",
            "gzip does not decode: it ends too early",
        ),
        ("gzip with a wrong sum", flipped, form(Gzip, Raw), "blob_corrupt", "gzip does not decode"),
        ("garbage behind gzip", [&gz[..], b"garbage"].concat(), form(Gzip, Raw), "blob_corrupt", "gzip"),
        ("zstd as gzip", zst.clone(), form(Gzip, Raw), "blob_corrupt", "gzip does not decode"),
        ("gzip as zstd", gz.clone(), form(Zstd, Raw), "blob_corrupt", "zstd does not decode"),
        (
            "zstd cut short",
            zst[..zst.len() - 2].to_vec(),
            form(Zstd, Raw),
            "blob_corrupt",
            "zstd does not decode",
        ),
        (
            "a window too large",
            zstd(&vec![7; 3 << 20], 21).await,
            form(Zstd, Raw),
            "blob_too_large",
            "storage.max_window",
        ),
        (
            "raw as base64",
            vec![1, 0, 0, 0, 8, 0, 0, 0],
            form(None, Base64),
            "blob_corrupt",
            "it looks like an exported item (raw FTS)",
        ),
        ("JSON as base64", b"{\"a\": 1}".to_vec(), form(None, Base64), "blob_corrupt", "it looks like JSON"),
        (
            "one character too many",
            b"aGVsb".to_vec(),
            form(None, Base64),
            "blob_corrupt",
            "base64_invalid: a single character",
        ),
        (
            "Exchange's mark",
            b"aGVs=== Truncated Data ===".to_vec(),
            form(None, Base64),
            "blob_not_fts",
            "truncation_mark",
        ),
        ("endless blanks", blank, form(Gzip, Base64), "blob_too_large", "storage.max_blob"),
    ] {
        let error = undo(&stored, form, 1000).await.expect_err(name);
        assert_eq!(error.reason.as_str(), reason, "{name}: {error}");
        assert!(error.message.contains(text), "{name}: {error}");
        assert_eq!(error.fault, Fault::Job, "{name}");
    }
    // Raw output has its limit in `verify`.
    assert_eq!(undo(&bomb, form(Gzip, Raw), 1000).await.map(|out| out.len()), Ok(3 << 20));
}

#[tokio::test]
async fn members_and_frames_follow_one_another() {
    let gz = [gzip(b"one ").await, gzip(b"two").await].concat();
    assert_eq!(undo(&gz, form(Compression::Gzip, Encoding::Raw), 5).await, Ok(b"one two".to_vec()));
    let zst = [zstd(b"one ", 10).await, zstd(b"two", 10).await].concat();
    assert_eq!(undo(&zst, form(Compression::Zstd, Encoding::Raw), 5).await, Ok(b"one two".to_vec()));
}

#[tokio::test]
async fn an_error_of_storage_comes_through_as_it_was() {
    for form in FORMS {
        let stored = store(b"hello, hello", form, 76).await;
        let broken = answer::passing("the object's bytes broke off");
        let chunks = vec![Ok(Bytes::copy_from_slice(&stored[..4])), Err(io::Error::other(broken.clone()))];
        let decoded = decode(futures_util::stream::iter(chunks), form, LIMITS);
        let last = decoded.collect::<Vec<_>>().await.pop();
        assert_eq!(last, Some(Err(broken)), "{form:?}");
    }
}

#[test]
fn windows_are_powers_of_two_within_the_setting() {
    for (window, log) in [(0, 10), (1 << 10, 10), (8 << 20, 23), ((8 << 20) - 1, 22), (u64::MAX, 31)] {
        assert_eq!(window_log(window), log);
    }
}
