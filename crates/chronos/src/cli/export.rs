//! `chronos export`: definitions as files that `chronos apply` takes back unchanged.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::ChosenArgs;
use super::client::{Client, job_name};
use super::failure::{Exit, Failure};
use super::moving::given::for_the_old;
use super::moving::handover::{Handover, Leaving, leaving};
use super::moving::{definition, folder, leave};

pub(super) const HELP: &str = "\
Only definitions are written: no counters, no history, no state. `chronos backup` keeps everything.

Examples:
  chronos export > jobs.yaml
  chronos export --output_dir jobs && git -C jobs add -A
  chronos export nightly -o json
  chronos export --label team=etl --output_dir etl
  chronos export --chronos --advance > for-the-old-chronos.json
  chronos export --format chronos-sync --output_dir config --advance=15m";

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
    #[arg(long, group = "FormOfOld", conflicts_with_all = ["output", "output_dir"])]
    chronos: bool,
    /// `chronos-sync`: the folders that chronos-sync brings to an old Chronos, into the folder of --output_dir
    #[arg(
        long,
        group = "FormOfOld",
        hide_possible_values = true,
        value_name = "LAYOUT",
        requires = "output_dir",
        conflicts_with_all = ["output", "chronos"]
    )]
    format: Option<Layout>,
    /// For the old Chronos, let schedules begin with their first slot after WHEN, as in `10m` or 2030-01-01T08:00:00Z, by
    /// when this server is to be stopped; without WHEN, after now. The old Chronos runs a start that has passed at once
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = Handover::NOW,
        requires = "FormOfOld"
    )]
    advance: Option<Handover>,
    #[command(flatten)]
    at: super::ServerAt,
}

pub(super) async fn run(args: &ExportArgs) -> Result<(), Failure> {
    if let Some(Place::Zookeeper(args)) = &args.place {
        return leave::run(args).await;
    }
    let client = Client::of(&args.at)?;
    let jobs = jobs(&client, args).await?;
    if let (Some(Layout::ChronosSync), Some(folder)) = (args.format, &args.output_dir) {
        return for_chronos_sync(folder, for_the_old(jobs, args.advance, definition::give)?);
    }
    if args.chronos {
        let old = for_the_old(jobs, args.advance, definition::known)?;
        return Ok(super::out_json(&json!(old))?);
    }
    let jobs: Vec<Value> = jobs.into_iter().map(|job| Value::Object(job.definition)).collect();
    if let Some(folder) = &args.output_dir {
        for job in &jobs {
            write_job(folder, job["name"].as_str().unwrap_or_default(), job)?;
        }
        let files = if jobs.len() == 1 { "1 file".into() } else { format!("{} files", jobs.len()) };
        return Ok(super::out(format!("wrote {files} into {}\n", folder.display()).as_bytes())?);
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

async fn jobs(client: &Client, args: &ExportArgs) -> Result<Vec<Leaving>, Failure> {
    if args.jobs.is_empty() {
        return leaving(client, args.chosen.query(), usize::MAX).await;
    }
    let mut jobs = Vec::new();
    for name in &args.jobs {
        jobs.extend(leaving(client, vec![("job", job_name(name)?.to_owned())], 1).await?);
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

/// Writes the folders that chronos-sync reads.
fn for_chronos_sync(folder: &Path, jobs: Vec<Map<String, Value>>) -> Result<(), Failure> {
    let written = folder::write(folder, &jobs)?;
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
