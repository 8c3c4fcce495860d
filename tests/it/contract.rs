//! The contract for machines: published as printed, and true: schemas against what the parser takes and refuses, rights
//! against a broker that grants nothing else.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result};
use restore_sandbox::{
    emitter::Emitter,
    fts::ItemSpec,
    rabbitmq::Management,
    stack::{Stack, create_job, update_job},
};
use restore_worker::contract::{Parser, Wrapping, schema};
use serde_json::{Value, json};

use crate::{
    bad_input::wrong_values,
    support::{binary, broker, command_with, jsonl, stack},
};

const PUBLISHED: [(&str, &str); 4] = [
    ("job-schema", "job.schema.json"),
    ("result-schema", "result.schema.json"),
    ("asyncapi", "asyncapi.json"),
    ("topology", "topology.json"),
];

async fn printed(command: &str, variables: &BTreeMap<String, String>) -> Result<String> {
    let printed = command_with(variables, &["contract", command], b"").await?;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    Ok(printed.stdout)
}

/// `make contract` writes the files anew.
#[tokio::test]
async fn what_is_published_is_what_is_printed() -> Result<()> {
    for (command, file) in PUBLISHED {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/contract").join(file);
        let published = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        assert_eq!(published, printed(command, &BTreeMap::new()).await?, "{file} differs: make contract");
    }
    Ok(())
}

fn parses(job: &Value) -> bool {
    Parser::default().parse(job.to_string().as_bytes(), Wrapping::default()).is_ok()
}

/// What a schema cannot say: sums that overflow, the size of `metadata`.
fn beyond_a_schema(pointer: &str, value: &Value) -> bool {
    (pointer == "/blob/range" && value["length"] == json!(u64::MAX))
        || (pointer == "/metadata" && value.is_object())
}

#[test]
fn the_job_schema_takes_and_refuses_what_the_parser_does() -> Result<()> {
    let schema = jsonschema::validator_for(&schema::job())?;
    let agree = |job: &Value, good: bool| {
        let errors: Vec<_> = schema.iter_errors(job).map(|error| error.to_string()).collect();
        assert_eq!((errors.is_empty(), parses(job)), (good, good), "{job:#} {errors:?}");
    };
    let create = create_job("j-1", "MBX:anna@x", "1.fts");
    let update = update_job("j-1", "MBX:anna@x", "1.fts", "SXRlbQ==", "Q0s=");
    agree(&create, true);
    agree(&update, true);
    for (name, value) in [
        ("restoreId", json!("r-1")),
        ("requestedBy", json!("Jörg, ticket 4711")),
        ("tenantId", json!("contoso.onmicrosoft.com")),
        ("graphVersion", json!("beta")),
        ("notAfter", json!("2026-12-01T00:00:00+01:00")),
        ("metadata", json!({"any": [{"JSON": null}]})),
        ("itemId", json!(null)),
    ] {
        let mut job = create.clone();
        job[name] = value;
        agree(&job, true);
    }
    let mut packed = create.clone();
    packed["blob"] = json!({"bucket": "b", "key": "k", "versionId": "v", "range": {"offset": 0, "length": 1},
        "encoding": "base64", "compression": "zstd", "size": 1, "sha256": "aB".repeat(32)});
    agree(&packed, true);
    for field in ["jobId", "mailboxId", "folderId", "mode", "blob"] {
        let mut job = create.clone();
        job.as_object_mut().context("a job")?.remove(field);
        agree(&job, false);
    }
    for key in ["itemId", "changeKey"] {
        let mut job = update.clone();
        job.as_object_mut().context("a job")?.remove(key);
        agree(&job, false);
    }
    let ids = [json!(""), json!("x".repeat(201)), json!("j\nk"), json!("jé"), json!(7), json!(null)];
    for (pointer, value) in wrong_values().into_iter().chain(ids.map(|id| ("/jobId", id))) {
        let mut job = create.clone();
        let (parent, name) = pointer.rsplit_once('/').context("a pointer")?;
        job.pointer_mut(parent).context("a parent")?[name] = value.clone();
        if beyond_a_schema(pointer, &value) {
            assert!(!parses(&job), "{job:#}");
        } else {
            agree(&job, false);
        }
    }
    Ok(())
}

#[test]
fn the_examples_of_the_readme_are_what_the_schemas_say() -> Result<()> {
    let readme = include_str!("../../README.md");
    let section = readme.split("\n## The contract, by example\n").nth(1).context("the section")?;
    let blocks: Vec<&str> =
        section.split("```json\n").skip(1).filter_map(|b| b.split("```").next()).collect();
    let mut job: Value = serde_json::from_str(blocks.first().context("a job")?)?;
    job["blob"]["sha256"] = json!("ab".repeat(32));
    let result: Value = serde_json::from_str(blocks.get(1).context("a result")?)?;
    for (schema, example) in [(schema::job(), job), (schema::result(), result)] {
        let schema = jsonschema::validator_for(&schema)?;
        let errors: Vec<_> = schema.iter_errors(&example).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{example:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_what_the_schema_says() -> Result<()> {
    let stack = stack("events_are_what_the_schema_says").await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 3_000));
    let mut full = create_job("j-1", &mailbox, "1.fts");
    full["metadata"] = json!({"any": 1});
    full["restoreId"] = json!("r-1");
    emitter.publish(&full).await?;
    emitter.publish(&create_job("j-2", &mailbox, "missing.fts")).await?;
    emitter.publish(&json!({"jobId": "j-3"})).await?;
    let schema = jsonschema::validator_for(&schema::result())?;
    for event in emitter.results_of(3).await?.into_values().flatten() {
        let errors: Vec<_> = schema.iter_errors(&event).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{event:#}");
    }
    Ok(())
}

/// A user with exactly the rights of `contract topology`, and the URI to sign in with.
async fn user(
    management: &Management,
    stack: &Stack,
    vhost: &str,
    kind: &str,
    patterns: &Value,
) -> Result<String> {
    let name = format!("{vhost}-{kind}");
    management.create_user(vhost, &name, "secret").await?;
    let path = format!("/api/permissions/{vhost}/{name}");
    management.ask(http::Method::PUT, &path, Some(patterns[kind].clone())).await?;
    let (_, place) = stack.uri.split_once('@').context("a URI with a login")?;
    Ok(format!("amqp://{name}:secret@{place}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_rights_are_enough() -> Result<()> {
    let vhost = "the_least_rights_are_enough";
    let stack = stack(vhost).await?;
    let management = broker().await?.management().context("the management plugin")?;
    let topology: Value = serde_json::from_str(&printed("topology", &stack.variables()).await?)?;
    let patterns = &topology["permissionPatterns"];
    management.ask(http::Method::POST, &format!("/api/definitions/{vhost}"), Some(topology.clone())).await?;

    let uri = user(management, &stack, vhost, "worker", patterns).await?;
    let passive = [("BROKER__URI", uri.as_str()), ("BROKER__TOPOLOGY", "passive")];
    let mut worker = stack.worker(binary(), &passive).await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 3_000));
    let mut variables = stack.variables();
    variables.insert("RESTORE_WORKER__BROKER__URI".into(), uri);
    for (topology, code, said) in [
        ("passive", 0, "queues are there; not compared, since this user may not declare them: 7"),
        ("declare", 78, "ACCESS_REFUSED"),
    ] {
        variables.insert("RESTORE_WORKER__BROKER__TOPOLOGY".into(), topology.into());
        let checked = command_with(&variables, &["check"], b"").await?;
        assert!(checked.code == Some(code) && checked.stdout.contains(said), "{topology}: {checked:?}");
    }
    let uri = user(management, &stack, vhost, "emitter", patterns).await?;
    variables.insert("RESTORE_WORKER__BROKER__URI".into(), uri.clone());
    let jobs = jsonl([create_job("j-1", &mailbox, "1.fts"), create_job("j-2", &mailbox, "2.fts")]);
    let submitted = command_with(&variables, &["submit", "-", "--wait"], jobs.as_bytes()).await?;
    assert!(submitted.stdout.contains("1 succeeded (2.9 KiB), 1 failed (blob_not_found 1)"), "{submitted:?}");
    assert_eq!(stack.exchange.items(&mailbox).len(), 1);
    let letters = command_with(&variables, &["dead-letters", "list"], b"").await?;
    assert_eq!(letters.code, Some(77), "no emitter reads the dead letters: {letters:?}");

    // The reply queue of submit is gone: the event of the next round goes to the results, which the emitter reads.
    stack.store("2.fts", &ItemSpec::mail(2, 3_000));
    let mut emitter = Emitter::connect(&uri, "restore").await?;
    let uri = user(management, &stack, vhost, "operator", patterns).await?;
    variables.insert("RESTORE_WORKER__BROKER__URI".into(), uri);
    let replayed = command_with(&variables, &["dead-letters", "replay"], b"").await?;
    assert!(replayed.stdout.starts_with("1 jobs sent back"), "{replayed:?}");
    let event = emitter.next_result().await?.json()?;
    assert_eq!((&event["jobId"], &event["status"]), (&json!("j-2"), &json!("succeeded")), "{event:#}");
    let refused = command_with(&variables, &["submit", "-", "--wait"], jobs.as_bytes()).await?;
    assert_eq!(refused.code, Some(77), "no operator declares reply queues: {refused:?}");
    assert!(worker.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaring_worker_needs_no_more_than_its_rights() -> Result<()> {
    let vhost = "a_declaring_worker";
    let stack = stack(vhost).await?;
    let management = broker().await?.management().context("the management plugin")?;
    let mut variables = stack.variables();
    variables.insert("RESTORE_WORKER__FLEET__MODE".into(), "sharded".into());
    variables.insert("RESTORE_WORKER__FLEET__SHARDS".into(), "3".into());
    let topology: Value = serde_json::from_str(&printed("topology", &variables).await?)?;
    let uri = user(management, &stack, vhost, "declaringWorker", &topology["permissionPatterns"]).await?;
    let more = [("BROKER__URI", uri.as_str()), ("FLEET__MODE", "sharded"), ("FLEET__SHARDS", "3")];
    let mut worker = stack.worker(binary(), &more).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("1.fts", &ItemSpec::mail(1, 3_000));
    emitter.publish(&create_job("j-1", &mailbox, "1.fts")).await?;
    assert_eq!(emitter.next_result().await?.json()?["status"], "succeeded");
    // What it has declared is what is printed for those who declare by other means.
    let declared = management.get(&format!("/api/definitions/{vhost}")).await?;
    let names = |definitions: &Value| {
        let queues = definitions["queues"].as_array().into_iter().flatten();
        queues
            .filter(|queue| !queue["name"].as_str().is_some_and(|name| name.contains(".echo.")))
            .map(|queue| (queue["name"].to_string(), queue["arguments"].clone()))
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(names(&declared), names(&topology));
    assert!(worker.terminate().await?.success());
    Ok(())
}
