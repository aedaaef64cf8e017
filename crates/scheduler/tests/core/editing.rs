//! Definitions that change: on conditions, and with a revision of every change.

use scheduler::job::Rules;
use scheduler::request::{Answer, Definition, Edit, Expect, PlanText, Refusal, Request, RequestId};
use scheduler::revision::Deed;
use scheduler::schedule::DstPolicy;
use scheduler::state::Change;
use scheduler::{Event, Scheduler};

use crate::world::{World, job};

fn definition(name: &str, body: &str) -> Definition {
    let text = "R/2031-01-01T00:00:00Z/PT1H".into();
    let plan = PlanText::Schedule { text, zone: "".into(), dst: DstPolicy::default() };
    Definition { name: job(name), plan, rules: Rules::default(), body: body.into() }
}

fn when(expect: Expect, then: Request) -> Request {
    Request::When { job: job("a"), expect, then: Box::new(then) }
}

/// The revisions of a job, oldest first: version and deed.
fn revisions_of(w: &World, name: &str) -> Vec<(u32, Deed)> {
    let of_job = w.revisions.iter().filter(|revision| revision.job.name.as_str() == name);
    of_job.map(|revision| (revision.job.version, revision.deed)).collect()
}

#[test]
fn a_condition_is_held_against_the_job_as_it_is() {
    let mut w = World::new();
    let put = |body: &str| Request::Put(definition("a", body));
    let refused = |present| Err(Refusal::VersionMismatch { job: job("a"), present });
    assert_eq!(w.ask(when(Expect::Present, put("1"))), refused(None));
    assert_eq!(w.ask(when(Expect::OneOf(vec![]), put("1"))), refused(None));
    let Ok(Answer::Put { uid, version: 1, changed: true }) = w.ask(when(Expect::Absent, put("1"))) else {
        panic!("it was absent")
    };
    assert_eq!(w.ask(when(Expect::Absent, put("2"))), refused(Some((uid, 1))));
    let first = Expect::OneOf(vec![(uid, 1)]);
    assert!(w.ask(when(first.clone(), put("2"))).is_ok());
    // Of two that had seen the same version, one is told.
    assert_eq!(w.ask(when(first.clone(), put("3"))), refused(Some((uid, 2))));
    assert_eq!(w.ask(when(first, Request::Delete(job("a")))), refused(Some((uid, 2))));
    assert!(w.ask(when(Expect::OneOf(vec![(uid, 1), (uid, 2)]), Request::Delete(job("a")))).is_ok());
    // A job of the same name and version is another one.
    w.ask(put("1")).unwrap();
    assert!(w.ask(when(Expect::OneOf(vec![(uid, 1)]), put("2"))).is_err());
}

#[test]
fn every_change_of_a_definition_leaves_a_revision() {
    let mut w = World::new();
    w.ask(Request::Put(definition("a", "1"))).unwrap();
    w.ask(Request::Put(definition("a", "1"))).unwrap(); // nothing changes
    w.ask(Request::Edit { definition: definition("a", "2"), edit: Edit::Patch }).unwrap();
    w.ask(Request::Edit { definition: definition("a", "1"), edit: Edit::RollBack { to: 1 } }).unwrap();
    w.put_child("b", &["a"], Rules::default());
    w.ask(Request::Delete(job("a"))).unwrap();
    w.ask(Request::Edit { definition: definition("a", "1"), edit: Edit::Restore }).unwrap();
    let deeds = [(1, Deed::Created), (2, Deed::Patched), (3, Deed::RolledBack { to: 1 }), (4, Deed::Deleted)];
    assert_eq!(revisions_of(&w, "a"), [&deeds[..], &[(1, Deed::Restored)]].concat());
    assert_eq!(revisions_of(&w, "b"), [(1, Deed::Created), (2, Deed::Inherited)]);
    // What a revision says can be put as it is.
    let deleted = w.revisions.iter().find(|revision| revision.deed == Deed::Deleted).unwrap();
    assert_eq!(deleted.definition(), definition("a", "1"));
    let child = w.revisions.iter().find(|revision| revision.job.name == job("b")).unwrap();
    assert_eq!(child.definition().plan, PlanText::Parents(vec![job("a")]));
}

#[test]
fn a_job_that_is_disabled_by_its_failures_is_revised() {
    let mut w = World::disabling_after(1);
    let mut once = definition("a", "1");
    once.rules.retry.max = 0;
    w.ask(Request::Put(once)).unwrap();
    w.trigger("a").unwrap();
    w.fail("a");
    assert_eq!(revisions_of(&w, "a"), [(1, Deed::Created), (2, Deed::Disabled)]);
    assert!(w.revisions[1].job.rules.disabled);
}

/// What an edit changes is one batch: a crash before or after it finds the job and its versions as they were, or as they
/// are to be.
#[test]
fn a_crash_finds_the_old_version_or_the_new_one() {
    let edits = [
        (Edit::Patch, definition("a", "3"), Deed::Patched),
        (Edit::RollBack { to: 1 }, definition("a", "1"), Deed::RolledBack { to: 1 }),
    ];
    for (edit, definition, deed) in edits {
        let mut w = World::new();
        w.ask(Request::Put(self::definition("a", "1"))).unwrap();
        w.ask(Request::Put(self::definition("a", "2"))).unwrap();
        let (before, body) = (w.stored.clone(), definition.body.clone());
        let event = Event::Request { id: RequestId(1), request: Request::Edit { definition, edit } };
        let step = w.core.step(w.now, event);
        let revised = step.changes.iter().filter_map(|change| match change {
            Change::Revise(revision) => {
                Some((revision.job.version, revision.job.body.clone(), revision.deed))
            }
            _ => None,
        });
        assert_eq!(revised.collect::<Vec<_>>(), [(3, body.clone(), deed)]);
        let mut after = before.clone();
        step.changes.iter().for_each(|change| after.apply(change));
        for (state, version, body) in [(before, 2, "2".into()), (after, 3, body)] {
            let found = state.jobs.values().map(|job| (job.version, job.body.clone())).collect::<Vec<_>>();
            assert_eq!(found, [(version, body)]);
            Scheduler::new(state, w.settings.clone()).check().unwrap();
        }
        assert_eq!(w.core.step(w.now, Event::Tick).changes, [], "and that is all of it");
    }
}
