//! What a node knows of the others: where the leader is reached, and how each says it is doing.
//!
//! Addresses are hints, never identity: nodes behind bridges may all believe that they are at the same one. A node is
//! known by the id of its process, which it tells at `/ping`, and is reached at whichever of its addresses answers with
//! that id. Start at [`Cluster`]; `reach` tries addresses, `news` is what nodes say of themselves, [`spread`] the engines of
//! all nodes as one, `orders` what the leader wants of those of others.

pub(crate) mod address;
mod login;
pub(crate) mod news;
pub(crate) mod orders;
mod reach;
pub mod spread;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::Engine;
use reqwest::Client;
use scheduler::run::RunState;
use store::Candidate;
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

use crate::config::Credentials;
use crate::node::{Node, Role};
use address::Address;
use news::News;
use spread::{Neighbour, Spread};

/// Names the process that answers, in every answer.
pub const NODE: &str = "x-chronos-node";
/// Whom a request is meant for: another node does nothing of it.
pub const TO: &str = "x-chronos-to";
/// Which node handed a request on, and for whom: it is not handed on again.
pub const VIA: &str = "x-chronos-via";
/// The number of the term that the answer, or whoever hands a request on, knows.
pub const TERM: &str = "x-chronos-term";

/// How often the way to the leader is tried.
const TRIED_EVERY: Duration = Duration::from_secs(1);
/// How often a node says how it is; a node on whose machine tasks may run is missed after a multiple of it.
pub(crate) const TOLD_EVERY: Duration = Duration::from_secs(2);
/// For so long after it was last heard the tasks of a node may run.
const LEASE: Duration = Duration::from_secs(60);
/// After so long they have ended: the rest is what their end takes, and what clocks and a busy machine may be off.
const TASKS_END_AFTER: Duration =
    LEASE.saturating_add(engine::local::LEASE_GRACE).saturating_add(Duration::from_secs(10));
/// Requests that may wait for a leader at once: a node is not to fill up with those of an outage.
const WAITING_MAX: usize = 1024;
/// What a store does not take in this time is said the next time.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// A node in whose place another was started is forgotten after so long a silence, and known again if it was merely slow.
const REPLACED_AFTER: Duration = Duration::from_secs(30);
/// How often such nodes are looked for.
const SWEPT_EVERY: Duration = Duration::from_secs(10);

/// The way to the leader, where that is another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nobody leads, or this node does.
    None,
    /// This process of it answered at this address.
    Found(Candidate, Address),
    /// No address of it answers, for these reasons.
    Lost(Candidate, String),
}

/// A node's view of the others. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    /// The id of this process.
    pub(crate) instance: Arc<str>,
    pub(crate) http: Client,
    /// Places for requests that wait for a leader.
    pub(crate) waiting: Arc<Semaphore>,
    way: watch::Receiver<Way>,
    /// What is wrong with the login between this node and the leader.
    login: watch::Receiver<Option<String>>,
    spread: Option<Arc<Spread>>,
}

impl Cluster {
    /// Looks for the leader from now on, and tells the others of this node, until the node is gone. `tls` is whom it
    /// trusts to be another node, `credentials` what it wants to hear; `leased` says whether its tasks end when it cannot
    /// tell them any more.
    /// # Errors
    /// What the HTTP client says of its settings.
    pub fn start(
        node: &Node,
        spread: Arc<Spread>,
        tls: rustls::ClientConfig,
        credentials: Option<Credentials>,
        leased: bool,
    ) -> reqwest::Result<Self> {
        let (found, way) = watch::channel(Way::None);
        let (compared, login) = watch::channel(None);
        let http = client(tls)?;
        spread.begin(node, http.clone());
        let passwords = spread.has_login();
        let cluster = Self { spread: Some(spread), login, ..Self::of(node, http.clone(), way.clone()) };
        tokio::spawn(seek(node.clone(), http.clone(), found, passwords));
        tokio::spawn(compare(http, way, compared, credentials));
        tokio::spawn(tell(node.clone(), cluster.clone(), leased));
        Ok(cluster)
    }

    /// A node that looks for nobody.
    pub fn alone(node: &Node) -> reqwest::Result<Self> {
        let (_, way) = watch::channel(Way::None);
        let tls = crate::tls::unused();
        Ok(Self::of(node, client(tls)?, way))
    }

    /// A node that takes this way for the one to the leader.
    #[cfg(test)]
    pub(crate) fn by(node: &Node, way: watch::Receiver<Way>) -> reqwest::Result<Self> {
        Ok(Self::of(node, client(crate::tls::unused())?, way))
    }

    fn of(node: &Node, http: Client, way: watch::Receiver<Way>) -> Self {
        let waiting = Arc::new(Semaphore::new(WAITING_MAX));
        let (_, login) = watch::channel(None);
        Self { instance: node.identity.instance().into(), http, waiting, way, login, spread: None }
    }

    /// The engine of this node alone, of all that `engine` stands for.
    pub(crate) fn local<'a>(&'a self, engine: &'a Arc<dyn Engine>) -> &'a Arc<dyn Engine> {
        self.spread.as_ref().map_or(engine, |spread| spread.local())
    }

    /// What the nodes have to do with each other's tasks, where there are others.
    pub(crate) fn spread(&self) -> Option<&Spread> {
        self.spread.as_deref()
    }

    /// To wait for another way than there is now.
    pub(crate) fn watch_way(&self) -> watch::Receiver<Way> {
        let mut way = self.way.clone();
        way.mark_unchanged();
        way
    }

    /// Where the leader is, as of the last try.
    pub fn way(&self) -> Way {
        self.way.borrow().clone()
    }

    /// Where a node answers that says nothing through the store any more, if it does: it is alive, and may run tasks.
    pub(crate) async fn find(&self, node: &Candidate) -> Option<Address> {
        reach::find(&self.http, node).await
    }

    /// What is wrong with the login between this node and the leader, and what to do, if anything is.
    pub fn login(&self) -> Option<String> {
        self.login.borrow().clone()
    }
}

fn client(tls: rustls::ClientConfig) -> reqwest::Result<Client> {
    Client::builder()
        .connect_timeout(reach::CONNECT_MAX)
        .tcp_keepalive(Duration::from_secs(15))
        // One that the other side may have closed meanwhile is not tried with a change.
        .pool_idle_timeout(Duration::from_secs(5))
        .no_proxy()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("chronos/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Looks for the leader, for ever.
async fn seek(node: Node, http: Client, way: watch::Sender<Way>, passwords: bool) {
    let mut outlook = node.watch_outlook();
    let ours = node.identity.instance();
    let mut every = tokio::time::interval(TRIED_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = way.closed() => return,
            changed = outlook.changed() => {
                if changed.is_err() {
                    return;
                }
                // Between two ticks only another leader is news.
                let leader = outlook.borrow_and_update().leader.as_ref().map(Candidate::instance);
                let known = match &*way.borrow() {
                    Way::None => None,
                    Way::Found(known, _) | Way::Lost(known, _) => Some(known.instance()),
                };
                if leader.filter(|leader| *leader != ours) == known {
                    continue;
                }
            }
            _ = every.tick() => {}
        }
        let leader = outlook.borrow_and_update().leader.clone();
        let before = way.borrow().clone();
        let now = match leader.filter(|leader| leader.instance() != ours) {
            None => Way::None,
            Some(leader) => {
                let last = match &before {
                    Way::Found(known, at) if *known == leader => Some(at.clone()),
                    _ => None,
                };
                match reach::reach(&http, &leader, last.as_ref(), passwords).await {
                    Ok(at) => Way::Found(leader, at),
                    // While its addresses were tried it may have resigned, and this node may have been elected.
                    Err(why) => match tokio::time::timeout(TOLD_WITHIN, node.store.leader()).await {
                        Ok(now) if !is_missed(&node.status().role, &leader, now.as_ref()) => Way::None,
                        _ => Way::Lost(leader, why),
                    },
                }
            }
        };
        if now != before {
            match &now {
                Way::None => {}
                Way::Found(leader, at) => info!(leader = leader.node, %at, "the leader answers"),
                Way::Lost(leader, why) => {
                    warn!(
                        leader = leader.node,
                        why,
                        "the leader does not answer this node; changes that come here wait for it or the next"
                    )
                }
            }
            way.send_replace(now);
        }
    }
}

/// Whether one that does not answer is still the leader, and another node than this one.
fn is_missed(role: &Role, asked: &Candidate, leader: Option<&Candidate>) -> bool {
    let leads_here = matches!(role, Role::Preparing(_) | Role::Leading(_));
    !leads_here && leader.is_some_and(|leader| leader.instance() == asked.instance())
}

/// Asks each leader that is found whether it wants the same login as this node, for ever: a follower that takes what the
/// leader refuses looks whole until somebody writes there.
async fn compare(
    http: Client,
    mut way: watch::Receiver<Way>,
    compared: watch::Sender<Option<String>>,
    ours: Option<Credentials>,
) {
    let mut every = tokio::time::interval(TRIED_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // One that is started with another login is another process.
    let mut asked = String::new();
    loop {
        let found = match &*way.borrow_and_update() {
            Way::Found(leader, at) => Some((leader.instance(), at.clone())),
            // Who cannot be reached may be the same one later.
            Way::Lost(leader, _) if leader.instance() == asked => None,
            Way::None | Way::Lost(..) => {
                asked.clear();
                compared.send_if_modified(|told| told.take().is_some());
                None
            }
        };
        match found.filter(|(instance, _)| *instance != asked) {
            None => {
                if way.changed().await.is_err() {
                    return;
                }
            }
            Some((instance, at)) => {
                every.tick().await;
                if let Ok(told) = login::compare(&http, &at, &instance, ours.as_ref()).await {
                    if let Some(why) = &told {
                        warn!(why, "this node and the leader do not want the same login");
                    }
                    compared.send_replace(told);
                    asked = instance;
                }
            }
        }
    }
}

/// Tells the others how this node is, for ever; and the engine, that they have heard it.
async fn tell(node: Node, cluster: Cluster, leased: bool) {
    let mut every = tokio::time::interval(TOLD_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut status = node.watch_status();
    // Marathon replaces what ends, and what it starts then has a folder, so an id, of its own.
    let replaced = std::env::var_os("MARATHON_APP_ID").is_some();
    let mut swept = Instant::now();
    // A store that nobody has made yet takes no news, which is none.
    let mut silent = true;
    // Nothing is promised that the engine does not know of; and it knows of no lease before others have heard this very
    // process: they may count from what an earlier one has said, whose tasks run here still.
    let mut promised = false;
    loop {
        tokio::select! {
            // A node that is gone says nothing more.
            biased;
            changed = status.changed() => {
                if changed.is_err() {
                    return;
                }
                // The others shall not take a new leader for a standby.
                if !matches!(status.borrow_and_update().role, Role::Leading(_)) {
                    continue;
                }
            }
            _ = every.tick() => {}
        }
        let now = engine::since_boot();
        let until = now + LEASE;
        let in_ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (said_at_ms, tasks_end_after_ms) = (in_ms(now), promised.then(|| in_ms(TASKS_END_AFTER)));
        let news = News { said_at_ms, tasks_end_after_ms, replaced, ..News::of(&node, &cluster) }.to_text();
        let said = node.store.announce(&node.identity, &news);
        match tokio::time::timeout(TOLD_WITHIN, said).await {
            Ok(Ok(())) => {
                silent = false;
                match node.engine.renew_lease(leased.then_some(until)).await {
                    Ok(()) if leased && !promised => {
                        promised = true;
                        every.reset_immediately();
                    }
                    Ok(()) => {}
                    Err(problem) => {
                        tracing::debug!(%problem, "the engine was not told that this node is in touch with the store");
                    }
                }
            }
            Ok(Err(problem)) if !silent => {
                silent = true;
                warn!(%problem, "cannot tell the other nodes of this one");
            }
            _ => {}
        }
        if replaced && matches!(node.status().role, Role::Leading(_)) && swept.elapsed() >= SWEPT_EVERY {
            // What is not done by then is done the next time: others wait for what this node says.
            let _ = tokio::time::timeout(TOLD_WITHIN, sweep(&node, &cluster)).await;
            swept = Instant::now();
        }
    }
}

/// Forgets nodes in whose place others were started: they would be missed for ever, and be more and more whom a search for
/// output asks in vain.
async fn sweep(node: &Node, cluster: &Cluster) {
    let Some(spread) = &cluster.spread else { return };
    let Ok(neighbours) = spread.neighbours().await else { return };
    let places: BTreeSet<Arc<str>> = {
        let projection = node.projection.read();
        let live = projection.state().runs.values().filter_map(|run| match &run.state {
            RunState::Running(live) => Some(live.node.clone()),
            _ => None,
        });
        live.collect()
    };
    for neighbour in neighbours.iter().filter(|neighbour| is_over(neighbour, &places)) {
        let gone = &neighbour.candidate.node;
        if let Ok(true) = node.store.forget_member(gone).await {
            info!(node = gone, "forgot a node in whose place another was started");
        }
    }
}

/// Whether a node was replaced, and nothing is at `places` of it whose end somebody waits for.
fn is_over(neighbour: &Neighbour, places: &BTreeSet<Arc<str>>) -> bool {
    neighbour.silent_for > REPLACED_AFTER
        && !places.contains(&*neighbour.candidate.node)
        && neighbour.news.replaced
}

#[cfg(test)]
mod tests {
    use scheduler::ids::Epoch;

    use super::*;

    /// At each take-over the one that led before answers nobody, and that is no news.
    #[test]
    fn a_leader_that_has_resigned_or_was_followed_is_not_missed() {
        let of = |node: &str| Candidate {
            node: node.into(),
            addresses: Vec::new(),
            pid: 1,
            version: String::new(),
        };
        let (a, b) = (of("a"), of("b"));
        assert!(is_missed(&Role::Standby, &a, Some(&a)));
        assert!(!is_missed(&Role::Standby, &a, None), "it has resigned");
        assert!(!is_missed(&Role::Standby, &a, Some(&b)), "another one leads");
        assert!(!is_missed(&Role::Preparing(Epoch(2)), &a, Some(&a)), "this node was elected");
        assert!(!is_missed(&Role::Leading(Epoch(2)), &a, Some(&a)), "this node leads");
    }

    #[test]
    fn only_silent_nodes_without_tasks_that_were_replaced_are_over() {
        let silent = REPLACED_AFTER + Duration::from_secs(1);
        let over = |replaced, silent_for, place: &str| {
            let candidate =
                Candidate { node: "a".into(), addresses: Vec::new(), pid: 1, version: String::new() };
            let news = News { replaced, ..News::default() };
            is_over(&Neighbour { candidate, news, silent_for }, &[Arc::from(place)].into())
        };
        assert!(over(true, silent, "b"));
        assert!(
            !over(false, silent, "b"),
            "a machine is missed until somebody says that it will not come back"
        );
        assert!(!over(true, REPLACED_AFTER, "b"), "it may be slow");
        assert!(!over(true, silent, "a"), "a task there may still end");
    }
}
