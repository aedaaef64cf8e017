//! A whole store as one file, and back again.

use std::convert::Infallible;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use store::StoreError;
use store::backup::{self, BackupError, Extent, StageError, Staged};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

use super::ApiContext;
use super::conditions::Unconditional;
use super::error::{ApiError, ErrorBody, defect};
use super::extract::Params;
use crate::node::{AskError, Occupied, RestoreError, Role};
use crate::wire::job::instant;

/// JSON, one value a line.
pub(super) const LINES: &str = "application/x-ndjson";
/// Pieces of 64 KiB between the store and the network.
const PIECES: usize = 8;

/// What a backup holds.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// `false` leaves out the history of ended runs.
    #[serde(default = "yes")]
    history: bool,
}

fn yes() -> bool {
    true
}

/// Everything that the store holds as of one moment, one JSON value a line, while the server goes on. The last line has
/// a checksum of the others: without it the backup was cut and will not be taken back.
#[utoipa::path(
    get, path = "/v1/backup", tag = "node", params(Wanted),
    responses(
        (status = 200, content_type = "application/x-ndjson", body = String), (status = 409, body = ErrorBody),
        (status = 503, body = ErrorBody)
    )
)]
pub(super) async fn take(
    State(ctx): State<ApiContext>,
    Params(wanted): Params<Wanted>,
) -> Result<Response, ApiError> {
    not_of_a_shadow(&ctx, "a backup of it would tell a server that runs tasks of runs that never were")?;
    let extent = if wanted.history { Extent::Everything } else { Extent::WithoutHistory };
    let (to, mut from) = mpsc::channel::<Vec<u8>>(PIECES);
    let store = ctx.node.store.clone();
    let taking = tokio::spawn(async move {
        let done = store.backup(extent, to).await;
        if let Err(problem) = &done {
            tracing::warn!(%problem, "a backup was not taken whole");
        }
        done
    });
    // What goes wrong before the first piece can still be answered.
    let Some(first) = from.recv().await else {
        let problem = taking.await.map(Result::err).ok().flatten();
        let message = problem.map_or_else(|| "the store gave nothing".into(), |problem| problem.to_string());
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message)
            .hint("try again in a moment"));
    };
    // Fused, because a compressor asks once more after the end.
    let rest = stream::unfold(from, |mut from| async move { Some((from.recv().await?, from)) }).fuse();
    let pieces =
        stream::once(async { first }).chain(rest).map(|piece| Ok::<_, Infallible>(Bytes::from(piece)));
    Ok(([(header::CONTENT_TYPE, LINES)], Body::from_stream(pieces)).into_response())
}

/// How a backup is taken back.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct How {
    /// `true` allows that jobs which are there are replaced.
    #[serde(default)]
    replace: bool,
    /// `true` only checks the backup.
    #[serde(default)]
    dry_run: bool,
}

/// What was, or would be, restored.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RestoredView {
    /// Whether it was only checked.
    dry_run: bool,
    /// When the backup was taken.
    taken: String,
    /// Jobs in it.
    jobs: usize,
    /// Records of the history in it.
    records: u64,
    /// Jobs that were, or would be, replaced.
    replaced: usize,
    /// Where the server has written what was there before, on its own disk.
    undo: Option<String>,
}

/// Puts a backup in the place of everything, while the server runs: whole or not at all. Tasks of runs that the backup
/// does not know are ended, slots since then get their outcome by `catchUp`, and what was there is written down first.
#[utoipa::path(
    post, path = "/v1/restore", tag = "node", params(How),
    request_body(content_type = "application/x-ndjson", content = String),
    responses(
        (status = 200, body = RestoredView), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 503, body = ErrorBody), (status = 507, body = ErrorBody)
    )
)]
pub(super) async fn restore(
    State(ctx): State<ApiContext>,
    Params(how): Params<How>,
    _: Unconditional,
    body: Body,
) -> Result<Json<RestoredView>, ApiError> {
    if !how.dry_run
        && let Err(refused) = not_of_a_shadow(&ctx, "runs that were would stand beside some that it made up")
    {
        send(body, None).await;
        return Err(refused);
    }
    if !how.dry_run
        && let Err(refused) = may_restore(&ctx, &how).await
    {
        send(body, None).await;
        return Err(refused);
    }
    let staged = stage(&ctx, body).await?;
    let (taken, records) = (instant(staged.header.taken), staged.records);
    let (staged, jobs) = checked(staged).await?;
    let (mut replaced, mut undo) = (ctx.node.projection.read().state().jobs.len(), None);
    if !how.dry_run {
        let occupied = if how.replace { Occupied::Replace } else { Occupied::Refuse };
        let folder = ctx.settings.data_dir.clone();
        let restored = match ctx.node.restore(staged, occupied, folder, super::access::author()).await {
            Err(RestoreError::NotLeading) => return Err(ctx.not_leading()),
            restored => restored?,
        };
        ctx.node.projection.wait_for(restored.seq, super::ANSWER_WITHIN).await;
        (replaced, undo) = (restored.replaced, restored.undo.map(|path| path.display().to_string()));
    }
    Ok(Json(RestoredView { dry_run: how.dry_run, taken, jobs, records, replaced, undo }))
}

/// What a shadow has recorded never mixes with what was, see its data folder.
fn not_of_a_shadow(ctx: &ApiContext, why: &str) -> Result<(), ApiError> {
    if ctx.node.engine.name() != "shadow" {
        return Ok(());
    }
    let message = format!("this server is a shadow, whose history is of its own making: {why}");
    Err(ApiError::new(StatusCode::CONFLICT, "shadow", message)
        .hint("definitions alone go both ways: `chronos export` and `chronos apply`"))
}

/// Before much is sent for nothing.
async fn may_restore(ctx: &ApiContext, how: &How) -> Result<(), ApiError> {
    if !matches!(ctx.node.status().role, Role::Leading(_)) {
        return Err(ctx.not_leading());
    }
    match ctx.node.projection.read().state().jobs.len() {
        0 => Ok(()),
        _ if how.replace => Ok(()),
        jobs => Err(RestoreError::Occupied(jobs).into()),
    }
}

async fn stage(ctx: &ApiContext, body: Body) -> Result<Staged, ApiError> {
    let (to, from) = mpsc::channel(PIECES);
    let (staged, ()) = tokio::join!(ctx.node.store.stage(from), send(body, Some(to)));
    Ok(staged?)
}

/// Hands a body on as long as anyone wants it, and reads it to its end all the same: a client that is cut off while it
/// sends may never see the answer.
async fn send(body: Body, to: Option<mpsc::Sender<Vec<u8>>>) {
    let (mut to, mut pieces) = (to, body.into_data_stream());
    while let Some(Ok(piece)) = pieces.next().await {
        if let Some(wanted) = &to
            && wanted.send(piece.to_vec()).await.is_err()
        {
            to = None;
        }
    }
}

/// Looks at the whole of it, away from the threads that answer.
async fn checked(staged: Staged) -> Result<(Staged, usize), ApiError> {
    let work = move || {
        let state = staged.state()?;
        backup::check(&state)?;
        Ok((staged, state.jobs.len()))
    };
    let done: Result<Result<_, StageError>, _> = tokio::task::spawn_blocking(work).await;
    match done {
        Ok(done) => Ok(done?),
        Err(_) => Err(defect()),
    }
}

impl From<StageError> for ApiError {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Backup(problem) => problem.into(),
            StageError::Store(problem) => not_stored(&problem),
        }
    }
}

impl From<BackupError> for ApiError {
    fn from(problem: BackupError) -> Self {
        let mut message = problem.to_string();
        if let Some(cause) = std::error::Error::source(&problem) {
            message = format!("{message}: {cause}");
        }
        let hint = match problem {
            BackupError::NotABackup => "give it a file that `chronos backup` has written",
            BackupError::Newer { .. } => {
                "restore it with the version of Chronos that wrote it, or a newer one"
            }
            BackupError::Cut { .. } | BackupError::Checksum => {
                "take an older backup; nothing has changed here"
            }
            _ => "the file was changed since it was written; nothing has changed here",
        };
        Self::new(StatusCode::BAD_REQUEST, "bad_backup", message).hint(hint)
    }
}

impl From<RestoreError> for ApiError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::NotLeading => AskError::NotLeading.into(),
            RestoreError::OutcomeUnknown => super::error::outcome_unknown(error.to_string()),
            RestoreError::Busy => Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", error.to_string())
                .hint("nothing has changed by this one; look what the other has done, and ask again"),
            RestoreError::Occupied(_) => Self::new(StatusCode::CONFLICT, "not_empty", error.to_string())
                .field("replace")
                .hint("if that is meant, say `replace=true`, or `--yes` on the command line"),
            RestoreError::Undo(ref cause) => nothing_restored(format!("{error}: {cause:#}")),
            RestoreError::Store(problem) => not_stored(&problem),
        }
    }
}

fn not_stored(problem: &StoreError) -> ApiError {
    match problem {
        StoreError::TooLarge(why) => ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "store_full", why)
            .hint("nothing has changed; this kind of store holds no more: restore it where the state is in PostgreSQL"),
        problem => nothing_restored(problem.to_string()),
    }
}

fn nothing_restored(message: String) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message)
        .hint("nothing has changed; see that the disk of the server has room, and try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_not_told_to_try_again() {
        let error: ApiError = StageError::Store(StoreError::TooLarge("100001 jobs".into())).into();
        let told = format!("{error:?}");
        assert!(told.contains("store_full") && told.contains("100001 jobs"), "{told}");
        assert!(told.contains("nothing has changed") && !told.contains("disk"), "{told}");
        let error: ApiError = RestoreError::Store(StoreError::Unavailable("no answer".into())).into();
        assert!(format!("{error:?}").contains("the disk of the server"), "{error:?}");
    }
}
