//! S3 in process: `s3s` does routing, signatures and XML, the backend is ours, in memory, with conditional writes that are atomic.
//! Faults by script, at the HTTP level.

mod backend;
mod fault;
mod watch;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{
    S3Result,
    auth::{S3Auth, SecretKey},
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::authority::{Authority, accepted};

pub use self::{
    backend::Backend,
    fault::{Effect, Fault, FaultId, Faults},
    watch::{Next, Seen, Watch},
};

/// The access key that the server takes; so it takes this key with `-` and anything behind it, by which clients can be told
/// apart.
pub const ACCESS_KEY: &str = "sandbox";
/// Its secret.
pub const SECRET_KEY: &str = "sandbox-secret-key";

/// The running server. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct S3 {
    address: SocketAddr,
    scheme: &'static str,
    backend: Backend,
    faults: Faults,
    _stop: Arc<DropGuard>,
}

impl S3 {
    /// Starts it on a free port of 127.0.0.1, with these buckets.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(buckets: &[&str]) -> Result<Self> {
        Self::start_with(buckets, None).await
    }

    /// The same over TLS, with a certificate of this authority for 127.0.0.1.
    ///
    /// # Errors
    /// If no port or no certificate can be had.
    pub async fn start_tls(buckets: &[&str], authority: &Authority) -> Result<Self> {
        let tls = TlsAcceptor::from(authority.server(&["127.0.0.1"])?);
        Self::start_with(buckets, Some(tls)).await
    }

    async fn start_with(buckets: &[&str], tls: Option<TlsAcceptor>) -> Result<Self> {
        let backend = Backend::default();
        for bucket in buckets {
            backend.add_bucket(bucket);
        }
        let mut builder = S3ServiceBuilder::new(backend.clone());
        builder.set_auth(Keys);
        let service = builder.build();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let faults = Faults::default();
        let stop = CancellationToken::new();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let accept = accept(listener, tls, service, faults.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept));
        Ok(Self { address, scheme, backend, faults, _stop: Arc::new(stop.drop_guard()) })
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Its address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its faults.
    #[must_use]
    pub const fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What it holds, without HTTP.
    #[must_use]
    pub const fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Puts an object.
    pub fn put(&self, bucket: &str, key: &str, body: Bytes) {
        self.backend.put(bucket, key, vec![body]);
    }

    /// The variables that lead the AWS SDK here.
    #[must_use]
    pub fn credentials(&self) -> BTreeMap<String, String> {
        let pairs = [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}

/// One secret, many keys.
struct Keys;

#[async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match access_key.strip_prefix(ACCESS_KEY) {
            Some(rest) if rest.is_empty() || rest.starts_with('-') => Ok(SecretKey::from(SECRET_KEY)),
            Some(_) | None => Err(s3_error!(InvalidAccessKeyId)),
        }
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: S3Service,
    faults: Faults,
    stop: CancellationToken,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if faults.is_out() {
            // Nobody home: the connection ends before a word.
            drop(stream);
            continue;
        }
        let (tls, service, faults) = (tls.clone(), service.clone(), faults.clone());
        let connection = async move {
            if let Some(stream) = accepted(stream, tls).await {
                serve(stream, service, faults).await;
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S3Service,
    faults: Faults,
) {
    let answer = service_fn(move |request: http::Request<Incoming>| {
        let (service, faults) = (service.clone(), faults.clone());
        async move { fault::answer(service, faults, request).await }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(error, "a connection to S3 ended");
    }
}

#[cfg(test)]
mod tests;
