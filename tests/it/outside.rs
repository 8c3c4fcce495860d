//! What is seen from outside: health, metrics, log lines, exit codes; and what never is: secrets.

use anyhow::Result;
use restore_sandbox::{
    exchange::{Effect, Fault, Operation},
    fts::ItemSpec,
    s3::SECRET_KEY,
    stack::{CLIENT_SECRET, create_job},
};

use crate::support::{binary, stack};

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_log_lines_without_a_secret() -> Result<()> {
    let stack = stack("outside").await?;
    let mut worker =
        stack.worker(binary(), &[("LOG__LEVEL", "trace"), ("EXCHANGE__REQUEST_TIMEOUT", "2s")]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.exchange.add_fault(Fault::new(Operation::Import, Effect::EndSession { status: 403 }).skip(1))?;
    stack.exchange.add_fault(Fault::new(Operation::Import, Effect::NotJson).skip(2))?;
    let mut jobs = Vec::new();
    for n in 0..5 {
        stack.store(&format!("{n}"), &ItemSpec::mail(n, 9_000));
        jobs.push(create_job(&format!("j-{n}"), &mailbox, &format!("{n}")));
    }
    jobs.push(create_job("missing", &mailbox, "missing"));
    let count = emitter.publish_all(jobs).await?;
    let results = emitter.results_of(count).await?;
    let letters = emitter.dead_letters(1).await?;
    for (path, says) in [("/livez", "ok"), ("/readyz", "ok"), ("/readyz?verbose", "[+] consuming ok")] {
        let (status, text) = worker.get(path).await?;
        assert!(status == 200 && text.contains(says), "{path}: {status} {text}");
    }
    for (name, labels, least) in [
        ("restore_jobs_total", vec!["status=\"succeeded\""], 5.0),
        ("restore_jobs_total", vec!["reason=\"blob_not_found\""], 1.0),
        ("restore_job_duration_seconds_count", vec![], 6.0),
        ("restore_stage_duration_seconds_count", vec!["stage=\"import\""], 5.0),
        ("restore_deliveries_total", vec!["kind=\"first\""], 6.0),
        ("restore_bytes_total", vec!["direction=\"uploaded\""], 40_000.0),
        ("restore_bytes_total", vec!["direction=\"fetched\""], 40_000.0),
        ("restore_graph_requests_total", vec!["operation=\"import\""], 5.0),
        ("restore_sessions_total", vec!["event=\"opened\""], 1.0),
        ("restore_ledger_operations_total", vec!["operation=\"claim\""], 5.0),
        ("restore_publish_total", vec!["kind=\"event\""], 6.0),
        ("restore_consumer_state", vec!["state=\"running\""], 1.0),
        ("restore_broker_connected", vec![], 1.0),
        ("restore_last_success_timestamp_seconds", vec![], 1.0),
        ("restore_build_info", vec![], 1.0),
        ("restore_fleet_mode", vec!["mode=\"shared\""], 1.0),
        ("process_resident_memory_bytes", vec![], 1.0),
    ] {
        let value = worker.metric(name, &labels).await?;
        assert!(value >= least, "{name}{labels:?} is {value}");
    }
    let (_, metrics) = worker.get("/metrics").await?;
    assert!(worker.terminate().await?.success());
    let ends: Vec<_> = worker.log_lines().into_iter().filter(|line| line["message"] == "job ended").collect();
    assert!(
        ends.len() >= 6
            && ends
                .iter()
                .all(|l| l["job_id"].is_string() && l["status"].is_string() && l["mailbox"].is_string()),
        "{ends:#?}"
    );
    let letters: Vec<_> =
        letters.iter().map(|l| format!("{:?}{}", l.headers, String::from_utf8_lossy(&l.body))).collect();
    let everything = format!("{}\n{metrics}\n{results:?}\n{letters:?}", worker.output());
    let mut secrets = stack.exchange.secrets();
    secrets.extend([CLIENT_SECRET.to_owned(), SECRET_KEY.to_owned(), "authtoken=".to_owned()]);
    assert!(secrets.len() > 4);
    for secret in secrets {
        assert!(!everything.contains(&secret), "{secret:.12}… was printed");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_be_says_why_and_exits_as_documented() -> Result<()> {
    let stack = stack("exit_codes").await?;
    for (name, more, code, says) in [
        (
            "configuration",
            vec![("BROKER__PREFETCH", "none"), ("LANES__SHARE", "7")],
            78,
            "broker.prefetch: must be a number",
        ),
        ("client secret", vec![("IDENTITY__CLIENT_SECRET", "wrong")], 77, "AADSTS7000215"),
        (
            "storage keys",
            vec![("STORAGE__REGION", "us-east-1"), ("BROKER__USERNAME", "nobody")],
            77,
            "the broker refuses us",
        ),
        (
            "broker away",
            vec![("BROKER__URI", "amqp://127.0.0.1:1/%2f"), ("STARTUP__WAIT", "1s")],
            69,
            "startup.wait is over",
        ),
        ("ledger bucket", vec![("LEDGER__BUCKET", "no-such-bucket")], 78, "ledger.bucket"),
    ] {
        let mut worker = stack.spawn(binary(), &more)?;
        let status = worker.wait().await?;
        let output = worker.output();
        assert_eq!(status.code(), Some(code), "{name}: {output}");
        assert!(
            output.contains(says) && !output.contains("stack backtrace") && !output.contains(CLIENT_SECRET),
            "{name}: {output}"
        );
    }
    Ok(())
}
