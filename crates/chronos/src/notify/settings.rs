//! How people are told of things, as meant: complete and checked.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use lettre::message::Mailbox;
use reqwest::Url;
use serde::Deserialize;

/// All channels of a server. None of them is needed.
#[derive(Clone, Debug, Default)]
pub struct NotifySettings {
    /// Stands in brackets before the subject of every message.
    pub cluster_name: String,
    /// SMTP.
    pub mail: Option<MailSettings>,
    /// An HTTP POST for each notice.
    pub webhook: Option<WebhookSettings>,
    /// A channel of Slack.
    pub slack: Option<WebhookSettings>,
    /// A channel of Mattermost.
    pub mattermost: Option<WebhookSettings>,
    /// A project of Sentry.
    pub sentry: Option<WebhookSettings>,
}

/// Where mail is handed in.
#[derive(Clone, Debug)]
pub struct MailSettings {
    /// Name or address of the mail server; what its certificate must be for.
    pub host: String,
    /// Its port, whatever the kind of TLS.
    pub port: u16,
    /// Who sends.
    pub from: Mailbox,
    /// Name and password, where the server wants them.
    pub login: Option<(String, Secret)>,
    /// How the connection is protected.
    pub tls: MailTls,
    /// A file of certificates (PEM) to trust beside those of this machine.
    pub ca_file: Option<PathBuf>,
}

/// How a connection to a mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// STARTTLS if the server offers it, and by all means if there is a password to protect.
    #[default]
    Auto,
    /// In the clear.
    None,
    /// STARTTLS, or nothing is sent.
    Starttls,
    /// TLS from the first byte on.
    Tls,
}

impl fmt::Display for MailTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Starttls => "starttls",
            Self::Tls => "tls",
        })
    }
}

/// Where notices are posted.
#[derive(Clone)]
pub struct WebhookSettings {
    /// The setting that says so, for advice.
    pub flag: &'static str,
    /// Where to.
    pub url: Url,
    /// For `Authorization: Basic`.
    pub login: Option<(String, Secret)>,
    /// Signs each body.
    pub key: Option<Secret>,
    /// A further header: how Sentry is told who sends.
    pub header: Option<(&'static str, Secret)>,
}

/// Reads the DSN of a Sentry project, `https://PUBLIC[:SECRET]@HOST[/PATH]/PROJECT`, and says where its events go. Raven
/// took words before the scheme that said how to send; here everything is sent in its own time.
pub(crate) fn sentry(dsn: &str) -> Option<WebhookSettings> {
    let plain = ["async+", "sync+"].iter().find_map(|word| dsn.strip_prefix(word)).unwrap_or(dsn);
    let mut url = Url::parse(plain).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let (public, secret) = (url.username().to_owned(), url.password().map(str::to_owned));
    let path = url.path().trim_end_matches('/').to_owned();
    let (prefix, project) = path.rsplit_once('/')?;
    if public.is_empty() || project.is_empty() {
        return None;
    }
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    url.set_path(&format!("{prefix}/api/{project}/store/"));
    let client = concat!("chronos/", env!("CARGO_PKG_VERSION"));
    let mut auth = format!("Sentry sentry_version=7, sentry_client={client}, sentry_key={public}");
    if let Some(secret) = secret {
        auth.push_str(&format!(", sentry_secret={secret}"));
    }
    let header = Some(("X-Sentry-Auth", Secret(auth)));
    Some(WebhookSettings { flag: "raven_dsn", url, login: None, key: None, header })
}

impl fmt::Debug for WebhookSettings {
    /// Without the URL: those of Slack and Mattermost are passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSettings").field("flag", &self.flag).finish_non_exhaustive()
    }
}

/// What is never shown, not even in a debug message.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { "***" })
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// Reads `host:port`; an IPv6 address stands in brackets.
pub(crate) fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty() && !host.contains(['/', ' ', '@'])).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_a_port() {
        let is = |text: &str, host: &str, port| assert_eq!(host_and_port(text), Some((host.into(), port)));
        is("mail.example.org:587", "mail.example.org", 587);
        is("10.0.0.1:25", "10.0.0.1", 25);
        is("[::1]:2525", "::1", 2525);
        for text in ["mail.example.org", "mail:", "mail:0", "mail:99999", ":25", "smtp://mail:25", "a b:25"] {
            assert_eq!(host_and_port(text), None, "{text}");
        }
    }

    #[test]
    fn a_dsn_says_where_events_go() {
        let read = |dsn: &str| {
            let settings = sentry(dsn)?;
            Some((settings.url.to_string(), settings.header.map(|(_, auth)| auth.0).unwrap_or_default()))
        };
        let (url, auth) = read("https://pub:sec@sentry.example.org/7?raven.timeout=1").expect("a DSN");
        assert_eq!(url, "https://sentry.example.org/api/7/store/");
        assert!(auth.ends_with("sentry_key=pub, sentry_secret=sec"), "{auth}");
        let (url, auth) = read("async+http://pub@h:9000/sub/path/12/").expect("a DSN");
        assert_eq!(url, "http://h:9000/sub/path/api/12/store/");
        assert!(auth.ends_with("sentry_key=pub"), "{auth}");
        for bad in ["", "https://h/1", "https://pub@h", "https://pub@h/", "ftp://pub@h/1", "pub@h/1"] {
            assert!(sentry(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret("hunter2".into());
        assert_eq!(format!("{secret} {secret:?} {}", Secret::default()), "*** *** ");
    }
}
