//! The broker, the storage, Exchange and the login may each go away or turn against us: nothing is lost, nothing is buried for
//! it, and work goes on by itself.

use std::time::Duration;

use anyhow::{Context as _, Result};
use lapin::options::QueueDeleteOptions;
use restore_sandbox::{
    emitter::Emitter,
    exchange::{ALL_ROLES, Answer, Effect, Fault, Gate, Operation, When},
    fts::ItemSpec,
    proxy::Proxy,
    rabbitmq::{Options, RabbitMq, ensure_installed},
    s3,
    stack::{BLOBS, CLIENT_ID, CLIENT_SECRET, FOLDER, Stack, create_job, exchange_options},
    wait::until,
    worker::Worker,
};
use serde_json::Value;
use tokio::time::Instant;

use crate::support::{binary, broker_behind_a_proxy, quick_and, quick_worker, stack, told};

const JOBS: &str = "restore.jobs";
const OTHER_TENANT: &str = "b7809c93-0000-4000-8000-000000000009";

/// A node of its own, to be killed or starved.
async fn node(options: Options) -> Result<RabbitMq> {
    ensure_installed().await?;
    RabbitMq::start(options).await
}

/// So many jobs of one mailbox, `j-0` and so on, each with an item of its own.
async fn publish(stack: &Stack, emitter: &Emitter, mailbox: &str, jobs: std::ops::Range<u64>) -> Result<()> {
    for n in jobs {
        stack.store(&format!("{n}.fts"), &ItemSpec::mail(n, 8_000));
        emitter.publish(&create_job(&format!("j-{n}"), mailbox, &format!("{n}.fts"))).await?;
    }
    Ok(())
}

/// Every import waits at this gate with its item stored.
fn hold_answers(stack: &Stack) -> Result<Gate> {
    let gate = Gate::new();
    let hold = Effect::WaitAfter(When::Open(gate.clone()));
    stack.exchange.add_fault(Fault::new(Operation::Import, hold).always())?;
    Ok(gate)
}

/// So many jobs are told as succeeded, and each has the one item that it names.
async fn all_succeeded(
    stack: &Stack,
    emitter: &mut Emitter,
    mailbox: &str,
    jobs: usize,
    worker: &Worker,
) -> Result<()> {
    let results = emitter.results_of(jobs).await.with_context(|| worker.output())?;
    let mut named = Vec::new();
    for (job, events) in &results {
        for event in events {
            assert_eq!(event["status"], "succeeded", "{job}: {event:#}\n{}", worker.output());
            assert_eq!(event["itemId"], events[0]["itemId"], "{job}");
        }
        named.push(events[0]["itemId"].as_str().unwrap_or_default().to_owned());
    }
    named.sort();
    let mut stored: Vec<_> = stack.exchange.items(mailbox).into_iter().map(|i| i.item_id).collect();
    stored.sort();
    assert_eq!(named, stored, "{}", worker.output());
    assert_eq!(emitter.depth("restore.dead-letters").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_killed_is_consumed_from_again_within_5_s() -> Result<()> {
    let mut node = node(Options::with_management()).await?;
    let stack = Stack::start(node.create_vhost("killed").await?, exchange_options()).await?;
    let mut worker = stack.worker(binary(), &QUICK_LONG).await?;
    let mailbox = stack.mailbox("anna");
    let gate = hold_answers(&stack)?;
    {
        let emitter = stack.emitter().await?;
        publish(&stack, &emitter, &mailbox, 0..10).await?;
    }
    gate.arrived(4).await;
    node.kill().await?;
    worker.unready().await?;
    gate.open();
    node.restart().await?;
    let back = Instant::now();
    worker.ready().await?;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}\n{}", back.elapsed(), worker.output());
    let mut emitter = stack.emitter().await?;
    all_succeeded(&stack, &mut emitter, &mailbox, 10, &worker).await
}

/// As `QUICK`, but an answer may take its time.
const QUICK_LONG: [(&str, &str); 3] =
    [("EXCHANGE__REQUEST_TIMEOUT", "30s"), ("IN_DOUBT__SETTLE", "2s"), ("IN_DOUBT__CLOCK_MARGIN", "1s")];

/// A stack behind a proxy, and a worker that goes through it.
async fn behind_a_proxy(name: &str, more: &[(&str, &str)]) -> Result<(Stack, Proxy, Worker)> {
    let stack = stack(name).await?;
    let (proxy, uri) = broker_behind_a_proxy(&stack).await?;
    let more: Vec<_> = more.iter().copied().chain([("BROKER__URI", uri.as_str())]).collect();
    let worker = stack.worker(binary(), &more).await?;
    Ok((stack, proxy, worker))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_in_mid_import_loses_nothing() -> Result<()> {
    let (stack, proxy, mut worker) = behind_a_proxy("a_connection_cut", &QUICK_LONG).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let gate = hold_answers(&stack)?;
    publish(&stack, &emitter, &mailbox, 0..6).await?;
    gate.arrived(4).await;
    proxy.cut();
    worker.metric_reaches("restore_broker_reconnects_total", &["connection_lost"], 1.0).await?;
    worker.ready().await?;
    gate.open();
    all_succeeded(&stack, &mut emitter, &mailbox, 6, &worker).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_noticed_by_its_heartbeat() -> Result<()> {
    let more: Vec<_> = QUICK_LONG.into_iter().chain([("BROKER__HEARTBEAT", "1s")]).collect();
    let (stack, proxy, mut worker) = behind_a_proxy("a_half_open_connection", &more).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let gate = hold_answers(&stack)?;
    publish(&stack, &emitter, &mailbox, 0..2).await?;
    gate.arrived(2).await;
    let stalled = Instant::now();
    proxy.stall();
    worker.metric_reaches("restore_broker_reconnects_total", &["connection_lost"], 1.0).await?;
    assert!(stalled.elapsed() < Duration::from_secs(6), "{:?}", stalled.elapsed());
    proxy.resume();
    worker.ready().await?;
    gate.open();
    publish(&stack, &emitter, &mailbox, 2..4).await?;
    all_succeeded(&stack, &mut emitter, &mailbox, 4, &worker).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_the_broker_cancels_consumes_again() -> Result<()> {
    let stack = stack("a_consumer_cancelled").await?;
    let mut worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    emitter.channel().await?.queue_delete(JOBS.into(), QueueDeleteOptions::default()).await?;
    worker.metric_reaches("restore_broker_reconnects_total", &["consumer_cancelled"], 1.0).await?;
    worker.ready().await?;
    publish(&stack, &emitter, &mailbox, 0..2).await?;
    all_succeeded(&stack, &mut emitter, &mailbox, 2, &worker).await
}

/// An echo is missed a minute after it was confirmed.
const ECHO: Duration = Duration::from_secs(100);

/// The echo: heartbeats pass, nothing is closed, and no delivery comes. Takes the minute that an echo may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_hears_nothing_is_noticed_by_its_echo() -> Result<()> {
    let (stack, proxy, mut worker) = behind_a_proxy("a_deaf_channel", &QUICK_LONG).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    proxy.deafen(true);
    proxy.cut();
    worker.metric_reaches("restore_broker_reconnects_total", &["connection_lost"], 1.0).await?;
    publish(&stack, &emitter, &mailbox, 0..3).await?;
    let deaf = "restore_broker_reconnects_total";
    until("the echo is missed", ECHO, async || {
        Ok((worker.metric(deaf, &["deaf"]).await? >= 1.0).then_some(()))
    })
    .await?;
    assert_eq!(stack.exchange.items(&mailbox).len(), 0);
    proxy.deafen(false);
    all_succeeded(&stack, &mut emitter, &mailbox, 3, &worker).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_connection_delays_events_and_loses_none() -> Result<()> {
    let node = node(Options::with_management()).await?;
    let stack = Stack::start(node.create_vhost("blocked").await?, exchange_options()).await?;
    let more: Vec<_> = QUICK_LONG.into_iter().chain([("BROKER__CONFIRM_TIMEOUT", "1s")]).collect();
    let mut worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let gate = hold_answers(&stack)?;
    publish(&stack, &emitter, &mailbox, 0..4).await?;
    gate.arrived(4).await;
    node.rabbitmqctl(&["set_vm_memory_high_watermark", "0.0001"]).await?;
    gate.open();
    worker.metric_reaches("restore_publish_total", &["event", "unconfirmed"], 4.0).await?;
    assert_eq!(worker.get("/livez").await?.0, 200, "blocked is not deaf");
    node.rabbitmqctl(&["set_vm_memory_high_watermark", "0.4"]).await?;
    all_succeeded(&stack, &mut emitter, &mailbox, 4, &worker).await?;
    publish(&stack, &emitter, &mailbox, 4..5).await?;
    assert_eq!(told(&mut emitter, &worker).await?["status"], "succeeded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_closed_by_the_consumer_timeout_is_opened_again() -> Result<()> {
    let options = Options {
        extra_config: vec!["consumer_timeout = 2000".into()],
        advanced_config: vec!["{rabbit, [{channel_tick_interval, 1000}]}".into()],
        ..Options::with_management()
    };
    let node = node(options).await?;
    let stack = Stack::start(node.create_vhost("timed-out").await?, exchange_options()).await?;
    let mut worker = stack.worker(binary(), &QUICK_LONG).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let gate = hold_answers(&stack)?;
    publish(&stack, &emitter, &mailbox, 0..2).await?;
    worker.metric_reaches("restore_broker_reconnects_total", &["channel_closed"], 1.0).await?;
    gate.open();
    worker.ready().await?;
    publish(&stack, &emitter, &mailbox, 2..4).await?;
    all_succeeded(&stack, &mut emitter, &mailbox, 4, &worker).await
}

/// Jobs lie in the queue as they came, and the worker says why it takes none.
async fn paused(worker: &mut Worker, emitter: &Emitter, jobs: u32, reason: &str) -> Result<()> {
    worker.unready().await?;
    emitter.jobs_reach(jobs).await?;
    until("the reason in /readyz", Duration::from_secs(10), async || {
        Ok(worker.get("/readyz?verbose").await?.1.contains(reason).then_some(()))
    })
    .await?;
    let state = [r#"state="paused""#, reason];
    worker.metric_reaches("restore_consumer_state", &state, 1.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_secret_pauses_everything_until_it_is_mended() -> Result<()> {
    let stack = stack("a_revoked_secret").await?;
    let mut worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.exchange.revoke_secret(CLIENT_ID);
    stack.exchange.invalidate_tokens();
    publish(&stack, &emitter, &mailbox, 0..3).await?;
    paused(&mut worker, &emitter, 3, "identity_rejected").await?;
    stack.exchange.add_app(CLIENT_ID, CLIENT_SECRET);
    worker.ready().await?;
    all_succeeded(&stack, &mut emitter, &mailbox, 3, &worker).await
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_storage_keys_pause_everything_until_they_are_mended() -> Result<()> {
    let stack = stack("refused_storage_keys").await?;
    let mut worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let refused = s3::Effect::Answer { status: 403, code: "InvalidAccessKeyId" };
    let fault = stack.s3.faults().add(s3::Fault::new(refused).always());
    publish(&stack, &emitter, &mailbox, 0..3).await?;
    paused(&mut worker, &emitter, 3, "storage_unavailable").await?;
    stack.s3.faults().clear(fault);
    worker.ready().await?;
    all_succeeded(&stack, &mut emitter, &mailbox, 3, &worker).await
}

/// An outage far longer than two attempts buries nothing, and is over when it is.
async fn outage(
    name: &str,
    begin: impl AsyncFn(&Stack) -> Result<Outage>,
    trials: u64,
    shown: &str,
) -> Result<()> {
    let stack = stack(name).await?;
    let more = quick_and(&[("RETRY__ATTEMPTS", "2"), ("RETRY__BASE", "50ms"), ("RETRY__MAX", "200ms")]);
    let mut worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    publish(&stack, &emitter, &mailbox, 100..101).await?;
    assert_eq!(told(&mut emitter, &worker).await?["status"], "succeeded");
    let outage = begin(&stack).await?;
    // A mailbox without a session, so that a token is asked for, too.
    let mailbox = stack.mailbox("bert");
    publish(&stack, &emitter, &mailbox, 0..8).await?;
    until("many attempts", Duration::from_secs(40), async || {
        Ok((outage.fired(&stack) >= trials).then_some(()))
    })
    .await
    .with_context(|| worker.output())?;
    let (status, text) = worker.get("/readyz?verbose").await?;
    assert!(status == 503 && text.contains(&format!("[-] {shown}")), "{text}");
    assert_eq!(emitter.depth("restore.results").await?, 0, "{}", worker.output());
    assert_eq!(emitter.depth("restore.dead-letters").await?, 0, "{}", worker.output());
    outage.end(&stack);
    let results = emitter.results_of(8).await.with_context(|| worker.output())?;
    for (job, events) in &results {
        assert_eq!(events[0]["status"], "succeeded", "{job}: {:#}", events[0]);
    }
    assert_eq!(stack.exchange.items(&mailbox).len(), 8);
    worker.ready().await
}

enum Outage {
    Storage(s3::FaultId),
    Exchange(restore_sandbox::exchange::FaultId),
}

impl Outage {
    fn fired(&self, stack: &Stack) -> u64 {
        match self {
            Self::Storage(id) => stack.s3.faults().fired(*id),
            Self::Exchange(id) => stack.exchange.fired(*id),
        }
    }

    fn end(&self, stack: &Stack) {
        match self {
            Self::Storage(id) => stack.s3.faults().clear(*id),
            Self::Exchange(id) => stack.exchange.clear_fault(*id),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_storage_buries_nothing() -> Result<()> {
    let begin = async |stack: &Stack| {
        let fault = s3::Fault::new(s3::Effect::Answer { status: 503, code: "SlowDown" });
        Ok(Outage::Storage(stack.s3.faults().add(fault.key(BLOBS).always())))
    };
    outage("an_outage_of_the_storage", begin, 30, "storage").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_exchange_buries_nothing() -> Result<()> {
    let begin = async |stack: &Stack| {
        let refuse = Effect::Refuse(Answer::status(503));
        let id = stack.exchange.add_fault(Fault::new(Operation::Import, refuse).always())?;
        Ok(Outage::Exchange(id))
    };
    outage("an_outage_of_exchange", begin, 16, "exchange").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_login_buries_nothing() -> Result<()> {
    let begin = async |stack: &Stack| {
        let refuse = Effect::Refuse(Answer::status(503));
        let id = stack.exchange.add_fault(Fault::new(Operation::Token, refuse).always())?;
        stack.exchange.invalidate_tokens();
        Ok(Outage::Exchange(id))
    };
    outage("an_outage_of_the_login", begin, 4, "identity").await
}

/// A second tenant, with a mailbox, that has withdrawn its consent; and its jobs by their ids.
fn of_a_tenant_without_consent(stack: &Stack, mailbox: &str) -> impl Fn(&str) -> Value {
    stack.exchange.add_tenant(OTHER_TENANT);
    stack.exchange.add_mailbox(OTHER_TENANT, mailbox);
    stack.exchange.add_folder(mailbox, FOLDER);
    stack.exchange.grant(OTHER_TENANT, CLIENT_ID, &ALL_ROLES);
    stack.exchange.withdraw_consent(OTHER_TENANT);
    stack.store("there.fts", &ItemSpec::mail(50, 8_000));
    move |id| {
        let mut job = create_job(id, mailbox, "there.fts");
        job["tenantId"] = OTHER_TENANT.into();
        job
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_withdrawn_consent_pauses_its_jobs_alone() -> Result<()> {
    let stack = stack("a_tenants_withdrawn_consent").await?;
    let mut worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let here = stack.mailbox("anna");
    let there = format!("MBX:bert@{OTHER_TENANT}");
    let theirs = of_a_tenant_without_consent(&stack, &there);
    emitter.publish(&theirs("theirs")).await?;
    worker.logs("the tenant is paused").await?;
    publish(&stack, &emitter, &here, 0..3).await?;
    all_succeeded(&stack, &mut emitter, &here, 3, &worker).await?;
    worker.ready().await?;
    assert!(stack.exchange.items(&there).is_empty());
    stack.exchange.grant(OTHER_TENANT, CLIENT_ID, &ALL_ROLES);
    let event = told(&mut emitter, &worker).await?;
    assert_eq!((&event["jobId"], &event["status"]), (&"theirs".into(), &"succeeded".into()), "{event:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_wait_for_their_tenant_do_not_close_the_queue_to_others() -> Result<()> {
    let stack = stack("waiting_tenant").await?;
    // Each could wait in memory: four times the prefetch.
    let more = [
        ("BROKER__PREFETCH", "8"),
        ("FLEET__PREFETCH", "8"),
        ("BROKER__WAIT_TIERS", "1s"),
        ("RETRY__HOLD", "10m"),
    ];
    let mut worker = stack.worker(binary(), &quick_and(&more)).await?;
    let mut emitter = stack.emitter().await?;
    let here = stack.mailbox("anna");
    let there = format!("MBX:bert@{OTHER_TENANT}");
    let theirs = of_a_tenant_without_consent(&stack, &there);
    emitter.publish_all((0..32).map(|n| theirs(&format!("theirs-{n}")))).await?;
    worker.metric_reaches("restore_deliveries_total", &["kind=\"parked\""], 32.0).await?;
    publish(&stack, &emitter, &here, 0..3).await?;
    all_succeeded(&stack, &mut emitter, &here, 3, &worker).await?;
    stack.exchange.grant(OTHER_TENANT, CLIENT_ID, &ALL_ROLES);
    let told = emitter.results_of(32).await.with_context(|| worker.output())?;
    assert!(told.values().flatten().all(|event| event["status"] == "succeeded"), "{told:#?}");
    assert_eq!(stack.exchange.items(&there).len(), 32);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_mailbox_is_its_jobs_own_trouble() -> Result<()> {
    let stack = stack("a_forbidden_mailbox").await?;
    let worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let (good, forbidden) = (stack.mailbox("anna"), stack.mailbox("forbidden"));
    stack.exchange.deny_mailbox(CLIENT_ID, &forbidden);
    publish(&stack, &emitter, &good, 0..3).await?;
    stack.store("f.fts", &ItemSpec::mail(60, 8_000));
    emitter.publish(&create_job("forbidden", &forbidden, "f.fts")).await?;
    let results = emitter.results_of(4).await.with_context(|| worker.output())?;
    for (job, events) in &results {
        let expected = if job == "forbidden" { "mailbox_forbidden" } else { "" };
        assert_eq!(events[0]["error"]["code"].as_str().unwrap_or_default(), expected, "{:#}", events[0]);
    }
    assert_eq!(emitter.dead_letters(1).await?[0].headers["restore-reason"], "mailbox_forbidden");
    Ok(())
}
