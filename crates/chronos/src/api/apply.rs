//! A set of jobs, applied whole or not at all.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use scheduler::SET_MAX;
use scheduler::ids::{JobName, Seq};
use scheduler::notice::Channel;
use scheduler::request::{Answer, Definition, Manner, PlanText, Refusal, Request, Verdict};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::node::AskError;
use crate::wire::job::{self, Door, Reading, whole_definition};
use crate::wire::patch::{FieldChange, diff};
use crate::wire::shape::{Problem, stray};
use crate::wire::twice;

use super::conditions::Unconditional;
use super::editing::{self, Trial};
use super::error::{ApiError, ErrorBody, defect};
use super::extract::{Document, Params};
use super::{ApiContext, seq_header, view};

/// A set of jobs.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says in the document what the body looks like; it is read by its fields")]
pub(super) struct SetBody {
    /// Definitions, in any order: at most 10,000, of at most 8 MiB together.
    jobs: Vec<Object>,
    /// Only tell what would change; `dryRun=true` in the query says the same.
    #[schema(rename = "dryRun")]
    dry_run: Option<bool>,
}

/// Stands for a JSON object in the document.
type Object = Map<String, Value>;

/// What became, or would become, of one job.
#[derive(Serialize, ToSchema)]
struct AppliedJob {
    /// Name of the job; `?` where that could not be read.
    job: String,
    /// `created`, `updated` or `unchanged`; in a dry run also `refused`.
    result: &'static str,
    /// Its version after that; 0 where it is refused and there is none.
    version: u32,
    /// What changes, field by field; empty for a new job.
    changes: Vec<FieldChange>,
    /// What the author should know, one sentence each.
    warnings: Vec<String>,
    /// Why it would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Box<ErrorBody>>,
}

/// What became, or would become, of a set.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AppliedSet {
    /// Whether nothing was done.
    dry_run: bool,
    /// Jobs that would be refused; any but 0 would keep the whole set from being applied. Always 0 where it was.
    refused: usize,
    /// In the order in which they were given.
    jobs: Vec<AppliedJob>,
    /// Number of the change.
    seq: u64,
}

/// Creates or replaces all these jobs, or none. Parents may come after their children. A dry run says of each job what
/// would become of it, and why where it would be refused.
#[utoipa::path(
    post, path = "/v1/apply", tag = "jobs", params(Trial), request_body = SetBody,
    responses((status = 200, body = AppliedSet), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 413, body = ErrorBody))
)]
pub(super) async fn apply(
    State(ctx): State<ApiContext>,
    Params(trial): Params<Trial>,
    _: Unconditional,
    Document(body): Document,
) -> Result<Response, ApiError> {
    // Ten thousand definitions take a while.
    let context = ctx.clone();
    let read = tokio::task::spawn_blocking(move || Set::read(&context, &body, trial));
    let Set { jobs, manner } = read.await.map_err(|_| defect())??;
    if manner == Manner::DryRun || jobs.iter().any(|job| job.read.is_err()) {
        let (fates, seq) = foretold(&ctx, &jobs).await?;
        if manner == Manner::Do {
            return Err(together(fates.into_iter().filter_map(Result::err).collect()));
        }
        let refused = fates.iter().filter(|fate| fate.is_err()).count();
        let told = jobs.into_iter().zip(fates).map(|(job, fate)| job.told(&ctx, fate)).collect();
        return Ok(answered(AppliedSet { dry_run: true, refused, jobs: told, seq: seq.0 }));
    }
    let names: Vec<JobName> = jobs.iter().filter_map(|job| Some(job.definition()?.name.clone())).collect();
    let definitions = jobs.iter().filter_map(Written::definition).cloned().collect();
    let (answer, seq) = match ctx.try_ask(Request::Apply { definitions, manner }).await? {
        // It names the first one alone; whoever mends that wants to know of the others.
        Err(AskError::Refused(refusal)) if !blamed(&refusal).is_empty() => {
            let (fates, _) = foretold(&ctx, &jobs).await?;
            let first = ApiError::from(refusal);
            return Err(together(
                [first].into_iter().chain(fates.into_iter().filter_map(Result::err)).collect(),
            ));
        }
        answer => answer?,
    };
    let verdicts = match answer {
        Answer::Applied(verdicts) if verdicts.len() == names.len() => verdicts,
        // It had been applied before: what the jobs are now is what there is to tell.
        _ => present(&ctx, names),
    };
    let told = jobs.into_iter().zip(verdicts).map(|(job, verdict)| job.told(&ctx, Ok(verdict))).collect();
    Ok(answered(AppliedSet { dry_run: false, refused: 0, jobs: told, seq: seq.0 }))
}

fn answered(set: AppliedSet) -> Response {
    ([seq_header(Seq(set.seq))], Json(set)).into_response()
}

/// A set as it was sent.
struct Set {
    jobs: Vec<Written>,
    manner: Manner,
}

/// A job of a set: what was understood of it, or why nothing was.
struct Written {
    /// As it is shown.
    name: String,
    read: Result<Box<Understood>, ApiError>,
}

struct Understood {
    definition: Definition,
    warnings: Vec<String>,
    changes: Vec<FieldChange>,
}

impl Set {
    fn read(ctx: &ApiContext, body: &[u8], trial: Trial) -> Result<Self, ApiError> {
        let (documents, within) = set_of(body)?;
        let manner = trial.or(within).manner();
        if documents.len() > SET_MAX {
            return Err(Refusal::SetTooLarge { jobs: documents.len(), bytes: body.len() }.into());
        }
        let now = Timestamp::now();
        let read = |(i, document): (usize, &Value)| {
            let read = Understood::read(ctx, document, now);
            let name = read.as_ref().map_or_else(|_| shown(document), |job| job.definition.name.to_string());
            Written { name, read: read.map_err(|problem| within_set(i, document, problem).into()) }
        };
        let mut jobs: Vec<Written> = documents.iter().enumerate().map(read).collect();
        let channels = ctx.node.notifier.channels();
        let tells = Channel::ALL.into_iter().any(|channel| channels.has(channel));
        // A shadow tells nobody, and is to make no difference.
        if !tells && ctx.node.engine.name() != "shadow" {
            tell_of_nobody(&mut jobs);
        }
        Ok(Self { jobs, manner })
    }
}

impl Understood {
    fn read(ctx: &ApiContext, document: &Value, now: Timestamp) -> Result<Box<Self>, Problem> {
        let Reading { definition, mut warnings, lints } =
            job::read_value(document, Door::Any, &ctx.node.zones, now)?;
        warnings.extend(lints.iter().map(ToString::to_string));
        warnings.extend(ctx.unhonoured(&definition.body));
        let changes = changes(ctx, &definition);
        Ok(Box::new(Self { definition, warnings, changes }))
    }
}

impl Written {
    fn definition(&self) -> Option<&Definition> {
        self.read.as_ref().ok().map(|understood| &understood.definition)
    }

    fn told(self, ctx: &ApiContext, fate: Fate) -> AppliedJob {
        let (warnings, changes) = match self.read {
            Ok(understood) => (understood.warnings, understood.changes),
            Err(_) => (Vec::new(), Vec::new()),
        };
        match fate {
            Ok(Verdict { version, changed, .. }) => {
                let result = editing::result(version, changed);
                let changes = if result == "updated" { changes } else { Vec::new() };
                AppliedJob { job: self.name, result, version, changes, warnings, error: None }
            }
            Err(error) => {
                let projection = ctx.node.projection.read();
                let name = JobName::new(&self.name).ok();
                let version = name.and_then(|name| projection.job(&name)).map_or(0, |job| job.version);
                let (result, changes) = ("refused", Vec::new());
                AppliedJob { job: self.name, result, version, changes, warnings, error: Some(error.body) }
            }
        }
    }
}

/// What would become of a job.
type Fate = Result<Verdict, ApiError>;

/// How often the scheduler is asked about what is left of a set: each time it looks at all of it while everything else
/// waits, and nobody mends more at once.
const ROUNDS: usize = 16;

/// What would become of each job. The scheduler names one refusal; so it is asked again without the jobs that it blames,
/// and without those that come after them, until it takes the rest.
async fn foretold(ctx: &ApiContext, jobs: &[Written]) -> Result<(Vec<Fate>, Seq), ApiError> {
    let unread = jobs.iter().filter_map(|job| Some((job.name.clone(), job.read.as_ref().err()?.clone())));
    let mut refused: BTreeMap<String, ApiError> = unread.collect();
    let mut left: Vec<&Definition> = jobs.iter().filter_map(Written::definition).collect();
    let orphans = orphans(ctx, &left, &refused);
    refused.extend(orphans);
    let mut verdicts: BTreeMap<JobName, Verdict> = BTreeMap::new();
    let mut seq = Seq(0);
    for round in 0.. {
        leave_out(&mut left, &mut refused);
        if left.is_empty() {
            break;
        }
        if round == ROUNDS {
            let unseen = |definition: &&Definition| (definition.name.to_string(), unseen(&definition.name));
            refused.extend(left.iter().map(unseen));
            break;
        }
        let definitions = left.iter().copied().cloned().collect();
        match ctx.foretell(Request::Apply { definitions, manner: Manner::DryRun }).await? {
            Ok((found, at)) => {
                verdicts.extend(found.into_iter().map(|verdict| (verdict.job.clone(), verdict)));
                seq = at;
                break;
            }
            Err(AskError::Refused(refusal)) => {
                let blamed = blamed(&refusal);
                let error = ApiError::from(refusal);
                let known = |name: &JobName| left.iter().any(|definition| definition.name == *name);
                if !blamed.iter().any(known) {
                    return Err(error);
                }
                refused.extend(blamed.into_iter().map(|name| (name.to_string(), error.clone())));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let fate = |job: &Written| match (&job.read, job.definition()) {
        (Err(error), _) => Err(error.clone()),
        (_, Some(definition)) if !refused.contains_key(&job.name) => {
            verdicts.get(&definition.name).cloned().ok_or_else(defect)
        }
        _ => Err(refused.get(&job.name).cloned().unwrap_or_else(defect)),
    };
    Ok((jobs.iter().map(fate).collect(), seq))
}

/// Jobs with parents that are neither in the set nor among the jobs: the scheduler would name them one at a time.
fn orphans(
    ctx: &ApiContext,
    set: &[&Definition],
    refused: &BTreeMap<String, ApiError>,
) -> Vec<(String, ApiError)> {
    let names: BTreeSet<&str> =
        set.iter().map(|job| job.name.as_str()).chain(refused.keys().map(String::as_str)).collect();
    let projection = ctx.node.projection.read();
    let orphan = |definition: &&Definition| {
        let PlanText::Parents(parents) = &definition.plan else { return None };
        let is_missing =
            |parent: &&JobName| !names.contains(parent.as_str()) && projection.job(parent).is_none();
        let missing: Vec<JobName> = parents.iter().filter(is_missing).cloned().collect();
        let job = definition.name.clone();
        (!missing.is_empty()).then(|| (job.to_string(), Refusal::MissingParents { job, missing }.into()))
    };
    set.iter().filter_map(orphan).collect()
}

/// Takes out the jobs that are refused, and with them all that come after them: they would not be as they are meant.
fn leave_out(left: &mut Vec<&Definition>, refused: &mut BTreeMap<String, ApiError>) {
    let mut children: BTreeMap<&JobName, Vec<&JobName>> = BTreeMap::new();
    for definition in left.iter() {
        if let PlanText::Parents(parents) = &definition.plan {
            for parent in parents {
                children.entry(parent).or_default().push(&definition.name);
            }
        }
    }
    let mut gone: Vec<JobName> = refused.keys().filter_map(|name| JobName::new(name).ok()).collect();
    while let Some(parent) = gone.pop() {
        for child in children.get(&parent).into_iter().flatten() {
            if !refused.contains_key(child.as_str()) {
                refused.insert(child.to_string(), heir(child, &parent));
                gone.push((*child).clone());
            }
        }
    }
    left.retain(|definition| !refused.contains_key(definition.name.as_str()));
}

/// The code of refusals that follow from others.
const PARENT_REFUSED: &str = "parent_refused";

fn heir(job: &JobName, parent: &JobName) -> ApiError {
    let message = format!("job `{job}`: its parent `{parent}` is refused");
    ApiError::new(StatusCode::BAD_REQUEST, PARENT_REFUSED, message)
        .field("parents")
        .hint("mend the parent first")
}

fn unseen(job: &JobName) -> ApiError {
    let message = format!("job `{job}` was not looked at, as too much else is refused");
    ApiError::new(StatusCode::BAD_REQUEST, PARENT_REFUSED, message).hint("mend the others first")
}

/// The jobs that a refusal is about; none where it is about the set.
fn blamed(refusal: &Refusal) -> Vec<JobName> {
    match refusal {
        Refusal::Schedule { job, .. }
        | Refusal::NoParents(job)
        | Refusal::MissingParents { job, .. }
        | Refusal::TooManyParents { job, .. }
        | Refusal::TooManyEnds { job, .. }
        | Refusal::Twice(job) => vec![job.clone()],
        Refusal::Cycle { path } => path.clone(),
        _ => Vec::new(),
    }
}

/// Refusals that are told with the first one.
const TOLD_MAX: usize = 10;
/// Of each so many characters: enough for what is wrong, and where.
const TOLD_CHARS: usize = 200;

/// All refusals of a set as one: the first, and what else is to be mended.
fn together(refusals: Vec<ApiError>) -> ApiError {
    let mut refusals = refusals.into_iter().filter(|refusal| refusal.body.code != PARENT_REFUSED);
    let Some(mut first) = refusals.next() else { return defect() };
    // All jobs of a circle have the same.
    let mut seen = BTreeSet::from([first.body.message.clone()]);
    let messages = refusals.map(|refusal| refusal.body.message);
    let others: Vec<String> = messages.filter(|message| seen.insert(message.clone())).collect();
    if others.is_empty() {
        return first;
    }
    let count = others.len();
    let clipped = |message: &String| message.chars().take(TOLD_CHARS).collect::<String>();
    let mut told: Vec<String> = others.iter().take(TOLD_MAX).map(clipped).collect();
    if count > TOLD_MAX {
        told.push(format!("and {} more", count - TOLD_MAX));
    }
    let more = if count == 1 { "1 more is refused".into() } else { format!("{count} more are refused") };
    first.body.message = format!("{}; {more}: {}", first.body.message, told.join("; "));
    first
}

/// Tells with the first of the jobs that name somebody that nobody is told: once, as a set may have ten thousand.
fn tell_of_nobody(jobs: &mut [Written]) {
    let understood = jobs.iter_mut().filter_map(|job| job.read.as_mut().ok());
    let mut found = understood
        .filter(|job| job.definition.rules.alerts.as_ref().is_some_and(|rules| !rules.to.is_empty()));
    let Some(first) = found.next() else { return };
    let more = match found.count() {
        0 => String::new(),
        1 => ", as in 1 more of these jobs".into(),
        count => format!(", as in {count} more of these jobs"),
    };
    let told = "nobody is told: this server has no channel, such as --mail_server with --mail_from";
    first.warnings.push(format!("`owner`{more}: {told}"));
}

/// The jobs as they are.
fn present(ctx: &ApiContext, names: Vec<JobName>) -> Vec<Verdict> {
    let projection = ctx.node.projection.read();
    let verdict = |name: JobName| {
        let job = projection.job(&name);
        let (uid, version) = (job.map(|job| job.uid), job.map_or(0, |job| job.version));
        Verdict { job: name, uid, version, changed: false }
    };
    names.into_iter().map(verdict).collect()
}

/// The definitions of a body, `{"jobs": [..]}` or a bare list, and whether it asks for a dry run.
fn set_of(body: &[u8]) -> Result<(Vec<Value>, Option<bool>), ApiError> {
    let wrong = || {
        ApiError::invalid("jobs", "`jobs`: expected a list of definitions")
            .hint("send {\"jobs\": [{..}, {..}]}")
    };
    // A list is known by how it begins, so that no body is read twice.
    if body.trim_ascii_start().starts_with(b"[") {
        let document = twice::Document::of_json(body)
            .map_err(|e| editing::malformed(format!("the body is not valid JSON: {e}")))?;
        return match document.once()? {
            Value::Array(jobs) => Ok((jobs, None)),
            _ => Err(wrong()),
        };
    }
    let mut fields = editing::object(body)?;
    if let Some(problem) = stray(&fields, &["jobs", "dryRun"]) {
        return Err(problem.into());
    }
    let dry_run = match fields.get("dryRun") {
        None => None,
        Some(Value::Bool(dry_run)) => Some(*dry_run),
        Some(_) => return Err(ApiError::invalid("dryRun", "`dryRun`: expected true or false")),
    };
    match fields.swap_remove("jobs") {
        Some(Value::Array(jobs)) => Ok((jobs, dry_run)),
        _ => Err(wrong()),
    }
}

/// The name of a job that may be none.
fn shown(document: &Value) -> String {
    document.get("name").and_then(Value::as_str).unwrap_or("?").chars().take(JobName::LEN_MAX).collect()
}

/// What is wrong with one job, as seen from the set.
fn within_set(i: usize, document: &Value, mut problem: Problem) -> Problem {
    problem.message = format!("job `{}`: {}", shown(document), problem.message);
    problem.field =
        if problem.field.is_empty() { format!("jobs[{i}]") } else { format!("jobs[{i}].{}", problem.field) };
    problem
}

/// In what a definition differs from the job that is there.
pub(super) fn changes(ctx: &ApiContext, definition: &Definition) -> Vec<FieldChange> {
    let projection = ctx.node.projection.read();
    let Some(job) = projection.job(&definition.name) else { return Vec::new() };
    let (new, new_parents) = definition.draft();
    let parents = view::parents(&projection, job).unwrap_or_default();
    diff(&whole_definition(job, &parents), &whole_definition(&new, &new_parents))
}
