//! The life of a task: from the order to its end.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitStatus, kill_process_group, test_kill_process_group};
use scheduler::ids::TaskId;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Asked, Core, Message, Phase, Running, Stopping, SweepOrder, Task, ended_without_output};
use crate::local::formats::{Answer, End, EndFile, Record, What};
use crate::local::launch;
use crate::local::layout::task_folder;
use crate::local::supervisor::journal::{SpawnRecord, Waiting};
use crate::local::supervisor::output::Capture;
use crate::local::supervisor::processes::Target;
use crate::local::supervisor::spawn::{NotSpawned, SpawnOrder, Spawned};

/// How long what a task leaves behind may take to end after TERM. Its end is told only then, so that no next attempt
/// meets it.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);
/// How long a process may refuse even KILL (it waits for a disk, say) before its task is over all the same: it will
/// never again run a line of its program.
const UNKILLABLE: Duration = Duration::from_secs(10);

impl Core {
    /// Its `begin` is durable: it may be spawned, if it is still time.
    pub(super) fn begun(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Phase::Beginning { spec, not_after, asked, kill } = &task.phase else { return };
        let (spec, not_after, asked, kill) = (spec.clone(), *not_after, *asked, *kill);
        if kill.is_some() {
            let file = ended_without_output(End::Killed, task.output_max);
            return self.end(&id, file, Some(asked));
        }
        task.phase = Phase::Spawning { asked, kill };
        let number = self.unclaimed.order();
        let _ = self.spawner.send(SpawnOrder { number, task: id, spec, not_after });
    }

    /// It was not begun after all.
    pub(super) fn withdraw(&mut self, id: &TaskId, answer: Answer) {
        let Some(task) = self.tasks.remove(id) else { return };
        if let Phase::Beginning { asked, .. } | Phase::Spawning { asked, .. } = task.phase {
            self.active -= 1;
            self.write(Record::Withdrawn(id.to_string()), None);
            self.answer(asked, answer, &[]);
        }
    }

    pub(super) fn spawned(&mut self, id: TaskId, outcome: Result<Spawned, NotSpawned>) {
        let Some(Task { output_max, phase: Phase::Spawning { asked, kill } }) = self.tasks.get(&id) else {
            return;
        };
        let (output_max, asked, kill) = (*output_max, *asked, *kill);
        match outcome {
            Ok(spawned) => match self.running(&id, output_max, spawned) {
                Ok(()) => {
                    self.answer(asked, Answer::Known(vec![What::Running]), &[]);
                    if let Some(grace) = kill {
                        self.stop(&id, grace);
                    }
                }
                Err(error) => {
                    let end = End::failed(format!("its output could not be taken: {error}"));
                    self.end(&id, ended_without_output(end, output_max), Some(asked));
                }
            },
            Err(NotSpawned::TooLate) => self.withdraw(&id, Answer::TooLate),
            Err(NotSpawned::Failed(message)) => {
                self.end(&id, ended_without_output(End::failed(message), output_max), Some(asked));
            }
            Err(NotSpawned::Known) => {
                let end = End::lost("its folder was there already, so it may have run before");
                self.end(&id, ended_without_output(end, output_max), Some(asked));
            }
        }
    }

    pub(super) fn running(&mut self, id: &TaskId, output_max: u64, spawned: Spawned) -> io::Result<()> {
        let SpawnRecord { pid, after_ms, before_ms } = spawned.record;
        self.write(Record::Spawned { task: id.to_string(), pid, after_ms, before_ms }, None);
        let leader = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
        let folder = task_folder(&self.root, id);
        let capture = |pipe, name| Capture::new(pipe, folder.join(name), output_max).map(Rc::new);
        let both =
            capture(spawned.stdout, "stdout").and_then(|out| Ok([out, capture(spawned.stderr, "stderr")?]));
        let captures = both.inspect_err(|_| {
            spawned.cgroup.kill();
            let _ = kill_process_group(leader, Signal::KILL);
            let _ = self.sweeper.send(SweepOrder::Remove(spawned.cgroup.clone()));
        })?;
        let followers = [0, 1].map(|stream: usize| {
            let (capture, buffer, to_self) =
                (captures[stream].clone(), self.buffer.clone(), self.to_self.clone());
            tokio::task::spawn_local(async move {
                capture.follow(&buffer, |error| drop(to_self.send(Message::DiskFull(error)))).await;
            })
        });
        let Spawned { record, cgroup, first_stage, .. } = spawned;
        let running = Running {
            record,
            pid: leader,
            captures,
            followers,
            exit: None,
            stopping: None,
            cgroup,
            first_stage,
        };
        self.tasks.insert(id.clone(), Task { output_max, phase: Phase::Running(Box::new(running)) });
        match self.unclaimed.claim(pid, Duration::from_millis(after_ms)) {
            Some(status) => self.exited(id, status),
            None => {
                self.by_pid.insert(pid, id.clone());
            }
        }
        Ok(())
    }

    /// The main process is over. If others of its group are not, they are ended first.
    pub(super) fn exited(&mut self, id: &TaskId, status: WaitStatus) {
        self.strays_possible = true;
        let Some(running) = running_mut(&mut self.tasks, id) else { return };
        running.exit = Some(status);
        let empty = is_empty(running);
        if running.stopping.is_none() && empty {
            return self.finish(id);
        }
        if running.stopping.is_none() {
            signal(running.pid, Signal::TERM);
            running.cgroup.signal(Signal::TERM);
            let force_at = Instant::now() + LEFTOVER_GRACE;
            let stopping = Stopping { ordered: false, force_at, offered: true, gone_at_sweep: None };
            running.stopping = Some(stopping);
            self.stopping.insert(id.clone());
        }
        self.press(id);
        self.sweep();
    }

    /// Takes the order to end a task. A second order can only shorten the grace.
    pub(super) fn stop(&mut self, id: &TaskId, grace: Duration) {
        let Some(running) = running_mut(&mut self.tasks, id) else { return };
        let force_at = Instant::now() + grace.min(Duration::from_secs(30 * 86_400));
        match &mut running.stopping {
            Some(stopping) => stopping.force_at = stopping.force_at.min(force_at),
            None => {
                if grace.is_zero() {
                    signal(running.pid, Signal::KILL);
                } else {
                    signal(running.pid, Signal::TERM);
                    // A stopped process hears TERM only when it goes on.
                    signal(running.pid, Signal::CONT);
                }
                running.stopping =
                    Some(Stopping { ordered: true, force_at, offered: false, gone_at_sweep: None });
                self.stopping.insert(id.clone());
            }
        }
        self.sweep();
    }

    /// Looks after a task that is being ended.
    pub(super) fn press(&mut self, id: &TaskId) {
        let Some(running) = running_mut(&mut self.tasks, id) else {
            self.stopping.remove(id);
            return;
        };
        let Some(stopping) = &mut running.stopping else { return };
        let forced = Instant::now() >= stopping.force_at;
        if forced {
            signal(running.pid, Signal::KILL);
            running.cgroup.kill();
        }
        if running.exit.is_none() {
            return;
        }
        // KILL reaches all of a group at once, forks included; who has got it runs no more.
        let over = forced || is_empty(running);
        let Some(stopping) = &mut running.stopping else { return };
        if !stopping.ordered && over {
            return self.finish(id);
        }
        if stopping.ordered && stopping.gone_at_sweep.is_none() && over {
            stopping.gone_at_sweep = Some(self.sweeps + 1);
        }
        if Instant::now() >= stopping.force_at + UNKILLABLE {
            self.finish(id);
        }
    }

    /// Has the processes of all tasks that were ordered to end looked for, wherever they are. One look at a time.
    pub(super) fn sweep(&mut self) {
        if self.sweep_out {
            return;
        }
        let mut targets = Vec::new();
        for id in &self.stopping {
            let Some(running) = running_mut(&mut self.tasks, id) else { continue };
            let Some(stopping) = running.stopping.as_mut().filter(|stopping| stopping.ordered) else {
                continue;
            };
            let forced = Instant::now() >= stopping.force_at;
            let offer = !std::mem::replace(&mut stopping.offered, true);
            let signal = if forced { Some(Signal::KILL) } else { offer.then_some(Signal::TERM) };
            let (leader, cgroup) = (running.record.pid, running.cgroup.clone());
            targets.push((id.clone(), Target { task: id.to_string(), leader, cgroup, signal }));
        }
        if !targets.is_empty() {
            self.sweeps += 1;
            self.sweep_out = true;
            let _ = self.sweeper.send(SweepOrder::Tasks { targets, number: self.sweeps });
        }
    }

    pub(super) fn swept(&mut self, tasks: &[(TaskId, usize)], number: u64) {
        self.sweep_out = false;
        for (id, alive) in tasks {
            let Some(running) = running_mut(&mut self.tasks, id) else { continue };
            let gone = running.stopping.as_ref().and_then(|stopping| stopping.gone_at_sweep);
            if *alive == 0 && gone.is_some_and(|since| number >= since) {
                self.finish(id);
            }
        }
    }

    /// All of the task is over: takes the rest of its output and writes down its end.
    pub(super) fn finish(&mut self, id: &TaskId) {
        self.stopping.remove(id);
        let Some(Task { output_max, phase: Phase::Running(running) }) = self.tasks.get(id) else { return };
        running.followers.iter().for_each(JoinHandle::abort);
        let killed = running.stopping.as_ref().is_some_and(|stopping| stopping.ordered);
        let end = match running.exit {
            Some(_) if killed => End::Killed,
            Some(status) => end_of(status, running),
            None => End::Killed,
        };
        let _ = self.sweeper.send(SweepOrder::Remove(running.cgroup.clone()));
        let on_full = |error| drop(self.to_self.send(Message::DiskFull(error)));
        let [stdout, stderr] =
            [0, 1].map(|stream: usize| running.captures[stream].drain(&self.buffer, on_full));
        let file = EndFile { end, output_max: *output_max, stdout, stderr };
        self.end(id, file, None);
    }

    pub(super) fn end(&mut self, id: &TaskId, file: EndFile, asked: Option<Asked>) {
        let record = Record::End { task: id.to_string(), file: file.clone() };
        self.write(record, Some(Waiting::End(id.clone())));
        if let Some(task) = self.tasks.get_mut(id) {
            task.phase = Phase::Ended { file, durable: false, asked };
        }
    }
}

fn running_mut<'a>(tasks: &'a mut HashMap<TaskId, Task>, id: &TaskId) -> Option<&'a mut Running> {
    match &mut tasks.get_mut(id)?.phase {
        Phase::Running(running) => Some(running),
        _ => None,
    }
}

/// Whether nobody is left in the process group, nor in the control group. Asked in one breath with the reaping of its leader, and then without a pause:
/// the number is not given away as long as one member lives, and not soon after.
fn is_empty(running: &Running) -> bool {
    test_kill_process_group(running.pid) == Err(rustix::io::Errno::SRCH) && running.cgroup.pids().is_empty()
}

fn signal(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
}

/// A task whose first stage failed never began its program; one that has lost a process for want of memory failed for
/// that, whatever the others made of it.
fn end_of(status: WaitStatus, running: &Running) -> End {
    if let Some(reason) = running.first_stage.as_ref().and_then(launch::failure) {
        return End::failed(reason);
    }
    let (exit, signal) = (status.exit_status(), status.terminating_signal());
    let message = match (exit, signal) {
        // Also where its shell went on after it and ended well.
        _ if let Some(limit) = running.cgroup.exceeded() => {
            format!("out of memory: exceeded {} MiB", limit >> 20)
        }
        (Some(0), _) => return End::Succeeded,
        (Some(exit), _) => format!("exit status {exit}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended in an unknown way".into(),
    };
    End::Failed { exit, signal, message }
}
