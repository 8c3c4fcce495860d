//! By what an item can be told again in a folder: picked out of the inner stream as it passes.

pub use crate::domain::ItemIdentity;

use super::{
    lexer::{Property, Value},
    tags, value,
};

/// Longest text that is kept; Exchange Online's subjects end at 255 characters.
const MAX_TEXT: usize = 2 * 1024;
/// Longest search key that is kept; real ones have 16 bytes.
const MAX_KEY: usize = 1024;

/// Gathers an [`ItemIdentity`] from the properties of the item's own level.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    found: ItemIdentity,
    prefix: Option<String>,
    normalized: Option<String>,
}

impl Gathering {
    /// How many bytes of this property's value are wanted.
    pub(super) const fn wanted(id: u16) -> usize {
        match id {
            tags::MESSAGE_CLASS | tags::SUBJECT | tags::SUBJECT_PREFIX | tags::NORMALIZED_SUBJECT => MAX_TEXT,
            tags::SEARCH_KEY => MAX_KEY,
            tags::MESSAGE_DELIVERY_TIME => 8,
            _ => 0,
        }
    }

    /// A value of the item's own level.
    pub(super) fn value(&mut self, property: &Property, value: Value<'_>) {
        let text = |property: &Property| Some(value::text(property.kind, value.bytes));
        match property.id {
            tags::MESSAGE_CLASS => self.found.message_class = text(property),
            tags::SUBJECT => self.found.subject = text(property),
            tags::SUBJECT_PREFIX => self.prefix = text(property),
            tags::NORMALIZED_SUBJECT => self.normalized = text(property),
            tags::SEARCH_KEY if property.kind == tags::BINARY && value.length > 0 => {
                self.found.search_key = Some(value.bytes.to_vec());
            }
            tags::MESSAGE_DELIVERY_TIME => self.found.delivery_time = value::time(value.bytes),
            _ => {}
        }
    }

    pub(super) fn search_key(&self) -> Option<&[u8]> {
        self.found.search_key.as_deref()
    }

    pub(super) const fn has_class(&self) -> bool {
        self.found.message_class.is_some()
    }

    /// What was found.
    pub(super) fn identity(&self) -> ItemIdentity {
        let mut identity = self.found.clone();
        if identity.subject.is_none() {
            identity.subject = self
                .normalized
                .as_deref()
                .map(|subject| format!("{}{subject}", self.prefix.as_deref().unwrap_or_default()));
        }
        identity
    }
}
