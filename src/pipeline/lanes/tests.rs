//! The shell, under a paused clock.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::{Entry, Heard, LanePass, Lanes, Refused, Settings, Why};
use crate::{
    domain::{Limit, MailboxId, TenantId, ThrottleScope},
    metrics::Metrics,
};

const SETTINGS: Settings = Settings {
    in_flight: 8,
    per_mailbox: 2,
    window_bytes: 1_000,
    window_requests: 100,
    every_bytes: Duration::from_mins(5),
    every_requests: Duration::from_mins(10),
    share: 1.0,
    hold: 64,
    hold_per_shard: 16,
};

fn tenant() -> TenantId {
    TenantId::parse("contoso.com").expect("a domain")
}

fn mailbox(n: u32) -> MailboxId {
    MailboxId::parse(&format!("MBX:{n}")).expect("a segment")
}

fn lanes() -> Lanes {
    Lanes::new(SETTINGS, Arc::new(Metrics::register("0", "0").expect("registers")))
}

async fn enter(lanes: &Lanes, n: u32, bytes: u64) -> LanePass {
    let (tenant, mailbox) = (tenant(), mailbox(n));
    tokio::select! {
        pass = lanes.enter(Entry::new(&tenant, &mailbox, bytes)) => pass.expect("may wait"),
        () = lanes.run() => unreachable!("never ends"),
    }
}

fn throttled(scope: ThrottleScope, seconds: u64) -> Heard {
    let retry_after = Some(Duration::from_secs(seconds));
    Heard::Throttled { scope, limit: Limit::IncomingBytes, retry_after }
}

#[tokio::test(start_paused = true)]
async fn a_place_is_freed_when_the_pass_is_dropped() {
    let lanes = lanes();
    let (first, _second) = (enter(&lanes, 1, 1).await, enter(&lanes, 1, 1).await);
    assert!(timeout(Duration::from_secs(1), enter(&lanes, 1, 1)).await.is_err(), "two places");
    assert_eq!(lanes.shared.metrics.jobs_in_flight.get(), 2);
    drop(first);
    let _third = timeout(Duration::from_secs(1), enter(&lanes, 1, 1)).await.expect("a place is free");
}

#[tokio::test(start_paused = true)]
async fn a_job_wakes_exactly_when_the_window_has_room() {
    let lanes = lanes();
    drop(enter(&lanes, 1, 900).await);
    let start = Instant::now();
    drop(enter(&lanes, 1, 900).await);
    let waited = start.elapsed();
    assert!(waited > Duration::from_mins(5) && waited < Duration::from_secs(301), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_is_given_back() {
    let lanes = lanes();
    let mut pass = enter(&lanes, 1, 900).await;
    pass.unused();
    drop(pass);
    let mut pass = timeout(Duration::from_secs(1), enter(&lanes, 1, 900)).await.expect("room");
    pass.adjust(100);
    let _other =
        timeout(Duration::from_secs(1), enter(&lanes, 1, 900)).await.expect("room, after the correction");
}

#[tokio::test(start_paused = true)]
async fn a_limit_pauses_what_it_names_and_nothing_else() {
    let lanes = lanes();
    lanes.hear(&tenant(), &mailbox(1), throttled(ThrottleScope::Mailbox, 20));
    let start = Instant::now();
    drop(enter(&lanes, 2, 1).await);
    assert_eq!(start.elapsed(), Duration::ZERO);
    drop(enter(&lanes, 1, 1).await);
    assert_eq!(start.elapsed().as_secs(), 20);
    lanes.hear(&tenant(), &mailbox(1), throttled(ThrottleScope::Tenant, 40));
    drop(enter(&lanes, 2, 1).await);
    assert_eq!(start.elapsed().as_secs(), 60);
    lanes.hear(&tenant(), &mailbox(1), throttled(ThrottleScope::App, 30));
    drop(enter(&lanes, 3, 1).await);
    assert_eq!(start.elapsed().as_secs(), 90);
    assert_eq!(lanes.snapshot(10, None).places, 4);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_future_leaves_the_row_and_its_pass_goes_back() {
    let lanes = lanes();
    let (tenant, mailbox) = (tenant(), mailbox(1));
    let (a, b) = (enter(&lanes, 1, 1).await, enter(&lanes, 1, 1).await);
    let mut waiting = Box::pin(lanes.enter(Entry::new(&tenant, &mailbox, 500)));
    assert!(timeout(Duration::from_millis(1), &mut waiting).await.is_err());
    assert_eq!(lanes.snapshot(1, Some("MBX:1")).lanes[0].waiting, 1);
    assert_eq!(lanes.snapshot(1, None).lanes[0].waits_for, Some(Why::Slot));
    assert!(lanes.oldest_waiting().is_some());
    drop(a);
    // Admitted now, but nobody polls it any more.
    drop(waiting);
    drop(b);
    let lane = &lanes.snapshot(1, None).lanes[0];
    assert_eq!((lane.waiting, lane.in_flight, lane.bytes_spent), (0, 0, 2));
    assert_eq!(lanes.oldest_waiting(), None);
}

#[tokio::test(start_paused = true)]
async fn who_may_not_wait_enters_at_once_or_is_sent_to_sleep() {
    let lanes = lanes();
    let (tenant, mailbox) = (tenant(), mailbox(1));
    let entry = Entry { may_hold: false, ..Entry::new(&tenant, &mailbox, 900) };
    drop(lanes.enter(entry).await.expect("there is room"));
    let Refused::Park { after, why, .. } = lanes.enter(entry).await.expect_err("there is no room");
    // Seven eighths of the window and of the two grains at its end: its own quota alone decides.
    assert_eq!((after.as_secs(), why), (263, Why::Quota));
    lanes.hear(&tenant, &mailbox, throttled(ThrottleScope::Mailbox, 3_600));
    let Refused::Park { after, why, .. } = lanes.enter(entry).await.expect_err("it is paused");
    // Half of the pause and of what the job that was sent away before needs, since the share may recover.
    assert!((1_800..2_100).contains(&after.as_secs()), "{after:?}");
    assert_eq!(why, Why::Throttled);
    assert_eq!(lanes.shared.metrics.lanes.with_label_values(&["paused"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_wish_beyond_all_time_breaks_nothing() {
    let lanes = lanes();
    let heard = Heard::Throttled {
        scope: ThrottleScope::Mailbox,
        limit: Limit::Other,
        retry_after: Some(Duration::MAX),
    };
    lanes.hear(&tenant(), &mailbox(1), heard);
    assert!(timeout(Duration::from_hours(24), enter(&lanes, 1, 1)).await.is_err());
    drop(enter(&lanes, 2, 1).await);
}
