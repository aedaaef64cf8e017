//! How a server is set up: [`ConfigFile`] as written, in flags, environment and a file; [`Config`] as meant.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use scheduler::limits::{LabelLimit, Limits};
use serde::Deserialize;

use crate::notify::settings::{MailTls, NotifySettings, Secret};
use crate::wire::duration;

mod notify;

use notify::NotifyTexts;

/// Settings as written. A flag, its environment variable and its key in the file have the same name and meaning.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Address to listen on: an IP address or `localhost` [default: 127.0.0.1]
    #[arg(
        long = "http_address",
        hide_env_values = true,
        env = "CHRONOS_HTTP_ADDRESS",
        value_name = "ADDRESS"
    )]
    pub http_address: Option<Address>,
    /// Port to listen on; 0 picks a free one, which is then printed [default: 4400]
    #[arg(long = "http_port", hide_env_values = true, env = "CHRONOS_HTTP_PORT", value_name = "PORT")]
    pub http_port: Option<u16>,
    /// Names or addresses under which others reach this node, best first, separated by commas
    /// [default: the address listened on]
    #[arg(
        long = "hostname",
        hide_env_values = true,
        env = "CHRONOS_HOSTNAME",
        value_name = "HOST,..",
        value_delimiter = ','
    )]
    pub hostname: Option<Vec<String>>,
    /// Let anyone who can connect use the API, so run commands on this machine; needed to listen beyond loopback
    #[arg(long = "allow_unauthenticated", hide_env_values = true, env = "CHRONOS_ALLOW_UNAUTHENTICATED", value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_unauthenticated: Option<bool>,
    /// Folder for all state: jobs, history, output; made if it is not there [default: data]
    #[arg(long = "data_dir", hide_env_values = true, env = "CHRONOS_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Folder of job files to apply on the first start, when the data folder is new
    #[arg(long = "examples", hide_env_values = true, env = "CHRONOS_EXAMPLES", value_name = "FOLDER")]
    pub examples: Option<PathBuf>,
    /// How long a run stays in the history [default: 90d]
    #[arg(
        long = "history_age_max",
        hide_env_values = true,
        env = "CHRONOS_HISTORY_AGE_MAX",
        value_name = "DURATION"
    )]
    pub history_age_max: Option<Length>,
    /// How many runs of each job stay in the history [default: 1000]
    #[arg(
        long = "history_count_max",
        hide_env_values = true,
        env = "CHRONOS_HISTORY_COUNT_MAX",
        value_name = "COUNT"
    )]
    pub history_count_max: Option<u64>,
    /// How long output and working folder of a task are kept after its end [default: 30d]
    #[arg(
        long = "output_age_max",
        hide_env_values = true,
        env = "CHRONOS_OUTPUT_AGE_MAX",
        value_name = "DURATION"
    )]
    pub output_age_max: Option<Length>,
    /// How much they may take on the disk, all together; the oldest are removed first [default: 10GiB]
    #[arg(
        long = "output_bytes_max",
        hide_env_values = true,
        env = "CHRONOS_OUTPUT_BYTES_MAX",
        value_name = "SIZE"
    )]
    pub output_bytes_max: Option<Size>,
    /// How long a task that is told to end may take before it is ended by force [default: 10s]
    #[arg(long = "kill_grace", hide_env_values = true, env = "CHRONOS_KILL_GRACE", value_name = "DURATION")]
    pub kill_grace: Option<Length>,
    /// Where the Docker Engine of this machine listens, which runs jobs with a container: a Unix socket
    /// [default: unix:///var/run/docker.sock]
    #[arg(long = "docker_host", hide_env_values = true, env = "CHRONOS_DOCKER_HOST", value_name = "SOCKET")]
    pub docker_host: Option<String>,
    /// How long the container of an ended task is kept; its output stays as long as that of any task [default: 1d]
    #[arg(
        long = "docker_container_age_max",
        hide_env_values = true,
        env = "CHRONOS_DOCKER_CONTAINER_AGE_MAX",
        value_name = "DURATION"
    )]
    pub docker_container_age_max: Option<Length>,
    /// Time zones: `bundled` with this program, or those of the `system`, read once at the start; the same on all nodes
    /// [default: bundled]
    #[arg(
        hide_possible_values = true,
        long = "tzdata",
        hide_env_values = true,
        env = "CHRONOS_TZDATA",
        value_name = "SOURCE"
    )]
    pub tzdata: Option<Tzdata>,
    /// Disable a job after so many failed runs in a row; 0 for never [default: 0]
    #[arg(
        long = "disable_after_failures",
        hide_env_values = true,
        env = "CHRONOS_DISABLE_AFTER_FAILURES",
        value_name = "COUNT"
    )]
    pub disable_after_failures: Option<u64>,
    /// How many tasks may run at once; 0 for any number [default: 0]
    #[arg(long = "running_max", hide_env_values = true, env = "CHRONOS_RUNNING_MAX", value_name = "COUNT")]
    pub running_max: Option<u32>,
    /// How many tasks of jobs with a label may run at once: `team=etl:8` for one value, `team:4` for each value by
    /// itself; may be given several times
    #[arg(
        long = "running_max_by_label",
        hide_env_values = true,
        env = "CHRONOS_RUNNING_MAX_BY_LABEL",
        value_name = "LABEL:COUNT",
        value_delimiter = ','
    )]
    pub running_max_by_label: Option<Vec<LabelMax>>,
    /// How many tasks may be launched in a second, on average; 0 for any number [default: 0]
    #[arg(
        long = "launch_rate_max",
        hide_env_values = true,
        env = "CHRONOS_LAUNCH_RATE_MAX",
        value_name = "COUNT"
    )]
    pub launch_rate_max: Option<u32>,
    /// How the log on stderr looks: `text` for people, `json` for machines [default: text]
    #[arg(
        hide_possible_values = true,
        long = "log_format",
        hide_env_values = true,
        env = "CHRONOS_LOG_FORMAT",
        value_name = "FORMAT"
    )]
    pub log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, trace; also by module, as in `info,store=debug` [default: info]
    #[arg(long = "log_level", hide_env_values = true, env = "CHRONOS_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Stands in brackets before the subject of every message to people
    #[arg(long = "cluster_name", hide_env_values = true, env = "CHRONOS_CLUSTER_NAME", value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// Mail server that takes messages to the owners of jobs, as in `mail.example.org:587`
    #[arg(
        long = "mail_server",
        hide_env_values = true,
        env = "CHRONOS_MAIL_SERVER",
        value_name = "HOST:PORT"
    )]
    pub mail_server: Option<String>,
    /// Address that mail comes from; needed with --mail_server
    #[arg(long = "mail_from", hide_env_values = true, env = "CHRONOS_MAIL_FROM", value_name = "ADDRESS")]
    pub mail_from: Option<String>,
    /// Name to log in to the mail server with
    #[arg(long = "mail_user", hide_env_values = true, env = "CHRONOS_MAIL_USER", value_name = "NAME")]
    pub mail_user: Option<String>,
    /// Password to log in to the mail server with; better in a file
    #[arg(
        long = "mail_password",
        hide_env_values = true,
        env = "CHRONOS_MAIL_PASSWORD",
        value_name = "PASSWORD"
    )]
    pub mail_password: Option<Secret>,
    /// File with that password
    #[arg(
        long = "mail_password_file",
        hide_env_values = true,
        env = "CHRONOS_MAIL_PASSWORD_FILE",
        value_name = "FILE"
    )]
    pub mail_password_file: Option<PathBuf>,
    /// How the connection to the mail server is protected: `auto` (STARTTLS if it is offered, and by all means if there
    /// is a password), `starttls`, `tls` (from the first byte on, usually port 465), `none` [default: auto]
    #[arg(
        hide_possible_values = true,
        long = "mail_tls",
        hide_env_values = true,
        env = "CHRONOS_MAIL_TLS",
        value_name = "KIND"
    )]
    pub mail_tls: Option<MailTls>,
    /// The same as --mail_tls tls, on the port that is given
    #[arg(long = "mail_ssl", hide_env_values = true, env = "CHRONOS_MAIL_SSL", value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub mail_ssl: Option<bool>,
    /// File of certificates (PEM) that mail servers may be signed by, beside those this machine trusts
    #[arg(long = "mail_ca_file", hide_env_values = true, env = "CHRONOS_MAIL_CA_FILE", value_name = "FILE")]
    pub mail_ca_file: Option<PathBuf>,
    /// URL that every notice is posted to, as JSON
    #[arg(
        long = "http_notification_url",
        hide_env_values = true,
        env = "CHRONOS_HTTP_NOTIFICATION_URL",
        value_name = "URL"
    )]
    pub http_notification_url: Option<String>,
    /// Name and password for that URL
    #[arg(
        long = "http_notification_credentials",
        hide_env_values = true,
        env = "CHRONOS_HTTP_NOTIFICATION_CREDENTIALS",
        value_name = "USER:PASSWORD"
    )]
    pub http_notification_credentials: Option<Secret>,
    /// File with a secret that every such post is signed with (HMAC, SHA-256)
    #[arg(
        long = "http_notification_secret_file",
        hide_env_values = true,
        env = "CHRONOS_HTTP_NOTIFICATION_SECRET_FILE",
        value_name = "FILE"
    )]
    pub http_notification_secret_file: Option<PathBuf>,
}

/// Settings as meant: complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Under which names others reach this node; empty for the address listened on.
    pub hostname: Vec<String>,
    /// Whether anyone who connects may do everything.
    pub allow_unauthenticated: bool,
    /// Folder for all state.
    pub data_dir: PathBuf,
    /// Job files for the first start.
    pub examples: Option<PathBuf>,
    /// Retention of the history.
    pub history_age_max: Duration,
    /// Retention of the history, for each job.
    pub history_count_max: u64,
    /// Retention of output and working folders.
    pub output_age_max: Duration,
    /// Retention of output and working folders, all together.
    pub output_bytes_max: u64,
    /// Between the polite and the forceful end of a task.
    pub kill_grace: Duration,
    /// Where the Docker Engine of this machine listens.
    pub docker_host: String,
    /// Retention of containers.
    pub docker_container_age_max: Duration,
    /// Whose time zones are used.
    pub tzdata: Tzdata,
    /// A job that fails so often in a row is disabled; 0 for never.
    pub disable_after_failures: u64,
    /// What bounds launches.
    pub limits: Limits,
    /// How the log looks.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: String,
    /// How people are told of things.
    pub notify: NotifySettings,
    /// Where each value came from, in the order of [`ConfigFile`].
    pub told: Vec<Told>,
}

/// One effective value and its source, for `--check-config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Name of the setting.
    pub name: &'static str,
    /// Its value as one would write it.
    pub value: String,
    /// Who said so.
    pub source: Source,
}

/// Who set a value; the first of these wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// This environment variable.
    Environment(String),
    /// The file.
    File(PathBuf),
    /// Nobody.
    Default,
}

/// Why settings were refused. Every variant is the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or not for us.
    #[error("cannot read the configuration `{}`", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// It is not YAML, or has a key or value that means nothing.
    #[error("the configuration `{}` is not valid", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        cause: serde_norway::Error,
    },
    /// Anyone on the network could run commands here.
    #[error("listening on {0} without credentials lets anyone who can connect run commands on this machine")]
    Exposed(IpAddr),
    /// A value outside its bounds.
    #[error("`{name}` is {value}; {rule}")]
    Bounds {
        /// Which setting.
        name: &'static str,
        /// As it was meant.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// A file that a setting names is not there or not for us.
    #[error("`{name}`: cannot read `{}`", path.display())]
    File {
        /// Which setting.
        name: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The log filter makes no sense.
    #[error("`log_level` is `{text}`, which is not a level")]
    Level {
        /// As written.
        text: String,
        /// Why.
        #[source]
        cause: tracing_subscriber::filter::ParseError,
    },
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "check the path given with --config, and who may read it",
            Self::Malformed { .. } => {
                "it is YAML with the names of the flags as keys; `chronos server --help` lists them"
            }
            Self::Exposed(_) => {
                "listen on 127.0.0.1, or say --allow_unauthenticated if everyone on that network may do so"
            }
            Self::File { .. } => "check the path, and who may read it",
            Self::Bounds { .. } => "`chronos server --help` describes each setting",
            Self::Level { .. } => "write one of error, warn, info, debug, trace, or `info,store=debug`",
        }
    }
}

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

impl Config {
    /// What is meant by `flags` (with environment variables among them, told apart by `flag_source`) and a `file`.
    /// # Errors
    /// The first of [`ConfigError`] that applies.
    pub fn new(
        flags: ConfigFile,
        flag_source: impl Fn(&str) -> Source,
        file: Option<(PathBuf, ConfigFile)>,
    ) -> Result<Self, ConfigError> {
        let (path, file) = file.unwrap_or_default();
        let mut layers = Layers { flag_source, path, told: Vec::new() };
        // What is about telling people has a file of its own.
        let asked = (flags.clone(), file.clone());
        let address = layers.pick("http_address", flags.http_address, file.http_address, Address::LOOPBACK);
        let port = layers.pick("http_port", flags.http_port, file.http_port, 4400);
        let hostname =
            layers.pick("hostname", flags.hostname.map(Hosts), file.hostname.map(Hosts), Hosts(Vec::new()));
        let allow_unauthenticated = layers.pick(
            "allow_unauthenticated",
            flags.allow_unauthenticated,
            file.allow_unauthenticated,
            false,
        );
        let data_dir = layers.pick(
            "data_dir",
            flags.data_dir.map(Folder),
            file.data_dir.map(Folder),
            Folder("data".into()),
        );
        let examples = layers.pick(
            "examples",
            flags.examples.map(Folder),
            file.examples.map(Folder),
            Folder(PathBuf::new()),
        );
        let config = Self {
            listen: SocketAddr::new(address.0, port),
            hostname: hostname.0,
            allow_unauthenticated,
            data_dir: data_dir.0,
            examples: Some(examples.0).filter(|path| !path.as_os_str().is_empty()),
            history_age_max: layers
                .pick("history_age_max", flags.history_age_max, file.history_age_max, Length::days(90))
                .0,
            history_count_max: layers.pick(
                "history_count_max",
                flags.history_count_max,
                file.history_count_max,
                1000,
            ),
            output_age_max: layers
                .pick("output_age_max", flags.output_age_max, file.output_age_max, Length::days(30))
                .0,
            output_bytes_max: layers
                .pick("output_bytes_max", flags.output_bytes_max, file.output_bytes_max, Size(10 << 30))
                .0,
            kill_grace: layers
                .pick("kill_grace", flags.kill_grace, file.kill_grace, Length(Duration::from_secs(10)))
                .0,
            docker_host: layers.pick(
                "docker_host",
                flags.docker_host,
                file.docker_host,
                "unix:///var/run/docker.sock".into(),
            ),
            docker_container_age_max: layers
                .pick(
                    "docker_container_age_max",
                    flags.docker_container_age_max,
                    file.docker_container_age_max,
                    Length::days(1),
                )
                .0,
            tzdata: layers.pick("tzdata", flags.tzdata, file.tzdata, Tzdata::Bundled),
            disable_after_failures: layers.pick(
                "disable_after_failures",
                flags.disable_after_failures,
                file.disable_after_failures,
                0,
            ),
            limits: Limits {
                running_max: NonZeroU32::new(layers.pick(
                    "running_max",
                    flags.running_max,
                    file.running_max,
                    0,
                )),
                running_max_by_label: layers
                    .pick(
                        "running_max_by_label",
                        flags.running_max_by_label.map(LabelMaxima),
                        file.running_max_by_label.map(LabelMaxima),
                        LabelMaxima(Vec::new()),
                    )
                    .0
                    .into_iter()
                    .map(|limit| limit.0)
                    .collect(),
                launch_rate_max: NonZeroU32::new(layers.pick(
                    "launch_rate_max",
                    flags.launch_rate_max,
                    file.launch_rate_max,
                    0,
                )),
            },
            log_format: layers.pick("log_format", flags.log_format, file.log_format, LogFormat::Text),
            log_level: layers.pick("log_level", flags.log_level, file.log_level, "info".into()),
            notify: NotifyTexts::pick(&mut layers, &asked.0, &asked.1).meant()?,
            told: layers.told,
        };
        config.check()?;
        Ok(config)
    }

    /// Longest grace: a server that waits for it must still end within a reboot.
    const KILL_GRACE_MAX: Duration = Duration::from_secs(3600);
    /// Least age kept: enough to look at what just happened.
    const HISTORY_AGE_MIN: Duration = Duration::from_secs(60);

    /// Least age of output: enough to look at what just failed.
    const OUTPUT_AGE_MIN: Duration = Duration::from_secs(3600);

    /// Least age of a container: long beyond any order that is on its way.
    const CONTAINER_AGE_MIN: Duration = Duration::from_secs(600);

    fn check(&self) -> Result<(), ConfigError> {
        let bounds = |name, value, rule| Err(ConfigError::Bounds { name, value, rule });
        if !self.listen.ip().is_loopback() && !self.allow_unauthenticated {
            return Err(ConfigError::Exposed(self.listen.ip()));
        }
        if let Some(host) = self.hostname.iter().find(|host| !is_host(host)) {
            return bounds(
                "hostname",
                format!("`{host}`"),
                "a name or an address is wanted, without scheme, port or path",
            );
        }
        if self.data_dir.as_os_str().is_empty() {
            return bounds("data_dir", "empty".into(), "name a folder");
        }
        if let Some(examples) = self.examples.as_ref().filter(|path| !path.is_dir()) {
            return bounds("examples", format!("`{}`", examples.display()), "there is no such folder");
        }
        if self.history_age_max < Self::HISTORY_AGE_MIN {
            return bounds(
                "history_age_max",
                Length(self.history_age_max).to_string(),
                "at least 1m is wanted",
            );
        }
        if self.history_count_max == 0 {
            return bounds("history_count_max", "0".into(), "at least 1 is wanted");
        }
        if self.output_age_max < Self::OUTPUT_AGE_MIN {
            let age = Length(self.output_age_max).to_string();
            return bounds("output_age_max", age, "at least 1h is wanted");
        }
        if self.kill_grace > Self::KILL_GRACE_MAX {
            return bounds("kill_grace", Length(self.kill_grace).to_string(), "at most 1h is allowed");
        }
        if !engine::docker::is_host(&self.docker_host) {
            let rule = "it must name a Unix socket, as in `unix:///var/run/docker.sock`";
            return bounds("docker_host", format!("`{}`", self.docker_host), rule);
        }
        if self.docker_container_age_max < Self::CONTAINER_AGE_MIN {
            let age = Length(self.docker_container_age_max).to_string();
            return bounds("docker_container_age_max", age, "at least 10m is wanted");
        }
        let labels = &self.limits.running_max_by_label;
        if labels.len() > Limits::LABELS_MAX {
            return bounds(
                "running_max_by_label",
                format!("a list of {}", labels.len()),
                "at most 64 limits are allowed",
            );
        }
        let same = |a: &LabelLimit, b: &LabelLimit| (&a.key, &a.value) == (&b.key, &b.value);
        let mut twice =
            labels.iter().enumerate().filter(|(n, limit)| labels[..*n].iter().any(|l| same(l, limit)));
        if let Some((_, limit)) = twice.next() {
            let value = LabelMax(limit.clone()).to_string();
            return bounds("running_max_by_label", value, "there is another limit for the same label");
        }
        tracing_subscriber::EnvFilter::try_new(&self.log_level)
            .map_err(|cause| ConfigError::Level { text: self.log_level.clone(), cause })?;
        Ok(())
    }
}

/// Takes the first value of flag, file, default, and remembers who gave it.
struct Layers<F> {
    flag_source: F,
    path: PathBuf,
    told: Vec<Told>,
}

impl<F: Fn(&str) -> Source> Layers<F> {
    fn pick<T: fmt::Display>(
        &mut self,
        name: &'static str,
        flag: Option<T>,
        file: Option<T>,
        default: T,
    ) -> T {
        let (value, source) = match (flag, file) {
            (Some(value), _) => (value, (self.flag_source)(name)),
            (None, Some(value)) => (value, Source::File(self.path.clone())),
            (None, None) => (default, Source::Default),
        };
        self.told.push(Told { name, value: value.to_string(), source });
        value
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Address(pub IpAddr);

impl Address {
    const LOOPBACK: Self = Self(IpAddr::V4(Ipv4Addr::LOCALHOST));
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "localhost" {
            return Ok(Self::LOOPBACK);
        }
        text.parse().map(Self).map_err(|_| {
            "not an IP address; write 127.0.0.1 for this machine alone, 0.0.0.0 or :: for all networks".into()
        })
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|why| format!("`{text}` is {why}"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose time zones are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tzdata {
    /// Those compiled into this program: the same on all nodes that run it.
    Bundled,
    /// Those of the machine.
    System,
}

impl fmt::Display for Tzdata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bundled => "bundled",
            Self::System => "system",
        })
    }
}

/// How the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// A length of time as written, such as `90d` or `1h30m`; see [`duration::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Length(pub Duration);

impl Length {
    const fn days(days: u64) -> Self {
        Self(Duration::from_secs(days * 86_400))
    }
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration::parse(text).map(Self).ok_or_else(|| format!("not {}", duration::EXPECTED))
    }
}

impl TryFrom<String> for Length {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|why| format!("`{text}` is {why}"))
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&duration::text(self.0))
    }
}

/// A number of bytes as written, such as `10GiB`; a unit is wanted, so that nobody takes megabytes for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

impl Size {
    const UNITS: [(&'static str, u64); 4] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = |(unit, bytes): &(&str, u64)| {
            let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
            number.checked_mul(*bytes)
        };
        let size = Self::UNITS.iter().find_map(read);
        size.map(Self).ok_or_else(|| "not a size such as 500MiB or 10GiB".into())
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|why| format!("`{text}` is {why}"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, bytes): &&(&str, u64)| self.0 >= *bytes && self.0.is_multiple_of(*bytes);
        match Self::UNITS.iter().find(fits) {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}KiB", self.0 / 1024),
        }
    }
}

/// A limit of tasks by label as written: `key=value:N`, or `key:N` for each value by itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LabelMax(pub LabelLimit);

impl FromStr for LabelMax {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "not a label and a count above 0, such as team=etl:8 or team:4".to_owned();
        let (label, max) = text.rsplit_once(':').ok_or_else(expected)?;
        let (key, value) = label.split_once('=').map_or((label, None), |(key, value)| (key, Some(value)));
        let max = max.parse().map_err(|_| expected())?;
        if key.is_empty() {
            return Err(expected());
        }
        Ok(Self(LabelLimit { key: key.into(), value: value.map(Into::into), max }))
    }
}

impl TryFrom<String> for LabelMax {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|why| format!("`{text}` is {why}"))
    }
}

impl fmt::Display for LabelMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

struct LabelMaxima(Vec<LabelMax>);

impl fmt::Display for LabelMaxima {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(LabelMax::to_string).collect::<Vec<_>>().join(","))
    }
}

fn is_host(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && (text.parse::<IpAddr>().is_ok() || text.chars().all(plain))
}

struct Hosts(Vec<String>);

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

struct Folder(PathBuf);

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn meant(file: &str) -> Result<Config, String> {
        let chain = |e: &dyn std::error::Error| {
            std::iter::successors(Some(e), |e| e.source())
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(": ")
        };
        let file: ConfigFile = serde_norway::from_str(file).map_err(|e| chain(&e))?;
        let file = Some((PathBuf::from("chronos.yaml"), file));
        Config::new(ConfigFile::default(), |_| Source::Flag, file).map_err(|e| chain(&e))
    }

    #[track_caller]
    fn refused(file: &str, why: &str) {
        let error = meant(file).expect_err("it should be refused");
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn a_file_is_read_and_what_it_does_not_say_has_a_default() {
        let config = meant("http_port: 0\nkill_grace: 1m\nhostname: [a.example.org, 10.0.0.1]").unwrap();
        assert_eq!(config.listen, "127.0.0.1:0".parse().unwrap());
        assert_eq!(config.kill_grace, Duration::from_secs(60));
        assert_eq!(config.hostname, ["a.example.org", "10.0.0.1"]);
        assert_eq!(config.history_age_max, Duration::from_secs(90 * 86_400));
        assert_eq!(config.history_count_max, 1000);
        assert_eq!(config.output_bytes_max, 10 << 30);
        assert_eq!(meant("output_bytes_max: 500MiB").unwrap().output_bytes_max, 500 << 20);
        let source = |name| config.told.iter().find(|told| told.name == name).unwrap().source.clone();
        assert_eq!(source("http_port"), Source::File("chronos.yaml".into()));
        assert_eq!(source("data_dir"), Source::Default);
    }

    #[test]
    fn limits_are_read_and_0_is_none() {
        let config =
            meant("{running_max: 8, launch_rate_max: 0, running_max_by_label: ['team=a:b:2', 'zone:1']}")
                .unwrap();
        let text: Vec<_> = config.limits.running_max_by_label.iter().map(ToString::to_string).collect();
        assert_eq!((config.limits.running_max, config.limits.launch_rate_max), (NonZeroU32::new(8), None));
        assert_eq!(text, ["team=a:b:2", "zone:1"]);
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let flags = ConfigFile { http_port: Some(1), ..ConfigFile::default() };
        let file = ConfigFile { http_port: Some(2), ..ConfigFile::default() };
        let config = Config::new(flags, |_| Source::Flag, Some(("f".into(), file))).unwrap();
        assert_eq!(config.listen.port(), 1);
    }

    #[test]
    fn settings_without_sense_are_refused() {
        refused("http_prot: 1", "unknown field `http_prot`");
        refused("http_port: 65536", "invalid value");
        refused("http_address: example", "`example` is not an IP address");
        refused("http_address: 0.0.0.0", "lets anyone who can connect run commands");
        refused("http_address: '::'", "lets anyone who can connect run commands");
        refused("kill_grace: 10", "`10` is not a duration");
        refused("kill_grace: 10x", "`10x` is not a duration such as");
        refused("kill_grace: 2h", "at most 1h");
        refused("history_age_max: 1s", "at least 1m");
        refused("history_count_max: 0", "at least 1");
        refused("output_bytes_max: '10'", "`10` is not a size such as");
        refused("output_bytes_max: 10MB", "`10MB` is not a size such as");
        refused("output_age_max: 1s", "at least 1h");
        refused("hostname: ['http://a']", "without scheme");
        refused("running_max_by_label: ['team']", "`team` is not a label and a count");
        refused("running_max_by_label: ['team:0']", "`team:0` is not a label and a count");
        refused("running_max_by_label: ['=a:1']", "is not a label and a count");
        refused(
            "running_max_by_label: ['a:1', 'b=c:2', 'a:3']",
            "`running_max_by_label` is a:3; there is another",
        );
        refused("running_max: -1", "expected u32");
        refused("examples: /nonexistent", "no such folder");
        refused("data_dir: ''", "name a folder");
        refused("log_level: loud=x", "not a level");
        refused("tzdata: none", "unknown variant `none`");
        refused("log_format: xml", "unknown variant `xml`");
        assert!(meant("{http_address: 0.0.0.0, allow_unauthenticated: true}").is_ok());
    }
}
