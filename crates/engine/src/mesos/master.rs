//! Where the master is: as it was told, as a name says, or as ZooKeeper says.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::debug;
use zookeeper_client::{Client, Error};

use super::backoff::Backoff;

/// The port of a master where none is named.
const PORT: u16 = 5050;
/// The session only looks.
const SESSION: Duration = Duration::from_secs(10);
/// Nodes of masters in ZooKeeper begin so.
const INFO: &str = "json.info_";
/// Where nobody leads, or nobody answers, it is looked again after at most so long.
const LOOKED_EVERY: Duration = Duration::from_secs(5);
const LOOKED_FIRST: Duration = Duration::from_millis(200);

/// Where masters are, or who knows.
#[derive(Clone, PartialEq, Eq)]
pub struct Masters(Where);

#[derive(Clone, PartialEq, Eq)]
enum Where {
    /// Any of these leads, or knows who does.
    Named(Vec<MasterUrl>),
    ZooKeeper {
        hosts: String,
        path: String,
        auth: Option<String>,
        tls: bool,
    },
}

/// Where one master answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MasterUrl {
    pub(super) tls: bool,
    /// Host and port, as in a URL.
    pub(super) authority: String,
}

/// The text says nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` says no master of Mesos: {why}")]
pub struct NoMaster {
    /// What was said, without passwords.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Masters {
    /// Reads `zk://user:password@host:port,host:port/path`, or a list of `http://host:port`, `https://host:port`, `host:port`.
    /// Masters that are found through `zks://` in place of `zk://` speak HTTPS.
    /// # Errors
    /// It is none of these.
    pub fn parse(text: &str) -> Result<Self, NoMaster> {
        let text = text.trim();
        let refused = |why| NoMaster { text: without_password(text), why };
        let ensemble = text.strip_prefix("zk://").map(|rest| (rest, false));
        if let Some((rest, tls)) = ensemble.or_else(|| text.strip_prefix("zks://").map(|rest| (rest, true))) {
            let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
            let (auth, hosts) = match hosts.rsplit_once('@') {
                Some((auth, hosts)) => (Some(auth.to_owned()), hosts),
                None => (None, hosts),
            };
            let path = path.trim_end_matches('/');
            if path.is_empty() {
                return Err(refused("a path has to follow the servers, as in `zk://host:2181/mesos`"));
            }
            if hosts.is_empty() || hosts.split(',').any(|host| !is_authority(host)) {
                return Err(refused(
                    "servers of ZooKeeper are named as `host:port`, with commas between them",
                ));
            }
            if auth.as_ref().is_some_and(|auth| !auth.contains(':')) {
                return Err(refused("before the `@` there has to be `user:password`"));
            }
            let (hosts, path) = (hosts.to_owned(), format!("/{path}"));
            return Ok(Self(Where::ZooKeeper { hosts, path, auth, tls }));
        }
        let named = text.split(',').map(|one| MasterUrl::parse(one.trim())).collect::<Option<Vec<_>>>();
        named.map(|named| Self(Where::Named(named))).ok_or_else(|| {
            refused("masters are named as `host:port`, `http://host:port` or `https://host:port`, with commas between them, or by `zk://host:2181/mesos`")
        })
    }
}

impl Masters {
    /// How they are found, before where.
    pub(super) fn how(&self) -> &'static str {
        match &self.0 {
            Where::Named(_) => "named as",
            Where::ZooKeeper { .. } => "found by",
        }
    }
}

/// What is shown and logged has no password.
impl fmt::Display for Masters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Where::Named(named) => {
                let all: Vec<String> = named.iter().map(MasterUrl::to_string).collect();
                f.write_str(&all.join(","))
            }
            Where::ZooKeeper { hosts, path, auth, tls } => {
                let (scheme, auth) =
                    (if *tls { "zks" } else { "zk" }, if auth.is_some() { "***@" } else { "" });
                write!(f, "{scheme}://{auth}{hosts}{path}")
            }
        }
    }
}

impl fmt::Debug for Masters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Masters({self})")
    }
}

impl MasterUrl {
    fn parse(text: &str) -> Option<Self> {
        let (tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some(_) => return None,
            None => (false, text),
        };
        let authority = rest.trim_end_matches('/');
        is_authority(authority).then(|| Self { tls, authority: with_port(authority) })
    }

    /// Where an answer of this master leads: `//host:port/path`, a whole URL, or nothing that is known here.
    pub(super) fn redirect(&self, location: &str) -> Option<Self> {
        let (tls, rest) = match location.split_once("//")? {
            ("", rest) => (self.tls, rest),
            (scheme, rest) if scheme.eq_ignore_ascii_case("http:") => (false, rest),
            (scheme, rest) if scheme.eq_ignore_ascii_case("https:") => (true, rest),
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?;
        is_authority(authority).then(|| Self { tls, authority: with_port(authority) })
    }
}

impl fmt::Display for MasterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority)
    }
}

/// A host, or a host and its port.
fn is_authority(text: &str) -> bool {
    let host = match port_of(text) {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        Some(_) => return false,
        None => text,
    };
    let bracketed = host.strip_prefix('[').map(|rest| rest.ends_with(']'));
    !host.is_empty()
        && bracketed.unwrap_or(!host.contains(':'))
        && !host.contains(['/', '@', ' ', '?', '#', ','])
}

fn port_of(text: &str) -> Option<(&str, &str)> {
    text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'))
}

fn with_port(authority: &str) -> String {
    if port_of(authority).is_some() { authority.to_owned() } else { format!("{authority}:{PORT}") }
}

fn without_password(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://***@{rest}"),
        _ => text.to_owned(),
    }
}

/// What is known of where the master is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// These are tried in turn.
    At(Vec<MasterUrl>),
    /// Nobody knows of one: where it was looked, and what was heard.
    Nowhere(String),
}

/// Looks for the master, for as long as it is kept.
pub(super) struct Search {
    found: watch::Receiver<Found>,
    looking: Option<JoinHandle<()>>,
}

impl Search {
    /// To be called in a tokio runtime.
    pub(super) fn begin(masters: &Masters) -> Self {
        match &masters.0 {
            Where::Named(named) => Self { found: watch::channel(Found::At(named.clone())).1, looking: None },
            Where::ZooKeeper { .. } => {
                let (sender, found) =
                    watch::channel(Found::Nowhere(format!("{masters} has not been asked yet")));
                let masters = masters.clone();
                Self { found, looking: Some(tokio::spawn(async move { look(&masters, &sender).await })) }
            }
        }
    }

    pub(super) fn found(&self) -> watch::Receiver<Found> {
        self.found.clone()
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        if let Some(looking) = &self.looking {
            looking.abort();
        }
    }
}

/// Asks ZooKeeper for ever.
async fn look(masters: &Masters, sender: &watch::Sender<Found>) {
    let Where::ZooKeeper { hosts, path, auth, tls } = &masters.0 else { return };
    let mut backoff = Backoff::any(LOOKED_FIRST, LOOKED_EVERY);
    let mut client: Option<Client> = None;
    loop {
        let session = match client.take().filter(|client| !client.state().is_terminated()) {
            Some(client) => Ok(client),
            None => {
                let mut connector = Client::connector().with_session_timeout(SESSION);
                if let Some(auth) = auth {
                    connector = connector.with_auth("digest", auth.as_bytes());
                }
                connector.connect(hosts).await
            }
        };
        let told = match session {
            Err(error) => Err(format!("no server of ZooKeeper at {hosts} lets this node in: {error}")),
            Ok(session) => {
                let looked = follow(&session, path, *tls, sender, &mut backoff).await;
                client = Some(session);
                looked.map_err(|error| match error {
                    Error::NoNode => format!("ZooKeeper at {hosts} has no `{path}`: no master has registered there yet, or it is another path"),
                    Error::NoAuth => format!("ZooKeeper at {hosts} does not let this node read `{path}`; `zk://user:password@...` says as whom it asks"),
                    error => format!("ZooKeeper at {hosts}: {error}"),
                })
            }
        };
        if let Err(why) = told {
            debug!(why, "no master of Mesos is known");
            // A master that was known may still lead: a session that is lost says nothing of it.
            sender.send_if_modified(|found| match found {
                Found::At(_) => false,
                Found::Nowhere(known) => std::mem::replace(known, why.clone()) != why,
            });
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// Follows who leads until the session has trouble, or what is there makes no sense.
async fn follow(
    session: &Client,
    path: &str,
    tls: bool,
    sender: &watch::Sender<Found>,
    backoff: &mut Backoff,
) -> Result<(), Error> {
    loop {
        let (children, changed) = session.list_and_watch_children(path).await?;
        let leads = children.iter().filter_map(|name| Some((sequence(name)?, name))).min();
        let found = match leads {
            None => Found::Nowhere(format!(
                "no master has registered at `{path}` in ZooKeeper; {} other nodes are there",
                children.len()
            )),
            Some((_, name)) => match session.get_data(&format!("{path}/{name}")).await {
                Ok((data, _)) => match MasterInfo::url(&data, tls) {
                    Some(url) => Found::At(vec![url]),
                    None => Found::Nowhere(format!(
                        "`{path}/{name}` in ZooKeeper does not say where its master is"
                    )),
                },
                // It went between the two questions.
                Err(Error::NoNode) => continue,
                Err(error) => return Err(error),
            },
        };
        backoff.reset();
        sender.send_if_modified(|known| {
            *known != found && {
                *known = found;
                true
            }
        });
        let event = changed.changed().await;
        debug!(?event, "masters of Mesos have changed");
        if session.state().is_terminated() {
            return Ok(());
        }
    }
}

/// The number of a master's node; the lowest leads.
fn sequence(name: &str) -> Option<u64> {
    name.strip_prefix(INFO)?.parse().ok()
}

/// What a master writes of itself.
#[derive(Deserialize, Default)]
#[serde(default)]
struct MasterInfo {
    address: MasterAddress,
    hostname: String,
    pid: String,
    port: u16,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MasterAddress {
    hostname: String,
    ip: String,
    port: u16,
}

impl MasterInfo {
    fn url(data: &[u8], tls: bool) -> Option<MasterUrl> {
        let info: Self = serde_json::from_slice(data).ok()?;
        let MasterAddress { hostname, ip, port } = info.address;
        // A certificate is for a name; an address needs nobody who knows it.
        let names = if tls { [hostname, info.hostname, ip] } else { [ip, hostname, info.hostname] };
        let name = names.into_iter().find(|name| !name.is_empty());
        let port = if port == 0 { info.port } else { port };
        let authority = match name {
            Some(name) if port != 0 && name.contains(':') => format!("[{name}]:{port}"),
            Some(name) if port != 0 => format!("{name}:{port}"),
            _ => info.pid.split_once('@')?.1.to_owned(),
        };
        is_authority(&authority).then_some(MasterUrl { tls, authority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str) {
        assert_eq!(Masters::parse(text).map(|masters| masters.to_string()), Ok(shown.into()), "{text}");
    }

    #[test]
    fn masters_are_named_in_many_ways() {
        check("10.0.0.1:5050", "http://10.0.0.1:5050");
        check("leader.mesos.service.consul:5050", "http://leader.mesos.service.consul:5050");
        check("leader.mesos", "http://leader.mesos:5050");
        check("https://m1.example.org/", "https://m1.example.org:5050");
        check("http://m1:5050,m2:5051, https://m3:1", "http://m1:5050,http://m2:5051,https://m3:1");
        check("[::1]:5050", "http://[::1]:5050");
        check("zk://h1:2181,h2:2182/mesos", "zk://h1:2181,h2:2182/mesos");
        check("zk://u:p@h1:2181/a/b/", "zk://***@h1:2181/a/b");
        check("zks://h1/mesos", "zks://h1/mesos");
    }

    #[test]
    fn what_names_none_is_refused_without_its_password() {
        for text in [
            "",
            ":5050",
            "ftp://m1:5050",
            "m1:x",
            "m1,,m2",
            "http://m1/path",
            "zk://h1:2181",
            "zk://h1:2181/",
            "zk:///mesos",
            "zk://u@h1/mesos",
        ] {
            assert!(Masters::parse(text).is_err(), "{text}");
        }
        let refused = Masters::parse("zk://u:geheim@h1:2181").expect_err("no path");
        assert!(!refused.to_string().contains("geheim"), "{refused}");
        assert!(!format!("{:?}", Masters::parse("zk://u:geheim@h1/m")).contains("geheim"));
    }

    #[test]
    fn a_master_leads_to_another_with_a_scheme_or_without() {
        let from = |tls| MasterUrl { tls, authority: "m1:5050".into() };
        let to = |from: MasterUrl, location: &str| from.redirect(location).map(|to| to.to_string());
        assert_eq!(to(from(false), "//10.0.0.2:5050/api/v1/scheduler"), Some("http://10.0.0.2:5050".into()));
        assert_eq!(to(from(true), "//m2:5050"), Some("https://m2:5050".into()));
        assert_eq!(to(from(false), "https://m2/api"), Some("https://m2:5050".into()));
        for location in ["", "/api/v1/scheduler", "ftp://m2", "//", "//a b"] {
            assert_eq!(to(from(false), location), None, "{location}");
        }
    }

    #[test]
    fn the_lowest_number_leads() {
        let names = [
            "json.info_0000000012",
            "info_0000000001",
            "json.info_0000000009",
            "log_replicas",
            "json.info_x",
        ];
        let leads = names.iter().filter_map(|name| Some((sequence(name)?, name))).min();
        assert_eq!(leads, Some((9, &"json.info_0000000009")));
    }

    #[test]
    fn a_master_says_where_it_is() {
        let url = |text: &str, tls| MasterInfo::url(text.as_bytes(), tls).map(|url| url.to_string());
        let info = r#"{"address":{"hostname":"m1.local","ip":"10.0.0.1","port":5050},"capabilities":[{},{"type":"x"}],"hostname":"m1.local","id":"i","ip":16777226,"pid":"master@10.0.0.1:5050","port":5050,"version":"1.11.0"}"#;
        assert_eq!(url(info, false), Some("http://10.0.0.1:5050".into()));
        assert_eq!(url(info, true), Some("https://m1.local:5050".into()));
        assert_eq!(url(r#"{"pid":"master@10.0.0.1:5055"}"#, false), Some("http://10.0.0.1:5055".into()));
        assert_eq!(url("{}", false), None);
        assert_eq!(url("not json", false), None);
    }
}
