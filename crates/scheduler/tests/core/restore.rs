//! A state of earlier takes the place of the present one: what has been seen stays seen.

use scheduler::job::Rules;
use scheduler::request::Request;
use scheduler::restore::{NUMBERS_SKIPPED, carry_over};
use scheduler::run::{AttemptEnd, RunState};
use scheduler::state::{Change, State};
use scheduler::{Event, TaskNews};

use crate::world::{World, job};

const HOURLY: &str = "R/2030-01-01T00:00:00Z/PT1H";
const LATER: &str = "R1/2040-01-01T00:00:00Z/P1D";

impl World {
    /// What a node does on a restore, but for the store: the ledger of what has gone goes too.
    fn restore(&mut self, backup: &State, time: &str) {
        let carried = carry_over(&self.stored, backup, |_| false);
        self.stored = backup.clone();
        self.ledger.clear();
        self.launches.clear();
        for change in &carried.changes {
            self.stored.apply(change);
        }
        self.fail_over(time);
        for task in carried.strays {
            if self.alive.contains_key(&task) {
                self.event(Event::Task { task, news: TaskNews::Running });
            }
        }
    }
}

#[test]
fn a_slot_that_began_since_is_launched_again_and_so_adopted() {
    let mut w = World::new();
    w.put("a", HOURLY, Rules::default());
    w.succeed("a");
    w.until("00:30:00");
    let backup = w.stored.clone();
    w.until("01:10:00");
    let task = w.tasks("a")[0].clone();
    w.restore(&backup, "01:20:00");
    assert_eq!(w.launched_of("a"), "01:00:00");
    assert_eq!(w.tasks("a"), std::slice::from_ref(&task), "the same task, which the engine knows");
    assert!(!w.kills.contains(&task));
    w.succeed("a");
    assert_eq!(w.ledger_of("a"), "succeeded");
    w.audit();
}

#[test]
fn a_slot_that_gave_way_to_a_later_one_is_ended() {
    let mut w = World::new();
    w.put("a", HOURLY, Rules::default());
    w.succeed("a");
    let backup = w.stored.clone();
    w.until("01:10:00");
    let task = w.tasks("a")[0].clone();
    w.restore(&backup, "02:10:00");
    assert_eq!(w.launched_of("a"), "02:00:00");
    assert!(w.kills.contains(&task));
    w.audit();
}

#[test]
fn a_run_that_the_backup_cannot_know_is_killed_and_accounted_for() {
    let mut w = World::new();
    w.put("old", LATER, Rules::default());
    let backup = w.stored.clone();
    w.put("new", HOURLY, Rules::default());
    w.trigger("old").unwrap();
    let tasks = [w.tasks("new")[0].clone(), w.tasks("old")[0].clone()];
    w.restore(&backup, "00:10:00");
    assert_eq!(w.launches, []);
    for (name, task) in ["new", "old"].iter().zip(tasks) {
        assert_eq!(w.tasks(name), std::slice::from_ref(&task));
        w.news(name, TaskNews::Running);
        assert!(w.kills.contains(&task), "{name}");
        w.end(name, AttemptEnd::Killed);
        assert_eq!(w.ledger_of(name), "killed restored");
    }
    assert!(w.stored.runs.is_empty());
    w.audit();
}

#[test]
fn a_run_that_came_further_stays_where_it_is() {
    let mut w = World::new();
    w.put("a", "R1/2030-01-01T00:00:00Z/PT1H", Rules::default());
    let backup = w.stored.clone();
    w.fail("a");
    w.until("00:05:00");
    assert_eq!(w.launched_of("a"), "00:00:00 00:00:00#1");
    w.restore(&backup, "00:10:00");
    let run = w.stored.runs.values().next().unwrap();
    assert!(matches!(&run.state, RunState::Running(live) if live.attempt == 1), "{run:?}");
    w.succeed("a");
    assert_eq!(w.ledger_of("a"), "succeeded");
}

/// By it the engine is known where its tasks run: a backup of before must not make it a stranger to them.
#[test]
fn the_engine_goes_on_as_it_is() {
    let note = |w: &World| w.stored.meta.engine_note.clone();
    let mut w = World::new();
    let empty = w.stored.clone();
    w.ask(Request::EngineNote(Some("framework 1".into()))).expect("noted");
    let first = w.stored.clone();
    w.ask(Request::EngineNote(Some("framework 2".into()))).expect("noted");
    for backup in [&empty, &first] {
        w.restore(backup, "00:10:00");
        assert_eq!(note(&w).as_deref(), Some("framework 2"));
    }
    let mut new = World::new();
    new.restore(&first, "00:10:00");
    assert_eq!(note(&new).as_deref(), Some("framework 1"), "a store that has moved");
}

#[test]
fn no_number_is_given_out_twice() {
    let mut w = World::new();
    w.put("a", LATER, Rules::default());
    w.trigger("a").unwrap();
    w.succeed("a");
    let backup = w.stored.clone();
    w.trigger("a").unwrap();
    w.succeed("a");
    w.put("a", HOURLY, Rules::default());
    w.put("b", LATER, Rules::default());
    let [present_a, present_b] =
        ["a", "b"].map(|name| w.stored.jobs.values().find(|found| found.name == job(name)).unwrap().clone());
    let sequence = w.stored.progress[&present_a.uid].sequence;
    w.restore(&backup, "00:10:00");
    assert_eq!(w.stored.jobs[&present_a.uid].version, present_a.version);
    assert_eq!(w.stored.progress[&present_a.uid].sequence, sequence);
    w.put("c", LATER, Rules::default());
    let created = w.stored.jobs.values().find(|found| found.name == job("c")).unwrap();
    assert!(created.uid > present_b.uid, "a uid that was given to `b` is never given again");
    // Where the job itself has been lost, nobody knows how far its numbers had come.
    w.ask(Request::Delete(job("a"))).unwrap();
    w.restore(&backup, "00:20:00");
    let (old, new) = (&backup.progress[&present_a.uid], &w.stored.progress[&present_a.uid]);
    assert_eq!(new.sequence, old.sequence + NUMBERS_SKIPPED);
    assert_eq!(w.stored.jobs[&present_a.uid].version, backup.jobs[&present_a.uid].version + NUMBERS_SKIPPED);
}

#[test]
fn uids_of_another_store_are_left_to_it() {
    let state = |next_uid| {
        let mut state = State::default();
        state.meta.next_uid = next_uid;
        state
    };
    let theirs = state((7 << 32) + 9);
    let mut ours = state((3 << 32) + 2);
    let mut restored = theirs.clone();
    for change in carry_over(&ours, &theirs, |_| false).changes {
        restored.apply(&change);
    }
    assert_eq!(restored.meta.next_uid, ours.meta.next_uid);
    // Cycles that are alive may have begun in a later version of the graph than the backup knows.
    ours.meta.graph.0 = 5;
    let Some(Change::Meta(meta)) = carry_over(&ours, &theirs, |_| false).changes.pop() else {
        panic!("the counters go on")
    };
    assert_eq!(meta.graph.0, 5);
    assert_eq!(carry_over(&theirs, &theirs, |_| false), scheduler::restore::CarriedOver::default());
}
