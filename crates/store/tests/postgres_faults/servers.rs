//! Servers that stop, die, are full, or say nothing.

use super::*;

/// A server that stops for longer than the lease: nobody leads meanwhile, then one of those who wait does.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_deposes() {
    let mut server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let options = short_options(server.url());
    let (store, other) = (open(&options), open(&PostgresOptions { lease: LONG, ..options.clone() }));
    let term = lead(&store, "a").await;
    send(&store, term, term.seq.0 + 1..term.seq.0 + 2).await.pop().expect("one").1.expect("it leads");
    server.order("pause").expect("it stops");
    let waiting = tokio::spawn({
        let other = other.clone();
        async move { other.begin_term(&candidate("b")).await }
    });
    let held = send(&store, term, term.seq.0 + 2..term.seq.0 + 4).await;
    assert!(held.iter().all(|(_, answer)| answer.is_err()), "{held:?}");
    assert!(!waiting.is_finished());
    server.order("go on").expect("it goes on");
    let later = within(waiting).await.expect("no panic").expect("it leads");
    assert!(store.commit(term.epoch, Seq(term.seq.0 + 2), &[]).await.is_err());
    let (jobs, loaded) = batches_in(&other).await;
    assert_eq!(loaded.epoch, later.epoch);
    // The first batch, and perhaps what the server had got before it stopped; never one without its predecessor.
    assert_eq!(jobs, (term.seq.0 + 1..).take(jobs.len()).collect::<Vec<_>>());
}

/// A crash of the server shorter than the lease costs time and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_is_survived() {
    let mut server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let store = open(&options(server.url()));
    let term = lead(&store, "a").await;
    let (mut acknowledged, mut next) = (0, term.seq.0 + 1);
    for _ in 0..3 {
        let sending = tokio::spawn({
            let store = store.clone();
            async move {
                let mut answers = Vec::new();
                for first in (next..next + 64).step_by(8) {
                    answers.extend(send(&store, term, first..first + 8).await);
                }
                answers
            }
        });
        while within(store.present()).await.is_ok_and(|present| present.seq.0 < next + 8) {}
        server.order("stop").expect("it stops");
        server.order("start").expect("it starts");
        for (seq, answer) in within(sending).await.expect("no panic") {
            answer.unwrap_or_else(|error| panic!("batch {seq}: {error}"));
            acknowledged = acknowledged.max(seq);
        }
        next += 64;
    }
    let (jobs, loaded) = batches_in(&store).await;
    assert_eq!(jobs, (term.seq.0 + 1..=acknowledged).collect::<Vec<_>>());
    assert_eq!(loaded, Term { epoch: term.epoch, seq: Seq(acknowledged) });
}

/// What has no room waits until there is some, and says why. Whoever leads meanwhile reads on, and nobody waits for the
/// disk to resign.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing() {
    let Some(mount) = mount::Mount::new("size=6m") else {
        return skip("store-postgres-full", "a small file system can only be mounted by root");
    };
    let server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let owner = std::process::Command::new("chown").arg("postgres").arg(mount.path()).status();
    assert!(owner.expect("chown is there").success(), "the server runs as this user where root starts it");
    let make = format!(
        "CREATE TABLESPACE small LOCATION '{}'; CREATE ROLE small SUPERUSER LOGIN; \
         ALTER ROLE small SET default_tablespace = small",
        mount.path().display()
    );
    // Each by itself: a tablespace is made in no transaction.
    for sql in make.split(';') {
        admin(server.url(), sql).await;
    }
    let options = options(&server.url().replacen("postgres@", "small@", 1));
    let store = open(&options);
    let term = lead(&store, "a").await;
    let first = term.seq.0 + 1;
    send(&store, term, first..first + 2).await.pop().expect("some").1.expect("it leads");
    let mut next = first + 2;
    // Until the disk is full, with batches that need room for themselves; what is applied, and the one that waits.
    let fill = async |next: &mut u64| loop {
        let (store_of_call, seq) = (store.clone(), Seq(*next));
        let mut call =
            tokio::spawn(async move { store_of_call.commit(term.epoch, seq, &large_batch_of(seq)).await });
        let applied = within(async {
            loop {
                match timeout(Duration::from_millis(1), &mut call).await {
                    Ok(done) => break Some(done.expect("no panic")),
                    Err(_) if store.trouble().is_some() => break None,
                    Err(_) => {}
                }
            }
        });
        let Some(applied) = applied.await else { break call };
        applied.expect("it leads");
        *next += 1;
    };
    let ballast = mount.fill();
    let stuck = fill(&mut next).await;
    let trouble = store.trouble().expect("the disk is full");
    assert!(trouble.contains("no room") && trouble.contains("No space left"), "{trouble}");
    let (jobs, loaded) = batches_in(&store).await;
    assert_eq!((jobs, loaded.seq), ((first..next).collect(), Seq(next - 1)), "reading needs no room");
    std::fs::remove_file(&ballast).expect("it is there");
    within(stuck).await.expect("no panic").expect("it goes on by itself, in its term");
    assert_eq!(store.trouble(), None);
    assert_eq!(batches_in(&store).await, ((first..=next).collect(), Term { seq: Seq(next), ..term }));
    next += 1;
    let ballast = mount.fill();
    let stuck = fill(&mut next).await;
    within(store.resign()).await;
    assert!(within(stuck).await.expect("no panic").is_err(), "it was not applied");
    std::fs::remove_file(&ballast).expect("it is there");
    let other = open(&options);
    let later = lead(&other, "b").await;
    send(&other, later, later.seq.0 + 1..later.seq.0 + 2).await.pop().expect("one").1.expect("it leads");
    assert_eq!(batches_in(&other).await.0, (first..next).chain([later.seq.0 + 1]).collect::<Vec<_>>());
}

/// The same with a job that takes more room than tables have left over.
fn large_batch_of(seq: Seq) -> Vec<Change> {
    let mut job = samples::job(seq.0);
    // Nothing that could be compressed.
    let noise = (0..4000_u64).map(|n| (n * n + seq.0).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20);
    job.body = noise.map(|n| format!("{n:x}")).collect::<String>().into();
    let mut changes = batch_of(seq);
    changes[0] = Change::PutJob(Arc::new(job));
    changes
}

/// Nobody there: questions are answered with that, and a candidate tries for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_reached_is_waited_for() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let proxy = Proxy::before(&url).await;
    proxy.refuse();
    let store = open(&options(&proxy.url));
    let error = within(store.load()).await.expect_err("nobody is there");
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("127.0.0.1")), "{error}");
    assert!(matches!(within(store.present()).await, Err(StoreError::Unavailable(_))));
    assert_eq!(within(store.leader()).await, None);
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.begin_term(&candidate("a")).await }
    });
    within(async {
        while store.trouble().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!waiting.is_finished());
    proxy.go_on();
    within(waiting).await.expect("no panic").expect("it leads");
    assert_eq!(store.trouble(), None);
    assert_eq!(store.id().await.expect("it is there").len(), 32);
}

/// The first of two hosts takes connections and says nothing: the second one is found in time for every question, and
/// for the shortest lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_silent_keeps_nobody_from_the_next() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    // Connections wait there to be accepted.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let first = silent.local_addr().expect("it is bound");
    let both = url.replacen('@', &format!("@{first},"), 1);
    let options = short_options(&both);
    let store = open(&options);
    let term = lead(&store, "a").await;
    send(&store, term, term.seq.0 + 1..term.seq.0 + 2).await.pop().expect("one").1.expect("it leads");
    let (jobs, loaded) = batches_in(&store).await;
    assert_eq!((jobs, loaded), (vec![term.seq.0 + 1], Term { seq: Seq(term.seq.0 + 1), ..term }));
    let (head, database) = url.rsplit_once('/').expect("a database");
    let other = open(&by(&format!("{head},{first}/{database}"), &options));
    assert_eq!(within(other.present()).await, Ok(loaded));
    drop(silent);
}

/// Nothing comes back, and nobody is told: who loads, or takes a backup, is told in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_not_loaded_from_for_ever() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let proxy = Proxy::before(&url).await;
    let store = open(&options(&proxy.url));
    lead(&store, "a").await;
    proxy.hold();
    let (to, _from) = tokio::sync::mpsc::channel(1);
    let (loaded, taken) =
        within(async { tokio::join!(store.load(), store.backup(store::backup::Extent::Everything, to)) })
            .await;
    for told in [loaded.map(drop), taken] {
        assert!(matches!(&told, Err(StoreError::Unavailable(why)) if why.contains("within 3 s")), "{told:?}");
    }
    proxy.go_on();
    within(store.load()).await.expect("it can be loaded");
}
