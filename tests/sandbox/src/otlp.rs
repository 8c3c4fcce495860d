//! A collector: takes OTLP over HTTP with protobuf bodies, and gives the spans that came.
//!
//! Reads the wire format by itself (field numbers from opentelemetry-proto, `trace/v1/trace.proto`), so that it does not
//! share a reader with what it checks.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A span as it was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Hexadecimal.
    pub trace_id: String,
    /// Hexadecimal.
    pub span_id: String,
    /// Hexadecimal; empty: a root.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// 5: consumer.
    pub kind: u64,
    /// 2: error.
    pub status: u64,
    /// Attributes that are texts or numbers.
    pub attributes: BTreeMap<String, String>,
}

/// A running collector. Dropping it ends it.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Bytes>>>,
    _stop: DropGuard,
}

impl Collector {
    /// Starts it.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let bodies = Arc::<Mutex<Vec<Bytes>>>::default();
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&bodies))));
        Ok(Self { address, bodies, _stop: stop.drop_guard() })
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every body that came.
    #[must_use]
    pub fn bodies(&self) -> Vec<Bytes> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every span that came.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let bodies = self.bodies();
        let spans = bodies.iter().flat_map(|body| nested(body, &[1, 2, 2]));
        spans.map(read).collect()
    }
}

async fn accept(listener: TcpListener, bodies: Arc<Mutex<Vec<Bytes>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let bodies = Arc::clone(&bodies);
        let service = service_fn(move |request: Request<Incoming>| {
            let bodies = Arc::clone(&bodies);
            async move {
                if let Ok(body) = request.into_body().collect().await {
                    bodies.lock().unwrap_or_else(PoisonError::into_inner).push(body.to_bytes());
                }
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
            }
        });
        tokio::spawn(async move {
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

fn read(bytes: &[u8]) -> Span {
    let mut span = Span::default();
    for (number, field) in fields(bytes) {
        match (number, field) {
            (1, Field::Bytes(id)) => span.trace_id = hex(id),
            (2, Field::Bytes(id)) => span.span_id = hex(id),
            (4, Field::Bytes(id)) => span.parent = hex(id),
            (5, Field::Bytes(name)) => span.name = text(name),
            (6, Field::Number(kind)) => span.kind = kind,
            (9, Field::Bytes(attribute)) => {
                let key = nested(attribute, &[1]).into_iter().next().map(text).unwrap_or_default();
                let value = nested(attribute, &[2]).into_iter().next().map(value).unwrap_or_default();
                span.attributes.insert(key, value);
            }
            (15, Field::Bytes(status)) => {
                let code = fields(status).into_iter().find(|(number, _)| *number == 3);
                span.status = if let Some((_, Field::Number(code))) = code { code } else { 0 };
            }
            (_, _) => {}
        }
    }
    span
}

/// An `AnyValue`: texts, booleans, numbers.
fn value(bytes: &[u8]) -> String {
    match fields(bytes).into_iter().next() {
        Some((_, Field::Bytes(bytes))) => text(bytes),
        Some((_, Field::Number(number))) => number.to_string(),
        None => String::new(),
    }
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The length-delimited fields at the end of a path of field numbers.
fn nested<'a>(bytes: &'a [u8], path: &[u64]) -> Vec<&'a [u8]> {
    let Some((first, rest)) = path.split_first() else { return vec![bytes] };
    let found = fields(bytes).into_iter().filter(|(number, _)| number == first);
    found
        .flat_map(|(_, field)| if let Field::Bytes(bytes) = field { nested(bytes, rest) } else { Vec::new() })
        .collect()
}

/// The fields of a message, as far as it can be read.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while let Some(tag) = varint(&mut bytes) {
        let field = match tag & 7 {
            0 => varint(&mut bytes).map(Field::Number),
            1 => take(&mut bytes, 8).map(|b| Field::Number(little(b))),
            2 => varint(&mut bytes)
                .and_then(|length| take(&mut bytes, usize::try_from(length).ok()?))
                .map(Field::Bytes),
            5 => take(&mut bytes, 4).map(|b| Field::Number(little(b))),
            _ => None,
        };
        let Some(field) = field else { break };
        fields.push((tag >> 3, field));
    }
    fields
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(n)?;
    *bytes = tail;
    Some(head)
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
