//! Base64 text undone as a stream, line breaks and all.
//!
//! Takes what any decoder would take (rule R3): white space anywhere, padding or none. Refuses a character outside the
//! alphabet, data behind the padding, and a last character that stands alone.

use std::fmt;

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// How much text behind a fault is looked at for Exchange's mark of a truncated export.
const WINDOW: usize = 64;
/// The part of `=== Truncated Data ===` that is no base64.
const MARK: &[u8] = b"Truncated Data";

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Why text is no base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A character outside the alphabet.
    Character,
    /// Data behind the padding, or padding where none can be.
    Padding,
    /// The last group has one character.
    Length,
    /// Exchange's mark of a truncated export: export again.
    TruncationMark,
}

/// Where text stops being base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecodable {
    /// Why.
    pub fault: Fault,
    /// At which byte of the text.
    pub at: u64,
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.fault {
            Fault::Character => "a character that is no base64",
            Fault::Padding => "data behind the padding, or padding in the wrong place",
            Fault::Length => "a single character in the last group",
            Fault::TruncationMark => "Exchange's mark of a truncated export",
        };
        write!(f, "{why} at byte {} of the text", self.at)
    }
}

impl std::error::Error for Undecodable {}

/// The decoder. Memory: one input chunk's worth of text.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Data characters that wait for their group; between two feeds fewer than four.
    text: Vec<u8>,
    padding: usize,
    taken: u64,
    fault: Option<Undecodable>,
    /// What stands behind the fault.
    behind: Vec<u8>,
}

impl Decoder {
    /// Decodes `input` and appends the bytes to `out`.
    ///
    /// # Errors
    /// [`Undecodable`], as soon as a window of bytes behind the fault have been seen; else [`Self::finish`] tells it.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Undecodable> {
        let mut rest = input;
        while self.fault.is_none() && !rest.is_empty() {
            let run = alphabet_run(rest);
            self.data(&rest[..run], out);
            if self.fault.is_none()
                && let Some(&byte) = rest.get(run)
            {
                self.other(byte);
                self.taken += u64::from(self.fault.is_none());
                rest = if self.fault.is_none() { &rest[run + 1..] } else { &rest[run..] };
            } else if self.fault.is_none() {
                rest = &[];
            }
        }
        self.look_behind(rest)
    }

    /// Decodes the last group.
    ///
    /// # Errors
    /// [`Undecodable`], when the text is no base64.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Undecodable> {
        if self.fault.is_none() && self.text.len() == 1 {
            self.fail(Fault::Length);
        }
        if self.fault.is_some() {
            return self.verdict();
        }
        let text = std::mem::take(&mut self.text);
        self.decode(&text, out);
        self.verdict()
    }

    /// A run of characters of the alphabet.
    fn data(&mut self, mut run: &[u8], out: &mut Vec<u8>) {
        if run.is_empty() {
            return;
        }
        if self.padding > 0 {
            return self.fail(Fault::Padding);
        }
        self.taken += run.len() as u64;
        if !self.text.is_empty() {
            let (head, tail) = run.split_at((4 - self.text.len()).min(run.len()));
            self.text.extend_from_slice(head);
            run = tail;
            if self.text.len() < 4 {
                return;
            }
            let group = std::mem::take(&mut self.text);
            self.decode(&group, out);
        }
        let (whole, part) = run.split_at(run.len() - run.len() % 4);
        self.decode(whole, out);
        self.text.extend_from_slice(part);
    }

    /// A character outside the alphabet: white space, padding or a fault.
    fn other(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'=' if self.text.len() >= 2 && self.text.len() + self.padding < 4 => self.padding += 1,
            b'=' => self.fail(Fault::Padding),
            _ if self.padding > 0 => self.fail(Fault::Padding),
            _ => self.fail(Fault::Character),
        }
    }

    fn fail(&mut self, fault: Fault) {
        self.fault = Some(Undecodable { fault, at: self.taken });
    }

    /// Decodes characters of the alphabet; their number cannot be wrong here.
    fn decode(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + text.len().div_ceil(4) * 3, 0);
        if let Ok(written) = ENGINE.decode_slice_unchecked(text, &mut out[start..]) {
            out.truncate(start + written);
        } else {
            out.truncate(start);
            self.fail(Fault::Character);
        }
    }

    fn look_behind(&mut self, rest: &[u8]) -> Result<(), Undecodable> {
        if self.fault.is_none() {
            return Ok(());
        }
        let room = WINDOW.saturating_sub(self.behind.len()).min(rest.len());
        self.behind.extend_from_slice(&rest[..room]);
        if self.behind.len() < WINDOW { Ok(()) } else { self.verdict() }
    }

    fn verdict(&self) -> Result<(), Undecodable> {
        match self.fault {
            None => Ok(()),
            Some(found) if self.behind.windows(MARK.len()).any(|w| w == MARK) => {
                Err(Undecodable { fault: Fault::TruncationMark, ..found })
            }
            Some(found) => Err(found),
        }
    }
}

/// How many characters of the alphabet `text` begins with. Whole blocks first: without a branch per byte the compiler
/// makes vector instructions of it.
fn alphabet_run(text: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let blocks =
        text.chunks_exact(BLOCK).take_while(|block| block.iter().fold(true, |all, &b| all & is_alphabet(b)));
    let run = blocks.count() * BLOCK;
    run + text[run..].iter().take_while(|&&b| is_alphabet(b)).count()
}

#[expect(clippy::needless_bitwise_bool, reason = "a branch per byte costs half the speed")]
const fn is_alphabet(byte: u8) -> bool {
    let lower = byte | 0x20;
    (lower.wrapping_sub(b'a') < 26) | (byte.wrapping_sub(b'0') < 10) | (byte == b'+') | (byte == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, Undecodable> {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for chunk in chunks {
            decoder.feed(chunk, &mut out)?;
        }
        decoder.finish(&mut out)?;
        Ok(out)
    }

    #[test]
    fn texts_and_what_becomes_of_them() {
        use Fault::{Character, Length, Padding, TruncationMark};
        for (text, expected) in [
            ("", Ok("")),
            ("aGVsbG8=", Ok("hello")),
            ("aGVsbG8", Ok("hello")),
            ("aGVs\r\nbG8=\r\n", Ok("hello")),
            (" aGVs bG 8 = ", Ok("hello")),
            ("aA==", Ok("h")),
            ("aA= =", Ok("h")),
            ("aGVsbG8=a", Err((Padding, 8))),
            ("aGVs=", Err((Padding, 4))),
            ("aG===", Err((Padding, 4))),
            ("a=", Err((Padding, 1))),
            ("aGVsb", Err((Length, 5))),
            ("aGV-", Err((Character, 3))),
            ("{\"a\":1}", Err((Character, 0))),
            ("aGVs\0", Err((Character, 4))),
            ("aGVs=== Truncated Data ===", Err((TruncationMark, 4))),
            ("aGVsbA=== Truncated Data ===\n", Err((TruncationMark, 8))),
        ] {
            let got = decode([text.as_bytes()]).map_err(|u| (u.fault, u.at));
            assert_eq!(got, expected.map(|text| text.as_bytes().to_vec()), "{text:?}");
        }
    }

    #[test]
    fn the_alphabet_is_the_standard_one() {
        let standard = base64::alphabet::STANDARD.as_str().as_bytes();
        assert!((0..=u8::MAX).all(|byte| is_alphabet(byte) == standard.contains(&byte)));
    }

    #[test]
    fn a_fault_is_told_before_the_text_ends() {
        let text = format!("aGVs!{}", "a".repeat(100));
        let found = Decoder::default().feed(text.as_bytes(), &mut Vec::new()).expect_err("a fault");
        assert_eq!(found, Undecodable { fault: Fault::Character, at: 4 });
    }

    proptest! {
        #[test]
        fn any_chunking_equals_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..500),
            line in 1_usize..100,
            chunk in 1_usize..70,
        ) {
            let text = BASE64_STANDARD.encode(&bytes);
            let lines: Vec<u8> = text.as_bytes().chunks(line).flat_map(|l| [l, b"\r\n"].concat()).collect();
            prop_assert_eq!(decode(lines.chunks(chunk)), Ok(bytes));
        }

        #[test]
        fn any_text_is_judged_the_same_in_any_chunks(text in "[A-D=\n! ]{0,90}", chunk in 1_usize..20) {
            prop_assert_eq!(decode([text.as_bytes()]), decode(text.as_bytes().chunks(chunk)));
        }
    }
}
