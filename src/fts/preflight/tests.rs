//! The rules as tables, and the laws.

use proptest::prelude::*;

use super::*;
use crate::fts::test_writer::{HEAD, Writer, record};

fn judge(mode: PreflightMode, bytes: &[u8], chunk: usize) -> Result<Report, Refusal> {
    let mut preflight = Preflight::new(mode);
    for chunk in bytes.chunks(chunk) {
        preflight.feed(chunk)?;
    }
    preflight.finish()
}

fn refusal(bytes: &[u8]) -> String {
    match judge(PreflightMode::Framing, bytes, 7) {
        Ok(_) => "passes".into(),
        Err(refusal) => format!("{}@{}", refusal.finding, refusal.at),
    }
}

fn warnings(bytes: &[u8]) -> Vec<String> {
    judge(PreflightMode::Framing, bytes, 7).expect("passes framing").findings.texts()
}

fn mail() -> Writer {
    Writer::mail("A subject").recipient(0, 1, "Anna", "anna@example.com").attachment(0, "a.txt", b"hello")
}

#[test]
fn what_a_writer_writes_passes_strictly() {
    let embedded = mail().embedded(1, &Writer::mail("inside"));
    for blob in [
        mail().blob(),
        embedded.blob(),
        mail().blob_in(60),
        Writer::mail("x").binary(0x1013, &vec![7; 100_000]).blob(),
    ] {
        let report = judge(PreflightMode::Strict, &blob, 1000).expect("passes");
        assert!(report.findings.is_empty());
        assert_eq!(report.identity.message_class.as_deref(), Some("IPM.Note"));
    }
}

#[test]
fn the_search_key_is_found_behind_a_large_body_and_an_embedded_one_is_not_taken() {
    let key = [9; 16];
    let inside = Writer::mail("inside").binary(0x300B, &[1; 16]);
    let blob = Writer::mail("x")
        .binary(0x1013, &vec![7; 200_000])
        .time(0x0E06, 116_444_736_000_000_000 + 10_000)
        .binary(0x300B, &key)
        .embedded(0, &inside)
        .blob();
    let identity = judge(PreflightMode::Framing, &blob, 4096).expect("passes").identity;
    assert_eq!(identity.search_key.as_deref(), Some(&key[..]));
    assert_eq!(identity.subject.as_deref(), Some("x"));
    assert_eq!(identity.delivery_time, Some(crate::domain::UnixMillis(1)));
}

#[test]
fn prefix_and_normalized_subject_stand_in_for_the_subject() {
    let blob = Writer::default().text(0x001A, "IPM.Note").text(0x003D, "Re: ").text(0x0E1D, "tea").blob();
    let identity = judge(PreflightMode::Framing, &blob, 50).expect("passes").identity;
    assert_eq!(identity.subject.as_deref(), Some("Re: tea"));
}

#[test]
fn refusals() {
    let good = mail().blob();
    let wide: Vec<u8> = "=== Truncated Data ===".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with = |tail: &[u8]| [&good, tail].concat();
    let end = good.len();
    for (name, bytes, expected) in [
        ("nothing", vec![], "empty@0".to_owned()),
        ("one byte", vec![1], "record_cut_short@0".to_owned()),
        ("another byte", vec![2], "wrong_head@0".to_owned()),
        ("JSON", b"{\"value\":[{\"itemId\":1}]}".to_vec(), "wrong_head@0".to_owned()),
        ("short text", b"hello wor".to_vec(), "wrong_head@0".to_owned()),
        ("its own base64", b"AQAAAAgAAAAAAAAAAQAAAAMAAAAYAAAA".to_vec(), "wrong_head@0".to_owned()),
        ("one byte too few", good[..end - 1].to_vec(), "record_cut_short@62".to_owned()),
        ("a header cut short", with(&[2, 0, 0]), format!("record_cut_short@{end}")),
        ("a record without payload", with(&[2, 0, 0, 0, 9, 0, 0, 0]), format!("record_cut_short@{end}")),
        ("the head only", HEAD.to_vec(), "no_content@62".to_owned()),
        ("an empty buffer only", [&HEAD[..], &record(2, b"")].concat(), "no_content@70".to_owned()),
        ("garbage behind", with(&[0xFF; 200]), format!("impossible_opcode@{end}")),
        ("a little garbage behind", with(&[0xFF; 20]), format!("impossible_opcode@{end}")),
        ("Exchange's mark", with(b"=== Truncated Data ==="), format!("truncation_mark@{end}")),
        ("Exchange's mark in UTF-16", with(&wide), format!("truncation_mark@{end}")),
        (
            "Exchange's mark inside a record",
            [&good[..100], b"=== Truncated Data ===\r\n"].concat(),
            "truncation_mark@100".to_owned(),
        ),
        ("only Exchange's mark", b"=== Truncated Data ===".to_vec(), "wrong_head@0".to_owned()),
    ] {
        assert_eq!(refusal(&bytes), expected, "{name}");
    }
}

#[test]
fn a_mix_up_is_named() {
    let refused = judge(PreflightMode::Framing, b"AQAAAAgAAAAAAAAAAQAAAA", 3).expect_err("refused");
    assert_eq!(
        refused.to_string(),
        "wrong_head at byte 0: does not begin as an exported item does; it looks like base64 text of an exported item"
    );
}

#[test]
fn a_mark_in_the_middle_is_content() {
    let blob = Writer::mail("=== Truncated Data ===").binary(0x1013, &[0; 200]).blob();
    assert_eq!(refusal(&blob), "passes");
}

#[test]
fn off_refuses_and_tells_nothing() {
    for bytes in [b"".as_slice(), b"hello world, this is no item", &HEAD] {
        let report = judge(PreflightMode::Off, bytes, 5).expect("passes");
        assert!(report.findings.is_empty());
    }
    let report = judge(PreflightMode::Off, &mail().blob(), 5).expect("passes");
    assert_eq!(report.identity.subject.as_deref(), Some("A subject"));
}

#[test]
fn warnings_do_not_refuse_unless_strict() {
    let head_and = |records: &[Vec<u8>]| [&HEAD[..], &records.concat()].concat();
    let class = |w: &Writer| w.blob()[70..].to_vec();
    let inner = class(&Writer::mail("x"));
    for (name, blob, finding) in [
        ("an unknown record", head_and(&[record(2, &inner), record(99, b"abc")]), "unknown_opcode"),
        ("records in another order", [&HEAD[16..48], &record(2, &inner)].concat(), "wrong_head"),
        ("Config twice", [&HEAD[..16], &HEAD[..], &record(2, &inner)].concat(), "record_order"),
        (
            "another constant",
            {
                let mut h = HEAD;
                h[44] = 1;
                [&h[..], &record(2, &inner)].concat()
            },
            "envelope_constant",
        ),
        (
            "an old server",
            {
                let mut h = HEAD;
                h[57] = 8;
                [&h[..], &record(2, &inner)].concat()
            },
            "old_server",
        ),
        ("an empty buffer", head_and(&[record(2, &inner), record(2, b"")]), "empty_buffer"),
        ("an element cut short", head_and(&[record(2, &inner[..inner.len() - 1])]), "element_cut_short"),
        (
            "an open recipient",
            Writer::mail("x").marker(0x4003_0003).word(0x3000_0003, 0).blob(),
            "markers_unbalanced",
        ),
        ("an unknown type", Writer::mail("x").word(0x0001_0001, 0).blob(), "unknown_type"),
        ("an end without beginning", Writer::mail("x").marker(0x4004_0003).blob(), "marker_out_of_place"),
        (
            "an embedded message outside an attachment",
            Writer::mail("x").marker(0x4001_0003).marker(0x4002_0003).blob(),
            "marker_out_of_place",
        ),
        (
            "a recipient without row id",
            Writer::mail("x").marker(0x4003_0003).text(0x3001, "a").marker(0x4004_0003).blob(),
            "first_property_missing",
        ),
        ("a folder", Writer::mail("x").marker(0x4009_0003).blob(), "foreign_marker"),
        ("an error of the exporter", Writer::mail("x").word(0x400F_0003, 5).blob(), "error_info"),
        ("an atom split", head_and(&[record(2, &inner[..2]), record(2, &inner[2..])]), "atom_split"),
        (
            "a string without zero",
            Writer::mail("x").raw(b"\xB0\x84\x01\x10\x02\0\0\0a\0").blob(),
            "string_unterminated",
        ),
        ("no class", Writer::default().text(0x0037, "x").blob(), "no_message_class"),
        (
            "a full last buffer",
            Writer::mail("x").binary(0x1013, &vec![0; 31_680 - inner.len() - 8]).blob(),
            "last_buffer_full",
        ),
        (
            "251 attachments",
            (0..251).fold(Writer::mail("x"), |w, n| w.attachment(n, "a", b"")).blob(),
            "too_many_attachments",
        ),
        (
            "31 deep",
            (0..31).fold(Writer::mail("x"), |w, _| Writer::mail("x").embedded(0, &w)).blob(),
            "too_deep",
        ),
        (
            "65 deep",
            (0..65).fold(Writer::mail("x"), |w, _| Writer::mail("x").embedded(0, &w)).blob(),
            "too_deep",
        ),
    ] {
        let strict = judge(PreflightMode::Strict, &blob, 9).expect_err(name);
        if finding == "wrong_head" {
            assert_eq!(strict.finding, Finding::WrongHead, "{name}");
            continue;
        }
        let found = warnings(&blob);
        assert!(found.iter().any(|f| f.starts_with(finding)), "{name}: {found:?}");
    }
}

#[test]
fn a_cut_at_every_length_is_refused_or_warned_about() {
    let blob = mail().embedded(1, &Writer::mail("inside")).blob_in(300);
    let missed: Vec<usize> =
        (0..blob.len()).filter(|&n| judge(PreflightMode::Strict, &blob[..n], 50).is_ok()).collect();
    assert!(missed.len() <= 1, "cuts that nothing shows: {missed:?} of {}", blob.len());
}

proptest! {
    #[test]
    fn any_bytes_are_survived_and_judged_the_same_in_any_chunks(bytes in prop::collection::vec(any::<u8>(), 0..400), chunk in 1_usize..40) {
        let blob = [&HEAD[..], &record(2, &bytes), &bytes].concat();
        let whole = judge(PreflightMode::Framing, &blob, blob.len());
        prop_assert_eq!(&whole, &judge(PreflightMode::Framing, &blob, chunk));
    }

    #[test]
    fn a_valid_stream_passes_in_any_buffers_and_chunks(
        subject in "\\PC{0,40}", body in 0_usize..3000, buffer in 50_usize..2000, chunk in 1_usize..700,
    ) {
        let blob = Writer::mail(&subject).binary(0x1013, &vec![3; body]).recipient(0, 1, "A", "a@b").blob_in(buffer);
        let report = judge(PreflightMode::Strict, &blob, chunk);
        prop_assert!(report.is_ok(), "{:?}", report);
        prop_assert_eq!(report.expect("checked").identity.subject, Some(subject));
    }
}
