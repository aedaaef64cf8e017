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
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// Where to.
    pub url: Url,
    /// For `Authorization: Basic`.
    pub login: Option<(String, Secret)>,
    /// Signs each body.
    pub key: Option<Secret>,
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
    fn a_secret_is_not_shown() {
        let secret = Secret("hunter2".into());
        assert_eq!(format!("{secret} {secret:?} {}", Secret::default()), "*** *** ");
    }
}
