//! `submit`: jobs from a file or standard input, followed to their end, gone on with after a stop.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use restore_sandbox::{
    fts::ItemSpec,
    stack::{Stack, create_job},
    wait::until,
};
use serde_json::Value;

use crate::support::{binary, broker, broker_behind_a_proxy, command, command_with, jsonl, stack};

const LIMIT: Duration = Duration::from_secs(60);

/// Jobs for items of which every tenth is not in storage.
fn jobs(stack: &Stack, count: u32, mailbox: &str) -> Vec<Value> {
    (1..=count)
        .map(|n| {
            let key = format!("{n}.fts");
            if n % 10 != 0 {
                stack.store(&key, &ItemSpec::mail(u64::from(n), 3_000));
            }
            create_job(&format!("j-{n}"), mailbox, &key)
        })
        .collect()
}

fn results(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn reply_queues(vhost: &str) -> Result<Vec<String>> {
    let management = broker().await?.management().context("the management plugin")?;
    let queues = management.get(&format!("/api/queues/{vhost}")).await?;
    let names = queues.as_array().context("queues")?.iter().filter_map(|q| q["name"].as_str());
    Ok(names.filter(|name| name.contains(".replies.")).map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_followed_to_their_end() -> Result<()> {
    let stack = stack("jobs_are_followed_to_their_end").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mailbox = stack.mailbox("anna");
    let (input, out) = (stack.dir().join("jobs.jsonl"), stack.dir().join("out.jsonl"));
    std::fs::write(&input, jsonl(jobs(&stack, 100, &mailbox)))?;
    let (input, out_text) = (input.display().to_string(), out.display().to_string());
    let ended = command(&stack, &["submit", &input, "--wait", "--results", &out_text], b"").await?;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended
            .stdout
            .starts_with("100 jobs published; 90 succeeded (263.7 KiB), 10 failed (blob_not_found 10)"),
        "{ended:?}"
    );
    let told = results(&out);
    let ids: BTreeSet<_> = told.iter().filter_map(|event| event["jobId"].as_str()).collect();
    assert_eq!((told.len(), ids.len()), (100, 100));
    assert_eq!(stack.exchange.items(&mailbox).len(), 90);
    assert_eq!(reply_queues("jobs_are_followed_to_their_end").await?, Vec::<String>::new());
    // Everything has its result: nothing is published again, and the failures still count.
    let again = command(&stack, &["submit", &input, "--wait", "--results", &out_text], b"").await?;
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.stdout.starts_with("0 jobs published, 100 skipped"), "{again:?}");
    assert_eq!(results(&out).len(), 100);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_the_emitter_is_told() -> Result<()> {
    let stack = stack("who_is_the_emitter_is_told").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 3_000));
    let input = jsonl([create_job("j-1", &mailbox, "1.fts")]);
    let out = stack.dir().join("out.jsonl").display().to_string();
    let ended = command(&stack, &["submit", "-", "--wait", "--results", &out], input.as_bytes()).await?;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told = results(Path::new(&out));
    assert_eq!(told.len(), 1);
    assert!(told[0]["submittedBy"].is_string(), "{told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_bad_line_publishes_nothing() -> Result<()> {
    let stack = stack("a_file_with_a_bad_line_publishes_nothing").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mailbox = stack.mailbox("anna");
    let good = create_job("j-1", &mailbox, "1.fts");
    let mut bad = create_job("j-2", &mailbox, "2.fts");
    bad["folderID"] = Value::from("a typing error");
    let text = format!("{good}\n\n{bad}\nnot json\n");
    let input = stack.dir().join("jobs.jsonl");
    std::fs::write(&input, &text)?;
    let refused = command(&stack, &["submit", &input.display().to_string()], b"").await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for words in ["line 3: ", "folderID", "line 4: ", "nothing was published: 2 of 3 lines are no jobs"] {
        assert!(refused.stderr.contains(words), "{words} is missing: {refused:?}");
    }
    // Of standard input, which cannot be read twice, the good lines go on.
    stack.store("1.fts", &ItemSpec::mail(1, 3_000));
    let ended = command(&stack, &["submit", "-", "--wait"], text.as_bytes()).await?;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.starts_with("1 jobs published, 2 lines refused; 1 succeeded"), "{ended:?}");
    assert!(ended.stderr.contains("line 3: "), "{ended:?}");
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    Ok(())
}

/// Stops a run with a signal when it has a few results, and goes on until everything has its result.
async fn stop_and_go_on(name: &str, with: &str, count: u32) -> Result<()> {
    let stack = stack(name).await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mailbox = stack.mailbox("anna");
    let (input, out) = (stack.dir().join("jobs.jsonl"), stack.dir().join("out.jsonl"));
    std::fs::write(&input, jsonl(jobs(&stack, count, &mailbox)))?;
    let (input, out_text) = (input.display().to_string(), out.display().to_string());
    let arguments = ["submit", &input, "--wait", "--results", &out_text];
    let mut first = stack.spawn_with(binary(), &arguments, &[])?;
    until("a few results", LIMIT, async || Ok((results(&out).len() >= 5).then_some(()))).await?;
    first.signal(with).await?;
    let ended = first.wait().await?;
    assert!(!ended.success(), "{}", first.output());
    let had = results(&out).len();
    assert!(had < usize::try_from(count)?, "the run was over before it was stopped");
    let second = command(&stack, &arguments, b"").await?;
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stdout.contains("skipped"), "{second:?}");
    let told = results(&out);
    let ids: BTreeSet<_> = told.iter().filter_map(|event| event["jobId"].as_str()).collect();
    let all = usize::try_from(count)?;
    assert_eq!((told.len(), ids.len()), (all, all), "{second:?}");
    let imported = stack.exchange.items(&mailbox).len();
    assert_eq!(imported, all - all / 10, "each item once");
    assert_eq!(reply_queues(name).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_is_gone_on_with() -> Result<()> {
    stop_and_go_on("a_killed_run_is_gone_on_with", "KILL", 400).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_is_gone_on_with() -> Result<()> {
    stop_and_go_on("an_interrupted_run_is_gone_on_with", "INT", 400).await
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_has_its_exit_code() -> Result<()> {
    let stack = stack("trouble_has_its_exit_code").await?;
    let input = jsonl([create_job("j-1", "MBX:anna@x", "1.fts")]);
    let nobody = command(&stack, &["submit", "-"], input.as_bytes()).await?;
    assert_eq!(nobody.code, Some(77), "no worker has declared anything: {nobody:?}");
    assert!(nobody.stderr.contains("exchange restore"), "{nobody:?}");
    let usage = command(&stack, &["submit", "-", "--results", "x"], b"").await?;
    assert_eq!(usage.code, Some(2), "--results without --wait: {usage:?}");
    let mut variables = stack.variables();
    variables.insert("RESTORE_WORKER__BROKER__URI".into(), "amqp://127.0.0.1:1/%2f".into());
    variables.insert("RESTORE_WORKER__STARTUP__WAIT".into(), "1s".into());
    let away = command_with(&variables, &["submit", "-"], input.as_bytes()).await?;
    assert_eq!(away.code, Some(69), "{away:?}");
    variables.insert("RESTORE_WORKER__BROKER__URI".into(), "nonsense".into());
    let wrong = command_with(&variables, &["submit", "-"], input.as_bytes()).await?;
    assert_eq!(wrong.code, Some(78), "{wrong:?}");
    Ok(())
}

/// The connection is cut again and again while results come in: it is made anew, and every job has its result once.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_made_anew() -> Result<()> {
    let stack = stack("a_lost_connection_is_made_anew").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mailbox = stack.mailbox("anna");
    let (input, out) = (stack.dir().join("jobs.jsonl"), stack.dir().join("out.jsonl"));
    std::fs::write(&input, jsonl(jobs(&stack, 300, &mailbox)))?;
    let (proxy, uri) = broker_behind_a_proxy(&stack).await?;
    let (input, out_text) = (input.display().to_string(), out.display().to_string());
    let arguments = ["submit", &input, "--wait", "--results", &out_text];
    let mut run = stack.spawn_with(binary(), &arguments, &[("BROKER__URI", &uri)])?;
    let (mut had, mut connections) = (0, 0);
    while had < 300 {
        let more = async || {
            let (now, anew) = (results(&out).len(), proxy.accepted() > connections);
            Ok((now == 300 || (now > had && anew)).then_some(now))
        };
        had = until("more results over another connection", LIMIT, more)
            .await
            .with_context(|| format!("{had} results\n{}", run.output()))?;
        connections = proxy.accepted();
        proxy.cut();
    }
    let ended = run.wait().await?;
    assert_eq!(ended.code(), Some(1), "{}", run.output());
    assert!(run.output().contains("300 jobs published; 270 succeeded"), "{}", run.output());
    let told = results(&out);
    let ids: BTreeSet<_> = told.iter().filter_map(|event| event["jobId"].as_str()).collect();
    assert_eq!((told.len(), ids.len()), (300, 300), "{}", run.output());
    assert_eq!(stack.exchange.items(&mailbox).len(), 270);
    assert!(proxy.accepted() >= 8, "{} connections", proxy.accepted());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_fleets_jobs_go_to_their_shards() -> Result<()> {
    let stack = stack("submit_to_shards").await?;
    let sharded = [("FLEET__MODE", "sharded"), ("FLEET__SHARDS", "4")];
    let mut worker = stack.worker(binary(), &sharded).await?;
    let mailbox = stack.mailbox("anna");
    let input = stack.dir().join("jobs.jsonl");
    std::fs::write(&input, jsonl(jobs(&stack, 9, &mailbox)))?;
    // The second thinks of a layout that is not there: its jobs take the way that everybody's take.
    for (shards, through_the_intake) in [("4", "0"), ("5", "9")] {
        let mut variables = stack.variables();
        variables.insert("RESTORE_WORKER__FLEET__MODE".into(), "sharded".into());
        variables.insert("RESTORE_WORKER__FLEET__SHARDS".into(), shards.into());
        let arguments = ["submit", &input.display().to_string(), "--wait"];
        let ended = command_with(&variables, &arguments, b"").await?;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let intake = worker.metric("restore_intake_total", &[]).await?.abs();
        assert_eq!(intake.to_string(), through_the_intake, "{ended:?}");
    }
    assert_eq!(stack.exchange.items(&mailbox).len(), 9);
    Ok(())
}
