//! The records of the outer list and the head that every known export begins with.
//!
//! Undocumented; known from nine samples of Exchange 2010 to Exchange Online and from the interface it records,
//! `IExchangeFastTransferEx`.

use std::fmt;

use super::finding::Finding;

/// The first eight bytes of every known export: opcode Config, eight bytes of payload.
pub const MAGIC: [u8; 8] = [1, 0, 0, 0, 8, 0, 0, 0];

pub(super) const CONFIG: u32 = 1;
pub(super) const TRANSFER_BUFFER: u32 = 2;
pub(super) const IS_INTERFACE_OK: u32 = 3;
pub(super) const TELL_PARTNER_VERSION: u32 = 4;
/// Highest opcode that could be one at all; known ones end at 17.
pub(super) const MAX_OPCODE: u32 = 0xFFFF;
/// Bytes of a transfer buffer of Exchange Online while more follows.
pub const FULL_BUFFER: u32 = 31_680;

/// Payloads of the first three records in every known export; the version varies.
const HEAD: [(u32, &[u8]); 3] = [
    (CONFIG, &[0, 0, 0, 0, 1, 0, 0, 0]),
    (
        IS_INTERFACE_OK,
        &[1, 0, 0, 0, 0x07, 0x03, 2, 0, 0, 0, 0, 0, 0xC0, 0, 0, 0, 0, 0, 0, 0x46, 0x00, 0x24, 0x00, 0x80],
    ),
    (TELL_PARTNER_VERSION, &[0; VERSION]),
];
/// Bytes of a version.
const VERSION: usize = 6;
/// First major version of an exporting server that is not warned about: Exchange 2010.
const OLDEST: u16 = 14;

/// Version of the exporting server (MS-OXCRPC 3.1.4.1.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion(pub [u16; 4]);

impl ServerVersion {
    /// Reads the three words of a `TellPartnerVersion`.
    #[must_use]
    pub fn read(bytes: [u8; VERSION]) -> Self {
        let [a, b, c] =
            [[bytes[0], bytes[1]], [bytes[2], bytes[3]], [bytes[4], bytes[5]]].map(u16::from_le_bytes);
        if b & 0x8000 == 0 { Self([a, 0, b, c]) } else { Self([a >> 8, a & 0xFF, b & 0x7FFF, c]) }
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, build, revision] = self.0;
        write!(f, "{major}.{minor}.{build}.{revision}")
    }
}

/// Compares the records before the first transfer buffer with the known head.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Records that have begun.
    records: usize,
    payload: Vec<u8>,
    pub(super) version: Option<ServerVersion>,
}

impl Head {
    /// A record other than a transfer buffer, or the first of those, begins.
    pub(super) fn begin(&mut self, opcode: u32, odd: &mut impl FnMut(Finding)) {
        let expected = HEAD.get(self.records).map_or(TRANSFER_BUFFER, |(opcode, _)| *opcode);
        if matches!(opcode, 1..=4) {
            if opcode != expected {
                odd(Finding::RecordOrder);
            }
        } else {
            odd(Finding::UnknownOpcode);
        }
        self.records = self.records.saturating_add(1);
        self.payload.clear();
    }

    /// Bytes of such a record; only as many as a head can hold are kept.
    pub(super) fn payload(&mut self, bytes: &[u8]) {
        let room = 32_usize.saturating_sub(self.payload.len());
        self.payload.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }

    /// The record is complete.
    pub(super) fn end(&mut self, opcode: u32, length: u32, odd: &mut impl FnMut(Finding)) {
        let Some((_, known)) = HEAD.iter().find(|(known, _)| *known == opcode) else { return };
        if opcode == TELL_PARTNER_VERSION {
            self.version = <[u8; VERSION]>::try_from(&*self.payload).ok().map(ServerVersion::read);
            if self.version.is_some_and(|version| version.0[0] < OLDEST) {
                odd(Finding::OldServer);
            }
        }
        let same = opcode == TELL_PARTNER_VERSION || self.payload == *known;
        if !same || usize::try_from(length) != Ok(known.len()) {
            odd(Finding::EnvelopeConstant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_samples() {
        for (words, text) in [
            ([0x0F14_u16, 0x91D6, 0x1786], "15.20.4566.6022"),
            ([0x0E01, 0x808B, 0], "14.1.139.0"),
            ([8, 685, 24], "8.0.685.24"),
        ] {
            let mut bytes = [0; 6];
            for (pair, word) in bytes.chunks_exact_mut(2).zip(words) {
                pair.copy_from_slice(&word.to_le_bytes());
            }
            assert_eq!(ServerVersion::read(bytes).to_string(), text);
        }
    }
}
