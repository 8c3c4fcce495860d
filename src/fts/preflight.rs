//! Whether bytes may be sent to Exchange as an item, judged while they stream.
//!
//! Promises: refuses only what no known valid stream does (R1–R7), unless `strict`; constant memory; a few operations
//! per record and property, none per byte of a value. Never refuses for the content of a property.

use super::{
    envelope::{self, Head},
    finding::{Finding, Findings},
    framing::{Framing, Piece},
    identity::{Gathering, ItemIdentity},
    lexer::{Lexer, Property, Value, Visitor},
    looks::looks_like,
    structure::Structure,
    tags::Marker,
};

/// How much is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PreflightMode {
    /// Nothing, and nothing is told; the stream is read for its identity only.
    Off,
    /// What no known valid stream does.
    #[default]
    Framing,
    /// Every finding.
    Strict,
}

/// Why a stream is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{finding} at byte {at}: {}{}", .finding.explain(), .looks_like.map(|what| format!("; it looks like {what}")).unwrap_or_default())]
pub struct Refusal {
    /// What was found.
    pub finding: Finding,
    /// At which FTS byte: of the outer list for R1–R7, of the inner stream for the rest.
    pub at: u64,
    /// What the bytes look like instead.
    pub looks_like: Option<&'static str>,
}

/// What is known of a stream that has passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was odd (empty in mode `off`).
    pub findings: Findings,
    /// By what the item can be told.
    pub identity: ItemIdentity,
}

/// What Exchange puts where it cut an export short.
const MARK: &[u8] = b"=== Truncated Data ===";
/// Where that mark is looked for: the last bytes of the stream, enough for it in UTF-16 and a line break.
const TAIL: usize = 64;
/// How much of the beginning is kept to say what it looks like.
const BEGINNING: usize = 16;
/// Largest item of Exchange Online: 150 MB.
const MAX_INNER: u64 = 150 * 1024 * 1024;

/// The machine.
#[derive(Debug)]
pub struct Preflight {
    mode: PreflightMode,
    framing: Framing,
    head: Head,
    inner: Inner,
    beginning: Vec<u8>,
    tail: Tail,
    /// Length of the last transfer buffer.
    last_buffer: Option<u32>,
    /// Where the framing was lost; told once [`TAIL`] bytes behind it have been seen, for they may hold Exchange's mark.
    lost: Option<u64>,
    taken: u64,
}

impl Preflight {
    /// A machine at the beginning of a stream.
    #[must_use]
    pub fn new(mode: PreflightMode) -> Self {
        Self {
            mode,
            framing: Framing::new(),
            head: Head::default(),
            inner: Inner::new(),
            beginning: Vec::with_capacity(BEGINNING),
            tail: Tail::default(),
            last_buffer: None,
            lost: None,
            taken: 0,
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// [`Refusal`], as soon as one is certain; the stream must not be fed any further then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.taken += bytes.len() as u64;
        self.tail.push(bytes);
        let room = (BEGINNING - self.beginning.len()).min(bytes.len());
        self.beginning.extend_from_slice(&bytes[..room]);
        if self.beginning.len() >= envelope::MAGIC.len() && !self.beginning.starts_with(&envelope::MAGIC) {
            self.lost.get_or_insert(0);
            // Sixteen bytes tell better what it is instead than eight do.
            if self.beginning.len() >= BEGINNING {
                self.refuse(Finding::WrongHead, 0)?;
            }
        }
        self.cut(bytes);
        match self.lost {
            Some(at) if at > 0 && self.taken >= at + TAIL as u64 => self.refuse_lost(at),
            _ if self.mode == PreflightMode::Strict => self.refuse_first(),
            _ => Ok(()),
        }
    }

    /// The search key, as soon as it has passed by.
    #[must_use]
    pub fn search_key(&self) -> Option<&[u8]> {
        self.inner.gathering.search_key()
    }

    /// Judges at the end of the stream.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn finish(self) -> Result<Report, Refusal> {
        match self.conclude() {
            (report, None) => Ok(report),
            (_, Some(refusal)) => Err(refusal),
        }
    }

    /// What the stream held, and why it is refused if it is. After a refusal the machine may be fed on for this.
    pub(super) fn conclude(mut self) -> (Report, Option<Refusal>) {
        self.warn_at_end();
        let mut refusal = self.refuse_framing().err();
        if refusal.is_none() && self.mode == PreflightMode::Strict {
            refusal = self.refuse_first().err();
        }
        let identity = self.inner.gathering.identity();
        let findings =
            if self.mode == PreflightMode::Off { Findings::default() } else { self.inner.findings };
        (Report { findings, identity }, refusal)
    }

    fn cut(&mut self, mut bytes: &[u8]) {
        while self.lost.is_none() {
            let Some(piece) = self.framing.next(&mut bytes) else { return };
            self.piece(piece);
        }
    }

    fn piece(&mut self, piece: Piece<'_>) {
        let at = self.framing.record_at();
        let findings = &mut self.inner.findings;
        let mut odd = |finding| findings.note(finding, at);
        match piece {
            Piece::Begin { opcode, .. } if opcode > envelope::MAX_OPCODE => self.lost = Some(at.max(1)),
            Piece::Begin { opcode: envelope::TRANSFER_BUFFER, length } => {
                if self.last_buffer.is_none() {
                    self.head.begin(envelope::TRANSFER_BUFFER, &mut odd);
                }
                if length == 0 {
                    odd(Finding::EmptyBuffer);
                }
                if !self.inner.lexer.may_be_cut() {
                    odd(Finding::AtomSplit);
                }
                self.last_buffer = Some(length);
            }
            Piece::Begin { opcode, .. } => self.head.begin(opcode, &mut odd),
            Piece::Payload { opcode: envelope::TRANSFER_BUFFER, bytes } => self.inner.feed(bytes),
            Piece::Payload { bytes, .. } => self.head.payload(bytes),
            Piece::End { opcode: envelope::TRANSFER_BUFFER, .. } => {}
            Piece::End { opcode, length } => self.head.end(opcode, length, &mut odd),
        }
    }

    fn refuse(&self, finding: Finding, at: u64) -> Result<(), Refusal> {
        if self.mode == PreflightMode::Off {
            return Ok(());
        }
        let looks_like = if finding == Finding::WrongHead { looks_like(&self.beginning) } else { None };
        Err(Refusal { finding, at, looks_like })
    }

    fn refuse_lost(&self, at: u64) -> Result<(), Refusal> {
        match self.tail.mark() {
            Some(behind) => self.refuse(Finding::TruncationMark, self.taken - behind),
            None => self.refuse(Finding::ImpossibleOpcode, at),
        }
    }

    /// In mode `strict`: the first warning there is.
    fn refuse_first(&self) -> Result<(), Refusal> {
        match self.inner.findings.iter().next() {
            Some((finding, at, _)) => self.refuse(finding, at),
            None => Ok(()),
        }
    }

    fn refuse_framing(&self) -> Result<(), Refusal> {
        let known = self.beginning.len().min(envelope::MAGIC.len());
        if self.taken == 0 {
            return self.refuse(Finding::Empty, 0);
        }
        if let Some(behind) = self.tail.mark() {
            return self.refuse(Finding::TruncationMark, self.taken - behind);
        }
        if self.beginning[..known] != envelope::MAGIC[..known] {
            return self.refuse(Finding::WrongHead, 0);
        }
        if let Some(at) = self.lost {
            return self.refuse(Finding::ImpossibleOpcode, at);
        }
        if !self.framing.between_records() {
            return self.refuse(Finding::RecordCutShort, self.framing.record_at());
        }
        if self.inner.lexer.at() == 0 {
            return self.refuse(Finding::NoContent, self.framing.at());
        }
        Ok(())
    }

    fn warn_at_end(&mut self) {
        let inner = &mut self.inner;
        let at = inner.lexer.at();
        if let Some(begun) = inner.lexer.inside_element() {
            inner.findings.note(Finding::ElementCutShort, begun);
        }
        if inner.lexer.lost_at().is_none() && !inner.structure.balanced() {
            inner.findings.note(Finding::MarkersUnbalanced, at);
        }
        if self.last_buffer == Some(envelope::FULL_BUFFER) {
            inner.findings.note(Finding::LastBufferFull, self.taken);
        }
        if !inner.gathering.has_class() {
            inner.findings.note(Finding::NoMessageClass, at);
        }
        if at > MAX_INNER {
            inner.findings.note(Finding::InnerTooLarge, at);
        }
    }
}

/// The inner stream's side: lexer, place, what is gathered.
#[derive(Debug)]
struct Inner {
    lexer: Lexer,
    structure: Structure,
    gathering: Gathering,
    findings: Findings,
}

impl Inner {
    fn new() -> Self {
        Self {
            lexer: Lexer::new(),
            structure: Structure::new(),
            gathering: Gathering::default(),
            findings: Findings::default(),
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let Self { lexer, structure, gathering, findings } = self;
        lexer.feed(bytes, &mut Watch { structure, gathering, findings });
    }
}

struct Watch<'a> {
    structure: &'a mut Structure,
    gathering: &'a mut Gathering,
    findings: &'a mut Findings,
}

impl Visitor for Watch<'_> {
    fn marker(&mut self, marker: Marker, at: u64) {
        self.structure.marker(marker, &mut |finding| self.findings.note(finding, at));
    }

    fn property(&mut self, property: &Property) -> usize {
        self.structure.property(property, &mut |finding| self.findings.note(finding, property.at));
        if self.structure.at_root() && !property.is_named() { Gathering::wanted(property.id) } else { 0 }
    }

    fn value(&mut self, property: &Property, value: Value<'_>) {
        if self.structure.at_root() && !property.is_named() {
            self.gathering.value(property, value);
        }
    }

    fn odd(&mut self, finding: Finding, at: u64) {
        self.findings.note(finding, at);
    }
}

/// The last bytes of the stream.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL)..];
        let surplus = (self.bytes.len() + bytes.len()).saturating_sub(TAIL);
        self.bytes.drain(..surplus);
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes before the end Exchange's mark begins, if it is there.
    fn mark(&self) -> Option<u64> {
        let wide: Vec<u8> = MARK.iter().flat_map(|&b| [b, 0]).collect();
        let find = |mark: &[u8]| self.bytes.windows(mark.len()).position(|window| window == mark);
        find(MARK).or_else(|| find(&wide)).map(|at| (self.bytes.len() - at) as u64)
    }
}

#[cfg(test)]
mod tests;
