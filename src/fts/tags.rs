//! Numbers of the inner stream: markers (MS-OXCFXICS 2.2.4.1.4), value types (2.2.4.1, MS-OXCDATA 2.11.1) and the
//! properties that are looked at (MS-OXPROPS).

/// A marker: a whole 32-bit tag without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    NewAttach,
    EndAttach,
    StartEmbed,
    EndEmbed,
    StartRecip,
    EndToRecip,
    /// The exporting server could not read something.
    ErrorInfo,
    /// Of folders and synchronisation: never in an item.
    Foreign,
}

impl Marker {
    /// The marker with this tag; `None` for a property.
    pub(super) const fn of(tag: u32) -> Option<Self> {
        match tag {
            0x4000_0003 => Some(Self::NewAttach),
            0x400E_0003 => Some(Self::EndAttach),
            0x4001_0003 => Some(Self::StartEmbed),
            0x4002_0003 => Some(Self::EndEmbed),
            0x4003_0003 => Some(Self::StartRecip),
            0x4004_0003 => Some(Self::EndToRecip),
            0x4018_0003 => Some(Self::ErrorInfo),
            // StartMessage, EndMessage, StartFAIMsg, StartTopFld, StartSubFld, EndFolder, IncrSync*.
            0x400C_0003 | 0x400D_0003 | 0x4010_0003 | 0x4009_0003 | 0x400A_0003 | 0x400B_0003
            | 0x4012_0003 | 0x407D_0003 | 0x4013_0003 | 0x4014_0003 | 0x402F_0003 | 0x403A_0003
            | 0x403B_0003 | 0x4074_000B | 0x4075_000B | 0x4015_0003 | 0x407B_0102 => Some(Self::Foreign),
            _ => None,
        }
    }
}

/// How the value of a type lies in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// This many bytes.
    Fixed(u32),
    /// A length, then that many bytes.
    Variable,
    /// A count, then values of this many bytes.
    ManyFixed(u32),
    /// A count, then length and bytes of each.
    ManyVariable,
    /// A code-page string with the bit of multi-values (0x9000 | code page): undocumented. A count and values, or one value.
    ManyOrOne,
}

/// Bit of a multi-valued type.
const MANY: u16 = 0x1000;
/// Bit of a code-page string; the other 15 are the code page.
pub(super) const CODE_PAGE: u16 = 0x8000;
/// `MetaTagIdsetGiven` is typed Integer32 but holds binary (MS-OXCFXICS 3.2.5.2.1).
const IDSET_GIVEN: (u16, u16) = (0x4017, 0x0003);

impl Shape {
    /// The shape of a property; `None` for a type whose length nobody knows.
    pub(super) const fn of(id: u16, kind: u16) -> Option<Self> {
        if id == IDSET_GIVEN.0 && kind == IDSET_GIVEN.1 {
            return Some(Self::Variable);
        }
        if kind & CODE_PAGE != 0 {
            return Some(if kind & MANY == 0 { Self::Variable } else { Self::ManyOrOne });
        }
        match (kind & MANY != 0, Self::single(kind & !MANY)) {
            (false, shape) => shape,
            (true, Some(Self::Fixed(size))) => Some(Self::ManyFixed(size)),
            (true, Some(Self::Variable)) => Some(Self::ManyVariable),
            (true, _) => None,
        }
    }

    const fn single(kind: u16) -> Option<Self> {
        match kind {
            0x0002 | BOOLEAN => Some(Self::Fixed(2)),
            INTEGER32 | 0x0004 | 0x000A => Some(Self::Fixed(4)),
            0x0005 | 0x0006 | 0x0007 | 0x0014 | TIME => Some(Self::Fixed(8)),
            0x0048 => Some(Self::Fixed(16)),
            STRING8 | STRING | BINARY | OBJECT | 0x00FB => Some(Self::Variable),
            _ => None,
        }
    }
}

pub(super) const INTEGER32: u16 = 0x0003;
pub(super) const BOOLEAN: u16 = 0x000B;
pub(super) const OBJECT: u16 = 0x000D;
pub(super) const STRING8: u16 = 0x001E;
pub(super) const STRING: u16 = 0x001F;
pub(super) const TIME: u16 = 0x0040;
pub(super) const BINARY: u16 = 0x0102;

/// Whether values of this type are text.
pub(super) const fn is_text(kind: u16) -> bool {
    matches!(kind, STRING | STRING8) || kind & CODE_PAGE != 0
}

/// First id of the named properties.
pub(super) const NAMED: u16 = 0x8000;

// Of a message.
pub(super) const IMPORTANCE: u16 = 0x0017;
pub(super) const MESSAGE_CLASS: u16 = 0x001A;
pub(super) const SENSITIVITY: u16 = 0x0036;
pub(super) const SUBJECT: u16 = 0x0037;
pub(super) const CLIENT_SUBMIT_TIME: u16 = 0x0039;
pub(super) const SUBJECT_PREFIX: u16 = 0x003D;
pub(super) const REPRESENTING_NAME: u16 = 0x0042;
pub(super) const REPRESENTING_ADDRESS: u16 = 0x0065;
pub(super) const SENDER_NAME: u16 = 0x0C1A;
pub(super) const SENDER_ADDRESS: u16 = 0x0C1F;
pub(super) const MESSAGE_DELIVERY_TIME: u16 = 0x0E06;
pub(super) const MESSAGE_FLAGS: u16 = 0x0E07;
pub(super) const NORMALIZED_SUBJECT: u16 = 0x0E1D;
pub(super) const BODY: u16 = 0x1000;
pub(super) const BODY_RTF: u16 = 0x1009;
pub(super) const BODY_HTML: u16 = 0x1013;
pub(super) const INTERNET_MESSAGE_ID: u16 = 0x1035;
pub(super) const CREATION_TIME: u16 = 0x3007;
pub(super) const LAST_MODIFICATION_TIME: u16 = 0x3008;
pub(super) const SEARCH_KEY: u16 = 0x300B;
pub(super) const SENDER_SMTP: u16 = 0x5D01;
pub(super) const REPRESENTING_SMTP: u16 = 0x5D02;

// Of a recipient.
pub(super) const RECIPIENT_TYPE: u16 = 0x0C15;
pub(super) const ROW_ID: u16 = 0x3000;
pub(super) const DISPLAY_NAME: u16 = 0x3001;
pub(super) const EMAIL_ADDRESS: u16 = 0x3003;
pub(super) const SMTP_ADDRESS: u16 = 0x39FE;

// Of an attachment.
pub(super) const ATTACH_SIZE: u16 = 0x0E20;
pub(super) const ATTACH_NUMBER: u16 = 0x0E21;
pub(super) const ATTACH_DATA: u16 = 0x3701;
pub(super) const ATTACH_FILENAME: u16 = 0x3704;
pub(super) const ATTACH_METHOD: u16 = 0x3705;
pub(super) const ATTACH_LONG_FILENAME: u16 = 0x3707;
pub(super) const ATTACH_MIME: u16 = 0x370E;

/// `MetaTagEcWarning`: the exporting server left something out.
pub(super) const EC_WARNING: u16 = 0x400F;

/// Property set GUIDs as they lie in the stream (little-endian fields).
pub(super) mod sets {
    const fn common(first: u8) -> [u8; 16] {
        [first, 0x20, 0x06, 0, 0, 0, 0, 0, 0xC0, 0, 0, 0, 0, 0, 0, 0x46]
    }
    /// `PSETID_Appointment`.
    pub(in crate::fts) const APPOINTMENT: [u8; 16] = common(0x02);
    /// `PSETID_Task`.
    pub(in crate::fts) const TASK: [u8; 16] = common(0x03);
    /// `PSETID_Address`.
    pub(in crate::fts) const ADDRESS: [u8; 16] = common(0x04);
    /// `PS_PUBLIC_STRINGS`.
    pub(in crate::fts) const PUBLIC_STRINGS: [u8; 16] =
        [0x29, 0x03, 0x02, 0, 0, 0, 0, 0, 0xC0, 0, 0, 0, 0, 0, 0, 0x46];
    /// `PSETID_Meeting`.
    pub(in crate::fts) const MEETING: [u8; 16] =
        [0x90, 0xDA, 0xD8, 0x6E, 0x0B, 0x45, 0x1B, 0x10, 0x98, 0xDA, 0, 0xAA, 0, 0x3F, 0x13, 0x05];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_types() {
        for (id, kind, shape) in [
            (0x0017, 0x0003, Some(Shape::Fixed(4))),
            (0x0023, 0x000B, Some(Shape::Fixed(2))),
            (0x001A, 0x84B0, Some(Shape::Variable)),
            (0x4008, 0x84E4, Some(Shape::Variable)),
            (0x8001, 0x94B0, Some(Shape::ManyOrOne)),
            (0x8001, 0x101F, Some(Shape::ManyVariable)),
            (0x8001, 0x1003, Some(Shape::ManyFixed(4))),
            (0x4017, 0x0003, Some(Shape::Variable)),
            (0x0001, 0x0001, None),
            (0x0001, 0x00FD, None),
            (0x0001, 0x10FD, None),
        ] {
            assert_eq!(Shape::of(id, kind), shape, "{kind:#06x}");
        }
    }
}
