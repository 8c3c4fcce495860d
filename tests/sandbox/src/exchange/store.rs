//! Mailboxes, folders, items and sessions.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::framing::ItemFacts;

/// What kind of mailbox it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MailboxKind {
    /// A user's or a shared mailbox.
    #[default]
    Primary,
    /// An archive: v1.0 refuses it.
    Archive,
}

/// An item as it stands in a mailbox; its bytes are not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredItem {
    /// Stays at an update.
    pub item_id: String,
    /// Moves at an update.
    pub change_key: String,
    /// The folder it lies in.
    pub folder: String,
    /// SHA-256 of the item's bytes, hexadecimal.
    pub sha256: String,
    /// Length of the item's bytes.
    pub length: u64,
    /// `PidTagMessageClass`
    pub message_class: String,
    /// `PidTagSubject`
    pub subject: String,
    /// `PidTagSearchKey`, hexadecimal.
    pub search_key: Option<String>,
    /// `PidTagMessageDeliveryTime`, unix milliseconds.
    pub delivery_time: Option<i64>,
    /// Further properties.
    pub properties: Vec<(String, String)>,
    /// When it was stored, unix milliseconds of Exchange's clock.
    pub created_ms: i64,
    /// When it was last stored, unix milliseconds of Exchange's clock.
    pub modified_ms: i64,
    /// How often it was stored: 1, and one more for each update.
    pub writes: u64,
    /// `client-request-id` of the import that stored it last.
    pub stored_by: Option<String>,
}

/// An item to be stored.
#[derive(Clone, Debug)]
pub(super) struct NewItem {
    pub(super) facts: ItemFacts,
    pub(super) sha256: String,
    pub(super) length: u64,
    pub(super) stored_by: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Folder {
    /// By the order in which they were made.
    pub(super) items: BTreeMap<u64, StoredItem>,
}

#[derive(Debug, Default)]
pub(super) struct Mailbox {
    pub(super) tenant: String,
    pub(super) kind: MailboxKind,
    pub(super) folders: BTreeMap<String, Folder>,
    /// Folders that live in an auxiliary archive, and its id.
    pub(super) moved: BTreeMap<String, String>,
    index: HashMap<String, (String, u64)>,
    pub(super) quota: Option<u64>,
    pub(super) used: u64,
    pub(super) sessions_opened: u64,
    next: u64,
}

impl Mailbox {
    pub(super) fn create(&mut self, folder: &str, new: NewItem, keys: (String, String), now_ms: i64) {
        let sequence = self.next;
        self.next += 1;
        self.used += new.length;
        self.index.insert(keys.0.clone(), (folder.to_owned(), sequence));
        let item = StoredItem {
            item_id: keys.0,
            change_key: keys.1,
            folder: folder.to_owned(),
            sha256: new.sha256,
            length: new.length,
            message_class: new.facts.message_class,
            subject: new.facts.subject,
            search_key: new.facts.search_key.map(|key| hex(&key)),
            delivery_time: new.facts.delivery_time,
            properties: new.facts.properties,
            created_ms: now_ms,
            modified_ms: now_ms,
            writes: 1,
            stored_by: new.stored_by,
        };
        self.folders.entry(folder.to_owned()).or_default().items.insert(sequence, item);
    }

    /// Overwrites; `false` if the item is gone.
    pub(super) fn update(&mut self, item_id: &str, new: NewItem, change_key: String, now_ms: i64) -> bool {
        let Some(item) = self.item_mut(item_id) else { return false };
        let before = item.length;
        item.change_key = change_key;
        item.sha256 = new.sha256;
        item.length = new.length;
        item.message_class = new.facts.message_class;
        item.subject = new.facts.subject;
        item.search_key = new.facts.search_key.map(|key| hex(&key));
        item.delivery_time = new.facts.delivery_time;
        item.properties = new.facts.properties;
        item.modified_ms = now_ms;
        item.writes += 1;
        item.stored_by = new.stored_by;
        let after = item.length;
        self.used = self.used.saturating_sub(before) + after;
        true
    }

    pub(super) fn item(&self, item_id: &str) -> Option<&StoredItem> {
        let (folder, sequence) = self.index.get(item_id)?;
        self.folders.get(folder)?.items.get(sequence)
    }

    pub(super) fn item_mut(&mut self, item_id: &str) -> Option<&mut StoredItem> {
        let (folder, sequence) = self.index.get(item_id)?;
        self.folders.get_mut(folder)?.items.get_mut(sequence)
    }

    pub(super) fn remove(&mut self, item_id: &str) -> Option<StoredItem> {
        let (folder, sequence) = self.index.remove(item_id)?;
        let item = self.folders.get_mut(&folder)?.items.remove(&sequence)?;
        self.used = self.used.saturating_sub(item.length);
        Some(item)
    }
}

/// A session that was opened; kept after its end, so that its URL is still recognised.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) mailbox: String,
    pub(super) client_id: String,
    /// What the import host sees of the URL.
    pub(super) path_and_query: String,
    pub(super) expires_ms: i64,
    pub(super) ended: bool,
}

/// Exchange.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) mailboxes: BTreeMap<String, Mailbox>,
    /// By auth token.
    pub(super) sessions: HashMap<String, Session>,
    /// Every id ever given, so that none is given twice.
    pub(super) given: BTreeSet<String>,
}

/// Bytes as hexadecimal text.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// Hexadecimal text as bytes; what is no such text is left out.
pub(super) fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks_exact(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
