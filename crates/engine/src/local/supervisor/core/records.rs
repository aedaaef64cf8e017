//! What goes to the journal and what comes back from it, and what servers are told.

use crate::EVENTS_MAX;
use crate::local::formats::{Answer, FromSupervisor, Record, What};
use crate::local::supervisor::journal::{Order, SpawnRecord, Waiting};
use crate::local::wire;

use super::{Asked, Core, Outgoing, Phase, Task, log};

impl Core {
    pub(super) fn durable(&mut self, waiting: Vec<Waiting>, grown: bool) {
        self.journal_broken = None;
        self.rewriting = false;
        let mut ends = Vec::new();
        for waiting in waiting {
            match waiting {
                Waiting::Epoch { connection, call } => {
                    self.answer(Asked { connection, call }, Answer::Done, &[]);
                    self.tell_all(connection);
                }
                Waiting::Begin(id) => self.begun(id),
                Waiting::End(id) => {
                    let Some(Task { phase: Phase::Ended { file, durable, asked }, .. }) =
                        self.tasks.get_mut(&id)
                    else {
                        continue;
                    };
                    if std::mem::replace(durable, true) {
                        continue;
                    }
                    let (end, asked) = (file.end.clone(), asked.take());
                    self.active -= 1;
                    if let Some(asked) = asked {
                        self.answer(asked, Answer::Known(vec![What::Ended(end.clone())]), &[]);
                    }
                    ends.push((id.to_string(), end));
                }
            }
        }
        for chunk in ends.chunks(EVENTS_MAX) {
            self.broadcast(&FromSupervisor::Ends(chunk.to_vec()));
        }
        if grown {
            self.rewrite();
        }
    }

    pub(super) fn not_durable(&mut self, waiting: Vec<Waiting>, reason: String) {
        for waiting in waiting {
            match waiting {
                Waiting::Epoch { connection, call } => {
                    self.answer(Asked { connection, call }, Answer::Unknown(reason.clone()), &[]);
                }
                Waiting::Begin(id) => self.withdraw(&id, Answer::Refused(reason.clone())),
                // Kept in memory, and in the next rewrite.
                Waiting::End(_) => {}
            }
        }
        // The first reason is the true one: after it, nothing is tried until the next rewrite.
        self.journal_broken.get_or_insert(reason);
        self.rewriting = false;
    }

    pub(super) fn write(&mut self, record: Record, waiting: Option<Waiting>) {
        self.records.push(record);
        self.waiting.extend(waiting);
    }

    /// Has the journal written anew from all that is known.
    pub(super) fn rewrite(&mut self) {
        if std::mem::replace(&mut self.rewriting, true) {
            return;
        }
        self.flush();
        let mut records = vec![Record::Boot(self.boot.clone()), Record::Epoch(self.epoch)];
        let mut waiting = Vec::new();
        for (id, task) in &self.tasks {
            let name = id.to_string();
            records.push(Record::Begin { task: name.clone(), output_max: task.output_max });
            match &task.phase {
                Phase::Beginning { .. } | Phase::Spawning { .. } => {}
                Phase::Running(running) => {
                    let SpawnRecord { pid, after_ms, before_ms } = running.record;
                    records.push(Record::Spawned { task: name, pid, after_ms, before_ms });
                }
                Phase::Ended { file, durable, .. } => {
                    records.push(Record::End { task: name, file: file.clone() });
                    if !durable {
                        waiting.push(Waiting::End(id.clone()));
                    }
                }
            }
        }
        let _ = self.journal.send(Order::Rewrite { records, waiting });
    }

    /// Tells one connection every end that nobody has acknowledged.
    pub(super) fn tell_all(&self, connection: u64) {
        let ends = self.tasks.iter().filter_map(|(id, task)| match &task.phase {
            Phase::Ended { file, durable: true, .. } => Some((id.to_string(), file.end.clone())),
            _ => None,
        });
        for chunk in ends.collect::<Vec<_>>().chunks(EVENTS_MAX) {
            self.send(connection, &FromSupervisor::Ends(chunk.to_vec()), &[]);
        }
    }

    pub(super) fn answer(&self, asked: Asked, answer: Answer, payload: &[u8]) {
        self.send(asked.connection, &FromSupervisor::Answer { id: asked.call, answer }, payload);
    }

    pub(super) fn broadcast(&self, message: &FromSupervisor) {
        self.connections.keys().for_each(|connection| self.send(*connection, message, &[]));
    }

    pub(super) fn send(&self, connection: u64, message: &FromSupervisor, payload: &[u8]) {
        let Some(out) = self.connections.get(&connection) else { return };
        let mut frame = Vec::new();
        match wire::put(&mut frame, message, payload) {
            Ok(()) => {
                let answers = matches!(message, FromSupervisor::Answer { .. });
                drop(out.send(Outgoing { frame, answers }));
            }
            Err(error) => log(&format!("a message could not be sent: {error}")),
        }
    }
}
