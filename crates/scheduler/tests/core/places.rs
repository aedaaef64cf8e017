//! Engines that find places: what they have taken waits, and begins only where everybody will look for it.

use std::sync::Arc;

use scheduler::TaskNews;
use scheduler::job::Rules;
use scheduler::request::{Answer, Request};
use scheduler::run::{Live, RunState};

use crate::world::{World, job, seconds};

const HOURLY: &str = "R/2030-01-01T00:00:00Z/PT1H";

fn placed(node: &str) -> TaskNews {
    TaskNews::Placed { node: node.into() }
}

fn live(w: &World) -> Live {
    let run = w.stored.runs.values().next().expect("a run");
    let RunState::Running(live) = &run.state else { panic!("{:?}", run.state) };
    live.clone()
}

#[test]
fn a_task_begins_where_the_store_says_that_it_is() {
    let mut w = World::new();
    w.put("a", HOURLY, Rules::default());
    w.news("a", TaskNews::Waiting);
    assert_eq!(live(&w).started, None, "what waits does not run");
    w.news("a", placed("agent-1"));
    w.news("a", placed("agent-2"));
    let nodes: Vec<&str> = w.may_begin.iter().map(|(_, node)| &**node).collect();
    assert_eq!(nodes, ["agent-1", "agent-2"]);
    assert_eq!(&*live(&w).node, "agent-2");
    w.fail_over("00:00:10");
    assert_eq!(&*live(&w).node, "agent-2", "who leads next looks there");
    w.news("a", TaskNews::Running);
    w.news("a", placed("agent-3"));
    assert_eq!((&*live(&w).node, w.may_begin.len()), ("agent-2", 2), "what runs has its place");
}

#[test]
fn what_is_to_be_killed_does_not_begin() {
    let mut w = World::new();
    w.put("a", HOURLY, Rules::default());
    w.news("a", TaskNews::Waiting);
    w.ask(Request::KillJob(job("a"))).expect("killed");
    w.kills.clear();
    w.news("a", placed("agent-1"));
    assert_eq!((w.may_begin.len(), w.kills.len()), (0, 1));
}

#[test]
fn time_in_which_a_task_waits_does_not_count_as_its_own() {
    let mut w = World::new();
    w.put("a", HOURLY, Rules { run_max: Some(seconds(30)), ..Rules::default() });
    w.news("a", TaskNews::Waiting);
    w.until("00:10:00");
    assert!(w.kills.is_empty());
    w.news("a", TaskNews::Running);
    w.until("00:10:31");
    assert_eq!(w.kills.len(), 1);
}

#[test]
fn the_note_of_an_engine_is_kept() {
    let mut w = World::new();
    let note: Arc<str> = "framework 7".into();
    assert_eq!(w.ask(Request::EngineNote(Some(note.clone()))), Ok(Answer::Noted));
    w.fail_over("00:00:10");
    assert_eq!(w.ask(Request::EngineNote(None)), Ok(Answer::Noted), "a question about the term");
    assert_eq!(w.stored.meta.engine_note, Some(note));
}
