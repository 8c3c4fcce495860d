//! An S3 client made from settings, and what its errors say. Shared by the two adapters that talk to object storage.
//!
//! Promises: no retries of the SDK's own (the pipeline decides), checksums only where required, a limit on every wait
//! (connect, first byte, a body that stands still). Only the SDK's own parts read the environment: credentials, region,
//! `AWS_ENDPOINT_URL_S3`, the proxy variables. Must never: hold a secret longer than the SDK does, or put one into a text.

mod endpoint;
mod failure;
mod put;

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::config::{
    Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig, http::HttpResponse, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_smithy_http_client::{Connector, proxy::ProxyConfig, tls};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use self::endpoint::Endpoints;
use crate::certificates;
pub use aws_sdk_s3::Client;
pub use failure::{Failure, Kind};
pub use put::{Put, Puts};

/// An answer's `Date`: the store's own clock, in whole seconds. Source: RFC 9110, section 6.6.1.
pub(crate) fn date_of(response: &HttpResponse) -> Option<OffsetDateTime> {
    response.headers().get("date").and_then(|text| OffsetDateTime::parse(text, &Rfc2822).ok())
}

/// Where the storage is and how long it is waited for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `None`: the SDK's chain (`AWS_ENDPOINT_URL_S3`), else AWS itself.
    pub endpoint: Option<String>,
    /// `None`: the SDK's chain, else [`DEFAULT_REGION`].
    pub region: Option<String>,
    /// Bucket in the path instead of the host name.
    pub path_style: bool,
    /// Certificates to trust beside the system's, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Until the connection stands.
    pub connect_timeout: Duration,
    /// Until the answer's head is there; and how long a body may stand still.
    pub read_timeout: Duration,
}

/// What S3-compatible servers take when they have no regions, and where AWS answers with the right one.
pub const DEFAULT_REGION: &str = "us-east-1";
/// How long the credentials chain may take beside the request: the SDK's own default for loading an identity.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes a client. Asks no storage; may ask the instance's metadata service for the region.
///
/// # Errors
/// A sentence for the operator, when a setting cannot be used.
pub async fn connect(settings: &Settings) -> Result<Client, String> {
    connect_with(settings, None).await
}

/// The same with credentials of one's own instead of the SDK's chain.
pub(crate) async fn connect_with(
    settings: &Settings,
    credentials: Option<Credentials>,
) -> Result<Client, String> {
    if let Some(endpoint) = &settings.endpoint {
        check_endpoint(endpoint)?;
    }
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        .read_timeout(settings.read_timeout)
        .operation_timeout(settings.connect_timeout + settings.read_timeout + IDENTITY_TIMEOUT)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client(settings.ca_pem.as_deref())?)
        .timeout_config(timeouts);
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(credentials) = credentials {
        loader = loader.credentials_provider(credentials);
    }
    let shared = loader.load().await;
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .endpoint_resolver(Endpoints::default())
        .retry_config(RetryConfig::disabled())
        .force_path_style(settings.path_style)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .stalled_stream_protection(
            // What goes up is a record of the ledger: below 2 KiB, within the operation's time-out.
            StalledStreamProtectionConfig::enabled()
                .upload_enabled(false)
                .grace_period(settings.read_timeout)
                .build(),
        );
    if shared.region().is_none() {
        tracing::warn!(region = DEFAULT_REGION, "no region is configured for the storage: using the default");
        config = config.region(Region::from_static(DEFAULT_REGION));
    }
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(config.build()))
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace) => {
            Ok(())
        }
        _ => Err("the storage endpoint must be an http:// or https:// URL".into()),
    }
}

/// The system's roots and, if given, these. The SDK would panic on certificates that do not parse: they are tried here.
fn http_client(ca_pem: Option<&[u8]>) -> Result<aws_sdk_s3::config::SharedHttpClient, String> {
    let mut trust = tls::TrustStore::default();
    if let Some(pem) = ca_pem {
        check_certificates(pem)?;
        trust = trust.with_pem_certificate(pem);
    }
    let context = tls::TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| format!("the storage's certificates cannot be used: {error}"))?;
    Ok(aws_smithy_http_client::Builder::new().build_with_connector_fn(move |settings, _| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .tls_context(context.clone())
            .build()
    }))
}

fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let unusable = |why: String| format!("the storage's CA file cannot be used: {why}");
    let roots = certificates::authorities(pem).map_err(unusable)?;
    if roots.is_empty() { Err(unusable("it holds no certificate".into())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked() {
        for (endpoint, fine) in [
            ("http://127.0.0.1:9000", true),
            ("https://s3.example.com/base", true),
            ("s3.example.com", false),
            ("https://", false),
            ("ftp://x", false),
            ("https://a b", false),
        ] {
            assert_eq!(check_endpoint(endpoint).is_ok(), fine, "{endpoint}");
        }
    }

    #[test]
    fn certificates_that_do_not_parse_are_a_sentence_and_no_panic() {
        for pem in [
            "",
            "hello",
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let problem = check_certificates(pem.as_bytes()).expect_err("refused");
            assert!(problem.starts_with("the storage's CA file cannot be used: "), "{problem}");
        }
    }
}
