//! `chronos completions`: a script that completes the command line, for the shell of the user. The script asks this program
//! on every key, and this program asks the server for names of jobs.

use std::ffi::OsStr;
use std::time::Duration;

use clap::Args;
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use crate::notify::settings::Secret;

use super::client::Client;
use super::failure::Failure;
use super::queries::pages;

pub(super) const HELP: &str = "\
Names of jobs are completed too: the server is asked, that of --server or CHRONOS_SERVER. If it does not answer
within half a second, there are none.

Installation:
  bash        chronos completions bash > ~/.local/share/bash-completion/completions/chronos
  zsh         chronos completions zsh > ~/.zfunc/_chronos    (a folder named in $fpath)
  fish        chronos completions fish > ~/.config/fish/completions/chronos.fish
  elvish      chronos completions elvish > ~/.config/elvish/lib/chronos.elv
  powershell  chronos completions powershell >> $PROFILE

For this session only, in bash:
  source <(chronos completions bash)";

/// What the scripts set when they ask.
const ASKED: &str = "CHRONOS_COMPLETE";
/// Whoever presses a key waits no longer.
const PATIENCE: Duration = Duration::from_millis(500);
/// Names that are offered: more than anyone reads.
const NAMES_MAX: usize = 200;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let name = args.shell.to_string();
    let shells = Shells::builtins();
    let shell = shells
        .completer(&name)
        .ok_or_else(|| Failure::usage(format!("nothing is known of completion in {name}")))?;
    let mut script = Vec::new();
    shell.write_registration(ASKED, "chronos", "chronos", "chronos", &mut script)?;
    Ok(super::out(&script)?)
}

/// Answers a script and ends, if it was one that called.
pub(super) fn answer() {
    CompleteEnv::with_factory(super::command).var(ASKED).complete();
}

/// Lets the names of jobs be completed in all arguments that take some.
pub(super) fn with_names(command: clap::Command) -> clap::Command {
    let takes_names = |arg: &clap::Arg| matches!(arg.get_id().as_str(), "job" | "jobs" | "target");
    let taught = |arg: clap::Arg| if takes_names(&arg) { arg.add(ArgValueCompleter::new(jobs)) } else { arg };
    command.mut_args(taught).mut_subcommands(with_names)
}

fn jobs(begun: &OsStr) -> Vec<CompletionCandidate> {
    let found = begun.to_str().and_then(|begun| fetch(&server(), begun));
    found.unwrap_or_default().into_iter().map(CompletionCandidate::new).collect()
}

/// The server that the line being completed names, or else the environment.
fn server() -> String {
    let words: Vec<String> = std::env::args().collect();
    let named = words.iter().enumerate().rev().find_map(|(i, word)| match word.strip_prefix("--server") {
        Some("") => words.get(i + 1).cloned(),
        Some(rest) => rest.strip_prefix('=').map(Into::into),
        None => None,
    });
    named.or_else(|| std::env::var("CHRONOS_SERVER").ok()).unwrap_or_else(|| super::SERVER.into())
}

/// Names of jobs that begin so; `None` when nobody answers in time.
fn fetch(server: &str, begun: &str) -> Option<Vec<String>> {
    // What the line says of a user is not looked for: the environment and ~/.netrc are.
    let ca_file = std::env::var_os("CHRONOS_CA_FILE").map(Into::into);
    let user = std::env::var("CHRONOS_USER").ok().map(Secret);
    let client = Client::of(&super::ServerAt { server: server.into(), user, ca_file }).ok()?;
    let asked = async {
        let query = vec![("prefix", begun.to_owned())];
        tokio::time::timeout(PATIENCE, pages(&client, &["v1", "jobs"], query, "jobs", NAMES_MAX)).await
    };
    let page = super::client_runtime().ok()?.block_on(asked).ok()?.ok()?;
    Some(page.iter().filter_map(|job| job["name"].as_str().map(Into::into)).collect())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn there_is_a_script_for_every_shell() {
        for shell in Shell::value_variants() {
            let name = shell.to_string();
            let shells = Shells::builtins();
            let known = shells.completer(&name).unwrap_or_else(|| panic!("{name} is promised"));
            let mut script = Vec::new();
            known.write_registration(ASKED, "chronos", "chronos", "chronos", &mut script).expect("memory");
            assert!(String::from_utf8_lossy(&script).contains(ASKED), "{name}");
        }
    }
}
