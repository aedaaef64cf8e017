//! What is refused, or taken as it is: settings, replicas, versions, options, schemas.

use super::*;

/// A commit that the server would forget is none.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_lose_commits_are_refused() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    // A role of its own, so that no other test meets the setting.
    let role = format!("role_{}", options.schema);
    admin(
        &url,
        &format!("CREATE ROLE {role} SUPERUSER LOGIN; ALTER ROLE {role} SET synchronous_commit = off"),
    )
    .await;
    let store = open(&by(&url.replacen("postgres@", &format!("{role}@"), 1), &options));
    let (waiting, trouble) = refused(&store).await;
    assert!(trouble.contains("synchronous_commit") && trouble.contains("ALTER ROLE"), "{trouble}");
    admin(&url, &format!("ALTER ROLE {role} SET synchronous_commit = on")).await;
    let term = within(waiting).await.expect("no panic").expect("it leads");
    assert_eq!(store.trouble(), None);
    // Turned off while it leads, it is turned on for every commit.
    admin(&url, &format!("ALTER ROLE {role} SET synchronous_commit = off")).await;
    let sql = format!(
        "SET synchronous_commit = off; BEGIN; SELECT \"{}\".durable(); SHOW synchronous_commit; COMMIT",
        options.schema
    );
    let shown = admin(&url, &sql).await.into_iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            row.try_get("synchronous_commit").ok().flatten().map(str::to_owned)
        }
        _ => None,
    });
    assert_eq!(shown.collect::<Vec<_>>(), ["on"]);
    within(store.commit(term.epoch, Seq(term.seq.0 + 1), &[])).await.expect("it leads");
}

/// Stands for election, and says why it cannot lead.
async fn refused(store: &Arc<PostgresStore>) -> (tokio::task::JoinHandle<Result<Term, StoreError>>, String) {
    let standing = store.clone();
    let waiting = tokio::spawn(async move { standing.begin_term(&candidate("a")).await });
    let trouble = within(async {
        loop {
            match store.trouble() {
                Some(trouble) => break trouble,
                None => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert!(!waiting.is_finished());
    (waiting, trouble)
}

/// Whether there are tables of this store.
async fn is_made(url: &str, options: &PostgresOptions) -> bool {
    let sql = format!("SELECT 1 FROM pg_namespace WHERE nspname = '{}'", options.schema);
    let found = admin(url, &sql).await;
    found.iter().any(|message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(_)))
}

/// Commits that no disk has are none; nothing is made there, and it leads once that is mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_wait_for_its_disk_is_refused() {
    let server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let set = async |value: &str| {
        admin(server.url(), &format!("ALTER SYSTEM SET fsync = {value}")).await;
        admin(server.url(), "SELECT pg_reload_conf()").await;
        // A connection may begin before the server has read it.
        within(async {
            loop {
                let shown =
                    admin(server.url(), "SHOW fsync").await.into_iter().any(|message| match message {
                        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some(value),
                        _ => false,
                    });
                if shown {
                    break;
                }
            }
        })
        .await;
    };
    set("off").await;
    let options = options(server.url());
    let store = open(&options);
    let (waiting, trouble) = refused(&store).await;
    assert!(trouble.contains("`fsync` is off"), "{trouble}");
    assert!(!is_made(server.url(), &options).await, "it was made before it was refused");
    set("on").await;
    within(waiting).await.expect("no panic").expect("it leads");
}

/// There are characters that such a database cannot hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_have_all_characters_is_refused() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let database = format!("latin_{}", options.schema);
    admin(&url, &format!("CREATE DATABASE {database} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")).await;
    let latin = format!("{}/{database}", url.rsplit_once('/').expect("a database").0);
    let (waiting, trouble) = refused(&open(&by(&latin, &options))).await;
    assert!(trouble.contains("the encoding LATIN1") && trouble.contains("ENCODING 'UTF8'"), "{trouble}");
    assert!(!is_made(&latin, &options).await, "it was made before it was refused");
    waiting.abort();
}

/// On a replica nothing can be written: it can be read, whoever names it is told, and leads once it is promoted.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_read_and_not_led_on() {
    let mut server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let options = options(server.url());
    let store = open(&options);
    let term = lead(&store, "a").await;
    send(&store, term, term.seq.0 + 1..term.seq.0 + 3).await.pop().expect("some").1.expect("it leads");
    within(store.resign()).await;
    server.order("stop").expect("it stops");
    // What a base backup has, and no address of a primary: it waits for one for ever.
    std::fs::write(server.folder().join("data/standby.signal"), "").expect("it can be written");
    server.order("start").expect("it starts");
    let (waiting, trouble) = refused(&store).await;
    assert!(
        trouble.contains("this server is a standby") && trouble.contains("target_session_attrs"),
        "{trouble}"
    );
    assert_eq!(batches_in(&store).await.0.len(), 2, "it can be read");
    let empty = open(&PostgresOptions { schema: "nothing_there".into(), ..options.clone() });
    let (in_vain, trouble) = refused(&empty).await;
    assert!(trouble.contains("this server is a standby"), "where there is no store as well: {trouble}");
    in_vain.abort();
    admin(server.url(), "SELECT pg_promote()").await;
    let later = within(waiting).await.expect("no panic").expect("it leads");
    assert_eq!(later.epoch.0, term.epoch.0 + 1);
}

/// What a newer program has written is not touched, nor read.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_store_is_refused() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    for (what, ours) in [("format", store::format::VERSION), ("schema", 1)] {
        let options = options(&url);
        let store = open(&options);
        lead(&store, "a").await;
        store.resign().await;
        let sql = format!("UPDATE {}.meta SET value = '999' WHERE name = '{what}'", options.schema);
        admin(&url, &sql).await;
        let newer = StoreError::Newer { found: 999, ours };
        assert_eq!(within(store.begin_term(&candidate("a"))).await, Err(newer.clone()));
        assert_eq!(within(store.load()).await.map(drop), Err(newer.clone()));
        assert_eq!(within(store.follow(Seq(0))).await.map(drop), Err(newer));
    }
}

/// What an older program has written is read, and is ours from when this one leads.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_store_is_taken_over() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let (store, other) = (open(&options), open(&options));
    lead(&store, "a").await;
    admin(&url, &format!("UPDATE {}.meta SET value = '1' WHERE name = 'format'", options.schema)).await;
    assert!(timeout(Duration::from_secs(1), other.begin_term(&candidate("b"))).await.is_err(), "two lead");
    let format = async || {
        let sql = format!("SELECT value FROM {}.meta WHERE name = 'format'", options.schema);
        let found = admin(&url, &sql).await.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        found.expect("it is there")
    };
    within(other.load()).await.expect("it can be read");
    assert_eq!(format().await, "1", "only who leads may change it");
    store.resign().await;
    lead(&other, "b").await;
    assert_eq!(format().await, store::format::VERSION.to_string());
}

/// A lease that is too short, or a URL of something else, is refused before anything is done.
#[tokio::test]
async fn wrong_options_are_refused() {
    let good = PostgresOptions::new("postgres://u@127.0.0.1/d");
    let short = PostgresOptions { lease: Duration::from_secs(3), ..good.clone() };
    assert!(matches!(store::postgres::open(&short), Err(OptionsError::Lease(_))));
    assert!(matches!(store::postgres::open(&by("mysql://h/d", &good)), Err(OptionsError::Url(_))));
    assert!(!format!("{:?}", by("postgres://u:secret@h/d", &good)).contains("secret"));
    assert!(store::postgres::open(&good).is_ok(), "nothing is connected to");
}

/// A user who may not make a schema uses the one that was made for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_given_is_used() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let role = format!("role_{}", options.schema);
    admin(&url, &format!("CREATE ROLE {role} LOGIN")).await;
    let ours = by(&url.replacen("postgres@", &format!("{role}@"), 1), &options);
    let store = open(&ours);
    let (waiting, trouble) = refused(&store).await;
    assert!(trouble.contains("permission denied"), "{trouble}");
    admin(&url, &format!("CREATE SCHEMA {} AUTHORIZATION {role}", options.schema)).await;
    let term = within(waiting).await.expect("no panic").expect("it leads");
    let answers = send(&store, term, term.seq.0 + 1..term.seq.0 + 4).await;
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()), "{answers:?}");
}

/// A schema with tables and nothing in them that says whose is not ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_refused() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let store = open(&options);
    lead(&store, "a").await;
    store.resign().await;
    admin(&url, &format!("UPDATE {}.live SET value = 'x' WHERE kind = 'meta'", options.schema)).await;
    assert!(matches!(within(store.load()).await, Err(StoreError::Damaged(why)) if why.contains("counter")));
    admin(&url, &format!("DELETE FROM {}.meta", options.schema)).await;
    assert!(matches!(within(store.begin_term(&candidate("a"))).await, Err(StoreError::Damaged(_))));
}
