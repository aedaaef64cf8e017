//! Joins: cycles, flags, failures that pass on, and what reopens them.

use scheduler::JOINS_MAX;
use scheduler::job::{Retry, Rules};
use scheduler::request::{Refusal, Request};
use scheduler::run::{Outcome, Record, Skipped};

use crate::world::{World, at, job};

const MINUTELY: &str = "R/2030-01-01T00:00:00Z/PT1M";

fn once() -> Rules {
    Rules { retry: Retry { max: 0, ..Retry::default() }, ..Rules::default() }
}

/// a -> b, a -> c, (b, c) -> d
fn diamond() -> World {
    let mut w = World::new();
    w.put("a", MINUTELY, once());
    w.put_child("b", &["a"], once());
    w.put_child("c", &["a"], once());
    w.put_child("d", &["b", "c"], once());
    w
}

#[test]
fn a_child_follows_every_success_of_its_only_parent() {
    let mut w = diamond();
    w.succeed("a");
    w.succeed("b");
    w.until("00:01:10");
    w.succeed("a");
    w.succeed("b");
    assert_eq!(w.ledger_of("b"), "succeeded, succeeded");
}

#[test]
fn a_join_waits_for_all_parents_of_the_cycle() {
    let mut w = diamond();
    w.succeed("a");
    w.succeed("b");
    assert_eq!(w.launched_of("d"), "");
    w.until("00:01:10");
    w.succeed("a");
    w.succeed("b"); // b is a cycle ahead of c, which must not complete the join
    assert_eq!(w.launched_of("d"), "");
    w.succeed("c");
    assert_eq!(w.tasks("d").len(), 1);
    w.succeed("d");
    w.succeed("c");
    w.succeed("d");
    assert_eq!(w.ledger_of("d"), "succeeded, succeeded");
    assert!(w.stored.joins.is_empty());
    w.audit();
}

#[test]
fn a_half_filled_join_survives_a_fail_over() {
    let mut w = diamond();
    w.succeed("a");
    w.succeed("b");
    w.fail_over("00:00:30");
    w.succeed("c");
    assert_eq!(w.tasks("d").len(), 1);
}

#[test]
fn a_failure_skips_everything_behind_it() {
    let mut w = diamond();
    w.put_child("e", &["d"], once());
    w.succeed("a");
    w.fail("b");
    assert_eq!(w.ledger_of("d"), "skipped upstream");
    assert_eq!(w.ledger_of("e"), "skipped upstream");
    w.succeed("c");
    assert_eq!(w.ledger_of("d"), "skipped upstream");
    let names_parent = |record: &Record| {
        matches!(record, Record::Run(run) if run.job.as_str() == "d"
        && run.outcome == Outcome::Skipped(Skipped::Upstream { parent: "b".into() }))
    };
    assert!(w.ledger.iter().any(names_parent));
}

#[test]
fn a_soft_error_counts_as_a_success_for_the_children() {
    let mut w = World::new();
    w.put("a", MINUTELY, Rules { soft_error: true, ..once() });
    w.put_child("b", &["a"], once());
    w.fail("a");
    assert_eq!(w.tasks("b").len(), 1);
    assert_eq!(w.ledger_of("a"), "failed");
}

#[test]
fn marking_a_failed_parent_successful_reopens_the_join() {
    let mut w = diamond();
    w.put_child("e", &["d"], once());
    w.succeed("a");
    w.fail("b");
    w.succeed("c");
    let failed = w.ledger.iter().find_map(|record| match record {
        Record::Run(run) if run.job.as_str() == "b" => Some((run.key, run.cycle)),
        _ => None,
    });
    w.ask(Request::MarkSuccess { job: job("b"), failed }).unwrap();
    assert_eq!(w.ledger_of("b"), "failed, succeeded");
    w.succeed("d");
    w.succeed("e");
    assert_eq!(w.ledger_of("d"), "skipped upstream, succeeded");
    assert_eq!(w.ledger_of("e"), "skipped upstream, succeeded");
    w.audit();
}

#[test]
fn several_roots_keep_one_flag_per_parent() {
    let mut w = World::new();
    w.put("a", MINUTELY, once());
    w.put("x", "R/2030-01-01T00:00:00Z/PT2M", once());
    w.put_child("c", &["a", "x"], once());
    w.succeed("a");
    w.until("00:01:10");
    w.succeed("a"); // a second success before it fires
    assert_eq!(w.ledger_of("c"), "skipped joinsuperseded");
    w.succeed("x");
    w.succeed("c");
    w.until("00:02:10");
    w.succeed("x");
    w.fail("a"); // neither raises a flag nor skips
    assert_eq!(w.ledger_of("c"), "skipped joinsuperseded, succeeded");
    w.until("00:03:10");
    w.succeed("a");
    w.succeed("c");
    assert_eq!(w.ledger_of("c"), "skipped joinsuperseded, succeeded, succeeded");
    w.audit();
}

#[test]
fn a_manual_run_of_a_root_is_a_cycle_of_its_own() {
    let mut w = diamond();
    w.succeed("a");
    w.succeed("b");
    w.trigger("a").unwrap();
    w.succeed("a");
    w.succeed("c");
    assert_eq!(w.tasks("d").len(), 1);
    w.succeed("d");
    w.succeed("b");
    assert!(w.tasks("d").is_empty());
    w.succeed("c");
    assert_eq!(w.tasks("d").len(), 1);
}

#[test]
fn a_manual_run_in_the_middle_asks_only_its_descendants() {
    let mut w = diamond();
    w.put_child("e", &["d", "b"], once());
    w.trigger("b").unwrap();
    w.succeed("b");
    assert_eq!(w.tasks("d").len(), 1, "c does not descend from b");
    assert!(w.tasks("e").is_empty());
    w.succeed("d");
    assert_eq!(w.tasks("e").len(), 1);
}

#[test]
fn open_joins_are_bounded_and_the_oldest_gives_way() {
    let mut w = World::new();
    w.put("a", MINUTELY, once());
    w.put_child("b", &["a"], once());
    w.put_child("c", &["a"], Rules { overlap: scheduler::job::Overlap::Allow { max: 1000 }, ..once() });
    w.put_child("d", &["b", "c"], once());
    for minute in 0..=JOINS_MAX {
        w.until(&format!("{:02}:{:02}:30", minute / 60, minute % 60));
        w.succeed("a");
        w.succeed("b"); // and c goes on running
    }
    assert_eq!(w.stored.joins.len(), JOINS_MAX + 1, "the one that gave way is still known");
    assert_eq!(w.ledger_of("d"), "skipped joinsuperseded");
    w.audit();
}

#[test]
fn more_children_than_a_step_takes_are_told_step_by_step_and_across_a_fail_over() {
    let mut w = World::new();
    w.put("a", "R1/2030-01-01T00:01:00Z/PT1H", once());
    for n in 0..700 {
        w.put_child(&format!("c{n}"), &["a"], once());
    }
    w.until("00:01:00");
    w.succeed("a");
    assert!(w.launches.len() <= scheduler::Scheduler::STEP_MAX + 1);
    assert_eq!(w.stored.fanouts.len(), 1);
    w.fail_over("00:01:10");
    w.until("00:01:20");
    assert_eq!(w.launches.len(), 701);
    assert!(w.stored.fanouts.is_empty());
}

#[test]
fn a_disabled_child_passes_no_cycle_on_and_holds_none_up() {
    let mut w = diamond();
    w.put_child("b", &["a"], Rules { disabled: true, ..once() });
    w.succeed("a");
    assert_eq!((w.ledger_of("b"), w.ledger_of("d")), (String::new(), "skipped upstream".into()));
}

#[test]
fn a_child_that_is_disabled_tells_a_cycle_under_way_once() {
    let mut w = diamond();
    w.put_child("e", &["d"], once());
    w.succeed("a");
    w.succeed("c");
    w.put_child("d", &["b", "c"], Rules { disabled: true, ..once() });
    assert_eq!(w.ledger_of("e"), "skipped upstream");
    w.succeed("b");
    assert_eq!((w.ledger_of("d"), w.ledger_of("e")), ("skipped withdrawn".into(), "skipped upstream".into()));
    assert!(w.stored.joins.is_empty(), "all that was awaited has come");
    w.audit();
}

#[test]
fn a_join_that_gave_way_goes_with_the_parents_it_waits_for() {
    let mut w = diamond();
    w.succeed("a");
    w.succeed("c");
    w.put_child("d", &["b", "c"], Rules { disabled: true, ..once() });
    assert_eq!(
        w.stored.joins.values().map(|join| join.parents.len()).sum::<usize>(),
        1,
        "b alone is awaited"
    );
    // Again and again it is disabled: what gave way once is left as it is.
    w.put_child("d", &["b", "c"], once());
    w.put_child("d", &["b", "c"], Rules { disabled: true, ..once() });
    assert_eq!(w.stored.joins.len(), 1);
    w.put_child("d", &["a", "c"], Rules { disabled: true, ..once() });
    assert!(w.stored.joins.is_empty(), "b is no parent any more");
    w.succeed("b");
    assert_eq!(w.ledger_of("d"), "skipped withdrawn");
    w.audit();
}

#[test]
fn a_former_parent_is_not_waited_for() {
    let mut w = diamond();
    w.succeed("a");
    w.succeed("b");
    assert_eq!(w.launched_of("d"), "");
    w.put_child("d", &["a", "b"], once());
    assert_eq!(w.tasks("d").len(), 1, "nobody else is awaited");
    w.succeed("d");
    assert!(w.stored.joins.is_empty());
    w.audit();
}

#[test]
fn the_graph_refuses_loops_and_gaps_and_names_them() {
    let mut w = diamond();
    let cycle = w.try_child("b", &["d"], once()).unwrap_err();
    assert_eq!(cycle.to_string(), "job `b` waits for itself: b -> d -> b");
    let own = w.try_child("b", &["b"], once()).unwrap_err();
    assert_eq!(own.to_string(), "job `b` waits for itself: b -> b");
    let missing = w.try_child("n", &["zz", "a", "yy"], once()).unwrap_err();
    assert_eq!(missing.to_string(), "job `n`: there is no parent `yy`, `zz`");
    assert_eq!(w.try_child("n", &[], once()), Err(Refusal::NoParents(job("n"))));
}

#[test]
fn deleting_a_dependent_gives_its_parents_to_its_children() {
    let mut w = diamond();
    w.put_child("e", &["d"], once());
    w.ask(Request::Delete(job("d"))).unwrap();
    w.succeed("a");
    w.succeed("b");
    assert!(w.tasks("e").is_empty());
    w.succeed("c");
    // The cycle was due before `e` had these parents, so it takes part from the next one on.
    w.until("00:01:10");
    w.succeed("a");
    w.succeed("b");
    w.succeed("c");
    assert_eq!(w.tasks("e").len(), 1);
}

#[test]
fn deleting_a_scheduled_job_leaves_its_schedule_to_its_only_children() {
    let mut w = World::new();
    w.put("a", MINUTELY, once());
    w.put_child("b", &["a"], once());
    w.succeed("a");
    w.succeed("b");
    w.ask(Request::Delete(job("a"))).unwrap();
    w.until("00:01:30");
    w.succeed("b");
    w.until("00:02:30");
    assert_eq!(w.launched_of("b"), "00:00:00 00:01:00 00:02:00");
    w.audit();
}

#[test]
fn a_deleted_parent_takes_no_part_in_open_joins() {
    let mut w = diamond();
    w.succeed("a");
    w.succeed("b");
    w.ask(Request::Delete(job("c"))).unwrap();
    assert_eq!(w.launched_of("d").split(' ').count(), 1);
    assert!(w.stored.joins.is_empty());
}

/// Runs a cycle of the diamond that a user begins now, all the way to `d`.
fn manual_cycle(w: &mut World) {
    w.trigger("a").unwrap();
    for name in ["a", "b", "c"] {
        w.succeed(name);
    }
}

#[test]
fn a_cycle_that_begins_after_an_edit_joins_even_if_the_clock_has_gone_back() {
    let mut w = diamond();
    w.succeed("a");
    w.until("00:00:50");
    w.put_child("d", &["c", "b", "a"], once());
    w.now = at("00:00:10");
    w.trigger("a").unwrap();
    w.succeed("a");
    for _cycle in 0..2 {
        w.succeed("b");
        w.succeed("c");
    }
    // The first cycle began before the edit, the second after it, though due earlier.
    assert_eq!(w.tasks("d").len(), 1);
    assert!(w.stored.joins.is_empty());
    w.audit();
}

#[test]
fn a_cycle_that_has_fired_opens_no_join_after_an_edit_even_if_the_clock_has_gone_back() {
    let mut w = diamond();
    w.put_child("e", &["a"], once());
    w.until("00:00:50");
    w.succeed("a");
    manual_cycle(&mut w);
    w.succeed("b");
    w.succeed("c");
    w.succeed("d");
    w.now = at("00:00:10");
    w.put_child("d", &["b", "c", "e"], once());
    w.succeed("e");
    w.succeed("e");
    assert!(w.stored.joins.is_empty(), "nobody would ever arrive there");
    w.audit();
}

#[test]
fn a_child_that_is_enabled_again_begins_with_the_next_cycle() {
    let mut w = diamond();
    w.succeed("a");
    w.succeed("b");
    w.put_child("d", &["b", "c"], Rules { disabled: true, ..once() });
    w.put_child("d", &["b", "c"], once());
    w.succeed("c");
    assert_eq!(w.ledger_of("d"), "skipped withdrawn");
    assert!(w.stored.joins.is_empty());
    manual_cycle(&mut w);
    assert_eq!(w.tasks("d").len(), 1);
    w.audit();
}

#[test]
fn who_arrives_late_at_a_join_that_gave_way_does_not_open_it_again() {
    let mut w = World::new();
    let many = Rules { overlap: scheduler::job::Overlap::Allow { max: 1000 }, ..once() };
    w.put("a", MINUTELY, once());
    w.put_child("b", &["a"], once());
    w.put_child("c", &["a"], many.clone());
    w.put_child("d", &["b", "c"], many);
    for minute in 0..=JOINS_MAX {
        w.until(&format!("{:02}:{:02}:30", minute / 60, minute % 60));
        w.succeed("a");
        w.succeed("b");
    }
    w.succeed("c");
    assert_eq!(w.ledger_of("d"), "skipped joinsuperseded");
    assert_eq!(w.stored.joins.len(), JOINS_MAX, "what was awaited has come, and is forgotten");
    w.succeed("c");
    assert_eq!(w.tasks("d").len(), 1, "the next one fires as ever");
    w.audit();
}

#[test]
fn a_disabled_child_with_other_parents_tells_a_cycle_under_way_as_a_repeat() {
    let mut w = World::new();
    w.put("a", MINUTELY, once());
    w.put_child("b", &["a"], once());
    w.put_child("c", &["a"], Rules { disabled: true, ..once() });
    w.put_child("d", &["c"], once());
    w.succeed("a");
    assert_eq!(w.ledger_of("d"), "skipped upstream");
    w.put_child("c", &["b"], Rules { disabled: true, ..once() });
    w.succeed("b");
    assert_eq!(w.ledger_of("d"), "skipped upstream, skipped upstream");
    w.audit();
}
