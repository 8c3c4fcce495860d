//! Small objects written on a condition, without the SDK's orchestration of each operation.
//!
//! The ledger writes three records for an item, and what the SDK does around a request (some forty hooks, a bag of configuration
//! for each, two resolutions) cost more than the request: `docs/performance.md`. So the first write is the SDK's own, and shows
//! the [`Way`]: where the bucket is, and how a request to it is signed. Later ones are written by hand and take the SDK's
//! connections, its cache of credentials, its signer and its reading of the answer.
//!
//! Promises: the same request on the wire and the same result as the SDK's (`put/tests.rs` holds them beside each other). What
//! the store refuses, and buckets of another kind (S3 Express, access points), are left to the SDK. Never retries.

mod way;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::SystemTime,
};

use aws_sdk_s3::{
    Client,
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef},
    },
    error::BoxError,
    primitives::ByteStream,
};

use self::way::Way;
use super::Failure;

/// An object to write.
#[derive(Clone, Debug)]
pub struct Put<'a> {
    /// Its key, as it is.
    pub key: &'a str,
    /// Its media type.
    pub content_type: &'static str,
    /// Its bytes; a few KiB.
    pub body: Vec<u8>,
    /// The version it replaces; `None`: nothing may stand there.
    pub over: Option<&'a str>,
}

/// Conditional writes to one bucket. A cheap handle.
#[derive(Clone, Debug)]
pub struct Puts {
    client: Client,
    bucket: Arc<str>,
    way: Arc<RwLock<Option<Arc<Way>>>>,
}

impl Puts {
    /// Asks no storage.
    #[must_use]
    pub fn new(client: Client, bucket: Arc<str>) -> Self {
        Self { client, bucket, way: Arc::default() }
    }

    /// Writes an object; the new version's `ETag`, if the answer names one.
    ///
    /// # Errors
    /// The store's answer, or why there is none: 412, 409 or 404 where the condition does not hold.
    pub async fn put(&self, put: Put<'_>) -> Result<Option<String>, Failure> {
        let Some(way) = self.known() else { return self.by_the_sdk(put).await };
        // Boxed, as every request: a job that waits does not hold the room of one.
        let written = Box::pin(way.put(put)).await;
        // Another region, other keys, a clock that is wrong: the SDK knows best, and shows the way anew.
        if let Err(failure) = &written
            && matches!(failure.status, Some(300..=403))
        {
            self.keep(None);
        }
        written
    }

    async fn by_the_sdk(&self, put: Put<'_>) -> Result<Option<String>, Failure> {
        let watch = Watch(Arc::new(Watched { key: put.key.to_owned(), seen: OnceLock::new() }));
        let request = self
            .client
            .put_object()
            .bucket(&*self.bucket)
            .key(put.key)
            .content_type(put.content_type)
            .body(ByteStream::from(put.body));
        let request = match put.over {
            None => request.if_none_match("*"),
            Some(etag) => request.if_match(etag),
        };
        let output = Box::pin(request.customize().interceptor(watch.clone()).send())
            .await
            .map_err(|error| Failure::read(&error))?;
        if let Some((way, _)) = watch.0.seen.get()
            && is_plain(&self.bucket)
        {
            self.keep(Some(Arc::clone(way)));
        }
        Ok(output.e_tag)
    }

    fn known(&self) -> Option<Arc<Way>> {
        self.way.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, way: Option<Arc<Way>>) {
        *self.way.write().unwrap_or_else(PoisonError::into_inner) = way;
    }
}

/// Whether a bucket is one as most are: a directory bucket wants sessions, an ARN has rules of its own. Source: Amazon S3 User
/// Guide, "Directory bucket naming rules".
fn is_plain(bucket: &str) -> bool {
    !bucket.starts_with("arn:") && !bucket.ends_with("--x-s3")
}

/// Looks at the SDK's own request on its way out, and at its answer's clock.
#[derive(Clone)]
struct Watch(Arc<Watched>);

struct Watched {
    key: String,
    seen: OnceLock<(Arc<Way>, SystemTime)>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "Watch"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(way) = Way::of(context.request(), &self.0.key, components, config) {
            self.0.seen.get_or_init(|| (Arc::new(way), SystemTime::now()));
        }
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some((way, sent)) = self.0.seen.get() {
            way.hear_clock(context.response(), *sent);
        }
        Ok(())
    }
}
