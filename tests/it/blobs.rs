//! Blobs as they lie in storage, through the real worker into the strict model.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use restore_sandbox::{
    fts::{Broken, ItemSpec, broken},
    s3::{Effect, Fault},
    stack::{BLOBS, Stack, create_job},
};
use serde_json::{Value, json};

use restore_worker::domain::hex::hex;

use crate::support::{binary, command, stack};

fn compressed(format: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
    use tokio::io::AsyncReadExt as _;
    let mut out = Vec::new();
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        runtime.block_on(async {
            match format {
                "gzip" => GzipEncoder::new(bytes).read_to_end(&mut out).await,
                _ => ZstdEncoder::new(bytes).read_to_end(&mut out).await,
            }
        })
    })?;
    Ok(out)
}

/// Base64 in lines of 76 characters, as mail and XML hold it.
fn in_lines(bytes: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(bytes);
    let mut out = Vec::new();
    for line in text.as_bytes().chunks(76) {
        out.write_all(line).expect("writing to a Vec cannot fail");
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn put(stack: &Stack, key: &str, bytes: Vec<u8>) -> String {
    stack.s3.backend().put(BLOBS, key, vec![bytes.into()])
}

fn job(id: &str, mailbox: &str, key: &str, more: &Value) -> Value {
    let mut job = create_job(id, mailbox, key);
    for (name, value) in more.as_object().into_iter().flatten() {
        job["blob"][name] = value.clone();
    }
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stored_form_becomes_the_same_item() -> Result<()> {
    let stack = stack("every_stored_form").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    // One that is kept for a retry, one that is streamed.
    for (size, total) in [("small", 50_000), ("large", 3_000_000)] {
        let item = ItemSpec::mail(total as u64, total);
        let bytes = item.to_bytes();
        let sha256 = hex(&item.sha256());
        let old = put(&stack, &format!("{size}/versioned"), bytes.to_vec());
        put(&stack, &format!("{size}/versioned"), b"a later version that is no item".to_vec());
        let packed = [b"before".as_slice(), &bytes, b"behind"].concat();
        let forms = [
            ("raw", bytes.to_vec(), json!({})),
            ("checked", bytes.to_vec(), json!({"size": total, "sha256": sha256})),
            ("range", packed, json!({"range": {"offset": 6, "length": total}})),
            ("base64", STANDARD.encode(&bytes).into_bytes(), json!({"encoding": "base64"})),
            ("base64-lines", in_lines(&bytes), json!({"encoding": "base64"})),
            ("base64-size", in_lines(&bytes), json!({"encoding": "base64", "size": total})),
            ("gzip", compressed("gzip", &bytes)?, json!({"compression": "gzip"})),
            ("gzip-size", compressed("gzip", &bytes)?, json!({"compression": "gzip", "size": total})),
            ("zstd", compressed("zstd", &bytes)?, json!({"compression": "zstd"})),
            (
                "zstd-base64",
                compressed("zstd", &in_lines(&bytes))?,
                json!({"compression": "zstd", "encoding": "base64"}),
            ),
        ];
        let mut jobs = vec![job(
            &format!("{size}-version"),
            &mailbox,
            &format!("{size}/versioned"),
            &json!({"versionId": old}),
        )];
        for (name, stored, more) in forms {
            put(&stack, &format!("{size}/{name}"), stored);
            jobs.push(job(&format!("{size}-{name}"), &mailbox, &format!("{size}/{name}"), &more));
        }
        let count = emitter.publish_all(jobs).await?;
        for (id, events) in emitter.results_of(count).await? {
            let told = events.first().context("an event")?;
            assert_eq!(
                (told["status"].as_str(), told["sha256"].as_str()),
                (Some("succeeded"), Some(&*sha256)),
                "{id}: {told:#}"
            );
            let stored = stack
                .exchange
                .item(&mailbox, told["itemId"].as_str().context("an id")?)
                .context("the item")?;
            assert_eq!((stored.length, stored.sha256.as_str()), (total as u64, &*sha256), "{id}");
        }
    }
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_fails_never_becomes_an_item() -> Result<()> {
    // A model that would store anything that arrives complete.
    let mut options = restore_sandbox::stack::exchange_options();
    options.read_item = |_| Ok(restore_sandbox::exchange::ItemFacts::default());
    let stack = crate::support::stack_with("a_blob_that_fails", options).await?;
    let _worker =
        stack.worker(binary(), &[("STORAGE__RETAIN", "1KiB"), ("STORAGE__MAX_BLOB", "4MiB")]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let good = ItemSpec::mail(1, 900_000).to_bytes();
    let bomb = compressed("gzip", &ItemSpec::mail(9, 40_000_000).to_bytes())?;
    let wrong = "00".repeat(32);
    let cases: Vec<(&str, Vec<u8>, Value, &str)> = vec![
        ("digest", good.to_vec(), json!({"sha256": wrong}), "blob_corrupt"),
        ("size", good.to_vec(), json!({"size": 900_001}), "blob_corrupt"),
        (
            "size-gzip",
            compressed("gzip", &good)?,
            json!({"compression": "gzip", "size": 899_999}),
            "blob_corrupt",
        ),
        ("cut", broken(Broken::Truncated(7_000)).to_vec(), json!({}), "blob_not_fts"),
        ("marker", broken(Broken::TruncatedMarker).to_vec(), json!({}), "blob_not_fts"),
        ("no-gzip", good.to_vec(), json!({"compression": "gzip"}), "blob_corrupt"),
        ("no-base64", vec![b'!'; 5_000], json!({"encoding": "base64"}), "blob_corrupt"),
        ("bomb", bomb.clone(), json!({"compression": "gzip"}), "blob_too_large"),
        ("bomb-size", bomb, json!({"compression": "gzip", "size": 40_000_000}), "blob_too_large"),
        (
            "range-beyond",
            good.to_vec(),
            json!({"range": {"offset": 10_000_000, "length": 5}}),
            "blob_corrupt",
        ),
    ];
    let mut jobs = Vec::new();
    for (name, stored, more, _) in &cases {
        put(&stack, name, stored.clone());
        jobs.push(job(name, &mailbox, name, more));
    }
    let count = emitter.publish_all(jobs).await?;
    let results = emitter.results_of(count).await?;
    for (name, _, _, reason) in &cases {
        let told = &results[*name][0];
        assert_eq!(
            (told["status"].as_str(), told["error"]["code"].as_str()),
            (Some("failed"), Some(*reason)),
            "{name}: {told:#}"
        );
    }
    assert!(stack.exchange.items(&mailbox).is_empty(), "{:?}", stack.exchange.items(&mailbox));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_breaks_is_read_again() -> Result<()> {
    let stack = stack("storage_that_breaks").await?;
    let _worker = stack.worker(binary(), &[("STORAGE__READ_TIMEOUT", "1s")]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let faults = stack.s3.faults();
    let effects = [
        ("cut", Effect::CutBody(700_000)),
        ("stalls", Effect::StallBody(700_000)),
        ("busy", Effect::Answer { status: 503, code: "SlowDown" }),
        ("broken", Effect::Answer { status: 500, code: "InternalError" }),
        ("reset", Effect::Cut),
    ];
    let mut jobs = Vec::new();
    for (n, (name, effect)) in effects.into_iter().enumerate() {
        stack.store(name, &ItemSpec::mail(n as u64, 2_000_000));
        faults.add(Fault::new(effect).key(&format!("{BLOBS}/{name}")));
        jobs.push(create_job(name, &mailbox, name));
    }
    // Others go well meanwhile, so that the trouble is nobody's but the job's.
    stack.store("fine", &ItemSpec::mail(99, 4_096));
    jobs.push(create_job("fine", &mailbox, "fine"));
    let count = emitter.publish_all(jobs).await?;
    for (id, events) in emitter.results_of(count).await? {
        assert_eq!(events[0]["status"], "succeeded", "{id}: {:#}", events[0]);
    }
    assert_eq!(stack.exchange.items(&mailbox).len(), count);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_cannot_be_read_have_a_reason_each() -> Result<()> {
    let stack = stack("objects_that_cannot_be_read").await?;
    let prefix = ("STORAGE__ALLOWED_PREFIX", "{tenantId}/");
    let _worker = stack.worker(binary(), &[prefix]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let own = |key: &str| format!("{}/{key}", restore_sandbox::stack::TENANT);
    let item = ItemSpec::mail(1, 4_096);
    for key in ["archived", "forbidden"] {
        stack.store(&own(key), &item);
    }
    stack.store("another/item", &item);
    stack.s3.backend().archive(BLOBS, &own("archived"));
    let refusal = Effect::Answer { status: 403, code: "AccessDenied" };
    stack.s3.faults().add(Fault::new(refusal).key(&format!("{BLOBS}/{}", own("forbidden"))).always());
    let cases = [
        (own("archived"), "blob_archived"),
        (own("forbidden"), "blob_forbidden"),
        (own("missing"), "blob_not_found"),
        ("another/item".to_owned(), "blob_not_allowed"),
        (own("../another/item"), "blob_not_allowed"),
    ];
    let jobs: Vec<_> =
        cases.iter().enumerate().map(|(n, (key, _))| create_job(&format!("j-{n}"), &mailbox, key)).collect();
    let count = emitter.publish_all(jobs).await?;
    let results = emitter.results_of(count).await?;
    for (n, (key, reason)) in cases.iter().enumerate() {
        let told = &results[&format!("j-{n}")][0];
        assert_eq!(told["error"]["code"].as_str(), Some(*reason), "{key}: {told:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_list_a_missing_object_looks_forbidden() -> Result<()> {
    let stack = stack("without_the_right_to_list").await?;
    stack.s3.backend().forbid_listing(BLOBS);
    let _worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("there", &ItemSpec::mail(1, 4_096));
    emitter.publish_all(["there", "missing"].map(|key| create_job(key, &mailbox, key))).await?;
    let results = emitter.results_of(2).await?;
    assert_eq!(results["there"][0]["status"], "succeeded", "{results:#?}");
    let error = &results["missing"][0]["error"];
    assert_eq!((error["code"].as_str(), error["httpStatus"].as_u64()), (Some("blob_forbidden"), Some(403)));
    assert!(error["message"].as_str().is_some_and(|text| text.contains("s3:ListBucket")), "{error:#}");
    let checked = command(&stack, &["check"], b"").await?;
    assert!(checked.stdout.contains("warning: without s3:ListBucket on backups"), "{checked:?}");
    Ok(())
}
