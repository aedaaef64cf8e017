//! Folders of chronos-sync: `scheduled/` and `dependent/`, a job in a file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cli::apply::{find_files, read_each};
use crate::cli::failure::{Exit, Failure};

/// Where jobs with a schedule are, and where those with parents are.
const PLACES: [&str; 2] = ["scheduled", "dependent"];

/// What a file came to.
pub(super) enum File {
    /// A job, and what is to be said of its file.
    Job { definition: Map<String, Value>, origin: String, notes: Vec<String> },
    /// Chronos-sync does not read it either.
    Ignored { origin: String, why: String },
    /// It should have been a job.
    Refused { origin: String, why: String },
}

/// Reads what chronos-sync would read; of a folder that is not laid out for it, all job files; or one file.
/// # Errors
/// The folder itself cannot be read.
pub(super) fn read(folder: &Path) -> Result<Vec<File>, Failure> {
    let mut paths = Vec::new();
    find_files(folder, &mut paths).map_err(|cause| {
        Failure::new(Exit::Usage, anyhow::Error::new(cause))
            .context(format!("cannot read `{}`", folder.display()))
            .hint("name a folder with `scheduled` and `dependent` in it, or a live Chronos with --from")
    })?;
    let places = PLACES.map(|place| folder.join(place));
    let laid_out = places.iter().any(|place| place.is_dir());
    // Chronos-sync looks into them where they are links, too.
    for place in places.iter().filter(|place| place.is_symlink() && place.is_dir()) {
        find_files(place, &mut paths)?;
    }
    let mut files = Vec::new();
    for path in paths {
        let within = path.strip_prefix(folder).ok().filter(|within| !within.as_os_str().is_empty());
        let origin = within.unwrap_or(&path).display().to_string();
        let place = origin.split('/').next().filter(|place| PLACES.contains(place));
        if laid_out && (place.is_none() || origin.split('/').count() != 2) {
            let why = "it is not in `scheduled` or `dependent`".to_owned();
            files.push(File::Ignored { origin, why });
            continue;
        }
        match read_each(&path) {
            Ok(jobs) => {
                let many = jobs.len() > 1;
                files.extend(jobs.into_iter().enumerate().map(|(i, job)| {
                    let origin = if many { format!("{origin} (job {})", i + 1) } else { origin.clone() };
                    let definition = match job {
                        Ok(job) => job.definition,
                        Err(failure) => return File::Refused { origin, why: failure.chain() },
                    };
                    let notes = place.and_then(|place| misplaced(&path, place, &definition));
                    match definition {
                        Value::Object(definition) => {
                            File::Job { definition, origin, notes: notes.into_iter().collect() }
                        }
                        _ => File::Refused { origin, why: "it is not a job".into() },
                    }
                }));
            }
            Err(failure) => files.push(File::Refused { origin, why: failure.chain() }),
        }
    }
    Ok(files)
}

/// What chronos-sync would not have taken.
fn misplaced(path: &Path, place: &str, job: &Value) -> Option<String> {
    let name = job["name"].as_str().unwrap_or_default();
    let (base, wanted) = (path.file_stem().unwrap_or_default().to_string_lossy(), base_name(name));
    if base != wanted {
        return Some(format!("chronos-sync wants this file to be called `{wanted}`"));
    }
    let right = if job["parents"].is_null() { PLACES[0] } else { PLACES[1] };
    (place != right).then(|| format!("chronos-sync wants this file in `{right}`"))
}

/// The name of a job's file, without its ending.
fn base_name(job: &str) -> String {
    let last = job.rsplit('/').next().unwrap_or_default();
    last.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' }).collect()
}

const HEADING: &str = "\
# Written by `chronos export`, for chronos-sync.
# Read again by `chronos import chronos`.
";

/// What was written.
#[derive(Default)]
pub(in crate::cli) struct Written {
    /// Files in each of the two folders.
    pub(in crate::cli) counts: [usize; 2],
    /// Jobs that could not be written, and why.
    pub(in crate::cli) refused: Vec<(String, String)>,
    /// Files of jobs that are not there any more.
    pub(in crate::cli) stale: Vec<PathBuf>,
}

/// Writes jobs as chronos-sync would, each file whole or not at all. Nothing is removed.
/// # Errors
/// The first file that could not be written.
pub(in crate::cli) fn write(folder: &Path, jobs: &[Map<String, Value>]) -> Result<Written, Failure> {
    let mut written = Written::default();
    let mut names = BTreeSet::new();
    for place in PLACES {
        let path = folder.join(place);
        std::fs::create_dir_all(&path)
            .map_err(|e| Failure::from(e).context(format!("cannot make `{}`", path.display())))?;
    }
    for job in jobs {
        let name = job.get("name").and_then(Value::as_str).unwrap_or_default();
        let place = usize::from(job.contains_key("parents"));
        let base = base_name(name);
        let file = Path::new(PLACES[place]).join(format!("{base}.yaml"));
        if !names.insert(file.clone()) {
            let why = format!("its file would be `{}`, which is that of another job", file.display());
            written.refused.push((name.into(), why));
            continue;
        }
        if base.starts_with('.') {
            let why = "chronos-sync does not see files whose names begin with a point".to_owned();
            written.refused.push((name.into(), why));
            names.remove(&file);
            continue;
        }
        write_file(&folder.join(&file), job)?;
        written.counts[place] += 1;
    }
    let mut there = Vec::new();
    for place in PLACES {
        find_files(&folder.join(place), &mut there)?;
    }
    let is_stale = |path: &PathBuf| path.strip_prefix(folder).is_ok_and(|file| !names.contains(file));
    written.stale = there.into_iter().filter(is_stale).collect();
    Ok(written)
}

fn write_file(path: &Path, job: &Map<String, Value>) -> Result<(), Failure> {
    let shown = format!("cannot write `{}`", path.display());
    let draft = path.with_extension("yaml.new");
    std::fs::write(&draft, text(job))
        .and_then(|()| std::fs::rename(&draft, path))
        .map_err(|e| Failure::from(e).context(shown))
}

/// A file of chronos-sync.
pub(super) fn text(job: &Map<String, Value>) -> String {
    let mut text = HEADING.to_owned();
    for (key, value) in job {
        text.push_str(&format!("{key}: {}\n", flow(value)));
    }
    text
}

/// A value as YAML of both versions reads it alike: Ruby, in which chronos-sync is written, takes a bare `no` for false
/// and `12:30` for a number, so every text is in quotes.
fn flow(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields =
                fields.iter().map(|(key, value)| format!("{}: {}", scalar(&json!(key)), flow(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        value => scalar(value),
    }
}

/// The quotes and escapes of JSON are those of YAML, which wants some more characters escaped.
fn scalar(value: &Value) -> String {
    let escaped = |c: char| match c {
        '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    value.to_string().chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn a_file_is_named_as_chronos_sync_names_it() {
        for (name, base) in [("a_b.c-D9", "a_b.c-D9"), ("my job #2", "my_job__2"), ("etl/load", "load")] {
            assert_eq!(base_name(name), base);
        }
    }

    #[test]
    fn what_is_written_is_read_the_same() {
        let value = json!({ "a": ["no", "12:30", "", "x\"y\\\n\u{7}\u{7f}\u{85}\u{2028}\u{feff}ä😀", 2.0, 3, true], "b": [{ "name": "A: #", "value": "1" }], "c": [] });
        let back: Value = serde_norway::from_str(&flow(&value)).expect("YAML");
        assert_eq!(back, value);
    }

    #[test]
    fn two_jobs_with_one_file_and_hidden_ones_are_told() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let jobs = ["a b", "a#b", ".c", "d"].map(|name| job(json!({ "name": name, "schedule": "R//P1D" })));
        let written = write(folder.path(), &jobs).expect("a writable folder");
        let refused: Vec<_> = written.refused.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(refused, ["a#b", ".c"]);
        assert_eq!(written.counts, [2, 0]);
        let written = write(folder.path(), &jobs[3..]).expect("a writable folder");
        assert_eq!(written.stale, [folder.path().join("scheduled/a_b.yaml")]);
    }

    #[test]
    fn a_place_may_be_a_link() {
        let (folder, elsewhere) = (tempfile::tempdir(), tempfile::tempdir());
        let (folder, elsewhere) = (folder.expect("a folder"), elsewhere.expect("a folder"));
        write(elsewhere.path(), &[job(json!({ "name": "a", "schedule": "R//P1D" }))]).expect("writable");
        let link = |place: &str| {
            std::os::unix::fs::symlink(elsewhere.path().join(place), folder.path().join(place))
                .expect("a link");
        };
        PLACES.into_iter().for_each(link);
        let files = read(folder.path()).expect("a readable folder");
        let origins: Vec<_> = files
            .iter()
            .map(|file| match file {
                File::Job { origin, notes, .. } => (origin.as_str(), notes.len()),
                File::Ignored { origin, why } | File::Refused { origin, why } => panic!("{origin}: {why}"),
            })
            .collect();
        assert_eq!(origins, [("scheduled/a.yaml", 0)]);
    }

    #[test]
    fn one_bad_entry_of_a_list_keeps_no_other_away() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let list = r#"[{"name": "a", "schedule": "R//P1D"}, 7, {"command": "nameless"}, {"name": "b", "parents": ["a"]}]"#;
        let path = folder.path().join("jobs.json");
        std::fs::write(&path, list).expect("writable");
        let told: Vec<_> = read(&path)
            .expect("a readable file")
            .into_iter()
            .map(|file| match file {
                File::Job { definition, .. } => definition["name"].to_string(),
                File::Ignored { origin, why } | File::Refused { origin, why } => format!("{origin}: {why}"),
            })
            .collect();
        assert_eq!((told.len(), told[0].as_str(), told[3].as_str()), (4, r#""a""#, r#""b""#), "{told:?}");
        assert!(told[1].contains("(job 2)") && told[1].contains("not a job"), "{told:?}");
        assert!(told[2].contains("(job 3)") && told[2].contains("`name`"), "{told:?}");
    }

    #[test]
    fn files_elsewhere_are_ignored_and_others_that_are_no_jobs_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let jobs = [
            job(json!({ "name": "a", "schedule": "R//P1D" })),
            job(json!({ "name": "b", "parents": ["a"] })),
        ];
        write(folder.path(), &jobs).expect("a writable folder");
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writable");
        write("compose.yml", "version: 3");
        write("scheduled/broken.yaml", "name: [");
        write("scheduled/other.yaml", "name: x\nparents: [a]\n");
        let told: Vec<_> = read(folder.path())
            .expect("a readable folder")
            .into_iter()
            .map(|file| match file {
                File::Job { origin, notes, .. } => (origin, "job", notes.len()),
                File::Ignored { origin, .. } => (origin, "ignored", 0),
                File::Refused { origin, .. } => (origin, "refused", 0),
            })
            .collect();
        let told: Vec<_> =
            told.iter().map(|(origin, word, notes)| (origin.as_str(), *word, *notes)).collect();
        let expected = [
            ("compose.yml", "ignored", 0),
            ("dependent/b.yaml", "job", 0),
            ("scheduled/a.yaml", "job", 0),
            ("scheduled/broken.yaml", "refused", 0),
            ("scheduled/other.yaml", "job", 1),
        ];
        assert_eq!(told, expected);
    }
}
