//! The command line: one binary that is server, client and supervisor.

mod apply;
mod audit;
mod backfill;
mod backup;
mod bench;
mod client;
mod cluster;
mod completions;
mod crontab;
mod doctor;
mod examples;
mod export;
mod failure;
mod forecast;
mod graph;
mod import;
mod logs;
mod mesos;
mod moving;
mod netrc;
mod nodes;
mod notify;
mod progress;
mod queries;
mod requests;
mod server;
mod sets;
mod shadow;
mod table;
mod versions;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::{Manner, groups, old};
use crate::notify::settings::Secret;
use client::Client;
use failure::{Exit, Failure};

/// Cron for a fleet: runs scheduled jobs and chains of jobs, and accounts for every slot.
#[derive(Debug, Parser)]
#[command(name = "chronos", version, max_term_width = 110, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  chronos server --data_dir /var/lib/chronos
  chronos apply jobs/ && chronos jobs
  chronos logs -f nightly-backup
  chronos runs --outcome failed --output json

Exit codes:
  0 done   1 failed   2 usage   3 refused by the server   4 server not reachable
  5 outcome unknown   6 data folder not usable

Dashes and underscores in flags are the same.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server: schedules jobs, runs them, answers the API
    #[command(after_help = server::HELP)]
    Server(Box<server::ServerArgs>),
    /// Run a server as Chronos was run: with its flags and their defaults
    #[command(name = "run_jar", alias = "run-jar", after_help = server::RUN_JAR_HELP)]
    RunJar(Box<server::ServerArgs>),
    #[command(flatten)]
    Ask(Box<Ask>),
    /// Measure in 20 seconds what this machine and the disk of a data folder can do
    #[command(after_help = bench::HELP)]
    Bench(bench::BenchArgs),
    /// Print a script that completes the command line
    #[command(after_help = completions::HELP)]
    Completions(completions::CompletionsArgs),
    /// Parent of all tasks of a data folder; started by the server
    #[command(hide = true)]
    Supervise(server::SuperviseArgs),
    /// First stage of a task that is another user, has bounds, or needs files; started by the supervisor
    #[command(hide = true)]
    Launch,
}

/// What a server is asked to tell or do.
#[derive(Debug, Subcommand)]
enum Ask {
    /// Create or replace the jobs in files and folders (JSON, YAML), parents first
    #[command(after_help = apply::HELP)]
    Apply(apply::ApplyArgs),
    /// List jobs with their last outcome and next slot
    #[command(after_help = queries::JOBS_HELP)]
    Jobs(queries::JobsArgs),
    /// Show the definition of a job as JSON, ready to be edited and applied
    #[command(after_help = examples::SHOW_HELP)]
    Show(queries::ShowArgs),
    /// Run a job now, whatever its schedule says
    #[command(after_help = examples::RUN_HELP)]
    Run(requests::RunArgs),
    /// End the live runs of a job, or one run
    #[command(after_help = examples::KILL_HELP)]
    Kill(TargetArgs),
    /// Delete jobs; their live runs are killed, their history stays
    #[command(after_help = examples::DELETE_HELP)]
    Delete(requests::DeleteArgs),
    /// Stop a job from being started; running tasks go on
    #[command(after_help = requests::PAUSE_HELP)]
    Pause(requests::PauseArgs),
    /// End a pause
    #[command(after_help = examples::RESUME_HELP)]
    Resume(JobArgs),
    /// List runs, the newest first
    #[command(after_help = queries::RUNS_HELP)]
    Runs(queries::RunsArgs),
    /// Print the output of a run, or of the latest run of a job
    #[command(after_help = logs::HELP)]
    Logs(logs::LogsArgs),
    /// Explain why a job or a run has not started, or how it ended
    #[command(after_help = examples::WHY_HELP)]
    Why(TargetArgs),
    /// List the next slots of a job, or of all jobs
    #[command(after_help = queries::NEXT_HELP)]
    Next(queries::NextArgs),
    /// Draw which jobs start which, and how they are
    #[command(after_help = graph::HELP)]
    Graph(graph::GraphArgs),
    /// List the versions of a job: when, how and by whom it was changed, and in which fields; or compare two of them
    #[command(after_help = versions::HISTORY_HELP)]
    History(versions::HistoryArgs),
    /// List who did what, the newest first
    #[command(after_help = audit::HELP)]
    Audit(audit::AuditArgs),
    /// Bring an earlier version of a job back, as a new version
    #[command(after_help = versions::ROLLBACK_HELP)]
    Rollback(versions::RollbackArgs),
    /// Let the children of a job go on as if it had succeeded
    #[command(after_help = examples::MARK_SUCCESS_HELP)]
    MarkSuccess(JobArgs),
    /// Write everything that the server keeps into a file, while it goes on
    #[command(after_help = backup::BACKUP_HELP)]
    Backup(backup::BackupArgs),
    /// Put a backup in the place of everything that the server keeps, while it runs
    #[command(after_help = backup::RESTORE_HELP)]
    Restore(backup::RestoreArgs),
    /// Write the definitions of jobs, ready to be applied again
    #[command(after_help = export::HELP)]
    Export(export::ExportArgs),
    /// Make jobs of what another scheduler has
    Import(import::ImportArgs),
    /// Say which jobs count where an old Chronos has led in between
    #[command(after_help = moving::settle::HELP)]
    Settle(moving::settle::SettleArgs),
    /// Look at a shadow and at the scheduler that it stands beside
    #[command(subcommand)]
    Shadow(shadow::Shadow),
    /// Check the server, its store and its jobs, and say what to do about what is found
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::DoctorArgs),
    /// List the nodes of the cluster and how each is doing
    #[command(after_help = nodes::HELP)]
    Nodes(ClientArgs),
    /// Do something about one node
    #[command(subcommand)]
    Node(nodes::Node),
    /// Restart all instances, or begin anew with none of their state
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Run past slots of a job, each once, for their own due times
    #[command(after_help = backfill::HELP)]
    Backfill(backfill::BackfillArgs),
    /// List backfills and re-runs, the newest first
    #[command(after_help = examples::BACKFILLS_HELP)]
    Backfills(backfill::BackfillsArgs),
    /// Run once more what has ended, with all that comes after it
    #[command(after_help = backfill::RERUN_HELP)]
    Rerun(backfill::RerunArgs),
    /// Show how many runs the next hours will bring
    #[command(after_help = forecast::HELP)]
    Forecast(forecast::ForecastArgs),
    /// Try out whether people can be told of things, and see what they were told
    #[command(subcommand, after_help = notify::HELP)]
    Notify(notify::Notify),
}

/// Where a server listens that nobody told otherwise.
const SERVER: &str = "http://127.0.0.1:4400";

/// Where the server is, and who asks it.
#[derive(Clone, Debug, Args)]
struct ServerAt {
    /// URL of the server
    #[arg(long, env = "CHRONOS_SERVER", value_name = "URL", default_value = SERVER)]
    server: String,
    /// Name to log in with, and the password, which is better in CHRONOS_USER or in ~/.netrc
    #[arg(id = "login", long = "user", env = "CHRONOS_USER", value_name = "NAME[:PASSWORD]")]
    user: Option<Secret>,
    /// File of certificates (PEM) that the server may be signed by, beside those this machine trusts
    #[arg(long = "ca_file", env = "CHRONOS_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// The same, and how to answer.
#[derive(Clone, Debug, Args)]
struct ClientArgs {
    #[command(flatten)]
    at: ServerAt,
    /// `table` is for people, `json` for scripts
    #[arg(long, hide_possible_values = true, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Which jobs a list is about.
#[derive(Debug, Default, Args)]
struct ChosenArgs {
    /// Only jobs that are enabled, disabled, exhausted, paused, failing, live, running, queued or idle; may be repeated
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    /// Only jobs with a `schedule`, or only those that are `dependent` on others
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only jobs of this owner
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Only jobs with this label; if repeated, with all of them
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Only jobs whose last run ended so, such as failed; may be repeated
    #[arg(long, value_name = "OUTCOME")]
    outcome: Vec<String>,
}

impl ChosenArgs {
    /// The same as parameters of the API.
    fn query(&self) -> Vec<(&'static str, String)> {
        let lists = [("state", &self.state), ("label", &self.label), ("outcome", &self.outcome)];
        let lists = lists.into_iter().filter(|(_, values)| !values.is_empty());
        let mut query: Vec<_> = lists.map(|(name, values)| (name, values.join(","))).collect();
        query.extend(self.kind.iter().map(|kind| ("kind", kind.clone())));
        query.extend(self.owner.iter().map(|owner| ("owner", owner.clone())));
        query
    }
}

#[derive(Debug, Args)]
struct JobArgs {
    /// Name of the job
    job: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct TargetArgs {
    /// Name of a job, or key of a run
    #[arg(value_name = "JOB|RUN")]
    target: String,
    #[command(flatten)]
    client: ClientArgs,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number, at least 1".into())
}

/// Parses the command line, does what it says, and tells how that went.
pub fn main() -> ExitCode {
    completions::answer();
    let said = old::plain(std::env::args_os().collect());
    let matches =
        command().try_get_matches_from(said.clone()).unwrap_or_else(|error| match error.use_stderr() {
            true => with_plain_usage(command()).get_matches_from(said),
            false => error.exit(),
        });
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let done = match cli.command {
        Command::Server(args) => server::run(*args, matches.subcommand_matches("server"), Manner::Server),
        Command::RunJar(args) => server::run(*args, matches.subcommand_matches("run_jar"), Manner::RunJar),
        Command::Supervise(args) => server::supervise(&args),
        Command::Launch => return engine::local::launch::run(),
        Command::Bench(args) => client_runtime().and_then(|runtime| runtime.block_on(bench::run(args))),
        Command::Completions(args) => completions::run(&args),
        Command::Ask(what) => client_runtime().and_then(|runtime| runtime.block_on(ask(*what))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(failure) if is_broken_pipe(&failure) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

/// The commands, with flags in which dashes and underscores are the same.
fn command() -> clap::Command {
    fn alike(command: clap::Command) -> clap::Command {
        let other = |long: &str| match long.contains('_') {
            true => Some(long.replace('_', "-")),
            false => long.contains('-').then(|| long.replace('-', "_")),
        };
        command
            // A value may be a secret.
            .mut_args(|arg| arg.hide_env_values(true))
            .mut_args(|arg| match arg.get_long().and_then(other) {
                Some(other) => arg.alias(other),
                None => arg,
            })
            .mut_subcommands(alike)
    }
    let cli = Cli::command()
        .mut_subcommand("server", |server| groups::grouped(old::taken(server)))
        .mut_subcommand("run_jar", |server| groups::grouped(old::taken_as_ever(server)))
        // There `--user` is whose crontab it is.
        .mut_subcommand("import", |import| {
            import.mut_subcommand("crontab", |crontab| crontab.mut_arg("login", |login| login.long("login")))
        });
    completions::with_names(cli.mut_subcommands(alike))
}

/// The commands as they are when one was used wrongly. The usage that clap shows then has all that was said, also by
/// variables, as if it were required: `chronos runs --server <URL>`.
fn with_plain_usage(mut command: clap::Command) -> clap::Command {
    fn own(mut command: clap::Command) -> clap::Command {
        let usage = command.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage:").trim().to_owned();
        command.override_usage(usage).mut_subcommands(own)
    }
    command.build();
    own(command)
}

/// A client waits for one answer at a time.
fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn ask(what: Ask) -> Result<(), Failure> {
    match what {
        Ask::Apply(args) => apply::run(&args).await,
        Ask::Jobs(args) => queries::jobs(&args).await,
        Ask::Show(args) => queries::show(&args).await,
        Ask::Runs(args) => queries::runs(&args).await,
        Ask::Why(args) => queries::why(&args).await,
        Ask::Next(args) => queries::next(&args).await,
        Ask::Graph(args) => graph::run(&args).await,
        Ask::Audit(args) => audit::run(&args).await,
        Ask::History(args) => versions::history(&args).await,
        Ask::Rollback(args) => versions::rollback(&args).await,
        Ask::Logs(args) => logs::run(&args).await,
        Ask::Run(args) => requests::run(&args).await,
        Ask::Kill(args) => requests::kill(&args).await,
        Ask::Delete(args) => requests::delete(&args).await,
        Ask::Pause(args) => requests::pause(&args).await,
        Ask::Resume(args) => requests::resume(&args).await,
        Ask::Backup(args) => backup::backup(&args).await,
        Ask::Restore(args) => backup::restore(&args).await,
        Ask::Export(args) => export::run(&args).await,
        Ask::Import(args) => import::run(&args).await,
        Ask::Settle(args) => moving::settle::run(&args).await,
        Ask::Shadow(shadow::Shadow::Compare(args)) => moving::compare::run(&args).await,
        Ask::Doctor(args) => doctor::run(&args).await,
        Ask::Nodes(args) => nodes::list(&args).await,
        Ask::Node(nodes::Node::Forget(args)) => nodes::forget(&args).await,
        Ask::Cluster(cluster::Cluster::Restart(args)) => cluster::restart(&args).await,
        Ask::Cluster(cluster::Cluster::Purge(args)) => cluster::purge(&args).await,
        Ask::Notify(notify::Notify::Test(args)) => notify::test(&args).await,
        Ask::Notify(notify::Notify::List(args)) => notify::list(&args).await,
        Ask::Notify(notify::Notify::Retry(args)) => notify::retry(&args).await,
        Ask::MarkSuccess(args) => requests::mark_success(&args).await,
        Ask::Backfill(args) => backfill::run(&args).await,
        Ask::Backfills(args) => backfill::list(&args).await,
        Ask::Rerun(args) => backfill::rerun(&args).await,
        Ask::Forecast(args) => forecast::run(&args).await,
    }
}

fn client(args: &ClientArgs) -> Result<Client, Failure> {
    Client::of(&args.at)
}

/// Writes to stdout; unlike `print!` it does not panic when a pipe is closed.
fn out(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn out_json(value: &serde_json::Value) -> std::io::Result<()> {
    out(format!("{value:#}\n").as_bytes())
}

/// Tells what a user should know but did not ask for.
fn warn(text: &str) {
    // Nobody is left to tell if stderr is gone.
    let _ = writeln!(std::io::stderr(), "warning: {}", failure::printable(text));
}

fn is_broken_pipe(failure: &Failure) -> bool {
    failure.exit == Exit::Failed
        && failure
            .error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As with CHRONOS_SERVER in the environment, which clap takes for said.
    #[test]
    fn what_is_said_is_not_shown_as_required() {
        let wrong = ["chronos", "pause", "a", "--server", "http://h", "--untill", "soon"];
        let told = |command: clap::Command| {
            let error = command.try_get_matches_from(wrong).expect_err("there is no such flag");
            error.to_string()
        };
        assert!(told(command()).contains("Usage: chronos pause --server <URL>"), "clap does so no more");
        let plain = told(with_plain_usage(command()));
        assert!(
            plain.contains("Usage: chronos pause [OPTIONS] <JOB>") && plain.contains("--until"),
            "{plain}"
        );
    }
}
