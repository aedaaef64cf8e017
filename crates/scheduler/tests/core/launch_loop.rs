//! Launch loops: a job that fails at once, again and again, is slowed; nobody else notices.

use scheduler::QuickFailures;
use scheduler::job::{Overlap, Retry, Rules};
use scheduler::run::AttemptEnd;
use scheduler::{Event, TaskNews};

use crate::world::{World, at, seconds};

const SECONDLY: &str = "R/2030-01-01T00:00:00Z/PT1S";

fn rules(retries: u32) -> Rules {
    Rules { retry: Retry { max: retries, delay: Some(seconds(1)), ..Retry::default() }, ..Rules::default() }
}

/// Every task of the job fails as soon as it is launched, until `end`.
fn fail_until(w: &mut World, name: &str, end: &str) {
    let end = at(end);
    while let Some(wake) = w.core.wake_at().filter(|wake| *wake <= end) {
        w.now = w.now.max(wake);
        w.event(Event::Tick);
        while !w.tasks(name).is_empty() {
            w.fail(name);
        }
    }
    w.now = end;
}

fn count(w: &World, name: &str) -> usize {
    w.launches.iter().filter(|(job, ..)| job == name).count()
}

#[test]
fn a_schedule_that_always_fails_is_slowed_and_others_are_not() {
    let mut w = World::new();
    w.put("bad", SECONDLY, rules(0));
    w.put("good", SECONDLY, Rules { overlap: Overlap::Allow { max: 1000 }, ..rules(0) });
    w.fail("bad");
    fail_until(&mut w, "bad", "00:00:04");
    assert_eq!(count(&w, "bad"), 5, "so many may be bad luck");
    fail_until(&mut w, "bad", "00:10:00");
    // After 1, 2, 4, ... 60 s, then once a minute.
    assert!((18..=20).contains(&count(&w, "bad")), "{}", count(&w, "bad"));
    assert_eq!(count(&w, "good"), 601);
    w.audit();
}

#[test]
fn retries_and_triggers_are_slowed_too() {
    let mut w = World::new();
    w.put("a", "R0/2030-01-01T00:00:00Z/PT1H", rules(100));
    w.trigger("a").unwrap();
    w.fail("a");
    fail_until(&mut w, "a", "00:05:00");
    assert!(count(&w, "a") <= 14, "{}", count(&w, "a"));
    w.trigger("a").unwrap();
    let before = count(&w, "a");
    fail_until(&mut w, "a", "00:05:30");
    assert!(count(&w, "a") <= before + 1);
}

#[test]
fn a_fail_over_changes_nothing_about_it() {
    let mut w = World::new();
    w.put("a", SECONDLY, rules(0));
    w.fail("a");
    fail_until(&mut w, "a", "00:01:00");
    let before = count(&w, "a");
    w.fail_over("00:01:01");
    fail_until(&mut w, "a", "00:02:02");
    assert!(count(&w, "a") <= before + 2, "{} after {before}", count(&w, "a"));
    w.core.check().unwrap();
}

#[test]
fn one_that_succeeds_or_lives_longer_ends_it() {
    for lives in [false, true] {
        let mut w = World::new();
        w.put("a", SECONDLY, rules(0));
        w.fail("a");
        fail_until(&mut w, "a", "00:01:00");
        while w.tasks("a").is_empty() {
            let wake = w.core.wake_at().unwrap();
            w.now = w.now.max(wake);
            w.event(Event::Tick);
        }
        let before = count(&w, "a");
        if lives {
            w.now = w.now.checked_add(seconds(2)).unwrap();
            w.fail("a");
        } else {
            w.succeed("a");
        }
        assert_eq!(w.stored.progress.values().next().unwrap().quick_failures, None);
        w.until(&w.now.checked_add(seconds(1)).unwrap().to_string());
        assert!(count(&w, "a") > before);
    }
}

#[test]
fn what_a_user_ends_says_nothing_about_the_job() {
    let mut w = World::new();
    w.put("a", SECONDLY, rules(0));
    for _ in 0..10 {
        let task = w.tasks("a").remove(0);
        w.ask(scheduler::request::Request::KillJob(crate::world::job("a"))).unwrap();
        w.alive.remove(&task);
        w.event(Event::Task { task, news: TaskNews::Ended(AttemptEnd::Killed) });
        w.until(&w.now.checked_add(seconds(1)).unwrap().to_string());
    }
    assert_eq!(count(&w, "a"), 11);
}

#[test]
fn runs_that_fail_together_count_once_and_afterwards_one_is_tried_at_a_time() {
    let mut w = World::new();
    w.put("a", "R0/2030-01-01T00:00:00Z/PT1H", Rules { overlap: Overlap::Allow { max: 10 }, ..rules(0) });
    for round in 1..=5 {
        for _ in 0..10 {
            w.trigger("a").unwrap();
        }
        assert_eq!(count(&w, "a"), 10 * round);
        w.now = w.now.checked_add(std::time::Duration::from_millis(500)).unwrap();
        while !w.tasks("a").is_empty() {
            w.fail("a");
        }
    }
    for _ in 0..10 {
        w.trigger("a").unwrap();
    }
    assert_eq!(count(&w, "a"), 50);
    w.until(&w.now.checked_add(seconds(1)).unwrap().to_string());
    assert_eq!(count(&w, "a"), 51);
}

#[test]
fn a_clock_that_goes_back_makes_no_pause_longer() {
    let mut w = World::new();
    w.put("a", "R0/2030-01-01T00:00:00Z/PT1H", rules(100));
    w.trigger("a").unwrap();
    w.fail("a");
    fail_until(&mut w, "a", "00:02:00");
    let before = count(&w, "a");
    w.now = at("2029-12-31T00:00:00Z");
    w.event(Event::Tick);
    fail_until(&mut w, "a", "2029-12-31T00:01:01Z");
    assert!(count(&w, "a") > before);
}

#[test]
fn pauses_double_up_to_a_minute() {
    let pauses: Vec<_> = (5..13)
        .map(|count| QuickFailures { count, last: at("00:00:00"), until: None }.pause().as_secs())
        .collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
}
