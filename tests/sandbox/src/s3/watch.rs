//! Somebody who sees every request at the moment it is about to be done, and at the moment it is done but not answered.

use std::{fmt::Debug, io};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Method, Request, body::Incoming, header};

/// Bodies up to this length are shown; a record of the ledger is far smaller.
const SHOWN: u64 = 64 * 1024;

/// What becomes of a request that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    GoOn,
    /// Its connection ends here, without an answer.
    Cut,
}

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// `GET`, `HEAD`, `PUT`, `DELETE`.
    pub method: Method,
    /// `bucket/key`, as it is in the URL.
    pub path: String,
    /// The access key that signed it: who asks.
    pub access_key: String,
    /// The body of a PUT, in the SDK's own framing, if it is small.
    pub body: Bytes,
}

/// Sees requests. Called on the server's own tasks: must not wait.
pub trait Watch: Debug + Send + Sync {
    /// It is in; nothing is read or written yet.
    fn arrived(&self, request: &Seen) -> Next;
    /// It is done; the answer has not left yet.
    fn done(&self, request: &Seen, status: u16) -> Next;
}

impl Seen {
    /// Reads what is shown of a request, and gives the request back whole.
    pub(super) async fn of(request: Request<Incoming>) -> io::Result<(Self, Request<s3s::Body>)> {
        let (parts, body) = request.into_parts();
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let signer = text(header::AUTHORIZATION).and_then(|value| value.split_once("Credential="));
        let access_key = signer.and_then(|(_, rest)| rest.split_once('/')).map_or("", |(key, _)| key);
        let length = text(header::CONTENT_LENGTH).and_then(|value| value.parse::<u64>().ok());
        let mut seen = Self {
            method: parts.method.clone(),
            path: parts.uri.path().trim_start_matches('/').to_owned(),
            access_key: access_key.to_owned(),
            body: Bytes::new(),
        };
        let whole = if parts.method == Method::PUT && length.is_some_and(|length| length <= SHOWN) {
            seen.body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            s3s::Body::from(seen.body.clone())
        } else {
            s3s::Body::from(body)
        };
        Ok((seen, Request::from_parts(parts, whole)))
    }
}
