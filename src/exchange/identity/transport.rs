//! The SDK's HTTP over our own client: proxy, certificates and time-outs are ours, and nothing is retried.

use std::{net::IpAddr, sync::Arc};

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
use reqwest::{Client, Url};

use crate::exchange::client;

/// Largest answer of a token endpoint that is read.
const MAX_ANSWER: usize = 1024 * 1024;

/// Where the SDK asks a machine's metadata service (IMDS). It knows no other place, so ours is put in here.
const METADATA: &str = "http://169.254.169.254/metadata/identity/oauth2/token";

/// The metadata service at another place: a sidecar, a proxy of the node, a test. Source: `AZURE_POD_IDENTITY_AUTHORITY_HOST` of the
/// Azure SDKs for JavaScript, Python, Go and .NET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MetadataHost(Url);

impl MetadataHost {
    /// Takes `http` and an address of this machine or its link alone: who answers there hands out tokens, and is asked in clear.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("AZURE_POD_IDENTITY_AUTHORITY_HOST: {what}");
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if url.scheme() != "http" || !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("must be an http URL of a host alone, like http://127.0.0.1:2579"));
        }
        let host = url.host_str().unwrap_or_default();
        let near = match host.trim_matches(['[', ']']).parse() {
            Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local(),
            Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unicast_link_local(),
            Err(_) => host == "localhost",
        };
        if !near {
            return Err(wrong(
                "must be an address of this machine (127.0.0.1, localhost) or of its link (169.254.…)",
            ));
        }
        Ok(Self(url))
    }

    /// The same request, asked here.
    fn moved(&self, asked: &Url) -> Url {
        let mut url = self.0.clone();
        url.set_path(asked.path());
        url.set_query(asked.query());
        url
    }
}

/// Two clients: one for the sign-in host, one without proxy for a managed identity's endpoint on this machine.
#[derive(Clone, Debug)]
pub(super) struct Http {
    remote: Client,
    local: Client,
    metadata: Option<MetadataHost>,
}

impl Http {
    pub(super) fn new(remote: Client, local: Client, metadata: Option<MetadataHost>) -> Self {
        Self { remote, local, metadata }
    }

    fn place(&self, asked: &Url) -> Url {
        match &self.metadata {
            Some(host) if asked.as_str().split('?').next() == Some(METADATA) => host.moved(asked),
            Some(_) | None => asked.clone(),
        }
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
    fn client(&self, url: &Url) -> &Client {
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
        let url = self.place(request.url());
        let mut builder = self.client(&url).request(method, url).body(body);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_service_is_near() {
        for near in [
            "http://127.0.0.1:2579",
            "http://127.0.0.1:2579/",
            "http://localhost",
            "http://[::1]:80",
            "http://169.254.169.254",
            "http://169.254.1.1:8080",
            "http://[fe80::1]",
        ] {
            assert!(MetadataHost::parse(near).is_ok(), "{near}");
        }
        for wrong in [
            "https://127.0.0.1",
            "http://10.0.0.1",
            "http://metadata.example",
            "http://localhost.example",
            "http://127.0.0.1/metadata",
            "http://127.0.0.1/?a",
            "http://u:p@127.0.0.1",
            "http://169.255.0.1",
            "127.0.0.1:80",
            "",
        ] {
            assert!(MetadataHost::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_metadata_service_is_moved() {
        let client = || Client::builder().build().expect("a client");
        let host = MetadataHost::parse("http://127.0.0.1:9").expect("a host");
        let http = Http::new(client(), client(), Some(host));
        for (asked, sent) in [
            (
                &*format!("{METADATA}?resource=r"),
                "http://127.0.0.1:9/metadata/identity/oauth2/token?resource=r",
            ),
            ("http://127.0.0.1:41/msi/token?a=b", "http://127.0.0.1:41/msi/token?a=b"),
            ("https://login.microsoftonline.com/t", "https://login.microsoftonline.com/t"),
        ] {
            assert_eq!(http.place(&Url::parse(asked).expect("a URL")).as_str(), sent);
        }
    }
}
