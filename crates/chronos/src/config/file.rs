//! Settings as written: on the command line, in the environment, in a file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;
use super::values::{
    Address, EngineKind, LabelMax, Length, LogFormat, OldTasksKind, OnIsolation, Size, StoreKind, Tzdata,
};
use crate::notify::settings::{MailTls, Secret};

/// Settings as written. A flag, its environment variable and its key in the file have the same name and meaning.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Address to listen on: an IP address or `localhost` [default: 127.0.0.1; 0.0.0.0, which is all, for run_jar]
    #[arg(long = "http_address", env = "CHRONOS_HTTP_ADDRESS", value_name = "ADDRESS")]
    pub http_address: Option<Address>,
    /// Port to listen on; 0 picks a free one, which is then printed [default: 4400; 8080 for run_jar]
    #[arg(long = "http_port", env = "CHRONOS_HTTP_PORT", value_name = "PORT")]
    pub http_port: Option<u16>,
    /// Do not listen for HTTP, only for HTTPS
    #[arg(long = "disable_http", env = "CHRONOS_DISABLE_HTTP", value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub disable_http: Option<bool>,
    /// Do not compress answers, also for who can read that
    #[arg(long = "disable_http_compression", env = "CHRONOS_DISABLE_HTTP_COMPRESSION", value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub disable_http_compression: Option<bool>,
    /// Address to listen on for HTTPS [default: that of HTTP]
    #[arg(long = "https_address", env = "CHRONOS_HTTPS_ADDRESS", value_name = "ADDRESS")]
    pub https_address: Option<Address>,
    /// Port to listen on for HTTPS, if there is a certificate; 0 picks a free one, which is then printed [default: 8443]
    #[arg(long = "https_port", env = "CHRONOS_HTTPS_PORT", value_name = "PORT")]
    pub https_port: Option<u16>,
    /// File with the certificate (PEM), then those it is signed by; read again when it changes
    #[arg(long = "tls_cert", env = "CHRONOS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// File with the key of the certificate (PEM, without a password)
    #[arg(long = "tls_key", env = "CHRONOS_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Key store with certificate and key (PKCS#12), instead of these two; MESOSPHERE_KEYSTORE_PATH says it too
    #[arg(long = "ssl_keystore_path", env = "CHRONOS_SSL_KEYSTORE_PATH", value_name = "FILE")]
    pub ssl_keystore_path: Option<PathBuf>,
    /// Password of the key store; better in the environment: MESOSPHERE_KEYSTORE_PASS says it too
    #[arg(long = "ssl_keystore_password", env = "CHRONOS_SSL_KEYSTORE_PASSWORD", value_name = "PASSWORD")]
    pub ssl_keystore_password: Option<Secret>,
    /// Name and password that every request but /ping needs; better in the environment: MESOSPHERE_HTTP_CREDENTIALS says it too
    #[arg(long = "http_credentials", env = "CHRONOS_HTTP_CREDENTIALS", value_name = "USER:PASSWORD")]
    pub http_credentials: Option<Secret>,
    /// File with that name and password
    #[arg(long = "http_credentials_file", env = "CHRONOS_HTTP_CREDENTIALS_FILE", value_name = "FILE")]
    pub http_credentials_file: Option<PathBuf>,
    /// What browsers show where they ask for the password [default: Mesosphere]
    #[arg(long = "http_realm", env = "CHRONOS_HTTP_REALM", value_name = "TEXT")]
    pub http_realm: Option<String>,
    /// Web sites whose pages may use the API, as in `https://ops.example.org`; `*` for all, which is wise only where
    /// everyone may do everything
    #[arg(
        long = "cors_origin",
        env = "CHRONOS_CORS_ORIGIN",
        value_name = "ORIGIN,..",
        value_delimiter = ','
    )]
    pub cors_origin: Option<Vec<String>>,
    /// Names or addresses under which others reach this node, best first, separated by commas
    /// [default: the address listened on]
    #[arg(long = "hostname", env = "CHRONOS_HOSTNAME", value_name = "HOST,..", value_delimiter = ',')]
    pub hostname: Option<Vec<String>>,
    /// Let anyone who can connect use the API, so run commands on this machine; without it or --http_credentials only
    /// loopback addresses are listened on
    #[arg(long = "allow_unauthenticated", env = "CHRONOS_ALLOW_UNAUTHENTICATED", value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_unauthenticated: Option<bool>,
    /// Where others reach this node, best first, separated by commas: a name or an address, with a port where it is not
    /// the one listened on, as in `10.0.0.1:31000` or `https://a.example.org:8443`; they come before --hostname
    #[arg(
        long = "advertise_address",
        env = "CHRONOS_ADVERTISE_ADDRESS",
        value_name = "ADDRESS,..",
        value_delimiter = ','
    )]
    pub advertise_address: Option<Vec<String>>,
    /// Where state lives: `sqlite`, a file in the data folder; `postgres`; `zookeeper` [default: the one of which an
    /// address is given; else sqlite, or zookeeper for run_jar]
    #[arg(hide_possible_values = true, long = "store", env = "CHRONOS_STORE", value_name = "KIND")]
    pub store: Option<StoreKind>,
    /// URL of the PostgreSQL server, as in postgresql://user:password@db.example.org:5432/chronos, with
    /// `?sslmode=verify-full&sslrootcert=FILE` for TLS; better in a file
    #[arg(long = "database_url", env = "CHRONOS_DATABASE_URL", value_name = "URL")]
    pub database_url: Option<Secret>,
    /// File with that URL
    #[arg(long = "database_url_file", env = "CHRONOS_DATABASE_URL_FILE", value_name = "FILE")]
    pub database_url_file: Option<PathBuf>,
    /// Schema of that database for the tables, made if it is not there [default: chronos]
    #[arg(long = "database_schema", env = "CHRONOS_DATABASE_SCHEMA", value_name = "NAME")]
    pub database_schema: Option<String>,
    /// How long a leader that cannot be reached keeps others from leading; 4s to 5m [default: 10s]
    #[arg(long = "database_lease", env = "CHRONOS_DATABASE_LEASE", value_name = "DURATION")]
    pub database_lease: Option<Length>,
    /// ZooKeeper servers, as in `a.example.org:2181,b.example.org:2181` [default: localhost:2181]
    #[arg(long = "zk_hosts", env = "CHRONOS_ZK_HOSTS", value_name = "HOST:PORT,..")]
    pub zk_hosts: Option<String>,
    /// Where in ZooKeeper [default: /chronos/state]
    #[arg(long = "zk_path", env = "CHRONOS_ZK_PATH", value_name = "PATH")]
    pub zk_path: Option<String>,
    /// How long ZooKeeper keeps a session that cannot be reached, in milliseconds; 4000 to 300000 [default: 10000]
    #[arg(long = "zk_timeout", env = "CHRONOS_ZK_TIMEOUT", value_name = "MILLISECONDS")]
    pub zk_timeout: Option<u64>,
    /// Name and password for ZooKeeper, of its scheme `digest`; better in the environment
    #[arg(long = "zk_auth", env = "CHRONOS_ZK_AUTH", value_name = "USER:PASSWORD")]
    pub zk_auth: Option<Secret>,
    /// Work only on the store with this id, which `chronos doctor` shows; without it a node that has known a store with
    /// jobs does not lead on an empty one
    #[arg(long = "expect_store", env = "CHRONOS_EXPECT_STORE", value_name = "ID")]
    pub expect_store: Option<String>,
    /// What becomes of this node's tasks while it cannot reach the store: `kill`, after a minute, so that they can be run
    /// elsewhere; `keep` [default: kill]
    #[arg(
        hide_possible_values = true,
        long = "on_isolation",
        env = "CHRONOS_ON_ISOLATION",
        value_name = "WHAT"
    )]
    pub on_isolation: Option<OnIsolation>,
    /// What runs tasks: `local`, processes of this machine and containers; `mesos` [default: mesos where --master says where
    /// that is, else local]
    #[arg(hide_possible_values = true, long = "engine", env = "CHRONOS_ENGINE", value_name = "KIND")]
    pub engine: Option<EngineKind>,
    /// Where the master of Mesos is, whose agents then run all tasks: `zk://host:2181,host:2181/mesos`, addresses of masters
    /// with commas between them, or a name such as `leader.mesos:5050`; `local` for no Mesos [default: local]
    #[arg(long = "master", env = "CHRONOS_MASTER", value_name = "WHERE")]
    pub master: Option<String>,
    /// User that tasks run as on Mesos where the job says none; its variable has another name, since CHRONOS_USER is who
    /// the command line logs in as [default: root]
    #[arg(long = "user", env = TASK_USER, value_name = "NAME")]
    pub user: Option<String>,
    /// Processors of a job that does not say [default: 0.1]
    #[arg(long = "mesos_task_cpu", env = "CHRONOS_MESOS_TASK_CPU", value_name = "COUNT")]
    pub mesos_task_cpu: Option<f64>,
    /// MB of memory of a job that does not say [default: 128]
    #[arg(long = "mesos_task_mem", env = "CHRONOS_MESOS_TASK_MEM", value_name = "MB")]
    pub mesos_task_mem: Option<f64>,
    /// MB of disk of a job that does not say [default: 256]
    #[arg(long = "mesos_task_disk", env = "CHRONOS_MESOS_TASK_DISK", value_name = "MB")]
    pub mesos_task_disk: Option<f64>,
    /// Name by which Mesos shows Chronos [default: chronos]
    #[arg(long = "mesos_framework_name", env = "CHRONOS_MESOS_FRAMEWORK_NAME", value_name = "NAME")]
    pub mesos_framework_name: Option<String>,
    /// Role to which Mesos makes offers; what is reserved for it is used first [default: *]
    #[arg(long = "mesos_role", env = "CHRONOS_MESOS_ROLE", value_name = "ROLE")]
    pub mesos_role: Option<String>,
    /// URL that Mesos shows for Chronos [default: where the leader can be reached]
    #[arg(long = "webui_url", env = "CHRONOS_WEBUI_URL", value_name = "URL")]
    pub webui_url: Option<String>,
    /// Seconds that Mesos keeps tasks while no Chronos is there; afterwards it kills them [default: 604800]
    #[arg(
        long = "failover_timeout",
        env = "CHRONOS_FAILOVER_TIMEOUT",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    pub failover_timeout: Option<f64>,
    /// Whether tasks live on while their agent restarts [default: true]
    #[arg(long = "mesos_checkpoint", env = "CHRONOS_MESOS_CHECKPOINT", value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub mesos_checkpoint: Option<bool>,
    /// Seconds after which Mesos is asked again what became of all tasks [default: 600]
    #[arg(long = "reconciliation_interval", env = "CHRONOS_RECONCILIATION_INTERVAL", value_name = "SECONDS")]
    pub reconciliation_interval: Option<u64>,
    /// Who Chronos is to Mesos
    #[arg(
        long = "mesos_authentication_principal",
        env = "CHRONOS_MESOS_AUTHENTICATION_PRINCIPAL",
        value_name = "NAME"
    )]
    pub mesos_authentication_principal: Option<String>,
    /// File with the secret of that principal; a newline at its end is no part of it
    #[arg(
        long = "mesos_authentication_secret_file",
        env = "CHRONOS_MESOS_AUTHENTICATION_SECRET_FILE",
        value_name = "FILE"
    )]
    pub mesos_authentication_secret_file: Option<PathBuf>,
    /// Milliseconds for which an offer of Mesos that is of no use is declined [default: 300000]
    #[arg(
        long = "decline_offer_duration",
        env = "CHRONOS_DECLINE_OFFER_DURATION",
        value_name = "MILLISECONDS"
    )]
    pub decline_offer_duration: Option<u64>,
    /// Milliseconds between two requests to Mesos to offer again what was declined [default: 5000]
    #[arg(
        long = "min_revive_offers_interval",
        env = "CHRONOS_MIN_REVIVE_OFFERS_INTERVAL",
        value_name = "MILLISECONDS"
    )]
    pub min_revive_offers_interval: Option<u64>,
    /// What becomes of tasks that an old Chronos has begun as this framework: `keep`, they run to their end; `kill` [default:
    /// keep]
    #[arg(
        hide_possible_values = true,
        long = "mesos_old_tasks",
        env = "CHRONOS_MESOS_OLD_TASKS",
        value_name = "WHAT"
    )]
    pub mesos_old_tasks: Option<OldTasksKind>,
    /// Run nothing and tell nobody: only record what would have been launched, each task as succeeded at once; needs a
    /// data folder of its own. See `chronos shadow`
    #[arg(long = "shadow", env = "CHRONOS_SHADOW", value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub shadow: Option<bool>,
    /// Folder for all state: jobs, history, output; made if it is not there [default: data]
    #[arg(long = "data_dir", env = "CHRONOS_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Folder of job files to apply on the first start, when the data folder is new
    #[arg(long = "examples", env = "CHRONOS_EXAMPLES", value_name = "FOLDER")]
    pub examples: Option<PathBuf>,
    /// How long a run stays in the history [default: 90d]
    #[arg(long = "history_age_max", env = "CHRONOS_HISTORY_AGE_MAX", value_name = "DURATION")]
    pub history_age_max: Option<Length>,
    /// How many runs of each job stay in the history. ZooKeeper keeps all of it in memory, some 400000 in all; say the
    /// same on all nodes [default: 1000, with ZooKeeper 20]
    #[arg(long = "history_count_max", env = "CHRONOS_HISTORY_COUNT_MAX", value_name = "COUNT")]
    pub history_count_max: Option<u64>,
    /// How many tasks GET /v1/scheduler/job/stat/NAME lists; at most 1000 [default: 5]
    #[arg(long = "job_history_limit", env = "CHRONOS_JOB_HISTORY_LIMIT", value_name = "COUNT")]
    pub job_history_limit: Option<u64>,
    /// How long it is known who did what [default: 365d]
    #[arg(long = "audit_age_max", env = "CHRONOS_AUDIT_AGE_MAX", value_name = "DURATION")]
    pub audit_age_max: Option<Length>,
    /// How long output and working folder of a task are kept after its end [default: 30d]
    #[arg(long = "output_age_max", env = "CHRONOS_OUTPUT_AGE_MAX", value_name = "DURATION")]
    pub output_age_max: Option<Length>,
    /// How much they may take on the disk, all together; the oldest are removed first [default: 10GiB]
    #[arg(long = "output_bytes_max", env = "CHRONOS_OUTPUT_BYTES_MAX", value_name = "SIZE")]
    pub output_bytes_max: Option<Size>,
    /// How long a task that is told to end may take before it is ended by force [default: 10s]
    #[arg(long = "kill_grace", env = "CHRONOS_KILL_GRACE", value_name = "DURATION")]
    pub kill_grace: Option<Length>,
    /// Where the Docker Engine of this machine listens, which runs jobs with a container: a Unix socket
    /// [default: unix:///var/run/docker.sock]
    #[arg(long = "docker_host", env = "CHRONOS_DOCKER_HOST", value_name = "SOCKET")]
    pub docker_host: Option<String>,
    /// How long the container of an ended task is kept; its output stays as long as that of any task [default: 1d]
    #[arg(
        long = "docker_container_age_max",
        env = "CHRONOS_DOCKER_CONTAINER_AGE_MAX",
        value_name = "DURATION"
    )]
    pub docker_container_age_max: Option<Length>,
    /// File with the logins of registries, as `docker login` writes it [default: config.json in DOCKER_CONFIG, or in .docker
    /// of the home folder]
    #[arg(long = "docker_config", env = "CHRONOS_DOCKER_CONFIG", value_name = "FILE")]
    pub docker_config: Option<PathBuf>,
    /// Time zones: `bundled` with this program, or those of the `system`, read once at the start; the same on all nodes
    /// [default: bundled]
    #[arg(hide_possible_values = true, long = "tzdata", env = "CHRONOS_TZDATA", value_name = "SOURCE")]
    pub tzdata: Option<Tzdata>,
    /// Disable a job after so many failed runs in a row; 0 for never [default: 0]
    #[arg(long = "disable_after_failures", env = "CHRONOS_DISABLE_AFTER_FAILURES", value_name = "COUNT")]
    pub disable_after_failures: Option<u64>,
    /// Between two attempts of a job without `retryDelay`, in milliseconds; at least 1000 [default: 60000]
    #[arg(long = "failure_retry", env = "CHRONOS_FAILURE_RETRY", value_name = "MILLISECONDS")]
    pub failure_retry: Option<u64>,
    /// How many tasks may run at once; 0 for any number [default: 0]
    #[arg(long = "running_max", env = "CHRONOS_RUNNING_MAX", value_name = "COUNT")]
    pub running_max: Option<u32>,
    /// How many tasks of jobs with a label may run at once: `team=etl:8` for one value, `team:4` for each value by
    /// itself; may be given several times
    #[arg(
        long = "running_max_by_label",
        env = "CHRONOS_RUNNING_MAX_BY_LABEL",
        value_name = "LABEL:COUNT",
        value_delimiter = ','
    )]
    pub running_max_by_label: Option<Vec<LabelMax>>,
    /// How many tasks may be launched in a second, on average; 0 for any number [default: 0]
    #[arg(long = "launch_rate_max", env = "CHRONOS_LAUNCH_RATE_MAX", value_name = "COUNT")]
    pub launch_rate_max: Option<u32>,
    /// How the log on stderr looks: `text` for people, `json` for machines [default: text]
    #[arg(
        hide_possible_values = true,
        long = "log_format",
        env = "CHRONOS_LOG_FORMAT",
        value_name = "FORMAT"
    )]
    pub log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, trace; also by module, as in `info,store=debug` [default: info]
    #[arg(long = "log_level", env = "CHRONOS_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Stands in brackets before the subject of every message to people
    #[arg(long = "cluster_name", env = "CHRONOS_CLUSTER_NAME", value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// Mail server that takes messages to the owners of jobs, as in `mail.example.org:587`
    #[arg(long = "mail_server", env = "CHRONOS_MAIL_SERVER", value_name = "HOST:PORT")]
    pub mail_server: Option<String>,
    /// Address that mail comes from; needed with --mail_server
    #[arg(long = "mail_from", env = "CHRONOS_MAIL_FROM", value_name = "ADDRESS")]
    pub mail_from: Option<String>,
    /// Name to log in to the mail server with
    #[arg(long = "mail_user", env = "CHRONOS_MAIL_USER", value_name = "NAME")]
    pub mail_user: Option<String>,
    /// Password to log in to the mail server with; better in a file
    #[arg(long = "mail_password", env = "CHRONOS_MAIL_PASSWORD", value_name = "PASSWORD")]
    pub mail_password: Option<Secret>,
    /// File with that password
    #[arg(long = "mail_password_file", env = "CHRONOS_MAIL_PASSWORD_FILE", value_name = "FILE")]
    pub mail_password_file: Option<PathBuf>,
    /// How the connection to the mail server is protected: `auto` (STARTTLS if it is offered, and by all means if there
    /// is a password), `starttls`, `tls` (from the first byte on, usually port 465), `none` [default: auto]
    #[arg(hide_possible_values = true, long = "mail_tls", env = "CHRONOS_MAIL_TLS", value_name = "KIND")]
    pub mail_tls: Option<MailTls>,
    /// The same as --mail_tls tls, on the port that is given
    #[arg(long = "mail_ssl", env = "CHRONOS_MAIL_SSL", value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub mail_ssl: Option<bool>,
    /// File of certificates (PEM) that mail servers may be signed by, beside those this machine trusts
    #[arg(long = "mail_ca_file", env = "CHRONOS_MAIL_CA_FILE", value_name = "FILE")]
    pub mail_ca_file: Option<PathBuf>,
    /// Incoming web hook of Slack that alerts are posted to
    #[arg(long = "slack_url", env = "CHRONOS_SLACK_URL", value_name = "URL")]
    pub slack_url: Option<Secret>,
    /// Incoming web hook of Mattermost that alerts are posted to
    #[arg(long = "mattermost_url", env = "CHRONOS_MATTERMOST_URL", value_name = "URL")]
    pub mattermost_url: Option<Secret>,
    /// DSN of a Sentry project that alerts are sent to as events
    #[arg(long = "raven_dsn", env = "CHRONOS_RAVEN_DSN", value_name = "DSN")]
    pub raven_dsn: Option<Secret>,
    /// URL that every notice is posted to, as JSON
    #[arg(long = "http_notification_url", env = "CHRONOS_HTTP_NOTIFICATION_URL", value_name = "URL")]
    pub http_notification_url: Option<Secret>,
    /// Name and password for that URL
    #[arg(
        long = "http_notification_credentials",
        env = "CHRONOS_HTTP_NOTIFICATION_CREDENTIALS",
        value_name = "USER:PASSWORD"
    )]
    pub http_notification_credentials: Option<Secret>,
    /// File with a secret that every such post is signed with (HMAC, SHA-256)
    #[arg(
        long = "http_notification_secret_file",
        env = "CHRONOS_HTTP_NOTIFICATION_SECRET_FILE",
        value_name = "FILE"
    )]
    pub http_notification_secret_file: Option<PathBuf>,
}

/// The variable of `--user`. One of the same name as the flag would be the login of the command line.
pub(super) const TASK_USER: &str = "CHRONOS_TASK_USER";

impl ConfigFile {
    /// Reads a file; keys that mean nothing are refused.
    /// # Errors
    /// [`ConfigError::Unreadable`], [`ConfigError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Unreadable { path: path.into(), cause })?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_norway::from_str(&text).map_err(|cause| ConfigError::Malformed { path: path.into(), cause })
    }
}
