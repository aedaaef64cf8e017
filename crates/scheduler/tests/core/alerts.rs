//! What is told to whom, how often, and what becomes of it.

use std::sync::Arc;

use scheduler::ids::RunKey;
use scheduler::job::{CatchUp, Overlap, Retry, Rules};
use scheduler::notice::{
    Address, AlertKind, AlertRules, Channel, Channels, Notice, NoticeId, NoticeState, Sent,
};
use scheduler::request::{Answer, Refusal, Request};
use scheduler::run::AttemptEnd;
use scheduler::{Event, NOTICES_MAX, SETTLED_MAX, TaskNews};

use crate::world::{World, at, job, seconds};

const MAIL: Channels =
    Channels { mail: true, webhook: false, slack: false, mattermost: false, sentry: false };
const HOURLY: &str = "R/2030-01-01T01:00:00Z/PT1H";

/// Told to one person, by default of the default kinds; no retries, so that a failure is the end.
fn told(alerts: AlertRules) -> Rules {
    let alerts = AlertRules { to: vec!["ops@example.org".into()], ..alerts };
    Rules { alerts: Some(Arc::new(alerts)), retry: Retry { max: 0, ..Retry::default() }, ..Rules::default() }
}

fn on(kinds: &[AlertKind]) -> AlertRules {
    AlertRules { on: kinds.iter().copied().collect(), ..AlertRules::default() }
}

impl World {
    /// What was sent, one entry for each notice: `kind job: detail` of each alert, and how many there were beyond.
    fn told(&self) -> Vec<String> {
        self.sent.iter().map(|notice| text(notice)).collect()
    }

    #[track_caller]
    fn sent_is(&self, expected: &[&str]) {
        assert_eq!(self.told(), expected);
    }

    fn report(&mut self, id: NoticeId, sent: Sent) {
        self.event(Event::Notice { id, sent });
    }

    pub(crate) fn deliver_all(&mut self) {
        let sending: Vec<NoticeId> =
            self.stored.notices.values().filter(|n| n.state == NoticeState::Sending).map(|n| n.id).collect();
        for id in sending {
            self.report(id, Sent::Delivered);
        }
    }

    /// Runs the job by hand, to this end.
    fn fail_by_hand(&mut self, name: &str) {
        self.trigger(name).unwrap();
        self.fail(name);
    }
}

fn text(notice: &Notice) -> String {
    let alert =
        |alert: &scheduler::notice::Alert| format!("{} {}: {}", alert.kind.word(), alert.name, alert.detail);
    let alerts: Vec<String> = notice.alerts.iter().map(alert).collect();
    let more = notice.count() - alerts.len() as u64;
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{more}", alerts.join("; "))
}

fn later(error: &str) -> Sent {
    Sent::Later { error: error.into(), after: None }
}

// ---- what is noticed

#[test]
fn a_failure_is_told_after_the_last_attempt_and_the_recovery_once() {
    let mut w = World::telling(MAIL);
    let retry = Retry { max: 1, ..Retry::default() };
    w.put("a", HOURLY, Rules { retry, ..told(AlertRules::default()) });
    w.until("01:00:10");
    w.end("a", AttemptEnd::Failed { exit: Some(3), signal: None, message: "".into() });
    w.sent_is(&[]);
    w.until("01:02:00");
    w.end("a", AttemptEnd::Failed { exit: Some(3), signal: None, message: "".into() });
    w.sent_is(&["failed a: failed after 2 attempts: exit status 3"]);
    w.deliver_all();
    w.until("02:00:10");
    w.succeed("a");
    w.until("03:00:10");
    w.succeed("a");
    w.sent_is(&[
        "failed a: failed after 2 attempts: exit status 3",
        "recovered a: succeeded after 1 failed run",
    ]);
    assert_eq!(w.sent[0].address, Address { channel: Channel::Mail, to: "ops@example.org".into() });
}

/// What the job says decides: each end, the kinds that are asked for, what is told.
#[test]
fn only_what_is_asked_for_is_told() {
    use AlertKind::{Disabled, Failed, Killed, Missed, Recovered};
    type Case = (&'static [AlertKind], fn(&mut World), &'static [&'static str]);
    let fail: fn(&mut World) = |w| w.fail("a");
    let kill: fn(&mut World) = |w| {
        w.ask(Request::KillJob(job("a"))).unwrap();
        w.end("a", AttemptEnd::Killed);
    };
    let cases: &[Case] = &[
        (&[Failed], fail, &["failed a: failed after 1 attempt: no"]),
        (&[Recovered, Missed, Disabled, Killed], fail, &[]),
        (&[Failed], kill, &[]),
        (&[Killed], kill, &["killed a: was killed: somebody asked for it after 1 attempt"]),
        (&[Recovered], |w| w.succeed("a"), &[]),
        (&[Failed], |w| w.end("a", AttemptEnd::TimedOut), &["failed a: timed out after 1 attempt"]),
        (
            &[Failed],
            |w| w.end("a", AttemptEnd::Lost { message: "the node is gone".into() }),
            &["failed a: was lost: nobody can tell how it ended after 1 attempt: the node is gone"],
        ),
    ];
    for (kinds, deed, expected) in cases {
        let mut w = World::telling(MAIL);
        w.put("a", HOURLY, told(on(kinds)));
        w.until("01:00:10");
        deed(&mut w);
        w.sent_is(expected);
    }
}

#[test]
fn without_a_channel_or_a_recipient_nothing_is_kept() {
    for (channels, to, count) in [
        (Channels::default(), "ops@example.org", 0),
        (MAIL, "", 0),
        (Channels { mail: false, webhook: true, ..Channels::default() }, "", 1),
        (Channels { mail: true, webhook: true, ..Channels::default() }, "ops@example.org", 2),
    ] {
        let mut w = World::telling(channels);
        let to = if to.is_empty() { Vec::new() } else { vec![to.into()] };
        let alerts = Some(Arc::new(AlertRules { to, ..AlertRules::default() }));
        w.put("a", HOURLY, Rules { alerts, ..told(AlertRules::default()) });
        w.until("01:00:10");
        w.fail("a");
        assert_eq!((w.sent.len(), w.stored.notices.len()), (count, count), "{channels:?}");
    }
}

#[test]
fn a_job_that_is_disabled_says_so_instead_of_failing() {
    let mut w = World::telling(MAIL);
    w.put("a", HOURLY, told(AlertRules::default()));
    for hour in 1..=3 {
        w.until(&format!("{hour:02}:00:10"));
        w.fail("a");
        w.deliver_all();
    }
    assert_eq!(
        w.told()[2],
        "disabled a: disabled after 3 failed runs in a row; the last failed after 1 attempt: no"
    );
    assert_eq!(w.sent.len(), 3);
}

#[test]
fn missed_slots_are_told_as_one() {
    let mut w = World::telling(MAIL);
    let rules = Rules { catch_up: CatchUp::None, ..told(AlertRules::default()) };
    w.put("a", "R/2030-01-01T00:10:00Z/PT1M", rules);
    w.until("00:10:10");
    w.succeed("a");
    w.fail_over("00:20:30");
    w.event(Event::Tick);
    w.sent_is(&["missed a: 9 slots not run: nobody was there at its due time"]);
    assert_eq!(w.sent[0].alerts[0].slots, 9);
}

#[test]
fn the_last_slot_of_a_schedule_is_told_once_where_that_is_asked_for() {
    let said = "exhausted a: its schedule has no repetition left: give it another one, or delete it";
    for (rules, expected) in [(on(&[AlertKind::Exhausted]), &[said][..]), (AlertRules::default(), &[])] {
        let mut w = World::telling(MAIL);
        w.put("a", "R2/2030-01-01T01:00:00Z/PT1H", told(rules));
        // A manual run uses up nothing.
        w.trigger("a").unwrap();
        w.succeed("a");
        w.until("01:00:10");
        w.succeed("a");
        w.sent_is(&[]);
        w.until("02:00:10");
        w.sent_is(expected);
        w.succeed("a");
        w.deliver_all();
        w.fail_over("03:00:00");
        w.until("05:00:00");
        w.trigger("a").unwrap();
        w.succeed("a");
        w.sent_is(expected);
    }
}

/// Nobody was there when the last slot passed: it is the end of the schedule all the same.
#[test]
fn a_schedule_whose_last_slot_is_missed_is_exhausted_too() {
    let mut w = World::telling(MAIL);
    let rules = Rules { catch_up: CatchUp::None, ..told(on(&[AlertKind::Exhausted])) };
    w.put("a", "R1/2030-01-01T01:00:00Z/PT1H", rules);
    w.fail_over("01:30:00");
    w.event(Event::Tick);
    w.sent_is(&["exhausted a: its schedule has no repetition left: give it another one, or delete it"]);
}

#[test]
fn a_run_that_waits_too_long_is_late_once() {
    let mut w = World::telling(MAIL);
    w.put("a", HOURLY, told(AlertRules { late_after: Some(seconds(600)), ..on(&[]) }));
    w.event(Event::Engine { ready: false });
    w.until("01:09:59");
    w.sent_is(&[]);
    w.until("01:40:00");
    w.event(Event::Engine { ready: true });
    w.sent_is(&["late a: has not started 10 min after its due time"]);
    // The next leader knows that it was said.
    w.deliver_all();
    w.fail_over("01:50:00");
    w.until("01:59:00");
    assert_eq!(w.sent.len(), 1);
}

#[test]
fn a_run_that_starts_late_after_an_outage_is_late_too() {
    let mut w = World::telling(MAIL);
    w.put("a", HOURLY, told(AlertRules { late_after: Some(seconds(600)), ..on(&[]) }));
    w.fail_over("01:30:00");
    w.until("01:30:10");
    w.sent_is(&["late a: started 30 min after its due time, more than 10 min"]);
    assert_eq!(w.launched_of("a"), "01:00:00");
}

#[test]
fn a_run_in_time_is_not_late() {
    let mut w = World::telling(MAIL);
    w.put("a", HOURLY, told(AlertRules { late_after: Some(seconds(1)), ..on(&[]) }));
    w.until("01:59:00");
    w.sent_is(&[]);
}

#[test]
fn a_run_that_waits_for_its_predecessor_is_late() {
    let mut w = World::telling(MAIL);
    w.put("a", HOURLY, told(AlertRules { late_after: Some(seconds(60)), ..on(&[]) }));
    w.until("02:05:00");
    w.sent_is(&["late a: has not started 1 min after its due time"]);
    assert_eq!(w.sent[0].alerts[0].due, at("02:00:00"));
}

#[test]
fn an_attempt_that_runs_long_is_told_once_whatever_becomes_of_the_leader() {
    let mut w = World::telling(MAIL);
    let rules = told(AlertRules { long_running_after: Some(seconds(7200)), ..on(&[]) });
    w.put("a", HOURLY, Rules { overlap: Overlap::Skip, ..rules });
    w.until("01:00:10");
    w.news("a", TaskNews::Running);
    w.fail_over("02:59:00");
    w.until("02:59:59");
    w.sent_is(&[]);
    w.until("03:00:10");
    w.sent_is(&["longRunning a: attempt 0 has been running for 2 h"]);
    w.deliver_all();
    w.fail_over("06:00:00");
    w.until("09:00:00");
    assert_eq!(w.sent.len(), 1);
}

// ---- how it is told

#[test]
fn a_storm_is_two_messages_and_nothing_goes_uncounted() {
    let mut w = World::telling(MAIL);
    for n in 0..500 {
        w.put(&format!("job-{n}"), HOURLY, told(AlertRules::default()));
    }
    w.until("01:00:10");
    for n in 0..500 {
        w.fail(&format!("job-{n}"));
    }
    assert_eq!(w.sent.len(), 1, "the first at once");
    w.deliver_all();
    w.until("01:01:09");
    assert_eq!(w.sent.len(), 1, "no second within a minute");
    w.until("01:01:11");
    assert_eq!(w.sent.iter().map(|n| n.count()).collect::<Vec<_>>(), [1, 499]);
    assert_eq!(w.sent[1].alerts.len(), Notice::ALERTS_MAX);
    assert_eq!(w.sent[1].counts, [(AlertKind::Failed, 499)].into());
    w.core.check().unwrap();
}

#[test]
fn what_may_have_been_seen_is_not_added_to() {
    let mut w = World::telling(MAIL);
    w.put("a", HOURLY, told(AlertRules::default()));
    w.fail_by_hand("a");
    w.report(w.sent[0].id, later("connection refused"));
    w.fail_by_hand("a");
    w.until("00:00:05");
    assert_eq!(w.sent.len(), 2, "sent again");
    assert_eq!((w.sent[1].id, w.sent[1].count()), (w.sent[0].id, 1));
    // The second notice waits until the first is settled: receivers hear of things in order.
    w.until("00:59:00");
    assert_eq!(w.sent.len(), 2);
    w.report(w.sent[1].id, Sent::Delivered);
    w.event(Event::Tick);
    assert_eq!(w.sent.len(), 3);
    assert_ne!(w.sent[2].id, w.sent[0].id);
}

#[test]
fn a_notice_is_sent_again_ever_more_slowly_and_given_up_after_a_day() {
    let mut w = World::telling(MAIL);
    w.put("a", HOURLY, told(AlertRules::default()));
    w.fail_by_hand("a");
    let mut waits = Vec::new();
    for n in 0.. {
        let Some(notice) = w.sent.get(n).cloned() else { break };
        w.report(notice.id, later("connection refused"));
        let NoticeState::Waiting { until } = w.stored.notices[&notice.id].state else { break };
        waits.push(until.duration_since(w.now).as_secs());
        w.now = until;
        w.event(Event::Tick);
    }
    assert_eq!(waits[..12], [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
    let notice = &w.stored.notices[&w.sent[0].id];
    assert!(matches!(notice.state, NoticeState::GivenUp { .. }), "{notice:?}");
    assert_eq!(notice.error.as_deref(), Some("connection refused"));
    assert!(w.now <= at("2030-01-02T00:00:00Z"));
    // Whoever has mended it may ask for another day.
    assert_eq!(w.ask(Request::RetryNotice(w.sent[0].id)), Ok(Answer::NoticeRetried));
    assert_eq!(w.sent.last().unwrap().id, w.sent[0].id);
    w.deliver_all();
    let id = w.sent[0].id;
    assert_eq!(w.ask(Request::RetryNotice(id)), Err(Refusal::NoticeDelivered(id)));
    assert_eq!(w.ask(Request::RetryNotice(NoticeId(99))), Err(Refusal::NoSuchNotice(NoticeId(99))));
}

#[test]
fn the_other_side_may_ask_for_patience_and_refuse_for_good() {
    let mut w = World::telling(Channels { mail: false, webhook: true, ..Channels::default() });
    w.put("a", HOURLY, told(AlertRules::default()));
    w.fail_by_hand("a");
    let id = w.sent[0].id;
    w.report(id, Sent::Later { error: "429".into(), after: Some(seconds(900)) });
    assert_eq!(w.stored.notices[&id].state, NoticeState::Waiting { until: at("00:15:00") });
    w.until("00:15:00");
    w.report(id, Sent::Refused { error: "410 gone\r\nX: y".into() });
    assert_eq!(w.stored.notices[&id].state, NoticeState::GivenUp { at: at("00:15:00") });
    assert_eq!(w.stored.notices[&id].error.as_deref(), Some("410 gone  X: y"), "one line");
}

#[test]
fn the_next_leader_sends_again_what_was_on_its_way_and_only_that() {
    let mut w = World::telling(MAIL);
    w.put("a", HOURLY, told(AlertRules::default()));
    w.fail_by_hand("a");
    w.fail_over("00:30:00");
    w.event(Event::Tick);
    assert_eq!(w.sent.len(), 2);
    assert_eq!(w.sent[0], w.sent[1], "the same, under the same id");
    w.deliver_all();
    // News of what is settled changes nothing.
    w.report(w.sent[0].id, later("too late"));
    assert!(matches!(w.stored.notices[&w.sent[0].id].state, NoticeState::Delivered { .. }));
    w.fail_over("00:40:00");
    w.event(Event::Tick);
    assert_eq!(w.sent.len(), 2);
}

#[test]
fn settled_notices_are_kept_for_a_week_and_not_more_than_a_thousand() {
    let mut w = World::telling(MAIL);
    let rules = |n: usize| {
        let alerts = AlertRules { to: vec![format!("{n}@example.org").into()], ..AlertRules::default() };
        Rules { alerts: Some(Arc::new(alerts)), ..told(AlertRules::default()) }
    };
    for n in 0..SETTLED_MAX + 2 {
        w.put("a", "R/2031-01-01T00:00:00Z/PT1H", rules(n));
        w.trigger("a").unwrap();
        // Long enough to be no launch loop.
        w.now += seconds(2);
        w.fail("a");
        w.deliver_all();
    }
    assert_eq!(w.stored.notices.len(), SETTLED_MAX);
    assert!(!w.stored.notices.contains_key(&NoticeId(2)), "the oldest go first");
    w.until("2030-01-07T23:59:59Z");
    assert_eq!(w.stored.notices.len(), SETTLED_MAX);
    w.until("2030-01-08T01:00:00Z");
    assert!(w.stored.notices.is_empty());
    w.core.check().unwrap();
}

#[test]
fn what_no_notice_has_room_for_is_counted() {
    let mut w = World::telling(MAIL);
    let mut full = w.stored.clone();
    w.put("a", HOURLY, told(AlertRules::default()));
    full.jobs = w.stored.jobs.clone();
    full.progress = w.stored.progress.clone();
    let pattern = {
        w.fail_by_hand("a");
        (*w.sent[0]).clone()
    };
    for n in 0..NOTICES_MAX as u64 {
        let id = NoticeId(1000 + n);
        let address = Address { channel: Channel::Mail, to: format!("{n}@example.org").into() };
        let state = NoticeState::Waiting { until: at("23:00:00") };
        full.notices.insert(id, Arc::new(Notice { id, address, state, ..pattern.clone() }));
    }
    full.meta.notices = 1000 + NOTICES_MAX as u64;
    full.meta.next_uid = w.stored.meta.next_uid;
    w.stored = full;
    w.fail_over("00:30:00");
    w.until("00:30:10");
    w.fail_by_hand("a");
    assert_eq!(w.stored.meta.alerts_lost, 1);
    assert_eq!(w.stored.notices.len(), NOTICES_MAX);
}

#[test]
fn a_clock_that_goes_back_makes_nobody_wait_longer() {
    let mut w = World::telling(MAIL);
    w.put("a", HOURLY, told(AlertRules::default()));
    w.fail_by_hand("a");
    let id = w.sent[0].id;
    w.report(id, later("connection refused"));
    w.now = at("2029-12-31T22:00:00Z");
    w.event(Event::Tick);
    assert_eq!(w.stored.notices[&id].state, NoticeState::Waiting { until: at("2029-12-31T22:00:05Z") });
}

#[test]
fn a_wait_without_end_is_not_kept_for_a_run_that_is_gone() {
    let mut w = World::telling(MAIL);
    let key = RunKey { job: scheduler::ids::JobUid(9), cause: scheduler::ids::Cause::Trigger(1) };
    w.put("a", HOURLY, told(AlertRules { long_running_after: Some(seconds(60)), ..on(&[]) }));
    w.until("01:00:10");
    w.succeed("a");
    w.until("01:30:00");
    w.sent_is(&[]);
    assert!(!w.stored.runs.contains_key(&key));
    w.core.check().unwrap();
}
