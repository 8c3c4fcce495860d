//! The two HTTP clients and what every request has in common: ids, bounded answers, errors without URLs.
//!
//! Never prints a URL: the import URL's query is a credential, and `reqwest` would print it.

use std::{error::Error, fmt::Write as _, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{Certificate, Client, ClientBuilder, Response, redirect, retry};

/// Longest wait for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Below what front ends allow an idle connection (30 s and more), so that a request rarely meets one being closed.
const IDLE: Duration = Duration::from_secs(20);
/// Far below what any front end allows: a small item's bytes leave in one write, so that one which meets a connection being
/// closed is in doubt. Lanes with work use a connection again at once.
const IMPORT_IDLE: Duration = Duration::from_secs(2);
/// Idle connections kept for one host; more than lanes are usually at work.
const IDLE_CONNECTIONS: usize = 64;

/// The client for Graph and the token endpoint; may speak HTTP/2.
pub(super) fn graph(ca_pem: Option<&[u8]>, timeout: Duration) -> Result<Client, String> {
    build(common(ca_pem)?.timeout(timeout))
}

/// The client for a request to Graph whose connection was cut: a new connection for each, for the pool may hold the old one a
/// moment longer.
pub(super) fn spare(ca_pem: Option<&[u8]>, timeout: Duration) -> Result<Client, String> {
    build(common(ca_pem)?.timeout(timeout).pool_max_idle_per_host(0))
}

/// The client for import URLs: HTTP/1.1, a connection for each upload. Time-outs are the sender's.
pub(super) fn import(ca_pem: Option<&[u8]>) -> Result<Client, String> {
    build(common(ca_pem)?.http1_only().tcp_nodelay(true).pool_idle_timeout(IMPORT_IDLE))
}

/// The client for a managed identity's endpoint, which is on this machine: no proxy.
pub(super) fn local(timeout: Duration) -> Result<Client, String> {
    build(common(None)?.no_proxy().timeout(timeout))
}

fn common(ca_pem: Option<&[u8]>) -> Result<ClientBuilder, String> {
    let builder = Client::builder()
        .user_agent(concat!("restore-worker/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .tcp_keepalive(Duration::from_secs(30));
    match ca_pem {
        None => Ok(builder),
        Some(pem) => {
            let certificates = Certificate::from_pem_bundle(pem)
                .map_err(|error| format!("exchange.ca_file: {}", tell(error)))?;
            if certificates.is_empty() {
                return Err("exchange.ca_file: holds no certificate".into());
            }
            Ok(builder.tls_certs_merge(certificates))
        }
    }
}

fn build(builder: ClientBuilder) -> Result<Client, String> {
    builder.build().map_err(|error| format!("exchange: no HTTP client can be made: {}", tell(error)))
}

/// Whether a connection ended under its request, which was not answered.
pub(super) fn was_cut(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout()
}

/// An error's chain as a sentence, without its URL.
pub(super) fn tell(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) && write!(text, ": {cause_text}").is_err() {
            break;
        }
        source = cause.source();
    }
    text
}

/// Why an answer's body could not be had.
#[derive(Debug)]
pub(super) enum Unread {
    /// Longer than allowed.
    TooLong,
    /// Cut, or not decodable.
    Broken(String),
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong => f.write_str("the answer is longer than allowed"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

/// The body, if it ends within `limit` bytes.
pub(super) async fn read(mut answer: Response, limit: usize) -> Result<Bytes, Unread> {
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| Unread::Broken(tell(error)))? {
        if body.len() + chunk.len() > limit {
            return Err(Unread::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// As much of an error's body as there is within `limit` bytes.
pub(super) async fn read_some(mut answer: Response, limit: usize) -> Bytes {
    let mut body = BytesMut::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        let room = limit.saturating_sub(body.len());
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() >= limit {
            break;
        }
    }
    body.freeze()
}
