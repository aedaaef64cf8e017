//! `chronos server`: from settings to a running node, and to its orderly end.

mod examples;
mod listening;
mod parts;
mod settings;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use engine::local::supervisor::{self, Supervise, SuperviseError};
use engine::mesos::MesosOptions;
use metrics_exporter_prometheus::PrometheusHandle;
use scheduler::schedule::Zones;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::failure::{Exit, Failure};
use super::mesos;
use super::moving::inherit::inherit;
use crate::api::access::Access;
use crate::api::editing::Turns;
use crate::api::{ApiContext, Settings};
use crate::cluster::Cluster;
use crate::config::{Config, ConfigFile, Manner, OnIsolation, StoreSettings};
use crate::node::NodeTask;
use crate::systemd::Manager;
use crate::tls::identity::Identity;
use crate::tls::listener::Peer;
use crate::wire::unsaid;
use examples::apply_examples;
use listening::Listening;
use parts::{Started, is_new, start_node};
use settings::{config, identity, notices, start_log, tell_config, zones};

pub(super) use parts::ensemble;

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
        notices(&config, matches).iter().for_each(|notice| super::warn(notice));
        tell_config(&config, &zones)?;
        return parts::possible(&config.data_dir);
    }
    start_log(&config);
    for notice in notices(&config, matches) {
        warn!("{notice}");
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
    // Before there is anything to count: a node may be elected at once.
    let metrics = metrics()?;
    let Started { node, task, spread, heritage } = start_node(config, mesos, &listening, zones.clone())?;
    let tls = crate::tls::of_neighbours(listening.https.as_ref().map(|(_, identity)| identity.clone()));
    let leased =
        config.cluster.store != StoreSettings::Sqlite && config.cluster.on_isolation == OnIsolation::Kill;
    let credentials = config.access.credentials.clone();
    let cluster = Cluster::start(&node, spread, tls, credentials, leased)
        .context("cannot speak to other nodes")
        .map_err(failed)?;
    let access =
        Access::new(&config.access).map_err(|_| anyhow::anyhow!("the machine has no random numbers"));
    let app = crate::api::router(ApiContext {
        node: node.clone(),
        cluster,
        metrics,
        settings: Arc::new(Settings {
            access: access.map_err(failed)?,
            loopback: listening.addresses.iter().all(|address| address.ip().is_loopback()),
            hosts: config.hostname.clone(),
            limits: config.limits.clone(),
            retry_delay: config.retry_delay,
            tasks_listed: usize::try_from(config.job_history_limit).unwrap_or(usize::MAX),
            compresses: !config.disable_http_compression,
            data_dir: Some(config.data_dir.canonicalize()?),
        }),
        turns: Turns::default(),
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

fn failed(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Failed, error)
}
