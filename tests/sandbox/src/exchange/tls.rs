//! A certificate authority that lives as long as the sandbox, and RSA certificates for client assertions.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256,
    date_time_ymd,
};
use time::OffsetDateTime;
use tokio_rustls::rustls::{self, pki_types::PrivateKeyDer};

/// A server's TLS and the authority that a client must trust.
pub(super) struct Tls {
    pub(super) server: Arc<rustls::ServerConfig>,
    pub(super) ca_pem: String,
}

/// Makes an authority and a certificate for these names (DNS names or addresses).
pub(super) fn make(names: &[&str]) -> Result<Tls> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(rcgen::DnType::CommonName, "restore sandbox: Exchange");
    let ca = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);

    let key = KeyPair::generate()?;
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    let chain = vec![leaf.der().clone(), ca.der().clone()];
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("cannot use the sandbox's certificate")?;
    Ok(Tls { server: Arc::new(server), ca_pem: ca.pem() })
}

/// An RSA certificate with which an application signs its assertions.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The certificate.
    pub certificate_pem: String,
    /// Its key, PKCS #8.
    pub key_pem: String,
    /// The certificate, DER: what [`super::Exchange::add_certificate`] takes.
    pub der: Vec<u8>,
}

impl ClientCertificate {
    /// Makes a self-signed one with an RSA key of 2048 bits.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn generate() -> Result<Self> {
        Self::ending(date_time_ymd(4096, 1, 1))
    }

    /// Makes one that has expired.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn expired() -> Result<Self> {
        Self::ending(date_time_ymd(2020, 1, 1))
    }

    fn ending(end: OffsetDateTime) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
        let mut params = CertificateParams::new(vec!["restore-worker".to_owned()])?;
        params.not_after = end;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            der: certificate.der().to_vec(),
        })
    }
}
