//! Tables: who is asked for what, and what is told, step by step.

use scheduler::run::AttemptEnd;

use super::*;

const LOST: &str = "lost";

fn id(name: &str) -> TaskId {
    TaskId::parse(name).expect("a task id")
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(1000 + seconds)
}

fn ended() -> Known {
    Known::Ended(AttemptEnd::Succeeded)
}

/// A table, and where the state has the tasks that it has anywhere.
#[derive(Default)]
struct World {
    table: Table,
    places: BTreeMap<TaskId, Place>,
}

impl World {
    /// Each task, on this node, was asked for, and runs there.
    fn watching(tasks: &[(&str, &str)]) -> Self {
        let mut world = Self::default();
        for (task, node) in tasks {
            world.there(task, node).note(task, node, Known::Running);
        }
        world
    }

    fn there(&mut self, task: &str, node: &str) -> &mut Self {
        self.places.insert(id(task), Place::There { node: node.into(), contained: false });
        self
    }

    fn given_up(&mut self, task: &str, node: &str) -> &mut Self {
        self.places.insert(id(task), Place::GivenUp { node: node.into() });
        self
    }

    fn here(&mut self, task: &str) -> &mut Self {
        self.places.insert(id(task), Place::Here);
        self
    }

    fn nowhere(&mut self, task: &str) -> &mut Self {
        self.places.remove(&id(task));
        self
    }

    fn place(places: &BTreeMap<TaskId, Place>, task: &TaskId) -> Place {
        places.get(task).cloned().unwrap_or(Place::Nowhere)
    }

    fn note(&mut self, task: &str, node: &str, known: Known) -> &mut Self {
        let place = Self::place(&self.places, &id(task));
        self.table.note(&id(task), &node.into(), &known, &place);
        self
    }

    fn answer(&mut self, task: &str, node: &str, known: Known) -> &mut Self {
        self.table.answered(&id(task), node, known);
        self
    }

    #[track_caller]
    fn is_not_watched(&mut self, task: &str) -> &mut Self {
        assert_eq!(self.table.node_of(&id(task)), None);
        self
    }

    /// Who is asked for what; all of them answer at once.
    #[track_caller]
    fn asks(&mut self, expected: &[&str]) -> &mut Self {
        let questions = self.table.questions(|task| Self::place(&self.places, task));
        let asked: Vec<String> = questions
            .into_iter()
            .map(|(node, tasks)| {
                self.table.has_been_asked(&node);
                let tasks: Vec<String> = tasks.into_iter().map(|(task, _)| task.to_string()).collect();
                format!("{node}: {}", tasks.join(" "))
            })
            .collect();
        assert_eq!(asked, expected);
        self
    }

    #[track_caller]
    fn tells(&mut self, expected: &[(&str, Known)]) -> &mut Self {
        let told = self.table.take(usize::MAX, |task| Self::place(&self.places, task));
        let expected: Vec<TaskEvent> =
            expected.iter().map(|(task, known)| TaskEvent { task: id(task), known: known.clone() }).collect();
        assert_eq!(told, expected);
        self
    }
}

#[test]
fn only_what_is_not_known_yet_is_told() {
    let mut world = World::watching(&[("a-0", "n1"), ("b-0", "n2")]);
    world.asks(&["n1: a-0", "n2: b-0"]).tells(&[]);
    world.answer("a-0", "n1", Known::Running).answer("b-0", "n2", Known::Unknown);
    world.tells(&[("b-0", Known::Unknown)]).answer("b-0", "n2", Known::Unknown).tells(&[]);
    world.answer("b-0", "n2", Known::Running).tells(&[("b-0", Known::Running)]);
}

#[test]
fn an_end_is_told_until_it_is_acknowledged() {
    let mut world = World::watching(&[("a-0", "n1")]);
    for _ in 0..2 {
        world.asks(&["n1: a-0"]).answer("a-0", "n1", ended()).tells(&[("a-0", ended())]);
    }
    world.answer("a-0", "n1", ended());
    assert_eq!(world.table.acknowledged(&id("a-0")).as_deref(), Some("n1"));
    world.tells(&[]).asks(&[]).answer("a-0", "n1", ended()).tells(&[]);
    assert_eq!(world.table.acknowledged(&id("a-0")), None);
}

#[test]
fn what_never_began_there_is_not_watched_there() {
    let mut world = World::default();
    world.there("a-0", "n1").note("a-0", "n1", Known::NeverBegan).asks(&[]).is_not_watched("a-0");
    let mut world = World::watching(&[("a-0", "n1")]);
    world.note("a-0", "n1", Known::NeverBegan).asks(&[]).is_not_watched("a-0");
    // Told by itself it is told once, and not asked for in between.
    let mut world = World::watching(&[("a-0", "n1")]);
    world.answer("a-0", "n1", Known::NeverBegan).asks(&[]).tells(&[("a-0", Known::NeverBegan)]);
    world.is_not_watched("a-0").answer("a-0", "n1", Known::NeverBegan).tells(&[]);
}

#[test]
fn what_was_launched_here_is_asked_for_there_no_more() {
    let mut world = World::watching(&[("a-0", "n1"), ("b-0", "n1")]);
    world.here("a-0").table.launched(&id("a-0"));
    world.is_not_watched("a-0").asks(&["n1: b-0"]).answer("a-0", "n1", Known::Unknown).tells(&[]);
    assert_eq!(world.table.acknowledged(&id("a-0")), None, "its end comes from here");
    // Even where the launch was not told, or came between question and answer.
    let mut world = World::watching(&[("a-0", "n1")]);
    world.here("a-0").note("a-0", "n1", Known::Unknown).asks(&[]);
    let mut world = World::watching(&[("a-0", "n1")]);
    world.answer("a-0", "n1", Known::NeverBegan).here("a-0").tells(&[]).asks(&[]);
    let mut world = World::watching(&[("a-0", "n1")]);
    world.here("a-0").asks(&[]).nowhere("a-0").asks(&[]);
}

#[test]
fn what_moved_to_another_node_is_asked_for_there() {
    let mut world = World::watching(&[("a-0", "n1")]);
    world.there("a-0", "n2").answer("a-0", "n1", Known::Unknown).tells(&[]).asks(&[]);
    world.note("a-0", "n1", Known::Running).asks(&[]);
    world.note("a-0", "n2", Known::Running).note("a-0", "n1", Known::Running).asks(&["n2: a-0"]);
    world.answer("a-0", "n1", Known::NeverBegan).tells(&[]);
}

/// Its node may come back, with a task that runs and is to be ended, or an end that is to be acknowledged.
#[test]
fn what_was_given_up_is_still_asked_for_where_it_was() {
    let mut world = World::watching(&[("a-0", "n1")]);
    world.answer("a-0", "n1", Known::Unknown).tells(&[("a-0", Known::Unknown)]).nowhere("a-0");
    world.note("a-0", "n1", Known::Unknown).asks(&["n1: a-0"]);
    world.answer("a-0", "n1", Known::Running).tells(&[("a-0", Known::Running)]);
    assert_eq!(world.table.node_of(&id("a-0")).map(|node| &**node), Some("n1"), "it is ended there");
    world.answer("a-0", "n1", Known::Ended(AttemptEnd::Killed));
    world.tells(&[("a-0", Known::Ended(AttemptEnd::Killed))]);
    assert_eq!(world.table.acknowledged(&id("a-0")).as_deref(), Some("n1"));
}

/// That nobody waits for it is told until it is so in the state; then only its node has something to tell.
#[test]
fn silence_is_told_of_a_task_until_it_is_given_up() {
    let lost = || Known::GivenUp { message: LOST.into() };
    let mut world = World::watching(&[("a-0", "n1")]);
    for _ in 0..2 {
        world.asks(&["n1: a-0"]).answer("a-0", "n1", lost()).tells(&[("a-0", lost())]);
    }
    world.given_up("a-0", "n1").asks(&["n1: a-0"]).answer("a-0", "n1", Known::Unknown);
    world.tells(&[("a-0", Known::Unknown)]).answer("a-0", "n1", Known::Unknown).tells(&[]);
    world.answer("a-0", "n1", ended()).tells(&[("a-0", ended())]);
}

/// The state says what former leaders have given up.
#[test]
fn what_was_given_up_in_another_term_is_asked_for_where_it_was() {
    let mut world = World::watching(&[("a-0", "n1")]);
    world.given_up("a-0", "n1").table.begin_term();
    world.asks(&[]).note("a-0", "n2", Known::Running).asks(&[]);
    world.note("a-0", "n1", Known::Unknown).asks(&["n1: a-0"]);
    world.answer("a-0", "n1", Known::Running).tells(&[("a-0", Known::Running)]);
    assert_eq!(world.table.node_of(&id("a-0")).map(|node| &**node), Some("n1"), "it is ended there");
}

#[test]
fn news_wait_until_they_are_taken() {
    let names: Vec<String> = (0..1000).map(|i| format!("t{i:03}-0")).collect();
    let tasks: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "n1")).collect();
    let mut world = World::watching(&tasks);
    let mut told = Vec::new();
    for round in 0..4 {
        // Repeated in each round, which neither crowds out nor overtakes what waits.
        for name in names.iter().skip(round * 250) {
            world.answer(name, "n1", Known::Unknown);
        }
        let events = world.table.take(250, |task| World::place(&world.places, task));
        told.extend(events.into_iter().map(|event| event.task.to_string()));
    }
    assert_eq!(told, names);
    assert!(!world.table.has_news());
    // What is told is what is known by then.
    world.answer("t000-0", "n1", Known::Running).answer("t000-0", "n1", ended());
    world.tells(&[("t000-0", ended())]);
}

#[test]
fn a_node_that_takes_long_to_answer_is_asked_once_and_keeps_no_other_waiting() {
    let mut world = World::watching(&[("a-0", "n1"), ("b-0", "n2")]);
    let asked = world.table.questions(|task| World::place(&world.places, task));
    assert_eq!(asked.len(), 2);
    world.table.has_been_asked("n2");
    world.asks(&["n2: b-0"]);
    world.table.has_been_asked("n1");
    world.asks(&["n1: a-0", "n2: b-0"]);
}

#[test]
fn who_did_not_answer_is_left_alone_for_a_moment() {
    let mut table = Table::default();
    assert!(!table.leaves_alone("n1", at(0)));
    table.falls_silent(&"n1".into(), at(0));
    assert!(table.leaves_alone("n1", at(0)) && !table.leaves_alone("n2", at(0)));
    assert!(!table.leaves_alone("n1", at(0) + SILENT_FOR));
}

#[test]
fn another_term_asks_anew_and_knows_what_an_operator_said() {
    let mut world = World::watching(&[("a-0", "n1")]);
    world.answer("a-0", "n1", Known::Unknown);
    world.table.forget("n2", at(0));
    world.table.begin_term();
    world.tells(&[]).asks(&[]);
    assert!(world.table.is_forgotten("n2"));
}

#[test]
fn who_is_heard_of_after_it_was_forgotten_has_come_back() {
    let mut table = Table::default();
    table.forget("n1", at(0));
    table.forget("n2", at(0));
    assert!(table.leaves_alone("n1", at(0)), "nobody is there to be asked");
    // It was silent for a while when it was forgotten.
    for seconds in [0, 1, 60] {
        table.heard([("n1", Duration::from_secs(12 + seconds))].into_iter(), at(seconds));
        assert!(table.is_forgotten("n1"), "{seconds}");
    }
    // Once is enough, however long ago that is by now.
    table.heard([("n1", Duration::from_secs(40))].into_iter(), at(61));
    assert!(!table.is_forgotten("n1") && table.is_forgotten("n2"));
    table.is_settled("n2");
    assert!(!table.is_forgotten("n2"));
}

#[test]
fn what_silence_says_of_a_task() {
    let said = |silence: Silence, place: &Place| match silence.known("n1", place) {
        Known::GivenUp { message } => {
            assert!(message.starts_with("node n1: "), "{message}");
            LOST
        }
        Known::Unknown => "open",
        known => panic!("{known:?}"),
    };
    let there = |contained| Place::There { node: "n1".into(), contained };
    for (silence, process, container) in [
        (Silence::Open, "open", "open"),
        // Containers outlive their server; nobody ends them.
        (Silence::CutOff, LOST, "open"),
        (Silence::Forgotten, LOST, LOST),
    ] {
        let found = (said(silence, &there(false)), said(silence, &there(true)));
        assert_eq!(found, (process, container), "{silence:?}");
        // Nobody waits for it.
        for place in [Place::GivenUp { node: "n1".into() }, Place::Nowhere] {
            assert_eq!(said(silence, &place), "open", "{silence:?}, {place:?}");
        }
    }
}
