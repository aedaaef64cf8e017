//! Which crontabs there are below a folder, and the zone that this machine's cron runs in.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::lines::Form;

/// Largest crontab: a thousand times the largest anyone keeps by hand.
const FILE_MAX: u64 = 16 * 1024 * 1024;
/// Most lines: ten times what cron on Debian reads. Each may become a job that has all variables before it.
const LINES_MAX: usize = 10_000;

/// A crontab to read, or why it is not read.
pub(super) struct Source {
    /// As shown.
    pub(super) shown: String,
    /// Where the jobs are labelled to come from; `None` for standard input.
    pub(super) path: Option<PathBuf>,
    pub(super) content: Result<Vec<u8>, Unread>,
}

/// Why a file is not read.
pub(super) enum Unread {
    /// Cron does not read it either.
    ByCron(&'static str),
    /// Some crons read it, and others do not.
    BySome(&'static str),
    /// It should have been.
    Failed(String),
}

/// The crontab that is named: a file, `-`, or with [`Form::System`] a folder such as `/etc`.
pub(super) fn find(path: &Path, form: Form) -> Vec<Source> {
    if path.as_os_str() == "-" {
        let content = read(std::io::stdin().lock()).map_err(|e| Unread::Failed(e.to_string()));
        return vec![Source { shown: "stdin".into(), path: None, content }];
    }
    if form == Form::User || !path.is_dir() {
        return vec![file(path)];
    }
    // A folder such as `/etc` has one crontab and a folder of others; such a folder may also be named itself.
    let (one, others) = (path.join("crontab"), path.join("cron.d"));
    if !others.is_dir() && !path.ends_with("etc") {
        return folder(path);
    }
    let mut sources = Vec::new();
    if one.try_exists().unwrap_or(true) {
        sources.push(file(&one));
    }
    if others.is_dir() {
        sources.extend(folder(&others));
    }
    sources
}

/// Whether it is one of the crontabs whose lines name a user: cron itself knows them by their places.
pub(super) fn is_of_the_machine(path: &Path) -> bool {
    path == Path::new("/etc/crontab") || path.parent() == Some(Path::new("/etc/cron.d"))
}

/// All crontabs in a folder, in the order of their names.
fn folder(path: &Path) -> Vec<Source> {
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => return vec![unread(path, Unread::Failed(error.to_string()))],
    };
    let mut paths: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    paths.sort();
    let source = |path: PathBuf| match refusal(&path.file_name().unwrap_or_default().to_string_lossy()) {
        None => file(&path),
        Some(why) => unread(&path, why),
    };
    paths.into_iter().filter(|path| path.is_file()).map(source).collect()
}

/// Why a file with this name is not read from a folder: those of no cron are left out, and of others only their owner
/// knows.
fn refusal(name: &str) -> Option<Unread> {
    /// What packages and editors leave behind.
    const REMAINS: [&str; 4] = [".rpmsave", ".rpmorig", ".rpmnew", "~"];
    let remains = REMAINS.iter().any(|end| name.ends_with(end)) || name.contains(".dpkg-");
    if name.starts_with(['.', '#']) || remains {
        return Some(Unread::ByCron("cron does not read files with such a name"));
    }
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let why = "not every cron reads files with such a name (Debian's does not); if yours does, import this file by itself";
    (!plain).then_some(Unread::BySome(why))
}

fn file(path: &Path) -> Source {
    let content = std::fs::File::open(path).and_then(read).map_err(|e| Unread::Failed(e.to_string()));
    Source { shown: path.display().to_string(), path: Some(path.into()), content }
}

fn unread(path: &Path, why: Unread) -> Source {
    Source { shown: path.display().to_string(), path: Some(path.into()), content: Err(why) }
}

fn read(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let size = from.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if size as u64 > FILE_MAX {
        return Err(std::io::Error::other(format!("it has more than {} MiB", FILE_MAX >> 20)));
    }
    if bytes.iter().filter(|byte| **byte == b'\n').count() > LINES_MAX {
        return Err(std::io::Error::other(format!("it has more than {LINES_MAX} lines")));
    }
    Ok(bytes)
}

/// The zone of this machine, as its cron sees it; `None` if nobody says.
pub(super) fn local_zone() -> Option<String> {
    let link = std::fs::read_link("/etc/localtime").ok();
    let linked = link.and_then(|link| {
        let text = link.to_str()?.to_owned();
        let (_, zone) = text.split_once("zoneinfo/")?;
        // The same zones twice more, with seconds that leap and without.
        let plain = ["posix/", "right/"].iter().find_map(|folder| zone.strip_prefix(folder));
        Some(plain.unwrap_or(zone).to_owned())
    });
    let written = || std::fs::read_to_string("/etc/timezone").ok().map(|text| text.trim().to_owned());
    linked.or_else(written).filter(|zone| !zone.is_empty())
}

/// How many scripts a line runs that leaves the work to `run-parts`; `None` for other lines.
pub(super) fn run_parts(command: &str) -> Option<(PathBuf, Vec<String>)> {
    let (_, rest) = command.split_once("run-parts")?;
    let words = rest.split([' ', ';', ')', '}']);
    let folder = PathBuf::from(words.into_iter().find(|word| word.starts_with('/'))?);
    let mut scripts: Vec<String> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')))
        .collect();
    scripts.sort();
    Some((folder, scripts))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a folder: `+` is read, `-` is not and need not be, `?` may have to be, `!` cannot be.
    fn found(folder: &Path) -> Vec<String> {
        let told = |source: Source| {
            let path = source.path.unwrap_or_default();
            let mark = match source.content {
                Ok(_) => '+',
                Err(Unread::ByCron(_)) => '-',
                Err(Unread::BySome(_)) => '?',
                Err(Unread::Failed(_)) => '!',
            };
            format!("{mark}{}", path.strip_prefix(folder).unwrap_or(&path).display())
        };
        find(folder, Form::System).into_iter().map(told).collect()
    }

    fn with(paths: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for path in paths {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(&path)).expect("a writable folder");
            std::fs::write(path, "").expect("a writable folder");
        }
        folder
    }

    #[test]
    fn crontabs_are_where_cron_has_them() {
        let etc = with(&["crontab", "hosts", "cron.d/b", "cron.d/a", "cron.d/crontab"]);
        assert_eq!(found(etc.path()), ["+crontab", "+cron.d/a", "+cron.d/b", "+cron.d/crontab"]);
        let etc = with(&["etc/crontab", "etc/hosts", "etc/passwd"]);
        assert_eq!(found(&etc.path().join("etc")), ["+crontab"], "no other file there is one");
        let none = with(&["etc/hosts"]);
        assert_eq!(found(&none.path().join("etc")), [""; 0]);
        let kept = with(&["crontab", "php"]);
        assert_eq!(found(kept.path()), ["+crontab", "+php"]);
        assert!(is_of_the_machine(Path::new("/etc/cron.d/php")) && !is_of_the_machine(Path::new("crontab")));
    }

    #[test]
    fn no_file_that_some_cron_reads_is_passed_over() {
        let folder = with(&[".placeholder", "a.cron", "a~", "b.rpmsave", "c.dpkg-old", "d"]);
        assert_eq!(
            found(folder.path()),
            ["-.placeholder", "?a.cron", "-a~", "-b.rpmsave", "-c.dpkg-old", "+d"]
        );
    }

    #[test]
    fn a_crontab_has_a_bound_of_lines() {
        assert!(read(&b"\n".repeat(LINES_MAX)[..]).is_ok());
        let refused = read(&b"\n".repeat(LINES_MAX + 1)[..]).expect_err("it is too long");
        assert!(refused.to_string().contains("10000 lines"), "{refused}");
    }
}
