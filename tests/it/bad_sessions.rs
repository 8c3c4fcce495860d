//! Answers of `createImportSession` that are none, or lead astray: each job ends with the right reason or well, nothing is
//! leaked, and neighbours succeed.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use restore_sandbox::{
    emitter::Emitter,
    exchange::{Answer, Cut, Effect, Fault, Gate, Operation, Options, Part, UrlTwist, When},
    fts::ItemSpec,
    stack::{Stack, create_job, exchange_options},
};
use serde_json::{Value, json};

use crate::support::{binary, stack, stack_with};

/// What must not be seen anywhere: it stands in every answer that is made here.
const SECRET: &str = "authtoken=eyJzZWNyZXQ";

/// A session's answer, 200, whose body is this.
fn body(body: impl Into<bytes::Bytes>) -> Effect {
    Effect::AnswerInstead(Answer::status(200).header("content-type", "application/json").body(body))
}

fn url(url: &str) -> Effect {
    body(json!({"importUrl": url, "expirationDateTime": "2099-01-01T00:00:00Z"}).to_string())
}

/// What the first request for a session is answered with, how its job ends, and after how many attempts (0: whatever).
fn answers() -> Vec<(&'static str, Effect, &'static str, u64)> {
    let refused = |status, code: &str, text: &str| Effect::AnswerInstead(Answer::error(status, code, text));
    let elsewhere = format!("https://elsewhere.example/x?{SECRET}");
    vec![
        // Passing: another attempt does it.
        ("not-json", Effect::NotJson, "succeeded", 2),
        ("empty", body(""), "succeeded", 2),
        ("list", body(format!("[\"{elsewhere}\"]")), "succeeded", 2),
        // Its head may be lost with its end: then it is a cut connection.
        ("half", Effect::HalfAnswer, "succeeded", 0),
        ("huge", Effect::HugeAnswer { bytes: 4_000_000 }, "succeeded", 2),
        ("huge-json", body(format!("{{\"importUrl\":\"{}\"}}", "x".repeat(1 << 20))), "succeeded", 2),
        ("deep", body(format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000))), "succeeded", 2),
        ("not-utf8", body(&b"{\"importUrl\":\"https://\xff\xfe\"}"[..]), "succeeded", 2),
        ("no-url", body(json!({"expirationDateTime": "2099-01-01T00:00:00Z"}).to_string()), "succeeded", 2),
        ("null-url", body(json!({"importUrl": null}).to_string()), "succeeded", 2),
        ("url-as-list", body(json!({"importUrl": [elsewhere]}).to_string()), "succeeded", 2),
        ("204", Effect::AnswerInstead(Answer::status(204)), "succeeded", 2),
        ("409", refused(409, "ErrorX", &format!("The mailbox has moved: {elsewhere}")), "succeeded", 2),
        // Only an import is redirected so; nothing is opened, nor sent, there.
        (
            "409-redirect",
            refused(409, "", "Invalid import session. The target session is expected in mailbox MBX:calm@x."),
            "succeeded",
            2,
        ),
        ("307", Effect::AnswerInstead(Answer::redirect(307, &elsewhere)), "succeeded", 2),
        ("308", Effect::AnswerInstead(Answer::redirect(308, &elsewhere)), "succeeded", 2),
        ("418", refused(418, "ErrorTeapot", &elsewhere), "succeeded", 2),
        // A cut connection is asked again on another, within the attempt.
        ("cut", Effect::CutAfter(Cut::Reset), "succeeded", 1),
        // Good enough.
        ("pascal", Effect::PascalCase, "succeeded", 1),
        ("no-expiry", Effect::Expiration(None), "succeeded", 1),
        ("past-expiry", Effect::Expiration(Some("1601-01-01T00:00:00Z".into())), "succeeded", 1),
        ("far-expiry", Effect::Expiration(Some("9999-12-31T23:59:59.9999999Z".into())), "succeeded", 1),
        ("odd-expiry", Effect::Expiration(Some("tomorrow, perhaps".into())), "succeeded", 1),
        ("number-expiry", Effect::Expiration(Some("1924-02-30T99:00:00+99:99".into())), "succeeded", 1),
        // Led astray: nothing is sent there, ever.
        (
            "foreign-host",
            Effect::ImportUrl(UrlTwist::Host("elsewhere.example".into())),
            "import_host_not_allowed",
            0,
        ),
        ("http", Effect::ImportUrl(UrlTwist::Http), "import_host_not_allowed", 0),
        (
            "userinfo",
            url(&format!("https://outlook.office365.com@elsewhere.example/x?{SECRET}")),
            "import_host_not_allowed",
            0,
        ),
        ("file", url(&format!("file:///etc/passwd?{SECRET}")), "import_host_not_allowed", 0),
        ("no-url-at-all", url(&format!("nonsense {SECRET}")), "session_rejected", 0),
        // Refused.
        ("403", refused(403, "ErrorAccessDenied", "Access is denied."), "mailbox_forbidden", 0),
        ("404", refused(404, "ErrorInvalidUser", &elsewhere), "mailbox_not_found", 0),
        (
            "archive",
            refused(400, "ErrorInvalidOperation", "Operation on Archive mailbox not allowed."),
            "archive_unsupported",
            0,
        ),
    ]
}

fn end(event: &Value) -> &str {
    event["error"]["code"].as_str().or(event["status"].as_str()).unwrap_or_default()
}

/// One after the other: several jobs that fail at once would make Exchange look away.
async fn one(stack: &Stack, emitter: &mut Emitter, job: Value) -> Result<Value> {
    let id = job["jobId"].clone();
    emitter.publish(&job).await?;
    let told = emitter.next_result().await?.json()?;
    anyhow::ensure!(told["jobId"] == id, "{told:#}");
    assert_eq!(stack.exchange.violations(), Vec::<String>::new(), "{id}");
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_that_is_answered_badly_is_told_for_what_it_is() -> Result<()> {
    let stack = stack("bad_sessions").await?;
    let mut worker = stack.worker(binary(), &[("LOG__LEVEL", "trace")]).await?;
    let mut emitter = stack.emitter().await?;
    let calm = stack.mailbox("calm");
    stack.store("item", &ItemSpec::mail(1, 9_000));
    let mut all = BTreeMap::new();
    for (name, effect, wanted, attempts) in answers() {
        let mailbox = stack.mailbox(name);
        stack.exchange.add_fault(Fault::new(Operation::OpenSession, effect).mailbox(mailbox.clone()))?;
        let context = || format!("{name}: {}", worker.output());
        let told =
            one(&stack, &mut emitter, create_job(name, &mailbox, "item")).await.with_context(context)?;
        assert_eq!(end(&told), wanted, "{name}: {told:#}");
        let items = stack.exchange.items(&mailbox).len();
        assert_eq!(items, usize::from(wanted == "succeeded"), "{name}");
        if attempts > 0 {
            assert_eq!(told["attempts"], attempts, "{name}: {told:#}\n{}", worker.output());
        }
        let neighbour = format!("beside-{name}");
        let beside = one(&stack, &mut emitter, create_job(&neighbour, &calm, "item")).await?;
        assert_eq!(end(&beside), "succeeded", "{name}: {beside:#}");
        all.insert(name, told);
    }
    assert!(worker.terminate().await?.success());
    let letters = emitter.take_all("restore.dead-letters").await?;
    let letters: Vec<_> =
        letters.iter().map(|l| format!("{:?}{}", l.headers, String::from_utf8_lossy(&l.body))).collect();
    let everything = format!("{}\n{all:?}\n{letters:?}", worker.output());
    for secret in stack.exchange.secrets().iter().map(String::as_str).chain(["eyJzZWNyZXQ", "authtoken=ey"]) {
        assert!(!everything.contains(secret), "{secret:.12}… was printed");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_answered_201_is_as_good_as_one_answered_200() -> Result<()> {
    let options = Options { session_status: 201, ..exchange_options() };
    let stack = stack_with("bad_sessions_201", options).await?;
    let _worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    stack.store("item", &ItemSpec::mail(1, 9_000));
    let told = one(&stack, &mut emitter, create_job("created", &stack.mailbox("anna"), "item")).await?;
    assert_eq!((end(&told), &told["attempts"]), ("succeeded", &json!(1)), "{told:#}");
    Ok(())
}

/// HTTP/2 puts all mailboxes' requests on one connection: its end is no outage.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_to_graph_costs_nobody_an_attempt() -> Result<()> {
    const MANY: u64 = 6;
    let stack = stack("cut_graph_connection").await?;
    let mut worker = stack.worker(binary(), &[]).await?;
    let mut emitter = stack.emitter().await?;
    stack.store("item", &ItemSpec::mail(1, 9_000));
    for (name, cut) in [("close", Cut::Close), ("reset", Cut::Reset)] {
        let gate = Gate::new();
        let held = Fault::new(Operation::OpenSession, Effect::Wait(When::Open(gate.clone())));
        stack.exchange.add_fault(held.times(MANY))?;
        let jobs = (0..MANY).map(|n| format!("{name}-{n}"));
        emitter.publish_all(jobs.map(|id| create_job(&id, &stack.mailbox(&id), "item"))).await?;
        gate.arrived(MANY).await;
        stack.exchange.cut_connections(Part::Graph, cut);
        gate.open();
        for (id, events) in
            emitter.results_of(usize::try_from(MANY)?).await.with_context(|| worker.output())?
        {
            let told = (end(&events[0]), &events[0]["attempts"]);
            assert_eq!(told, ("succeeded", &json!(1)), "{id}: {:#}", events[0]);
        }
    }
    assert!(worker.terminate().await?.success());
    assert!(!worker.output().contains("away"), "{}", worker.output());
    Ok(())
}

/// A wrong `exchange.import_hosts`, or a host that Microsoft has moved, is nobody's job's trouble.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_host_that_no_mailbox_may_use_buries_two_jobs_and_not_all() -> Result<()> {
    const MANY: usize = 8;
    let stack = stack("import_hosts").await?;
    let mut wrong = stack.worker(binary(), &[("EXCHANGE__IMPORT_HOSTS", "elsewhere.example")]).await?;
    let mut emitter = stack.emitter().await?;
    stack.store("item", &ItemSpec::mail(1, 9_000));
    let jobs = (0..MANY).map(|n| format!("job-{n}"));
    emitter.publish_all(jobs.map(|id| create_job(&id, &stack.mailbox(&id), "item"))).await?;
    let refused = emitter.results_of(2).await.with_context(|| wrong.output())?;
    assert!(refused.values().all(|events| end(&events[0]) == "import_host_not_allowed"), "{refused:?}");
    wrong.logs("away: several mailboxes").await?;
    assert!(wrong.terminate().await?.success());
    let right = stack.worker(binary(), &[]).await?;
    for (id, events) in emitter.results_of(MANY - 2).await.with_context(|| right.output())? {
        assert_eq!(
            (end(&events[0]), &events[0]["attempts"]),
            ("succeeded", &json!(1)),
            "{id}: {:#}",
            events[0]
        );
    }
    Ok(())
}
