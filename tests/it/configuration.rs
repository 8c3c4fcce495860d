//! The command line and the configuration, as a person meets them: every problem at once, no stack trace, no secret.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Result;
use restore_sandbox::{
    stack::{CLIENT_SECRET, Stack},
    worker::Worker,
};

use crate::support::{binary, stack};

/// Runs the binary to its end in an environment of its own: exit code and what it printed.
async fn run(
    log: PathBuf,
    arguments: &[&str],
    variables: &BTreeMap<String, String>,
) -> Result<(Option<i32>, String)> {
    let mut worker = Worker::command(binary(), arguments, variables, &log)?;
    let status = worker.wait().await?;
    let said = worker.output();
    for bad in ["panicked", "stack backtrace", "RUST_BACKTRACE"] {
        assert!(!said.contains(bad), "{said}");
    }
    Ok((status.code(), said))
}

/// The same with the stack's variables and more.
async fn run_in(stack: &Stack, arguments: &[&str], more: &[(&str, &str)]) -> Result<(Option<i32>, String)> {
    run(stack.log(), arguments, &stack.variables_and(more)).await
}

#[tokio::test]
async fn every_problem_is_told_at_once_with_its_key_and_where_it_stands() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("worker.yaml");
    std::fs::write(
        &file,
        "broker: { uri: 'http://user:pass-word@broker/', wait_tiers: [30s, 5s], prefetch: 0 }\n\
         storage: { max_blob: lots, region: eu }\n\
         identity: { tenant_id: 'no tenant', client_secret: hunter-2, client_secret_file: /secret }\n\
         exchange: { grahp: https://graph.microsoft.com/v1.0 }\n\
         retry: { base: 1m, max: 1s }\n",
    )?;
    let environment = [
        ("RESTORE_WORKER__LANES__SHARE", "2"),
        ("RESTORE_WORKER__LANES__IN_FLIHGT", "64"),
        ("RESTORE_WORKER__LEDGER__STORE", "redis"),
        ("RESTORE_WORKER__SHUTDOWN__GRACE", "soon"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let shown = file.display().to_string();
    let (code, said) = run(dir.path().join("log"), &["run", "--config", &shown], &environment).await?;
    assert_eq!(code, Some(78), "{said}");
    assert!(said.starts_with("restore-worker: the configuration has "), "{said}");
    for (key, place) in [
        ("broker.uri", &*shown),
        ("broker.wait_tiers", &shown),
        ("broker.prefetch", &shown),
        ("storage.max_blob", &shown),
        ("identity.tenant_id", &shown),
        ("identity.client_secret", &shown),
        ("exchange.grahp", &shown),
        ("retry.max", &shown),
        ("lanes.share", "RESTORE_WORKER__LANES__SHARE"),
        ("lanes.in_flihgt", "RESTORE_WORKER__LANES__IN_FLIHGT"),
        ("ledger.store", "RESTORE_WORKER__LEDGER__STORE"),
        ("shutdown.grace", "RESTORE_WORKER__SHUTDOWN__GRACE"),
    ] {
        let line = said.lines().find(|line| line.trim_start().starts_with(&format!("{key}: ")));
        assert!(line.is_some_and(|line| line.ends_with(&format!("({place})"))), "{key}: {said}");
    }
    assert!(said.contains("did you mean exchange.graph?") && said.contains("did you mean lanes.in_flight?"));
    for secret in ["pass-word", "hunter-2"] {
        assert!(!said.contains(secret), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_file_that_cannot_be_read_or_is_no_yaml_is_named_and_not_quoted() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("broken.yaml"), "identity:\n  client_secret: \"hunter-2\n  tenant_id: [\n")?;
    std::fs::write(at("list.yaml"), "- hunter-2\n")?;
    std::fs::write(at("twice.yaml"), "log: { level: info }\nlog: { level: debug }\n")?;
    std::fs::write(at("binary.yaml"), b"\xff\xfe\x00hunter-2")?;
    for name in ["missing.yaml", "broken.yaml", "list.yaml", "twice.yaml", "binary.yaml", "."] {
        let file = at(name);
        let (code, said) = run(dir.path().join("log"), &["run", "--config", &file], &BTreeMap::new()).await?;
        assert_eq!(code, Some(78), "{name}: {said}");
        assert!(said.contains(&file) && !said.contains("hunter-2"), "{name}: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_file_is_a_configuration() -> Result<()> {
    let stack = stack("the_sample_file").await?;
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/config/restore-worker.yaml");
    let mut worker =
        stack.spawn_with(binary(), &["run", "--config", sample], &[("STORAGE__ALLOWED_BUCKETS", "")])?;
    worker.ready().await?;
    assert!(worker.output().contains("jobs may name any bucket"), "as the file says of an empty list");
    assert!(worker.terminate().await?.success(), "{}", worker.output());
    Ok(())
}

#[tokio::test]
async fn the_command_line_explains_itself() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let none = BTreeMap::new();
    for (arguments, code, says) in [
        (&["--help"][..], 0, &["Usage: restore-worker", "run", "check", "inspect", "--config <FILE>"][..]),
        (&["run", "--help"], 0, &["--config <FILE>"]),
        (&["--version"], 0, &["restore-worker 0."]),
        (&[], 2, &["Usage: restore-worker"]),
        (&["restore"], 2, &["unrecognized subcommand 'restore'"]),
        (&["run", "--confg", "x"], 2, &["--config"]),
    ] {
        let (ended, said) = run(dir.path().join("log"), arguments, &none).await?;
        assert_eq!(ended, Some(code), "{arguments:?}: {said}");
        for text in says {
            assert!(said.contains(text), "{arguments:?} says nothing of {text}: {said}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_are_told_apart_and_never_shown() -> Result<()> {
    let stack = stack("refused_credentials").await?;
    let mut wrong_keys = stack.variables();
    wrong_keys.insert("AWS_SECRET_ACCESS_KEY".into(), "wrong-storage-key".into());
    let (code, said) = run(stack.log(), &["run"], &wrong_keys).await?;
    assert_eq!(code, Some(77), "{said}");
    assert!(said.contains("SignatureDoesNotMatch") && !said.contains("wrong-storage-key"), "{said}");
    for (name, value, code, says) in [
        ("BROKER__PASSWORD", "wrong-password", 77, "the broker refuses us"),
        ("IDENTITY__CLIENT_SECRET", "wrong~secret~value", 77, "AADSTS7000215"),
        ("BROKER__PASSWORD_FILE", "/no/such/file", 77, "/no/such/file"),
    ] {
        let (ended, said) = run_in(&stack, &["run"], &[("LOG__LEVEL", "trace"), (name, value)]).await?;
        assert_eq!(ended, Some(code), "{name}: {said}");
        assert!(said.contains(says), "{name}: {said}");
        let is_secret = name.ends_with("PASSWORD") || name.ends_with("SECRET");
        assert!(!is_secret || !said.contains(value), "{name}: {said}");
        assert!(!said.contains(CLIENT_SECRET), "{name}: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_is_red_and_says_for_whom() -> Result<()> {
    let stack = stack("a_start_that_waits").await?;
    stack.s3.faults().set_out(true);
    let mut worker = stack.spawn(binary(), &[])?;
    worker.unready().await?;
    worker.logs("waiting for the storage").await?;
    let (_, checks) = worker.get("/readyz?verbose").await?;
    assert!(checks.contains("[-] started: waiting for the storage"), "{checks}");
    assert_eq!(worker.get("/livez").await?.0, 200);
    stack.s3.faults().set_out(false);
    worker.ready().await?;
    assert!(worker.terminate().await?.success());
    stack.s3.faults().set_out(true);
    let mut worker = stack.spawn(binary(), &[])?;
    worker.logs("waiting for the storage").await?;
    assert_eq!(worker.terminate().await?.code(), Some(0), "a start can be ended: {}", worker.output());
    Ok(())
}
