//! Crontabs become jobs, and no line of them is lost.

use std::path::Path;

use serde_json::Value;

use crate::golden::golden;
use crate::moving::definitions;
use crate::server::{Ended, Folder, TestServer, client_command};
use crate::skip::skip;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fixtures/crontab");

fn import(args: &[&str]) -> Ended {
    Ended::of(client_command().args(["import", "crontab"]).args(args))
}

/// Every line of the file is in the report once, and the sums are those of its lines.
#[track_caller]
fn every_line_is_told(report: &serde_json::Value, path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    let lines = String::from_utf8_lossy(&bytes).lines().count();
    let of_file = |row: &&serde_json::Value| row["file"] == path.to_str().unwrap();
    let told: Vec<_> = report.as_array().unwrap().iter().filter(of_file).collect();
    assert_eq!(told.len(), lines, "{}", path.display());
    for (i, row) in told.iter().enumerate() {
        assert_eq!(row["line"], i + 1);
        assert!(row["result"] != "attention" || row["notes"][0].is_string(), "{row}");
        assert_eq!(row["result"] == "job", row["job"].is_string(), "{row}");
    }
}

#[test]
fn a_crontab_is_told_line_by_line_and_nothing_is_changed() {
    let told = import(&[FIXTURE, "--zone", "Europe/Berlin", "--user", "joe"]).exit(1);
    golden("import-crontab.txt", &(told.stdout_text() + &told.stderr_text()));
    let report = import(&[FIXTURE, "--zone", "UTC", "--output", "json"]).exit(1).json();
    every_line_is_told(&report, Path::new(FIXTURE));
}

#[test]
fn a_crontab_is_imported_twice_and_then_unchanged() {
    let server = TestServer::start();
    let args = ["import", "crontab", FIXTURE, "--zone", "UTC", "--apply"];
    let first = server.cli(args).exit(1).stdout_text();
    assert_eq!(first.matches("(created)").count(), 8, "{first}");
    let again = server.cli(args).exit(1).stdout_text();
    assert_eq!(again.matches("(unchanged)").count(), 8, "{again}");
    let jobs = server.cli(["jobs", "--output", "json"]).success().json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(8));
}

#[test]
fn jobs_of_a_crontab_are_files_that_can_be_applied() {
    let server = TestServer::start();
    let folder = server.folder.path().join("jobs");
    let folder = folder.to_str().unwrap();
    server.cli(["import", "crontab", FIXTURE, "--zone", "UTC", "--output_dir", folder]).exit(1);
    let applied = server.cli(["apply", folder]).success().stdout_text();
    assert_eq!(applied.matches("created job").count(), 8, "{applied}");
    assert_eq!(
        server
            .cli(["import", "crontab", FIXTURE, "--zone", "UTC", "--apply"])
            .exit(1)
            .stdout_text()
            .matches("(unchanged)")
            .count(),
        8
    );
}

#[test]
fn input_reaches_the_command_as_cron_would_give_it() {
    let server = TestServer::start();
    let file = server.folder.file("mine", "0 0 1 1 * tr a-z A-Z%it's%two lines%\n");
    let report = server.cli([
        "import",
        "crontab",
        file.to_str().unwrap(),
        "--zone",
        "UTC",
        "--apply",
        "--output",
        "json",
    ]);
    let report = report.success().json();
    assert_eq!(report[0]["change"], "created");
    let name = report[0]["job"].as_str().unwrap().to_owned();
    server.cli(["run", &name]).success();
    server.wait_for(&name, "succeeded");
    server.cli(["logs", &name]).stdout("IT'S\nTWO LINES\n").success();
}

#[test]
fn what_was_edited_since_stays_until_it_is_to_be_overwritten() {
    let server = TestServer::start();
    let file = server.folder.file("mine", "0 3 * * * backup\n");
    let args = ["import", "crontab", file.to_str().unwrap(), "--zone", "UTC", "--apply", "--output", "json"];
    let name = server.cli(args).success().json()[0]["job"].as_str().unwrap().to_owned();
    let mut job = definitions(&server)[&name].clone();
    (job["overlap"], job["owner"]) = ("skip".into(), "ops@example.org".into());
    server.put(job);
    std::fs::write(&file, "0 4 * * * backup\n").unwrap();
    let told = server.cli([&args[..], &["--dry_run"]].concat()).success().json();
    let said = |told: &Value| (told[0]["change"].clone(), told[0]["notes"].clone());
    let left = "left as it was edited: `owner`, `overlap`; --overwrite takes what cron does";
    assert_eq!(said(&told).0, "would be updated");
    assert!(told[0]["notes"].to_string().contains("changes `schedule`"), "{told}");
    assert!(told[0]["notes"].to_string().contains(left), "{told}");
    assert_eq!(definitions(&server)[&name]["schedule"], "0 3 * * *", "nothing was changed");
    assert_eq!(said(&server.cli(args).success().json()).0, "updated");
    let job = &definitions(&server)[&name];
    assert_eq!((&job["schedule"], &job["overlap"]), (&"0 4 * * *".into(), &"skip".into()));
    server.cli([&args[..], &["--overwrite"]].concat()).success();
    let job = &definitions(&server)[&name];
    assert_eq!((&job["overlap"], job.get("owner")), (&"allow".into(), None));
}

/// The job of a line that is gone goes on, and whoever imports the crontab again hears of it.
#[test]
fn what_has_no_line_any_more_is_told() {
    let server = TestServer::start();
    let file = server.folder.file("mine", "0 3 * * * backup\n0 4 * * * report\n");
    let args = ["import", "crontab", file.to_str().unwrap(), "--zone", "UTC", "--apply", "--output", "json"];
    let first = server.cli(args).success();
    assert_eq!(first.stderr_text(), "");
    let report = first.json()[1]["job"].as_str().unwrap().to_owned();
    // Of two lines with one command one takes the job that is there.
    std::fs::write(&file, "0 1 * * * backup\n0 3 * * * backup\n").unwrap();
    let again = server.cli(args).success();
    assert!(
        again.stderr_text().contains(&format!("now: {report}; `chronos delete`")),
        "{}",
        again.stderr_text()
    );
    let jobs = server.cli(["jobs", "--output", "json"]).success().json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(3));
}

#[test]
fn hostile_lines_do_no_harm() {
    let folder = Folder::new();
    let mut bytes = b"0 0 * * * true\n0 0 * * * a\0b\n0 0 * * * \xff\xfe\n".to_vec();
    bytes.extend(std::iter::repeat_n(b'x', 1 << 20));
    bytes.extend(b"\n0 0 * * * echo '\x1b[2J'\n* * * * * last line without an end");
    let path = folder.path().join("hostile");
    std::fs::write(&path, bytes).unwrap();
    let report = import(&[path.to_str().unwrap(), "--zone", "UTC", "--output", "json"]).exit(1).json();
    every_line_is_told(&report, &path);
    let results: Vec<_> =
        report.as_array().unwrap().iter().map(|row| row["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["job", "attention", "attention", "attention", "job", "job"]);
    let table = import(&[path.to_str().unwrap(), "--zone", "UTC"]).exit(1);
    assert!(!table.stdout_text().contains('\u{1b}'));
    import(&["/nonexistent"]).exit(2).says("`/nonexistent` cannot be read");
    import(&[path.to_str().unwrap(), "--zone", "Mars/Base"]).exit(1).says("attention");
}

/// The crontab that Debian's cron brings, and those of other packages that are there.
#[test]
fn the_crontab_of_a_fresh_debian_is_imported() {
    if !Path::new("/etc/crontab").exists() {
        return skip("crontab-debian", "Debian's cron is not installed");
    }
    let server = TestServer::start();
    let args = ["import", "crontab", "--system", "/etc", "--zone", "UTC", "--apply", "--output", "json"];
    let report = server.cli(args).json();
    every_line_is_told(&report, Path::new("/etc/crontab"));
    let of_crontab: Vec<_> =
        report.as_array().unwrap().iter().filter(|row| row["file"] == "/etc/crontab").collect();
    assert!(of_crontab.iter().all(|row| row["result"] != "attention"), "{report}");
    let jobs: Vec<_> = of_crontab.iter().filter_map(|row| row["job"].as_str()).collect();
    for name in ["hourly", "daily", "weekly", "monthly"] {
        let wanted = format!("run-parts-cron.{name}-");
        assert!(jobs.iter().any(|job| job.starts_with(&wanted)), "{wanted}: {jobs:?}");
    }
    let next = server.cli(["next", jobs[0], "-n", "1"]).success().stdout_text();
    assert!(next.contains(":17:00Z"), "{next}");
}
