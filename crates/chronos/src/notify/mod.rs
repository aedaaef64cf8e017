//! Telling people: what a notice says and how it is sent. What is told, to whom and how often is decided by the core;
//! nothing here is kept.

mod chat;
mod mail;
mod sentry;
pub mod settings;
pub mod text;
mod webhook;

pub(crate) use webhook::alert_json;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use scheduler::notice::{Channel, Channels, Notice, Sent};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use mail::Mailer;
use settings::NotifySettings;
use text::Facts;
use webhook::Hook;

/// Messages under way at once by one channel: mail servers count the connections of a client.
const SENDING_MAX: usize = 8;

/// Sends notices by whatever channels there are.
#[derive(Debug)]
pub struct Notifier {
    cluster_name: String,
    mail: Option<Mailer>,
    /// Where else messages go: one place for each channel.
    hooks: BTreeMap<Channel, Hook>,
    /// Room on each channel of its own: one whose other side is silent holds up no other.
    room: BTreeMap<Channel, Semaphore>,
}

/// A message to be sent.
#[derive(Clone, Debug)]
struct Letter {
    /// The same for every attempt; receivers tell a repeat by it.
    id: String,
    created: Timestamp,
    subject: String,
    body: String,
}

/// One step of sending that went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// What came of it.
    pub detail: String,
}

impl Step {
    fn done(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, detail: detail.into() }
    }
}

/// The step that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Its name.
    pub step: &'static str,
    /// What happened.
    pub what: String,
    /// What to do about it; may be empty.
    pub hint: Cow<'static, str>,
    /// Whether trying again makes sense.
    pub passing: bool,
    /// The other side asked for this much patience.
    pub after: Option<Duration>,
}

impl Trouble {
    fn later(step: &'static str, what: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { step, what: what.into(), hint: hint.into(), passing: true, after: None }
    }

    fn never(step: &'static str, what: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { passing: false, ..Self::later(step, what, hint) }
    }
}

/// How a test message went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    /// What went well, in order.
    pub steps: Vec<Step>,
    /// What did not; `None` when the other side has taken the message.
    pub trouble: Option<Trouble>,
}

impl Default for Notifier {
    /// Without any channel.
    fn default() -> Self {
        Self { cluster_name: String::new(), mail: None, hooks: BTreeMap::new(), room: room() }
    }
}

impl Notifier {
    /// Makes ready what the settings name; connects to nobody.
    /// # Errors
    /// A file that cannot be read, in words.
    pub fn new(settings: NotifySettings) -> Result<Self, String> {
        let hooks = [
            (Channel::Webhook, settings.webhook),
            (Channel::Slack, settings.slack),
            (Channel::Mattermost, settings.mattermost),
            (Channel::Sentry, settings.sentry),
        ];
        let hooks = hooks.into_iter().filter_map(|(channel, settings)| Some((channel, settings?)));
        Ok(Self {
            cluster_name: settings.cluster_name,
            mail: settings.mail.map(Mailer::new).transpose()?,
            hooks: hooks
                .map(|(channel, settings)| Ok((channel, Hook::new(settings)?)))
                .collect::<Result<_, String>>()?,
            room: room(),
        })
    }

    /// What there is.
    pub fn channels(&self) -> Channels {
        let has = |channel| self.hooks.contains_key(&channel);
        Channels {
            mail: self.mail.is_some(),
            webhook: has(Channel::Webhook),
            slack: has(Channel::Slack),
            mattermost: has(Channel::Mattermost),
            sentry: has(Channel::Sentry),
        }
    }

    /// Sends a notice. `job` is the definition of the job of its first alert, if there still is one.
    pub async fn send(&self, notice: &Notice, facts: &Facts, job: Option<&Map<String, Value>>) -> Sent {
        let channel = notice.address.channel;
        let room = async { self.room.get(&channel)?.acquire().await.ok() };
        let Some(_permit) = room.await else {
            return Sent::Later { error: "the server is ending".into(), after: None };
        };
        let letter = self.letter(notice, facts);
        let mut steps = Vec::new();
        let done = match (&self.mail, self.hooks.get(&channel)) {
            (Some(mail), _) if channel == Channel::Mail => {
                mail.send(&notice.address.to, &letter, &mut steps).await
            }
            (_, Some(hook)) => {
                let body = body(channel, &self.cluster_name, notice, &letter, job);
                hook.post(&letter.id, &body, &mut steps).await
            }
            _ => Err(Trouble::later("send", "this node has no such channel", "")),
        };
        match done {
            Ok(()) => Sent::Delivered,
            Err(Trouble { step, what, passing: true, after, .. }) => {
                Sent::Later { error: told(step, &what), after }
            }
            Err(Trouble { step, what, .. }) => Sent::Refused { error: told(step, &what) },
        }
    }

    /// Sends a message that is about nothing, and says how each step went. `None`: there is no such channel.
    pub async fn test(&self, channel: Channel, to: &str) -> Option<Tested> {
        let created = Timestamp::now();
        let mut subject = Cow::Borrowed("[Chronos] test message");
        if !self.cluster_name.is_empty() {
            subject = format!("[{}] {subject}", text::plain(&self.cluster_name)).into();
        }
        let letter = Letter {
            id: format!("test.{}", created.as_millisecond()),
            created,
            subject: subject.into_owned(),
            body: "This is a test. If you read it, Chronos can tell you about your jobs.\n".into(),
        };
        let mut steps = Vec::new();
        let done = match channel {
            Channel::Mail => self.mail.as_ref()?.send(to, &letter, &mut steps).await,
            channel => {
                self.hooks.get(&channel)?.post(&letter.id, &test_body(channel, &letter), &mut steps).await
            }
        };
        Some(Tested { steps, trouble: done.err() })
    }

    fn letter(&self, notice: &Notice, facts: &Facts) -> Letter {
        Letter {
            id: message_id(notice),
            created: notice.created,
            subject: text::subject(&self.cluster_name, notice),
            body: text::body(notice, facts),
        }
    }
}

fn room() -> BTreeMap<Channel, Semaphore> {
    Channel::ALL.into_iter().map(|channel| (channel, Semaphore::new(SENDING_MAX))).collect()
}

/// What is posted about a notice.
fn body(
    channel: Channel,
    cluster: &str,
    notice: &Notice,
    letter: &Letter,
    job: Option<&Map<String, Value>>,
) -> Value {
    match channel {
        Channel::Slack => chat::slack(letter),
        Channel::Mattermost => chat::mattermost(letter),
        Channel::Sentry => sentry::event(cluster, notice, letter, job),
        Channel::Webhook | Channel::Mail => webhook::payload(notice, letter, job),
    }
}

/// What is posted about nothing.
fn test_body(channel: Channel, letter: &Letter) -> Value {
    match channel {
        Channel::Slack => chat::slack(letter),
        Channel::Mattermost => chat::mattermost(letter),
        Channel::Sentry => sentry::test(letter),
        Channel::Webhook | Channel::Mail => json!({
            "subject": letter.subject, "message": letter.body, "id": letter.id, "count": 0, "counts": {}, "alerts": [],
        }),
    }
}

/// The id that receivers see: unique beyond one store, as two may share a mail server.
pub fn message_id(notice: &Notice) -> String {
    format!("{}.{}", notice.id.0, notice.created.as_millisecond())
}

fn told(step: &str, what: &str) -> Arc<str> {
    format!("{step}: {what}").into()
}

#[cfg(test)]
mod tests {
    use scheduler::notice::{Address, NoticeId, NoticeState};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::settings::WebhookSettings;
    use super::*;

    fn notice(channel: Channel) -> Notice {
        Notice {
            id: NoticeId(1),
            address: Address { channel, to: "".into() },
            created: Timestamp::UNIX_EPOCH,
            alerts: Vec::new(),
            counts: BTreeMap::new(),
            attempts: 1,
            tried: None,
            give_up: Timestamp::UNIX_EPOCH,
            error: None,
            state: NoticeState::Sending,
        }
    }

    fn posts_to(listener: &TcpListener) -> Option<WebhookSettings> {
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let url = url.parse().expect("a URL");
        Some(WebhookSettings { flag: "slack_url", url, login: None, key: None, header: None })
    }

    /// Connections to it are taken by the kernel, and nobody ever answers.
    #[tokio::test]
    async fn a_channel_whose_other_side_is_silent_holds_up_no_other() {
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let answering = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let settings = NotifySettings {
            webhook: posts_to(&silent),
            slack: posts_to(&answering),
            ..NotifySettings::default()
        };
        let notifier = Notifier::new(settings).expect("nothing to read");
        let (to_silent, facts) = (notice(Channel::Webhook), Facts::default());
        let waiting = (0..SENDING_MAX).map(|_| notifier.send(&to_silent, &facts, None));
        let waiting = futures_util::future::join_all(waiting);
        let served = async {
            let (mut stream, _) = answering.accept().await.expect("a client");
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.expect("a request") > 0);
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.expect("it is read");
        };
        let to_answering = notice(Channel::Slack);
        let sent = async { tokio::join!(notifier.send(&to_answering, &facts, None), served).0 };
        tokio::select! {
            biased;
            // Polled first, so these have taken all the room there is for them.
            _ = waiting => panic!("nobody answers"),
            sent = sent => assert_eq!(sent, Sent::Delivered),
        }
    }
}
