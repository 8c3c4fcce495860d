//! One request to Graph: token, ids, metrics, one fresh token after a 401.

use std::borrow::Cow;

use reqwest::{Client, Method, RequestBuilder, Response, Url, header};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    answer::{self, Call},
    client,
    clock::{self, Offset},
    counted::{count, count_limit},
    identity::Identity,
    wire::{Hints, Said},
};
use crate::{
    domain::{Dependency, GraphVersion, Reason, RestoreError, TenantId},
    metrics::Metrics,
};

/// Largest error body that is read.
pub(super) const MAX_ERROR: usize = 64 * 1024;

/// Graph's root and the configured version.
#[derive(Clone, Debug)]
pub(super) struct Root {
    base: Url,
    pub(super) version: GraphVersion,
}

impl Root {
    /// Parses `exchange.graph`: root and version.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("exchange.graph: {why}");
        let base = Url::parse(text.trim_end_matches('/')).map_err(|error| wrong(&error.to_string()))?;
        if !secure(&base) {
            return Err(wrong("must be https (http only on this machine, for tests)"));
        }
        if base.query().is_some() || base.fragment().is_some() || !base.username().is_empty() {
            return Err(wrong("must be a plain URL like https://graph.microsoft.com/v1.0"));
        }
        let (front, version) = base.path().rsplit_once('/').unwrap_or_default();
        let version = match version {
            "v1.0" => GraphVersion::V1,
            "beta" => GraphVersion::Beta,
            _ => return Err(wrong("must end in /v1.0 or /beta")),
        };
        let mut root = base.clone();
        root.set_path(front);
        Ok(Self { base: root, version })
    }

    /// The scope that tokens are asked for.
    pub(super) fn scope(&self) -> String {
        format!("{}/.default", self.base.origin().ascii_serialization())
    }

    /// A URL below the version; each segment is encoded as one.
    pub(super) fn url(&self, version: GraphVersion, segments: &[&str]) -> Result<Url, RestoreError> {
        let mut text = self.base.as_str().trim_end_matches('/').to_owned();
        for part in [version.as_str()].iter().chain(segments) {
            text.push('/');
            text.push_str(&segment(part)?);
        }
        let broken = |_| RestoreError::job(Reason::Internal, "an id could not be put into a URL");
        Url::parse(&text).map_err(broken)
    }

    /// Whether a URL that Graph sent (a next page, a moved folder) is Graph's: our token goes nowhere else.
    pub(super) fn owns(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
            && url.path().starts_with(self.base.path())
            && url.username().is_empty()
    }
}

/// https, or plain http on this machine.
fn secure(url: &Url) -> bool {
    let local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    url.scheme() == "https" || (url.scheme() == "http" && local)
}

/// One path segment. `:`, `@` and the like stay, as in Microsoft's examples; `.` and `..` cannot be written at all.
fn segment(text: &str) -> Result<Cow<'_, str>, RestoreError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:@!$'()*,;=".contains(&b);
    if text == "." || text == ".." || text.is_empty() {
        return Err(RestoreError::job(
            Reason::ItemRejected,
            "an id that is a relative path cannot be looked up",
        ));
    }
    if text.bytes().all(plain) {
        return Ok(Cow::Borrowed(text));
    }
    let encode = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    Ok(Cow::Owned(text.bytes().map(encode).collect()))
}

/// A request to be sent: what it is called in metrics, and how.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) operation: &'static str,
    pub(super) call: Call,
    pub(super) method: Method,
    pub(super) url: Url,
}

/// Sends requests to Graph.
pub(super) struct Graph<'a> {
    pub(super) client: &'a Client,
    pub(super) spare: &'a Client,
    pub(super) identity: &'a Identity,
    pub(super) offset: &'a Offset,
    pub(super) metrics: &'a Metrics,
}

impl Graph<'_> {
    /// Sends; a 401 is answered with one fresh token and one more try.
    pub(super) async fn send(
        &self,
        tenant: &TenantId,
        request: &Request,
    ) -> Result<(Response, Hints), RestoreError> {
        let token = self.identity.token(tenant).await?;
        let first = self.once(request, Some(token.bearer())).await?;
        if first.0.status() != reqwest::StatusCode::UNAUTHORIZED {
            return Ok(first);
        }
        tracing::warn!(request_id = first.1.request_id, "graph refused our token: asking for a fresh one");
        let fresh = self.identity.fresh(tenant, &token).await?;
        self.once(request, Some(fresh.bearer())).await
    }

    /// Sends once.
    pub(super) async fn once(
        &self,
        request: &Request,
        bearer: Option<&str>,
    ) -> Result<(Response, Hints), RestoreError> {
        let id = Uuid::new_v4().to_string();
        let mut builder = self
            .client
            .request(request.method.clone(), request.url.clone())
            .header("client-request-id", &id)
            .header(header::ACCEPT, "application/json");
        if request.method == Method::POST {
            builder = builder.header(header::CONTENT_LENGTH, 0).body("");
        }
        if let Some(bearer) = bearer {
            builder = builder.bearer_auth(bearer);
        }
        let started = Instant::now();
        let sent = self.on_some_connection(builder).await;
        let took = started.elapsed();
        let status = sent.as_ref().map_or("error".into(), |answer| answer.status().as_u16().to_string());
        count(self.metrics, request.operation, &status, took);
        let answer =
            sent.map_err(|error| unreachable(&format!("graph cannot be reached: {}", client::tell(error))))?;
        let hints = Hints::read(answer.headers(), clock::own_clock());
        if let Some(date) = hints.date {
            self.offset.hear(date, took);
        }
        tracing::debug!(
            operation = request.operation,
            status = answer.status().as_u16(),
            client_request_id = id,
            request_id = hints.request_id,
            "graph answered"
        );
        Ok((answer, hints))
    }

    /// Sends; once more, if the connection (or its stream) ended under the request. HTTP/2 puts every mailbox's requests on one
    /// connection, whose end would look like several jobs' trouble, and so like Exchange being away. No request to Graph does
    /// harm when it is done twice: a session that nobody uses expires.
    async fn on_some_connection(&self, builder: RequestBuilder) -> reqwest::Result<Response> {
        let request = builder.build()?;
        let again = request.try_clone();
        match (self.client.execute(request).await, again) {
            (Err(error), Some(again)) if client::was_cut(&error) => {
                tracing::debug!(
                    error = client::tell(error),
                    "a connection to graph was cut: asking on another"
                );
                self.spare.execute(again).await
            }
            (sent, _) => sent,
        }
    }

    /// Judges an answer that is no success.
    pub(super) async fn refused(&self, call: Call, answer: Response, hints: &Hints) -> RestoreError {
        let status = answer.status().as_u16();
        let said = Said::decode(&client::read_some(answer, MAX_ERROR).await);
        let judged = answer::judge(call, status, hints, &said);
        count_limit(self.metrics, &judged.error);
        tracing::debug!(status, known = ?judged.known, fault = ?judged.error.fault, "an answer was judged");
        judged.error
    }
}

/// Exchange or Graph did not answer.
pub(super) fn unreachable(message: &str) -> RestoreError {
    RestoreError::passing(Dependency::Exchange, Reason::ExchangeUnavailable, message)
}
