//! TLS to PostgreSQL, with the modes of libpq.
#![cfg(feature = "postgres")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use scheduler::ids::Seq;
use scheduler::state::Change;
use store::postgres::{PostgresOptions, PostgresStore};
use store::{Candidate, Store, StoreError, samples};
use tokio::time::timeout;

#[path = "../testing/postgresd.rs"]
mod postgresd;

use postgresd::{Postgresd, skip};

/// Runs openssl in a folder.
fn openssl(folder: &Path, line: &str) {
    let done = Command::new("openssl")
        .args(line.split_whitespace())
        .current_dir(folder)
        .stderr(Stdio::null())
        .status();
    assert!(done.expect("openssl is here").success(), "{line}");
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2";

/// An authority, with `AUTHORITY.crt` and `AUTHORITY.key`.
fn authority(folder: &Path, authority: &str) {
    openssl(
        folder,
        &format!("req -x509 {KEY} -subj /CN={authority} -keyout {authority}.key -out {authority}.crt"),
    );
}

/// A certificate that an authority has given to this one, with `OWNER.crt` and `OWNER.key`.
fn certificate(folder: &Path, authority: &str, owner: &str, names: &str) {
    openssl(
        folder,
        &format!(
            "req -x509 {KEY} -subj /CN={owner} -addext subjectAltName={names} -addext basicConstraints=critical,CA:FALSE \
             -CA {authority}.crt -CAkey {authority}.key -keyout {owner}.key -out {owner}.crt"
        ),
    );
    use std::os::unix::fs::PermissionsExt;
    // The user that the server runs as copies it.
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(folder.join(format!("{owner}.key")), readable).expect("it is ours");
}

/// Who may come in, from when the server has begun anew.
fn admit(server: &mut Postgresd, hosts: &str) {
    std::fs::write(server.folder().join("data/pg_hba.conf"), hosts).expect("it can be written");
    server.order("stop").expect("it stops");
    // It is asked by the user that is let in no more, perhaps.
    server.order("start").err();
}

/// The store, by these options of the URL.
fn open(server: &Postgresd, host: &str, options: &str) -> Result<PostgresStore, String> {
    let url = format!("{}?{options}", server.url().replacen("127.0.0.1", host, 1));
    store::postgres::open(&PostgresOptions::new(url)).map_err(|error| error.to_string())
}

/// Whether a question is answered, with these options of the URL.
async fn asked(server: &Postgresd, host: &str, options: &str) -> Result<(), String> {
    let store = open(server, host, options)?;
    match timeout(Duration::from_secs(60), store.clock_ahead()).await.expect("it is answered") {
        Ok(_) => Ok(()),
        Err(StoreError::Unavailable(why)) => Err(why),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_as_the_mode_says() {
    let mut server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let folder = server.folder();
    // Without TLS at the server, who asks for it gets nothing.
    for (mode, answered) in [("disable", true), ("prefer", true), ("require", false), ("verify-full", false)]
    {
        let answer = asked(&server, "127.0.0.1", &format!("sslmode={mode}")).await;
        assert_eq!(answer.is_ok(), answered, "{mode}: {answer:?}");
    }
    authority(&folder, "stranger");
    authority(&folder, "authority");
    certificate(&folder, "authority", "server", "DNS:localhost");
    server.order("tls").expect("it speaks TLS");
    admit(&mut server, "hostnossl all all 127.0.0.1/32 reject\nhostssl all all 127.0.0.1/32 trust\n");
    let file = |name: &str| file(&folder, name);
    let (ours, other) = (file("authority.crt"), file("stranger.crt"));
    for (host, options, refusal) in [
        ("localhost", "sslmode=disable".to_owned(), Some("no encryption")),
        ("localhost", "sslmode=prefer".to_owned(), None),
        ("localhost", "sslmode=require".to_owned(), None),
        ("localhost", format!("sslmode=verify-full&sslrootcert={ours}"), None),
        // Another name than that of the certificate.
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={ours}"), None),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ours}"), Some("not valid for name")),
        // Another authority.
        ("localhost", format!("sslmode=verify-full&sslrootcert={other}"), Some("certificate")),
        ("localhost", format!("sslmode=verify-ca&sslrootcert={other}"), Some("certificate")),
        ("localhost", format!("sslmode=require&sslrootcert={other}"), Some("certificate")),
        ("localhost", "sslmode=verify-full".to_owned(), Some("certificate")),
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={}", file("nowhere.crt")),
            Some("nowhere.crt"),
        ),
    ] {
        match (asked(&server, host, &options).await, refusal) {
            (Ok(()), None) => {}
            (Err(why), Some(refusal)) => assert!(why.contains(refusal), "{host} {options}: {why}"),
            (answer, _) => panic!("{host} {options}: {answer:?}"),
        }
    }
}

/// A file in a folder, as a URL names it.
fn file(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string().replace('/', "%2F")
}

/// All that a leader does, and not a question alone, where the server asks for a certificate of the client.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_certificate_leads_and_nobody_else() {
    let mut server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let folder = server.folder();
    authority(&folder, "stranger");
    authority(&folder, "authority");
    certificate(&folder, "authority", "server", "DNS:localhost");
    certificate(&folder, "stranger", "postgres", "DNS:elsewhere");
    let [strange_key, strange] = ["strange.key", "strange.crt"].map(|name| folder.join(name));
    std::fs::rename(folder.join("postgres.key"), strange_key).expect("it is there");
    std::fs::rename(folder.join("postgres.crt"), strange).expect("it is there");
    certificate(&folder, "authority", "postgres", "DNS:ours");
    certificate(&folder, "authority", "other", "DNS:ours");
    let settings = folder.join("data/postgresql.conf");
    let mut text = std::fs::read_to_string(&settings).expect("it is there");
    text.push_str(&format!("ssl_ca_file = '{}'\n", folder.join("authority.crt").display()));
    std::fs::write(&settings, text).expect("it can be written");
    server.order("tls").expect("it speaks TLS");
    admit(&mut server, "hostssl all all 127.0.0.1/32 cert\n");
    let checked = format!("sslmode=verify-full&sslrootcert={}", file(&folder, "authority.crt"));
    let with = |certificate: &str, key: &str| {
        format!("{checked}&sslcert={}&sslkey={}", file(&folder, certificate), file(&folder, key))
    };
    for (options, refusal) in [
        // The first is of no authority that the server trusts, the second of another user.
        (with("strange.crt", "strange.key"), "unknownca"),
        (with("other.crt", "other.key"), "certificate authentication failed for user"),
        (checked.clone(), "certificate"),
        (format!("{checked}&sslcert={}", file(&folder, "postgres.crt")), "`sslkey` need each other"),
        (format!("{checked}&sslkey={}", file(&folder, "postgres.key")), "`sslkey` need each other"),
        (with("postgres.crt", "nowhere.key"), "nowhere.key"),
        (with("postgres.key", "postgres.key"), "postgres.key"),
    ] {
        let refused = asked(&server, "localhost", &options).await.expect_err(&options);
        assert!(refused.to_lowercase().contains(refusal), "{options}: {refused}");
    }
    let ours = with("postgres.crt", "postgres.key");
    let store = open(&server, "localhost", &ours).expect("they can be read");
    let candidate = Candidate { node: "a".into(), ..Candidate::default() };
    let within = Duration::from_secs(60);
    let term = timeout(within, store.begin_term(&candidate)).await.expect("in time").expect("it leads");
    for n in 1..=20 {
        let changes = [Change::PutJob(Arc::new(samples::job(n)))];
        let committed = timeout(within, store.commit(term.epoch, Seq(term.seq.0 + n), &changes));
        committed.await.expect("in time").expect("it leads");
    }
    let other = open(&server, "localhost", &ours).expect("they can be read");
    let (state, loaded) = timeout(within, other.load()).await.expect("in time").expect("it can be loaded");
    assert_eq!((state.jobs.len(), loaded.seq), (20, Seq(term.seq.0 + 20)));
    assert_eq!(
        timeout(within, other.follow(term.seq)).await.expect("in time").map(|batches| batches.len()),
        Ok(20)
    );
    let (to, mut from) = tokio::sync::mpsc::channel::<Vec<u8>>(2);
    let pieces = async {
        let mut bytes = 0;
        while let Some(piece) = from.recv().await {
            bytes += piece.len();
        }
        bytes
    };
    let (done, bytes) = tokio::join!(other.backup(store::backup::Extent::Everything, to), pieces);
    done.expect("it is taken");
    assert!(bytes > 1000, "{bytes} bytes");
}
