//! RSA certificates for client assertions.

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, date_time_ymd};
use time::OffsetDateTime;

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
