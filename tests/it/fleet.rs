//! One owner per mailbox: shards, the intake, changes of the layout. What needs consumer priorities (RabbitMQ 4) finds out first
//! whether this broker has them: the mode `auto` is asserted either way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Connection, ConnectionProperties, Consumer,
    options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use restore_sandbox::{
    emitter::Emitter,
    exchange::{Effect, Fault, Gate, Operation, When},
    fts::ItemSpec,
    rabbitmq::{Options, RabbitMq, ensure_installed},
    s3,
    stack::{BLOBS, Stack, create_job, exchange_options},
    wait::until,
    worker::Worker,
};
use restore_worker::domain::{MailboxId, ShardCount};
use serde_json::{Value, json};

use crate::support::{binary, broker, quick_and, stack, told};

/// Few shards, so that each is used.
const SHARDED: [(&str, &str); 2] = [("FLEET__MODE", "sharded"), ("FLEET__SHARDS", "8")];

async fn sharded_worker(stack: &Stack) -> Result<Worker> {
    stack.worker(binary(), &quick_and(&SHARDED)).await
}

/// Whether the broker gives the highest priority what it asks for: RabbitMQ 4 and later.
async fn has_priorities() -> Result<bool> {
    Ok(version().await? >= (4, 0))
}

/// The broker's version: major, minor.
async fn version() -> Result<(u32, u32)> {
    let management = broker().await?.management().context("a broker with its management plugin")?;
    let overview = management.get("/api/overview").await?;
    let version = overview["rabbitmq_version"].as_str().context("a version")?.to_owned();
    let mut numbers = version.split('.').map(str::parse);
    Ok((numbers.next().context("a number")??, numbers.next().context("a number")??))
}

/// One job for each of so many mailboxes, item included.
fn jobs(stack: &Stack, mailboxes: usize, each: usize) -> Vec<Value> {
    let mut jobs = Vec::new();
    for n in 0..mailboxes * each {
        let key = format!("{n}.fts");
        stack.store(&key, &ItemSpec::mail(n as u64, 6_000));
        jobs.push(create_job(&format!("j-{n}"), &stack.mailbox(&format!("m-{}", n % mailboxes)), &key));
    }
    jobs
}

/// Every job is told as succeeded, naming one item each, and no mailbox holds more or less.
async fn all_once(stack: &Stack, emitter: &mut Emitter, mailboxes: usize, jobs: usize) -> Result<()> {
    let results = emitter.results_of(jobs).await?;
    let mut named = BTreeSet::new();
    for (job, events) in &results {
        for event in events {
            assert_eq!(
                (&event["status"], &event["itemId"]),
                (&json!("succeeded"), &events[0]["itemId"]),
                "{job}"
            );
        }
        named.insert(events[0]["itemId"].as_str().context("an item")?.to_owned());
    }
    let stored: BTreeSet<_> = (0..mailboxes)
        .flat_map(|n| stack.exchange.items(&stack.mailbox(&format!("m-{n}"))))
        .map(|item| item.item_id)
        .collect();
    assert_eq!(named, stored);
    assert_eq!(emitter.depth("restore.dead-letters").await?, 0);
    Ok(())
}

/// Publishes as an emitter that knows the function, or thinks so.
async fn publish_to_shard(
    emitter: &Emitter,
    shards: u16,
    number: u16,
    body: &[u8],
    ttl: Option<&str>,
) -> Result<()> {
    let mut properties =
        BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(2);
    if let Some(ttl) = ttl {
        properties = properties.with_expiration(ttl.into());
    }
    let channel = emitter.channel().await?;
    channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await?;
    let (exchange, key) = (format!("restore.shards.{shards}"), number.to_string());
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm =
        channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?.await?;
    assert!(matches!(confirm, lapin::Confirmation::Ack(None)), "{confirm:?}");
    Ok(())
}

fn shard_of(mailbox: &str, shards: u16) -> Result<u16> {
    let count = ShardCount::new(shards).map_err(anyhow::Error::msg)?;
    Ok(count.shard_of(&MailboxId::parse(mailbox)?).number())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mode_follows_what_the_broker_can() -> Result<()> {
    let stack = stack("the_mode").await?;
    let mut worker = stack.worker(binary(), &quick_and(&[("FLEET__SHARDS", "4")])).await?;
    let mut emitter = stack.emitter().await?;
    let mode = if has_priorities().await? { "mode=\"sharded\"" } else { "mode=\"shared\"" };
    worker.metric_reaches("restore_fleet_mode", &[mode], 1.0).await?;
    let warned = worker.output().matches("cannot give a mailbox one owner").count();
    assert_eq!(warned, usize::from(!has_priorities().await?), "{}", worker.output());
    let published = emitter.publish_all(jobs(&stack, 3, 2)).await?;
    all_once(&stack, &mut emitter, 3, published).await?;
    let management = broker().await?.management().context("a broker with its management plugin")?;
    let uri = stack.uri.parse::<lapin::uri::AMQPUri>().map_err(anyhow::Error::msg)?;
    let queues = management.get(&format!("/api/queues/{}", uri.vhost)).await?.to_string();
    assert!(!queues.contains("restore.shards.probe"), "the probe's queue is deleted: {queues}");
    Ok(())
}

/// A consumer on a channel of a connection of its own, which is the handle to end it by.
async fn consumer(stack: &Stack, queue: &str, priority: i64) -> Result<(Connection, Consumer)> {
    let connection = Connection::connect(&stack.uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(16, BasicQosOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongLongInt(priority));
    let options = BasicConsumeOptions::default();
    Ok((connection, channel.basic_consume(queue.into(), "".into(), options, arguments).await?))
}

/// RabbitMQ 4 keeps a consumer that ends while it holds deliveries and a higher one waits, as one that waits in its turn: the
/// worker's next life has to come before it, or the broker delivers to the dead (`docs/fleet.md`).
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_comes_before_its_former_life() -> Result<()> {
    let stack = stack("its_former_life").await?;
    let one = quick_and(&[("FLEET__MODE", "sharded"), ("FLEET__SHARDS", "1")]);
    stack.named_worker(binary(), "phoenix", &one).await?.terminate().await?;
    let shard = ShardCount::new(1).map_err(anyhow::Error::msg)?.shards().next().context("one shard")?;
    let queue = "restore.shards.1.0";
    let mut emitter = stack.emitter().await?;
    let published = jobs(&stack, 2, 3);
    for job in &published {
        publish_to_shard(&emitter, 1, 0, job.to_string().as_bytes(), None).await?;
    }
    // Its former life holds a job, another takes over, the former life ends, then the other.
    let (former, mut held) = consumer(&stack, queue, shard.priority("phoenix", 1)).await?;
    held.next().await.context("a delivery")??;
    let (other, _waiting) = consumer(&stack, queue, i64::MAX).await?;
    former.close(200, "ended".into()).await?;
    let worker = stack.named_worker(binary(), "phoenix", &one).await?;
    other.close(200, "ended".into()).await?;
    all_once(&stack, &mut emitter, 2, published.len()).await.with_context(|| worker.output())
}

/// What RabbitMQ delivers to a dead consumer it takes back after `consumer_timeout`; where nothing else happens in the queue it may
/// forget to, by a race of milliseconds, and is reminded by a worker that stirs its shards. 4.0 to 4.2 never take it back: there
/// only the stirring is tried.
#[tokio::test(flavor = "multi_thread")]
async fn shards_that_lie_with_the_dead_are_taken_back() -> Result<()> {
    ensure_installed().await?;
    let options = Options {
        extra_config: vec!["consumer_timeout = 10000".into()],
        advanced_config: vec!["{rabbit, [{channel_tick_interval, 1000}]}".into()],
        ..Options::with_management()
    };
    let node = RabbitMq::start(options).await?;
    let stack = Stack::start(node.create_vhost("with-the-dead").await?, exchange_options()).await?;
    let sharded = quick_and(&[("FLEET__MODE", "sharded"), ("FLEET__SHARDS", "16")]);
    stack.named_worker(binary(), "first", &sharded).await?.terminate().await?;
    if !((4, 0)..(4, 3)).contains(&version().await?) {
        lie_with_the_dead(&stack, 16, &sharded).await?;
    }
    let worker = stack.named_worker(binary(), "third", &sharded).await?;
    // All is told, so nobody publishes to it or settles any more.
    let before = commit_index(&node, "with-the-dead", "restore.shards.16.0").await?;
    until("a shard is stirred", Duration::from_secs(60), async || {
        let now = commit_index(&node, "with-the-dead", "restore.shards.16.0").await?;
        Ok((now > before).then_some(()))
    })
    .await
    .with_context(|| worker.output())
}

/// A job of each shard is delivered to a consumer that is dead, and another one that comes later; all are told at last.
async fn lie_with_the_dead(stack: &Stack, shards: u16, sharded: &[(&str, &str)]) -> Result<()> {
    let mut emitter = stack.emitter().await?;
    // A mailbox of each shard: a job that is passed on would happen in the queue that it is passed on to.
    let mut of_shards = BTreeMap::new();
    for n in 0.. {
        let number = shard_of(&stack.mailbox(&format!("m-{n}")), shards)?;
        of_shards.entry(number).or_insert(n);
        if of_shards.len() == usize::from(shards) {
            break;
        }
    }
    let mailboxes = 1 + of_shards.values().max().context("a shard")?;
    let all = jobs(stack, mailboxes, 2);
    let publish = async |round: usize| -> Result<()> {
        for (shard, mailbox) in &of_shards {
            let body = all[round * mailboxes + mailbox].to_string();
            publish_to_shard(&emitter, shards, *shard, body.as_bytes(), None).await?;
        }
        Ok(())
    };
    publish(0).await?;
    let mut others = Vec::new();
    for shard in 0..shards {
        let queue = format!("restore.shards.{shards}.{shard}");
        let (former, mut held) = consumer(stack, &queue, i64::MAX - 1).await?;
        held.next().await.context("a delivery")??;
        let (other, waiting) = consumer(stack, &queue, i64::MAX).await?;
        former.close(200, "ended".into()).await?;
        others.push((other, waiting));
    }
    let mut worker = stack.named_worker(binary(), "second", sharded).await?;
    for (other, _waiting) in others {
        other.close(200, "ended".into()).await?;
    }
    publish(1).await?;
    let published = 2 * of_shards.len();
    all_once(stack, &mut emitter, mailboxes, published).await.with_context(|| worker.output())?;
    worker.terminate().await?;
    Ok(())
}

/// Grows whenever something happens in a quorum queue.
async fn commit_index(node: &RabbitMq, vhost: &str, queue: &str) -> Result<u64> {
    let asked = format!(
        r#"[S] = rabbit_quorum_queue:status(<<"{vhost}">>, <<"{queue}">>), proplists:get_value(<<"Commit Index">>, S)."#
    );
    let printed = node.rabbitmqctl(&["eval", &asked]).await?;
    printed.trim().parse().with_context(|| printed.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_through_their_shards() -> Result<()> {
    let stack = stack("through_their_shards").await?;
    let mut worker = sharded_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let published = emitter.publish_all(jobs(&stack, 10, 4)).await?;
    all_once(&stack, &mut emitter, 10, published).await?;
    emitter.publish_raw(b"no job", BasicProperties::default()).await?;
    worker.metric_reaches("restore_intake_total", &["outcome=\"sharded\""], 40.0).await?;
    worker
        .metric_reaches("restore_publish_total", &["kind=\"shard\"", "outcome=\"confirmed\""], 40.0)
        .await?;
    worker.metric_reaches("restore_shards_active", &[], 2.0).await?;
    worker.metric_reaches("restore_intake_total", &["outcome=\"rejected\""], 1.0).await?;
    assert_eq!(emitter.dead_letters(1).await?.len(), 1);
    assert!(worker.terminate().await?.success());
    for queue in (0..8).map(|n| format!("restore.shards.8.{n}")).chain(["restore.jobs".into()]) {
        assert_eq!(emitter.depth(&queue).await?, 0, "{queue}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emitter_may_publish_to_a_shard_and_err() -> Result<()> {
    let stack = stack("publish_to_a_shard").await?;
    let mut worker = sharded_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let jobs = jobs(&stack, 4, 2);
    for (n, job) in jobs.iter().enumerate() {
        let right = shard_of(job["mailboxId"].as_str().context("a mailbox")?, 8)?;
        let number = if n % 2 == 0 { right } else { (right + 3) % 8 };
        publish_to_shard(&emitter, 8, number, job.to_string().as_bytes(), None).await?;
    }
    all_once(&stack, &mut emitter, 4, jobs.len()).await.with_context(|| worker.output())?;
    publish_to_shard(&emitter, 8, 0, b"poison", None).await?;
    worker.metric_reaches("restore_intake_total", &["outcome=\"sharded\""], 4.0).await?;
    let letters = emitter.dead_letters(1).await?;
    assert_eq!(letters[0].body, b"poison");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_has_spent_and_waits_for_goes_with_it() -> Result<()> {
    let stack = stack("spent_and_waits").await?;
    // Beyond what memory may hold: each retry goes through a wait tier, the common queue and the intake.
    let more = [("RETRY__HOLD", "0s"), ("RETRY__ATTEMPTS", "3")];
    let all: Vec<_> = SHARDED.into_iter().chain(more).collect();
    let mut worker = stack.worker(binary(), &quick_and(&all)).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let busy = s3::Effect::Answer { status: 503, code: "SlowDown" };
    stack.store("busy.fts", &ItemSpec::mail(1, 6_000));
    stack.store("fine.fts", &ItemSpec::mail(2, 6_000));
    stack.s3.faults().add(s3::Fault::new(busy).key(&format!("{BLOBS}/busy.fts")).always());
    emitter.publish(&create_job("busy", &mailbox, "busy.fts")).await?;
    let event = told(&mut emitter, &worker).await?;
    assert_eq!(
        (&event["error"]["code"], &event["attempts"]),
        (&json!("attempts_exhausted"), &json!(3)),
        "{event:#}\n{}",
        worker.output()
    );
    worker.metric_reaches("restore_intake_total", &["outcome=\"sharded\""], 3.0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_in_a_shard_is_told() -> Result<()> {
    let stack = stack("expires_in_a_shard").await?;
    sharded_worker(&stack).await?.terminate().await?;
    let mut emitter = stack.emitter().await?;
    let job = jobs(&stack, 1, 1).remove(0);
    publish_to_shard(&emitter, 8, 0, job.to_string().as_bytes(), Some("1")).await?;
    emitter.depth_reaches("restore.given-up", 1).await?;
    let worker = sharded_worker(&stack).await?;
    let event = told(&mut emitter, &worker).await?;
    assert_eq!(event["error"]["code"], "job_expired", "{event:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_without_single_active_consumer_is_refused() -> Result<()> {
    let stack = stack("without_single_active_consumer").await?;
    let emitter = stack.emitter().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    emitter.channel().await?.queue_declare("restore.shards.8.5".into(), options, arguments).await?;
    let mut worker = stack.spawn(binary(), &quick_and(&SHARDED))?;
    assert_eq!(worker.wait().await?.code(), Some(78), "{}", worker.output());
    assert!(worker.output().contains("restore.shards.8.5"), "{}", worker.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn layouts_and_modes_change_and_no_queue_is_left_alone() -> Result<()> {
    let stack = stack("layouts_change").await?;
    let mut emitter = stack.emitter().await?;
    // Each fleet in turn finds what the one before left in its queues, and what late emitters publish there.
    let eight: &[_] = &[("FLEET__MODE", "sharded"), ("FLEET__SHARDS", "8")];
    let four: &[_] = &[("FLEET__MODE", "sharded"), ("FLEET__SHARDS", "4"), ("FLEET__PREVIOUS_SHARDS", "8")];
    let back: &[_] = &[("FLEET__MODE", "sharded"), ("FLEET__SHARDS", "8"), ("FLEET__PREVIOUS_SHARDS", "4")];
    let shared: &[_] = &[("FLEET__MODE", "shared"), ("FLEET__SHARDS", "8"), ("FLEET__PREVIOUS_SHARDS", "4")];
    let jobs = jobs(&stack, 8, 8);
    let mut layouts = vec![8];
    let mut batches = jobs.chunks(16);
    for fleet in [eight, four, back, shared] {
        let mut worker = stack.worker(binary(), &quick_and(fleet)).await?;
        worker.terminate().await?;
        let shards = fleet[1].1.parse()?;
        layouts.push(shards);
        let batch = batches.next().context("a batch")?;
        for (n, job) in batch.iter().enumerate() {
            let body = job.to_string();
            let layout = layouts[layouts.len() - 1 - n % 2];
            let number = shard_of(job["mailboxId"].as_str().context("a mailbox")?, layout)?;
            match n % 4 {
                0 | 1 => publish_to_shard(&emitter, layout, number, body.as_bytes(), None).await?,
                _ => emitter.publish(job).await?,
            }
        }
        // Two workers of this fleet, and one of the fleet before is still there: a rolling change.
        let mut second = stack.worker(binary(), &quick_and(fleet)).await?;
        let mut third = stack.worker(binary(), &quick_and(fleet)).await?;
        emitter.depth_reaches("restore.results", 16).await.with_context(|| second.output())?;
        let told = emitter.take_all("restore.results").await?;
        assert!(told.iter().all(|event| event.json().is_ok_and(|e| e["status"] == "succeeded")), "{told:?}");
        assert!(second.terminate().await?.success() && third.terminate().await?.success());
    }
    let items: usize = (0..8).map(|n| stack.exchange.items(&stack.mailbox(&format!("m-{n}"))).len()).sum();
    assert_eq!(items, 64);
    assert_eq!(emitter.depth("restore.dead-letters").await?, 0);
    emitter.publish(&jobs[0]).await?;
    let worker = stack.worker(binary(), &quick_and(shared)).await?;
    assert_eq!(told(&mut emitter, &worker).await?["evidence"], "ledger");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_grows_and_shrinks_under_load() -> Result<()> {
    let stack = stack("grows_and_shrinks").await?;
    let priorities = has_priorities().await?;
    let (mailboxes, each) = (16, 25);
    let all = jobs(&stack, mailboxes, each);
    let count = all.len();
    let mut emitter = stack.emitter().await?;
    let more = quick_and(&SHARDED);
    let named = async |n: usize| stack.named_worker(binary(), &format!("worker-{n}"), &more).await;
    let mut workers = vec![named(0).await?];
    let gate = Gate::new();
    let hold = Effect::WaitAfter(When::Open(gate.clone()));
    stack.exchange.add_fault(Fault::new(Operation::Import, hold).always())?;
    emitter.publish_all(all).await?;
    gate.arrived(8).await;
    for n in 1..8 {
        workers.push(named(n).await?);
    }
    gate.open();
    // One dies; a standby that gets nothing is healthy, once it has seen that Exchange, whose answers were held, is back.
    emitter.depth_reaches("restore.results", 40).await?;
    let mut killed = workers.remove(1);
    killed.kill().await?;
    let mut handovers = 0.0;
    for worker in &mut workers {
        worker.ready().await?;
        handovers += worker.metric("restore_shard_handovers_total", &[]).await?;
    }
    assert!(handovers >= 1.0 || !priorities, "{handovers} hand-overs");
    // The others leave, one while the next still works, until one is left.
    emitter.depth_reaches("restore.results", 100).await?;
    for mut left in workers.drain(1..) {
        assert!(left.terminate().await?.success(), "{}", left.output());
    }
    all_once(&stack, &mut emitter, mailboxes, count).await?;
    let active = workers[0].metric("restore_shards_active", &[]).await?;
    assert!(active >= 1.0, "{active} shards\n{}", workers[0].output());
    Ok(())
}
