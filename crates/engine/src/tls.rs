//! Whom the clients of engines trust.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Trusts the authorities that this machine trusts. Where it knows none nobody is trusted, and who asks for HTTPS is told;
/// plain HTTP needs none.
pub(crate) fn of_this_machine() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring knows the versions that rustls calls safe")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
