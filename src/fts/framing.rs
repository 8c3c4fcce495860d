//! The outer list of records, cut as a stream: `{opcode u32le, length u32le, payload}`, no padding, no terminator.
//!
//! It only cuts; what a record means and whether it may be there is judged by its user. Constant memory.

/// Bytes of a record's header.
const HEADER: usize = 8;

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A record begins.
    Begin { opcode: u32, length: u32 },
    /// Bytes of the present record.
    Payload { opcode: u32, bytes: &'a [u8] },
    /// The present record is complete.
    End { opcode: u32, length: u32 },
}

/// Where the cutter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a header, with this many bytes of it.
    Header(usize),
    /// In a payload; this many bytes are missing.
    Payload { opcode: u32, length: u32, left: u32 },
}

/// The cutter.
#[derive(Clone, Debug)]
pub(super) struct Framing {
    state: State,
    header: [u8; HEADER],
    at: u64,
    record_at: u64,
}

impl Framing {
    pub(super) const fn new() -> Self {
        Self { state: State::Header(0), header: [0; HEADER], at: 0, record_at: 0 }
    }

    /// Bytes taken so far.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// Where the present record's header begins.
    pub(super) const fn record_at(&self) -> u64 {
        self.record_at
    }

    /// The present record's header.
    pub(super) const fn header(&self) -> [u8; HEADER] {
        self.header
    }

    /// Whether the bytes may end here.
    pub(super) fn between_records(&self) -> bool {
        self.state == State::Header(0)
    }

    /// Takes the next piece off `input`; `None` when more input is needed.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        match self.state {
            State::Header(have) => self.begin(have, input),
            State::Payload { opcode, length, left: 0 } => {
                self.state = State::Header(0);
                Some(Piece::End { opcode, length })
            }
            State::Payload { opcode, length, left } => {
                let bytes = self.take(input, usize::try_from(left).unwrap_or(usize::MAX));
                if bytes.is_empty() {
                    return None;
                }
                let taken = u32::try_from(bytes.len()).unwrap_or(left);
                self.state = State::Payload { opcode, length, left: left - taken };
                Some(Piece::Payload { opcode, bytes })
            }
        }
    }

    fn begin<'a>(&mut self, have: usize, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        if have == 0 {
            self.record_at = self.at;
        }
        let bytes = self.take(input, HEADER - have);
        self.header[have..have + bytes.len()].copy_from_slice(bytes);
        let have = have + bytes.len();
        if have < HEADER {
            self.state = State::Header(have);
            return None;
        }
        let [o0, o1, o2, o3, l0, l1, l2, l3] = self.header;
        let (opcode, length) = (u32::from_le_bytes([o0, o1, o2, o3]), u32::from_le_bytes([l0, l1, l2, l3]));
        self.state = State::Payload { opcode, length, left: length };
        Some(Piece::Begin { opcode, length })
    }

    fn take<'a>(&mut self, input: &mut &'a [u8], most: usize) -> &'a [u8] {
        let (taken, rest) = input.split_at(most.min(input.len()));
        *input = rest;
        self.at += taken.len() as u64;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every piece as text, payloads of one record joined.
    fn cut(chunks: &[&[u8]]) -> (Vec<String>, bool) {
        let (mut framing, mut told, mut payload) = (Framing::new(), Vec::new(), Vec::new());
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(piece) = framing.next(&mut input) {
                match piece {
                    Piece::Begin { opcode, length } => {
                        told.push(format!("{opcode}:{length}@{}", framing.record_at()));
                    }
                    Piece::Payload { bytes, .. } => payload.extend_from_slice(bytes),
                    Piece::End { .. } => told.push(format!("{:?}", std::mem::take(&mut payload))),
                }
            }
            assert!(input.is_empty());
        }
        (told, framing.between_records())
    }

    #[test]
    fn records_are_cut() {
        let bytes = [2, 0, 0, 0, 3, 0, 0, 0, 7, 8, 9, 5, 0, 0, 0, 0, 0, 0, 0];
        let told = (vec!["2:3@0".into(), "[7, 8, 9]".into(), "5:0@11".into(), "[]".into()], true);
        assert_eq!(cut(&[&bytes]), told);
        assert!(!cut(&[&bytes[..18]]).1, "a header cut short");
        assert!(!cut(&[&bytes[..9]]).1, "a record cut short");
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_chunks_give_the_same_pieces(bytes in prop::collection::vec(0_u8..4, 0..200), at in 0_usize..200) {
            let (head, tail) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(cut(&[&bytes]), cut(&[head, tail]));
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(cut(&[&bytes]), cut(&single));
        }
    }
}
