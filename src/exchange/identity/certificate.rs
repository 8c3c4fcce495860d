//! A certificate as a client assertion: PS256 and `x5t#S256`, as Entra recommends; from PEM or PKCS#12.

use std::{fmt, path::Path};

use async_trait::async_trait;
use azure_core::{Error, error::ErrorKind, http::ClientMethodOptions};
use azure_identity::ClientAssertion;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::ExposeSecret;
use serde_json::json;
use uuid::Uuid;
use x509_parser::{pem::Pem, prelude::FromDer};

use crate::{
    domain::UnixMillis,
    exchange::clock::own_clock,
    secret::{Secret, read_file},
};

/// Life of an assertion, in seconds; Entra wants 5 to 10 minutes at most.
const LIFE: i64 = 300;
/// How much earlier than now it begins, for a clock that is ahead.
const SKEW: i64 = 30;

/// A certificate with its private key. `Debug` shows neither.
pub(super) struct Certificate {
    key: EncodingKey,
    thumbprint: String,
    ends: UnixMillis,
}

impl Certificate {
    /// Reads the file: PEM if it says so, else PKCS#12.
    pub(super) async fn load(path: &Path, password: Option<&Secret>) -> Result<Self, String> {
        let bytes = read_file(path).await?;
        let told = |why: String| format!("{}: {why}", path.display());
        if bytes.windows(11).any(|window| window == b"-----BEGIN ") {
            return Self::from_pem(&bytes).map_err(told);
        }
        let password = match password {
            Some(password) => {
                Some(password.read().await.map_err(|why| told(format!("its password: {why}")))?)
            }
            None => None,
        };
        let password = password.as_ref().map_or("", |password| password.expose_secret());
        Self::from_pkcs12(&bytes, password).map_err(told)
    }

    fn from_pem(bytes: &[u8]) -> Result<Self, String> {
        let (mut key, mut leaf) = (None, None);
        for block in Pem::iter_from_buffer(bytes) {
            let block = block.map_err(|error| format!("no PEM: {error}"))?;
            match block.label.as_str() {
                "CERTIFICATE" => drop(leaf.get_or_insert(block.contents)),
                "PRIVATE KEY" | "RSA PRIVATE KEY" => key = Some(pem(&block.label, &block.contents)),
                "ENCRYPTED PRIVATE KEY" => {
                    return Err("its key is encrypted, which PEM is not read with: use PKCS#12".into());
                }
                _ => {}
            }
        }
        let key = key.ok_or("holds no private key")?;
        Self::new(&key, &leaf.ok_or("holds no certificate")?)
    }

    fn from_pkcs12(bytes: &[u8], password: &str) -> Result<Self, String> {
        let store = p12_keystore::KeyStore::from_pkcs12(bytes, password)
            .map_err(|error| format!("is no PKCS#12 file, or its password is another: {error}"))?;
        let (_, chain) = store.private_key_chain().ok_or("holds no private key")?;
        let leaf = chain.chain().first().ok_or("holds no certificate")?;
        Self::new(&pem("PRIVATE KEY", chain.key()), leaf.as_der())
    }

    fn new(key_pem: &str, leaf: &[u8]) -> Result<Self, String> {
        let key = EncodingKey::from_rsa_pem(key_pem.as_bytes())
            .map_err(|error| format!("its key is no RSA key: {error}"))?;
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf)
            .map_err(|error| format!("its certificate cannot be read: {error}"))?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
        let ends = UnixMillis(parsed.validity().not_after.timestamp().saturating_mul(1_000));
        Ok(Self { key, thumbprint: URL_SAFE_NO_PAD.encode(digest), ends })
    }

    /// Its end.
    pub(super) const fn ends(&self) -> UnixMillis {
        self.ends
    }

    /// Refuses an expired certificate with its own words: Entra's would be less clear.
    pub(super) fn check(&self, now: UnixMillis) -> Result<(), String> {
        if self.ends > now {
            Ok(())
        } else {
            Err("identity.certificate_file: the certificate has expired".into())
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("ends", &self.ends).finish_non_exhaustive()
    }
}

/// Signs assertions for one token endpoint.
#[derive(Debug)]
pub(super) struct Assertion {
    certificate: Certificate,
    client_id: String,
    audience: String,
}

impl Assertion {
    pub(super) fn new(certificate: Certificate, client_id: String, audience: String) -> Self {
        Self { certificate, client_id, audience }
    }

    fn sign(&self, now: UnixMillis) -> Result<String, jsonwebtoken::errors::Error> {
        let header =
            Header { x5t_s256: Some(self.certificate.thumbprint.clone()), ..Header::new(Algorithm::PS256) };
        let now = now.0 / 1_000;
        let claims = json!({
            "aud": self.audience, "iss": self.client_id, "sub": self.client_id,
            "jti": Uuid::new_v4().to_string(), "iat": now, "nbf": now - SKEW, "exp": now + LIFE,
        });
        jsonwebtoken::encode(&header, &claims, &self.certificate.key)
    }
}

#[async_trait]
impl ClientAssertion for Assertion {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        self.sign(own_clock()).map_err(|error| {
            Error::with_message(ErrorKind::Credential, format!("the certificate's key cannot sign: {error}"))
        })
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem
}
