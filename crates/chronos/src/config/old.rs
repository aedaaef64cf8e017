//! Flags of Chronos that have no meaning here, or none yet: each is taken in its spelling, and said why it does nothing.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// A flag of Chronos that is not a setting here.
pub struct Old {
    /// Its long form.
    pub name: &'static str,
    /// Its short form, where it had one.
    pub short: Option<char>,
    /// What comes after it.
    pub value: Value,
    /// Why it does nothing.
    pub why: &'static str,
}

/// What comes after a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing, or `=true` or `=false`.
    Switch,
    /// A text.
    Text,
    /// A whole number, which is checked, so that a mistake is found before it matters.
    Whole,
    /// Any number.
    Number,
}

const NO_CASSANDRA: &str =
    "runs and their history are in the store itself: see --history_age_max and `chronos runs`";
const NO_GRAPHITE: &str = "metrics are read from GET /metrics, in the format of Prometheus";
const UNUSED: &str = "Chronos did nothing with it either";

const fn old(name: &'static str, short: Option<char>, value: Value, why: &'static str) -> Old {
    Old { name, short, value, why }
}

/// All of them, in the order of the manual of Chronos.
pub const OLD: &[Old] = &[
    old("leader_max_idle_time", Some('l'), Value::Whole, UNUSED),
    old("task_epsilon", Some('t'), Value::Whole, UNUSED),
    old(
        "schedule_horizon",
        None,
        Value::Whole,
        "due times are not looked for ahead: each is waited for exactly",
    ),
    old(
        "revive_offers_for_new_jobs",
        None,
        Value::Switch,
        "Mesos is asked for offers whenever a task waits, see --min_revive_offers_interval",
    ),
    old("graphite_host_port", Some('g'), Value::Text, NO_GRAPHITE),
    old("graphite_reporting_interval", None, Value::Whole, NO_GRAPHITE),
    old("graphite_group_prefix", None, Value::Text, NO_GRAPHITE),
    old("cassandra_contact_points", Some('c'), Value::Text, NO_CASSANDRA),
    old("cassandra_port", None, Value::Whole, NO_CASSANDRA),
    old("cassandra_user", None, Value::Text, NO_CASSANDRA),
    old("cassandra_password", None, Value::Text, NO_CASSANDRA),
    old("cassandra_keyspace", None, Value::Text, NO_CASSANDRA),
    old("cassandra_table", None, Value::Text, NO_CASSANDRA),
    old("cassandra_stat_count_table", None, Value::Text, NO_CASSANDRA),
    old("cassandra_consistency", None, Value::Text, NO_CASSANDRA),
    old("cassandra_ttl", None, Value::Whole, NO_CASSANDRA),
    old(
        "http_compression",
        None,
        Value::Switch,
        "answers are compressed for who can read that, unless --disable_http_compression is said",
    ),
    old("assets_path", None, Value::Text, UNUSED),
];

/// Short forms of flags that are settings here.
const SHORT: &[(&str, char)] = &[
    ("disable_after_failures", 'd'),
    ("mail_server", 'm'),
    ("raven_dsn", 'r'),
    ("slack_url", 's'),
    ("http_notification_url", 'h'),
    ("job_history_limit", 'j'),
    ("zk_hosts", 'z'),
    ("user", 'u'),
    ("failover_timeout", 'f'),
];

/// Settings that are switches: `--no-NAME` says no.
const SWITCHES: &[&str] = &[
    "allow_unauthenticated",
    "disable_http",
    "disable_http_compression",
    "mail_ssl",
    "mesos_checkpoint",
    "shadow",
];

/// Adds the flags of Chronos to a server's command line.
pub fn taken(command: Command) -> Command {
    command.args(OLD.iter().map(|old| {
        let arg = Arg::new(old.name).long(old.name).action(ArgAction::Set).hide(true).value_name("VALUE");
        match old.value {
            Value::Switch => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(["true", "false"]),
            Value::Text => arg,
            Value::Whole => arg.value_parser(|text: &str| whole(text)),
            Value::Number => arg.value_parser(|text: &str| number(text)),
        }
    }))
}

/// The same with the short forms, among which `-h` does not mean help.
pub fn taken_as_ever(command: Command) -> Command {
    let command = taken(command)
        .disable_help_flag(true)
        .arg(Arg::new("help").long("help").action(ArgAction::Help).help("Print help"));
    let old = OLD.iter().filter_map(|old| Some((old.name, old.short?)));
    let (known, all) = (command.get_arguments().map(|arg| arg.get_id().to_string()).collect::<Vec<_>>(), old);
    all.chain(SHORT.iter().copied())
        .filter(|(name, _)| known.iter().any(|known| known == name))
        .fold(command, |command, (name, short)| command.mut_arg(name, |arg| arg.short(short)))
}

fn whole(text: &str) -> Result<String, String> {
    text.parse::<u64>().map(|_| text.to_owned()).map_err(|_| "expected a whole number".into())
}

fn number(text: &str) -> Result<String, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    number.map(|_| text.to_owned()).ok_or_else(|| "expected a number".into())
}

/// A command line in which `--no-NAME` of a switch is `--NAME=false`. Only a server's: others have no such switches.
pub fn plain(mut args: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let is_server =
        args.get(1).is_some_and(|word| ["server", "run_jar", "run-jar"].iter().any(|name| word == name));
    if !is_server {
        return args;
    }
    let old = OLD.iter().filter(|old| old.value == Value::Switch).map(|old| old.name);
    let switches: Vec<&str> = SWITCHES.iter().copied().chain(old).collect();
    for arg in &mut args {
        let Some(text) = arg.to_str() else { continue };
        let Some(name) = text.strip_prefix("--no-").or_else(|| text.strip_prefix("--no_")) else { continue };
        let name = name.replace('-', "_");
        if switches.contains(&name.as_str()) {
            *arg = format!("--{name}=false").into();
        }
    }
    args
}

/// One line for each flag of Chronos that was given and does nothing here.
pub fn notices(matches: &ArgMatches) -> Vec<String> {
    let given = |old: &&Old| matches.value_source(old.name) == Some(ValueSource::CommandLine);
    OLD.iter()
        .filter(given)
        .map(|old| format!("--{} is taken and does nothing: {}", old.name, old.why))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<std::ffi::OsString> {
        line.split(' ').map(Into::into).collect()
    }

    #[test]
    fn a_switch_has_its_opposite() {
        let check = |line: &str, plain_line: &str| assert_eq!(plain(words(line)), words(plain_line));
        check("chronos run_jar --no-mesos_checkpoint", "chronos run_jar --mesos_checkpoint=false");
        check(
            "chronos server --no_mail_ssl --no-disable-http",
            "chronos server --mail_ssl=false --disable_http=false",
        );
        check("chronos server --no-master x", "chronos server --no-master x");
        check("chronos apply --no-mail_ssl", "chronos apply --no-mail_ssl");
    }

    #[test]
    fn the_guide_says_of_every_flag_what_becomes_of_it() {
        let guide = include_str!("../../../../docs/guides/flags.md");
        for Old { name, short, why, .. } in OLD {
            let short = short.map(|short| format!("`-{short}`")).unwrap_or_default();
            let row = format!("| `--{name}` | {short} | taken, does nothing: {why} |");
            assert!(guide.contains(&row), "{row}");
        }
        for (name, short) in SHORT {
            let row =
                guide.lines().find(|line| line.starts_with('|') && line.contains(&format!("`--{name}`")));
            assert!(row.is_some_and(|row| row.contains(&format!("`-{short}`"))), "{name}");
        }
    }
}
