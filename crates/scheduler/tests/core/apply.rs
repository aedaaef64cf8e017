//! Sets of definitions: in any order, whole or not at all.

use scheduler::job::Rules;
use scheduler::request::{Answer, Definition, Manner, PlanText, Refusal, Request, Verdict};
use scheduler::schedule::DstPolicy;
use scheduler::{SET_BATCH, SET_MAX, Scheduler};

use crate::world::{World, job};

pub(crate) const FAR: &str = "R/2031-01-01T00:00:00Z/PT1H";

pub(crate) fn timed(name: &str, schedule: &str) -> Definition {
    let plan = PlanText::Schedule { text: schedule.into(), zone: "".into(), dst: DstPolicy::default() };
    Definition { name: job(name), plan, rules: Rules::default(), body: "{}".into() }
}

pub(crate) fn child(name: &str, parents: &[&str]) -> Definition {
    let plan = PlanText::Parents(parents.iter().map(|parent| job(parent)).collect());
    Definition { plan, ..timed(name, FAR) }
}

impl World {
    pub(crate) fn apply(&mut self, definitions: Vec<Definition>) -> Result<Answer, Refusal> {
        self.ask(Request::Apply { definitions, manner: Manner::Do })
    }

    pub(crate) fn parents_of(&self, name: &str) -> Vec<String> {
        let jobs = &self.stored.jobs;
        let found = jobs.values().find(|found| found.name == job(name)).unwrap();
        match &found.plan {
            scheduler::job::Plan::Parents(parents) => {
                parents.iter().map(|uid| jobs[uid].name.to_string()).collect()
            }
            scheduler::job::Plan::Schedule(_) => Vec::new(),
        }
    }
}

pub(crate) fn told(answer: Result<Answer, Refusal>) -> String {
    let Ok(Answer::Applied(verdicts)) = answer else { return format!("{answer:?}") };
    let line = |Verdict { job, version, changed, .. }: Verdict| match (changed, version) {
        (true, 1) => format!("{job} created"),
        (true, version) => format!("{job} updated to {version}"),
        (false, _) => format!("{job} unchanged"),
    };
    verdicts.into_iter().map(line).collect::<Vec<_>>().join(", ")
}

#[test]
fn parents_may_come_after_their_children() {
    let mut w = World::new();
    let set = || vec![child("c", &["b", "a"]), child("b", &["a"]), timed("a", FAR)];
    assert_eq!(told(w.apply(set())), "c created, b created, a created");
    assert_eq!(told(w.apply(set())), "c unchanged, b unchanged, a unchanged");
    assert_eq!(told(w.apply(vec![child("c", &["a"]), timed("a", FAR)])), "c updated to 2, a unchanged");
    assert_eq!(w.parents_of("c"), ["a"]);
}

/// Posted one by one, the root has run before its children are there.
#[test]
fn children_take_part_in_the_first_cycle_of_a_root_that_is_due_at_once() {
    let mut w = World::new();
    w.apply(vec![child("c", &["b"]), timed("a", "R1/2029-12-31T23:00:00Z/PT1H"), child("b", &["a"])])
        .unwrap();
    for name in ["a", "b", "c"] {
        w.succeed(name);
    }
    assert_eq!(w.ledger.len(), 3);
}

#[test]
fn a_set_is_refused_whole() {
    let mut w = World::new();
    w.apply(vec![timed("a", FAR), child("b", &["a"]), child("outside", &["b"])]).unwrap();
    let cycle = |names: &[&str]| Refusal::Cycle { path: names.iter().map(|name| job(name)).collect() };
    let missing = Refusal::MissingParents { job: job("n"), missing: vec![job("x"), job("y")] };
    let many = (0..=SET_MAX).map(|n| timed(&format!("m{n}"), FAR)).collect();
    for (set, refusal) in [
        (vec![timed("n", FAR), child("o", &["p"]), child("p", &["o"])], cycle(&["o", "p", "o"])),
        (vec![timed("n", FAR), child("o", &["o"])], cycle(&["o", "o"])),
        // Through a job that is not in the set.
        (vec![timed("n", FAR), child("a", &["outside"])], cycle(&["a", "b", "outside", "a"])),
        (vec![timed("o", FAR), child("n", &["y", "o", "x"])], missing),
        (vec![timed("n", FAR), child("o", &[])], Refusal::NoParents(job("o"))),
        (vec![timed("n", FAR), timed("n", FAR)], Refusal::Twice(job("n"))),
        (many, Refusal::SetTooLarge { jobs: SET_MAX + 1, bytes: (SET_MAX + 1) * (FAR.len() + 2) }),
    ] {
        let before = w.stored.clone();
        assert_eq!(w.apply(set.clone()), Err(refusal.clone()));
        assert_eq!(w.stored, before, "nothing has changed");
        let dry = w.ask(Request::Apply { definitions: set, manner: Manner::DryRun });
        assert_eq!(dry, Err(refusal), "a dry run finds the same");
    }
    assert!(matches!(
        w.apply(vec![timed("n", FAR), timed("o", "nonsense")]),
        Err(Refusal::Schedule { job: wrong, .. }) if wrong == job("o")
    ));
    assert!(w.stored.jobs.values().all(|found| found.name != job("n")));
}

/// On the way from one graph to the other no order of single steps would do without a detour.
#[test]
fn a_chain_can_be_turned_round() {
    let mut w = World::new();
    w.apply(vec![timed("a", FAR), child("b", &["a"]), child("c", &["b"])]).unwrap();
    let turned = w.apply(vec![child("a", &["b"]), child("b", &["c"]), timed("c", FAR)]);
    assert_eq!(told(turned), "a updated to 2, b updated to 2, c updated to 2");
    assert_eq!((w.parents_of("a"), w.parents_of("b")), (vec!["b".to_owned()], vec!["c".to_owned()]));
    w.core.check().unwrap();
}

#[test]
fn a_dry_run_tells_what_would_be_and_changes_nothing() {
    let mut w = World::new();
    w.apply(vec![timed("a", FAR), child("b", &["a"])]).unwrap();
    let before = w.stored.clone();
    let set = vec![child("new", &["b"]), child("b", &["a"]), timed("a", "R/2032-01-01T00:00:00Z/PT1H")];
    let dry = w.ask(Request::Apply { definitions: set.clone(), manner: Manner::DryRun });
    assert_eq!(told(dry), "new created, b unchanged, a updated to 2");
    assert_eq!(w.stored, before);
    assert_eq!(told(w.apply(set)), "new created, b unchanged, a updated to 2");
}

/// What a step changes is one batch: a crash before or after it finds none of the set, or all of it.
#[test]
fn a_crash_finds_none_of_a_set_or_all_of_it() {
    let mut w = World::new();
    w.apply(vec![timed("a", FAR), child("b", &["a"])]).unwrap();
    let definitions = (0..SET_BATCH - 1).map(|n| child(&format!("m{n}"), &["a", "b"]));
    let definitions = definitions.chain([timed("b", FAR)]).collect();
    let before = w.stored.clone();
    let request = Request::Apply { definitions, manner: Manner::Do };
    let event = scheduler::Event::Request { id: scheduler::request::RequestId(1), request };
    let step = w.core.step(w.now, event);
    let mut after = before.clone();
    step.changes.iter().for_each(|change| after.apply(change));
    assert_eq!((before.jobs.len(), after.jobs.len()), (2, SET_BATCH + 1));
    // Every later step of this leader is about something else.
    assert_eq!(w.core.step(w.now, scheduler::Event::Tick).changes, []);
    for state in [before, after] {
        Scheduler::new(state, w.settings.clone()).check().unwrap();
    }
}
