//! What `/lanes` shows: the worker's places, and what each busy mailbox waits for.

use super::{
    core::Core,
    lane::{Lane, SHARES, State, Why},
    window::Millis,
};

/// All lanes at one moment.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Jobs at work.
    pub in_flight: u32,
    /// The worker's places now: fewer than configured after a limit of the app was named.
    pub places: u32,
    /// Seconds that the whole app is paused.
    pub paused_for: f64,
    /// Seconds that the oldest job has waited in memory.
    pub oldest_waiting: f64,
    /// Mailboxes known, idle ones included.
    pub known: usize,
    /// Tenants that are paused.
    pub paused_tenants: Vec<PausedTenant>,
    /// The busiest mailboxes, or the one asked for.
    pub lanes: Vec<LaneSnapshot>,
}

/// A tenant that is paused.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PausedTenant {
    /// Which.
    pub tenant: String,
    /// For how many seconds.
    pub paused_for: f64,
}

/// One mailbox.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneSnapshot {
    /// Whose.
    pub tenant: String,
    /// Which.
    pub mailbox: String,
    /// What its next job waits for; absent when none waits.
    pub waits_for: Option<Why>,
    /// Seconds until that ends by time alone, if it does.
    pub ready_in: Option<f64>,
    /// Jobs at work.
    pub in_flight: u32,
    /// Its places now.
    pub places: u32,
    /// Jobs waiting in memory.
    pub waiting: u64,
    /// Bytes of their requests.
    pub waiting_bytes: u64,
    /// Jobs believed to sleep in the broker.
    pub parked: u64,
    /// Seconds that it is paused.
    pub paused_for: f64,
    /// The part of the windows it uses now, 0..1.
    pub share: f64,
    /// Whether a job that does not fit keeps the others back.
    pub reserved: bool,
    /// Bytes spent within the window.
    pub bytes_spent: u64,
    /// Bytes allowed within the window.
    pub bytes_allowed: u64,
    /// Requests spent within the window.
    pub requests_spent: u64,
    /// Requests allowed within the window.
    pub requests_allowed: u64,
}

impl<T> Core<T> {
    /// What is going on: at most `top` of the busiest lanes, or only those of one mailbox. Costs time in proportion to all lanes.
    pub fn snapshot(&mut self, now: Millis, top: usize, mailbox: Option<&str>) -> Snapshot {
        self.advance(now);
        let wanted = |lane: &&Lane<T>| {
            mailbox.is_none_or(|wanted| lane.name.split_once('/').is_some_and(|n| n.1 == wanted))
        };
        let mut lanes: Vec<_> = self.lanes.iter().filter(wanted).collect();
        let busy = |lane: &&Lane<T>| std::cmp::Reverse((lane.waiting() + lane.parked.jobs, lane.at_work));
        if lanes.len() > top {
            lanes.select_nth_unstable_by_key(top, busy);
            lanes.truncate(top);
        }
        lanes.sort_by_key(busy);
        let paused = |tenant: &&super::tenant::Tenant| tenant.paused_until > now;
        Snapshot {
            in_flight: self.at_work,
            places: self.places.level(),
            paused_for: seconds(self.paused_until.since(now)),
            oldest_waiting: self.oldest_waiting().map_or(0.0, |at| seconds(now.since(at))),
            known: self.known(),
            paused_tenants: self
                .tenants
                .iter()
                .filter(paused)
                .take(top)
                .map(|tenant| PausedTenant {
                    tenant: tenant.name.to_string(),
                    paused_for: seconds(tenant.paused_until.since(now)),
                })
                .collect(),
            lanes: lanes.into_iter().map(|lane| self.show(lane, now)).collect(),
        }
    }

    fn show(&self, lane: &Lane<T>, now: Millis) -> LaneSnapshot {
        let (tenant, mailbox) = lane.name.split_once('/').unwrap_or_default();
        let above = self.paused_until.max(self.tenants[lane.tenant].paused_until);
        let (waits_for, until) = match lane.peek(now, &self.rules) {
            State::Idle(_) | State::Busy => (None, None),
            _ if above > now => (Some(Why::Throttled), Some(above.max(lane.paused_until))),
            State::Ready => (Some(Why::Slot), None),
            State::Blocked(why, until) => (Some(why), until),
        };
        let [(bytes_spent, bytes_allowed), (requests_spent, requests_allowed)] = lane.spending(&self.rules);
        LaneSnapshot {
            tenant: tenant.into(),
            mailbox: mailbox.into(),
            waits_for,
            ready_in: until.map(|at| seconds(at.since(now))),
            in_flight: lane.at_work,
            places: lane.places(now, &self.rules),
            waiting: lane.waiting(),
            waiting_bytes: lane.waiting_bytes(),
            parked: lane.parked.jobs,
            paused_for: seconds(lane.paused_until.since(now)),
            share: f64::from(lane.share.level()) / f64::from(SHARES),
            reserved: lane.is_reserved(),
            bytes_spent,
            bytes_allowed,
            requests_spent,
            requests_allowed,
        }
    }
}

fn seconds(millis: u64) -> f64 {
    std::time::Duration::from_millis(millis).as_secs_f64()
}
