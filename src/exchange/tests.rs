//! The HTTP behaviour of this room against a real TLS server on this machine.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{StreamExt, stream};
use serde_json::json;

use super::*;
use crate::{
    domain::{Dependency, Fault, FolderId, ImportMode, Limit, OursScope, Reason, UnixMillis},
    secret::Secret,
};

mod identity;
mod server;

use server::{Plan, Seen, Server};

const MAILBOX: &str = "MBX:a@b";

fn tenant() -> TenantId {
    TenantId::parse("contoso.example").expect("a tenant")
}

fn mailbox() -> MailboxId {
    MailboxId::parse(MAILBOX).expect("a mailbox")
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::register("0", "0").expect("registers"))
}

fn settings(server: &Server) -> Settings {
    Settings {
        graph: server.url("/v1.0"),
        import_hosts: vec![format!("localhost:{}", server.port)],
        session_margin: Duration::from_mins(2),
        request_timeout: Duration::from_secs(2),
        min_upload_rate: 1024 * 1024,
        ca_pem: Some(server.ca_pem.clone()),
        identity: super::identity::Settings {
            client_id: Some("client".into()),
            client_secret: Some(Secret::value("hunter2")),
            authority: Some(server.url("")),
            tenant: Some(tenant()),
            ..super::identity::Settings::default()
        },
    }
}

/// Microsoft's own hosts: asked by no test.
fn of_microsoft(identity: super::identity::Settings) -> Settings {
    Settings {
        graph: "https://graph.microsoft.com/v1.0".into(),
        import_hosts: vec!["outlook.office365.com".into()],
        session_margin: Duration::from_mins(2),
        request_timeout: Duration::from_mins(1),
        min_upload_rate: 1,
        ca_pem: None,
        identity,
    }
}

fn exchange(server: &Server) -> Exchange {
    Exchange::connect(settings(server), metrics()).expect("connects")
}

fn token() -> Plan {
    Plan::json(200, &json!({ "token_type": "Bearer", "expires_in": 3600, "access_token": "e30.e30.secret" }))
}

fn session_of(seen: &Seen) -> Plan {
    let port = seen.headers["host"].clone();
    let url = format!("https://{port}/api/gv1.0/Mailboxes('{MAILBOX}')/importItem?authtoken=eyJx");
    Plan::json(201, &json!({ "importUrl": url, "expirationDateTime": "2099-10-17T19:00:48.1052906Z" }))
}

fn imported() -> Plan {
    Plan::json(200, &json!({ "ItemId": "I", "changeKey": "C" }))
}

/// Token and session as they should be; `import` decides on imports, by their count.
async fn server(import: impl Fn(usize) -> Plan + Send + Sync + 'static) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |seen| match seen.target.as_str() {
        target if target.contains("/oauth2/v2.0/token") => token(),
        target if target.contains("createImportSession") => session_of(seen),
        target if target.contains("importItem") => import(count.fetch_add(1, Ordering::SeqCst)),
        _ => Plan::json(404, &json!({})),
    })
    .await
}

async fn import_bytes(
    exchange: &Exchange,
    bytes: Vec<u8>,
    fence: Fence,
) -> Result<ImportAnswer, ImportFailure> {
    let session = exchange.session(&tenant(), &mailbox(), None).await.expect("a session");
    let folder = FolderId::parse("AAA=").expect("a folder");
    let item = ImportItem {
        folder: &folder,
        mode: &ImportMode::Create,
        length: u64::try_from(bytes.len()).expect("fits"),
    };
    let chunks: Vec<_> = bytes.chunks(50_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    exchange.import_item(&session, item, stream::iter(chunks), fence).await
}

#[tokio::test]
async fn an_item_is_imported_through_one_session() {
    let server = server(|_| imported()).await;
    let exchange = exchange(&server);
    for _ in 0..3 {
        let answer = import_bytes(&exchange, b"item".to_vec(), Fence::none()).await.expect("imported");
        assert_eq!((answer.imported.item_id.as_str(), answer.request_id.as_deref()), ("I", Some("r-200")));
    }
    let [opening] = &server.seen("createImportSession")[..] else { panic_free() };
    assert_eq!(
        opening.target,
        format!("POST /v1.0/admin/exchange/mailboxes/{MAILBOX}/createImportSession HTTP/1.1")
    );
    assert_eq!(opening.headers["content-length"], "0");
    assert_eq!(opening.headers["authorization"], "Bearer e30.e30.secret");
    assert_eq!(server.seen("/token").len(), 1);
    let imports = server.seen("importItem");
    assert_eq!(imports.len(), 3);
    for import in imports {
        assert!(
            import
                .target
                .starts_with("POST /api/gv1.0/Mailboxes('MBX:a@b')/importItem?authtoken=eyJx HTTP/1.1")
        );
        assert!(
            !import.headers.contains_key("authorization")
                && !import.headers.contains_key("transfer-encoding")
        );
        let body: serde_json::Value = serde_json::from_slice(&import.body).expect("JSON");
        assert_eq!(body, json!({ "FolderId": "AAA=", "Mode": "create", "Data": STANDARD.encode("item") }));
    }
}

/// Only where a slice pattern has failed.
fn panic_free() -> ! {
    unreachable!("another number of requests was seen")
}

#[tokio::test]
async fn many_jobs_open_one_session_with_one_token() {
    let server = server(|_| imported()).await;
    let exchange = exchange(&server);
    let jobs = (0..40).map(|_| import_bytes(&exchange, vec![7; 1_000], Fence::none()));
    assert!(futures_util::future::join_all(jobs).await.iter().all(Result::is_ok));
    assert_eq!((server.seen("createImportSession").len(), server.seen("/token").len()), (1, 1));
    assert_eq!(exchange.metrics.sessions.with_label_values(&["reused"]).get(), 39);
}

#[tokio::test]
async fn calls_per_item_approach_one() {
    let server = server(|_| imported()).await;
    let exchange = exchange(&server);
    for item in 0..1_000_u32 {
        let mailbox = MailboxId::parse(&format!("MBX:{}", item % 10)).expect("a mailbox");
        let session = exchange.session(&tenant(), &mailbox, None).await.expect("a session");
        let folder = FolderId::parse("AAA=").expect("a folder");
        let item = ImportItem { folder: &folder, mode: &ImportMode::Create, length: 3 };
        let chunks = stream::iter([Ok(Bytes::from_static(b"abc"))]);
        exchange.import_item(&session, item, chunks, Fence::none()).await.expect("imported");
    }
    let imports = server.seen("importItem");
    assert_eq!(
        (server.seen("/token").len(), server.seen("createImportSession").len(), imports.len()),
        (1, 10, 1_000)
    );
    assert!(
        imports.iter().all(|import| import.connection == imports[0].connection),
        "the connection is kept"
    );
}

#[tokio::test]
async fn nothing_secret_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let plans = [imported(), Plan::json(401, &json!({})), Plan::CloseAfter, Plan::Raw(b"nonsense".to_vec())];
    let server = server(move |count| plans[count % 4].clone()).await;
    let exchange = exchange(&server);
    for _ in 0..4 {
        drop(import_bytes(&exchange, vec![1; 3_000], Fence::none()).await.map_err(|failure| {
            tracing::warn!(error = %failure.error, ?failure, "the import failed");
        }));
    }
    tracing::info!(?exchange, "what there is");
    drop(guard);
    let text = String::from_utf8_lossy(&log.0.lock().expect("not poisoned")).into_owned();
    assert!(text.contains("the import failed") && text.contains("graph answered"), "{text}");
    for secret in ["authtoken", "eyJ", "hunter2", "e30.e30", "importItem"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn silence_after_the_last_byte_is_doubt() {
    for plan in
        [Plan::Silent, Plan::CloseAfter, Plan::Raw(b"HTTP/1.1 2".to_vec()), Plan::json(500, &json!({}))]
    {
        let told = format!("{plan:?}");
        let server = server(move |_| plan.clone()).await;
        let failure =
            import_bytes(&exchange(&server), vec![1; 300_000], Fence::none()).await.expect_err("failed");
        assert_eq!((failure.error.fault, failure.completed), (Fault::InDoubt, true), "{told}");
        assert_eq!(failure.remedy, Remedy::None, "{told}");
        assert!(!failure.error.message.contains("authtoken"), "{}", failure.error);
    }
}

#[tokio::test]
async fn success_without_both_keys_is_doubt() {
    for body in ["", "{}", "no JSON", r#"{"itemId":"I"}"#, r#"{"itemId":"I","changeKey":"C""#] {
        let plan = Plan::Answer(200, Vec::new(), body.to_owned());
        let server = server(move |_| plan.clone()).await;
        let failure =
            import_bytes(&exchange(&server), vec![1; 3_000], Fence::none()).await.expect_err("failed");
        assert_eq!((failure.error.fault, failure.completed), (Fault::InDoubt, true), "{body}");
    }
    let huge = Plan::Answer(200, Vec::new(), format!("{{\"x\":\"{}\"}}", "y".repeat(600_000)));
    let server = server(move |_| huge.clone()).await;
    let failure = import_bytes(&exchange(&server), vec![1; 3_000], Fence::none()).await.expect_err("failed");
    assert_eq!(failure.error.fault, Fault::InDoubt);
}

#[tokio::test]
async fn a_connection_lost_in_the_middle_is_no_doubt() {
    let server = server(|_| Plan::CloseBefore).await;
    let failure =
        import_bytes(&exchange(&server), vec![1; 40_000_000], Fence::none()).await.expect_err("failed");
    assert!(
        matches!(failure.error.fault, Fault::Passing { dependency: Dependency::Exchange, .. }),
        "{failure:?}"
    );
    assert!(!failure.completed && !format!("{failure:?}").contains("eyJx"));
}

#[tokio::test]
async fn an_early_answer_ends_the_upload() {
    let text = r#"{"error":{"code":"x","message":"Application is over its IncomingBytes limit."}}"#;
    let server = server(|_| Plan::Early(429, text.to_owned())).await;
    let exchange = exchange(&server);
    let failure = import_bytes(&exchange, vec![1; 40_000_000], Fence::none()).await.expect_err("failed");
    assert!(
        matches!(failure.error.fault, Fault::Throttled { limit: Limit::IncomingBytes, .. }),
        "{failure:?}"
    );
    assert!(!failure.completed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = server.seen("importItem");
    assert!(seen.len() == 1 && seen[0].body.len() < 20_000_000, "{}", seen[0].body.len());
    assert_eq!(exchange.metrics.throttled.with_label_values(&["incoming_bytes"]).get(), 1);
}

#[tokio::test]
async fn fence_and_source_end_an_import_before_its_closing_bytes() {
    let server = server(|_| imported()).await;
    let exchange = exchange(&server);
    let passed = Fence::until(Boottime::now());
    let failure = import_bytes(&exchange, vec![1; 3_000], passed).await.expect_err("failed");
    assert!(failure.error.message.contains("lease ran out") && !failure.completed, "{failure:?}");

    let session = exchange.session(&tenant(), &mailbox(), None).await.expect("a session");
    let folder = FolderId::parse("AAA=").expect("a folder");
    let item = ImportItem { folder: &folder, mode: &ImportMode::Create, length: 3 };
    let own = RestoreError::job(Reason::BlobCorrupt, "digest differs");
    let chunks = stream::iter([Ok(Bytes::from_static(b"abc")), Err(own.clone())]);
    let failure = exchange.import_item(&session, item, chunks, Fence::none()).await.expect_err("failed");
    assert_eq!((failure.error, failure.completed), (own, false));

    let fence = Fence::none();
    let chunks = stream::iter([Ok(Bytes::from_static(b"ab"))]).chain(stream::pending());
    let import = exchange.import_item(&session, item, chunks, fence.clone());
    let abort = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fence.abort();
    };
    let (failure, ()) = tokio::join!(import, abort);
    let failure = failure.expect_err("failed");
    assert!(failure.error.message.contains("ended before") && !failure.completed, "{failure:?}");
    assert!(server.seen("importItem").iter().all(|seen| !seen.body.ends_with(b"\"}")));
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_is_no_doubt() {
    // After each answer the server closes: the next import must find that out by itself.
    let server = server(|_| {
        Plan::Raw(
            b"HTTP/1.1 200 X\r\ncontent-length: 31\r\n\r\n{\"itemId\":\"I\",\"changeKey\":\"C\"} ".to_vec(),
        )
    })
    .await;
    let exchange = exchange(&server);
    for _ in 0..10 {
        import_bytes(&exchange, vec![1; 300], Fence::none()).await.expect("imported");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let imports = server.seen("importItem");
    assert_eq!(imports.len(), 10);
    assert!(imports.windows(2).all(|pair| pair[0].connection != pair[1].connection));
}

#[tokio::test]
async fn an_old_session_is_worth_another() {
    let server = server(|count| if count == 1 { Plan::json(401, &json!({})) } else { imported() }).await;
    let exchange = exchange(&server);
    import_bytes(&exchange, vec![1; 300], Fence::none()).await.expect("imported");
    let failure = import_bytes(&exchange, vec![1; 300], Fence::none()).await.expect_err("refused");
    assert_eq!(failure.remedy, Remedy::ReopenSession);
    let old = exchange.session(&tenant(), &mailbox(), None).await.expect("a session");
    exchange.forget_session(&old).await;
    let new = exchange.session(&tenant(), &mailbox(), None).await.expect("a session");
    assert!(new.is_fresh() && !old.is_fresh());
    import_bytes(&exchange, vec![1; 300], Fence::none()).await.expect("imported");
    assert_eq!(server.seen("createImportSession").len(), 2);
}

#[tokio::test]
async fn redirects_of_the_import_host_are_not_followed() {
    let plan = Plan::Answer(307, vec![("location", "https://localhost:1/evil".to_owned())], String::new());
    let server = server(move |_| plan.clone()).await;
    let failure = import_bytes(&exchange(&server), vec![1; 300], Fence::none()).await.expect_err("failed");
    assert_eq!((failure.error.fault, failure.error.http_status), (Fault::InDoubt, Some(307)));
}

/// A server whose Graph answers are the test's.
async fn graph(plan: impl Fn(&Seen) -> Plan + Send + Sync + 'static) -> Server {
    Server::start(move |seen| if seen.target.contains("/oauth2/") { token() } else { plan(seen) }).await
}

#[tokio::test]
async fn answers_of_graph_are_judged() {
    let passing =
        |error: &RestoreError| matches!(error.fault, Fault::Passing { dependency: Dependency::Exchange, .. });
    for (plan, reason) in [
        (Plan::json(404, &json!({})), Reason::MailboxNotFound),
        (Plan::json(403, &json!({"error":{"code":"ErrorAccessDenied"}})), Reason::MailboxForbidden),
        (Plan::json(500, &json!({})), Reason::ExchangeUnavailable),
        (Plan::Answer(200, Vec::new(), "<html>".into()), Reason::ExchangeUnavailable),
        (
            Plan::Answer(200, Vec::new(), format!("\"{}\"", "x".repeat(1_000_000))),
            Reason::ExchangeUnavailable,
        ),
        (
            Plan::Raw(b"HTTP/1.1 200 X\r\ncontent-length: 500\r\n\r\n{\"importUrl\":".to_vec()),
            Reason::ExchangeUnavailable,
        ),
        (
            Plan::json(200, &json!({"importUrl": "http://localhost/x?authtoken=eyJ"})),
            Reason::ImportHostNotAllowed,
        ),
        (
            Plan::json(200, &json!({"importUrl": "https://evil.example/x?authtoken=eyJ"})),
            Reason::ImportHostNotAllowed,
        ),
        (Plan::CloseAfter, Reason::ExchangeUnavailable),
        (Plan::Silent, Reason::ExchangeUnavailable),
    ] {
        let told = format!("{plan:?}").chars().take(100).collect::<String>();
        let server = graph(move |_| plan.clone()).await;
        let error = exchange(&server).session(&tenant(), &mailbox(), None).await.expect_err("failed");
        assert_eq!(error.reason, reason, "{told}: {error}");
        assert!(!error.to_string().contains("eyJ"), "{error}");
        assert!(passing(&error) || reason != Reason::ExchangeUnavailable, "{told}: {error:?}");
    }
}

#[tokio::test]
async fn ids_cannot_reach_another_path() {
    let server = graph(|_| Plan::json(200, &json!({ "value": [] }))).await;
    let exchange = exchange(&server);
    let look = |folder: &str| Look {
        tenant: tenant(),
        mailbox: mailbox(),
        version: Some(GraphVersion::Beta),
        folder: FolderId::parse(folder).expect("a folder"),
        since: UnixMillis(0),
    };
    assert!(exchange.list_imported(&look("../../users?x=/%2e%2e#")).await.expect("listed").is_empty());
    assert!(exchange.list_imported(&look("..")).await.is_err());
    let seen = server.seen("/folders/");
    assert_eq!(seen.len(), 1);
    let path =
        "GET /beta/admin/exchange/mailboxes/MBX:a@b/folders/..%2F..%2Fusers%3Fx=%2F%252e%252e%23/items?";
    assert!(seen[0].target.starts_with(path), "{}", seen[0].target);
}

fn look_since(moment: &str) -> Look {
    Look {
        tenant: tenant(),
        mailbox: mailbox(),
        version: None,
        folder: FolderId::parse("F").expect("a folder"),
        since: wire::moment(moment).expect("a moment"),
    }
}

fn item(id: &str, created: &str) -> serde_json::Value {
    json!({ "id": id, "changeKey": "C", "createdDateTime": created, "size": 1 })
}

#[tokio::test]
async fn every_page_is_read_and_a_broken_one_is_an_error() {
    let look = look_since("2026-01-01T00:00:00Z");
    for (second, expected) in [
        (json!({ "value": [item("2", "2026-02-01T00:00:00Z"), item("0", "2025-01-01T00:00:00Z")] }), Some(2)),
        (json!({ "value": [{ "id": "2" }] }), None),
        (json!({}), None),
        (json!({ "value": [], "@odata.nextLink": "https://evil.example/v1.0/x" }), None),
        (json!({ "value": [], "@odata.nextLink": "SELF" }), None),
    ] {
        let told = second.to_string();
        let server = graph(move |seen| {
            let next = format!("https://{}/v1.0/next", seen.headers["host"]);
            if seen.target.contains("/next") {
                return Plan::Answer(200, Vec::new(), second.to_string().replace("SELF", &next));
            }
            Plan::json(
                200,
                &json!({ "value": [item("1", "2026-01-02T00:00:00.1234567Z")], "@odata.nextLink": next }),
            )
        })
        .await;
        let listed = exchange(&server).list_imported(&look).await;
        assert_eq!(listed.as_ref().ok().map(Vec::len), expected, "{told}: {listed:?}");
        assert!(server.seen("filter=createdDateTime+ge+2026-01-01T00%3A00%3A00Z").len() == 1);
    }
}

#[tokio::test]
async fn a_filter_that_is_refused_is_left_out() {
    let server = graph(|seen| {
        if seen.target.contains("filter=createdDateTime") {
            return Plan::json(400, &json!({ "error": { "code": "ErrorInvalidUrlQuery" } }));
        }
        let items = [item("1", "2026-01-02T00:00:00Z"), item("2", "2020-01-01T00:00:00Z")];
        Plan::json(200, &json!({ "value": items }))
    })
    .await;
    let look = look_since("2026-01-01T00:00:00Z");
    assert_eq!(exchange(&server).list_imported(&look).await.expect("listed").len(), 1);
}

#[tokio::test]
async fn a_moved_folder_is_looked_into_where_it_lives() {
    for (target, well) in
        [("MBX:aux@b/folders/F", true), ("MBX:aux@b/folders/F/items?$top=5", true), ("", false)]
    {
        let server = graph(move |seen| {
            if seen.target.contains("MBX:aux@b/folders/F/items") {
                return Plan::json(200, &json!({ "value": [item("1", "2026-01-01T00:00:00Z")] }));
            }
            let root = format!("https://{}/v1.0/admin/exchange/mailboxes/", seen.headers["host"]);
            let location = if target.is_empty() { "https://evil.example/x".into() } else { root + target };
            Plan::Answer(308, vec![("location", location)], String::new())
        })
        .await;
        // Graph shows whole seconds: what was created within this one is not missed.
        let look = look_since("2026-01-01T00:00:00.9Z");
        let listed = exchange(&server).list_imported(&look).await;
        assert_eq!(listed.as_ref().ok().map(Vec::len), well.then_some(1), "{target}: {listed:?}");
    }
}

#[tokio::test]
async fn an_item_is_there_or_not_or_unknown() {
    for (status, there) in [(200, Some(true)), (404, Some(false)), (403, None), (500, None)] {
        let server = graph(move |_| Plan::json(status, &item("I", "2026-01-02T00:00:00Z"))).await;
        let folder = FolderId::parse("F").expect("a folder");
        let id = ItemId::parse("I").expect("an item");
        let seen = exchange(&server).read_item(&tenant(), &mailbox(), None, &folder, &id).await;
        assert_eq!(seen.ok().map(|item| item.is_some()), there, "{status}");
    }
}

#[tokio::test]
async fn probe_and_clock() {
    let date = || vec![("date", "Wed, 21 Oct 2026 07:28:00 GMT".to_owned())];
    let server = graph(move |_| Plan::Answer(200, date(), "{}".into())).await;
    let exchange = exchange(&server);
    assert!(!exchange.server_clock().offset_known());
    let facts = exchange.probe(None).await.expect("probed");
    assert!(facts.expires > clock::own_clock());
    let now = exchange.server_clock().now();
    let expected = wire::http_date("Wed, 21 Oct 2026 07:28:00 GMT").expect("a date");
    assert!(now.since(expected) < Duration::from_secs(2) && exchange.server_clock().offset_known());
}

#[test]
fn configuration_problems_name_their_key() {
    let good = of_microsoft(super::identity::Settings {
        client_id: Some("c".into()),
        client_secret: Some(Secret::value("s")),
        ..super::identity::Settings::default()
    });
    assert!(Exchange::connect(good.clone(), metrics()).is_ok());
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = good.clone();
        change(&mut settings);
        Exchange::connect(settings, metrics()).err().unwrap_or_default()
    };
    for (problem, key) in [
        (with(&|s| s.graph = "https://graph.microsoft.com".into()), "exchange.graph"),
        (with(&|s| s.graph = "http://graph.microsoft.com/v1.0".into()), "exchange.graph"),
        (with(&|s| s.import_hosts = vec!["https://x".into()]), "exchange.import_hosts"),
        (with(&|s| s.import_hosts.clear()), "exchange.import_hosts"),
        (with(&|s| s.ca_pem = Some(b"nonsense".to_vec())), "exchange.ca_file"),
        (with(&|s| s.identity.authority = Some("http://x".into())), "identity.authority"),
        (with(&|s| s.identity.client_id = None), "identity.client_id"),
        (with(&|s| s.identity.kind = super::identity::Kind::Certificate), "identity.certificate_file"),
        (with(&|s| s.identity.kind = super::identity::Kind::TokenFile), "identity.token_file"),
        (
            with(&|s| s.identity.kind = super::identity::Kind::WorkloadIdentity),
            "identity.federated_token_file",
        ),
    ] {
        assert!(problem.starts_with(key), "{key}: {problem:?}");
    }
}

#[test]
fn graph_refusing_us_is_ours() {
    assert_eq!(
        answer::judge(Call::Session, 401, &wire::Hints::default(), &wire::Said::default()).error.fault,
        Fault::Ours { scope: OursScope::Everything }
    );
}
