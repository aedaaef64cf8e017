//! How a server is set up: [`ConfigFile`] as written, in flags, environment and a file; [`Config`] as meant.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use scheduler::job::Retry;
use scheduler::limits::{LabelLimit, Limits};

use crate::notify::settings::{MailTls, NotifySettings};
use crate::wire::shape;
use crate::wire::unsaid::Unsaid;

mod access;
mod cluster;
mod error;
mod file;
pub mod groups;
mod mesos;
mod notify;
pub mod old;
mod values;

/// The environment variable of a setting.
pub fn variable(name: &str) -> String {
    match name {
        "user" => file::TASK_USER.into(),
        name => format!("CHRONOS_{}", name.to_uppercase()),
    }
}

pub use access::{AccessSettings, Credentials, TlsSource};
pub use cluster::{Advertised, ClusterSettings, StoreSettings};
pub use error::ConfigError;
pub use file::ConfigFile;
pub use mesos::MesosSettings;
pub use values::{
    Address, EngineKind, LabelMax, Length, LogFormat, OldTasksKind, OnIsolation, Size, StoreKind, Tzdata,
};

use access::AccessTexts;
use cluster::ClusterTexts;
use mesos::MesosTexts;
use notify::NotifyTexts;
use values::{Folder, Hosts, LabelMaxima};

/// What holds where nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// `chronos server`: this machine alone, port 4400.
    Server,
    /// `chronos run_jar`: all addresses, port 8080, as Chronos had it.
    RunJar,
}

/// Settings as meant: complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen for HTTP; `None` where it is turned off.
    pub listen: Option<SocketAddr>,
    /// Where to listen for HTTPS, and with which certificate.
    pub https: Option<(SocketAddr, TlsSource)>,
    /// Who may ask.
    pub access: AccessSettings,
    /// Under which names others reach this node; empty for the address listened on.
    pub hostname: Vec<String>,
    /// How this node takes part in a cluster.
    pub cluster: ClusterSettings,
    /// How tasks run on Mesos, where they do.
    pub mesos: Option<MesosSettings>,
    /// What jobs have that do not say.
    pub unsaid: Unsaid,
    /// Whether nothing is run and nobody told.
    pub shadow: bool,
    /// Folder for all state.
    pub data_dir: PathBuf,
    /// Job files for the first start.
    pub examples: Option<PathBuf>,
    /// Retention of the history.
    pub history_age_max: Duration,
    /// Retention of the history, for each job.
    pub history_count_max: u64,
    /// Whether answers are compressed for nobody.
    pub disable_http_compression: bool,
    /// How many tasks statistics list.
    pub job_history_limit: u64,
    /// Retention of the audit.
    pub audit_age_max: Duration,
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
    /// Where logins of registries are; empty for where Docker has them.
    pub docker_config: PathBuf,
    /// Whose time zones are used.
    pub tzdata: Tzdata,
    /// A job that fails so often in a row is disabled; 0 for never.
    pub disable_after_failures: u64,
    /// Between attempts of jobs without `retryDelay`.
    pub retry_delay: Duration,
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

impl Config {
    /// What is meant by `flags` (with environment variables among them, told apart by `flag_source`) and a `file`.
    /// # Errors
    /// The first of [`ConfigError`] that applies.
    pub fn new(
        flags: ConfigFile,
        flag_source: impl Fn(&str) -> Source,
        file: Option<(PathBuf, ConfigFile)>,
        manner: Manner,
    ) -> Result<Self, ConfigError> {
        let (path, file) = file.unwrap_or_default();
        let mut layers = Layers { flag_source, path, told: Vec::new() };
        // What is about telling people, and about who may ask, has a file of its own.
        let asked = (flags.clone(), file.clone());
        let access = AccessTexts::pick(&mut layers, &asked.0, &asked.1, manner);
        let disable_http_compression = layers.pick(
            "disable_http_compression",
            flags.disable_http_compression,
            file.disable_http_compression,
            false,
        );
        let hostname =
            layers.pick("hostname", flags.hostname.map(Hosts), file.hostname.map(Hosts), Hosts(Vec::new()));
        let cluster = ClusterTexts::pick(&mut layers, &asked.0, &asked.1, manner);
        let mesos = MesosTexts::pick(&mut layers, &asked.0, &asked.1);
        let shadow = layers.pick("shadow", flags.shadow, file.shadow, false);
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
        let (listen, https, access) = access.meant()?;
        let cluster = cluster.meant(manner)?;
        let runs_kept = cluster.store.history_count_max();
        let (mesos, unsaid) = mesos.meant()?;
        let config = Self {
            cluster,
            mesos,
            unsaid,
            listen,
            https,
            access,
            shadow,
            hostname: hostname.0,
            data_dir: data_dir.0,
            examples: Some(examples.0).filter(|path| !path.as_os_str().is_empty()),
            history_age_max: layers
                .pick("history_age_max", flags.history_age_max, file.history_age_max, Length::days(90))
                .0,
            history_count_max: layers.pick(
                "history_count_max",
                flags.history_count_max,
                file.history_count_max,
                runs_kept,
            ),
            disable_http_compression,
            job_history_limit: layers.pick(
                "job_history_limit",
                flags.job_history_limit,
                file.job_history_limit,
                crate::api::Settings::TASKS_LISTED as u64,
            ),
            audit_age_max: layers
                .pick("audit_age_max", flags.audit_age_max, file.audit_age_max, Length::days(365))
                .0,
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
            docker_config: layers
                .pick(
                    "docker_config",
                    flags.docker_config.map(Folder),
                    file.docker_config.map(Folder),
                    Folder(PathBuf::new()),
                )
                .0,
            tzdata: layers.pick("tzdata", flags.tzdata, file.tzdata, Tzdata::Bundled),
            disable_after_failures: layers.pick(
                "disable_after_failures",
                flags.disable_after_failures,
                file.disable_after_failures,
                0,
            ),
            retry_delay: Duration::from_millis(layers.pick(
                "failure_retry",
                flags.failure_retry,
                file.failure_retry,
                u64::try_from(Retry::DELAY.as_millis()).unwrap_or(u64::MAX),
            ))
            .max(Retry::DELAY_MIN),
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
            notify: NotifyTexts::pick(&mut layers, &asked.0, &asked.1).meant(manner)?,
            told: layers.told,
        };
        config.check()?;
        Ok(config)
    }

    /// What is not as somebody has said: one sentence each. Chronos took it, and whoever changes the image alone shall not
    /// find a server that does not start.
    pub fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        if self.source("user") == Some(&Source::Environment("CHRONOS_USER".into())) {
            notices.push(format!(
                "CHRONOS_USER is taken for --user: name it {}, as it is the login of the command line",
                file::TASK_USER
            ));
        }
        let retry_delay_min = u64::try_from(Retry::DELAY_MIN.as_millis()).unwrap_or(u64::MAX);
        if let Some(less) = self.whole("failure_retry").filter(|ms| *ms < retry_delay_min) {
            notices.push(format!(
                "--failure_retry {less} is taken as {retry_delay_min}: a job that fails must not storm"
            ));
        }
        if let StoreSettings::ZooKeeper { timeout, .. } = &self.cluster.store
            && let Some(given) = self.whole("zk_timeout").filter(|ms| u128::from(*ms) != timeout.as_millis())
        {
            let taken = timeout.as_millis();
            notices.push(format!(
                "--zk_timeout {given} is taken as {taken}: so long a session of ZooKeeper lasts that is not heard from"
            ));
        }
        notices.extend(self.notices_of_mail());
        for setting in self.unused() {
            notices.push(format!("--{setting} has no effect: the state is not where it says, see --store"));
        }
        for setting in self.unused_of_mesos() {
            notices.push(format!("--{setting} has no effect: tasks do not run on Mesos, see --master"));
        }
        notices
    }

    fn notices_of_mail(&self) -> Option<String> {
        let given = |name: &str| self.value(name).is_some_and(|value| !value.is_empty());
        match &self.notify.mail {
            None if given("mail_server") && given("mail_from") => Some(
                "--mail_server does nothing without a port, as in mail.example.org:25: no mail is sent"
                    .into(),
            ),
            None if given("mail_server") => {
                Some("--mail_server does nothing without --mail_from: no mail is sent".into())
            }
            None if given("mail_from") => {
                Some("--mail_from does nothing without --mail_server: no mail is sent".into())
            }
            Some(mail) if mail.login.is_some() && mail.tls == MailTls::None => {
                Some("--mail_tls none: the password of --mail_user goes to the mail server as it is".into())
            }
            _ => None,
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        Some(self.told.iter().find(|told| told.name == name)?.value.as_str())
    }

    fn whole(&self, name: &str) -> Option<u64> {
        self.value(name)?.parse().ok()
    }

    fn source(&self, name: &str) -> Option<&Source> {
        Some(&self.told.iter().find(|told| told.name == name)?.source)
    }

    /// Settings of a store that somebody has given and that is not the one in use.
    fn unused(&self) -> impl Iterator<Item = &'static str> {
        let of = |store: &StoreSettings| match store {
            StoreSettings::Sqlite => "",
            StoreSettings::Postgres { .. } => "database_",
            StoreSettings::ZooKeeper { .. } => "zk_",
        };
        let used = of(&self.cluster.store);
        let told = self.told.iter().filter(|told| told.source != Source::Default).map(|told| told.name);
        told.filter(move |name| {
            let ours = ["database_", "zk_"].into_iter().find(|prefix| name.starts_with(prefix));
            ours.is_some_and(|prefix| prefix != used)
        })
    }

    /// Settings of Mesos that somebody has given although tasks do not run there.
    fn unused_of_mesos(&self) -> impl Iterator<Item = &'static str> {
        let given = self.told.iter().filter(|told| told.source != Source::Default).map(|told| told.name);
        given.filter(|name| self.mesos.is_none() && mesos::ON_MESOS.contains(name))
    }

    /// Longest grace: a server that waits for it must still end within a reboot.
    const KILL_GRACE_MAX: Duration = Duration::from_secs(3600);
    /// As long as a job may say.
    const RETRY_DELAY_MAX: Duration = shape::SPAN_MAX;
    /// As many runs as statistics are made of.
    const JOB_HISTORY_LIMIT_MAX: u64 = 1000;
    /// Least age kept: enough to look at what just happened.
    const HISTORY_AGE_MIN: Duration = Duration::from_secs(60);

    /// Least age of output: enough to look at what just failed.
    const OUTPUT_AGE_MIN: Duration = Duration::from_secs(3600);

    /// Least age of the audit: whoever did harm shall not be able to have it forgotten at once.
    const AUDIT_AGE_MIN: Duration = Duration::from_secs(3600);

    /// All addresses to listen on.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listen.into_iter().chain(self.https.as_ref().map(|(address, _)| *address))
    }

    /// Least age of a container: long beyond any order that is on its way.
    const CONTAINER_AGE_MIN: Duration = Duration::from_secs(600);

    fn check(&self) -> Result<(), ConfigError> {
        let bounds = |name, value, rule| Err(ConfigError::Bounds { name, value, rule });
        let exposed = self.addresses().find(|address| !address.ip().is_loopback());
        if let Some(address) = exposed.filter(|_| {
            self.mesos.is_none() && self.access.credentials.is_none() && !self.access.allow_unauthenticated
        }) {
            return Err(ConfigError::Exposed(address.ip()));
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
        if self.shadow && self.cluster.store != StoreSettings::Sqlite {
            // It would stand for election among servers that run tasks, and record what it did not run beside what they ran.
            let rule = "a shadow keeps what it makes up in a folder of its own: say --store sqlite";
            return bounds("shadow", "true".into(), rule);
        }
        if self.retry_delay > Self::RETRY_DELAY_MAX {
            let value = self.retry_delay.as_millis().to_string();
            return bounds(
                "failure_retry",
                value,
                "at most 316224000000 (ten years) is allowed, in milliseconds",
            );
        }
        if self.job_history_limit > Self::JOB_HISTORY_LIMIT_MAX {
            return bounds(
                "job_history_limit",
                self.job_history_limit.to_string(),
                "at most 1000 is allowed",
            );
        }
        if self.history_count_max == 0 {
            return bounds("history_count_max", "0".into(), "at least 1 is wanted");
        }
        if self.audit_age_max < Self::AUDIT_AGE_MIN {
            let age = Length(self.audit_age_max).to_string();
            return bounds("audit_age_max", age, "at least 1h is wanted");
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

fn is_host(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && (text.parse::<IpAddr>().is_ok() || text.chars().all(plain))
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
        Config::new(ConfigFile::default(), |_| Source::Flag, file, Manner::Server).map_err(|e| chain(&e))
    }

    #[track_caller]
    fn refused(file: &str, why: &str) {
        let error = meant(file).expect_err("it should be refused");
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn a_file_is_read_and_what_it_does_not_say_has_a_default() {
        let config = meant("http_port: 0\nkill_grace: 1m\nhostname: [a.example.org, 10.0.0.1]").unwrap();
        assert_eq!(config.listen, Some("127.0.0.1:0".parse().unwrap()));
        assert_eq!(config.kill_grace, Duration::from_secs(60));
        assert_eq!(config.hostname, ["a.example.org", "10.0.0.1"]);
        assert_eq!(config.history_age_max, Duration::from_secs(90 * 86_400));
        assert_eq!(config.history_count_max, 1000);
        assert_eq!(meant("zk_hosts: a:2181").unwrap().history_count_max, 20);
        assert_eq!(meant("{zk_hosts: 'a:2181', history_count_max: 200}").unwrap().history_count_max, 200);
        assert_eq!(config.output_bytes_max, 10 << 30);
        assert_eq!(meant("output_bytes_max: 500MiB").unwrap().output_bytes_max, 500 << 20);
        let source = |name| config.told.iter().find(|told| told.name == name).unwrap().source.clone();
        assert_eq!(source("http_port"), Source::File("chronos.yaml".into()));
        assert_eq!(source("data_dir"), Source::Default);
    }

    #[track_caller]
    fn noticed(manner: Manner, file: &str, starts: &[&str]) {
        let file: ConfigFile = serde_norway::from_str(file).unwrap();
        let file = Some((PathBuf::from("chronos.yaml"), file));
        let config = Config::new(ConfigFile::default(), |_| Source::Flag, file, manner).unwrap();
        let notices = config.notices();
        assert_eq!(notices.len(), starts.len(), "{notices:#?}");
        for (notice, start) in notices.iter().zip(starts) {
            assert!(notice.starts_with(start), "{notices:#?}");
        }
    }

    /// Chronos began with all of these.
    #[test]
    fn what_chronos_took_does_not_keep_run_jar_from_starting() {
        let jar = |more: &str| format!("{{allow_unauthenticated: true, {more}}}");
        noticed(Manner::RunJar, &jar(""), &[]);
        noticed(Manner::RunJar, &jar("zk_timeout: 1000"), &["--zk_timeout 1000 is taken as 4000"]);
        noticed(Manner::RunJar, &jar("zk_timeout: 900000"), &["--zk_timeout 900000 is taken as 300000"]);
        let unused = ["--zk_timeout has no effect"];
        noticed(Manner::RunJar, &jar("store: sqlite, zk_timeout: 1000"), &unused);
        refused("{store: zookeeper, zk_timeout: 1000}", "4000 to 300000");
        let mail = ["--mail_server does nothing without --mail_from"];
        noticed(Manner::RunJar, &jar("mail_server: 'mail:25'"), &mail);
        refused("mail_server: 'mail:25'", "`mail_from` is empty");
        let mail = ["--mail_server does nothing without a port"];
        noticed(Manner::RunJar, &jar("mail_server: mail, mail_from: c@example.org"), &mail);
        noticed(Manner::Server, "failure_retry: 5", &["--failure_retry 5 is taken as 1000"]);
    }

    #[test]
    fn mail_that_is_half_set_up_is_told() {
        noticed(Manner::Server, "mail_from: c@example.org", &["--mail_from does nothing"]);
        let login = "mail_server: 'm:25', mail_from: c@example.org, mail_user: u, mail_password: p";
        noticed(Manner::Server, &format!("{{{login}}}"), &[]);
        noticed(Manner::Server, &format!("{{{login}, mail_tls: none}}"), &["--mail_tls none: the password"]);
    }

    #[test]
    fn a_login_is_no_user_of_tasks() {
        for more in ["", ", master: 'm:5050'"] {
            let error = meant(&format!("{{user: 'ops:hunter2'{more}}}")).expect_err("it has a password");
            assert!(error.contains("CHRONOS_USER") && !error.contains("hunter2"), "{error}");
        }
        let flags = ConfigFile { user: Some("ops".into()), ..ConfigFile::default() };
        let from = |_: &str| Source::Environment("CHRONOS_USER".into());
        let config = Config::new(flags, from, None, Manner::Server).unwrap();
        assert_eq!(config.unsaid.user, "ops");
        assert!(config.notices()[0].contains("name it CHRONOS_TASK_USER"), "{:?}", config.notices());
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
        let config = Config::new(flags, |_| Source::Flag, Some(("f".into(), file)), Manner::Server).unwrap();
        assert_eq!(config.listen.map(|address| address.port()), Some(1));
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
        refused("job_history_limit: 1001", "at most 1000");
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
