//! The verdict comes before the last bytes.

use proptest::prelude::*;

use super::*;
use crate::{blob_store::testing, domain::Fault, fts::test_writer::Writer};

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::register("0", "test").expect("registers"))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&SHA256, bytes).as_ref().try_into().expect("32 bytes")
}

fn expected(length: Option<u64>, size: Option<u64>, sha256: Option<[u8; 32]>) -> Expected {
    let blob = BlobRef { size, sha256, ..testing::blob("b", "k") };
    Expected::of(&blob, length, 10_000)
}

/// What came out before the end, the end's error, and the facts.
async fn pass(
    bytes: &[u8],
    chunk: usize,
    expected: Expected,
) -> (usize, Option<RestoreError>, Option<Facts>) {
    let chunks: Vec<_> = bytes.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let facts = BlobFacts::default();
    let decoded = Box::pin(futures_util::stream::iter(chunks));
    let mut verify = Verify::new(decoded, expected, PreflightMode::Framing, facts.clone(), metrics());
    let mut count = 0;
    while let Some(chunk) = verify.next().await {
        match chunk {
            Ok(chunk) => {
                assert!(
                    facts.get().is_some() || count + chunk.len() < bytes.len(),
                    "the last bytes before the verdict"
                );
                count += chunk.len();
            }
            Err(error) => {
                assert!(verify.next().await.is_none());
                return (count, Some(error), facts.get());
            }
        }
    }
    (count, None, facts.get())
}

#[tokio::test]
async fn a_blob_that_fails_never_comes_out_whole() {
    let good = Writer::mail("x").binary(0x1013, &[5; 2_000]).blob();
    let cut = good[..good.len() - 1].to_vec();
    let (length, digest) = (good.len() as u64, sha256(&good));
    let of = |length, size, sha| expected(length, size, sha);
    for (name, bytes, expected, reason) in [
        ("good", &good, of(Some(length), None, None), "ok"),
        ("good, all told", &good, of(Some(length), Some(length), Some(digest)), "ok"),
        ("good, nothing told", &good, of(None, None, None), "ok"),
        ("another digest", &good, of(Some(length), None, Some([0; 32])), "blob_corrupt"),
        ("too few", &cut, of(Some(length), None, None), "blob_corrupt"),
        ("too many", &good, of(Some(length - 1), None, None), "blob_corrupt"),
        ("another size", &good, of(None, Some(length + 1), None), "blob_corrupt"),
        ("no FTS", &vec![b'x'; 5_000], of(None, None, None), "blob_not_fts"),
        ("cut short before it was stored", &cut, of(Some(length - 1), None, None), "blob_not_fts"),
        ("a large one", &[&good[..], &vec![0; 9_000]].concat(), of(None, None, None), "blob_too_large"),
    ] {
        for chunk in [1, 7, 100, 20_000] {
            let (count, error, facts) = pass(bytes, chunk, expected.clone()).await;
            if reason == "ok" {
                assert_eq!((count, &error), (bytes.len(), &None), "{name}");
                assert_eq!(facts.map(|facts| (facts.bytes, facts.sha256)), Some((length, digest)), "{name}");
            } else {
                let error = error.expect(name);
                assert_eq!((error.reason.as_str(), error.fault), (reason, Fault::Job), "{name}: {error}");
                assert!(count < bytes.len() && facts.is_none(), "{name}: all came out");
            }
        }
    }
}

#[tokio::test]
async fn another_digest_in_the_second_pass_means_that_the_object_changed() {
    let first = Writer::mail("x").blob();
    let (_, _, facts) = pass(&first, 9, expected(None, None, None)).await;
    let again = Expected::again(&facts.expect("passed"));
    for other in [Writer::mail("y").blob(), Writer::mail("longer").blob(), first[..first.len() - 1].to_vec()]
    {
        let (_, error, _) = pass(&other, 9, again.clone()).await;
        assert_eq!(error.map(|error| error.reason.as_str()), Some("storage_unavailable"));
    }
    assert_eq!(pass(&first, 9, again).await.1, None);
}

#[tokio::test]
async fn findings_are_told_and_counted_once() {
    let blob = Writer::default().text(0x0037, "no class").blob();
    let metrics = metrics();
    let facts = BlobFacts::default();
    let decoded = Box::pin(futures_util::stream::iter([Ok(Bytes::from(blob))]));
    let verify = Verify::new(
        decoded,
        expected(None, None, None),
        PreflightMode::Framing,
        facts.clone(),
        Arc::clone(&metrics),
    );
    let chunks: Vec<_> = verify.collect().await;
    assert!(chunks.iter().all(Result::is_ok));
    assert_eq!(facts.get().expect("passed").findings, ["no_message_class at byte 26"]);
    assert_eq!(metrics.preflight_findings.with_label_values(&["no_message_class"]).get(), 1);
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_bytes_and_facts(chunk in 1_usize..5_000, body in 0_usize..4_000) {
        let blob = Writer::mail("x").binary(0x1013, &vec![1; body]).blob();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (count, error, facts) = runtime.block_on(pass(&blob, chunk, expected(None, None, None)));
        prop_assert_eq!((count, error), (blob.len(), None));
        prop_assert_eq!(facts.map(|facts| facts.sha256), Some(sha256(&blob)));
    }
}
