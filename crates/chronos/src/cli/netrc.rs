//! `~/.netrc`, where other clients look for names and passwords too: `machine HOST login NAME password PASSWORD`.
//! The variable `NETRC` names another file. Source: the manual of curl, <https://everything.curl.dev/usingcurl/netrc.html>.

use std::path::PathBuf;

use super::failure::{Exit, Failure};
use crate::notify::settings::Secret;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: Secret,
}

/// What the file says of this host, and of this user if one is named. A file that is not there says nothing.
pub(super) fn login(host: &str, user: Option<&str>) -> Result<Option<Login>, Failure> {
    // There an IPv6 address stands without brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".netrc"));
    let named = std::env::var_os("NETRC").filter(|path| !path.is_empty()).map(PathBuf::from);
    let Some(path) = named.or_else(home) else { return Ok(None) };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(find(&text, host, user)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(Failure::new(Exit::Failed, error).context(format!("cannot read `{}`", path.display())))
        }
    }
}

fn find(text: &str, host: &str, user: Option<&str>) -> Option<Login> {
    let mut found: Option<Login> = None;
    // Whether what is being read is about us.
    let mut ours = false;
    let (mut login, mut password) = (None, None);
    let mut words = words(text).into_iter();
    let mut take = |ours: bool, login: &mut Option<String>, password: &mut Option<String>| {
        let (login, password) = (login.take(), password.take());
        let Some(password) = password.filter(|_| ours && found.is_none()) else { return };
        let named = login.unwrap_or_default();
        if user.is_none_or(|user| user == named) {
            found = Some(Login { user: named, password: Secret(password) });
        }
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" => {
                take(ours, &mut login, &mut password);
                ours = words.next().is_some_and(|name| name.eq_ignore_ascii_case(host));
            }
            "default" => {
                take(ours, &mut login, &mut password);
                ours = true;
            }
            "login" => login = words.next(),
            "password" => password = words.next(),
            // Neither means anything to us.
            "account" => drop(words.next()),
            _ => {}
        }
    }
    take(ours, &mut login, &mut password);
    found
}

/// The words of the file: quotes hold blanks, `#` at the beginning of a word begins a comment, a macro goes on until an
/// empty line.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        let mut rest = line.trim_start();
        while !rest.is_empty() && !rest.starts_with('#') {
            let (word, after) = match rest.strip_prefix('"') {
                Some(quoted) => in_quotes(quoted),
                None => {
                    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                    (rest[..end].to_owned(), &rest[end..])
                }
            };
            in_macro |= word == "macdef";
            words.push(word);
            rest = after.trim_start();
        }
    }
    words
}

/// Up to the closing quote; a backslash keeps the next character.
fn in_quotes(text: &str) -> (String, &str) {
    let mut word = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (word, &text[at + 1..]),
            '\\' => word.extend(chars.next().map(|(_, c)| c)),
            c => word.push(c),
        }
    }
    (word, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, host: &str, user: Option<&str>, login: Option<(&str, &str)>) {
        let found = find(text, host, user);
        assert_eq!(
            found.as_ref().map(|found| (found.user.as_str(), found.password.0.as_str())),
            login,
            "{text}"
        );
    }

    #[test]
    fn the_line_of_the_host_is_found() {
        let text = "# mine\nmachine a login x password 1\nmachine B\n\tlogin y\n\tpassword \"2 \\\" 3\"\n\
                    machine b login z password 4\ndefault login w password 5";
        check(text, "a", None, Some(("x", "1")));
        check(text, "b", None, Some(("y", "2 \" 3")));
        check(text, "b", Some("z"), Some(("z", "4")));
        check(text, "c", None, Some(("w", "5")));
        check(text, "c", Some("q"), None);
        check("machine a login x", "a", None, None);
        check(
            "machine a macdef init\npassword 9\n\nmachine a login x password 1",
            "a",
            None,
            Some(("x", "1")),
        );
        for odd in ["machine", "machine a login", "\"", "password 1", "machine a password", "\\"] {
            check(odd, "a", None, None);
        }
    }
}
