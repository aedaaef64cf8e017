//! `chronos import`: makes jobs of what another scheduler has.

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::{crontab, moving};

/// What may be imported.
#[derive(Debug, Subcommand)]
enum Import {
    /// Make jobs of the lines of a crontab
    #[command(after_help = crontab::HELP)]
    Crontab(crontab::CrontabArgs),
    /// Take over the jobs of an old Chronos, or of a folder of chronos-sync
    #[command(after_help = moving::import::HELP)]
    Chronos(moving::import::ChronosArgs),
    /// Take over the jobs that an old Chronos keeps in ZooKeeper, whether it runs or not
    #[command(after_help = moving::import::ZOOKEEPER_HELP)]
    Zookeeper(moving::import::ZookeeperArgs),
}

/// See the subcommand.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    #[command(subcommand)]
    what: Import,
}

pub(super) async fn run(args: &ImportArgs) -> Result<(), Failure> {
    match &args.what {
        Import::Crontab(args) => crontab::run(args).await,
        Import::Chronos(args) => moving::import::run(args).await,
        Import::Zookeeper(args) => moving::import::from_zookeeper(args).await,
    }
}
