//! Percent-encoding, forms and times, as the services write them.

use std::fmt::Write as _;

use time::{OffsetDateTime, macros::format_description};

/// Undoes percent-encoding; `None` if it is broken or no UTF-8.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Percent-encodes all that is not allowed in a path segment; `:`, `@`, `(`, `)` stay, as in the documents'
/// import URLs, and `'` is encoded because it delimits the mailbox there.
pub(super) fn encode_segment(text: &str) -> String {
    encode(text, b"-._~:@()!$*+,;=")
}

/// Percent-encodes a query value.
pub(super) fn encode_query(text: &str) -> String {
    encode(text, b"-._~:(),")
}

fn encode(text: &str, keep: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(out, "%{byte:02X}").ok();
        }
    }
    out
}

/// The pairs of a form or a query, decoded; `None` if one is broken.
pub(super) fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(&key.replace('+', " "))?, decode(&value.replace('+', " "))?))
        })
        .collect()
}

/// The value of a key in pairs.
pub(super) fn value<'a>(pairs: &'a [(String, String)], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

/// Unix milliseconds as a date, clamped to what `time` can hold.
pub(super) fn moment(unix_ms: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// `2026-11-25T09:38:44Z`: items come with whole seconds (facts, section 6).
pub(super) fn whole_seconds(unix_ms: i64) -> String {
    moment(unix_ms)
        .format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
        .unwrap_or_default()
}

/// `2024-10-17T19:00:48.1052906Z`: sessions end with seven fractional digits (facts, section 2).
pub(super) fn seven_digits(unix_ms: i64) -> String {
    moment(unix_ms)
        .format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:7]Z"))
        .unwrap_or_default()
}

/// `Wed, 25 Nov 2026 09:38:44 GMT`: HTTP's date.
pub(super) fn http_date(unix_ms: i64) -> String {
    moment(unix_ms)
        .format(format_description!(
            "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
        ))
        .unwrap_or_default()
}

/// Reads an `OData` date (RFC 3339, or a bare day) as unix milliseconds, rounded up.
pub(super) fn parse_moment(text: &str) -> Option<i64> {
    let full = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00Z") };
    let date = OffsetDateTime::parse(&full, &time::format_description::well_known::Rfc3339).ok()?;
    i64::try_from((date.unix_timestamp_nanos() + 999_999).div_euclid(1_000_000)).ok()
}
