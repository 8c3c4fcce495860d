//! What a person sees.

use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::*;
use crate::fts::test_writer::Writer;

fn chunks(bytes: &[u8]) -> Chunks {
    let chunks: Vec<_> = bytes.chunks(50).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    Box::pin(stream::iter(chunks))
}

fn mail() -> Vec<u8> {
    Writer::mail("Tea at five")
        .time(0x0039, 129_145_824_000_000_000)
        .text(0x0C1A, "Anna Berg")
        .text(0x5D01, "anna@example.com")
        .word(0x0E07_0003, 0x11)
        .binary(0x1013, &vec![7; 20_000])
        .recipient(0, 1, "Bo", "bo@example.com")
        .attachment(0, "plan.pdf", &vec![1; 2_000_000])
        .embedded(1, &Writer::mail("Re: old"))
        .blob()
}

#[test]
fn sources_are_told_apart() {
    for (text, source) in [
        ("-", Ok(Source::Stdin)),
        ("a/b.fts", Ok(Source::File("a/b.fts".into()))),
        ("s3://b/k/x.fts", Ok(Source::Object { bucket: "b".into(), key: "k/x.fts".into() })),
        ("s3://b", Err("an object is written s3://bucket/key".to_owned())),
        ("s3:///k", Err("an object is written s3://bucket/key".to_owned())),
    ] {
        assert_eq!(text.parse::<Source>(), source);
    }
}

#[tokio::test]
async fn the_text_of_a_mail() {
    let text = render::text(&inspect(chunks(&mail())).await);
    let sha256 =
        text.lines().find_map(|line| line.trim().strip_prefix("sha256")).expect("told").trim().to_owned();
    let expected = "\
Tea at five

  class         IPM.Note
  from          Anna Berg <anna@example.com>
  to            Bo <bo@example.com>
  sent          2010-04-01 08:00:00 UTC
  marks         read, has attachments
  body          HTML 19.5 KiB

  2 attachments
       1.9 MiB  plan.pdf
                (no name) (embedded IPM.Note: Re: old)

  size          1.9 MiB (2,020,962 bytes)
  sha256        SHA
  exported by   Exchange Online (15.20.4566.6022)
  stream        67 records, 64 transfer buffers holding 1.9 MiB; 21 properties

  ✓ a whole item, nothing to remark
"
    .replace("SHA", &sha256);
    assert_eq!(text, expected, "\n{text}");
}

#[tokio::test]
async fn any_stored_form_gives_the_same_item() {
    use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
    use tokio::io::AsyncReadExt as _;
    let mail = mail();
    let plain = inspect(chunks(&mail)).await;
    let (mut gzip, mut zstd) = (Vec::new(), Vec::new());
    GzipEncoder::new(&*mail).read_to_end(&mut gzip).await.expect("into memory");
    ZstdEncoder::new(&*mail).read_to_end(&mut zstd).await.expect("into memory");
    let text = format!("\r\n {}", BASE64_STANDARD.encode(&mail));
    let text_of_gzip = BASE64_STANDARD.encode(&gzip);
    for (form, stored) in [
        ("gzip", gzip),
        ("zstd", zstd),
        ("base64", text.into_bytes()),
        ("base64 of gzip", text_of_gzip.into_bytes()),
    ] {
        let got = inspect(chunks(&stored)).await;
        assert_eq!(got.stored_as.join(" of "), form);
        assert_eq!(
            (got.item, got.sha256, got.broken),
            (plain.item.clone(), plain.sha256.clone(), None),
            "{form}"
        );
    }
}

#[tokio::test]
async fn what_is_no_item_is_told_and_no_error() {
    for (bytes, says) in [
        (b"{\"a\": [1, 2, 3, 4]}".to_vec(), "it looks like JSON"),
        (Vec::new(), "✗ empty (byte 0)"),
        (vec![0x1F, 0x8B, 8, 0, 0], "cannot be read to its end: gzip does not decode"),
        (mail()[..5_000].to_vec(), "✗ record_cut_short (byte 62)"),
    ] {
        let text = render::text(&inspect(chunks(&bytes)).await);
        assert!(text.contains(says) && text.ends_with("✗ would not be restored\n"), "{text}");
    }
}

#[tokio::test]
async fn json_holds_what_the_text_holds() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fts/ews-exportitems-op-3.b64");
    let args = Args { source: Source::File(path.into()), json: true };
    let json = report(&args, || async { bail!("no storage here") }).await.expect("printed");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["messageClass"], "IPM.Note");
    assert_eq!(json["subject"], "Interesting - from EWSMA");
    assert_eq!(json["envelope"]["serverVersion"], "14.1.139.0");
    assert_eq!(json["restorable"], false);
    assert_eq!(json["findings"][0]["finding"], "record_cut_short");
    assert_eq!(json["storedAs"][0], "base64");
}
