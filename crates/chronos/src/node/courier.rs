//! Carries notices out, for one term: looks up what else is known, sends, and reports what came of it.

use std::sync::Arc;

use engine::{Engine, Stream};
use metrics::counter;
use scheduler::ids::TaskId;
use scheduler::job::Plan;
use scheduler::notice::{Alert, Notice, Sent};
use scheduler::run::{EndedRun, Record};
use scheduler::schedule::Zones;
use serde_json::{Map, Value};
use store::projection::ProjectionHandle;
use store::{RevisionQuery, Store};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::effects::Report;
use super::life::Life;
use crate::notify::Notifier;
use crate::notify::text::Facts;
use crate::wire;

/// How much of the end of an output is looked at for its last lines.
const OUTPUT_BYTES: usize = 4096;
/// Pieces of output that are read to find its end: 4 MiB at most.
const PIECES_MAX: usize = 64;
/// Lines of output in a message.
const OUTPUT_LINES: usize = 10;

/// What it takes to tell people.
#[derive(Clone)]
pub(super) struct Courier {
    notifier: Arc<Notifier>,
    store: Arc<dyn Store>,
    engine: Arc<dyn Engine>,
    projection: ProjectionHandle,
    zones: Zones,
    server: Option<String>,
    reports: mpsc::UnboundedSender<Report>,
}

impl Courier {
    pub(super) fn new(life: &Life, reports: mpsc::UnboundedSender<Report>) -> Self {
        Self {
            notifier: life.options.notifier.clone(),
            store: life.options.store.clone(),
            engine: life.options.engine.clone(),
            projection: life.projection.clone(),
            zones: life.options.zones.clone(),
            server: life.options.identity.addresses.first().cloned(),
            reports,
        }
    }

    /// Sends a notice, at its own pace. Never holds up the scheduler.
    pub(super) fn send(&self, notice: Arc<Notice>) {
        let this = self.clone();
        tokio::spawn(async move {
            // The term may have ended while others were before it.
            if this.reports.is_closed() {
                return;
            }
            let (job, facts) = this.look_up(&notice).await;
            let sent = this.notifier.send(&notice, &facts, job.as_ref()).await;
            tell(&notice, &sent);
            let _ = this.reports.send(Report::Sent(notice.id, sent)); // Nobody listens once the term is over.
        });
    }

    /// The job of the first alert, and, where that is the only one, what became of its run.
    async fn look_up(&self, notice: &Notice) -> (Option<Map<String, Value>>, Facts) {
        let mut facts = Facts { server: self.server.clone(), ..Facts::default() };
        let Some(alert) = notice.alerts.first() else { return (None, facts) };
        let job = match self.job(alert, &mut facts) {
            Some(job) => Some(job),
            None => self.deleted(alert).await,
        };
        if notice.count() > 1 {
            return (job, facts);
        }
        let Some(run) = alert.run else { return (job, facts) };
        if let Ok(Some(Record::Run(EndedRun { attempts, job: name, .. }))) = self.store.ended_run(run).await {
            if let Some(last) = attempts.last() {
                let task = TaskId::of(&name, run, last.number);
                let secrets = job.as_ref().map(wire::task::secrets).unwrap_or_default();
                // A few small files at most, and only where a notice tells of a run of such a job.
                facts.output = self.last_lines(&task, &engine::secret_values(&secrets)).await;
            }
            facts.attempts = attempts;
        }
        (job, facts)
    }

    fn job(&self, alert: &Alert, facts: &mut Facts) -> Option<Map<String, Value>> {
        let projection = self.projection.read();
        let state = projection.state();
        let (job, progress) = (state.jobs.get(&alert.job)?, state.progress.get(&alert.job)?);
        if let Plan::Schedule(table) = &job.plan {
            let zone = self.zones.named(&table.zone).ok().filter(|_| !table.zone.is_empty());
            facts.zone = zone.map(|zone| (table.zone.to_string(), zone.time_zone().clone()));
        }
        let name_of = |uid| state.jobs.get(&uid).map(|job| job.name.clone());
        Some(wire::job::write(job, progress, name_of))
    }

    /// What a job was that is there no longer.
    async fn deleted(&self, alert: &Alert) -> Option<Map<String, Value>> {
        let query = RevisionQuery { job: Some(alert.job), limit: 1, ..RevisionQuery::default() };
        let last = self.store.revisions(&query).await.ok()?.revisions.pop()?;
        Some(wire::job::whole_definition(&last.job, &last.parents))
    }

    /// The end of what a task wrote: to standard error if it wrote anything there, else to standard output.
    async fn last_lines(&self, task: &TaskId, secrets: &[String]) -> Vec<String> {
        for stream in [Stream::Stderr, Stream::Stdout] {
            let lines = self.tail(task, stream, secrets).await;
            if !lines.is_empty() {
                return lines;
            }
        }
        Vec::new()
    }

    /// Empty where there is none, or where it is too long to be read for this.
    async fn tail(&self, task: &TaskId, stream: Stream, secrets: &[String]) -> Vec<String> {
        // Of a secret that the beginning would cut, the rest would not be known again.
        let kept = OUTPUT_BYTES + secrets.iter().map(String::len).max().unwrap_or(0);
        let (mut end, mut offset) = (Vec::new(), 0);
        for _ in 0..PIECES_MAX {
            let Ok(piece) = self.engine.output(task, stream, offset).await else { return Vec::new() };
            end.extend_from_slice(&piece.bytes);
            end.drain(..end.len().saturating_sub(kept));
            if piece.complete || piece.bytes.is_empty() {
                return last_lines(&end, secrets);
            }
            offset = piece.next;
        }
        Vec::new()
    }
}

/// Shortest secret, and line of one, that is looked for: what is shorter is a word like others.
const SECRET_MIN: usize = 4;

fn last_lines(bytes: &[u8], secrets: &[String]) -> Vec<String> {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    for secret in secrets.iter().flat_map(|secret| std::iter::once(secret.as_str()).chain(secret.lines())) {
        if secret.trim().len() >= SECRET_MIN {
            text = text.replace(secret, "***");
        }
    }
    let begin = text.len().saturating_sub(OUTPUT_BYTES);
    let begin = (begin..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let text = &text[begin..];
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(OUTPUT_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}

/// Says what became of it, to the log and the metrics.
fn tell(notice: &Notice, sent: &Sent) {
    let channel = notice.address.channel.word();
    let (to, id, alerts) = (&notice.address.to, notice.id.0, notice.count());
    let result = match sent {
        Sent::Delivered => {
            info!(notice = id, channel, %to, alerts, "told people");
            "delivered"
        }
        Sent::Later { error, .. } => {
            warn!(notice = id, channel, %to, alerts, attempt = notice.attempts, %error, "could not tell people; trying again");
            "later"
        }
        Sent::Refused { error } => {
            warn!(notice = id, channel, %to, alerts, %error, "a notice was refused; it is not sent again");
            "refused"
        }
    };
    counter!("chronos_notices_total", "channel" => channel, "result" => result).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_a_task_prints_is_sent_to_nobody() {
        let lines = |text: &str, secret: &str| last_lines(text.as_bytes(), &[secret.to_owned()]).join("|");
        assert_eq!(lines("a\nlogin hunter2 failed\n", "hunter2"), "a|login *** failed");
        assert_eq!(lines("-----KEY\nMIIB\n-----END\nbad key\n", "-----KEY\nMIIB\n-----END\n"), "***bad key");
        assert_eq!(lines("MIIBabc\n", "-----KEY\nMIIBabc\n-----END"), "***", "a line of it alone");
        assert_eq!(lines("an apple\n", "a"), "an apple", "too short to be told from words");
        // At the edge of what is looked at.
        let long = format!("{}hunter2{}", "x".repeat(9), "y".repeat(OUTPUT_BYTES - 3));
        let told = lines(&long[long.len() - OUTPUT_BYTES - 7..], "hunter2");
        assert!(!told.contains("ter2") && told.len() == OUTPUT_BYTES, "{}", &told[..20]);
        assert_eq!(lines("ä".repeat(OUTPUT_BYTES).as_str(), "hunter2").len(), OUTPUT_BYTES);
    }
}
