//! `chronos cluster`: all instances at once, by whatever started them.

mod kept;
mod launcher;
mod marathon;
mod purge;
mod remains;
mod restart;
mod systemd;
mod verdict;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};

use super::failure::{Exit, Failure, printable};
use crate::config::Length;
use crate::notify::settings::Secret;

pub(super) use purge::run as purge;
pub(super) use restart::run as restart;

/// What there is to do about all instances.
#[derive(Debug, Subcommand)]
pub(super) enum Cluster {
    /// Restart all instances; jobs, their history and the framework stay
    #[command(after_help = restart::HELP)]
    Restart(Box<restart::RestartArgs>),
    /// End the framework at Mesos, remove all state, and begin anew with none
    #[command(after_help = purge::HELP)]
    Purge(Box<purge::PurgeArgs>),
}

/// What starts the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// An app of Marathon.
    Marathon,
    /// A unit on each of some machines, reached by ssh.
    Systemd,
    /// Somebody else, who has stopped them.
    None,
}

/// By what the instances are started, and where that is.
#[derive(Debug, Args)]
struct LauncherArgs {
    /// What starts the instances: `marathon`, `systemd`, or `none` where somebody stops and starts them by hand
    #[arg(
        long,
        env = "CHRONOS_LAUNCHER",
        value_name = "WHAT",
        hide_possible_values = true,
        default_value = "marathon"
    )]
    launcher: Kind,
    /// With marathon: its URL
    #[arg(long, env = "CHRONOS_MARATHON", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    marathon: String,
    /// With marathon: name and password to log in with, which are better in the environment
    #[arg(long = "marathon_user", env = "CHRONOS_MARATHON_USER", value_name = "NAME:PASSWORD")]
    marathon_user: Option<Secret>,
    /// With marathon: the id of the app
    #[arg(long, value_name = "ID", default_value = "/chronos")]
    app: String,
    /// With systemd: a machine with an instance, as ssh knows it; may be repeated, or several with commas
    #[arg(long = "host", value_name = "[USER@]HOST", value_delimiter = ',')]
    hosts: Vec<String>,
    /// With systemd: the unit
    #[arg(long, value_name = "NAME", default_value = "chronos")]
    unit: String,
    /// With systemd: URL of the instance on a machine
    #[arg(long = "node_url", value_name = "URL", default_value = "http://{host}:4400")]
    node_url: String,
    /// With systemd: name to log in with at the instances, and the password, which are better in CHRONOS_USER
    #[arg(id = "login", long = "user", env = "CHRONOS_USER", value_name = "NAME[:PASSWORD]")]
    user: Option<Secret>,
    /// File of certificates (PEM) that Marathon and the instances may be signed by
    #[arg(long = "ca_file", env = "CHRONOS_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// With systemd: the program that runs a command on a machine, as ssh does
    #[arg(long, value_name = "PROGRAM", default_value = "ssh")]
    ssh: PathBuf,
    /// With systemd: become root there by `sudo -n`
    #[arg(long)]
    sudo: bool,
    /// Longest wait for anything
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    patience: Length,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Says what is being done, on a line of its own.
fn say(step: &str, what: impl std::fmt::Display) -> Result<(), Failure> {
    Ok(super::out(format!("{step}: {}\n", printable(&what.to_string())).as_bytes())?)
}

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// What is waited for is said again after so long, so that nobody takes it for stuck.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// How long anything may take.
#[derive(Clone, Copy, Debug)]
struct Patience(Duration);

impl Patience {
    /// Looks until it is so, or it has taken too long; says why it waits. A server that does not answer is asked again.
    async fn until<T>(
        self,
        step: &str,
        mut look: impl AsyncFnMut() -> Result<Result<T, String>, Failure>,
    ) -> Result<T, Failure> {
        let begun = Instant::now();
        let mut told: Option<(String, Instant)> = None;
        loop {
            let why = match look().await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(why)) => why,
                Err(failure) if failure.exit == Exit::Unreachable => failure.chain(),
                Err(failure) => return Err(failure),
            };
            if begun.elapsed() >= self.0 {
                let message = format!("{step}: waited {} in vain: {why}", Length(self.0));
                return Err(Failure::new(Exit::Failed, anyhow::anyhow!(message))
                    .hint("the same command again goes on from here; --patience waits longer"));
            }
            if told.as_ref().is_none_or(|(last, at)| *last != why || at.elapsed() >= SAY_AGAIN) {
                say(step, format!("waiting: {why}"))?;
                told = Some((why, Instant::now()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// How many there are, in words.
fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_is_waited_for_with_a_bound() {
        let mut looks = 0;
        let found = Patience(Duration::from_secs(60)).until("stop", async || {
            looks += 1;
            match looks {
                1 => Err(Failure::new(Exit::Unreachable, anyhow::anyhow!("it starts anew"))),
                2 => Ok(Err("2 tasks are left".to_owned())),
                _ => Ok(Ok(looks)),
            }
        });
        assert_eq!(found.await.ok(), Some(3));
        let never =
            Patience(Duration::ZERO).until("stop", async || Ok(Err::<(), _>("1 task is left".to_owned())));
        let text = never.await.expect_err("it is never so").to_text();
        assert!(text.contains("stop: waited 0s in vain: 1 task is left"), "{text}");
    }
}
