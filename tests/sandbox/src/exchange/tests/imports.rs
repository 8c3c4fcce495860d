//! Sessions and the import host: what they take and what they refuse.

use super::super::{Effect, Fault, Gate, MailboxKind, Operation, When};
use super::*;

#[tokio::test]
async fn an_item_is_created_each_time_anew() -> Result<()> {
    let stage = Stage::new().await?;
    let url = stage.session(MAILBOX).await?;
    let base = stage.exchange.import_url();
    assert!(
        url.starts_with(&format!("{base}/api/gv1.0/Mailboxes('{MAILBOX}')/importItem?authtoken=eyJ")),
        "{url}"
    );
    let first = json_of(stage.post(&url, &create("k")).send().await?).await?;
    let second = json_of(stage.post(&url, &create("k")).send().await?).await?;
    assert_ne!(first["itemId"], second["itemId"]);
    let items = stage.exchange.items(MAILBOX);
    assert_eq!(items.len(), 2);
    let stored = items.first().context("no item")?;
    assert_eq!(json!(stored.item_id), first["itemId"]);
    assert_eq!(stored.length, item("k").len() as u64);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &item("k"));
    assert_eq!(stored.sha256, super::super::store::hex(digest.as_ref()));
    assert_eq!(stage.exchange.sessions_opened(MAILBOX), 1);
    stage.no_violations()
}

#[tokio::test]
async fn a_session_looks_like_the_real_one() -> Result<()> {
    let stage = Stage::with(Options { session_status: 201, ..Options::default() }).await?;
    let response = stage.session_request("beta", MAILBOX).header("client-request-id", "c-1").send().await?;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers().get("client-request-id").context("no id")?, "c-1");
    assert!(response.headers().contains_key("request-id") && response.headers().contains_key("date"));
    let answer = json_of(response).await?;
    let fraction =
        answer["expirationDateTime"].as_str().and_then(|t| t.split_once('.')).context("no fraction")?.1;
    assert_eq!(fraction.len(), 8, "{answer}");
    assert!(answer["importUrl"].as_str().is_some_and(|url| url.contains("/api/gbeta/")));
    stage.no_violations()
}

#[tokio::test]
async fn http2_is_spoken_too() -> Result<()> {
    let mut stage = Stage::new().await?;
    stage.client = client(&stage.exchange)?.build()?;
    let url = stage.session(MAILBOX).await?;
    let response = stage.post(&url, &create("k")).send().await?;
    assert_eq!((response.status().as_u16(), response.version()), (200, reqwest::Version::HTTP_2));
    stage.no_violations()
}

#[tokio::test]
async fn a_session_needs_a_token_a_role_and_a_mailbox() -> Result<()> {
    let mut stage = Stage::new().await?;
    let good = stage.token.clone();
    let status = async |stage: &Stage, mailbox: &str| -> Result<u16> {
        Ok(stage.session_request("v1.0", mailbox).send().await?.status().as_u16())
    };
    assert_eq!(status(&stage, "MBX:nobody").await?, 404);
    stage.exchange.add_tenant("other-tenant");
    stage.exchange.add_mailbox("other-tenant", "MBX:elsewhere");
    assert_eq!(status(&stage, "MBX:elsewhere").await?, 404, "another tenant's");
    stage.token = stage.exchange.issue_token(TENANT, APP, &["MailboxItem.Read.All"], Duration::from_mins(1));
    assert_eq!(status(&stage, MAILBOX).await?, 403);
    stage.exchange.allow_mailbox(APP, MAILBOX);
    assert_eq!(status(&stage, MAILBOX).await?, 200, "by RBAC");
    stage.token = stage.exchange.issue_token(TENANT, APP, &ALL_ROLES, Duration::ZERO);
    assert_eq!(status(&stage, OTHER).await?, 401, "expired");
    stage.token = "not-one-of-ours".into();
    assert_eq!(status(&stage, OTHER).await?, 401);
    let scopes = ["MailboxItem.ImportExport"];
    stage.token = stage.exchange.issue_delegated_token(TENANT, APP, OTHER, &scopes, Duration::from_mins(1));
    assert_eq!(status(&stage, OTHER).await?, 200, "the user's own");
    stage.token = good;
    stage.exchange.deny_mailbox(APP, OTHER);
    assert_eq!(status(&stage, OTHER).await?, 403);
    stage.exchange.undeny_mailbox(APP, OTHER);
    stage.exchange.invalidate_tokens();
    assert_eq!(status(&stage, OTHER).await?, 401);
    stage.no_violations()
}

#[tokio::test]
async fn a_session_takes_no_body() -> Result<()> {
    let stage = Stage::new().await?;
    let url =
        format!("{}/v1.0/admin/exchange/mailboxes/{MAILBOX}/createImportSession", stage.exchange.graph_url());
    let response = stage.client.post(url).bearer_auth(&stage.token).body("{}").send().await?;
    assert_eq!(response.status(), 400);
    stage.one_violation("request body")
}

#[tokio::test]
async fn an_archive_wants_beta() -> Result<()> {
    let stage = Stage::new().await?;
    stage.exchange.add_mailbox_of(TENANT, "MBX:archive", MailboxKind::Archive);
    let response = stage.session_request("v1.0", "MBX:archive").send().await?;
    assert!(response.text().await?.contains("Operation on Archive mailbox not allowed"));
    assert_eq!(stage.session_request("beta", "MBX:archive").send().await?.status(), 200);
    stage.no_violations()
}

#[tokio::test]
async fn an_encoded_mailbox_is_the_same_mailbox() -> Result<()> {
    let stage = Stage::new().await?;
    let encoded = MAILBOX.replace(':', "%3A").replace('@', "%40");
    assert_eq!(stage.session_request("v1.0", &encoded).send().await?.status(), 200);
    assert_eq!(stage.session_request("v1.0", "a%2Fb").send().await?.status(), 404);
    stage.no_violations()
}

#[tokio::test]
async fn what_no_right_client_sends_is_a_violation() -> Result<()> {
    let stage = Stage::new().await?;
    let url = stage.session(MAILBOX).await?;
    let data = STANDARD.encode(item("k"));
    let good = create("k").to_string();
    let json = "application/json";
    let raw =
        |kind: &str, body: &str| stage.client.post(&url).header("content-type", kind).body(body.to_owned());
    let cases = [
        (400, "Authorization", raw(json, &good).bearer_auth("x")),
        (415, "content type", raw("text/plain", &good)),
        (400, "unknown property folderId", raw(json, &good.replace("FolderId", "folderId"))),
        (400, "unknown property More", raw(json, &good.replace('{', r#"{"More":"1","#))),
        (400, "unknown Mode", raw(json, &good.replace("create", "upsert"))),
        (400, "unknown Mode", raw(json, &good.replace("create", "Create"))),
        (400, "FolderId is required", raw(json, &format!(r#"{{"Mode":"create","Data":"{data}"}}"#))),
        (400, "Data is required", raw(json, &format!(r#"{{"FolderId":"{FOLDER}","Mode":"create"}}"#))),
        (400, "must not be given to create", raw(json, &good.replace('{', r#"{"ItemId":"a","#))),
        (400, "must not be given to create", raw(json, &good.replace('{', r#"{"ChangeKey":"","#))),
        (400, "are required to update", raw(json, &good.replace("create", "update"))),
        (400, "Base64", raw(json, &good.replace("\"Data\":\"", "\"Data\":\"*"))),
        (400, "ends early", raw(json, good.get(..good.len() - 1).unwrap_or_default())),
        (401, "no session", stage.post(&format!("{url}x"), &create("k"))),
        (401, "was changed", stage.post(&url.replace("gv1.0", "gbeta"), &create("k"))),
        (401, "was changed", stage.post(&url.replace("MBX:", "MBX%3A"), &create("k"))),
        (405, "only POST", stage.client.put(&url).header("content-type", json).body(good.clone())),
        (
            404,
            "unknown request",
            stage.client.post(url.replace("importItem", "importitem")).body(good.clone()),
        ),
    ];
    for (count, (status, text, request)) in cases.into_iter().enumerate() {
        let response = request.send().await.with_context(|| text)?;
        assert_eq!(response.status(), status, "{text}");
        let violations = stage.exchange.violations();
        assert_eq!(violations.len(), count + 1, "{text}: {violations:?}");
        assert!(violations.last().is_some_and(|v| v.contains(text)), "{text}: {violations:?}");
    }
    assert!(stage.keys().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_body_without_length_is_refused() -> Result<()> {
    struct Unsized(Option<bytes::Bytes>);
    impl hyper::body::Body for Unsized {
        type Data = bytes::Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>>> {
            std::task::Poll::Ready(self.0.take().map(|body| Ok(hyper::body::Frame::data(body))))
        }
    }
    let stage = Stage::new().await?;
    let url = stage.session(MAILBOX).await?;
    let body = reqwest::Body::wrap(Unsized(Some(create("k").to_string().into())));
    let request = stage.client.post(url).header("content-type", "application/json").body(body);
    assert_eq!(request.send().await?.status(), 411);
    stage.one_violation("Content-Length")
}

#[tokio::test]
async fn hostile_jobs_are_refused_without_a_violation() -> Result<()> {
    let stage = Stage::with(Options { largest_body: 2000, ..Options::default() }).await?;
    let url = stage.session(MAILBOX).await?;
    let mut other_folder = create("k");
    other_folder["FolderId"] = json!("nowhere");
    let mut corrupt = create("k");
    corrupt["Data"] = json!(STANDARD.encode([1, 0, 0, 0, 8, 0, 0, 0, 0]));
    let big = create(&"k".repeat(3000));
    for (status, code, body) in [
        (404, "ErrorFolderNotFound", &other_folder),
        (400, "ErrorCorruptData", &corrupt),
        (413, "ErrorMessageSizeExceeded", &big),
        (404, "ErrorItemNotFound", &update("k", "nothing", "CQ")),
    ] {
        let response = stage.post(&url, body).send().await?;
        assert_eq!(response.status(), status);
        assert_eq!(json_of(response).await?["error"]["code"], code);
    }
    stage.exchange.set_quota(MAILBOX, Some(10));
    let response = stage.post(&url, &create("k")).send().await?;
    assert_eq!(response.status(), 507);
    assert!(stage.keys().is_empty());
    stage.no_violations()
}

#[tokio::test]
async fn an_update_keeps_the_id_and_moves_the_key() -> Result<()> {
    let stage = Stage::new().await?;
    let (id, key) = stage.exchange.add_item(MAILBOX, FOLDER, ItemFacts::default(), b"old");
    stage.exchange.add_folder(MAILBOX, "other");
    let url = stage.session(MAILBOX).await?;
    let mut elsewhere = update("new", &id, &key);
    elsewhere["FolderId"] = json!("other");
    assert_eq!(stage.post(&url, &elsewhere).send().await?.status(), 404);
    let answer = json_of(stage.post(&url, &update("new", &id, &key)).send().await?).await?;
    assert_eq!(answer["itemId"], json!(id));
    assert_ne!(answer["changeKey"], json!(key));
    let response = stage.post(&url, &update("new", &id, &key)).send().await?;
    assert_eq!(response.status(), 409);
    assert_eq!(json_of(response).await?["error"]["code"], "ErrorIrresolvableConflict");
    assert_eq!(stage.exchange.item(MAILBOX, &id).map(|item| item.writes), Some(2));
    let moved = stage.exchange.touch_item(MAILBOX, &id).context("no item")?;
    assert_eq!(stage.post(&url, &update("newer", &id, &moved)).send().await?.status(), 200);
    stage.no_violations()
}

#[tokio::test]
async fn an_auxiliary_archive_is_named() -> Result<()> {
    let stage = Stage::new().await?;
    stage.exchange.move_folder(MAILBOX, FOLDER, OTHER);
    let response = stage.create("k").await?;
    assert_eq!(response.status(), 409);
    let want = format!("Invalid import session. The target session is expected in mailbox {OTHER}.");
    assert_eq!(json_of(response).await?, json!({"Message": want}));
    let url = stage.session(OTHER).await?;
    assert_eq!(stage.post(&url, &create("k")).send().await?.status(), 200);
    assert_eq!(stage.look(&format!("{MAILBOX}/folders/{FOLDER}/items")).await?.status(), 308);
    stage.no_violations()
}

#[tokio::test]
async fn sessions_end() -> Result<()> {
    let stage = Stage::new().await?;
    let url = stage.session(MAILBOX).await?;
    stage.exchange.end_sessions(Some(MAILBOX));
    assert_eq!(stage.post(&url, &create("k")).send().await?.status(), 401);
    let url = stage.session(MAILBOX).await?;
    stage.exchange.set_clock_offset(2 * 3_600_000);
    assert_eq!(stage.post(&url, &create("k")).send().await?.status(), 401, "by the clock");
    stage.no_violations()
}

#[tokio::test]
async fn a_body_cut_by_the_client_stores_nothing() -> Result<()> {
    struct Cut(u8);
    impl hyper::body::Body for Cut {
        type Data = bytes::Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>>> {
            self.0 += 1;
            std::task::Poll::Ready(match self.0 {
                1 => Some(Ok(hyper::body::Frame::data(bytes::Bytes::from(vec![b' '; 100_000])))),
                2..20 => {
                    // Lets the head and the first bytes go out.
                    cx.waker().wake_by_ref();
                    return std::task::Poll::Pending;
                }
                _ => Some(Err(std::io::Error::other("the digest does not match"))),
            })
        }
        fn size_hint(&self) -> hyper::body::SizeHint {
            hyper::body::SizeHint::with_exact(200_000)
        }
    }
    let stage = Stage::new().await?;
    let url = stage.session(MAILBOX).await?;
    let body = reqwest::Body::wrap(Cut(0));
    let request = stage.client.post(url).header("content-type", "application/json").body(body);
    assert!(request.send().await.is_err());
    stage.exchange.until(|exchange| exchange.aborted_uploads() == 1).await;
    let usage = stage.exchange.usage(APP, MAILBOX);
    assert!(usage.bytes < 200_000, "what did not come is not charged: {usage:?}");
    assert!(stage.keys().is_empty());
    stage.no_violations()
}

#[tokio::test]
async fn an_upload_given_up_on_http2_leaves_the_others_alone() -> Result<()> {
    let mut stage = Stage::new().await?;
    stage.client = client(&stage.exchange)?.build()?;
    let url = stage.session(MAILBOX).await?;
    let gate = Gate::new();
    let held = Effect::WaitAfter(When::Open(gate.clone()));
    stage.exchange.add_fault(Fault::new(Operation::Import, held))?;
    let request = tokio::spawn(stage.post(&url, &create("k")).send());
    gate.arrived(1).await;
    stage.exchange.add_fault(Fault::new(Operation::Import, Effect::SlowBody { bytes_per_second: 1000 }))?;
    let slow = tokio::spawn(stage.post(&url, &create(&"x".repeat(500_000))).send());
    stage.exchange.until(|exchange| exchange.usage(APP, MAILBOX).at_work == 2).await;
    slow.abort();
    stage.exchange.until(|exchange| exchange.usage(APP, MAILBOX).at_work == 1).await;
    gate.open();
    assert_eq!(request.await??.status(), 200);
    assert_eq!(stage.keys(), ["k"]);
    stage.no_violations()
}

#[tokio::test]
async fn a_gate_holds_a_request_where_a_test_wants_it() -> Result<()> {
    let stage = Stage::new().await?;
    let url = stage.session(MAILBOX).await?;
    let gate = Gate::new();
    let held = Effect::WaitAfter(When::Open(gate.clone()));
    stage.exchange.add_fault(Fault::new(Operation::Import, held))?;
    let request = tokio::spawn(stage.post(&url, &create("k")).send());
    gate.arrived(1).await;
    assert_eq!(stage.keys(), ["k"], "stored, and not yet told");
    gate.open();
    assert_eq!(request.await??.status(), 200);
    stage.no_violations()
}
