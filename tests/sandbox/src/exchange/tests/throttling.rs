//! Limits per application and mailbox.

use super::super::{Effect, Fault, Gate, Limits, Operation, RetryAfter, When};
use super::*;

fn limits(mut limits: Limits) -> Options {
    limits.graph_counts = false;
    Options { limits, ..Options::default() }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

#[tokio::test]
async fn bytes_are_limited_in_each_mailbox_alone() -> Result<()> {
    let body = create("k").to_string().len() as u64;
    let stage = Stage::with(limits(Limits { bytes: 2 * body, ..Limits::default() })).await?;
    let url = stage.session(MAILBOX).await?;
    for _ in 0..2 {
        assert_eq!(stage.post(&url, &create("k")).send().await?.status(), 200);
    }
    let response = stage.post(&url, &create("k")).send().await?;
    assert_eq!(response.status(), 429);
    let seconds: u64 = header(&response, "retry-after").context("no Retry-After")?.parse()?;
    assert!((295..=302).contains(&seconds), "{seconds}");
    assert_eq!(header(&response, "rate-limit-reason"), Some("IncomingBytes"));
    assert!(header(&response, "ratelimit-exceeded").is_some());
    assert!(response.text().await?.contains("Application is over its IncomingBytes limit."));
    let other = stage.session(OTHER).await?;
    assert_eq!(stage.post(&other, &create("k")).send().await?.status(), 200);
    let usage = stage.exchange.usage(APP, MAILBOX);
    assert_eq!((usage.bytes, usage.refused_bytes, usage.windows.first()), (2 * body, 1, Some(&(2 * body))));
    assert!((stage.exchange.utilisation(APP, MAILBOX) - 1.0).abs() < 1e-9);
    stage.exchange.until(|e| e.usage(APP, MAILBOX).bytes_after_refusal == body).await;
    stage.no_violations()
}

#[tokio::test]
async fn a_scaled_window_slides() -> Result<()> {
    let body = create("k").to_string().len() as u64;
    let limits = Limits { bytes: body, bytes_window: Duration::from_millis(100), ..Limits::default() };
    let stage = Stage::with(Options { read_refused: false, ..self::limits(limits) }).await?;
    let url = stage.session(MAILBOX).await?;
    let mut stored = 0;
    while stored < 3 {
        let status = stage.post(&url, &create("k")).send().await?.status();
        stored += u32::from(status == 200);
    }
    let usage = stage.exchange.usage(APP, MAILBOX);
    assert!(usage.refused_bytes > 0 && usage.age_ms >= 200, "{usage:?}");
    stage.no_violations()
}

#[tokio::test]
async fn requests_are_limited_and_a_date_may_say_until_when() -> Result<()> {
    let limits = Limits { requests: 1, retry_after: RetryAfter::Date, ..Limits::default() };
    let stage = Stage::with(self::limits(limits)).await?;
    let url = stage.session(MAILBOX).await?;
    assert_eq!(stage.post(&url, &create("k")).send().await?.status(), 200);
    let response = stage.post(&url, &create("k")).send().await?;
    assert_eq!(response.status(), 429);
    assert!(header(&response, "retry-after").is_some_and(|date| date.ends_with(" GMT")));
    stage.no_violations()
}

#[tokio::test]
async fn four_at_once_are_the_most() -> Result<()> {
    let stage = Stage::new().await?;
    let url = stage.session(MAILBOX).await?;
    let gate = Gate::new();
    let held = Effect::WaitAfter(When::Open(gate.clone()));
    stage.exchange.add_fault(Fault::new(Operation::Import, held).always())?;
    let held: Vec<_> = (0..4).map(|_| tokio::spawn(stage.post(&url, &create("k")).send())).collect();
    gate.arrived(4).await;
    let response = stage.post(&url, &create("k")).send().await?;
    assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (429, Some("1")));
    assert!(response.text().await?.contains("Application is over its MailboxConcurrency limit."));
    gate.open();
    for request in held {
        assert_eq!(request.await??.status(), 200);
    }
    stage.exchange.until(|e| e.usage(APP, MAILBOX).at_work == 0).await;
    assert_eq!(stage.exchange.usage(APP, MAILBOX).peak_concurrency, 4);
    stage.no_violations()
}

#[tokio::test]
async fn a_tenant_is_throttled_by_script() -> Result<()> {
    let stage = Stage::new().await?;
    let url = stage.session(MAILBOX).await?;
    let faults = stage.exchange.throttle_tenant(TENANT, Some(Duration::from_secs(7)))?;
    let response = stage.post(&url, &create("k")).send().await?;
    assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (429, Some("7")));
    assert_eq!(stage.session_request("v1.0", OTHER).send().await?.status(), 429);
    stage.exchange.throttle(None, "Application", None)?;
    assert_eq!(stage.look(&format!("{MAILBOX}/folders")).await?.status(), 429);
    stage.exchange.clear_faults();
    for fault in faults {
        stage.exchange.clear_fault(fault);
    }
    assert_eq!(stage.post(&url, &create("k")).send().await?.status(), 200);
    stage.no_violations()
}
