//! What is seen from outside: health, metrics, log lines, exit codes; and what never is: secrets.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use restore_sandbox::{
    exchange::{Answer, Cut, Effect, Fault, Gate, Operation, UrlTwist, When},
    fts::{Broken, ItemSpec, broken},
    s3::{self, SECRET_KEY},
    stack::{BLOBS, CLIENT_SECRET, Stack, create_job},
    worker::Worker,
};

use crate::support::{binary, broker, stack};

/// The series of our counters.
fn counters(metrics: &str) -> BTreeSet<String> {
    let series = metrics.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series);
    let ours = series.filter(|series| series.starts_with("restore_") && series.contains("_total"));
    ours.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_log_lines_without_a_secret() -> Result<()> {
    let stack = stack("outside").await?;
    let mut worker =
        stack.worker(binary(), &[("LOG__LEVEL", "trace"), ("EXCHANGE__REQUEST_TIMEOUT", "2s")]).await?;
    let before = counters(&worker.get("/metrics").await?.1);
    for known in [
        "restore_jobs_total{mode=\"create\",reason=\"mailbox_full\",status=\"failed\"} 0",
        "restore_publish_total{kind=\"event\",outcome=\"unroutable\"} 0",
        "restore_graph_requests_total{operation=\"token\",status=\"401\"} 0",
        "restore_broker_reconnects_total{cause=\"deaf\"} 0",
        "restore_throttled_total{limit=\"incoming_bytes\"} 0",
    ] {
        assert!(worker.get("/metrics").await?.1.contains(known), "{known}: {before:#?}");
    }
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("0", &ItemSpec::mail(0, 9_000));
    emitter.publish(&create_job("j-0", &mailbox, "0")).await?;
    let first = emitter.next_result().await?;
    // Of whoever had just opened the session a refusal would be the mailbox's.
    stack.exchange.add_fault(Fault::new(Operation::Import, Effect::EndSession { status: 403 }))?;
    stack.exchange.add_fault(Fault::new(Operation::Import, Effect::NotJson).skip(1))?;
    let mut jobs = Vec::new();
    for n in 1..5 {
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
        // An end is counted after its event is confirmed, so perhaps after we have read it.
        worker.metric_reaches(name, &labels, least).await?;
    }
    let (_, metrics) = worker.get("/metrics").await?;
    let new: Vec<_> = counters(&metrics).difference(&before).cloned().collect();
    let by_status = |name: &String| name.starts_with("restore_graph_requests_total{");
    assert!(new.iter().all(by_status), "counters that were not there before their first event: {new:#?}");
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
    let everything = format!("{}\n{metrics}\n{first:?}\n{results:?}\n{letters:?}", worker.output());
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

/// A user of its own for the stack's vhost; gives the URI with its password.
async fn with_user(stack: &Stack, name: &str, password: &str) -> Result<String> {
    let management = broker().await?.management().context("a broker with its management plugin")?;
    let uri = stack.uri.parse::<lapin::uri::AMQPUri>().map_err(anyhow::Error::msg)?;
    management.create_user(&uri.vhost, name, password).await?;
    let place = stack.uri.rsplit_once('@').context("a URI with a user")?.1;
    Ok(format!("amqp://{name}:{password}@{place}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failure_prints_a_secret_at_any_level_nor_a_library_its_own_words() -> Result<()> {
    let stack = stack("no_failure_prints_a_secret").await?;
    let (password, session_token) = ("pass~word~of~the~broker", "session~token~of~the~storage");
    let mut variables = stack.variables();
    let uri = with_user(&stack, "secretive", password).await?;
    for (name, value) in [
        ("RESTORE_WORKER__BROKER__URI", &*uri),
        ("RESTORE_WORKER__LOG__LEVEL", "trace"),
        ("RESTORE_WORKER__EXCHANGE__REQUEST_TIMEOUT", "1s"),
        ("RESTORE_WORKER__IN_DOUBT__SETTLE", "1s"),
        ("RESTORE_WORKER__IN_DOUBT__CLOCK_MARGIN", "1s"),
        ("AWS_SESSION_TOKEN", session_token),
    ] {
        variables.insert(name.to_owned(), value.to_owned());
    }
    let mut worker = Worker::spawn(binary(), &variables, &stack.log())?;
    worker.ready().await?;
    let mut emitter = stack.emitter().await?;
    stack.store("good.fts", &ItemSpec::mail(1, 9_000));
    stack.s3.put(BLOBS, "bad.fts", broken(Broken::WrongHead));
    let import = |effect| Fault::new(Operation::Import, effect);
    let session = |effect| Fault::new(Operation::OpenSession, effect);
    let refused = Answer::error(400, "ErrorInvalidRequest", "Refused: https://x/y?authtoken=");
    let faults = [
        import(Effect::Refuse(Answer::too_many("IncomingBytes", Some(Duration::from_secs(1))))),
        import(Effect::EndSession { status: 401 }),
        import(Effect::CutAfter(Cut::Reset)),
        import(Effect::NotJson),
        import(Effect::WithoutItemId),
        import(Effect::HugeAnswer { bytes: 1 << 20 }),
        import(Effect::Refuse(Answer::redirect(307, "https://elsewhere.example/x"))),
        import(Effect::RefuseAfterBody(refused)),
        import(Effect::RefuseAfterBody(Answer::status(500))),
        session(Effect::ImportUrl(UrlTwist::Host("elsewhere.example".into()))),
        session(Effect::ImportUrl(UrlTwist::Http)),
        session(Effect::NotJson),
        session(Effect::Expiration(Some("never".into()))),
        session(Effect::Refuse(Answer::status(401))),
        session(Effect::Refuse(Answer::status(403))),
    ];
    let mut jobs = Vec::new();
    for (n, fault) in faults.into_iter().enumerate() {
        let mailbox = stack.mailbox(&format!("m{n}"));
        stack.exchange.add_fault(fault.mailbox(&mailbox))?;
        jobs.push(create_job(&format!("fault-{n}"), &mailbox, "good.fts"));
    }
    let mailbox = stack.mailbox("anna");
    for key in ["bad.fts", "missing.fts", "good.fts"] {
        jobs.push(create_job(key, &mailbox, key));
    }
    let forbidden = s3::Effect::Answer { status: 403, code: "AccessDenied" };
    stack.s3.faults().add(s3::Fault::new(forbidden).key(&format!("{BLOBS}/forbidden.fts")));
    jobs.push(create_job("forbidden", &mailbox, "forbidden.fts"));
    let count = emitter.publish_all(jobs).await?;
    emitter.publish_raw(b"{\"jobId\":\"no job\"}", lapin::BasicProperties::default()).await?;
    let results = emitter.results_of(count + 1).await.with_context(|| worker.output())?;
    // Tokens that Graph no longer takes, and a storage that refuses our keys: a pause of everything, and its end.
    stack.exchange.invalidate_tokens();
    stack.exchange.end_sessions(None);
    let refused = s3::Effect::Answer { status: 403, code: "SignatureDoesNotMatch" };
    stack.s3.faults().add(s3::Fault::new(refused).always());
    emitter.publish(&create_job("after all", &mailbox, "good.fts")).await?;
    worker.logs("everything is paused").await?;
    stack.s3.faults().clear_all();
    let last = emitter.next_result().await.with_context(|| worker.output())?.json()?;
    assert_eq!(last["status"], "succeeded", "{last:#}");
    let letters = emitter.take_all("restore.dead-letters").await?;
    let letters: Vec<_> =
        letters.iter().map(|l| format!("{:?}{}", l.headers, String::from_utf8_lossy(&l.body))).collect();
    let mut pages = String::new();
    for path in ["/metrics", "/readyz?verbose", "/livez?verbose"] {
        pages += &worker.get(path).await?.1;
    }
    assert!(worker.terminate().await?.success());
    let everything = format!("{}\n{pages}\n{results:?}\n{last}\n{letters:?}", worker.output());
    let mut secrets = stack.exchange.secrets();
    let own = [CLIENT_SECRET, SECRET_KEY, password, session_token, "authtoken=ey"];
    secrets.extend(own.map(ToOwned::to_owned));
    for secret in secrets {
        let at = everything.find(&secret);
        let around = |at: usize| everything.get(at.saturating_sub(400)..at).unwrap_or_default().to_owned();
        assert!(at.is_none(), "{secret:.12}… was printed after {:?}", at.map(around));
    }
    for line in worker.log_lines() {
        let ours = line["target"].as_str().is_some_and(|target| target.starts_with("restore_worker"));
        assert!(ours || line["level"] == "WARN" || line["level"] == "ERROR", "{line:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_in_memory_is_counted_by_what_it_waits_for() -> Result<()> {
    let stack = stack("a_job_that_waits_is_counted").await?;
    let mut worker = stack.worker(binary(), &[("RETRY__HOLD", "1h"), ("RETRY__MAX", "1h")]).await?;
    let mut emitter = stack.emitter().await?;
    let (throttled, other) = (stack.mailbox("throttled"), stack.mailbox("other"));
    stack.store("good.fts", &ItemSpec::mail(1, 4_000));
    let hour = Answer::too_many("MailboxConcurrency", Some(Duration::from_secs(60)));
    stack.exchange.add_fault(Fault::new(Operation::OpenSession, Effect::Refuse(hour)).mailbox(&throttled))?;
    emitter.publish(&create_job("waits", &throttled, "good.fts")).await?;
    let why = ["why=\"throttled\""];
    worker.metric_reaches("restore_jobs_waiting", &why, 1.0).await?;
    // Another lane's coming and going leaves the count alone.
    emitter.publish(&create_job("goes", &other, "good.fts")).await?;
    emitter.next_result().await?;
    let waiting = worker.metric("restore_jobs_waiting", &why).await?;
    assert!((waiting - 1.0).abs() < 0.1, "{waiting}: {}", worker.get("/metrics").await?.1);
    assert!(worker.metric("restore_oldest_job_age_seconds", &[]).await? > 0.0);
    assert!(worker.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_are_back_to_nothing_when_all_is_done() -> Result<()> {
    let stack = stack("gauges_are_back_to_nothing").await?;
    let mut worker = stack.worker(binary(), &[("LANES__IN_FLIGHT", "2")]).await?;
    let mut emitter = stack.emitter().await?;
    let mailbox = stack.mailbox("anna");
    stack.store("good.fts", &ItemSpec::mail(1, 4_000));
    let gate = Gate::new();
    stack
        .exchange
        .add_fault(Fault::new(Operation::Import, Effect::Wait(When::Open(gate.clone()))).times(2))?;
    emitter.publish_all((0..5).map(|n| create_job(&format!("j-{n}"), &mailbox, "good.fts"))).await?;
    gate.arrived(2).await;
    worker.metric_reaches("restore_jobs_waiting", &["why=\"slot\""], 3.0).await?;
    for (name, labels, value) in [
        ("restore_jobs_in_flight", "", 2.0),
        ("restore_slots", "state=\"busy\"", 2.0),
        ("restore_slots", "state=\"free\"", 0.0),
        ("restore_lanes", "state=\"active\"", 1.0),
    ] {
        let found = worker.metric(name, &[labels]).await?;
        assert!((found - value).abs() < 0.1, "{name}{labels} is {found}");
    }
    gate.open();
    emitter.results_of(5).await?;
    worker.metric_reaches("restore_slots", &["state=\"free\""], 2.0).await?;
    let (_, text) = worker.get("/metrics").await?;
    for (name, labels) in [
        ("restore_jobs_in_flight", ""),
        ("restore_jobs_waiting", ""),
        ("restore_slots", "state=\"busy\""),
        ("restore_lanes", "state=\"active\""),
    ] {
        let left: BTreeSet<_> = text
            .lines()
            .filter(|l| l.starts_with(name) && l.contains(labels) && !l.ends_with(" 0"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert!(worker.terminate().await?.success());
    Ok(())
}
