//! Notices: how alerts are addressed and folded, when they are sent, and what becomes of them. Durable with what caused
//! them; sent at least once, always under the same id.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::Act;
use crate::book::later;
use crate::job::Job;
use crate::notice::{Address, Alert, AlertKind, Channel, Notice, NoticeId, NoticeState, Sent, clipped};
use crate::request::{Answer, Refusal};
use crate::scheduler::{Effect, Scheduler};

/// Notices that may be on their way at once. With one open and one under way for each address, that is thousands of
/// addresses that nobody can reach.
pub const NOTICES_MAX: usize = 10_000;
/// Settled notices that are shown.
pub const SETTLED_MAX: usize = 1_000;
/// An address gets a message at once, and further ones not faster than this: what comes between is folded.
const FOLD: Duration = Duration::from_secs(60);
/// Before a notice is sent again for the first time; the wait doubles.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// No wait is longer, also if the other side asks for it.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// What has not arrived by then is history.
const GIVE_UP_AFTER: Duration = Duration::from_secs(86_400);

impl Scheduler {
    /// Whether anybody would hear of it.
    pub(crate) fn is_wanted(&self, job: &Job, kind: AlertKind) -> bool {
        let channels = self.settings.channels;
        let anyone = channels.of_all().next().is_some();
        job.rules.wants(kind) && (anyone || (channels.mail && !job.rules.recipients().is_empty()))
    }

    /// Addresses an alert that is wanted.
    pub(crate) fn alert(&mut self, job: &Job, alert: &Alert) {
        if self.settings.channels.mail {
            for to in job.rules.recipients() {
                self.post(Address { channel: Channel::Mail, to: to.clone() }, alert);
            }
        }
        for channel in self.settings.channels.of_all() {
            self.post(Address { channel, to: "".into() }, alert);
        }
    }

    /// Adds the alert to the message that waits for this address, or begins one.
    fn post(&mut self, address: Address, alert: &Alert) {
        let waiting = self.book.outbox().last_to(&address);
        let open = waiting.and_then(|id| self.book.state().notices.get(&id)).filter(|n| n.is_open());
        let mut notice = match open {
            Some(notice) => (**notice).clone(),
            None if self.book.outbox().unsettled() >= NOTICES_MAX => return self.book.count_lost_alert(),
            None => {
                let tried = self.book.outbox().tried(&address);
                let until = tried.map_or(self.now, |tried| later(tried.min(self.now), FOLD).max(self.now));
                Notice {
                    id: self.book.next_notice(),
                    address,
                    created: self.now,
                    alerts: Vec::new(),
                    counts: Default::default(),
                    attempts: 0,
                    tried: None,
                    give_up: later(self.now, GIVE_UP_AFTER),
                    error: None,
                    state: NoticeState::Waiting { until },
                }
            }
        };
        notice.add(alert.clone());
        // A step that writes long notices does less of other things, so that its batch stays within its bound.
        self.posted += notice.alerts.len();
        self.book.put_notice(notice);
    }

    /// Does what a notice waits for: it is sent, or shown no longer.
    pub(crate) fn turn_notice(&mut self, id: NoticeId) {
        let Some(notice) = self.book.state().notices.get(&id).cloned() else { return };
        if notice.is_settled() {
            return self.book.remove_notice(id);
        }
        let notice = Notice {
            state: NoticeState::Sending,
            attempts: notice.attempts.saturating_add(1),
            tried: Some(self.now),
            ..(*notice).clone()
        };
        self.book.put_notice(notice.clone());
        self.effects.push(Effect::Send { notice: Arc::new(notice) });
    }

    /// A former leader may have sent it, and nobody heard what became of it: it is sent once more, as it was.
    pub(crate) fn send_again(&mut self, id: NoticeId) {
        let notice = self.book.state().notices.get(&id).filter(|n| n.state == NoticeState::Sending);
        self.effects.extend(notice.cloned().map(|notice| Effect::Send { notice }));
    }

    /// Takes what became of sending a notice.
    pub(crate) fn notice_sent(&mut self, id: NoticeId, sent: Sent) {
        let sending = self.book.state().notices.get(&id).filter(|n| n.state == NoticeState::Sending);
        let Some(mut notice) = sending.map(|notice| (**notice).clone()) else { return };
        let now = self.now;
        match sent {
            Sent::Delivered => notice.state = NoticeState::Delivered { at: now },
            Sent::Refused { error } => {
                notice.error = Some(clipped(&error, Notice::ERROR_MAX));
                notice.state = NoticeState::GivenUp { at: now };
            }
            Sent::Later { error, after } => {
                notice.error = Some(clipped(&error, Notice::ERROR_MAX));
                let until =
                    later(now, backoff(notice.attempts).max(after.unwrap_or_default()).min(RETRY_MAX));
                let over = until > notice.give_up;
                notice.state =
                    if over { NoticeState::GivenUp { at: now } } else { NoticeState::Waiting { until } };
            }
        }
        let settled = notice.is_settled();
        self.book.put_notice(notice);
        if settled && self.book.outbox().settled() > SETTLED_MAX {
            self.book.outbox().oldest_settled().into_iter().for_each(|id| self.book.remove_notice(id));
        }
    }

    /// After the clock has gone back, no notice waits longer than it would have.
    pub(crate) fn clip_notice(&mut self, id: NoticeId) {
        let Some(notice) = self.book.state().notices.get(&id).cloned() else { return };
        let NoticeState::Waiting { until } = notice.state else { return };
        let longest = later(self.now, if notice.attempts == 0 { FOLD } else { backoff(notice.attempts) });
        if until > longest {
            let state = NoticeState::Waiting { until: longest };
            self.book.put_notice(Notice { state, ..(*notice).clone() });
        }
    }

    /// Somebody has mended what kept a notice from arriving.
    pub(crate) fn retry_notice(&mut self, id: NoticeId) -> Result<Answer, Refusal> {
        let notice = self.book.state().notices.get(&id).cloned().ok_or(Refusal::NoSuchNotice(id))?;
        match notice.state {
            NoticeState::Delivered { .. } => return Err(Refusal::NoticeDelivered(id)),
            NoticeState::Sending => {}
            NoticeState::Waiting { .. } | NoticeState::GivenUp { .. } => {
                let (state, give_up) =
                    (NoticeState::Waiting { until: self.now }, later(self.now, GIVE_UP_AFTER));
                self.book.put_notice(Notice { state, give_up, ..(*notice).clone() });
                self.note(None, Act::NoticeRetried { id });
            }
        }
        Ok(Answer::NoticeRetried)
    }
}

/// How long to wait after this many attempts.
fn backoff(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MAX)
}
