//! Changes as they are applied, as server-sent events: what a page or a program looks at instead of asking again.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use scheduler::ids::Seq;
use scheduler::run::{Record, RunState};
use scheduler::state::Change;
use serde::Deserialize;
use serde_json::{Value, json};
use store::Applied;
use store::projection::Projection;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use utoipa::IntoParams;

use super::ApiContext;
use super::error::ApiError;
use super::extract::Params;
use super::lists::words;
use super::output::SIGN_OF_LIFE;
use super::view;
use crate::wire::job::instant;

/// Which events.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only of the job of this name.
    job: Option<String>,
    /// Only of these kinds, separated by commas: `job`, `removed`, `progress`, `run`, `backfill`, `outcome`. `hello` and
    /// `reset` come in any case.
    kind: Option<String>,
}

const KINDS: [&str; 6] = ["job", "removed", "progress", "run", "backfill", "outcome"];

/// Events on their way to a slow reader; beyond that it falls behind, and is told so.
const WAITING_MAX: usize = 256;
/// How long a reader that comes back waits for what it missed.
const MISSED_WITHIN: Duration = Duration::from_secs(5);

/// Changes as they are applied.
///
/// Events are `job`, `removed`, `progress`, `run`, `backfill`, `outcome`; `reset` says that some were left out and everything has
/// to be read anew. The id of an event is the number of its change: a reader that comes back with `Last-Event-ID` gets
/// what it missed, as far as that is kept.
#[utoipa::path(get, path = "/v1/events", tag = "node", params(Wanted), responses((status = 200, body = String)))]
pub(super) async fn stream(
    State(ctx): State<ApiContext>,
    Params(wanted): Params<Wanted>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let seen = headers.get("last-event-id").and_then(|v| v.to_str().ok()).filter(|text| !text.is_empty());
    let seen = seen.map(|text| {
        text.parse()
            .map(Seq)
            .map_err(|_| ApiError::invalid("Last-Event-ID", "`Last-Event-ID` is not a number"))
    });
    let seen = seen.transpose()?;
    let kinds = words("kind", wanted.kind.as_deref(), &KINDS.map(|kind| (kind, kind)))?;
    let (tell, mut told) = mpsc::channel(WAITING_MAX);
    let teller = Teller { ctx, job: wanted.job, kinds, tell };
    tokio::spawn(async move {
        // `None` means that nobody listens any more.
        let _ = teller.run(seen).await;
    });
    let events =
        stream::poll_fn(move |task| told.poll_recv(task).map(|event| event.map(Ok::<_, Infallible>)));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)).into_response())
}

struct Teller {
    ctx: ApiContext,
    job: Option<String>,
    /// None for all.
    kinds: Vec<&'static str>,
    tell: mpsc::Sender<Event>,
}

impl Teller {
    async fn run(self, seen: Option<Seq>) -> Option<()> {
        let projection = &self.ctx.node.projection;
        let mut news = projection.events();
        let mut at = projection.seq();
        // So that a reader knows at once that it is connected, and since when.
        self.tell
            .send(Event::default().event("hello").data(json!({ "seq": at.0 }).to_string()))
            .await
            .ok()?;
        if let Some(seen) = seen {
            self.catch_up(seen, at).await?;
        }
        loop {
            let batch = tokio::select! {
                batch = news.recv() => batch,
                () = self.tell.closed() => return None,
            };
            match batch {
                Ok(batch) if batch.seq <= at => {}
                Ok(batch) => {
                    if batch.seq.0 != at.0 + 1 {
                        self.reset(batch.seq).await?;
                    }
                    at = batch.seq;
                    self.batch(&batch).await?;
                }
                Err(RecvError::Lagged(_)) => {
                    at = projection.seq();
                    self.reset(at).await?;
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Tells what came after `seen` and up to `now`.
    async fn catch_up(&self, seen: Seq, now: Seq) -> Option<()> {
        let mut at = seen;
        while at < now {
            let batches = tokio::time::timeout(MISSED_WITHIN, self.ctx.node.store.follow(at)).await;
            let Ok(Ok(batches)) = batches else { return self.reset(now).await };
            for batch in batches.iter().take_while(|batch| batch.seq <= now) {
                self.batch(batch).await?;
            }
            match batches.last() {
                Some(last) if last.seq > at => at = last.seq,
                _ => return self.reset(now).await,
            }
        }
        if seen > now { self.reset(now).await } else { Some(()) }
    }

    async fn reset(&self, at: Seq) -> Option<()> {
        let event =
            Event::default().event("reset").id(at.0.to_string()).data(json!({ "seq": at.0 }).to_string());
        self.tell.send(event).await.ok()
    }

    async fn batch(&self, batch: &Applied) -> Option<()> {
        let events = self.events(batch);
        let count = events.len();
        for (i, (name, data)) in events.into_iter().enumerate() {
            let mut event = Event::default().event(name).data(data.to_string());
            if i + 1 == count {
                // Only the last: a reader that is cut off within a batch gets the whole batch again.
                event = event.id(batch.seq.0.to_string());
            }
            self.tell.send(event).await.ok()?;
        }
        Some(())
    }

    fn events(&self, batch: &Applied) -> Vec<(&'static str, Value)> {
        let projection = self.ctx.node.projection.read();
        let events = batch.changes.iter().filter_map(|change| told(&projection, change));
        let events = events.filter(|(kind, data)| {
            (self.kinds.is_empty() || self.kinds.contains(kind))
                && self.job.as_ref().is_none_or(|job| data["job"].as_str().is_none_or(|name| name == job))
        });
        events.collect()
    }
}

fn told(projection: &Projection, change: &Change) -> Option<(&'static str, Value)> {
    Some(match change {
        Change::PutJob(job) => {
            let data =
                json!({ "job": job.name.as_str(), "uid": job.uid.to_string(), "version": job.version });
            ("job", data)
        }
        // Its name is gone with it.
        Change::RemoveJob(uid) => ("removed", json!({ "uid": uid.to_string() })),
        Change::PutProgress(uid, progress) => {
            let name = view::name_of(projection, *uid)?;
            let next = progress.next.map(|slot| instant(slot.due));
            ("progress", json!({ "job": name.as_str(), "next": next, "paused": progress.paused.is_some() }))
        }
        Change::PutRun(run) => {
            let (state, attempt) = match &run.state {
                RunState::Queued => ("queued", 0),
                RunState::Running(live) => ("running", live.attempt),
                RunState::Waiting { attempt, .. } => ("waiting", *attempt),
            };
            let (key, due) = (run.key.to_string(), instant(run.due));
            (
                "run",
                json!({ "job": run.job.as_str(), "run": key, "state": state, "attempt": attempt, "due": due }),
            )
        }
        Change::PutBackfill(backfill) => {
            let name = view::name_of(projection, backfill.id.job)?;
            let (begun, slots) = (backfill.begun, backfill.slots);
            let data = json!({
                "job": name.as_str(), "backfill": backfill.id.to_string(), "begun": begun, "slots": slots,
                "over": backfill.ended.is_some(),
            });
            ("backfill", data)
        }
        Change::Append(record) => {
            let job = match &**record {
                Record::Run(run) => run.job.as_str(),
                Record::Range(range) => range.name.as_str(),
            };
            let view = view::RunView::of(record);
            let data = json!({
                "job": job, "run": view.key, "outcome": view.outcome, "reason": view.reason,
                "due": view.due.or(view.last_due), "count": view.count.unwrap_or(1),
            });
            ("outcome", data)
        }
        _ => return None,
    })
}
