//! `chronos completions`: a script that completes the command line, for the shell of the user.

use clap::Args;
use clap_complete::Shell;

use super::failure::Failure;

pub(super) const HELP: &str = "\
Installation:
  bash        chronos completions bash > ~/.local/share/bash-completion/completions/chronos
  zsh         chronos completions zsh > ~/.zfunc/_chronos    (a folder named in $fpath)
  fish        chronos completions fish > ~/.config/fish/completions/chronos.fish
  elvish      chronos completions elvish > ~/.config/elvish/lib/chronos.elv
  powershell  chronos completions powershell >> $PROFILE

For this session only, in bash:
  source <(chronos completions bash)";

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, mut command: clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "chronos", &mut script);
    Ok(super::out(&script)?)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    /// A script that names no commands would complete nothing.
    #[test]
    fn every_shell_is_told_of_every_command() {
        let mut command = crate::cli::command();
        let names: Vec<String> =
            command.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name().into()).collect();
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut command, "chronos", &mut script);
            let script = String::from_utf8_lossy(&script);
            for name in &names {
                assert!(script.contains(name.as_str()), "{shell}: {name}");
            }
        }
    }
}
