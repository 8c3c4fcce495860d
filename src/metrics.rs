//! Every metric: name, labels, buckets, help. The one list that README, dashboard and alerts are compared with.
//!
//! Any room may feed a metric; none may read one. Labels are closed lists: never a mailbox, tenant, job or bucket.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

/// Seconds; from a request on the same host to the longest upload that the time-outs allow.
const SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];

/// The metrics, registered. Shared as one `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Jobs by end: `mode`, `status`, `reason` (empty on succeeded).
    pub jobs: IntCounterVec,
    /// First reception, or the last replay, to end, by `mode`, `status`.
    pub job_duration: HistogramVec,
    /// Time in each `stage`.
    pub stage_duration: HistogramVec,
    /// Jobs that hold a lane's place.
    pub jobs_in_flight: IntGauge,
    /// Jobs held in memory, by `why`.
    pub jobs_waiting: IntGaugeVec,
    /// The worker's places, by `state`.
    pub slots: IntGaugeVec,
    /// Age of the oldest job held in memory.
    pub oldest_job_age: Gauge,
    /// Deliveries by `kind`.
    pub deliveries: IntCounterVec,
    /// Bytes by `direction`.
    pub bytes: IntCounterVec,
    /// Requests to Graph, the import host and the token endpoint: `operation`, `status`.
    pub graph_requests: IntCounterVec,
    /// Their duration by `operation`.
    pub graph_request_duration: HistogramVec,
    /// Limits that Exchange named, by `limit`.
    pub throttled: IntCounterVec,
    /// Lanes by `state`.
    pub lanes: IntGaugeVec,
    /// Import sessions by `event`.
    pub sessions: IntCounterVec,
    /// Ledger requests by `operation`, `outcome`.
    pub ledger_operations: IntCounterVec,
    /// Doubts ended, by `resolution`.
    pub in_doubt: IntCounterVec,
    /// Preflight findings by `finding`.
    pub preflight_findings: IntCounterVec,
    /// 1 for the consumer's present `state` and `cause`.
    pub consumer_state: IntGaugeVec,
    /// 1 for the fleet's present `mode`.
    pub fleet_mode: IntGaugeVec,
    /// Jobs that the intake passed on or refused, by `outcome`.
    pub intake: IntCounterVec,
    /// Shards that delivered something within five minutes.
    pub shards_active: IntGauge,
    /// Shards that came to this worker in a fleet of several.
    pub shard_handovers: IntCounter,
    /// End of our credential, unix seconds, by `kind`.
    pub credential_expiry: GaugeVec,
    /// 1 while both broker connections stand.
    pub broker_connected: IntGauge,
    /// Reconnects by `cause`.
    pub broker_reconnects: IntCounterVec,
    /// Publishes by `kind`, `outcome`.
    pub publish: IntCounterVec,
    /// When a job last succeeded, unix seconds; 0: none has since this worker started.
    pub last_success: Gauge,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When two metrics share a name: a fault of this file, shown by its test.
    #[expect(clippy::too_many_lines, reason = "one list, read from top to bottom")]
    pub fn register(version: &str, revision: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        let metrics = Self {
            jobs: counters(
                r,
                "restore_jobs_total",
                "Jobs that ended, by mode, status and reason code.",
                &["mode", "status", "reason"],
            )?,
            job_duration: seconds(
                r,
                "restore_job_duration_seconds",
                "From the first reception of a job, or its last replay, to its end.",
                &["mode", "status"],
            )?,
            stage_duration: seconds(
                r,
                "restore_stage_duration_seconds",
                "Time that a job spent in a stage.",
                &["stage"],
            )?,
            jobs_in_flight: add(r, IntGauge::new("restore_jobs_in_flight", "Jobs at work.")?)?,
            jobs_waiting: gauges(
                r,
                "restore_jobs_waiting",
                "Jobs held in memory without being at work, by what they wait for.",
                &["why"],
            )?,
            slots: gauges(r, "restore_slots", "The worker's places for jobs at work.", &["state"])?,
            oldest_job_age: add(
                r,
                Gauge::new(
                    "restore_oldest_job_age_seconds",
                    "Age of the oldest job held in memory, since it was first received or last replayed.",
                )?,
            )?,
            deliveries: counters(
                r,
                "restore_deliveries_total",
                "Messages taken from or given back to the broker.",
                &["kind"],
            )?,
            bytes: counters(
                r,
                "restore_bytes_total",
                "FTS bytes fetched from storage, request bytes uploaded to Exchange.",
                &["direction"],
            )?,
            graph_requests: counters(
                r,
                "restore_graph_requests_total",
                "Requests to Graph, the import host and the token endpoint.",
                &["operation", "status"],
            )?,
            graph_request_duration: seconds(
                r,
                "restore_graph_request_duration_seconds",
                "Duration of those requests.",
                &["operation"],
            )?,
            throttled: counters(r, "restore_throttled_total", "Answers that named a limit.", &["limit"])?,
            lanes: gauges(r, "restore_lanes", "Mailboxes with jobs waiting or at work.", &["state"])?,
            sessions: counters(r, "restore_sessions_total", "Import sessions.", &["event"])?,
            ledger_operations: counters(
                r,
                "restore_ledger_operations_total",
                "Requests to the ledger.",
                &["operation", "outcome"],
            )?,
            in_doubt: counters(
                r,
                "restore_in_doubt_total",
                "Doubtful imports, by how the doubt ended.",
                &["resolution"],
            )?,
            preflight_findings: counters(
                r,
                "restore_preflight_findings_total",
                "What preflight found.",
                &["finding"],
            )?,
            consumer_state: gauges(
                r,
                "restore_consumer_state",
                "1 for the consumer's present state.",
                &["state", "cause"],
            )?,
            fleet_mode: gauges(r, "restore_fleet_mode", "1 for the fleet's present mode.", &["mode"])?,
            intake: counters(
                r,
                "restore_intake_total",
                "Jobs that the intake passed to their shard or refused.",
                &["outcome"],
            )?,
            shards_active: add(
                r,
                IntGauge::new(
                    "restore_shards_active",
                    "Shards that delivered something within five minutes.",
                )?,
            )?,
            shard_handovers: add(
                r,
                IntCounter::new(
                    "restore_shard_handovers_total",
                    "Shards that came to this worker while there were others.",
                )?,
            )?,
            credential_expiry: add(
                r,
                GaugeVec::new(
                    Opts::new("restore_credential_expiry_timestamp_seconds", "When our credential ends."),
                    &["kind"],
                )?,
            )?,
            broker_connected: add(
                r,
                IntGauge::new("restore_broker_connected", "1 while both connections to the broker stand.")?,
            )?,
            broker_reconnects: counters(
                r,
                "restore_broker_reconnects_total",
                "Connections to the broker made anew.",
                &["cause"],
            )?,
            publish: counters(r, "restore_publish_total", "Messages published.", &["kind", "outcome"])?,
            last_success: add(
                r,
                Gauge::new(
                    "restore_last_success_timestamp_seconds",
                    "When a job last succeeded; 0: none has since this worker started.",
                )?,
            )?,
            registry: registry.clone(),
        };
        gauges(r, "restore_build_info", "1; the version in the labels.", &["version", "revision"])?
            .with_label_values(&[version, revision])
            .set(1);
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// The Prometheus text format.
    ///
    /// # Errors
    /// When encoding fails: never for what this file registers.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Shows series before their first event: who sees a counter for the first time at 1 sees no increase. Each room does so for the
    /// labels that it knows. Source: Prometheus, "Instrumentation", section "Avoid missing metrics".
    pub fn at_zero<const N: usize>(
        counters: &IntCounterVec,
        series: impl IntoIterator<Item = [&'static str; N]>,
    ) {
        for labels in series {
            counters.with_label_values(&labels).inc_by(0);
        }
    }

    /// The histogram of one stage.
    #[must_use]
    pub fn stage(&self, stage: &str) -> Histogram {
        self.stage_duration.with_label_values(&[stage])
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    add(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    add(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn seconds(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    add(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels)?)
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn everything_registers_and_renders() {
        let metrics = Metrics::register("0.0.0", "test").expect("registers");
        metrics.jobs.with_label_values(&["create", "succeeded", ""]).inc();
        let text = metrics.render().expect("renders");
        for name in [
            "restore_jobs_total",
            "restore_build_info",
            "process_resident_memory_bytes",
            "restore_broker_connected",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}
