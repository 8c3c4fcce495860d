//! The tracing subscriber: lines of JSON or text to standard output, spans to a collector.

pub mod trace;

pub use self::trace::Traces;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line, its fields at the top level.
    #[default]
    Json,
    /// For a person at a terminal.
    Text,
}

/// Settings of log and traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Form.
    pub format: Format,
    /// Least severe level that is shown.
    pub level: tracing::Level,
    /// Whether spans are exported: `OTEL_EXPORTER_OTLP_ENDPOINT` is set.
    pub traces: bool,
    /// Whether `OTEL_*` variables name the service.
    pub service_named: bool,
    /// The worker's name.
    pub worker: String,
}

/// What libraries would say beside our own lines, at any level. `lapin` logs returned messages with their whole body, and its
/// I/O loop and the TLS verifier log errors that we judge and log ourselves.
const QUIET: &str = "lapin::returned_messages=off,lapin::io_loop=off,lapin::channels=off,lapin::channel=off,\
    rustls_platform_verifier=off";

/// Our own lines at `level`. Libraries warn at most, whatever the level: what they trace is theirs to choose, requests and
/// their signatures among it, and a new version may choose anew.
fn directives(level: tracing::Level) -> String {
    let others = level.min(tracing::Level::WARN);
    format!("{others},restore_worker={level},{}=off,{QUIET}", trace::TARGET)
}

/// Starts logging, and exporting spans where that is configured. Called once.
///
/// # Errors
/// When a subscriber is installed already, or the `OTEL_*` variables cannot be used.
pub fn start(settings: &Settings) -> anyhow::Result<Option<Traces>> {
    let filter = EnvFilter::try_new(directives(settings.level))?;
    let lines = tracing_subscriber::fmt::layer();
    let lines = match settings.format {
        Format::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        Format::Text => lines.with_target(false).boxed(),
    };
    let traces =
        settings.traces.then(|| Traces::connect(&settings.worker, settings.service_named)).transpose()?;
    let lines = tracing_subscriber::registry().with(lines.with_filter(filter));
    // No `Option` of a layer: one that is `None` wants every span, so that each would be made and entered for nobody.
    match &traces {
        Some(traces) => lines.with(traces.layer()).try_init()?,
        None => lines.try_init()?,
    }
    Ok(traces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_warn_at_most() {
        use tracing::Level;
        for (level, starts) in [
            (Level::TRACE, "WARN,restore_worker=TRACE,"),
            (Level::INFO, "WARN,restore_worker=INFO,"),
            (Level::ERROR, "ERROR,restore_worker=ERROR,"),
        ] {
            let directives = directives(level);
            assert!(directives.starts_with(starts), "{directives}");
            assert!(EnvFilter::try_new(&directives).is_ok(), "{directives}");
        }
    }
}
