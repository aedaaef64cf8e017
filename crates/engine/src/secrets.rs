//! Secret values of a task's environment: read at the last moment, given to its process and to nobody else.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;

use crate::{Secret, SecretSource};

/// Whether an environment variable sets up the server, under its own name or that of an old Chronos, and may hold a
/// password of its: no task gets it. Those named `CHRONOS_SECRET_...` are for tasks that ask for them.
pub fn is_setting(name: &[u8]) -> bool {
    name.starts_with(b"MESOSPHERE_") || name.starts_with(b"CHRONOS_") && !name.starts_with(b"CHRONOS_SECRET_")
}

/// Whether a program that the server starts is to find a variable without asking for it.
pub(crate) fn is_for_all(name: &[u8]) -> bool {
    !name.starts_with(b"CHRONOS_") && !is_setting(name)
}

/// Longest value: a key or a certificate with its chain; not much more fits into an environment.
const VALUE_MAX: u64 = 64 * 1024;

/// The values, by their names.
/// # Errors
/// With the variable and its source, never with a value.
pub(crate) fn resolve(secrets: &[Secret]) -> Result<Vec<(String, OsString)>, String> {
    let resolved = secrets.iter().map(|secret| {
        let (place, value) = match &secret.source {
            SecretSource::File(path) => {
                (format!("file `{path}`"), read(path).map_err(|error| error.to_string()))
            }
            SecretSource::Env(variable) => {
                let value = std::env::var_os(variable).map(OsString::into_vec);
                (
                    format!("variable `{variable}`"),
                    value.ok_or("it is not set where the server was started".into()),
                )
            }
        };
        let value = value.and_then(|value| match value.contains(&0) {
            true => Err("it contains a NUL, which no variable can".into()),
            false => Ok(OsString::from_vec(value)),
        });
        let failed = |why: String| format!("the value of `{}` cannot be had: {place}: {why}", secret.name);
        Ok((secret.name.clone(), value.map_err(failed)?))
    });
    resolved.collect()
}

/// Those of the values that can be had here, to keep them out of what people are sent.
pub fn values(secrets: &[Secret]) -> Vec<String> {
    let known = secrets.iter().filter_map(|secret| resolve(std::slice::from_ref(secret)).ok()).flatten();
    known.map(|(_, value)| value.to_string_lossy().into_owned()).collect()
}

/// Without the newline at its end, which editors add and nobody means.
fn read(path: &str) -> io::Result<Vec<u8>> {
    // Not to wait for ever for who would write to a pipe.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut value = Vec::new();
    file.take(VALUE_MAX + 1).read_to_end(&mut value)?;
    if value.len() as u64 > VALUE_MAX {
        return Err(io::Error::other(format!("it has more than {} KiB", VALUE_MAX >> 10)));
    }
    if value.last() == Some(&b'\n') {
        value.pop();
        if value.last() == Some(&b'\r') {
            value.pop();
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(source: SecretSource) -> Vec<Secret> {
        vec![Secret { name: "PASSWORD".into(), source }]
    }

    #[test]
    fn a_file_is_read_without_its_last_newline() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret").to_string_lossy().into_owned();
        for (content, expected) in [("a\n", "a"), ("a\r\n", "a"), ("a\nb\n\n", "a\nb\n"), ("", "")] {
            std::fs::write(&path, content).expect("written");
            let values = resolve(&secret(SecretSource::File(path.clone())));
            assert_eq!(values, Ok(vec![("PASSWORD".to_owned(), expected.into())]));
        }
    }

    #[test]
    fn what_cannot_be_had_is_named_and_never_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret").to_string_lossy().into_owned();
        let check = |content: Vec<u8>, why: &str| {
            std::fs::write(&path, content).expect("written");
            let error = resolve(&secret(SecretSource::File(path.clone()))).expect_err("refused");
            assert!(error.contains("`PASSWORD`") && error.contains(&path) && error.contains(why), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        };
        check(vec![b'x'; 64 * 1024 + 1], "more than 64 KiB");
        check(b"hunter2\0".to_vec(), "NUL");
        let error = resolve(&secret(SecretSource::Env("CHRONOS_SECRET_NONE".into()))).expect_err("refused");
        assert!(error.contains("`CHRONOS_SECRET_NONE`: it is not set"), "{error}");
        let folder = folder.path().to_string_lossy().into_owned();
        let error = resolve(&secret(SecretSource::File(folder))).expect_err("refused");
        assert!(error.contains("not a file"), "{error}");
    }
}
