//! Jitter: slots that are due together start apart, and stay what they are.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use scheduler::ids::JobUid;
use scheduler::job::{CatchUp, Overlap, Rules};
use scheduler::request::Request;
use scheduler::run::RunState;
use scheduler::schedule::Nominal;
use scheduler::{Event, TaskNews};

use crate::world::{World, at, job, seconds};

const DAILY: &str = "R/2030-01-02T00:00:00Z/P1D";

fn jittered(jitter: u64) -> Rules {
    Rules { jitter: Some(seconds(jitter)), ..Rules::default() }
}

/// How long after midnight the job's first slot starts, by what the scheduler waits for.
fn offset(w: &mut World, name: &str) -> Duration {
    w.now = w.now.max(at("2030-01-02T00:00:00Z"));
    w.event(Event::Tick);
    let run = w.stored.runs.values().find(|run| run.job.as_str() == name).unwrap();
    let RunState::Waiting { attempt: 0, until } = run.state else { panic!("{run:?}") };
    until.duration_since(run.due.max(run.created)).try_into().unwrap()
}

#[test]
fn a_slot_starts_by_its_offset_and_keeps_its_due_time() {
    let mut w = World::new();
    w.put("a", DAILY, jittered(300));
    let offset = offset(&mut w, "a");
    assert!(offset > Duration::ZERO && offset <= seconds(300), "{offset:?}");
    assert!(w.launches.is_empty());
    w.until("2030-01-02T00:05:00Z");
    assert_eq!(w.launches, [("a".into(), at("2030-01-02T00:00:00Z"), 0)]);
    let run = w.stored.runs.values().next().unwrap();
    let RunState::Running(live) = &run.state else { panic!("{run:?}") };
    assert_eq!(live.launched, at("2030-01-02T00:00:00Z").checked_add(offset).unwrap());
}

#[test]
fn a_thousand_jobs_at_midnight_are_spread() {
    let mut w = World::new();
    for n in 0..1000 {
        w.put(&format!("j{n}"), DAILY, jittered(300));
    }
    for minute in 1..=5 {
        let before = w.launches.len();
        w.until(&format!("2030-01-02T00:0{minute}:00Z"));
        let count = w.launches.len() - before;
        assert!((150..250).contains(&count), "{count} in minute {minute}");
    }
    assert_eq!(w.launches.len(), 1000);
    // After an outage the late ones are spread likewise, from then on.
    w.alive.clear();
    w.fail_over("2030-01-10T10:00:00Z");
    let tasks: Vec<_> = w.core.open_tasks();
    tasks.into_iter().for_each(|task| {
        w.event(Event::Task { task, news: TaskNews::Ended(scheduler::run::AttemptEnd::Succeeded) })
    });
    let before = w.launches.len();
    w.until("2030-01-10T10:01:00Z");
    let count = w.launches.len() - before;
    assert!((150..250).contains(&count), "{count} in the first minute after the outage");
    w.until("2030-01-10T10:05:01Z");
    assert_eq!(w.launches.len(), 2000);
}

#[test]
fn epsilon_begins_after_the_offset() {
    let mut w = World::new();
    w.put("a", DAILY, Rules { epsilon: Some(seconds(10)), ..jittered(3600) });
    let offset = offset(&mut w, "a");
    assert!(offset > seconds(20), "{offset:?}");
    w.event(Event::Engine { ready: false });
    let start = at("2030-01-02T00:00:00Z").checked_add(offset).unwrap();
    w.until(&start.checked_add(seconds(9)).unwrap().to_string());
    assert_eq!(w.ledger_of("a"), "");
    w.until(&start.checked_add(seconds(11)).unwrap().to_string());
    assert_eq!(w.ledger_of("a"), "missed epsilon");
}

#[test]
fn an_outage_shorter_than_the_offset_costs_nothing() {
    let mut w = World::new();
    w.put("a", DAILY, Rules { epsilon: Some(seconds(10)), ..jittered(3600) });
    let mut other = World::new();
    other.put("a", DAILY, Rules { epsilon: Some(seconds(10)), ..jittered(3600) });
    assert!(offset(&mut other, "a") > seconds(20));
    w.fail_over("2030-01-02T00:00:20Z");
    w.until("2030-01-02T02:00:00Z");
    assert_eq!(w.launches.len(), 1, "{}", w.ledger_of("a"));
}

#[test]
fn a_job_is_busy_while_its_slot_waits() {
    let mut w = World::new();
    w.put("queue", "R/2030-01-02T00:00:00Z/PT1S", jittered(3600));
    w.put("skip", "R/2030-01-02T00:00:00Z/PT1S", Rules { overlap: Overlap::Skip, ..jittered(3600) });
    offset(&mut w, "queue");
    w.until("2030-01-02T00:00:03Z");
    assert_eq!(w.ledger_of("queue"), "skipped superseded, skipped superseded");
    assert_eq!(w.ledger_of("skip"), "skipped overlaps, skipped overlaps, skipped overlaps");
}

#[test]
fn nobody_else_is_delayed_and_waiting_slots_can_be_ended() {
    let mut w = World::new();
    w.put("a", DAILY, jittered(3600));
    w.put_child("child", &["a"], jittered(3600));
    w.trigger("a").unwrap();
    w.succeed("a");
    assert_eq!(w.launches.len(), 2, "triggers and joins start at once");
    w.succeed("child");
    offset(&mut w, "a");
    w.ask(Request::KillJob(job("a"))).unwrap();
    assert_eq!(w.ledger_of("a"), "succeeded, skipped cancelled");
}

#[test]
fn a_fail_over_and_a_clock_that_goes_back_keep_the_wait_within_the_jitter() {
    let mut w = World::new();
    w.put("a", DAILY, jittered(3600));
    let offset = offset(&mut w, "a");
    w.fail_over("2030-01-02T00:00:10Z");
    assert!(w.launches.is_empty());
    w.now = at("2030-01-01T12:00:00Z");
    w.event(Event::Tick);
    let end = w.now.checked_add(offset).unwrap().checked_add(seconds(1)).unwrap();
    w.until(&end.to_string());
    assert_eq!(w.launches.len(), 1);
}

#[test]
fn all_slots_of_an_outage_still_run() {
    let mut w = World::new();
    let catch_up = CatchUp::All { count_max: 100, age_max: seconds(10 * 86_400) };
    w.put("a", DAILY, Rules { catch_up, epsilon: Some(seconds(5 * 86_400)), ..jittered(300) });
    w.fail_over("2030-01-05T12:00:00Z");
    for _ in 0..4 {
        w.until(&w.now.checked_add(seconds(301)).unwrap().to_string());
        w.succeed("a");
    }
    assert_eq!(w.ledger_of("a"), "succeeded, succeeded, succeeded, succeeded");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Within the jitter, the same for ever, and another one for each slot and job.
    #[test]
    fn offsets_follow_from_the_slot(uid in any::<u64>(), second in any::<i64>(), jitter in 1_000_000u64..86_400_000) {
        let rules = Rules { jitter: Some(Duration::from_millis(jitter)), ..Rules::default() };
        let slots = [(uid, second), (uid, second.wrapping_add(86_400)), (uid.wrapping_add(1), second)];
        let offset = |(uid, second)| rules.offset(JobUid(uid), Nominal::Civil { second, fold: 0 });
        let offsets: BTreeSet<_> = slots.map(offset).into_iter().collect();
        prop_assert!(offsets.iter().all(|offset| *offset <= Duration::from_millis(jitter)));
        prop_assert_eq!(slots.map(offset), slots.map(offset));
        prop_assert!(offsets.len() >= 2);
    }
}
