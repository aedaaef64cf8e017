//! Instances that are units of systemd, one on each of some machines, reached by ssh.

use std::process::Stdio;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::{LauncherArgs, Patience, say};
use crate::cli::ServerAt;
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};

pub(super) struct Systemd {
    machines: Vec<Machine>,
    ssh: std::path::PathBuf,
    sudo: bool,
    unit: String,
    patience: std::time::Duration,
}

/// One of them.
struct Machine {
    /// As ssh knows it.
    login: String,
    /// Without the user.
    name: String,
    client: Client,
}

/// How an instance is.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It serves; whether it leads.
    Ready { leads: bool },
    /// Why it does not.
    Not(String),
}

impl Systemd {
    pub(super) fn new(args: &LauncherArgs) -> Result<Self, Failure> {
        if args.hosts.is_empty() {
            return Err(Failure::usage("no machine is named").hint("--host names one; it may be repeated"));
        }
        let plain = |text: &str, more: &[u8]| {
            let known =
                |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte) || more.contains(&byte);
            !text.is_empty() && !text.starts_with('-') && text.bytes().all(known)
        };
        if !plain(&args.unit, b"@:\\") {
            return Err(Failure::usage(format!("--unit: `{}` is not the name of a unit", args.unit)));
        }
        let mut machines: Vec<Machine> = Vec::new();
        for login in &args.hosts {
            let name = login.rsplit_once('@').map_or(login.as_str(), |(_, name)| name);
            if !plain(login, b"@:[]") || name.is_empty() {
                return Err(Failure::usage(format!("--host: `{login}` is not the name of a machine")));
            }
            if machines.iter().any(|machine| machine.name == name) {
                return Err(Failure::usage(format!("--host: `{name}` is named twice")));
            }
            let server = args.node_url.replace("{host}", name);
            let at = ServerAt { server, user: args.user.clone(), ca_file: args.ca_file.clone() };
            machines.push(Machine { login: login.clone(), name: name.into(), client: Client::of(&at)? });
        }
        let (ssh, sudo, unit) = (args.ssh.clone(), args.sudo, args.unit.clone());
        Ok(Self { machines, ssh, sudo, unit, patience: args.patience.0 })
    }

    /// Runs a command of a shell on a machine: what it wrote, if it succeeded.
    async fn run(&self, machine: &Machine, command: &str) -> Result<String, (Option<i32>, Failure)> {
        let command = if self.sudo { format!("sudo -n {command}") } else { command.to_owned() };
        let name = &machine.name;
        let mut ssh = Command::new(&self.ssh);
        ssh.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--", &machine.login, &command]);
        let asked = ssh.stdin(Stdio::null()).kill_on_drop(true).output();
        let done = match timeout(self.patience, asked).await {
            Err(_) => {
                let message =
                    format!("{name}: `{command}` is not done after {}", crate::config::Length(self.patience));
                return Err((None, Failure::new(Exit::Failed, anyhow::anyhow!(message))));
            }
            Ok(Err(cause)) => {
                let shown = format!("cannot run `{}`", self.ssh.display());
                return Err((None, Failure::from(cause).context(shown).hint("--ssh names the program")));
            }
            Ok(Ok(done)) => done,
        };
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
        }
        let said = if done.stderr.is_empty() { &done.stdout } else { &done.stderr };
        let said = String::from_utf8_lossy(said);
        let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        let failure = Failure::new(Exit::Failed, anyhow::anyhow!("{name}: `{command}`: {said}"));
        let hint = match done.status.code() {
            // What ssh says of itself.
            Some(255) => "see whether `ssh -o BatchMode=yes` reaches it without a password",
            _ => "see whether this user may do that there; --sudo becomes root",
        };
        Err((done.status.code(), failure.hint(hint)))
    }

    async fn do_there(&self, machine: &Machine, command: &str) -> Result<String, Failure> {
        self.run(machine, command).await.map_err(|(_, failure)| failure)
    }

    /// Whether the unit is there and runs.
    async fn is_active(&self, machine: &Machine) -> Result<bool, Failure> {
        match self.run(machine, &format!("systemctl is-active {}", self.unit)).await {
            Ok(_) => Ok(true),
            // It answers so where a unit does not run.
            Err((Some(3 | 4), _)) => Ok(false),
            Err((_, failure)) => Err(failure),
        }
    }

    async fn state(&self, machine: &Machine) -> Result<State, Failure> {
        let (status, body) = machine.client.plain(Method::GET, &["ready"], &[], None).await?;
        if status == StatusCode::UNAUTHORIZED {
            let message = format!("{} wants to know who asks", machine.client.shown());
            return Err(Failure::new(Exit::Refused, anyhow::anyhow!(message))
                .hint("CHRONOS_USER or --user names who; nothing was done to it"));
        }
        Ok(state(status, &body))
    }

    pub(super) async fn look(&self) -> Result<String, Failure> {
        let mut told = Vec::new();
        for machine in &self.machines {
            let runs = if self.is_active(machine).await? { "runs" } else { "does not run" };
            told.push(format!("{} ({runs})", machine.name));
        }
        Ok(format!("unit {} on {}", self.unit, told.join(", ")))
    }

    pub(super) async fn stop(&self) -> Result<(), Failure> {
        for machine in &self.machines {
            self.do_there(machine, &format!("systemctl stop {}", self.unit)).await?;
            if self.is_active(machine).await? {
                let message = format!("{}: {} runs although it was stopped", machine.name, self.unit);
                return Err(
                    Failure::new(Exit::Failed, anyhow::anyhow!(message)).hint("see what starts it there")
                );
            }
            say("stop", format!("{}: {} is stopped", machine.name, self.unit))?;
        }
        Ok(())
    }

    pub(super) async fn forget_store(&self, data_dir: &str) -> Result<(), Failure> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
        if !data_dir.starts_with('/') || !data_dir.bytes().all(plain) {
            return Err(Failure::usage(format!("--data_dir: `{data_dir}` is not a plain absolute path")));
        }
        for machine in &self.machines {
            self.do_there(machine, &format!("rm -f {}/store", data_dir.trim_end_matches('/'))).await?;
        }
        say("remove", "the machines have forgotten which store they worked on")
    }

    pub(super) async fn start(&self, patience: Patience) -> Result<(), Failure> {
        for machine in &self.machines {
            self.do_there(machine, &format!("systemctl start {}", self.unit)).await?;
            say("start", format!("{}: {} is started", machine.name, self.unit))?;
        }
        for machine in &self.machines {
            self.wait_ready("start", machine, patience).await?;
        }
        self.wait_led("start", patience).await
    }

    async fn wait_ready(&self, step: &str, machine: &Machine, patience: Patience) -> Result<(), Failure> {
        let name = &machine.name;
        patience
            .until(step, async || match self.state(machine).await? {
                State::Ready { .. } => Ok(Ok(())),
                State::Not(why) => Ok(Err(format!("{name} is not ready: {why}"))),
            })
            .await?;
        say(step, format!("{name} is ready"))
    }

    async fn wait_led(&self, step: &str, patience: Patience) -> Result<(), Failure> {
        let leader = patience.until(step, async || {
            for machine in &self.machines {
                if let Ok(State::Ready { leads: true }) = self.state(machine).await {
                    return Ok(Ok(machine.name.clone()));
                }
            }
            Ok(Err("none of them leads yet".into()))
        });
        let leader = leader.await?;
        say(step, format!("{leader} leads"))
    }

    /// One after the other: those that do not serve first, then those that stand by, the leader last, so that it changes
    /// once.
    async fn order(&self) -> Result<Vec<(&Machine, &'static str)>, Failure> {
        let mut order = Vec::new();
        for machine in &self.machines {
            let (rank, word) = match self.state(machine).await {
                Ok(State::Ready { leads: true }) => (2, "it leads"),
                Ok(State::Ready { leads: false }) => (1, "it stands by"),
                Ok(State::Not(_)) => (0, "it does not serve"),
                Err(failure) if failure.exit == Exit::Unreachable => (0, "it does not answer"),
                Err(failure) => return Err(failure),
            };
            order.push((rank, machine, word));
        }
        order.sort_by_key(|(rank, ..)| *rank);
        Ok(order.into_iter().map(|(_, machine, word)| (machine, word)).collect())
    }

    pub(super) async fn plan(&self) -> Result<Vec<String>, Failure> {
        let order = self.order().await?;
        Ok(order
            .iter()
            .map(|(machine, word)| format!("restart {} on {}: {word}", self.unit, machine.name))
            .collect())
    }

    pub(super) async fn restart(&self, patience: Patience) -> Result<(), Failure> {
        let order = self.order().await?;
        for (n, (machine, word)) in order.iter().enumerate() {
            let done = async {
                say("restart", format!("{}: {word}", machine.name))?;
                self.do_there(machine, &format!("systemctl restart {}", self.unit)).await?;
                self.wait_ready("restart", machine, patience).await
            };
            if let Err(failure) = done.await {
                let left: Vec<_> = order[n + 1..].iter().map(|(machine, _)| machine.name.as_str()).collect();
                let left = if left.is_empty() { "none".into() } else { left.join(", ") };
                return Err(failure.context(format!("stopped there; not touched: {left}")));
            }
        }
        self.wait_led("restart", patience).await
    }
}

/// What an answer to `/ready` means.
fn state(status: StatusCode, body: &Value) -> State {
    if status == StatusCode::OK && body["ready"] == true {
        return State::Ready { leads: body["role"] == "leading" };
    }
    let reasons = body["reasons"].as_array().map_or(&[][..], Vec::as_slice);
    let reasons: Vec<_> = reasons.iter().filter_map(Value::as_str).collect();
    State::Not(if reasons.is_empty() { format!("it answers {status}") } else { reasons.join("; ") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_instance_says_how_it_is() {
        let leads = json!({ "ready": true, "role": "leading", "reasons": [] });
        assert_eq!(state(StatusCode::OK, &leads), State::Ready { leads: true });
        let stands_by = json!({ "ready": true, "role": "standby", "reasons": ["nobody leads"] });
        assert_eq!(state(StatusCode::OK, &stands_by), State::Ready { leads: false });
        let starts = json!({ "ready": false, "role": "starting", "reasons": ["a", "b"] });
        assert_eq!(state(StatusCode::SERVICE_UNAVAILABLE, &starts), State::Not("a; b".into()));
        assert_eq!(
            state(StatusCode::BAD_GATEWAY, &Value::Null),
            State::Not("it answers 502 Bad Gateway".into())
        );
    }
}
