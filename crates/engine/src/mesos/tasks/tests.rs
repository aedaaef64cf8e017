//! Tables: what is told and called for, event by event.

use serde_json::json;

use super::*;
use crate::Thousandths;
use crate::mesos::wire::Event;

const MANNERS: Manners = Manners {
    decline_for: Duration::from_secs(300),
    revive_every: Duration::from_secs(5),
    reconcile_every: Duration::from_secs(600),
    share: Share { cpus: Some(Thousandths(1000)), mem: None, disk: None },
    kill_grace: Duration::from_secs(3),
    old_tasks: OldTasks::Keep,
};

/// A table, a clock, and what has come of it in short words.
struct World {
    table: Table,
    now: Duration,
    /// Tasks of the last ACCEPT.
    accepted: Vec<TaskId>,
}

impl World {
    fn new() -> Self {
        Self { table: Table::new(MANNERS), now: Duration::from_secs(1000), accepted: Vec::new() }
    }

    /// Subscribed, with nothing left to say.
    fn subscribed() -> Self {
        let mut world = Self::new();
        world.table.subscribed(world.now, "F");
        world.table.take();
        world
    }

    fn wait(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self.table.tick(self.now);
        self
    }

    fn launch(&mut self, name: &str) -> &mut Self {
        self.table.launch(self.now, &id(name), Arc::new(TaskSpec::default()));
        self
    }

    /// An offer of so many processors, of an agent.
    fn offer(&mut self, offer: &str, agent: &str, cpus: f64) -> &mut Self {
        let told = json!({"type": "OFFERS", "offers": {"offers": [{
            "id": {"value": offer}, "agent_id": {"value": agent}, "hostname": agent,
            "url": {"scheme": "http", "address": {"hostname": agent, "port": 1}},
            "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": cpus}}],
        }]}});
        let Ok(Event::Offers(offers)) = Event::read(told.to_string().as_bytes(), self.now) else {
            panic!("{told}")
        };
        self.table.offers(self.now, offers);
        self
    }

    fn go(&mut self, name: &str, node: &str) -> &mut Self {
        self.table.go_ahead(self.now, &id(name), node, self.now + Duration::from_secs(10));
        self
    }

    fn kill(&mut self, name: &str) -> &mut Self {
        self.table.kill(self.now, &id(name), Duration::from_secs(3));
        self
    }

    fn update(&mut self, name: &str, state: &str, uuid: &str) -> &mut Self {
        self.say(name, state, uuid, "")
    }

    /// As the answer to a question.
    fn answer(&mut self, name: &str, state: &str) -> &mut Self {
        self.say(name, state, "", "REASON_RECONCILIATION")
    }

    fn say(&mut self, name: &str, state: &str, uuid: &str, reason: &str) -> &mut Self {
        let message = if state == "TASK_ERROR" { "Task has duplicate ID" } else { "" };
        let status = json!({
            "task_id": {"value": name}, "agent_id": {"value": "A"}, "state": state, "uuid": uuid,
            "reason": reason, "message": message,
        });
        self.table.update(self.now, serde_json::from_value(status).expect("a status"));
        self
    }

    /// A task that runs, as launched in this term.
    fn running(name: &str) -> Self {
        let mut world = Self::subscribed();
        world.launch(name).offer("o", "A", 1.0).go(name, &node("A"));
        world.table.take();
        world.update(name, "TASK_RUNNING", "");
        world.table.take();
        world
    }

    #[track_caller]
    fn check(&mut self, expected: &[&str]) -> &mut Self {
        assert!(self.table.tasks.is_whole());
        let acts = self.table.take();
        let told: Vec<String> = acts.iter().map(|act| self.short(act)).collect();
        assert_eq!(told, expected);
        self
    }

    fn short(&mut self, act: &Act) -> String {
        let names = |tasks: &[TaskId]| tasks.iter().map(TaskId::to_string).collect::<Vec<_>>().join(" ");
        match act {
            Act::Tell(TaskEvent { task, known }) => match known {
                Known::Placed { node } => format!("{task} at {node}"),
                Known::Ended(AttemptEnd::Lost { .. }) => format!("{task} lost"),
                Known::Ended(AttemptEnd::Failed { .. }) => format!("{task} failed"),
                known => format!("{task} {known:?}"),
            },
            Act::Accept { tasks, call: Call::Accept { offers, .. }, .. } => {
                self.accepted.clone_from(tasks);
                format!("ACCEPT {}: {}", offers.join(" "), names(tasks))
            }
            Act::Call(call) => match call {
                Call::Decline { offers, refuse } => {
                    format!("DECLINE {} {}", offers.join(" "), refuse.as_secs())
                }
                Call::Kill { task, agent, .. } => format!("KILL {task} {agent}"),
                Call::Reconcile { tasks } if tasks.is_empty() => "RECONCILE all".into(),
                Call::Reconcile { tasks } => {
                    let one = |(task, agent): &(String, Option<String>)| {
                        format!("{task}@{}", agent.as_deref().unwrap_or("?"))
                    };
                    format!("RECONCILE {}", tasks.iter().map(one).collect::<Vec<_>>().join(" "))
                }
                Call::Acknowledge { task, uuid, .. } => format!("ACKNOWLEDGE {task} {uuid}"),
                Call::Revive => "REVIVE".into(),
                Call::Suppress => "SUPPRESS".into(),
                Call::Accept { .. } => "an ACCEPT without its tasks".into(),
            },
            Act::Accept { .. } => "an ACCEPT that is none".into(),
        }
    }

    fn known(&self, name: &str) -> Option<Known> {
        self.table.known(&id(name))
    }
}

fn id(name: &str) -> TaskId {
    TaskId::parse(name).expect("a task id")
}

fn node(agent: &str) -> String {
    format!("mesos://{agent}:1/{agent}/F")
}

fn place(agent: &str) -> Place {
    node(agent).parse().expect("a place")
}

#[test]
fn a_task_goes_from_the_queue_to_its_end() {
    let mut world = World::subscribed();
    world.launch("a").check(&[]);
    assert_eq!(world.known("a"), Some(Known::Waiting));
    world.offer("o1", "A", 1.0).check(&["a at mesos://A:1/A/F"]);
    world.go("a", &node("A")).check(&["ACCEPT o1: a"]);
    assert_eq!(world.known("a"), Some(Known::Waiting));
    world.table.accepted(&[id("a")]);
    world.update("a", "TASK_STARTING", "u1").check(&["ACKNOWLEDGE a u1", "a Running"]);
    world.update("a", "TASK_RUNNING", "u2").check(&["ACKNOWLEDGE a u2"]);
    world.update("a", "TASK_FINISHED", "u3").check(&["a Ended(Succeeded)"]);
    world.table.acknowledge(&id("a"));
    world.check(&["ACKNOWLEDGE a u3"]);
    world.table.acknowledge(&id("a"));
    // Told again, because the acknowledgement was lost.
    world.update("a", "TASK_FINISHED", "u3").check(&["ACKNOWLEDGE a u3"]);
    assert_eq!(world.known("a"), Some(Known::Ended(AttemptEnd::Succeeded)));
}

#[test]
fn an_end_is_told_until_it_is_acknowledged() {
    let mut world = World::running("a");
    world.update("a", "TASK_FINISHED", "u").check(&["a Ended(Succeeded)"]);
    world.update("a", "TASK_FINISHED", "u").check(&["a Ended(Succeeded)"]);
    world.table.begin_term();
    world.check(&["a Ended(Succeeded)"]);
    world.table.acknowledge(&id("a"));
    world.check(&["ACKNOWLEDGE a u"]);
    world.table.begin_term();
    world.check(&[]);
}

/// The master tells it first, as an answer, and the agent later, to be acknowledged.
#[test]
fn an_end_that_was_asked_for_is_acknowledged_when_its_agent_tells_it() {
    for durable_first in [true, false] {
        let mut world = World::running("a");
        world.answer("a", "TASK_FINISHED").check(&["a Ended(Succeeded)"]);
        if durable_first {
            world.table.acknowledge(&id("a"));
            world.check(&[]).update("a", "TASK_FINISHED", "u").check(&["ACKNOWLEDGE a u"]);
        } else {
            world.update("a", "TASK_FINISHED", "u").check(&[]);
            world.table.acknowledge(&id("a"));
            world.check(&["ACKNOWLEDGE a u"]);
        }
    }
}

#[test]
fn tasks_of_one_offer_go_together() {
    let mut world = World::subscribed();
    world.launch("a").launch("b").launch("c").offer("o1", "A", 2.0).offer("o2", "B", 9.0);
    world.check(&["a at mesos://A:1/A/F", "b at mesos://A:1/A/F", "c at mesos://B:1/B/F"]);
    world.go("a", &node("A")).check(&[]);
    // Closed: what is launched now goes elsewhere.
    world.launch("d").check(&["d at mesos://B:1/B/F"]);
    world.go("b", &node("A")).check(&["ACCEPT o1: a b"]);
    world.go("d", &node("B")).check(&[]).go("c", &node("B")).check(&["ACCEPT o2: c d"]);
}

#[test]
fn several_offers_of_one_agent_are_accepted_as_one() {
    let mut world = World::subscribed();
    world.launch("a").offer("o1", "A", 0.5).check(&["DECLINE o1 300"]);
    let mut world = World::subscribed();
    world.launch("x").offer("o0", "B", 1.0).go("x", &node("B"));
    world.table.take();
    // Kept, as there was work a moment ago.
    world.offer("o1", "A", 0.5).offer("o2", "A", 0.5).launch("a").check(&["a at mesos://A:1/A/F"]);
    world.go("a", &node("A")).check(&["ACCEPT o1 o2: a"]);
}

#[test]
fn who_is_late_does_not_keep_the_others() {
    let mut world = World::subscribed();
    world.launch("a").launch("b").offer("o1", "A", 2.0);
    world.check(&["a at mesos://A:1/A/F", "b at mesos://A:1/A/F"]);
    world.go("a", &node("A")).wait(1).check(&[]);
    world.wait(1).check(&["ACCEPT o1: a"]);
    // Its go-ahead comes when the place is gone; the next place has another name.
    world.go("b", &node("A")).check(&[]);
    world.offer("o2", "A", 1.0).check(&["b at mesos://A:1/A/F#1"]);
    world.go("b", &node("A")).check(&[]);
    world.go("b", &format!("{}#1", node("A"))).check(&["ACCEPT o2: b"]);
}

#[test]
fn a_place_is_held_for_a_while() {
    let mut world = World::subscribed();
    world.launch("a").offer("o1", "A", 1.0).check(&["a at mesos://A:1/A/F"]);
    world.wait(14).check(&[]);
    world.wait(1).check(&["a at mesos://A:1/A/F#1"]);
}

#[test]
fn a_go_ahead_that_is_stale_sends_nothing() {
    let mut world = World::subscribed();
    world.launch("a").launch("b").offer("o1", "A", 2.0);
    world.table.take();
    let soon = world.now + Duration::from_secs(1);
    world.table.go_ahead(world.now, &id("a"), &node("A"), soon);
    world.now += Duration::from_secs(2);
    world.go("b", &node("A")).check(&["ACCEPT o1: b"]);
    assert_eq!(world.known("a"), Some(Known::Waiting));
}

#[test]
fn a_rescinded_offer_holds_nothing() {
    let mut world = World::subscribed();
    world.launch("a").launch("b").offer("o1", "A", 2.0).go("a", &node("A"));
    world.table.take();
    world.table.rescind(world.now, "o1");
    world.go("b", &node("A")).check(&[]);
    world.offer("o2", "B", 2.0).check(&["a at mesos://B:1/B/F#1", "b at mesos://B:1/B/F#1"]);
    world.table.rescind(world.now, "unheard of");
    world.check(&[]);
}

#[test]
fn without_a_master_everything_waits_and_is_placed_anew() {
    let mut world = World::subscribed();
    world.launch("a").launch("b").launch("c").offer("o1", "A", 1.0).go("a", &node("A")).offer("o2", "A", 1.0);
    world.table.take();
    world.table.unsubscribed();
    // What was sent and not answered may have arrived: it is asked for, and not sent again.
    world.go("b", &node("A")).wait(60).check(&[]);
    world.table.subscribed(world.now, "F");
    world.check(&["RECONCILE a@A", "RECONCILE all"]);
    world.offer("o3", "A", 2.0).check(&["b at mesos://A:1/A/F#1", "c at mesos://A:1/A/F"]);
    world.answer("a", "TASK_GONE").check(&["a lost"]);
}

#[test]
fn what_the_master_has_refused_waits_again_or_has_failed() {
    let mut world = World::subscribed();
    world.launch("a").offer("o1", "A", 1.0).go("a", &node("A"));
    world.table.take();
    world.table.not_accepted(world.now, &[id("a")], None);
    world.offer("o2", "B", 1.0).check(&["a at mesos://B:1/B/F#1"]);
    world.go("a", &format!("{}#1", node("B"))).check(&["ACCEPT o2: a"]);
    world.table.not_accepted(world.now, &[id("a")], Some("no such thing"));
    world.check(&["a failed"]);
}

#[test]
fn a_dropped_task_never_began() {
    let mut world = World::subscribed();
    world.launch("a").offer("o1", "A", 1.0).go("a", &node("A"));
    world.table.take();
    world.update("a", "TASK_DROPPED", "u").check(&["ACKNOWLEDGE a u", "a NeverBegan"]);
    assert_eq!(world.known("a"), Some(Known::NeverBegan));
    // Repeated, because the acknowledgement was late: it is not told again, as it may be launched again by then.
    world.update("a", "TASK_DROPPED", "u").check(&["ACKNOWLEDGE a u"]);
    // Launched again it has places of other names: an order for the first is none for the second.
    world.launch("a").offer("o2", "A", 1.0).check(&["a at mesos://A:1/A/F#1"]);
    world.update("a", "TASK_DROPPED", "u").check(&["ACKNOWLEDGE a u"]);
}

/// What an agent repeats of the first time says nothing of the second: the task would begin twice.
#[test]
fn what_was_dropped_before_is_on_its_way_all_the_same() {
    let mut world = World::subscribed();
    world.launch("a").offer("o1", "A", 1.0).go("a", &node("A"));
    world.update("a", "TASK_DROPPED", "u");
    world.launch("a").offer("o2", "A", 1.0).go("a", &format!("{}#1", node("A")));
    world.table.take();
    world.update("a", "TASK_DROPPED", "u").check(&["ACKNOWLEDGE a u"]);
    assert_eq!(world.known("a"), Some(Known::Waiting));
    // It may be dropped a second time.
    world.update("a", "TASK_DROPPED", "v").check(&["ACKNOWLEDGE a v", "a NeverBegan"]);
    // Of what another agent says that it dropped, this one knows better.
    world.launch("a").offer("o3", "B", 1.0).go("a", &format!("{}#2", node("B")));
    world.table.take();
    world.update("a", "TASK_DROPPED", "w").check(&["ACKNOWLEDGE a w"]);
    assert_eq!(world.known("a"), Some(Known::Waiting));
}

#[test]
fn a_task_that_waits_is_killed_without_mesos() {
    let mut world = World::subscribed();
    world.launch("a").kill("a").check(&["a Ended(Killed)"]);
    world.launch("b").launch("c").offer("o1", "A", 2.0).go("c", &node("A"));
    world.table.take();
    world.kill("b").check(&["b Ended(Killed)", "ACCEPT o1: c"]);
    world.go("b", &node("A")).check(&[]);
}

#[test]
fn a_kill_is_repeated_until_the_task_ends() {
    let mut world = World::running("a");
    world.kill("a").check(&["KILL a A"]);
    world.wait(9).check(&["SUPPRESS"]).wait(1).check(&["KILL a A"]);
    world.table.unsubscribed();
    world.wait(20).check(&[]);
    world.table.subscribed(world.now, "F");
    world.check(&["RECONCILE a@A", "RECONCILE all", "KILL a A"]);
    world.update("a", "TASK_KILLED", "u").check(&["a Ended(Killed)", "SUPPRESS"]);
    world.wait(20).check(&[]);
}

#[test]
fn an_agent_that_is_away_comes_back_or_not() {
    let mut world = World::running("a");
    world.update("a", "TASK_UNREACHABLE", "").check(&["a Unknown"]);
    world.update("a", "TASK_UNREACHABLE", "").check(&[]);
    world.wait(14).check(&["SUPPRESS"]).wait(1).check(&["RECONCILE a@A"]);
    world.update("a", "TASK_RUNNING", "").check(&["a Running"]);
    world.update("a", "TASK_GONE_BY_OPERATOR", "").check(&["a lost"]);
}

#[test]
fn what_somebody_else_sent_is_asked_for_where_it_is() {
    let mut world = World::new();
    world.table.ask(&id("a"), &place("A"));
    world.table.ask(&id("b"), &place("B"));
    world.table.ask_due(world.now);
    world.check(&[]);
    assert_eq!(world.known("a"), Some(Known::Unknown));
    world.table.subscribed(world.now, "F");
    world.check(&["RECONCILE a@A b@B", "RECONCILE all"]);
    world.answer("a", "TASK_RUNNING").check(&["a Running"]);
    // One agent has not come back to its master yet.
    world.wait(15).check(&["RECONCILE b@B", "SUPPRESS"]);
    world.answer("b", "TASK_GONE").check(&["b lost"]);
    world.kill("a").check(&["KILL a A"]);
}

#[test]
fn all_tasks_are_asked_for_now_and_then() {
    let mut world = World::running("a");
    world.launch("b").offer("o", "A", 1.0).go("b", &node("A"));
    world.table.take();
    // What is on its way is not asked for: the question might overtake it.
    world.wait(600).check(&["RECONCILE a@A", "SUPPRESS"]);
    world.table.accepted(&[id("b")]);
    world.wait(1).check(&["RECONCILE b@A"]);
}

#[test]
fn a_task_that_nobody_knows_is_told_of() {
    let mut world = World::subscribed();
    world.update("stray", "TASK_RUNNING", "u").check(&["ACKNOWLEDGE stray u", "stray Running"]);
    world.kill("stray").check(&["KILL stray A"]);
    // Neither is there anything to tell of what is nowhere, nor of names that are not ours.
    for state in ["TASK_UNKNOWN", "TASK_GONE", "TASK_LOST"] {
        world.answer("nowhere", state).check(&[]);
    }
    world.table.ask_for_stray(&id("other"));
    world.check(&["RECONCILE other@?"]);
}

/// A leader that has just begun launches what it wants; of the rest it is told, and ends it.
#[test]
fn a_task_that_is_found_is_first_left_to_whoever_wants_it() {
    let mut world = World::subscribed();
    for name in ["wanted-0", "stray-0", "over-0"] {
        world.answer(name, "TASK_RUNNING").check(&[]);
    }
    let spec = Arc::new(TaskSpec::default());
    assert_eq!(world.table.launch(world.now, &id("wanted-0"), spec), Known::Running);
    world.update("over-0", "TASK_FINISHED", "u").check(&["over-0 Ended(Succeeded)", "SUPPRESS"]);
    world.wait(9).check(&[]);
    world.wait(1).check(&["wanted-0 Running", "stray-0 Running"]);
    world.kill("stray-0").check(&["KILL stray-0 A"]);
}

#[test]
fn what_an_old_chronos_began_runs_to_its_end_or_is_ended() {
    let old = "ct:1893456000000:0:report:";
    let acknowledged = format!("ACKNOWLEDGE {old} u");
    let mut world = World::subscribed();
    world.update(old, "TASK_RUNNING", "u").check(&[&acknowledged]);
    world.wait(60).check(&["SUPPRESS"]);
    let notes = world.table.notes();
    assert!(matches!(&notes[..], [note] if note.contains(old) && note.contains("1 task ")), "{notes:?}");
    world.update(old, "TASK_FINISHED", "u").check(&[&acknowledged]);
    assert_eq!(world.table.notes(), Vec::<String>::new());

    let mut world = World::subscribed();
    world.table.manners.old_tasks = OldTasks::Kill;
    let killed = format!("KILL {old} A");
    world.answer(old, "TASK_RUNNING").check(&[&killed]);
    world.answer(old, "TASK_RUNNING").check(&[]).wait(10).check(&[&killed, "SUPPRESS"]);
    assert!(world.table.notes()[0].contains(old));
    world.update(old, "TASK_KILLED", "u").check(&[&acknowledged]).wait(60).check(&[]);
    // Ours are for the node to say something about.
    world.update("ours-0", "TASK_RUNNING", "").check(&["ours-0 Running"]);
}

#[test]
fn what_has_not_begun_is_not_lost_by_an_answer_about_former_times() {
    let mut world = World::subscribed();
    world.launch("a").answer("a", "TASK_GONE").check(&[]);
    world.offer("o1", "A", 1.0).check(&["a at mesos://A:1/A/F"]);
    world.answer("a", "TASK_LOST").check(&[]).go("a", &node("A")).check(&["ACCEPT o1: a"]);
    world.answer("a", "TASK_GONE").check(&[]);
    world.update("a", "TASK_LOST", "u").check(&["a lost"]);
}

#[test]
fn of_a_second_task_of_the_same_name_the_first_is_asked_for() {
    let mut world = World::subscribed();
    world.launch("a").offer("o1", "A", 1.0).go("a", &node("A"));
    world.table.take();
    world.update("a", "TASK_ERROR", "").check(&["a Unknown", "RECONCILE a@?"]);
}

#[test]
fn a_new_term_begins_without_what_was_not_sent() {
    let mut world = World::running("a");
    world.launch("b").launch("c").offer("o", "A", 1.0);
    world.table.take();
    world.table.begin_term();
    world.go("b", &node("A")).check(&[]);
    assert_eq!((world.known("a"), world.known("b"), world.known("c")), (None, None, None));
    world.table.subscribed(world.now, "F");
    world.offer("o2", "A", 9.0).wait(6).check(&["RECONCILE all", "DECLINE o2 300", "SUPPRESS"]);
}

#[test]
fn a_removed_framework_takes_its_tasks_along() {
    let mut world = World::running("a");
    world.launch("b");
    world.table.unsubscribed();
    world.table.framework_removed();
    world.check(&["a lost"]);
    world.table.subscribed(world.now, "G");
    world.offer("o", "A", 1.0).check(&["RECONCILE all", "b at mesos://A:1/A/G"]);
}

#[test]
fn who_has_nothing_to_do_declines_and_wants_nothing_more() {
    let mut world = World::subscribed();
    world.offer("o1", "A", 4.0).check(&["DECLINE o1 300", "SUPPRESS"]);
    world.wait(60).check(&[]);
    world.launch("a").check(&["REVIVE"]);
    world.offer("o2", "A", 4.0).check(&["a at mesos://A:1/A/F"]);
    world.go("a", &node("A")).check(&["ACCEPT o2: a"]);
    // More may come: some of what is there is kept, and the rest is for others.
    for offer in ["o3", "o4", "o5", "o6"] {
        world.offer(offer, offer, 4.0).check(&[]);
    }
    world.offer("o7", "o7", 4.0);
    assert!(
        matches!(&world.table.take()[..], [Act::Call(Call::Decline { offers, .. })] if offers.len() == 1)
    );
    world.wait(4).check(&[]);
    world.wait(1);
    let acts = world.table.take();
    assert!(
        matches!(&acts[..], [Act::Call(Call::Decline { offers, .. }), Act::Call(Call::Suppress)] if offers.len() == 4),
        "{acts:?}"
    );
}

#[test]
fn offers_are_asked_for_only_so_often() {
    let mut world = World::subscribed();
    world.wait(1).check(&["SUPPRESS"]);
    world.launch("a").check(&["REVIVE"]).offer("o1", "A", 0.5).check(&["DECLINE o1 300"]);
    world.launch("b").check(&[]);
    world.wait(4).check(&[]).wait(1).check(&["REVIVE"]);
    // Nothing new waits: what was declined is asked for again, but seldom.
    world.offer("o2", "A", 0.5).check(&["DECLINE o2 300"]);
    world.wait(59).check(&[]).wait(1).check(&["REVIVE"]);
}

#[test]
fn one_task_that_fits_nowhere_keeps_nobody() {
    let mut world = World::subscribed();
    let share = Share { cpus: Some(Thousandths(99_000)), ..Share::default() };
    world.table.launch(world.now, &id("large"), Arc::new(TaskSpec { share, ..TaskSpec::default() }));
    world.launch("a").offer("o1", "A", 1.0).check(&["a at mesos://A:1/A/F"]);
    let why = world.table.waits_for(&id("large"));
    assert!(why[0].contains("99 cpus"), "{why:?}");
    assert!(world.table.waits_for(&id("a"))[0].contains("agent A"));
}

#[test]
fn a_pattern_that_is_none_fails_its_task() {
    let mut world = World::subscribed();
    let constraint =
        crate::Constraint { attribute: "rack".into(), operator: crate::Operator::Like, value: "(".into() };
    let spec = TaskSpec { constraints: vec![constraint], ..TaskSpec::default() };
    let known = world.table.launch(world.now, &id("a"), Arc::new(spec));
    assert!(matches!(known, Known::Ended(AttemptEnd::Failed { .. })), "{known:?}");
    world.check(&["a failed", "SUPPRESS"]);
}

#[test]
fn only_so_many_ends_are_remembered() {
    let mut world = World::subscribed();
    for n in 0..=ENDED_MAX {
        let name = format!("t-{n}");
        world.launch(&name).kill(&name);
        world.table.acknowledge(&id(&name));
    }
    assert_eq!(world.known("t-0"), None);
    assert_eq!(
        (world.known("t-1"), world.table.tasks.len()),
        (Some(Known::Ended(AttemptEnd::Killed)), ENDED_MAX)
    );
}
