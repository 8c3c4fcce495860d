//! What is told of a job, to whom, and what becomes of an end that nobody takes.

use anyhow::{Context as _, Result};
use lapin::{
    BasicProperties,
    options::{QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use restore_sandbox::{
    emitter::Emitter,
    exchange::{Effect, Fault, Gate, Operation, When},
    fts::ItemSpec,
    stack::create_job,
};
use serde_json::json;

use crate::support::{binary, stack};

/// Names its job and lacks the rest.
const NO_JOB: &[u8] = br#"{"jobId":"ugly"}"#;

async fn declare(emitter: &Emitter, name: &str) -> Result<()> {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    emitter.channel().await?.queue_declare(name.into(), options, FieldTable::default()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_end_goes_to_the_jobs_own_reply_queue() -> Result<()> {
    let stack = stack("every_kind_of_end_to_its_own_queue").await?;
    let mut worker = stack.worker(binary(), &[]).await?;
    let emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("good.fts", &ItemSpec::mail(1, 4_000));
    declare(&emitter, "replies").await?;
    let to_replies = || BasicProperties::default().with_reply_to("replies".into());
    for (id, key) in [("good", "good.fts"), ("bad", "missing.fts")] {
        emitter.publish_raw(create_job(id, &mailbox, key).to_string().as_bytes(), to_replies()).await?;
    }
    emitter.publish_raw(NO_JOB, to_replies()).await?;
    emitter.depth_reaches("replies", 3).await?;
    let mut told = Vec::new();
    for event in emitter.take_all("replies").await? {
        assert!(!event.headers.contains_key("restore-unroutable-reply-to"));
        let event = event.json()?;
        told.push(format!("{} {}", event["jobId"], event["status"]));
    }
    told.sort();
    assert_eq!(told, [r#""bad" "failed""#, r#""good" "succeeded""#, r#""ugly" "failed""#]);
    assert!(worker.terminate().await?.success());
    assert_eq!(emitter.depth("restore.results").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_to_that_is_not_honoured_is_not_used() -> Result<()> {
    let stack = stack("a_reply_to_that_is_not_honoured").await?;
    let mut worker = stack.worker(binary(), &[("BROKER__RESULTS__HONOUR_REPLY_TO", "false")]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("good.fts", &ItemSpec::mail(1, 4_000));
    declare(&emitter, "replies").await?;
    let body = create_job("j", &mailbox, "good.fts").to_string();
    let properties = BasicProperties::default().with_reply_to("replies".into());
    emitter.publish_raw(body.as_bytes(), properties).await?;
    let event = emitter.next_result().await?;
    assert!(!event.headers.contains_key("restore-unroutable-reply-to"));
    assert!(worker.terminate().await?.success());
    assert_eq!(emitter.depth("replies").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_no_queue_takes_turns_readiness_red_and_is_told_once_one_does() -> Result<()> {
    let stack = stack("an_end_that_no_queue_takes").await?;
    let more = [("BROKER__RESULTS__ROUTING_KEY", "elsewhere"), ("BROKER__WAIT_TIERS", "200ms")];
    let mut worker = stack.worker(binary(), &more).await?;
    let emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("good.fts", &ItemSpec::mail(1, 4_000));
    emitter.publish(&create_job("good", &mailbox, "good.fts")).await?;
    emitter.publish(&create_job("bad", &mailbox, "missing.fts")).await?;
    emitter.publish_raw(NO_JOB, BasicProperties::default()).await?;
    worker.unready().await?;
    let (_, checks) = worker.get("/readyz").await?;
    assert!(checks.contains("reply_unroutable"), "{checks}");
    // Each of the three has come back at least once.
    worker.metric_reaches("restore_publish_total", &["kind=\"event\"", "unroutable"], 7.0).await?;
    assert_eq!(emitter.depth("restore.dead-letters").await?, 0, "told first");
    declare(&emitter, "elsewhere").await?;
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    let channel = emitter.channel().await?;
    channel.queue_bind("elsewhere".into(), "restore".into(), "elsewhere".into(), options, arguments).await?;
    emitter.depth_reaches("elsewhere", 3).await.with_context(|| worker.output())?;
    let told = emitter.take_all("elsewhere").await?;
    let mut told: Vec<_> = told.into_iter().filter_map(|event| event.message_id).collect();
    told.sort();
    assert_eq!(told[..2], ["bad/0/failed", "good/0/succeeded"]);
    assert!(told.len() == 3 && told[2].starts_with("ugly/0/failed/"), "{told:?}");
    worker.ready().await?;
    assert_eq!(emitter.dead_letters(2).await?.len(), 2);
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    assert!(worker.terminate().await?.success());
    for queue in ["restore.jobs", "restore.jobs.wait.200ms", "elsewhere"] {
        assert_eq!(emitter.depth(queue).await?, 0, "{queue}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_higher_priority_goes_first_in_its_lane() -> Result<()> {
    let stack = stack("the_higher_priority_goes_first").await?;
    let mut worker = stack.worker(binary(), &[("LANES__PER_MAILBOX", "1")]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    for (seed, id) in ["first", "low", "middle", "high"].into_iter().enumerate() {
        stack.store(id, &ItemSpec { subject: id.into(), ..ItemSpec::mail(seed as u64, 4_000) });
    }
    let gate = Gate::new();
    stack.exchange.add_fault(Fault::new(Operation::Import, Effect::Wait(When::Open(gate.clone()))))?;
    emitter.publish(&create_job("first", &mailbox, "first")).await?;
    gate.arrived(1).await;
    for (id, priority) in [("low", 0), ("middle", 4), ("high", 9)] {
        let body = create_job(id, &mailbox, id).to_string();
        emitter.publish_raw(body.as_bytes(), BasicProperties::default().with_priority(priority)).await?;
    }
    worker.metric_reaches("restore_jobs_waiting", &["why=\"slot\""], 3.0).await?;
    gate.open();
    emitter.results_of(4).await?;
    // Of events the order is nobody's promise.
    let items = stack.exchange.items(&mailbox);
    let order: Vec<_> = items.iter().map(|item| item.subject.as_str()).collect();
    assert_eq!(order, ["first", "high", "middle", "low"]);
    assert!(worker.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_carries_what_its_job_brought() -> Result<()> {
    let stack = stack("an_event_carries_what_its_job_brought").await?;
    let mut worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("good.fts", &ItemSpec::mail(1, 4_000));
    let uri = stack.uri.parse::<lapin::uri::AMQPUri>().map_err(anyhow::Error::msg)?;
    let user = uri.authority.userinfo.username;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut headers = FieldTable::default();
    for (name, value) in [("traceparent", trace), ("tracestate", "vendor=1"), ("restore-other", "x")] {
        headers.insert(ShortString::from(name), AMQPValue::LongString(LongString::from(value.as_bytes())));
    }
    let mut job = create_job("j", &mailbox, "good.fts");
    job["restoreId"] = json!("r-1");
    job["requestedBy"] = json!("ticket 4711");
    job["metadata"] = json!({"any": [1.50, null, {"deep": true}]});
    let sent = BasicProperties::default()
        .with_headers(headers)
        .with_user_id(ShortString::from(&*user))
        .with_correlation_id("c-1".into())
        .with_message_id("m-1".into());
    emitter.publish_raw(job.to_string().as_bytes(), sent).await?;
    let event = emitter.next_result().await?;
    let told = event.json()?;
    let got = &event.properties;
    assert_eq!(event.message_id.as_deref(), Some("j/0/succeeded"));
    assert_eq!(event.correlation_id.as_deref(), Some("c-1"));
    assert_eq!(event.kind.as_deref(), Some("restore.result.v1"));
    assert_eq!(got.app_id().as_ref().map(ShortString::as_str), Some("restore-worker"));
    assert_eq!(got.content_type().as_ref().map(ShortString::as_str), Some("application/json"));
    assert_eq!((got.delivery_mode(), got.timestamp().is_some(), got.user_id()), (&Some(2), true, &None));
    for (name, value) in [
        ("traceparent", trace),
        ("tracestate", "vendor=1"),
        ("cloudEvents_specversion", "1.0"),
        ("cloudEvents_type", "restore.result.v1"),
        ("cloudEvents_source", "/restore-worker/sandbox-worker"),
        ("cloudEvents_id", "j/0/succeeded"),
        ("cloudEvents_subject", &mailbox),
        ("cloudEvents_time", told["completedAt"].as_str().unwrap_or_default()),
    ] {
        assert_eq!(event.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!event.headers.contains_key("restore-other"));
    for (name, value) in [
        ("restoreId", json!("r-1")),
        ("requestedBy", json!("ticket 4711")),
        ("submittedBy", json!(user)),
        ("metadata", job["metadata"].clone()),
        ("replay", json!(0)),
        ("attempts", json!(1)),
        ("recovered", json!(false)),
        ("evidence", json!("answer")),
    ] {
        assert_eq!(told[name], value, "{name}");
    }
    assert_eq!(told["worker"]["name"], "sandbox-worker");
    assert!(told["timings"]["totalMs"].as_u64() >= told["timings"]["importMs"].as_u64(), "{told:#}");
    for (id, properties, correlation) in [
        ("by message-id", BasicProperties::default().with_message_id("m-2".into()), "m-2"),
        ("by job id", BasicProperties::default(), "by job id"),
    ] {
        let body = create_job(id, &mailbox, "good.fts").to_string();
        emitter.publish_raw(body.as_bytes(), properties).await?;
        assert_eq!(emitter.next_result().await?.correlation_id.as_deref(), Some(correlation));
    }
    assert!(worker.terminate().await?.success());
    Ok(())
}
