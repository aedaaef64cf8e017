//! From what was said to what is meant: flags, variables, the file, and what they name.

use std::io::IsTerminal;
use std::sync::Arc;

use clap::parser::ValueSource;
use scheduler::schedule::Zones;

use super::ServerArgs;
use crate::cli::failure::{Exit, Failure};
use crate::cli::table::Table;
use crate::config::{Config, ConfigError, ConfigFile, LogFormat, Manner, Source, Tzdata, old, variable};
use crate::notify::settings::Secret;
use crate::tls::identity::Identity;
use crate::zoneinfo;

/// Environment variables of Chronos, and the settings that they are where no flag and no variable of ours says more.
const OLD_VARIABLES: [(&str, &str); 3] = [
    ("MESOSPHERE_HTTP_CREDENTIALS", "http_credentials"),
    ("MESOSPHERE_KEYSTORE_PATH", "ssl_keystore_path"),
    ("MESOSPHERE_KEYSTORE_PASS", "ssl_keystore_password"),
];

pub(super) fn config(
    args: &ServerArgs,
    matches: Option<&clap::ArgMatches>,
    manner: Manner,
) -> Result<Config, Failure> {
    let refused = |error: ConfigError| {
        let hint = error.hint();
        Failure::new(Exit::Usage, error).hint(hint)
    };
    let mut settings = args.settings.clone();
    let mut old_variables = Vec::new();
    for (variable, name) in OLD_VARIABLES {
        let value = match std::env::var(variable) {
            Ok(value) => value,
            Err(std::env::VarError::NotPresent) => continue,
            // What cannot be read may be a password, and is no open door.
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(Failure::usage(format!("the variable {variable} is not UTF-8")));
            }
        };
        let taken = match name {
            "http_credentials" => set(&mut settings.http_credentials, Secret(value)),
            "ssl_keystore_path" => set(&mut settings.ssl_keystore_path, value.into()),
            _ => set(&mut settings.ssl_keystore_password, Secret(value)),
        };
        old_variables.extend(taken.then_some((name, variable)));
    }
    if let Some(user) = std::env::var(LOGIN).ok().and_then(task_user) {
        old_variables.extend(set(&mut settings.user, user).then_some(("user", LOGIN)));
    }
    let source = |name: &str| match matches.and_then(|matches| matches.value_source(name)) {
        Some(ValueSource::EnvVariable) => Source::Environment(variable(name)),
        None => match old_variables.iter().find(|(known, _)| *known == name) {
            Some((_, variable)) => Source::Environment((*variable).into()),
            None => Source::Flag,
        },
        Some(_) => Source::Flag,
    };
    let file = args.config.clone().map(|path| ConfigFile::read(&path).map(|file| (path, file))).transpose();
    let file = file.map_err(refused)?;
    Config::new(settings, source, file, manner).map_err(refused)
}

/// The variable of the command line's login, which was that of `--user` too.
const LOGIN: &str = "CHRONOS_USER";

/// The user for tasks that this variable names; with a password it is a login, and no user of a machine has a `:`.
fn task_user(value: String) -> Option<String> {
    Some(value).filter(|value| !value.is_empty() && !value.contains(':'))
}

/// Sets what nobody has set, and says whether it did.
fn set<T>(setting: &mut Option<T>, value: T) -> bool {
    if setting.is_some() {
        return false;
    }
    *setting = Some(value);
    true
}

/// The certificate of HTTPS, where it is to be spoken.
pub(super) fn identity(config: &Config) -> Result<Option<Arc<Identity>>, Failure> {
    let Some((_, source)) = &config.https else { return Ok(None) };
    let identity = Identity::read(source.clone()).map_err(|error| {
        let hint = error.hint();
        Failure::new(Exit::Usage, error).context("cannot listen for HTTPS").hint(hint)
    })?;
    Ok(Some(Arc::new(identity)))
}

pub(super) fn zones(tzdata: Tzdata) -> Result<Zones, Failure> {
    match tzdata {
        Tzdata::Bundled => Ok(Zones::bundled()),
        Tzdata::System => zoneinfo::system(std::env::var_os("TZDIR")).map_err(|error| {
            let hint = error.hint();
            Failure::new(Exit::Usage, error).hint(hint)
        }),
    }
}

pub(super) fn tell_config(config: &Config, zones: &Zones) -> std::io::Result<()> {
    let mut table = Table::new(&["setting", "value", "from"]);
    for told in &config.told {
        let value = match told.name {
            "tzdata" => format!("{} ({})", told.value, zones.data().name()),
            _ => told.value.clone(),
        };
        table.row([told.name.into(), value, told.source.to_string()]);
    }
    table.print()
}

/// What whoever set this up should know, for the log of the start and for `--check_config`.
pub(super) fn notices(config: &Config, matches: Option<&clap::ArgMatches>) -> Vec<String> {
    let mut notices = matches.map(old::notices).unwrap_or_default();
    notices.extend(config.notices());
    notices
}

pub(super) fn start_log(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::new(&config.log_level);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(colours).init();
        }
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_of_the_command_line_is_no_user_of_tasks() {
        assert_eq!(task_user("ops:secret".into()), None);
        assert_eq!(task_user(String::new()), None);
        assert_eq!(task_user("www-data".into()).as_deref(), Some("www-data"));
    }
}
