//! What Docker is told of a task: its spec as a container. Asks nobody anything.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigLogConfig, Mount,
    MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig, NetworkingConfig, PortBinding,
};

use super::{parameters, sandbox};
use crate::container::{Container, ContainerKind, NO_MESOS, NO_MESOS_HINT, Network, Volume, VolumeSource};
use crate::{Limits, TaskSpec};

/// Labels of ours; no job can set them.
pub(super) const LABELS: &str = "chronos.";
/// The folder whose engine made the container.
pub(super) const LABEL_FOLDER: &str = "chronos.folder";
/// The epoch that launched it.
pub(super) const LABEL_EPOCH: &str = "chronos.epoch";
/// The task's name once more, for who looks for it.
pub(super) const LABEL_TASK: &str = "chronos.task";

/// Least that Docker keeps of a container's output, however little we shall keep of it.
const LOG_BYTES_MIN: u64 = 1024 * 1024;
/// What Docker gives a container of one processor, in its own unit.
const SHARES_OF_ONE: u64 = 1024;
/// Least and most of them that the kernel takes.
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;

/// Why a task cannot be run in its container; its author's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`container.{field}`: {message}")]
pub struct Refusal {
    /// Path of the field within the container.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Refusal {
    fn new(field: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), hint: hint.into() }
    }
}

/// A task as Docker is told of it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) body: ContainerCreateBody,
    pub(super) image: String,
    pub(super) force_pull: bool,
    pub(super) platform: Option<String>,
    /// Networks that it joins before it starts, beside the one it is made with.
    pub(super) more_networks: Vec<String>,
}

/// What options and fields say, before it is put together.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) body: ContainerCreateBody,
    pub(super) host: HostConfig,
    pub(super) environment: Vec<(String, String)>,
    pub(super) labels: Vec<(String, String)>,
    pub(super) entrypoint: Option<String>,
    pub(super) platform: Option<String>,
    /// The network that an option names instead of the job's.
    pub(super) network: Option<String>,
    pub(super) address: Address,
}

/// What the container is called in its network.
#[derive(Default)]
pub(super) struct Address {
    pub(super) ipv4: Option<String>,
    pub(super) ipv6: Option<String>,
    pub(super) aliases: Vec<String>,
}

impl Draft {
    pub(super) fn publish(&mut self, port: String, binding: PortBinding) {
        let exposed = self.body.exposed_ports.get_or_insert_default();
        if !exposed.contains(&port) {
            exposed.push(port.clone());
        }
        let bindings = self.host.port_bindings.get_or_insert_default();
        bindings.entry(port).or_insert_with(|| Some(Vec::new())).get_or_insert_default().push(binding);
    }
}

/// Whether a label is one of those by which we know our containers.
pub(super) fn is_ours(label: &str) -> bool {
    label.starts_with(LABELS)
}

/// Whether the task can be run in its container, as far as can be told without asking Docker.
/// # Errors
/// The first thing that is wrong.
pub fn check(spec: &TaskSpec) -> Result<(), Refusal> {
    plan(spec, "task", &BTreeMap::new(), Vec::new(), None).map(drop)
}

/// The whole of it. `secrets` are variables with their values, `sandbox` the folder of what was fetched.
pub(super) fn plan(
    spec: &TaskSpec,
    task: &str,
    labels: &BTreeMap<&str, String>,
    secrets: Vec<(String, String)>,
    sandbox: Option<String>,
) -> Result<Plan, Refusal> {
    let Some(container) = &spec.container else {
        return Err(Refusal::new("image", "the task has no container", "give it one"));
    };
    if container.kind == ContainerKind::Mesos {
        return Err(Refusal::new("type", NO_MESOS, NO_MESOS_HINT));
    }
    if !is_image(&container.image) {
        let message = format!("`{}` does not name an image", container.image);
        return Err(Refusal::new("image", message, "write it as for `docker run`, as in `debian:12`"));
    }
    let mut draft = Draft::default();
    for (i, (key, value)) in container.parameters.iter().enumerate() {
        parameters::apply(&mut draft, key, value)
            .map_err(|wrong| Refusal::new(format!("parameters[{i}]"), wrong.message, wrong.hint))?;
    }
    limits(&mut draft.host, spec.limits);
    log(&mut draft.host, spec.output_max);
    for (i, volume) in container.volumes.iter().enumerate() {
        self::volume(&mut draft, volume)
            .map_err(|(field, message)| Refusal::new(format!("volumes[{i}].{field}"), message, ""))?;
    }
    for port in &container.ports {
        let binding = PortBinding { host_ip: None, host_port: Some(port.host.to_string()) };
        draft.publish(format!("{}/{}", port.container, port.protocol.to_ascii_lowercase()), binding);
    }
    if let Some(source) = &sandbox {
        let mount = Mount {
            typ: Some(MountType::BIND),
            source: Some(source.clone()),
            target: Some(sandbox::PATH.into()),
            ..Mount::default()
        };
        draft.host.mounts.get_or_insert_default().push(mount);
    }
    command(&mut draft, spec)?;
    let more_networks = network(&mut draft, container)?;
    let ours = sandbox.map(|_| (sandbox::VARIABLE.to_owned(), sandbox::PATH.to_owned()));
    draft.body.env = Some(environment(&draft, spec, task, ours.into_iter().chain(secrets).collect()));
    let ours = labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    draft.body.labels = Some(draft.labels.drain(..).chain(ours).collect());
    draft.body.image = Some(container.image.clone());
    draft.body.host_config = Some(draft.host);
    Ok(Plan {
        body: draft.body,
        image: container.image.clone(),
        force_pull: container.force_pull,
        platform: draft.platform,
        more_networks,
    })
}

/// Whether this can be a reference to an image; the rest Docker knows better.
fn is_image(image: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    !image.is_empty() && image.len() <= 512 && image.chars().all(fits) && !image.starts_with(['-', '/', ':'])
}

/// With a shell, the shell of the image reads the command. Without, the image's own entry point stays, and command and
/// arguments are given to it. A job without a command runs what its image is for.
fn command(draft: &mut Draft, spec: &TaskSpec) -> Result<(), Refusal> {
    let entrypoint = draft.entrypoint.take();
    if spec.shell && !spec.command.trim().is_empty() {
        if entrypoint.is_some() {
            let message = "the option `entrypoint` has no effect where a shell reads the command";
            return Err(Refusal::new("parameters", message, "set `shell` of the job to false"));
        }
        draft.body.entrypoint = Some(vec!["/bin/sh".into(), "-c".into()]);
        draft.body.cmd = Some(
            [&spec.command, "sh"]
                .map(|s: &str| s.to_owned())
                .into_iter()
                .chain(spec.arguments.clone())
                .collect(),
        );
        // A shell that is the first process of its container ignores TERM, and nobody would bury its orphans. Images
        // with an init of their own do without a shell of ours.
        draft.host.init.get_or_insert(true);
        return Ok(());
    }
    draft.body.entrypoint = entrypoint.map(|program| vec![program]);
    let command = Some(spec.command.clone()).filter(|command| !command.trim().is_empty());
    let words: Vec<String> = command.into_iter().chain(spec.arguments.iter().cloned()).collect();
    draft.body.cmd = Some(words).filter(|words| !words.is_empty());
    Ok(())
}

/// What an option says goes before what follows from the job's own fields.
fn limits(host: &mut HostConfig, limits: Limits) {
    if let Some(millis) = limits.cpu_millis.filter(|_| host.cpu_shares.is_none()) {
        let shares = (u64::from(millis) * SHARES_OF_ONE / 1000).clamp(SHARES_MIN, SHARES_MAX);
        host.cpu_shares = i64::try_from(shares).ok();
    }
    let bytes = limits.memory_max.and_then(|bytes| i64::try_from(bytes).ok());
    if let Some(bytes) = bytes.filter(|_| host.memory.is_none()) {
        host.memory = Some(bytes);
        // Else it may take as much again of the disk, as slowly as that is.
        host.memory_swap.get_or_insert(bytes);
    }
}

/// Docker keeps output in files of bounded size, byte for byte: its other driver for files replaces what is not UTF-8.
fn log(host: &mut HostConfig, output_max: u64) {
    let chosen = host.log_config.as_ref().is_some_and(|config| config.typ.is_some());
    if chosen {
        return;
    }
    let bytes = output_max.max(LOG_BYTES_MIN).to_string();
    let ours = [("max-size", bytes.as_str()), ("max-file", "2"), ("compress", "false")];
    let config = host.log_config.get_or_insert_with(HostConfigLogConfig::default);
    config.typ = Some("local".into());
    let options = config.config.get_or_insert_default();
    for (name, value) in ours {
        options.entry(name.into()).or_insert_with(|| value.into());
    }
}

fn volume(draft: &mut Draft, volume: &Volume) -> Result<(), (&'static str, String)> {
    let path = &volume.container_path;
    if !path.starts_with('/') || path.contains(':') {
        return Err(("containerPath", format!("`{path}` must begin with `/` and contain no `:`")));
    }
    match &volume.source {
        VolumeSource::Empty => draft.body.volumes.get_or_insert_default().push(path.clone()),
        VolumeSource::Host(source) => {
            let names = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            let named = source.len() > 1 && source.chars().all(names) && !source.starts_with(['.', '-', '_']);
            if source.contains(':') || !(source.starts_with('/') || named) {
                let message =
                    format!("`{source}` is neither a path that begins with `/` nor the name of a volume");
                return Err(("hostPath", message));
            }
            let mode = if volume.read_only { "ro" } else { "rw" };
            draft.host.binds.get_or_insert_default().push(format!("{source}:{path}:{mode}"));
        }
        VolumeSource::External { name, driver, options } => {
            let options: HashMap<_, _> = options.iter().cloned().collect();
            let driver = MountVolumeOptionsDriverConfig {
                name: Some(driver.clone()),
                options: Some(options).filter(|options| !options.is_empty()),
            };
            draft.host.mounts.get_or_insert_default().push(Mount {
                typ: Some(MountType::VOLUME),
                source: Some(name.clone()),
                target: Some(path.clone()),
                read_only: Some(volume.read_only),
                volume_options: Some(MountVolumeOptions {
                    driver_config: Some(driver),
                    ..MountVolumeOptions::default()
                }),
                ..Mount::default()
            });
        }
    }
    Ok(())
}

/// The networks that are to be joined beside the first.
fn network(draft: &mut Draft, container: &Container) -> Result<Vec<String>, Refusal> {
    let mut names = container.networks.iter().filter(|name| !name.is_empty()).cloned();
    let mode = match (draft.network.take(), container.network) {
        (Some(named), _) => named,
        (None, Network::Host) => "host".into(),
        (None, Network::Bridge) => "bridge".into(),
        (None, Network::None) => "none".into(),
        (None, Network::User) => names.next().ok_or_else(|| {
            let message = "the network is USER, and nothing says which";
            Refusal::new("networkName", message, "name it here or in `networkInfos`")
        })?,
    };
    let more = if container.network == Network::User {
        names.filter(|name| *name != mode).collect()
    } else {
        Vec::new()
    };
    let address = std::mem::take(&mut draft.address);
    let fixed = address.ipv4.is_some() || address.ipv6.is_some();
    if fixed || !address.aliases.is_empty() {
        let ipam = EndpointIpamConfig {
            ipv4_address: address.ipv4,
            ipv6_address: address.ipv6,
            link_local_ips: None,
        };
        let settings = EndpointSettings {
            ipam_config: fixed.then_some(ipam),
            aliases: Some(address.aliases).filter(|aliases| !aliases.is_empty()),
            ..EndpointSettings::default()
        };
        let endpoints = HashMap::from([(mode.clone(), settings)]);
        draft.body.networking_config = Some(NetworkingConfig { endpoints_config: Some(endpoints) });
    }
    draft.host.network_mode = Some(mode);
    Ok(more)
}

/// The first of a name wins: the job's variables, then `more`, then what options say. The task's name is its own.
fn environment(draft: &Draft, spec: &TaskSpec, task: &str, more: Vec<(String, String)>) -> Vec<String> {
    let mut all: Vec<(String, String)> = vec![("CHRONOS_TASK_ID".into(), task.into())];
    let given = spec.environment.iter().cloned().chain(more).chain(draft.environment.iter().cloned());
    for (name, value) in given {
        if !all.iter().any(|(taken, _)| *taken == name) {
            all.push((name, value));
        }
    }
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}
