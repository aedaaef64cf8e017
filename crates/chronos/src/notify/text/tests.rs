//! What people read, kept as one file: `UPDATE_GOLDEN=1` rewrites it.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::notify::{Letter, message_id, webhook};
use scheduler::ids::{Cause, JobName, JobUid, RunKey};
use scheduler::notice::{Address, Channel, NoticeId, NoticeState};
use scheduler::schedule::Zones;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn alert(kind: AlertKind, name: &str, detail: &str) -> Alert {
    Alert {
        kind,
        job: JobUid(1),
        name: JobName::new(name).expect("a name"),
        run: Some(RunKey { job: JobUid(1), cause: Cause::Trigger(5) }),
        due: at("2030-07-01T01:00:00Z"),
        at: at("2030-07-01T01:20:00Z"),
        slots: 1,
        detail: detail.into(),
    }
}

fn notice(alerts: Vec<Alert>) -> Notice {
    let mut notice = Notice {
        id: NoticeId(7),
        address: Address { channel: Channel::Mail, to: "ops@example.org".into() },
        created: at("2030-07-01T01:20:00Z"),
        alerts: Vec::new(),
        counts: Default::default(),
        attempts: 1,
        tried: None,
        give_up: at("2030-07-02T01:20:00Z"),
        error: None,
        state: NoticeState::Sending,
    };
    alerts.into_iter().for_each(|alert| notice.add(alert));
    notice
}

fn facts() -> Facts {
    let attempt = |number, end| Attempt {
        number,
        launched: at("2030-07-01T01:00:00Z"),
        started: Some(at("2030-07-01T01:00:01Z")),
        ended: at("2030-07-01T01:20:00Z"),
        node: "n".into(),
        end,
        elements: 0,
    };
    let berlin = Zones::bundled().named("Europe/Berlin").expect("a zone");
    Facts {
        zone: Some(("Europe/Berlin".into(), berlin.time_zone().clone())),
        attempts: vec![
            attempt(0, AttemptEnd::Failed { exit: Some(3), signal: None, message: "".into() }),
            attempt(1, AttemptEnd::TimedOut),
        ],
        output: vec!["dump: Gerät ist voll".into(), "\u{1b}[31mgiving up\r".into()],
        server: Some("chronos.example.org:4400".into()),
    }
}

fn written(notice: &Notice, facts: &Facts) -> String {
    format!("Subject: {}\n\n{}\n", subject("prod", notice), body(notice, facts))
}

/// Everything that people and web hooks are told.
#[test]
fn notices_read_as_ever() {
    let failed = alert(AlertKind::Failed, "nightly", "timed out after 2 attempts");
    let missed =
        Alert { run: None, slots: 9, ..alert(AlertKind::Missed, "hourly", "9 slots not run: outage") };
    let mut storm: Vec<Alert> = (0..499)
        .map(|n| alert(AlertKind::Failed, &format!("job-{n}"), "failed after 1 attempt: exit status 1"))
        .collect();
    storm.push(missed.clone());
    let storm = notice(storm);
    let one = notice(vec![failed]);
    let letter = Letter {
        id: message_id(&one),
        created: one.created,
        subject: subject("prod", &one),
        body: body(&one, &Facts::default()),
    };
    let job = serde_json::json!({
        "owner": "ops@example.org", "command": "dump", "cpus": 0.5, "softError": false, "errorCount": 1,
        "errorsSinceLastSuccess": 1, "executor": "", "executorFlags": "", "lastError": "2030-07-01T01:20:00.000Z",
        "lastSuccess": "", "mem": 512.0, "retries": 1, "successCount": 3,
        "fetch": [{"uri": "http://a"}], "uris": ["http://b"],
    });
    let mut found = written(&one, &facts());
    for kind in AlertKind::ALL {
        let notice = notice(vec![alert(kind, "nightly", "as it was noticed")]);
        found.push_str(&format!("Subject: {}\n", subject("", &notice)));
    }
    found.push_str(&format!("\n{}", written(&notice(vec![missed]), &Facts::default())));
    found.push_str(&written(&storm, &Facts::default()));
    found.push_str(&format!("{:#}\n", webhook::payload(&one, &letter, job.as_object())));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/notify/text/golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).expect("the golden file can be written");
    }
    let kept = std::fs::read_to_string(&path).expect("the golden file can be read");
    assert_eq!(kept, found, "UPDATE_GOLDEN=1 accepts it");
}

#[test]
fn a_server_that_speaks_https_is_named_so() {
    let failed = notice(vec![alert(AlertKind::Failed, "a", "exit status 1")]);
    for (server, expected) in [
        ("a.example.org:4400", "Server:    http://a.example.org:4400\n"),
        ("https://a.example.org:4443", "Server:    https://a.example.org:4443\n"),
    ] {
        let text = body(&failed, &Facts { server: Some(server.into()), ..Facts::default() });
        assert!(text.ends_with(expected), "{text}");
    }
}

/// `chronos runs --from` is about due times: those of a storm are before its notice.
#[test]
fn what_a_storm_advises_to_look_at_has_its_runs_in_it() {
    let early =
        Alert { due: at("2030-06-30T23:00:00Z"), ..alert(AlertKind::Failed, "slow", "exit status 1") };
    let storm = notice(vec![alert(AlertKind::Failed, "a", "exit status 1"), early]);
    let text = body(&storm, &Facts::default());
    assert!(text.contains("--from 2030-06-30T23:00:00Z\n"), "{text}");
}

#[test]
fn a_subject_is_one_line_whatever_a_cluster_is_called() {
    let notice = notice(vec![alert(AlertKind::Failed, "a", "")]);
    assert_eq!(subject("a\r\nBcc: x", &notice), "[a  Bcc: x] [Chronos] job 'a' failed!");
    let _: Arc<str> = subject("", &notice).into();
}
