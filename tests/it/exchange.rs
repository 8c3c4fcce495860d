//! The exchange room against the strict model: what each trouble is made of, and that the model saw nothing that a
//! right client would not send.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use restore_sandbox::exchange::{
    ALL_ROLES, Answer, ClientCertificate, Consent, Cut, Effect, Exchange as Model, Fault as Trouble, Gate,
    MailboxKind, Meanwhile, Operation, Options, Part, UrlTwist, When,
};
use restore_worker::{
    domain::{
        ChangeKey, Fault, FolderId, GraphVersion, ImportMode, ItemId, MailboxId, OursScope, Reason,
        RestoreError, TenantId, UnixMillis,
    },
    exchange::{
        Exchange, Fence, ImportAnswer, ImportFailure, ImportItem, ImportSession, Look, Remedy, Settings,
        identity::{self, Kind},
    },
    metrics::Metrics,
    secret::Secret,
};

const TENANT: &str = "a7809c93-1111-2222-3333-444455556666";
const MAILBOX: &str = "MBX:e0643f21@a7809c93";
const FOLDER: &str = "AAA=";
const CLIENT: &str = "restore-worker";
const SECRET: &str = "hunter2";

async fn model_with(options: Options) -> Model {
    let model = Model::start(options).await.expect("the model starts");
    model.add_tenant(TENANT);
    model.add_app(CLIENT, SECRET);
    model.grant(TENANT, CLIENT, &ALL_ROLES);
    model.add_mailbox(TENANT, MAILBOX);
    model.add_folder(MAILBOX, FOLDER);
    model
}

async fn model() -> Model {
    model_with(Options::default()).await
}

fn settings(model: &Model) -> Settings {
    Settings {
        graph: format!("{}/v1.0", model.graph_url()),
        import_hosts: vec![model.import_url().trim_start_matches("https://").to_owned()],
        session_margin: Duration::from_secs(30),
        request_timeout: Duration::from_secs(2),
        min_upload_rate: 1024 * 1024,
        ca_pem: model.ca_pem().map(|pem| pem.as_bytes().to_vec()),
        identity: identity::Settings {
            client_id: Some(CLIENT.into()),
            client_secret: Some(Secret::value(SECRET)),
            authority: Some(model.login_url().into()),
            tenant: Some(tenant()),
            ..identity::Settings::default()
        },
    }
}

fn exchange_with(model: &Model, change: impl FnOnce(&mut Settings)) -> Exchange {
    let mut settings = settings(model);
    change(&mut settings);
    let metrics = Metrics::register("0", "0").expect("registers");
    Exchange::connect(settings, Arc::new(metrics)).expect("connects")
}

fn exchange(model: &Model) -> Exchange {
    exchange_with(model, |_| {})
}

fn tenant() -> TenantId {
    TenantId::parse(TENANT).expect("a tenant")
}

fn mailbox(id: &str) -> MailboxId {
    MailboxId::parse(id).expect("a mailbox")
}

fn folder() -> FolderId {
    FolderId::parse(FOLDER).expect("a folder")
}

/// The least that is an item, with so many bytes of content.
fn item(content: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (opcode, payload) in [(1_u32, vec![0; 8]), (2, vec![7; content])] {
        bytes.extend(opcode.to_le_bytes());
        bytes.extend(u32::try_from(payload.len()).expect("fits").to_le_bytes());
        bytes.extend(payload);
    }
    bytes
}

async fn open(exchange: &Exchange) -> Result<ImportSession, RestoreError> {
    exchange.session(&tenant(), &mailbox(MAILBOX), None).await
}

async fn send(
    exchange: &Exchange,
    session: &ImportSession,
    mode: &ImportMode,
    bytes: Vec<u8>,
) -> Result<ImportAnswer, ImportFailure> {
    let length = u64::try_from(bytes.len()).expect("fits");
    let chunks: Vec<_> = bytes.chunks(65_537).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let item = ImportItem { folder: &folder(), mode, length };
    exchange.import_item(session, item, stream::iter(chunks), Fence::none()).await
}

async fn import(exchange: &Exchange, bytes: Vec<u8>) -> Result<ImportAnswer, ImportFailure> {
    let session = open(exchange).await.expect("a session");
    send(exchange, &session, &ImportMode::Create, bytes).await
}

/// A trouble, as the room tells it.
fn told(error: &RestoreError) -> String {
    let fault = match error.fault {
        Fault::Job => "job".to_owned(),
        Fault::Passing { dependency, .. } => format!("passing {}", dependency.as_str()),
        Fault::Throttled { limit, .. } => format!("throttled {}", limit.as_str()),
        Fault::InDoubt => "in doubt".to_owned(),
        Fault::Ours { scope: OursScope::Everything } => "ours everything".to_owned(),
        Fault::Ours { scope: OursScope::Tenant } => "ours tenant".to_owned(),
        Fault::Ours { scope: OursScope::Dependency(dependency) } => format!("ours {}", dependency.as_str()),
    };
    format!("{fault}, {}", error.reason)
}

fn keeps_secrets(model: &Model, error: &RestoreError) {
    let text = format!("{error:?} {error}");
    for secret in model.secrets() {
        assert!(!text.contains(&secret), "{text}");
    }
}

/// The closing note's table: every trouble of an import that the model can provoke, and what becomes of it.
#[tokio::test]
async fn every_trouble_of_an_import() {
    let limited = || Answer::too_many("IncomingBytes", Some(Duration::from_secs(30)));
    let refuse = |status, code: &str| Answer::error(status, code, "No.");
    let late = |meanwhile| Effect::LateCommit { when: When::After(Duration::from_millis(50)), meanwhile };
    let session = "passing exchange, session_rejected";
    let doubt = "in doubt, outcome_unknown";
    let away = "passing exchange, exchange_unavailable";
    for (effect, expected, completed) in [
        (Effect::Refuse(limited()), Some("throttled incoming_bytes, throttled"), false),
        (Effect::RefuseAfterBody(limited()), Some("throttled incoming_bytes, throttled"), true),
        (Effect::Refuse(Answer::status(503)), Some("throttled server_busy, throttled"), false),
        (Effect::RefuseAfterBody(Answer::status(503)), Some(doubt), true),
        (
            Effect::RefuseAfterBody(refuse(503, "ErrorServerBusy")),
            Some("throttled server_busy, throttled"),
            true,
        ),
        (Effect::RefuseAfterBody(refuse(500, "ErrorInternalServerError")), Some(doubt), true),
        (Effect::Refuse(refuse(500, "ErrorInternalServerError")), Some(away), false),
        (Effect::RefuseAfterBody(refuse(400, "ErrorCorruptData")), Some("job, item_rejected"), true),
        (Effect::RefuseAfterBody(refuse(507, "ErrorQuotaExceeded")), Some("job, mailbox_full"), true),
        (Effect::RefuseAfterBody(refuse(413, "x")), Some("job, blob_too_large"), true),
        (Effect::RefuseAfterBody(Answer::redirect(307, "https://evil.example/")), Some(doubt), true),
        (Effect::EndSession { status: 401 }, Some(session), false),
        (Effect::CutBeforeBody(Cut::Close), Some(away), false),
        (Effect::CutBeforeBody(Cut::Reset), Some(away), false),
        (Effect::CutInBody { after: 100_000, cut: Cut::Close }, Some(away), false),
        (Effect::CutInBody { after: 100_000, cut: Cut::Reset }, Some(away), false),
        (late(Meanwhile::Cut(Cut::Close)), Some(doubt), true),
        (late(Meanwhile::Cut(Cut::Reset)), Some(doubt), true),
        (late(Meanwhile::Silence), Some(doubt), true),
        (late(Meanwhile::Timeout), Some(doubt), true),
        (Effect::CutAfter(Cut::Close), Some(doubt), true),
        (Effect::CutAfter(Cut::Reset), Some(doubt), true),
        (Effect::Silence, Some(doubt), true),
        (Effect::HalfAnswer, Some(doubt), true),
        (Effect::WithoutItemId, Some(doubt), true),
        (Effect::NotJson, Some(doubt), true),
        (Effect::HugeAnswer { bytes: 10_000_000 }, Some(doubt), true),
        (Effect::AnswerInstead(refuse(502, "x")), Some(doubt), true),
        (Effect::PascalCase, None, true),
        (Effect::WaitAfter(When::After(Duration::from_millis(300))), None, true),
        (Effect::Wait(When::After(Duration::from_millis(300))), None, true),
    ] {
        let model = model().await;
        let exchange = exchange(&model);
        let name = format!("{effect:?}");
        model.add_fault(Trouble::new(Operation::Import, effect)).expect("a fault");
        // Much larger than what sockets hold, so that "before the body" is before its end.
        let outcome = import(&exchange, item(30_000_000)).await;
        match (&outcome, expected) {
            (Ok(_), None) => {}
            (Err(failure), Some(expected)) => {
                assert_eq!(told(&failure.error), expected, "{name}: {failure:?}");
                assert_eq!(failure.completed, completed, "{name}: {failure:?}");
                assert_eq!(failure.remedy, Remedy::None, "{name}: the session was fresh");
                keeps_secrets(&model, &failure.error);
            }
            _ => unreachable!("{name}: {outcome:?}, expected {expected:?}"),
        }
        assert_eq!(model.violations(), Vec::<String>::new(), "{name}");
    }
}

#[tokio::test]
async fn every_trouble_of_a_session() {
    for (effect, expected) in [
        (
            Effect::Refuse(Answer::too_many("MailboxConcurrency", None)),
            Some("throttled mailbox_concurrency, throttled"),
        ),
        (Effect::Refuse(Answer::status(503)), Some("passing exchange, exchange_unavailable")),
        (Effect::Refuse(Answer::error(403, "ErrorAccessDenied", "No.")), Some("job, mailbox_forbidden")),
        (Effect::CutBeforeBody(Cut::Close), Some("passing exchange, exchange_unavailable")),
        (Effect::CutAfter(Cut::Reset), Some("passing exchange, exchange_unavailable")),
        (Effect::Silence, Some("passing exchange, exchange_unavailable")),
        (Effect::HalfAnswer, Some("passing exchange, exchange_unavailable")),
        (Effect::NotJson, Some("passing exchange, exchange_unavailable")),
        (Effect::HugeAnswer { bytes: 10_000_000 }, Some("passing exchange, exchange_unavailable")),
        (Effect::ImportUrl(UrlTwist::Http), Some("job, import_host_not_allowed")),
        (Effect::ImportUrl(UrlTwist::Host("evil.example".into())), Some("job, import_host_not_allowed")),
        (Effect::ImportUrl(UrlTwist::Exact("nonsense".into())), Some("job, session_rejected")),
        (Effect::Expiration(None), None),
        (Effect::Expiration(Some("soon".into())), None),
        (Effect::PascalCase, None),
    ] {
        let model = model().await;
        let exchange = exchange(&model);
        let name = format!("{effect:?}");
        // A cut connection alone is asked again on another.
        model.add_fault(Trouble::new(Operation::OpenSession, effect).times(2)).expect("a fault");
        let outcome = open(&exchange).await;
        assert_eq!(outcome.as_ref().err().map(told).as_deref(), expected, "{name}: {outcome:?}");
        if let Err(error) = outcome {
            keeps_secrets(&model, &error);
        }
        assert_eq!(model.violations(), Vec::<String>::new(), "{name}");
    }
}

#[tokio::test]
async fn what_mailboxes_refuse() {
    let model = model().await;
    let exchange = exchange(&model);
    model.add_mailbox_of(TENANT, "MBX:archive", MailboxKind::Archive);
    model.add_folder("MBX:archive", FOLDER);
    let session = async |id: &str, version| exchange.session(&tenant(), &mailbox(id), version).await;
    let error = session("MBX:archive", None).await.expect_err("v1.0 refuses archives");
    assert_eq!(error.reason, Reason::ArchiveUnsupported, "{error}");
    let beta = session("MBX:archive", Some(GraphVersion::Beta)).await.expect("beta takes archives");
    send(&exchange, &beta, &ImportMode::Create, item(10)).await.expect("imported");
    assert_eq!(session("MBX:nobody", None).await.expect_err("unknown").reason, Reason::MailboxNotFound);
    model.add_mailbox(TENANT, "MBX:denied");
    model.deny_mailbox(CLIENT, "MBX:denied");
    assert_eq!(session("MBX:denied", None).await.expect_err("denied").reason, Reason::MailboxForbidden);

    // A folder that lives in an auxiliary archive: redirected once.
    model.add_mailbox(TENANT, "MBX:auxiliary");
    model.add_folder("MBX:auxiliary", FOLDER);
    model.move_folder(MAILBOX, FOLDER, "MBX:auxiliary");
    let failure = import(&exchange, item(10)).await.expect_err("elsewhere");
    assert_eq!(failure.remedy, Remedy::Redirect(mailbox("MBX:auxiliary")), "{failure:?}");
    let there = session("MBX:auxiliary", None).await.expect("a session");
    let answer = send(&exchange, &there, &ImportMode::Create, item(10)).await.expect("imported");
    let look = Look {
        tenant: tenant(),
        mailbox: mailbox(MAILBOX),
        version: None,
        folder: folder(),
        since: UnixMillis(0),
    };
    let seen = exchange.list_imported(&look).await.expect("the moved folder is followed");
    assert!(seen.iter().any(|item| item.item_id == answer.imported.item_id), "{seen:?}");
    assert_eq!(model.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn updates_and_their_conflicts() {
    let model = model().await;
    let exchange = exchange(&model);
    let first = import(&exchange, item(10)).await.expect("imported").imported;
    let session = open(&exchange).await.expect("a session");
    let update = |item_id: &ItemId, change_key: &ChangeKey| ImportMode::Update {
        item_id: item_id.clone(),
        change_key: change_key.clone(),
    };
    let second = send(&exchange, &session, &update(&first.item_id, &first.change_key), item(20))
        .await
        .expect("updated");
    assert_eq!(second.imported.item_id, first.item_id);
    assert_ne!(second.imported.change_key, first.change_key);
    let fresh = exchange_with(&model, |_| {});
    let session = open(&fresh).await.expect("a session");
    let stale = send(&fresh, &session, &update(&first.item_id, &first.change_key), item(20))
        .await
        .expect_err("stale");
    assert_eq!(told(&stale.error), "job, change_key_conflict");
    let other = ItemId::parse("nothing").expect("an id");
    let gone = send(&fresh, &session, &update(&other, &first.change_key), item(20)).await.expect_err("gone");
    assert_eq!(told(&gone.error), "job, item_not_found");
    let seen =
        fresh.read_item(&tenant(), &mailbox(MAILBOX), None, &folder(), &first.item_id).await.expect("read");
    assert_eq!(seen.and_then(|item| item.change_key), Some(second.imported.change_key));
    let none = fresh.read_item(&tenant(), &mailbox(MAILBOX), None, &folder(), &other).await.expect("read");
    assert!(none.is_none());
    assert_eq!(model.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn an_expired_session_looks_like_anything_and_is_worth_another() {
    for status in [401, 403, 404, 410] {
        let model = model_with(Options { expired_status: status, ..Options::default() }).await;
        let exchange = exchange(&model);
        import(&exchange, item(10)).await.expect("imported");
        model.end_sessions(None);
        let old = open(&exchange).await.expect("the old one");
        let failure = send(&exchange, &old, &ImportMode::Create, item(10)).await.expect_err("expired");
        assert_eq!(failure.remedy, Remedy::ReopenSession, "{status}: {failure:?}");
        exchange.forget_session(&old).await;
        import(&exchange, item(10)).await.expect("imported");
        assert_eq!((model.sessions_opened(MAILBOX), model.items(MAILBOX).len()), (2, 2));
    }
}

#[tokio::test]
async fn pages_are_read_with_and_without_the_filter() {
    for filter_with_expand in [true, false] {
        let options = Options { filter_with_expand, page_size: 3, ..Options::default() };
        let model = model_with(options).await;
        let exchange = exchange(&model);
        model.set_clock_offset(-3_600_000);
        for _ in 0..4 {
            import(&exchange, item(10)).await.expect("imported");
        }
        model.set_clock_offset(0);
        // Learns the model's clock again.
        exchange.forget_session(&open(&exchange).await.expect("a session")).await;
        open(&exchange).await.expect("a session");
        let since = exchange.server_clock().now().minus(Duration::from_secs(2));
        for _ in 0..7 {
            import(&exchange, item(10)).await.expect("imported");
        }
        let look =
            Look { tenant: tenant(), mailbox: mailbox(MAILBOX), version: None, folder: folder(), since };
        assert_eq!(exchange.list_imported(&look).await.expect("listed").len(), 7, "{filter_with_expand}");
        model.add_fault(Trouble::new(Operation::ListItems, Effect::HalfAnswer).always()).expect("a fault");
        assert!(exchange.list_imported(&look).await.is_err());
    }
}

/// What a test does to the model before the worker asks.
type Meddle = fn(&Model);

#[tokio::test]
async fn what_entra_refuses() {
    let everything = "ours everything, identity_rejected";
    let of_tenant = "ours tenant, tenant_not_authorized";
    let troubles: [(&str, Meddle, &str); 6] = [
        ("wrong secret", |model| model.revoke_secret(CLIENT), everything),
        ("expired secret", |model| model.expire_secret(CLIENT), everything),
        ("consent withdrawn", |model| model.withdraw_consent(TENANT), of_tenant),
        ("unknown there", |model| model.forget_app(TENANT, CLIENT), of_tenant),
        (
            "no service principal",
            |model| model.set_consent(TENANT, CLIENT, Consent::NoServicePrincipal),
            of_tenant,
        ),
        (
            "away",
            |model| {
                let effect = Effect::Refuse(Answer::status(503));
                model.add_fault(Trouble::new(Operation::Token, effect).always()).expect("a fault");
            },
            "passing identity, exchange_unavailable",
        ),
    ];
    for (name, trouble, expected) in troubles {
        let model = model().await;
        trouble(&model);
        let error = open(&exchange(&model)).await.expect_err("refused");
        assert_eq!(told(&error), expected, "{name}: {error}");
        keeps_secrets(&model, &error);
        assert_eq!(model.violations(), Vec::<String>::new());
    }
    let model = model().await;
    let stranger = TenantId::parse("nobody.example").expect("a tenant");
    let error = exchange(&model).session(&stranger, &mailbox(MAILBOX), None).await.expect_err("unknown");
    assert_eq!(told(&error), of_tenant);
}

#[tokio::test]
async fn tokens_that_graph_no_longer_takes_are_replaced_once() {
    let model = model().await;
    let exchange = exchange(&model);
    open(&exchange).await.expect("a session");
    model.invalidate_tokens();
    model.add_mailbox(TENANT, "MBX:other");
    exchange.session(&tenant(), &mailbox("MBX:other"), None).await.expect("a fresh token");
    assert_eq!(model.requests(Operation::Token), 2);
    assert_eq!(model.count(Operation::OpenSession, 401), 1);
}

#[tokio::test]
async fn certificates_and_federated_tokens_sign_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = model().await;
    let made = ClientCertificate::generate().expect("a certificate");
    model.add_certificate(CLIENT, &made.der).expect("added");
    let pem = dir.path().join("pem");
    std::fs::write(&pem, made.certificate_pem.clone() + &made.key_pem).expect("written");
    let signed = exchange_with(&model, |s| {
        s.identity.kind = Kind::Certificate;
        s.identity.certificate_file = Some(pem.clone());
    });
    open(&signed).await.expect("a session");
    model.revoke_certificates(CLIENT);
    let signed = exchange_with(&model, |s| {
        s.identity.kind = Kind::Certificate;
        s.identity.certificate_file = Some(pem);
    });
    assert_eq!(told(&open(&signed).await.expect_err("revoked")), "ours everything, identity_rejected");

    let federated = dir.path().join("federated");
    std::fs::write(&federated, "first").expect("written");
    model.add_federated_token(CLIENT, "first");
    let pod = |model: &Model| {
        exchange_with(model, |s| {
            s.identity.kind = Kind::WorkloadIdentity;
            s.identity.federated_token_file = Some(federated.clone());
        })
    };
    open(&pod(&model)).await.expect("a session");
    model.remove_federated_token(CLIENT, "first");
    assert_eq!(told(&open(&pod(&model)).await.expect_err("gone")), "ours everything, identity_rejected");
    assert_eq!(model.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_delegated_token_comes_from_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("token");
    let model = model().await;
    let token = model.issue_token(TENANT, CLIENT, &ALL_ROLES, Duration::from_hours(1));
    std::fs::write(&path, token).expect("written");
    let exchange = exchange_with(&model, |s| s.identity.token_file = Some(path.clone()));
    import(&exchange, item(10)).await.expect("imported");
    model.invalidate_tokens();
    let other = exchange_with(&model, |s| s.identity.token_file = Some(path.clone()));
    assert_eq!(told(&open(&other).await.expect_err("refused")), "ours everything, identity_rejected");
    std::fs::write(&path, model.issue_token(TENANT, CLIENT, &ALL_ROLES, Duration::from_hours(1)))
        .expect("written");
    open(&other).await.expect("a session");
    assert_eq!(model.requests(Operation::Token), 0);
}

#[tokio::test]
async fn without_read_permission_looking_is_forbidden() {
    let model = model().await;
    model.grant(TENANT, CLIENT, &["MailboxItem.ImportExport.All"]);
    let exchange = exchange(&model);
    import(&exchange, item(10)).await.expect("imported");
    let look = Look {
        tenant: tenant(),
        mailbox: mailbox(MAILBOX),
        version: None,
        folder: folder(),
        since: UnixMillis(0),
    };
    let error = exchange.list_imported(&look).await.expect_err("forbidden");
    assert_eq!(told(&error), "job, mailbox_forbidden");
    assert!(error.message.contains("MailboxItem.Read.All"), "{error}");
}

#[tokio::test]
async fn thousand_items_in_ten_mailboxes() {
    let model = model().await;
    let exchange = exchange(&model);
    for number in 0..10 {
        let id = format!("MBX:{number}");
        model.add_mailbox(TENANT, &id);
        model.add_folder(&id, FOLDER);
    }
    for number in 0..1_000_u32 {
        let session = exchange.session(&tenant(), &mailbox(&format!("MBX:{}", number % 10)), None).await;
        send(&exchange, &session.expect("a session"), &ImportMode::Create, item(10)).await.expect("imported");
    }
    let calls = [Operation::Token, Operation::OpenSession, Operation::Import].map(|op| model.requests(op));
    assert_eq!(calls, [1, 10, 1_000]);
    assert_eq!(model.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_connection_closed_between_requests_is_no_doubt() {
    let model = model().await;
    let exchange = exchange(&model);
    for cut in [Cut::Close, Cut::Reset] {
        model.add_fault(Trouble::new(Operation::Import, Effect::CutNextRequest(cut))).expect("a fault");
        import(&exchange, item(10)).await.expect("imported");
        let outcome = import(&exchange, item(10_000_000)).await;
        let failure = outcome.expect_err("the server closed at the next request's first byte");
        assert_eq!(told(&failure.error), "passing exchange, exchange_unavailable", "{failure:?}");
    }
}

/// Whoever waits as long as front ends do sends the next item on a connection that they may be closing; a small one is
/// then complete before that shows, and in doubt.
#[tokio::test]
async fn a_connection_that_was_idle_for_seconds_carries_no_item() {
    let model = model().await;
    let exchange = exchange(&model);
    model
        .add_fault(Trouble::new(Operation::Import, Effect::CutNextRequest(Cut::Close)).always())
        .expect("a fault");
    for _ in 0..2 {
        import(&exchange, item(10)).await.expect("imported");
        let closed = model.until(|model| model.open_connections(Part::Import) == 0);
        tokio::time::timeout(Duration::from_secs(6), closed)
            .await
            .expect("closed by the worker, long before 20 s");
    }
    assert_eq!(model.items(MAILBOX).len(), 2);
}

/// HTTP/2 puts all mailboxes' requests on one connection: its end is one trouble, not several jobs'.
#[tokio::test]
async fn a_cut_connection_to_graph_is_nobodys_trouble() {
    for cut in [Cut::Close, Cut::Reset] {
        let model = model().await;
        let exchange = exchange(&model);
        open(&exchange).await.expect("a session");
        let gate = Gate::new();
        let held = Trouble::new(Operation::OpenSession, Effect::Wait(When::Open(gate.clone()))).times(5);
        model.add_fault(held).expect("a fault");
        let ids: Vec<_> = (0..5).map(|n| mailbox(&format!("MBX:{n}"))).collect();
        for id in &ids {
            model.add_mailbox(TENANT, id.as_str());
        }
        let tenant = tenant();
        let openings =
            futures_util::future::join_all(ids.iter().map(|id| exchange.session(&tenant, id, None)));
        let cutting = async {
            gate.arrived(5).await;
            assert_eq!(model.open_connections(Part::Graph), 1);
            model.cut_connections(Part::Graph, cut);
            gate.open();
        };
        let (outcomes, ()) = tokio::join!(openings, cutting);
        let troubles: Vec<_> =
            outcomes.iter().filter_map(|outcome| outcome.as_ref().err().map(told)).collect();
        assert_eq!(troubles, Vec::<String>::new(), "{cut:?}");
        // Whoever meets it twice has met more than one connection's end.
        model
            .add_fault(Trouble::new(Operation::OpenSession, Effect::CutBeforeBody(cut)).times(2))
            .expect("a fault");
        let error = exchange.session(&tenant, &mailbox("MBX:twice"), None).await.expect_err("cut twice");
        assert_eq!(told(&error), "passing exchange, exchange_unavailable");
    }
}
