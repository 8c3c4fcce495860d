//! A certificate authority that lives as long as what it was made for, the certificates that it signs, and the servers that show them.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
    server::TlsStream,
};
use tokio_util::either::Either;

/// Signs for servers and clients of the sandbox.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

/// A certificate and its key, PEM (PKCS #8).
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate alone.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: String,
}

impl Authority {
    /// A new one. The name is for who looks at its certificate.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, format!("restore sandbox: {name}"));
        let certificate = params.self_signed(&key)?;
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Ok(Self { issuer: Issuer::new(params, key), der, pem })
    }

    /// What a client has to trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these names (DNS names or addresses), of this common name.
    ///
    /// # Errors
    /// If a name is none.
    pub fn sign(&self, common_name: &str, names: &[&str]) -> Result<Signed> {
        let (certificate, key) = self.leaf(common_name, names)?;
        Ok(Signed { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// The TLS of a server in this process, with a certificate for these names.
    ///
    /// # Errors
    /// If a name is none.
    pub fn server(&self, names: &[&str]) -> Result<Arc<rustls::ServerConfig>> {
        let (leaf, key) = self.leaf("restore sandbox", names)?;
        let chain = vec![leaf.der().clone(), self.der.clone()];
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .context("cannot use the sandbox's certificate")?;
        Ok(Arc::new(server))
    }

    fn leaf(&self, common_name: &str, names: &[&str]) -> Result<(rcgen::Certificate, KeyPair)> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        Ok((params.signed_by(&key, &self.issuer)?, key))
    }
}

/// A connection as a server of the sandbox goes on with it: over TLS, where it has some. `None`: a client that does not trust us, or
/// went away, is its own affair.
pub(crate) async fn accepted<S>(stream: S, tls: Option<TlsAcceptor>) -> Option<Either<TlsStream<S>, S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match tls {
        None => Some(Either::Right(stream)),
        Some(tls) => tls.accept(stream).await.ok().map(Either::Left),
    }
}
