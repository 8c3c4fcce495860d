//! Whom we trust and who we are in TLS: files, read again for each connection, so that a certificate that was renewed needs no
//! restart.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};

use crate::certificates::{authorities, certificates};

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
        const CERT: &str = "broker.tls.cert_file";
        const KEY: &str = "broker.tls.key_file";
        let pem = content(CERT, &self.cert_file)?;
        some(CERT, certificates(&pem).map(|chain| chain.is_empty()))?;
        let key = content(KEY, &self.key_file)?;
        // The error's own words may show a line of the file.
        PrivateKeyDer::from_pem_slice(&key).map_err(|_| (KEY, "holds no private key (PEM)".to_owned()))?;
        Ok(OwnedIdentity::PKCS8 { pem, key })
    }
}

/// The authorities of a PEM file, as `lapin` takes them: as text.
fn roots(path: &Path) -> Result<String, Unusable> {
    const KEY: &str = "broker.tls.ca_file";
    let pem = content(KEY, path)?;
    some(KEY, authorities(&pem).map(|store| store.is_empty()))?;
    String::from_utf8(pem).map_err(|_| (KEY, "is no UTF-8 text".to_owned()))
}

fn content(key: &'static str, path: &Path) -> Result<Vec<u8>, Unusable> {
    fs::read(path).map_err(|error| (key, format!("cannot read {}: {error}", path.display())))
}

/// A file that was read must hold something.
fn some(key: &'static str, is_empty: Result<bool, String>) -> Result<(), Unusable> {
    match is_empty {
        Ok(false) => Ok(()),
        Ok(true) => Err((key, "holds no certificate (PEM)".to_owned())),
        Err(why) => Err((key, format!("cannot be used: {why}"))),
    }
}
