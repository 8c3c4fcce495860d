//! The tracing subscriber: JSON or text, to standard output.

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

/// Settings of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Form.
    pub format: Format,
    /// Least severe level that is shown.
    pub level: tracing::Level,
}

/// What libraries would say beside our own lines. `lapin` logs returned messages with their whole body, and its I/O loop and
/// the TLS verifier log errors that we judge and log ourselves.
const QUIET: &str = "lapin::returned_messages=off,lapin::io_loop=off,lapin::channels=off,lapin::channel=off,rustls_platform_verifier=off,\
    aws_config=warn,aws_smithy_runtime=warn,aws_smithy_runtime_api=warn,aws_sdk_s3=warn,hyper=warn,hyper_util=warn,\
    reqwest=warn,h2=warn,rustls=warn,azure_core=warn,azure_identity=warn,lapin=warn";

/// Starts logging. Called once.
///
/// # Errors
/// When a subscriber is installed already.
pub fn start(settings: Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{},{QUIET}", settings.level))?;
    let lines = tracing_subscriber::fmt::layer();
    let lines = match settings.format {
        Format::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        Format::Text => lines.with_target(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(())
}
