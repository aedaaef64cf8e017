//! `chronos server`: from settings to a running node, and to its orderly end.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::parser::ValueSource;
use engine::Keep;
use engine::docker::{DockerEngine, DockerOptions};
use engine::local::supervisor::{self, Supervise, SuperviseError};
use engine::local::{LocalEngine, LocalOptions};
use engine::router::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use scheduler::schedule::Zones;
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{Candidate, Retention, StoreError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::client::Client;
use super::failure::{Exit, Failure};
use super::table::Table;
use super::{ServerArgs, apply};
use crate::api::{ApiContext, Settings};
use crate::config::{Config, ConfigFile, LogFormat, Source, Tzdata};
use crate::node::{self, Node, NodeOptions, NodeTask, Role};
use crate::notify::Notifier;
use crate::zoneinfo;

/// For answers under way when the server is told to end; streams never end by themselves.
const GOODBYE: Duration = Duration::from_millis(300);
/// For commits under way: a disk that takes longer is in trouble, and a commit that nobody saw is settled by the next leader.
const COMMITS: Duration = Duration::from_secs(10);

/// Younger output stays, whatever it takes: long beyond any order that is on its way, and enough to look at it.
const OUTPUT_AGE_MIN: Duration = Duration::from_secs(600);

/// How often what histograms hold is folded.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

pub(crate) fn run(args: ServerArgs, matches: Option<&clap::ArgMatches>) -> Result<(), Failure> {
    let config = config(&args, matches)?;
    let zones = zones(config.tzdata)?;
    if args.check_config {
        return Ok(tell_config(&config, &zones)?);
    }
    start_log(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(serve(&config, zones));
    // Reads that are still under way change nothing.
    runtime.shutdown_background();
    done
}

/// The parent of all tasks of a folder; see [`supervisor`].
pub(crate) fn supervise(dir: &Path) -> Result<(), Failure> {
    match supervisor::run(&Supervise::new(dir, ["launch".into()])) {
        // Two servers have each started one: the other has the work.
        Ok(()) | Err(SuperviseError::AlreadyRuns { .. }) => Ok(()),
        Err(error) => Err(Failure::new(Exit::Failed, error)),
    }
}

fn config(args: &ServerArgs, matches: Option<&clap::ArgMatches>) -> Result<Config, Failure> {
    let source = |name: &str| match matches.and_then(|matches| matches.value_source(name)) {
        Some(ValueSource::EnvVariable) => Source::Environment(format!("CHRONOS_{}", name.to_uppercase())),
        _ => Source::Flag,
    };
    let file = args.config.clone().map(|path| ConfigFile::read(&path).map(|file| (path, file))).transpose();
    file.and_then(|file| Config::new(args.settings.clone(), source, file)).map_err(|error| {
        let hint = error.hint();
        Failure::new(Exit::Usage, error).hint(hint)
    })
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

async fn serve(config: &Config, zones: Zones) -> Result<(), Failure> {
    // First of all, so that a signal that comes during the start is heard.
    let mut end = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let listener = bind(config.listen).await?;
    let address = listener.local_addr()?;
    let first_start = !config.data_dir.join("chronos.db").exists();
    let (node, task) = start_node(config, address, zones.clone())?;
    let app = crate::api::router(ApiContext {
        node: node.clone(),
        metrics: metrics()?,
        settings: Arc::new(Settings {
            loopback: address.ip().is_loopback(),
            hosts: config.hostname.clone(),
            limits: config.limits.clone(),
            data_dir: Some(config.data_dir.canonicalize()?),
        }),
    });
    let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
    let stopped = async { drop(stopping.await) };
    let server = tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(stopped).into_future());
    // What scripts read to learn the port.
    let _ = writeln!(std::io::stdout(), "listening on http://{address}");
    info!(%address, tzdata = zones.data().name(), data_dir = %config.data_dir.display(), pid = std::process::id(), "listening");
    let examples = config.examples.clone().filter(|_| first_start);
    let examples = async {
        if let Some(folder) = examples {
            apply_examples(node, address, folder).await;
        }
        std::future::pending::<()>().await;
    };

    let [terminate, interrupt] = &mut end;
    tokio::select! {
        _ = terminate.recv() => info!(signal = "TERM", "ending; tasks go on"),
        _ = interrupt.recv() => info!(signal = "INT", "ending; tasks go on"),
        () = examples => {}
    }
    drop(stop);
    finish(task).await;
    let _ = tokio::time::timeout(GOODBYE, server).await;
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

async fn bind(listen: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(listen).await.map_err(|cause| {
        let hint = match cause.kind() {
            std::io::ErrorKind::AddrInUse => {
                "is another server running? choose another port with --http_port, or 0 for a free one"
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 are for root; choose another with --http_port"
            }
            std::io::ErrorKind::AddrNotAvailable => {
                "this machine does not have that address; choose another with --http_address"
            }
            _ => "choose another address or port with --http_address and --http_port",
        };
        Failure::new(Exit::Failed, cause).context(format!("cannot listen on {listen}")).hint(hint)
    })
}

fn start_node(config: &Config, address: SocketAddr, zones: Zones) -> Result<(Node, NodeTask), Failure> {
    let options = SqliteOptions { dir: config.data_dir.clone(), force_network_fs: false };
    let store = SqliteStore::open(&options).map_err(|error| data_failure(config, error))?;
    let data_dir = config.data_dir.canonicalize()?;
    let engine_dir = data_dir.join("engine");
    let containers = DockerOptions {
        container_age_max: config.docker_container_age_max,
        ..DockerOptions::new(data_dir.join("docker"), config.docker_host.clone())
    };
    let containers = DockerEngine::open(containers)
        .with_context(|| format!("cannot use the folder `{}`", data_dir.join("docker").display()))
        .map_err(failed)?;
    let local = LocalEngine::open(LocalOptions {
        supervisor_program: std::env::current_exe().context("cannot find this program").map_err(failed)?,
        supervisor_args: vec!["supervise".into(), "--dir".into(), engine_dir.clone().into()],
        dir: engine_dir,
    });
    let identity = Candidate {
        node: node_id(&data_dir).map_err(failed)?,
        addresses: addresses(config, address),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    Ok(node::start(NodeOptions {
        identity,
        store: Arc::new(store),
        engine: Arc::new(Router::new(Arc::new(local), Arc::new(containers))),
        zones,
        retention: Retention { age_max: config.history_age_max, count_max: config.history_count_max },
        output: Keep {
            age_min: OUTPUT_AGE_MIN,
            age_max: config.output_age_max,
            bytes_max: config.output_bytes_max,
        },
        kill_grace: config.kill_grace,
        disable_after_failures: config.disable_after_failures,
        limits: config.limits.clone(),
        notifier: Arc::new(notifier(config)?),
    }))
}

fn notifier(config: &Config) -> Result<Notifier, Failure> {
    Notifier::new(config.notify.clone()).map_err(|what| {
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

/// Where others reach this node, best first.
fn addresses(config: &Config, listened: SocketAddr) -> Vec<String> {
    let port = listened.port();
    if config.hostname.is_empty() {
        return vec![listened.to_string()];
    }
    let with_port = |host: &String| match host.parse() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    };
    config.hostname.iter().map(with_port).collect()
}

/// The id of this folder's node: random, made once, never an address.
fn node_id(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join("node");
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
    std::fs::write(&draft, format!("{id}\n")).with_context(shown)?;
    let linked = std::fs::hard_link(&draft, &path);
    if linked.is_err() && !path.exists() {
        std::fs::rename(&draft, &path).with_context(shown)?;
    }
    let _ = std::fs::remove_file(&draft);
    read().with_context(shown)?.with_context(shown)
}

/// Once this node leads, and only if there are no jobs. Failures are told; the server goes on without.
async fn apply_examples(node: Node, address: SocketAddr, folder: PathBuf) {
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
    let Ok(client) = Client::new(&format!("http://{reachable}")) else { return };
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
