//! `/livez`, `/readyz`, `/metrics`, and on a private listener `/lanes`.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use tokio::net::TcpListener;

/// One thing that health depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Nothing, or what is wrong.
    pub trouble: Option<String>,
}

/// Answers a health question now.
pub type Ask = Box<dyn Fn() -> Vec<Check> + Send + Sync>;
/// What each busy mailbox waits for: the first so many, or one mailbox.
pub type AskLanes = Box<dyn Fn(usize, Option<&str>) -> serde_json::Value + Send + Sync>;

/// The metrics now, in the Prometheus text format.
pub type AskMetrics = Box<dyn Fn() -> Result<String, prometheus::Error> + Send + Sync>;

/// What the listeners ask.
pub struct Admin {
    /// Whether the process works at all. Never tests a dependency.
    pub live: Ask,
    /// Whether it can do its work now.
    pub ready: Ask,
    /// For `/lanes`.
    pub lanes: AskLanes,
    /// For `/metrics`.
    pub metrics: AskMetrics,
}

#[derive(Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

#[derive(Deserialize)]
struct Which {
    top: Option<usize>,
    mailbox: Option<String>,
}

/// Mailboxes shown by `/lanes` unless told otherwise.
const TOP: usize = 20;

/// Serves health and metrics until the future is dropped.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) -> std::io::Result<()> {
    let router = Router::new()
        .route(
            "/livez",
            get(|State(admin): State<Arc<Admin>>, query| async move { answer(&(admin.live)(), &query) }),
        )
        .route(
            "/readyz",
            get(|State(admin): State<Arc<Admin>>, query| async move { answer(&(admin.ready)(), &query) }),
        )
        .route("/metrics", get(render))
        .with_state(admin);
    axum::serve(listener, router).await
}

/// Serves `/lanes` until the future is dropped.
///
/// # Errors
/// When the listener fails.
pub async fn serve_inspect(listener: TcpListener, admin: Arc<Admin>) -> std::io::Result<()> {
    axum::serve(listener, Router::new().route("/lanes", get(lanes)).with_state(admin)).await
}

async fn render(State(admin): State<Arc<Admin>>) -> Response {
    match (admin.metrics)() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn lanes(State(admin): State<Arc<Admin>>, Query(which): Query<Which>) -> Response {
    Json((admin.lanes)(which.top.unwrap_or(TOP), which.mailbox.as_deref())).into_response()
}

/// 200 `ok`, or 503 with what is wrong; verbose: a line for each check.
fn answer(checks: &[Check], Query(query): &Query<Verbose>) -> Response {
    let healthy = checks.iter().all(|check| check.trouble.is_none());
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    for Check { name, trouble } in checks {
        match trouble {
            None if query.verbose.is_some() => writeln!(text, "[+] {name} ok"),
            Some(trouble) => writeln!(text, "[-] {name}: {trouble}"),
            None => Ok(()),
        }
        .expect("writing to a String cannot fail");
    }
    text.push_str(if healthy { "ok\n" } else { "failed\n" });
    (status, text).into_response()
}
