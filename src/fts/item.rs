//! What an item is, for a person: read from the stream as it passes, complete or not.
//!
//! Promises: constant memory (lists end at [`MAX_LISTED`], texts at 2 KiB); never fails: what is not understood is told,
//! with the byte from which on. Where the framing is lost, the rest is read as inner stream if it looks like one.

mod build;
mod salvage;

use serde::Serialize;

use super::{
    Finding, Preflight, PreflightMode, Refusal,
    envelope::{self, ServerVersion},
    framing::{Framing, Piece},
    lexer::Lexer,
};
use build::Builder;
pub use build::hex;
use salvage::Salvage;

/// Most recipients and attachments that are listed; all are counted.
pub const MAX_LISTED: usize = 500;

/// A stream's outer list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// Bytes of the stream.
    pub bytes: u64,
    /// Records that began.
    pub records: u64,
    /// Transfer buffers among them.
    pub buffers: u64,
    /// Bytes in transfer buffers.
    pub inner_bytes: u64,
    /// The exporting server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// From which byte on no record could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<u64>,
    /// From which byte on the rest was read as inner stream all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub salvaged_from: Option<u64>,
}

/// A name and an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Person {
    /// Display name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// SMTP address if there is one, else Exchange's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// One recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recipient {
    /// `to`, `cc`, `bcc`, or `other`.
    pub kind: &'static str,
    /// Who.
    #[serde(flatten)]
    pub person: Person,
}

/// One attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// File name, else display name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Bytes of its content; of an embedded message, what the exporting server said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// MIME type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mime: Option<String>,
    /// `file`, `reference`, `embedded`, `ole`, `web`, `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static str>,
    /// Class of the embedded message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_class: Option<String>,
    /// Subject of the embedded message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// Things of a list: all counted, the first [`MAX_LISTED`] shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listed<T> {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first: Vec<T>,
}

/// Sizes of the bodies in the stream, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bodies {
    /// Plain text, as UTF-16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<u64>,
    /// HTML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<u64>,
    /// Compressed RTF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtf: Option<u64>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Its word.
    pub finding: &'static str,
    /// The first byte where it was met.
    pub at: u64,
    /// How often.
    pub count: u64,
    /// Whether preflight refuses the blob for it (mode `framing`).
    pub refuses: bool,
    /// What it means.
    pub meaning: String,
}

/// What an item is. Times are RFC 3339 in UTC; what the stream did not hold is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// The outer list.
    pub envelope: Envelope,
    /// Message class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_class: Option<String>,
    /// Subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// RFC 5322 message id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internet_message_id: Option<String>,
    /// Hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search_key: Option<String>,
    /// `read`, `draft`, `has_attachments`, `associated`, and others as numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// `low`, `high`; absent when normal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importance: Option<&'static str>,
    /// `personal`, `private`, `confidential`; absent when normal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<&'static str>,
    /// When it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submitted: Option<String>,
    /// When it was delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<String>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// When it was last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<String>,
    /// Who sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<Person>,
    /// In whose name, when that is somebody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<Person>,
    /// To whom.
    pub recipients: Listed<Recipient>,
    /// What hangs on it.
    pub attachments: Listed<Attachment>,
    /// Messages inside attachments, at any depth.
    pub embedded_messages: u64,
    /// What it says, in bytes.
    pub bodies: Bodies,
    /// Calendar, contact and task properties by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<(&'static str, String)>,
    /// Properties in the whole stream.
    pub properties: u64,
    /// From which inner byte on nothing was understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_understood_from: Option<u64>,
    /// What preflight finds.
    pub findings: Vec<Found>,
    /// Whether a restore would take it (mode `framing`).
    pub restorable: bool,
}

/// Reads a stream into an [`Item`].
#[derive(Debug)]
pub struct Inspector {
    preflight: Preflight,
    framing: Framing,
    lexer: Lexer,
    builder: Builder,
    envelope: Envelope,
    version: Vec<u8>,
    salvage: Option<Salvage>,
}

impl Default for Inspector {
    fn default() -> Self {
        Self {
            preflight: Preflight::new(PreflightMode::Framing),
            framing: Framing::new(),
            lexer: Lexer::new(),
            builder: Builder::default(),
            envelope: Envelope::default(),
            version: Vec::new(),
            salvage: None,
        }
    }
}

impl Inspector {
    /// Reads on.
    pub fn feed(&mut self, bytes: &[u8]) {
        // A refusal is told at the end; the machine takes no harm from being fed on.
        drop(self.preflight.feed(bytes));
        self.envelope.bytes += bytes.len() as u64;
        let mut rest = bytes;
        while self.salvage.is_none() {
            let Some(piece) = self.framing.next(&mut rest) else { return };
            self.piece(piece);
        }
        if let Some(salvage) = &mut self.salvage {
            salvage.feed(rest, &mut self.lexer, &mut self.builder);
        }
    }

    /// What the stream was.
    #[must_use]
    pub fn finish(mut self) -> Item {
        if let Some(salvage) = &mut self.salvage {
            self.envelope.salvaged_from = salvage.finish(&mut self.lexer, &mut self.builder);
        }
        let (report, refusal) = self.preflight.conclude();
        let mut item = self.builder.finish();
        item.envelope = self.envelope;
        item.not_understood_from = self.lexer.lost_at();
        item.restorable = refusal.is_none();
        item.findings = found(refusal, &report);
        item
    }

    fn piece(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Begin { opcode, .. } if self.is_lost(opcode) => {
                let at = self.framing.record_at();
                self.envelope.lost_at = Some(at);
                let mut salvage = Salvage::new(at);
                salvage.feed(&self.framing.header(), &mut self.lexer, &mut self.builder);
                self.salvage = Some(salvage);
            }
            Piece::Begin { opcode, .. } => {
                self.envelope.records += 1;
                self.envelope.buffers += u64::from(opcode == envelope::TRANSFER_BUFFER);
                self.version.clear();
            }
            Piece::Payload { opcode: envelope::TRANSFER_BUFFER, bytes } => {
                self.envelope.inner_bytes += bytes.len() as u64;
                self.lexer.feed(bytes, &mut self.builder);
            }
            Piece::Payload { opcode: envelope::TELL_PARTNER_VERSION, bytes } => {
                let room = 6_usize.saturating_sub(self.version.len());
                self.version.extend_from_slice(&bytes[..room.min(bytes.len())]);
            }
            Piece::End { opcode: envelope::TELL_PARTNER_VERSION, .. } => {
                if let Ok(bytes) = <[u8; 6]>::try_from(&*self.version) {
                    self.envelope.server_version = Some(ServerVersion::read(bytes).to_string());
                }
            }
            Piece::Payload { .. } | Piece::End { .. } => {}
        }
    }

    /// No record can begin so, or the stream does not begin as one.
    fn is_lost(&self, opcode: u32) -> bool {
        let first = self.framing.record_at() == 0;
        opcode > envelope::MAX_OPCODE || (first && self.framing.header() != envelope::MAGIC)
    }
}

fn found(refusal: Option<Refusal>, report: &super::Report) -> Vec<Found> {
    let meaning = |finding: Finding| finding.explain().to_owned();
    let refused = refusal.map(|refusal| Found {
        finding: refusal.finding.as_str(),
        at: refusal.at,
        count: 1,
        refuses: true,
        meaning: match refusal.looks_like {
            Some(what) => format!("{}; it looks like {what}", refusal.finding.explain()),
            None => meaning(refusal.finding),
        },
    });
    let warned = report.findings.iter().map(|(finding, at, count)| Found {
        finding: finding.as_str(),
        at,
        count,
        refuses: false,
        meaning: meaning(finding),
    });
    refused.into_iter().chain(warned).collect()
}

#[cfg(test)]
mod tests;
