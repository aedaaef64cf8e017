//! Re-runs from a node downwards: what runs again, and for which cycle.

use scheduler::backfill::Children;
use scheduler::ids::{Cause, RunKey};
use scheduler::job::{Overlap, Retry, Rules};
use scheduler::request::{Answer, Refusal, Request};
use scheduler::run::{EndedRun, Record};

use crate::backfill::play_out;
use crate::world::{World, at, job};

const DAILY: &str = "R/2030-01-01T00:00:00Z/P1D";

fn once() -> Rules {
    Rules { retry: Retry { max: 0, ..Retry::default() }, ..Rules::default() }
}

/// a -> b, a -> c, (b, c) -> d -> e
fn diamond() -> World {
    let mut w = World::new();
    w.put("a", DAILY, once());
    w.put_child("b", &["a"], once());
    w.put_child("c", &["a"], once());
    w.put_child("d", &["b", "c"], once());
    w.put_child("e", &["d"], once());
    w
}

fn last(w: &World, name: &str) -> EndedRun {
    let of_job = w.ledger.iter().rev().find_map(|record| match record {
        Record::Run(run) if run.job.as_str() == name => Some(run.clone()),
        _ => None,
    });
    of_job.unwrap_or_else(|| panic!("{name} has not run"))
}

#[track_caller]
fn rerun(w: &mut World, name: &str, children: Children) -> RunKey {
    let run = last(w, name);
    match w.ask(Request::Rerun { run: run.into(), children }) {
        Ok(Answer::Triggered(key)) => key,
        other => panic!("{other:?}"),
    }
}

fn names(w: &World, from: usize) -> String {
    w.launches[from..].iter().map(|(job, ..)| job.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn all_below_a_run_that_had_succeeded_runs_again_joins_too() {
    let mut w = diamond();
    play_out(&mut w);
    w.until("08:00:00");
    for (node, again) in [("a", "a b c d e"), ("b", "b d e"), ("d", "d e"), ("e", "e")] {
        let before = w.launches.len();
        let key = rerun(&mut w, node, Children::Follow);
        assert_eq!(w.stored.runs[&key].due.to_string(), last(&w, node).due.to_string(), "for the same time");
        play_out(&mut w);
        assert_eq!(names(&w, before), again, "from {node} downwards");
        assert_eq!(last(&w, "e").cycle.due, at("00:00:00"), "in the name of the same day");
        assert!(w.stored.joins.is_empty());
    }
    w.audit();
}

#[test]
fn a_join_waits_for_all_that_descends_from_the_node() {
    let mut w = diamond();
    play_out(&mut w);
    let before = w.launches.len();
    rerun(&mut w, "a", Children::Follow);
    w.succeed("a");
    w.succeed("b");
    assert_eq!(names(&w, before), "a b c");
    w.succeed("c");
    assert_eq!(names(&w, before), "a b c d");
}

#[test]
fn after_a_failure_the_same_cycle_is_taken_up_where_it_broke_off() {
    let mut w = diamond();
    w.succeed("a");
    w.fail("b");
    w.fail("c");
    assert_eq!(w.ledger_of("e"), "skipped upstream");
    let before = w.launches.len();
    rerun(&mut w, "b", Children::Follow);
    w.succeed("b");
    assert_eq!(names(&w, before), "b", "the join still misses c");
    rerun(&mut w, "c", Children::Follow);
    play_out(&mut w);
    assert_eq!(names(&w, before), "b c d e");
    assert_eq!(w.ledger_of("d"), "skipped upstream, succeeded");
    assert!(w.stored.backfills.is_empty(), "nothing of its own has begun");
    w.audit();
}

#[test]
fn only_the_run_itself() {
    let mut w = diamond();
    w.succeed("a");
    w.fail("b");
    w.succeed("c");
    let before = w.launches.len();
    for node in ["a", "b"] {
        rerun(&mut w, node, Children::Stay);
        play_out(&mut w);
    }
    assert_eq!(names(&w, before), "a b");
}

#[test]
fn a_slot_that_never_ran_can_run_with_all_that_follows() {
    let mut w = diamond();
    play_out(&mut w);
    w.ask(Request::Pause { job: job("a"), reason: "".into(), until: None }).unwrap();
    w.until("2030-01-02T01:00:00Z");
    w.ask(Request::Resume(job("a"))).unwrap();
    // Made by hand: ranges have no key.
    let slot = RunKey { job: last(&w, "a").key.job, ..last(&w, "a").key };
    let skipped = EndedRun { key: slot, due: at("2030-01-02T00:00:00Z"), ..last(&w, "a") };
    w.ask(Request::Rerun { run: skipped.into(), children: Children::Follow }).unwrap();
    play_out(&mut w);
    assert_eq!(w.ledger_of("e"), "succeeded, succeeded");
}

#[test]
fn the_arguments_of_a_manual_run_are_kept() {
    let mut w = diamond();
    play_out(&mut w);
    w.ask(Request::Trigger { job: job("a"), arguments: Some("--full".into()) }).unwrap();
    play_out(&mut w);
    let key = rerun(&mut w, "a", Children::Stay);
    assert_eq!(w.stored.runs[&key].arguments.as_deref(), Some("--full"));
}

#[test]
fn what_lives_is_not_run_again_and_nothing_is_killed_for_it() {
    let mut w = World::new();
    w.put("a", DAILY, Rules { overlap: Overlap::Replace, ..once() });
    w.succeed("a");
    let key = rerun(&mut w, "a", Children::Follow);
    let again = EndedRun { key, ..last(&w, "a") };
    let asked = w.ask(Request::Rerun { run: again.into(), children: Children::Follow });
    assert_eq!(asked, Err(Refusal::StillLive(key)));
    let other = rerun(&mut w, "a", Children::Follow);
    assert!(w.kills.is_empty());
    assert_eq!(w.tasks("a").len(), 1, "it waits its turn");
    play_out(&mut w);
    assert!(matches!(other.cause, Cause::Trigger(_)));
    assert_eq!(w.ledger_of("a"), "succeeded, succeeded, succeeded");
    w.put("a", DAILY, Rules { disabled: true, ..once() });
    let run = last(&w, "a");
    let asked = w.ask(Request::Rerun { run: run.into(), children: Children::Follow });
    assert_eq!(asked, Err(Refusal::Disabled(job("a"))));
}
