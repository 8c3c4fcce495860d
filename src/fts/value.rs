//! What the bytes of a property's value mean.

use crate::domain::UnixMillis;

use super::tags::{CODE_PAGE, STRING};

/// UTF-16LE as a code page.
const UTF16: u16 = 1200;
/// 100 ns steps between 1601 and 1970.
const FILETIME_OF_1970: i64 = 116_444_736_000_000_000;
/// 100 ns steps in a millisecond.
const STEPS_PER_MILLI: i64 = 10_000;

/// Text of a string property, without its closing zeros. What cannot be decoded becomes U+FFFD.
pub(super) fn text(kind: u16, bytes: &[u8]) -> String {
    let text = if kind == STRING || kind == CODE_PAGE | UTF16 { utf16(bytes) } else { western(bytes) };
    text.trim_end_matches('\0').to_owned()
}

pub(super) fn utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Code pages other than UTF-16 are read as Windows-1252, the only other one ever seen; the bytes that differ between the
/// western pages are few.
fn western(bytes: &[u8]) -> String {
    const C1: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
        '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    bytes
        .iter()
        .map(|&b| if (0x80..0xA0).contains(&b) { C1[usize::from(b - 0x80)] } else { char::from(b) })
        .collect()
}

/// A FILETIME; `None` when it is not 8 bytes or out of range.
pub(super) fn time(bytes: &[u8]) -> Option<UnixMillis> {
    let steps = i64::from_le_bytes(bytes.try_into().ok()?);
    (steps > 0).then(|| UnixMillis(steps.saturating_sub(FILETIME_OF_1970).div_euclid(STEPS_PER_MILLI)))
}

/// An Integer32 or Integer16, unsigned.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    match *bytes {
        [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d])),
        [a, b] => Some(u32::from(u16::from_le_bytes([a, b]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        assert_eq!(text(0x84B0, b"I\0P\0M\0\0\0"), "IPM");
        assert_eq!(text(0x84E4, b"\x80 5\0"), "€ 5");
        assert_eq!(text(0x001F, b"\0\xD8x"), "\u{FFFD}");
        assert_eq!(time(&116_444_736_000_000_000_i64.to_le_bytes()), Some(UnixMillis(0)));
        assert_eq!(time(&(116_444_736_000_000_000_i64 + 12_345_678).to_le_bytes()), Some(UnixMillis(1_234)));
        assert_eq!(time(b"short"), None);
        assert_eq!(number(&[1, 0, 0, 0]), Some(1));
    }
}
