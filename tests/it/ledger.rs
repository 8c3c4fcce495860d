//! Whatever dies, and whenever: one job, one item, and the truth told.

use std::time::Duration;

use anyhow::{Context as _, Result};
use restore_sandbox::{
    exchange::{Answer, Cut, Effect, Fault, Gate, ItemFacts, Meanwhile, Operation, When},
    fts::ItemSpec,
    s3,
    stack::{BLOBS, FOLDER, RECORDS, Stack, create_job, update_job},
};
use serde_json::json;

use crate::support::{QUICK, binary, headers, quick_and, quick_worker, record, stack, told};

/// One import meets this, in this mailbox.
fn import_meets(stack: &Stack, mailbox: &str, effect: Effect) -> Result<()> {
    stack.exchange.add_fault(Fault::new(Operation::Import, effect).mailbox(mailbox)).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_item_was_stored() -> Result<()> {
    let stack = stack("killed_after_the_item_was_stored").await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 30_000));
    import_meets(&stack, &mailbox, Effect::Silence)?;
    let mut first = quick_worker(&stack).await?;
    emitter.publish(&create_job("j-1", &mailbox, "1.fts")).await?;
    stack.exchange.until(|e| e.items(&mailbox).len() == 1).await;
    first.kill().await?;
    let second = quick_worker(&stack).await?;
    let event = told(&mut emitter, &second).await?;
    let items = stack.exchange.items(&mailbox);
    assert_eq!(items.len(), 1, "{event:#}\n{}", second.output());
    assert_eq!(event["status"], "succeeded", "{event:#}");
    assert_eq!((&event["recovered"], &event["evidence"]), (&json!(true), &json!("found")), "{event:#}");
    assert_eq!(event["itemId"], items[0].item_id);
    assert_eq!(record(&stack, "j-1")?["state"], "imported");
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_body_was_complete() -> Result<()> {
    let stack = stack("killed_before_the_body_was_complete").await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 400_000));
    let stall = s3::Effect::StallBody(300_000);
    let stalled = stack.s3.faults().add(s3::Fault::new(stall).key(&format!("{BLOBS}/1.fts")));
    let mut first = quick_worker(&stack).await?;
    emitter.publish(&create_job("j-1", &mailbox, "1.fts")).await?;
    first.metric_reaches("restore_ledger_operations_total", &["claim", "stands"], 1.0).await?;
    first.kill().await?;
    stack.s3.faults().clear(stalled);
    let second = quick_worker(&stack).await?;
    let event = told(&mut emitter, &second).await?;
    assert_eq!((&event["status"], &event["evidence"]), (&json!("succeeded"), &json!("answer")), "{event:#}");
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_claim() -> Result<()> {
    let stack = stack("killed_before_the_claim").await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 30_000));
    let gate = Gate::new();
    let fault = Fault::new(Operation::OpenSession, Effect::Wait(When::Open(gate.clone())));
    stack.exchange.add_fault(fault)?;
    let mut first = quick_worker(&stack).await?;
    emitter.publish(&create_job("j-1", &mailbox, "1.fts")).await?;
    gate.arrived(1).await;
    first.kill().await?;
    let second = quick_worker(&stack).await?;
    let event = told(&mut emitter, &second).await?;
    assert_eq!((&event["status"], &event["evidence"]), (&json!("succeeded"), &json!("answer")), "{event:#}");
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_stored_after_the_client_gave_up_is_found() -> Result<()> {
    let stack = stack("an_item_stored_after_the_client_gave_up_is_found").await?;
    let worker = stack.worker(binary(), &quick_and(&[("IN_DOUBT__SETTLE", "4s")])).await?;
    let mut emitter = stack.emitter().await?;
    let meanwhile = [Meanwhile::Silence, Meanwhile::Cut(Cut::Reset), Meanwhile::Timeout];
    for (n, meanwhile) in meanwhile.into_iter().enumerate() {
        let mailbox = stack.mailbox(&format!("m{n}"));
        stack.store(&format!("{n}.fts"), &ItemSpec::mail(n as u64, 20_000));
        let late = Effect::LateCommit { when: When::After(Duration::from_millis(2_500)), meanwhile };
        import_meets(&stack, &mailbox, late)?;
        emitter.publish(&create_job(&format!("j-{n}"), &mailbox, &format!("{n}.fts"))).await?;
    }
    let events = emitter.results_of(3).await.with_context(|| worker.output())?;
    for n in 0..3 {
        let items = stack.exchange.items(&format!("MBX:m{n}@{}", restore_sandbox::stack::TENANT));
        assert_eq!(items.len(), 1, "{events:#?}\n{}", worker.output());
        let event = &events[&format!("j-{n}")][0];
        assert_eq!(
            (&event["status"], &event["evidence"]),
            (&json!("succeeded"), &json!("found")),
            "{event:#}"
        );
        assert_eq!(event["itemId"], items[0].item_id);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_is_found() -> Result<()> {
    let stack = stack("an_answer_that_was_lost_is_found").await?;
    let worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let effects = [
        Effect::CutAfter(Cut::Reset),
        Effect::CutAfter(Cut::Close),
        Effect::HalfAnswer,
        Effect::AnswerInstead(Answer::status(504)),
        Effect::AnswerInstead(Answer::status(500)),
        Effect::WithoutItemId,
        Effect::NotJson,
        Effect::Silence,
    ];
    let jobs = effects.len();
    for (n, effect) in effects.into_iter().enumerate() {
        let mailbox = stack.mailbox(&format!("m{n}"));
        stack.store(&format!("{n}.fts"), &ItemSpec::mail(n as u64, 20_000));
        import_meets(&stack, &mailbox, effect)?;
        emitter.publish(&create_job(&format!("j-{n}"), &mailbox, &format!("{n}.fts"))).await?;
    }
    let events = emitter.results_of(jobs).await.with_context(|| worker.output())?;
    for n in 0..jobs {
        let items = stack.exchange.items(&format!("MBX:m{n}@{}", restore_sandbox::stack::TENANT));
        let event = &events[&format!("j-{n}")][0];
        assert_eq!(items.len(), 1, "{event:#}\n{}", worker.output());
        assert_eq!(
            (&event["status"], &event["evidence"]),
            (&json!("succeeded"), &json!("found")),
            "{event:#}"
        );
        assert_eq!(event["itemId"], items[0].item_id);
        assert!(event.get("duplicates").is_none_or(serde_json::Value::is_null), "{event:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_in_doubt_is_retried_unchanged_and_unknown_changed() -> Result<()> {
    let stack = stack("an_update_in_doubt").await?;
    let worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let (same, other) = (stack.mailbox("same"), stack.mailbox("other"));
    let old = ItemSpec::mail(1, 5_000).to_bytes();
    let mut keys = Vec::new();
    for mailbox in [&same, &other] {
        keys.push(stack.exchange.add_item(mailbox, FOLDER, ItemFacts::default(), &old));
    }
    stack.store("new.fts", &ItemSpec::mail(2, 6_000));
    // Unchanged: the server throws the first body away after it was complete, without a word that says so.
    import_meets(&stack, &same, Effect::RefuseAfterBody(Answer::status(504)))?;
    import_meets(&stack, &other, Effect::CutAfter(Cut::Reset))?;
    for (mailbox, (item, key)) in [&same, &other].into_iter().zip(&keys) {
        emitter.publish(&update_job(mailbox, mailbox, "new.fts", item, key)).await?;
    }
    let events = emitter.results_of(2).await.with_context(|| worker.output())?;
    let (retried, unknown) = (&events[&same][0], &events[&other][0]);
    assert_eq!(
        (&retried["status"], &retried["evidence"]),
        (&json!("succeeded"), &json!("answer")),
        "{retried:#}"
    );
    let now = &stack.exchange.items(&other)[0];
    assert_eq!(unknown["status"], "unknown", "{unknown:#}");
    assert_eq!(unknown["error"]["code"], "outcome_unknown", "{unknown:#}");
    assert_eq!((&unknown["itemId"], &unknown["changeKey"]), (&json!(now.item_id), &json!(now.change_key)));
    for mailbox in [&same, &other] {
        let items = stack.exchange.items(mailbox);
        assert_eq!((items.len(), items[0].writes), (1, 2), "{mailbox}");
    }
    let letters = emitter.dead_letters(1).await?;
    assert_eq!(letters[0].headers["restore-reason"], "outcome_unknown");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_one_item_side_by_side_are_each_their_own() -> Result<()> {
    let stack = stack("copies_of_one_item_side_by_side").await?;
    let worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let copies = 12;
    stack.store("1.fts", &ItemSpec::mail(1, 10_000));
    let lose = Fault::new(Operation::Import, Effect::CutAfter(Cut::Reset)).mailbox(&*mailbox);
    stack.exchange.add_fault(lose.times(3))?;
    let late = Effect::LateCommit {
        when: When::After(Duration::from_millis(800)),
        meanwhile: Meanwhile::Cut(Cut::Reset),
    };
    stack.exchange.add_fault(Fault::new(Operation::Import, late).mailbox(&*mailbox).skip(4).times(2))?;
    let never = Effect::RefuseAfterBody(Answer::status(504));
    stack.exchange.add_fault(Fault::new(Operation::Import, never).mailbox(&*mailbox).skip(3).times(2))?;
    emitter.publish_all((0..copies).map(|n| create_job(&format!("j-{n}"), &mailbox, "1.fts"))).await?;
    let events = emitter.results_of(copies).await.with_context(|| worker.output())?;
    let items = stack.exchange.items(&mailbox);
    let mut told: Vec<_> =
        events.values().map(|e| e[0]["itemId"].as_str().unwrap_or_default().to_owned()).collect();
    told.sort();
    let mut stored: Vec<_> = items.iter().map(|i| i.item_id.clone()).collect();
    stored.sort();
    assert_eq!(
        told,
        stored,
        "each job its own item, no item without a job\n{events:#?}\n{}",
        worker.output()
    );
    assert!(events.values().any(|e| e[0]["evidence"] == "found"), "{events:#?}");
    Ok(())
}

/// One finds the other's item while its own is still on the way: the other waits for that one, and imports nothing in its place.
#[tokio::test(flavor = "multi_thread")]
async fn copies_that_swap_their_items_make_no_third() -> Result<()> {
    let stack = stack("copies_that_swap").await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 10_000));
    // One delivery at a time, held while its lane is paused: so the other copy's job cannot come between.
    let more = quick_and(&[("BROKER__PREFETCH", "1"), ("FLEET__MODE", "shared"), ("RETRY__HOLD", "30s")]);
    let survivor = stack.worker(binary(), &more).await?;
    let busy = Answer::too_many("IncomingBytes", Some(Duration::from_secs(12)));
    let refused = stack.exchange.add_fault(Fault::new(Operation::Import, Effect::Refuse(busy)))?;
    emitter.publish(&create_job("finder", &mailbox, "1.fts")).await?;
    stack.exchange.until(|e| e.fired(refused) == 1).await;
    let stored = Gate::new();
    import_meets(&stack, &mailbox, Effect::WaitAfter(When::Open(stored.clone())))?;
    let mut victim = stack.worker(binary(), &more).await?;
    emitter.publish(&create_job("loser", &mailbox, "1.fts")).await?;
    stored.arrived(1).await;
    victim.kill().await?;
    let late = Gate::new();
    let meanwhile = Meanwhile::Timeout;
    import_meets(&stack, &mailbox, Effect::LateCommit { when: When::Open(late.clone()), meanwhile })?;
    // The finder's import, late; it finds the loser's item; then the loser looks.
    let found = told(&mut emitter, &survivor).await?;
    assert_eq!((&found["jobId"], &found["evidence"]), (&json!("finder"), &json!("found")), "{found:#}");
    let looks = stack.exchange.requests(Operation::ListItems);
    stack.exchange.until(|e| e.requests(Operation::ListItems) > looks).await;
    late.open();
    let event = told(&mut emitter, &survivor).await?;
    assert_eq!((&event["jobId"], &event["evidence"]), (&json!("loser"), &json!("found")), "{event:#}");
    let items = stack.exchange.items(&mailbox);
    assert_eq!(items.len(), 2, "{}", survivor.output());
    assert_ne!(found["itemId"], event["itemId"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_published_thrice_is_done_once_and_told_again() -> Result<()> {
    let stack = stack("a_job_published_thrice").await?;
    let worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 10_000));
    let job = create_job("j-1", &mailbox, "1.fts");
    emitter.publish_all([job.clone(), job.clone(), job]).await?;
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(emitter.next_result().await.with_context(|| worker.output())?);
    }
    let items = stack.exchange.items(&mailbox);
    assert_eq!(items.len(), 1, "{}", worker.output());
    let mut recovered = 0;
    for event in &events {
        let told = event.json()?;
        assert_eq!(
            (&told["status"], &told["itemId"]),
            (&json!("succeeded"), &json!(items[0].item_id)),
            "{told:#}"
        );
        assert_eq!(event.message_id.as_deref(), Some("j-1/0/succeeded"));
        recovered += usize::from(told["recovered"] == true);
    }
    assert_eq!(recovered, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_id_reused_ends_the_message_and_no_job() -> Result<()> {
    let stack = stack("a_job_id_reused").await?;
    let worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 10_000));
    stack.store("2.fts", &ItemSpec::mail(2, 10_000));
    emitter.publish(&create_job("j-1", &mailbox, "1.fts")).await?;
    assert_eq!(told(&mut emitter, &worker).await?["status"], "succeeded");
    let before = record(&stack, "j-1")?;
    emitter.publish(&create_job("j-1", &mailbox, "2.fts")).await?;
    let event = emitter.next_result().await?;
    let told = event.json()?;
    assert_eq!(
        (&told["status"], &told["error"]["code"]),
        (&json!("failed"), &json!("job_id_reused")),
        "{told:#}"
    );
    let id = event.message_id.context("an id")?;
    let digest = id.strip_prefix("j-1/0/failed/").with_context(|| id.clone())?;
    assert!(digest.len() == 16 && digest.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert_eq!(record(&stack, "j-1")?, before);
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    assert_eq!(emitter.dead_letters(1).await?[0].headers["restore-reason"], "job_id_reused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_is_told_again_until_its_claim_is_forced() -> Result<()> {
    let stack = stack("unknown_is_told_again").await?;
    let worker = stack.worker(binary(), &quick_and(&[("IN_DOUBT__LOOK", "false")])).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 10_000));
    import_meets(&stack, &mailbox, Effect::RefuseAfterBody(Answer::status(504)))?;
    let job = create_job("j-1", &mailbox, "1.fts");
    emitter.publish(&job).await?;
    assert_eq!(told(&mut emitter, &worker).await?["status"], "unknown");
    let letter = emitter.dead_letters(1).await?.remove(0);
    let claim = letter.headers["restore-claim"].clone();
    assert_eq!(record(&stack, "j-1")?["trail"]["claimId"], claim);
    let body = job.to_string();
    for force in ["another-claim", claim.as_str()] {
        let pairs = [("restore-replay", "1"), ("restore-force", force)];
        emitter.publish_raw(body.as_bytes(), headers(&pairs)).await?;
        let event = told(&mut emitter, &worker).await?;
        let expected = if force == claim { "succeeded" } else { "unknown" };
        assert_eq!((&event["status"], &event["replay"]), (&json!(expected), &json!(1)), "{event:#}");
    }
    emitter
        .publish_raw(body.as_bytes(), headers(&[("restore-replay", "2"), ("restore-force", &claim)]))
        .await?;
    assert_eq!(told(&mut emitter, &worker).await?["evidence"], "ledger");
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    Ok(())
}

/// A letter sent back by hand, its record expired: only who names its claim may import again.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_whose_record_is_gone_stays_in_doubt() -> Result<()> {
    let stack = stack("an_unknown_whose_record_is_gone").await?;
    let worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 10_000));
    let job = create_job("j-1", &mailbox, "1.fts").to_string();
    let by_hand = [("restore-claim", "claim-1"), ("restore-reason", "outcome_unknown")];
    emitter.publish_raw(job.as_bytes(), headers(&by_hand)).await?;
    let event = told(&mut emitter, &worker).await?;
    assert_eq!((&event["status"], &event["error"]["code"]), (&json!("unknown"), &json!("outcome_unknown")));
    assert_eq!(stack.exchange.requests(Operation::Import), 0);
    let letter = emitter.dead_letters(1).await?.remove(0);
    assert_eq!(letter.headers["restore-claim"], "claim-1");
    let forced = [("restore-claim", "claim-1"), ("restore-force", "claim-1"), ("restore-replay", "1")];
    emitter.publish_raw(job.as_bytes(), headers(&forced)).await?;
    assert_eq!(told(&mut emitter, &worker).await?["status"], "succeeded");
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_opens_a_new_round_for_failed() -> Result<()> {
    let stack = stack("a_replay_opens_a_new_round").await?;
    let worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let job = create_job("j-1", &mailbox, "1.fts");
    emitter.publish(&job).await?;
    assert_eq!(told(&mut emitter, &worker).await?["error"]["code"], "blob_not_found");
    assert_eq!(record(&stack, "j-1")?["state"], "failed");
    stack.store("1.fts", &ItemSpec::mail(1, 10_000));
    emitter.publish(&job).await?;
    let again = told(&mut emitter, &worker).await?;
    assert_eq!(
        (&again["status"], &again["error"]["code"]),
        (&json!("failed"), &json!("blob_not_found")),
        "{again:#}"
    );
    emitter.publish_raw(job.to_string().as_bytes(), headers(&[("restore-replay", "1")])).await?;
    let event = emitter.next_result().await?;
    assert_eq!(event.message_id.as_deref(), Some("j-1/1/succeeded"), "{}", worker.output());
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_ledger_nothing_is_sent_and_nothing_that_was_is_lost() -> Result<()> {
    let stack = stack("without_the_ledger").await?;
    let mut worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 10_000));
    stack.store("2.fts", &ItemSpec::mail(2, 10_000));
    // Away at the claim: nothing is sent.
    let away = s3::Fault::new(s3::Effect::Answer { status: 503, code: "SlowDown" }).key(RECORDS).always();
    let fault = stack.s3.faults().add(away.clone());
    emitter.publish(&create_job("j-1", &mailbox, "1.fts")).await?;
    worker.metric_reaches("restore_ledger_operations_total", &["error"], 3.0).await?;
    assert_eq!(stack.exchange.requests(Operation::Import), 0);
    stack.s3.faults().clear(fault);
    let event = told(&mut emitter, &worker).await?;
    assert_eq!((&event["status"], &event["attempts"]), (&json!("succeeded"), &json!(1)), "{event:#}");
    // Away at complete: told when it is recorded, and not before, by whoever is there then.
    let gate = Gate::new();
    import_meets(&stack, &mailbox, Effect::WaitAfter(When::Open(gate.clone())))?;
    emitter.publish(&create_job("j-2", &mailbox, "2.fts")).await?;
    gate.arrived(1).await;
    let fault = stack.s3.faults().add(away);
    gate.open();
    worker.logs("it will be told when it does").await?;
    assert_eq!(record(&stack, "j-2")?["state"], "importing");
    // What is known goes on in a copy, when this worker has to end.
    worker.signal("TERM").await?;
    worker.wait().await?;
    assert_eq!(emitter.depth("restore.results").await?, 0, "{}", worker.output());
    stack.s3.faults().clear(fault);
    let second = quick_worker(&stack).await?;
    let event = told(&mut emitter, &second).await?;
    assert_eq!((&event["jobId"], &event["status"]), (&json!("j-2"), &json!("succeeded")), "{event:#}");
    let item = stack.exchange.item(&mailbox, event["itemId"].as_str().unwrap_or_default());
    assert!(item.is_some(), "{event:#}");
    assert_eq!(record(&stack, "j-2")?["state"], "imported");
    assert_eq!(stack.s3.backend().keys(RECORDS, "restore-ledger/items/").len(), 2, "both items are taken");
    assert_eq!(stack.exchange.items(&mailbox).len(), 2);
    second.logs("job ended").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ledger_by_name_it_works_and_warns() -> Result<()> {
    let stack = stack("without_a_ledger_by_name").await?;
    let worker = stack.worker(binary(), &[("LEDGER__STORE", "none"), ("LEDGER__BUCKET", "")]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 10_000));
    emitter.publish(&create_job("j-1", &mailbox, "1.fts")).await?;
    assert_eq!(told(&mut emitter, &worker).await?["status"], "succeeded");
    assert!(stack.s3.backend().keys(RECORDS, "").is_empty());
    let warned = worker.log_lines().into_iter().any(|line| {
        line["level"] == "WARN" && line["message"].as_str().is_some_and(|m| m.contains("can mean twice"))
    });
    assert!(warned, "{}", worker.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_conditional_writes_is_refused() -> Result<()> {
    let stack = stack("a_store_without_conditional_writes").await?;
    stack.s3.backend().ignore_conditions(true);
    let mut worker = stack.spawn(binary(), &QUICK)?;
    assert_eq!(worker.wait().await?.code(), Some(78), "{}", worker.output());
    assert!(worker.output().contains("does not honour conditional writes"), "{}", worker.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_see_no_missing_record_are_refused() -> Result<()> {
    let stack = stack("keys_that_see_no_missing_record").await?;
    stack.s3.backend().forbid_listing(RECORDS);
    let mut worker = stack.spawn(binary(), &QUICK)?;
    assert_eq!(worker.wait().await?.code(), Some(77), "{}", worker.output());
    assert!(worker.output().contains("s3:ListBucket"), "{}", worker.output());
    assert!(stack.s3.backend().keys(RECORDS, "").is_empty(), "the probe leaves nothing behind");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_later_version_are_understood() -> Result<()> {
    let stack = stack("records_of_a_later_version").await?;
    let worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 10_000));
    let job = create_job("j-1", &mailbox, "1.fts");
    emitter.publish(&job).await?;
    let first = told(&mut emitter, &worker).await?;
    let key = stack.s3.backend().keys(RECORDS, "restore-ledger/jobs/").remove(0);
    let mut later = record(&stack, "j-1")?;
    later["version"] = json!(later["version"].as_u64().context("a version")? + 1);
    later["novelty"] = json!({"any": ["thing"]});
    later["trail"]["novelty"] = json!(true);
    stack.s3.put(RECORDS, &key, later.to_string().into());
    let pairs = [("restore-attempt", "1"), ("restore-novelty", "7")];
    emitter.publish_raw(job.to_string().as_bytes(), headers(&pairs)).await?;
    let event = told(&mut emitter, &worker).await?;
    assert_eq!((&event["status"], &event["evidence"]), (&json!("succeeded"), &json!("ledger")), "{event:#}");
    assert_eq!(event["itemId"], first["itemId"]);
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_claims_anothers_item_gets_one_of_its_own() -> Result<()> {
    let stack = stack("a_copy_that_claims_anothers_item").await?;
    let worker = quick_worker(&stack).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 10_000));
    emitter.publish(&create_job("j-1", &mailbox, "1.fts")).await?;
    let first = told(&mut emitter, &worker).await?;
    let keys = [&first["itemId"], &first["changeKey"]].map(|key| key.as_str().unwrap_or_default());
    let forged = headers(&[("restore-imported", &keys.join(","))]);
    emitter.publish_raw(create_job("j-2", &mailbox, "1.fts").to_string().as_bytes(), forged).await?;
    let second = told(&mut emitter, &worker).await?;
    assert_eq!((&second["jobId"], &second["status"]), (&json!("j-2"), &json!("succeeded")), "{second:#}");
    assert_ne!(second["itemId"], first["itemId"], "{}", worker.output());
    assert_eq!(stack.exchange.items(&mailbox).len(), 2);
    Ok(())
}
