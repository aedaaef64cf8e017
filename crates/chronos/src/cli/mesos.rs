//! How a server uses Mesos, by its settings.

use engine::mesos::MesosOptions;
use engine::{Share, Thousandths};

use crate::config::{Config, MesosSettings};
use crate::wire::unsaid::Unsaid;

/// `None` where tasks are not to run on Mesos. Where nobody says what Mesos is to show as our address, that is for whoever
/// knows where this node listens.
pub(super) fn options(config: &Config) -> Option<MesosOptions> {
    let MesosSettings {
        masters,
        login,
        name,
        role,
        checkpoint,
        failover_timeout,
        webui_url,
        decline_for,
        revive_every,
        reconcile_every,
        old_tasks,
    } = config.mesos.clone()?;
    let Unsaid { cpus, mem, disk, user } = config.unsaid.clone();
    let share = |amount| Some(Thousandths::nearest(amount));
    let defaults = MesosOptions::new(masters);
    Some(MesosOptions {
        login,
        name,
        user,
        role,
        checkpoint,
        failover_timeout,
        webui_url,
        hostname: config.hostname.first().cloned().unwrap_or_default(),
        decline_for: decline_for.unwrap_or(defaults.decline_for),
        revive_every,
        reconcile_every,
        share: Share { cpus: share(cpus), mem: share(mem), disk: share(disk) },
        kill_grace: config.kill_grace,
        old_tasks,
        ..defaults
    })
}
