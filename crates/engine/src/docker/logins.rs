//! Logins of registries, from files in the form in which `docker login` keeps them, and from the helpers that they name.
//!
//! Read anew for every image that is fetched, so that a new password is seen at once.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

mod helper;

/// Most bytes of such a file.
const BYTES_MAX: u64 = 1024 * 1024;
/// The registry of images that name none, as these files call it, and what else it is called.
const HUB: &str = "index.docker.io";
const HUB_TOO: [&str; 2] = ["docker.io", "registry-1.docker.io"];
/// What helpers call it.
const HUB_ADDRESS: &str = "https://index.docker.io/v1/";

/// Where logins may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) whose: Whose,
}

/// Who has written a file of logins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// A job brought it along: it may not say which programs the server runs.
    Job,
    /// Whoever set up the server.
    Server,
}

/// By what a registry knows us.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Login {
    pub(super) registry: String,
    pub(super) user: String,
    pub(super) password: String,
    /// In place of the password, where there has been a login that gave one.
    pub(super) token: Option<String>,
}

/// Without what is secret of it.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("registry", &self.registry)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What there is for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Login(Login),
    /// None, and why that may be a mistake; what to say should the registry want one.
    None(String),
}

/// `config.json` of Docker.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: Option<String>,
}

/// The login for the registry of this image: the first that one of these files has. Helpers are looked for in the folders
/// of `path`. Blocks for as long as a helper takes.
pub(super) fn find(image: &str, sources: &[Source], path: &OsStr) -> Found {
    let registry = registry_of(image);
    let mut problem = None;
    for source in sources {
        match login_in(source, registry, path) {
            Ok(Some(login)) => return Found::Login(login),
            Ok(None) => {}
            Err(reason) => drop(problem.get_or_insert(reason)),
        }
    }
    Found::None(problem.unwrap_or_else(|| format!("there is no login for `{registry}`")))
}

/// The registry that an image is fetched from, by the rules of `docker pull`.
fn registry_of(image: &str) -> &str {
    let first = image.split_once('/').map(|(first, _)| first);
    let named = first.filter(|first| first.contains(['.', ':']) || *first == "localhost");
    named.filter(|named| !HUB_TOO.contains(named)).unwrap_or(HUB)
}

/// What a key of such a file means: a name, or as it used to be an address.
fn registry_in(key: &str) -> &str {
    let name = key.split_once("://").map_or(key, |(_, rest)| rest);
    let name = name.split('/').next().unwrap_or_default();
    if HUB_TOO.contains(&name) { HUB } else { name }
}

fn login_in(source: &Source, registry: &str, path: &OsStr) -> Result<Option<Login>, String> {
    let shown = source.file.display();
    let text = match read(&source.file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("logins in `{shown}`: {error}")),
    };
    // Errors of this reader show no text of the file.
    let config = parse(&text).map_err(|error| {
        format!("logins in `{shown}`: not what `docker login` writes (line {})", error.line())
    })?;
    let entry =
        config.auths.into_iter().find(|(key, _)| registry_in(key) == registry).map(|(_, entry)| entry);
    let helper = config.cred_helpers.iter().find(|(key, _)| registry_in(key) == registry);
    let helper = helper.map(|(_, helper)| helper).or(config.creds_store.as_ref());
    let helper = helper.filter(|helper| !helper.is_empty());
    match entry.filter(|entry| !entry.is_empty()) {
        Some(entry) => entry.login(registry).map(Some).ok_or_else(|| {
            format!("logins in `{shown}`: `auth` of `{registry}` is not a name and a password in base64")
        }),
        None => match (helper, source.whose) {
            (Some(helper), Whose::Server) => helper::ask(helper, registry, path).map_err(|problem| {
                format!("logins in `{shown}` are kept by `docker-credential-{helper}`: {problem}")
            }),
            (Some(helper), Whose::Job) => Err(format!(
                "logins in `{shown}` are kept by `docker-credential-{helper}`, which is not asked for a file that a job \
                 brings along: write one with `auths`"
            )),
            (None, _) => Ok(None),
        },
    }
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(file)?.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The present form, or that of `.dockercfg`, which has nothing but what is in `auths`.
fn parse(text: &str) -> serde_json::Result<Config> {
    let value: serde_json::Value = serde_json::from_str(text)?;
    let new = ["auths", "credHelpers", "credsStore"].iter().any(|key| value.get(key).is_some());
    if new {
        serde_json::from_value(value)
    } else {
        // What else may be in a file of today is no login.
        let auths = serde_json::from_value(value).unwrap_or_default();
        Ok(Config { auths, ..Config::default() })
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.auth.is_empty() && self.username.is_empty() && self.identitytoken.is_none()
    }

    fn login(self, registry: &str) -> Option<Login> {
        let (user, password) = match self.auth.is_empty() {
            true => (self.username, self.password),
            false => {
                let text = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
                let (user, password) = text.split_once(':')?;
                // Some have written it with an end of its own.
                (user.to_owned(), password.trim_end_matches('\0').to_owned())
            }
        };
        let token = self.identitytoken.filter(|token| !token.is_empty());
        Some(Login { registry: registry.to_owned(), user, password, token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_its_registry() {
        for (image, registry) in [
            ("debian:12", HUB),
            ("library/debian", HUB),
            ("docker.io/library/debian", HUB),
            ("registry.example.org/a/b:1", "registry.example.org"),
            ("localhost/a", "localhost"),
            ("10.0.0.1:5000/a@sha256:00", "10.0.0.1:5000"),
        ] {
            assert_eq!(registry_of(image), registry, "{image}");
        }
    }

    #[test]
    fn logins_are_found_as_docker_finds_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let written = |name: &str, text: &str| {
            let file = folder.path().join(name);
            fs::write(&file, text).expect("written");
            file
        };
        // ops:pass:word, with and without the end that some have written.
        let new = written(
            "config.json",
            r#"{"auths": {"r.example:5000": {"auth": "b3BzOnBhc3M6d29yZA=="}, "https://index.docker.io/v1/":
                {"username": "me", "password": "p"}, "t.example": {"auth": "b3BzOg==", "identitytoken": "t"},
                "bad.example": {"auth": "?"}, "kept.example": {}}, "credHelpers": {"kept.example": "pass"}}"#,
        );
        let old =
            written(".dockercfg", r#"{"https://old.example/v1/": {"auth": "b3BzOnAAAA==", "email": "a@b"}}"#);
        let broken = written("broken.json", r#"{"auths": {"r.example": {"auth": "c2VjcmV0"#);
        let other = written("other.json", r#"{"detachKeys": "ctrl-e,e"}"#);
        let of = |file: PathBuf| Source { file, whose: Whose::Job };
        let files = [folder.path().join("none"), other, broken, new, old].map(of);
        let find = |image: &str, files: &[Source]| super::find(image, files, OsStr::new(""));
        let login = |image: &str| match find(image, &files) {
            Found::Login(Login { registry, user, password, token }) => {
                [registry, user, password, token.unwrap_or_default()].join(" ")
            }
            Found::None(why) => why,
        };
        assert_eq!(login("r.example:5000/a"), "r.example:5000 ops pass:word ");
        assert_eq!(login("debian"), "index.docker.io me p ");
        assert_eq!(login("t.example/a"), "t.example ops  t");
        assert_eq!(login("old.example/a:1"), "old.example ops p ");
        let none = |image: &str, files: &[Source]| match find(image, files) {
            Found::None(why) => why,
            Found::Login(login) => format!("{login:?}"),
        };
        assert!(none("none.example/a", &files[3..]).contains("no login for `none.example`"));
        assert!(none("none.example/a", &files).contains("broken.json"));
        assert!(none("bad.example/a", &files[3..]).contains("not a name and a password"));
        assert!(none("kept.example/a", &files[3..]).contains("docker-credential-pass"));
    }

    /// A helper that tells its arguments, what it reads and what it sees of our environment in what it answers.
    const HELPER: &str = r#"#!/bin/sh
read -r address
case "$address" in
  https://index.docker.io/v1/) echo '{"ServerURL": "x", "Username": "hub", "Secret": "p"}' ;;
  token.example) echo '{"Username": "<token>", "Secret": "t"}' ;;
  told.example) printf '{"Username": "%s", "Secret": "%s"}' "$1" "$address" ;;
  none.example) echo 'credentials not found in native keychain'; exit 1 ;;
  locked.example) echo 'the keychain is locked'; exit 1 ;;
  odd.example) echo hunter2 ;;
  endless.example) sleep 600 ;;
  flood.example) yes ;;
esac
"#;

    #[test]
    fn helpers_are_asked_for_the_server_alone_and_keep_nobody_waiting() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("docker-credential-test");
        fs::write(&program, HELPER).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let file = folder.path().join("config.json");
        fs::write(
            &file,
            r#"{"auths": {"https://index.docker.io/v1/": {}, "plain.example": {"username": "me", "password": "p"}},
                "credsStore": "test", "credHelpers": {"gone.example": "gone", "sly.example": "../test"}}"#,
        )
        .expect("written");
        let path = std::env::join_paths([Path::new("/nonexistent"), folder.path()]).expect("a search path");
        let ask = |image: &str, whose| match find(image, &[Source { file: file.clone(), whose }], &path) {
            Found::Login(Login { registry, user, password, token }) => {
                [registry, user, password, token.unwrap_or_default()].join(" ")
            }
            Found::None(why) => why,
        };
        let asked = |image: &str| ask(image, Whose::Server);
        assert_eq!(asked("debian"), "index.docker.io hub p ");
        assert_eq!(asked("token.example/a"), "token.example   t");
        assert_eq!(asked("told.example/a"), "told.example get told.example ");
        assert_eq!(asked("plain.example/a"), "plain.example me p ");
        assert_eq!(asked("none.example/a"), "there is no login for `none.example`");
        for (image, why) in [
            ("locked.example/a", "the keychain is locked"),
            ("odd.example/a", "not what such helpers answer"),
            ("gone.example/a", "there is no such program"),
            ("sly.example/a", "not the name of a helper"),
            ("flood.example/a", "more than"),
            ("endless.example/a", "no answer within"),
        ] {
            let told = asked(image);
            assert!(told.contains(why) && !told.contains("hunter2"), "{image}: {told}");
        }
        let told = ask("told.example/a", Whose::Job);
        assert!(told.contains("not asked for a file that a job"), "{told}");
    }
}
