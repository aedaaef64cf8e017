//! Servers of ZooKeeper that are not what they should be: that have lost something, are silent, or show what the others do not have.

use super::*;

/// Takes the last entry of the log away, as if it had never been written. Returns the first batch that is gone.
async fn go_back(options: &Options) -> u64 {
    let client = Client::connect(&options.hosts).await.expect("it is there");
    let log = format!("{}/store/log", options.path);
    let mut entries = client.list_children(&log).await.expect("the log is there");
    entries.sort();
    let entry = entries.pop().expect("the log has entries");
    let first = u64::from_str_radix(&entry, 16).expect("an entry is named after its first batch");
    let path = format!("{}/store/term", options.path);
    let (record, _) = client.get_data(&path).await.expect("a term record");
    let mut record: serde_json::Value = serde_json::from_slice(&record).expect("it is JSON");
    record["seq"] = (first - 1).into();
    client.set_data(&path, record.to_string().as_bytes(), None).await.expect("it is written");
    client.delete(&format!("{log}/{entry}"), None).await.expect("it is removed");
    first
}

/// An ensemble that has lost what it had acknowledged, as old servers do: the term ends and says why, and the next
/// one goes on with what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_has_gone_back_is_noticed() {
    let Some(options) = options() else { return };
    let store = node(&options);
    let term = begin(&store, "a").await;
    let (last, _) = drive(store.clone(), term, 20).await;
    let first = go_back(&options).await;
    let seq = last.0 + 1;
    let told = within(store.commit(term.epoch, Seq(seq), &batch_of(seq))).await.expect_err("it is deposed");
    assert!(told.reason.contains("has lost what it had acknowledged"), "{told}");
    let next = begin(&store, "a").await;
    assert_eq!(next, Term { epoch: Epoch(term.epoch.0 + 1), seq: Seq(first) });
}

/// The same, found by a standby that has followed what is gone now: it asks each of the servers before it leads without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_to_lead_asks_every_server_for_what_is_gone() {
    let Some(options) = options() else { return };
    let (old, new) = (node(&options), node(&options));
    let term = begin(&old, "a").await;
    let (last, _) = drive(old.clone(), term, 20).await;
    within(new.load()).await.expect("it can be loaded");
    within(old.commit(term.epoch, Seq(last.0 + 1), &batch_of(last.0 + 1))).await.expect("it leads");
    let followed = within(new.follow(last)).await.expect("it can be followed");
    assert_eq!(followed.last().map(|batch| batch.seq), Some(Seq(last.0 + 1)));
    within(old.resign()).await;
    assert_eq!(go_back(&options).await, last.0 + 1);
    let begun = tokio::spawn({
        let new = new.clone();
        async move { new.begin_term(&candidate("b")).await }
    });
    until(|| new.trouble().is_some_and(|told| told.contains("does not have the last 1 batches"))).await;
    let next = within(begun).await.expect("it runs").expect("it leads");
    assert_eq!(next, Term { epoch: Epoch(term.epoch.0 + 1), seq: Seq(last.0 + 1) });
    assert_eq!(new.trouble(), None);
    within(new.commit(next.epoch, Seq(next.seq.0 + 1), &[])).await.expect("it leads");
}

/// People are told of servers that lose what they have acknowledged, by name, and of no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_version_of_zookeeper_is_told() {
    let Some(options) = options() else { return };
    // It says of itself what an old server says, whatever it is asked; so there is a note, whatever the others are.
    let old = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = old.local_addr().expect("it is bound").to_string();
    tokio::spawn(async move {
        while let Ok((mut asker, _)) = old.accept().await {
            // What was not read would take the answer along when it hangs up.
            let _ = tokio::io::AsyncReadExt::read(&mut asker, &mut [0; 64]).await;
            let said = b"Zookeeper version: 3.5.1-alpha, built on 2015\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut asker, said).await;
        }
    });
    let store = node(&Options { hosts: format!("{},{address}", options.hosts), ..options.clone() });
    within(store.announce(&candidate("a"), "{}")).await.expect("it is written");
    until(|| !store.notes().is_empty()).await;
    let note = store.notes().remove(0);
    assert!(note.contains(&address), "{note}");
    let told = options.hosts.split(',').filter(|host| note.contains(host)).count();
    let (old, version) = if ensemble::is_old() { (3, "is version 3.8.0") } else { (0, "is version 3.5.1") };
    assert!(told == old && note.contains(version), "{note}");
}

/// A server that takes what it is asked and answers nothing but pings, as one that is out of touch with the others does: the
/// session lives, and would be waited for for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_does_not_wait_for_ever_for_a_server_that_is_silent() {
    let Some(options) = options() else { return };
    let cutter = Cutter::start(&options.hosts).await;
    let short = Options { hosts: cutter.address(), session_timeout: SHORT, ..options.clone() };
    let store = node(&short);
    let term = begin(&store, "a").await;
    let (last, _) = drive(store.clone(), term, 20).await;
    cutter.mute();
    let stuck = tokio::spawn(drive(store.clone(), Term { seq: last, ..term }, 8));
    until(|| store.trouble().is_some_and(|why| why.contains("an answer of ZooKeeper is missing"))).await;
    assert!(!stuck.is_finished(), "its session lives on its pings");
    cutter.release();
    let (reached, deposed) = within(stuck).await.expect("it runs");
    assert!(!deposed && reached.0 == last.0 + 8, "{reached:?}");
    audit(&options, term.seq, reached).await;
}

/// Nor do the others wait for it: it keeps its session, and with it its place before them, only until it has asked once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_server_is_silent_gives_way() {
    let Some(options) = options() else { return };
    let cutter = Cutter::start(&options.hosts).await;
    let first = node(&Options { hosts: cutter.address(), session_timeout: SHORT, ..options.clone() });
    let term = begin(&first, "first").await;
    let (last, _) = drive(first.clone(), term, 20).await;
    let second = node(&options);
    let waiting = stands_in_line(&second, "second", &options).await;
    cutter.mute();
    let stuck = tokio::spawn(drive(first.clone(), Term { seq: last, ..term }, 8));
    let next = timeout(2 * PATIENCE, waiting).await.expect("it does not wait for ever");
    next.expect("it runs").expect("it leads");
    let (_, deposed) = within(stuck).await.expect("it runs");
    assert!(deposed);
}

/// A place may come twice, where the answer to the first was lost and it was not seen yet. Neither waits for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_places_of_one_node_do_not_wait_for_each_other() {
    let Some(options) = options() else { return };
    let (first, second) = (node(&options), node(&options));
    begin(&first, "first").await;
    let waiting = stands_in_line(&second, "second", &options).await;
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let dir = format!("{}/candidate", options.path);
    let members = async || raw.list_children(&dir).await.expect("it is there");
    let ours = members().await.into_iter().max_by_key(|name| number(name)).expect("two are there");
    let twin = format!("{dir}/{}{:010}", &ours[..ours.len() - 10], number(&ours) - 1);
    raw.create(&twin, b"", &CreateMode::Ephemeral.with_acls(Acls::anyone_all())).await.expect("it is new");
    within(first.resign()).await;
    let term = within(waiting).await.expect("it runs").expect("it leads");
    within(second.commit(term.epoch, Seq(term.seq.0 + 1), &[])).await.expect("it leads");
    within(second.resign()).await;
    assert_eq!(members().await, [""; 0]);
}

/// The number of a member of the latch.
fn number(name: &str) -> u64 {
    name[name.len() - 10..].parse().expect("a number")
}

/// What was asked in vain is no time by which a clock is off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_is_asked_twice_moves_no_clock() {
    let Some(options) = options() else { return };
    let cutter = Cutter::start(&options.hosts).await;
    let store = node(&Options { hosts: cutter.address(), ..options.clone() });
    begin(&store, "a").await;
    within(store.clock_ahead()).await.expect("it can be asked");
    cutter.hold();
    let asked = tokio::spawn({
        let store = store.clone();
        async move { store.clock_ahead().await }
    });
    // As long as it takes to be off, and not so long that the library gives the connection up.
    tokio::time::sleep(Duration::from_secs(5)).await;
    cutter.release();
    let ahead = within(asked).await.expect("it runs").expect("it is answered").expect("it knows");
    assert!(ahead.unsigned_abs() < Duration::from_secs(1), "{ahead}");
}

/// The same, of servers that a session begins with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_does_not_begin_with_a_server_that_is_silent() {
    let Some(options) = options() else { return };
    let cutter = Cutter::start(&options.hosts).await;
    cutter.mute();
    let store = node(&Options { hosts: cutter.address(), ..options });
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.begin_term(&candidate("a")).await }
    });
    until(|| store.trouble().is_some_and(|why| why.contains("answers"))).await;
    assert!(!waiting.is_finished());
    cutter.release();
    within(waiting).await.expect("it runs").expect("it leads");
}

/// A question to a server that has fallen silent is answered with that, and the next one goes to another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_to_a_server_that_is_silent_has_an_end() {
    let Some(options) = options() else { return };
    let term = begin(&node(&options), "a").await;
    let (servers, options) = each_behind_a_cutter(&options).await;
    let store = node(&options);
    within(store.present()).await.expect("it can be asked");
    let silent = the_one_inside(&servers);
    servers[silent].mute();
    let told = timeout(2 * PATIENCE, store.present()).await.expect("it has an end");
    assert!(matches!(&told, Err(StoreError::Unavailable(why)) if why.contains("answers")), "{told:?}");
    assert_eq!(within(store.present()).await, Ok(term));
    until(|| servers[silent].inside() == 0).await;
    assert_ne!(the_one_inside(&servers), silent);
}

/// Who stands in line at a server that falls silent does not hear that its turn has come. It asks, and then another one; the
/// place that it had goes with its session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_at_a_server_that_is_silent_leads_in_the_end() {
    let Some(options) = options() else { return };
    let first = node(&options);
    begin(&first, "first").await;
    let (servers, through) = each_behind_a_cutter(&options).await;
    let second = node(&through);
    let waiting = stands_in_line(&second, "second", &options).await;
    let silent = the_one_inside(&servers);
    servers[silent].mute();
    within(first.resign()).await;
    let term = timeout(2 * PATIENCE, waiting).await.expect("it does not wait for ever");
    term.expect("it runs").expect("it leads");
    until(|| servers[silent].inside() == 0).await;
}

/// Who gives up its place in line while its server is silent does not keep it, though its process and its session live: others
/// would wait behind it for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_could_not_be_given_up_goes_with_its_session() {
    let Some(options) = options() else { return };
    let [first, third] = [(), ()].map(|()| node(&options));
    begin(&first, "first").await;
    let cutter = Cutter::start(&options.hosts).await;
    let second = node(&Options { hosts: cutter.address(), ..options.clone() });
    let given_up = stands_in_line(&second, "second", &options).await;
    cutter.mute();
    given_up.abort();
    let _ = given_up.await;
    let waiting = stands_in_line(&third, "third", &options).await;
    within(first.resign()).await;
    within(waiting).await.expect("it runs").expect("it leads");
}

/// A server that shows another term than the ensemble has would surprise its node again and again: the node asks another one.
/// Here it is the term that is written all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_surprised_again_and_again_asks_another_server() {
    let Some(options) = options() else { return };
    let (servers, through) = each_behind_a_cutter(&options).await;
    let store = node(&through);
    begin(&store, "a").await;
    let before = the_one_inside(&servers);
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let path = format!("{}/store/term", options.path);
    let written = tokio::spawn(async move {
        loop {
            let (term, stat) = raw.get_data(&path).await.expect("it is there");
            // Not over what somebody else has written meanwhile.
            let _ = raw.set_data(&path, &term, Some(stat.version)).await;
        }
    });
    let is_surprised = || store.trouble().is_some_and(|why| why.contains("another term"));
    let mut begun = None;
    within(async {
        // By chance a term begins in between.
        while begun.as_ref().is_none_or(JoinHandle::is_finished) {
            let again = store.clone();
            let begins = tokio::spawn(async move { again.begin_term(&candidate("a")).await });
            until(|| begins.is_finished() || is_surprised()).await;
            begun = Some(begins);
        }
    })
    .await;
    until(|| servers[before].inside() == 0).await;
    written.abort();
    within(begun.expect("one is on its way")).await.expect("it runs").expect("it leads");
}

/// Where what a server shows is not what the ensemble has, the next session begins with another one: a node that stays with
/// such a one would never lead again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_out_of_line_is_left() {
    let Some(options) = options() else { return };
    let (servers, through) = each_behind_a_cutter(&options).await;
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let store = node(&through);
    let mut term = begin(&store, "a").await;
    // By chance it would be another one twice in three times.
    for _ in 0..4 {
        let before = the_one_inside(&servers);
        // As it is with one that has parted from the others: the log is one batch further than the term.
        let seq = term.seq.0 + 1;
        let strange = format!("{}/store/log/{seq:012x}", options.path);
        let open_to_all = CreateMode::Persistent.with_acls(Acls::anyone_all());
        raw.create(&strange, b"", &open_to_all).await.expect("it is new");
        let told = within(store.commit(term.epoch, Seq(seq), &batch_of(seq))).await;
        let told = told.expect_err("it is deposed").reason;
        assert!(told.contains("out of line"), "{told}");
        raw.delete(&strange, None).await.expect("it is there");
        term = begin(&store, "a").await;
        until(|| servers[before].inside() == 0).await;
        assert_ne!(the_one_inside(&servers), before);
    }
    let (reached, deposed) = drive(store.clone(), term, 8).await;
    assert!(!deposed && reached.0 == term.seq.0 + 8);
}

/// A look for what an old Chronos has left is part of each take-over, when servers may be silent: it needs no new session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_chronos_is_looked_for_by_the_session_that_is_there() {
    let Some(options) = options() else { return };
    begin(&node(&options), "a").await;
    let (servers, options) = each_behind_a_cutter(&options).await;
    let store = node(&options);
    within(store.present()).await.expect("it can be asked");
    let one = the_one_inside(&servers);
    let others =
        || -> u64 { servers.iter().enumerate().map(|(n, it)| if n == one { 0 } else { it.sent() }).sum() };
    let before = others();
    for _ in 0..8 {
        let place = store.old();
        within(place.read()).await.expect("it can be read");
        within(place.recall()).await.expect("it can be read");
    }
    assert_eq!((others(), the_one_inside(&servers)), (before, one));
}

/// The servers one by one, each behind a cutter of its own, and options with their addresses.
async fn each_behind_a_cutter(options: &Options) -> (Vec<Cutter>, Options) {
    let mut servers = Vec::new();
    for host in options.hosts.split(',') {
        servers.push(Cutter::start(host).await);
    }
    let hosts = servers.iter().map(Cutter::address).collect::<Vec<_>>().join(",");
    (servers, Options { hosts, ..options.clone() })
}

/// Through which of them there are sessions.
fn the_one_inside(servers: &[Cutter]) -> usize {
    let inside: Vec<usize> = (0..servers.len()).filter(|n| servers[*n].inside() > 0).collect();
    let [one] = &inside[..] else { panic!("sessions with {inside:?}") };
    *one
}
