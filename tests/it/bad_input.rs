//! What is no job, and jobs that cannot be done: a reason code each in event and dead letter, the body untouched, nothing
//! stuck, and every neighbour in between succeeds.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use lapin::{
    BasicProperties,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString},
};
use restore_sandbox::{
    emitter::{Emitter, Message},
    exchange::ItemFacts,
    fts::{Broken, ItemSpec, broken},
    s3,
    stack::{BLOBS, CLIENT_ID, FOLDER, RECORDS, Stack, TENANT, create_job, update_job},
    worker::Worker,
};
use serde_json::{Value, json};

use crate::support::{binary, stack};

/// Another tenant, which knows nothing of the application.
const FOREIGN_TENANT: &str = "a7809c93-0000-4000-8000-0000000000ff";

/// One message that must end in the dead letters.
struct Bad {
    name: String,
    body: Vec<u8>,
    properties: BasicProperties,
    reason: &'static str,
    /// Whether its job id can be read, so that its emitter is told.
    told: bool,
}

fn properties() -> BasicProperties {
    BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(2)
}

fn raw(name: &str, body: impl Into<Vec<u8>>, reason: &'static str) -> Bad {
    Bad { name: name.into(), body: body.into(), properties: properties(), reason, told: false }
}

/// A job that is told by its id.
fn job(job: &Value, reason: &'static str) -> Bad {
    let name = job["jobId"].as_str().unwrap_or_default().to_owned();
    Bad { told: true, ..raw(&name, job.to_string(), reason) }
}

impl Bad {
    fn with(mut self, change: impl FnOnce(BasicProperties) -> BasicProperties) -> Self {
        self.properties = change(self.properties);
        self
    }

    fn untold(mut self) -> Self {
        self.told = false;
        self
    }
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value.as_bytes()))
}

fn headers<const N: usize>(pairs: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(ShortString::from(name), value);
    }
    table
}

/// A good job, changed.
fn changed(id: &str, mailbox: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut job = create_job(id, mailbox, "good.fts");
    change(&mut job);
    job
}

/// Publishes each with a good job behind it, and checks every end. Gives the dead letters by name.
async fn end_badly(
    stack: &Stack,
    mut worker: Worker,
    emitter: &mut Emitter,
    cases: Vec<Bad>,
) -> Result<BTreeMap<String, Message>> {
    let mailbox = stack.mailbox("neighbour");
    stack.store("good.fts", &ItemSpec::mail(1, 4_000));
    for (n, case) in cases.iter().enumerate() {
        emitter.publish_raw(&case.body, case.properties.clone()).await.context(case.name.clone())?;
        emitter.publish(&create_job(&format!("good-{n}"), &mailbox, "good.fts")).await?;
    }
    let told = cases.iter().filter(|case| case.told).count();
    let results = emitter.results_of(cases.len() + told).await.with_context(|| worker.output())?;
    let letters = emitter.dead_letters(u32::try_from(cases.len())?).await?;
    ensure!(letters.len() == cases.len(), "{} letters of {} cases", letters.len(), cases.len());
    for n in 0..cases.len() {
        let good = &results[&format!("good-{n}")];
        ensure!(good.len() == 1 && good[0]["status"] == "succeeded", "{good:#?}");
    }
    let mut found = BTreeMap::new();
    for case in cases {
        let name = &case.name;
        let letter = letters.iter().find(|l| l.body == case.body);
        let letter = letter.with_context(|| format!("{name}: no dead letter with its body"))?;
        let reason = letter.headers.get("restore-reason").map(String::as_str);
        ensure!(reason == Some(case.reason), "{name}: {:?}", letter.headers);
        ensure!(letter.headers.get("restore-detail").is_some_and(|d| !d.is_empty()), "{name}: no detail");
        only_what_is_allowed(letter).with_context(|| name.clone())?;
        if case.told {
            let events = results.get(name).with_context(|| format!("{name}: no event"))?;
            ensure!(events.len() == 1, "{name}: {events:#?}");
            ensure!(
                events[0]["status"] == "failed" && events[0]["error"]["code"] == case.reason,
                "{name}: {:#}",
                events[0]
            );
            ensure!(events[0].get("itemId").is_none(), "{name}: {:#}", events[0]);
        }
        found.insert(case.name, letter.clone());
    }
    assert_eq!(stack.exchange.items(&mailbox).len(), found.len(), "one item for each neighbour");
    ensure!(worker.terminate().await?.success(), "{}", worker.output());
    nothing_is_left(emitter).await?;
    ensure!(!worker.output().contains("panicked"), "{}", worker.output());
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(found)
}

/// What was unacked would be ready again after the worker's end.
async fn nothing_is_left(emitter: &Emitter) -> Result<()> {
    for queue in ["jobs", "given-up", "dead-letters", "jobs.wait.200ms", "jobs.wait.1s", "jobs.wait.5s"] {
        let depth = emitter.depth(&format!("restore.{queue}")).await?;
        ensure!(depth == 0, "{depth} messages are left in {queue}");
    }
    Ok(())
}

/// The contract's allow-list, and the count that a quorum queue itself adds to what it delivers.
fn only_what_is_allowed(letter: &Message) -> Result<()> {
    let properties = &letter.properties;
    ensure!(properties.user_id().is_none() && properties.expiration().is_none(), "{properties:?}");
    ensure!(properties.delivery_mode() == &Some(2), "not persistent: {properties:?}");
    for (name, _) in properties.headers().iter().flatten() {
        let name = name.as_str();
        let allowed = name.starts_with("restore-")
            || name.starts_with("cloudEvents")
            || matches!(name, "traceparent" | "tracestate" | "x-delivery-count");
        ensure!(allowed, "{name} is not on the list");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_ends_in_the_dead_letters() -> Result<()> {
    let stack = stack("what_is_no_json_ends_in_the_dead_letters").await?;
    let worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let good = create_job("j-good", "m", "good.fts").to_string();
    let large = json!({"jobId": "j-large", "metadata": {"filler": "x".repeat(1 << 20)}});
    let cases = vec![
        raw("empty", "", "job_malformed"),
        raw("a brace", "{", "job_malformed"),
        raw("an array", "[]", "job_malformed"),
        raw("null", "null", "job_malformed"),
        raw("a text", "\"job\"", "job_malformed"),
        raw("no UTF-8", b"{\"jobId\":\"\xff\xfe\"}".as_slice(), "job_malformed"),
        raw("cut", &good.as_bytes()[..good.len() - 1], "job_malformed"),
        raw("trailing", format!("{good} x"), "job_malformed"),
        raw("deep", "[".repeat(50_000), "job_malformed"),
        raw("deep objects", "{\"metadata\":".repeat(10_000), "job_malformed"),
        raw("twice the same key", "{\"jobId\":\"j-1\",\"jobId\":\"j-2\"}", "job_malformed"),
        raw("binary", (0..=255).collect::<Vec<u8>>(), "job_malformed"),
        job(&large, "job_malformed"),
        job(&changed("j-text", "m", |_| ()), "job_malformed")
            .with(|p| p.with_content_type("text/plain".into())),
    ];
    let letters = end_badly(&stack, worker, &mut emitter, cases).await?;
    assert!(letters["j-large"].headers["restore-detail"].contains("at most 262144 bytes"));
    Ok(())
}

/// Values that no field of a job may have, by their pointer; the schema is held against them, too.
pub(crate) fn wrong_values() -> Vec<(&'static str, Value)> {
    let long = "x".repeat(10_000);
    vec![
        ("/mailBoxId", json!("MBX:x")),
        ("/unknown", json!(null)),
        ("/blob/sha265", json!("ab")),
        ("/blob/range", json!({"offset": 0, "length": 1, "end": 2})),
        ("/mailboxId", json!(5)),
        ("/mailboxId", json!(null)),
        ("/mailboxId", json!("../../users/x?")),
        ("/mailboxId", json!("..")),
        ("/mailboxId", json!("MBX:a%2fb")),
        ("/mailboxId", json!("MBX:a\r\nHost: x")),
        ("/mailboxId", json!("")),
        ("/mailboxId", json!(long)),
        ("/folderId", json!(long)),
        ("/folderId", json!("a b")),
        ("/folderId", json!([])),
        ("/tenantId", json!("none")),
        ("/tenantId", json!("../common")),
        ("/tenantId", json!("a.b/c?d.e")),
        ("/tenantId", json!("")),
        ("/mode", json!("delete")),
        ("/mode", json!("Create")),
        ("/mode", json!("update")),
        ("/itemId", json!("SXRlbQ==")),
        ("/changeKey", json!("Q0s=")),
        ("/blob", json!("s3://backups/good.fts")),
        ("/blob/bucket", json!("")),
        ("/blob/key", json!("a\u{0}b")),
        ("/blob/key", json!(long)),
        ("/blob/size", json!("4000")),
        ("/blob/size", json!(-1)),
        ("/blob/size", json!(1.5)),
        ("/blob/sha256", json!("abc")),
        ("/blob/sha256", json!("g".repeat(64))),
        ("/blob/range", json!({"offset": 0, "length": 0})),
        ("/blob/range", json!({"offset": u64::MAX, "length": u64::MAX})),
        ("/blob/range", json!({"offset": -1, "length": 5})),
        ("/blob/encoding", json!("hex")),
        ("/blob/compression", json!("brotli")),
        ("/graphVersion", json!("v2.0")),
        ("/notAfter", json!("tomorrow")),
        ("/notAfter", json!(1_700_000_000)),
        ("/restoreId", json!("r".repeat(201))),
        ("/requestedBy", json!("line\nbreak")),
        ("/metadata", json!([1])),
        ("/metadata", json!({"filler": "x".repeat(17 * 1024)})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_wrong_types_and_impossible_values_are_refused() -> Result<()> {
    let stack = stack("unknown_fields_wrong_types_and_impossible_values").await?;
    let worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let long = "x".repeat(10_000);
    let mut cases = Vec::new();
    for (pointer, value) in wrong_values() {
        let (parent, name) = pointer.rsplit_once('/').context("a pointer")?;
        let bad = changed(&format!("j-{}", cases.len()), &mailbox, |job| {
            if let Some(parent) = job.pointer_mut(parent) {
                parent[name] = value;
            }
        });
        cases.push(job(&bad, "job_malformed"));
    }
    for id in [json!(long), json!(""), json!("j\nk"), json!("jé"), json!(7), json!(null)] {
        let bad = changed("", &mailbox, |job| job["jobId"] = id);
        cases.push(Bad { name: format!("id {}", cases.len()), ..job(&bad, "job_malformed").untold() });
    }
    for field in ["mailboxId", "folderId", "mode", "blob"] {
        let bad = changed(&format!("without {field}"), &mailbox, |job| {
            job.as_object_mut().map(|job| job.remove(field));
        });
        cases.push(job(&bad, "job_malformed"));
    }
    let letters = end_badly(&stack, worker, &mut emitter, cases).await?;
    for (name, part) in
        [("j-0", "mailBoxId"), ("j-2", "blob.sha265"), ("j-6", "mailboxId"), ("j-15", "tenantId")]
    {
        let detail = &letters[name].headers["restore-detail"];
        assert!(detail.contains(part), "{name}: {detail}");
    }
    assert_eq!(stack.exchange.items(&mailbox).len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_message_type_or_version_is_refused() -> Result<()> {
    let stack = stack("another_message_type_or_version_is_refused").await?;
    let worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let plain = |id: &str| job(&changed(id, &mailbox, |_| ()), "job_version_unsupported");
    let structured = |id: &str, kind: &str, version: &str, reason| {
        let event = json!({"specversion": version, "type": kind, "id": id, "source": "/test",
            "data": changed(id, &mailbox, |_| ())});
        Bad { name: id.into(), told: true, ..raw(id, event.to_string(), reason) }
            .with(|p| p.with_content_type("application/cloudevents+json; charset=utf-8".into()))
    };
    let cases = vec![
        plain("v2").with(|p| p.with_type("restore.job.v2".into())),
        plain("result").with(|p| p.with_type("restore.result.v1".into())),
        plain("binary").with(|p| {
            p.with_headers(headers([
                ("cloudEvents_specversion", text("1.0")),
                ("cloudEvents_type", text("com.example.other")),
            ]))
        }),
        structured("structured", "restore.job.v7", "1.0", "job_version_unsupported"),
        structured("old events", "restore.job.v1", "0.3", "job_malformed"),
    ];
    end_badly(&stack, worker, &mut emitter, cases).await?;
    assert_eq!(stack.exchange.items(&mailbox).len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_event_is_a_job_in_both_forms() -> Result<()> {
    let stack = stack("a_cloud_event_is_a_job_in_both_forms").await?;
    let mut worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("good.fts", &ItemSpec::mail(1, 4_000));
    let structured = json!({"specversion": "1.0", "type": "restore.job.v1", "id": "e-1", "source": "/test",
        "time": "2026-11-23T08:11:00Z", "datacontenttype": "application/json", "comexampleextension": 1,
        "data": create_job("structured", &mailbox, "good.fts")});
    let media = |p: BasicProperties| p.with_content_type("application/cloudevents+json".into());
    emitter.publish_raw(structured.to_string().as_bytes(), media(properties())).await?;
    for (id, prefix) in [("underscore", "cloudEvents_"), ("colon", "cloudEvents:")] {
        let name = |attribute: &str| format!("{prefix}{attribute}");
        let table = headers([
            (&*name("specversion"), text("1.0")),
            (&*name("type"), text("restore.job.v1")),
            (&*name("id"), text("e-2")),
            (&*name("source"), text("/test")),
        ]);
        let body = create_job(id, &mailbox, "good.fts").to_string();
        emitter.publish_raw(body.as_bytes(), properties().with_headers(table)).await?;
    }
    let told = emitter.results_of(3).await.with_context(|| worker.output())?;
    for (id, events) in &told {
        assert_eq!(events[0]["status"], "succeeded", "{id}: {:#}", events[0]);
    }
    assert_eq!(stack.exchange.items(&mailbox).len(), 3);
    assert!(worker.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_properties_go_no_further() -> Result<()> {
    let stack = stack("hostile_properties_go_no_further").await?;
    let worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let parsed = stack.uri.parse::<lapin::uri::AMQPUri>().map_err(anyhow::Error::msg)?;
    let user = parsed.authority.userinfo.username;
    let bystander = queue(&emitter, "bystander").await?;
    let missing = |id: &str| {
        job(&changed(id, &mailbox, |job| job["blob"]["key"] = json!("missing.fts")), "blob_not_found")
    };
    let number = AMQPValue::LongLongInt;
    let copies = |name: &'static str| {
        headers([(name, AMQPValue::FieldArray(FieldArray::from(vec![text(&bystander)])))])
    };
    let cases = vec![
        missing("user-id").with(|p| p.with_user_id(ShortString::from(&*user))),
        missing("CC").with(|p| p.with_headers(copies("CC"))),
        missing("BCC").with(|p| p.with_headers(copies("BCC"))),
        missing("expiration").with(|p| p.with_expiration("60000".into())),
        missing("app").with(|p| p.with_app_id("other".into()).with_cluster_id("x".into()).with_priority(255)),
        missing("x").with(|p| {
            p.with_headers(headers([
                ("x-death", text("forged")),
                ("x-match", text("all")),
                ("anything", text("else")),
                ("traceparent", text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
            ]))
        }),
        missing("forged numbers").with(|p| {
            p.with_headers(headers([
                ("restore-attempt", number(i64::MAX)),
                ("restore-parked", number(i64::MAX)),
                ("restore-first-received", number(i64::MIN)),
                ("restore-replay", number(i64::MAX)),
            ]))
        }),
        missing("forged texts").with(|p| {
            p.with_headers(headers([
                ("restore-attempt", text("many")),
                ("restore-not-before", text("never")),
                ("restore-reason", text("none")),
                ("restore-detail", text("none")),
                ("restore-force", text("a-claim")),
                ("restore-imported", text("no comma")),
            ]))
        }),
    ];
    let letters = end_badly(&stack, worker, &mut emitter, cases).await?;
    assert_eq!(letters["user-id"].headers["restore-submitted-by"], user);
    assert!(letters["x"].headers["traceparent"].starts_with("00-0af7651916cd43dd8448eb211c80319c"));
    // What the emitter's own publish sent there, and no copy of the worker's.
    assert_eq!(emitter.take_all(&bystander).await?.len(), 2);
    Ok(())
}

async fn queue(emitter: &Emitter, name: &str) -> Result<String> {
    let channel = emitter.channel().await?;
    channel.queue_declare(name.into(), QueueDeclareOptions::default(), FieldTable::default()).await?;
    Ok(name.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_to_into_the_fleets_own_queues_is_refused_and_not_used() -> Result<()> {
    let stack = stack("a_reply_to_into_the_fleets_own_queues").await?;
    let worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let own =
        ["jobs", "jobs.wait.200ms", "jobs.wait.1s", "given-up", "dead-letters", "shards.64.1", "echo.1"];
    let cases = own.map(|queue| {
        let name = format!("restore.{queue}");
        job(&changed(&name, &mailbox, |_| ()), "job_malformed")
            .with(|p| p.with_reply_to(ShortString::from(&*name)))
    });
    end_badly(&stack, worker, &mut emitter, cases.into()).await?;
    assert_eq!(stack.exchange.items(&mailbox).len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_cannot_be_used_ends_its_job() -> Result<()> {
    let stack = stack("a_blob_that_cannot_be_used_ends_its_job").await?;
    let buckets = format!("{BLOBS},{RECORDS}");
    let more = [("STORAGE__ALLOWED_BUCKETS", &*buckets), ("STORAGE__MAX_BLOB", "64KiB")];
    let worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.s3.backend().add_bucket("foreign");
    stack.store("large.fts", &ItemSpec::mail(2, 100_000));
    stack.store("archived.fts", &ItemSpec::mail(3, 4_000));
    stack.s3.backend().archive(BLOBS, "archived.fts");
    let mut cases = Vec::new();
    for (id, fields, reason) in [
        ("missing", json!({"key": "missing.fts"}), "blob_not_found"),
        ("odd key", json!({"key": "../../etc/passwd"}), "blob_not_found"),
        ("version", json!({"versionId": "no-such-version"}), "blob_not_found"),
        ("foreign bucket", json!({"bucket": "foreign"}), "bucket_not_allowed"),
        ("no bucket", json!({"bucket": "a/../b"}), "bucket_not_allowed"),
        ("ledger", json!({"bucket": RECORDS, "key": "restore-ledger/jobs/00/j.json"}), "blob_not_allowed"),
        ("archived", json!({"key": "archived.fts"}), "blob_archived"),
        ("large", json!({"key": "large.fts"}), "blob_too_large"),
        ("size", json!({"size": 3_999}), "blob_corrupt"),
        ("digest", json!({"sha256": "00".repeat(32)}), "blob_corrupt"),
        ("gzip", json!({"compression": "gzip"}), "blob_corrupt"),
        ("zstd", json!({"compression": "zstd"}), "blob_corrupt"),
        ("base64", json!({"encoding": "base64"}), "blob_corrupt"),
        ("behind the end", json!({"range": {"offset": 50_000, "length": 100}}), "blob_corrupt"),
        ("over the end", json!({"range": {"offset": 0, "length": 50_000}}), "blob_corrupt"),
        ("a part", json!({"range": {"offset": 0, "length": 3_000}}), "blob_not_fts"),
    ] {
        let bad = changed(id, &mailbox, |job| {
            for (name, value) in fields.as_object().into_iter().flatten() {
                job["blob"][name] = value.clone();
            }
        });
        cases.push(job(&bad, reason));
    }
    end_badly(&stack, worker, &mut emitter, cases).await?;
    assert_eq!(stack.exchange.items(&mailbox).len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_fts_stream_is_never_imported() -> Result<()> {
    let stack = stack("what_is_no_fts_stream_is_never_imported").await?;
    let worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let mut cases = Vec::new();
    for how in [
        Broken::Empty,
        Broken::WrongHead,
        Broken::Truncated(100),
        Broken::Truncated(8_191),
        Broken::RecordTooLong,
        Broken::NoTransferBuffer,
        Broken::ImpossibleOpcode,
        Broken::TruncatedMarker,
    ] {
        let key = format!("{how:?}.fts");
        stack.s3.put(BLOBS, &key, broken(how));
        let bad = changed(&key.clone(), &mailbox, |job| job["blob"]["key"] = json!(key));
        cases.push(job(&bad, "blob_not_fts"));
    }
    end_badly(&stack, worker, &mut emitter, cases).await?;
    assert_eq!(stack.exchange.items(&mailbox).len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exchange_does_not_know_or_allow_ends_its_job() -> Result<()> {
    let stack = stack("what_exchange_does_not_know_or_allow").await?;
    let allowed = format!("{TENANT},{FOREIGN_TENANT}");
    let more = [("IDENTITY__ALLOWED_TENANTS", &*allowed), ("RETRY__MAX_PARKED", "1ms")];
    let worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let (denied, full) = (stack.mailbox("denied"), stack.mailbox("full"));
    stack.exchange.deny_mailbox(CLIENT_ID, &denied);
    stack.exchange.set_quota(&full, Some(10));
    stack.exchange.add_tenant(FOREIGN_TENANT);
    let theirs = "theirs";
    stack.exchange.add_mailbox(FOREIGN_TENANT, theirs);
    stack.exchange.add_folder(theirs, FOLDER);
    let bytes = ItemSpec::mail(9, 5_000).to_bytes();
    let (item, old_key) = stack.exchange.add_item(&mailbox, FOLDER, ItemFacts::default(), &bytes);
    let new_key = stack.exchange.touch_item(&mailbox, &item).context("the item")?;
    let create = |id: &str, mailbox: &str| create_job(id, mailbox, "good.fts");
    let mut unknown_folder = create("unknown folder", &mailbox);
    unknown_folder["folderId"] = json!("bm90aGVyZQ==");
    let mut foreign = create("foreign tenant", theirs);
    foreign["tenantId"] = json!(FOREIGN_TENANT);
    let mut not_allowed = create("not allowed", "m");
    not_allowed["tenantId"] = json!("contoso.example");
    let cases = vec![
        job(&unknown_folder, "folder_not_found"),
        job(&create("unknown mailbox", &format!("MBX:nobody@{TENANT}")), "mailbox_not_found"),
        job(&create("another tenant's", theirs), "mailbox_not_found"),
        job(&create("names another", &format!("MBX:x@{FOREIGN_TENANT}")), "tenant_not_allowed"),
        job(&not_allowed, "tenant_not_allowed"),
        job(&foreign, "tenant_not_authorized"),
        job(&create("denied", &denied), "mailbox_forbidden"),
        job(&create("full", &full), "mailbox_full"),
        job(&update_job("stale", &mailbox, "good.fts", &item, &old_key), "change_key_conflict"),
        job(&update_job("no item", &mailbox, "good.fts", "bm9pdGVt", &new_key), "item_not_found"),
    ];
    end_badly(&stack, worker, &mut emitter, cases).await?;
    let left = stack.exchange.items(&mailbox);
    assert_eq!((left.len(), left[0].change_key.as_str()), (1, new_key.as_str()), "untouched");
    assert!(stack.exchange.items(&denied).is_empty() && stack.exchange.items(&full).is_empty());
    assert!(stack.exchange.items(theirs).is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_too_late_is_not_begun() -> Result<()> {
    let stack = stack("a_job_too_late_is_not_begun").await?;
    let worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let late = changed("late", &mailbox, |job| job["notAfter"] = json!("2020-01-01T00:00:00+02:00"));
    end_badly(&stack, worker, &mut emitter, vec![job(&late, "job_expired")]).await?;
    assert!(stack.exchange.items(&mailbox).is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_expired_in_the_queue_is_told_by_the_next_worker() -> Result<()> {
    let stack = stack("a_job_that_expired_in_the_queue").await?;
    stack.worker(binary(), &[]).await?.terminate().await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let body = create_job("short-lived", &mailbox, "good.fts").to_string();
    emitter.publish_raw(body.as_bytes(), properties().with_expiration("1".into())).await?;
    emitter.depth_reaches("restore.given-up", 1).await?;
    let mut worker = stack.worker(binary(), &[]).await?;
    let told = emitter.next_result().await.with_context(|| worker.output())?.json()?;
    assert_eq!(
        (&told["status"], &told["error"]["code"]),
        (&json!("failed"), &json!("job_expired")),
        "{told:#}"
    );
    let letter = emitter.dead_letters(1).await?.remove(0);
    assert_eq!(letter.body, body.as_bytes());
    only_what_is_allowed(&letter)?;
    assert!(worker.terminate().await?.success());
    nothing_is_left(&emitter).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_id_with_another_payload_ends_the_message_and_not_the_job() -> Result<()> {
    let stack = stack("a_job_id_with_another_payload").await?;
    let mut worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("one.fts", &ItemSpec::mail(1, 4_000));
    stack.store("two.fts", &ItemSpec::mail(2, 4_000));
    emitter.publish(&create_job("j", &mailbox, "one.fts")).await?;
    let first = emitter.next_result().await?;
    assert_eq!(first.message_id.as_deref(), Some("j/0/succeeded"), "{}", worker.output());
    emitter.publish(&create_job("j", &mailbox, "two.fts")).await?;
    let second = emitter.next_result().await?;
    assert_eq!(second.json()?["error"]["code"], "job_id_reused", "{:#}", second.json()?);
    let id = second.message_id.context("an id")?;
    assert!(id.starts_with("j/0/failed/") && id.len() == "j/0/failed/".len() + 16, "{id}");
    assert_eq!(emitter.dead_letters(1).await?[0].headers["restore-reason"], "job_id_reused");
    // The job itself is told again as what it is.
    emitter.publish(&create_job("j", &mailbox, "one.fts")).await?;
    let again = emitter.next_result().await?;
    assert_eq!(again.message_id.as_deref(), Some("j/0/succeeded"));
    assert_eq!(again.json()?["itemId"], first.json()?["itemId"]);
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    assert!(worker.terminate().await?.success());
    nothing_is_left(&emitter).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_count_of_attempts_ends_only_its_own_job() -> Result<()> {
    let stack = stack("a_forged_count_of_attempts").await?;
    let worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("forged.fts", &ItemSpec::mail(2, 4_000));
    let busy = s3::Effect::Answer { status: 503, code: "SlowDown" };
    stack.s3.faults().add(s3::Fault::new(busy).key(&format!("{BLOBS}/forged.fts")).always());
    let forged = changed("forged", &mailbox, |job| job["blob"]["key"] = json!("forged.fts"));
    let attempt = headers([("restore-attempt", AMQPValue::LongLongInt(i64::from(u32::MAX)))]);
    let case = job(&forged, "attempts_exhausted").with(|p| p.with_headers(attempt));
    end_badly(&stack, worker, &mut emitter, vec![case]).await?;
    Ok(())
}
