//! What every engine must do, as tests: one suite for the contract, one for engines that run real processes.
//!
//! An engine brings a [`Lab`] and calls [`contract_tests!`](crate::contract_tests) and, where its tasks are processes,
//! [`process_tests!`](crate::process_tests). Every case gets a lab of its own, as if new.

mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;

use crate::{Engine, EngineError, Known, Launch, Output, Readiness, Stream, TaskSpec, since_boot};

pub use self::node::{MemoryForTests, WithNode};

/// Longest wait for something that must happen: far beyond what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// A grace that no test waits for.
const LONG: Duration = Duration::from_secs(3600);

/// A backing on which engines can be opened: what stays when a server goes.
#[async_trait]
pub trait Lab: Send + Sync {
    /// Opens a handle, as a server does when it starts.
    async fn open(&self) -> Box<dyn Engine>;
    /// A shell command that first counts its start, so that [`Lab::starts`] knows, and then does `command`.
    /// Commands of the contract suite are `true`, `exit 3` and `sleep 1000`.
    fn command(&self, command: &str) -> String;
    /// How often the task really started.
    fn starts(&self, task: &TaskId) -> usize;
    /// Ends and restarts the backing itself (not its tasks' records), where it can be; tasks may be lost.
    async fn restart(&self);
    /// A folder of the lab that tasks can write to.
    fn scratch(&self) -> PathBuf;
    /// How many tasks are many: as many as take some seconds.
    fn many(&self) -> usize {
        300
    }
}

/// Makes a test of every case of the contract. `$lab` is an expression that makes a [`Lab`], evaluated in each.
#[macro_export]
macro_rules! contract_tests {
    ($lab:expr) => {
        $crate::conformance_cases!($lab, contract:
            a_task_runs_once_and_ends, a_failure_has_its_exit_status, a_known_id_starts_nothing,
            an_older_epoch_is_refused, epochs_survive_a_restart, unknown_ids_never_began,
            a_late_order_is_refused, ends_repeat_until_acknowledged, a_term_hears_all_open_ends,
            a_term_that_is_over_leaves_its_tasks, kill_ends_a_task, killing_what_does_not_run_is_fine, reconcile_keeps_the_order,
            a_launch_before_the_term_is_refused, output_of_the_unknown_is_none, many_tasks_at_once);
    };
}

/// Makes a test of every case for engines whose tasks are processes that `/bin/sh` starts.
#[macro_export]
macro_rules! process_tests {
    ($lab:expr) => {
        $crate::conformance_cases!($lab, processes:
            a_missing_program_is_a_failure, arguments_are_never_pasted, environment_is_given,
            output_is_raw_and_read_by_offset, output_keeps_head_and_tail, output_can_be_followed,
            gigabytes_of_output_are_dropped, term_comes_first, kill_takes_those_who_refuse,
            kill_takes_what_left_its_group, nothing_outlives_its_task, an_open_pipe_does_not_delay_the_end,
            a_signal_is_told, a_fork_bomb_is_ended, a_task_has_clean_descriptors, a_restart_loses_no_end);
    };
}

/// The body of the two above.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($lab:expr, $module:ident: $($case:ident),+) => {
        $(#[tokio::test]
        async fn $case() {
            let lab = $lab;
            $crate::conformance::$module::$case(&lab).await;
        })+
    };
}

/// An id for tests.
/// # Panics
/// If the text is none.
pub fn task(text: &str) -> TaskId {
    TaskId::parse(text).expect("ids of tests are written well")
}

/// An order to run a shell command, good for a long time.
pub fn order(id: &str, command: impl Into<String>) -> Launch {
    let spec =
        TaskSpec { command: command.into(), shell: true, output_max: 64 * 1024, ..TaskSpec::default() };
    Launch { task: task(id), spec: Arc::new(spec), not_after: since_boot() + LONG }
}

/// Waits for the ends of these tasks, without acknowledging them.
/// # Panics
/// If none comes for [`PATIENCE`] while some are missing.
pub async fn ends_of(engine: &dyn Engine, ids: &[&str]) -> Vec<AttemptEnd> {
    let mut wanted: BTreeSet<TaskId> = ids.iter().map(|id| task(id)).collect();
    let mut ends = BTreeMap::new();
    while !wanted.is_empty() {
        let next = async {
            loop {
                let missing = wanted.len();
                for event in engine.events().await {
                    if let Known::Ended(end) = event.known {
                        wanted.remove(&event.task);
                        ends.insert(event.task, end);
                    }
                }
                if wanted.len() < missing {
                    return;
                }
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, next).await;
        assert!(outcome.is_ok(), "no end of {wanted:?} for {PATIENCE:?}; heard {ends:?}");
    }
    ids.iter().map(|id| ends[&task(id)].clone()).collect()
}

/// Waits until `holds` does.
/// # Panics
/// If it does not in time.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not after {PATIENCE:?}: {what}");
}

/// Reads a whole output from `offset` on, until it is complete: the kept bytes and what was dropped.
/// # Panics
/// If it is not complete in time, or goes backwards.
pub async fn read_all(engine: &dyn Engine, id: &TaskId, stream: Stream, offset: u64) -> Output {
    let mut all = Output { next: offset, ..Output::default() };
    let reading = async {
        loop {
            let piece = engine.output(id, stream, all.next).await.expect("the output is there");
            assert!(piece.next >= all.next + piece.bytes.len() as u64, "{piece:?} after {}", all.next);
            let idle = piece.bytes.is_empty();
            all.bytes.extend(piece.bytes);
            (all.next, all.dropped, all.complete) = (piece.next, piece.dropped, piece.complete);
            if all.complete {
                return;
            }
            if idle {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reading).await.is_ok(), "{id}: output not complete");
    all
}

/// Opens the lab in its first term.
async fn first_term(lab: &dyn Lab) -> Box<dyn Engine> {
    let engine = lab.open().await;
    engine.begin_term(Epoch(1)).await.expect("the first term begins");
    engine
}

/// What every engine does.
pub mod contract {
    use super::*;

    /// The plain case.
    pub async fn a_task_runs_once_and_ends(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        assert_eq!(engine.readiness(), Readiness::Ready);
        let known = engine.launch(Epoch(1), order("one-0", lab.command("true"))).await.expect("launched");
        assert!(matches!(known, Known::Running | Known::Ended(AttemptEnd::Succeeded)), "{known:?}");
        assert_eq!(ends_of(&*engine, &["one-0"]).await, [AttemptEnd::Succeeded]);
        assert_eq!(lab.starts(&task("one-0")), 1);
    }

    /// Exit statuses are told as they are.
    pub async fn a_failure_has_its_exit_status(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        engine.launch(Epoch(1), order("bad-0", lab.command("exit 3"))).await.expect("launched");
        let ends = ends_of(&*engine, &["bad-0"]).await;
        assert!(matches!(&ends[..], [AttemptEnd::Failed { exit: Some(3), signal: None, .. }]), "{ends:?}");
    }

    /// The same id is answered with what is known: while it runs, after its end, after the acknowledgement, after a
    /// restart of the server and one of the engine, by a later epoch.
    pub async fn a_known_id_starts_nothing(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        let (long, short) = (task("long-0"), task("short-0"));
        let run = || order("long-0", lab.command("sleep 1000"));
        let end = || order("short-0", lab.command("true"));
        let ended = Known::Ended(AttemptEnd::Succeeded);
        assert_eq!(engine.launch(Epoch(1), run()).await, Ok(Known::Running));
        assert_eq!(engine.launch(Epoch(1), run()).await, Ok(Known::Running));
        engine.launch(Epoch(1), end()).await.expect("launched");
        ends_of(&*engine, &["short-0"]).await;
        assert_eq!(engine.launch(Epoch(1), end()).await, Ok(ended.clone()));
        engine.acknowledge(std::slice::from_ref(&short)).await.expect("acknowledged");
        assert_eq!(engine.launch(Epoch(1), end()).await, Ok(ended.clone()));
        drop(engine);

        let engine = lab.open().await;
        engine.begin_term(Epoch(2)).await.expect("the second term begins");
        assert_eq!(engine.launch(Epoch(2), run()).await, Ok(Known::Running));
        assert_eq!(engine.launch(Epoch(2), end()).await, Ok(ended.clone()));
        // An order that is too late to start anything is still answered with what is known.
        let late = Launch { not_after: Duration::ZERO, ..end() };
        assert_eq!(engine.launch(Epoch(2), late).await, Ok(ended.clone()));
        until("the long task has started", || lab.starts(&long) == 1).await;
        drop(engine);

        lab.restart().await;
        let engine = lab.open().await;
        engine.begin_term(Epoch(3)).await.expect("the third term begins");
        assert_eq!(engine.launch(Epoch(3), end()).await, Ok(ended));
        assert_ne!(engine.launch(Epoch(3), run()).await, Ok(Known::NeverBegan));
        assert_eq!((lab.starts(&long), lab.starts(&short)), (1, 1));
    }

    /// A deposed leader can do nothing, even through a handle that was there first.
    pub async fn an_older_epoch_is_refused(lab: &dyn Lab) {
        let old = first_term(lab).await;
        old.launch(Epoch(1), order("run-0", lab.command("sleep 1000"))).await.expect("launched");
        let new = lab.open().await;
        new.begin_term(Epoch(2)).await.expect("the second term begins");

        let deposed = EngineError::Deposed { ours: Epoch(1), newest: Epoch(2) };
        assert_eq!(old.launch(Epoch(1), order("x-0", lab.command("true"))).await, Err(deposed.clone()));
        let soon = since_boot() + LONG;
        assert_eq!(old.kill(Epoch(1), &task("run-0"), Duration::ZERO, soon).await, Err(deposed.clone()));
        assert_eq!(old.reconcile(Epoch(1), &[task("x-0")]).await, Err(deposed.clone()));
        assert_eq!(old.begin_term(Epoch(1)).await, Err(deposed));
        let known = new.reconcile(Epoch(2), &[task("run-0"), task("x-0")]).await;
        assert_eq!(known, Ok(vec![Known::Running, Known::NeverBegan]));
        assert_eq!(lab.starts(&task("x-0")), 0);
        // The same term may begin again: a server whose first answer was lost asks twice.
        assert_eq!(new.begin_term(Epoch(2)).await, Ok(()));
    }

    /// The highest epoch is on disk, or wherever the engine keeps what it must not forget.
    pub async fn epochs_survive_a_restart(lab: &dyn Lab) {
        let engine = lab.open().await;
        engine.begin_term(Epoch(7)).await.expect("the term begins");
        drop(engine);
        lab.restart().await;
        let engine = lab.open().await;
        let deposed = EngineError::Deposed { ours: Epoch(6), newest: Epoch(7) };
        assert_eq!(engine.begin_term(Epoch(6)).await, Err(deposed.clone()));
        assert_eq!(engine.launch(Epoch(6), order("x-0", lab.command("true"))).await, Err(deposed));
        assert_eq!(engine.begin_term(Epoch(7)).await, Ok(()));
    }

    /// "Never began" is a definite answer, and does not bar the id from being launched.
    pub async fn unknown_ids_never_began(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        assert_eq!(engine.reconcile(Epoch(1), &[task("x-0")]).await, Ok(vec![Known::NeverBegan]));
        engine.launch(Epoch(1), order("x-0", lab.command("true"))).await.expect("launched");
        assert_eq!(ends_of(&*engine, &["x-0"]).await, [AttemptEnd::Succeeded]);
    }

    /// A paused leader's late orders start and end nothing.
    pub async fn a_late_order_is_refused(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        let past = since_boot().saturating_sub(Duration::from_millis(1));
        let late = Launch { not_after: past, ..order("x-0", lab.command("true")) };
        assert_eq!(engine.launch(Epoch(1), late).await, Err(EngineError::TooLate));
        assert_eq!(engine.reconcile(Epoch(1), &[task("x-0")]).await, Ok(vec![Known::NeverBegan]));
        assert_eq!(lab.starts(&task("x-0")), 0);

        engine.launch(Epoch(1), order("run-0", lab.command("sleep 1000"))).await.expect("launched");
        let kill = engine.kill(Epoch(1), &task("run-0"), Duration::ZERO, past).await;
        assert_eq!(kill, Err(EngineError::TooLate));
        assert_eq!(engine.reconcile(Epoch(1), &[task("run-0")]).await, Ok(vec![Known::Running]));
    }

    /// An end is told to every new server until one acknowledges it, and not after.
    pub async fn ends_repeat_until_acknowledged(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        engine.launch(Epoch(1), order("a-0", lab.command("true"))).await.expect("launched");
        engine.launch(Epoch(1), order("b-0", lab.command("exit 3"))).await.expect("launched");
        ends_of(&*engine, &["a-0", "b-0"]).await;
        drop(engine);
        lab.restart().await;

        let engine = lab.open().await;
        // An engine that others share may have to know who asks.
        engine.begin_term(Epoch(1)).await.expect("the first term begins again");
        let ends = ends_of(&*engine, &["a-0", "b-0"]).await;
        assert_eq!(ends[0], AttemptEnd::Succeeded);
        engine.acknowledge(&[task("a-0")]).await.expect("acknowledged");
        // An engine may write an acknowledgement at leisure, and be killed before; but not after what comes behind it.
        engine.launch(Epoch(1), order("d-0", lab.command("true"))).await.expect("launched");
        ends_of(&*engine, &["d-0"]).await;
        drop(engine);
        lab.restart().await;

        let engine = lab.open().await;
        engine.begin_term(Epoch(2)).await.expect("the second term begins");
        engine.launch(Epoch(2), order("c-0", lab.command("true"))).await.expect("launched");
        let mut heard = BTreeSet::new();
        while !(heard.contains("b-0") && heard.contains("c-0")) {
            let events = tokio::time::timeout(PATIENCE, engine.events()).await.expect("b and c are told");
            heard.extend(events.into_iter().map(|event| event.task.to_string()));
        }
        assert!(!heard.contains("a-0"), "acknowledged, and told again");
        // Acknowledging twice, or what is not known, is harmless.
        engine.acknowledge(&[task("a-0"), task("b-0"), task("zzz-0")]).await.expect("acknowledged");
        let known = engine.reconcile(Epoch(2), &[task("b-0")]).await.expect("reconciled");
        assert!(matches!(known[..], [Known::Ended(AttemptEnd::Failed { .. })]), "{known:?}");
    }

    /// A new term in the same server hears what the last one heard and did not acknowledge.
    pub async fn a_term_hears_all_open_ends(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        engine.launch(Epoch(1), order("a-0", lab.command("true"))).await.expect("launched");
        ends_of(&*engine, &["a-0"]).await;
        engine.begin_term(Epoch(2)).await.expect("the second term begins");
        assert_eq!(ends_of(&*engine, &["a-0"]).await, [AttemptEnd::Succeeded]);
    }

    /// Who is told that its term is over leaves its tasks to the next: they run on, and are found and ended by it. An end
    /// that nobody has acknowledged is told to it.
    pub async fn a_term_that_is_over_leaves_its_tasks(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        engine.launch(Epoch(1), order("run-0", lab.command("sleep 1000"))).await.expect("launched");
        engine.launch(Epoch(1), order("done-0", lab.command("true"))).await.expect("launched");
        ends_of(&*engine, &["done-0"]).await;
        engine.end_term(Epoch(1)).await;
        // Not of a term that is not the present one.
        engine.begin_term(Epoch(2)).await.expect("the second term begins");
        engine.end_term(Epoch(1)).await;
        assert_eq!(ends_of(&*engine, &["done-0"]).await, [AttemptEnd::Succeeded]);
        assert_eq!(engine.reconcile(Epoch(2), &[task("run-0")]).await, Ok(vec![Known::Running]));
        engine.kill(Epoch(2), &task("run-0"), Duration::ZERO, since_boot() + LONG).await.expect("taken");
        assert_eq!(ends_of(&*engine, &["run-0"]).await, [AttemptEnd::Killed]);
        assert_eq!(lab.starts(&task("run-0")), 1);
    }

    /// A killed task is told as killed.
    pub async fn kill_ends_a_task(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        engine.launch(Epoch(1), order("run-0", lab.command("sleep 1000"))).await.expect("launched");
        let soon = since_boot() + LONG;
        assert_eq!(engine.kill(Epoch(1), &task("run-0"), LONG, soon).await, Ok(()));
        assert_eq!(ends_of(&*engine, &["run-0"]).await, [AttemptEnd::Killed]);
        let known = engine.reconcile(Epoch(1), &[task("run-0")]).await;
        assert_eq!(known, Ok(vec![Known::Ended(AttemptEnd::Killed)]));
    }

    /// Killing what ended changes nothing; killing what never began does not bar it.
    pub async fn killing_what_does_not_run_is_fine(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        let soon = since_boot() + LONG;
        engine.launch(Epoch(1), order("a-0", lab.command("true"))).await.expect("launched");
        ends_of(&*engine, &["a-0"]).await;
        assert_eq!(engine.kill(Epoch(1), &task("a-0"), Duration::ZERO, soon).await, Ok(()));
        assert_eq!(engine.kill(Epoch(1), &task("x-0"), Duration::ZERO, soon).await, Ok(()));
        let known = engine.reconcile(Epoch(1), &[task("a-0"), task("x-0")]).await;
        assert_eq!(known, Ok(vec![Known::Ended(AttemptEnd::Succeeded), Known::NeverBegan]));
    }

    /// Answers come in the order of the question, however often an id is named.
    pub async fn reconcile_keeps_the_order(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        engine.launch(Epoch(1), order("run-0", lab.command("sleep 1000"))).await.expect("launched");
        engine.launch(Epoch(1), order("a-0", lab.command("true"))).await.expect("launched");
        ends_of(&*engine, &["a-0"]).await;
        let ids = [task("x-0"), task("run-0"), task("a-0"), task("run-0"), task("y-0")];
        let ended = Known::Ended(AttemptEnd::Succeeded);
        let expected = vec![Known::NeverBegan, Known::Running, ended, Known::Running, Known::NeverBegan];
        assert_eq!(engine.reconcile(Epoch(1), &ids).await, Ok(expected));
        assert_eq!(engine.reconcile(Epoch(1), &[]).await, Ok(Vec::new()));
    }

    /// `begin_term` precedes everything.
    pub async fn a_launch_before_the_term_is_refused(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        let known = engine.launch(Epoch(2), order("x-0", lab.command("true"))).await;
        assert!(matches!(known, Err(EngineError::Refused(_))), "{known:?}");
        assert_eq!(lab.starts(&task("x-0")), 0);
    }

    /// No output of no task.
    pub async fn output_of_the_unknown_is_none(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        let none = engine.output(&task("x-0"), Stream::Stdout, 0).await;
        assert_eq!(none, Err(EngineError::NoSuchTask(task("x-0"))));
    }

    /// Many at once, ordered at once: each once, none forgotten.
    pub async fn many_tasks_at_once(lab: &dyn Lab) {
        let engine: Arc<dyn Engine> = first_term(lab).await.into();
        let ids: Vec<String> = (0..lab.many()).map(|n| format!("many-{n}")).collect();
        let mut orders = tokio::task::JoinSet::new();
        for id in &ids {
            let (engine, order) = (engine.clone(), order(id, lab.command("true")));
            orders.spawn(async move { engine.launch(Epoch(1), order).await });
        }
        while let Some(known) = orders.join_next().await {
            known.expect("no panic").expect("launched");
        }
        let names: Vec<&str> = ids.iter().map(String::as_str).collect();
        let ends = ends_of(&*engine, &names).await;
        assert!(ends.iter().all(|end| *end == AttemptEnd::Succeeded), "{ends:?}");
        for id in &ids {
            assert_eq!(lab.starts(&task(id)), 1, "{id}");
        }
        let acknowledged: Vec<TaskId> = ids.iter().map(|id| task(id)).collect();
        engine.acknowledge(&acknowledged).await.expect("acknowledged");
    }
}

/// What engines do whose tasks are processes.
pub mod processes {
    use super::*;

    async fn run(lab: &dyn Lab, launch: Launch) -> (Box<dyn Engine>, AttemptEnd) {
        let engine = first_term(lab).await;
        let id = launch.task.to_string();
        engine.launch(Epoch(1), launch).await.expect("launched");
        let mut ends = ends_of(&*engine, &[&id]).await;
        (engine, ends.remove(0))
    }

    fn with(launch: Launch, change: impl FnOnce(&mut TaskSpec)) -> Launch {
        let mut spec = (*launch.spec).clone();
        change(&mut spec);
        Launch { spec: Arc::new(spec), ..launch }
    }

    async fn stdout(engine: &dyn Engine, id: &str) -> String {
        let output = read_all(engine, &task(id), Stream::Stdout, 0).await;
        String::from_utf8_lossy(&output.bytes).into_owned()
    }

    /// Whether a process is there and not a zombie.
    pub fn alive(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    }

    /// The pids that a task wrote to a file of the scratch folder, once there are so many.
    pub async fn pids(lab: &dyn Lab, file: &str, count: usize) -> Vec<String> {
        let path = lab.scratch().join(file);
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        until("the task wrote its pids", || read().lines().count() >= count && read().ends_with('\n')).await;
        read().lines().map(str::to_owned).collect()
    }

    /// No such program: an end with a reason, not an error of the engine.
    pub async fn a_missing_program_is_a_failure(lab: &dyn Lab) {
        let launch = with(order("none-0", "/no/such/program"), |spec| spec.shell = false);
        let engine = first_term(lab).await;
        let known = engine.launch(Epoch(1), launch).await.expect("an answer");
        let Known::Ended(AttemptEnd::Failed { exit: None, signal: None, message }) = &known else {
            panic!("{known:?}")
        };
        assert!(message.contains("/no/such/program"), "{message}");
        assert_eq!(Known::Ended(ends_of(&*engine, &["none-0"]).await.remove(0)), known);

        let unnamed = with(order("none-1", "no-such-program-anywhere"), |spec| spec.shell = false);
        let known = engine.launch(Epoch(1), unnamed).await.expect("an answer");
        assert!(matches!(known, Known::Ended(AttemptEnd::Failed { .. })), "{known:?}");
    }

    /// Arguments arrive as they are, with a shell and without.
    pub async fn arguments_are_never_pasted(lab: &dyn Lab) {
        let wild = ["a b", "$(touch pwned)", "'\"; exit 9", "", "-x"].map(String::from);
        let launch = with(order("args-0", r#"printf '<%s>' "$@""#), |spec| spec.arguments = wild.to_vec());
        let (engine, end) = run(lab, launch).await;
        assert_eq!(end, AttemptEnd::Succeeded);
        assert_eq!(stdout(&*engine, "args-0").await, "<a b><$(touch pwned)><'\"; exit 9><><-x>");

        let plain = with(order("args-1", "printf"), |spec| {
            spec.shell = false;
            spec.arguments = vec!["<%s>".into(), "$HOME".into()];
        });
        engine.launch(Epoch(1), plain).await.expect("launched");
        ends_of(&*engine, &["args-1"]).await;
        assert_eq!(stdout(&*engine, "args-1").await, "<$HOME>");
    }

    /// The environment is given; the first of a name wins; the id is there; the server's settings are not.
    pub async fn environment_is_given(lab: &dyn Lab) {
        let launch = with(
            order("env-0", r#"echo "$A|$HOME|$CHRONOS_TASK_ID|$CHRONOS_SECRET|${PATH:+path}""#),
            |spec| {
                let pairs = [("A", "x y"), ("HOME", "/nowhere"), ("A", "late")];
                spec.environment = pairs.map(|(name, value)| (name.into(), value.into())).to_vec();
            },
        );
        let (engine, _) = run(lab, launch).await;
        assert_eq!(stdout(&*engine, "env-0").await, "x y|/nowhere|env-0||path\n");
    }

    /// Bytes are bytes, both streams apart.
    pub async fn output_is_raw_and_read_by_offset(lab: &dyn Lab) {
        let (engine, _) = run(lab, order("raw-0", r"printf 'a\377\000b\nrest'; printf error >&2")).await;
        let id = task("raw-0");
        let all = read_all(&*engine, &id, Stream::Stdout, 0).await;
        assert_eq!((all.bytes.as_slice(), all.next, all.dropped), (&b"a\xff\0b\nrest"[..], 9, 0));
        let some = engine.output(&id, Stream::Stdout, 5).await.expect("there");
        assert_eq!((some.bytes.as_slice(), some.next), (&b"rest"[..], 9));
        let beyond = engine.output(&id, Stream::Stdout, 1000).await.expect("there");
        assert!(beyond.bytes.is_empty() && beyond.complete, "{beyond:?}");
        assert_eq!(read_all(&*engine, &id, Stream::Stderr, 0).await.bytes, b"error");
        engine.acknowledge(std::slice::from_ref(&id)).await.expect("acknowledged");
        assert_eq!(read_all(&*engine, &id, Stream::Stderr, 1).await.bytes, b"rror");
    }

    /// Beyond the bound: what came first and what came last, and how much was in between.
    pub async fn output_keeps_head_and_tail(lab: &dyn Lab) {
        let command = "i=100000; while [ $i -lt 130000 ]; do echo $i; i=$((i+1)); done";
        let launch = with(order("cap-0", command), |spec| spec.output_max = 10_001);
        let (engine, _) = run(lab, launch).await;
        let all = read_all(&*engine, &task("cap-0"), Stream::Stdout, 0).await;
        assert_eq!(all.bytes.len(), 10_001);
        assert_eq!((all.next, all.dropped), (210_000, 210_000 - 10_001));
        assert!(all.bytes.starts_with(b"100000\n100001\n"));
        assert!(all.bytes.ends_with(b"129998\n129999\n"));

        let nothing = with(order("cap-1", "echo hi"), |spec| spec.output_max = 0);
        engine.launch(Epoch(1), nothing).await.expect("launched");
        ends_of(&*engine, &["cap-1"]).await;
        let all = read_all(&*engine, &task("cap-1"), Stream::Stdout, 0).await;
        assert_eq!((all.bytes.len(), all.dropped), (0, 3));
    }

    /// Output can be read while the task runs.
    pub async fn output_can_be_followed(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        let go = lab.scratch().join("go");
        let command =
            format!("echo first; while [ ! -e {} ]; do sleep 0.01; done; echo second", go.display());
        engine.launch(Epoch(1), order("follow-0", command)).await.expect("launched");
        let id = task("follow-0");
        let first = async {
            loop {
                let piece = engine.output(&id, Stream::Stdout, 0).await.expect("there");
                if !piece.bytes.is_empty() {
                    return piece;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let first = tokio::time::timeout(PATIENCE, first).await.expect("the first line is told");
        assert_eq!((first.bytes.as_slice(), first.complete), (&b"first\n"[..], false));
        std::fs::write(&go, "").expect("written");
        let rest = read_all(&*engine, &id, Stream::Stdout, first.next).await;
        assert_eq!(rest.bytes, b"second\n");
    }

    /// A flood neither blocks its task nor fills the disk nor holds up the others.
    pub async fn gigabytes_of_output_are_dropped(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        let flood = "head -c 1000000000 /dev/zero; echo end";
        engine.launch(Epoch(1), order("flood-0", flood)).await.expect("launched");
        engine.launch(Epoch(1), order("other-0", "echo hi")).await.expect("launched");
        assert_eq!(
            ends_of(&*engine, &["flood-0", "other-0"]).await,
            [AttemptEnd::Succeeded, AttemptEnd::Succeeded]
        );
        let all = read_all(&*engine, &task("flood-0"), Stream::Stdout, 0).await;
        assert_eq!((all.next, all.bytes.len()), (1_000_000_004, 64 * 1024));
        assert!(all.bytes.ends_with(b"\0end\n"));
        assert_eq!(stdout(&*engine, "other-0").await, "hi\n");
    }

    /// TERM is an offer to end well; it is taken, and the task still counts as killed.
    pub async fn term_comes_first(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        let pid = lab.scratch().join("pid");
        let command = format!(
            "trap 'echo bye; exit 0' TERM; echo $$ > {}; while :; do sleep 0.01; done",
            pid.display()
        );
        engine.launch(Epoch(1), order("polite-0", command)).await.expect("launched");
        pids(lab, "pid", 1).await;
        engine.kill(Epoch(1), &task("polite-0"), LONG, since_boot() + LONG).await.expect("taken");
        assert_eq!(ends_of(&*engine, &["polite-0"]).await, [AttemptEnd::Killed]);
        assert_eq!(stdout(&*engine, "polite-0").await, "bye\n");
    }

    /// Trees that ignore TERM are killed after the grace, all of them.
    pub async fn kill_takes_those_who_refuse(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        let file = lab.scratch().join("pids");
        let leaf =
            format!("sh -c 'trap \"\" TERM; echo $$ >> {0}; while :; do sleep 1; done'", file.display());
        let command =
            format!("trap '' TERM; echo $$ >> {}; {leaf} & {leaf} & wait; sleep 1000", file.display());
        engine.launch(Epoch(1), order("stubborn-0", command)).await.expect("launched");
        let pids = pids(lab, "pids", 3).await;
        let grace = Duration::from_millis(200);
        let since = std::time::Instant::now();
        engine.kill(Epoch(1), &task("stubborn-0"), grace, since_boot() + LONG).await.expect("taken");
        assert_eq!(ends_of(&*engine, &["stubborn-0"]).await, [AttemptEnd::Killed]);
        assert!(since.elapsed() >= grace, "killed by force before its grace was over");
        until("all are gone", || !pids.iter().any(|pid| alive(pid))).await;
    }

    /// A process that made a session of its own is found too.
    pub async fn kill_takes_what_left_its_group(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        let file = lab.scratch().join("pids");
        let stray = format!(
            "setsid sh -c 'trap \"\" TERM; echo $$ >> {}; while :; do sleep 1; done'",
            file.display()
        );
        let command = format!("{stray} & ({stray} &) ; sleep 1000");
        engine.launch(Epoch(1), order("stray-0", command)).await.expect("launched");
        let pids = pids(lab, "pids", 2).await;
        let grace = Duration::from_millis(50);
        engine.kill(Epoch(1), &task("stray-0"), grace, since_boot() + LONG).await.expect("taken");
        assert_eq!(ends_of(&*engine, &["stray-0"]).await, [AttemptEnd::Killed]);
        assert!(!pids.iter().any(|pid| alive(pid)), "the end was told while a process was alive");
    }

    /// What a task leaves behind in the background is ended with it.
    pub async fn nothing_outlives_its_task(lab: &dyn Lab) {
        let file = lab.scratch().join("pids");
        let leaf = "while :; do sleep 1; done";
        let command = format!("for i in 1 2; do {{ {leaf}; }} & echo $! >> {}; done; exit 4", file.display());
        let (_, end) = run(lab, order("leaves-0", command)).await;
        assert!(matches!(end, AttemptEnd::Failed { exit: Some(4), .. }), "{end:?}");
        let pids = pids(lab, "pids", 2).await;
        assert!(!pids.iter().any(|pid| alive(pid)), "the end was told while a process was alive");
    }

    /// The end is that of the main process, whoever holds its output open; a session of its own is no way out.
    pub async fn an_open_pipe_does_not_delay_the_end(lab: &dyn Lab) {
        let file = lab.scratch().join("pids");
        let command = format!(
            "setsid sh -c 'echo $$ >> {}; exec sleep 1000' & echo said; \
             while [ ! -s {} ]; do sleep 0.01; done",
            file.display(),
            file.display()
        );
        let (engine, end) = run(lab, order("holder-0", command)).await;
        assert_eq!(end, AttemptEnd::Succeeded);
        assert_eq!(stdout(&*engine, "holder-0").await, "said\n");
        let pids = pids(lab, "pids", 1).await;
        until("the stray is gone", || !pids.iter().any(|pid| alive(pid))).await;
    }

    /// A signal that nobody ordered is a failure, and is named.
    pub async fn a_signal_is_told(lab: &dyn Lab) {
        let (_, end) = run(lab, order("hit-0", "kill -9 $$")).await;
        assert!(matches!(end, AttemptEnd::Failed { exit: None, signal: Some(9), .. }), "{end:?}");
    }

    /// A small fork bomb, forking while it is killed.
    pub async fn a_fork_bomb_is_ended(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        let file = lab.scratch().join("pids");
        let command = format!(
            "trap '' TERM; bomb() {{ [ $1 -gt 4 ] || {{ bomb $(($1+1)) & bomb $(($1+1)) & }}; \
             echo x >> {}; while :; do sleep 0.05; done; }}; bomb 0",
            file.display()
        );
        engine.launch(Epoch(1), order("bomb-0", command)).await.expect("launched");
        pids(lab, "pids", 40).await;
        engine.kill(Epoch(1), &task("bomb-0"), Duration::ZERO, since_boot() + LONG).await.expect("taken");
        assert_eq!(ends_of(&*engine, &["bomb-0"]).await, [AttemptEnd::Killed]);
        assert_eq!(with_environment("CHRONOS_TASK_ID=bomb-0", &lab.scratch().display().to_string()), 0);
    }

    /// Processes whose environment has `variable` and whose command line names `path`.
    fn with_environment(variable: &str, path: &str) -> usize {
        let has = |pid: &str, file: &str, text: &str| {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(text)
        };
        let entries = std::fs::read_dir("/proc").expect("proc is mounted").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
        pids.filter(|pid| alive(pid) && has(pid, "environ", variable) && has(pid, "cmdline", path)).count()
    }

    /// Standard input is empty, nothing else is open, no signal is blocked or ignored, the folder is its own.
    pub async fn a_task_has_clean_descriptors(lab: &dyn Lab) {
        let command =
            "cat; ls /proc/self/fd | wc -l; grep -E 'SigBlk|SigIgn' /proc/self/status; pwd; ls -A | wc -l";
        let (engine, _) = run(lab, order("clean-0", command)).await;
        let text = stdout(&*engine, "clean-0").await;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        // 0, 1, 2 and the folder that `ls` reads.
        assert_eq!(lines[0], "4", "{text}");
        // glibc ignores its own two signals (32 and 33) in what it spawns.
        let mask = |line: &str| {
            let hex = line.split_whitespace().nth(1)?;
            u64::from_str_radix(hex, 16).ok().map(|mask| mask & !0x1_8000_0000)
        };
        assert_eq!((mask(lines[1]), mask(lines[2])), (Some(0), Some(0)), "{text}");
        assert!(lines[3].contains("clean-0"), "{text}");
        assert_eq!(lines[4], "0", "{text}");
    }

    /// Ends and output survive a restart of the engine; what it cannot know is lost, and says so.
    pub async fn a_restart_loses_no_end(lab: &dyn Lab) {
        let engine = first_term(lab).await;
        let file = lab.scratch().join("pids");
        let command = format!("echo $$ >> {}; echo out; sleep 1000", file.display());
        engine.launch(Epoch(1), order("lost-0", command)).await.expect("launched");
        engine.launch(Epoch(1), order("done-0", "echo out")).await.expect("launched");
        ends_of(&*engine, &["done-0"]).await;
        let pids = pids(lab, "pids", 1).await;
        drop(engine);
        lab.restart().await;
        let engine = lab.open().await;
        let ends = ends_of(&*engine, &["done-0", "lost-0"]).await;
        assert_eq!(ends[0], AttemptEnd::Succeeded);
        assert!(matches!(&ends[1], AttemptEnd::Lost { .. }), "{ends:?}");
        assert!(!pids.iter().any(|pid| alive(pid)), "told as lost while it runs");
        assert_eq!(stdout(&*engine, "done-0").await, "out\n");
        assert_eq!(read_all(&*engine, &task("lost-0"), Stream::Stdout, 0).await.bytes, b"out\n");
    }
}
