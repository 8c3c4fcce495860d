//! What an item's bytes say about it, and the least that makes them an item.
//!
//! An item is a list of records `{u32le opcode, u32le length, payload}`; the first is opcode 1 with 8 bytes, and
//! at least one opcode 2 carries content (facts about the FTS format, section 1).

/// What is kept of an item; more properties are found by `$expand`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemFacts {
    /// `PidTagMessageClass`; `type` of the mailbox item.
    pub message_class: String,
    /// `PidTagSubject`
    pub subject: String,
    /// `PidTagSearchKey`
    pub search_key: Option<Vec<u8>>,
    /// `PidTagMessageDeliveryTime`, unix milliseconds.
    pub delivery_time: Option<i64>,
    /// Further single-value properties: identifier such as `String 0x1035`, and value.
    pub properties: Vec<(String, String)>,
}

/// Reads an item's bytes; an error text makes it corrupt.
pub type ReadItem = fn(&[u8]) -> Result<ItemFacts, String>;

/// Checks the records alone, and knows nothing of what is in them.
///
/// # Errors
/// A text that says at which byte the records break.
pub fn read_framing(item: &[u8]) -> Result<ItemFacts, String> {
    let mut rest = item;
    let mut content = false;
    while !rest.is_empty() {
        let at = item.len() - rest.len();
        let (opcode, payload, tail) = record(rest).ok_or_else(|| format!("record cut at byte {at}"))?;
        if at == 0 && !(opcode == 1 && payload.len() == 8) {
            return Err("the first record is no configuration".to_owned());
        }
        if opcode == 2 && payload.is_empty() {
            return Err(format!("empty content record at byte {at}"));
        }
        content |= opcode == 2;
        rest = tail;
    }
    if content {
        Ok(ItemFacts { message_class: "IPM.Note".to_owned(), ..ItemFacts::default() })
    } else {
        Err("no content record".to_owned())
    }
}

fn record(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (opcode, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (payload, tail) = rest.split_at_checked(length)?;
    Some((u32::from_le_bytes(*opcode), payload, tail))
}
