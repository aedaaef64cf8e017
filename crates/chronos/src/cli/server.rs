//! `chronos server`: from settings to a running node, and to its orderly end.

use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use clap::Args;
use clap::parser::ValueSource;
use engine::docker::{DockerEngine, DockerOptions, Fetcher};
use engine::local::supervisor::{self, Supervise, SuperviseError};
use engine::local::{LocalEngine, LocalOptions};
use engine::mesos::{MesosEngine, MesosOptions};
use engine::router::Router as Engines;
use engine::shadow::ShadowEngine;
use engine::{Engine, Keep};
use metrics_exporter_prometheus::PrometheusHandle;
use scheduler::audit::Entry;
use scheduler::schedule::Zones;
use store::postgres::{self, PostgresOptions};
use store::sqlite::{SqliteOptions, SqliteStore};
use store::zookeeper;
use store::{Candidate, Retention, Store, StoreError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::apply;
use super::client::Client;
use super::failure::{Exit, Failure};
use super::mesos;
use super::moving::inherit::inherit;
use super::netrc::Login;
use super::shadow::{self, Kind};
use super::table::Table;
use crate::api::access::Access;
use crate::api::{ApiContext, Settings};
use crate::cluster::Cluster;
use crate::cluster::address::Address;
use crate::cluster::spread::Spread;
use crate::config::{
    Advertised, Config, ConfigError, ConfigFile, Credentials, LogFormat, Manner, OnIsolation, Source,
    StoreSettings, Tzdata, old,
};
use crate::node::{self, Acquaintance, Heritage, Node, NodeMemory, NodeOptions, NodeTask, Role};
use crate::notify::Notifier;
use crate::notify::settings::{NotifySettings, Secret};
use crate::systemd::Manager;
use crate::tls::identity::{Identity, not_for, server_config};
use crate::tls::listener::{Peer, TlsListener};
use crate::wire::unsaid;
use crate::zoneinfo;

pub(super) const HELP: &str = "\
Every flag can be given as an environment variable (CHRONOS_HTTP_PORT for --http_port) or as a key
of the file given with --config. The command line wins over the environment, both over the file.

A second server on the same data folder waits as standby and answers reads.
On SIGTERM the server ends and leaves tasks running; the next server on the folder takes them over.

Examples:
  chronos server
  chronos server --http_port 4401 --data_dir /var/lib/chronos --examples examples
  chronos server --config /etc/chronos.yaml --check-config
  chronos server --http_address 0.0.0.0 --http_credentials_file secret --disable_http \\
    --tls_cert cert.pem --tls_key key.pem";

pub(super) const RUN_JAR_HELP: &str = "\
All flags of Chronos are taken, with underscores or dashes; those that mean nothing here are named
at the start with the reason. Differences to `chronos server`: port 8080 on all addresses, state in
ZooKeeper (at localhost:2181 if nothing else is said), and the short forms of its manual, among
which -h is not help.

With --master tasks run on Mesos. Without it they run on this machine, where everyone who connects
could run commands: then --http_credentials or --allow_unauthenticated is needed.

Examples:
  chronos run_jar --master zk://z:2181/mesos --zk_hosts z:2181 --hostname a.example.org
  chronos run_jar --zk_hosts z:2181 --http_port 8080 --http_credentials ops:secret
  chronos run_jar --store sqlite --disable_http --ssl_keystore_path chronos.p12 \\
    --http_credentials ops:secret";

#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    #[command(flatten)]
    settings: ConfigFile,
    /// File with settings (YAML), named as the flags are
    #[arg(long = "config", env = "CHRONOS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Tell each effective setting and where it came from, and exit
    #[arg(long = "check_config")]
    check_config: bool,
}

#[derive(Debug, Args)]
pub(super) struct SuperviseArgs {
    /// The folder it looks after
    #[arg(long)]
    dir: PathBuf,
}

/// For answers under way when the server is told to end; streams never end by themselves.
const GOODBYE: Duration = Duration::from_millis(300);
/// For commits under way: a disk that takes longer is in trouble, and a commit that nobody saw is settled by the next leader.
const COMMITS: Duration = Duration::from_secs(10);

/// Younger output stays, whatever it takes: long beyond any order that is on its way, and enough to look at it.
const OUTPUT_AGE_MIN: Duration = Duration::from_secs(600);

/// How often what histograms hold is folded.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

pub(super) fn run(
    args: ServerArgs,
    matches: Option<&clap::ArgMatches>,
    manner: Manner,
) -> Result<(), Failure> {
    let config = config(&args, matches, manner)?;
    let mesos = mesos::options(&config);
    unsaid::set(config.unsaid.clone(), mesos.is_some());
    let zones = zones(config.tzdata)?;
    let identity = identity(&config)?;
    if args.check_config {
        return Ok(tell_config(&config, &zones)?);
    }
    start_log(&config);
    for notice in matches.map(old::notices).unwrap_or_default() {
        warn!("{notice}");
    }
    if let Some(less) = config.retry_delay_raised() {
        warn!("--failure_retry {less} is taken as 1000: a job that fails must not storm");
    }
    for setting in config.unused() {
        warn!("--{setting} has no effect: the state is not where it says, see --store");
    }
    for setting in config.unused_of_mesos() {
        warn!("--{setting} has no effect: tasks do not run on Mesos, see --master");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(serve(&config, mesos, zones, identity));
    // Reads that are still under way change nothing.
    runtime.shutdown_background();
    done
}

/// The parent of all tasks of a folder; see [`supervisor`].
pub(super) fn supervise(args: &SuperviseArgs) -> Result<(), Failure> {
    match supervisor::run(&Supervise::new(&args.dir, ["launch".into()])) {
        // Two servers have each started one: the other has the work.
        Ok(()) | Err(SuperviseError::AlreadyRuns { .. }) => Ok(()),
        Err(error) => Err(Failure::new(Exit::Failed, error)),
    }
}

/// Environment variables of Chronos, and the settings that they are where no flag and no variable of ours says more.
const OLD_VARIABLES: [(&str, &str); 3] = [
    ("MESOSPHERE_HTTP_CREDENTIALS", "http_credentials"),
    ("MESOSPHERE_KEYSTORE_PATH", "ssl_keystore_path"),
    ("MESOSPHERE_KEYSTORE_PASS", "ssl_keystore_password"),
];

fn config(args: &ServerArgs, matches: Option<&clap::ArgMatches>, manner: Manner) -> Result<Config, Failure> {
    let refused = |error: ConfigError| {
        let hint = error.hint();
        Failure::new(Exit::Usage, error).hint(hint)
    };
    let mut settings = args.settings.clone();
    let mut old_variables = Vec::new();
    for (variable, name) in OLD_VARIABLES {
        let value = match std::env::var(variable) {
            Ok(value) => value,
            Err(std::env::VarError::NotPresent) => continue,
            // What cannot be read may be a password, and is no open door.
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(Failure::usage(format!("the variable {variable} is not UTF-8")));
            }
        };
        let taken = match name {
            "http_credentials" => set(&mut settings.http_credentials, Secret(value)),
            "ssl_keystore_path" => set(&mut settings.ssl_keystore_path, value.into()),
            _ => set(&mut settings.ssl_keystore_password, Secret(value)),
        };
        old_variables.extend(taken.then_some((name, variable)));
    }
    let source = |name: &str| match matches.and_then(|matches| matches.value_source(name)) {
        Some(ValueSource::EnvVariable) => Source::Environment(format!("CHRONOS_{}", name.to_uppercase())),
        None => match old_variables.iter().find(|(known, _)| *known == name) {
            Some((_, variable)) => Source::Environment((*variable).into()),
            None => Source::Flag,
        },
        Some(_) => Source::Flag,
    };
    let file = args.config.clone().map(|path| ConfigFile::read(&path).map(|file| (path, file))).transpose();
    let file = file.map_err(refused)?;
    Config::new(settings, source, file, manner).map_err(refused)
}

/// Sets what nobody has set, and says whether it did.
fn set<T>(setting: &mut Option<T>, value: T) -> bool {
    if setting.is_some() {
        return false;
    }
    *setting = Some(value);
    true
}

/// The certificate of HTTPS, where it is to be spoken.
fn identity(config: &Config) -> Result<Option<Arc<Identity>>, Failure> {
    let Some((_, source)) = &config.https else { return Ok(None) };
    let identity = Identity::read(source.clone()).map_err(|error| {
        let hint = error.hint();
        Failure::new(Exit::Usage, error).context("cannot listen for HTTPS").hint(hint)
    })?;
    Ok(Some(Arc::new(identity)))
}

fn zones(tzdata: Tzdata) -> Result<Zones, Failure> {
    match tzdata {
        Tzdata::Bundled => Ok(Zones::bundled()),
        Tzdata::System => zoneinfo::system(std::env::var_os("TZDIR")).map_err(|error| {
            let hint = error.hint();
            Failure::new(Exit::Usage, error).hint(hint)
        }),
    }
}

fn tell_config(config: &Config, zones: &Zones) -> std::io::Result<()> {
    let mut table = Table::new(&["setting", "value", "from"]);
    for told in &config.told {
        let value = match told.name {
            "tzdata" => format!("{} ({})", told.value, zones.data().name()),
            _ => told.value.clone(),
        };
        table.row([told.name.into(), value, told.source.to_string()]);
    }
    table.print()
}

fn start_log(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::new(&config.log_level);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(colours).init();
        }
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// What is listened to, with the addresses as they have become.
struct Listening {
    http: Option<TcpListener>,
    https: Option<(TcpListener, Arc<Identity>)>,
    addresses: Vec<SocketAddr>,
}

impl Listening {
    async fn begin(config: &Config, identity: Option<Arc<Identity>>) -> Result<Self, Failure> {
        let http = match config.listen {
            Some(address) => Some(bind(address, "http_address", "http_port").await?),
            None => None,
        };
        let https = match (&config.https, identity) {
            (Some((address, _)), Some(identity)) => {
                Some((bind(*address, "https_address", "https_port").await?, identity))
            }
            _ => None,
        };
        let listeners = http.iter().chain(https.iter().map(|(listener, _)| listener));
        let addresses = listeners.map(TcpListener::local_addr).collect::<std::io::Result<_>>()?;
        Ok(Self { http, https, addresses })
    }

    /// Says it, for scripts that read it to learn the ports, and for the log.
    fn tell(&self, config: &Config, zones: &Zones) {
        let schemes = self.http.iter().map(|_| "http").chain(self.https.iter().map(|_| "https"));
        for (scheme, address) in schemes.zip(&self.addresses) {
            let _ = writeln!(std::io::stdout(), "listening on {scheme}://{address}");
            info!(%scheme, %address, tzdata = zones.data().name(), data_dir = %config.data_dir.display(), pid = std::process::id(), "listening");
        }
        if let Some((_, identity)) = &self.https {
            for name in not_for(&identity.present(), &config.hostname) {
                warn!(
                    name,
                    "the certificate is not for a name of --hostname; clients that use it will not trust it"
                );
            }
        }
        let open = self.http.iter().zip(&self.addresses).find(|(_, address)| !address.ip().is_loopback());
        let anyone = config.access.credentials.is_none() && !config.access.allow_unauthenticated;
        let exposed = self.addresses.iter().find(|address| !address.ip().is_loopback());
        if let Some(address) = exposed.filter(|_| config.mesos.is_some() && anyone) {
            warn!(%address, "anyone who can connect can run commands on the cluster; --http_credentials asks for a password");
        }
        if let Some((_, address)) = open.filter(|_| config.access.credentials.is_some()) {
            warn!(%address, "passwords are sent in the clear over HTTP; use HTTPS with --disable_http, or a proxy that does");
        }
    }

    /// Answers until it is told to stop.
    fn serve(
        self,
        app: &Router,
        stopping: &watch::Receiver<bool>,
        manager: &Arc<Manager>,
    ) -> std::io::Result<Vec<JoinHandle<std::io::Result<()>>>> {
        let service = || app.clone().into_make_service_with_connect_info::<Peer>();
        let stopped = || {
            let mut stopping = stopping.clone();
            async move { drop(stopping.wait_for(|stop| *stop).await) }
        };
        let mut servers = Vec::new();
        if let Some(listener) = self.http {
            let server = axum::serve(listener, service()).with_graceful_shutdown(stopped());
            servers.push(tokio::spawn(server.into_future()));
        }
        if let Some((listener, identity)) = self.https {
            tokio::spawn(renew(identity.clone(), manager.clone()));
            let listener = TlsListener::new(listener, server_config(identity))?;
            let server = axum::serve(listener, service()).with_graceful_shutdown(stopped());
            servers.push(tokio::spawn(server.into_future()));
        }
        Ok(servers)
    }
}

/// How often it is looked whether the certificate is another one: those who renew it do so days before it ends.
const RENEWED_EVERY: Duration = Duration::from_secs(60);

/// Reads the certificate again when its files change, and when SIGHUP says so.
async fn renew(identity: Arc<Identity>, manager: Arc<Manager>) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    let mut every = tokio::time::interval(RENEWED_EVERY);
    loop {
        let asked = tokio::select! {
            _ = hangups.recv() => true,
            _ = every.tick() => false,
        };
        if !asked && !identity.has_changed() {
            continue;
        }
        manager.reloading();
        let read = identity.clone();
        let read = tokio::task::spawn_blocking(move || read.reload()).await;
        manager.ready();
        let Ok(read) = read else { continue };
        match read {
            Ok(()) => info!("read the certificate again"),
            Err(error) => {
                let problem = Failure::new(Exit::Usage, error).to_text();
                error!(
                    problem = problem.trim_end(),
                    "the certificate was not read again; the old one is still used"
                );
            }
        }
    }
}

async fn serve(
    config: &Config,
    mesos: Option<MesosOptions>,
    zones: Zones,
    identity: Option<Arc<Identity>>,
) -> Result<(), Failure> {
    // First of all, so that a signal that comes during the start is heard.
    let mut end = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let manager = Arc::new(Manager::of_environment());
    let listening = Listening::begin(config, identity).await?;
    let first_start = is_new(&config.data_dir);
    let heritage = heritage(config);
    let (node, task, spread) = start_node(config, mesos, &listening, zones.clone(), heritage.clone())?;
    let tls = crate::tls::of_neighbours(listening.https.as_ref().map(|(_, identity)| identity.clone()));
    let leased =
        config.cluster.store != StoreSettings::Sqlite && config.cluster.on_isolation == OnIsolation::Kill;
    let cluster =
        Cluster::start(&node, spread, tls, leased).context("cannot speak to other nodes").map_err(failed)?;
    let access =
        Access::new(&config.access).map_err(|_| anyhow::anyhow!("the machine has no random numbers"));
    let app = crate::api::router(ApiContext {
        node: node.clone(),
        cluster,
        metrics: metrics()?,
        settings: Arc::new(Settings {
            access: access.map_err(failed)?,
            loopback: listening.addresses.iter().all(|address| address.ip().is_loopback()),
            hosts: config.hostname.clone(),
            limits: config.limits.clone(),
            retry_delay: config.retry_delay,
            data_dir: Some(config.data_dir.canonicalize()?),
        }),
    });
    listening.tell(config, &zones);
    let http = listening.http.is_some().then(|| listening.addresses[0]);
    let (stop, stopping) = watch::channel(false);
    if listening.https.is_none() {
        manager.take_hangups()?;
    }
    let servers = listening.serve(&app, &stopping, &manager)?;
    manager.ready();
    tokio::spawn(manager.clone().tell_of(node.clone()));
    let heir = node.clone();
    let examples = config.examples.clone().filter(|_| first_start);
    let login = config.access.credentials.clone();
    let examples = async {
        if let Some(folder) = examples {
            match http {
                Some(address) => apply_examples(node, address, login, folder).await,
                // Nobody else is told of this one, and it ends with the examples.
                None => match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await {
                    Ok(listener) => {
                        let address = listener.local_addr();
                        let service = app.into_make_service_with_connect_info::<Peer>();
                        let server = tokio::spawn(axum::serve(listener, service).into_future());
                        if let Ok(address) = address {
                            apply_examples(node, address, login, folder).await;
                        }
                        server.abort();
                    }
                    Err(problem) => error!(%problem, "cannot apply the examples"),
                },
            }
        }
        std::future::pending::<()>().await;
    };

    let inheriting = async {
        if let Some(heritage) = heritage {
            inherit(&heir, &heritage).await;
        }
        std::future::pending::<()>().await;
    };

    let [terminate, interrupt] = &mut end;
    tokio::select! {
        _ = terminate.recv() => info!(signal = "TERM", "ending; tasks go on"),
        _ = interrupt.recv() => info!(signal = "INT", "ending; tasks go on"),
        () = examples => {}
        () = inheriting => {}
    }
    manager.stopping();
    stop.send_replace(true);
    finish(task).await;
    let all = async {
        for server in servers {
            let _ = server.await;
        }
    };
    let _ = tokio::time::timeout(GOODBYE, all).await;
    info!("ended");
    Ok(())
}

/// Counts from now on; what a histogram remembers is trimmed now and then.
fn metrics() -> Result<PrometheusHandle, Failure> {
    let handle = crate::api::metrics::install().context("cannot count what happens").map_err(failed)?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut every = tokio::time::interval(METRICS_UPKEEP);
        loop {
            every.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

async fn finish(task: NodeTask) {
    if tokio::time::timeout(COMMITS, task.shutdown()).await.is_err() {
        warn!("the store did not finish in time; the next leader settles what was under way");
    }
}

async fn bind(listen: SocketAddr, address: &str, port: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(listen).await.map_err(|cause| {
        let hint = match cause.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("is another server running? choose another port with --{port}, or 0 for a free one")
            }
            std::io::ErrorKind::PermissionDenied => {
                format!("ports below 1024 are for root; choose another with --{port}")
            }
            std::io::ErrorKind::AddrNotAvailable => {
                format!("this machine does not have that address; choose another with --{address}")
            }
            _ => format!("choose another address or port with --{address} and --{port}"),
        };
        Failure::new(Exit::Failed, cause).context(format!("cannot listen on {listen}")).hint(hint)
    })
}

fn start_node(
    config: &Config,
    mesos: Option<MesosOptions>,
    listening: &Listening,
    zones: Zones,
    heritage: Option<Arc<Heritage>>,
) -> Result<(Node, NodeTask, Arc<Spread>), Failure> {
    let kind = Kind::of(config);
    shadow::claim(&config.data_dir, kind)?;
    let store = open_store(config)?;
    let data_dir = config.data_dir.canonicalize()?;
    let memory = Arc::new(NodeMemory::new(heritage.clone()));
    let listened = listened(config, listening);
    let engine: Arc<dyn Engine> = match (kind, mesos) {
        (Kind::Real, Some(mut mesos)) => {
            // Whoever leads subscribes, and so the master shows where the leader is.
            mesos.webui_url = mesos.webui_url.or_else(|| webui(config, &listened));
            Arc::new(MesosEngine::open(mesos, memory.clone())?)
        }
        (Kind::Real, None) => Arc::new(engines(config, &data_dir)?),
        (Kind::Shadow, _) => Arc::new(ShadowEngine::default()),
    };
    let identity = Candidate {
        node: kind.node(node_id(&data_dir).map_err(failed)?),
        addresses: addresses(config, &listened),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let acquaintance = Acquaintance {
        file: (config.cluster.store != StoreSettings::Sqlite).then(|| data_dir.join("store")),
        expected: config.cluster.expect_store.clone(),
    };
    let login = config.access.credentials.clone();
    let spread = Spread::new(engine, identity.node.clone(), store.clone(), login);
    let (node, task) = node::start(NodeOptions {
        identity,
        store,
        acquaintance,
        heritage,
        engine: spread.clone(),
        zones,
        retention: Retention {
            age_max: config.history_age_max,
            count_max: config.history_count_max,
            audit_age_max: config.audit_age_max,
            audit_count_max: Entry::KEPT_MAX,
        },
        output: Keep {
            age_min: OUTPUT_AGE_MIN,
            age_max: config.output_age_max,
            bytes_max: config.output_bytes_max,
        },
        kill_grace: config.kill_grace,
        disable_after_failures: config.disable_after_failures,
        retry_delay: config.retry_delay,
        limits: config.limits.clone(),
        notifier: Arc::new(notifier(config)?),
    });
    memory.begin(&node);
    Ok((node, task, spread))
}

/// Where state lives. Of the data folder only what belongs to this node is used where that is elsewhere.
fn open_store(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    let refused = |error| data_failure(config, error);
    match &config.cluster.store {
        StoreSettings::Sqlite => {
            let options = SqliteOptions { dir: config.data_dir.clone(), force_network_fs: false };
            Ok(Arc::new(SqliteStore::open(&options).map_err(refused)?))
        }
        StoreSettings::Postgres { url, schema, lease } => {
            own_folder(&config.data_dir)?;
            let options = PostgresOptions { url: url.0.clone(), schema: schema.clone(), lease: *lease };
            let store = postgres::open(&options).map_err(|error| {
                Failure::usage(error)
                    .hint("--database_url, --database_schema and --database_lease say where and how")
            })?;
            Ok(Arc::new(store))
        }
        StoreSettings::ZooKeeper { hosts, path, timeout, auth } => {
            own_folder(&config.data_dir)?;
            let store = zookeeper::open(ensemble(hosts, path, *timeout, auth.as_ref())).map_err(|error| {
                Failure::usage(error)
                    .hint("--zk_hosts, --zk_path, --zk_timeout and --zk_auth say where and how")
            })?;
            Ok(Arc::new(store))
        }
    }
}

/// How an ensemble is reached.
pub(super) fn ensemble(
    hosts: &[String],
    path: &str,
    timeout: Duration,
    auth: Option<&Secret>,
) -> zookeeper::Options {
    zookeeper::Options {
        path: path.into(),
        session_timeout: timeout,
        auth: auth.map(|auth| auth.0.clone()),
        ..zookeeper::Options::new(hosts.join(","))
    }
}

/// What an old Chronos may have left beside the state.
fn heritage(config: &Config) -> Option<Arc<Heritage>> {
    match &config.cluster.store {
        StoreSettings::ZooKeeper { hosts, path, timeout, auth } => {
            Some(Arc::new(Heritage::new(ensemble(hosts, path, *timeout, auth.as_ref()))))
        }
        _ => None,
    }
}

/// Where the logins of registries are: where it was said, or where Docker has those of this user.
fn logins(said: &Path) -> Option<PathBuf> {
    let folder =
        |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    if !said.as_os_str().is_empty() {
        return Some(said.to_owned());
    }
    let folder = folder("DOCKER_CONFIG").or_else(|| Some(folder("HOME")?.join(".docker")))?;
    Some(folder.join("config.json"))
}

/// What belongs to this node alone: its id, its tasks and their output.
fn own_folder(folder: &Path) -> Result<(), Failure> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|cause| {
        Failure::new(Exit::Data, cause)
            .context(format!("cannot use the data folder `{}`", folder.display()))
            .hint("choose another folder with --data_dir, or see to it that this user may write there")
    })
}

/// What runs tasks: processes of this machine, and containers.
fn engines(config: &Config, data_dir: &Path) -> Result<Engines, Failure> {
    let program = std::env::current_exe().context("cannot find this program").map_err(failed)?;
    let containers = DockerOptions {
        container_age_max: config.docker_container_age_max,
        fetcher: Some(Fetcher { program: program.clone(), args: vec!["launch".into()] }),
        logins: logins(&config.docker_config).into_iter().collect(),
        ..DockerOptions::new(data_dir.join("docker"), config.docker_host.clone())
    };
    let containers = DockerEngine::open(containers)
        .with_context(|| format!("cannot use the folder `{}`", data_dir.join("docker").display()))
        .map_err(failed)?;
    let dir = data_dir.join("engine");
    let local = LocalEngine::open(LocalOptions {
        supervisor_program: program,
        supervisor_args: vec!["supervise".into(), "--dir".into(), dir.clone().into()],
        dir,
    });
    Ok(Engines::new(Arc::new(local), Arc::new(containers)))
}

/// A shadow tells nobody.
fn notifier(config: &Config) -> Result<Notifier, Failure> {
    let settings = match Kind::of(config) {
        Kind::Real => config.notify.clone(),
        Kind::Shadow => NotifySettings::default(),
    };
    Notifier::new(settings).map_err(|what| {
        Failure::usage(format!("people cannot be told of things: {what}"))
            .hint("`chronos server --help` describes each setting")
    })
}

fn failed(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Failed, error)
}

fn data_failure(config: &Config, error: StoreError) -> Failure {
    let hint = match &error {
        StoreError::Newer { .. } => {
            "start the newer version of Chronos that wrote it, or choose another folder with --data_dir"
        }
        StoreError::Damaged(_) => "nothing was changed; when you have put it right, start again",
        _ => "choose another folder with --data_dir, or see to it that this user may write there",
    };
    Failure::new(Exit::Data, error)
        .context(format!("cannot use the data folder `{}`", config.data_dir.display()))
        .hint(hint)
}

/// What is listened on, and whether with TLS; best first.
fn listened(config: &Config, listening: &Listening) -> Vec<(bool, SocketAddr)> {
    let http = listening.http.is_some();
    let kinds = http.then_some(false).into_iter().chain(listening.https.is_some().then_some(true));
    let mut listened: Vec<(bool, SocketAddr)> = kinds.zip(listening.addresses.iter().copied()).collect();
    if config.access.credentials.is_some() {
        // Passwords go along.
        listened.reverse();
    }
    listened
}

/// Where others may reach this node, best first: as it was told, as Marathon says, as it listens. They find out.
fn addresses(config: &Config, listened: &[(bool, SocketAddr)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |address: Address| {
        let text = address.to_string();
        if !found.contains(&text) {
            found.push(text);
        }
    };
    let everywhere = |host: &str, add: &mut dyn FnMut(Address)| {
        listened.iter().for_each(|(tls, at)| add(Address::new(*tls, host, at.port())));
    };
    for advertised in &config.cluster.advertise {
        match advertised {
            Advertised::Whole(address) => add(address.clone()),
            Advertised::Host(host) => everywhere(host, &mut add),
        }
    }
    config.hostname.iter().for_each(|host| everywhere(host, &mut add));
    mapped(listened).into_iter().for_each(&mut add);
    for (tls, at) in listened {
        if !at.ip().is_unspecified() {
            add(Address::new(*tls, &at.ip().to_string(), at.port()));
        } else if let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
            add(Address::new(*tls, name.trim(), at.port()));
        }
    }
    found
}

/// Where Marathon lets others in, if it has started this server.
fn mapped(listened: &[(bool, SocketAddr)]) -> Vec<Address> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(_), Some(host)) = (variable("MARATHON_APP_ID"), variable("HOST")) else { return Vec::new() };
    let at = |(n, (tls, at)): (usize, &(bool, SocketAddr))| {
        let first = || variable("PORT0").filter(|_| n == 0);
        let port = variable(&format!("PORT_{}", at.port())).or_else(first)?;
        Some(Address::new(*tls, &host, port.parse().ok()?))
    };
    listened.iter().enumerate().filter_map(at).collect()
}

/// What Mesos shows as the address of this node: where an operator says that others reach it; where Marathon lets them in,
/// since what `--hostname` says may be known in the network of containers alone; else the first of all.
fn webui(config: &Config, listened: &[(bool, SocketAddr)]) -> Option<String> {
    let told = !config.cluster.advertise.is_empty();
    let mapped = mapped(listened).into_iter().next().filter(|_| !told);
    let first = || addresses(config, listened).first()?.parse().ok();
    Some(mapped.or_else(first)?.base())
}

/// Whether no server has begun in this folder yet. It tells by what every server keeps there, wherever its state is.
fn is_new(data_dir: &Path) -> bool {
    !data_dir.join(NODE_FILE).exists()
}

/// Where the id of a folder's node is.
const NODE_FILE: &str = "node";

/// The id of this folder's node: random, made once, never an address.
fn node_id(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join(NODE_FILE);
    let read = || -> std::io::Result<Option<String>> {
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|id| !id.is_empty())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    let shown = || format!("cannot keep the id of this node in `{}`", path.display());
    if let Some(id) = read().with_context(shown)? {
        return Ok(id);
    }
    let id = format!("{:016x}", rand::random::<u64>());
    // Written elsewhere and linked: of two servers that start at once, the second takes the id of the first.
    let draft = data_dir.join(format!("node.new-{id}"));
    std::fs::File::create(&draft)
        .and_then(|mut file| file.write_all(format!("{id}\n").as_bytes()).and_then(|()| file.sync_all()))
        .with_context(shown)?;
    let linked = std::fs::hard_link(&draft, &path);
    // No links can be made here, or what is there is empty, as power that is lost leaves it.
    if linked.is_err() && read().with_context(shown)?.is_none() {
        std::fs::rename(&draft, &path).with_context(shown)?;
    }
    let _ = std::fs::remove_file(&draft);
    read().with_context(shown)?.with_context(shown)
}

/// Once this node leads, and only if there are no jobs. Failures are told; the server goes on without.
async fn apply_examples(node: Node, address: SocketAddr, login: Option<Credentials>, folder: PathBuf) {
    let mut status = node.watch_status();
    if status.wait_for(|status| matches!(status.role, Role::Leading(_))).await.is_err() {
        return;
    }
    if !node.projection.read().state().jobs.is_empty() {
        return;
    }
    let reachable = if address.ip().is_unspecified() {
        SocketAddr::new([127, 0, 0, 1].into(), address.port())
    } else {
        address
    };
    let login = login.map(|Credentials { user, both }| {
        let password = Secret(both.0.split_once(':').map_or("", |(_, password)| password).to_owned());
        Login { user, password }
    });
    let Ok(client) = Client::with_login(&format!("http://{reachable}"), login) else { return };
    let mut tell = |news: apply::News<'_>| {
        match news {
            apply::News::Refused(failure) => {
                error!(problem = failure.to_text().trim_end(), "cannot apply an example")
            }
            apply::News::Applied { job, word, .. } => info!(job, "{word} an example"),
        }
        Ok(())
    };
    if let Err(failure) = apply::apply_all(&client, &[folder], apply::Otherwise::OneByOne, &mut tell).await {
        error!(problem = failure.to_text().trim_end(), "cannot apply the examples");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_was_lost_with_the_power_is_made_anew() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(is_new(folder.path()));
        let first = node_id(folder.path()).expect("a writable folder");
        assert!(!is_new(folder.path()), "in every store, not in that of SQLite alone");
        assert_eq!(node_id(folder.path()).expect("it is there"), first);
        std::fs::write(folder.path().join("node"), "").expect("a writable folder");
        let second = node_id(folder.path()).expect("an empty file is no id");
        assert!(second.len() == 16 && second != first, "{second}");
        let names: Vec<_> = std::fs::read_dir(folder.path())
            .expect("a readable folder")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(names, ["node"], "no draft stays");
    }
}
