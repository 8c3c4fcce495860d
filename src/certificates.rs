//! PEM files of certificates, tried before a client takes them: clients pass over what they cannot use, or panic.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// The certificates of a PEM file, in their order; none where it holds none.
///
/// # Errors
/// What is wrong with one of them.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    read.map_err(|error| error.to_string())
}

/// The authorities of a PEM file; none where it holds none.
///
/// # Errors
/// What is wrong with one of them.
pub fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(store)
}
