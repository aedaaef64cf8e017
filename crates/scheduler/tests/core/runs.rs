//! Runs: retries, kills, deadlines, unknown fates, deletion.

use scheduler::job::{Guarantee, Retry, Rules};
use scheduler::request::{Answer, Refusal, Request};
use scheduler::run::{AttemptEnd, Record, RunState};
use scheduler::{TaskNews, WAITING_MAX};

use crate::world::{World, at, job, seconds};

const HOURLY: &str = "R/2030-01-01T00:00:00Z/PT1H";

fn retries(max: u32) -> Rules {
    Rules { retry: Retry { max, ..Retry::default() }, ..Rules::default() }
}

#[test]
fn a_failed_run_is_retried_and_counts_one_error() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(2));
    w.fail("a");
    assert_eq!(w.launches.len(), 1);
    w.until("00:01:00");
    w.fail("a");
    w.until("00:02:00");
    w.fail("a");
    w.until("00:30:00");
    assert_eq!(w.launched_of("a"), "00:00:00 00:00:00#1 00:00:00#2");
    assert_eq!(w.ledger_of("a"), "failed");
    let progress = w.stored.progress.values().next().unwrap();
    assert_eq!((progress.errors, progress.errors_in_a_row, progress.successes), (1, 1, 0));
}

#[test]
fn a_job_that_failed_before_is_retried_as_well() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(1));
    for time in ["00:00:10", "00:01:20", "01:00:10", "01:01:20"] {
        w.until(time);
        w.fail("a");
    }
    assert_eq!(w.launched_of("a"), "00:00:00 00:00:00#1 01:00:00 01:00:00#1");
    assert_eq!(w.ledger_of("a"), "failed, failed");
}

#[test]
fn a_pending_retry_survives_a_fail_over_and_never_touches_the_schedule() {
    let mut w = World::new();
    w.put("a", "R1/2030-01-01T00:00:00Z/PT1H", retries(1));
    w.fail("a");
    w.fail_over("00:00:30");
    w.until("00:01:10");
    w.succeed("a");
    w.until("05:00:00");
    assert_eq!(w.launched_of("a"), "00:00:00 00:00:00#1");
    assert_eq!(w.ledger_of("a"), "succeeded");
}

#[test]
fn what_a_task_says_of_its_progress_adds_up_and_is_kept() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(0));
    let task = w.alive.keys().next().unwrap().clone();
    let say = |w: &mut World, elements| w.ask(Request::Report { task: task.clone(), elements });
    assert!(matches!(say(&mut w, 3), Ok(Answer::Marked(_))));
    w.fail_over("00:00:30");
    assert!(matches!(say(&mut w, 4), Ok(Answer::Marked(_))));
    w.succeed("a");
    let Some(Record::Run(ended)) = w.ledger.first() else { panic!("{:?}", w.ledger) };
    assert_eq!(ended.attempts[0].elements, 7);
    assert_eq!(say(&mut w, 1), Err(Refusal::NoSuchTask(task.clone())), "it has ended");
}

#[test]
fn the_delay_grows_up_to_its_cap() {
    let check = |delay: Option<u64>, delays: [u64; 5]| {
        let retry = Retry { max: 5, delay: delay.map(seconds), factor_percent: 200, delay_max: seconds(35) };
        let before = |attempt| retry.delay_before(attempt, seconds(60)).map(|d| d.as_secs());
        let found: Vec<_> = (0..7).map(before).collect();
        let between = delays.map(Some);
        assert_eq!(found, [&[None], &between[..], &[None]].concat(), "{delay:?}");
    };
    check(Some(10), [10, 20, 35, 35, 35]);
    check(Some(50), [50; 5]); // What the job says counts, also where its cap is less.
    check(None, [35; 5]); // What is usual does not.
}

#[test]
fn a_job_that_does_not_say_waits_as_long_as_the_server_says() {
    for (delay, second) in [(None, "01:00:17"), (Some(seconds(30)), "01:00:40")] {
        let mut w = World::retrying_after(seconds(7));
        let retry = Retry { max: 1, delay, ..Retry::default() };
        w.put("a", HOURLY, Rules { retry, ..Rules::default() });
        w.until("01:00:10");
        w.fail("a");
        let wait = w.stored.runs.values().find_map(|run| match run.state {
            RunState::Waiting { until, .. } => Some(until),
            _ => None,
        });
        assert_eq!(wait, Some(at(second)));
    }
}

#[test]
fn a_kill_ends_running_and_waiting_runs() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(2));
    w.trigger("a").unwrap();
    assert_eq!(w.ask(Request::KillJob(job("a"))), Ok(Answer::Killed { runs: 2 }));
    assert_eq!(w.kills.len(), 1);
    w.end("a", AttemptEnd::Killed);
    assert_eq!(w.ledger_of("a"), "skipped cancelled, killed asked");
}

#[test]
fn a_kill_that_was_ordered_before_a_fail_over_is_ordered_again() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(2));
    w.ask(Request::KillJob(job("a"))).unwrap();
    w.kills.clear();
    w.fail_over("00:00:10");
    w.news("a", TaskNews::Running);
    assert_eq!(w.kills.len(), 1);
}

#[test]
fn an_attempt_that_runs_too_long_is_killed_and_retried() {
    let mut w = World::new();
    w.put("a", HOURLY, Rules { run_max: Some(seconds(30)), ..retries(1) });
    w.news("a", TaskNews::Running);
    w.until("00:00:29");
    assert!(w.kills.is_empty());
    w.until("00:00:30");
    assert_eq!(w.kills.len(), 1);
    w.end("a", AttemptEnd::Killed);
    w.until("00:02:00");
    w.news("a", TaskNews::Running);
    w.until("00:02:30");
    w.end("a", AttemptEnd::Killed);
    assert_eq!(w.ledger_of("a"), "timed out");
}

#[test]
fn an_unknown_attempt_counts_as_running_until_it_is_given_up() {
    let mut w = World::new();
    w.put("a", HOURLY, Rules { lost_after: seconds(600), ..retries(2) });
    w.fail_over("00:00:10");
    w.news("a", TaskNews::Unknown);
    w.until("00:10:00");
    assert_eq!(w.ledger_of("a"), "");
    w.until("00:10:10");
    assert_eq!(w.ledger_of("a"), "lost");
    w.until("01:00:10");
    assert_eq!(w.launched_of("a"), "00:00:00 01:00:00");
}

#[test]
fn at_least_once_launches_again_what_was_given_up() {
    let mut w = World::new();
    let guarantee = Guarantee::AtLeastOnce;
    w.put("a", HOURLY, Rules { lost_after: seconds(600), guarantee, ..retries(1) });
    w.news("a", TaskNews::Unknown);
    w.until("00:12:00");
    assert_eq!(w.launched_of("a"), "00:00:00 00:00:00#1");
}

#[test]
fn what_is_heard_of_again_is_not_given_up() {
    let mut w = World::new();
    w.put("a", HOURLY, Rules { lost_after: seconds(600), ..retries(1) });
    w.news("a", TaskNews::Unknown);
    w.until("00:05:00");
    w.news("a", TaskNews::Running);
    w.until("00:50:00");
    w.succeed("a");
    assert_eq!(w.ledger_of("a"), "succeeded");
}

#[test]
fn what_never_began_is_launched_again_under_the_same_name() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(0));
    let first = w.tasks("a");
    w.fail_over("00:05:00");
    w.news("a", TaskNews::NeverBegan);
    assert_eq!(w.tasks("a"), first);
    assert_eq!(w.launched_of("a"), "00:00:00 00:00:00");
}

#[test]
fn an_engine_that_refuses_everything_is_not_stormed() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(0));
    for second in 1..=10 {
        w.news("a", TaskNews::NeverBegan);
        w.news("a", TaskNews::NeverBegan);
        w.until(&format!("00:00:{second:02}"));
    }
    assert!(w.launches.len() <= 11, "{}", w.launches.len());
}

#[test]
fn an_end_that_is_told_twice_counts_once() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(0));
    let task = w.tasks("a").remove(0);
    for _ in 0..2 {
        let news = TaskNews::Ended(AttemptEnd::Succeeded);
        w.event(scheduler::Event::Task { task: task.clone(), news });
    }
    assert_eq!(w.ledger_of("a"), "succeeded");
    assert_eq!(w.stored.progress.values().next().unwrap().successes, 1);
}

#[test]
fn runs_of_a_deleted_job_still_get_their_outcome() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(2));
    w.trigger("a").unwrap();
    assert_eq!(w.ask(Request::Delete(job("a"))), Ok(Answer::Deleted { live: 2 }));
    assert_eq!(w.kills.len(), 1);
    w.end("a", AttemptEnd::Killed);
    assert_eq!(w.ledger_of("a"), "skipped withdrawn, killed deleted");
    assert!(w.stored.jobs.is_empty() && w.stored.runs.is_empty());
    assert_eq!(w.trigger("a"), Err(Refusal::NoSuchJob(job("a"))));
}

#[test]
fn a_job_created_again_is_another_job() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(0));
    let first = w.tasks("a");
    w.ask(Request::Delete(job("a"))).unwrap();
    w.put("a", HOURLY, retries(0));
    assert_eq!(w.launches.len(), 2);
    assert_ne!(w.tasks("a").iter().filter(|t| !first.contains(t)).count(), 0);
}

#[test]
fn manual_runs_wait_their_turn_up_to_a_bound() {
    let mut w = World::new();
    w.put("a", "R/2030-01-01T05:00:00Z/PT1H", retries(0));
    for _ in 0..=WAITING_MAX {
        w.trigger("a").unwrap();
    }
    assert!(matches!(w.trigger("a"), Err(Refusal::TooManyWaiting { .. })));
    for _ in 0..=WAITING_MAX {
        w.succeed("a");
    }
    assert_eq!(w.launches.len(), WAITING_MAX + 1);
    w.until("05:00:10");
    assert_eq!(w.launches.len(), WAITING_MAX + 2);
}

#[test]
fn what_is_replaced_while_queued_runs_as_it_is_now() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(0));
    w.trigger("a").unwrap();
    w.put("a", HOURLY, retries(1));
    w.succeed("a");
    w.fail("a");
    w.until("00:01:30");
    assert_eq!(w.launched_of("a"), "00:00:00 00:00:00 00:00:00#1");
}

#[test]
fn disabling_a_job_withdraws_what_waits_and_leaves_what_runs() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(3));
    w.trigger("a").unwrap();
    w.put("b", HOURLY, retries(3));
    w.fail("b");
    for name in ["a", "b"] {
        w.put(name, HOURLY, Rules { disabled: true, ..retries(3) });
    }
    assert_eq!((w.ledger_of("a"), w.ledger_of("b")), ("skipped withdrawn".into(), "failed".into()));
    w.succeed("a");
    w.until("00:30:00");
    assert_eq!(w.ledger_of("a"), "skipped withdrawn, succeeded");
    assert_eq!(w.launched_of("b"), "00:00:00", "no retry goes on");
    w.audit();
}

#[test]
fn a_clock_that_goes_back_makes_no_retry_and_no_limit_wait_longer() {
    let mut w = World::new();
    w.put("a", "R1/2030-01-01T00:00:00Z/PT1H", retries(2));
    w.put("b", "R1/2030-01-01T00:00:00Z/PT1H", Rules { run_max: Some(seconds(30)), ..retries(0) });
    w.news("b", TaskNews::Running);
    w.fail("a");
    w.now = "2029-12-31T20:00:00Z".parse().unwrap();
    w.event(scheduler::Event::Tick);
    w.until("2029-12-31T20:01:01Z");
    assert_eq!(w.launched_of("a"), "00:00:00 00:00:00#1");
    assert_eq!(w.kills.len(), 1);
}

#[test]
fn a_kill_by_a_user_counts_also_for_an_attempt_that_has_timed_out() {
    let mut w = World::new();
    w.put("a", HOURLY, Rules { run_max: Some(seconds(30)), ..retries(1) });
    w.news("a", TaskNews::Running);
    w.until("00:00:30");
    w.ask(Request::KillJob(job("a"))).unwrap();
    w.end("a", AttemptEnd::Killed);
    assert_eq!(w.ledger_of("a"), "killed asked");
    w.until("00:10:00");
    assert_eq!(w.launched_of("a"), "00:00:00");
}

#[test]
fn a_kill_that_may_have_overtaken_its_launch_is_ordered_again() {
    let mut w = World::new();
    w.put("a", HOURLY, retries(0));
    w.ask(Request::KillJob(job("a"))).unwrap();
    w.kills.clear();
    w.news("a", TaskNews::Running); // the launch has reached the engine only now
    assert_eq!(w.kills.len(), 1);
    w.kills.clear();
    w.news("a", TaskNews::Running);
    assert!(w.kills.is_empty(), "once it runs, one order is enough");
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let max = AttemptEnd::MESSAGE_MAX;
    assert_eq!(AttemptEnd::cut(&"x".repeat(max)).len(), max);
    assert_eq!(AttemptEnd::cut(&format!("x{}", "ä".repeat(max))).len(), max - 1);
    assert_eq!(AttemptEnd::cut(""), "");
}
