//! What Mesos is told of a task, as JSON of its `TaskInfo`. Asks nobody anything.
//!
//! It means what it means to the other engines: the program's own name comes before its arguments, an image's entry point
//! stays where no shell reads the command. What Chronos said otherwise is in `docs/decisions/0032-tasks-on-mesos.md`.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use scheduler::ids::TaskId;
use serde_json::{Map, Value, json};

use super::resources::Resource;
use crate::{Container, ContainerKind, Fetch, Network, Secret, SecretSource, TaskSpec, Volume, VolumeSource};

/// Why a task cannot be run on Mesos; its author's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {hint}")]
pub struct Unable {
    /// Path of the field of the job.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: &'static str,
}

fn unable(field: impl Into<String>, message: impl Into<String>, hint: &'static str) -> Result<(), Unable> {
    Err(Unable { field: field.into(), message: message.into(), hint })
}

/// Whether the task can be run on Mesos, as far as can be told without asking anybody.
/// # Errors
/// The first thing that is wrong.
pub fn check(spec: &TaskSpec) -> Result<(), Unable> {
    for Secret { name, source } in &spec.secrets {
        let shown = format!("`environmentVariables`: the value of `{name}` cannot be had");
        if let SecretSource::Env(variable) = source {
            let message =
                format!("{shown} from the variable `{variable}`, which is the server's: Mesos would know it");
            return unable(
                "environmentVariables",
                message,
                "put it into a file on the agents, and name that with `file`",
            );
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.chars().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
            let message = format!("{shown}: a shell reads the file, and knows no variable of that name");
            return unable("environmentVariables", message, "use letters, digits and `_` alone");
        }
        let image = spec.container.is_some() && !spec.shell;
        if spec.executor.is_none() && (image || spec.command.trim().is_empty()) {
            let message = format!("{shown}: a shell would have to read the file, and here is none");
            return unable("environmentVariables", message, "give the job a command, and `shell: true`");
        }
    }
    let Some(container) = &spec.container else { return Ok(()) };
    if container.image.trim().is_empty() {
        return unable("container.image", "`container.image` is empty", "name an image");
    }
    if container.kind == ContainerKind::Docker && container.network == Network::User {
        match container.networks.as_slice() {
            [_] => {}
            [] => {
                let message = "`container.network` is USER, and nothing says which";
                return unable(
                    "container.networkName",
                    message,
                    "name it in `networkName` or in `networkInfos`",
                );
            }
            several => {
                let message = format!("`container.networkInfos` names {} networks", several.len());
                let hint = "a Docker container of Mesos joins one: keep one";
                return unable("container.networkInfos", message, hint);
            }
        }
    }
    Ok(())
}

/// The whole of it. `resources` are what it takes of the agent called `hostname`; `grace` is between the polite and the
/// forceful end.
pub fn task_info(
    task: &TaskId,
    spec: &TaskSpec,
    agent: &str,
    hostname: &str,
    resources: &[Resource],
    grace: Duration,
) -> Value {
    let title = if spec.title.is_empty() { task.as_str() } else { &spec.title };
    let mut info = json!({
        "name": title,
        "task_id": {"value": task.as_str()},
        "agent_id": {"value": agent},
        "resources": resources.iter().map(Resource::to_json).collect::<Vec<_>>(),
        "kill_policy": {"grace_period": {"nanoseconds": nanoseconds(grace)}},
    });
    if !spec.labels.is_empty() {
        info["labels"] = labels(spec.labels.iter().map(|(key, value)| (key, value)));
    }
    let container = spec.container.as_ref().map(container);
    match &spec.executor {
        Some(executor) => {
            // An executor of its own for each task: its environment tells it which one it is for, and Mesos takes no second
            // executor of the same name that differs.
            let mut told = json!({
                "type": "CUSTOM",
                "executor_id": {"value": task.as_str()},
                "name": title,
                "command": command(spec, &with_secrets(&spec.secrets, &executor.command), &executor.fetches, hostname),
            });
            if let Some(container) = container {
                told["container"] = container;
            }
            info["executor"] = told;
            info["data"] = json!(BASE64_STANDARD.encode(&executor.data));
        }
        None => {
            info["command"] = command(spec, &Form::of(spec), &spec.fetches, hostname);
            if let Some(container) = container {
                info["container"] = container;
            }
        }
    }
    info
}

/// How a command is written for Mesos.
enum Form {
    /// For the shell.
    Shell(String),
    /// A program, and its arguments with its own name first.
    Program(String, Vec<String>),
    /// Words for the entry point of an image.
    Words(Vec<String>),
}

impl Form {
    fn of(spec: &TaskSpec) -> Self {
        let words = || std::iter::once(&spec.command).chain(&spec.arguments);
        if spec.shell {
            let mut script = String::new();
            if !spec.arguments.is_empty() {
                // Mesos gives a shell no arguments.
                let _ = writeln!(script, "set -- {}", quoted(&spec.arguments));
            }
            script.push_str(&spec.command);
            return with_secrets(&spec.secrets, &script);
        }
        if !spec.secrets.is_empty() {
            let words: Vec<_> = words().cloned().collect();
            return with_secrets(&spec.secrets, &format!("exec {}", quoted(&words)));
        }
        let docker = spec.container.as_ref().is_some_and(|container| container.kind == ContainerKind::Docker);
        match spec.command.trim().is_empty() {
            true => Self::Words(spec.arguments.clone()),
            false if docker => Self::Words(words().cloned().collect()),
            false => Self::Program(spec.command.clone(), words().cloned().collect()),
        }
    }
}

/// A script that first reads the secrets from their files: on the agent and as the task's user, so that no value is ever
/// told to Mesos.
fn with_secrets(secrets: &[Secret], script: &str) -> Form {
    let mut whole = String::new();
    for Secret { name, source } in secrets {
        let SecretSource::File(path) = source else { continue };
        let path = quoted(std::slice::from_ref(path));
        // A shell drops all newlines at the end of what a command says; only one is not meant.
        let _ = write!(
            whole,
            "{name}=$(cat {path} && echo .) || {{ echo {failed} >&2; exit 1; }}\n\
             {name}=${{{name}%.}}\n\
             {name}=${{{name}%'\n'}}\n\
             export {name}\n",
            failed = quoted(&[format!("the value of `{name}` cannot be had from its file")]),
        );
    }
    whole.push_str(script);
    Form::Shell(whole)
}

/// Words of a POSIX shell.
fn quoted(words: &[String]) -> String {
    let quote = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn command(spec: &TaskSpec, form: &Form, fetches: &[Fetch], hostname: &str) -> Value {
    let mut told = match form {
        Form::Shell(script) if script.is_empty() => json!({"shell": true}),
        Form::Shell(script) => json!({"shell": true, "value": script}),
        Form::Program(program, arguments) => {
            json!({"shell": false, "value": program, "arguments": arguments})
        }
        Form::Words(words) => json!({"shell": false, "arguments": words}),
    };
    told["environment"] = json!({"variables": variables(spec, hostname)});
    if !fetches.is_empty() {
        told["uris"] = fetches.iter().map(uri).collect();
    }
    if let Some(user) = &spec.user_elsewhere {
        told["user"] = json!(user);
    }
    told
}

/// The first of a name wins; the machine is the agent's, whatever the server said of its own.
fn variables(spec: &TaskSpec, hostname: &str) -> Vec<Value> {
    let mut names: Vec<&str> = Vec::new();
    let mut variables = Vec::new();
    for (name, value) in spec.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())) {
        if names.contains(&name) {
            continue;
        }
        names.push(name);
        let value = if name == "HOST" { hostname } else { value };
        variables.push(json!({"name": name, "value": value}));
    }
    variables
}

fn uri(fetch: &Fetch) -> Value {
    let Fetch { uri, executable, extract, output_file, cache } = fetch;
    let mut told = json!({"value": uri, "executable": executable, "extract": extract, "cache": cache});
    if let Some(name) = output_file {
        told["output_file"] = json!(name);
    }
    told
}

fn container(container: &Container) -> Value {
    let Container {
        kind,
        image,
        force_pull,
        network,
        networks,
        network_labels,
        volumes,
        parameters,
        ports: _,
    } = container;
    let mut told = match kind {
        ContainerKind::Docker => {
            let network = match network {
                Network::Host => "HOST",
                Network::Bridge => "BRIDGE",
                Network::None => "NONE",
                Network::User => "USER",
            };
            let parameters: Vec<_> = parameters
                .iter()
                .map(|(key, value)| json!({"key": key.trim_start_matches('-'), "value": value}))
                .collect();
            json!({"type": "DOCKER", "docker": {
                "image": image, "network": network, "force_pull_image": force_pull, "parameters": parameters,
            }})
        }
        ContainerKind::Mesos => json!({"type": "MESOS", "mesos": {
            "image": {"type": "DOCKER", "docker": {"name": image}, "cached": !force_pull},
        }}),
    };
    let joins = *kind == ContainerKind::Mesos || *network == Network::User;
    if joins && !networks.is_empty() {
        let info = |name: &String| {
            let mut info = json!({"name": name});
            let mut its = network_labels.iter().filter(|(network, ..)| network == name).peekable();
            if its.peek().is_some() {
                info["labels"] = labels(its.map(|(_, key, value)| (key, value)));
            }
            info
        };
        told["network_infos"] = networks.iter().map(info).collect();
    }
    if !volumes.is_empty() {
        told["volumes"] = volumes.iter().map(volume).collect();
    }
    told
}

fn volume(volume: &Volume) -> Value {
    // Mesos insists on a mode.
    let mut told = Map::from_iter([
        ("container_path".to_owned(), json!(volume.container_path)),
        ("mode".to_owned(), json!(if volume.read_only { "RO" } else { "RW" })),
    ]);
    match &volume.source {
        VolumeSource::Empty => {}
        VolumeSource::Host(path) => {
            told.insert("host_path".into(), json!(path));
        }
        VolumeSource::External { name, driver, options } => {
            let mut volume = json!({"driver": driver, "name": name});
            if !options.is_empty() {
                let pair = |(key, value): &(String, String)| json!({"key": key, "value": value});
                volume["driver_options"] = json!({"parameter": options.iter().map(pair).collect::<Vec<_>>()});
            }
            told.insert("source".into(), json!({"type": "DOCKER_VOLUME", "docker_volume": volume}));
        }
    }
    Value::Object(told)
}

fn labels<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)>) -> Value {
    json!({"labels": pairs.map(|(key, value)| json!({"key": key, "value": value})).collect::<Vec<_>>()})
}

fn nanoseconds(length: Duration) -> i64 {
    i64::try_from(length.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
