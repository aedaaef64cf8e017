//! `chronos cluster restart`: new processes, the same state.

use std::path::PathBuf;

use clap::Args;

use super::kept::{Kept, Step};
use super::launcher::Launcher;
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
    let launcher = Launcher::new(&args.launcher)?;
    let patience = Patience(args.launcher.patience.0);
    let work = match &launcher {
        Launcher::Marathon(_) => format!("restart of {}", args.launcher.app),
        Launcher::Systemd(_) => format!("restart of {}", args.launcher.unit),
        Launcher::None => {
            return Err(
                Failure::usage("nothing is known that starts the instances").hint("--launcher names it")
            );
        }
    };
    let mut kept = Kept::open(&args.keep, &work)?;
    say("restart", launcher.look(&kept).await?)?;
    if let Launcher::Systemd(systemd) = &launcher {
        if args.launcher.dry_run {
            for line in systemd.plan().await? {
                say("would", line)?;
            }
            return say("dry run", "nothing was done");
        }
        systemd.restart(patience).await?;
        return say("done", "all instances were restarted");
    }
    if args.launcher.dry_run {
        say("would", "write what the app is into a file, and remove it")?;
        say(
            "would",
            "wait until no task of it is left, deploy it again, and wait until all of it is healthy",
        )?;
        return say("dry run", "nothing was done");
    }
    if kept.is_under_way() {
        say("restart", format!("goes on with what was cut at {}", kept.at()))?;
    } else {
        kept.reach(Step::Begun)?;
    }
    if kept.step() < Step::Stopped {
        launcher.stop(&kept, patience).await?;
        kept.reach(Step::Stopped)?;
    }
    launcher.start(&kept, patience).await?;
    kept.reach(Step::Done)?;
    say("done", "all instances were restarted")
}
