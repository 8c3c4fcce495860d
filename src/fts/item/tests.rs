//! Items that a writer writes, and the samples that Microsoft published.

use base64::Engine as _;
use proptest::prelude::*;

use super::*;
use crate::fts::{
    tags::sets,
    test_writer::{HEAD, Writer, record},
};

fn inspect(bytes: &[u8], chunk: usize) -> Item {
    let mut inspector = Inspector::default();
    for chunk in bytes.chunks(chunk) {
        inspector.feed(chunk);
    }
    inspector.finish()
}

#[test]
fn everything_of_a_mail_is_shown() {
    let mail = Writer::mail("Tea at five")
        .time(0x0039, 129_145_824_000_000_000)
        .text(0x0042, "Anna Berg")
        .text(0x0065, "/O=ORG/CN=ANNA")
        .text(0x0C1A, "Desk")
        .text(0x5D01, "desk@example.com")
        .text(0x5D02, "anna@example.com")
        .time(0x0E06, 129_145_824_600_000_000)
        .word(0x0E07_0003, 0x11)
        .text(0x1000, "Hello")
        .binary(0x1013, &vec![7; 50_000])
        .text(0x1035, "<1@example.com>")
        .binary(0x300B, &[0xAB; 16])
        .named_text(sets::APPOINTMENT, 0x8208, "Room 5")
        .recipient(0, 1, "Bo", "bo@example.com")
        .recipient(1, 2, "", "cc@example.com")
        .attachment(0, "plan.pdf", &vec![1; 40_000])
        .embedded(1, &Writer::mail("Re: old").attachment(0, "inner.txt", b"x"));
    let item = inspect(&mail.blob(), 777);
    assert!(item.restorable && item.findings.is_empty(), "{:?}", item.findings);
    assert_eq!(item.envelope.server_version.as_deref(), Some("15.20.4566.6022"));
    assert_eq!(item.subject.as_deref(), Some("Tea at five"));
    assert_eq!(item.submitted.as_deref(), Some("2010-04-01T08:00:00Z"));
    assert_eq!(item.delivered.as_deref(), Some("2010-04-01T08:01:00Z"));
    assert_eq!(item.flags, ["read", "has_attachments"]);
    assert_eq!(item.search_key.as_deref(), Some("ab".repeat(16).as_str()));
    assert_eq!(item.internet_message_id.as_deref(), Some("<1@example.com>"));
    assert_eq!(item.sender.and_then(|p| p.address).as_deref(), Some("desk@example.com"));
    assert_eq!(item.on_behalf_of.and_then(|p| p.address).as_deref(), Some("anna@example.com"));
    assert_eq!((item.bodies.text, item.bodies.html), (Some(12), Some(50_000)));
    assert_eq!(item.details, [("location", "Room 5".to_owned())]);
    let kinds: Vec<_> = item.recipients.first.iter().map(|r| (r.kind, r.person.address.as_deref())).collect();
    assert_eq!(kinds, [("to", Some("bo@example.com")), ("cc", Some("cc@example.com"))]);
    assert_eq!((item.attachments.count, item.embedded_messages), (2, 1));
    let [file, embedded] = &*item.attachments.first else { unreachable!("two") };
    assert_eq!(
        (file.name.as_deref(), file.size, file.method),
        (Some("plan.pdf"), Some(40_000), Some("file"))
    );
    assert_eq!((embedded.subject.as_deref(), embedded.method), (Some("Re: old"), Some("embedded")));
}

#[test]
fn an_unknown_type_is_told_and_no_failure() {
    let item = inspect(&Writer::mail("x").word(0x0001_0001, 0).text(0x1035, "lost").blob(), 10);
    assert!(item.restorable);
    assert_eq!((item.subject.as_deref(), item.internet_message_id), (Some("x"), None));
    assert!(item.not_understood_from.is_some());
}

#[test]
fn lists_end_but_the_count_goes_on() {
    let many = (0..600).fold(Writer::mail("x"), |w, n| w.recipient(n, 1, "a", "a@b"));
    let item = inspect(&many.blob(), 5_000);
    assert_eq!((item.recipients.count, item.recipients.first.len()), (600, MAX_LISTED));
}

fn sample(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/fts/{name}.b64", env!("CARGO_MANIFEST_DIR"));
    let text: String = std::fs::read_to_string(path).expect("a fixture").split_whitespace().collect();
    // One of them was cut inside a group.
    let whole = text.len() - usize::from(text.len() % 4 == 1);
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    engine.decode(&text[..whole]).expect("base64")
}

#[test]
fn every_sample_is_refused_and_yet_shown() {
    for (name, finding, version, class, subject, properties, embedded) in [
        ("graph-import-docs", "record_cut_short", Some("15.20.4566.6022"), None, None, 2, 0),
        ("graph-export-docs-1", "no_content", Some("15.20.4608.6018"), None, None, 0, 0),
        ("graph-export-docs-2", "wrong_head", None, Some("IPM.Note"), None, 6, 0),
        ("ews-exportitems-op-1", "impossible_opcode", None, None, None, 3, 0),
        ("ews-exportitems-op-2", "impossible_opcode", None, None, None, 23, 1),
        (
            "ews-exportitems-op-3",
            "record_cut_short",
            Some("14.1.139.0"),
            Some("IPM.Note"),
            Some("Interesting - from EWSMA"),
            11,
            0,
        ),
        ("ews-uploaditems-op-1", "record_cut_short", Some("14.1.164.0"), Some("IPM.Note"), None, 8, 0),
        (
            "ews-uploaditems-op-2",
            "record_cut_short",
            Some("14.1.164.0"),
            Some("IPM.Note"),
            Some("Interesting - from EWSMA"),
            9,
            0,
        ),
        ("ews-howto-export-1", "impossible_opcode", None, None, None, 2, 0),
    ] {
        let bytes = sample(name);
        let mut preflight = Preflight::new(PreflightMode::Framing);
        let refusal = preflight.feed(&bytes).and_then(|()| preflight.finish().map(drop)).expect_err(name);
        assert_eq!(refusal.finding.as_str(), finding, "{name}");
        for chunk in [1, 13, 10_000] {
            let item = inspect(&bytes, chunk);
            assert!(!item.restorable, "{name}");
            assert_eq!(item.envelope.server_version.as_deref(), version, "{name}");
            assert_eq!(item.message_class.as_deref(), class, "{name}");
            assert_eq!(item.subject.as_deref(), subject, "{name}");
            assert_eq!((item.properties, item.embedded_messages), (properties, embedded), "{name}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), chunk in 1_usize..40, framed: bool) {
        let blob = if framed { [&HEAD[..], &record(2, &bytes)].concat() } else { bytes };
        prop_assert_eq!(inspect(&blob, chunk), inspect(&blob, 10_000));
    }

    #[test]
    fn any_one_changed_byte_is_survived(at in 0_usize..400, byte: u8) {
        let mut blob = Writer::mail("x").recipient(0, 1, "a", "b").embedded(0, &Writer::mail("y")).blob();
        let at = at % blob.len();
        blob[at] = byte;
        prop_assert_eq!(inspect(&blob, 3), inspect(&blob, 10_000));
    }
}
