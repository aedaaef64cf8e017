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

/// It would lead when all of ours are gone, and launch what they have launched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_chronos_in_the_line_is_told_of_and_no_node_of_ours_is() {
    use store::zookeeper::old;
    let Some(options) = options() else { return };
    let (leads, waits) = (node(&options), node(&options));
    begin(&leads, "leads").await;
    let waiting = stands_in_line(&waits, "waits", &options).await;
    let told = |store: &Arc<ZookeeperStore>| {
        store.notes().into_iter().find(|note| note.contains("old Chronos")).unwrap_or_default()
    };
    let (first, second) =
        (old::stand_in(options.clone(), "old-1:8080"), old::stand_in(options.clone(), "old-2:8080"));
    let _first = within(first).await.expect("it joins");
    let _second = within(second).await.expect("it joins");
    for (store, name) in [(&leads, "leads"), (&waits, "waits")] {
        within(store.announce(&candidate(name), "{}")).await.expect("it is written");
        until(|| !told(store).is_empty()).await;
        let note = told(store);
        assert!(note.contains(" at old-1:8080, old-2:8080: "), "{note}");
    }
    waiting.abort();
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
    for (what, ours) in [("format", format::VERSION), ("layout", 1)] {
        let Some(options) = options() else { return };
        let store = node(&options);
        begin(&store, "a").await;
        within(store.resign()).await;
        let id = within(store.id()).await.expect("it has one");
        assert_eq!(within(node(&options).id()).await, Ok(id));
        let raw = Client::connect(&options.hosts).await.expect("it runs");
        says_of_itself(&raw, &options, what, 999).await;
        let later = node(&options);
        let newer = StoreError::Newer { found: 999, ours };
        assert_eq!(within(later.begin_term(&candidate("b"))).await, Err(newer.clone()));
        assert_eq!(within(later.load()).await.map(|(_, term)| term), Err(newer.clone()));
        assert_eq!(within(later.follow(Seq(0))).await, Err(newer));
        nobody_is_in_line(&raw, &options).await;
    }
}

/// What the store is to say of itself from here on, beside its id.
async fn says_of_itself(raw: &Client, options: &Options, what: &str, version: u32) {
    let path = format!("{}/store/about", options.path);
    let mut about = about(raw, options).await;
    about[what] = version.into();
    raw.set_data(&path, about.to_string().as_bytes(), None).await.expect("it is there");
}

async fn about(raw: &Client, options: &Options) -> serde_json::Value {
    let path = format!("{}/store/about", options.path);
    raw.sync(&path).await.expect("it answers");
    let (about, _) = raw.get_data(&path).await.expect("it is there");
    serde_json::from_slice(&about).expect("it is JSON")
}

async fn nobody_is_in_line(raw: &Client, options: &Options) {
    let dir = format!("{}/candidate", options.path);
    within(async {
        while !raw.list_children(&dir).await.expect("it is there").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// What an older binary has written is read, and is ours from when this one leads. It is the same store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_store_is_taken_over() {
    let Some(options) = options() else { return };
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let (store, other) = (node(&options), node(&options));
    let term = begin(&store, "a").await;
    let (last, _) = drive(store.clone(), term, 5).await;
    says_of_itself(&raw, &options, "format", 1).await;
    let older = about(&raw, &options).await;
    within(other.load()).await.expect("it can be read");
    let waiting = stands_in_line(&other, "b", &options).await;
    assert_eq!(about(&raw, &options).await, older, "only who leads may change it");
    within(store.resign()).await;
    let next = within(waiting).await.expect("it runs").expect("it leads");
    let mut ours = older;
    ours["format"] = format::VERSION.into();
    assert_eq!(about(&raw, &options).await, ours);
    within(other.commit(next.epoch, Seq(next.seq.0 + 1), &[])).await.expect("it leads");
    let looker = node(&options);
    assert_eq!(
        within(looker.load()).await.expect("it can be read").0.runs.len(),
        5,
        "after batch {}",
        last.0
    );
}

/// A newer binary comes to lead while ours run: who stands in line does not lead after it, and who follows does not take
/// what it writes for what it would mean to us, readable or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_becomes_newer_is_neither_led_nor_followed() {
    let Some(options) = options() else { return };
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let [leader, candidate, follower, reader] = [(), (), (), ()].map(|()| node(&options));
    let term = begin(&leader, "a").await;
    let (last, _) = drive(leader.clone(), term, 5).await;
    let waiting = stands_in_line(&candidate, "b", &options).await;
    let followed = within(follower.follow(term.seq)).await.expect("it is none of a newer one yet");
    assert_eq!(followed.last().map(|batch| batch.seq), Some(last));
    assert_eq!(within(reader.load()).await.map(|(_, term)| term.seq), Ok(last));
    // As a newer binary would begin a term, and commit.
    let base = format!("{}/store", options.path);
    let newer = StoreError::Newer { found: 999, ours: format::VERSION };
    let head = |seq: u64, bytes: usize| {
        format!("{{\"batch\":{{\"seq\":{seq},\"epoch\":{},\"bytes\":{bytes}}}}}\n", term.epoch.0 + 1)
    };
    let (began, strange) = (last.0 + 1, "{\"moon\":{}}\n");
    let mut record: serde_json::Value =
        serde_json::from_slice(&raw.get_data(&format!("{base}/term")).await.expect("it is there").0)
            .expect("it is JSON");
    for (key, value) in [("epoch", term.epoch.0 + 1), ("began", began), ("seq", began + 1)] {
        record[key] = value.into();
    }
    says_of_itself(&raw, &options, "format", 999).await;
    raw.set_data(&format!("{base}/term"), record.to_string().as_bytes(), None).await.expect("it is there");
    let entries = [
        (began, format!("p{}", head(began, 0))),
        (began + 1, format!("p{}{strange}", head(began + 1, strange.len()))),
    ];
    for (seq, entry) in &entries {
        let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
        raw.create(&format!("{base}/log/{seq:012x}"), entry.as_bytes(), &open).await.expect("it is new");
    }
    assert_eq!(within(follower.follow(last)).await, Err(newer.clone()), "the batch that began its term");
    assert_eq!(within(follower.follow(Seq(began))).await, Err(newer.clone()), "one that cannot be read");
    assert_eq!(within(reader.present()).await, Err(newer.clone()));
    assert_eq!(within(reader.load()).await.map(|(_, term)| term), Err(newer.clone()));
    let (to, _from) = tokio::sync::mpsc::channel(1);
    assert_eq!(within(reader.backup(store::backup::Extent::Everything, to)).await, Err(newer.clone()));
    within(leader.resign()).await;
    assert_eq!(within(waiting).await.expect("it runs"), Err(newer));
    nobody_is_in_line(&raw, &options).await;
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
    let place = old::Place::new(options.clone()).expect("it can be meant");
    assert_eq!(within(place.read()).await, Ok(old::Old::default()));
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
    let found = within(place.read()).await.expect("it can be read");
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
    within(place.write(&jobs, None, old::Others::Kept)).await.expect("it can be written");
    let kept = within(place.read()).await.expect("it can be read");
    assert_eq!((kept.jobs.len(), kept.unread, kept.framework_id), (3, found.unread, found.framework_id));
    let written = place.write(&jobs, Some("fw-2"), old::Others::Deleted);
    let written = within(written).await.expect("it can be written");
    let found = within(place.read()).await.expect("it can be read");
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
        within(place.write(&large, None, old::Others::Kept)).await,
        Err(StoreError::TooLarge(_))
    ));
}

/// A node of a newer program may say who it is in another way: the others are told all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_be_read_hides_no_other() {
    let Some(options) = options() else { return };
    let store = node(&options);
    begin(&store, "a").await;
    within(store.announce(&candidate("a"), "news")).await.expect("it can be told");
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let open_to_all = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for (name, said) in [("x", "{"), ("y", r#"{"candidate":"{}","news":""}"#)] {
        let path = format!("{}/store/members/{name}", options.path);
        raw.create(&path, said.as_bytes(), &open_to_all).await.expect("it is new");
    }
    let members = within(store.members()).await.expect("they can be asked for");
    assert_eq!(members.iter().map(|one| &*one.candidate.node).collect::<Vec<_>>(), ["a"]);
}
