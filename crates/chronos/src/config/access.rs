//! The settings about who may ask, and over what: from texts to what they mean.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use reqwest::Url;

use super::notify::file;
use super::values::{Address, Folder, Texts};
use super::{ConfigError, ConfigFile, Layers, Manner, Source};
use crate::notify::settings::Secret;

/// Who may ask.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// The one user; `None` where nobody needs to log in.
    pub credentials: Option<Credentials>,
    /// What browsers show.
    pub realm: String,
    /// Whether anyone who connects may do everything.
    pub allow_unauthenticated: bool,
    /// Origins of pages that may use the API; `*` is all.
    pub origins: Vec<String>,
}

/// A name and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// Both, as clients send them: `user:password`.
    pub both: Secret,
}

impl Credentials {
    /// Longest name: what the audit keeps of it.
    const USER_MAX: usize = 64;

    /// Reads `user:password`; both must be something. Chronos split at the last colon and clients do at the first; what
    /// is compared is the whole, so it makes no difference.
    pub fn parse(text: &str) -> Option<Self> {
        let (user, password) = text.split_once(':')?;
        let sane = !user.is_empty()
            && user.len() <= Self::USER_MAX
            && !password.is_empty()
            && !text.contains(|c: char| c.is_control());
        sane.then(|| Self { user: user.to_owned(), both: Secret(text.to_owned()) })
    }
}

/// Where the certificate of HTTPS is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSource {
    /// In a key store (PKCS#12).
    KeyStore {
        /// Where.
        path: PathBuf,
        /// Its password.
        password: Secret,
    },
    /// In two files (PEM).
    Pem {
        /// The certificate, then those it is signed by.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// As written, or empty.
pub(super) struct AccessTexts {
    address: Address,
    port: u16,
    disable_http: bool,
    https_address: Address,
    https_port: u16,
    tls_cert: PathBuf,
    tls_key: PathBuf,
    keystore: PathBuf,
    keystore_password: Secret,
    credentials: Secret,
    /// An empty text that somebody gave is a mistake, and no open door.
    credentials_given: bool,
    credentials_file: PathBuf,
    /// Neither is an empty path.
    credentials_file_given: bool,
    realm: String,
    origins: Texts,
    allow_unauthenticated: bool,
}

/// What is listened to, and who may ask.
type Meant = (Option<SocketAddr>, Option<(SocketAddr, TlsSource)>, AccessSettings);

impl AccessTexts {
    pub(super) fn pick<F: Fn(&str) -> Source>(
        layers: &mut Layers<F>,
        flags: &ConfigFile,
        file: &ConfigFile,
        manner: Manner,
    ) -> Self {
        macro_rules! pick {
            ($name:ident, $default:expr) => {
                layers.pick(stringify!($name), flags.$name.clone(), file.$name.clone(), $default)
            };
            ($name:ident) => {{
                let path = |path: &Option<PathBuf>| path.clone().map(Folder);
                layers
                    .pick(stringify!($name), path(&flags.$name), path(&file.$name), Folder(PathBuf::new()))
                    .0
            }};
        }
        let (address, port) = match manner {
            Manner::Server => (Address::LOOPBACK, 4400),
            Manner::RunJar => (Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), 8080),
        };
        let address = pick!(http_address, address);
        let origins = |origins: &Option<Vec<String>>| origins.clone().map(Texts);
        Self {
            address,
            port: pick!(http_port, port),
            disable_http: pick!(disable_http, false),
            https_address: pick!(https_address, address),
            https_port: pick!(https_port, 8443),
            tls_cert: pick!(tls_cert),
            tls_key: pick!(tls_key),
            keystore: pick!(ssl_keystore_path),
            keystore_password: pick!(ssl_keystore_password, Secret::default()),
            credentials: pick!(http_credentials, Secret::default()),
            credentials_given: flags.http_credentials.is_some() || file.http_credentials.is_some(),
            credentials_file: pick!(http_credentials_file),
            credentials_file_given: flags.http_credentials_file.is_some()
                || file.http_credentials_file.is_some(),
            realm: pick!(http_realm, "Mesosphere".to_owned()),
            origins: layers.pick(
                "cors_origin",
                origins(&flags.cors_origin),
                origins(&file.cors_origin),
                Texts(Vec::new()),
            ),
            allow_unauthenticated: pick!(allow_unauthenticated, false),
        }
    }

    pub(super) fn meant(self) -> Result<Meant, ConfigError> {
        let listen = (!self.disable_http).then(|| SocketAddr::new(self.address.0, self.port));
        let https =
            self.tls()?.map(|source| (SocketAddr::new(self.https_address.0, self.https_port), source));
        if listen.is_none() && https.is_none() {
            let rule = "without --tls_cert or --ssl_keystore_path nothing would be listened to";
            return bounds("disable_http", "true".into(), rule);
        }
        let credentials = self.credentials()?;
        if self.realm.is_empty() || self.realm.contains(|c: char| c.is_control() || matches!(c, '"' | '\\')) {
            let rule = "a text in one line is wanted, without quotes and backslashes";
            return bounds("http_realm", format!("`{}`", self.realm), rule);
        }
        let origins = self.origins.0.iter().map(|text| origin(text)).collect::<Result<Vec<_>, _>>()?;
        let access = AccessSettings {
            credentials,
            realm: self.realm,
            allow_unauthenticated: self.allow_unauthenticated,
            origins,
        };
        Ok((listen, https, access))
    }

    fn tls(&self) -> Result<Option<TlsSource>, ConfigError> {
        let given = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
        match (given(&self.keystore), given(&self.tls_cert), given(&self.tls_key)) {
            (None, None, None) => Ok(None),
            (Some(path), None, None) => {
                Ok(Some(TlsSource::KeyStore { path, password: self.keystore_password.clone() }))
            }
            (None, Some(cert), Some(key)) => Ok(Some(TlsSource::Pem { cert, key })),
            (None, Some(_), None) => {
                bounds("tls_key", "empty".into(), "a certificate is no use without its key")
            }
            (None, None, Some(_)) => {
                bounds("tls_cert", "empty".into(), "a key is no use without its certificate")
            }
            (Some(path), _, _) => {
                let rule = "there is a certificate in --tls_cert too: say which one is meant";
                bounds("ssl_keystore_path", format!("`{}`", path.display()), rule)
            }
        }
    }

    fn credentials(&self) -> Result<Option<Credentials>, ConfigError> {
        if self.credentials_file_given && self.credentials_file.as_os_str().is_empty() {
            return bounds("http_credentials_file", "empty".into(), "name the file, or leave it out");
        }
        let from_file = file("http_credentials_file", &self.credentials_file)?;
        let (name, text) = match from_file {
            Some(_) if !self.credentials.0.is_empty() => {
                return bounds("http_credentials", "***".into(), "they are given twice: here and as a file");
            }
            Some(text) => ("http_credentials_file", text),
            None if !self.credentials_given => return Ok(None),
            None => ("http_credentials", self.credentials.clone()),
        };
        match Credentials::parse(&text.0) {
            Some(credentials) => Ok(Some(credentials)),
            // Chronos said so in its log and let everybody in.
            None => {
                let rule =
                    "write `user:password`; neither of them may be empty, and the user has at most 64 bytes";
                bounds(name, "***".into(), rule)
            }
        }
    }
}

/// Scheme, host and port, as browsers send them.
fn origin(text: &str) -> Result<String, ConfigError> {
    if text == "*" {
        return Ok("*".into());
    }
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let whole = url.filter(|url| url.path() == "/" && url.query().is_none() && url.fragment().is_none());
    match whole.map(|url| url.origin().ascii_serialization()) {
        Some(origin) => Ok(origin),
        None => bounds(
            "cors_origin",
            format!("`{text}`"),
            "an origin is wanted, as in https://ops.example.org, or `*`",
        ),
    }
}

fn bounds<T>(name: &'static str, value: String, rule: &'static str) -> Result<T, ConfigError> {
    Err(ConfigError::Bounds { name, value, rule })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[track_caller]
    fn meant_by(file: &str, manner: Manner) -> Result<Config, String> {
        let file: ConfigFile = serde_norway::from_str(file).map_err(|e| e.to_string())?;
        Config::new(ConfigFile::default(), |_| Source::Flag, Some(("f".into(), file)), manner)
            .map_err(|e| e.to_string())
    }

    fn meant(file: &str) -> Result<Config, String> {
        meant_by(file, Manner::Server)
    }

    #[test]
    fn credentials_are_whole_or_refused() {
        let user = |file: &str| {
            meant(file)
                .expect(file)
                .access
                .credentials
                .map(|credentials| (credentials.user, credentials.both.0))
        };
        assert_eq!(user(""), None);
        assert_eq!(user("http_credentials: 'u:p'"), Some(("u".into(), "u:p".into())));
        assert_eq!(user("http_credentials: 'u:p:q'"), Some(("u".into(), "u:p:q".into())));
        for bad in ["", "u", ":p", "u:", ":", "u:p\n"] {
            let error = meant(&format!("http_credentials: {bad:?}")).expect_err(bad);
            assert!(error.contains("write `user:password`"), "{error}");
        }
        let long = format!("http_credentials: '{}:p'", "u".repeat(65));
        assert!(meant(&long).expect_err("too long").contains("at most 64 bytes"));
        assert!(meant("http_credentials_file: ''").expect_err("empty").contains("name the file"));
        let error =
            meant("{http_credentials: 'u:p', http_credentials_file: /nonexistent}").expect_err("no file");
        assert!(error.contains("cannot read"), "{error}");
    }

    #[test]
    fn credentials_open_other_addresses_than_loopback() {
        assert!(meant("http_address: 0.0.0.0").is_err());
        assert!(meant("{http_address: 0.0.0.0, http_credentials: 'u:p'}").is_ok());
        assert!(meant("{http_address: 0.0.0.0, allow_unauthenticated: true}").is_ok());
        let https = "tls_cert: c, tls_key: k";
        assert!(
            meant(&format!("{{https_address: 0.0.0.0, {https}}}")).is_err(),
            "HTTPS is listened to as well"
        );
        assert!(meant(&format!("{{http_address: 0.0.0.0, disable_http: true, {https}}}")).is_err());
        assert!(meant_by("", Manner::RunJar).is_err(), "all addresses are its default");
        let old = meant_by("http_credentials: 'u:p'", Manner::RunJar).expect("it is guarded");
        assert_eq!(old.listen, Some("0.0.0.0:8080".parse().expect("an address")));
    }

    #[test]
    fn a_certificate_is_in_one_place() {
        let https = |file: &str| meant(file).map(|config| config.https);
        assert_eq!(https(""), Ok(None));
        let pem = TlsSource::Pem { cert: "c".into(), key: "k".into() };
        let at = |port| SocketAddr::new([127, 0, 0, 1].into(), port);
        assert_eq!(https("{tls_cert: c, tls_key: k}"), Ok(Some((at(8443), pem.clone()))));
        assert_eq!(https("{tls_cert: c, tls_key: k, https_port: 1}"), Ok(Some((at(1), pem))));
        let store = TlsSource::KeyStore { path: "s".into(), password: Secret("p".into()) };
        assert_eq!(https("{ssl_keystore_path: s, ssl_keystore_password: p}"), Ok(Some((at(8443), store))));
        for bad in [
            "tls_cert: c",
            "tls_key: k",
            "{tls_cert: c, tls_key: k, ssl_keystore_path: s}",
            "disable_http: true",
        ] {
            assert!(meant(bad).is_err(), "{bad}");
        }
        let only = meant("{disable_http: true, tls_cert: c, tls_key: k}").expect("HTTPS is left");
        assert_eq!((only.listen, only.addresses().count()), (None, 1));
    }

    #[test]
    fn origins_are_as_browsers_send_them() {
        let origins = |file: &str| meant(file).map(|config| config.access.origins);
        assert_eq!(
            origins("cors_origin: ['https://A.example.org:443', 'http://b:8080/']"),
            Ok(vec!["https://a.example.org".into(), "http://b:8080".into()])
        );
        assert_eq!(origins("cors_origin: ['*']"), Ok(vec!["*".into()]));
        for bad in ["a.example.org", "ftp://a", "https://a/b", "null"] {
            assert!(meant(&format!("cors_origin: ['{bad}']")).is_err(), "{bad}");
        }
        assert!(meant("http_realm: 'a\"b'").is_err());
    }

    #[test]
    fn secrets_are_not_told() {
        let config = meant(
            "{http_credentials: 'u:hunter2', ssl_keystore_path: s, ssl_keystore_password: hunter2, slack_url: \
             'https://h/hunter2', mattermost_url: 'https://h/hunter2', raven_dsn: 'https://hunter2@h/1'}",
        )
        .expect("it makes sense");
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    }
}
