//! `dead-letters`: listed, chosen, sent back, removed; interrupted, and never in a loop.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use restore_sandbox::{
    emitter::Emitter,
    fts::ItemSpec,
    stack::{Stack, create_job},
    wait::until,
};
use serde_json::Value;

use crate::support::{Output, binary, command, headers, quick_and, stack, unknown};

const LIMIT: Duration = Duration::from_secs(60);
const QUEUE: &str = "restore.dead-letters";

async fn letters(stack: &Stack, arguments: &[&str]) -> Result<Output> {
    command(stack, &[&["dead-letters"], arguments].concat(), b"").await
}

async fn listed(stack: &Stack, arguments: &[&str]) -> Result<Value> {
    let listed = letters(stack, &[&["list", "--json"], arguments].concat()).await?;
    assert_eq!(listed.code, Some(0), "{listed:?}");
    serde_json::from_str(&listed.stdout).with_context(|| format!("{listed:?}"))
}

fn ids(listed: &Value) -> Vec<&str> {
    listed["letters"].as_array().into_iter().flatten().filter_map(|letter| letter["jobId"].as_str()).collect()
}

/// Jobs whose blobs are missing, until each lies in the dead letters.
async fn bury(stack: &Stack, emitter: &mut Emitter, mailbox: &str, names: &[&str]) -> Result<()> {
    let had = emitter.depth(QUEUE).await.unwrap_or(0);
    for name in names {
        emitter.publish(&create_job(name, mailbox, &format!("{name}.fts"))).await?;
        emitter.next_result().await?;
    }
    emitter.depth_reaches(QUEUE, had + u32::try_from(names.len())?).await?;
    assert!(stack.exchange.items(mailbox).is_empty());
    Ok(())
}

fn mend(stack: &Stack, name: &str) {
    stack.store(&format!("{name}.fts"), &ItemSpec::mail(1, 3_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_chosen_and_sent_back() -> Result<()> {
    let stack = stack("letters_are_listed_chosen_and_sent_back").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let (anna, bert) = (stack.mailbox("anna"), stack.mailbox("bert"));
    bury(&stack, &mut emitter, &anna, &["a-1"]).await?;
    bury(&stack, &mut emitter, &bert, &["b-1"]).await?;
    bury(&stack, &mut emitter, &anna, &["a-2"]).await?;
    emitter.publish_raw(b"{\"jobId\":\"bad\"}", lapin::BasicProperties::default()).await?;
    emitter.depth_reaches(QUEUE, 4).await?;

    let all = listed(&stack, &[]).await?;
    assert_eq!(ids(&all), ["a-1", "b-1", "a-2", "bad"]);
    assert_eq!((&all["seen"], &all["matched"]), (&Value::from(4), &Value::from(4)));
    assert_eq!(all["reasons"], serde_json::json!({"blob_not_found": 3, "job_malformed": 1}));
    assert_eq!(ids(&listed(&stack, &["--reason", "job_malformed"]).await?), ["bad"]);
    assert_eq!(ids(&listed(&stack, &["--mailbox", &anna, "--limit", "1"]).await?), ["a-1"]);
    assert_eq!(ids(&listed(&stack, &["--older-than", "1h"]).await?), Vec::<&str>::new());
    let text = letters(&stack, &["list"]).await?;
    assert!(
        text.stdout.ends_with("4 letters (blob_not_found 3, job_malformed 1); 4 letters looked at\n"),
        "{text:?}"
    );
    let shown = letters(&stack, &["show", "b-1"]).await?;
    for words in ["reason          blob_not_found", "b-1.fts", &bert] {
        assert!(shown.stdout.contains(words), "{words} is missing: {shown:?}");
    }
    assert_eq!(letters(&stack, &["show", "nobody"]).await?.code, Some(1));

    for name in ["a-1", "a-2", "b-1"] {
        mend(&stack, name);
    }
    let dry = letters(&stack, &["replay", "--mailbox", &anna, "--dry-run"]).await?;
    assert!(
        dry.stdout.contains("2 jobs would be sent back (blob_not_found 2); 4 letters looked at"),
        "{dry:?}"
    );
    assert_eq!(emitter.depth(QUEUE).await?, 4, "a dry run leaves everything");
    let sent = letters(&stack, &["replay", "--mailbox", &anna]).await?;
    assert_eq!(
        (sent.code, &*sent.stdout),
        (Some(0), "2 jobs sent back (blob_not_found 2); 4 letters looked at\n")
    );
    for _ in 0..2 {
        let event = emitter.next_result().await?.json()?;
        let event = if event["jobId"] == "bad" { emitter.next_result().await?.json()? } else { event };
        assert_eq!(
            (&event["status"], &event["replay"]),
            (&Value::from("succeeded"), &Value::from(1)),
            "{event:#}"
        );
    }
    assert_eq!(stack.exchange.items(&anna).len(), 2);
    assert_eq!(ids(&listed(&stack, &[]).await?), ["b-1", "bad"], "the others keep their order");

    assert_eq!(letters(&stack, &["drop"]).await?.code, Some(2), "what is to be removed must be said");
    let dropped = letters(&stack, &["drop", "--job", "bad"]).await?;
    assert_eq!(dropped.stdout, "1 letters removed (job_malformed 1); 2 letters looked at\n", "{dropped:?}");
    assert_eq!(ids(&listed(&stack, &[]).await?), ["b-1"]);
    let wrong = letters(&stack, &["list", "--reason", "mailbox_ful"]).await?;
    assert!(wrong.code == Some(2) && wrong.stderr.contains("mailbox_full"), "{wrong:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replays_age_begins_with_it() -> Result<()> {
    const HOURS: u64 = 8 * 3_600_000;
    let stack = stack("a_replays_age_begins_with_it").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    let since = (since - u128::from(HOURS)).to_string();
    let job = create_job("j-1", &mailbox, "j-1.fts").to_string();
    emitter.publish_raw(job.as_bytes(), headers(&[("restore-first-received", &since)])).await?;
    let taken = |event: &Value| event["timings"]["totalMs"].as_u64().unwrap_or_default();
    let first = emitter.next_result().await?.json()?;
    assert!(first["status"] == "failed" && taken(&first) >= HOURS, "{first:#}");
    for round in 1..=2 {
        emitter.depth_reaches(QUEUE, 1).await?;
        let received = listed(&stack, &["--older-than", "7h"]).await?;
        assert_eq!(ids(&received), ["j-1"], "the letter keeps when it was first received");
        assert_eq!(letters(&stack, &["replay"]).await?.code, Some(0));
        let again = emitter.next_result().await?.json()?;
        assert!(again["replay"] == round && taken(&again) < HOURS, "{again:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_again_is_not_sent_back_again() -> Result<()> {
    let stack = stack("a_job_that_fails_again").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let names: Vec<String> = (0..40).map(|n| format!("j-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bury(&stack, &mut emitter, &mailbox, &names).await?;
    for _ in 0..3 {
        assert_eq!(ids(&listed(&stack, &[]).await?), names, "a look leaves the order as it is");
    }
    let sent = letters(&stack, &["replay"]).await?;
    assert_eq!(sent.stdout, "40 jobs sent back (blob_not_found 40); 40 letters looked at\n", "{sent:?}");
    emitter.depth_reaches(QUEUE, 40).await?;
    let again = listed(&stack, &[]).await?;
    let rounds: BTreeSet<_> =
        again["letters"].as_array().into_iter().flatten().map(|l| l["replay"].to_string()).collect();
    assert_eq!((ids(&again).len(), rounds.into_iter().collect::<Vec<_>>()), (40, vec!["1".to_owned()]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_may_be_killed_and_begun_again() -> Result<()> {
    let stack = stack("a_replay_may_be_killed").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let jobs: Vec<Value> =
        (0..300).map(|n| create_job(&format!("j-{n}"), &mailbox, &format!("j-{n}.fts"))).collect();
    emitter.publish_all(jobs).await?;
    emitter.depth_reaches(QUEUE, 300).await?;
    for n in 0..300 {
        mend(&stack, &format!("j-{n}"));
    }
    let mut first = stack.spawn_with(binary(), &["dead-letters", "replay"], &[])?;
    stack.exchange.until(|e| e.items(&mailbox).len() >= 5).await;
    first.kill().await?;
    let second = letters(&stack, &["replay"]).await?;
    assert_eq!(second.code, Some(0), "{second:?}");
    until("every item is there", LIMIT, async || {
        Ok((stack.exchange.items(&mailbox).len() >= 300).then_some(()))
    })
    .await?;
    until("every letter is gone", LIMIT, async || {
        let left = letters(&stack, &["replay"]).await?;
        Ok((left.stdout.starts_with("0 jobs") && emitter.depth(QUEUE).await? == 0).then_some(()))
    })
    .await?;
    assert_eq!(stack.exchange.items(&mailbox).len(), 300, "each item once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_stays_until_it_is_forced() -> Result<()> {
    let stack = stack("what_is_unknown_stays").await?;
    let _worker = stack.worker(binary(), &quick_and(&[("IN_DOUBT__LOOK", "false")])).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    unknown(&stack, &mut emitter, "j-1", &mailbox).await?;
    emitter.depth_reaches(QUEUE, 1).await?;
    let left = letters(&stack, &["replay"]).await?;
    assert_eq!((left.code, &*left.stdout), (Some(0), "0 jobs sent back; 1 letters looked at\n"));
    assert!(left.stderr.contains("1 letters were left: their outcome is unknown"), "{left:?}");
    let forced = letters(&stack, &["replay", "--force"]).await?;
    assert_eq!(forced.stdout, "1 jobs sent back (outcome_unknown 1); 1 letters looked at\n", "{forced:?}");
    let event = emitter.next_result().await?.json()?;
    assert_eq!(
        (&event["status"], &event["replay"]),
        (&Value::from("succeeded"), &Value::from(1)),
        "{event:#}"
    );
    assert_eq!(emitter.depth(QUEUE).await?, 0);
    Ok(())
}
