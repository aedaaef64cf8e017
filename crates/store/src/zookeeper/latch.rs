//! The right to lead: a member of the latch that Chronos knows from Curator, in the same directory, so that an old
//! Chronos and ours compete fairly. Whoever has the lowest number leads; each watches the one before it.
//!
//! It is written here and not taken from the client's own recipe, which gives up, and deletes what it holds, at the
//! first connection that breaks in another way than it expects.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode, Error};

use super::locked;
use super::session::{ANSWER_WITHIN, Held, Pause, Sessions, children, data, is_doubt, patiently};
use super::tree::Paths;
use crate::{Candidate, StoreError, format};

/// What is not deleted within this is left to the end of its session.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// What Curator puts before the number of a member.
const MARK: &str = "latch-";

/// Our member of the latch; dropped, it is deleted some time later.
pub(super) struct Member {
    client: Client,
    /// Where its session is held.
    held: Held,
    paths: Paths,
    /// Its name without the number.
    prefix: String,
    /// Its path; empty until it is there.
    path: String,
    left: bool,
    /// Its server answers nothing.
    silent: bool,
    leaving: Leaving,
}

/// How many members have been dropped and not yet been deleted.
#[derive(Clone, Default)]
pub(super) struct Leaving(Arc<watch::Sender<usize>>);

impl Leaving {
    /// Waits until all are gone, for a while: who cannot be reached deletes nothing, and they go with their session.
    pub(super) async fn over(&self) {
        let mut count = self.0.subscribe();
        let _ = timeout(LEAVE_WITHIN, count.wait_for(|count| *count == 0)).await;
    }
}

impl Member {
    /// Takes a place in the latch.
    pub(super) async fn join(
        sessions: &Sessions,
        client: &Client,
        paths: &Paths,
        candidate: &Candidate,
        leaving: Leaving,
    ) -> Result<Self, StoreError> {
        let meaning = |error: Error| sessions.meaning(&error);
        let prefix = format!("_c_{}-{MARK}", random_uuid()?);
        let (held, path) = (sessions.held(), String::new());
        let (client_of, paths_of) = (client.clone(), paths.clone());
        let mut member = Self {
            client: client_of,
            held,
            paths: paths_of,
            prefix,
            path,
            left: false,
            silent: false,
            leaving,
        };
        // Who it is comes first: whoever sees the member finds it.
        let about = format::write_candidate(candidate).into_bytes();
        let node = paths.node(&member.prefix);
        let ephemeral = CreateMode::Ephemeral.with_acls(sessions.acls());
        match patiently(client, || client.create(&node, &about, &ephemeral)).await {
            Ok(_) | Err(Error::NodeExists) => {}
            Err(error) => return Err(meaning(error)),
        }
        // An old Chronos knows addresses without a scheme.
        let address = candidate.addresses.first().map_or("", String::as_str);
        let address = address.split_once("://").map_or(address, |(_, address)| address);
        let path = format!("{}/{}", paths.candidates(), member.prefix);
        // Open to all, as Curator's are: an old Chronos may have other rights, and must be able to read it.
        let sequential = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
        while member.path.is_empty() {
            let made = timeout(ANSWER_WITHIN, client.create(&path, address.as_bytes(), &sequential)).await;
            match made.unwrap_or(Err(Error::Timeout)) {
                Ok((_, number)) => member.path = format!("{path}{number}"),
                Err(error) if is_doubt(&error) && !client.state().is_terminated() => {
                    let there = settled(client, &paths.candidates()).await.map_err(meaning)?;
                    if let Some(name) = there.iter().find(|name| name.starts_with(&member.prefix)) {
                        member.path = format!("{}/{name}", paths.candidates());
                    }
                }
                Err(error) => return Err(meaning(error)),
            }
        }
        Ok(member)
    }

    /// Waits until it is the first.
    pub(super) async fn first(&mut self, sessions: &Sessions) -> Result<(), StoreError> {
        match self.is_first_at_last().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::Unavailable("our place in the latch is gone".into())),
            Err(error) => {
                self.silent = error == Error::Timeout;
                Err(sessions.meaning(&error))
            }
        }
    }

    /// Waits until it is the first, or not there any more: then it is not.
    async fn is_first_at_last(&mut self) -> Result<bool, Error> {
        let dir = self.paths.candidates();
        loop {
            let members = members(&self.client, &dir).await?;
            // Should there be two of ours, neither waits for the other.
            let Some(ours) = members.iter().position(|name| name.starts_with(&self.prefix)) else {
                return Ok(false);
            };
            self.path = format!("{dir}/{}", members[ours]);
            let Some(before) = ours.checked_sub(1).map(|before| format!("{dir}/{}", members[before])) else {
                return Ok(true);
            };
            match patiently(&self.client, || self.client.get_and_watch_data(&before)).await {
                // A server that has fallen silent does not say either that our turn has come; asking again finds it out.
                Ok((_, _, watcher)) => drop(timeout(ANSWER_WITHIN, watcher.changed()).await),
                Err(Error::NoNode) => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Its name without the number, by which the store knows it.
    pub(super) fn name(&self) -> &str {
        &self.prefix
    }

    /// Gives its place up, and returns when that is done, or when so much time has passed: then its session ends.
    pub(super) async fn leave(mut self, within: Duration) {
        self.left = true;
        let left = leave(&self.client, &self.paths, &self.prefix);
        if timeout(within, left).await != Ok(true) {
            end(&self.held, &self.client).await;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (client, paths, prefix) = (self.client.clone(), self.paths.clone(), self.prefix.clone());
            let (held, silent, leaving) = (self.held.clone(), self.silent, self.leaving.clone());
            leaving.0.send_modify(|count| *count += 1);
            runtime.spawn(async move {
                if silent || !leave(&client, &paths, &prefix).await {
                    end(&held, &client).await;
                }
                leaving.0.send_modify(|count| *count -= 1);
            });
        }
    }
}

/// Gives a place up; false if a server has left a question about it unanswered.
async fn leave(client: &Client, paths: &Paths, prefix: &str) -> bool {
    let dir = paths.candidates();
    let mut pause = Pause::new();
    while !client.state().is_terminated() {
        match settled(client, &dir).await {
            Err(Error::Timeout) => return false,
            Ok(there) => {
                let Some(name) = there.iter().find(|name| name.starts_with(prefix)) else { break };
                // An answer that was lost is found out by looking again.
                match timeout(ANSWER_WITHIN, client.delete(&format!("{dir}/{name}"), None)).await {
                    Ok(Ok(()) | Err(Error::NoNode)) => {}
                    Ok(Err(_)) => pause.wait().await,
                    Err(_) => return false,
                }
            }
            Err(Error::NoNode) => break,
            Err(_) => pause.wait().await,
        }
    }
    // It goes with the session in any case.
    let _ = timeout(ANSWER_WITHIN, client.delete(&paths.node(prefix), None)).await;
    true
}

/// Nobody holds this session any more: a place that could not be given up goes with it, and does not keep others waiting for
/// as long as this process lives.
async fn end(held: &Held, client: &Client) {
    let mut held = held.lock().await;
    if held.as_ref().is_some_and(|held| held.session_id() == client.session_id()) {
        *held = None;
    }
}

/// What is in a directory once all that was asked before is done or refused: a member may still be on its way by a connection
/// that is gone, and come when it is not looked for any more.
async fn settled(client: &Client, dir: &str) -> Result<Vec<String>, Error> {
    patiently(client, || client.sync(dir)).await?;
    patiently(client, || client.list_children(dir)).await
}

/// Members of the latch, first to lead first: ours, and those of an old Chronos.
async fn members(client: &Client, dir: &str) -> Result<Vec<String>, Error> {
    let mut members = children(client, dir).await?;
    members.retain(|name| name.contains(MARK));
    members.sort_by(|a, b| number(a).cmp(number(b)));
    Ok(members)
}

fn number(name: &str) -> &str {
    name.rsplit_once(MARK).map_or("", |(_, number)| number)
}

/// Who leads; of an old Chronos no more is known than its address.
pub(super) async fn leader(client: &Client, paths: &Paths) -> Result<Option<Candidate>, StoreError> {
    let unavailable = |error: Error| StoreError::Unavailable(error.to_string());
    let dir = paths.candidates();
    for name in members(client, &dir).await.map_err(unavailable)? {
        let prefix = name.strip_suffix(number(&name)).unwrap_or(&name);
        if let Some((about, _)) = data(client, &paths.node(prefix)).await.map_err(unavailable)? {
            let candidate = std::str::from_utf8(&about).ok().and_then(format::read_candidate);
            let damaged = || StoreError::Damaged(format!("`{}` cannot be read", paths.node(prefix)));
            return candidate.map(Some).ok_or_else(damaged);
        }
        if let Some((address, _)) = data(client, &format!("{dir}/{name}")).await.map_err(unavailable)? {
            let addresses = vec![String::from_utf8_lossy(&address).into_owned()];
            return Ok(Some(Candidate { addresses, ..Candidate::default() }));
        }
    }
    Ok(None)
}

/// Between two looks for strangers: they stay for long.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Members of the latch that are none of ours, as they were seen last: old Chronoses, which lead when all of ours are gone,
/// and then launch what ours have launched long ago.
#[derive(Debug, Default)]
pub(super) struct Strangers(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    looked: Option<Instant>,
    /// `host:port` of each.
    addresses: Vec<String>,
}

impl Strangers {
    /// Looks who is in the line, unless that was done lately. Nobody waits for it.
    pub(super) fn look(&self, client: &Client, paths: &Paths) {
        let now = Instant::now();
        let mut seen = locked(&self.0);
        if seen.looked.is_some_and(|looked| now.duration_since(looked) < LOOK_EVERY) {
            return;
        }
        seen.looked = Some(now);
        let (client, paths, seen) = (client.clone(), paths.clone(), self.0.clone());
        tokio::spawn(async move {
            // What cannot be seen now is as it was.
            if let Ok(Ok(addresses)) = timeout(ANSWER_WITHIN, strangers(&client, &paths)).await {
                locked(&seen).addresses = addresses;
            }
        });
    }

    /// What is to be told about them, if there are any.
    pub(super) fn note(&self) -> Option<String> {
        let seen = locked(&self.0);
        (!seen.addresses.is_empty()).then(|| {
            format!(
                "an old Chronos is in the line to lead, at {}: it leads when all nodes of this cluster are gone, and launches \
                 what was launched here; stop it, see docs/guides/zookeeper.md",
                seen.addresses.join(", ")
            )
        })
    }
}

async fn strangers(client: &Client, paths: &Paths) -> Result<Vec<String>, Error> {
    let dir = paths.candidates();
    let mut addresses = Vec::new();
    for name in members(client, &dir).await? {
        let prefix = name.strip_suffix(number(&name)).unwrap_or(&name);
        // Ours say who they are before they take a place, and give that up first.
        if data(client, &paths.node(prefix)).await?.is_none()
            && let Some((address, _)) = data(client, &format!("{dir}/{name}")).await?
        {
            addresses.push(String::from_utf8_lossy(&address).into_owned());
        }
    }
    Ok(addresses)
}

/// As Curator marks its members: random, in the form of RFC 9562.
fn random_uuid() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| StoreError::Unavailable(format!("the system has no random numbers: {error}")))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
