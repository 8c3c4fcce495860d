//! The front of all four listeners: finds out what a request wants, has it answered, signs and counts the answer.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::{
    answer::Answer,
    entra::{self, Proof},
    fault::{Operation, Stage, Target},
    flow::{self, Reply},
    graph, import, text,
    wire::{Host, Line, ReplyBody, Severed},
    world::{SeenRequest, Shared},
};

/// Which of the services a listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Entra's token endpoint.
    Login,
    /// Microsoft Graph.
    Graph,
    /// Where import URLs lead.
    Import,
    /// The managed identity's endpoints.
    Identity,
}

/// One listener's service.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) part: Part,
    pub(super) shared: Arc<Shared>,
}

/// The largest token request.
const LARGEST_FORM: usize = 64 * 1024;

impl Host for Front {
    async fn reply(
        &self,
        line: Arc<Line>,
        request: hyper::Request<Incoming>,
    ) -> Result<hyper::Response<ReplyBody>, Severed> {
        let mut seen = SeenRequest {
            operation: Operation::Unknown,
            mailbox: None,
            status: 0,
            request_id: uuid::Uuid::new_v4().to_string(),
            client_request_id: header(request.headers(), "client-request-id"),
        };
        let reply = self.route(&line, request, &mut seen).await;
        self.send(&line, reply, seen).await
    }

    fn opened(&self, line: Arc<Line>) -> impl Send + 'static {
        let id = self.shared.world().lines.add(self.part, line);
        self.shared.tell_change();
        Open { shared: Arc::clone(&self.shared), id }
    }
}

/// An open connection, in the model's list.
struct Open {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.world().lines.remove(self.id);
        self.shared.tell_change();
    }
}

impl Front {
    async fn route(&self, line: &Line, request: hyper::Request<Incoming>, seen: &mut SeenRequest) -> Reply {
        let path = request.uri().path();
        match self.part {
            Part::Login => {
                let tenant = path.strip_prefix('/').and_then(|p| p.strip_suffix("/oauth2/v2.0/token"));
                if let Some(tenant) = tenant.filter(|t| request.method() == Method::POST && !t.contains('/'))
                {
                    let tenant = tenant.to_owned();
                    seen.operation = Operation::Token;
                    return self.token(line, &tenant, request, seen).await;
                }
            }
            Part::Graph => {
                // The OData service document: what a client asks for to see whether Graph is there at all.
                if request.method() == Method::GET && matches!(path, "/v1.0" | "/beta") {
                    return Answer::json(
                        200,
                        &serde_json::json!({"@odata.context": "$metadata", "value": []}),
                    )
                    .into();
                }
                if let Some(route) = graph::Route::parse(request.method(), path) {
                    seen.operation = route.operation();
                    seen.mailbox = Some(route.mailbox.clone());
                    return graph::reply(&self.shared, line, &route, request).await;
                }
            }
            Part::Import => {
                if let Some(mailbox) = import::mailbox_of(path) {
                    seen.operation = Operation::Import;
                    seen.mailbox = Some(mailbox.clone());
                    return import::reply(&self.shared, line, &mailbox, request).await;
                }
            }
            Part::Identity => {
                let proof = match path {
                    "/metadata/identity/oauth2/token" => Some((Proof::Metadata, "metadata")),
                    "/msi/token" => Some((Proof::IdentityHeader, "x-identity-header")),
                    _ => None,
                };
                if let Some((proof, name)) = proof.filter(|_| request.method() == Method::GET) {
                    seen.operation = Operation::ManagedIdentity;
                    return self.identity(line, proof, name, &request).await;
                }
            }
        }
        self.shared.violation(format!("{:?}: unknown request {} {path}", self.part, request.method()));
        Answer::error(404, "UnknownError", "No resource is here.").into()
    }

    async fn token(
        &self,
        line: &Line,
        tenant: &str,
        request: hyper::Request<Incoming>,
        seen: &SeenRequest,
    ) -> Reply {
        let target = Target { tenant: Some(tenant), ..Target::of(Operation::Token) };
        if let Some(early) = flow::head(self.shared.take(Stage::Head, &target)).await.early {
            return early;
        }
        let kind = header(request.headers(), "content-type").unwrap_or_default();
        if !kind.starts_with("application/x-www-form-urlencoded") {
            self.shared.violation(format!("token request: content type {kind}"));
        }
        let correlation = seen.client_request_id.clone().unwrap_or_else(|| seen.request_id.clone());
        let body = Limited::new(request.into_body(), LARGEST_FORM).collect().await;
        let form = body.ok().and_then(|body| String::from_utf8(body.to_bytes().to_vec()).ok());
        if let Some(answer) = flow::refusal(self.shared.take(Stage::Body, &target)) {
            return answer.into();
        }
        let answer = entra::token(&self.shared, tenant, &form.unwrap_or_default(), &correlation);
        self.finish(line, &target, answer).await
    }

    async fn identity(
        &self,
        line: &Line,
        proof: Proof,
        name: &str,
        request: &hyper::Request<Incoming>,
    ) -> Reply {
        let target = Target::of(Operation::ManagedIdentity);
        if let Some(early) = flow::head(self.shared.take(Stage::Head, &target)).await.early {
            return early;
        }
        let shown = header(request.headers(), name);
        let query = request.uri().query().unwrap_or_default();
        let answer = entra::managed_identity(&self.shared, proof, shown.as_deref(), query);
        self.finish(line, &target, answer).await
    }

    async fn finish(&self, line: &Line, target: &Target<'_>, answer: Answer) -> Reply {
        if answer.is_success() {
            flow::commit(self.shared.take(Stage::Commit, target), answer, line).await
        } else {
            answer.into()
        }
    }

    /// Counts the reply, then gives it away, or does what was scripted instead.
    async fn send(
        &self,
        line: &Line,
        reply: Reply,
        mut seen: SeenRequest,
    ) -> Result<hyper::Response<ReplyBody>, Severed> {
        let (answer, body) = match reply {
            Reply::Answer(answer) => {
                let body = ReplyBody::Full(Some(answer.body.clone()).filter(|body| !body.is_empty()));
                (answer, body)
            }
            Reply::Half(answer) => {
                let part = answer.body.slice(..answer.body.len() / 2);
                let body =
                    ReplyBody::Half { whole: answer.body.len() as u64, part: Some(part), flushed: false };
                (answer, body)
            }
            Reply::Huge(answer, bytes) => (answer, ReplyBody::Huge { left: bytes }),
            Reply::Cut(cut) => {
                self.shared.count(seen);
                line.sever(cut);
                return Err(Severed);
            }
            Reply::Gone => {
                self.shared.count(seen);
                return Err(Severed);
            }
            Reply::Silence => {
                self.shared.count(seen);
                return std::future::pending().await;
            }
        };
        seen.status = answer.status;
        let response = self.sign(&answer, body, &seen);
        self.shared.count(seen);
        Ok(response)
    }

    fn sign(&self, answer: &Answer, body: ReplyBody, seen: &SeenRequest) -> hyper::Response<ReplyBody> {
        let mut response = hyper::Response::new(body);
        if let Ok(status) = http::StatusCode::from_u16(answer.status) {
            *response.status_mut() = status;
        }
        let date = text::http_date(self.shared.world().now_ms());
        let ours = [("date", Some(&date)), ("request-id", Some(&seen.request_id))];
        let ours = ours.into_iter().chain([("client-request-id", seen.client_request_id.as_ref())]);
        let ours = ours.filter_map(|(name, value)| value.map(|value| (name, value.as_str())));
        let theirs = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in ours.chain(theirs) {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}
