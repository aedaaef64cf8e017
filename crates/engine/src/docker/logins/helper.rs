//! `docker-credential-NAME`: a program that keeps logins elsewhere than in a file, in a keychain or behind a cloud's API.
//!
//! # Source
//! The protocol of docker-credential-helpers: `get`, the address on stdin, JSON or a sentence on stdout.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;

use super::{HUB, HUB_ADDRESS, Login};
use crate::secrets::is_for_all;

/// How long a helper may take: those of clouds ask a server. Tests do not wait for so long.
const PATIENCE: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(20) };
/// Longest answer: tokens of clouds have some kilobytes.
const ANSWER_MAX: u64 = 64 * 1024;
/// As much is told of what a helper complains about.
const COMPLAINT_MAX: usize = 200;
/// What helpers say where they know no login.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// In place of a name where the secret is a token.
const TOKEN: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a helper for the login of a registry. `None`: it has none.
/// # Errors
/// Why it did not answer, in words without a secret.
pub(super) fn ask(helper: &str, registry: &str, path: &OsStr) -> Result<Option<Login>, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !helper.chars().all(plain) {
        return Err("that is not the name of a helper".into());
    }
    let program = found(helper, path).ok_or_else(|| {
        "there is no such program in the PATH of the server: install it, or write a file with `auths`"
            .to_owned()
    })?;
    let address = if registry == HUB { HUB_ADDRESS } else { registry };
    let (worked, answer) = run(&program, address)?;
    if !worked {
        let said = String::from_utf8_lossy(&answer);
        let said = said.trim();
        if said == NOT_FOUND {
            return Ok(None);
        }
        let clipped: String = said.lines().next().unwrap_or_default().chars().take(COMPLAINT_MAX).collect();
        return Err(if clipped.is_empty() { "it failed and says nothing".into() } else { clipped });
    }
    // Not even the error: it may show a piece of the secret.
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| "its answer is not what such helpers answer".to_owned())?;
    let registry = registry.to_owned();
    Ok(Some(match answer.username == TOKEN {
        true => Login { registry, user: String::new(), password: String::new(), token: Some(answer.secret) },
        false => Login { registry, user: answer.username, password: answer.secret, token: None },
    }))
}

fn found(helper: &str, path: &OsStr) -> Option<PathBuf> {
    let is_program = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let name = format!("docker-credential-{helper}");
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(&name))
        .find(is_program)
}

/// Whether it worked, and what it said. It is gone afterwards, with all that it began.
fn run(program: &Path, address: &str) -> Result<(bool, Vec<u8>), String> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    // It needs what its user has, such as HOME, and nothing of what sets up the server.
    for (name, _) in std::env::vars_os() {
        if !is_for_all(name.as_encoded_bytes()) {
            command.env_remove(name);
        }
    }
    let mut child = command.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
    let answer = said(&mut child, address);
    // Also where it has ended: what it left behind would go on holding its output.
    if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let ended = child.wait().map_err(|error| error.to_string())?;
    answer.map(|said| (ended.success(), said))
}

/// All that it says, until it ends.
fn said(child: &mut Child, address: &str) -> Result<Vec<u8>, String> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("it has no input or output".into());
    };
    let (told, heard) = mpsc::channel();
    // Ends with the program, which is killed.
    thread::spawn(move || {
        let mut said = Vec::new();
        let read = stdout.take(ANSWER_MAX + 1).read_to_end(&mut said);
        let _ = told.send(read.map(|_| said));
    });
    // One that does not read its input answers all the same.
    let _ = stdin.write_all(address.as_bytes());
    drop(stdin);
    let said = heard
        .recv_timeout(PATIENCE)
        .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
        .map_err(|error| format!("its answer cannot be read: {error}"))?;
    if said.len() as u64 > ANSWER_MAX {
        return Err(format!("its answer has more than {ANSWER_MAX} bytes"));
    }
    Ok(said)
}
