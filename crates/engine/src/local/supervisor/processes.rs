//! Which processes belong to which task, and how they are ended.
//!
//! A task's processes are those of its process group; those whose environment bears its mark, whatever group or
//! session they made; their descendants; and those of its control group, where there is one. Without one, a process is
//! not found that left its group, cleared its environment and lost its parent.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::cgroup::TaskCgroup;
use super::journal::SpawnRecord;

/// The variable that marks the processes of a folder's tasks: `<id of the folder>/<task>`.
pub(super) const MARK: &str = "CHRONOS_TASK_MARK";

/// What `/proc/<pid>/stat` says of a process.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: i32,
    parent: i32,
    group: i32,
    /// In clock ticks since boot.
    start: u64,
    zombie: bool,
}

/// A task that is being ended.
pub(super) struct Target {
    pub(super) task: String,
    pub(super) leader: i32,
    /// Holds all its processes, where there is one.
    pub(super) cgroup: TaskCgroup,
    /// Sent to all its processes outside of its group, which others see to.
    pub(super) signal: Option<Signal>,
}

/// Looks for all processes of these tasks, sends them the signal, and counts those that were alive.
pub(super) fn sweep(folder: &str, targets: &[Target]) -> Vec<usize> {
    let leaders: HashMap<i32, usize> =
        targets.iter().enumerate().map(|(n, target)| (target.leader, n)).collect();
    let names: HashMap<&str, usize> = targets.iter().enumerate().map(|(n, t)| (t.task.as_str(), n)).collect();
    let all: HashMap<i32, Process> = processes().map(|process| (process.pid, process)).collect();
    let held = targets
        .iter()
        .enumerate()
        .flat_map(|(n, target)| target.cgroup.pids().into_iter().map(move |pid| (pid, n)));
    let held: HashMap<i32, usize> = held.collect();
    let ours = own_start();
    let mut owners: HashMap<i32, Option<usize>> = HashMap::new();
    for process in all.values().filter(|process| process.start >= ours) {
        let owner = held.get(&process.pid).or_else(|| leaders.get(&process.group)).copied();
        let marked = || mark(process.pid, folder).and_then(|task| names.get(task.as_str()).copied());
        owners.insert(process.pid, owner.or_else(marked));
    }
    let mut alive = vec![0; targets.len()];
    for process in all.values().filter(|process| !process.zombie) {
        let Some(owner) = owner(process, &all, &owners) else { continue };
        alive[owner] += 1;
        if let (Some(signal), true) = (targets[owner].signal, process.group != targets[owner].leader) {
            send(process, signal);
        }
    }
    alive
}

/// Ends what tasks that are over have left behind. `seen` remembers whom TERM was sent: the next time it is KILL.
/// `living` was true `as_of` then, since boot: what started later belongs to a task that it does not know yet.
pub(super) fn end_strays(
    folder: &str,
    living: &HashSet<String>,
    as_of: Duration,
    seen: &mut HashSet<(i32, u64)>,
) {
    let ticks = as_of.as_millis() * u128::from(rustix::param::clock_ticks_per_second()) / 1000;
    let known = own_start()..u64::try_from(ticks).unwrap_or(u64::MAX);
    let mut now = HashSet::new();
    for process in processes().filter(|process| known.contains(&process.start) && !process.zombie) {
        if mark(process.pid, folder).is_some_and(|task| !living.contains(&task)) {
            let key = (process.pid, process.start);
            send(&process, if seen.contains(&key) { Signal::KILL } else { Signal::TERM });
            now.insert(key);
        }
    }
    *seen = now;
}

/// Ends every process that bears the folder's mark: their supervisor is dead. Returns how many were alive.
pub(super) fn end_all(folder: &str) -> usize {
    let marked = processes().filter(|process| !process.zombie && mark(process.pid, folder).is_some());
    marked.map(|process| send(&process, Signal::KILL)).count()
}

/// Ends the group of a process that an earlier supervisor spawned, if it is certainly that one: the same pid, leading
/// its group, and started when ours was.
pub(super) fn end_recorded(record: SpawnRecord) {
    let Some(process) = stat(record.pid) else { return };
    let milliseconds = process.start.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1);
    // A tick is 10 ms, and start times are rounded down to one.
    let started = record.after_ms.saturating_sub(20)..=record.before_ms.saturating_add(20);
    if process.group == record.pid
        && started.contains(&milliseconds)
        && let Some(group) = Pid::from_raw(record.pid)
    {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Whether we have children besides these. Cheap: asks only about ourselves.
pub(super) fn has_other_children(leaders: impl Fn(i32) -> bool) -> bool {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    children
        .flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .any(|pid| !leaders(pid))
}

/// A process belongs to whom it, or its nearest ancestor with an owner, belongs to.
fn owner(
    process: &Process,
    all: &HashMap<i32, Process>,
    owners: &HashMap<i32, Option<usize>>,
) -> Option<usize> {
    let mut pid = process.pid;
    // Deeper trees than this are found from their own marks or groups.
    for _ in 0..64 {
        if let Some(owner) = owners.get(&pid)? {
            return Some(*owner);
        }
        pid = all.get(&pid)?.parent;
    }
    None
}

/// Signals the process if it is still the one we saw. Between the look and the signal lie microseconds, and a pid is
/// used again only after the kernel has gone through all others.
fn send(process: &Process, signal: Signal) {
    if stat(process.pid).is_some_and(|now| now.start == process.start)
        && let Some(pid) = Pid::from_raw(process.pid)
    {
        let _ = kill_process(pid, signal);
    }
}

fn own_start() -> u64 {
    stat(rustix::process::getpid().as_raw_nonzero().get()).map_or(0, |own| own.start)
}

fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?))
}

fn stat(pid: i32) -> Option<Process> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, parentheses too.
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse().ok();
    let zombie = matches!(fields.first(), Some(&("Z" | "X")));
    Some(Process { pid, parent: number(1)?, group: number(2)?, start: fields.get(19)?.parse().ok()?, zombie })
}

/// The task whose mark the process bears.
fn mark(pid: i32, folder: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let start = format!("{MARK}={folder}/");
    let variable =
        environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(start.as_bytes()))?;
    String::from_utf8(variable.to_vec()).ok()
}
