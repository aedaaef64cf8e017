//! Under which heading `--help` shows a setting.

/// Headings in their order, and the settings under each.
pub const GROUPS: &[(&str, &[&str])] = &[
    (
        "Listening",
        &[
            "http_address",
            "http_port",
            "disable_http",
            "disable_http_compression",
            "https_address",
            "https_port",
            "tls_cert",
            "tls_key",
            "ssl_keystore_path",
            "ssl_keystore_password",
            "hostname",
            "advertise_address",
        ],
    ),
    (
        "Access",
        &["http_credentials", "http_credentials_file", "http_realm", "allow_unauthenticated", "cors_origin"],
    ),
    (
        "State",
        &[
            "store",
            "data_dir",
            "database_url",
            "database_url_file",
            "database_schema",
            "database_lease",
            "zk_hosts",
            "zk_path",
            "zk_timeout",
            "zk_auth",
            "expect_store",
            "examples",
            "history_age_max",
            "history_count_max",
            "job_history_limit",
            "audit_age_max",
            "output_age_max",
            "output_bytes_max",
        ],
    ),
    (
        "Running tasks",
        &[
            "engine",
            "shadow",
            "on_isolation",
            "kill_grace",
            "docker_host",
            "docker_container_age_max",
            "docker_config",
            "tzdata",
            "failure_retry",
            "disable_after_failures",
            "running_max",
            "running_max_by_label",
            "launch_rate_max",
        ],
    ),
    (
        "Mesos",
        &[
            "master",
            "user",
            "mesos_task_cpu",
            "mesos_task_mem",
            "mesos_task_disk",
            "mesos_framework_name",
            "mesos_role",
            "mesos_old_tasks",
            "webui_url",
            "failover_timeout",
            "mesos_checkpoint",
            "reconciliation_interval",
            "mesos_authentication_principal",
            "mesos_authentication_secret_file",
            "decline_offer_duration",
            "min_revive_offers_interval",
        ],
    ),
    (
        "Telling people",
        &[
            "cluster_name",
            "mail_server",
            "mail_from",
            "mail_user",
            "mail_password",
            "mail_password_file",
            "mail_tls",
            "mail_ssl",
            "mail_ca_file",
            "slack_url",
            "mattermost_url",
            "raven_dsn",
            "http_notification_url",
            "http_notification_credentials",
            "http_notification_secret_file",
        ],
    ),
    ("Log and settings", &["log_format", "log_level", "config", "check_config", "help"]),
];

/// The heading of a setting.
pub fn heading(name: &str) -> Option<&'static str> {
    GROUPS.iter().find(|(_, names)| names.contains(&name)).map(|(heading, _)| *heading)
}

/// A command line whose settings stand under their headings, and in the order of [`GROUPS`].
pub fn grouped(command: clap::Command) -> clap::Command {
    let mut place = 0;
    let mut placed = |command: clap::Command, heading: &'static str, name: &'static str| {
        place += 1;
        if command.get_arguments().any(|arg| arg.get_id() == name) {
            command.mut_arg(name, |arg| arg.help_heading(heading).display_order(place))
        } else {
            command
        }
    };
    GROUPS.iter().fold(command, |command, (heading, names)| {
        names.iter().fold(command, |command, name| placed(command, heading, name))
    })
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;
    use crate::config::ConfigFile;

    #[test]
    fn every_setting_stands_under_a_heading() {
        let command = ConfigFile::augment_args(clap::Command::new("server"));
        let lost: Vec<_> =
            command.get_arguments().filter(|arg| heading(arg.get_id().as_str()).is_none()).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
}
