//! The certificate of an HTTPS server: read from a key store or from PEM, checked, and read again when it changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use jiff::Timestamp;
use p12_keystore::{KeyStore, KeyStoreEntry, Pkcs12ImportPolicy};
use rustls::ServerConfig;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::TlsSource;
use crate::notify::settings::Secret;

/// Largest file that is read: a chain and its key have some kilobytes.
const FILE_MAX: u64 = 1024 * 1024;
/// How a Java key store begins, which Chronos took as well.
const JKS: [u8; 4] = [0xfe, 0xed, 0xfe, 0xed];

/// Why a certificate is no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("`{}` has more than {FILE_MAX} bytes, and is no certificate", .0.display())]
    TooLarge(PathBuf),
    #[error("`{}` is a Java key store (JKS), which only Java reads", .0.display())]
    Jks(PathBuf),
    #[error("the key store `{}` cannot be opened with this password", .0.display())]
    Password(PathBuf),
    #[error("`{}` is not a key store (PKCS#12) that this program can read: {why}", path.display())]
    NotAKeyStore { path: PathBuf, why: String },
    #[error("the key store `{}` has {} with a certificate", path.display(), if *found == 0 { "no key".to_owned() } else { format!("{found} keys") })]
    Keys { path: PathBuf, found: usize },
    #[error("there is no {what} (PEM) in `{}`", path.display())]
    Missing { path: PathBuf, what: &'static str },
    #[error("the key in `{}` is protected by a password", .0.display())]
    Encrypted(PathBuf),
    #[error("`{}` is not {what} (PEM): {why}", path.display())]
    Malformed { path: PathBuf, what: &'static str, why: String },
    #[error("the key in `{}` is of a kind that TLS does not use: {why}", path.display())]
    Unsupported { path: PathBuf, why: String },
    #[error("the key in `{}` does not belong to the certificate in `{}`", key.display(), cert.display())]
    Mismatch { key: PathBuf, cert: PathBuf },
    #[error("the certificate in `{}` was valid until {until}", path.display())]
    Expired { path: PathBuf, until: Timestamp },
    #[error("the certificate in `{}` is not valid before {from}", path.display())]
    NotYet { path: PathBuf, from: Timestamp },
}

impl IdentityError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "check the path, and who may read it",
            Self::Jks(_) => {
                "convert it: keytool -importkeystore -srckeystore OLD -destkeystore NEW.p12 -deststoretype PKCS12"
            }
            Self::Password(_) => "check --ssl_keystore_password or MESOSPHERE_KEYSTORE_PASS",
            Self::NotAKeyStore { .. } | Self::TooLarge(_) => {
                "make one: openssl pkcs12 -export -in cert.pem -inkey key.pem -out chronos.p12"
            }
            Self::Keys { .. } => "it must hold one key and its certificate",
            Self::Missing { .. } | Self::Malformed { .. } => "PEM is text that begins with -----BEGIN",
            Self::Encrypted(_) => {
                "write it without one into a file that only this user may read: openssl pkey -in KEY -out NEW, or use a key \
                 store"
            }
            Self::Unsupported { .. } => {
                "use RSA with 2048 bits or more, ECDSA with P-256 or P-384, or Ed25519"
            }
            Self::Mismatch { .. } => "name the key that the certificate was made for",
            Self::Expired { .. } => "renew it",
            Self::NotYet { .. } => "wait, or check the clock of this machine",
        }
    }
}

/// Reads certificate and key, and checks that they are of use now.
pub(crate) fn load(source: &TlsSource, now: Timestamp) -> Result<CertifiedKey, IdentityError> {
    let (chain, key, cert_path, key_path) = match source {
        TlsSource::KeyStore { path, password } => {
            let (chain, key) = from_key_store(path, password)?;
            (chain, key, path, path)
        }
        TlsSource::Pem { cert, key } => (certificates(cert)?, private_key(key)?, cert, key),
    };
    let leaf =
        chain.first().ok_or(IdentityError::Missing { path: cert_path.clone(), what: "certificate" })?;
    check_time(leaf, cert_path, now)?;
    let signing = any_supported_type(&key)
        .map_err(|e| IdentityError::Unsupported { path: key_path.clone(), why: e.to_string() })?;
    let certified = CertifiedKey::new(chain, signing);
    // What cannot be compared is not known to differ.
    if let Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) =
        certified.keys_match()
    {
        return Err(IdentityError::Mismatch { key: key_path.clone(), cert: cert_path.clone() });
    }
    Ok(certified)
}

/// Those of these names that the certificate is not for: clients that ask for them will not trust it.
pub(crate) fn not_for<'a>(certified: &CertifiedKey, names: &'a [String]) -> Vec<&'a str> {
    let Some(parsed) = certified.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok()) else {
        return Vec::new();
    };
    let is_for = |name: &str| {
        ServerName::try_from(name)
            .is_ok_and(|name| rustls::client::verify_server_name(&parsed, &name).is_ok())
    };
    names.iter().map(String::as_str).filter(|name| !is_for(name)).collect()
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn from_key_store(path: &Path, password: &Secret) -> Result<Pair, IdentityError> {
    let bytes = read(path)?;
    if bytes.starts_with(&JKS) {
        return Err(IdentityError::Jks(path.into()));
    }
    let store =
        KeyStore::from_pkcs12(&bytes, &password.0, Pkcs12ImportPolicy::Strict).map_err(|e| match e {
            // Its checksum is made with the password.
            p12_keystore::error::Error::MacError(_) => IdentityError::Password(path.into()),
            e => IdentityError::NotAKeyStore { path: path.into(), why: e.to_string() },
        })?;
    let chains: Vec<_> = store
        .entries()
        .filter_map(|(_, entry)| match entry {
            KeyStoreEntry::PrivateKeyChain(chain) => Some(chain),
            _ => None,
        })
        .collect();
    let [chain] = chains.as_slice() else {
        return Err(IdentityError::Keys { path: path.into(), found: chains.len() });
    };
    let certs = chain.certs().iter().map(|cert| CertificateDer::from(cert.as_der().to_vec())).collect();
    Ok((certs, PrivatePkcs8KeyDer::from(chain.key().as_der().to_vec()).into()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(certs) if certs.is_empty() => {
            Err(IdentityError::Missing { path: path.into(), what: "certificate" })
        }
        Ok(certs) => Ok(certs),
        Err(e) => {
            Err(IdentityError::Malformed { path: path.into(), what: "a certificate", why: e.to_string() })
        }
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| match e {
        rustls::pki_types::pem::Error::NoItemsFound if holds(&bytes, b"ENCRYPTED PRIVATE KEY") => {
            IdentityError::Encrypted(path.into())
        }
        rustls::pki_types::pem::Error::NoItemsFound => {
            IdentityError::Missing { path: path.into(), what: "key" }
        }
        e => IdentityError::Malformed { path: path.into(), what: "a key", why: e.to_string() },
    })
}

fn holds(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|found| found == word)
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    use std::io::Read as _;
    let unreadable = |cause| IdentityError::Unreadable { path: path.into(), cause };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(IdentityError::TooLarge(path.into()));
    }
    Ok(bytes)
}

fn check_time(leaf: &CertificateDer<'_>, path: &Path, now: Timestamp) -> Result<(), IdentityError> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|e| IdentityError::Malformed {
        path: path.into(),
        what: "a certificate",
        why: e.to_string(),
    })?;
    let at = |seconds: i64| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    let validity = parsed.validity();
    let (from, until) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
    if now > until {
        return Err(IdentityError::Expired { path: path.into(), until });
    }
    if now < from {
        return Err(IdentityError::NotYet { path: path.into(), from });
    }
    Ok(())
}

/// What a server shows, and where it comes from.
#[derive(Debug)]
pub(crate) struct Identity {
    source: TlsSource,
    present: RwLock<Arc<CertifiedKey>>,
    seen: RwLock<Vec<Option<Stamp>>>,
}

/// By which a file that has changed is told.
type Stamp = (SystemTime, u64);

impl Identity {
    /// Reads it for the first time.
    pub(crate) fn read(source: TlsSource) -> Result<Self, IdentityError> {
        let seen = RwLock::new(stamps(&source));
        let present = RwLock::new(Arc::new(load(&source, Timestamp::now())?));
        Ok(Self { source, present, seen })
    }

    /// What is shown now.
    pub(crate) fn present(&self) -> Arc<CertifiedKey> {
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads it again. What is of no use is not taken: the old one stays.
    pub(crate) fn reload(&self) -> Result<(), IdentityError> {
        let stamps = stamps(&self.source);
        // What is of no use now is looked at again: it may be valid from tomorrow on.
        let read = load(&self.source, Timestamp::now())?;
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = stamps;
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
        Ok(())
    }

    /// Whether a file is another one than when it was read.
    pub(crate) fn has_changed(&self) -> bool {
        *self.seen.read().unwrap_or_else(PoisonError::into_inner) != stamps(&self.source)
    }
}

fn stamps(source: &TlsSource) -> Vec<Option<Stamp>> {
    let files = match source {
        TlsSource::KeyStore { path, .. } => vec![path],
        TlsSource::Pem { cert, key } => vec![cert, key],
    };
    let stamp = |path: &PathBuf| {
        let found = path.metadata().ok()?;
        Some((found.modified().ok()?, found.len()))
    };
    files.into_iter().map(stamp).collect()
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present())
    }
}

/// How TLS is spoken with this identity.
pub(crate) fn server_config(identity: Arc<Identity>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows the versions that rustls calls safe")
        .with_no_client_auth()
        .with_cert_resolver(identity)
}
