//! Where a bucket is: the SDK's rules, asked once for as long as the bucket stays the same.
//!
//! The SDK keeps the last answer of its rules, too, but with the object's key among the parameters that have to agree, which no
//! rule reads. With a key of its own for every job that answer is never found again, and each request goes through the rules twice.

use std::sync::{PoisonError, RwLock};

use aws_sdk_s3::config::endpoint::{DefaultResolver, Endpoint, EndpointFuture, Params, ResolveEndpoint};

/// For one client: whatever else the rules read is its configuration, which stays.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    rules: DefaultResolver,
    last: RwLock<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    bucket: String,
    endpoint: Endpoint,
}

impl Endpoints {
    fn known(&self, bucket: &str) -> Option<Endpoint> {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|known| known.bucket == bucket).map(|known| known.endpoint.clone())
    }

    fn keep(&self, bucket: &str, endpoint: &Endpoint) {
        let known = Known { bucket: bucket.to_owned(), endpoint: endpoint.clone() };
        *self.last.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }
}

impl ResolveEndpoint for Endpoints {
    fn resolve_endpoint<'a>(&'a self, params: &'a Params) -> EndpointFuture<'a> {
        let Some(bucket) = params.bucket().filter(|_| is_plain(params)) else {
            return self.rules.resolve_endpoint(params);
        };
        if let Some(endpoint) = self.known(bucket) {
            return EndpointFuture::ready(Ok(endpoint));
        }
        EndpointFuture::new(async move {
            let endpoint = self.rules.resolve_endpoint(params).await?;
            self.keep(bucket, &endpoint);
            Ok(endpoint)
        })
    }
}

/// Whether the operation itself asks for nothing special: some go elsewhere than to their bucket.
fn is_plain(params: &Params) -> bool {
    params.use_s3_express_control_endpoint().is_none()
        && params.disable_access_points().is_none()
        && params.use_object_lambda_endpoint().is_none()
        && params.copy_source().is_none()
        && params.prefix().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(bucket: &str, key: &str) -> Params {
        Params::builder()
            .bucket(bucket)
            .key(key)
            .region("us-east-1")
            .endpoint("https://s3.example.com")
            .build()
            .expect("all that is needed")
    }

    #[tokio::test]
    async fn a_bucket_is_where_the_rules_say_whatever_was_asked_before() {
        let (ours, rules) = (Endpoints::default(), DefaultResolver::new());
        for (bucket, key) in [("one", "a"), ("one", "b"), ("two", "a"), ("one", "a"), ("two", "c")] {
            let params = asked(bucket, key);
            let endpoint = ours.resolve_endpoint(&params).await.expect("an endpoint");
            assert_eq!(
                endpoint,
                rules.resolve_endpoint(&params).await.expect("an endpoint"),
                "{bucket}/{key}"
            );
            assert!(endpoint.url().contains(bucket), "{}", endpoint.url());
        }
    }
}
