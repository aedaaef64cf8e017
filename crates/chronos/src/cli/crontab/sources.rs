//! Which crontabs there are below a folder, and the zone that this machine's cron runs in.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::lines::Form;

/// Largest crontab: a thousand times the largest anyone keeps by hand.
const FILE_MAX: u64 = 16 * 1024 * 1024;

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
    let mut sources = Vec::new();
    if path.join("crontab").exists() {
        sources.push(file(&path.join("crontab")));
    }
    // `/etc` has its crontabs in a folder below, which may also be named itself.
    let folder = if path.join("cron.d").is_dir() { path.join("cron.d") } else { path.into() };
    let mut names: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    names.sort();
    for path in
        names.into_iter().filter(|path| path.is_file() && path.file_name() != Some("crontab".as_ref()))
    {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if plain {
            sources.push(file(&path));
        } else if folder.ends_with("cron.d") {
            let why = "cron does not read files with such a name";
            let content = Err(Unread::ByCron(why));
            sources.push(Source { shown: path.display().to_string(), path: Some(path), content });
        }
    }
    sources
}

fn file(path: &Path) -> Source {
    let content = std::fs::File::open(path).and_then(read).map_err(|e| Unread::Failed(e.to_string()));
    Source { shown: path.display().to_string(), path: Some(path.into()), content }
}

fn read(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let size = from.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if size as u64 > FILE_MAX {
        return Err(std::io::Error::other(format!("it has more than {} MiB", FILE_MAX >> 20)));
    }
    Ok(bytes)
}

/// The zone of this machine, as its cron sees it; `None` if nobody says.
pub(super) fn local_zone() -> Option<String> {
    let link = std::fs::read_link("/etc/localtime").ok();
    let linked = link.and_then(|link| {
        let text = link.to_str()?.to_owned();
        text.split_once("zoneinfo/").map(|(_, zone)| zone.to_owned())
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
