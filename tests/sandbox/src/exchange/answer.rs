//! Answers: status, headers and body, and the error shapes of Graph and Exchange.
//!
//! Shapes (facts, section 3): `{"error":{"code","message","innerError"}}`, `{"Error":…}` (one of Microsoft's
//! examples), `{"Message":…}` (the 409 of auxiliary archives), or no JSON at all.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

/// How error bodies of the import host are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorShape {
    /// `{"error":{"code","message"}}`
    #[default]
    Odata,
    /// `{"Error":{"Code","Message"}}`
    Pascal,
    /// `{"Message":…}`, without a code.
    MessageOnly,
}

/// A whole answer, made by the model or by a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers beside the usual ones (`Date`, `request-id`, `client-request-id`, `Content-Length`).
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// A status without a body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets a body of text or bytes.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// A status with a JSON body.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        Self::status(status).header("content-type", "application/json; charset=utf-8").body(body.to_string())
    }

    /// An error in the usual shape.
    #[must_use]
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::shaped(ErrorShape::Odata, status, code, message)
    }

    /// An error in the given shape.
    #[must_use]
    pub fn shaped(shape: ErrorShape, status: u16, code: &str, message: &str) -> Self {
        let body = match shape {
            ErrorShape::Odata => json!({"error": {"code": code, "message": message}}),
            ErrorShape::Pascal => json!({"Error": {"Code": code, "Message": message}}),
            ErrorShape::MessageOnly => json!({"Message": message}),
        };
        Self::json(status, &body)
    }

    /// 429 as Exchange writes it: text, `Rate-Limit-Reason` and `RateLimit-Exceeded` name the limit.
    ///
    /// Texts: practitioners' (`IncomingBytes`) and Microsoft's Q&A (`MailboxConcurrency`); header names as in
    /// a Microsoft sample (facts, section 3).
    #[must_use]
    pub fn too_many(limit: &str, retry_after: Option<Duration>) -> Self {
        let message = format!("Application is over its {limit} limit.");
        let answer = Self::error(429, "ApplicationThrottled", &message)
            .header("rate-limit-reason", limit)
            .header("ratelimit-exceeded", "true");
        match retry_after {
            Some(time) => answer.header("retry-after", time.as_secs().max(1).to_string()),
            None => answer,
        }
    }

    /// A redirect to `location` with 307, or another 3xx.
    #[must_use]
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).header("location", location)
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON, changed.
    pub(super) fn change(mut self, change: impl FnOnce(&mut Value)) -> Self {
        if let Ok(mut value) = serde_json::from_slice::<Value>(&self.body) {
            change(&mut value);
            self.body = value.to_string().into();
        }
        self
    }
}

/// The same object with the first letter of each key in upper case.
pub(super) fn pascal(value: &mut Value) {
    if let Value::Object(fields) = value {
        *fields = std::mem::take(fields)
            .into_iter()
            .map(|(key, value)| {
                let mut letters = key.chars();
                let first = letters.next().map(|c| c.to_ascii_uppercase());
                (first.into_iter().chain(letters).collect(), value)
            })
            .collect();
    }
}
