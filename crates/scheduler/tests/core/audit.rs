//! Who did what: an entry for everything that changes something, in the name of whoever asked for it.

use scheduler::Event;
use scheduler::audit::{Act, Author};
use scheduler::ids::{Cause, JobUid, RunKey};
use scheduler::job::Rules;
use scheduler::receipt::{Once, RequestKey};
use scheduler::request::{Answer, Definition, Manner, PlanText, Refusal, Request, RequestId};
use scheduler::revision::Deed;
use scheduler::schedule::DstPolicy;

use crate::world::{World, job};

fn definition(name: &str, body: &str) -> Definition {
    let text = "R/2031-01-01T00:00:00Z/PT1H".into();
    let plan = PlanText::Schedule { text, zone: "".into(), dst: DstPolicy::default() };
    Definition { name: job(name), plan, rules: Rules::default(), body: body.into() }
}

fn by(name: &str, request: Request) -> Request {
    Request::By { author: Author::new(name, "10.0.0.1 r-1"), request: Box::new(request) }
}

fn put(name: &str, body: &str) -> Request {
    Request::Put(definition(name, body))
}

/// Author, job and word of each entry since the last time.
fn noted(w: &mut World) -> Vec<(String, String, &'static str)> {
    let entries = std::mem::take(&mut w.entries);
    let told = |entry: scheduler::audit::Entry| {
        let name = entry.job.map(|(_, name)| name.to_string()).unwrap_or_default();
        (entry.author.name().to_string(), name, entry.act.word())
    };
    entries.into_iter().map(told).collect()
}

#[track_caller]
fn check(w: &mut World, expected: &[(&str, &str, &str)]) {
    let found = noted(w);
    let found: Vec<_> = found.iter().map(|(by, job, act)| (by.as_str(), job.as_str(), *act)).collect();
    assert_eq!(found, expected);
}

#[test]
fn whoever_asks_is_noted_with_what_was_done() {
    let mut w = World::new();
    w.ask(by("ann", put("a", "1"))).unwrap();
    let entry = w.entries[0].clone();
    assert_eq!(
        (&**entry.author.via(), entry.act),
        ("10.0.0.1 r-1", Act::Defined { deed: Deed::Created, version: 1 })
    );
    assert_eq!(&*w.revisions[0].by, "ann");
    check(&mut w, &[("ann", "a", "created")]);
    w.ask(by("bob", put("a", "2"))).unwrap();
    w.ask(put("a", "3")).unwrap();
    check(&mut w, &[("bob", "a", "replaced"), ("", "a", "replaced")]);
    let Ok(Answer::Triggered(run)) = w.ask(by("bob", Request::Trigger { job: job("a"), arguments: None }))
    else {
        panic!("it runs")
    };
    w.ask(by("ann", Request::KillRun(run))).unwrap();
    w.ask(by("ann", Request::MarkSuccess { job: job("a"), failed: None })).unwrap();
    let pause = |reason: &str| Request::Pause { job: job("a"), reason: reason.into(), until: None };
    w.ask(by("ann", pause("one"))).unwrap();
    w.ask(by("bob", pause("two"))).unwrap();
    let Act::Paused { before: Some(before), after } = w.entries.last().unwrap().act.clone() else {
        panic!("paused")
    };
    assert_eq!((&*before.reason, &*after.reason), ("one", "two"));
    w.ask(by("bob", Request::Resume(job("a")))).unwrap();
    w.ask(by("bob", Request::Delete(job("a")))).unwrap();
    w.ask(by("bob", Request::ForgetNode { node: "n".into(), runs: 2 })).unwrap();
    let words =
        ["triggered", "killed", "markedSuccess", "paused", "paused", "resumed", "deleted", "forgotNode"];
    assert_eq!(noted(&mut w).into_iter().map(|(_, _, act)| act).collect::<Vec<_>>(), words);
}

#[test]
fn what_changes_nothing_or_is_refused_or_repeated_is_not_noted() {
    let mut w = World::new();
    w.ask(by("ann", put("a", "1"))).unwrap();
    w.entries.clear();
    w.ask(by("ann", put("a", "1"))).unwrap();
    w.ask(by("ann", Request::Resume(job("a")))).unwrap();
    w.ask(by("ann", Request::KillJob(job("a")))).unwrap();
    assert!(w.ask(by("ann", Request::Delete(job("b")))).is_err());
    let dry = Request::Apply { definitions: vec![definition("a", "2")], manner: Manner::DryRun };
    w.ask(by("ann", dry)).unwrap();
    check(&mut w, &[]);
    let once = Once { key: RequestKey::new("k").unwrap(), digest: 1 };
    let again = || by("ann", Request::Once { once: once.clone(), request: Box::new(put("a", "2")) });
    w.ask(again()).unwrap();
    assert!(matches!(w.ask(again()), Ok(Answer::Before(_))));
    check(&mut w, &[("ann", "a", "replaced")]);

    let pause = || by("ann", Request::Pause { job: job("a"), reason: "one".into(), until: None });
    w.ask(pause()).unwrap();
    w.ask(pause()).unwrap();
    w.ask(by("ann", Request::Resume(job("a")))).unwrap();
    let Ok(Answer::Triggered(run)) = w.ask(by("ann", Request::Trigger { job: job("a"), arguments: None }))
    else {
        panic!("it runs")
    };
    w.ask(by("ann", Request::KillRun(run))).unwrap();
    w.ask(by("ann", Request::KillRun(run))).unwrap();
    w.ask(by("ann", Request::KillJob(job("a")))).unwrap();
    let words = noted(&mut w).into_iter().map(|(_, _, act)| act).collect::<Vec<_>>();
    assert_eq!(words, ["paused", "resumed", "triggered", "killed"]);
}

#[test]
fn what_waits_can_be_cancelled_and_what_runs_goes_on() {
    let mut w = World::new();
    w.ask(put("a", "1")).unwrap();
    let trigger = || Request::Trigger { job: job("a"), arguments: None };
    let (Ok(Answer::Triggered(runs)), Ok(Answer::Triggered(waits))) = (w.ask(trigger()), w.ask(trigger()))
    else {
        panic!("one runs, one waits")
    };
    w.entries.clear();
    assert_eq!(w.ask(by("ann", Request::CancelRun(runs))), Err(Refusal::NoSuchRun(runs)));
    w.ask(by("ann", Request::CancelRun(waits))).unwrap();
    check(&mut w, &[("ann", "a", "killed")]);
    assert_eq!((w.tasks("a").len(), w.ledger_of("a")), (1, "skipped cancelled".into()));
}

#[test]
fn what_the_scheduler_does_by_itself_is_nobodys() {
    let mut w = World::disabling_after(1);
    let mut once = definition("a", "1");
    once.rules.retry.max = 0;
    w.ask(by("ann", Request::Put(once))).unwrap();
    w.put_child("b", &["a"], Rules::default());
    w.ask(by("ann", Request::Trigger { job: job("a"), arguments: None })).unwrap();
    w.entries.clear();
    w.fail("a");
    check(&mut w, &[("", "a", "disabled")]);
    // Its children inherit because somebody deleted it.
    w.ask(by("bob", Request::Delete(job("a")))).unwrap();
    check(&mut w, &[("bob", "b", "inherited"), ("bob", "a", "deleted")]);
}

/// Whichever leader makes a large set whole, it was asked for by whoever did.
#[test]
fn a_staged_set_is_applied_in_the_name_of_whoever_asked_for_it() {
    let set = || {
        let names = ["a", "b", "c", "d", "e"];
        let definitions = names.iter().map(|name| definition(name, "1")).collect();
        by("ann", Request::Apply { definitions, manner: Manner::Do })
    };
    for steps in 0..8 {
        let mut w = World::staging();
        w.event(Event::Request { id: RequestId(1), request: set() });
        (0..steps).for_each(|_| w.event(Event::Tick));
        w.fail_over("00:00:01");
        w.rests();
        if w.stored.jobs.is_empty() {
            assert_eq!(w.entries, []);
            continue;
        }
        let found = noted(&mut w);
        assert_eq!(found.len(), 5, "{found:?}");
        assert!(found.iter().all(|(by, _, act)| by == "ann" && *act == "applied"), "{found:?}");
        assert!(w.revisions.iter().all(|revision| &*revision.by == "ann"));
        assert_eq!(w.stored.meta.applying, None);
        // What comes afterwards is somebody else's.
        w.ask(put("a", "2")).unwrap();
        check(&mut w, &[("", "a", "replaced")]);
    }
}

#[test]
fn names_are_bounded_and_in_one_line() {
    let author = Author::new(&"n".repeat(1000), "a\nb");
    assert_eq!((author.name().len(), &**author.via()), (Author::NAME_MAX, "a b"));
}

/// Only one that is known may be killed, so the entry always names a job.
#[test]
fn an_unknown_run_is_not_noted() {
    let mut w = World::new();
    let nobody: RunKey = RunKey { job: JobUid(1), cause: Cause::Trigger(1) };
    assert_eq!(w.ask(by("ann", Request::KillRun(nobody))), Err(Refusal::NoSuchRun(nobody)));
    check(&mut w, &[]);
}
