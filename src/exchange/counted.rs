//! What the metrics say of requests: to sign-in, Graph and the import host.

use std::time::Duration;

use crate::{
    domain::{Fault, Limit, RestoreError},
    metrics::Metrics,
};

/// Every request, as its label `operation` names it.
const OPERATIONS: [&str; 6] = ["token", "probe", "create_session", "import", "list_items", "read_item"];

/// The counters of requests, before anything has happened. Statuses are no closed list: shown are no answer, and the one that an
/// alert waits for.
pub(super) fn at_zero(metrics: &Metrics) {
    Metrics::at_zero(&metrics.graph_requests, OPERATIONS.map(|operation| [operation, "error"]));
    Metrics::at_zero(&metrics.graph_requests, [["token", "401"]]);
    Metrics::at_zero(&metrics.throttled, Limit::ALL.map(|limit| [limit.as_str()]));
}

/// Feeds both request metrics.
pub(super) fn count(metrics: &Metrics, operation: &str, status: &str, took: Duration) {
    metrics.graph_requests.with_label_values(&[operation, status]).inc();
    metrics.graph_request_duration.with_label_values(&[operation]).observe(took.as_secs_f64());
}

/// Feeds the metric of named limits.
pub(super) fn count_limit(metrics: &Metrics, error: &RestoreError) {
    if let Fault::Throttled { limit, .. } = error.fault {
        metrics.throttled.with_label_values(&[limit.as_str()]).inc();
    }
}
