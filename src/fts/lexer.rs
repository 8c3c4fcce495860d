//! The inner stream cut into markers and property values (MS-OXCFXICS 2.2.4.1), as a stream.
//!
//! Promises: constant memory (at most [`MAX_CAPTURE`] bytes of one value, [`MAX_NAME`] of one name), no panic on any
//! bytes, lengths are counted down and never allocated. At a type nobody knows the length of it stops for good:
//! [`Lexer::lost_at`] says where.

use super::{
    finding::Finding,
    tags::{self, Marker, Shape},
};

/// Most bytes of one value that a visitor gets to see.
pub(super) const MAX_CAPTURE: usize = 8 * 1024;
/// Most bytes of a named property's name that are kept; real ones are short words.
const MAX_NAME: usize = 256;
/// Longest first value, and most values, for which the undocumented type 0x9000 | code page is read as a list: as one
/// UTF-16 text its second word would be two characters, hence far above.
const MANY_LIMIT: u32 = 0xFFFF;

/// A property as its tag tells it.
#[derive(Clone, Debug, Default)]
pub(super) struct Property {
    /// The id; of a named property the source mailbox's own number, which means nothing elsewhere.
    pub(super) id: u16,
    /// The type.
    pub(super) kind: u16,
    /// Where the tag begins in the inner stream.
    pub(super) at: u64,
    /// The property set of a named property.
    pub(super) set: [u8; 16],
    /// Its dispatch id in the set.
    pub(super) lid: Option<u32>,
    /// Or its name there: UTF-16LE, at most [`MAX_NAME`] bytes.
    pub(super) name: Vec<u8>,
}

impl Property {
    /// Whether its id is a local number.
    pub(super) const fn is_named(&self) -> bool {
        self.id >= tags::NAMED
    }
}

/// A value: its first bytes and its whole length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    /// At most as many bytes as were wanted.
    pub(super) bytes: &'a [u8],
    /// All bytes of the value.
    pub(super) length: u64,
}

/// Who is told what the stream holds.
pub(super) trait Visitor {
    /// A marker at inner byte `at`.
    fn marker(&mut self, marker: Marker, at: u64);
    /// A property begins. Answers how many bytes of its values are wanted.
    fn property(&mut self, property: &Property) -> usize;
    /// A value of the property is complete (each of a multi-valued one).
    fn value(&mut self, property: &Property, value: Value<'_>);
    /// Something is odd at inner byte `at`.
    fn odd(&mut self, finding: Finding, at: u64);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Tag,
    Set,
    NameKind,
    Lid,
    Name,
    /// A length; after this value so many more values with a length of their own follow.
    Length {
        more: u32,
    },
    /// A count of values of this size.
    CountFixed {
        size: u32,
    },
    CountVariable,
    CountOrLength,
    /// The count or length of the undocumented type is known; the next word decides which.
    FirstOrText {
        first: u32,
    },
    /// In a value.
    Value {
        left: u32,
        more: u32,
        size: Size,
    },
    Lost,
}

/// Where the length of the further values comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Fixed(u32),
    Own,
}

/// The cutter.
#[derive(Debug)]
pub(super) struct Lexer {
    state: State,
    /// Bytes of the present atom.
    atom: [u8; 16],
    have: usize,
    property: Property,
    wanted: usize,
    captured: Vec<u8>,
    length: u64,
    last: [u8; 2],
    at: u64,
    lost_at: Option<u64>,
}

impl Lexer {
    pub(super) fn new() -> Self {
        Self {
            state: State::Tag,
            atom: [0; 16],
            have: 0,
            property: Property::default(),
            wanted: 0,
            captured: Vec::new(),
            length: 0,
            last: [0; 2],
            at: 0,
            lost_at: None,
        }
    }

    /// Inner bytes taken so far.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// From which inner byte on nothing was understood.
    pub(super) const fn lost_at(&self) -> Option<u64> {
        self.lost_at
    }

    /// Where the present element begins, unless the lexer stands between two.
    pub(super) fn inside_element(&self) -> Option<u64> {
        let between = self.state == State::Lost || (self.state == State::Tag && self.have == 0);
        (!between).then_some(if self.state == State::Tag {
            self.at - self.have as u64
        } else {
            self.property.at
        })
    }

    /// Whether a writer may cut the stream here: between two atoms or inside a value of variable size (2.2.4.1).
    pub(super) fn may_be_cut(&self) -> bool {
        match self.state {
            State::Value { size: Size::Own, .. } | State::Lost => true,
            State::Value { left, size: Size::Fixed(size), .. } => left == size,
            State::Tag
            | State::Length { .. }
            | State::CountFixed { .. }
            | State::CountVariable
            | State::CountOrLength
            | State::FirstOrText { .. } => self.have == 0,
            State::Set | State::NameKind | State::Lid | State::Name => false,
        }
    }

    /// Takes all of `input`.
    pub(super) fn feed(&mut self, mut input: &[u8], visitor: &mut impl Visitor) {
        while !input.is_empty() {
            input = match self.state {
                State::Lost => {
                    self.at += input.len() as u64;
                    &[]
                }
                State::Value { left, more, size } => self.value(input, (left, more, size), visitor),
                State::Name => self.name(input, visitor),
                State::Tag
                | State::Set
                | State::NameKind
                | State::Lid
                | State::Length { .. }
                | State::CountFixed { .. }
                | State::CountVariable
                | State::CountOrLength
                | State::FirstOrText { .. } => self.atom(input, visitor),
            };
        }
    }

    fn atom<'a>(&mut self, input: &'a [u8], visitor: &mut impl Visitor) -> &'a [u8] {
        let size = if self.state == State::Set {
            16
        } else if self.state == State::NameKind {
            1
        } else {
            4
        };
        let (taken, rest) = input.split_at((size - self.have).min(input.len()));
        self.atom[self.have..self.have + taken.len()].copy_from_slice(taken);
        self.have += taken.len();
        self.at += taken.len() as u64;
        if self.have == size {
            self.have = 0;
            self.step(visitor);
        }
        rest
    }

    /// The present atom is complete.
    fn step(&mut self, visitor: &mut impl Visitor) {
        let word = u32::from_le_bytes([self.atom[0], self.atom[1], self.atom[2], self.atom[3]]);
        match self.state {
            State::Tag => self.tag(word, visitor),
            State::Set => {
                self.property.set = self.atom;
                self.state = State::NameKind;
            }
            State::NameKind => match self.atom[0] {
                0 => self.state = State::Lid,
                1 => self.state = State::Name,
                _ => self.lose(Finding::UnknownNameKind, visitor),
            },
            State::Lid => {
                self.property.lid = Some(word);
                self.begin(visitor);
            }
            State::Length { more } => self.begin_value(word, more, Size::Own, visitor),
            State::CountFixed { size } => match word.checked_sub(1) {
                Some(more) => self.begin_value(size, more, Size::Fixed(size), visitor),
                None => self.state = State::Tag,
            },
            State::CountVariable => match word.checked_sub(1) {
                Some(more) => self.state = State::Length { more },
                None => self.state = State::Tag,
            },
            State::CountOrLength if word == 0 => self.state = State::Tag,
            State::CountOrLength => self.state = State::FirstOrText { first: word },
            State::FirstOrText { first } => self.first_or_text(first, word, visitor),
            State::Name | State::Value { .. } | State::Lost => {}
        }
    }

    fn tag(&mut self, word: u32, visitor: &mut impl Visitor) {
        let at = self.at - 4;
        if let Some(marker) = Marker::of(word) {
            return visitor.marker(marker, at);
        }
        let [k0, k1, i0, i1] = word.to_le_bytes();
        self.property.id = u16::from_le_bytes([i0, i1]);
        self.property.kind = u16::from_le_bytes([k0, k1]);
        self.property.at = at;
        self.property.lid = None;
        self.property.name.clear();
        if Shape::of(self.property.id, self.property.kind).is_none() {
            self.lose(Finding::UnknownType, visitor);
        } else if self.property.is_named() {
            self.state = State::Set;
        } else {
            self.begin(visitor);
        }
    }

    /// The property is known; its value follows.
    fn begin(&mut self, visitor: &mut impl Visitor) {
        self.wanted = visitor.property(&self.property).min(MAX_CAPTURE);
        match Shape::of(self.property.id, self.property.kind) {
            Some(Shape::Fixed(size)) => self.begin_value(size, 0, Size::Fixed(size), visitor),
            Some(Shape::Variable) => self.state = State::Length { more: 0 },
            Some(Shape::ManyFixed(size)) => self.state = State::CountFixed { size },
            Some(Shape::ManyVariable) => self.state = State::CountVariable,
            Some(Shape::ManyOrOne) => self.state = State::CountOrLength,
            None => self.lose(Finding::UnknownType, visitor),
        }
    }

    fn lose(&mut self, finding: Finding, visitor: &mut impl Visitor) {
        visitor.odd(finding, self.property.at);
        self.lost_at = Some(self.property.at);
        self.state = State::Lost;
    }

    /// Decides about the undocumented type once two words are known: count and first length, or length and text.
    fn first_or_text(&mut self, first: u32, word: u32, visitor: &mut impl Visitor) {
        if first <= MANY_LIMIT && word <= MANY_LIMIT {
            return self.begin_value(word, first - 1, Size::Own, visitor);
        }
        self.begin_value(first, 0, Size::Own, visitor);
        self.at -= 4;
        self.feed(&word.to_le_bytes(), visitor);
    }

    fn begin_value(&mut self, length: u32, more: u32, size: Size, visitor: &mut impl Visitor) {
        self.captured.clear();
        self.length = u64::from(length);
        self.last = [0; 2];
        self.state = State::Value { left: length, more, size };
        if length == 0 {
            self.end_value(more, size, visitor);
        }
    }

    fn value<'a>(&mut self, input: &'a [u8], at: (u32, u32, Size), visitor: &mut impl Visitor) -> &'a [u8] {
        let (left, more, size) = at;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let (taken, rest) = input.split_at(most);
        let room = self.wanted.saturating_sub(self.captured.len());
        self.captured.extend_from_slice(&taken[..room.min(taken.len())]);
        match *taken {
            [.., a, b] => self.last = [a, b],
            [b] => self.last = [self.last[1], b],
            [] => {}
        }
        self.at += taken.len() as u64;
        let left = left - u32::try_from(most).unwrap_or(left);
        self.state = State::Value { left, more, size };
        if left == 0 {
            self.end_value(more, size, visitor);
        }
        rest
    }

    fn end_value(&mut self, more: u32, size: Size, visitor: &mut impl Visitor) {
        if self.length > 0 && tags::is_text(self.property.kind) && !self.terminated() {
            visitor.odd(Finding::StringUnterminated, self.property.at);
        }
        let value = Value { bytes: &self.captured, length: self.length };
        visitor.value(&self.property, value);
        self.state = match (more.checked_sub(1), size) {
            (None, _) => State::Tag,
            (Some(more), Size::Own) => State::Length { more },
            (Some(more), Size::Fixed(size)) => {
                self.captured.clear();
                State::Value { left: size, more, size: Size::Fixed(size) }
            }
        };
    }

    fn terminated(&self) -> bool {
        let wide = matches!(self.property.kind, tags::STRING) || self.property.kind & !0x1000 == 0x84B0;
        self.last[1] == 0 && (!wide || self.last[0] == 0)
    }

    /// A name: UTF-16LE up to a zero, without a length.
    fn name<'a>(&mut self, mut input: &'a [u8], visitor: &mut impl Visitor) -> &'a [u8] {
        while let Some((&byte, rest)) = input.split_first() {
            input = rest;
            self.at += 1;
            self.atom[self.have] = byte;
            self.have += 1;
            if self.have < 2 {
                continue;
            }
            self.have = 0;
            if self.atom[..2] == [0, 0] {
                self.begin(visitor);
                return input;
            }
            if self.property.name.len() < MAX_NAME {
                self.property.name.extend_from_slice(&self.atom[..2]);
            }
        }
        input
    }
}
