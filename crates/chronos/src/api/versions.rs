//! What a job was: its versions, in what they differ, and the ways back.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use scheduler::ids::{JobName, JobUid};
use scheduler::request::{Edit, Expect, Request};
use scheduler::revision::{Deed, Revision};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use store::{HistoryQuery, RevisionQuery};
use utoipa::{IntoParams, ToSchema};

use crate::wire::job::{instant, whole_definition};
use crate::wire::patch::{FieldChange, diff};
use crate::wire::shape::{Field, Shape, optional, required};

use super::ApiContext;
use super::conditions::{Conditions, Unconditional};
use super::editing::{self, Put, Trial};
use super::error::{ApiError, ErrorBody, defect, no_such_job};
use super::extract::{self, Document, Params, Segments, instant_of, limit};
use super::lists::{self, Order, Page, Way, words};

/// A version of a definition.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct VersionView {
    /// Name of the job.
    job: String,
    /// Which creation of it.
    uid: String,
    /// Counts changes, from 1.
    version: u32,
    /// When it came about.
    at: String,
    /// By whom, where anybody had to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    by: String,
    /// How: `created`, `replaced`, `patched`, `applied`, `rolledBack`, `restored`, `deleted`, `inherited` (its parent was
    /// deleted) or `disabled` (by its failures).
    how: &'static str,
    /// The version that was brought back.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<u32>,
    /// The fields in which it differs from the version before it, as far as that is kept.
    changed: Vec<String>,
}

impl VersionView {
    fn of(revision: &Revision, before: Option<&Revision>) -> Self {
        let changed = before.map_or_else(Vec::new, |before| {
            diff(&fields(before), &fields(revision)).into_iter().map(|change| change.field).collect()
        });
        Self {
            job: revision.job.name.to_string(),
            uid: revision.job.uid.to_string(),
            version: revision.job.version,
            at: instant(revision.at),
            by: revision.by.to_string(),
            how: revision.deed.word(),
            of: if let Deed::RolledBack { to } = revision.deed { Some(to) } else { None },
            changed,
        }
    }
}

pub(super) fn fields(revision: &Revision) -> Map<String, Value> {
    whole_definition(&revision.job, &revision.parents)
}

/// An earlier creation of a job, which was deleted.
#[derive(Serialize, ToSchema)]
pub(super) struct Former {
    /// Which.
    uid: String,
    /// Its last version.
    version: u32,
    /// When that came about.
    at: String,
}

/// A page of versions.
#[derive(Serialize, ToSchema)]
pub(super) struct Versions {
    /// The newest first, or in the order that was asked for.
    versions: Vec<VersionView>,
    /// Cursor of the next page, if there is one.
    next: Option<String>,
    /// Of a job that was restored: the creations of this name before it, the newest first; at most ten.
    former: Vec<Former>,
}

/// Which creation of a job.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Creation {
    /// Its uid, as `former` of the list has it; the present one, else the last one, if absent.
    uid: Option<String>,
}

/// Earlier creations that are told of.
const FORMER_MAX: usize = 10;

/// Which versions of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// How they came about, separated by commas: `created`, `replaced`, `patched`, `applied`, `rolledBack`, `restored`,
    /// `deleted`, `inherited`, `disabled`.
    how: Option<String>,
    /// Only by this user.
    by: Option<String>,
    /// Only those that came about at or after this.
    from: Option<String>,
    /// Only those that came about before this.
    to: Option<String>,
    /// `-version` (if absent) or `version`.
    sort: Option<String>,
    /// At most so many; 1 to 1000, 50 if absent.
    limit: Option<usize>,
    /// `next` of the page before, with the same `sort`.
    cursor: Option<String>,
}

/// What versions are sorted by.
#[derive(Clone, Copy, PartialEq)]
enum VersionField {
    Version,
}

impl lists::Field for VersionField {
    const ALL: &'static [(&'static str, Self)] = &[("version", Self::Version)];
}

/// The creation of a job that its name means: the present one, else the last one.
async fn uid_of(ctx: &ApiContext, name: &JobName) -> Result<JobUid, ApiError> {
    if let Some(uid) = ctx.node.projection.read().job(name).map(|job| job.uid) {
        return Ok(uid);
    }
    last_of(ctx, name).await.map(|revision| revision.job.uid)
}

async fn last_of(ctx: &ApiContext, name: &JobName) -> Result<Revision, ApiError> {
    let query = RevisionQuery { name: Some(name.clone()), limit: 1, ..RevisionQuery::default() };
    ctx.node.store.revisions(&query).await?.revisions.pop().ok_or_else(|| no_such_job(name))
}

async fn revision(
    ctx: &ApiContext,
    name: &JobName,
    creation: Option<JobUid>,
    version: u32,
) -> Result<Revision, ApiError> {
    let uid = match creation {
        Some(uid) => uid,
        None => uid_of(ctx, name).await?,
    };
    let found = ctx.node.store.revision(uid, version).await?;
    found.filter(|found| found.job.name == *name).ok_or_else(|| no_such_version(name, version))
}

/// The creation that is asked for, if one is.
fn creation(uid: Option<&str>) -> Result<Option<JobUid>, ApiError> {
    let wrong = || {
        ApiError::invalid("uid", "`uid`: expected the uid of a job")
            .hint("GET /v1/jobs/{name}/versions lists them as `former`")
    };
    uid.map(|uid| uid.parse().map_err(|_| wrong())).transpose()
}

/// Other creations of a name that are kept.
async fn former(ctx: &ApiContext, name: &JobName, but: JobUid) -> Result<Vec<Former>, ApiError> {
    let query = RevisionQuery {
        name: Some(name.clone()),
        limit: HistoryQuery::LIMIT_MAX,
        ..RevisionQuery::default()
    };
    let mut seen = BTreeSet::from([but]);
    let revisions = ctx.node.store.revisions(&query).await?.revisions;
    let last = revisions.iter().filter(|revision| seen.insert(revision.job.uid)).take(FORMER_MAX);
    let told = last.map(|Revision { job, at, .. }| Former {
        uid: job.uid.to_string(),
        version: job.version,
        at: instant(*at),
    });
    Ok(told.collect())
}

fn no_such_version(name: &JobName, version: u32) -> ApiError {
    let message = format!("version {version} of job `{name}` is not there");
    ApiError::new(StatusCode::NOT_FOUND, "no_such_version", message)
        .hint(format!("the newest {} are kept; GET /v1/jobs/{name}/versions lists them", Revision::KEPT))
}

/// The versions of a job, the newest first; of a deleted one too, as long as its history is kept.
#[utoipa::path(
    get, path = "/v1/jobs/{name}/versions", tag = "jobs", params(("name" = String, Path), Wanted, Creation),
    responses((status = 200, body = Versions), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(super) async fn list(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
    Params(wanted): Params<Wanted>,
    Params(Creation { uid }): Params<Creation>,
) -> Result<Json<Versions>, ApiError> {
    let limit = limit(wanted.limit, 50, 1000)?;
    let order = Order::of(wanted.sort.as_deref(), (VersionField::Version, Way::Down))?;
    let how = words("how", wanted.how.as_deref(), &Deed::WORDS.map(|word| (word, word)))?;
    let (from, to) = (instant_of("from", &wanted.from)?, instant_of("to", &wanted.to)?);
    let mut page = Page::new(order.place(wanted.cursor.as_deref(), |id| id.parse::<u32>().ok())?, limit);
    let uid = match creation(uid.as_deref())? {
        Some(uid) => uid,
        None => uid_of(&ctx, &name).await?,
    };
    // All that are kept, which are few: what has changed is seen beside the version before.
    let query = RevisionQuery {
        job: Some(uid),
        name: Some(name.clone()),
        limit: HistoryQuery::LIMIT_MAX,
        ..RevisionQuery::default()
    };
    let kept = ctx.node.store.revisions(&query).await?.revisions;
    let before = kept.iter().skip(1).map(Some).chain([None]);
    for (revision, before) in kept.iter().zip(before) {
        let meant = (how.is_empty() || how.contains(&revision.deed.word()))
            && wanted.by.as_deref().is_none_or(|by| *revision.by == *by)
            && from.is_none_or(|from| revision.at >= from)
            && to.is_none_or(|to| revision.at < to);
        if meant {
            let version = revision.job.version;
            page.offer(order.number(Some(version.into())), &version, || (revision, before));
        }
    }
    let (page, next) = page.told(order);
    let versions = page.into_iter().map(|(revision, before)| VersionView::of(revision, before)).collect();
    // To look for more than is known to be there may take a store long.
    let former = match kept.last() {
        Some(Revision { deed: Deed::Restored, .. }) => former(&ctx, &name, uid).await?,
        _ => Vec::new(),
    };
    Ok(Json(Versions { versions, next, former }))
}

/// One version, whole.
#[derive(Serialize, ToSchema)]
pub(super) struct WholeVersion {
    /// What a list says about it.
    #[serde(flatten)]
    version: VersionView,
    /// The definition, ready to be applied.
    #[schema(value_type = Object)]
    definition: Map<String, Value>,
}

/// One version of a job, with its definition.
#[utoipa::path(
    get, path = "/v1/jobs/{name}/versions/{version}", tag = "jobs",
    params(("name" = String, Path), ("version" = u32, Path), Creation),
    responses((status = 200, body = WholeVersion), (status = 404, body = ErrorBody))
)]
pub(super) async fn show(
    State(ctx): State<ApiContext>,
    Segments((name, version)): Segments<(String, String)>,
    Params(Creation { uid }): Params<Creation>,
) -> Result<Json<WholeVersion>, ApiError> {
    let (name, version) = named(&name, &version)?;
    let revision = revision(&ctx, &name, creation(uid.as_deref())?, version).await?;
    let before = ctx.node.store.revision(revision.job.uid, version.saturating_sub(1)).await?;
    Ok(Json(WholeVersion {
        version: VersionView::of(&revision, before.as_ref()),
        definition: fields(&revision),
    }))
}

fn named(name: &str, version: &str) -> Result<(JobName, u32), ApiError> {
    let name = extract::job_name("name", name)?;
    let version =
        version.parse().map_err(|_| ApiError::invalid("version", "`version`: expected a number"))?;
    Ok((name, version))
}

/// The other side of a comparison.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct With {
    /// A version of the same creation; the newest if absent.
    with: Option<u32>,
}

/// In what two versions differ.
#[derive(Serialize, ToSchema)]
pub(super) struct Difference {
    /// The version in the path.
    from: u32,
    /// The other one.
    to: u32,
    /// Field by field; empty when the definitions are the same.
    changes: Vec<FieldChange>,
}

/// In what two versions of a job differ, field by field.
#[utoipa::path(
    get, path = "/v1/jobs/{name}/versions/{version}/diff", tag = "jobs",
    params(("name" = String, Path), ("version" = u32, Path), With, Creation),
    responses((status = 200, body = Difference), (status = 404, body = ErrorBody))
)]
pub(super) async fn compare(
    State(ctx): State<ApiContext>,
    Segments((name, version)): Segments<(String, String)>,
    Params(With { with }): Params<With>,
    Params(Creation { uid }): Params<Creation>,
) -> Result<Json<Difference>, ApiError> {
    let (name, version) = named(&name, &version)?;
    let creation = creation(uid.as_deref())?;
    let one = revision(&ctx, &name, creation, version).await?;
    let other = match with {
        Some(with) => revision(&ctx, &name, creation, with).await?,
        None => {
            let query = RevisionQuery { job: Some(one.job.uid), limit: 1, ..RevisionQuery::default() };
            let newest = ctx.node.store.revisions(&query).await?.revisions.pop();
            newest.ok_or_else(|| no_such_version(&name, version))?
        }
    };
    let changes = diff(&fields(&one), &fields(&other));
    Ok(Json(Difference { from: one.job.version, to: other.job.version, changes }))
}

/// What to bring back.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says in the document what the body looks like; it is read by its shape")]
pub(super) struct RollbackBody {
    /// Which version.
    version: u32,
    /// Of which creation, as `former` of the list of versions has it; of the present one if absent.
    uid: Option<String>,
    /// Only tell what would change; `dryRun=true` in the query says the same.
    #[schema(rename = "dryRun")]
    dry_run: Option<bool>,
}

const ROLLBACK: [Field; 3] = [
    required("version", Shape::Whole(1, u32::MAX as i64)),
    optional("uid", Shape::Text),
    optional("dryRun", Shape::Bool),
];

/// Brings an earlier version of a job back, as a new version. Its parents must exist.
#[utoipa::path(
    post, path = "/v1/jobs/{name}/rollback", tag = "jobs", params(("name" = String, Path), Trial),
    request_body = RollbackBody,
    responses((status = 200, body = editing::Written), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 412, body = ErrorBody))
)]
pub(super) async fn rollback(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
    Params(trial): Params<Trial>,
    Conditions(expect): Conditions,
    Document(body): Document,
) -> Result<Response, ApiError> {
    let read = extract::object(&body, &ROLLBACK).map_err(|wrong| match wrong.body.field.as_str() {
        "version" => wrong.hint(format!("GET /v1/jobs/{name}/versions lists them")),
        _ => wrong,
    })?;
    let to = read.get("version").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let to = to.ok_or_else(defect)?;
    let trial = trial.or(read.get("dryRun").and_then(Value::as_bool));
    if ctx.node.projection.read().job(&name).is_none() {
        let deleted = last_of(&ctx, &name).await?;
        let message = format!("job `{name}` is deleted");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "no_such_job", message)
            .hint(format!("restore it first: POST /v1/jobs/{}/restore", deleted.job.name)));
    }
    let creation = creation(read.get("uid").and_then(Value::as_str))?;
    let definition = revision(&ctx, &name, creation, to).await?.definition();
    // Without a condition: at least not created anew, if it is deleted just now.
    let expect = Some(expect.unwrap_or(Expect::Present));
    let put = Put::Edited(Edit::RollBack { to });
    Ok(editing::write(&ctx, trial, put, definition, expect, Vec::new()).await??)
}

/// Brings a deleted job back as it was last, as a new job: it has the old definition, and begins to count anew.
#[utoipa::path(
    post, path = "/v1/jobs/{name}/restore", tag = "jobs", params(("name" = String, Path)),
    responses((status = 201, body = editing::Written), (status = 404, body = ErrorBody),
        (status = 412, body = ErrorBody))
)]
pub(super) async fn restore(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
    _: Unconditional,
) -> Result<Response, ApiError> {
    let definition = last_of(&ctx, &name).await?.definition();
    let edit = Request::Edit { definition, edit: Edit::Restore };
    let (answer, seq) = ctx.ask(Conditions(Some(Expect::Absent)).on(&name, edit)).await?;
    Ok(editing::written(&name, &answer, seq, Vec::new()))
}
