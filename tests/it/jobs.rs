//! `jobs`: records shown, and unknown ones ended by a person's word.

use anyhow::Result;
use restore_sandbox::{fts::ItemSpec, stack::create_job};
use serde_json::{Value, json};

use crate::support::{binary, command, command_with, quick_and, record, stack, unknown};

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_shown() -> Result<()> {
    let stack = stack("a_record_is_shown").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 3_000));
    emitter.publish(&create_job("j/1 ~", &mailbox, "1.fts")).await?;
    let event = emitter.next_result().await?.json()?;
    let text = command(&stack, &["jobs", "show", "j/1 ~"], b"").await?;
    assert_eq!(text.code, Some(0), "{text:?}");
    for words in
        ["state          imported", event["itemId"].as_str().unwrap_or("?"), &mailbox, "bytes          3000"]
    {
        assert!(text.stdout.contains(words), "{words} is missing: {text:?}");
    }
    let shown = command(&stack, &["jobs", "show", "j/1 ~", "--json"], b"").await?;
    let shown: Value = serde_json::from_str(&shown.stdout)?;
    assert_eq!(
        (&shown["record"]["state"], &shown["record"]["itemId"]),
        (&json!("imported"), &event["itemId"])
    );
    let none = command(&stack, &["jobs", "show", "j-2"], b"").await?;
    assert!(none.code == Some(1) && none.stderr.contains("no record of job j-2"), "{none:?}");
    let mut variables = stack.variables();
    variables.insert("RESTORE_WORKER__LEDGER__STORE".into(), "none".into());
    let without = command_with(&variables, &["jobs", "show", "j-2"], b"").await?;
    assert!(without.code == Some(78) && without.stderr.contains("ledger.store is none"), "{without:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_job_is_ended_by_a_persons_word() -> Result<()> {
    let stack = stack("an_unknown_job_is_ended").await?;
    let _worker = stack.worker(binary(), &quick_and(&[("IN_DOUBT__LOOK", "false")])).await?;
    let mut emitter = stack.emitter().await?;
    let (anna, bert) = (stack.mailbox("anna"), stack.mailbox("bert"));
    unknown(&stack, &mut emitter, "there", &anna).await?;
    unknown(&stack, &mut emitter, "absent", &bert).await?;
    emitter.depth_reaches("restore.dead-letters", 2).await?;

    let neither = command(&stack, &["jobs", "resolve", "there"], b"").await?;
    assert_eq!(neither.code, Some(2), "{neither:?}");
    let there = command(&stack, &["jobs", "resolve", "there", "--imported", "ITEM,KEY"], b"").await?;
    assert_eq!(
        (there.code, &*there.stdout),
        (Some(0), "there: recorded as imported, and told\n"),
        "{there:?}"
    );
    let event = emitter.next_result().await?;
    assert_eq!(event.message_id.as_deref(), Some("there/0/succeeded"));
    let told = event.json()?;
    assert_eq!(
        (&told["itemId"], &told["changeKey"], &told["evidence"], &told["recovered"], &told["mailboxId"]),
        (&json!("ITEM"), &json!("KEY"), &json!("ledger"), &json!(true), &json!(anna)),
        "{told:#}"
    );
    assert_eq!(record(&stack, "there")?["state"], "imported");
    // Its letter is gone; the other one's is back when the broker has put it there.
    emitter.depth_reaches("restore.dead-letters", 1).await?;
    assert_eq!(emitter.depth("restore.dead-letters").await?, 1);

    let same_id = command(&stack, &["jobs", "resolve", "absent", "--imported", "ITEM,KEY"], b"").await?;
    assert_eq!(same_id.code, Some(0), "another mailbox's item of the same id is another item: {same_id:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_not_imported_can_be_sent_back() -> Result<()> {
    let stack = stack("a_job_that_was_not_imported").await?;
    let _worker = stack.worker(binary(), &quick_and(&[("IN_DOUBT__LOOK", "false")])).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    unknown(&stack, &mut emitter, "j-1", &mailbox).await?;
    unknown(&stack, &mut emitter, "j-2", &mailbox).await?;
    emitter.depth_reaches("restore.dead-letters", 2).await?;
    for _ in 0..2 {
        // The second time it stands already, and is told again.
        let resolved = command(&stack, &["jobs", "resolve", "j-1", "--not-imported"], b"").await?;
        assert_eq!(resolved.code, Some(0), "{resolved:?}");
        let told = emitter.next_result().await?.json()?;
        assert_eq!(
            (&told["status"], &told["error"]["code"]),
            (&json!("failed"), &json!("outcome_unknown")),
            "{told:#}"
        );
    }
    let refused = command(&stack, &["jobs", "resolve", "j-1", "--imported", "ITEM,KEY"], b"").await?;
    assert!(refused.code == Some(1) && refused.stderr.contains("was not imported"), "{refused:?}");
    let sent = command(&stack, &["dead-letters", "replay", "--job", "j-1", "--force"], b"").await?;
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let told = emitter.next_result().await?.json()?;
    assert_eq!((&told["status"], &told["replay"]), (&json!("succeeded"), &json!(1)), "{told:#}");
    let item = told["itemId"].as_str().unwrap_or_default();
    let theirs =
        command(&stack, &["jobs", "resolve", "j-2", "--imported", &format!("{item},KEY")], b"").await?;
    assert!(theirs.code == Some(1) && theirs.stderr.contains("belongs to another job"), "{theirs:?}");
    assert_eq!(record(&stack, "j-2")?["state"], "unknown");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_its_jobs_own_even_if_the_letter_is_gone() -> Result<()> {
    let stack = stack("an_item_is_its_jobs_own").await?;
    let _worker = stack.worker(binary(), &quick_and(&[("IN_DOUBT__LOOK", "false")])).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    for (job, letters) in [("j-1", 1), ("j-2", 2)] {
        unknown(&stack, &mut emitter, job, &mailbox).await?;
        emitter.depth_reaches("restore.dead-letters", letters).await?;
    }
    let dropped = command(&stack, &["dead-letters", "drop", "--job", "j-1"], b"").await?;
    assert_eq!(dropped.code, Some(0), "{dropped:?}");
    let resolved = command(&stack, &["jobs", "resolve", "j-1", "--imported", "ITEM,KEY"], b"").await?;
    assert!(resolved.code == Some(0) && resolved.stderr.contains("no dead letter"), "{resolved:?}");
    assert_eq!(record(&stack, "j-1")?["state"], "imported");
    let told = emitter.next_result().await?.json()?;
    assert_eq!((&told["jobId"], &told["itemId"]), (&json!("j-1"), &json!("ITEM")), "{told:#}");
    let theirs = command(&stack, &["jobs", "resolve", "j-2", "--imported", "ITEM,KEY"], b"").await?;
    assert!(theirs.code == Some(1) && theirs.stderr.contains("belongs to another job"), "{theirs:?}");
    Ok(())
}
