//! The closed list of what can be wrong with a stream, and the tally of what was.

use std::fmt;

/// Declares the list once: variant, word, sentence.
macro_rules! findings {
    ($($(#[$group:meta])* $name:ident $word:literal $why:literal,)*) => {
        /// One thing that can be wrong with a stream. The word is a metric label and part of events.
        ///
        /// Source: "Preflight rules" R1–R7 and W1–W8 of the format's fact sheet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Finding {
            $(#[doc = $why] $name,)*
        }

        impl Finding {
            /// Every finding, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word: `snake_case`, unique.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// What it means, for a person.
            #[must_use]
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$name => $why,)* }
            }
        }
    };
}

findings! {
    Empty "empty" "zero bytes",
    WrongHead "wrong_head" "does not begin as an exported item does",
    Base64Invalid "base64_invalid" "the base64 text cannot be decoded",
    RecordCutShort "record_cut_short" "the bytes end inside a record",
    NoContent "no_content" "no transfer buffer holds any byte",
    TruncationMark "truncation_mark" "Exchange cut this export short: export the item again",
    ImpossibleOpcode "impossible_opcode" "a record of no possible kind: the framing is lost",
    RecordOrder "record_order" "the records do not come in the known order",
    EnvelopeConstant "envelope_constant" "a record of the head differs from every known export",
    UnknownOpcode "unknown_opcode" "a record of an unknown kind",
    EmptyBuffer "empty_buffer" "a transfer buffer without a byte",
    ElementCutShort "element_cut_short" "the inner stream ends inside an element",
    MarkersUnbalanced "markers_unbalanced" "the inner stream ends with something open",
    UnknownType "unknown_type" "a property of an unknown type: not understood from here on",
    UnknownNameKind "unknown_name_kind" "a named property of an unknown kind: not understood from here on",
    MarkerOutOfPlace "marker_out_of_place" "a marker where the grammar has none",
    FirstPropertyMissing "first_property_missing" "a recipient without row id or an attachment without number at its beginning",
    ForeignMarker "foreign_marker" "a marker that belongs to folders or synchronisation",
    ErrorInfo "error_info" "the exporting server recorded an error inside the stream",
    LastBufferFull "last_buffer_full" "the last transfer buffer is full: the tail may be lost",
    AtomSplit "atom_split" "an element is cut at a place where writers do not cut",
    StringUnterminated "string_unterminated" "a string without its closing zero",
    NoMessageClass "no_message_class" "the item has no message class",
    InnerTooLarge "inner_too_large" "larger than Exchange Online takes (150 MB)",
    TooManyAttachments "too_many_attachments" "more attachments than Exchange Online takes (250)",
    TooDeep "too_deep" "embedded deeper than Exchange Online takes (30)",
    OldServer "old_server" "exported by a server older than Exchange 2010",
}

impl Finding {
    /// Whether no known valid stream does this (R1–R7); everything else only warns.
    #[must_use]
    pub const fn refuses(self) -> bool {
        (self as usize) <= (Self::ImpossibleOpcode as usize)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const KINDS: usize = Finding::ALL.len();

/// How often each finding was met and where first. Constant size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    tally: [(u64, u64); KINDS],
}

impl Default for Findings {
    fn default() -> Self {
        Self { tally: [(0, 0); KINDS] }
    }
}

impl Findings {
    /// Counts one more of `finding`, met at byte `at`.
    pub fn note(&mut self, finding: Finding, at: u64) {
        let (count, first) = &mut self.tally[finding as usize];
        if *count == 0 {
            *first = at;
        }
        *count = count.saturating_add(1);
    }

    /// The findings met: which, at which byte first, how often.
    pub fn iter(&self) -> impl Iterator<Item = (Finding, u64, u64)> + '_ {
        Finding::ALL
            .iter()
            .map(|&finding| (finding, self.tally[finding as usize]))
            .filter(|(_, (count, _))| *count > 0)
            .map(|(finding, (count, first))| (finding, first, count))
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tally.iter().all(|(count, _)| *count == 0)
    }

    /// One text for each: `word at byte n`, with the count when more than one.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.iter()
            .map(|(finding, at, count)| match count {
                1 => format!("{finding} at byte {at}"),
                _ => format!("{finding} at byte {at} ({count} times)"),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_its_own_and_a_label() {
        let words: std::collections::BTreeSet<_> = Finding::ALL.iter().map(|f| f.as_str()).collect();
        assert_eq!(words.len(), KINDS);
        assert!(
            words
                .iter()
                .all(|w| w.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()))
        );
    }

    #[test]
    fn exactly_r1_to_r7_refuse() {
        let refusing: Vec<_> = Finding::ALL.iter().filter(|f| f.refuses()).map(|f| f.as_str()).collect();
        assert_eq!(
            refusing,
            [
                "empty",
                "wrong_head",
                "base64_invalid",
                "record_cut_short",
                "no_content",
                "truncation_mark",
                "impossible_opcode"
            ]
        );
    }

    #[test]
    fn a_tally_keeps_the_first_place_and_the_count() {
        let mut findings = Findings::default();
        assert!(findings.is_empty());
        findings.note(Finding::AtomSplit, 7);
        findings.note(Finding::AtomSplit, 9);
        findings.note(Finding::OldServer, 1);
        assert_eq!(findings.texts(), ["atom_split at byte 7 (2 times)", "old_server at byte 1"]);
    }
}
