//! Where the outer list is lost, the rest may still be inner stream: samples in documentation have their middle removed.
//! The first few KiB are tried from every byte on until the elements fit.

use super::super::{
    finding::Finding,
    lexer::{Lexer, Property, Value, Visitor},
    tags::Marker,
};

/// How much is looked at to find where elements begin.
const WINDOW: usize = 4 * 1024;
/// Elements in a row that are no accident.
const ENOUGH: usize = 3;

/// The attempt.
#[derive(Debug)]
pub(super) struct Salvage {
    at: u64,
    window: Vec<u8>,
    decided: bool,
    from: Option<u64>,
}

impl Salvage {
    /// Begins at byte `at` of the stream.
    pub(super) const fn new(at: u64) -> Self {
        Self { at, window: Vec::new(), decided: false, from: None }
    }

    /// Reads on; what fits goes to `lexer`.
    pub(super) fn feed(&mut self, bytes: &[u8], lexer: &mut Lexer, visitor: &mut impl Visitor) {
        let room = if self.decided { 0 } else { (WINDOW - self.window.len()).min(bytes.len()) };
        let (kept, rest) = bytes.split_at(room);
        self.window.extend_from_slice(kept);
        if self.window.len() == WINDOW {
            self.decide(lexer, visitor);
        }
        if self.from.is_some() {
            lexer.feed(rest, visitor);
        }
    }

    /// From which byte on something was read.
    pub(super) fn finish(&mut self, lexer: &mut Lexer, visitor: &mut impl Visitor) -> Option<u64> {
        self.decide(lexer, visitor);
        self.from
    }

    fn decide(&mut self, lexer: &mut Lexer, visitor: &mut impl Visitor) {
        let window = std::mem::take(&mut self.window);
        if self.decided {
            return;
        }
        self.decided = true;
        if let Some(start) = (0..window.len()).find(|&start| fits(&window[start..])) {
            self.from = Some(self.at + start as u64);
            *lexer = Lexer::new();
            lexer.feed(&window[start..], visitor);
        }
    }
}

/// Whether the bytes read as elements to their end.
fn fits(bytes: &[u8]) -> bool {
    let mut lexer = Lexer::new();
    let mut count = Count::default();
    lexer.feed(bytes, &mut count);
    lexer.lost_at().is_none() && !count.odd && count.elements >= ENOUGH
}

#[derive(Default)]
struct Count {
    elements: usize,
    odd: bool,
}

impl Visitor for Count {
    fn marker(&mut self, _: Marker, _: u64) {
        self.elements += 1;
    }

    fn property(&mut self, property: &Property) -> usize {
        self.odd |= property.id == 0 || property.id == 0xFFFF;
        0
    }

    fn value(&mut self, _: &Property, _: Value<'_>) {
        self.elements += 1;
    }

    fn odd(&mut self, _: Finding, _: u64) {
        self.odd = true;
    }
}
