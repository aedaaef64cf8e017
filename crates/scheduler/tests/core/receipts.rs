//! Requests with a key: done once, however often they are sent.

use std::time::Duration;

use scheduler::Event;
use scheduler::job::Rules;
use scheduler::receipt::{Once, Receipt, RequestKey};
use scheduler::request::{Answer, Refusal, Request, RequestId};

use crate::world::{World, job};

const FAR: &str = "R/2031-01-01T00:00:00Z/PT1H";

pub(crate) fn once(key: &str, digest: u128, request: Request) -> Request {
    let key = RequestKey::new(key).unwrap();
    Request::Once { once: Once { key, digest }, request: Box::new(request) }
}

fn trigger(key: &str, digest: u128, name: &str) -> Request {
    once(key, digest, Request::Trigger { job: job(name), arguments: None })
}

fn world() -> World {
    let mut w = World::new();
    w.put("a", FAR, Rules::default());
    w
}

#[test]
fn a_repeated_request_is_answered_and_not_done() {
    let mut w = world();
    let first = w.ask(trigger("k", 7, "a")).unwrap();
    assert!(matches!(first, Answer::Triggered(_)));
    let before = Ok(Answer::Before(Box::new(first)));
    assert_eq!(w.ask(trigger("k", 7, "a")), before);
    w.succeed("a");
    w.fail_over("00:10:00");
    assert_eq!(w.ask(trigger("k", 7, "a")), before, "the next leader knows it too");
    assert_eq!(w.launched_of("a"), "00:00:00");
    w.ask(trigger("another", 7, "a")).unwrap();
    assert_eq!(w.launched_of("a"), "00:00:00 00:10:00");
}

#[test]
fn a_key_stands_for_one_request() {
    let mut w = world();
    w.ask(trigger("k", 7, "a")).unwrap();
    assert_eq!(w.ask(trigger("k", 8, "a")), Err(Refusal::KeyReused(RequestKey::new("k").unwrap())));
}

#[test]
fn what_was_refused_may_be_tried_again() {
    let mut w = world();
    assert_eq!(w.ask(trigger("k", 7, "b")), Err(Refusal::NoSuchJob(job("b"))));
    w.put("b", FAR, Rules::default());
    assert!(matches!(w.ask(trigger("k", 7, "b")), Ok(Answer::Triggered(_))));
}

#[test]
fn receipts_are_kept_for_a_day() {
    let mut w = world();
    w.ask(trigger("k", 7, "a")).unwrap();
    w.succeed("a");
    w.now += Receipt::AGE_MAX - Duration::from_millis(1);
    assert!(matches!(w.ask(trigger("k", 7, "a")), Ok(Answer::Before(_))));
    w.now += Duration::from_millis(1);
    assert!(matches!(w.ask(trigger("k", 7, "a")), Ok(Answer::Triggered(_))));
    assert_eq!(w.stored.receipts.len(), 1);
}

#[test]
fn the_oldest_give_way() {
    let mut w = world();
    let pause = Request::Pause { job: job("a"), reason: "".into(), until: None };
    for n in 0..=Receipt::KEPT_MAX {
        w.now += Duration::from_millis(1);
        let request = once(&format!("k{n}"), 7, pause.clone());
        let step = w.core.step(w.now, Event::Request { id: RequestId(1), request });
        step.changes.iter().for_each(|change| w.stored.apply(change));
    }
    assert_eq!(w.stored.receipts.len(), Receipt::KEPT_MAX);
    assert!(!w.stored.receipts.contains_key(&RequestKey::new("k0").unwrap()));
    w.core.check().unwrap();
}

#[test]
fn keys_are_visible_ascii() {
    for wrong in ["", "with space", "ä", "\u{7f}", &"k".repeat(256)] {
        assert_eq!(RequestKey::new(wrong), None, "{wrong:?}");
    }
    assert!(RequestKey::new(&"k".repeat(255)).is_some());
}
