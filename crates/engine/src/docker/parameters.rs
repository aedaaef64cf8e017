//! The options of `docker run` as Docker's API knows them: what a job's `parameters` say.
//!
//! An option that is not here is refused by name: to run a container without what its author asked for would be worse
//! than not to run it. Some are refused for what they would do: see [`refused`].

use std::collections::HashMap;

use bollard::models::{
    DeviceMapping, DeviceRequest, HealthConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions,
    MountVolumeOptionsDriverConfig, PortBinding, ResourcesUlimits,
};

use super::plan::Draft;

/// What is wrong with an option, and what to do instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) hint: &'static str,
}

impl Wrong {
    fn new(message: impl Into<String>, hint: &'static str) -> Self {
        Self { message: message.into(), hint }
    }
}

/// Options that would break what a job is: why, and what to do instead.
fn refused(key: &str) -> Option<(&'static str, &'static str)> {
    Some(match key {
        "name" => ("a container is named by its task, so that it is never started twice", "remove it"),
        "restart" => {
            ("a container that starts itself again is not one attempt of a run", "set `retries` of the job")
        }
        "d" | "detach" | "a" | "attach" | "sig-proxy" | "detach-keys" | "cidfile" => {
            ("it is about the terminal of who runs `docker run`, and there is none", "remove it")
        }
        "i" | "interactive" | "t" | "tty" => ("a task has neither terminal nor input", "remove it"),
        "pull" => ("when an image is fetched is said elsewhere", "set `forcePullImage` of the container"),
        "env-file" | "label-file" => {
            ("files of the machine that runs `docker run` are not read", "name each value by itself")
        }
        "stop-timeout" => (
            "how long a task may take to end is the same for all",
            "set `--kill_grace` of the server, and remove it",
        ),
        "health-cmd" | "health-interval" | "health-retries" | "health-start-period" | "health-timeout" => {
            ("nobody looks at the health of a task", "remove it")
        }
        _ => return None,
    })
}

/// Notes in `draft` what one option says.
pub(super) fn apply(draft: &mut Draft, key: &str, value: &str) -> Result<(), Wrong> {
    let key = key.trim().trim_start_matches('-');
    if let Some((why, hint)) = refused(key) {
        return Err(Wrong::new(format!("the option `{key}` is not for jobs: {why}"), hint));
    }
    let host = &mut draft.host;
    let body = &mut draft.body;
    match key {
        // It is removed by us, later: until then it shows that the task has begun.
        "rm" => drop(flag(key, value)?),
        "add-host" => push(&mut host.extra_hosts, value),
        "blkio-weight" => host.blkio_weight = Some(number(key, value)?),
        "cap-add" => push(&mut host.cap_add, value),
        "cap-drop" => push(&mut host.cap_drop, value),
        "cgroup-parent" => host.cgroup_parent = Some(value.into()),
        "c" | "cpu-shares" => host.cpu_shares = Some(number(key, value)?),
        "cpu-period" => host.cpu_period = Some(number(key, value)?),
        "cpu-quota" => host.cpu_quota = Some(number(key, value)?),
        "cpus" => host.nano_cpus = Some(nanos(key, value)?),
        "cpuset-cpus" => host.cpuset_cpus = Some(value.into()),
        "cpuset-mems" => host.cpuset_mems = Some(value.into()),
        "device" => host.devices.get_or_insert_default().push(device(value)),
        "device-cgroup-rule" => push(&mut host.device_cgroup_rules, value),
        "dns" => push(&mut host.dns, value),
        "dns-opt" | "dns-option" => push(&mut host.dns_options, value),
        "dns-search" => push(&mut host.dns_search, value),
        "domainname" => body.domainname = Some(value.into()),
        "e" | "env" => draft.environment.push(pair(key, value)?),
        "entrypoint" => draft.entrypoint = Some(value.into()),
        "expose" => push(&mut body.exposed_ports, &with_protocol(value)),
        "gpus" => host.device_requests.get_or_insert_default().push(gpus(value)?),
        "group-add" => push(&mut host.group_add, value),
        "h" | "hostname" => body.hostname = Some(value.into()),
        "init" => host.init = Some(flag(key, value)?),
        "ip" => draft.address.ipv4 = Some(value.into()),
        "ip6" => draft.address.ipv6 = Some(value.into()),
        "ipc" => host.ipc_mode = Some(value.into()),
        "l" | "label" => draft.labels.push(label(key, value)?),
        "link" => push(&mut host.links, value),
        "log-driver" => log(&mut host.log_config).typ = Some(value.into()),
        "log-opt" => {
            let (name, value) = pair(key, value)?;
            log(&mut host.log_config).config.get_or_insert_default().insert(name, value);
        }
        "m" | "memory" => host.memory = Some(bytes(key, value)?),
        "memory-reservation" => host.memory_reservation = Some(bytes(key, value)?),
        "memory-swap" if value.trim() == "-1" => host.memory_swap = Some(-1),
        "memory-swap" => host.memory_swap = Some(bytes(key, value)?),
        "memory-swappiness" => host.memory_swappiness = Some(number(key, value)?),
        "mount" => host.mounts.get_or_insert_default().push(mount(value)?),
        "net" | "network" => draft.network = Some(value.into()),
        "net-alias" | "network-alias" => draft.address.aliases.push(value.into()),
        "no-healthcheck" => {
            let none = HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() };
            body.healthcheck = flag(key, value)?.then_some(none);
        }
        "oom-kill-disable" => host.oom_kill_disable = Some(flag(key, value)?),
        "oom-score-adj" => host.oom_score_adj = Some(number(key, value)?),
        "pid" => host.pid_mode = Some(value.into()),
        "pids-limit" => host.pids_limit = Some(number(key, value)?),
        "platform" => draft.platform = Some(value.into()),
        "privileged" => host.privileged = Some(flag(key, value)?),
        "p" | "publish" => {
            let (port, binding) = published(value)?;
            draft.publish(port, binding);
        }
        "P" | "publish-all" => host.publish_all_ports = Some(flag(key, value)?),
        "read-only" => host.readonly_rootfs = Some(flag(key, value)?),
        "runtime" => host.runtime = Some(value.into()),
        "security-opt" => push(&mut host.security_opt, security(value)?),
        "shm-size" => host.shm_size = Some(bytes(key, value)?),
        "stop-signal" => body.stop_signal = Some(value.into()),
        "storage-opt" => insert(&mut host.storage_opt, pair(key, value)?),
        "sysctl" => insert(&mut host.sysctls, pair(key, value)?),
        "tmpfs" => {
            let (path, options) = value.split_once(':').unwrap_or((value, ""));
            insert(&mut host.tmpfs, (path.into(), options.into()));
        }
        "u" | "user" => body.user = Some(value.into()),
        "ulimit" => host.ulimits.get_or_insert_default().push(ulimit(value)?),
        "userns" => host.userns_mode = Some(value.into()),
        "uts" => host.uts_mode = Some(value.into()),
        "v" | "volume" if value.contains(':') => push(&mut host.binds, value),
        "v" | "volume" => push(&mut body.volumes, value),
        "volume-driver" => host.volume_driver = Some(value.into()),
        "volumes-from" => push(&mut host.volumes_from, value),
        "w" | "workdir" => body.working_dir = Some(value.into()),
        _ => {
            let message = format!("the option `{key}` of `docker run` is not known here");
            return Err(Wrong::new(message, "the guide to Docker jobs lists those that are; remove it"));
        }
    }
    Ok(())
}

fn push(list: &mut Option<Vec<String>>, value: &str) {
    list.get_or_insert_default().push(value.into());
}

fn insert(map: &mut Option<HashMap<String, String>>, (name, value): (String, String)) {
    map.get_or_insert_default().insert(name, value);
}

fn log(config: &mut Option<HostConfigLogConfig>) -> &mut HostConfigLogConfig {
    config.get_or_insert_default()
}

fn wrong(key: &str, value: &str, expected: &'static str) -> Wrong {
    Wrong::new(format!("the option `{key}` is `{value}`; expected {expected}"), "")
}

fn flag(key: &str, value: &str) -> Result<bool, Wrong> {
    match value.trim().to_ascii_lowercase().as_str() {
        "" | "true" | "t" | "1" => Ok(true),
        "false" | "f" | "0" => Ok(false),
        _ => Err(wrong(key, value, "true or false")),
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, Wrong> {
    value.trim().parse().map_err(|_| wrong(key, value, "a whole number"))
}

/// Billionths of a processor, of a number like `1.5`.
fn nanos(key: &str, value: &str) -> Result<i64, Wrong> {
    let cpus: f64 = value.trim().parse().unwrap_or(f64::NAN);
    if !(0.0..=1e6).contains(&cpus) {
        return Err(wrong(key, value, "a number of processors such as 1.5"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
    Ok((cpus * 1e9).round() as i64)
}

/// Bytes, of a size as Docker writes it: `512m`, `1.5g`, `64KiB`; units are powers of 1024.
fn bytes(key: &str, value: &str) -> Result<i64, Wrong> {
    let wrong = || wrong(key, value, "a size such as 512m or 1g");
    let text = value.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let text = text.strip_suffix('i').unwrap_or(text);
    let (number, unit) = match text.chars().last().and_then(|last| "kmgtp".find(last)) {
        Some(power) => (&text[..text.len() - 1], 1024_f64.powi(i32::try_from(power).unwrap_or_default() + 1)),
        None => (text, 1.0),
    };
    let size = number.trim().parse::<f64>().map_err(|_| wrong())? * unit;
    // Beyond 2^53 a float is no exact number any more, and no machine has so much.
    if !(0.0..=9e15).contains(&size) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
    Ok(size as i64)
}

fn pair(key: &str, value: &str) -> Result<(String, String), Wrong> {
    match value.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err(wrong(key, value, "name=value")),
    }
}

fn label(key: &str, value: &str) -> Result<(String, String), Wrong> {
    let (name, value) = value.split_once('=').unwrap_or((value, ""));
    if name.is_empty() || super::plan::is_ours(name) {
        return Err(wrong(key, name, "name=value, where the name does not begin with `chronos.`"));
    }
    Ok((name.into(), value.into()))
}

/// `/dev/host[:/dev/container[:rwm]]`.
fn device(value: &str) -> DeviceMapping {
    let mut parts = value.split(':');
    let on_host = parts.next().unwrap_or_default();
    let (in_container, permissions) = match (parts.next(), parts.next()) {
        (Some(permissions), None) if !permissions.starts_with('/') => (on_host, permissions),
        (path, permissions) => (path.unwrap_or(on_host), permissions.unwrap_or("rwm")),
    };
    DeviceMapping {
        path_on_host: Some(on_host.into()),
        path_in_container: Some(in_container.into()),
        cgroup_permissions: Some(permissions.into()),
    }
}

/// `all`, a number, or `device=0,1`.
fn gpus(value: &str) -> Result<DeviceRequest, Wrong> {
    let value = value.trim().trim_matches('"');
    let request = DeviceRequest { capabilities: Some(vec![vec!["gpu".into()]]), ..DeviceRequest::default() };
    match (value, value.strip_prefix("device=")) {
        ("all", _) => Ok(DeviceRequest { count: Some(-1), ..request }),
        (_, Some(ids)) => {
            let ids = ids.split(',').map(str::to_owned).collect();
            Ok(DeviceRequest { device_ids: Some(ids), ..request })
        }
        _ => Ok(DeviceRequest { count: Some(number("gpus", value)?), ..request }),
    }
}

fn with_protocol(port: &str) -> String {
    if port.contains('/') { port.into() } else { format!("{port}/tcp") }
}

/// `[[address:]port:]port[/protocol]`, the port of the container at the end.
fn published(value: &str) -> Result<(String, PortBinding), Wrong> {
    let wrong = || wrong("publish", value, "[[address:]port:]port[/protocol], one port at a time");
    let (ports, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
    let mut parts = ports.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let (on_host, address) = (parts.next().unwrap_or_default(), parts.next());
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    if !is_port(container) || !(on_host.is_empty() || is_port(on_host)) {
        return Err(wrong());
    }
    let address = address.map(|address| address.trim_matches(['[', ']']).to_owned());
    let binding = PortBinding { host_ip: address, host_port: Some(on_host.into()) };
    Ok((format!("{container}/{protocol}"), binding))
}

/// A profile for `seccomp` is a file that `docker run` reads itself, and there is no `docker run`.
fn security(value: &str) -> Result<&str, Wrong> {
    let profile = value.strip_prefix("seccomp=").or(value.strip_prefix("seccomp:"));
    match profile {
        Some(profile) if profile != "unconfined" && !profile.trim_start().starts_with('{') => {
            let message = format!("the option `security-opt` is `{value}`: files are not read");
            Err(Wrong::new(message, "write the profile itself, as JSON, or `seccomp=unconfined`"))
        }
        _ => Ok(value),
    }
}

/// `nofile=1024` or `nofile=1024:2048`.
fn ulimit(value: &str) -> Result<ResourcesUlimits, Wrong> {
    let (name, limits) = pair("ulimit", value)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((&limits, &limits));
    let (soft, hard) = (number("ulimit", soft)?, number("ulimit", hard)?);
    Ok(ResourcesUlimits { name: Some(name), soft: Some(soft), hard: Some(hard) })
}

/// `type=bind,source=/a,target=/b,readonly`.
fn mount(value: &str) -> Result<Mount, Wrong> {
    let expected = "type=bind|volume|tmpfs,source=..,target=..[,readonly][,volume-driver=..]";
    let mut mount = Mount { typ: Some(MountType::VOLUME), ..Mount::default() };
    for part in value.split(',') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name.trim() {
            "type" => {
                mount.typ = Some(match value {
                    "bind" => MountType::BIND,
                    "volume" => MountType::VOLUME,
                    "tmpfs" => MountType::TMPFS,
                    _ => return Err(wrong("mount", value, expected)),
                });
            }
            "source" | "src" => mount.source = Some(value.into()),
            "target" | "destination" | "dst" => mount.target = Some(value.into()),
            "readonly" | "ro" => mount.read_only = Some(flag("mount", value)?),
            "volume-driver" => {
                let driver = MountVolumeOptionsDriverConfig { name: Some(value.into()), options: None };
                mount.volume_options =
                    Some(MountVolumeOptions { driver_config: Some(driver), ..MountVolumeOptions::default() });
            }
            _ => return Err(wrong("mount", part, expected)),
        }
    }
    if mount.target.is_none() { Err(wrong("mount", value, expected)) } else { Ok(mount) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Docker would be told, as far as it is told anything.
    fn told(key: &str, value: &str) -> Result<serde_json::Value, String> {
        let mut draft = Draft::default();
        apply(&mut draft, key, value).map_err(|wrong| wrong.message)?;
        let mut told = serde_json::to_value(&draft.host).expect("JSON");
        let body = serde_json::to_value(&draft.body).expect("JSON");
        told.as_object_mut().expect("an object").extend(body.as_object().expect("an object").clone());
        Ok(told)
    }

    #[track_caller]
    fn check(key: &str, value: &str, expected: &str) {
        assert_eq!(told(key, value), Ok(serde_json::from_str(expected).expect("JSON")), "{key}={value}");
    }

    #[track_caller]
    fn refused(key: &str, value: &str, why: &str) {
        let message = told(key, value).expect_err(key);
        assert!(message.contains(why) && message.contains(key.trim_start_matches('-')), "{message}");
    }

    #[test]
    fn options_are_what_docker_run_makes_of_them() {
        check("memory", "512m", r#"{"Memory":536870912}"#);
        check("m", "1.5g", r#"{"Memory":1610612736}"#);
        check("--memory", "64KiB", r#"{"Memory":65536}"#);
        check("memory-swap", "-1", r#"{"MemorySwap":-1}"#);
        check("cpus", "1.5", r#"{"NanoCpus":1500000000}"#);
        check("privileged", "true", r#"{"Privileged":true}"#);
        check("read-only", "", r#"{"ReadonlyRootfs":true}"#);
        check("rm", "true", "{}");
        check("v", "/a:/b:ro", r#"{"Binds":["/a:/b:ro"]}"#);
        check("volume", "/a", r#"{"Volumes":{"/a":{}}}"#);
        check("ulimit", "nofile=1024:2048", r#"{"Ulimits":[{"Name":"nofile","Soft":1024,"Hard":2048}]}"#);
        check("tmpfs", "/run:size=1m", r#"{"Tmpfs":{"/run":"size=1m"}}"#);
        check(
            "device",
            "/dev/fuse",
            r#"{"Devices":[{"PathOnHost":"/dev/fuse","PathInContainer":"/dev/fuse","CgroupPermissions":"rwm"}]}"#,
        );
        check(
            "publish",
            "127.0.0.1:8080:80",
            r#"{"PortBindings":{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]},"ExposedPorts":{"80/tcp":{}}}"#,
        );
        check("security-opt", "seccomp=unconfined", r#"{"SecurityOpt":["seccomp=unconfined"]}"#);
        check(
            "mount",
            "type=bind,source=/a,target=/b,readonly",
            r#"{"Mounts":[{"Target":"/b","Source":"/a","Type":"bind","ReadOnly":true}]}"#,
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        refused("colour", "blue", "not known here");
        refused("restart", "always", "not one attempt");
        refused("name", "mine", "named by its task");
        refused("tty", "true", "neither terminal nor input");
        refused("memory", "lots", "expected a size");
        refused("memory", "-1", "expected a size");
        refused("cpus", "many", "expected a number");
        refused("privileged", "maybe", "expected true or false");
        refused("env", "NAME", "expected name=value");
        refused("label", "chronos.task=x", "does not begin with `chronos.`");
        refused("publish", "8000-8010:80", "one port at a time");
        refused("security-opt", "seccomp=/etc/profile.json", "files are not read");
        refused("ulimit", "nofile", "expected name=value");
        refused("mount", "type=npipe,target=/a", "expected type=bind");
    }
}
