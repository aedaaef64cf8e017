//! TLS: rustls with the provider that needs no more than a C compiler to build. Here what clients trust; what servers show
//! is in `identity`, how they listen in `listener`.

pub(crate) mod identity;
pub(crate) mod listener;

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use identity::Identity;

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

/// Trusts the authorities of this machine, and whoever shows the certificate that this node shows itself: the nodes of a
/// cluster often share one, which no authority has signed and which is for a name that none of their addresses is.
pub(crate) fn of_neighbours(identity: Option<Arc<Identity>>) -> ClientConfig {
    let Some(identity) = identity else { return of_this_machine() };
    let mut config = of_this_machine();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let others = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().ok();
    config.dangerous().set_certificate_verifier(Arc::new(Neighbours { identity, others, provider }));
    config
}

#[derive(Debug)]
struct Neighbours {
    identity: Arc<Identity>,
    /// `None` where this machine trusts no authority.
    others: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Neighbours {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // That it has the key is shown by its signature, which is checked below either way.
        if self.identity.present().cert.first().is_some_and(|ours| ours == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.others {
            Some(others) => others.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            None => Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn trusting(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows the versions that rustls calls safe")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
