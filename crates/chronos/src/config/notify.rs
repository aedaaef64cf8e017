//! The settings about telling people: from texts to what they mean.

use std::path::PathBuf;

use reqwest::Url;

use super::values::Folder;
use super::{ConfigError, ConfigFile, Layers, Manner, Source};
use crate::notify::settings::{
    MailSettings, MailTls, NotifySettings, Secret, WebhookSettings, host_and_port, sentry,
};

/// As written, or empty.
pub(super) struct NotifyTexts {
    cluster_name: String,
    mail_server: String,
    mail_from: String,
    mail_user: String,
    mail_password: Secret,
    mail_password_file: PathBuf,
    mail_tls: MailTls,
    mail_ssl: bool,
    mail_ca_file: PathBuf,
    slack: Secret,
    mattermost: Secret,
    sentry: Secret,
    /// May bear a password or a token.
    url: Secret,
    credentials: Secret,
    secret_file: PathBuf,
}

impl NotifyTexts {
    pub(super) fn pick<F: Fn(&str) -> Source>(
        layers: &mut Layers<F>,
        flags: &ConfigFile,
        file: &ConfigFile,
    ) -> Self {
        macro_rules! pick {
            ($name:ident) => {
                layers.pick(stringify!($name), flags.$name.clone(), file.$name.clone(), Default::default())
            };
            ($name:ident, path) => {{
                let path = |path: &Option<PathBuf>| path.clone().map(Folder);
                layers
                    .pick(stringify!($name), path(&flags.$name), path(&file.$name), Folder(PathBuf::new()))
                    .0
            }};
        }
        Self {
            cluster_name: pick!(cluster_name),
            mail_server: pick!(mail_server),
            mail_from: pick!(mail_from),
            mail_user: pick!(mail_user),
            mail_password: pick!(mail_password),
            mail_password_file: pick!(mail_password_file, path),
            mail_tls: pick!(mail_tls),
            mail_ssl: pick!(mail_ssl),
            mail_ca_file: pick!(mail_ca_file, path),
            slack: pick!(slack_url),
            mattermost: pick!(mattermost_url),
            sentry: pick!(raven_dsn),
            url: pick!(http_notification_url),
            credentials: pick!(http_notification_credentials),
            secret_file: pick!(http_notification_secret_file, path),
        }
    }

    pub(super) fn meant(self, manner: Manner) -> Result<NotifySettings, ConfigError> {
        let (mail, webhook) = (self.mail(manner)?, self.webhook()?);
        let slack = chat("slack_url", &self.slack)?;
        let mattermost = chat("mattermost_url", &self.mattermost)?;
        let sentry = match sentry(&self.sentry.0) {
            None if !self.sentry.0.is_empty() => {
                let rule = "a DSN is wanted, as in https://KEY@sentry.example.org/PROJECT";
                return bounds("raven_dsn", "***".into(), rule);
            }
            sentry => sentry,
        };
        Ok(NotifySettings { cluster_name: self.cluster_name, mail, webhook, slack, mattermost, sentry })
    }

    fn mail(&self, manner: Manner) -> Result<Option<MailSettings>, ConfigError> {
        if self.mail_server.is_empty() {
            return Ok(None);
        }
        if manner == Manner::RunJar && (self.mail_from.is_empty() || !self.mail_server.contains(':')) {
            // Chronos began, and sent no mail.
            return Ok(None);
        }
        let server = || format!("`{}`", self.mail_server);
        let Some((host, port)) = host_and_port(&self.mail_server) else {
            return bounds(
                "mail_server",
                server(),
                "a host and a port are wanted, as in mail.example.org:587",
            );
        };
        if self.mail_from.is_empty() {
            return bounds("mail_from", "empty".into(), "mail needs an address that it comes from");
        }
        let Ok(from) = self.mail_from.parse() else {
            return bounds("mail_from", format!("`{}`", self.mail_from), "a mail address is wanted");
        };
        let password = match file("mail_password_file", &self.mail_password_file)? {
            Some(_) if !self.mail_password.0.is_empty() => {
                return bounds("mail_password", "***".into(), "it is given twice: here and as a file");
            }
            Some(password) => password,
            None => self.mail_password.clone(),
        };
        let login = match (self.mail_user.is_empty(), password.0.is_empty()) {
            (false, false) => Some((self.mail_user.clone(), password)),
            (true, true) => None,
            (false, true) => {
                return bounds("mail_password", "empty".into(), "a user without one cannot log in");
            }
            (true, false) => return bounds("mail_user", "empty".into(), "a password without one is no use"),
        };
        let tls = match (self.mail_ssl, self.mail_tls) {
            (false, tls) => tls,
            (true, MailTls::Auto | MailTls::Tls) => MailTls::Tls,
            (true, tls) => return bounds("mail_tls", tls.to_string(), "mail_ssl says that it is tls"),
        };
        file("mail_ca_file", &self.mail_ca_file)?;
        let ca_file = Some(self.mail_ca_file.clone()).filter(|path| !path.as_os_str().is_empty());
        Ok(Some(MailSettings { host, port, from, login, tls, ca_file }))
    }

    fn webhook(&self) -> Result<Option<WebhookSettings>, ConfigError> {
        if self.url.0.is_empty() {
            let without = "there is no http_notification_url for it";
            return match (self.credentials.0.is_empty(), self.secret_file.as_os_str().is_empty()) {
                (true, true) => Ok(None),
                (false, _) => bounds("http_notification_credentials", "***".into(), without),
                (true, false) => {
                    let file = format!("`{}`", self.secret_file.display());
                    bounds("http_notification_secret_file", file, without)
                }
            };
        }
        let url = Url::parse(&self.url.0).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(url) = url else {
            let rule = "a URL with http:// or https:// is wanted";
            return bounds("http_notification_url", "***".into(), rule);
        };
        let login = match self.credentials.0.split_once(':') {
            _ if self.credentials.0.is_empty() => None,
            Some((user, password)) => Some((user.to_owned(), Secret(password.to_owned()))),
            None => return bounds("http_notification_credentials", "***".into(), "write `user:password`"),
        };
        let key = file("http_notification_secret_file", &self.secret_file)?;
        if key.as_ref().is_some_and(|key| key.0.is_empty()) {
            return bounds("http_notification_secret_file", "empty".into(), "put a secret into that file");
        }
        Ok(Some(WebhookSettings { flag: "http_notification_url", url, login, key, header: None }))
    }
}

/// An incoming web hook, whose URL is a password.
fn chat(flag: &'static str, text: &Secret) -> Result<Option<WebhookSettings>, ConfigError> {
    if text.0.is_empty() {
        return Ok(None);
    }
    match Url::parse(&text.0).ok().filter(|url| matches!(url.scheme(), "http" | "https")) {
        Some(url) => Ok(Some(WebhookSettings { flag, url, login: None, key: None, header: None })),
        None => bounds(flag, "***".into(), "a URL with http:// or https:// is wanted"),
    }
}

fn bounds<T>(name: &'static str, value: String, rule: &'static str) -> Result<T, ConfigError> {
    Err(ConfigError::Bounds { name, value, rule })
}

/// What the file holds, without the end of its line.
pub(super) fn file(name: &'static str, path: &PathBuf) -> Result<Option<Secret>, ConfigError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::File {
        name,
        path: path.clone(),
        cause,
    })?;
    Ok(Some(Secret(text.trim_end_matches(['\r', '\n']).to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[track_caller]
    fn meant(file: &str) -> Result<NotifySettings, String> {
        let file: ConfigFile = serde_norway::from_str(file).map_err(|e| e.to_string())?;
        let config =
            Config::new(ConfigFile::default(), |_| Source::Flag, Some(("f".into(), file)), Manner::Server);
        config.map(|config| config.notify).map_err(|e| e.to_string())
    }

    #[test]
    fn mail_is_protected_as_it_needs_to_be() {
        let mail = |more: &str| {
            let file = format!("{{mail_server: 'mail.example.org:587', mail_from: c@example.org, {more}}}");
            meant(&file).map(|notify| notify.mail.expect("mail"))
        };
        assert_eq!(mail("").expect("it is enough").tls, MailTls::Auto);
        assert_eq!(mail("mail_ssl: true").expect("as of old").tls, MailTls::Tls);
        assert_eq!(
            mail("mail_ssl: true").expect("as of old").port,
            587,
            "the port is the one that was given"
        );
        assert_eq!(mail("mail_tls: starttls").expect("it is known").tls, MailTls::Starttls);
        assert!(mail("mail_ssl: true, mail_tls: none").expect_err("both").contains("mail_ssl says"));
        let login = mail("mail_user: u, mail_password: p").expect("both").login.expect("a login");
        assert_eq!(login, ("u".into(), Secret("p".into())));
        for half in ["mail_user: u", "mail_password: p"] {
            assert!(mail(half).is_err(), "{half}");
        }
    }

    #[test]
    fn settings_without_sense_are_refused() {
        let refused = |file: &str, why: &str| {
            let error = meant(file).expect_err(file);
            assert!(error.contains(why), "{error}");
        };
        refused("mail_server: mail.example.org", "a host and a port");
        refused("mail_server: 'mail:25'", "`mail_from` is empty");
        refused("{mail_server: 'mail:25', mail_from: nobody}", "a mail address");
        refused(
            "{mail_server: 'mail:25', mail_from: c@example.org, mail_ca_file: /nonexistent}",
            "cannot read",
        );
        refused("http_notification_url: 'ftp://example.org'", "http:// or https://");
        refused("http_notification_credentials: 'u:p'", "no http_notification_url");
        refused("http_notification_secret_file: /nonexistent", "no http_notification_url");
        refused("{http_notification_url: 'http://h', http_notification_credentials: x}", "user:password");
        refused(
            "{http_notification_url: 'http://h', http_notification_secret_file: /nonexistent}",
            "cannot read",
        );
        refused("slack_url: 'hooks.example.org/x'", "http:// or https://");
        refused("raven_dsn: 'https://sentry.example.org/1'", "a DSN is wanted");
        assert!(meant("").expect("nothing").mail.is_none());
    }

    #[test]
    fn secrets_are_not_told() {
        let file: ConfigFile = serde_norway::from_str(
            "{mail_password: hunter2, http_notification_credentials: 'u:hunter2', http_notification_url: 'http://u:hunter2@h/?t=hunter2'}",
        )
        .expect("known keys");
        let config =
            Config::new(ConfigFile::default(), |_| Source::Flag, Some(("f".into(), file)), Manner::Server);
        let config = config.expect("it makes sense");
        assert!(!format!("{:?} {:?}", config.told, config.notify).contains("hunter2"));
    }
}
