//! How a server uses Mesos, by its flags.

use std::path::Path;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use engine::mesos::{Masters, MesosLogin, MesosOptions};
use engine::{Share, Thousandths};

use super::failure::Failure;
use crate::config::Config;

/// `None` where tasks are not to run on Mesos.
pub(super) fn options(
    matches: Option<&ArgMatches>,
    config: &Config,
) -> Result<Option<MesosOptions>, Failure> {
    let Some(matches) = matches else { return Ok(None) };
    let text = |name: &str| {
        let given = matches.value_source(name).is_some_and(|source| source != ValueSource::DefaultValue);
        matches.get_one::<String>(name).filter(|_| given).cloned()
    };
    let number = |name: &str| text(name).and_then(|text| text.parse::<f64>().ok());
    let length = |name: &str, unit: f64| {
        number(name).and_then(|number| Duration::try_from_secs_f64(number * unit).ok())
    };
    let Some(master) = text("master").filter(|master| master != "local") else { return Ok(None) };
    let masters = Masters::parse(&master)
        .map_err(|error| Failure::usage(error).hint("--master says where the master of Mesos is"))?;
    let defaults = MesosOptions::new(masters);
    let share = |name: &str, default: f64| Some(Thousandths::nearest(number(name).unwrap_or(default)));
    let login = match (text("mesos_authentication_principal"), text("mesos_authentication_secret_file")) {
        (None, _) => None,
        (Some(principal), None) => Some(MesosLogin { principal, secret: String::new() }),
        (Some(principal), Some(file)) => Some(MesosLogin { principal, secret: secret(Path::new(&file))? }),
    };
    Ok(Some(MesosOptions {
        login,
        name: text("mesos_framework_name").unwrap_or(defaults.name.clone()),
        user: text("user").unwrap_or_else(|| "root".into()),
        role: text("mesos_role").unwrap_or(defaults.role.clone()),
        checkpoint: text("mesos_checkpoint").is_none_or(|text| text == "true"),
        failover_timeout: length("failover_timeout", 1.0).unwrap_or(defaults.failover_timeout),
        webui_url: text("webui_url"),
        hostname: config.hostname.first().cloned().unwrap_or_default(),
        decline_for: length("decline_offer_duration", 0.001).unwrap_or(defaults.decline_for),
        revive_every: length("min_revive_offers_interval", 0.001).unwrap_or(defaults.revive_every),
        reconcile_every: length("reconciliation_interval", 1.0).unwrap_or(defaults.reconcile_every),
        share: Share {
            cpus: share("mesos_task_cpu", 0.1),
            mem: share("mesos_task_mem", 128.0),
            disk: share("mesos_task_disk", 256.0),
        },
        kill_grace: config.kill_grace,
        masters: defaults.masters,
    }))
}

/// A newline at the end of the file is no part of the secret.
fn secret(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!("cannot read the secret in `{}`: {error}", file.display()))
            .hint("--mesos_authentication_secret_file names a file that this user can read")
    })?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    Ok(secret.strip_suffix('\r').unwrap_or(secret).to_owned())
}
