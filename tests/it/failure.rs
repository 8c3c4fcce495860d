//! Trouble that passes, trouble that ends a job, and the end of the process.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use lapin::{
    BasicProperties,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use restore_sandbox::{
    emitter::Emitter,
    exchange::{self, Answer, Cut, Effect, Fault, Gate, Operation, When},
    fts::ItemSpec,
    s3,
    stack::{BLOBS, Stack, create_job},
    wait::until,
    worker::Worker,
};
use serde_json::{Value, json};

use crate::support::{binary, stack};

fn jobs(stack: &Stack, mailbox: &str, names: &[&str]) -> Vec<Value> {
    let job = |(n, name): (usize, &&str)| {
        stack.store(name, &ItemSpec::mail(n as u64, 9_000));
        create_job(name, mailbox, name)
    };
    names.iter().enumerate().map(job).collect()
}

/// The storage is busy for one object.
fn busy(stack: &Stack, key: &str) -> s3::Fault {
    stack.store(key, &ItemSpec::mail(1, 4_000));
    s3::Fault::new(s3::Effect::Answer { status: 503, code: "SlowDown" }).key(&format!("{BLOBS}/{key}"))
}

async fn ends_well(emitter: &mut Emitter, worker: &Worker, id: &str) -> Result<Value> {
    let told = emitter.next_result().await.with_context(|| worker.output())?.json()?;
    ensure!(told["jobId"] == id && told["status"] == "succeeded", "{told:#}\n{}", worker.output());
    Ok(told)
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
    emitter.jobs_reach(3).await?;
    gate.open();
    assert_eq!(worker.wait().await?.code(), Some(0), "{}", worker.output());
    assert_eq!(emitter.results_of(2).await?.len(), 2);
    assert_eq!(emitter.jobs().await?, 3, "what had not begun is back, and nothing finished is");
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

#[tokio::test(flavor = "multi_thread")]
async fn each_trouble_that_passes_costs_what_it_should() -> Result<()> {
    let stack = stack("each_trouble_that_passes").await?;
    let mut worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    stack.store("item.fts", &ItemSpec::mail(1, 200_000));
    // Larger than what the sockets' buffers take: its closing bytes have not left when its connection ends.
    stack.store("large.fts", &ItemSpec::mail(2, 8_000_000));
    let import = |effect| Fault::new(Operation::Import, effect);
    let session = |effect| Fault::new(Operation::OpenSession, effect);
    let server_busy =
        Answer::error(503, "ErrorServerBusy", "The server cannot service this request right now.");
    let soon = Some(Duration::from_secs(1));
    for (name, fault, attempts) in [
        ("503 before the body", import(Effect::Refuse(server_busy)), 1),
        ("503 without a name", import(Effect::Refuse(Answer::status(503))), 2),
        ("reset in a large body", import(Effect::CutInBody { after: 50_000, cut: Cut::Reset }), 2),
        ("429", import(Effect::Refuse(Answer::too_many("IncomingBytes", soon))), 1),
        ("a new session refused", import(Effect::EndSession { status: 401 }), 2),
        ("no session, 503", session(Effect::Refuse(Answer::status(503))), 2),
        ("no session, 429", session(Effect::Refuse(Answer::too_many("MailboxConcurrency", soon))), 1),
        ("no session, cut", session(Effect::CutAfter(Cut::Close)), 1),
        ("no session, cut twice", session(Effect::CutAfter(Cut::Close)).times(2), 2),
    ] {
        let mailbox = stack.mailbox(name);
        let fault = stack.exchange.add_fault(fault.mailbox(&mailbox))?;
        let key = if name.contains("large") { "large.fts" } else { "item.fts" };
        emitter.publish(&create_job(name, &mailbox, key)).await?;
        let told = ends_well(&mut emitter, &worker, name).await?;
        assert_eq!(stack.exchange.fired(fault), if name.contains("twice") { 2 } else { 1 }, "{name}");
        assert_eq!(told["attempts"], attempts, "{name}: {told:#}\n{}", worker.output());
        let items = stack.exchange.items(&mailbox);
        assert_eq!((items.len(), &json!(items[0].sha256)), (1, &told["sha256"]), "{name}");
    }
    // A session that has served before is opened again within the attempt.
    let mailbox = stack.mailbox("429");
    stack.exchange.add_fault(import(Effect::EndSession { status: 401 }).mailbox(&mailbox))?;
    emitter.publish(&create_job("session ended early", &mailbox, "item.fts")).await?;
    let told = ends_well(&mut emitter, &worker, "session ended early").await?;
    assert_eq!((&told["attempts"], stack.exchange.sessions_opened(&mailbox)), (&json!(1), 2));
    let mailbox = stack.mailbox("storage");
    for (name, effect) in [
        ("storage, 503", s3::Effect::Answer { status: 503, code: "SlowDown" }),
        ("storage, 500", s3::Effect::Answer { status: 500, code: "InternalError" }),
        ("storage, no answer", s3::Effect::Cut),
        ("storage, cut in the body", s3::Effect::CutBody(100_000)),
    ] {
        stack.s3.faults().add(s3::Fault::new(effect).key(&format!("{BLOBS}/item.fts")));
        emitter.publish(&create_job(name, &mailbox, "item.fts")).await?;
        let told = ends_well(&mut emitter, &worker, name).await?;
        assert_eq!(told["attempts"], 2, "{name}: {told:#}\n{}", worker.output());
    }
    assert_eq!(stack.exchange.items(&mailbox).len(), 4);
    assert_eq!(emitter.depth("restore.dead-letters").await?, 0);
    assert!(worker.terminate().await?.success());
    assert_eq!(emitter.jobs().await?, 0);
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_that_waits_holds_what_is_allowed_and_its_own_way() -> Result<()> {
    let stack = stack("the_copy_that_waits").await?;
    let more = [("RETRY__HOLD", "0s"), ("BROKER__WAIT_TIERS", "1h")];
    let mut worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.s3.faults().add(busy(&stack, "busy.fts"));
    let uri = stack.uri.parse::<lapin::uri::AMQPUri>().map_err(anyhow::Error::msg)?;
    let user = uri.authority.userinfo.username;
    let text = |value: &str| AMQPValue::LongString(LongString::from(value.as_bytes()));
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    headers.insert("other".into(), text("not for others"));
    let published = BasicProperties::default()
        .with_headers(headers)
        .with_user_id(ShortString::from(&*user))
        .with_expiration("600000".into())
        .with_message_id("m-1".into())
        .with_correlation_id("c-1".into())
        .with_priority(7)
        .with_timestamp(1_700_000_000);
    let body = create_job("j", &mailbox, "busy.fts").to_string();
    emitter.publish_raw(body.as_bytes(), published).await?;
    emitter.depth_reaches("restore.jobs.wait.1h", 1).await?;
    let copy = emitter.take_all("restore.jobs.wait.1h").await?.remove(0);
    assert_eq!(copy.body, body.as_bytes());
    let got = &copy.properties;
    assert_eq!((got.user_id(), got.expiration(), got.delivery_mode()), (&None, &None, &Some(2)));
    assert_eq!((got.priority(), got.timestamp()), (&Some(7), &Some(1_700_000_000)));
    assert_eq!((copy.message_id.as_deref(), copy.correlation_id.as_deref()), (Some("m-1"), Some("c-1")));
    assert_eq!(copy.headers["restore-attempt"], "1");
    assert_eq!(copy.headers["restore-parked"], "0");
    assert_eq!(copy.headers["restore-submitted-by"], user);
    let moment = |name: &str| copy.headers[name].parse::<i64>();
    let waits = moment("restore-not-before")? - moment("restore-first-received")?;
    assert!((1..60_000).contains(&waits), "{:?}", copy.headers);
    assert!(copy.headers.contains_key("traceparent") && !copy.headers.contains_key("other"));
    // As the tier would, but sooner.
    let due = UNIX_EPOCH + Duration::from_millis(copy.headers["restore-not-before"].parse()?);
    let limit = Duration::from_secs(10);
    until("its time", limit, async || Ok((SystemTime::now() >= due).then_some(()))).await?;
    emitter.publish_raw(&copy.body, copy.properties).await?;
    let told = ends_well(&mut emitter, &worker, "j").await?;
    assert_eq!((&told["attempts"], &told["submittedBy"]), (&json!(2), &json!(user)), "{told:#}");
    assert!(worker.metric("restore_deliveries_total", &["kind=\"retried\""]).await? >= 1.0);
    assert!(worker.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_buries_nothing() -> Result<()> {
    let stack = stack("an_outage_buries_nothing").await?;
    let mut worker = stack.worker(binary(), &[("RETRY__ATTEMPTS", "2")]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("good.fts", &ItemSpec::mail(1, 4_000));
    stack.s3.faults().set_out(true);
    emitter.publish_all((0..8).map(|n| create_job(&format!("j-{n}"), &mailbox, "good.fts"))).await?;
    worker.unready().await?;
    let (_, checks) = worker.get("/readyz").await?;
    assert!(checks.contains("storage"), "{checks}");
    assert_eq!(worker.get("/livez").await?.0, 200);
    stack.s3.faults().set_out(false);
    let told = emitter.results_of(8).await.with_context(|| worker.output())?;
    assert!(told.values().flatten().all(|event| event["status"] == "succeeded"), "{told:#?}");
    worker.ready().await?;
    assert_eq!(stack.exchange.items(&mailbox).len(), 8);
    assert_eq!(emitter.depth("restore.dead-letters").await?, 0);
    assert!(worker.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_another_attempt_outlives_a_drain() -> Result<()> {
    let stack = stack("a_job_that_waits_outlives_a_drain").await?;
    let more =
        [("RETRY__BASE", "10m"), ("RETRY__MAX", "10m"), ("RETRY__HOLD", "1h"), ("BROKER__WAIT_TIERS", "1h")];
    let mut worker = stack.worker(binary(), &more).await?;
    let emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.s3.faults().add(busy(&stack, "busy.fts").always());
    emitter.publish(&create_job("j", &mailbox, "busy.fts")).await?;
    worker.metric_reaches("restore_jobs_waiting", &["why=\"retry\""], 1.0).await?;
    assert_eq!(worker.terminate().await?.code(), Some(0));
    let waits = emitter.depth("restore.jobs.wait.1h").await?;
    assert_eq!((waits, emitter.jobs().await?), (1, 0), "{}", worker.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_cannot_end_in_the_grace_period_is_no_item_and_costs_no_attempt() -> Result<()> {
    let stack = stack("an_upload_that_cannot_end_in_the_grace").await?;
    let mut worker = stack.worker(binary(), &[("SHUTDOWN__GRACE", "2s")]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("large.fts", &ItemSpec::mail(1, 8_000_000));
    // Nobody reads the body, so the connection takes no more of it.
    let gate = Gate::new();
    stack.exchange.add_fault(Fault::new(Operation::Import, Effect::Wait(When::Open(gate.clone()))))?;
    emitter.publish(&create_job("j", &mailbox, "large.fts")).await?;
    gate.arrived(1).await;
    assert_eq!(worker.terminate().await?.code(), Some(0), "{}", worker.output());
    // At once, or from a wait tier.
    emitter.jobs_reach(1).await.with_context(|| worker.output())?;
    assert_eq!((stack.exchange.items(&mailbox).len(), emitter.depth("restore.results").await?), (0, 0));
    // Its claim is released: the next worker begins at once.
    let mut next = stack.worker(binary(), &[]).await?;
    let told = ends_well(&mut emitter, &next, "j").await?;
    assert_eq!(
        (&told["evidence"], &told["attempts"]),
        (&json!("answer"), &json!(1)),
        "{told:#}\n{}",
        worker.output()
    );
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    assert!(next.terminate().await?.success());
    Ok(())
}
