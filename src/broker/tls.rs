//! Whom we trust and who we are in TLS: files, read again for each connection, so that a certificate that was renewed needs no
//! restart.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// TLS to the broker (`broker.tls`).
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Certificates to trust beside the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// For a broker that asks for one.
    pub client: Option<ClientCertificate>,
    /// Name in the broker's certificate; `None`: the URI's host.
    pub server_name: Option<String>,
}

/// A client certificate.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// Its chain, PEM, our own first.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
}

/// A key of the configuration, and what is wrong with the file that it names. Never shows the file's content.
type Unusable = (&'static str, String);

impl Tls {
    /// The files as they are now.
    ///
    /// # Errors
    /// A file cannot be read, or does not hold what it should.
    pub fn read(&self) -> Result<OwnedTLSConfig, Unusable> {
        let cert_chain = self.ca_file.as_deref().map(roots).transpose()?;
        let identity = self.client.as_ref().map(ClientCertificate::read).transpose()?;
        Ok(OwnedTLSConfig { identity, cert_chain })
    }
}

impl ClientCertificate {
    fn read(&self) -> Result<OwnedIdentity, Unusable> {
        let pem = content("broker.tls.cert_file", &self.cert_file)?;
        let unusable = |why: String| ("broker.tls.cert_file", why);
        certificates(&pem).map_err(unusable)?;
        let key = content("broker.tls.key_file", &self.key_file)?;
        // The error's own words may show a line of the file.
        PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| ("broker.tls.key_file", "holds no private key (PEM)".to_owned()))?;
        Ok(OwnedIdentity::PKCS8 { pem, key })
    }
}

/// The authorities of a PEM file. `lapin` passes over certificates that it cannot use, and takes an empty file.
fn roots(path: &Path) -> Result<String, Unusable> {
    const KEY: &str = "broker.tls.ca_file";
    let pem = content(KEY, path)?;
    let mut store = RootCertStore::empty();
    for certificate in certificates(&pem).map_err(|why| (KEY, why))? {
        store.add(certificate).map_err(|error| (KEY, error.to_string()))?;
    }
    String::from_utf8(pem).map_err(|_| (KEY, "is no UTF-8 text".to_owned()))
}

fn content(key: &'static str, path: &Path) -> Result<Vec<u8>, Unusable> {
    fs::read(path).map_err(|error| (key, format!("cannot read {}: {error}", path.display())))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err("holds no certificate (PEM)".into()),
        Err(error) => Err(format!("cannot be used: {error}")),
    }
}
