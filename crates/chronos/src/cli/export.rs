//! `chronos export`: definitions as files that `chronos apply` takes back unchanged.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value};

use super::ChosenArgs;
use super::client::{Client, job_name};
use super::failure::{Exit, Failure};
use super::moving::given::{for_the_old, tell_lost};
use super::moving::{definition, folder, leave};
use super::queries::pages;

pub(super) const HELP: &str = "\
Only definitions are written: no counters, no history, no state. `chronos backup` keeps everything.

Examples:
  chronos export > jobs.yaml
  chronos export --output_dir jobs && git -C jobs add -A
  chronos export nightly -o json
  chronos export --label team=etl --output_dir etl
  chronos export --chronos > for-the-old-chronos.json
  chronos export --format chronos-sync --output_dir config --advance";

/// Laid out for which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// `scheduled` and `dependent`, a job in a file, every field that the old Chronos has.
    ChronosSync,
}

/// In which language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Yaml,
    Json,
}

/// Where to, if not to a stream or files.
#[derive(Debug, Subcommand)]
enum Place {
    /// Write the jobs where an old Chronos keeps them in ZooKeeper, for the way back to it
    #[command(after_help = leave::HELP)]
    Zookeeper(leave::LeaveArgs),
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ExportArgs {
    #[command(subcommand)]
    place: Option<Place>,
    /// Names of the jobs, instead of all
    #[arg(value_name = "JOB", conflicts_with = "ChosenArgs")]
    jobs: Vec<String>,
    #[command(flatten)]
    chosen: ChosenArgs,
    /// Write a file for each job into this folder, instead of one stream
    #[arg(long = "output_dir", value_name = "FOLDER", conflicts_with = "output")]
    output_dir: Option<PathBuf>,
    /// `yaml` or `json`
    #[arg(long, short, hide_possible_values = true, value_name = "FORMAT", default_value = "yaml")]
    output: Language,
    /// Only what the old Chronos understands, as JSON; what is lost is told
    #[arg(long, conflicts_with_all = ["output", "output_dir"])]
    chronos: bool,
    /// `chronos-sync`: the folders that chronos-sync brings to an old Chronos, into the folder of --output_dir
    #[arg(
        long,
        hide_possible_values = true,
        value_name = "LAYOUT",
        requires = "output_dir",
        conflicts_with_all = ["output", "chronos"]
    )]
    format: Option<Layout>,
    /// Let schedules whose start has passed begin with their next slot: the old Chronos would run them at once
    #[arg(long, requires = "format")]
    advance: bool,
    #[command(flatten)]
    at: super::ServerAt,
}

pub(super) async fn run(args: &ExportArgs) -> Result<(), Failure> {
    if let Some(Place::Zookeeper(args)) = &args.place {
        return leave::run(args).await;
    }
    let client = Client::of(&args.at)?;
    let jobs = definitions(&client, args).await?;
    if let (Some(Layout::ChronosSync), Some(folder)) = (args.format, &args.output_dir) {
        return for_chronos_sync(folder, jobs, args.advance);
    }
    if let Some(folder) = &args.output_dir {
        for job in &jobs {
            write_job(folder, job["name"].as_str().unwrap_or_default(), job)?;
        }
        let files = if jobs.len() == 1 { "1 file".into() } else { format!("{} files", jobs.len()) };
        return Ok(super::out(format!("wrote {files} into {}\n", folder.display()).as_bytes())?);
    }
    if args.chronos {
        let old = jobs.into_iter().map(for_old_chronos).collect::<Result<Vec<_>, Failure>>()?;
        return Ok(super::out_json(&Value::Array(old))?);
    }
    match args.output {
        Language::Json => super::out_json(&Value::Array(jobs))?,
        Language::Yaml => {
            for (i, job) in jobs.iter().enumerate() {
                let text = yaml(job)?;
                super::out(format!("{}{text}", if i == 0 { "" } else { "---\n" }).as_bytes())?;
            }
        }
    }
    Ok(())
}

async fn definitions(client: &Client, args: &ExportArgs) -> Result<Vec<Value>, Failure> {
    let path = ["v1", "definitions"];
    if args.jobs.is_empty() {
        return pages(client, &path, args.chosen.query(), "definitions", usize::MAX).await;
    }
    let mut jobs = Vec::new();
    for name in &args.jobs {
        jobs.extend(pages(client, &path, vec![("job", job_name(name)?.to_owned())], "definitions", 1).await?);
    }
    Ok(jobs)
}

fn yaml(job: &Value) -> Result<String, Failure> {
    serde_norway::to_string(job)
        .map_err(|e| Failure::new(Exit::Failed, e).context("cannot write this job as YAML"))
}

/// Writes a job into a file that is named after it. The file is whole or not there.
pub(super) fn write_job(folder: &Path, name: &str, job: &Value) -> Result<PathBuf, Failure> {
    let path = folder.join(format!("{name}.yaml"));
    let shown = format!("cannot write `{}`", path.display());
    let text = yaml(job)?;
    let draft = folder.join(format!(".{name}.yaml.new"));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&draft, text))
        .and_then(|()| std::fs::rename(&draft, &path))
        .map_err(|e| Failure::from(e).context(shown))?;
    Ok(path)
}

/// A job without what the old Chronos would refuse or not understand.
fn for_old_chronos(job: Value) -> Result<Value, Failure> {
    let Value::Object(fields) = job else { return Ok(job) };
    let (kept, lost): (Map<String, Value>, Map<String, Value>) =
        fields.into_iter().partition(|(key, _)| definition::is_known(key));
    let (mut kept, mut lost) = (kept, lost);
    lost.extend(definition::without_secrets(&mut kept));
    tell_lost(&kept, &lost);
    Ok(Value::Object(kept))
}

/// Writes the folders that chronos-sync reads.
fn for_chronos_sync(folder: &Path, jobs: Vec<Value>, advance: bool) -> Result<(), Failure> {
    let files = for_the_old(jobs, advance);
    let written = folder::write(folder, &files)?;
    for path in &written.stale {
        super::warn(&format!(
            "`{}` is not the file of any of these jobs: remove it, or chronos-sync brings it back",
            path.display()
        ));
    }
    let [scheduled, dependent] = written.counts;
    let told =
        format!("wrote {scheduled} scheduled and {dependent} dependent jobs into {}\n", folder.display());
    super::out(told.as_bytes())?;
    let Some((name, why)) = written.refused.first() else { return Ok(()) };
    for (name, why) in &written.refused[1..] {
        Failure::new(Exit::Failed, anyhow::anyhow!("job `{name}` was not written: {why}")).print();
    }
    Err(Failure::new(Exit::Failed, anyhow::anyhow!("job `{name}` was not written: {why}"))
        .hint("give it another name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_chronos_gets_what_it_knows() {
        let job = serde_json::json!({ "name": "a", "schedule": "R//P1D", "retries": 3, "catchUp": "none", "labels": {} });
        let old = for_old_chronos(job).expect("a job");
        assert_eq!(old, serde_json::json!({ "name": "a", "schedule": "R//P1D", "retries": 3 }));
        // A variable without a value is one that it cannot read.
        let variables = serde_json::json!([{ "name": "A", "value": "1" }, { "name": "B", "valueFrom": { "env": "CHRONOS_SECRET_B" } }]);
        let job = serde_json::json!({ "name": "a", "schedule": "R//P1D", "environmentVariables": variables });
        let old = for_old_chronos(job.clone()).expect("a job");
        assert_eq!(old["environmentVariables"], serde_json::json!([{ "name": "A", "value": "1" }]));
        let (given, lost) = definition::give(job.as_object().expect("a job"));
        assert_eq!(given["environmentVariables"], old["environmentVariables"]);
        assert_eq!(
            lost["environmentVariables B valueFrom"],
            serde_json::json!({ "env": "CHRONOS_SECRET_B" })
        );
    }

    #[test]
    fn a_file_is_named_after_its_job() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let job = serde_json::json!({ "name": "a.b-c", "command": "yes: no # \"\n'", "retries": 1 });
        let path = write_job(&folder.path().join("new"), "a.b-c", &job).expect("a writable folder");
        assert!(path.ends_with("a.b-c.yaml"));
        let back: Value =
            serde_norway::from_str(&std::fs::read_to_string(path).expect("it is there")).expect("YAML");
        assert_eq!(back, job);
    }
}
