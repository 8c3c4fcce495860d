//! Trouble that passes, trouble that ends a job, and the end of the process.

use std::time::Duration;

use anyhow::Result;
use lapin::{BasicProperties, options::QueueDeclareOptions, types::FieldTable};
use restore_sandbox::{
    exchange::{self, Cut, Effect, Fault, Gate, Operation, When},
    fts::ItemSpec,
    s3,
    stack::{BLOBS, Stack, create_job},
};
use serde_json::Value;

use crate::support::{binary, stack};

fn jobs(stack: &Stack, mailbox: &str, names: &[&str]) -> Vec<Value> {
    let job = |(n, name): (usize, &&str)| {
        stack.store(name, &ItemSpec::mail(n as u64, 9_000));
        create_job(name, mailbox, name)
    };
    names.iter().enumerate().map(job).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_trouble_is_retried_and_ends_well() -> Result<()> {
    let stack = stack("passing_trouble").await?;
    let more = [("RETRY__HOLD", "0s"), ("EXCHANGE__REQUEST_TIMEOUT", "1s"), ("IN_DOUBT__CLOCK_MARGIN", "1s")];
    let mut worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let slow_down = s3::Effect::Answer { status: 503, code: "SlowDown" };
    stack.s3.faults().add(s3::Fault::new(slow_down).key(&format!("{BLOBS}/storage")).times(2));
    let busy = exchange::Answer::too_many("IncomingBytes", Some(Duration::from_secs(1)));
    for effect in [
        Effect::Refuse(busy),
        Effect::CutInBody { after: 2_000, cut: Cut::Reset },
        Effect::CutAfter(Cut::Close),
        Effect::EndSession { status: 401 },
    ] {
        stack.exchange.add_fault(Fault::new(Operation::Import, effect))?;
    }
    let all = jobs(&stack, &mailbox, &["storage", "a", "b", "c", "d", "e", "f"]);
    let count = emitter.publish_all(all).await?;
    for (id, events) in emitter.results_of(count).await? {
        assert!(events.iter().all(|told| told["status"] == "succeeded"), "{id}: {events:#?}");
    }
    assert_eq!(stack.exchange.items(&mailbox).len(), count, "each exactly once");
    assert!(
        worker.metric("restore_publish_total", &["kind=\"park\"", "confirmed"]).await? > 0.0,
        "wait tiers were used"
    );
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_does_not_pass_exhausts_a_jobs_attempts_alone() -> Result<()> {
    let stack = stack("attempts_exhausted").await?;
    let _worker = stack.worker(binary(), &[("RETRY__ATTEMPTS", "3")]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let broken = s3::Effect::Answer { status: 500, code: "InternalError" };
    stack.s3.faults().add(s3::Fault::new(broken).key(&format!("{BLOBS}/broken")).always());
    emitter.publish_all(jobs(&stack, &mailbox, &["broken"])).await?;
    let told = emitter.next_result().await?.json()?;
    assert_eq!(
        (told["error"]["code"].as_str(), told["error"]["last"].as_str()),
        (Some("attempts_exhausted"), Some("storage_unavailable")),
        "{told:#}"
    );
    assert_eq!(told["attempts"], 3);
    let letters = emitter.dead_letters(1).await?;
    assert_eq!(letters[0].headers["restore-reason"], "attempts_exhausted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_goes_to_the_jobs_own_queue_or_falls_back() -> Result<()> {
    let stack = stack("reply_to").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let channel = emitter.channel().await?;
    channel
        .queue_declare(
            "my.replies".into(),
            QueueDeclareOptions { durable: true, ..Default::default() },
            FieldTable::default(),
        )
        .await?;
    let all = jobs(&stack, &mailbox, &["mine", "gone"]);
    for (job, queue) in all.iter().zip(["my.replies", "no.such.queue"]) {
        let properties =
            BasicProperties::default().with_reply_to(queue.into()).with_correlation_id("c-1".into());
        emitter.publish_raw(job.to_string().as_bytes(), properties).await?;
    }
    let fallen = emitter.next_result().await?;
    assert_eq!(fallen.headers["restore-unroutable-reply-to"], "no.such.queue");
    assert_eq!(fallen.json()?["jobId"], "gone");
    emitter.depth_reaches("my.replies", 1).await?;
    let own = emitter.take_all("my.replies").await?;
    assert_eq!(
        (own[0].json()?["jobId"].as_str(), own[0].correlation_id.as_deref()),
        (Some("mine"), Some("c-1"))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_has_begun_and_returns_the_rest() -> Result<()> {
    let stack = stack("drain").await?;
    let mut worker = stack.worker(binary(), &[("LANES__IN_FLIGHT", "2")]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let gate = Gate::new();
    stack
        .exchange
        .add_fault(Fault::new(Operation::Import, Effect::WaitAfter(When::Open(gate.clone()))).times(2))?;
    emitter.publish_all(jobs(&stack, &mailbox, &["a", "b", "c", "d", "e"])).await?;
    gate.arrived(2).await;
    worker.signal("TERM").await?;
    emitter.depth_reaches("restore.jobs", 3).await?;
    gate.open();
    assert_eq!(worker.wait().await?.code(), Some(0), "{}", worker.output());
    assert_eq!(emitter.results_of(2).await?.len(), 2);
    assert_eq!(
        emitter.depth("restore.jobs").await?,
        3,
        "what had not begun is back, and nothing finished is"
    );
    assert_eq!(stack.exchange.items(&mailbox).len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_aborts_and_a_short_grace_says_so() -> Result<()> {
    for (name, grace, second, code) in [("second_signal", "60s", true, 130), ("short_grace", "1s", false, 75)]
    {
        let stack = stack(name).await?;
        let mut worker = stack.worker(binary(), &[("SHUTDOWN__GRACE", grace)]).await?;
        let emitter = stack.emitter().await?;
        let mailbox = stack.mailbox("anna");
        let gate = Gate::new();
        stack
            .exchange
            .add_fault(Fault::new(Operation::Import, Effect::WaitAfter(When::Open(gate.clone()))))?;
        emitter.publish_all(jobs(&stack, &mailbox, &["a"])).await?;
        gate.arrived(1).await;
        worker.signal("TERM").await?;
        worker.logs("draining").await?;
        if second {
            worker.signal("TERM").await?;
        }
        assert_eq!(worker.wait().await?.code(), Some(code), "{}", worker.output());
    }
    Ok(())
}
