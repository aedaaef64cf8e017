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
mod shadow;
mod table;
mod versions;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::{ConfigFile, Length, Manner, groups, old};
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
    #[command(after_help = SERVER_HELP)]
    Server(Box<ServerArgs>),
    /// Run a server as Chronos was run: with its flags and their defaults
    #[command(name = "run_jar", alias = "run-jar", after_help = RUN_JAR_HELP)]
    RunJar(Box<ServerArgs>),
    #[command(flatten)]
    Ask(Box<Ask>),
    /// Measure in 20 seconds what this machine and the disk of a data folder can do
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
    /// Print a script that completes the command line
    #[command(after_help = completions::HELP)]
    Completions(completions::CompletionsArgs),
    /// Parent of all tasks of a data folder; started by the server
    #[command(hide = true)]
    Supervise(SuperviseArgs),
    /// First stage of a task that is another user, has bounds, or needs files; started by the supervisor
    #[command(hide = true)]
    Launch,
}

/// What a server is asked to tell or do.
#[derive(Debug, Subcommand)]
enum Ask {
    /// Create or replace the jobs in files and folders (JSON, YAML), parents first
    #[command(after_help = APPLY_HELP)]
    Apply(ApplyArgs),
    /// List jobs with their last outcome and next slot
    #[command(after_help = JOBS_HELP)]
    Jobs(JobsArgs),
    /// Show the definition of a job as JSON, ready to be edited and applied
    Show(JobArgs),
    /// Run a job now, whatever its schedule says
    Run(RunArgs),
    /// End the live runs of a job, or one run
    Kill(TargetArgs),
    /// Delete jobs; their live runs are killed, their history stays
    Delete(DeleteArgs),
    /// Stop a job from being started; running tasks go on
    #[command(after_help = PAUSE_HELP)]
    Pause(PauseArgs),
    /// End a pause
    Resume(JobArgs),
    /// List runs, the newest first
    #[command(after_help = RUNS_HELP)]
    Runs(RunsArgs),
    /// Print the output of a run, or of the latest run of a job
    #[command(after_help = LOGS_HELP)]
    Logs(LogsArgs),
    /// Explain why a job or a run has not started, or how it ended
    Why(TargetArgs),
    /// List the next slots of a job, or of all jobs
    #[command(after_help = NEXT_HELP)]
    Next(NextArgs),
    /// Draw which jobs start which, and how they are
    #[command(after_help = graph::HELP)]
    Graph(graph::GraphArgs),
    /// List the versions of a job: when, how and by whom it was changed, and in which fields
    History(HistoryArgs),
    /// List who did what, the newest first
    #[command(after_help = audit::HELP)]
    Audit(audit::AuditArgs),
    /// Bring an earlier version of a job back, as a new version
    #[command(after_help = ROLLBACK_HELP)]
    Rollback(RollbackArgs),
    /// Let the children of a job go on as if it had succeeded
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
    #[command(after_help = BACKFILL_HELP)]
    Backfill(BackfillArgs),
    /// List backfills and re-runs, the newest first
    Backfills(BackfillsArgs),
    /// Run once more what has ended, with all that comes after it
    #[command(after_help = RERUN_HELP)]
    Rerun(RerunArgs),
    /// Show how many runs the next hours will bring
    #[command(after_help = FORECAST_HELP)]
    Forecast(ForecastArgs),
    /// Try out whether people can be told of things, and see what they were told
    #[command(subcommand, after_help = NOTIFY_HELP)]
    Notify(Notify),
}

/// What there is to do about notices.
#[derive(Debug, Subcommand)]
enum Notify {
    /// Send a test message at once, and show how each step went
    #[command(after_help = NOTIFY_TEST_HELP)]
    Test(NotifyTestArgs),
    /// List notices and whether they arrived, the newest first
    List(NoticesArgs),
    /// Send a notice again that has not arrived
    Retry(RetryArgs),
}

const NOTIFY_HELP: &str = "\
Examples:
  chronos notify test --to me@example.org
  chronos notify list --state givenUp
  chronos notify retry 17";

const NOTIFY_TEST_HELP: &str = "\
Examples:
  chronos notify test --to me@example.org
  chronos notify test --channel webhook";

const SERVER_HELP: &str = "\
Every flag can be given as an environment variable (CHRONOS_HTTP_PORT for --http_port) or as a key
of the file given with --config. The command line wins over the environment, both over the file.

A second server on the same data folder waits as standby and answers reads.
On SIGTERM the server ends and leaves tasks running; the next server on the folder takes them over.

Examples:
  chronos server
  chronos server --http_port 4401 --data_dir /var/lib/chronos --examples examples
  chronos server --config /etc/chronos.yaml --check-config
  chronos server --http_address 0.0.0.0 --http_credentials_file secret --disable_http \\
    --tls_cert cert.pem --tls_key key.pem";

const RUN_JAR_HELP: &str = "\
All flags of Chronos are taken, with underscores or dashes; those that mean nothing here, or nothing
yet, are named at the start with the reason. Differences to `chronos server`: port 8080 on all
addresses, and the short forms -m, -s, -r, -h, -d and those of flags without a meaning. Everyone who
connects could run commands on this machine, so --http_credentials or --allow_unauthenticated is needed.

This version keeps state in a file and runs tasks on its own machine. Where --zk_hosts or --master ask
for something else, nothing is started unless --store and --engine say that this is known.

Examples:
  chronos run_jar --http_port 8080 --hostname a.example.org --http_credentials ops:secret
  chronos run_jar --master zk://z:2181/mesos --zk_hosts z:2181 --store sqlite --engine local \\
    --http_credentials ops:secret
  chronos run_jar --disable_http --ssl_keystore_path chronos.p12 --http_credentials ops:secret";

const BENCH_HELP: &str = "\
Works in a folder of its own below the data folder, which goes with it; the data are not touched, and a
server may run beside it, at the price of both.

Examples:
  chronos bench --data_dir /var/lib/chronos
  chronos bench --output json";

const APPLY_HELP: &str = "\
A file holds one job, an array of jobs, or, in YAML, several documents. A folder means all files in it and
below that end in .json, .yaml or .yml. `-` is the standard input.

Up to 10,000 jobs (8 MiB) are applied at once. If the server refuses one of them, the others are still
applied, parents first; with --atomic nothing is.

Examples:
  chronos apply nightly.yaml
  chronos apply jobs/ --dry-run
  chronos apply jobs/ more.json
  chronos show nightly | sed s/PT1H/PT2H/ | chronos apply -";

const PAUSE_HELP: &str = "\
Examples:
  chronos pause nightly --reason 'disk is being replaced' --for 2h
  chronos pause nightly --until 2030-01-01T08:00:00Z";

const JOBS_HELP: &str = "\
Examples:
  chronos jobs nightly
  chronos jobs --state failing --sort -lastError
  chronos jobs --label team=etl --kind schedule --sort next --limit 20
  chronos jobs --state paused --output json | jq -r '.[].name'";

const NEXT_HELP: &str = "\
Examples:
  chronos next -n 20
  chronos next nightly --from 2030-01-01T00:00:00Z
  chronos next --label team=etl --until 2030-01-01T08:00:00Z -n 1000";

const RUNS_HELP: &str = "\
Examples:
  chronos runs
  chronos runs --cause trigger --sort time
  chronos runs nightly --outcome failed --outcome missed --limit 20
  chronos runs --output json | jq -r '.[].key'";

const LOGS_HELP: &str = "\
Examples:
  chronos logs nightly
  chronos logs -f nightly
  chronos logs 1-i5 --stderr";

const BACKFILL_HELP: &str = "\
The slots are those of the job's present schedule, also from before the job existed; none is in
the future. Their runs wait for what is due now and are never in its way. More than 100 slots are
asked about on a terminal.

Examples:
  chronos backfill report --from 2029-12-01 --to 2030-01-01 --dry-run
  chronos backfill report --from 2029-12-01 --to 2030-01-01 --only-missing --parallel 4 --rate 10/m
  chronos backfill report --from 2029-12-01T06:00:00Z --to 2029-12-02 --order newest --wait
  chronos backfill --cancel 1-b3 --kill";

const RERUN_HELP: &str = "\
The new run has the due time and the arguments of the old one. All that comes after it in its
chain runs again too; joins wait for what descends from it.

Examples:
  chronos rerun 1-i5
  chronos rerun 1-i5 --only";

const FORECAST_HELP: &str = "\
Slots are counted; starts of dependents are estimated from how long runs took lately.

Examples:
  chronos forecast
  chronos forecast --hours 6 --bucket 5m
  chronos forecast --output json | jq '.busiest'";

const ROLLBACK_HELP: &str = "\
Examples:
  chronos history nightly
  chronos rollback nightly 3 --dry-run
  chronos rollback nightly 3";

#[derive(Debug, Args)]
struct ServerArgs {
    #[command(flatten)]
    settings: ConfigFile,
    /// File with settings (YAML), named as the flags are
    #[arg(long = "config", env = "CHRONOS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Tell each effective setting and where it came from, and exit
    #[arg(long = "check_config")]
    check_config: bool,
}

#[derive(Debug, Args)]
struct BenchArgs {
    /// The folder whose disk is measured
    #[arg(long = "data_dir", env = "CHRONOS_DATA_DIR", value_name = "FOLDER", default_value = "data")]
    data_dir: PathBuf,
    /// `table` is for people, `json` for scripts
    #[arg(long, hide_possible_values = true, value_name = "FORMAT", default_value = "table")]
    output: Format,
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

#[derive(Debug, Args)]
struct ApplyArgs {
    /// Files, folders, or `-`
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only tell what would change, field by field
    #[arg(long)]
    dry_run: bool,
    /// All jobs or none: if one is refused, nothing is applied
    #[arg(long)]
    atomic: bool,
    #[command(flatten)]
    client: ClientArgs,
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
struct JobsArgs {
    /// Only jobs with this text in their name, command, owner or labels
    #[arg(value_name = "TEXT")]
    search: Option<String>,
    #[command(flatten)]
    chosen: ChosenArgs,
    /// By name, state, lastOutcome, lastEnded, lastSuccess, lastError, next, owner, errors, created or changed; a `-`
    /// before it turns the order round
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many; all, if not given
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = at_least_one)]
    limit: Option<usize>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct JobArgs {
    /// Name of the job
    job: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Name of the job
    job: String,
    /// Instead of the job's own arguments
    #[arg(long, value_name = "TEXT")]
    arguments: Option<String>,
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

#[derive(Debug, Args)]
struct DeleteArgs {
    /// Names of the jobs
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct PauseArgs {
    /// Name of the job
    job: String,
    /// Why, for the others who look at it
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// When it resumes by itself, such as 2030-01-01T08:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "length")]
    until: Option<jiff::Timestamp>,
    /// After how long it resumes by itself, such as 2h
    #[arg(long = "for", value_name = "DURATION")]
    length: Option<Length>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct RunsArgs {
    /// Only of this job
    job: Option<String>,
    /// Only with this outcome: succeeded, failed, killed, timedOut, lost, skipped, missed, or `live`; may be repeated
    #[arg(long, value_name = "OUTCOME")]
    outcome: Vec<String>,
    /// Only for this cause: slot, trigger, join, backfill; may be repeated
    #[arg(long, value_name = "CAUSE")]
    cause: Vec<String>,
    /// Only with a due time at or after this
    #[arg(long, value_name = "TIME")]
    from: Option<jiff::Timestamp>,
    /// Only with a due time before this
    #[arg(long, value_name = "TIME")]
    to: Option<jiff::Timestamp>,
    /// `-time`, the newest first, or `time`
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50, value_parser = at_least_one)]
    limit: usize,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct LogsArgs {
    /// Name of a job, or key of a run
    #[arg(value_name = "JOB|RUN")]
    target: String,
    /// Go on until the run has ended
    #[arg(short, long)]
    follow: bool,
    /// What the run wrote to stderr, instead of stdout
    #[arg(long)]
    stderr: bool,
    /// Of this attempt, counted from 0, instead of the latest
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<u32>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct NextArgs {
    /// Only of this job
    #[arg(conflicts_with = "ChosenArgs")]
    job: Option<String>,
    #[command(flatten)]
    chosen: ChosenArgs,
    /// Only those due at or after this
    #[arg(long, value_name = "TIME")]
    from: Option<jiff::Timestamp>,
    /// Only those due at or before this
    #[arg(long, value_name = "TIME")]
    until: Option<jiff::Timestamp>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 10, value_parser = at_least_one)]
    limit: usize,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct HistoryArgs {
    /// Name of the job, a deleted one too
    job: String,
    /// Only versions that came about so: created, replaced, patched, applied, rolledBack, restored, deleted, inherited,
    /// disabled; may be repeated
    #[arg(long, value_name = "HOW")]
    how: Vec<String>,
    /// Only versions by this user
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// `-version`, the newest first, or `version`
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50, value_parser = at_least_one)]
    limit: usize,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct BackfillArgs {
    /// Name of the job
    #[arg(required_unless_present = "cancel")]
    job: Option<String>,
    /// Slots due at or after this: a time, or a date in UTC
    #[arg(long, value_name = "TIME", value_parser = backfill::instant, required_unless_present = "cancel")]
    from: Option<jiff::Timestamp>,
    /// Slots due before this
    #[arg(long, value_name = "TIME", value_parser = backfill::instant, required_unless_present = "cancel")]
    to: Option<jiff::Timestamp>,
    /// Which end comes first: `oldest` or `newest`
    #[arg(long, value_name = "ORDER", hide_possible_values = true, default_value = "oldest")]
    order: backfill::Order,
    /// Slots under way at once, with all that descends from them; 1 to 64
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    parallel: u32,
    /// How fast slots begin, such as 10/m or 1/30s
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
    /// Leave out slots that have succeeded, as far as the history knows
    #[arg(long)]
    only_missing: bool,
    /// The children of the job do not follow
    #[arg(long)]
    no_children: bool,
    /// Only say what would run
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Wait until all of it is over; fails if a run did not succeed
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// With --wait: do not show how far it has come
    #[arg(long, requires = "wait")]
    quiet: bool,
    /// Begin no further slot of this backfill
    #[arg(long, value_name = "ID", conflicts_with_all = ["job", "from", "to", "wait", "dry_run"])]
    cancel: Option<String>,
    /// With --cancel: kill what has begun
    #[arg(long, requires = "cancel")]
    kill: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct BackfillsArgs {
    /// Only of this job
    job: Option<String>,
    /// Only in this state: underWay, over, cancelled; may be repeated
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    /// Only backfills of `slots`, or only each `rerun`
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// By created, ended, job, state or left; `-created`, the newest first, if not given
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many; all, if not given
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = at_least_one)]
    limit: Option<usize>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct RerunArgs {
    /// Key of a run that has ended
    run: String,
    /// Only this run, without what comes after it
    #[arg(long)]
    only: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct ForecastArgs {
    /// How many hours; 1 to 168
    #[arg(long, value_name = "COUNT", default_value_t = 24)]
    hours: u32,
    /// Length of a bucket, such as 15m
    #[arg(long, value_name = "DURATION", default_value = "15m")]
    bucket: String,
    #[command(flatten)]
    chosen: ChosenArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct NotifyTestArgs {
    /// Whom a mail goes to
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// `mail` or `webhook`; whatever the server has, if not given
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct NoticesArgs {
    /// Only in this state: waiting, sending, delivered, givenUp; may be repeated
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    /// Only by `mail`, or only by `webhook`
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// Only to this address
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// Only those that tell of this job
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// By id, state, attempts or settled; `-id`, the newest first, if not given
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50, value_parser = at_least_one)]
    limit: usize,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct RetryArgs {
    /// Number of the notice
    id: u64,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct RollbackArgs {
    /// Name of the job
    job: String,
    /// The version to bring back, as `chronos history` lists it
    version: u32,
    /// Only tell what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct SuperviseArgs {
    /// The folder it looks after
    #[arg(long)]
    dir: PathBuf,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number, at least 1".into())
}

/// Parses the command line, does what it says, and tells how that went.
pub fn main() -> ExitCode {
    completions::answer();
    let matches = command().get_matches_from(old::plain(std::env::args_os().collect()));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let done = match cli.command {
        Command::Server(args) => server::run(*args, matches.subcommand_matches("server"), Manner::Server),
        Command::RunJar(args) => server::run(*args, matches.subcommand_matches("run_jar"), Manner::RunJar),
        Command::Supervise(args) => server::supervise(&args.dir),
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

/// A client waits for one answer at a time.
fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn ask(what: Ask) -> Result<(), Failure> {
    match what {
        Ask::Apply(args) => apply::run(&client(&args.client)?, &args).await,
        Ask::Jobs(args) => queries::jobs(&client(&args.client)?, &args).await,
        Ask::Show(args) => queries::show(&client(&args.client)?, &args.job).await,
        Ask::Runs(args) => queries::runs(&client(&args.client)?, &args).await,
        Ask::Why(args) => queries::why(&client(&args.client)?, &args).await,
        Ask::Next(args) => queries::next(&client(&args.client)?, &args).await,
        Ask::Graph(args) => graph::run(&args).await,
        Ask::Audit(args) => audit::run(&args).await,
        Ask::History(args) => versions::history(&client(&args.client)?, &args).await,
        Ask::Rollback(args) => versions::rollback(&client(&args.client)?, &args).await,
        Ask::Logs(args) => logs::run(&client(&args.client)?, &args).await,
        Ask::Run(args) => requests::run(&client(&args.client)?, &args).await,
        Ask::Kill(args) => requests::kill(&client(&args.client)?, &args).await,
        Ask::Delete(args) => requests::delete(&client(&args.client)?, &args).await,
        Ask::Pause(args) => requests::pause(&client(&args.client)?, &args).await,
        Ask::Resume(args) => requests::resume(&client(&args.client)?, &args).await,
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
        Ask::Notify(Notify::Test(args)) => notify::test(&client(&args.client)?, &args).await,
        Ask::Notify(Notify::List(args)) => notify::list(&client(&args.client)?, &args).await,
        Ask::Notify(Notify::Retry(args)) => notify::retry(&client(&args.client)?, &args).await,
        Ask::MarkSuccess(args) => requests::mark_success(&client(&args.client)?, &args).await,
        Ask::Backfill(args) => backfill::run(&client(&args.client)?, &args).await,
        Ask::Backfills(args) => backfill::list(&client(&args.client)?, &args).await,
        Ask::Rerun(args) => backfill::rerun(&client(&args.client)?, &args).await,
        Ask::Forecast(args) => forecast::run(&client(&args.client)?, &args).await,
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
