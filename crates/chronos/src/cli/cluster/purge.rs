//! `chronos cluster purge`: the framework ends, the state goes, and instances begin with none.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use engine::mesos::operator::{Framework, Operator, OperatorError, Standing, Teardown};

use super::kept::{Kept, Step};
use super::launcher::Launcher;
use super::remains::{Place, Remains, occupied};
use super::verdict::{Seen, Stored, Verdict, shown, verdict};
use super::{LauncherArgs, Patience, count, say};
use crate::cli::failure::{Exit, Failure, printable};
use crate::config::{Config, ConfigFile, Manner, MesosSettings, Source};
use crate::notify::settings::Secret;

pub(in crate::cli) const HELP: &str = "\
In this order, each only if the one before is done: a backup is written; all instances are stopped; nobody
may be left who could lead; the framework is ended at the leading master, with all its tasks, and waited for
until the master lists it as completed; the state is removed, --zk_path itself included and nothing above it
(in PostgreSQL: the tables of the schema, not the schema); the instances are started, and register anew.

It is refused, with exit code 2, unless the id is the one that is stored, or the framework has the name and
the principal of this one. Cut anywhere, the same command goes on; done once, it does nothing more.

Examples:
  chronos cluster purge 2f6c6c5e-1d9b-4a0e-8a53-000000000001-0000 --launcher marathon --dry-run \\
    --marathon http://marathon.mesos:8080 --master zk://m1:2181,m2:2181/mesos --zk_hosts m1:2181,m2:2181
  chronos cluster purge ID --launcher systemd --host a,b,c --sudo --config /etc/chronos/chronos.yaml";

/// The name of the file with everything that was stored.
const BACKUP: &str = "backup.jsonl.gz";
const OLD_JOBS: &str = "old-jobs.json";

#[derive(Debug, Args)]
pub(in crate::cli) struct PurgeArgs {
    /// Id of the framework, as the master lists it
    #[arg(value_name = "FRAMEWORK_ID")]
    framework: String,
    #[command(flatten)]
    launcher: LauncherArgs,
    /// File with the settings of the servers, from which all below is taken where it is not given
    #[arg(long = "config", env = "CHRONOS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the master of Mesos is, as servers have it
    #[arg(long, env = "CHRONOS_MASTER", value_name = "MASTER")]
    master: Option<String>,
    /// The same as servers have
    #[arg(long = "mesos_framework_name", env = "CHRONOS_MESOS_FRAMEWORK_NAME", value_name = "NAME")]
    mesos_framework_name: Option<String>,
    /// The same as servers have
    #[arg(
        long = "mesos_authentication_principal",
        env = "CHRONOS_MESOS_AUTHENTICATION_PRINCIPAL",
        value_name = "NAME"
    )]
    mesos_authentication_principal: Option<String>,
    /// The same as servers have
    #[arg(
        long = "mesos_authentication_secret_file",
        env = "CHRONOS_MESOS_AUTHENTICATION_SECRET_FILE",
        value_name = "FILE"
    )]
    mesos_authentication_secret_file: Option<PathBuf>,
    /// Servers of ZooKeeper, if the state is there
    #[arg(long = "zk_hosts", env = "CHRONOS_ZK_HOSTS", value_name = "HOST:PORT,..")]
    zk_hosts: Option<String>,
    /// Where in ZooKeeper [default: /chronos/state]
    #[arg(long = "zk_path", env = "CHRONOS_ZK_PATH", value_name = "PATH")]
    zk_path: Option<String>,
    /// As whom, better in the environment
    #[arg(long = "zk_auth", env = "CHRONOS_ZK_AUTH", value_name = "USER:PASSWORD")]
    zk_auth: Option<Secret>,
    /// The database of PostgreSQL, if the state is there; better in the environment or a file
    #[arg(long = "database_url", env = "CHRONOS_DATABASE_URL", value_name = "URL")]
    database_url: Option<Secret>,
    /// File with that URL
    #[arg(long = "database_url_file", env = "CHRONOS_DATABASE_URL_FILE", value_name = "FILE")]
    database_url_file: Option<PathBuf>,
    /// The schema in it [default: chronos]
    #[arg(long = "database_schema", env = "CHRONOS_DATABASE_SCHEMA", value_name = "NAME")]
    database_schema: Option<String>,
    /// With systemd: the data folder on the machines, where each remembers which store it has worked on
    #[arg(long = "data_dir", value_name = "FOLDER", default_value = "/var/lib/chronos")]
    data_dir: String,
    /// Folder for the backup, and for what must not be lost when this is cut [default: chronos-purge-FRAMEWORK_ID]
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// The framework is over, although the master does not say so
    #[arg(long)]
    gone: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// All that is asked.
struct Purge<'a> {
    id: &'a str,
    place: Place,
    master: Operator,
    mesos: MesosSettings,
    gone: bool,
    patience: Patience,
}

pub(in crate::cli) async fn run(args: &PurgeArgs) -> Result<(), Failure> {
    let id = checked(&args.framework)?;
    let config = settings(args)?;
    let mesos = config.mesos.clone().ok_or_else(|| {
        Failure::usage("nothing says where the master of Mesos is")
            .hint("--master says it, or --config names the file of the servers")
    })?;
    let launcher = Launcher::new(&args.launcher)?;
    let folder = args.keep.clone().unwrap_or_else(|| format!("chronos-purge-{id}").into());
    let mut kept = Kept::open(&folder, &format!("purge of {id}"))?;
    if kept.step() == Step::Done {
        return say(
            "done",
            format!("framework {id} was purged at {}, as {} says", kept.at(), folder.display()),
        );
    }
    let purge = Purge {
        id,
        place: Place::new(&config.cluster.store)?,
        master: Operator::new(mesos.masters.clone(), mesos.login.clone())?,
        mesos,
        gone: args.gone,
        patience: Patience(args.launcher.patience.0),
    };
    let remains = purge.place.look().await?;
    let seen = purge.seen(&remains, kept.step()).await?;
    let (teardown, why) = match verdict(&seen) {
        Verdict::Refused { why, hint } => return Err(Failure::usage(why).hint(hint)),
        Verdict::NothingToDo(why) => return say("done", why),
        Verdict::Go { teardown, why } => (teardown, why),
    };
    say("purge", why)?;
    if kept.step() < Step::Removed {
        say("purge", format!("state: {}, {}", purge.place, told(&remains)))?;
    }
    let look = launcher.look(&kept).await?;
    say("purge", look)?;
    if args.launcher.dry_run {
        return plan(&purge, &kept, &teardown, &remains);
    }
    if !kept.is_under_way() && !args.yes {
        agreed(&purge, &teardown, &remains)?;
    }
    if kept.is_under_way() {
        say("purge", format!("goes on with what was cut at {}", kept.at()))?;
    }
    kept.reach(Step::Begun.max(kept.step()))?;
    if kept.step() < Step::Removed {
        purge.end(&launcher, &mut kept, &remains, &teardown, &args.data_dir).await?;
    }
    launcher.start(&kept, purge.patience).await?;
    kept.reach(Step::Started)?;
    if !matches!(launcher, Launcher::None) {
        purge.registered().await?;
    }
    kept.reach(Step::Done)?;
    let backup = kept.path(BACKUP);
    let backup =
        if backup.exists() { format!("; the backup is {}", backup.display()) } else { String::new() };
    say("done", format!("framework {id} and its state are gone{backup}"))
}

/// An id becomes part of a request, and of the name of a folder.
fn checked(id: &str) -> Result<&str, Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if id.is_empty() || id.len() > 255 || id.starts_with(['.', '-']) || !id.bytes().all(plain) {
        return Err(Failure::usage(format!("`{}` is not the id of a framework", printable(id)))
            .hint("the master lists them; they look like 2f6c6c5e-1d9b-4a0e-8a53-000000000001-0000"));
    }
    Ok(id)
}

/// As servers that are started with these settings would take them.
fn settings(args: &PurgeArgs) -> Result<Config, Failure> {
    let given = ConfigFile {
        master: args.master.clone(),
        mesos_framework_name: args.mesos_framework_name.clone(),
        mesos_authentication_principal: args.mesos_authentication_principal.clone(),
        mesos_authentication_secret_file: args.mesos_authentication_secret_file.clone(),
        zk_hosts: args.zk_hosts.clone(),
        zk_path: args.zk_path.clone(),
        zk_auth: args.zk_auth.clone(),
        database_url: args.database_url.clone(),
        database_url_file: args.database_url_file.clone(),
        database_schema: args.database_schema.clone(),
        ..ConfigFile::default()
    };
    let refused = |error: crate::config::ConfigError| {
        let hint = error.hint();
        Failure::new(Exit::Usage, error).hint(hint)
    };
    let file = args.config.clone().map(|path| ConfigFile::read(&path).map(|file| (path, file))).transpose();
    Config::new(given, |_| Source::Flag, file.map_err(refused)?, Manner::Server).map_err(refused)
}

fn told(remains: &Remains) -> String {
    match (remains.there, remains.whole, &remains.removing) {
        (false, ..) => "of which nothing is there".into(),
        (true, true, _) => count(remains.jobs, "job"),
        (true, false, Some(_)) => "of which a part is removed already".into(),
        (true, false, None) => "in which there is no store".into(),
    }
}

/// What would be done, for `--dry-run` and for who is asked.
fn steps(purge: &Purge<'_>, kept: Option<&Kept>, teardown: &[Framework], remains: &Remains) -> Vec<String> {
    let mut steps = Vec::new();
    if kept.is_none_or(|kept| kept.step() < Step::Removed) {
        if remains.whole {
            steps.push(format!("back up {}", count(remains.jobs, "job")));
        }
        steps.push("stop all instances, and wait until nobody is left who could lead".into());
        steps.extend(teardown.iter().map(|one| format!("end framework {} ({})", one.id, shown(one))));
        if remains.there {
            steps.push(format!("remove {}", purge.place));
        }
    }
    steps.push("start the instances, without any state".into());
    steps
}

fn plan(purge: &Purge<'_>, kept: &Kept, teardown: &[Framework], remains: &Remains) -> Result<(), Failure> {
    for step in steps(purge, Some(kept), teardown, remains) {
        say("would", step)?;
    }
    say("dry run", "nothing was done")
}

/// Asks whoever sits at the terminal; where nobody does it is refused.
fn agreed(purge: &Purge<'_>, teardown: &[Framework], remains: &Remains) -> Result<(), Failure> {
    let mut stderr = std::io::stderr();
    if !std::io::stdin().is_terminal() || !stderr.is_terminal() {
        return Err(Failure::usage("nothing was done: a purge removes all jobs and ends all tasks")
            .hint("--yes does it without asking; --dry-run shows what would be done"));
    }
    for step in steps(purge, None, teardown, remains) {
        writeln!(stderr, "  {}", printable(&step))?;
    }
    write!(stderr, "do all of this? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failed, anyhow::anyhow!("nothing was done"))),
    }
}

impl Purge<'_> {
    async fn framework(&self, id: &str) -> Result<Option<Framework>, Failure> {
        self.master.framework(id).await.map_err(unanswered)
    }

    async fn seen(&self, remains: &Remains, reached: Step) -> Result<Seen, Failure> {
        let present = match &remains.note {
            Some(id) => self.framework(id).await?,
            None => None,
        };
        let unknown = remains.note.clone().filter(|_| present.is_none());
        let stored = Stored {
            there: remains.there,
            present,
            unknown,
            old: remains.old_framework.clone(),
            removing: remains.removing.clone(),
        };
        let principal = self.mesos.login.as_ref().map(|login| login.principal.clone()).unwrap_or_default();
        Ok(Seen {
            given: self.id.into(),
            name: self.mesos.name.clone(),
            principal,
            framework: self.framework(self.id).await?,
            stored,
            reached,
            gone: self.gone,
        })
    }

    /// From the backup to the end of the state.
    async fn end(
        &self,
        launcher: &Launcher,
        kept: &mut Kept,
        remains: &Remains,
        teardown: &[Framework],
        data_dir: &str,
    ) -> Result<(), Failure> {
        kept.make()?;
        self.backup(kept, remains).await?;
        kept.reach(Step::BackedUp)?;
        launcher.stop(kept, self.patience).await?;
        kept.reach(Step::Stopped)?;
        self.deserted().await?;
        for framework in teardown {
            self.tear_down(framework).await?;
        }
        kept.reach(Step::TornDown)?;
        if remains.there {
            say("remove", format!("removing {}", self.place))?;
            say("remove", format!("removed {}", self.place.remove(self.id).await?))?;
        } else {
            say("remove", format!("nothing is at {}", self.place))?;
        }
        launcher.forget_store(data_dir).await?;
        kept.reach(Step::Removed)
    }

    async fn backup(&self, kept: &Kept, remains: &Remains) -> Result<(), Failure> {
        let file = kept.path(BACKUP);
        kept.sweep(BACKUP);
        if remains.removing.is_none() {
            let old = self.place.old_jobs().await?;
            if !old.is_empty() {
                kept.write(OLD_JOBS, &old.into())?;
                say(
                    "backup",
                    format!("wrote the jobs of an old Chronos into {}", kept.path(OLD_JOBS).display()),
                )?;
            }
        }
        if !remains.whole {
            return match file.exists() {
                true => say("backup", format!("there is one of an earlier try: {}", file.display())),
                false => say("backup", "there is no store to back up"),
            };
        }
        let header = self.place.backup(&file).await?;
        say(
            "backup",
            format!("wrote {}: {} records, {}", file.display(), header.lines, count(remains.jobs, "job")),
        )
    }

    /// Waits until nobody is left who could lead. Sessions of instances that were killed take some seconds to end.
    async fn deserted(&self) -> Result<(), Failure> {
        say("latch", "looking whether any instance is left")?;
        let mut left = Vec::new();
        let empty = self.patience.until("latch", async || {
            left = self.place.candidates().await?;
            match left.is_empty() {
                true => Ok(Ok(())),
                false => Ok(Err(format!("{} could still lead", left.join(", ")))),
            }
        });
        match empty.await {
            Ok(()) => say("latch", "no instance is left"),
            Err(_) if !left.is_empty() => {
                Err(occupied(&left, "no framework was ended, and nothing was removed"))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Ends a framework, and returns when the master lists it as completed.
    async fn tear_down(&self, framework: &Framework) -> Result<(), Failure> {
        let id = &framework.id;
        let connected = self.patience.until("teardown", async || {
            Ok(match self.framework(id).await? {
                Some(now) if now.standing == Standing::Connected => {
                    Err(format!("somebody is connected as framework {id}, although no instance is left"))
                }
                _ => Ok(()),
            })
        });
        connected.await.map_err(|failure| {
            failure.hint("stop whoever that is; no framework was ended by this, and nothing was removed")
        })?;
        say("teardown", format!("ending framework {id} ({})", shown(framework)))?;
        self.patience
            .until("teardown", async || match self.framework(id).await? {
                Some(now) if now.standing == Standing::Over => Ok(Ok(())),
                // It may have been done, and another master may not have heard of it.
                Some(_) => match self.master.teardown(id).await.map_err(unanswered)? {
                    Teardown::Begun => Ok(Err(format!("the master ends framework {id}"))),
                    Teardown::Unknown => Ok(Err(format!("the master has just lost framework {id}"))),
                },
                None if self.gone => Ok(Ok(())),
                None => Ok(Err(format!("the master does not list framework {id}"))),
            })
            .await?;
        say("teardown", format!("framework {id} is over"))
    }

    /// Waits until the instances are known under another id.
    async fn registered(&self) -> Result<(), Failure> {
        let id = self.patience.until("start", async || {
            Ok(match self.place.look().await?.note {
                Some(id) if id != self.id => Ok(id),
                _ => Err("no instance has registered at the master yet".into()),
            })
        });
        let id = id.await?;
        say("start", format!("the instances are framework {id} now"))
    }
}

fn unanswered(error: OperatorError) -> Failure {
    let exit = match &error {
        OperatorError::Unreachable(_) => Exit::Unreachable,
        OperatorError::Refused(_) => Exit::Refused,
    };
    Failure::new(exit, error).hint("--master says where the masters are")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_plain() {
        assert!(checked("2f6c6c5e-1d9b-4a0e-8a53-000000000001-0000").is_ok());
        for id in ["", "..", "-x", "a/b", "a b", "a&b", "a\nb"] {
            assert!(checked(id).is_err(), "{id}");
        }
    }
}
