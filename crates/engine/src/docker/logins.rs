//! Logins of registries, from files in the form in which `docker login` keeps them.
//!
//! Read anew for every image that is fetched, so that a new password is seen at once.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Most bytes of such a file.
const BYTES_MAX: u64 = 1024 * 1024;
/// The registry of images that name none, as these files call it, and what else it is called.
const HUB: &str = "index.docker.io";
const HUB_TOO: [&str; 2] = ["docker.io", "registry-1.docker.io"];

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

/// The login for the registry of this image: the first that one of these files has.
pub(super) fn find(image: &str, files: &[PathBuf]) -> Found {
    let registry = registry_of(image);
    let mut problem = None;
    for file in files {
        match login_in(file, registry) {
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

fn login_in(file: &Path, registry: &str) -> Result<Option<Login>, String> {
    let shown = file.display();
    let text = match read(file) {
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
    let helper = config.cred_helpers.get(registry).or(config.creds_store.as_ref());
    match entry.filter(|entry| !entry.is_empty()) {
        Some(entry) => entry.login(registry).map(Some).ok_or_else(|| {
            format!("logins in `{shown}`: `auth` of `{registry}` is not a name and a password in base64")
        }),
        None => match helper {
            Some(helper) => Err(format!(
                "logins in `{shown}` are kept by `docker-credential-{helper}`, which is not asked here: write a file \
                 with `auths`"
            )),
            None => Ok(None),
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
        let files = [folder.path().join("none"), other, broken, new, old];
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
        let none = |image: &str, files: &[PathBuf]| match find(image, files) {
            Found::None(why) => why,
            Found::Login(login) => format!("{login:?}"),
        };
        assert!(none("none.example/a", &files[3..]).contains("no login for `none.example`"));
        assert!(none("none.example/a", &files).contains("broken.json"));
        assert!(none("bad.example/a", &files[3..]).contains("not a name and a password"));
        assert!(none("kept.example/a", &files[3..]).contains("docker-credential-pass"));
    }
}
