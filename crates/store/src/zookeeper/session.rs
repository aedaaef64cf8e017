//! Sessions with the ensemble, what its errors mean, and questions that are asked many at a time.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio::sync::Mutex;
use zookeeper_client::{
    Acl, Acls, Client, Connector, CreateMode, CreateOptions, Error, MultiReadResult, MultiWriteError,
    MultiWriteResult, MultiWriter, Permission, Stat,
};

use super::{Options, locked};
use crate::StoreError;

/// Questions in flight at the same time: enough to hide the way, little enough that the servers' queues stay short.
const IN_FLIGHT: usize = 32;
/// Records asked for in one question.
const CHUNK: usize = 64;
/// How often a question is asked anew when its connection was lost.
const TRIES: usize = 3;
/// A server that has not answered a question for so long is not waited for any more: it may go on answering pings, so that
/// the session lives, and everybody behind the question would wait for ever.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(20);

static AUTHENTICATED: [Acl; 2] =
    [Acl::new_const(Permission::READ, "world", "anyone"), Acl::new_const(Permission::ALL, "auth", "")];

/// A session that lives as long as it is held, or somebody works with it.
pub(super) type Held = Arc<Mutex<Option<Client>>>;

/// Where the ensemble is, and the session that asks it, made anew when it has ended.
pub(super) struct Sessions {
    pub(super) options: Options,
    looking: Mutex<Option<Client>>,
    leading: Held,
    /// Which server is asked first while sessions are with one alone.
    turn: AtomicUsize,
    /// Servers that were found to be silent, or to show what the ensemble does not have, by their numbers. While there are
    /// some, each session is with one server alone, and none of these.
    distrusted: std::sync::Mutex<Vec<u8>>,
    /// A server has left a question unanswered: neither session is to be used again.
    silent: [AtomicBool; 2],
}

impl Sessions {
    pub(super) fn new(options: Options) -> Self {
        // Not all nodes with the same server.
        let turn = AtomicUsize::new(usize::try_from(std::process::id()).unwrap_or(0));
        let (looking, leading) = (Mutex::new(None), Held::default());
        let distrusted = std::sync::Mutex::new(Vec::new());
        Self { options, looking, leading, turn, distrusted, silent: Default::default() }
    }

    /// The session that answers questions: another one than that of the leader, whose commits would wait behind large
    /// answers.
    pub(super) async fn looking(&self) -> Result<Client, StoreError> {
        self.client(&self.looking, &self.silent[0]).await
    }

    /// The session that the right to lead is bound to.
    pub(super) async fn leading(&self) -> Result<Client, StoreError> {
        self.client(&self.leading, &self.silent[1]).await
    }

    /// Where that session is held.
    pub(super) fn held(&self) -> Held {
        self.leading.clone()
    }

    /// How many servers there are.
    pub(super) fn servers(&self) -> usize {
        self.options.hosts.split(',').count()
    }

    async fn client(&self, which: &Mutex<Option<Client>>, silent: &AtomicBool) -> Result<Client, StoreError> {
        let mut client = which.lock().await;
        if silent.swap(false, Ordering::Relaxed)
            && let Some(client) = client.take()
        {
            self.suspect(&client);
        }
        if let Some(client) = &*client
            && !client.state().is_terminated()
        {
            return Ok(client.clone());
        }
        *client = None;
        let made = match self.with_one_alone().await {
            Some(made) => made,
            None => self.connected(self.connector(), &self.options.hosts).await?,
        };
        // A server may lag behind what another session of ours has seen. Everybody waits here for one that says nothing.
        if tokio::time::timeout(ANSWER_WITHIN, made.sync("/")).await.is_err() {
            self.suspect(&made);
            return Err(self.meaning(&Error::NoHosts));
        }
        *client = Some(made.clone());
        Ok(made)
    }

    /// A session with one of the servers that are not distrusted. `None` where none are, and where there are no others: then
    /// all are as good as before.
    async fn with_one_alone(&self) -> Option<Client> {
        if locked(&self.distrusted).is_empty() {
            return None;
        }
        for _ in 0..self.servers() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let connector = self.connector().with_fail_eagerly();
            if let Ok(made) = self.connected(connector, &one_of(&self.options.hosts, turn)).await
                && !locked(&self.distrusted).contains(&server_of(&made))
            {
                return Some(made);
            }
        }
        self.trust();
        None
    }

    fn connector(&self) -> Connector {
        let connector = Client::connector().with_session_timeout(self.options.session_timeout);
        match &self.options.auth {
            Some(auth) => connector.with_auth("digest", auth.as_bytes()),
            None => connector,
        }
    }

    /// A session with any of these servers: the library takes them in an order of its own.
    async fn connected(&self, connector: Connector, hosts: &str) -> Result<Client, StoreError> {
        let made = tokio::time::timeout(ANSWER_WITHIN, connector.connect(hosts)).await;
        match made.unwrap_or(Err(Error::Timeout)) {
            // The other session may be well.
            Err(Error::Timeout) => Err(self.meaning(&Error::NoHosts)),
            made => made.map_err(|error| self.meaning(&error)),
        }
    }

    fn suspect(&self, client: &Client) {
        let (server, mut distrusted) = (server_of(client), locked(&self.distrusted));
        if !distrusted.contains(&server) {
            distrusted.push(server);
        }
    }

    /// What the server of the leader's session shows is not what the ensemble has: the next sessions are with others.
    pub(super) async fn distrust(&self) {
        if let Some(client) = self.leading.lock().await.take() {
            self.suspect(&client);
        }
        *self.looking.lock().await = None;
    }

    /// All servers are as good as each other again: one of them has let a term begin.
    pub(super) fn trust(&self) {
        locked(&self.distrusted).clear();
    }

    /// Who may do what with our records: all, as Chronos made its own; with `--zk_auth` all may read.
    pub(super) fn acls(&self) -> Acls<'static> {
        match self.options.auth {
            None => Acls::anyone_all(),
            Some(_) => Acls::new(&AUTHENTICATED),
        }
    }

    pub(super) fn persistent(&self) -> CreateOptions<'static> {
        CreateMode::Persistent.with_acls(self.acls())
    }

    /// What an error of ZooKeeper means to the caller, and what to do about it.
    pub(super) fn meaning(&self, error: &Error) -> StoreError {
        let hosts = &self.options.hosts;
        if *error == Error::Timeout {
            self.silent.iter().for_each(|silent| silent.store(true, Ordering::Relaxed));
        }
        StoreError::Unavailable(match error {
            Error::NoAuth | Error::InvalidAcl | Error::AuthFailed => format!(
                "ZooKeeper does not let this node work below `{}`: {error}; start it with the --zk_auth that the store was \
                 made with, or without one if it was made without, and see that nobody has changed its ACLs",
                self.options.path
            ),
            Error::NoHosts | Error::Timeout => {
                format!(
                    "no server of the ensemble `{hosts}` answers; see --zk_hosts, and whether a majority runs"
                )
            }
            Error::NoNode => {
                format!(
                    "something is missing below `{}`; if it stays so, it was removed by hand: restore a backup below \
                     another --zk_path",
                    self.options.path
                )
            }
            Error::QuotaExceeded => {
                format!("ZooKeeper's quota of `{}` is used up: raise it", self.options.path)
            }
            error => {
                format!("ZooKeeper at `{hosts}`: {error}; if that goes on, see the logs of its servers")
            }
        })
    }
}

/// One of these servers; what follows the last one (`/path`) follows it.
fn one_of(hosts: &str, turn: usize) -> String {
    let (servers, path) = hosts.split_at(hosts.find('/').unwrap_or(hosts.len()));
    let servers: Vec<&str> = servers.split(',').collect();
    format!("{}{path}", servers[turn % servers.len()])
}

/// The number of the server that a session began with: the first byte of its id.
fn server_of(client: &Client) -> u8 {
    client.session_id().0.to_be_bytes()[0]
}

/// Whether the server may or may not have done what it was asked: this is no verdict of its own.
pub(super) fn is_doubt(error: &Error) -> bool {
    !matches!(
        error,
        Error::NoNode
            | Error::NoAuth
            | Error::BadVersion
            | Error::NoChildrenForEphemerals
            | Error::NodeExists
            | Error::NotEmpty
            | Error::InvalidAcl
            | Error::NotReadOnly
            | Error::QuotaExceeded
            | Error::Throttled
            | Error::MarshallingError
            | Error::Unimplemented
            | Error::BadArguments(_)
    )
}

/// Asks again when the connection was lost on the way, which the session outlives. A server that says nothing is not asked
/// again: the next session is with another.
pub(super) async fn patiently<T, F>(client: &Client, ask: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut tries = 0;
    loop {
        tries += 1;
        match tokio::time::timeout(ANSWER_WITHIN, ask()).await {
            Ok(Err(error)) if is_doubt(&error) && tries < TRIES && !client.state().is_terminated() => {}
            Ok(answer) => return answer,
            Err(_) => return Err(Error::Timeout),
        }
    }
}

/// Until a session is over.
pub(super) async fn ended(client: &Client) {
    let mut states = client.state_watcher();
    let mut state = states.state();
    while !state.is_terminated() {
        state = states.changed().await;
    }
}

/// What becomes of a multi, which is sent here and now; a server that says nothing leaves it in doubt.
pub(super) fn answered<'c>(
    mut multi: MultiWriter<'c>,
) -> impl Future<Output = Result<Vec<MultiWriteResult>, MultiWriteError>> + Send + 'c {
    let answer = multi.commit();
    async move {
        let answer = tokio::time::timeout(ANSWER_WITHIN, answer).await;
        answer.unwrap_or(Err(MultiWriteError::RequestFailed { source: Error::Timeout }))
    }
}

/// Children of a node; none where there is no such node.
pub(super) async fn children(client: &Client, path: &str) -> Result<Vec<String>, Error> {
    match patiently(client, || client.list_children(path)).await {
        Err(Error::NoNode) => Ok(Vec::new()),
        answer => answer,
    }
}

/// Data of a node, if there is one.
pub(super) async fn data(client: &Client, path: &str) -> Result<Option<(Vec<u8>, Stat)>, Error> {
    match patiently(client, || client.get_data(path)).await {
        Ok(found) => Ok(Some(found)),
        Err(Error::NoNode) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Work on many things, some of it at the same time, its results in order.
pub(super) async fn all<I, T, F>(things: I, work: impl Fn(I::Item) -> F) -> Result<Vec<T>, Error>
where
    I: IntoIterator,
    F: Future<Output = Result<T, Error>>,
{
    let mut things = things.into_iter();
    let mut flying: FuturesOrdered<F> = things.by_ref().take(IN_FLIGHT).map(&work).collect();
    let mut done = Vec::new();
    while let Some(result) = flying.next().await {
        done.push(result?);
        flying.extend(things.next().map(&work));
    }
    Ok(done)
}

/// Data of many nodes, in order; `None` where there is no such node.
pub(super) async fn data_of_all(client: &Client, paths: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
    let chunks = all(paths.chunks(CHUNK), |chunk| {
        patiently(client, move || async move {
            let mut reader = client.new_multi_reader();
            for path in chunk {
                reader.add_get_data(path)?;
            }
            reader.commit().await
        })
    });
    let answers: VecDeque<MultiReadResult> = chunks.await?.into_iter().flatten().collect();
    answers
        .into_iter()
        .map(|answer| match answer {
            MultiReadResult::Data { data, .. } => Ok(Some(data)),
            MultiReadResult::Error { err: Error::NoNode } => Ok(None),
            MultiReadResult::Error { err } => Err(err),
            other => Err(Error::UnexpectedError(format!("data were asked for, {other:?} was answered"))),
        })
        .collect()
}

/// A pause between tries, longer each time.
pub(super) struct Pause(Duration);

impl Pause {
    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(2);

    pub(super) fn new() -> Self {
        Self(Self::MIN)
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = Self::MAX.min(self.0 * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_is_another_servers() {
        let turns: Vec<String> = (0..4).map(|turn| one_of("a:1,b:2,c:3/x/y", turn)).collect();
        assert_eq!(turns, ["a:1/x/y", "b:2/x/y", "c:3/x/y", "a:1/x/y"]);
        assert_eq!(one_of("[::1]:2181", 7), "[::1]:2181");
    }
}
