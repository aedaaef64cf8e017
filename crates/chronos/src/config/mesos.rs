//! The settings about Mesos: where its master is, what Chronos is there, and what tasks have that do not say.

use std::path::PathBuf;
use std::time::Duration;

use engine::mesos::{Masters, MesosLogin, OldTasks};

use super::values::{EngineKind, Folder, OldTasksKind};
use super::{ConfigError, ConfigFile, Layers, Source};
use crate::wire::unsaid::Unsaid;

/// How tasks run on Mesos.
#[derive(Clone, Debug)]
pub struct MesosSettings {
    /// Where the master is.
    pub masters: Masters,
    /// Who Chronos is to the master.
    pub login: Option<MesosLogin>,
    /// The name of the framework.
    pub name: String,
    /// The role to which offers are made.
    pub role: String,
    /// Whether agents keep tasks through their own restarts.
    pub checkpoint: bool,
    /// How long the master keeps tasks while no Chronos is there.
    pub failover_timeout: Duration,
    /// What the master shows as our address; the node that leads knows it where nobody says.
    pub webui_url: Option<String>,
    /// How long an offer that is of no use is declined; the engine's own length where nobody says.
    pub decline_for: Option<Duration>,
    /// Offers are asked for anew no oftener.
    pub revive_every: Duration,
    /// How often all tasks are asked for.
    pub reconcile_every: Duration,
    /// What becomes of tasks that an old Chronos has begun.
    pub old_tasks: OldTasks,
}

/// As written, or as it is where nobody writes.
pub(super) struct MesosTexts {
    engine: Option<EngineKind>,
    master: String,
    user: String,
    failover_timeout: f64,
    cpu: f64,
    mem: f64,
    disk: f64,
    checkpoint: bool,
    role: String,
    name: String,
    webui_url: String,
    reconciliation_interval: u64,
    principal: String,
    secret_file: PathBuf,
    decline: u64,
    revive: u64,
    old_tasks: OldTasksKind,
}

/// The word for tasks that run without Mesos.
const LOCAL: &str = "local";
/// Longest interval, ten years: far beyond sense, far below overflow.
const LONGEST: Duration = Duration::from_secs(3660 * 86_400);

impl MesosTexts {
    pub(super) fn pick<F: Fn(&str) -> Source>(
        layers: &mut Layers<F>,
        flags: &ConfigFile,
        file: &ConfigFile,
    ) -> Self {
        macro_rules! pick {
            ($name:ident, $default:expr) => {
                layers.pick(stringify!($name), flags.$name.clone(), file.$name.clone(), $default)
            };
        }
        let meant = |master: &Option<String>| master.as_ref().is_some_and(|master| master != LOCAL);
        let master = flags.master.clone().or(file.master.clone());
        let engine = if meant(&master) { EngineKind::Mesos } else { EngineKind::Local };
        let engine = Some(layers.pick("engine", flags.engine, file.engine, engine));
        let shown = |master: Option<String>| master.map(Shown);
        Self {
            engine,
            master: layers
                .pick("master", shown(flags.master.clone()), shown(file.master.clone()), Shown(LOCAL.into()))
                .0,
            user: pick!(user, "root".to_owned()),
            failover_timeout: pick!(failover_timeout, 604_800.0),
            cpu: pick!(mesos_task_cpu, 0.1),
            mem: pick!(mesos_task_mem, 128.0),
            disk: pick!(mesos_task_disk, 256.0),
            checkpoint: pick!(mesos_checkpoint, true),
            role: pick!(mesos_role, "*".to_owned()),
            name: pick!(mesos_framework_name, "chronos".to_owned()),
            webui_url: pick!(webui_url, String::new()),
            reconciliation_interval: pick!(reconciliation_interval, 600),
            principal: pick!(mesos_authentication_principal, String::new()),
            secret_file: layers
                .pick(
                    "mesos_authentication_secret_file",
                    flags.mesos_authentication_secret_file.clone().map(Folder),
                    file.mesos_authentication_secret_file.clone().map(Folder),
                    Folder(PathBuf::new()),
                )
                .0,
            decline: pick!(decline_offer_duration, 0),
            revive: pick!(min_revive_offers_interval, 5000),
            old_tasks: pick!(mesos_old_tasks, OldTasksKind::Keep),
        }
    }

    pub(super) fn meant(self) -> Result<(Option<MesosSettings>, Unsaid), ConfigError> {
        let unsaid = Unsaid {
            cpus: amount("mesos_task_cpu", self.cpu)?,
            mem: amount("mesos_task_mem", self.mem)?,
            disk: amount("mesos_task_disk", self.disk)?,
            user: self.user.clone(),
        };
        if unsaid.user.contains(':') {
            // Not the value: it is a password, most likely.
            let rule =
                "the name of a user is wanted, as in root; the login of the command line is CHRONOS_USER";
            return bounds("user", "***".into(), rule);
        }
        if self.engine != Some(EngineKind::Mesos) {
            return Ok((None, unsaid));
        }
        if self.master == LOCAL {
            let rule = "--master has to say where that is, as in zk://a.example.org:2181/mesos";
            return bounds("engine", "mesos".into(), rule);
        }
        // Not the value: it may have a password in it.
        let masters = Masters::parse(&self.master)
            .map_err(|cause| ConfigError::Master { text: cause.text, why: cause.why })?;
        let user = plain_text("user", self.user, 255)?;
        if user.is_empty() {
            return bounds("user", "empty".into(), "Mesos wants a user, as in root");
        }
        let name = plain_text("mesos_framework_name", self.name, 255)?;
        if name.is_empty() {
            return bounds("mesos_framework_name", "empty".into(), "name the framework");
        }
        let role = plain_text("mesos_role", self.role, 255)?;
        if !is_role(&role) {
            let rule = "a role of Mesos is wanted, as in `*`, `ops` or `ops/night`";
            return bounds("mesos_role", format!("`{role}`"), rule);
        }
        let webui_url = Some(self.webui_url).filter(|url| !url.is_empty());
        if let Some(url) =
            webui_url.as_ref().filter(|url| !url.starts_with("http://") && !url.starts_with("https://"))
        {
            return bounds(
                "webui_url",
                format!("`{url}`"),
                "a URL is wanted, as in https://chronos.example.org/",
            );
        }
        let failover_timeout = Duration::try_from_secs_f64(self.failover_timeout).ok();
        let Some(failover_timeout) = failover_timeout.filter(|timeout| *timeout <= LONGEST) else {
            let rule = "a number of seconds is wanted, at most ten years of them";
            return bounds("failover_timeout", self.failover_timeout.to_string(), rule);
        };
        let reconcile_every = Duration::from_secs(self.reconciliation_interval);
        if reconcile_every < Duration::from_secs(1) || reconcile_every > LONGEST {
            let rule = "at least 1 is wanted, in seconds";
            return bounds("reconciliation_interval", self.reconciliation_interval.to_string(), rule);
        }
        let (decline_for, revive_every) =
            (Duration::from_millis(self.decline), Duration::from_millis(self.revive));
        for (name, length) in
            [("decline_offer_duration", decline_for), ("min_revive_offers_interval", revive_every)]
        {
            if length > LONGEST {
                let rule = "at most ten years are allowed, in milliseconds";
                return bounds(name, length.as_millis().to_string(), rule);
            }
        }
        let secret = super::notify::file("mesos_authentication_secret_file", &self.secret_file)?;
        let principal = plain_text("mesos_authentication_principal", self.principal, 255)?;
        let login = match (principal.is_empty(), secret) {
            (true, None) => None,
            (true, Some(_)) => {
                let rule = "--mesos_authentication_principal has to say whose secret it is";
                return bounds("mesos_authentication_secret_file", "given".into(), rule);
            }
            // Without a secret it is a name alone, for the limits that a master has by principal.
            (false, secret) => {
                if principal.contains(':') {
                    let rule = "a name without `:` is wanted, which ends it where the master is told of it";
                    return bounds("mesos_authentication_principal", format!("`{principal}`"), rule);
                }
                Some(MesosLogin { principal, secret: secret.map(|secret| secret.0).unwrap_or_default() })
            }
        };
        let settings = MesosSettings {
            masters,
            login,
            name,
            role,
            checkpoint: self.checkpoint,
            failover_timeout,
            webui_url,
            decline_for: Some(decline_for).filter(|length| !length.is_zero()),
            revive_every,
            reconcile_every,
            old_tasks: match self.old_tasks {
                OldTasksKind::Keep => OldTasks::Keep,
                OldTasksKind::Kill => OldTasks::Kill,
            },
        };
        Ok((Some(settings), unsaid))
    }
}

/// Settings that matter on Mesos alone.
pub(super) const ON_MESOS: &[&str] = &[
    "failover_timeout",
    "mesos_checkpoint",
    "mesos_role",
    "mesos_framework_name",
    "webui_url",
    "reconciliation_interval",
    "mesos_authentication_principal",
    "mesos_authentication_secret_file",
    "decline_offer_duration",
    "min_revive_offers_interval",
    "mesos_old_tasks",
];

/// Where a master is, without the password that may be in it.
struct Shown(String);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Masters::parse(&self.0) {
            Ok(masters) if self.0 != LOCAL => masters.fmt(f),
            Err(cause) if self.0 != LOCAL => f.write_str(&cause.text),
            _ => f.write_str(&self.0),
        }
    }
}

fn amount(name: &'static str, amount: f64) -> Result<f64, ConfigError> {
    if amount.is_finite() && (0.001..=1e12).contains(&amount) {
        return Ok(amount);
    }
    bounds(name, amount.to_string(), "a number above 0 is wanted; Mesos counts in thousandths")
}

fn plain_text(name: &'static str, text: String, longest: usize) -> Result<String, ConfigError> {
    if text.len() > longest || text.chars().any(char::is_control) {
        let rule = "at most 255 bytes are wanted, and no control characters among them";
        return bounds(name, format!("`{}`", text.escape_debug()), rule);
    }
    Ok(text)
}

/// By the rules of Mesos: no `.` and `..`, no leading `-`, no blanks, parts between slashes.
fn is_role(role: &str) -> bool {
    let part = |part: &str| {
        let odd = |c: char| c.is_whitespace() || c == '\\' || c == '*';
        !part.is_empty() && part != "." && part != ".." && !part.starts_with('-') && !part.contains(odd)
    };
    role == "*" || role.split('/').all(part)
}

fn bounds<T>(name: &'static str, value: String, rule: &'static str) -> Result<T, ConfigError> {
    Err(ConfigError::Bounds { name, value, rule })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Manner};

    fn meant(file: &str) -> Result<Config, String> {
        let file: ConfigFile = serde_norway::from_str(file).map_err(|e| e.to_string())?;
        Config::new(ConfigFile::default(), |_| Source::Flag, Some(("f".into(), file)), Manner::Server)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_master_means_mesos_unless_somebody_says_otherwise() {
        let on_mesos = |file: &str| meant(file).expect(file).mesos.is_some();
        assert!(on_mesos("master: 'zk://u:hunter2@z:2181/mesos'"));
        assert!(on_mesos("master: 'leader.mesos:5050'"));
        assert!(!on_mesos("master: local"));
        assert!(!on_mesos("{}"));
        assert!(!on_mesos("{master: 'zk://z:2181/mesos', engine: local}"));
        let config = meant("master: 'zk://u:hunter2@z:2181/mesos'").expect("settings");
        assert!(!format!("{config:?}").contains("hunter2"), "no password is shown");
        let told = |name| config.told.iter().find(|told| told.name == name).map(|told| told.value.as_str());
        assert_eq!((told("engine"), told("mesos_role")), (Some("mesos"), Some("*")));
    }

    #[test]
    fn defaults_are_those_of_chronos() {
        let config = meant("master: 'm:5050'").expect("settings");
        let mesos = config.mesos.expect("Mesos");
        assert_eq!((mesos.name.as_str(), mesos.role.as_str(), mesos.checkpoint), ("chronos", "*", true));
        assert_eq!(
            (mesos.failover_timeout, mesos.reconcile_every),
            (Duration::from_secs(604_800), Duration::from_secs(600))
        );
        assert_eq!((mesos.revive_every, mesos.decline_for), (Duration::from_secs(5), None));
        let unsaid = Unsaid { cpus: 0.1, mem: 128.0, disk: 256.0, user: "root".into() };
        assert_eq!(config.unsaid, unsaid);
    }

    #[test]
    fn what_is_said_is_meant() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "hunter2\n").expect("written");
        let file = format!(
            "{{master: 'm:5050', user: ops, failover_timeout: 60, mesos_task_cpu: 0.5, mesos_checkpoint: false, mesos_role: a/b,
              mesos_framework_name: cron, webui_url: 'https://c/', reconciliation_interval: 30, decline_offer_duration: 1500,
              min_revive_offers_interval: 100, mesos_old_tasks: kill, mesos_authentication_principal: p, mesos_authentication_secret_file: {}}}",
            secret.display()
        );
        let config = meant(&file).expect("settings");
        let mesos = config.mesos.as_ref().expect("Mesos");
        assert_eq!((config.unsaid.cpus, config.unsaid.user.as_str()), (0.5, "ops"));
        assert_eq!((mesos.name.as_str(), mesos.role.as_str(), mesos.checkpoint), ("cron", "a/b", false));
        assert_eq!(mesos.decline_for, Some(Duration::from_millis(1500)));
        assert_eq!(mesos.webui_url.as_deref(), Some("https://c/"));
        assert_eq!(mesos.old_tasks, OldTasks::Kill);
        let login = mesos.login.as_ref().expect("a login");
        assert_eq!((login.principal.as_str(), login.secret.as_str()), ("p", "hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (more, why) in [
            ("master: 'zk://z:2181'", "a path has to follow"),
            ("engine: mesos", "--master has to say where"),
            ("{master: 'm:5050', mesos_role: 'a b'}", "a role of Mesos"),
            ("{master: 'm:5050', mesos_role: ''}", "a role of Mesos"),
            ("{master: 'm:5050', mesos_framework_name: ''}", "name the framework"),
            ("{master: 'm:5050', user: ''}", "Mesos wants a user"),
            ("{master: 'm:5050', webui_url: 'c:8080'}", "a URL is wanted"),
            ("{master: 'm:5050', failover_timeout: -1}", "a number of seconds"),
            ("{master: 'm:5050', failover_timeout: .nan}", "a number of seconds"),
            ("{master: 'm:5050', reconciliation_interval: 0}", "at least 1"),
            ("{master: 'm:5050', mesos_authentication_secret_file: /dev/null}", "whose secret it is"),
            ("{master: 'm:5050', mesos_authentication_principal: 'a:b'}", "without `:`"),
            (
                "{master: 'm:5050', mesos_authentication_principal: a, mesos_authentication_secret_file: /nonexistent}",
                "cannot read",
            ),
            ("mesos_task_cpu: 0", "above 0"),
            ("mesos_task_mem: .inf", "above 0"),
            ("mesos_task_disk: -5", "above 0"),
            ("mesos_checkpoint: perhaps", "invalid type"),
        ] {
            let error = meant(more).expect_err(more);
            assert!(error.contains(why), "{more}: {error}");
        }
    }
}
