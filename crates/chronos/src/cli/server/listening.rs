//! Where a server is reached: what it listens on, with which certificate, and the addresses that it is known by.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use scheduler::schedule::Zones;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::cli::failure::{Exit, Failure};
use crate::cluster::address::Address;
use crate::config::{Advertised, Config};
use crate::systemd::Manager;
use crate::tls::identity::{Identity, not_for, server_config};
use crate::tls::listener::{Peer, TlsListener};

/// What is listened to, with the addresses as they have become.
pub(super) struct Listening {
    pub(super) http: Option<TcpListener>,
    pub(super) https: Option<(TcpListener, Arc<Identity>)>,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Listening {
    pub(super) async fn begin(config: &Config, identity: Option<Arc<Identity>>) -> Result<Self, Failure> {
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
    pub(super) fn tell(&self, config: &Config, zones: &Zones) {
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
    pub(super) fn serve(
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

/// What is listened on, and whether with TLS; best first.
pub(super) fn listened(config: &Config, listening: &Listening) -> Vec<(bool, SocketAddr)> {
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
pub(super) fn addresses(config: &Config, listened: &[(bool, SocketAddr)]) -> Vec<String> {
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
pub(super) fn webui(config: &Config, listened: &[(bool, SocketAddr)]) -> Option<String> {
    let told = !config.cluster.advertise.is_empty();
    let mapped = mapped(listened).into_iter().next().filter(|_| !told);
    let first = || addresses(config, listened).first()?.parse().ok();
    Some(mapped.or_else(first)?.base())
}
