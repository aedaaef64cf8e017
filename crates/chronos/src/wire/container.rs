//! The `container` of a job: its shape, its normal form, what of it has no effect, and what engines are told of it.

use engine::docker::Refusal;
use engine::{
    Container, ContainerKind, NO_MESOS, NO_MESOS_HINT, Network, Port, TaskSpec, Volume, VolumeSource,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::shape::{Problem, Shape, optional, required};

const PAIR: Shape = Shape::Object(&[required("key", Shape::Text), required("value", Shape::Text)]);
const PORT: Shape = Shape::Object(&[
    required("hostPort", Shape::Whole(0, 65535)),
    required("containerPort", Shape::Whole(0, 65535)),
    optional("protocol", Shape::Text),
]);
const NETWORK: Shape = Shape::Object(&[
    required("name", Shape::Text),
    optional("protocol", Shape::Word(&["IPv4", "IPv6"])),
    optional("labels", Shape::List(&PAIR)),
    optional("portMappings", Shape::List(&PORT)),
]);
const EXTERNAL: Shape = Shape::Object(&[
    required("name", Shape::Text),
    required("provider", Shape::Text),
    optional("options", Shape::List(&PAIR)),
]);
const VOLUME: Shape = Shape::Object(&[
    required("containerPath", Shape::Text),
    optional("hostPath", Shape::Text),
    optional("mode", Shape::Word(&["RW", "RO"])),
    optional("external", EXTERNAL),
]);
/// Chronos had no NONE; Docker has.
pub(super) const CONTAINER: Shape = Shape::Object(&[
    optional("type", Shape::Word(&["DOCKER", "MESOS"])),
    required("image", Shape::Text),
    optional("network", Shape::Word(&["BRIDGE", "HOST", "USER", "NONE"])),
    optional("networkName", Shape::Text),
    optional("networkInfos", Shape::List(&NETWORK)),
    optional("volumes", Shape::List(&VOLUME)),
    optional("forcePullImage", Shape::Bool),
    optional("parameters", Shape::List(&PAIR)),
]);

/// Fills in what Chronos filled in.
pub(super) fn normalise(container: &mut Value) {
    fill(
        container,
        &CONTAINER,
        &[
            ("type", json!("DOCKER")),
            ("network", json!("HOST")),
            ("networkInfos", json!([])),
            ("volumes", json!([])),
            ("forcePullImage", json!(false)),
            ("parameters", json!([])),
        ],
    );
    for network in container.get_mut("networkInfos").and_then(Value::as_array_mut).into_iter().flatten() {
        fill(network, &NETWORK, &[("labels", json!([])), ("portMappings", json!([]))]);
        for port in network.get_mut("portMappings").and_then(Value::as_array_mut).into_iter().flatten() {
            for key in ["hostPort", "containerPort"] {
                // Chronos reads numbers and writes text.
                port[key] = Value::String(port[key].to_string());
            }
        }
    }
    for volume in container.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(external) = volume.get_mut("external") {
            fill(external, &EXTERNAL, &[("options", json!([]))]);
        }
    }
}

/// Fills in what is missing, where the shape has it: so what was filled in is, when it is read again, the same text.
pub(super) fn fill(object: &mut Value, shape: &Shape, defaults: &[(&str, Value)]) {
    let (Some(object), Shape::Object(fields)) = (object.as_object_mut(), shape) else { return };
    let mut given = std::mem::take(object);
    for field in *fields {
        let default = || defaults.iter().find(|(key, _)| *key == field.name).map(|(_, value)| value.clone());
        if let Some(value) = given.shift_remove(field.name).or_else(default) {
            object.insert(field.name.into(), value);
        }
    }
    object.append(&mut given);
}

/// Refuses what no Docker could run, of a definition in its normal form.
/// # Errors
/// The first thing that is wrong with its container.
pub(super) fn check(fields: &Map<String, Value>) -> Result<(), Problem> {
    let Some(container) =
        read(fields.get("container")).filter(|container| container.kind == ContainerKind::Docker)
    else {
        return Ok(());
    };
    let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
    let spec = TaskSpec {
        command: text("command").into(),
        shell: fields.get("shell").and_then(Value::as_bool).unwrap_or(true),
        container: Some(container),
        ..TaskSpec::default()
    };
    engine::docker::check(&spec).map_err(|Refusal { field, message, hint }| {
        let field = format!("container.{field}");
        Problem::invalid(&field, format!("`{field}`: {message}"), hint)
    })
}

/// What has no effect on Mesos of a job with a container; one sentence each, the field named first.
pub(super) fn unhonoured_on_mesos(fields: &Map<String, Value>) -> Vec<String> {
    let Some(container) = read(fields.get("container")) else { return Vec::new() };
    let mut told = Vec::new();
    let mut tell = |field: &str, what: &str| told.push(format!("`container.{field}`: {what}"));
    if !container.ports.is_empty() {
        tell(
            "networkInfos",
            "`portMappings` are not told to Mesos, as ever: a Docker container takes the parameter `publish`",
        );
    }
    let infos = fields.get("container").and_then(|c| c.get("networkInfos")).and_then(Value::as_array);
    if infos.into_iter().flatten().any(|info| info.get("protocol").is_some()) {
        tell("networkInfos", "`protocol` is not told to Mesos, as ever");
    }
    match container.kind {
        ContainerKind::Mesos => {
            if !container.parameters.is_empty() {
                tell("parameters", "no effect with the type MESOS: they are options of Docker");
            }
            if container.network != Network::Host {
                tell("network", "no effect with the type MESOS: name a network in `networkInfos`");
            }
        }
        ContainerKind::Docker if container.network != Network::User && !container.networks.is_empty() => {
            tell("networkInfos", "the networks that it names are joined where `network` is USER alone");
        }
        ContainerKind::Docker => {}
    }
    told
}

/// What has no effect of a job with a container; one sentence each, the field named first.
pub fn unhonoured(fields: &Map<String, Value>) -> Vec<String> {
    let Some(container) = read(fields.get("container")) else { return Vec::new() };
    let mut told = Vec::new();
    if container.kind == ContainerKind::Mesos {
        told.push(format!("`container.type`: {NO_MESOS}, so its runs fail: {NO_MESOS_HINT}"));
        return told;
    }
    let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
    if !matches!(text("runAsUser"), "" | "root") {
        told.push(
            "`runAsUser`: no effect in a container, which runs as the user of its image: \
             set its parameter `user`"
                .into(),
        );
    }
    let named = |name: &str| container.parameters.iter().any(|(key, _)| key.trim_start_matches('-') == name);
    let by_option = named("net") || named("network");
    if !container.networks.is_empty() && (by_option || container.network != Network::User) {
        told.push(
            "`container.networkInfos`: the networks that it names are joined where `network` is USER alone"
                .into(),
        );
    }
    if !container.ports.is_empty() && matches!(container.network, Network::Host | Network::None) && !by_option
    {
        told.push(
            "`container.networkInfos`: `portMappings` have no effect where `network` is HOST or NONE".into(),
        );
    }
    let infos = fields.get("container").and_then(|c| c.get("networkInfos")).and_then(Value::as_array);
    for info in infos.into_iter().flatten() {
        if info.get("labels").and_then(Value::as_array).is_some_and(|labels| !labels.is_empty()) {
            told.push(
                "`container.networkInfos`: `labels` are for the networks of Mesos, and have no effect".into(),
            );
        }
        if info.get("protocol").is_some() {
            told.push(
                "`container.networkInfos`: `protocol` is for the networks of Mesos, and has no effect".into(),
            );
        }
    }
    told.dedup();
    told
}

/// What engines are told of a container in its normal form; `None` where there is none.
pub(super) fn read(value: Option<&Value>) -> Option<Container> {
    let body: Body = serde_json::from_value(value?.clone()).ok()?;
    Some(body.into())
}

/// A container as it is stored.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Body {
    r#type: String,
    image: String,
    network: String,
    network_name: Option<String>,
    network_infos: Vec<NetworkInfo>,
    volumes: Vec<VolumeBody>,
    force_pull_image: bool,
    parameters: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    key: String,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NetworkInfo {
    name: String,
    labels: Vec<Pair>,
    port_mappings: Vec<PortMapping>,
}

/// Stored as text, as Chronos wrote it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PortMapping {
    host_port: String,
    container_port: String,
    protocol: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VolumeBody {
    container_path: String,
    host_path: Option<String>,
    mode: Option<String>,
    external: Option<External>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct External {
    name: String,
    provider: String,
    options: Vec<Pair>,
}

impl From<Body> for Container {
    fn from(body: Body) -> Self {
        let pairs = |pairs: Vec<Pair>| pairs.into_iter().map(|pair| (pair.key, pair.value)).collect();
        let ports = body.network_infos.iter().flat_map(|info| &info.port_mappings).map(|port| Port {
            host: port.host_port.parse().unwrap_or_default(),
            container: port.container_port.parse().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "tcp".into()),
        });
        let ports = ports.collect();
        let labels = body.network_infos.iter().flat_map(|info| {
            let of = |pair: &Pair| (info.name.clone(), pair.key.clone(), pair.value.clone());
            info.labels.iter().map(of)
        });
        let network_labels = labels.collect();
        let mut networks: Vec<String> = Vec::new();
        for name in body.network_name.into_iter().chain(body.network_infos.into_iter().map(|info| info.name))
        {
            if !name.is_empty() && !networks.contains(&name) {
                networks.push(name);
            }
        }
        let volume = |volume: VolumeBody| Volume {
            container_path: volume.container_path,
            source: match (volume.external, volume.host_path.filter(|path| !path.is_empty())) {
                (Some(External { name, provider, options }), _) => {
                    VolumeSource::External { name, driver: provider, options: pairs(options) }
                }
                (None, Some(path)) => VolumeSource::Host(path),
                (None, None) => VolumeSource::Empty,
            },
            // Mesos required a mode and Chronos did not; Docker's own default is to write.
            read_only: volume.mode.as_deref() == Some("RO"),
        };
        Self {
            kind: if body.r#type == "MESOS" { ContainerKind::Mesos } else { ContainerKind::Docker },
            image: body.image,
            force_pull: body.force_pull_image,
            network: match body.network.as_str() {
                "BRIDGE" => Network::Bridge,
                "NONE" => Network::None,
                "USER" => Network::User,
                _ => Network::Host,
            },
            networks,
            network_labels,
            ports,
            volumes: body.volumes.into_iter().map(volume).collect(),
            parameters: pairs(body.parameters),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(container: Value) -> Map<String, Value> {
        let mut container = container;
        normalise(&mut container);
        Map::from_iter([("command".to_owned(), json!("true")), ("container".to_owned(), container)])
    }

    #[test]
    fn an_engine_is_told_all_of_it() {
        let job = job(json!({
            "image": "i", "network": "USER", "networkName": "n", "forcePullImage": true,
            "networkInfos": [{"name": "n"}, {"name": "m", "labels": [{"key": "k", "value": "v"}], "portMappings": [{"hostPort": 0, "containerPort": 80}]}],
            "volumes": [{"containerPath": "/a", "hostPath": "/h", "mode": "RO"}, {"containerPath": "/b"},
                {"containerPath": "/c", "external": {"name": "e", "provider": "p", "options": [{"key": "k", "value": "v"}]}}],
            "parameters": [{"key": "user", "value": "nobody"}],
        }));
        let volume =
            |path: &str, source, read_only| Volume { container_path: path.into(), source, read_only };
        let options = vec![("k".into(), "v".into())];
        let external = VolumeSource::External { name: "e".into(), driver: "p".into(), options };
        let expected = Container {
            kind: ContainerKind::Docker,
            image: "i".into(),
            force_pull: true,
            network: Network::User,
            networks: vec!["n".into(), "m".into()],
            network_labels: vec![("m".into(), "k".into(), "v".into())],
            ports: vec![Port { host: 0, container: 80, protocol: "tcp".into() }],
            volumes: vec![
                volume("/a", VolumeSource::Host("/h".into()), true),
                volume("/b", VolumeSource::Empty, false),
                volume("/c", external, false),
            ],
            parameters: vec![("user".into(), "nobody".into())],
        };
        assert_eq!(read(job.get("container")), Some(expected));
        assert_eq!(check(&job), Ok(()));
        let told = unhonoured(&job);
        assert!(told.len() == 1 && told[0].contains("`labels` are for the networks of Mesos"), "{told:?}");
    }

    #[test]
    fn what_no_docker_could_run_is_refused() {
        for (container, field, says) in [
            (json!({"image": "a b"}), "container.image", "does not name an image"),
            (json!({"image": "i", "network": "USER"}), "container.networkName", "nothing says which"),
            (
                json!({"image": "i", "parameters": [{"key": "colour", "value": "blue"}]}),
                "container.parameters[0]",
                "`colour` of `docker run` is not known here",
            ),
            (
                json!({"image": "i", "parameters": [{"key": "entrypoint", "value": "x"}]}),
                "container.parameters",
                "no effect where a shell reads the command",
            ),
            (
                json!({"image": "i", "volumes": [{"containerPath": "a"}]}),
                "container.volumes[0].containerPath",
                "must begin with `/`",
            ),
            (
                json!({"image": "i", "volumes": [{"containerPath": "/a", "hostPath": "./b"}]}),
                "container.volumes[0].hostPath",
                "neither a path",
            ),
        ] {
            let problem = check(&job(container)).expect_err(field);
            assert_eq!(problem.field, field);
            assert!(problem.message.contains(says), "{problem}");
        }
        // What another engine makes of its options is not for us to say.
        let mesos =
            json!({"type": "MESOS", "image": "i", "parameters": [{"key": "colour", "value": "blue"}]});
        assert_eq!(check(&job(mesos)), Ok(()));
    }

    #[test]
    fn what_has_no_effect_is_named() {
        let mut job = job(json!({
            "image": "i", "network": "HOST",
            "networkInfos": [{"name": "n", "protocol": "IPv4", "labels": [{"key": "k", "value": "v"}],
                "portMappings": [{"hostPort": 1, "containerPort": 2}]}],
        }));
        job.insert("runAsUser".into(), json!("chronos"));
        let told = unhonoured(&job);
        let named: Vec<_> = told.iter().map(|told| told.split(": ").next().unwrap_or_default()).collect();
        let infos = "`container.networkInfos`";
        assert_eq!(named, ["`runAsUser`", infos, infos, infos, infos], "{told:#?}");
        let mesos = Map::from_iter([("container".to_owned(), json!({"type": "MESOS", "image": "i"}))]);
        assert!(unhonoured(&mesos)[0].contains("its runs fail"));
    }
}
