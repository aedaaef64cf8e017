//! People are told: by mail through a real mail server, and by web hooks; once, also when everything between fails.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::mail_server::{Mail, MailServer, WebServer, certificate, is_here};
use crate::server::{Folder, TestServer, by_hand};

fn owned(name: &str, command: &str) -> Value {
    let mut job = by_hand(name, command);
    job["owner"] = "ops@example.org".into();
    job
}

fn led(folder: Arc<Folder>, flags: &[&str]) -> TestServer {
    let server = TestServer::launch(folder, flags);
    server.wait_ready();
    server
}

fn states(server: &TestServer) -> Vec<String> {
    let notices = server.get_json("/v1/notices");
    let notices = notices["notices"].as_array().unwrap().iter();
    notices.map(|notice| notice["state"].as_str().unwrap().to_owned()).collect()
}

fn wait_for_states(server: &TestServer, wanted: &[&str]) {
    crate::wait::until("the notices are as wanted", || (states(server) == wanted).then_some(()));
}

#[test]
fn a_failing_job_is_one_mail_with_all_that_is_known() {
    if !is_here() {
        return;
    }
    let folder = Folder::new();
    let mail = MailServer::start(&folder, &[]);
    let address = mail.address();
    let flags =
        ["--mail_server", &address, "--mail_from", "Chronos <chronos@example.org>", "--cluster_name", "prod"];
    let server = led(folder, &flags);
    server.put(owned("backup", "echo the disk is full >&2; exit 3"));
    server.cli(["run", "backup"]).success();
    let run = server.wait_for("backup", "failed")["key"].as_str().unwrap().to_owned();
    let mails = mail.wait_for("the mail is there", |mails| !mails.is_empty());
    let first = &mails[0];
    assert_eq!(first.0["to"], json!(["ops@example.org"]));
    assert_eq!(first.0["from"], "chronos@example.org");
    assert_eq!(first.header("Subject"), "[prod] [Chronos] job 'backup' failed!");
    assert_eq!(first.header("Auto-Submitted"), "auto-generated");
    assert!(first.header("Message-ID").ends_with("@example.org>"), "{}", first.text());
    assert!(!first.header("Date").is_empty());
    for part in ["exit status 3", "the disk is full", &format!("chronos why {run}")] {
        assert!(first.text().contains(part), "{part:?} is not in {}", first.text());
    }
    wait_for_states(&server, &["delivered"]);
    server.cli(["notify", "list"]).success().says("1 failed: backup");
    assert_eq!(mail.mails().len(), 1);
}

#[test]
fn a_mail_server_that_was_down_gets_the_mail_also_after_a_crash_of_ours() {
    if !is_here() {
        return;
    }
    let folder = Folder::new();
    let port = crate::port::unused().to_string();
    let address = format!("localhost:{port}");
    let flags = ["--mail_server", &address, "--mail_from", "chronos@example.org"];
    let server = led(folder.clone(), &flags);
    server.put(owned("backup", "exit 3"));
    server.cli(["run", "backup"]).success();
    crate::wait::until("it was tried in vain", || {
        let notices = server.get_json("/v1/notices");
        notices["notices"][0]["error"].as_str().is_some_and(|error| error.contains("connect")).then_some(())
    });
    let ready = server.get_json("/ready");
    assert_eq!(ready["ready"], true, "nothing is kept from running");
    // As a user without rights the local engine has notes, too.
    let notes = ready["notes"].as_array().unwrap();
    let told = |note: &Value| note.as_str().is_some_and(|note| note.contains("could not be sent yet"));
    assert!(notes.iter().any(told), "{ready}");
    let server = led(server.kill(), &flags);
    let mail = MailServer::start(&folder, &["--port", &port]);
    server.cli(["notify", "retry", "1"]).success();
    let mails = mail.wait_for("the mail is there", |mails| !mails.is_empty());
    assert_eq!(mails[0].header("Subject"), "[Chronos] job 'backup' failed!");
    wait_for_states(&server, &["delivered"]);
    assert_eq!(mail.mails().len(), 1);
}

#[test]
fn a_storm_is_a_few_mails_and_every_failure_is_counted() {
    if !is_here() {
        return;
    }
    let folder = Folder::new();
    let mail = MailServer::start(&folder, &[]);
    let address = mail.address();
    let server = led(folder, &["--mail_server", &address, "--mail_from", "chronos@example.org"]);
    for n in 0..50 {
        server.put(owned(&format!("job-{n}"), "exit 1"));
    }
    let begun = std::time::Instant::now();
    for n in 0..50 {
        server.cli(["run", &format!("job-{n}")]).success();
    }
    let counted = |server: &TestServer| {
        let notices = server.get_json("/v1/notices");
        let notices = notices["notices"].as_array().unwrap().clone();
        (notices.len(), notices.iter().map(|notice| notice["count"].as_u64().unwrap()).sum::<u64>())
    };
    let (messages, alerts) = crate::wait::within(3 * crate::wait::BOUND, "all are counted", || {
        Some(counted(&server)).filter(|(_, alerts)| *alerts == 50)
    });
    // One at once, and one for each minute that it takes.
    let minutes = usize::try_from(begun.elapsed().as_secs() / 60).unwrap();
    assert!(messages <= 2 + minutes, "{messages} messages for {alerts} failures in {minutes} minutes");
    // So many arrive, and what was folded says what is in it.
    let folded = |mail: &Mail| mail.text().matches("job-").count() > 1;
    let mails = crate::wait::within(3 * crate::wait::BOUND, "they have arrived", || {
        Some(mail.mails()).filter(|mails| mails.len() == counted(&server).0)
    });
    assert!(mails.iter().any(folded), "{:?}", mails.iter().map(Mail::text).collect::<Vec<_>>());
}

/// Each kind of protection against a server that insists on it, and what is said where it does not work.
#[test]
fn a_test_mail_says_how_each_step_went() {
    if !is_here() {
        return;
    }
    let folder = Folder::new();
    let (ca, cert, key) = certificate(&folder);
    let [ca, cert, key] = [&ca, &cert, &key].map(|path| path.to_str().unwrap());
    let password = folder.file("password", "hunter2\n");
    let login = ["--mail_user", "chronos", "--mail_password_file", password.to_str().unwrap()];
    let trust = ["--mail_ca_file", ca];
    let guarded = ["--cert", cert, "--key", key, "--user", "chronos", "--password", "hunter2"];
    type Case<'a> = (&'a str, Vec<&'a str>, i32, &'a [&'a str]);
    let cases: [Case<'_>; 6] = [
        (
            "starttls",
            [&login[..], &trust[..]].concat(),
            0,
            &["ok      starttls", "ok      authenticate  as chronos"],
        ),
        ("tls", [&login[..], &trust[..], &["--mail_tls", "tls"]].concat(), 0, &["with TLS", "ok      send"]),
        ("tls", [&login[..], &trust[..], &["--mail_ssl"]].concat(), 0, &["with TLS"]),
        ("starttls", login.to_vec(), 1, &["FAILED  starttls", "--mail_ca_file"]),
        (
            "starttls",
            [&["--mail_user", "chronos", "--mail_password", "wrong"], &trust[..]].concat(),
            1,
            &["FAILED  authenticate", "check --mail_user"],
        ),
        ("none", login.to_vec(), 1, &["FAILED  starttls", "does not offer STARTTLS"]),
    ];
    let mut folder = folder;
    for (kind, more, code, says) in cases {
        let mail = MailServer::start(&folder, &[&["--tls", kind], &guarded[..]].concat());
        let before = mail.mails().len();
        let address = mail.address();
        let mut flags = vec!["--mail_server", address.as_str(), "--mail_from", "chronos@example.org"];
        flags.extend(&more);
        let server = led(folder, &flags);
        let tested = server.cli(["notify", "test", "--to", "me@example.org"]).exit(code);
        let told = format!("{}{}", tested.stdout_text(), tested.stderr_text());
        for part in says {
            assert!(told.contains(part), "{kind} {more:?}: {part:?} is not in\n{told}");
        }
        assert!(!server.log().contains("hunter2"));
        let arrived = mail.mails();
        assert_eq!(arrived.len() - before, usize::from(code == 0));
        if code == 0 {
            let last = &arrived[before].0;
            assert_eq!((&last["tls"], &last["user"]), (&json!(true), &json!("chronos")));
        }
        (folder, _) = server.terminate();
    }
}

#[test]
fn a_recipient_that_is_refused_is_given_up_with_the_reason() {
    if !is_here() {
        return;
    }
    let folder = Folder::new();
    let mail = MailServer::start(&folder, &[]);
    let address = mail.address();
    let server = led(folder, &["--mail_server", &address, "--mail_from", "chronos@example.org"]);
    let mut job = owned("backup", "exit 3");
    job["alerts"] = json!({"to": ["nobody@example.org"]});
    server.put(job);
    server.cli(["run", "backup"]).success();
    wait_for_states(&server, &["givenUp"]);
    let notice = server.get_json("/v1/notices?state=givenUp")["notices"][0].clone();
    assert!(notice["error"].as_str().unwrap().contains("there is no such mailbox"), "{notice}");
    assert_eq!(notice["attempts"], 1);
}

#[test]
fn a_web_hook_is_posted_signed_and_again_until_it_is_taken() {
    let web = WebServer::start(&["503 Service Unavailable", "204 No Content"]);
    let folder = Folder::new();
    let secret = folder.file("secret", "key\n");
    let flags = [
        "--http_notification_url",
        &web.url,
        "--http_notification_credentials",
        "user:hunter2",
        "--http_notification_secret_file",
        secret.to_str().unwrap(),
    ];
    let server = led(folder, &flags);
    server.put(owned("backup", "exit 3"));
    server.cli(["run", "backup"]).success();
    let posts = web.wait_for("it was posted again", |posts| posts.len() == 2);
    wait_for_states(&server, &["delivered"]);
    let head = posts[1].head.to_ascii_lowercase();
    for part in [
        "authorization: basic dxnlcjpodw50zxiy",
        "x-chronos-signature: sha256=",
        "content-type: application/json",
    ] {
        assert!(head.contains(part), "{part:?} is not in {head}");
    }
    let (first, again) = (posts[0].json(), posts[1].json());
    assert_eq!(first["id"], again["id"], "the same notice under the same id");
    assert_eq!(
        (&again["job"], &again["to"], &again["cpus"]),
        (&json!("backup"), &json!("ops@example.org"), &json!("0.1"))
    );
    assert_eq!((&again["count"], &again["errorCount"]), (&json!(1), &json!("1")));
    assert_eq!(again["alerts"][0]["kind"], "failed");
    // The recovery is a notice of its own, a minute later at the earliest.
    server.cli(["notify", "test", "--channel", "webhook"]).success().says("ok      post");
    server
        .cli(["notify", "test", "--to", "me@example.org", "--channel", "mail"])
        .exit(3)
        .says("no mail server");
    assert!(!server.log().contains("hunter2"));
}

#[test]
fn a_web_hook_that_is_not_wanted_is_given_up() {
    let web = WebServer::start(&["302 Found\r\nLocation: http://127.0.0.1:1/elsewhere"]);
    let server = led(Folder::new(), &["--http_notification_url", &web.url]);
    server.put(by_hand("backup", "exit 3"));
    server.cli(["run", "backup"]).success();
    wait_for_states(&server, &["givenUp"]);
    assert_eq!(web.posts().len(), 1);
    server.cli(["notify", "list"]).success().says("302");
}

/// The receivers of old: each gets one message for each notice, in the form that Chronos had, also when a job is deleted.
#[test]
fn slack_mattermost_and_sentry_are_told_once_each() {
    let [slack, mattermost, sentry] = [(); 3].map(|()| WebServer::start(&["200 OK"]));
    let dsn = sentry.url.replace("http://", "http://public:hunter2@").replace("/hook", "/7");
    let flags = ["--slack_url", &slack.url, "--mattermost_url", &mattermost.url, "--raven_dsn", &dsn];
    let server = led(Folder::new(), &[&flags[..], &["--cluster_name", "größe"]].concat());
    let mut job = owned("backup", "echo '<!channel> @all' >&2; exit 3");
    job["owner"] = "one@example.org, two@example.org".into();
    server.put(job);
    server.cli(["run", "backup"]).success();
    let subject = "[größe] [Chronos] job 'backup' failed!";
    for (web, mention) in [(&slack, "&lt;!channel&gt; @all"), (&mattermost, "<!channel> @\u{200b}all")] {
        let posts = web.wait_for("it is told", |posts| !posts.is_empty());
        let text = posts[0].json()["text"].as_str().unwrap().to_owned();
        assert!(text.starts_with(&format!("{subject}: ")), "{text}");
        assert!(text.contains(mention), "{text}");
        assert!(
            posts[0].head.to_ascii_lowercase().contains("content-type: application/json"),
            "{}",
            posts[0].head
        );
    }
    let events = sentry.wait_for("it is told", |posts| !posts.is_empty());
    assert!(events[0].head.starts_with("POST /api/7/store/ "), "{}", events[0].head);
    let auth = "x-sentry-auth: sentry sentry_version=7, sentry_client=chronos/";
    let head = events[0].head.to_ascii_lowercase();
    assert!(head.contains(auth) && head.contains("sentry_key=public, sentry_secret=hunter2"), "{head}");
    let event = events[0].json();
    assert_eq!((&event["level"], &event["tags"]["job"]), (&json!("error"), &json!("backup")));
    assert_eq!(event["tags"]["owner"], "one@example.org, two@example.org");
    assert!(event["message"].as_str().unwrap().starts_with(&format!("{subject}\n\n")), "{event}");
    assert_eq!(
        (&event["extra"]["errorCount"], &event["extra"]["cpus"]),
        (&json!("1"), &json!("0.1")),
        "{event}"
    );
    assert_eq!(event["event_id"].as_str().unwrap().len(), 32);
    assert_eq!(event["fingerprint"], json!(["chronos", "größe", "backup", "failed"]));
    wait_for_states(&server, &["delivered", "delivered", "delivered"]);
    for web in [&slack, &mattermost, &sentry] {
        assert_eq!(web.posts().len(), 1, "one message, whoever the owners are");
    }
    for channel in ["slack", "mattermost", "sentry"] {
        server.cli(["notify", "test", "--channel", channel]).success().says("ok      post");
    }
    assert!(!server.log().contains("hunter2"));
}

/// Of a deleted job Chronos posted an empty object to Slack, and its callback had what the job had been.
#[test]
fn that_a_job_was_deleted_is_told_with_what_it_was() {
    let [slack, hook] = [(); 2].map(|()| WebServer::start(&["503 Service Unavailable", "200 OK"]));
    let flags = ["--slack_url", &slack.url, "--http_notification_url", &hook.url];
    let server = led(Folder::new(), &flags);
    server.put(owned("backup", "make-backup"));
    server.cli(["delete", "backup"]).success();
    let posts = slack.wait_for("it was posted again", |posts| posts.len() == 2);
    let text = posts[1].json()["text"].as_str().unwrap().to_owned();
    assert!(text.starts_with("[Chronos] Your job 'backup' was deleted!: "), "{text}");
    let body = hook.wait_for("it was posted again", |posts| posts.len() == 2)[1].json();
    assert_eq!(
        (&body["subject"], &body["job"], &body["command"], &body["to"]),
        (
            &json!("[Chronos] Your job 'backup' was deleted!"),
            &json!("backup"),
            &json!("make-backup"),
            &json!("ops@example.org")
        )
    );
    assert_eq!(body["alerts"][0]["kind"], "deleted");
    wait_for_states(&server, &["delivered", "delivered"]);
}

/// A server with both channels, and what has come by them.
struct Told {
    server: TestServer,
    mail: MailServer,
    web: WebServer,
    flags: Vec<String>,
}

impl Told {
    /// None where there is no mail server, which has been said.
    fn start(more: &[&str]) -> Option<Self> {
        if !is_here() {
            return None;
        }
        let folder = Folder::new();
        let (mail, web) = (MailServer::start(&folder, &[]), WebServer::start(&["200 OK"]));
        let address = mail.address();
        let flags =
            ["--mail_server", &address, "--mail_from", "chronos@example.org", "--http_notification_url"];
        let flags = [&flags[..], &[web.url.as_str()], more].concat();
        let server = led(folder, &flags);
        let flags = flags.into_iter().map(Into::into).collect();
        Some(Self { server, mail, web, flags })
    }

    /// As a power cut would end it; once nobody was there `until` then, another one begins.
    fn outage(self, until: jiff::Timestamp) -> Self {
        let folder = self.server.kill();
        crate::wait::until("the outage is over", || (jiff::Timestamp::now() > until).then_some(()));
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        Self { server: led(folder, &flags), ..self }
    }

    /// One alert of this kind by each channel, first of all: the mail with this subject, and what the web hook says of it.
    #[track_caller]
    fn alert(&self, kind: &str, subject: &str) -> Value {
        let mails = self.mail.wait_for(&format!("a mail: {kind}"), |mails| !mails.is_empty());
        let mail = &mails[0];
        assert_eq!((mail.header("Subject"), &mail.0["to"]), (subject, &json!(["ops@example.org"])));
        let posts = self.web.wait_for(&format!("a post: {kind}"), |posts| !posts.is_empty());
        let post = posts[0].json();
        assert_eq!((post["subject"].as_str(), &post["count"]), (Some(subject), &json!(1)), "{post}");
        assert_eq!(
            (&post["counts"], &post["to"]),
            (&json!({ kind: 1 }), &json!("ops@example.org")),
            "{post}"
        );
        let alert = post["alerts"][0].clone();
        assert_eq!((&alert["kind"], &alert["job"]), (&json!(kind), &post["job"]), "{post}");
        let detail = alert["detail"].as_str().expect("it says more");
        assert!(mail.text().contains(detail), "{detail:?} is not in {}", mail.text());
        alert
    }

    /// Nothing else was told, or is about to be.
    #[track_caller]
    fn nothing_else(&self) {
        let notices = self.server.get_json("/v1/notices");
        let notices = notices["notices"].as_array().unwrap();
        let counts: Vec<u64> = notices.iter().map(|notice| notice["count"].as_u64().unwrap()).collect();
        assert_eq!(counts, [1, 1], "one by each channel: {notices:?}");
        wait_for_states(&self.server, &["delivered", "delivered"]);
        assert_eq!((self.mail.mails().len(), self.web.posts().len()), (1, 1));
    }
}

#[test]
fn a_run_that_cannot_start_in_time_is_late_and_says_so_once() {
    let Some(told) = Told::start(&["--running_max", "1"]) else { return };
    let go = told.server.folder.path().join("go");
    told.server.put(by_hand("long", &format!("until [ -e '{}' ]; do sleep 0.05; done", go.display())));
    told.server.cli(["run", "long"]).success();
    told.server.wait_for_run("long", "it runs", |run| run["state"] == "running");
    let mut job = owned("report", "true");
    job["alerts"] = json!({ "lateAfter": "1s" });
    told.server.put(job);
    told.server.cli(["run", "report"]).success();
    let alert = told.alert("late", "[Chronos] job 'report' is late");
    let waits = told.server.wait_for_run("report", "it waits", |run| run["state"] == "queued");
    assert_eq!((&alert["run"], &alert["due"]), (&waits["key"], &waits["due"]));
    assert_eq!(alert["detail"], "has not started 1 s after its due time");
    std::fs::write(go, "").unwrap();
    told.server.wait_for("report", "succeeded");
    told.nothing_else();
}

#[test]
fn slots_of_an_outage_are_told_as_missed() {
    let Some(told) = Told::start(&[]) else { return };
    let mut job = owned("poll", "true");
    let start = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + 6).unwrap();
    // The last of them is over before anybody is there again, so nothing else comes of it.
    job["schedule"] = format!("R4/{start}/PT1S").into();
    job["catchUp"] = "none".into();
    job["epsilon"] = "PT1S".into();
    told.server.put(job);
    let told = told.outage(start + jiff::SignedDuration::from_secs(5));
    let alert = told.alert("missed", "[Chronos] job 'poll' missed 4 slots");
    let due = start + jiff::SignedDuration::from_secs(3);
    assert_eq!((&alert["slots"], &alert["run"]), (&json!(4), &Value::Null));
    assert_eq!(alert["due"], format!("{due:.3}"));
    assert_eq!(alert["detail"], "4 slots not run: nobody was there at its due time");
    told.nothing_else();
}

#[test]
fn the_first_success_after_failures_is_told_as_recovery() {
    let Some(told) = Told::start(&[]) else { return };
    let mended = told.server.folder.path().join("mended");
    let mut job = owned("backup", &format!("[ -e '{}' ]", mended.display()));
    // What is told of the failures would come first, and the recovery behind it a minute later.
    job["alerts"] = json!({ "on": ["recovered"] });
    told.server.put(job);
    let run = |outcome: &str| {
        let key = told.server.cli(["run", "backup", "--output", "json"]).success().json()["run"].clone();
        told.server.wait_for_run("backup", outcome, |run| run["key"] == key && run["outcome"] == outcome)
    };
    run("failed");
    run("failed");
    std::fs::write(mended, "").unwrap();
    let recovery = run("succeeded");
    let alert = told.alert("recovered", "[Chronos] job 'backup' recovered");
    assert_eq!((&alert["run"], &alert["due"]), (&recovery["key"], &recovery["due"]));
    assert_eq!(alert["detail"], "succeeded after 2 failed runs");
    run("succeeded");
    told.nothing_else();
}

#[test]
fn an_attempt_that_runs_long_is_told_while_it_runs_and_goes_on() {
    let Some(told) = Told::start(&[]) else { return };
    let go = told.server.folder.path().join("go");
    let command = format!("until [ -e '{}' ]; do sleep 0.05; done", go.display());
    let mut job = owned("report", &command);
    job["alerts"] = json!({ "longRunningAfter": "1s" });
    told.server.put(job);
    told.server.cli(["run", "report"]).success();
    let alert = told.alert("longRunning", "[Chronos] job 'report' runs long");
    let runs = told.server.wait_for_run("report", "it runs on", |run| run["state"] == "running");
    assert_eq!((&alert["run"], &alert["due"]), (&runs["key"], &runs["due"]));
    assert_eq!(alert["detail"], "attempt 0 has been running for 1 s");
    std::fs::write(go, "").unwrap();
    told.server.wait_for("report", "succeeded");
    told.nothing_else();
}
