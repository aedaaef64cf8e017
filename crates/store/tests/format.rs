//! The stored format: pinned by a golden file, and total.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use scheduler::audit::Act;
use scheduler::state::Change;
use store::format::{read_batch, read_change, write_batch, write_change};
use store::samples::{any_change, every_change};

fn line(change: &Change) -> String {
    let mut out = Vec::new();
    write_change(&mut out, change);
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// What is written today can be read by every later version: if this file changes, the format has changed.
/// `UPDATE_GOLDEN=1 cargo test -p store --test format` writes it anew.
#[test]
fn every_kind_of_change_is_written_as_ever() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/changes.jsonl");
    let now: String = every_change().iter().map(|(_, change)| line(change) + "\n").collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &now).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file can be read");
    for (n, (was, is)) in golden.lines().zip(now.lines()).enumerate() {
        assert_eq!(was, is, "line {}: {}", n + 1, every_change()[n].0);
    }
    assert_eq!(golden.lines().count(), now.lines().count());
    let read = read_batch(golden.as_bytes()).expect("the golden file can be read");
    assert_eq!(read, every_change().into_iter().map(|(_, change)| change).collect::<Vec<_>>());
}

#[test]
fn unknown_fields_are_ignored() {
    for (title, change) in every_change() {
        let line = line(&change);
        // Into the first object that is no tag, where there is one.
        let tag = if title.starts_with("record") {
            line.match_indices(":{").nth(1)
        } else {
            line.match_indices(":{").next()
        };
        if let Some((at, _)) = tag {
            let (tag, rest) = line.split_at(at + 2);
            let more = format!("{tag}\"of_tomorrow\":[1,{{}}],{rest}");
            let read = read_change(more.as_bytes()).unwrap_or_else(|error| panic!("{title}: {error}"));
            assert_eq!(read, change, "{title}");
        }
    }
}

/// As the first version of this format had it: the scheduler did not read them yet.
#[test]
fn owner_and_labels_are_found_in_an_old_body() {
    let old = r#"{"job":{"uid":1,"name":"a","created":0,"parents":[2],"body":"{\"command\":\"x\",\"owner\":\"o\",\"labels\":{\"team\":\"etl\"}}"}}"#;
    let Change::PutJob(job) = read_change(old.as_bytes()).expect("an old line") else {
        panic!("it is a job")
    };
    assert_eq!((&*job.rules.owner(), &*job.body), ("o", r#"{"command":"x"}"#));
    assert_eq!(job.rules.labels(), [("team".into(), "etl".into())]);
}

/// Nodes of the first versions of this format may lead after ours, and need one; some versions after them wrote none.
#[test]
fn a_delay_that_a_job_does_not_say_is_written_for_older_versions() {
    const UNSAID: &str = r#""delay":60000,"delay_unsaid":true,"#;
    let mut jobs = every_change().into_iter().filter_map(|(_, change)| match change {
        Change::PutJob(job) => Some((*job).clone()),
        _ => None,
    });
    let mut job = jobs.find(|job| job.rules.retry.delay.is_some()).expect("one says it");
    Arc::make_mut(&mut job.rules).retry.delay = None;
    let change = Change::PutJob(Arc::new(job));
    let line = line(&change);
    assert!(line.contains(UNSAID), "{line}");
    for line in [line.replace(UNSAID, ""), line] {
        assert_eq!(read_change(line.as_bytes()).expect("a line"), change, "{line}");
    }
}

/// As the first versions of this format had it: they know no act of forgetting a node, and take it for one of no job.
#[test]
fn a_node_that_was_forgotten_is_nothing_new_to_older_versions() {
    const NODE: &str = r#","node":"3f9a2c0d11b7e845""#;
    let mut changes = every_change().into_iter();
    let (_, forgotten) = changes.find(|(title, _)| *title == "audit: forgot a node").expect("one");
    let line = line(&forgotten);
    assert!(line.contains(NODE), "{line}");
    // A field that they do not know is ignored.
    let Ok(Change::Note(entry)) = read_change(line.replace(NODE, "").as_bytes()) else { panic!("{line}") };
    assert_eq!((&entry.act, &entry.job), (&Act::Killed { run: None, runs: 2 }, &None));
}

/// As the first versions of this format had it: to them none of the runs was killed.
#[test]
fn what_was_heard_late_is_nothing_new_to_older_versions() {
    let mut changes = every_change().into_iter();
    let (_, heard) = changes.find(|(title, _)| *title == "audit: heard late").expect("one");
    let line = line(&heard);
    let Change::Note(entry) = heard else { panic!("{line}") };
    let Act::HeardLate { run, .. } = entry.act else { panic!("{line}") };
    let late = &line[line.find(r#","late":{"#).expect("that it is")..line.len() - "}}}}".len()];
    // A field that they do not know is ignored.
    let Ok(Change::Note(entry)) = read_change(line.replace(late, "").as_bytes()) else { panic!("{line}") };
    assert_eq!(entry.act, Act::Killed { run: Some(run), runs: 0 });
}

#[test]
fn what_is_wrong_and_where_is_said() {
    let check = |line: &str, says: &str| {
        let error = read_change(line.as_bytes()).expect_err(line).to_string();
        assert!(error.contains(says), "{error}");
    };
    check("", "EOF");
    check(r#"{"run_gone":"not a key"}"#, "not a key");
    check(r#"{"job_gone":"x"}"#, "expected u64");
    check(r#"{"tomorrow":{}}"#, "unknown variant `tomorrow`");
    check(r#"{"job":{"uid":1,"name":"a","created":0,"body":""}}"#, "either `schedule` or `parents`");
    check(r#"{"job":{"uid":1,"name":"a b","created":0,"parents":[1],"body":""}}"#, "contains ' '");
    check(
        r#"{"job":{"uid":1,"name":"a","created":9223372036854775807,"parents":[1],"body":""}}"#,
        "timestamp",
    );
    check(r#"{"progress":{"job":1,"accounted_since":0,"mark":{"due":0}}}"#, "either `index` or `civil`");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_can_be_read(changes in prop::collection::vec(any_change(), 0..8)) {
        prop_assert_eq!(read_batch(&write_batch(&changes)).expect("our own bytes"), changes);
    }

    /// A step ends before what it weighs is more than a batch holds.
    #[test]
    fn no_change_takes_more_than_it_weighs(change in any_change()) {
        prop_assert!(write_batch(std::slice::from_ref(&change)).len() <= change.weight() + 100, "{change:?}");
    }

    #[test]
    fn reading_never_panics(change in any_change(), cut in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = line(&change).into_bytes();
        let at = cut.index(bytes.len());
        let _ = read_change(&bytes[..at]);
        bytes[at] = byte;
        let _ = read_change(&bytes);
    }
}
