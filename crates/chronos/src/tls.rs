//! TLS: rustls with the provider that needs no more than a C compiler to build. Here what clients trust; what servers show
//! is in `identity`, how they listen in `listener`.

pub(crate) mod identity;
pub(crate) mod listener;

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Trusts the authorities that this machine trusts.
pub(crate) fn of_this_machine() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    // What cannot be read is not trusted; a machine without any still talks to hosts without TLS.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    trusting(roots)
}

/// Trusts those of a file too.
/// # Errors
/// Why the file is no use, in words.
pub(crate) fn of_this_machine_and(path: &Path) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let bytes = std::fs::read(path).map_err(|e| format!("cannot read `{}`: {e}", path.display()))?;
    let certs = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let certs =
        certs.map_err(|e| format!("`{}` is not a file of certificates (PEM): {e}", path.display()))?;
    if certs.is_empty() {
        return Err(format!("there is no certificate (PEM) in `{}`", path.display()));
    }
    for cert in certs {
        roots.add(cert).map_err(|e| format!("a certificate in `{}` is no use: {e}", path.display()))?;
    }
    Ok(trusting(roots))
}

/// Trusts nobody: for clients that do not use TLS, and need not look for certificates.
pub(crate) fn unused() -> ClientConfig {
    trusting(RootCertStore::empty())
}

fn trusting(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows the versions that rustls calls safe")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
