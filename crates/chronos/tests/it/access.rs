//! Who may ask, and over what: logins, HTTPS, the audit, and the command line of Chronos.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::http;
use crate::mail_server::certificate;
use crate::server::{Ended, Folder, TestServer, by_hand, client_command, server_command, signal_process};
use crate::skip::skip;
use crate::wait;

fn has(program: &str, args: &[&str]) -> bool {
    let works = Command::new(program).args(args).output().is_ok_and(|output| output.status.success());
    if !works {
        skip("access", if program == "keytool" { "keytool is not here" } else { "openssl is not here" });
    }
    works
}

/// The command line towards a URL, with more in its environment.
fn cli(folder: &Folder, url: &str, env: &[(&str, &str)], args: &[&str]) -> Ended {
    let mut command = client_command();
    command.env("CHRONOS_SERVER", url).env("HOME", folder.path()).env_remove("NETRC");
    command.envs(env.iter().copied()).args(args).current_dir(folder.path());
    Ended::of(&mut command)
}

/// A server that does not come to listen.
#[track_caller]
fn refused(folder: &Folder, env: &[(&str, &str)], args: &[&str]) -> Ended {
    let mut command = client_command();
    command
        .args(args)
        .arg("--data_dir")
        .arg(folder.data())
        .envs(env.iter().copied())
        .current_dir(folder.path());
    Ended::of(&mut command).exit(2)
}

fn guarded(folder: Arc<Folder>, flags: &[&str]) -> TestServer {
    let server = TestServer::launch(folder, &[&["--http_credentials", "ops:hunter2"], flags].concat());
    wait_until_it_leads(&server);
    server
}

const LOGIN: &str = "Authorization: Basic b3BzOmh1bnRlcjI=";

fn wait_until_it_leads(server: &TestServer) {
    wait::until("the server leads", || {
        let ready = http::send(&server.address, "GET", "/ready", &[LOGIN], b"")?;
        (ready.status == 200 && ready.json()["role"] == "leading").then_some(())
    });
}

/// The port of HTTPS, which comes after that of HTTP.
fn https_port(server: &TestServer) -> String {
    wait::until("HTTPS is listened to", || {
        let log = server.log();
        let line = log.lines().find(|line| line.contains("scheme=https"))?;
        let address = line.split("address=").nth(1)?.split(' ').next()?;
        Some(address.rsplit(':').next()?.to_owned())
    })
}

#[test]
fn a_login_is_needed_and_the_command_line_has_three_ways_to_give_it() {
    let folder = Folder::new();
    let server = guarded(folder.clone(), &[]);
    let url = format!("http://{}", server.address);
    cli(&folder, &url, &[], &["jobs"]).exit(3).says("wants a name and a password");
    cli(&folder, &url, &[("CHRONOS_USER", "ops:wrong")], &["jobs"])
        .exit(3)
        .says("name or password are wrong");
    cli(&folder, &url, &[("CHRONOS_USER", "ops:hunter2")], &["jobs"]).success();
    cli(&folder, &url, &[], &["jobs", "--user", "ops:hunter2"]).success();
    cli(&folder, &format!("http://ops:hunter2@{}", server.address), &[], &["jobs"]).success();
    cli(&folder, &url, &[], &["jobs", "--user", "ops"]).exit(2).says("there is no password for `ops`");
    folder.file(".netrc", "machine 127.0.0.1 login ops password hunter2\n");
    cli(&folder, &url, &[], &["jobs"]).success();
    cli(&folder, &url, &[], &["jobs", "--user", "ops"]).success();
    assert_eq!(server.get("/ping").unwrap().status, 200);
    assert!(!server.log().contains("hunter2"));
    // Nobody is told the password of a URL that does not answer.
    let nobody = cli(&folder, "http://ops:hunter2@127.0.0.1:1", &[], &["jobs"]).exit(4);
    assert!(!nobody.stderr_text().contains("hunter2"), "{}", nobody.stderr_text());
}

#[test]
fn credentials_that_are_none_open_no_door() {
    let folder = Folder::new();
    for bad in ["ops", ":", "ops:", ":hunter2", ""] {
        refused(&folder, &[], &["server", "--http_port", "0", "--http_credentials", bad])
            .says("write `user:password`");
        let old = [("MESOSPHERE_HTTP_CREDENTIALS", bad)];
        refused(&folder, &old, &["run_jar", "--http_port", "0"]).says("write `user:password`");
    }
    refused(&folder, &[], &["run_jar", "--http_port", "0"]).says("--http_credentials");
    let told = refused(&folder, &[], &["server", "--http_credentials", "hunter2"]);
    assert!(!told.stderr_text().contains("hunter2"), "{}", told.stderr_text());
}

#[test]
fn the_audit_tells_who_did_what_also_after_a_crash() {
    let folder = Folder::new();
    let server = guarded(folder.clone(), &[]);
    let url = format!("http://{}", server.address);
    let login = [("CHRONOS_USER", "ops:hunter2")];
    let mut job = by_hand("nightly", "true");
    job["environmentVariables"] = json!([{"name": "TOKEN", "value": "s3cret"}]);
    folder.file("nightly.json", &job.to_string());
    cli(&folder, &url, &login, &["apply", "nightly.json"]).success();
    job["command"] = "false".into();
    folder.file("nightly.json", &job.to_string());
    cli(&folder, &url, &login, &["apply", "nightly.json"]).success();
    cli(&folder, &url, &login, &["pause", "nightly", "--reason", "disk"]).success();
    let server = guarded(server.kill(), &[]);
    let url = format!("http://{}", server.address);
    let table = cli(&folder, &url, &login, &["audit", "nightly"]).success().stdout_text();
    for part in
        ["ops", "127.0.0.1", "paused", "reason disk", "version 1 to 2: command true to false", "version 1"]
    {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    let list = cli(&folder, &url, &login, &["audit", "--output", "json"]).success().json();
    assert_eq!(list.as_array().unwrap().len(), 3, "{list}");
    assert!(!table.contains("s3cret") && !list.to_string().contains("s3cret"));
    // A restore is in what was restored.
    cli(&folder, &url, &login, &["backup", "all.jsonl"]).success();
    cli(&folder, &url, &login, &["delete", "nightly"]).success();
    cli(&folder, &url, &login, &["restore", "all.jsonl", "--yes"]).success();
    let acts = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|entry| entry["act"].as_str().unwrap().to_owned()).collect()
    };
    let list = cli(&folder, &url, &login, &["audit", "--output", "json", "-n", "2"]).success().json();
    assert_eq!(
        acts(&list),
        ["restoredStore", "paused"],
        "what the backup does not know is gone, and that it is is known"
    );
}

fn openssl(folder: &Folder, args: &[&str]) {
    let done = Command::new("openssl").args(args).current_dir(folder.path()).output().unwrap();
    assert!(done.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Waits until HTTPS is answered by a server whose certificate is trusted.
fn answers_https(folder: &Folder, server: &TestServer, ca: &Path) {
    let url = format!("https://localhost:{}", https_port(server));
    let env = [("CHRONOS_USER", "ops:hunter2"), ("CHRONOS_CA_FILE", ca.to_str().unwrap())];
    cli(folder, &url, &env, &["jobs"]).success();
}

#[test]
fn https_is_spoken_with_files_of_pem_and_renewed_without_a_restart() {
    if !has("openssl", &["version"]) {
        return;
    }
    let folder = Folder::new();
    let (ca, cert, key) = certificate(&folder);
    let [cert_path, key_path] = [&cert, &key].map(|path| path.to_str().unwrap());
    let server =
        guarded(folder.clone(), &["--https_port", "0", "--tls_cert", cert_path, "--tls_key", key_path]);
    answers_https(&folder, &server, &ca);
    let url = format!("https://localhost:{}", https_port(&server));
    let login = ("CHRONOS_USER", "ops:hunter2");
    cli(&folder, &url, &[login], &["jobs"]).exit(4).says("--ca_file");
    // A client that speaks no TLS harms nobody.
    assert!(http::send(&url["https://".len()..], "GET", "/ping", &[], b"").is_none());

    // What is of no use is not taken, and the old one stays.
    std::fs::copy(&cert, folder.path().join("cert.good")).unwrap();
    folder.file("cert.pem", "nothing");
    signal_process(server.pid(), "-HUP");
    wait::until("it was refused", || server.log().contains("the old one is still used").then_some(()));
    answers_https(&folder, &server, &ca);
    // Another authority: who trusts only the old one does not trust the new certificate.
    std::fs::copy(&ca, folder.path().join("old-ca.pem")).unwrap();
    let (ca, ..) = certificate(&folder);
    signal_process(server.pid(), "-HUP");
    wait::until("it was read", || server.log().contains("read the certificate again").then_some(()));
    answers_https(&folder, &server, &ca);
    let old = folder.path().join("old-ca.pem");
    cli(&folder, &url, &[login, ("CHRONOS_CA_FILE", old.to_str().unwrap())], &["jobs"])
        .exit(4)
        .says("certificate");
}

/// Nobody has signed it for the machine, and it is for no address of theirs; that both show it is enough.
#[test]
fn nodes_that_share_a_certificate_trust_each_other_and_no_other() {
    if !has("openssl", &["version"]) {
        return;
    }
    let folder = Folder::new();
    let (_, cert, key) = certificate(&folder);
    let [cert, key] = [&cert, &key].map(|path| path.to_str().unwrap());
    let https = ["--https_port", "0", "--tls_cert", cert, "--tls_key", key];
    let flags = [&["--http_credentials", "ops:hunter2"], &https[..]].concat();
    let first = guarded(folder.clone(), &https);
    let second = TestServer::launch(folder.clone(), &flags);
    wait::until("passwords go over HTTPS", || second.log().contains("the leader answers").then_some(()));
    assert!(second.log().contains("at=https://127.0.0.1:"), "{}", second.log());
    let job = by_hand("through", "true").to_string();
    let headers = [LOGIN, "Content-Type: application/json"];
    let made = wait::until("it is handed on", || {
        let path = "/v1/scheduler/iso8601";
        let made = http::send(&second.address, "POST", path, &headers, job.as_bytes())?;
        (made.status == 204).then_some(made)
    });
    assert!(made.head.contains(&format!(".{}", first.pid())), "{}", made.head);
    // One that shows another certificate is not one of them.
    let other = Folder::new();
    let (_, cert, key) = certificate(&other);
    let [cert, key] = [&cert, &key].map(|path| path.to_str().unwrap());
    let third =
        ["--http_credentials", "ops:hunter2", "--https_port", "0", "--tls_cert", cert, "--tls_key", key];
    let third = TestServer::launch(folder.clone(), &third);
    let log = wait::until("it does not send its password another way", || {
        Some(third.log()).filter(|log| log.contains("the leader does not answer this node"))
    });
    assert!(log.contains("certificate"), "{log}");
}

/// As they were made over the years: by openssl with the ciphers of old and of now, and by keytool.
#[test]
fn key_stores_are_read_as_openssl_and_keytool_write_them() {
    if !has("openssl", &["version"]) {
        return;
    }
    let mut folder = Folder::new();
    let (ca, ..) = certificate(&folder);
    let export = [
        "pkcs12",
        "-export",
        "-in",
        "cert.pem",
        "-inkey",
        "key.pem",
        "-certfile",
        "ca.pem",
        "-passout",
        "pass:s3cret",
    ];
    openssl(&folder, &[&export[..], &["-out", "modern.p12"]].concat());
    let mut stores = vec!["modern.p12"];
    let old = [&export[..], &["-legacy", "-descert", "-out", "legacy-3des.p12"]].concat();
    openssl(&folder, &old);
    stores.push("legacy-3des.p12");
    openssl(&folder, &[&export[..], &["-legacy", "-out", "legacy-rc2.p12"]].concat());
    stores.push("legacy-rc2.p12");
    if has("keytool", &["-help"]) {
        let args = [
            "-importkeystore",
            "-noprompt",
            "-srckeystore",
            "modern.p12",
            "-srcstorepass",
            "s3cret",
            "-srcstoretype",
            "PKCS12",
            "-destkeystore",
            "keytool.p12",
            "-deststorepass",
            "s3cret",
            "-deststoretype",
            "PKCS12",
        ];
        let done = Command::new("keytool").args(args).current_dir(folder.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        stores.push("keytool.p12");
    }
    for store in stores {
        let mut command =
            server_command(&folder, &["--http_credentials", "ops:hunter2", "--https_port", "0"]);
        // As Chronos was told.
        command
            .env("MESOSPHERE_KEYSTORE_PATH", folder.path().join(store))
            .env("MESOSPHERE_KEYSTORE_PASS", "s3cret");
        let server = TestServer::launch_command(folder.clone(), command);
        answers_https(&folder, &server, &ca);
        assert!(!server.log().contains("s3cret"));
        (folder, _) = server.terminate();
        std::fs::remove_file(folder.path().join("log")).unwrap();
    }
}

#[test]
fn certificates_that_are_of_no_use_are_told_at_the_start() {
    if !has("openssl", &["version"]) {
        return;
    }
    let folder = Folder::new();
    certificate(&folder);
    openssl(
        &folder,
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "other.pem"],
    );
    openssl(&folder, &["pkey", "-in", "key.pem", "-aes256", "-passout", "pass:x", "-out", "locked.pem"]);
    let dates = ["-not_before", "20200101000000Z", "-not_after", "20200102000000Z"];
    let expired =
        ["x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    // Older versions of openssl cannot make one of the past, and make one that ends at once instead.
    let made = Command::new("openssl")
        .args([&expired[..], &dates[..], &["-out", "expired.pem"]].concat())
        .current_dir(folder.path())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    if !made.success() {
        openssl(&folder, &[&expired[..], &["-days", "-1", "-out", "expired.pem"]].concat());
    }
    openssl(
        &folder,
        &[
            "pkcs12",
            "-export",
            "-in",
            "cert.pem",
            "-inkey",
            "key.pem",
            "-passout",
            "pass:right",
            "-out",
            "s.p12",
        ],
    );
    openssl(
        &folder,
        &["pkcs12", "-export", "-nokeys", "-in", "cert.pem", "-passout", "pass:right", "-out", "keyless.p12"],
    );
    std::fs::write(folder.path().join("old.jks"), [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2]).unwrap();
    folder.file("empty.pem", "");
    let pem = |cert: &str, key: &str, says: &[&str]| {
        let args = ["server", "--check-config", "--tls_cert", cert, "--tls_key", key];
        let told = refused(&folder, &[], &args).stderr_text();
        assert!(says.iter().all(|part| told.contains(part)), "{cert} {key}: {says:?}\n{told}");
    };
    pem("expired.pem", "key.pem", &["was valid until 20", "hint: renew it"]);
    pem("cert.pem", "other.pem", &["`other.pem` does not belong to the certificate in `cert.pem`"]);
    pem("cert.pem", "locked.pem", &["protected by a password", "openssl pkey"]);
    pem("cert.pem", "cert.pem", &["there is no key (PEM) in `cert.pem`"]);
    pem("key.pem", "key.pem", &["there is no certificate (PEM) in `key.pem`"]);
    pem("empty.pem", "key.pem", &["there is no certificate"]);
    pem("nowhere.pem", "key.pem", &["cannot read `nowhere.pem`"]);
    let store = |path: &str, password: &str, says: &[&str]| {
        let args =
            ["server", "--check-config", "--ssl_keystore_path", path, "--ssl_keystore_password", password];
        let told = refused(&folder, &[], &args).stderr_text();
        assert!(says.iter().all(|part| told.contains(part)), "{path}: {says:?}\n{told}");
        assert!(!told.contains("wr0ng"), "{told}");
    };
    store("s.p12", "wr0ng", &["cannot be opened with this password", "MESOSPHERE_KEYSTORE_PASS"]);
    store("keyless.p12", "right", &["no key"]);
    store("old.jks", "right", &["JKS", "keytool -importkeystore"]);
    store("cert.pem", "right", &["is not a key store (PKCS#12)"]);
}

#[test]
fn the_command_line_of_chronos_is_taken() {
    let folder = Folder::new();
    let old = [
        "run_jar",
        "--master",
        "zk://u:s3cret@z:2181/mesos",
        "-z",
        "z:2181",
        "--http_port",
        "0",
        "--hostname",
        "localhost",
    ];
    // A master means Mesos, and no password is shown.
    let told = client_command().args(old).arg("--check-config").output().expect("it runs");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let row = |name: &str| told.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(row("engine").contains("mesos") && row("master").contains("z:2181/mesos"), "{told}");
    assert!(!told.contains("s3cret"), "{told}");
    // Nor that of the command line's login, which is no user of tasks; and what does nothing is told here too.
    let mut command = client_command();
    command.args(old).args(["--check_config", "--zk_timeout", "60", "--assets_path", "x"]);
    let told = command.env("CHRONOS_USER", "ops:hunter2").output().expect("it runs");
    let (shown, told) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(!shown.contains("hunter2") && !told.contains("hunter2"), "{shown}{told}");
    assert!(told.contains("warning: --zk_timeout 60 is taken as 4000"), "{told}");
    assert!(told.contains("warning: --assets_path is taken and does nothing"), "{told}");
    // Every flag of the manual, in both spellings, and what is known here instead.
    let all = [
        "--store=sqlite",
        "--engine=local",
        "--http_credentials=ops:hunter2",
        "--http_address=127.0.0.1",
        "-u",
        "root",
        "-f",
        "604800",
        "--zk_path",
        "/chronos/state",
        "--zk_timeout=10000",
        "--zk_auth",
        "a:b",
        "-l",
        "5000",
        "--failure_retry",
        "60000",
        "-d",
        "3",
        "-t",
        "60",
        "--schedule_horizon",
        "60",
        "--mesos_task_cpu",
        "0.1",
        "--mesos_task_mem",
        "128.0",
        "--mesos_task_disk",
        "256",
        "--no-mesos_checkpoint",
        "--mesos_role",
        "*",
        "--mesos_framework_name",
        "chronos",
        "--webui_url",
        "http://x",
        "--reconciliation_interval",
        "600",
        "--mesos_authentication_principal",
        "p",
        "--mesos_authentication_secret_file",
        "f",
        "--revive_offers_for_new_jobs",
        "--decline_offer_duration",
        "5",
        "--min_revive_offers_interval",
        "5000",
        "--mail_ssl=false",
        "-g",
        "g:2003",
        "--graphite_reporting_interval",
        "60",
        "--graphite_group_prefix",
        "x",
        "-c",
        "c1,c2",
        "--cassandra_port",
        "9042",
        "--cassandra_user",
        "u",
        "--cassandra_password",
        "p",
        "--cassandra_keyspace",
        "k",
        "--cassandra_table",
        "t",
        "--cassandra_stat_count_table",
        "t",
        "--cassandra_consistency",
        "ANY",
        "--cassandra_ttl",
        "1",
        "-j",
        "2",
        "--http_compression",
        "--disable_http_compression",
        "--assets_path",
        "x",
        "--cluster-name",
        "prod",
        "--no-disable_http",
        "--http_realm",
        "R",
        "-m",
        "localhost:25",
        "--mail_from",
        "c@example.org",
        "-s",
        "http://127.0.0.1:1/s",
        "-h",
        "http://127.0.0.1:1/h",
        "-r",
        "http://key@127.0.0.1:1/7",
        "--mattermost_url",
        "http://127.0.0.1:1/m",
    ];
    let mut command = client_command();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    command.args(old).args(all).arg("--data_dir").arg(folder.data());
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let server = TestServer::launch_command(folder.clone(), command);
    wait_until_it_leads(&server);
    let log = server.log();
    for part in [
        "--failover_timeout has no effect: tasks do not run on Mesos",
        "--zk_hosts has no effect",
        "--graphite_host_port is taken and does nothing",
        "--mesos_checkpoint has no effect",
        "--revive_offers_for_new_jobs is taken and does nothing",
        "--http_compression is taken",
    ] {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }
    assert!(!log.contains("--http_port is taken"));
    let (folder, code) = server.terminate();
    assert_eq!(code, Some(0));
    // Mistakes are found all the same.
    refused(&folder, &[], &["run_jar", "--zk_timeout", "soon"]).says("invalid digit");
    refused(&folder, &[], &["server", "--store", "zookeeper", "--zk_timeout", "60"]).says("4000 to 300000");
    refused(&folder, &[], &["run_jar", "--user", "ops:hunter2"]).says("CHRONOS_USER");
    refused(&folder, &[], &["run_jar", "--zk_hosts", "localhost"]).says("a list of host:port is wanted");
    refused(&folder, &[], &["run_jar", "--zk_host", "x"]).says("--zk_hosts");
}

#[test]
fn what_the_flags_of_chronos_say_of_answers_is_heeded() {
    let packed = |server: &TestServer| {
        let answer = http::send(&server.address, "GET", "/openapi.json", &["Accept-Encoding: gzip"], b"");
        answer.expect("an answer").head.to_lowercase().contains("content-encoding: gzip")
    };
    for (flags, listed, compresses) in
        [(&["--job_history_limit", "2", "--disable_http_compression"][..], 2, false), (&[], 3, true)]
    {
        let server = TestServer::launch(Folder::new(), flags);
        server.wait_ready();
        assert_eq!(packed(&server), compresses, "{flags:?}");
        server.put(by_hand("a", "true"));
        for n in 1..=3 {
            server.cli(["run", "a"]).success();
            wait::until("it has run", || (server.runs("a").len() == n).then_some(()));
            wait::until("it has ended", || {
                server.runs("a").iter().all(|run| run["outcome"] == "succeeded").then_some(())
            });
        }
        let stat = server.get_json("/v1/scheduler/job/stat/a");
        assert_eq!(stat["taskStatHistory"].as_array().map(Vec::len), Some(listed), "{stat}");
    }
}

#[test]
fn defaults_are_those_of_old_and_each_is_told() {
    let folder = Folder::new();
    let mut command = client_command();
    command
        .args(["run_jar", "--check_config"])
        .env("MESOSPHERE_HTTP_CREDENTIALS", "ops:hunter2")
        .current_dir(folder.path());
    let told = Ended::of(&mut command).success().stdout_text();
    let line = |name: &str| {
        told.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_default().to_owned()
    };
    assert!(line("http_port").contains("8080") && line("http_address").contains("0.0.0.0"), "{told}");
    assert!(line("https_port").contains("8443") && line("http_realm").contains("Mesosphere"), "{told}");
    assert!(line("http_credentials").contains("environment MESOSPHERE_HTTP_CREDENTIALS"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn examples_are_applied_where_only_https_is_spoken() {
    if !has("openssl", &["version"]) {
        return;
    }
    let folder = Folder::new();
    let (ca, ..) = certificate(&folder);
    let examples: PathBuf = folder.path().join("examples");
    std::fs::create_dir(&examples).unwrap();
    std::fs::write(examples.join("a.json"), by_hand("example", "true").to_string()).unwrap();
    let mut command = server_command(
        &folder,
        &["--disable_http", "--https_port", "0", "--http_credentials", "ops:hunter2"],
    );
    command.args(["--tls_cert", "cert.pem", "--tls_key", "key.pem", "--examples", "examples"]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let log = || crate::server::log_of(&folder);
    let port = wait::until("it listens", || {
        let log = log();
        let line = log.lines().find(|line| line.contains("scheme=https"))?.to_owned();
        Some(line.split("address=127.0.0.1:").nth(1)?.split(' ').next()?.to_owned())
    });
    let env = [("CHRONOS_USER", "ops:hunter2"), ("CHRONOS_CA_FILE", ca.to_str().unwrap())];
    wait::until("the example is there", || {
        let jobs = cli(&folder, &format!("https://localhost:{port}"), &env, &["jobs", "--output", "json"]);
        jobs.stdout_text().contains("example").then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
}
