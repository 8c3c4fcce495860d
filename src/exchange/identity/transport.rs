//! The SDK's HTTP over our own client: proxy, certificates and time-outs are ours, and nothing is retried.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::{
    Error,
    cloud::{CloudConfiguration, CustomConfiguration},
    error::ErrorKind,
    http::{
        AsyncRawResponse, Body, ClientOptions, HttpClient, Method, Request, RetryOptions, StatusCode,
        Transport, headers::Headers,
    },
};
use reqwest::Client;

use crate::exchange::client;

/// Largest answer of a token endpoint that is read.
const MAX_ANSWER: usize = 1024 * 1024;

/// Two clients: one for the sign-in host, one without proxy for a managed identity's endpoint on this machine.
#[derive(Clone, Debug)]
pub(super) struct Http {
    remote: Client,
    local: Client,
}

impl Http {
    pub(super) fn new(remote: Client, local: Client) -> Self {
        Self { remote, local }
    }

    /// Options for a credential: this transport, no retries, the given authority.
    pub(super) fn options(&self, authority: Option<&str>) -> ClientOptions {
        let mut options = ClientOptions {
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(self.clone()))),
            ..ClientOptions::default()
        };
        if let Some(authority) = authority {
            let mut custom = CustomConfiguration::default();
            authority.clone_into(&mut custom.authority_host);
            options.cloud = Some(Arc::new(CloudConfiguration::from(custom)));
        }
        options
    }

    /// A managed identity's endpoints are link-local or plain http; sign-in hosts are https.
    fn client(&self, url: &reqwest::Url) -> &Client {
        if url.scheme() == "http" { &self.local } else { &self.remote }
    }
}

#[async_trait]
impl HttpClient for Http {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let Body::Bytes(body) = request.body().clone() else {
            return Err(Error::with_message(ErrorKind::Other, "a token request has no stream for a body"));
        };
        // The SDK's credentials send nothing but these two.
        let post = request.method() == Method::Post;
        let method = if post { reqwest::Method::POST } else { reqwest::Method::GET };
        let mut builder = self.client(request.url()).request(method, request.url().clone()).body(body);
        for (name, value) in request.headers().iter() {
            builder = builder.header(name.as_str(), value.as_str());
        }
        let answer = builder.send().await.map_err(|error| {
            let kind = if error.is_connect() { ErrorKind::Connection } else { ErrorKind::Io };
            Error::with_message(kind, client::tell(error))
        })?;
        let status = StatusCode::from(answer.status().as_u16());
        let mut headers = Headers::new();
        for (name, value) in answer.headers() {
            if let Ok(value) = value.to_str() {
                headers.insert(name.as_str().to_owned(), value.to_owned());
            }
        }
        let body = client::read(answer, MAX_ANSWER)
            .await
            .map_err(|why| Error::with_message(ErrorKind::Io, why.to_string()))?;
        Ok(AsyncRawResponse::from_bytes(status, headers, body))
    }
}
