//! TLS of HTTP clients: rustls with the provider that needs no more than a C compiler to build.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Trusts the authorities that this machine trusts.
pub(crate) fn of_this_machine() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    // What cannot be read is not trusted; a machine without any still talks to hosts without TLS.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    trusting(roots)
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
