//! Answers of Exchange that are none: each job ends with the right reason or well, nothing is lost, and neighbours succeed.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use restore_sandbox::{
    exchange::{Answer, Cut, Effect, Fault, Operation},
    fts::ItemSpec,
    stack::create_job,
};

use crate::support::{binary, stack};

/// What an import may be answered with, and how often the item may be there afterwards: the model has stored it, or has not.
fn answers() -> Vec<(&'static str, Effect)> {
    vec![
        ("not-json", Effect::NotJson),
        ("half", Effect::HalfAnswer),
        ("huge", Effect::HugeAnswer { bytes: 4_000_000 }),
        ("no-item-id", Effect::WithoutItemId),
        ("pascal", Effect::PascalCase),
        ("cut", Effect::CutAfter(Cut::Close)),
        ("reset", Effect::CutAfter(Cut::Reset)),
        ("silence", Effect::Silence),
        ("500", Effect::AnswerInstead(Answer::status(500))),
        ("307", Effect::AnswerInstead(Answer::redirect(307, "https://example.com/"))),
        ("refused-500", Effect::RefuseAfterBody(Answer::status(500))),
        ("refused-502", Effect::RefuseAfterBody(Answer::status(502))),
        ("early-500", Effect::Refuse(Answer::status(500))),
        ("cut-before", Effect::CutBeforeBody(Cut::Reset)),
        ("cut-in", Effect::CutInBody { after: 1_000, cut: Cut::Close }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_import_that_is_answered_badly_once_ends_well_and_is_told() -> Result<()> {
    let stack = stack("bad_answers").await?;
    let more =
        [("EXCHANGE__REQUEST_TIMEOUT", "1s"), ("IN_DOUBT__CLOCK_MARGIN", "1s"), ("RETRY__ATTEMPTS", "2")];
    let mut worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let calm = stack.mailbox("calm");
    let mut jobs = Vec::new();
    let mut mailboxes = BTreeMap::new();
    for (n, (name, effect)) in answers().into_iter().enumerate() {
        let mailbox = stack.mailbox(name);
        stack.exchange.add_fault(Fault::new(Operation::Import, effect).mailbox(mailbox.clone()))?;
        stack.store(name, &ItemSpec::mail(n as u64, 9_000));
        jobs.push(create_job(name, &mailbox, name));
        mailboxes.insert(name, mailbox);
        let neighbour = format!("calm-{n}");
        stack.store(&neighbour, &ItemSpec::mail(100 + n as u64, 9_000));
        jobs.push(create_job(&neighbour, &calm, &neighbour));
    }
    let count = emitter.publish_all(jobs).await?;
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    while told.len() < count {
        let missing = || {
            let lines: Vec<_> =
                worker.output().lines().filter(|l| !l.contains("job ended")).map(str::to_owned).collect();
            let untold: Vec<_> = mailboxes.keys().filter(|name| !told.contains_key(**name)).collect();
            format!("untold: {untold:?}; told: {told:?}\n{}", lines.join("\n"))
        };
        let event = emitter.next_result().await.with_context(missing)?.json()?;
        let end = event["error"]["code"].as_str().or(event["status"].as_str()).unwrap_or_default().to_owned();
        told.insert(event["jobId"].as_str().unwrap_or_default().to_owned(), end);
    }
    for (name, mailbox) in &mailboxes {
        assert_eq!(
            (told[*name].as_str(), stack.exchange.items(mailbox).len()),
            ("succeeded", 1),
            "{name}: {told:?}"
        );
    }
    assert_eq!(stack.exchange.items(&calm).len(), mailboxes.len());
    assert!(worker.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_import_that_is_always_answered_badly_is_told_in_the_end() -> Result<()> {
    let stack = stack("always_answered_badly").await?;
    let more =
        [("EXCHANGE__REQUEST_TIMEOUT", "1s"), ("IN_DOUBT__CLOCK_MARGIN", "1s"), ("RETRY__ATTEMPTS", "2")];
    let _worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("alone");
    stack.store("alone", &ItemSpec::mail(1, 9_000));
    stack
        .exchange
        .add_fault(Fault::new(Operation::Import, Effect::RefuseAfterBody(Answer::status(500))).always())?;
    emitter.publish(&create_job("alone", &mailbox, "alone")).await?;
    let told = emitter.next_result().await?.json()?;
    assert_eq!(told["error"]["code"], "attempts_exhausted", "{told:#}");
    assert!(stack.exchange.items(&mailbox).is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_costs_a_job_two_attempts_at_most_however_long_it_is() -> Result<()> {
    let stack = stack("outage_in_doubt").await?;
    let more =
        [("EXCHANGE__REQUEST_TIMEOUT", "1s"), ("IN_DOUBT__CLOCK_MARGIN", "1s"), ("RETRY__ATTEMPTS", "4")];
    let worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    let broken = Fault::new(Operation::Import, Effect::RefuseAfterBody(Answer::status(500))).always();
    let outage = stack.exchange.add_fault(broken)?;
    let mut jobs = Vec::new();
    for n in 0..6 {
        stack.store(&format!("{n}"), &ItemSpec::mail(n, 9_000));
        jobs.push(create_job(&format!("j-{n}"), &mailbox, &format!("{n}")));
    }
    let count = emitter.publish_all(jobs).await?;
    // As many imports as the six jobs have attempts in all: without the rule for outages some would be buried by now.
    stack.exchange.until(|exchange| exchange.fired(outage) >= 24).await;
    stack.exchange.clear_fault(outage);
    for (id, events) in emitter.results_of(count).await? {
        // One may be spent before several jobs agree that it is an outage, one by a doubt that settles after it.
        assert!(events[0]["attempts"].as_u64() <= Some(3), "{id}: {:#}", events[0]);
        assert_eq!(events[0]["status"], "succeeded", "{id}: {:#}\n{}", events[0], worker.output());
    }
    assert_eq!(stack.exchange.items(&mailbox).len(), count);
    Ok(())
}
