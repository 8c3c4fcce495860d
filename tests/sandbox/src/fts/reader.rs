//! A reader for the Exchange model: strict in framing, curious about four properties of the item's own level.

/// What the model keeps of an item.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemFacts {
    /// `PidTagMessageClass`.
    pub message_class: Option<String>,
    /// `PidTagSubject`.
    pub subject: Option<String>,
    /// `PidTagSearchKey`.
    pub search_key: Option<Vec<u8>>,
    /// `PidTagMessageDeliveryTime`, unix milliseconds.
    pub delivery_time: Option<i64>,
}

/// Reads an item's envelope and its first level.
///
/// # Errors
/// Why it is none.
pub fn read_item(bytes: &[u8]) -> Result<ItemFacts, String> {
    if !bytes.starts_with(&[1, 0, 0, 0, 8, 0, 0, 0]) {
        return Err("does not begin with Config".into());
    }
    let mut inner = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (Some(opcode), Some(length)) = (u32_at(rest, 0), u32_at(rest, 4)) else {
            return Err("a record's header is cut short".into());
        };
        let end = 8 + length as usize;
        if opcode > 0xffff {
            return Err(format!("opcode {opcode:#x}"));
        }
        let payload = rest.get(8..end).ok_or("a record is longer than what is left")?;
        if opcode == 2 {
            inner.extend_from_slice(payload);
        }
        rest = &rest[end..];
    }
    if inner.is_empty() {
        return Err("no TransferBuffer".into());
    }
    Ok(facts(&inner))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The first level's properties, up to the first marker or what is not understood.
fn facts(inner: &[u8]) -> ItemFacts {
    let mut facts = ItemFacts::default();
    let mut at = 0;
    while let Some(tag) = u32_at(inner, at) {
        at += 4;
        let (kind, id) = (tag & 0xffff, tag >> 16);
        if matches!(tag, 0x4000_0003 | 0x4003_0003) {
            break;
        }
        if id >= 0x8000 {
            let Some(after) = skip_name(inner, at) else { break };
            at = after;
        }
        let Some((from, to)) = value(inner, at, kind) else { break };
        let bytes = &inner[from..to];
        match (id, kind) {
            (0x001A, 0x84B0) => facts.message_class = Some(text(bytes)),
            (0x0037, 0x84B0) => facts.subject = Some(text(bytes)),
            (0x300B, 0x0102) => facts.search_key = Some(bytes.to_vec()),
            (0x0E06, 0x0040) => {
                let ticks = bytes.try_into().map(i64::from_le_bytes).unwrap_or_default();
                facts.delivery_time = Some(ticks / 10_000 - 11_644_473_600_000);
            }
            _ => {}
        }
        at = to;
    }
    facts
}

fn skip_name(inner: &[u8], at: usize) -> Option<usize> {
    match inner.get(at + 16)? {
        0 => Some(at + 21),
        1 => {
            let name = inner.get(at + 17..)?;
            let end = name.chunks(2).position(|unit| unit == [0, 0])?;
            Some(at + 17 + (end + 1) * 2)
        }
        _ => None,
    }
}

/// Where a value lies.
fn value(inner: &[u8], at: usize, kind: u32) -> Option<(usize, usize)> {
    let fixed = |size: usize| (at + size <= inner.len()).then_some((at, at + size));
    match kind {
        0x0002 | 0x000B => fixed(2),
        0x0003 | 0x0004 | 0x000A => fixed(4),
        0x0005 | 0x0006 | 0x0007 | 0x0014 | 0x0040 => fixed(8),
        0x0048 => fixed(16),
        0x101F => {
            let count = u32_at(inner, at)?;
            let mut end = at + 4;
            for _ in 0..count {
                end += 4 + u32_at(inner, end)? as usize;
            }
            (end <= inner.len()).then_some((at + 4, end))
        }
        0x001E | 0x001F | 0x0102 | 0x84B0 => {
            let from = at + 4;
            let to = from + u32_at(inner, at)? as usize;
            (to <= inner.len()).then_some((from, to))
        }
        _ => None,
    }
}

fn text(bytes: &[u8]) -> String {
    let units: Vec<u16> =
        bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).take_while(|u| *u != 0).collect();
    String::from_utf16_lossy(&units)
}
