//! What runs write: as bytes, or followed while they write it.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use engine::{EngineError, Output, Stream};
use futures_util::stream;
use scheduler::ids::{JobName, RunKey, TaskId};
use scheduler::run::{Record, RunState};
use serde::Deserialize;
use serde_json::json;
use store::OutcomeKind;
use tokio::sync::mpsc;
use tokio::time::Instant;
use utoipa::IntoParams;

use super::ApiContext;
use super::error::{ApiError, ErrorBody};
use super::extract::{self, Accept, Params};
use super::runs::{find_live, no_such_run};
use super::view;
use crate::node::Role;

/// Which output.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Of which attempt, counted from 0; the last one if absent.
    attempt: Option<u32>,
    /// `stdout`, which it is if absent, or `stderr`.
    stream: Option<String>,
    /// From this byte on.
    #[serde(default)]
    offset: u64,
    /// `true`: go on until the run is over, as server-sent events, or as bytes with
    /// `Accept: application/octet-stream`.
    #[serde(default)]
    follow: bool,
}

/// What is known of a run's attempts.
struct Look {
    job: JobName,
    /// The last attempt that was launched.
    last: Option<u32>,
    /// How it ended, if it did.
    outcome: Option<&'static str>,
}

async fn look(ctx: &ApiContext, key: RunKey) -> Result<Look, ApiError> {
    if let Some(run) = find_live(ctx, key) {
        let last = match &run.state {
            RunState::Running(live) => Some(live.attempt),
            _ => run.attempts.last().map(|attempt| attempt.number),
        };
        return Ok(Look { job: run.job.clone(), last, outcome: None });
    }
    match ctx.node.store.ended_run(key).await? {
        Some(Record::Run(run)) => {
            let last = run.attempts.last().map(|attempt| attempt.number);
            Ok(Look { job: run.job, last, outcome: Some(view::word(OutcomeKind::of(&run.outcome))) })
        }
        _ => Err(no_such_run(key)),
    }
}

/// How often an output is looked at while it is followed.
const POLL: Duration = Duration::from_millis(200);
/// A sign of life for proxies that drop silent connections.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// What cannot be read for so long, of an attempt that is over or by a node that leads no more, is not waited for.
const UNREAD_AFTER: Duration = Duration::from_secs(10);
/// Pieces on their way to a slow reader.
const PIECES_MAX: usize = 4;

/// The output of a run: raw bytes, or followed.
///
/// Followed, the events are `output` with `{"attempt", "offset", "text"}`, `gap` with `{"attempt", "dropped"}`,
/// `attempt` with `{"attempt"}` when the next one begins, `unread` with `{"attempt", "reason"}` where the rest of one that is
/// over cannot be had, and at last `end` with `{"outcome"}`. Bytes that are not UTF-8 become U+FFFD in `text`. Followed as
/// bytes, the answer breaks off where something cannot be had.
#[utoipa::path(
    get, path = "/v1/runs/{key}/output", tag = "runs", params(("key" = String, Path), Wanted),
    responses((status = 200, content((String = "text/plain"), (Object = "text/event-stream"))),
        (status = 404, body = ErrorBody))
)]
pub(super) async fn read(
    State(ctx): State<ApiContext>,
    extract::Run(key): extract::Run,
    Params(wanted): Params<Wanted>,
    Accept(accept): Accept,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let stream = match wanted.stream.as_deref() {
        None | Some("stdout") => Stream::Stdout,
        Some("stderr") => Stream::Stderr,
        Some(_) => return Err(ApiError::invalid("stream", "`stream`: expected stdout or stderr")),
    };
    let look = look(&ctx, key).await?;
    let binary = accept.contains("application/octet-stream");
    if !wanted.follow {
        let attempt =
            wanted.attempt.or(look.last).ok_or_else(|| no_output("the run has not been started"))?;
        let task = TaskId::of(&look.job, key, attempt);
        return whole(ctx, task, stream, wanted.offset, binary).await;
    }
    // A browser that reconnects says where it was.
    let seen = headers.get("last-event-id").and_then(|v| v.to_str().ok()?.split_once(':'));
    let seen = seen.and_then(|(attempt, offset)| Some((attempt.parse().ok()?, offset.parse().ok()?)));
    let (attempt, offset) = seen.unwrap_or((wanted.attempt.or(look.last).unwrap_or(0), wanted.offset));
    // Of a run that is over all is there by now, or was.
    if let (Some(_), Some(last)) = (look.outcome, look.last.filter(|last| *last == attempt)) {
        let task = TaskId::of(&look.job, key, last);
        if let Err(gone @ EngineError::OutputGone(_)) = ctx.node.engine.output(&task, stream, offset).await {
            return Err(not_read(gone));
        }
    }
    let (tell, mut told) = mpsc::channel(PIECES_MAX);
    let follower = Follower { ctx, key, job: look.job, stream, only: wanted.attempt.is_some(), tell };
    tokio::spawn(follower.run(attempt, offset));
    if binary {
        let bytes = stream::poll_fn(move |task| told.poll_recv(task));
        let bytes = futures_util::StreamExt::filter_map(bytes, |piece| async move {
            match piece {
                Piece::Output { bytes, .. } => Some(Ok(bytes)),
                // Nobody is to take a part for the whole.
                Piece::Unread { reason, .. } => Some(Err(std::io::Error::other(reason))),
                Piece::Gap { .. } | Piece::Attempt(_) | Piece::End(_) => None,
            }
        });
        return Ok(
            ([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(bytes)).into_response()
        );
    }
    let mut texts = Texts::default();
    let events = stream::poll_fn(move |task| told.poll_recv(task));
    let events = futures_util::StreamExt::flat_map(events, move |piece| stream::iter(texts.events(piece)));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)).into_response())
}

fn no_output(message: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no_such_output", format!("there is no output: {message}"))
}

fn not_read(error: EngineError) -> ApiError {
    match error {
        EngineError::NoSuchTask(_) => no_output(
            "this attempt has none here: it never began, or what it wrote was removed by retention (--output_age_max, \
             --output_bytes_max)",
        ),
        EngineError::OutputGone(why) => no_output(&why),
        other => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "engine_unavailable", other.to_string()),
    }
}

/// All that is there now, piece by piece.
async fn whole(
    ctx: ApiContext,
    task: TaskId,
    stream: Stream,
    offset: u64,
    binary: bool,
) -> Result<Response, ApiError> {
    let first = ctx.node.engine.output(&task, stream, offset).await.map_err(not_read)?;
    let dropped = first.dropped.to_string();
    let rest = |piece: &Output| (!piece.complete && !piece.bytes.is_empty()).then_some(piece.next);
    let pieces = stream::unfold((Some(first), ctx, task), move |(ready, ctx, task)| async move {
        let piece = ready?;
        let next = match rest(&piece) {
            Some(at) => ctx.node.engine.output(&task, stream, at).await,
            None => return Some((Ok(piece.bytes), (None, ctx, task))),
        };
        match next {
            Ok(next) => Some((Ok(piece.bytes), (Some(next), ctx, task))),
            // The connection is broken off, so that nobody takes a part for the whole.
            Err(error) => Some((Err(error), (None, ctx, task))),
        }
    });
    let kind = if binary { "application/octet-stream" } else { "text/plain; charset=utf-8" };
    let headers = [("content-type", kind.to_owned()), ("x-chronos-output-dropped", dropped)];
    // Fused, because a compressor asks once more after the end.
    Ok((headers, Body::from_stream(futures_util::StreamExt::fuse(pieces))).into_response())
}

/// A piece of news about an output that is followed.
enum Piece {
    Output { attempt: u32, offset: u64, bytes: Vec<u8> },
    Gap { attempt: u32, dropped: u64 },
    Unread { attempt: u32, reason: String },
    Attempt(u32),
    End(Option<&'static str>),
}

/// Reads an output as it grows, over all attempts of a run unless only one is wanted. Ends when nobody listens.
struct Follower {
    ctx: ApiContext,
    key: RunKey,
    job: JobName,
    stream: Stream,
    only: bool,
    tell: mpsc::Sender<Piece>,
}

impl Follower {
    async fn run(self, mut attempt: u32, mut offset: u64) {
        loop {
            if self.attempt(attempt, offset).await.is_none() {
                return;
            }
            let next = loop {
                if self.tell.is_closed() {
                    return;
                }
                match look(&self.ctx, self.key).await {
                    Ok(Look { outcome: None, last, .. }) if !self.only => {
                        match last.filter(|last| *last > attempt) {
                            Some(last) => break last,
                            None => tokio::time::sleep(POLL).await,
                        }
                    }
                    Ok(look) => {
                        if let Some(last) = look.last.filter(|last| *last > attempt && !self.only) {
                            break last;
                        }
                        return drop(self.tell.send(Piece::End(look.outcome)).await);
                    }
                    Err(error) if error.status == StatusCode::NOT_FOUND => {
                        return drop(self.tell.send(Piece::End(None)).await);
                    }
                    Err(_) => tokio::time::sleep(POLL).await,
                }
            };
            // Attempts that came and went meanwhile are told too.
            attempt += 1;
            offset = 0;
            debug_assert!(attempt <= next);
            if self.tell.send(Piece::Attempt(attempt)).await.is_err() {
                return;
            }
        }
    }

    /// Follows one attempt to its end; `None` when nobody listens any more.
    async fn attempt(&self, attempt: u32, mut offset: u64) -> Option<()> {
        let task = TaskId::of(&self.job, self.key, attempt);
        let mut heard = Instant::now();
        while !self.tell.is_closed() {
            match self.ctx.node.engine.output(&task, self.stream, offset).await {
                Ok(piece) => {
                    heard = Instant::now();
                    let start = piece.next.saturating_sub(piece.bytes.len() as u64);
                    if start > offset {
                        self.tell.send(Piece::Gap { attempt, dropped: start - offset }).await.ok()?;
                    }
                    let quiet = piece.bytes.is_empty();
                    offset = offset.max(piece.next);
                    if !quiet {
                        self.tell
                            .send(Piece::Output { attempt, offset: start, bytes: piece.bytes })
                            .await
                            .ok()?;
                    }
                    match (piece.complete, quiet) {
                        (true, _) => return Some(()),
                        (false, true) => tokio::time::sleep(POLL).await,
                        (false, false) => {}
                    }
                }
                Err(EngineError::NoSuchTask(_) | EngineError::OutputGone(_))
                    if self.is_over(attempt).await =>
                {
                    return Some(());
                }
                // The node where it is may never come back; and where another one leads, that one is to be asked.
                Err(problem)
                    if heard.elapsed() > UNREAD_AFTER && (self.is_over(attempt).await || !self.leads()) =>
                {
                    let reason = problem.to_string();
                    self.tell.send(Piece::Unread { attempt, reason }).await.ok()?;
                    return self.leads().then_some(());
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
        None
    }

    fn leads(&self) -> bool {
        matches!(self.ctx.node.status().role, Role::Leading(_))
    }

    /// Whether the attempt cannot write any more.
    async fn is_over(&self, attempt: u32) -> bool {
        let Some(run) = find_live(&self.ctx, self.key) else { return true };
        match &run.state {
            RunState::Running(live) => live.attempt > attempt,
            _ => run.attempts.last().is_some_and(|last| last.number >= attempt),
        }
    }
}

/// Makes text of bytes; holds back a character that is not yet whole.
#[derive(Default)]
struct Texts {
    attempt: u32,
    offset: u64,
    held: Vec<u8>,
}

impl Texts {
    fn events(&mut self, piece: Piece) -> Vec<Result<Event, Infallible>> {
        let mut events = Vec::new();
        if let Piece::Output { attempt, offset, bytes } = piece {
            if self.held.is_empty() {
                self.offset = offset;
            }
            self.attempt = attempt;
            self.held.extend(bytes);
            let whole = whole_characters(&self.held);
            self.flush(whole, &mut events);
            return events.into_iter().map(Ok).collect();
        }
        // Whatever was held back will not become whole any more.
        self.flush(self.held.len(), &mut events);
        events.push(match piece {
            Piece::Gap { attempt, dropped } => {
                event("gap", &json!({ "attempt": attempt, "dropped": dropped }))
            }
            Piece::Unread { attempt, reason } => {
                event("unread", &json!({ "attempt": attempt, "reason": reason }))
            }
            Piece::Attempt(attempt) => event("attempt", &json!({ "attempt": attempt })),
            Piece::End(outcome) => event("end", &json!({ "outcome": outcome })),
            Piece::Output { .. } => Event::default(),
        });
        events.into_iter().map(Ok).collect()
    }

    fn flush(&mut self, count: usize, events: &mut Vec<Event>) {
        if count == 0 {
            return;
        }
        let bytes: Vec<u8> = self.held.drain(..count).collect();
        let text = String::from_utf8_lossy(&bytes);
        let data = json!({ "attempt": self.attempt, "offset": self.offset, "text": text });
        self.offset += count as u64;
        events.push(event("output", &data).id(format!("{}:{}", self.attempt, self.offset)));
    }
}

fn event(name: &str, data: &serde_json::Value) -> Event {
    Event::default().event(name).data(data.to_string())
}

/// How many bytes there are before a character that is cut off at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    // No character has more than four bytes, so only the last three can begin one that is not whole.
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let needed = match bytes[at] {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => return bytes.len(),
        };
        return if needed > back { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::whole_characters;

    #[test]
    fn characters_are_never_cut() {
        let text = "aé€😀z".as_bytes();
        for end in 0..=text.len() {
            let whole = whole_characters(&text[..end]);
            assert!(end - whole <= 3);
            assert!(std::str::from_utf8(&text[..whole]).is_ok(), "{end}");
        }
        assert_eq!(whole_characters(b"\xff\xfe"), 2);
        assert_eq!(whole_characters(b"a\x80\x80\x80\x80"), 5);
    }
}
