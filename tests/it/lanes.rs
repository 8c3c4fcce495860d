//! Mailboxes at their own limits, for real: the model's windows scaled down, the worker told of the same ones.

use std::time::Duration;

use anyhow::Result;
use restore_sandbox::{
    exchange::{self, Effect, Fault, Limits, Operation},
    fts::ItemSpec,
    stack::{CLIENT_ID, Stack, create_job, exchange_options},
};
use serde_json::Value;

use crate::support::{binary, stack_with};

/// 1 MB a second and 100 requests a second for each mailbox, 4 at once.
fn limits() -> Limits {
    Limits {
        bytes: 1_000_000,
        bytes_window: Duration::from_secs(1),
        requests: 100,
        requests_window: Duration::from_secs(1),
        ..Limits::default()
    }
}

const WINDOWS: [(&str, &str); 4] = [
    ("LANES__UPLOAD_WINDOW__BYTES", "1MB"),
    ("LANES__UPLOAD_WINDOW__EVERY_BYTES", "1s"),
    ("LANES__UPLOAD_WINDOW__REQUESTS", "100"),
    ("LANES__UPLOAD_WINDOW__EVERY_REQUESTS", "1s"),
];

async fn scaled(name: &str) -> Result<Stack> {
    stack_with(name, exchange::Options { limits: limits(), ..exchange_options() }).await
}

/// Jobs for items of this size, all of one blob.
fn jobs(stack: &Stack, mailbox: &str, prefix: &str, count: usize, size: usize) -> Vec<Value> {
    let key = format!("{prefix}.fts");
    stack.store(&key, &ItemSpec::mail(size as u64, size));
    (0..count).map(|n| create_job(&format!("{prefix}-{n}"), mailbox, &key)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_worker_never_goes_beyond_a_mailboxs_windows() -> Result<()> {
    let stack = scaled("lanes_windows").await?;
    let _worker = stack.worker(binary(), &WINDOWS).await?;
    let mut emitter = stack.emitter().await?;
    let mailboxes: Vec<_> = (0..4).map(|n| stack.mailbox(&format!("m{n}"))).collect();
    let all: Vec<_> = mailboxes
        .iter()
        .enumerate()
        .flat_map(|(n, m)| jobs(&stack, m, &format!("j{n}"), 60, 40_000))
        .collect();
    let count = emitter.publish_all(all).await?;
    emitter.results_of(count).await?;
    for mailbox in &mailboxes {
        let usage = stack.exchange.usage(CLIENT_ID, mailbox);
        assert_eq!(usage.refused(), 0, "{usage:?}");
        assert_eq!(stack.exchange.items(mailbox).len(), 60);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_mailbox_lets_the_others_through() -> Result<()> {
    let stack = scaled("lanes_flood").await?;
    let more = [WINDOWS.as_slice(), &[("BROKER__PREFETCH", "32")]].concat();
    let mut worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let (flooded, calm) = (stack.mailbox("flooded"), stack.mailbox("calm"));
    // Six times the prefetch, and seconds of its quota, in front of everybody else.
    let mut all = jobs(&stack, &flooded, "flood", 120, 40_000);
    all.extend(jobs(&stack, &calm, "calm", 10, 4_096));
    let count = emitter.publish_all(all).await?;
    let mut order = Vec::new();
    while order.iter().filter(|id: &&String| id.starts_with("calm")).count() < 10 {
        order.push(emitter.next_result().await?.json()?["jobId"].as_str().unwrap_or_default().to_owned());
    }
    let before = order.iter().filter(|id| id.starts_with("flood")).count();
    assert!(before < 100, "{before} of 120 flooding jobs were done before the last calm one");
    let told: std::collections::BTreeSet<_> = order.into_iter().collect();
    let mut told = told;
    while told.len() < count {
        told.insert(emitter.next_result().await?.json()?["jobId"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(stack.exchange.items(&flooded).len(), 120);
    assert_eq!(stack.exchange.usage(CLIENT_ID, &flooded).refused(), 0);
    let bounced = worker.metric("restore_deliveries_total", &["kind=\"parked\""]).await?;
    assert!(bounced < 30.0 * 120.0, "{bounced} bounces");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_mailbox_pauses_alone() -> Result<()> {
    let stack = scaled("lanes_throttled").await?;
    let mut worker = stack.worker(binary(), &[("LANES__PER_MAILBOX", "1")]).await?;
    let mut emitter = stack.emitter().await?;
    let (slow, fast) = (stack.mailbox("slow"), stack.mailbox("fast"));
    let refusal = exchange::Answer::too_many("IncomingBytes", Some(Duration::from_secs(6)));
    stack
        .exchange
        .add_fault(Fault::new(Operation::Import, Effect::Refuse(refusal)).mailbox(slow.clone()).times(1))?;
    emitter.publish_all(jobs(&stack, &slow, "slow", 3, 4_096)).await?;
    worker.metric_reaches("restore_throttled_total", &[], 1.0).await?;
    let count = emitter.publish_all(jobs(&stack, &fast, "fast", 10, 4_096)).await?;
    for _ in 0..count {
        let told = emitter.next_result().await?.json()?;
        assert_eq!(told["mailboxId"], fast.as_str(), "the paused mailbox goes last: {told:#}");
    }
    for _ in 0..3 {
        assert_eq!(emitter.next_result().await?.json()?["status"], "succeeded");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_comes_back_early_asks_its_lane_again() -> Result<()> {
    let stack = stack_with("lanes_early", exchange_options()).await?;
    // Its mailbox is paused for minutes, the longest tier below that lasts a second, and it could be held until then.
    let more = [
        ("BROKER__PREFETCH", "8"),
        ("FLEET__PREFETCH", "8"),
        ("BROKER__WAIT_TIERS", "1s,1h"),
        ("RETRY__HOLD", "10m"),
    ];
    let mut worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let (paused, calm) = (stack.mailbox("paused"), stack.mailbox("calm"));
    let refusal = exchange::Answer::too_many("IncomingBytes", Some(Duration::from_secs(600)));
    let refused = Fault::new(Operation::Import, Effect::Refuse(refusal)).mailbox(paused.clone());
    stack.exchange.add_fault(refused.always())?;
    emitter.publish_all(jobs(&stack, &paused, "paused", 30, 4_096)).await?;
    worker.metric_reaches("restore_deliveries_total", &["kind=\"parked\""], 100.0).await?;
    emitter.publish_all(jobs(&stack, &calm, "calm", 1, 4_096)).await?;
    let told = emitter.next_result().await?.json()?;
    assert_eq!((&told["mailboxId"], &told["status"]), (&calm.into(), &"succeeded".into()), "{told:#}");
    Ok(())
}
