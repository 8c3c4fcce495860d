//! Where in the item a place of the inner stream is (MS-OXCFXICS 2.2.4, element `messageContent`):
//!
//! ```text
//! message    = properties *( StartRecip row-id … EndToRecip ) *( NewAttach number … [ embedded ] EndAttach )
//! embedded   = StartEmbed message EndEmbed
//! ```
//!
//! It follows, counts and notes what is odd; it never stops.

use super::{
    finding::Finding,
    lexer::Property,
    tags::{self, Marker},
};

/// What is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The item, or an embedded message.
    Message,
    /// A recipient of it.
    Recipient,
    /// An attachment of it.
    Attachment,
}

/// Where a property belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// To the item itself.
    Root,
    /// To a recipient of it.
    Recipient,
    /// To an attachment of it.
    Attachment,
    /// To the message that such an attachment is.
    Embedded,
    /// To something inside that.
    Deeper,
}

/// Deepest nesting of scopes that is followed; Exchange Online takes 30 embedded messages, two scopes each.
const MAX_SCOPES: usize = 2 * 64;
/// Exchange Online's limit of embedded messages.
const MAX_DEPTH: usize = 30;
/// Exchange Online's limit of attachments of one message.
const MAX_ATTACHMENTS: u64 = 250;

/// The place.
#[derive(Debug)]
pub(super) struct Structure {
    open: Vec<Scope>,
    first: Option<u16>,
    attachments: u64,
    /// False once the nesting went beyond [`MAX_SCOPES`]: nothing is followed any more.
    followed: bool,
}

impl Structure {
    pub(super) fn new() -> Self {
        Self { open: vec![Scope::Message], first: None, attachments: 0, followed: true }
    }

    /// The innermost scope.
    pub(super) fn scope(&self) -> Scope {
        self.open.last().copied().unwrap_or(Scope::Message)
    }

    /// Whether the place is the item's own level: neither recipient nor attachment nor embedded.
    pub(super) fn at_root(&self) -> bool {
        self.followed && self.open.len() == 1
    }

    /// Where a property belongs that comes now.
    pub(super) fn place(&self) -> Place {
        match (self.followed, &*self.open) {
            (true, [_]) => Place::Root,
            (true, [_, Scope::Recipient]) => Place::Recipient,
            (true, [_, Scope::Attachment]) => Place::Attachment,
            (true, [_, Scope::Attachment, Scope::Message]) => Place::Embedded,
            _ => Place::Deeper,
        }
    }

    /// How many embedded messages the place is in.
    pub(super) fn depth(&self) -> usize {
        self.open.len() / 2
    }

    /// Whether nothing but the item is open.
    pub(super) fn balanced(&self) -> bool {
        self.at_root() && self.first.is_none()
    }

    /// A marker passes by. Tells `odd` what is odd about it.
    pub(super) fn marker(&mut self, marker: Marker, odd: &mut impl FnMut(Finding)) {
        if self.first.take().is_some() {
            odd(Finding::FirstPropertyMissing);
        }
        match marker {
            Marker::StartRecip => self.enter(Scope::Message, Scope::Recipient, odd),
            Marker::NewAttach => self.enter(Scope::Message, Scope::Attachment, odd),
            Marker::StartEmbed => self.enter(Scope::Attachment, Scope::Message, odd),
            Marker::EndToRecip => self.leave(Scope::Recipient, odd),
            Marker::EndAttach => self.leave(Scope::Attachment, odd),
            Marker::EndEmbed => self.leave(Scope::Message, odd),
            Marker::ErrorInfo => odd(Finding::ErrorInfo),
            Marker::Foreign => odd(Finding::ForeignMarker),
        }
    }

    /// A property passes by.
    pub(super) fn property(&mut self, property: &Property, odd: &mut impl FnMut(Finding)) {
        if property.id == tags::EC_WARNING {
            odd(Finding::ErrorInfo);
        }
        if self.first.take().is_some_and(|id| id != property.id) {
            odd(Finding::FirstPropertyMissing);
        }
    }

    fn enter(&mut self, within: Scope, scope: Scope, odd: &mut impl FnMut(Finding)) {
        if self.scope() != within {
            odd(Finding::MarkerOutOfPlace);
        }
        if self.open.len() >= MAX_SCOPES {
            self.followed = false;
            return;
        }
        self.open.push(scope);
        self.first = match scope {
            Scope::Recipient => Some(tags::ROW_ID),
            Scope::Attachment => Some(tags::ATTACH_NUMBER),
            Scope::Message => None,
        };
        if scope == Scope::Message && self.depth() > MAX_DEPTH {
            odd(Finding::TooDeep);
        }
        if scope == Scope::Attachment && self.place() == Place::Attachment {
            self.attachments += 1;
            if self.attachments == MAX_ATTACHMENTS + 1 {
                odd(Finding::TooManyAttachments);
            }
        }
    }

    /// Leaves the innermost scope of this kind, and what was left open in it. The item itself is never left.
    fn leave(&mut self, scope: Scope, odd: &mut impl FnMut(Finding)) {
        if self.scope() != scope || self.open.len() == 1 {
            odd(Finding::MarkerOutOfPlace);
        }
        if let Some(at) = self.open.iter().skip(1).rposition(|&open| open == scope) {
            self.open.truncate(at + 1);
        }
    }
}
