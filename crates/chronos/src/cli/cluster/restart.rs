//! `chronos cluster restart`: new processes, the same state.

use std::path::PathBuf;

use clap::Args;

use super::kept::{Kept, Step};
use super::launcher::Launcher;
use super::marathon::Marathon;
use super::systemd::Systemd;
use super::{LauncherArgs, Patience, say};
use crate::cli::failure::Failure;

pub(in crate::cli) const HELP: &str = "\
With marathon the app is written into a file, removed, waited for until no task of it is left, and deployed
again. With systemd one machine after the other is restarted, the leader last, and each is waited for until
it is ready. Tasks of jobs run on, jobs and their history stay, and the framework keeps its id. Work that was
cut goes on with the same command.

Examples:
  chronos cluster restart --launcher marathon --marathon http://marathon.mesos:8080
  chronos cluster restart --launcher systemd --host a,b,c --sudo --dry-run";

#[derive(Debug, Args)]
pub(in crate::cli) struct RestartArgs {
    #[command(flatten)]
    launcher: LauncherArgs,
    /// Folder for what must not be lost when this is cut
    #[arg(long, value_name = "FOLDER", default_value = "chronos-restart")]
    keep: PathBuf,
}

pub(in crate::cli) async fn run(args: &RestartArgs) -> Result<(), Failure> {
    let patience = Patience(args.launcher.patience.0);
    match Launcher::new(&args.launcher)? {
        Launcher::Marathon(marathon) => by_marathon(&marathon, args, patience).await?,
        Launcher::Systemd(systemd) => by_systemd(&systemd, args, patience).await?,
        Launcher::None => {
            return Err(
                Failure::usage("nothing is known that starts the instances").hint("--launcher names it")
            );
        }
    }
    match args.launcher.dry_run {
        true => say("dry run", "nothing was done"),
        false => say("done", "all instances were restarted"),
    }
}

/// Machines that were restarted before are restarted again, which harms nobody: nothing is to be remembered.
async fn by_systemd(systemd: &Systemd, args: &RestartArgs, patience: Patience) -> Result<(), Failure> {
    say("restart", systemd.look().await?)?;
    if args.launcher.dry_run {
        return systemd.plan().await?.iter().try_for_each(|line| say("would", line));
    }
    systemd.restart(patience).await
}

async fn by_marathon(marathon: &Marathon, args: &RestartArgs, patience: Patience) -> Result<(), Failure> {
    let mut kept = Kept::open(&args.keep, &format!("restart of {}", args.launcher.app))?;
    say("restart", marathon.look(&kept).await?)?;
    if args.launcher.dry_run {
        say("would", "write what the app is into a file, and remove it")?;
        return say(
            "would",
            "wait until no task of it is left, deploy it again, and wait until all of it is healthy",
        );
    }
    if kept.is_under_way() {
        say("restart", format!("goes on with what was cut at {}", kept.at()))?;
    } else {
        kept.reach(Step::Begun)?;
    }
    if kept.step() < Step::Stopped {
        marathon.stop(&kept, patience).await?;
        kept.reach(Step::Stopped)?;
    }
    marathon.start(&kept, patience).await?;
    kept.reach(Step::Done)
}
