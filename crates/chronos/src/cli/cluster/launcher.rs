//! What starts and stops instances, whichever it is.

use super::kept::Kept;
use super::marathon::Marathon;
use super::systemd::Systemd;
use super::{Kind, LauncherArgs, Patience, say};
use crate::cli::failure::Failure;

/// One of them.
pub(super) enum Launcher {
    Marathon(Marathon),
    Systemd(Systemd),
    None,
}

impl Launcher {
    pub(super) fn new(args: &LauncherArgs) -> Result<Self, Failure> {
        Ok(match args.launcher {
            Kind::Marathon => Self::Marathon(Marathon::new(args)?),
            Kind::Systemd => Self::Systemd(Systemd::new(args)?),
            Kind::None => Self::None,
        })
    }

    /// What it would stop and start, in words, and whether it can be reached.
    pub(super) async fn look(&self, kept: &Kept) -> Result<String, Failure> {
        match self {
            Self::Marathon(marathon) => marathon.look(kept).await,
            Self::Systemd(systemd) => systemd.look().await,
            Self::None => Ok("no launcher: instances are stopped and started by hand".into()),
        }
    }

    /// Stops all instances, and returns when they are gone.
    pub(super) async fn stop(&self, kept: &Kept, patience: Patience) -> Result<(), Failure> {
        match self {
            Self::Marathon(marathon) => marathon.stop(kept, patience).await,
            Self::Systemd(systemd) => systemd.stop().await,
            Self::None => say("stop", "nothing is stopped: that was to be done by hand"),
        }
    }

    /// Lets the machines forget which store they have worked on: the next one is empty on purpose.
    pub(super) async fn forget_store(&self, data_dir: &str) -> Result<(), Failure> {
        match self {
            Self::Systemd(systemd) => systemd.forget_store(data_dir).await,
            // What an app writes goes with its task.
            Self::Marathon(_) | Self::None => Ok(()),
        }
    }

    /// Starts all instances, and returns when they are ready.
    pub(super) async fn start(&self, kept: &Kept, patience: Patience) -> Result<(), Failure> {
        match self {
            Self::Marathon(marathon) => marathon.start(kept, patience).await,
            Self::Systemd(systemd) => systemd.start(patience).await,
            Self::None => say(
                "start",
                "nothing is started: that is to be done by hand, where a data folder outlives its instance after its \
                 file `store` is removed, as no instance leads on an empty store where it knew jobs",
            ),
        }
    }
}
