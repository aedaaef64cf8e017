//! A server that only works out what it would have launched: `chronos server --shadow`, and how its data are told from
//! those of a server that runs tasks.

use std::path::Path;

use clap::Subcommand;

use super::failure::{Exit, Failure};
use super::moving::compare;
use crate::config::Config;

/// What there is to do with a shadow.
#[derive(Debug, Subcommand)]
pub(super) enum Shadow {
    /// Compare what a shadow recorded with what an old Chronos tells of its runs
    #[command(after_help = compare::HELP)]
    Compare(compare::CompareArgs),
}

/// Whether tasks are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// They are.
    Real,
    /// They are not.
    Shadow,
}

impl Kind {
    /// What the settings make of it.
    pub(super) fn of(config: &Config) -> Self {
        if config.shadow { Self::Shadow } else { Self::Real }
    }

    /// The name of a node, by which every attempt in the history shows who made it.
    pub(super) fn node(self, id: String) -> String {
        match self {
            Self::Real => id,
            Self::Shadow => format!("shadow-{id}"),
        }
    }
}

/// Lies in the data folder of a shadow.
const MARK: &str = "shadow";
const MARK_TEXT: &str = "The history in this folder is that of a shadow: nothing in it was ever run.\n";

/// Sees to it that the history of a shadow and that of a server that runs tasks never mix.
pub(super) fn claim(data_dir: &Path, kind: Kind) -> Result<(), Failure> {
    let mark = data_dir.join(MARK);
    let refused = |what: &str, hint: &str| {
        let message = format!("the data folder `{}` {what}", data_dir.display());
        Err(Failure::new(Exit::Data, anyhow::anyhow!(message)).hint(hint.to_owned()))
    };
    match (kind, mark.exists(), data_dir.join("chronos.db").exists()) {
        (Kind::Real, true, _) => refused(
            "is that of a shadow: its history tells of runs that never were",
            "choose another folder with --data_dir and import the jobs into it, or go on with --shadow",
        ),
        (Kind::Shadow, false, true) => refused(
            "is that of a server that runs tasks",
            "choose another folder for the shadow with --data_dir",
        ),
        (Kind::Shadow, false, false) => std::fs::create_dir_all(data_dir)
            .and_then(|()| std::fs::write(&mark, MARK_TEXT))
            .map_err(|e| Failure::new(Exit::Data, e).context(format!("cannot write `{}`", mark.display()))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_a_shadows_or_it_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (shadow, real) = (folder.path().join("shadow"), folder.path().join("real"));
        assert!(claim(&real, Kind::Real).is_ok() && !real.exists());
        assert!(claim(&shadow, Kind::Shadow).is_ok() && claim(&shadow, Kind::Shadow).is_ok());
        assert!(claim(&shadow, Kind::Real).is_err());
        std::fs::create_dir(&real)
            .and_then(|()| std::fs::write(real.join("chronos.db"), ""))
            .expect("writable");
        assert!(claim(&real, Kind::Shadow).is_err_and(|failure| failure.exit == Exit::Data));
    }
}
