//! A writer of streams for the tests beside the code: valid ones, and broken ones by leaving out.

use super::envelope::FULL_BUFFER;

/// Builds the inner stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer {
    inner: Vec<u8>,
    /// Offsets where the stream may be cut.
    cuts: Vec<usize>,
}

/// First three records of every known export; exported by 15.20.4566.6022.
pub(crate) const HEAD: [u8; 62] = {
    let mut head = [0; 62];
    let known: [u8; 48] = [
        1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 7, 3, 2, 0, 0,
        0, 0, 0, 0xC0, 0, 0, 0, 0, 0, 0, 0x46, 0, 0x24, 0, 0x80,
    ];
    let version: [u8; 14] = [4, 0, 0, 0, 6, 0, 0, 0, 0x14, 0x0F, 0xD6, 0x91, 0x86, 0x17];
    let mut i = 0;
    while i < 62 {
        head[i] = if i < 48 { known[i] } else { version[i - 48] };
        i += 1;
    }
    head
};

impl Writer {
    pub(crate) fn mail(subject: &str) -> Self {
        Self::default().word(0x0017_0003, 1).text(0x001A, "IPM.Note").text(0x0037, subject)
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.cuts.push(self.inner.len());
        self.inner.extend_from_slice(bytes);
        self
    }

    pub(crate) fn marker(self, tag: u32) -> Self {
        self.raw(&tag.to_le_bytes())
    }

    pub(crate) fn word(self, tag: u32, value: u32) -> Self {
        self.raw(&[tag.to_le_bytes(), value.to_le_bytes()].concat())
    }

    pub(crate) fn time(self, id: u16, filetime: u64) -> Self {
        let tag = u32::from(id) << 16 | 0x40;
        self.raw(&[&tag.to_le_bytes()[..], &filetime.to_le_bytes()].concat())
    }

    pub(crate) fn text(self, id: u16, text: &str) -> Self {
        let bytes: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        self.variable(u32::from(id) << 16 | 0x84B0, &bytes)
    }

    pub(crate) fn binary(self, id: u16, bytes: &[u8]) -> Self {
        self.variable(u32::from(id) << 16 | 0x0102, bytes)
    }

    pub(crate) fn named_text(self, set: [u8; 16], lid: u32, text: &str) -> Self {
        let bytes: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let length = u32::try_from(bytes.len()).expect("short");
        self.raw(
            &[
                &0x8001_84B0_u32.to_le_bytes()[..],
                &set,
                &[0],
                &lid.to_le_bytes(),
                &length.to_le_bytes(),
                &bytes,
            ]
            .concat(),
        )
    }

    fn variable(mut self, tag: u32, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("a test's value is short");
        self = self.raw(&[tag.to_le_bytes(), length.to_le_bytes()].concat());
        let start = self.inner.len();
        self.inner.extend_from_slice(bytes);
        self.cuts.extend(start..=self.inner.len());
        self
    }

    pub(crate) fn recipient(self, row: u32, kind: u32, name: &str, address: &str) -> Self {
        self.marker(0x4003_0003)
            .word(0x3000_0003, row)
            .word(0x0C15_0003, kind)
            .text(0x3001, name)
            .text(0x39FE, address)
            .marker(0x4004_0003)
    }

    pub(crate) fn attachment(self, number: u32, name: &str, data: &[u8]) -> Self {
        self.marker(0x4000_0003)
            .word(0x0E21_0003, number)
            .word(0x3705_0003, 1)
            .text(0x3707, name)
            .binary(0x3701, data)
            .marker(0x400E_0003)
    }

    pub(crate) fn embedded(self, number: u32, message: &Self) -> Self {
        let mut with =
            self.marker(0x4000_0003).word(0x0E21_0003, number).word(0x3705_0003, 5).marker(0x4001_0003);
        let at = with.inner.len();
        with.cuts.extend(message.cuts.iter().map(|cut| cut + at));
        with.inner.extend_from_slice(&message.inner);
        with.marker(0x4002_0003).marker(0x400E_0003)
    }

    /// The whole blob, cut as Exchange Online cuts: full buffers, or a few bytes short where an atom would be split.
    pub(crate) fn blob(&self) -> Vec<u8> {
        self.blob_in(usize::try_from(FULL_BUFFER).expect("small"))
    }

    pub(crate) fn blob_in(&self, buffer: usize) -> Vec<u8> {
        let (mut blob, mut from) = (HEAD.to_vec(), 0);
        while from < self.inner.len() {
            let most = from + buffer;
            let to = if most >= self.inner.len() {
                self.inner.len()
            } else {
                let cut = self.cuts.partition_point(|&cut| cut <= most);
                self.cuts[..cut].last().copied().filter(|&cut| cut > from).unwrap_or(most)
            };
            blob.extend_from_slice(&record(2, &self.inner[from..to]));
            from = to;
        }
        blob
    }
}

pub(crate) fn record(opcode: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a test's record is short");
    [&opcode.to_le_bytes()[..], &length.to_le_bytes(), payload].concat()
}
