//! `chronos settle`: an operator says which jobs count, those of the old Chronos that has led in between or ours.

use clap::{Args, ValueEnum};
use store::zookeeper::old::Standing;

use super::tree::TreeArgs;
use crate::cli::failure::{Exit, Failure};

pub(in crate::cli) const HELP: &str = "\
For servers that share ZooKeeper with an old Chronos and say in /ready that it has led since its jobs
were taken over: they launch nothing until somebody decides. They see the answer within some seconds.

`import` takes its jobs over again. Jobs of the same name are replaced, and begin with the slot that
is next there; jobs that are only here stay. `keep` goes on with the jobs that are here: slots that
have passed since get their outcome by `catchUp`, also those that the old Chronos has launched.

Examples:
  chronos settle import --zk_hosts zk1:2181,zk2:2181,zk3:2181
  chronos settle keep --zk_hosts zk1:2181";

/// Which jobs count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    Import,
    Keep,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SettleArgs {
    /// `import`: those of the old Chronos; `keep`: those that are here
    #[arg(value_name = "WHICH", hide_possible_values = true)]
    choice: Choice,
    #[command(flatten)]
    tree: TreeArgs,
}

pub(in crate::cli) async fn run(args: &SettleArgs) -> Result<(), Failure> {
    let refused = |message: String, hint: &str| {
        Err(Failure::new(Exit::Refused, anyhow::anyhow!(message)).hint(hint.to_owned()))
    };
    if let Some(leader) = args.tree.leader().await?.filter(|leader| leader.node.is_empty()) {
        let address = leader.addresses.first().map_or("?", String::as_str);
        return refused(format!("an old Chronos at {address} leads there"), "stop it first");
    }
    let found = args.tree.read().await?;
    let remembered = args.tree.recall().await?;
    if matches!(remembered.standing, Standing::Settled(mark) if mark == found.mark) {
        return refused(
            "there is nothing to decide: no old Chronos has written since this was settled".into(),
            "`chronos import zookeeper` takes its jobs over at any time",
        );
    }
    let (standing, told) = match args.choice {
        Choice::Import => (Standing::Import, "the next leader takes over the jobs of the old Chronos"),
        Choice::Keep => (Standing::Settled(found.mark), "the jobs that are here count"),
    };
    args.tree.remember(remembered, standing).await?;
    Ok(crate::cli::out(format!("{told}\n").as_bytes())?)
}
