//! Traces: from the job's headers through a span for each stage to the event's header; nothing in them that is not for others.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use restore_sandbox::{
    fts::ItemSpec,
    otlp::{Collector, Span},
    stack::{CLIENT_SECRET, create_job},
    wait::until,
    worker::Worker,
};

use crate::support::{binary, headers, stack};

const LIMIT: Duration = Duration::from_secs(60);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn job_span(spans: &[Span], job: &str) -> Option<Span> {
    spans.iter().find(|span| span.attributes.get("restore.job_id").is_some_and(|id| id == job)).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_the_job_to_its_event() -> Result<()> {
    let stack = stack("a_trace_goes_from_the_job").await?;
    let collector = Collector::start().await?;
    let mut variables = stack.variables();
    variables.insert("OTEL_EXPORTER_OTLP_ENDPOINT".into(), collector.endpoint());
    variables.insert("OTEL_BSP_SCHEDULE_DELAY".into(), "100".into());
    let mut worker = Worker::spawn(binary(), &variables, &stack.log())?;
    worker.ready().await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("good.fts", &ItemSpec::mail(1, 4_000));
    let traced = headers(&[("traceparent", &format!("00-{TRACE}-{PARENT}-01"))]);
    emitter.publish_raw(create_job("good", &mailbox, "good.fts").to_string().as_bytes(), traced).await?;
    let told = emitter.next_result().await?;
    emitter.publish(&create_job("bad", &mailbox, "missing.fts")).await?;
    let told_bad = emitter.next_result().await?;

    until("both jobs' spans", LIMIT, async || {
        let spans = collector.spans();
        Ok((job_span(&spans, "good").is_some() && job_span(&spans, "bad").is_some()).then_some(()))
    })
    .await
    .with_context(|| worker.output())?;
    let spans = collector.spans();
    let good = job_span(&spans, "good").context("the job's span")?;
    assert_eq!((&*good.trace_id, &*good.parent, good.kind, good.status), (TRACE, PARENT, 5, 0), "{good:?}");
    assert_eq!((&*good.name, &*good.attributes["restore.status"]), ("process restore.jobs", "succeeded"));
    assert_eq!(told.headers["traceparent"], format!("00-{TRACE}-{}-01", good.span_id));
    let below = |job: &Span| -> BTreeSet<String> {
        spans.iter().filter(|span| span.parent == job.span_id).map(|span| span.name.clone()).collect()
    };
    let stages = ["claim", "complete", "fetch", "import", "lane", "report", "session"];
    assert_eq!(below(&good), stages.map(str::to_owned).into());
    let bad = job_span(&spans, "bad").context("the job's span")?;
    assert_eq!(
        (bad.status, &*bad.attributes["error.type"], &*bad.parent),
        (2, "blob_not_found", ""),
        "{bad:?}"
    );
    assert_eq!(told_bad.headers["traceparent"], format!("00-{}-{}-01", bad.trace_id, bad.span_id));

    let lines = worker.log_lines();
    let ended = lines
        .iter()
        .find(|line| line["message"] == "job ended" && line["job_id"] == "good")
        .context("a line")?;
    assert_eq!(ended["trace_id"], TRACE, "{ended:#}");
    let sent: Vec<u8> = collector.bodies().concat();
    for secret in [CLIENT_SECRET, "Bearer", "eyJ", "importItem", &mailbox, "good.fts", "missing.fts"] {
        let found = sent.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!found, "{secret} is in a span");
    }
    assert!(worker.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_event_carries_the_jobs_own_context() -> Result<()> {
    let stack = stack("without_a_collector").await?;
    let worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("good.fts", &ItemSpec::mail(1, 4_000));
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let traced = headers(&[("traceparent", &traceparent)]);
    emitter.publish_raw(create_job("good", &mailbox, "good.fts").to_string().as_bytes(), traced).await?;
    assert_eq!(emitter.next_result().await?.headers["traceparent"], traceparent);
    // Written when the event is confirmed, which may be after we have read it.
    worker.logs("job ended").await?;
    let lines = worker.log_lines();
    let ended = lines.iter().find(|line| line["message"] == "job ended").context("a line")?;
    assert_eq!(ended["trace_id"], TRACE, "{ended:#}");
    Ok(())
}

/// A collector that is away is nobody's trouble.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_hinders_no_job() -> Result<()> {
    let stack = stack("a_collector_that_is_away").await?;
    let mut variables = stack.variables();
    variables.insert("OTEL_EXPORTER_OTLP_ENDPOINT".into(), "http://127.0.0.1:1".into());
    variables.insert("OTEL_BSP_SCHEDULE_DELAY".into(), "50".into());
    let mut worker = Worker::spawn(binary(), &variables, &stack.log())?;
    worker.ready().await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("good.fts", &ItemSpec::mail(1, 4_000));
    for n in 0..20 {
        emitter.publish(&create_job(&format!("j-{n}"), &mailbox, "good.fts")).await?;
    }
    assert_eq!(emitter.results_of(20).await?.len(), 20);
    assert!(worker.terminate().await?.success());
    Ok(())
}
