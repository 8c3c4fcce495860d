//! `check`: what it says of each neighbour, and how it exits.

use anyhow::Result;
use lapin::{
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use restore_sandbox::{
    exchange::ROLE_IMPORT,
    stack::{CLIENT_ID, CLIENT_SECRET, FOLDER, Stack, TENANT},
    worker::Worker,
};

use crate::support::{binary, stack};

/// Runs `check` and gives its exit code and what it printed.
async fn check(stack: &Stack, arguments: &[&str], more: &[(&str, &str)]) -> Result<(i32, String)> {
    let arguments: Vec<&str> = std::iter::once("check").chain(arguments.iter().copied()).collect();
    let mut checking = Worker::command(binary(), &arguments, &stack.variables_and(more), &stack.log())?;
    let status = checking.wait().await?;
    Ok((status.code().unwrap_or(-1), checking.output()))
}

/// A stack whose topology a worker has declared.
async fn declared(name: &str) -> Result<Stack> {
    let stack = stack(name).await?;
    let mut worker = stack.worker(binary(), &[]).await?;
    assert!(worker.terminate().await?.success());
    Ok(stack)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_for_each_neighbour_when_all_is_well() -> Result<()> {
    let stack = declared("check_all_is_well").await?;
    let mailbox = stack.mailbox("anna");
    let (code, said) = check(&stack, &["--mailbox", &mailbox, "--folder", FOLDER], &[]).await?;
    assert_eq!(code, 0, "{said}");
    for name in ["configuration", "broker", "fleet", "storage", "ledger", "identity", "mailbox", "folder"] {
        assert!(said.contains(&format!("ok      {name:<14}")), "{name}:\n{said}");
    }
    assert!(said.contains(ROLE_IMPORT), "{said}");
    assert!(stack.exchange.items(&mailbox).is_empty());
    assert_eq!(stack.exchange.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleets_mode_and_its_shards() -> Result<()> {
    let stack = stack("check_fleet").await?;
    let sharded = [("FLEET__MODE", "sharded"), ("FLEET__SHARDS", "4")];
    let (code, said) = check(&stack, &[], &sharded).await?;
    assert!(code == 78 && said.contains("FAILED  broker"), "{said}");
    let mut worker = stack.worker(binary(), &sharded).await?;
    assert!(worker.terminate().await?.success());
    let (code, said) = check(&stack, &[], &sharded).await?;
    assert!(code == 0 && said.contains("sharded: 4 shards"), "{said}");
    let (code, said) = check(&stack, &[], &[("FLEET__MODE", "sharded"), ("FLEET__SHARDS", "5")]).await?;
    assert!(code == 78 && said.contains("restore.shards.5"), "{said}");
    let (code, said) = check(&stack, &[], &[("FLEET__MODE", "auto")]).await?;
    assert!(code == 0 && said.contains("name sharded or shared"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_asked_even_if_something_fails() -> Result<()> {
    let stack = stack("check_something_fails").await?;
    stack.exchange.revoke_secret(CLIENT_ID);
    let (code, said) = check(&stack, &[], &[]).await?;
    assert_eq!(code, 78, "the first failure, a missing queue, decides:\n{said}");
    assert!(said.contains("FAILED  broker") && said.contains("it is missing"), "{said}");
    assert!(said.contains("FAILED  identity") && said.contains("ok      ledger"), "{said}");
    let emitter = stack.emitter().await?;
    assert!(emitter.depth("restore.jobs").await.is_err(), "check declares nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_arguments_is_a_failure() -> Result<()> {
    let stack = declared("check_other_arguments").await?;
    let channel = stack.emitter().await?.channel().await?;
    channel.queue_delete("restore.results".into(), QueueDeleteOptions::default()).await?;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("restore.results".into(), durable, FieldTable::default()).await?;
    let (code, said) = check(&stack, &[], &[]).await?;
    assert_eq!(code, 78, "{said}");
    assert!(
        said.contains("queue restore.results cannot be used") && said.contains("PRECONDITION_FAILED"),
        "{said}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_are_told_apart() -> Result<()> {
    let stack = declared("check_refused").await?;
    let (code, said) = check(&stack, &[], &[("IDENTITY__CLIENT_SECRET", "wrong")]).await?;
    assert_eq!(code, 77, "{said}");
    let (code, said) = check(&stack, &[], &[("BROKER__URI", "amqp://127.0.0.1:1/%2f")]).await?;
    assert_eq!(code, 69, "{said}");
    stack.exchange.withdraw_consent(TENANT);
    let (code, said) = check(&stack, &[], &[]).await?;
    assert_eq!(code, 77, "{said}");
    assert!(said.contains("AADSTS65001"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_role_is_a_warning() -> Result<()> {
    let stack = declared("check_missing_role").await?;
    stack.exchange.grant(TENANT, CLIENT_ID, &[ROLE_IMPORT]);
    let (code, said) = check(&stack, &[], &[]).await?;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("warning:") && said.contains("MailboxItem.Read.All"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_asks_nobody_and_masks_secrets() -> Result<()> {
    let stack = stack("check_offline").await?;
    let (code, said) =
        check(&stack, &["--offline"], &[("BROKER__URI", "amqp://user:pass-word@127.0.0.1:1/%2f")]).await?;
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("broker.prefetch = 512") && said.contains("identity.client_secret = (secret)"),
        "{said}"
    );
    assert!(!said.contains(CLIENT_SECRET) && !said.contains("pass-word"), "{said}");
    let (code, said) = check(&stack, &["--offline"], &[("LANES__IN_FLIGHT", "many")]).await?;
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("lanes.in_flight: must be a number"), "{said}");
    Ok(())
}
