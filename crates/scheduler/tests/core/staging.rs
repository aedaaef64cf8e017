//! Sets that do not fit one batch: staged, decided, put; whole or not at all wherever they are cut.

use scheduler::request::{Answer, Definition, Manner, Refusal, Request, RequestId};
use scheduler::{Event, Scheduler};

use crate::apply::{FAR, child, timed, told};
use crate::receipts::once;
use crate::world::{World, job};

/// Five jobs, children first; the root is due at once.
fn set() -> Vec<Definition> {
    vec![
        child("e", &["d"]),
        child("d", &["b", "c"]),
        child("c", &["a"]),
        child("b", &["a"]),
        timed("a", "R1/2029-12-31T23:00:00Z/PT1H"),
    ]
}

fn request(definitions: Vec<Definition>) -> Event {
    let request = Request::Apply { definitions, manner: Manner::Do };
    Event::Request { id: RequestId(1), request: once("k", 1, request) }
}

impl World {
    pub(crate) fn rests(&mut self) {
        for _ in 0..1000 {
            if self.core.wake_at().is_none_or(|at| at > self.now) {
                return;
            }
            self.event(Event::Tick);
        }
        panic!("it does not come to rest");
    }
}

#[test]
fn a_large_set_is_answered_as_a_small_one_is() {
    let mut w = World::staging();
    assert_eq!(told(w.apply(set())), "e created, d created, c created, b created, a created");
    assert_eq!(w.parents_of("d"), ["b", "c"]);
    assert_eq!(w.stored.staged.len(), 0);
    w.core.check().unwrap();
    let changed = vec![timed("e", FAR), child("d", &["b"]), child("c", &["a"]), child("b", &["a"])];
    assert_eq!(told(w.apply(changed)), "e updated to 2, d updated to 2, c unchanged, b unchanged");
}

#[test]
fn nothing_runs_before_the_set_is_whole() {
    let mut w = World::staging();
    w.event(request(set()));
    while w.stored.jobs.len() < 5 {
        assert_eq!(w.launches, [], "the root is due, but its children are not all there");
        w.event(Event::Tick);
    }
    w.rests();
    for name in ["a", "b", "c", "d", "e"] {
        w.succeed(name);
    }
    assert_eq!(w.ledger.len(), 5);
}

/// A leader may die behind any batch. What the next one makes of it is none of the set, or all.
#[test]
fn wherever_it_is_cut_the_next_leader_finds_none_of_it_or_all() {
    let (mut none, mut all) = (0, 0);
    for steps in 0.. {
        let mut w = World::staging();
        w.apply(vec![timed("b", FAR), child("x", &["b"])]).unwrap();
        w.event(request(set()));
        (0..steps).for_each(|_| w.event(Event::Tick));
        let answered = w.answer.take().is_some();
        w.fail_over("00:00:01");
        w.rests();
        assert_eq!((w.stored.staged.len(), &w.stored.meta.applying), (0, &None));
        w.core.check().unwrap();
        let again = w.ask(once("k", 1, Request::Apply { definitions: set(), manner: Manner::Do }));
        match w.stored.receipts.len() {
            // It was lost, so it has been done now.
            1 if told(again.clone()) == "e created, d created, c created, b updated to 2, a created" => {
                none += 1;
                assert!(!answered);
            }
            _ => {
                all += 1;
                assert_eq!(again, Ok(Answer::Before(Box::new(Answer::Applied(Vec::new())))));
            }
        }
        assert_eq!(w.stored.jobs.len(), 6);
        assert_eq!((w.parents_of("b"), w.parents_of("d")), (vec!["a".into()], vec!["b".into(), "c".into()]));
        if answered {
            break;
        }
    }
    assert!(none >= 1 && all >= 3, "{none} found none of it, {all} found all");
}

#[test]
fn what_has_changed_meanwhile_may_forbid_it() {
    let mut w = World::staging();
    w.put("root", FAR, scheduler::job::Rules::default());
    w.event(request(vec![child("m", &["root"]), child("n", &["m"]), child("o", &["n"])]));
    assert_eq!(w.stored.staged.len(), 3);
    let answer = {
        w.event(Event::Request { id: RequestId(2), request: Request::Delete(job("root")) });
        w.answer.take()
    };
    // The step that deletes it decides the set too, and refuses it.
    let missing = Refusal::MissingParents { job: job("m"), missing: vec![job("root")] };
    assert_eq!(answer, Some(Err(missing)));
    w.rests();
    assert_eq!((w.stored.staged.len(), w.stored.jobs.len(), w.stored.receipts.len()), (0, 0, 0));
}

#[test]
fn one_at_a_time() {
    let mut w = World::staging();
    w.event(request(set()));
    let other = vec![timed("p", FAR), timed("q", FAR), timed("r", FAR)];
    let ask = |definitions| Request::Apply { definitions, manner: Manner::Do };
    w.event(Event::Request { id: RequestId(2), request: ask(other.clone()) });
    assert_eq!(w.answer.take(), Some(Err(Refusal::SetUnderWay)), "a second set");
    assert!(w.core.is_applying());
    w.event(Event::Request { id: RequestId(2), request: Request::Delete(job("a")) });
    assert_eq!(w.answer.take(), Some(Err(Refusal::SetUnderWay)), "anything, once it is decided");
    w.rests();
    assert!(matches!(w.answer.take(), Some(Ok(Answer::Applied(verdicts))) if verdicts.len() == 5));
    assert_eq!(told(w.apply(other)), "p created, q created, r created");
}

/// A leader that finds a set which nobody decided throws it away, and takes others only then.
#[test]
fn what_was_not_decided_is_forgotten() {
    let mut w = World::staging();
    w.event(request(set()));
    assert_eq!(w.stored.staged.len(), 5);
    w.core = Scheduler::new(w.stored.clone(), w.settings.clone());
    w.rests();
    assert_eq!((w.stored.staged.len(), w.stored.jobs.len()), (0, 0));
}
