//! TLS to PostgreSQL, with the modes of libpq.
#![cfg(feature = "postgres")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use store::postgres::PostgresOptions;
use store::{Store, StoreError};
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

/// An authority, and a certificate of its for this name.
fn certificates(folder: &Path, authority: &str, name: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2";
    openssl(
        folder,
        &format!("req -x509 {key} -subj /CN={authority} -keyout {authority}.key -out {authority}.crt"),
    );
    openssl(
        folder,
        &format!(
            "req -x509 {key} -subj /CN=server -addext subjectAltName={name} -addext basicConstraints=critical,CA:FALSE \
             -CA {authority}.crt -CAkey {authority}.key -keyout server.key -out server.crt"
        ),
    );
    use std::os::unix::fs::PermissionsExt;
    // The user that the server runs as copies it.
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(folder.join("server.key"), readable).expect("it is ours");
}

/// Whether a question is answered, with these options of the URL.
async fn asked(server: &Postgresd, host: &str, options: &str) -> Result<(), String> {
    let url = format!("{}?{options}", server.url().replacen("127.0.0.1", host, 1));
    let store = store::postgres::open(&PostgresOptions::new(url)).map_err(|error| error.to_string())?;
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
    certificates(&folder, "stranger", "DNS:elsewhere");
    certificates(&folder, "authority", "DNS:localhost");
    server.order("tls").expect("it speaks TLS");
    let hosts = "hostnossl all all 127.0.0.1/32 reject\nhostssl all all 127.0.0.1/32 trust\n";
    std::fs::write(folder.join("data/pg_hba.conf"), hosts).expect("it can be written");
    server.order("stop").expect("it stops");
    server.order("start").err();
    let file = |name: &str| folder.join(name).display().to_string().replace('/', "%2F");
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
