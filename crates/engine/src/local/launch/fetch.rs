//! Files that are fetched into a task's working directory before its command begins.
//!
//! `http://`, `https://`, `file://` and plain paths. Private and loopback addresses are allowed: whoever may write a job
//! may run any command here, `curl` included. `cache` means nothing here: what is fetched belongs to one attempt.

use std::error::Error as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::unpack;
use crate::addresses::without_passwords;
use crate::local::formats::Fetch;

/// Most bytes of one file: images of virtual machines are not what this is for.
const BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// How long a server may say nothing. The whole is bounded by the task's `maxCompletionTime`.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Most redirects that are followed, as in browsers.
const REDIRECTS_MAX: usize = 10;
/// How often a server that is in trouble is asked, and how long to wait before the second time; doubled each time.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Why a file could not be fetched.
enum Trouble {
    /// Another try may do.
    Passing(String),
    Lasting(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Lasting(error.to_string())
    }
}

/// Fetches all of them, in order, into the working directory, and tells on stderr.
pub(super) fn all(fetches: &[Fetch]) -> Result<(), String> {
    fetches.iter().try_for_each(|fetch| {
        let shown = shown(&fetch.uri);
        one(fetch, &shown).map_err(|reason| format!("cannot fetch {shown}: {reason}"))
    })
}

fn one(fetch: &Fetch, shown: &str) -> Result<(), String> {
    let target = target(fetch)?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    }
    let bytes = match local_path(&fetch.uri)? {
        Some(path) => copy(&path, &target).map_err(|error| error.to_string())?,
        None => download(&fetch.uri, &target, shown)?,
    };
    let _ = writeln!(io::stderr(), "chronos: fetched {shown} ({bytes} bytes)");
    if fetch.executable {
        return fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
            .map_err(|error| error.to_string());
    }
    if fetch.extract {
        unpack::unpack(&target).map_err(|error| format!("unpacking it: {error}"))?;
    }
    Ok(())
}

/// Where the file goes: a path below the working directory, which the door has checked and which is checked again.
fn target(fetch: &Fetch) -> Result<PathBuf, String> {
    let name = match &fetch.output_file {
        Some(name) => name.clone(),
        None => {
            let path = fetch.uri.split(['?', '#']).next().unwrap_or_default();
            let after = path.split_once("://").map_or(path, |(_, rest)| rest);
            after.rsplit('/').next().unwrap_or_default().to_owned()
        }
    };
    let path = PathBuf::from(&name);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if name.is_empty() || !inside {
        return Err(format!("`{name}` is no name for a file in the working directory; give `output_file`"));
    }
    Ok(path)
}

/// The path that a URI means, if it means one of this machine.
fn local_path(uri: &str) -> Result<Option<PathBuf>, String> {
    let path = match uri.split_once("://") {
        Some(("file", path)) => path.strip_prefix("localhost").unwrap_or(path),
        Some(("http" | "https", _)) => return Ok(None),
        Some((scheme, _)) => return Err(format!("`{scheme}` is not fetched here; http, https and file are")),
        None => uri,
    };
    if path.starts_with('/') { Ok(Some(path.into())) } else { Err("the path must begin with `/`".into()) }
}

fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    // Not to wait for ever for who would write to a pipe.
    let from = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(from)?;
    if !from.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if from.metadata()?.len() > BYTES_MAX {
        return Err(io::Error::other(too_large()));
    }
    io::copy(&mut &from, &mut create(to)?)
}

fn create(path: &Path) -> io::Result<File> {
    // Not through a link that an archive before it has put there.
    let _ = fs::remove_file(path);
    OpenOptions::new().write(true).create_new(true).open(path)
}

fn too_large() -> String {
    format!("it is larger than {} GiB", BYTES_MAX >> 30)
}

fn download(uri: &str, target: &Path, shown: &str) -> Result<u64, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let client = client().map_err(|error| described(&error))?;
        let mut pause = PAUSE;
        for again in (0..TRIES).rev() {
            match get(&client, uri, target).await {
                Ok(bytes) => return Ok(bytes),
                Err(Trouble::Passing(reason)) if again > 0 => {
                    let _ = writeln!(io::stderr(), "chronos: {shown}: {reason}; trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(Trouble::Passing(reason)) => return Err(format!("{reason}, {TRIES} times")),
                Err(Trouble::Lasting(reason)) => return Err(reason),
            }
        }
        Err("it was not tried".into())
    })
}

fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(crate::tls::of_this_machine())
        .user_agent(concat!("chronos/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX))
        .connect_timeout(SILENCE_MAX)
        .read_timeout(SILENCE_MAX)
        .build()
}

async fn get(client: &reqwest::Client, uri: &str, target: &Path) -> Result<u64, Trouble> {
    let sent = client.get(uri).send().await;
    let mut response = sent.map_err(|error| {
        let reason = described(&error);
        if error.is_builder() || error.is_redirect() {
            Trouble::Lasting(reason)
        } else {
            Trouble::Passing(reason)
        }
    })?;
    let status = response.status();
    if status.is_server_error() || status == reqwest::StatusCode::TOO_MANY_REQUESTS {
        return Err(Trouble::Passing(format!("the server answered {status}")));
    }
    if !status.is_success() {
        return Err(Trouble::Lasting(format!("the server answered {status}")));
    }
    let announced = response.content_length();
    let mut file = create(target)?;
    let mut bytes = 0;
    while let Some(chunk) = response.chunk().await.map_err(|error| Trouble::Passing(described(&error)))? {
        bytes += chunk.len() as u64;
        if bytes > BYTES_MAX {
            return Err(Trouble::Lasting(too_large()));
        }
        file.write_all(&chunk)?;
    }
    match announced {
        Some(announced) if announced != bytes => {
            Err(Trouble::Passing(format!("{bytes} of {announced} bytes came")))
        }
        _ => Ok(bytes),
    }
}

/// The innermost cause, which says most, and no URI, which may bear a password.
fn described(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if error.source().is_some() { cause.to_string() } else { "the connection failed".into() }
}

/// The URI without what may be secret in it: the password, and what is asked for after `?`.
fn shown(uri: &str) -> String {
    let (uri, query) = uri.split_once('?').map_or((uri, ""), |(uri, _)| (uri, "?***"));
    without_passwords(uri) + query
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(uri: &str, output_file: Option<&str>) -> Fetch {
        Fetch { uri: uri.into(), executable: false, extract: false, output_file: output_file.map(Into::into) }
    }

    #[test]
    fn a_file_goes_where_its_name_says_and_nowhere_else() {
        let check = |uri, name, expected: &str| {
            assert_eq!(target(&fetch(uri, name)), Ok(PathBuf::from(expected)), "{uri} {name:?}");
        };
        check("http://h/a/b.tgz?x=/y#z", None, "b.tgz");
        check("/opt/tool", None, "tool");
        check("http://h/", Some("sub/index.html"), "sub/index.html");
        for (uri, name) in
            [("http://h/", None), ("http://h/..", None), ("/a", Some("../a")), ("/a", Some("/etc/a"))]
        {
            assert!(target(&fetch(uri, name)).is_err(), "{uri} {name:?}");
        }
    }

    #[test]
    fn what_may_be_secret_in_a_uri_is_not_shown() {
        assert_eq!(shown("https://me:pa@ss@h:1/f?token=1"), "https://me:***@h:1/f?***");
        assert_eq!(shown("http://h/a@b"), "http://h/a@b");
        assert_eq!(shown("/opt/a"), "/opt/a");
    }

    #[test]
    fn schemes_that_are_not_known_are_told() {
        assert_eq!(local_path("file:///a"), Ok(Some("/a".into())));
        assert_eq!(local_path("file://localhost/a"), Ok(Some("/a".into())));
        assert!(local_path("hdfs://h/a").is_err_and(|reason| reason.contains("`hdfs`")));
        assert!(local_path("a/b").is_err());
    }
}
