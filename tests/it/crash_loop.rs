//! A job that kills its worker is buried, its neighbours are not; a job that has only come back often is healthy; and what the
//! broker gives up is told.

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use lapin::{
    message::Delivery,
    options::{BasicNackOptions, BasicRejectOptions},
};
use restore_sandbox::{
    emitter::Emitter,
    exchange::{Effect, Fault, Gate, Operation, When},
    fts::ItemSpec,
    rabbitmq::{Options, RabbitMq, ensure_installed},
    stack::{Stack, create_job, exchange_options},
};
use serde_json::json;

use crate::support::{binary, headers, quick_and, quick_worker, stack, told};

const RESULTS: &str = "restore.results";

/// The queues are there, and no worker is.
async fn declared(stack: &Stack) -> Result<()> {
    quick_worker(stack).await?.terminate().await.map(drop)
}

/// Takes the one job so many times, and lets it go again each time.
async fn take(
    emitter: &Emitter,
    times: usize,
    let_go: impl AsyncFn(Delivery) -> lapin::Result<bool>,
) -> Result<()> {
    let mut consumer = emitter.consume("restore.jobs").await?;
    for _ in 0..times {
        let delivery = consumer.next().await.context("a delivery")??;
        let_go(delivery).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_returned_fifty_times_is_healthy() -> Result<()> {
    let stack = stack("a_job_returned_fifty_times").await?;
    declared(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 8_000));
    emitter.publish(&create_job("j-1", &mailbox, "1.fts")).await?;
    {
        let returning = stack.emitter().await?;
        let back = BasicNackOptions { requeue: true, ..Default::default() };
        take(&returning, 50, async |delivery| delivery.acker.nack(back).await).await?;
    }
    let worker = quick_worker(&stack).await?;
    let event = told(&mut emitter, &worker).await?;
    assert_eq!((&event["status"], &event["attempts"]), (&json!("succeeded"), &json!(1)), "{event:#}");
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    Ok(())
}

/// Starts workers that die whenever they come as far as `gate`, until the job is told.
async fn kill_until_told(
    stack: &Stack,
    emitter: &mut Emitter,
    gate: &Gate,
    most: u64,
) -> Result<(u64, serde_json::Value)> {
    let more = quick_and(&[("RETRY__CRASH_LIMIT", "2")]);
    for kills in 0..=most {
        let mut worker = stack.worker(binary(), &more).await?;
        tokio::select! {
            () = gate.arrived(kills + 1) => worker.kill().await?,
            // Only looked at: an event that is taken by whoever loses here would be gone.
            there = emitter.depth_reaches(RESULTS, 1) => {
                there.with_context(|| worker.output())?;
                let event = told(emitter, &worker).await?;
                // Not killed: what it has told it may settle.
                worker.terminate().await?;
                return Ok((kills, event));
            }
        }
    }
    anyhow::bail!("the job killed its worker {} times and was not buried", most + 1)
}

async fn kills_its_worker(name: &str, operation: Operation, most: u64) -> Result<()> {
    let stack = stack(name).await?;
    let mut emitter = stack.emitter().await?;
    let (good, bad) = (stack.mailbox("good"), stack.mailbox("bad"));
    let gate = Gate::new();
    let effect = Effect::Wait(When::Open(gate.clone()));
    stack.exchange.add_fault(Fault::new(operation, effect).mailbox(&*bad).always())?;
    stack.store("1.fts", &ItemSpec::mail(1, 8_000));
    declared(&stack).await?;
    emitter.publish(&create_job("bad", &bad, "1.fts")).await?;
    let (kills, event) = kill_until_told(&stack, &mut emitter, &gate, most).await?;
    assert_eq!(
        (&event["jobId"], &event["status"], &event["error"]["code"]),
        (&json!("bad"), &json!("failed"), &json!("crash_loop")),
        "{event:#}"
    );
    assert!(kills >= 2, "{kills}");
    assert!(stack.exchange.items(&bad).is_empty());
    assert_eq!(emitter.dead_letters(1).await?[0].headers["restore-reason"], "crash_loop");
    // A neighbour that died with it each time would have been in the same hands.
    let worker = quick_worker(&stack).await?;
    emitter.publish(&create_job("good", &good, "1.fts")).await?;
    assert_eq!(told(&mut emitter, &worker).await?["status"], "succeeded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_worker_during_the_import_is_buried() -> Result<()> {
    kills_its_worker("kills_during_the_import", Operation::Import, 4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_worker_before_the_import_is_buried() -> Result<()> {
    kills_its_worker("kills_before_the_import", Operation::OpenSession, 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_of_a_job_that_kills_their_worker_succeed() -> Result<()> {
    let stack = stack("neighbours_of_a_killer").await?;
    let emitter = stack.emitter().await?;
    let (good, bad) = (stack.mailbox("good"), stack.mailbox("bad"));
    let gate = Gate::new();
    let effect = Effect::Wait(When::Open(gate.clone()));
    stack.exchange.add_fault(Fault::new(Operation::OpenSession, effect).mailbox(&*bad).always())?;
    stack.store("1.fts", &ItemSpec::mail(1, 8_000));
    declared(&stack).await?;
    emitter.publish(&create_job("bad", &bad, "1.fts")).await?;
    emitter.publish_all((0..5).map(|n| create_job(&format!("good-{n}"), &good, "1.fts"))).await?;
    let mut codes = std::collections::BTreeMap::new();
    let more = quick_and(&[("RETRY__CRASH_LIMIT", "2")]);
    let mut kills = 0;
    let mut worker = stack.worker(binary(), &more).await?;
    while codes.len() < 6 {
        tokio::select! {
            () = gate.arrived(kills + 1) => {
                kills += 1;
                worker.kill().await?;
                worker = stack.worker(binary(), &more).await?;
            }
            there = emitter.depth_reaches(RESULTS, 1) => {
                there.with_context(|| worker.output())?;
                for event in emitter.take_all(RESULTS).await? {
                    let event = event.json()?;
                    let code = event["error"]["code"].as_str().unwrap_or_default().to_owned();
                    codes.insert(event["jobId"].as_str().unwrap_or_default().to_owned(), code);
                }
            }
        }
    }
    for (job, code) in &codes {
        assert_eq!(code, if job == "bad" { "crash_loop" } else { "" }, "{job} of {codes:?}");
    }
    assert_eq!(stack.exchange.items(&good).len(), 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_gives_up_is_told() -> Result<()> {
    ensure_installed().await?;
    let node = RabbitMq::start(Options::with_management()).await?;
    let stack = Stack::start(node.create_vhost("gives-up").await?, exchange_options()).await?;
    declared(&stack).await?;
    let limit = [
        "set_policy",
        "-p",
        "gives-up",
        "limit",
        "^restore\\.jobs$",
        r#"{"delivery-limit":2}"#,
        "--apply-to",
        "queues",
    ];
    node.rabbitmqctl(&limit).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 8_000));
    let job = create_job("j-1", &mailbox, "1.fts");
    emitter.publish(&job).await?;
    {
        let returning = stack.emitter().await?;
        let back = BasicRejectOptions { requeue: true };
        take(&returning, 3, async |delivery| delivery.acker.reject(back).await).await?;
    }
    emitter.depth_reaches("restore.given-up", 1).await?;
    let worker = quick_worker(&stack).await?;
    let event = told(&mut emitter, &worker).await?;
    assert_eq!(
        (&event["status"], &event["error"]["code"]),
        (&json!("failed"), &json!("broker_gave_up")),
        "{event:#}"
    );
    let letter = emitter.dead_letters(1).await?.remove(0);
    assert_eq!(
        (letter.body, letter.headers["restore-reason"].as_str()),
        (job.to_string().into_bytes(), "broker_gave_up")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_job_that_the_broker_gives_up_has_succeeded() -> Result<()> {
    let stack = stack("an_imported_job_given_up").await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 8_000));
    let job = create_job("j-1", &mailbox, "1.fts");
    {
        let mut worker = quick_worker(&stack).await?;
        emitter.publish(&job).await?;
        assert_eq!(told(&mut emitter, &worker).await?["status"], "succeeded");
        worker.terminate().await?;
    }
    emitter.publish_raw(job.to_string().as_bytes(), headers(&[]).with_expiration("1".into())).await?;
    emitter.depth_reaches("restore.given-up", 1).await?;
    let worker = quick_worker(&stack).await?;
    let event = told(&mut emitter, &worker).await?;
    assert_eq!((&event["status"], &event["evidence"]), (&json!("succeeded"), &json!("ledger")), "{event:#}");
    assert_eq!(emitter.depth("restore.dead-letters").await?, 0);
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    Ok(())
}
