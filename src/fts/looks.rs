//! What bytes that are no exported item look like: so that a refusal names the mix-up instead of a byte.

/// Names what `head` (the first bytes of an object; 16 are enough) looks like, if it is anything well known.
#[must_use]
pub fn looks_like(head: &[u8]) -> Option<&'static str> {
    const MAGIC: &[(&[u8], &str)] = &[
        (&[1, 0, 0, 0, 8, 0, 0, 0], "an exported item (raw FTS)"),
        (b"AQAAAAgAAAA", "base64 text of an exported item"),
        (&[0x1F, 0x8B], "gzip"),
        (&[0x28, 0xB5, 0x2F, 0xFD], "zstd"),
        (b"PK\x03\x04", "a zip archive"),
        (b"BZh", "bzip2"),
        (&[0xFD, b'7', b'z', b'X', b'Z'], "xz"),
        (&[0x04, 0x22, 0x4D, 0x18], "lz4"),
        (&[0xD0, 0xCF, 0x11, 0xE0], "an Outlook .msg or other OLE compound file"),
        (b"!BDN", "an Outlook .pst file"),
        (&[0x78, 0x9F, 0x3E, 0x22], "a TNEF attachment (winmail.dat)"),
        (b"%PDF", "a PDF"),
        (b"<?xml", "XML"),
        (b"<", "XML or HTML"),
        (b"{", "JSON"),
        (b"[", "JSON"),
        (b"From ", "an mbox file"),
        (b"Received:", "a MIME message"),
        (b"Return-Path:", "a MIME message"),
        (b"MIME-Version:", "a MIME message"),
        (b"Content-Type:", "a MIME message"),
        (b"Message-ID:", "a MIME message"),
        (b"From:", "a MIME message"),
        (b"Date:", "a MIME message"),
        (b"Subject:", "a MIME message"),
        (b"BEGIN:VCALENDAR", "an iCalendar file"),
        (b"BEGIN:VCARD", "a vCard"),
        (b"=== Truncated", "Exchange's mark of a truncated export"),
    ];
    if head.len() >= 8 && head.iter().all(|&byte| byte == 0) {
        return Some("zeros");
    }
    MAGIC.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::looks_like;

    #[test]
    fn mix_ups_are_named() {
        for (head, name) in [
            (b"AQAAAAgAAAAAAAAA".as_slice(), Some("base64 text of an exported item")),
            (b"\x1f\x8b\x08\0", Some("gzip")),
            (b"<html>", Some("XML or HTML")),
            (b"{\"a\":1}", Some("JSON")),
            (&[0; 16], Some("zeros")),
            (b"", None),
            (b"\x99\x98", None),
        ] {
            assert_eq!(looks_like(head), name);
        }
    }
}
