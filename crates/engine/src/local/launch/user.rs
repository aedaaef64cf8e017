//! Becoming another user.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use nix::unistd::{Gid, Uid, User, getgrouplist, setgid, setgroups, setuid};

/// The mode of new files of the task: what a login gives.
const UMASK: u32 = 0o022;

/// The variables that a login sets.
pub(crate) const LOGIN: [&str; 4] = ["HOME", "SHELL", "USER", "LOGNAME"];

/// Whether a task has to become another user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// It runs as who we are.
    Stay,
    /// It becomes this user first.
    Become(String),
}

/// What `runAsUser` asks of us. `root` says nothing: every job that Chronos exported has it, and its server was root.
/// # Errors
/// With a reason if we may not do so.
pub(crate) fn choose(wanted: &str) -> Result<Choice, String> {
    let own = Uid::effective();
    if wanted.is_empty() || wanted == "root" {
        return Ok(Choice::Stay);
    }
    if own.is_root() {
        return Ok(Choice::Become(wanted.to_owned()));
    }
    let name = User::from_uid(own).ok().flatten().map_or_else(|| own.to_string(), |user| user.name);
    if wanted == name {
        return Ok(Choice::Stay);
    }
    Err(format!(
        "it cannot run as user `{wanted}`: the server runs as `{name}`, and only root may become another user"
    ))
}

/// Why a task that wants to be this user fails on this machine, if it does.
pub fn refusal(wanted: &str) -> Option<String> {
    match choose(wanted) {
        Ok(Choice::Stay) => None,
        Ok(Choice::Become(name)) => match User::from_name(&name) {
            Ok(None) => Some(format!("there is no user `{name}` on this machine")),
            // Who cannot be looked up now may be there when it matters.
            Ok(Some(_)) | Err(_) => None,
        },
        Err(why) => Some(why),
    }
}

/// Gives the working directory to the user and becomes it, with its groups. Returns the variables of a login.
pub(super) fn become_user(name: &str) -> Result<Vec<(&'static str, std::ffi::OsString)>, String> {
    let failed = |what: &str, error: nix::Error| format!("it cannot run as user `{name}`: {what}: {error}");
    let user = User::from_name(name)
        .map_err(|error| failed("looking it up", error))?
        .ok_or_else(|| format!("it cannot run as user `{name}`: there is no such user on this machine"))?;
    let enter = chown(".", Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        // Programs ask for the whole path of where they are; to go through is not to look inside.
        .and_then(|()| fs::set_permissions(Path::new(".."), fs::Permissions::from_mode(0o711)));
    enter.map_err(|error| format!("it cannot run as user `{name}`: its working directory: {error}"))?;
    let text = std::ffi::CString::new(name).map_err(|_| format!("`{name}` is no name of a user"))?;
    let groups: Vec<Gid> = getgrouplist(&text, user.gid).map_err(|error| failed("its groups", error))?;
    setgroups(&groups).map_err(|error| failed("its groups", error))?;
    setgid(user.gid).map_err(|error| failed("its group", error))?;
    setuid(user.uid).map_err(|error| failed("becoming it", error))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(UMASK));
    let values = [user.dir.into_os_string(), user.shell.into_os_string(), name.into(), name.into()];
    Ok(LOGIN.into_iter().zip(values).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_that_every_exported_job_has_means_none() {
        assert_eq!(choose(""), Ok(Choice::Stay));
        assert_eq!(choose("root"), Ok(Choice::Stay));
    }

    #[test]
    fn a_user_that_is_not_there_is_told_before() {
        assert_eq!(refusal("root"), None);
        assert!(refusal("nobody-at-all").is_some_and(|why| why.contains("`nobody-at-all`")));
    }

    #[test]
    fn another_user_is_for_root_alone() {
        match (Uid::effective().is_root(), choose("nobody-at-all")) {
            (true, choice) => assert_eq!(choice, Ok(Choice::Become("nobody-at-all".into()))),
            (false, choice) => assert!(choice.is_err_and(|reason| reason.contains("only root"))),
        }
    }
}
