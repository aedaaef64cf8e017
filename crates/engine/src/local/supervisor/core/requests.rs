//! What servers ask, and what they are answered.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use scheduler::ids::TaskId;
use tokio::sync::mpsc::UnboundedSender;

use super::{Asked, Core, ISOLATED, Outgoing, Phase, Task, ended_without_output, log};
use crate::capped::Window;
use crate::local::formats::{Answer, End, EndFile, FromSupervisor, Record, Request, Spec, What};
use crate::local::layout::{TRASH, task_folder};
use crate::local::supervisor::journal::Waiting;
use crate::{Output, since_boot};

/// Tasks that cannot be read, of which the log tells. Where there are more, the first will do.
const UNREADABLE_MAX: usize = 100;

impl Core {
    pub(super) fn opened(&mut self, connection: u64, out: UnboundedSender<Outgoing>) {
        self.connections.insert(connection, out);
        self.send(
            connection,
            &FromSupervisor::Health { reason: self.told_health.clone(), notes: self.notes.clone() },
            &[],
        );
        self.tell_all(connection);
    }

    pub(super) fn called(&mut self, asked: Asked, request: Request) {
        let answer = match request {
            Request::BeginTerm { epoch } => self.begin_term(asked, epoch),
            Request::Launch { epoch, task, spec, not_after } => {
                valid(&task).and_then(|task| self.launch(asked, epoch, task, *spec, not_after))
            }
            Request::Kill { epoch, task, grace, not_after } => {
                valid(&task).and_then(|task| self.kill(epoch, &task, grace, not_after)).map(Some)
            }
            Request::Reconcile { epoch, tasks } => self.reconcile(epoch, &tasks).map(Some),
            Request::Acknowledge { tasks } => {
                tasks.iter().filter_map(|task| TaskId::parse(task)).for_each(|task| self.acknowledge(&task));
                Ok(Some(Answer::Done))
            }
            Request::Output { task, stderr, offset } => {
                match valid(&task).and_then(|task| self.output(&task, stderr, offset)) {
                    Err(answer) => Err(answer),
                    Ok(Output { bytes, next, dropped, complete }) => {
                        return self.answer(asked, Answer::Output { next, dropped, complete }, &bytes);
                    }
                }
            }
            Request::Forget { task } => valid(&task).and_then(|task| self.forget(&task)).map(Some),
            Request::Lease { until } => {
                self.lease = until;
                self.look_at_lease();
                Ok(Some(Answer::Done))
            }
            Request::Running => {
                let active = self.tasks.iter().filter(|(_, task)| !matches!(task.phase, Phase::Ended { .. }));
                Ok(Some(Answer::Tasks(active.map(|(id, _)| id.to_string()).collect())))
            }
        };
        if let Some(answer) = answer.unwrap_or_else(Some) {
            self.answer(asked, answer, &[]);
        }
    }

    pub(super) fn check(&self, ours: u64) -> Result<(), Answer> {
        match ours.cmp(&self.epoch) {
            std::cmp::Ordering::Less => Err(Answer::Deposed { ours, newest: self.epoch }),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(Answer::Refused("the term has not begun here".into())),
        }
    }

    /// From here on the epoch counts; the answer waits until it does so for ever.
    pub(super) fn begin_term(&mut self, asked: Asked, epoch: u64) -> Result<Option<Answer>, Answer> {
        if epoch < self.epoch {
            return Err(Answer::Deposed { ours: epoch, newest: self.epoch });
        }
        if let Some(reason) = &self.journal_broken {
            return Err(Answer::Unknown(reason.clone()));
        }
        self.epoch = epoch;
        let waiting = Waiting::Epoch { connection: asked.connection, call: asked.call };
        self.write(Record::Epoch(epoch), Some(waiting));
        Ok(None)
    }

    pub(super) fn launch(
        &mut self,
        asked: Asked,
        epoch: u64,
        id: TaskId,
        spec: Spec,
        not_after: Duration,
    ) -> Result<Option<Answer>, Answer> {
        self.check(epoch)?;
        let known = self.known(&id)?;
        if known != What::NeverBegan {
            return Ok(Some(Answer::Known(vec![known])));
        }
        if since_boot() > not_after {
            return Err(Answer::TooLate);
        }
        if self.is_isolated() {
            return Err(Answer::Refused(ISOLATED.into()));
        }
        if let Some(reason) = &self.journal_broken {
            return Err(Answer::Refused(reason.clone()));
        }
        if !self.room.admits(self.active) {
            return Err(Answer::Refused(self.room.reason()));
        }
        let output_max = spec.output_max;
        self.write(Record::Begin { task: id.to_string(), output_max }, Some(Waiting::Begin(id.clone())));
        self.active += 1;
        let phase = Phase::Beginning { spec, not_after, asked, kill: None };
        self.tasks.insert(id, Task { output_max, phase });
        Ok(None)
    }

    pub(super) fn kill(
        &mut self,
        epoch: u64,
        id: &TaskId,
        grace: Duration,
        not_after: Duration,
    ) -> Result<Answer, Answer> {
        self.check(epoch)?;
        if since_boot() > not_after {
            return Err(Answer::TooLate);
        }
        // What has ended by itself is not killed.
        self.reap();
        match self.tasks.get_mut(id).map(|task| &mut task.phase) {
            Some(Phase::Beginning { kill, .. } | Phase::Spawning { kill, .. }) => {
                *kill = Some(kill.map_or(grace, |before| before.min(grace)));
            }
            Some(Phase::Running(_)) => self.stop(id, grace),
            Some(Phase::Ended { .. }) | None => {}
        }
        Ok(Answer::Done)
    }

    pub(super) fn reconcile(&mut self, epoch: u64, ids: &[String]) -> Result<Answer, Answer> {
        self.check(epoch)?;
        Ok(Answer::Known(ids.iter().map(|id| self.known_if_any(id)).collect()))
    }

    /// What may be told of a task, if only that nobody can tell: one that cannot be read keeps no other from being known.
    fn known_if_any(&mut self, id: &str) -> What {
        match valid(id).and_then(|id| self.known(&id)) {
            Ok(known) => {
                self.unreadable.remove(id);
                known
            }
            Err(answer) => {
                // It is asked for again every few seconds.
                if let Answer::Unknown(reason) = answer
                    && self.unreadable.len() < UNREADABLE_MAX
                    && self.unreadable.insert(id.to_owned())
                {
                    log(&reason);
                }
                What::Unknown
            }
        }
    }

    pub(super) fn acknowledge(&mut self, id: &TaskId) {
        if matches!(self.tasks.get(id), Some(Task { phase: Phase::Ended { durable: true, .. }, .. })) {
            self.tasks.remove(id);
            self.write(Record::Acknowledged(id.to_string()), None);
        }
    }

    pub(super) fn output(&mut self, id: &TaskId, stderr: bool, offset: u64) -> Result<Output, Answer> {
        let folder = task_folder(&self.root, id);
        let path = folder.join(if stderr { "stderr" } else { "stdout" });
        let pick =
            |file: &EndFile| Window::new(file.output_max, if stderr { file.stderr } else { file.stdout });
        let (window, ended) = match self.tasks.get(id).map(|task| &task.phase) {
            Some(Phase::Beginning { .. } | Phase::Spawning { .. }) => return Ok(Output::default()),
            Some(Phase::Running(running)) => (running.captures[usize::from(stderr)].window(), false),
            Some(Phase::Ended { file, .. }) => (pick(file), true),
            None => match read_end(&folder) {
                Ok(Some(file)) => (pick(&file), true),
                Ok(None) => return Err(Answer::NoSuchTask),
                Err(error) => return Err(Answer::Unknown(format!("{}: {error}", folder.display()))),
            },
        };
        window.read(&path, offset, ended).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Answer::NoSuchTask,
            _ => Answer::Unknown(format!("{}: {error}", path.display())),
        })
    }

    pub(super) fn forget(&mut self, id: &TaskId) -> Result<Answer, Answer> {
        if self.tasks.contains_key(id) {
            return Err(Answer::Refused("it runs, or its end is not acknowledged".into()));
        }
        let trash = self.root.join(TRASH).join(id.as_str());
        match fs::rename(task_folder(&self.root, id), &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Answer::NoSuchTask),
            Err(error) => return Err(Answer::Refused(format!("its folder could not be removed: {error}"))),
            Ok(()) => {}
        }
        self.write(Record::Forgotten(id.to_string()), None);
        let _ = self.trash.try_send(());
        Ok(Answer::Done)
    }

    /// What may be told of a task: an end only once it is durable.
    pub(super) fn known(&self, id: &TaskId) -> Result<What, Answer> {
        match self.tasks.get(id).map(|task| &task.phase) {
            Some(Phase::Ended { file, durable: true, .. }) => Ok(What::Ended(file.end.clone())),
            Some(_) => Ok(What::Running),
            None => match read_end(&task_folder(&self.root, id)) {
                Ok(Some(file)) => Ok(What::Ended(file.end)),
                Ok(None) => Ok(What::NeverBegan),
                Err(error) => {
                    Err(Answer::Unknown(format!("the folder of task {id} cannot be read: {error}")))
                }
            },
        }
    }
}

/// How a task ended that is not in memory; `None` if it has no folder.
fn read_end(folder: &Path) -> io::Result<Option<EndFile>> {
    match fs::read(folder.join("end")) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.try_exists()? => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let end = End::lost("its folder is there, but nothing says how it ended");
            Ok(Some(ended_without_output(end, 0)))
        }
        Err(error) => Err(error),
    }
}

fn valid(id: &str) -> Result<TaskId, Answer> {
    TaskId::parse(id).ok_or_else(|| Answer::Refused("not a task id".into()))
}
