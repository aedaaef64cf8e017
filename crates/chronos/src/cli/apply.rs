//! `chronos apply`: reads job files, puts them as one set where the server takes it, else parents before children, and
//! reports each job.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use futures_util::StreamExt;
use reqwest::Method;
use scheduler::request::Manner;
use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::failure::{Exit, Failure};
use super::progress::{Progress, Show, Unit};
use super::sets::sets;
use super::{ClientArgs, Format};
use crate::wire::twice::Document;

pub(super) const HELP: &str = "\
A file holds one job, an array of jobs, or, in YAML, several documents. A folder means all files in it and
below that end in .json, .yaml or .yml. `-` is the standard input.

Up to 10,000 jobs (8 MiB) are applied at once. If the server refuses one of them, or there are more,
they are applied one by one, parents first; with --atomic nothing is. A dry run takes any number.

Examples:
  chronos apply nightly.yaml
  chronos apply jobs/ --dry-run
  chronos apply jobs/ more.json
  chronos show nightly | sed s/PT1H/PT2H/ | chronos apply -";

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// Files, folders, or `-`
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only tell what would change, field by field
    #[arg(long)]
    dry_run: bool,
    /// All jobs or none: if one is refused, nothing is applied
    #[arg(long)]
    atomic: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// A job as some file has it.
pub(super) struct Written {
    pub(super) name: String,
    /// Names in its `parents`; empty for a job with a schedule.
    pub(super) parents: Vec<String>,
    pub(super) definition: Value,
    /// For messages: where it was written.
    pub(super) origin: String,
}

impl Written {
    pub(super) fn new(name: String, definition: Value, origin: String) -> Self {
        let parents = definition.get("parents").and_then(Value::as_array);
        let parents = parents.into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect();
        Self { name, parents, definition, origin }
    }
}

impl AsRef<Self> for Written {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// What there is to tell of a job or a file, as it comes.
pub(crate) enum News<'a> {
    /// The job is as written.
    Applied { job: &'a str, origin: &'a str, word: &'static str, warnings: &'a [String] },
    /// A file or a job could not be applied; others go on.
    Refused(&'a Failure),
}

/// Takes news; its failure ends the work.
type Tell<'a> = &'a mut dyn FnMut(News<'_>) -> std::io::Result<()>;

/// What became of a job.
enum Applied {
    Done { word: &'static str, warnings: Vec<String> },
    Failed(Failure),
}

/// Jobs on their way at once: enough for the server to commit them together, few enough to leave it to others.
const IN_FLIGHT: usize = 32;
/// Largest file: far more than the largest useful set of jobs.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What to do with jobs that are refused as a set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// Apply those that are not refused by themselves.
    OneByOne,
    /// Nothing.
    Refuse,
}

pub(crate) async fn run(args: &ApplyArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let format = args.client.output;
    if args.dry_run {
        return dry_run(args).await;
    }
    let otherwise = if args.atomic { Otherwise::Refuse } else { Otherwise::OneByOne };
    let mut lines = Vec::new();
    let mut tell = |news: News<'_>| {
        match (news, format) {
            (News::Refused(failure), _) => failure.print(),
            (News::Applied { job, origin, word, warnings }, Format::Json) => {
                lines.push(json!({ "job": job, "result": word, "origin": origin, "warnings": warnings }));
            }
            (News::Applied { job, word, warnings, .. }, Format::Table) => {
                for warning in warnings {
                    super::warn(&format!("job `{job}`: {warning}"));
                }
                super::out(format!("{word} job `{job}`\n").as_bytes())?;
            }
        }
        Ok(())
    };
    let show = Show::unless(args.quiet);
    let done = apply_all(client, &args.paths, otherwise, show, &mut tell).await;
    if format == Format::Json {
        super::out_json(&Value::Array(lines))?;
    }
    done
}

/// Tells what would become of each job.
async fn dry_run(args: &ApplyArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let (jobs, failures) = read_all(&args.paths);
    failures.iter().for_each(Failure::print);
    let mut worst = failures.first().map(|failure| failure.exit);
    let mut errors = failures.len();
    if !jobs.is_empty() {
        let refused = foretell(client, args, jobs).await?;
        errors += refused;
        worst = worst.or((refused > 0).then_some(Exit::Refused));
    }
    let Some(exit) = worst else { return Ok(()) };
    let would = if args.atomic { "nothing would be applied" } else { "not everything would be applied" };
    Err(Failure::new(exit, anyhow::anyhow!("{would}: {}", counted(errors))))
}

/// Asks the server what would become of each job, and says how many it would refuse. More than it takes at once it is asked
/// in parts; with `--atomic` it takes no more, and says so.
async fn foretell(client: &Client, args: &ApplyArgs, jobs: Vec<Written>) -> Result<usize, Failure> {
    let count = jobs.len() as u64;
    let mut told: BTreeMap<String, Value> = BTreeMap::new();
    let order: Vec<(String, String)> =
        jobs.iter().map(|job| (job.name.clone(), job.origin.clone())).collect();
    let (mut refused, mut seq) = (0, 0);
    let parts = if args.atomic { vec![jobs] } else { sets(jobs) };
    let mut progress = Progress::new("dry run", Unit::Things("jobs"), Some(count), Show::unless(args.quiet));
    for part in parts {
        let mut answer = put_set(client, &part, Manner::DryRun).await?.body;
        refused += answer["refused"].as_u64().unwrap_or_default();
        seq = answer["seq"].as_u64().unwrap_or(seq);
        let fates = answer["jobs"].as_array_mut().map(std::mem::take).unwrap_or_default();
        told.extend(part.iter().map(|job| job.name.clone()).zip(fates));
        progress.add(part.len() as u64);
    }
    drop(progress);
    let refused = usize::try_from(refused).unwrap_or(usize::MAX);
    let fates = order.into_iter().filter_map(|(name, origin)| Some((origin, told.remove(&name)?)));
    if args.client.output == Format::Json {
        let jobs: Vec<Value> = fates.map(|(_, fate)| fate).collect();
        super::out_json(&json!({ "dryRun": true, "refused": refused, "jobs": jobs, "seq": seq }))?;
        return Ok(refused);
    }
    for (origin, fate) in fates {
        tell_fate(origin, &fate)?;
    }
    Ok(refused)
}

/// What would become of one job.
fn tell_fate(origin: String, job: &Value) -> std::io::Result<()> {
    let name = job["job"].as_str().unwrap_or_default();
    let would = match job["result"].as_str() {
        Some("refused") => {
            super::client::refusal(&job["error"]).context(origin).print();
            return Ok(());
        }
        Some("created") => "would be created",
        Some("unchanged") => "would stay as it is",
        _ => "would be updated",
    };
    for warning in job["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        super::warn(&format!("job `{name}`: {warning}"));
    }
    let told = format!("job `{name}` {would}\n{}", super::versions::lines(&job["changes"]));
    super::out(told.as_bytes())
}

/// The jobs, if all of them could be read.
fn whole(jobs: Vec<Written>, mut failures: Vec<Failure>) -> Result<Vec<Written>, Failure> {
    let Some(last) = failures.pop() else { return Ok(jobs) };
    failures.iter().for_each(Failure::print);
    Err(last)
}

/// Sends all jobs as one set.
async fn put_set(client: &Client, jobs: &[Written], manner: Manner) -> Result<Answer, Failure> {
    send_set(client, &jobs.iter().map(|job| &job.definition).collect::<Vec<_>>(), manner).await
}

/// Sends definitions as one set. A dry run fails as the set itself would.
pub(super) async fn put_definitions(
    client: &Client,
    jobs: &[&Value],
    manner: Manner,
) -> Result<Answer, Failure> {
    let answer = send_set(client, jobs, manner).await?;
    let told = answer.body["jobs"].as_array().into_iter().flatten();
    let mut refused = told.map(|job| &job["error"]).filter(|error| error.is_object());
    // Those that come after one that is refused are not the reason.
    match refused.find(|error| error["code"] != "parent_refused") {
        None => Ok(answer),
        Some(error) => Err(super::client::refusal(error)),
    }
}

async fn send_set(client: &Client, jobs: &[&Value], manner: Manner) -> Result<Answer, Failure> {
    let body = json!({ "jobs": jobs, "dryRun": manner == Manner::DryRun });
    client.change(Method::POST, &["v1", "apply"], &[], Some(&body)).await
}

/// Applies the jobs as one set, so that a chain is whole from its first cycle on. `None`: the server took it.
async fn apply_set(
    client: &Client,
    jobs: Vec<Written>,
    otherwise: Otherwise,
    tell: Tell<'_>,
) -> Result<Option<Vec<Written>>, Failure> {
    if jobs.len() > scheduler::SET_MAX && otherwise == Otherwise::OneByOne {
        return Ok(Some(jobs));
    }
    let answer = match put_set(client, &jobs, Manner::Do).await {
        Err(failure) if failure.exit == Exit::Refused && otherwise == Otherwise::OneByOne => {
            return Ok(Some(jobs));
        }
        Err(failure) if failure.exit == Exit::Refused => return Err(failure.context("nothing was applied")),
        answer => answer?,
    };
    let applied = answer.body["jobs"].as_array().into_iter().flatten();
    for (job, applied) in jobs.iter().zip(applied) {
        let applied = Answer { body: applied.clone() };
        let (word, warnings) = (word(&applied), warnings(&applied));
        tell(News::Applied { job: &job.name, origin: &job.origin, word, warnings: &warnings })?;
    }
    Ok(None)
}

/// Applies all jobs of all paths: as one set, or else parents first, going on after a refusal.
pub(crate) async fn apply_all(
    client: &Client,
    paths: &[PathBuf],
    otherwise: Otherwise,
    show: Show,
    tell: Tell<'_>,
) -> Result<(), Failure> {
    let (mut jobs, mut failures) = read_all(paths);
    if otherwise == Otherwise::Refuse {
        jobs = whole(jobs, std::mem::take(&mut failures))?;
    }
    if failures.is_empty() {
        match apply_set(client, jobs, otherwise, tell).await? {
            Some(refused) => jobs = refused,
            None => return Ok(()),
        }
    }
    let waves = in_waves(jobs, &mut failures);
    for failure in &failures {
        tell(News::Refused(failure))?;
    }
    let mut worst = failures.first().map(|failure| failure.exit);
    let mut refused = BTreeSet::new();
    let total = waves.iter().map(Vec::len).sum::<usize>() as u64;
    let mut progress = Progress::new("apply", Unit::Things("jobs"), Some(total), show);
    for wave in waves {
        let mut refused_now = Vec::new();
        let tries = futures_util::stream::iter(wave.iter().map(|job| put(client, job, &refused)));
        let mut tries = tries.buffered(IN_FLIGHT);
        for job in &wave {
            let Some(applied) = tries.next().await else { break };
            match applied {
                Applied::Done { word, warnings } => {
                    let (job, origin) = (&job.name, &job.origin);
                    let news = News::Applied { job, origin, word, warnings: &warnings };
                    progress.aside(|| tell(news))?;
                }
                // Without a server there is no use in going on.
                Applied::Failed(failure) if failure.exit == Exit::Unreachable => return Err(failure),
                Applied::Failed(failure) => {
                    worst = worst.or(Some(failure.exit));
                    let failure = failure.context(job.origin.clone());
                    progress.aside(|| tell(News::Refused(&failure)))?;
                    refused_now.push(job.name.clone());
                }
            }
            progress.add(1);
        }
        drop(tries);
        refused.extend(refused_now);
    }
    drop(progress);
    let Some(exit) = worst else { return Ok(()) };
    let errors = counted(failures.len() + refused.len());
    Err(Failure::new(exit, anyhow::anyhow!("not everything was applied: {errors}")))
}

fn counted(errors: usize) -> String {
    if errors == 1 { "1 error".into() } else { format!("{errors} errors") }
}

async fn put(client: &Client, job: &Written, refused: &BTreeSet<String>) -> Applied {
    if let Some(parent) = job.parents.iter().find(|parent| refused.contains(*parent)) {
        let name = &job.name;
        return Applied::Failed(Failure::new(
            Exit::Refused,
            anyhow::anyhow!("job `{name}` was not applied because its parent `{parent}` was not"),
        ));
    }
    // Not the endpoints of Chronos, which read some zones and numbers in its dialect: a file means the same either way.
    match client.change(Method::PUT, &["v1", "jobs", &job.name], &[], Some(&job.definition)).await {
        Ok(answer) => Applied::Done { word: word(&answer), warnings: warnings(&answer) },
        Err(failure) => Applied::Failed(failure),
    }
}

fn word(answer: &Answer) -> &'static str {
    match answer.body["result"].as_str() {
        Some("created") => "created",
        Some("unchanged") => "unchanged",
        _ => "updated",
    }
}

fn warnings(answer: &Answer) -> Vec<String> {
    let list = answer.body["warnings"].as_array();
    list.into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}

/// All jobs of all paths, in the order they were written, and what could not be read.
fn read_all(paths: &[PathBuf]) -> (Vec<Written>, Vec<Failure>) {
    let (mut jobs, mut failures, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for path in paths {
        if let Err(e) = find_files(path, &mut files) {
            let shown = format!("cannot read `{}`", path.display());
            failures.push(Failure::new(Exit::Usage, anyhow::Error::new(e).context(shown)));
        }
    }
    for file in files {
        match read_file(&file) {
            Ok(read) => jobs.extend(read),
            Err(failure) => failures.push(failure),
        }
    }
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    jobs.retain(|job: &Written| match seen.get(&job.name) {
        Some(first) => {
            let message = format!("job `{}` is written twice: in {first} and in {}", job.name, job.origin);
            failures.push(Failure::usage(message).hint("keep one of them"));
            false
        }
        None => {
            seen.insert(job.name.clone(), job.origin.clone());
            true
        }
    });
    if jobs.is_empty() && failures.is_empty() {
        failures.push(
            Failure::usage("there are no jobs in these files")
                .hint("files in folders end in .json, .yaml or .yml"),
        );
    }
    (jobs, failures)
}

/// The file itself, or the job files in and below a folder, sorted; hidden ones are left out.
pub(super) fn find_files(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.as_os_str() == "-" || !std::fs::metadata(path)?.is_dir() {
        files.push(path.into());
        return Ok(());
    }
    let mut entries: Vec<_> = std::fs::read_dir(path)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries.iter().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
        let path = entry.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        // Links to folders are not followed: they can lead in circles.
        if entry.file_type()?.is_dir() {
            find_files(&path, files)?;
        } else if matches!(ending, "json" | "yaml" | "yml") {
            files.push(path);
        }
    }
    Ok(())
}

pub(super) fn read_file(path: &Path) -> Result<Vec<Written>, Failure> {
    read_each(path)?.into_iter().collect()
}

/// The same job by job, so that one which is none keeps no other away.
pub(super) fn read_each(path: &Path) -> Result<Vec<Result<Written, Failure>>, Failure> {
    let stdin = path.as_os_str() == "-";
    let shown = if stdin { "stdin".into() } else { path.display().to_string() };
    let wrong =
        |cause: anyhow::Error| Failure::new(Exit::Usage, cause.context(format!("cannot read `{shown}`")));
    let mut text = String::new();
    let read = if stdin {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
    };
    let bytes = read.map_err(|e| wrong(e.into()))?;
    if bytes as u64 > FILE_BYTES_MAX {
        return Err(wrong(anyhow::anyhow!("it has more than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    let documents = parse(&text, path).map_err(wrong)?;
    let mut jobs = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Array(list) => jobs.extend(list),
            job => jobs.push(job),
        }
    }
    let many = jobs.len() > 1;
    let place = |i: usize| if many { format!("{shown} (job {})", i + 1) } else { shown.clone() };
    Ok(jobs.into_iter().enumerate().map(|(i, job)| written(job, place(i))).collect())
}

/// What the documents of a file say, each of them once. JSON is YAML, but its own reader is faster and tells faults better.
fn parse(text: &str, path: &Path) -> anyhow::Result<Vec<Value>> {
    let json =
        path.extension().is_some_and(|ending| ending == "json") || text.trim_start().starts_with(['{', '[']);
    if json {
        let mut source = serde_json::Deserializer::from_str(text);
        let mut documents = Vec::new();
        // Until nothing is left but space.
        while source.end().is_err() {
            documents.push(once(Document::read(&mut source)?)?);
        }
        return Ok(documents);
    }
    serde_norway::Deserializer::from_str(text).map(|source| once(Document::read(source)?)).collect()
}

/// Of two jobs in one object only the second would be left.
fn once(document: Document) -> anyhow::Result<Value> {
    match document.twice.first() {
        None => Ok(document.value),
        Some(key) => {
            anyhow::bail!(
                "`{key}` is written twice: keep one of them; in YAML a line `---` is between two jobs"
            )
        }
    }
}

fn written(definition: Value, origin: String) -> Result<Written, Failure> {
    let wrong = |what: &str| {
        Failure::usage(format!("{origin}: {what}")).hint("a job is an object with at least a `name`")
    };
    let fields = definition.as_object().ok_or_else(|| wrong("this is not a job"))?;
    let name =
        fields.get("name").and_then(Value::as_str).ok_or_else(|| wrong("the job has no `name`"))?.to_owned();
    Ok(Written::new(name, definition, origin))
}

/// Jobs whose parents are all in earlier waves, or not in the set at all. Those on a cycle are refused here: the
/// server would only see parents that are missing.
fn in_waves(jobs: Vec<Written>, failures: &mut Vec<Failure>) -> Vec<Vec<Written>> {
    let (waves, stuck) = waves(jobs);
    if !stuck.is_empty() {
        failures.push(cycle(&stuck));
        failures.extend(stuck.iter().map(|job| {
            Failure::usage(format!("{}: job `{}` was not applied because of the cycle", job.origin, job.name))
        }));
    }
    waves
}

/// The same, and those that wait for themselves or for one that does.
pub(super) fn waves(jobs: Vec<Written>) -> (Vec<Vec<Written>>, Vec<Written>) {
    let mut waits = parents_in_set(&jobs);
    let mut children: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, parents) in &waits {
        for parent in parents {
            children.entry(parent.clone()).or_default().push(name.clone());
        }
    }
    let mut level_of: BTreeMap<String, usize> = BTreeMap::new();
    let mut ready: Vec<String> =
        waits.iter().filter(|(_, w)| w.is_empty()).map(|(name, _)| name.clone()).collect();
    for level in 0.. {
        let Some(names) = Some(std::mem::take(&mut ready)).filter(|names| !names.is_empty()) else { break };
        for name in names {
            for child in children.remove(&name).unwrap_or_default() {
                let left = waits.entry(child.clone()).or_default();
                left.remove(&name);
                if left.is_empty() {
                    ready.push(child);
                }
            }
            level_of.insert(name, level);
        }
    }
    let mut waves: Vec<Vec<Written>> = Vec::new();
    let mut stuck = Vec::new();
    for job in jobs {
        match level_of.get(&job.name) {
            Some(level) => {
                waves.resize_with(waves.len().max(level + 1), Vec::new);
                waves[*level].push(job);
            }
            None => stuck.push(job),
        }
    }
    (waves, stuck)
}

/// Of each job the parents that are written in the same set.
fn parents_in_set(jobs: &[Written]) -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeSet<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
    let within = |job: &Written| job.parents.iter().filter(|p| names.contains(p.as_str())).cloned().collect();
    jobs.iter().map(|job| (job.name.clone(), within(job))).collect()
}

/// Names one cycle among jobs that each wait for another of them.
pub(super) fn cycle(stuck: &[Written]) -> Failure {
    let waits = parents_in_set(stuck);
    let mut path: Vec<&str> = vec![&stuck[0].name];
    let start = loop {
        let Some(parent) = waits.get(path[path.len() - 1]).and_then(BTreeSet::first) else { break 0 };
        let seen = path.iter().position(|name| name == parent);
        path.push(parent);
        if let Some(start) = seen {
            break start;
        }
    };
    // From parent to child, as it runs.
    let path: Vec<&str> = path[start..].iter().rev().copied().collect();
    Failure::usage(format!("job `{}` waits for itself: {}", path[0], path.join(" -> ")))
        .hint("remove one of these jobs from the `parents` of the next")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str, parents: &[&str]) -> Written {
        let definition = serde_json::json!({ "name": name, "parents": parents });
        written(definition, format!("{name}.yaml")).unwrap()
    }

    #[track_caller]
    fn order(jobs: Vec<Written>, waves: &[&[&str]], failure: &str) {
        let mut failures = Vec::new();
        let found = in_waves(jobs, &mut failures);
        let found: Vec<Vec<&str>> =
            found.iter().map(|w| w.iter().map(|job| job.name.as_str()).collect()).collect();
        assert_eq!(found, waves);
        assert_eq!(failures.first().map(|f| f.error.to_string()).unwrap_or_default(), failure);
    }

    #[test]
    fn parents_come_first() {
        order(
            vec![job("c", &["b"]), job("b", &["a", "elsewhere"]), job("a", &[])],
            &[&["a"], &["b"], &["c"]],
            "",
        );
        order(vec![job("x", &[]), job("y", &[])], &[&["x", "y"]], "");
    }

    #[test]
    fn a_cycle_is_named_and_the_others_are_applied() {
        order(vec![job("a", &["a"]), job("z", &[])], &[&["z"]], "job `a` waits for itself: a -> a");
        let ring = vec![job("child", &["a"]), job("a", &["c"]), job("b", &["a"]), job("c", &["b"])];
        order(ring, &[], "job `a` waits for itself: a -> b -> c -> a");
    }

    #[test]
    fn one_file_may_hold_many_jobs() {
        let names = |text: &str, path: &str| {
            let jobs = parse(text, Path::new(path)).unwrap();
            jobs.iter().map(|job| job["name"].as_str().unwrap_or("?").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("name: a\n---\nname: b\n", "x.yaml"), ["a", "b"]);
        assert_eq!(names("{\"name\":\"a\"}\n{\"name\":\"b\"}", "-"), ["a", "b"]);
        for (text, path) in [
            ("name: first\ncommand: a\nname: second\ncommand: b\n", "x.yaml"),
            ("name: ok\n---\nname: a\ncontainer:\n  image: x\n  image: y\n", "x.yaml"),
            ("{\"name\":\"b\",\"name\":\"c\"}", "x.json"),
            ("{\"name\":\"a\"}[{\"name\":\"b\",\"cpus\":1,\"cpus\":2}]", "-"),
        ] {
            let refused = parse(text, Path::new(path)).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(refused.contains("is written twice"), "{text}: {refused}");
        }
        assert!(parse("name: [", Path::new("x.yaml")).is_err());
        let deep = "[".repeat(2000);
        assert!(parse(&deep, Path::new("x.json")).is_err());
        assert!(parse(&format!("a: {deep}"), Path::new("x.yaml")).is_err());
    }
}
