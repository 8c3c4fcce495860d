//! Traces: one span for each delivery of a job, below it one for each stage; exported over OTLP where that is configured.
//!
//! Promises: without an exporter no span exists. Of libraries' spans none is exported, and ours hold a closed list of fields:
//! never a token, a URL, a key, a mailbox, or anything of an item.

use std::{collections::HashMap, time::Duration};

use opentelemetry::{
    KeyValue,
    propagation::TextMapPropagator as _,
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing::{Span, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

/// The target of every span of ours.
pub(super) const TARGET: &str = "restore_worker::span";
/// How long the last spans may take to leave.
const LAST: Duration = Duration::from_secs(5);

/// The exporter. Ends with [`Traces::end`].
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Makes the exporter from the `OTEL_*` variables. `named`: they name the service.
    pub(super) fn connect(worker: &str, named: bool) -> anyhow::Result<Self> {
        let exporter = SpanExporter::builder().with_http().build()?;
        let mut resource = Resource::builder()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", worker.to_owned()));
        if !named {
            resource = resource.with_service_name("restore-worker");
        }
        let resource = resource.build();
        Ok(Self(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build()))
    }

    /// What turns our spans into the exporter's. Log lines are no part of them.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("restore-worker"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_level(false)
            .with_filter(Targets::new().with_target(TARGET, tracing::Level::INFO))
    }

    /// Sends what is left.
    pub fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST) {
            tracing::warn!(%error, "the last spans could not be exported");
        }
    }
}

/// A message as a span tells of it. Source: OpenTelemetry, "Semantic conventions for messaging spans", RabbitMQ.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The queue.
    pub queue: &'a str,
    /// The job.
    pub job_id: &'a str,
    /// Round of replay.
    pub replay: u32,
    /// Attempts spent before.
    pub attempt: u32,
    /// W3C context, as the message carries it.
    pub traceparent: Option<&'a str>,
    /// The same.
    pub tracestate: Option<&'a str>,
}

/// The span of one delivery of a job.
#[must_use]
pub fn job(delivery: &Delivery<'_>) -> Span {
    let span = info_span!(
        target: TARGET,
        "job",
        otel.name = format!("process {}", delivery.queue),
        otel.kind = "consumer",
        otel.status_code = Empty,
        messaging.system = "rabbitmq",
        messaging.operation.type = "process",
        messaging.operation.name = "process",
        messaging.destination.name = delivery.queue,
        restore.job_id = delivery.job_id,
        restore.replay = delivery.replay,
        restore.attempt = delivery.attempt,
        restore.status = Empty,
        error.type = Empty,
    );
    let context = [("traceparent", delivery.traceparent), ("tracestate", delivery.tracestate)];
    let carrier: HashMap<String, String> =
        context.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    if !span.is_disabled() && !carrier.is_empty() {
        let parent = TraceContextPropagator::new().extract(&carrier);
        if let Err(error) = span.set_parent(parent) {
            tracing::debug!(%error, "a span could not be put below its job's");
        }
    }
    span
}

/// The span of one stage, below the current one. The words are the metrics'.
#[must_use]
pub fn stage(name: &'static str) -> Span {
    info_span!(target: TARGET, "stage", otel.name = name)
}

/// Notes how the current delivery's job ended.
pub fn ended(status: &str, reason: Option<&str>) {
    let span = Span::current();
    span.record("restore.status", status);
    if let Some(reason) = reason {
        span.record("error.type", reason);
        span.record("otel.status_code", "ERROR");
    }
}

/// The current span as W3C `traceparent`; `None` where nothing is exported.
#[must_use]
pub fn current() -> Option<String> {
    let span = Span::current();
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid()
        .then(|| format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8()))
}

/// The trace's id in a `traceparent`, for log lines; `None` for what is none.
#[must_use]
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (id.len() == 32 && id.bytes().all(lower_hex) && id.bytes().any(|b| b != b'0')).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::trace_id;

    #[test]
    fn only_a_trace_id_is_one() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")), Some(id));
        for none in [
            "",
            "00",
            "00-zz",
            &format!("00-{}-x-01", id.to_uppercase()),
            &format!("00-{}-x-01", "0".repeat(32)),
        ] {
            assert_eq!(trace_id(none), None, "{none}");
        }
    }
}
