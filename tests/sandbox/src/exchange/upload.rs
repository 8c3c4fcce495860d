//! The import request's JSON, read as it comes: keys and short values as text, `Data` decoded and hashed.
//!
//! Only a flat object of strings is understood. Keys may come in any order. What breaks the form is an
//! [`UploadError`]; whether keys and values make sense is judged later.

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Why a body is no import request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UploadError {
    /// No JSON object of strings.
    Json(String),
    /// `Data` is no base64 (RFC 4648, padded, without line breaks).
    Base64,
}

/// A complete import request.
#[derive(Debug, Default)]
pub(super) struct Upload {
    /// All keys but `Data`, as they came.
    pub(super) fields: Vec<(String, String)>,
    /// The decoded item, if there was a `Data`.
    pub(super) data: Option<Decoded>,
}

/// A decoded item; its bytes live only until it is judged.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) bytes: Vec<u8>,
    pub(super) sha256: [u8; 32],
}

impl Upload {
    pub(super) fn field(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    KeyOrEnd,
    Key,
    InKey,
    Colon,
    Value,
    InValue,
    InData,
    CommaOrEnd,
    End,
}

/// The longest text beside `Data`.
const LONGEST: usize = 64 * 1024;

/// Reads one body, piece by piece.
#[derive(Debug)]
pub(super) struct Reader {
    state: State,
    text: Vec<u8>,
    escaped: bool,
    key: String,
    upload: Upload,
    sink: Option<Base64Sink>,
}

impl Reader {
    /// `expected`: the body's length, so that the item's buffer need not grow.
    pub(super) fn new(expected: u64) -> Self {
        let room = usize::try_from(expected / 4 * 3).unwrap_or(0);
        Self {
            state: State::Start,
            text: Vec::new(),
            escaped: false,
            key: String::new(),
            upload: Upload::default(),
            sink: Some(Base64Sink::new(room)),
        }
    }

    pub(super) fn feed(&mut self, mut piece: &[u8]) -> Result<(), UploadError> {
        while let Some((&byte, tail)) = piece.split_first() {
            match self.state {
                State::InData => piece = self.data(piece)?,
                State::InKey | State::InValue => {
                    self.string(byte)?;
                    piece = tail;
                }
                State::Start
                | State::KeyOrEnd
                | State::Key
                | State::Colon
                | State::Value
                | State::CommaOrEnd
                | State::End => {
                    self.between(byte)?;
                    piece = tail;
                }
            }
        }
        Ok(())
    }

    /// The request, if the JSON is closed.
    pub(super) fn finish(self) -> Result<Upload, UploadError> {
        if self.state == State::End {
            Ok(self.upload)
        } else {
            Err(UploadError::Json("it ends early".into()))
        }
    }

    fn between(&mut self, byte: u8) -> Result<(), UploadError> {
        self.state = match (self.state, byte) {
            (_, b' ' | b'\t' | b'\r' | b'\n') => self.state,
            (State::Start, b'{') => State::KeyOrEnd,
            (State::KeyOrEnd | State::CommaOrEnd, b'}') => State::End,
            (State::KeyOrEnd | State::Key, b'"') => State::InKey,
            (State::Colon, b':') => State::Value,
            (State::CommaOrEnd, b',') => State::Key,
            (State::Value, b'"') if self.key == "Data" => State::InData,
            (State::Value, b'"') => State::InValue,
            (State::Value, _) => return Err(UploadError::Json(format!("{} is no string", self.key))),
            (state, byte) => {
                return Err(UploadError::Json(format!("unexpected byte 0x{byte:02x} ({state:?})")));
            }
        };
        Ok(())
    }

    fn string(&mut self, byte: u8) -> Result<(), UploadError> {
        if byte != b'"' || self.escaped {
            self.escaped = byte == b'\\' && !self.escaped;
            self.text.push(byte);
            if self.text.len() > LONGEST {
                return Err(UploadError::Json("a text is too long".into()));
            }
            return Ok(());
        }
        let raw = String::from_utf8(std::mem::take(&mut self.text))
            .map_err(|_| UploadError::Json("a text is no UTF-8".into()))?;
        let text: String = serde_json::from_str(&format!("\"{raw}\""))
            .map_err(|error| UploadError::Json(error.to_string()))?;
        if self.state == State::InKey {
            let twice = self.upload.field(&text).is_some() || (text == "Data" && self.sink.is_none());
            if twice {
                return Err(UploadError::Json(format!("{text} comes twice")));
            }
            self.key = text;
            self.state = State::Colon;
        } else {
            self.upload.fields.push((std::mem::take(&mut self.key), text));
            self.state = State::CommaOrEnd;
        }
        Ok(())
    }

    /// Takes base64 up to the closing quote; returns what follows.
    fn data<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8], UploadError> {
        let Some(sink) = self.sink.as_mut() else { return Err(UploadError::Base64) };
        let Some(end) = piece.iter().position(|byte| *byte == b'"') else {
            sink.feed(piece)?;
            return Ok(&[]);
        };
        let (last, tail) = piece.split_at(end);
        sink.feed(last)?;
        self.upload.data = self.sink.take().map(Base64Sink::finish).transpose()?;
        self.state = State::CommaOrEnd;
        Ok(tail.get(1..).unwrap_or_default())
    }
}

/// Decodes base64 of any chunking.
struct Base64Sink {
    carry: Vec<u8>,
    ended: bool,
    bytes: Vec<u8>,
    hash: digest::Context,
}

impl std::fmt::Debug for Base64Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base64Sink").field("decoded", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Base64Sink {
    fn new(room: usize) -> Self {
        Self {
            carry: Vec::with_capacity(4),
            ended: false,
            bytes: Vec::with_capacity(room),
            hash: digest::Context::new(&digest::SHA256),
        }
    }

    fn feed(&mut self, mut text: &[u8]) -> Result<(), UploadError> {
        if !self.carry.is_empty() {
            let (head, tail) = text.split_at(text.len().min(4 - self.carry.len()));
            self.carry.extend_from_slice(head);
            text = tail;
            if self.carry.len() < 4 {
                return Ok(());
            }
            let carry = std::mem::take(&mut self.carry);
            self.decode(&carry)?;
        }
        let (whole, rest) = text.split_at(text.len() / 4 * 4);
        self.decode(whole)?;
        self.carry.extend_from_slice(rest);
        Ok(())
    }

    fn decode(&mut self, text: &[u8]) -> Result<(), UploadError> {
        let Some(last) = text.last() else { return Ok(()) };
        if self.ended {
            return Err(UploadError::Base64);
        }
        self.ended = *last == b'=';
        let before = self.bytes.len();
        STANDARD.decode_vec(text, &mut self.bytes).map_err(|_| UploadError::Base64)?;
        self.hash.update(self.bytes.get(before..).unwrap_or_default());
        Ok(())
    }

    fn finish(self) -> Result<Decoded, UploadError> {
        if !self.carry.is_empty() {
            return Err(UploadError::Base64);
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.hash.finish().as_ref());
        Ok(Decoded { bytes: self.bytes, sha256 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, step: usize) -> Result<Upload, UploadError> {
        let mut reader = Reader::new(body.len() as u64);
        for piece in body.as_bytes().chunks(step) {
            reader.feed(piece)?;
        }
        reader.finish()
    }

    #[test]
    fn any_chunking_reads_the_same() {
        let item: Vec<u8> = (0..=255).collect();
        let data = STANDARD.encode(&item);
        let body = format!(r#"{{ "FolderId":"a\"\u0062","Data":"{data}" , "Mode":"create"}}"#);
        for step in 1..body.len() {
            let upload = read(&body, step).map_err(|e| format!("{step}: {e:?}"));
            let upload = upload.expect("the body is whole");
            assert_eq!(upload.field("FolderId"), Some("a\"b"));
            assert_eq!(upload.data.map(|d| d.bytes), Some(item.clone()));
        }
    }

    #[test]
    fn broken_bodies_are_refused() {
        let bad = [
            r#"{"Data":"AAAA""#,
            r#"{"Data":"AAAA"}}"#,
            r#"{"Data":"AAAA","Data":"AAAA"}"#,
            r#"{"Mode":"a","Mode":"b"}"#,
            r#"{"Mode":1}"#,
            r#"{"Data":null}"#,
            r#"{"Data":"AAA"}"#,
            r#"{"Data":"AA==AAAA"}"#,
            r#"{"Data":"AA\n=="}"#,
            r#"{"Data":"AB=="}"#,
            "[]",
            "",
        ];
        for body in bad {
            for step in [1, 3, 1000] {
                assert!(read(body, step).is_err(), "{body}");
            }
        }
    }
}
