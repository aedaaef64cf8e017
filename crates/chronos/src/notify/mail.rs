//! Mail: a message as it should be, and the conversation with the mail server, step by step, so that whoever sets it
//! up sees which step fails.

use std::time::Duration;

use lettre::message::header::{ContentTransferEncoding, ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, transport::smtp};

use super::settings::{MailSettings, MailTls};
use super::{Letter, Step, Trouble};

/// To be connected and greeted.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// For the whole conversation; servers that fight spam take their time.
const SEND_MAX: Duration = Duration::from_secs(90);

/// Hands mail in at one server.
#[derive(Debug)]
pub(super) struct Mailer {
    settings: MailSettings,
    authorities: Option<Certificate>,
}

impl Mailer {
    /// Reads the file of authorities, if there is one.
    pub(super) fn new(settings: MailSettings) -> Result<Self, String> {
        let read = |path: &std::path::PathBuf| {
            let pem = std::fs::read(path).map_err(|e| format!("cannot read `{}`: {e}", path.display()))?;
            Certificate::from_pem(&pem)
                .map_err(|e| format!("`{}` is not a file of certificates (PEM): {e}", path.display()))
        };
        let authorities = settings.ca_file.as_ref().map(read).transpose()?;
        Ok(Self { settings, authorities })
    }

    /// Hands one letter in. Says of each step how it went.
    pub(super) async fn send(&self, to: &str, letter: &Letter, steps: &mut Vec<Step>) -> Result<(), Trouble> {
        let message = self.message(to, letter)?;
        match tokio::time::timeout(SEND_MAX, self.converse(&message, steps)).await {
            Ok(done) => done,
            Err(_) => Err(Trouble::later(
                "send",
                format!("the mail server did not finish within {} s", SEND_MAX.as_secs()),
                "",
            )),
        }
    }

    fn message(&self, to: &str, letter: &Letter) -> Result<Message, Trouble> {
        let wrong =
            |what: String| Trouble::never("compose", what, "correct the address in `owner` or `alerts`");
        let to: Address = to.parse().map_err(|e| wrong(format!("`{to}` is not a mail address: {e}")))?;
        let domain = self.settings.from.email.domain();
        Message::builder()
            .from(self.settings.from.clone())
            .to(Mailbox::new(None, to))
            .subject(&letter.subject)
            .date(letter.created.into())
            .message_id(Some(format!("<{}@{domain}>", letter.id)))
            .header(AutoSubmitted)
            .header(NoticeId(letter.id.clone()))
            .header(ContentType::TEXT_PLAIN)
            // People look at raw messages too, and at most a few letters need it.
            .header(ContentTransferEncoding::QuotedPrintable)
            .body(letter.body.clone())
            .map_err(|e| wrong(format!("the message cannot be written: {e}")))
    }

    async fn converse(&self, message: &Message, steps: &mut Vec<Step>) -> Result<(), Trouble> {
        let MailSettings { host, port, login, tls, .. } = &self.settings;
        let name = ClientId::default();
        let at_once = if *tls == MailTls::Tls { Some(self.tls()?) } else { None };
        let connected = AsyncSmtpConnection::connect_tokio1(
            (host.as_str(), *port),
            Some(CONNECT_MAX),
            &name,
            at_once,
            None,
        );
        let mut connection = match tokio::time::timeout(CONNECT_MAX, connected).await {
            Ok(connected) => connected.map_err(|e| self.connect_trouble(&e))?,
            Err(_) => {
                let what = format!("{host}:{port} did not greet within {} s", CONNECT_MAX.as_secs());
                return Err(Trouble::later("connect", what, SILENT));
            }
        };
        steps.push(Step::done(
            "connect",
            format!("{host}:{port}, {}", if connection.is_encrypted() { "with TLS" } else { "without TLS" }),
        ));
        self.protect(&mut connection, &name, steps).await?;
        if let Some((user, password)) = login {
            let credentials = Credentials::new(user.clone(), password.0.clone());
            connection
                .auth(&[Mechanism::Plain, Mechanism::Login], &credentials)
                .await
                .map_err(|e| Trouble::later("authenticate", chain(&e), AUTH))?;
            steps.push(Step::done("authenticate", format!("as {user}")));
        }
        let answer = connection.send(message.envelope(), &message.formatted()).await.map_err(|e| {
            let what = chain(&e);
            if e.is_permanent() {
                Trouble::never("send", what, REFUSED)
            } else {
                Trouble::later("send", what, "")
            }
        })?;
        steps.push(Step::done("send", answer.message().collect::<Vec<_>>().join(" ")));
        // It has been taken; how the conversation ends does not matter any more.
        let _ = connection.quit().await;
        Ok(())
    }

    /// Goes over to TLS inside the conversation, as far as that is wanted.
    async fn protect(
        &self,
        connection: &mut AsyncSmtpConnection,
        name: &ClientId,
        steps: &mut Vec<Step>,
    ) -> Result<(), Trouble> {
        let needed = match self.settings.tls {
            MailTls::None | MailTls::Tls => return Ok(()),
            MailTls::Starttls => true,
            MailTls::Auto => self.settings.login.is_some(),
        };
        if !connection.can_starttls() {
            if needed {
                return Err(Trouble::later(
                    "starttls",
                    "the mail server does not offer STARTTLS",
                    NO_STARTTLS,
                ));
            }
            return Ok(());
        }
        connection
            .starttls(self.tls()?, name)
            .await
            .map_err(|e| Trouble::later("starttls", chain(&e), TLS))?;
        steps.push(Step::done("starttls", "the connection is encrypted"));
        Ok(())
    }

    fn tls(&self) -> Result<TlsParameters, Trouble> {
        let mut builder = TlsParameters::builder(self.settings.host.clone());
        if let Some(authorities) = &self.authorities {
            builder = builder.add_root_certificate(authorities.clone());
        }
        builder.build_rustls().map_err(|e| Trouble::later("tls", chain(&e), TLS))
    }

    fn connect_trouble(&self, error: &smtp::Error) -> Trouble {
        let what = format!("{}:{}: {}", self.settings.host, self.settings.port, chain(error));
        let hint = match (self.settings.tls, error.is_tls() || chain(error).contains("certificate")) {
            (MailTls::Tls, true) => TLS,
            (MailTls::Tls, false) => TLS_PORT,
            _ => SILENT,
        };
        Trouble::later("connect", what, hint)
    }
}

const SILENT: &str = "check --mail_server, and whether this machine may connect there; if the server wants TLS from the first byte \
     on (usually port 465), say --mail_tls tls";
const TLS_PORT: &str = "is this the port for TLS from the first byte on (usually 465)? on port 25 or 587 say --mail_tls starttls";
const TLS: &str = "the certificate must be for the name in --mail_server, and its authority be trusted by this machine or be in \
     --mail_ca_file";
const NO_STARTTLS: &str =
    "with --mail_tls none the connection, password included, is in the clear; is this the right port?";
const AUTH: &str = "check --mail_user and --mail_password; some servers want a password for each application";
const REFUSED: &str = "the mail server will not take this message: check --mail_from and the recipient";

/// All that an error has to say, in one line.
fn chain(error: &smtp::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        cause = error.source();
    }
    text
}

/// Tells robots not to answer (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".into())
    }
}

/// By which a receiver tells a repeat, also where a relay writes a Message-ID of its own.
#[derive(Clone)]
struct NoticeId(String);

impl Header for NoticeId {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("X-Chronos-Notice-Id")
    }

    fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self(text.into()))
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn mailer() -> Mailer {
        let settings = MailSettings {
            host: "mail.example.org".into(),
            port: 25,
            from: "Chronos <chronos@example.org>".parse().expect("an address"),
            login: None,
            tls: MailTls::Auto,
            ca_file: None,
        };
        Mailer::new(settings).expect("nothing to read")
    }

    fn letter(subject: &str) -> Letter {
        Letter {
            id: "7.1893456000000".into(),
            created: Timestamp::from_millisecond(1_893_456_000_000).expect("2030"),
            subject: subject.into(),
            body: "Größe: 1\n".into(),
        }
    }

    #[test]
    fn a_message_has_the_headers_that_robots_and_people_need() {
        let message = mailer().message("ops@example.org", &letter("[Chronos] job 'a' failed!"));
        let text = String::from_utf8(message.expect("a message").formatted()).expect("ASCII");
        for line in [
            "From: Chronos <chronos@example.org>\r\n",
            "To: ops@example.org\r\n",
            "Subject: [Chronos] job 'a' failed!\r\n",
            "Date: Tue, 01 Jan 2030 00:00:00 +0000\r\n",
            "Message-ID: <7.1893456000000@example.org>\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "X-Chronos-Notice-Id: 7.1893456000000\r\n",
            "Content-Type: text/plain; charset=utf-8\r\n",
            "Gr=C3=B6=C3=9Fe: 1\r\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
    }

    #[test]
    fn nothing_that_a_user_writes_becomes_a_header() {
        let (mailer, evil) = (mailer(), "x\r\nBcc: all@example.org");
        let message = mailer.message("ops@example.org", &letter(evil)).expect("a message");
        let text = String::from_utf8(message.formatted()).expect("ASCII");
        assert!(!text.contains("\nBcc:"), "{text}");
        for to in ["ops@example.org\r\nBcc: all@example.org", "a b@example.org", "ops", "", "@example.org"] {
            assert!(mailer.message(to, &letter("s")).is_err(), "{to}");
        }
    }
}
