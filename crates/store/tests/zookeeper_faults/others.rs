//! Who else is there: an old Chronos, strangers without a password, newer programs; and options that cannot be meant.

use super::*;

/// An old Chronos waits for ours, and ours for it, in the order in which they came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_chronos_competes_fairly() {
    let Some(options) = options() else { return };
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let dir = format!("{}/candidate", options.path);
    let open_to_all = Acls::anyone_all();
    raw.mkdir(&dir, &CreateMode::Persistent.with_acls(open_to_all)).await.expect("it can be made");
    let join = async |uuid: &str, address: &str| {
        let path = format!("{dir}/_c_{uuid}-latch-");
        let options = CreateMode::EphemeralSequential.with_acls(open_to_all);
        let (_, number) = raw.create(&path, address.as_bytes(), &options).await.expect("it can be made");
        format!("{path}{number}")
    };
    let first = join("0b6d2a1e-9a2e-4b5c-8a7b-111111111111", "old-1:8080").await;
    let store = node(&options);
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.begin_term(&candidate("new")).await })
    };
    let members = async || {
        let mut members = raw.list_children(&dir).await.expect("it is there");
        members.sort_by_key(|name| name.rsplit('-').next().map(str::to_owned));
        members
    };
    within(async {
        while members().await.len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let third = join("f3a1a1e0-0000-4000-8000-222222222222", "old-2:8080").await;
    let seen = within(store.leader()).await.expect("somebody leads");
    assert_eq!(seen, Candidate { addresses: vec!["old-1:8080".into()], ..Candidate::default() });
    assert!(!waiting.is_finished(), "it leads beside an old Chronos");
    // What an old Chronos sees of ours: a member as Curator makes them, its address as data.
    let ours = members().await[1].clone();
    assert!(ours.starts_with("_c_") && ours.contains("-latch-"), "{ours}");
    let (data, _) = raw.get_data(&format!("{dir}/{ours}")).await.expect("it is there");
    assert_eq!(data, b"new:4400");
    raw.delete(&first, None).await.expect("it is there");
    within(waiting).await.expect("it is there").expect("it can lead");
    within(store.resign()).await;
    let left = members().await;
    assert_eq!(left.iter().map(|name| format!("{dir}/{name}")).collect::<Vec<_>>(), [third]);
}

/// Who waits in line and is stopped leaves no place behind that the next one would wait for until its session ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_no_longer_waits_keeps_nobody_waiting() {
    let Some(options) = options() else { return };
    let [first, second, third] = [(), (), ()].map(|()| node(&options));
    begin(&first, "first").await;
    let stopped = stands_in_line(&second, "second", &options).await;
    let waiting = stands_in_line(&third, "third", &options).await;
    // As a server that is stopped does; its process is gone right after.
    stopped.abort();
    let _ = stopped.await;
    within(second.resign()).await;
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let dir = format!("{}/candidate", options.path);
    raw.sync(&dir).await.expect("it answers");
    assert_eq!(raw.list_children(&dir).await.expect("it is there").len(), 2, "its place is gone");
    within(first.resign()).await;
    within(waiting).await.expect("it is there").expect("it leads at once");
}

/// Records of a store with a password are for those who know it; others are told so, and do not stand in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused() {
    let Some(options) = options() else { return };
    let with = |auth: &str| Options { auth: Some(auth.into()), ..options.clone() };
    let (right, wrong, none) = (node(&with("ops:secret")), node(&with("ops:guess")), node(&options));
    let term = begin(&right, "right").await;
    within(right.commit(term.epoch, Seq(term.seq.0 + 1), &batch_of(1))).await.expect("it leads");
    within(right.resign()).await;
    for store in [&wrong, &none] {
        let trying = {
            let store = store.clone();
            tokio::spawn(async move { store.begin_term(&candidate("wrong")).await })
        };
        let trouble = within(async {
            loop {
                match store.trouble() {
                    Some(trouble) => return trouble,
                    None => tokio::task::yield_now().await,
                }
            }
        })
        .await;
        assert!(trouble.contains("--zk_auth"), "{trouble}");
        // Everybody may look, as at what an old Chronos stored.
        assert_eq!(within(store.load()).await.expect("it can be read").0.jobs.len(), 1);
        let again = begin(&right, "right").await;
        assert!(again.epoch > term.epoch);
        within(right.resign()).await;
        trying.abort();
    }
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let (acls, _) = raw.get_acl(&format!("{}/store/term", options.path)).await.expect("it is there");
    let said: Vec<_> = acls.iter().map(|acl| (acl.scheme(), acl.permission().to_string())).collect();
    assert_eq!(said, [("world", "READ".to_owned()), ("digest", "ALL".to_owned())]);
}

/// A store of a newer binary is not touched, and nobody waits for it to change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_store_is_not_touched() {
    let Some(options) = options() else { return };
    let store = node(&options);
    begin(&store, "a").await;
    within(store.resign()).await;
    let id = within(store.id()).await.expect("it has one");
    assert_eq!(within(node(&options).id()).await, Ok(id.clone()));
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let about = format!("{{\"id\":\"{id}\",\"layout\":99,\"format\":1}}");
    raw.set_data(&format!("{}/store/about", options.path), about.as_bytes(), None)
        .await
        .expect("it is there");
    let later = node(&options);
    let newer = StoreError::Newer { found: 99, ours: 1 };
    assert_eq!(within(later.begin_term(&candidate("b"))).await, Err(newer.clone()));
    assert_eq!(within(later.load()).await.map(|(_, term)| term), Err(newer));
    within(async {
        while !raw
            .list_children(&format!("{}/candidate", options.path))
            .await
            .expect("it is there")
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// What cannot be meant is refused before anything is asked.
#[test]
fn wrong_options_are_named() {
    let plain = || Options::new("a:2181");
    let cases = [
        (Options::new("a"), "--zk_hosts"),
        (Options::new("a:2181,b:x"), "`b:x`"),
        (Options::new(""), "--zk_hosts"),
        (Options { path: "chronos".into(), ..plain() }, "--zk_path"),
        (Options { path: "/a//b".into(), ..plain() }, "--zk_path"),
        (Options { path: "/a/../b".into(), ..plain() }, "--zk_path"),
        (Options { session_timeout: Duration::from_secs(3), ..plain() }, "--zk_timeout"),
        (Options { auth: Some("secret".into()), ..plain() }, "--zk_auth"),
    ];
    for (options, flag) in cases {
        let error = open(options).expect_err(flag).to_string();
        assert!(error.contains(flag) && !error.contains("secret"), "{error}");
    }
    for hosts in ["zk://a:2181,b:2182/mesos", "a:2181", "[::1]:2181"] {
        open(Options::new(hosts)).expect(hosts);
    }
    assert!(!format!("{:?}", Options { auth: Some("a:hunter2".into()), ..plain() }).contains("hunter2"));
}

/// What an old Chronos has left is found, with what cannot be read of it; and what is written for it is found again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layout_of_an_old_chronos_is_read_and_written() {
    use store::zookeeper::old;
    let Some(options) = options() else { return };
    assert_eq!(within(old::read(options.clone())).await, Ok(old::Old::default()));
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let dir = format!("{}/state", options.path);
    let persistent = CreateMode::Persistent.with_acls(Acls::anyone_all());
    raw.mkdir(&dir, &persistent).await.expect("it can be made");
    let entry = |name: &str, value: &[u8]| {
        let length = |n: usize| u8::try_from(n).expect("a short one");
        let mut bytes = vec![0x0a, length(name.len())];
        bytes.extend(name.bytes());
        bytes.extend([0x12, 16]);
        bytes.extend([7; 16]);
        bytes.extend([0x1a, length(value.len())]);
        bytes.extend(value);
        bytes
    };
    for (name, value) in [
        ("J_b", &b"{\"name\":\"b\"}"[..]),
        ("J_a #1", b"{\"name\":\"a #1\"}"),
        ("J_broken", b"{"),
        ("T_ct:1:0:a:", b"{}"),
        ("frameworkId", b"\x0a\x04fw-1"),
    ] {
        raw.create(&format!("{dir}/{name}"), &entry(name, value), &persistent).await.expect("it can be made");
    }
    raw.create(&format!("{dir}/J_raw"), b"no protobuf", &persistent).await.expect("it can be made");
    let found = within(old::read(options.clone())).await.expect("it can be read");
    let names: Vec<&str> = found.jobs.iter().map(|job| &*job.name).collect();
    assert_eq!(names, ["a #1", "b"]);
    assert_eq!(found.tasks, [format!("{dir}/T_ct:1:0:a:")]);
    assert_eq!(found.framework_id.as_deref(), Some("fw-1"));
    let unread: Vec<&str> = found.unread.iter().filter_map(|one| one.path.rsplit('/').next()).collect();
    assert_eq!(unread, ["J_broken", "J_raw"]);
    let stat = raw.check_stat(&format!("{dir}/J_b")).await.expect("it runs").expect("it is there");
    assert_eq!(found.jobs[1].mzxid, stat.mzxid);

    let jobs = [("b", "{\"name\":\"b\",\"schedule\":\"R/x\"}"), ("c", "{\"name\":\"c\"}")];
    let jobs = jobs.map(|(name, json)| (name.to_owned(), json.to_owned())).into();
    within(old::write(options.clone(), &jobs, None, old::Others::Kept)).await.expect("it can be written");
    let kept = within(old::read(options.clone())).await.expect("it can be read");
    assert_eq!((kept.jobs.len(), kept.unread, kept.framework_id), (3, found.unread, found.framework_id));
    let written = old::write(options.clone(), &jobs, Some("fw-2"), old::Others::Deleted);
    let written = within(written).await.expect("it can be written");
    let found = within(old::read(options.clone())).await.expect("it can be read");
    assert_eq!(
        found.jobs.iter().map(|job| (job.name.clone(), job.json.clone())).collect::<Vec<_>>(),
        Vec::from_iter(jobs)
    );
    assert_eq!(
        found.jobs.iter().map(|job| (job.name.clone(), job.mzxid)).collect::<Vec<_>>(),
        Vec::from_iter(written)
    );
    assert_eq!(
        (found.framework_id.as_deref(), found.unread, found.tasks.len()),
        (Some("fw-2"), Vec::new(), 1)
    );
    let large = std::collections::BTreeMap::from([("x".to_owned(), "x".repeat(1 << 20))]);
    assert!(matches!(
        within(old::write(options, &large, None, old::Others::Kept)).await,
        Err(StoreError::TooLarge(_))
    ));
}
