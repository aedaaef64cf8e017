//! Tasks that were given up, and what follows when they are heard of again.

use std::sync::Arc;

use scheduler::audit::{Act, Entry};
use scheduler::ids::TaskId;
use scheduler::job::{Guarantee, Overlap, Retry, Rules};
use scheduler::request::Request;
use scheduler::run::AttemptEnd;
use scheduler::{Event, GivenUp, TaskNews};

use crate::world::{World, at, job, seconds};

const ONCE: &str = "R1/2030-01-01T00:00:00Z/PT1H";

fn rules() -> Rules {
    Rules { lost_after: seconds(600), retry: Retry { max: 0, ..Retry::default() }, ..Rules::default() }
}

/// A job whose only task was given up at ten past.
fn with_one_given_up(rules: Rules) -> (World, TaskId) {
    let mut w = World::new();
    w.put("a", ONCE, rules);
    let task = w.tasks("a").remove(0);
    w.news("a", TaskNews::Unknown);
    w.until("00:10:00");
    w.entries.clear();
    (w, task)
}

fn hear(w: &mut World, task: &TaskId, news: TaskNews) {
    w.event(Event::Task { task: task.clone(), news });
}

fn ended(end: AttemptEnd) -> TaskNews {
    TaskNews::Ended(end)
}

/// The ends that were heard late since the last time.
fn heard(w: &mut World) -> Vec<AttemptEnd> {
    let ends = std::mem::take(&mut w.entries).into_iter().filter_map(|entry| match entry.act {
        Act::HeardLate { end, .. } => Some(end),
        _ => None,
    });
    ends.collect()
}

#[test]
fn the_end_of_what_was_given_up_is_noted_once() {
    for end in [AttemptEnd::Succeeded, AttemptEnd::failed("disk is full"), AttemptEnd::Killed] {
        let (mut w, task) = with_one_given_up(rules());
        let (run, ledger, progress) =
            (w.alive[&task], w.ledger.clone(), w.stored.progress[&w.alive[&task].job].clone());
        w.until("00:30:00");
        hear(&mut w, &task, ended(end.clone()));
        let Some(Entry { at: when, author, job: Some((uid, name)), act }) = w.entries.first().cloned() else {
            panic!("{:?}", w.entries)
        };
        assert_eq!((when, &**author.name(), uid, name), (at("00:30:00"), "", run.job, job("a")));
        let (node, lost) = ("n1".into(), at("00:10:00"));
        assert_eq!(act, Act::HeardLate { run, attempt: 0, node, lost, end: end.clone() });
        assert!(w.acknowledged.contains(&task));
        // What was recorded stays as it was, and nothing counts anew.
        assert_eq!(w.ledger, ledger);
        let mut counted = (*w.stored.progress[&run.job]).clone();
        counted.given_up = progress.given_up.clone();
        assert_eq!(counted, *progress);
        // Engines tell an end until they know that it has been taken, and to each leader.
        w.entries.clear();
        hear(&mut w, &task, ended(end.clone()));
        w.fail_over("00:40:00");
        hear(&mut w, &task, ended(end));
        assert_eq!(w.entries, []);
        w.audit();
    }
}

#[test]
fn what_was_given_up_is_asked_for_by_each_leader_until_it_is_settled() {
    let lost = AttemptEnd::Lost { message: "its folder says nothing".into() };
    for (news, settled, killed, noted) in [
        (TaskNews::Unknown, false, false, 0),
        (TaskNews::GivenUp { message: "cut off".into() }, false, false, 0),
        (TaskNews::Running, false, true, 0),
        (TaskNews::Waiting, false, true, 0),
        (TaskNews::NeverBegan, true, false, 0),
        // That is what is recorded.
        (ended(lost), true, false, 0),
        (ended(AttemptEnd::Succeeded), true, false, 1),
    ] {
        let (mut w, task) = with_one_given_up(rules());
        for time in ["00:20:00", "00:21:00"] {
            w.fail_over(time);
            assert_eq!(w.core.open_tasks(), std::slice::from_ref(&task), "{news:?}");
        }
        hear(&mut w, &task, news.clone());
        assert_eq!(w.core.open_tasks().is_empty(), settled, "{news:?}");
        assert_eq!(w.kills.contains(&task), killed, "{news:?}");
        assert_eq!(heard(&mut w).len(), noted, "{news:?}");
        assert_eq!(w.core.check(), Ok(()));
        assert_eq!(w.ledger_of("a"), "lost");
    }
}

#[test]
fn what_ran_on_is_ended_and_its_end_is_noted() {
    let (mut w, task) = with_one_given_up(Rules { guarantee: Guarantee::AtLeastOnce, ..rules() });
    w.fail_over("00:20:00");
    hear(&mut w, &task, TaskNews::Running);
    assert!(w.kills.contains(&task));
    hear(&mut w, &task, ended(AttemptEnd::Killed));
    assert_eq!(heard(&mut w), [AttemptEnd::Killed]);
}

/// Somebody says that the node will not come back, or has its promise that its tasks have ended: the job goes on. What is
/// heard of the attempt later ends nothing.
#[test]
fn a_late_success_of_an_attempt_that_was_tried_again_is_no_success_of_the_run() {
    let mut w = World::new();
    w.put("a", ONCE, Rules { retry: Retry { max: 1, ..Retry::default() }, ..rules() });
    w.put_child("b", &["a"], rules());
    let first = w.tasks("a").remove(0);
    w.news("a", TaskNews::GivenUp { message: "its node was cut off".into() });
    assert!(!w.acknowledged.contains(&first), "nobody has told an end");
    w.alive.remove(&first);
    w.until("00:02:00");
    assert_eq!(w.launched_of("a"), "00:00:00 00:00:00#1");
    hear(&mut w, &first, ended(AttemptEnd::Succeeded));
    assert_eq!(heard(&mut w), [AttemptEnd::Succeeded]);
    assert_eq!((w.ledger_of("a"), w.launched_of("b")), (String::new(), String::new()));
    w.fail("a");
    assert_eq!(w.ledger_of("a"), "failed");
    let run = w.ledger.iter().find_map(|record| match record {
        scheduler::run::Record::Run(run) if run.job == job("a") => Some(run),
        _ => None,
    });
    let ends: Vec<_> = run.unwrap().attempts.iter().map(|attempt| attempt.end.clone()).collect();
    let lost = AttemptEnd::Lost { message: "its node was cut off".into() };
    assert_eq!(ends, [lost, AttemptEnd::failed("no")]);
}

/// It has stated that the attempt has ended: there is nothing to wait for.
#[test]
fn what_its_engine_calls_lost_is_not_asked_for_again() {
    let mut w = World::new();
    w.put("a", ONCE, rules());
    w.end("a", AttemptEnd::Lost { message: "the supervisor died".into() });
    assert_eq!(w.ledger_of("a"), "lost");
    assert_eq!(w.core.open_tasks(), []);
}

#[test]
fn of_a_job_that_is_gone_nothing_is_noted() {
    let (mut w, task) = with_one_given_up(rules());
    w.ask(Request::Delete(job("a"))).unwrap();
    w.entries.clear();
    hear(&mut w, &task, TaskNews::Running);
    hear(&mut w, &task, ended(AttemptEnd::Killed));
    assert!(w.kills.contains(&task) && w.acknowledged.contains(&task));
    assert_eq!(w.entries, []);
}

#[test]
fn what_was_given_up_is_kept_by_number_and_by_age() {
    let mut w = World::new();
    let many = u32::try_from(GivenUp::COUNT_MAX).unwrap() + 1;
    w.put("a", ONCE, Rules { overlap: Overlap::Allow { max: many }, ..rules() });
    for _ in 1..many {
        w.trigger("a").unwrap();
    }
    let tasks = w.tasks("a");
    assert_eq!(tasks.len(), GivenUp::COUNT_MAX + 1);
    for task in &tasks {
        hear(&mut w, task, TaskNews::GivenUp { message: Arc::from("gone") });
    }
    let mut kept = w.core.open_tasks();
    kept.sort();
    assert_eq!(kept, tasks[1..], "all but the oldest");
    w.until("2030-01-07T23:59:59Z");
    assert_eq!(w.core.open_tasks().len(), GivenUp::COUNT_MAX);
    w.until("2030-01-08T00:00:00Z");
    assert_eq!(w.core.open_tasks(), []);
    w.entries.clear();
    hear(&mut w, &tasks[1], ended(AttemptEnd::Succeeded));
    assert_eq!(w.entries, []);
    assert_eq!(w.core.wake_at(), None);
}
