//! Connections: what a URL asks for, with time limits and nothing that a pooler in between would not keep.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{Connect, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::OptionsError;
use super::tls::{Check, Files, Tls};
use crate::StoreError;

/// Questions answered at the same time; more wait. Each is a process of the server's.
const READERS_MAX: usize = 4;
/// A question that finds no connection free for so long is not answered.
const WAIT: Duration = Duration::from_secs(30);
/// A new connection takes at most so long, in all its steps.
pub(super) const CONNECT: Duration = Duration::from_secs(3);
/// A host that has not let us in for so long does not keep us from the next one: more than a connection takes, and
/// little beside the shortest lease.
const NEXT_HOST: Duration = Duration::from_millis(250);

/// Where the database is, and how it is spoken to.
pub(super) struct Place {
    config: Config,
    security: Security,
    /// What statements of the writer take at most, told to the server at the start of a connection.
    statement_timeout: Duration,
    /// A pooler in between does not take such settings; the time limits of our own side hold then.
    no_settings: AtomicBool,
    /// The schema, quoted, with its dot.
    schema: String,
    /// For messages: hosts and database.
    name: String,
    /// The id of the store that is meant, if it must be that one.
    expected: Option<String>,
}

#[derive(Clone)]
enum Security {
    None,
    Tls(Tls),
}

impl Place {
    pub(super) fn new(url: &str, schema: &str, lease: Duration) -> Result<Self, OptionsError> {
        if !is_plain(schema) {
            return Err(OptionsError::Schema(schema.into()));
        }
        let (url, mode, files) = take_ours(url)?;
        // Its message has the text in which something is wrong, never the password.
        let mut config: Config = url.parse().map_err(|error| OptionsError::Url(told(&error)))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(OptionsError::Url("it names no host".into()));
        }
        let is_local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        let mode = mode.as_deref().unwrap_or(if is_local { "disable" } else { "prefer" });
        let with_roots = if files.authorities.is_some() { Check::Authority } else { Check::Nothing };
        let (ssl, check) = match mode {
            "disable" => (SslMode::Disable, None),
            "prefer" | "allow" => (SslMode::Prefer, Some(Check::Nothing)),
            "require" => (SslMode::Require, Some(with_roots)),
            "verify-ca" => (SslMode::Require, Some(Check::Authority)),
            "verify-full" => (SslMode::Require, Some(Check::AuthorityAndName)),
            other => return Err(OptionsError::SslMode(other.into())),
        };
        config.ssl_mode(ssl);
        let security = match check {
            None => Security::None,
            Some(check) => Security::Tls(Tls::new(check, &files).map_err(OptionsError::Tls)?),
        };
        if config.get_application_name().is_none() {
            config.application_name("chronos");
        }
        // A name may have two addresses, which are tried in turn: there is time for both.
        config.connect_timeout(CONNECT.min(lease / 3) / 2);
        // What was sent and is not even acknowledged is lost long before the lease is; likewise a silent connection.
        config.tcp_user_timeout(lease / 2);
        config.keepalives_idle(lease / 4).keepalives_interval((lease / 8).max(Duration::from_secs(1)));
        config.keepalives_retries(2);
        let name = name_of(&config);
        let schema = format!("\"{schema}\".");
        let statement_timeout = lease / 2;
        let no_settings = AtomicBool::new(false);
        Ok(Self { config, security, statement_timeout, no_settings, schema, name, expected: None })
    }

    /// The same, if the store with this id is there.
    pub(super) fn expecting(self, expected: Option<String>) -> Self {
        Self { expected, ..self }
    }

    /// The id of the store that is meant, if it must be that one.
    pub(super) fn expected(&self) -> Option<&str> {
        self.expected.as_deref()
    }

    /// A statement about our tables, which it calls `chronos.jobs` and so on.
    pub(super) fn sql(&self, text: &str) -> String {
        text.replace("chronos.", &self.schema)
    }

    /// The same about staged tables.
    pub(super) fn staged_sql(&self, text: &str, prefix: &str) -> String {
        text.replace("chronos.", &format!("{}{prefix}", self.schema))
    }

    /// The schema's name.
    pub(super) fn schema(&self) -> &str {
        self.schema.trim_matches(['"', '.'])
    }

    /// A connection for the writer, or for something long.
    pub(super) async fn connect(&self, limits: Limits) -> Result<Connection, StoreError> {
        match tokio::time::timeout(CONNECT, self.connect_patiently(limits)).await {
            Ok(done) => done.map_err(|error| self.meaning(&error)),
            Err(_) => Err(self.not_connected()),
        }
    }

    async fn connect_patiently(&self, limits: Limits) -> Result<Connection, tokio_postgres::Error> {
        if limits == Limits::Statement && !self.no_settings.load(Ordering::Relaxed) {
            let setting = format!("-c statement_timeout={}", self.statement_timeout.as_millis());
            match self.try_connect(&with_setting(&self.config, &setting)).await {
                Err(error) if is_about_settings(&error) => self.no_settings.store(true, Ordering::Relaxed),
                done => return done,
            }
        }
        self.try_connect(&self.config).await
    }

    async fn try_connect(&self, config: &Config) -> Result<Connection, tokio_postgres::Error> {
        let (client, task) = self.security.connect(config).await?;
        Ok(Connection { client, task })
    }

    /// A few connections for questions.
    pub(super) fn pool(&self) -> Result<Pool, OptionsError> {
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(self.config.clone(), self.security.clone(), manager);
        let pool = Pool::builder(manager)
            .max_size(READERS_MAX)
            .wait_timeout(Some(WAIT))
            .create_timeout(Some(CONNECT))
            .recycle_timeout(Some(CONNECT))
            .runtime(Runtime::Tokio1)
            .build();
        pool.map_err(|error| OptionsError::Url(error.to_string()))
    }

    /// What an error means to the caller.
    pub(super) fn meaning(&self, error: &tokio_postgres::Error) -> StoreError {
        let missing = [
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_FUNCTION,
            SqlState::INVALID_SCHEMA_NAME,
            SqlState::UNDEFINED_COLUMN,
        ];
        match error.code() {
            Some(code) if missing.contains(code) => self.unavailable(&format!(
                "there is no whole store in the schema `{}`: {}; a node that leads makes one in a database without",
                self.schema(),
                told(error)
            )),
            Some(&SqlState::DISK_FULL) => self.unavailable(&format!(
                "there is no room for what is to be written, which waits until there is: {}",
                told(error)
            )),
            _ => self.unavailable(&told(error)),
        }
    }

    /// There was no connection in time.
    fn not_connected(&self) -> StoreError {
        self.unavailable(&format!("no connection within {} s", CONNECT.as_secs()))
    }

    /// The database cannot be used now.
    pub(super) fn unavailable(&self, why: &str) -> StoreError {
        StoreError::Unavailable(format!("PostgreSQL at {}: {why}", self.name))
    }

    /// Its content cannot be read.
    pub(super) fn damaged(&self, why: &str) -> StoreError {
        StoreError::Damaged(format!(
            "schema `{}` of PostgreSQL at {}: {why}; it was left as it is: rename the schema and restore a backup",
            self.schema(),
            self.name
        ))
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place")
            .field("name", &self.name)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// What the server is told to end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limits {
    /// Statements that take too long for the lease.
    Statement,
    /// Nothing.
    None,
}

/// A connection and the task that drives it; closed when dropped.
pub(super) struct Connection {
    pub(super) client: Client,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection from the pool, and what it means when there is none.
pub(super) async fn from_pool(pool: &Pool, place: &Place) -> Result<Object, StoreError> {
    pool.get().await.map_err(|error| match error {
        deadpool_postgres::PoolError::Backend(error) => place.meaning(&error),
        deadpool_postgres::PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => {
            place.unavailable(&format!("all {READERS_MAX} connections for questions are busy"))
        }
        deadpool_postgres::PoolError::Timeout(_) => place.not_connected(),
        other => place.unavailable(&other.to_string()),
    })
}

/// A connection and the task that drives it.
type Connected = (Client, JoinHandle<()>);
type Connecting<'a> = Pin<Box<dyn Future<Output = Result<Connected, tokio_postgres::Error>> + Send + 'a>>;

impl Connect for Security {
    fn connect(&self, config: &Config) -> Connecting<'_> {
        let mut hosts = each_host(config);
        if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
            begin_anywhere(&mut hosts);
        }
        Box::pin(self.first_of(hosts))
    }
}

impl Security {
    /// A connection to the first of these hosts that lets us in. The next one is tried when those before have failed,
    /// and beside them when that takes a while: one that is silent would else take all the time there is.
    async fn first_of(&self, hosts: Vec<Config>) -> Result<Connected, tokio_postgres::Error> {
        let mut hosts = hosts.into_iter();
        let mut tried = FuturesUnordered::new();
        let mut problem: Option<tokio_postgres::Error> = None;
        loop {
            if let Some(host) = hosts.next() {
                tried.push(self.connect_to(host));
            }
            let is_last = hosts.len() == 0;
            let done = if is_last {
                tried.next().await
            } else {
                // Nothing is lost of those that go on.
                tokio::time::timeout(NEXT_HOST, tried.next()).await.unwrap_or(None)
            };
            match done {
                Some(Ok(connected)) => return Ok(connected),
                // Whoever asks knows how to ask in another way.
                Some(Err(error)) if is_about_settings(&error) => return Err(error),
                Some(Err(error)) => {
                    // What a server has said is worth more than that another one is not there.
                    let said = problem.take().filter(|problem| problem.as_db_error().is_some());
                    let error = said.unwrap_or(error);
                    if is_last && tried.is_empty() {
                        return Err(error);
                    }
                    problem = Some(error);
                }
                None => {}
            }
        }
    }

    async fn connect_to(&self, host: Config) -> Result<Connected, tokio_postgres::Error> {
        match self {
            Self::None => {
                let (client, connection) = host.connect(NoTls).await?;
                // Its errors are those of whatever is asked on it.
                Ok((client, tokio::spawn(async move { drop(connection.await) })))
            }
            Self::Tls(tls) => {
                let (client, connection) = host.connect(tls.clone()).await?;
                Ok((client, tokio::spawn(async move { drop(connection.await) })))
            }
        }
    }
}

/// The same for each host by itself. As it is where counts of hosts, addresses and ports do not fit: the client library
/// says so.
fn each_host(config: &Config) -> Vec<Config> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = hosts.len().max(addresses.len());
    let fits = |some: usize| some == 0 || some == count;
    if count < 2 || !fits(hosts.len()) || !fits(addresses.len()) || !(fits(ports.len()) || ports.len() == 1) {
        return vec![config.clone()];
    }
    let one = |n: usize| {
        let mut one = without_hosts(config);
        match hosts.get(n) {
            Some(Host::Tcp(name)) => one.host(name.as_str()),
            Some(Host::Unix(path)) => one.host_path(path),
            None => &mut one,
        };
        if let Some(address) = addresses.get(n) {
            one.hostaddr(*address);
        }
        if let Some(port) = ports.get(n).or(ports.first()) {
            one.port(*port);
        }
        one
    };
    (0..count).map(one).collect()
}

/// All other settings: the client library can add hosts and take none away.
fn without_hosts(config: &Config) -> Config {
    let mut same = Config::new();
    if let Some(user) = config.get_user() {
        same.user(user);
    }
    if let Some(password) = config.get_password() {
        same.password(password);
    }
    if let Some(name) = config.get_dbname() {
        same.dbname(name);
    }
    if let Some(options) = config.get_options() {
        same.options(options);
    }
    if let Some(name) = config.get_application_name() {
        same.application_name(name);
    }
    if let Some(time) = config.get_connect_timeout() {
        same.connect_timeout(*time);
    }
    if let Some(time) = config.get_tcp_user_timeout() {
        same.tcp_user_timeout(*time);
    }
    if let Some(time) = config.get_keepalives_interval() {
        same.keepalives_interval(time);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        same.keepalives_retries(retries);
    }
    same.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    same
}

/// Lets any of them be the first; the order stays.
fn begin_anywhere(hosts: &mut [Config]) {
    let mut random = [0; 4];
    // Without chance the first stays the first.
    if getrandom::fill(&mut random).is_ok() {
        let first = u32::from_le_bytes(random) as usize % hosts.len();
        hosts.rotate_left(first);
    }
}

/// The same with one more setting for the server, after those of the URL: of two that contradict the last one counts.
fn with_setting(config: &Config, setting: &str) -> Config {
    let mut config = config.clone();
    let options = match config.get_options() {
        Some(theirs) => format!("{theirs} {setting}"),
        None => setting.to_owned(),
    };
    config.options(options);
    config
}

/// Names that need no quoting and leave room for those of staged tables.
fn is_plain(schema: &str) -> bool {
    let mut letters = schema.bytes();
    letters.next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
        && letters.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && schema.len() <= 40
        && !schema.starts_with("pg_")
}

/// PgBouncer names the parameter that it does not take.
fn is_about_settings(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        error.message().contains("startup parameter") && error.message().contains("options")
    })
}

/// Takes from a URL what the client library does not know: how a certificate is checked.
fn take_ours(url: &str) -> Result<(String, Option<String>, Files), OptionsError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(OptionsError::Url("it does not begin with `postgres://` or `postgresql://`".into()));
    }
    let Some((base, query)) = url.split_once('?') else { return Ok((url.into(), None, Files::default())) };
    let (mut mode, mut files, mut others) = (None, Files::default(), Vec::new());
    for pair in query.split('&') {
        let value = |text: &str| {
            decoded(text).ok_or_else(|| OptionsError::Url(format!("`{text}` is not well encoded")))
        };
        match pair.split_once('=') {
            Some(("sslmode", text)) => mode = Some(value(text)?),
            Some(("sslrootcert", "system")) => {}
            Some(("sslrootcert", text)) => files.authorities = Some(value(text)?.into()),
            Some(("sslcert", text)) => files.certificate = Some(value(text)?.into()),
            Some(("sslkey", text)) => files.key = Some(value(text)?.into()),
            _ => others.push(pair),
        }
    }
    let rest = if others.is_empty() { base.into() } else { format!("{base}?{}", others.join("&")) };
    Ok((rest, mode, files))
}

/// Undoes the encoding of URLs.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn name_of(config: &Config) -> String {
    let ports = config.get_ports();
    let port = |n: usize| ports.get(n).or(ports.first()).copied().unwrap_or(5432);
    let mut hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(n, host)| match host {
            Host::Tcp(host) => format!("{host}:{}", port(n)),
            Host::Unix(path) => format!("{}:{}", path.display(), port(n)),
        })
        .collect();
    if hosts.is_empty() {
        hosts.extend(config.get_hostaddrs().iter().enumerate().map(|(n, at)| format!("{at}:{}", port(n))));
    }
    let database = config.get_dbname().or(config.get_user()).unwrap_or("postgres");
    format!("{}/{database}", hosts.join(","))
}

/// An error with its causes, which the client library leaves to the chain.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// What several parts of a store share of it.
pub(super) type SharedPlace = Arc<Place>;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(url: &str, schema: &str, why: &str) {
        let error =
            Place::new(url, schema, Duration::from_secs(10)).expect_err("it must be refused").to_string();
        assert!(error.contains(why), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_without_its_password() {
        refused("mysql://u:secret@h/d", "chronos", "postgres://");
        refused("postgres://u:secret@h:x/d", "chronos", "port");
        refused("postgres://u:secret@h/d?sslmode=sometimes", "chronos", "sometimes");
        refused(
            "postgres://u:secret@h/d?sslmode=verify-full&sslrootcert=/nowhere/ca.pem",
            "chronos",
            "/nowhere/ca.pem",
        );
        refused("postgres://u:secret@h/d?colour=red", "chronos", "colour");
        refused("postgres://u:secret@h/d", "Chronos", "Chronos");
        refused("postgres://u:secret@h/d", "a\"b", "a\"b");
        refused("postgres://u:secret@h/d", "", "schema");
    }

    fn config(url: &str) -> Config {
        url.parse().expect("it is a good one")
    }

    #[test]
    fn each_host_has_all_that_is_said_of_all() {
        let url = |hosts: &str, addresses: &str| {
            config(&format!(
                "postgres://u:secret@{hosts}/d?hostaddr={addresses}&options=-c%20geqo%3Doff&application_name=a\
                 &sslmode=require&sslnegotiation=direct&connect_timeout=7&tcp_user_timeout=8&keepalives=0\
                 &keepalives_idle=9&keepalives_interval=10&keepalives_retries=11&target_session_attrs=read-write\
                 &channel_binding=require&load_balance_hosts=random"
            ))
        };
        let both = each_host(&url("a:1,b:2", "127.0.0.1,127.0.0.2"));
        assert_eq!(both, [url("a:1", "127.0.0.1"), url("b:2", "127.0.0.2")]);
        let plain = each_host(&config("postgres://u@a,%2Ftmp:2/d"));
        assert_eq!(plain, [config("postgres://u@a/d"), config("postgres://u@%2Ftmp:2/d")]);
        let one_port = each_host(&config("postgres:///d?host=a&host=b&port=7"));
        assert_eq!(one_port, [config("postgres://a:7/d"), config("postgres://b:7/d")]);
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_client_library() {
        for url in [
            "postgres://u@a:1/d",
            "postgres://u@a:1,b:2/d?hostaddr=127.0.0.1",
            "postgres://u@a:1,b:2/d?port=3",
            "postgres:///d?hostaddr=127.0.0.1",
        ] {
            assert_eq!(each_host(&config(url)), [config(url)]);
        }
    }

    #[test]
    fn a_setting_of_ours_comes_after_those_of_the_url() {
        let setting = "-c statement_timeout=5";
        let plain = with_setting(&config("postgres://u@h/d"), setting);
        assert_eq!(plain.get_options(), Some("-c statement_timeout=5"));
        let theirs = config("postgres://u@h/d?options=-c%20geqo%3Doff");
        assert_eq!(with_setting(&theirs, setting).get_options(), Some("-c geqo=off -c statement_timeout=5"));
    }

    #[test]
    fn a_url_says_where_and_how() {
        let place =
            Place::new("postgres://u:secret@a:1,b:2/d?sslmode=disable", "jobs", Duration::from_secs(10));
        let place = place.expect("it is a good one");
        assert_eq!(place.name, "a:1,b:2/d");
        assert_eq!(place.sql("SELECT FROM chronos.term"), "SELECT FROM \"jobs\".term");
        assert_eq!(place.staged_sql("chronos.jobs", "staged_7_"), "\"jobs\".staged_7_jobs");
        assert!(!format!("{place:?}").contains("secret"));
        assert_eq!(decoded("%2Ftmp%2Fa%20b").as_deref(), Some("/tmp/a b"));
        assert_eq!(decoded("%2"), None);
    }
}
