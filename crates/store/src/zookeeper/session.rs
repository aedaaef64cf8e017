//! Sessions with the ensemble, what its errors mean, and questions that are asked many at a time.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio::sync::Mutex;
use zookeeper_client::{
    Acl, Acls, Client, CreateMode, CreateOptions, Error, MultiReadResult, Permission, Stat,
};

use super::Options;
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

/// Where the ensemble is, and the session that asks it, made anew when it has ended.
pub(super) struct Sessions {
    pub(super) options: Options,
    looking: Mutex<Option<Client>>,
    leading: Mutex<Option<Client>>,
    /// Which server the next session is tried with first.
    turn: AtomicUsize,
}

impl Sessions {
    pub(super) fn new(options: Options) -> Self {
        // Not all nodes with the same server, which the library would do.
        let turn = AtomicUsize::new(usize::try_from(std::process::id()).unwrap_or(0));
        Self { options, looking: Mutex::new(None), leading: Mutex::new(None), turn }
    }

    /// The session that answers questions: another one than that of the leader, whose commits would wait behind large
    /// answers.
    pub(super) async fn looking(&self) -> Result<Client, StoreError> {
        self.client(&self.looking).await
    }

    /// The session that the right to lead is bound to.
    pub(super) async fn leading(&self) -> Result<Client, StoreError> {
        self.client(&self.leading).await
    }

    /// How many servers there are.
    pub(super) fn servers(&self) -> usize {
        self.options.hosts.split(',').count()
    }

    async fn client(&self, which: &Mutex<Option<Client>>) -> Result<Client, StoreError> {
        let mut client = which.lock().await;
        if let Some(client) = &*client
            && !client.state().is_terminated()
        {
            return Ok(client.clone());
        }
        *client = None;
        let mut connector = Client::connector().with_session_timeout(self.options.session_timeout);
        if let Some(auth) = &self.options.auth {
            connector = connector.with_auth("digest", auth.as_bytes());
        }
        let hosts = beginning_with(&self.options.hosts, self.turn.load(Ordering::Relaxed));
        let made = connector.connect(&hosts);
        let made = tokio::time::timeout(ANSWER_WITHIN, made).await.unwrap_or(Err(Error::Timeout));
        let made = made.map_err(|error| self.meaning(&error))?;
        // A server may lag behind what another session of ours has seen. Everybody waits here for one that says nothing.
        if tokio::time::timeout(ANSWER_WITHIN, made.sync("/")).await.is_err() {
            self.turn.fetch_add(1, Ordering::Relaxed);
            return Err(self.meaning(&Error::Timeout));
        }
        *client = Some(made.clone());
        Ok(made)
    }

    /// What the server of this session shows is not what the ensemble has: the next session is one with another server.
    pub(super) async fn distrust(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        for which in [&self.looking, &self.leading] {
            *which.lock().await = None;
        }
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
        StoreError::Unavailable(match error {
            Error::NoAuth | Error::InvalidAcl | Error::AuthFailed => format!(
                "ZooKeeper does not let this node write below `{}`: {error}; the store was made with another \
                 --zk_auth than this node's, or with none",
                self.options.path
            ),
            Error::NoHosts | Error::Timeout => {
                format!(
                    "no server of the ensemble `{hosts}` answers; see --zk_hosts, and whether a majority runs"
                )
            }
            Error::NoNode => {
                format!("something is missing below `{}`: was it removed by hand?", self.options.path)
            }
            Error::QuotaExceeded => {
                format!("ZooKeeper's quota of `{}` is used up: raise it", self.options.path)
            }
            error => format!("ZooKeeper at `{hosts}`: {error}"),
        })
    }
}

/// The same servers, another one of them first; what follows the last one (`/path`) stays there.
fn beginning_with(hosts: &str, turn: usize) -> String {
    let (servers, path) = hosts.split_at(hosts.find('/').unwrap_or(hosts.len()));
    let mut servers: Vec<&str> = servers.split(',').collect();
    let first = turn % servers.len();
    servers.rotate_left(first);
    servers.join(",") + path
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

/// Asks again when the connection was lost on the way, or the server says nothing; the session outlives it.
pub(super) async fn patiently<T, F>(client: &Client, ask: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut tries = 0;
    loop {
        tries += 1;
        let answer = tokio::time::timeout(ANSWER_WITHIN, ask()).await;
        match answer.unwrap_or(Err(Error::Timeout)) {
            Err(error) if is_doubt(&error) && tries < TRIES && !client.state().is_terminated() => {}
            answer => return answer,
        }
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
    fn each_turn_begins_with_another_server() {
        let turns: Vec<String> = (0..4).map(|turn| beginning_with("a:1,b:2,c:3/x/y", turn)).collect();
        assert_eq!(turns, ["a:1,b:2,c:3/x/y", "b:2,c:3,a:1/x/y", "c:3,a:1,b:2/x/y", "a:1,b:2,c:3/x/y"]);
        assert_eq!(beginning_with("[::1]:2181", 7), "[::1]:2181");
    }
}
