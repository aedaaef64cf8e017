//! TLS of HTTP clients: rustls with the provider that needs no more than a C compiler to build.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

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
