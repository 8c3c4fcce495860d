//! How a write gets to its bucket: what one request of the SDK's shows, and what it takes to make the next one like it.

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime},
};

use aws_sdk_s3::{
    config::{
        ConfigBag, HttpClient as _, Layer, ResolveCachedIdentity as _, RuntimeComponents, RuntimePlugin as _,
        http::{HttpRequest, HttpResponse},
        retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{BoxError, SdkError},
    operation::put_object::{PutObject, PutObjectError, PutObjectOutput},
    primitives::{ByteStream, SdkBody},
};
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use aws_smithy_runtime_api::{
    client::{
        auth::{AuthScheme as _, AuthSchemeId},
        connection::CaptureSmithyConnection,
        http::{HttpConnector as _, HttpConnectorSettings, SharedHttpConnector},
        identity::{Identity, SharedIdentityResolver},
        result::ConnectorError,
        ser_de::{DeserializeResponse as _, SharedResponseDeserializer},
    },
    http::NonUtf8HeaderHandling,
};
use time::OffsetDateTime;

use super::Put;
use crate::s3_client::{Failure, date_of};

type Error = SdkError<PutObjectError>;

/// Header fields that name the program: the same for every request.
const KEPT: [&str; 2] = ["user-agent", "x-amz-user-agent"];
/// Those that belong to one request, and are made for each.
const MADE: [&str; 11] = [
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "authorization",
    "content-length",
    "content-type",
    "host",
    "if-match",
    "if-none-match",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
];

/// The way to one bucket.
pub(super) struct Way {
    components: RuntimeComponents,
    config: ConfigBag,
    credentials: SharedIdentityResolver,
    connector: SharedHttpConnector,
    /// The URL up to the key, and behind it.
    url: (String, String),
    kept: Vec<(&'static str, String)>,
    region: String,
    service: String,
    read_timeout: Duration,
    operation_timeout: Duration,
    /// Milliseconds that the store's clock is ahead of ours.
    skew: AtomicI64,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way")
    }
}

impl Way {
    /// What a signed request of the SDK's shows; `None` for one that the next cannot be made like: signed otherwise than a plain
    /// bucket's, or with a field that is not known here.
    pub(super) fn of(
        request: &HttpRequest,
        key: &str,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Option<Self> {
        let known = |name: &str| KEPT.contains(&name) || MADE.contains(&name);
        if !request.headers().iter().all(|(name, _)| known(name)) {
            return None;
        }
        let (region, service) = scope(request.headers().get("authorization")?)?;
        let timeouts = config.load::<TimeoutConfig>()?.clone();
        let settings = HttpConnectorSettings::builder();
        let settings =
            settings.connect_timeout(timeouts.connect_timeout()?).read_timeout(timeouts.read_timeout()?);
        let kept = |name: &'static str| Some((name, request.headers().get(name)?.to_owned()));
        Some(Self {
            credentials: components.auth_scheme(AuthSchemeId::new("sigv4"))?.identity_resolver(components)?,
            connector: components.http_client()?.http_connector(&settings.build(), components),
            url: around(request.uri(), &encode(key))?,
            kept: KEPT.into_iter().filter_map(kept).collect(),
            region,
            service,
            read_timeout: timeouts.read_timeout()?,
            operation_timeout: timeouts.operation_timeout()?,
            skew: AtomicI64::new(0),
            config: remembered(config, timeouts)?,
            components: components.clone(),
        })
    }

    /// As [`super::Puts::put`].
    pub(super) async fn put(&self, put: Put<'_>) -> Result<Option<String>, Failure> {
        let captured = CaptureSmithyConnection::new();
        let written = match tokio::time::timeout(self.operation_timeout, self.send(put, &captured)).await {
            Ok(written) => written.map_err(|error| Failure::read(&error)),
            Err(elapsed) => Err(Failure::read(&Error::timeout_error(elapsed))),
        };
        // As the SDK: another connection may lead to a server that is well.
        if let Err(Failure { status: Some(500 | 502..=504), .. }) = &written
            && let Some(connection) = captured.get()
        {
            connection.poison();
        }
        written
    }

    async fn send(&self, put: Put<'_>, captured: &CaptureSmithyConnection) -> Result<Option<String>, Error> {
        let mut request = self.request(put).map_err(Error::construction_failure)?;
        let identity = self
            .components
            .identity_cache()
            .resolve_cached_identity(self.credentials.clone(), &self.components, &self.config)
            .await
            .map_err(unsent)?;
        let sent = SystemTime::now();
        self.sign(&mut request, &identity, sent).map_err(unsent)?;
        request.add_extension(captured.clone());
        let response = self.connector.call(request).await.map_err(Error::dispatch_failure)?;
        self.hear_clock(&response, sent);
        self.read(response).await
    }

    pub(super) fn request(&self, put: Put<'_>) -> Result<HttpRequest, BoxError> {
        let length = put.body.len();
        let mut request = HttpRequest::new(SdkBody::from(put.body));
        request.set_method("PUT")?;
        request.set_uri(format!("{}{}{}", self.url.0, encode(put.key), self.url.1))?;
        let headers = request.headers_mut();
        headers.try_insert("content-type", put.content_type)?;
        headers.try_insert("content-length", length.to_string())?;
        match put.over {
            None => headers.try_insert("if-none-match", "*")?,
            Some(etag) => headers.try_insert("if-match", etag.to_owned())?,
        };
        for (name, value) in &self.kept {
            headers.try_insert(*name, value.clone())?;
        }
        Ok(request)
    }

    /// S3's kind of Signature Version 4: the path signed as it is sent, the body's digest in a field.
    pub(super) fn sign(
        &self,
        request: &mut HttpRequest,
        identity: &Identity,
        now: SystemTime,
    ) -> Result<(), BoxError> {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let params = v4::SigningParams::builder()
            .identity(identity)
            .region(&self.region)
            .name(&self.service)
            .time(ahead(now, self.skew.load(Ordering::Relaxed)))
            .settings(settings)
            .build()?
            .into();
        let body = SignableBody::Bytes(request.body().bytes().unwrap_or_default());
        let signable = SignableRequest::new(request.method(), request.uri(), request.headers().iter(), body)?;
        let (headers, _) = sign(signable, &params)?.into_parts().0.into_parts();
        for header in headers {
            request.headers_mut().try_insert(header.name(), header.value().to_owned())?;
        }
        // Not signed, as the SDK's are not.
        request.headers_mut().try_insert("amz-sdk-invocation-id", uuid::Uuid::new_v4().to_string())?;
        request.headers_mut().try_insert("amz-sdk-request", "attempt=1; max=1")?;
        Ok(())
    }

    async fn read(&self, mut response: HttpResponse) -> Result<Option<String>, Error> {
        let body = std::mem::replace(response.body_mut(), SdkBody::taken());
        match tokio::time::timeout(self.read_timeout, ByteStream::new(body).collect()).await {
            Ok(Ok(body)) => *response.body_mut() = SdkBody::from(body.into_bytes()),
            Ok(Err(error)) => return Err(Error::response_error(error, response)),
            Err(elapsed) => return Err(Error::response_error(elapsed, response)),
        }
        let Some(reader) = self.config.load::<SharedResponseDeserializer>() else {
            return Err(Error::response_error("nobody reads the answer", response));
        };
        match reader.deserialize_nonstreaming_with_config(&response, &self.config) {
            Ok(output) => Ok(output.downcast_ref::<PutObjectOutput>().and_then(|o| o.e_tag.clone())),
            Err(error) => {
                let mut refused = None;
                let unread = error.map_operation_error(|error| {
                    refused = error.downcast::<PutObjectError>().ok();
                    fmt::Error
                });
                Err(match refused {
                    Some(refused) => Error::service_error(refused, response),
                    None => Error::response_error(unread, response),
                })
            }
        }
    }

    /// Learns the store's clock from an answer's `Date`, as the SDK does: halfway between question and answer. An answer with an
    /// `Age` is a cache's.
    pub(super) fn hear_clock(&self, response: &HttpResponse, sent: SystemTime) {
        if response.headers().get("age").is_some() {
            return;
        }
        let Some(date) = date_of(response) else { return };
        let taken = sent.elapsed().unwrap_or_default();
        let skew = date - OffsetDateTime::from(sent + taken / 2);
        self.skew.store(i64::try_from(skew.whole_milliseconds()).unwrap_or_default(), Ordering::Relaxed);
    }
}

/// The SDK's word for a request that never left.
fn unsent(why: BoxError) -> Error {
    Error::dispatch_failure(ConnectorError::other(why, None))
}

fn ahead(now: SystemTime, milliseconds: i64) -> SystemTime {
    let by = Duration::from_millis(milliseconds.unsigned_abs());
    if milliseconds < 0 { now.checked_sub(by) } else { now.checked_add(by) }.unwrap_or(now)
}

/// What of an operation's configuration is asked for when credentials are loaded and answers are read.
fn remembered(config: &ConfigBag, timeouts: TimeoutConfig) -> Option<ConfigBag> {
    let mut layer = Layer::new("put");
    layer.store_put(timeouts);
    layer.store_or_unset(config.load::<RetryConfig>().cloned());
    layer.store_or_unset(config.load::<NonUtf8HeaderHandling>().cloned());
    let mut remembered = ConfigBag::of_layers([layer]);
    remembered.push_shared_layer(PutObject::new().config()?);
    Some(remembered)
}

/// Region and service of a signature, if it is one for a plain bucket.
pub(super) fn scope(authorization: &str) -> Option<(String, String)> {
    let credential = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=")?.split(',').next()?;
    let mut parts = credential.rsplit('/');
    let (end, service, region) = (parts.next()?, parts.next()?, parts.next()?);
    (end == "aws4_request" && service == "s3").then(|| (region.to_owned(), service.to_owned()))
}

/// What stands before and behind the key in a URL.
fn around(url: &str, key: &str) -> Option<(String, String)> {
    let (path, query) = url.find('?').map_or((url, ""), |at| url.split_at(at));
    let before = path.strip_suffix(key)?;
    before.ends_with('/').then(|| (before.to_owned(), query.to_owned()))
}

/// A key as the path of a URL: all but letters, digits, `-._~` and `/` is escaped. Source: Amazon S3 API Reference, "Signature
/// Calculations", `UriEncode`.
fn encode(key: &str) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let mut encoded = String::with_capacity(key.len() + 16);
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(['%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
    encoded
}
