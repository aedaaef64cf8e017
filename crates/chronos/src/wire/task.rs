//! What an engine is told of one attempt.

use std::sync::OnceLock;

use engine::{
    Constraint, Container, Executor, Fetch, Limits, Operator, Secret, SecretSource, Share, TaskSpec,
    Thousandths,
};
use scheduler::ids::TaskId;
use scheduler::job::Job;
use scheduler::run::Run;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::shape::Problem;
use super::unsaid::{self, CPUS, MEM, USER};

/// Bytes of output kept per stream: enough to find out what went wrong, small enough for 100 retries of it.
pub const OUTPUT_MAX: u64 = 10 * 1024 * 1024;

/// What of a body an engine needs to know.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Body {
    command: String,
    shell: Option<bool>,
    arguments: Vec<String>,
    environment_variables: Vec<Variable>,
    cpus: Option<f64>,
    mem: Option<f64>,
    disk: Option<f64>,
    run_as_user: String,
    fetch: Vec<FetchBody>,
    uris: Vec<String>,
    container: Option<super::container::Body>,
    executor: String,
    executor_flags: String,
    task_info_data: String,
    constraints: Vec<(String, String, String)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Variable {
    name: String,
    value: Option<String>,
    value_from: Option<ValueFrom>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ValueFrom {
    File(String),
    Env(String),
}

impl From<ValueFrom> for SecretSource {
    fn from(from: ValueFrom) -> Self {
        match from {
            ValueFrom::File(path) => Self::File(path),
            ValueFrom::Env(variable) => Self::Env(variable),
        }
    }
}

#[derive(Deserialize)]
struct FetchBody {
    uri: String,
    #[serde(default)]
    executable: bool,
    #[serde(default = "yes")]
    extract: bool,
    #[serde(default)]
    output_file: String,
    #[serde(default)]
    cache: bool,
}

fn yes() -> bool {
    true
}

/// What to run for attempt number `attempt` of `run`, with the environment that Chronos gave its tasks.
///
/// Arguments of a manual run replace those of the job; they are words between blanks. Without `shell` they are the
/// arguments of the program. With `shell` they are `$1`, `$2`, ..., and they are also appended to the command, each
/// in single quotes: Chronos appended them bare, so that a command which relies on this keeps working, and nothing in
/// an argument is ever read by the shell.
pub fn spec(job: &Job, run: &Run, attempt: u32) -> TaskSpec {
    let body: Body = serde_json::from_str(&job.body).unwrap_or_default();
    let (environment, secrets) = environment(job, run, attempt, &body);
    let limits = limits(&body);
    let mut fetches = fetches(&body);
    let share = share(&body);
    let constraints = body.constraints.iter().cloned().map(constraint).collect();
    let executor = executor(&body, &fetches);
    let user_elsewhere = Some(body.run_as_user.clone()).filter(|user| !user.is_empty());
    // Chronos wrote root into every job that did not say. The server is root, or cannot make anyone root.
    let user = Some(body.run_as_user).filter(|user| !user.is_empty() && user != USER);
    let arguments = match &run.arguments {
        Some(words) if !words.trim().is_empty() => words.split_whitespace().map(String::from).collect(),
        _ => body.arguments,
    };
    let mut command = body.command;
    let container = body.container.map(Container::from);
    // An address may be all that an image wants to be told.
    if container.is_none()
        && let Some((script, fetch)) = fetched(&command)
    {
        (command, fetches) = (script, vec![fetch]);
    }
    // An image knows what it is for: without a command no shell has anything to read.
    let shell = body.shell.unwrap_or(true) && (container.is_none() || !command.trim().is_empty());
    if shell {
        for argument in &arguments {
            command.push(' ');
            command.push_str(&quoted(argument));
        }
    }
    let output_max = OUTPUT_MAX;
    TaskSpec {
        command,
        shell,
        arguments,
        environment,
        output_max,
        user,
        limits,
        fetches,
        secrets,
        container,
        share,
        constraints,
        title: format!("ChronosTask:{}", job.name),
        labels: labels(job),
        user_elsewhere,
        executor,
    }
}

/// What Mesos and who looks at it can find the task by: the labels of the job, its name and its uid.
fn labels(job: &Job) -> Vec<(String, String)> {
    let stated = job.rules.labels().iter().map(|(key, value)| (key.to_string(), value.to_string()));
    let ours = [("chronos.job", job.name.to_string()), ("chronos.uid", job.uid.to_string())];
    let ours = ours.into_iter().map(|(key, value)| (key.to_owned(), value));
    stated.filter(|(key, _)| !key.starts_with("chronos.")).chain(ours).collect()
}

/// What the job states; the rest is for the engine, whose flags say what it is.
fn share(body: &Body) -> Share {
    // Mesos counts in thousandths, and takes no task that asks for nothing at all.
    let stated = |stated: Option<f64>| {
        stated.filter(|stated| *stated > 0.0).map(|stated| Thousandths::nearest(stated).max(Thousandths(1)))
    };
    Share { cpus: stated(body.cpus), mem: stated(body.mem), disk: stated(body.disk) }
}

fn constraint((attribute, operator, value): (String, String, String)) -> Constraint {
    let operator = match operator.as_str() {
        "LIKE" => Operator::Like,
        "UNLIKE" => Operator::Unlike,
        _ => Operator::Equals,
    };
    Constraint { attribute, operator, value }
}

/// The constraints of a job in its normal form.
pub(super) fn stated_constraints(rows: &[Value]) -> Vec<Constraint> {
    let rows = rows.iter().filter_map(|row| serde_json::from_value(row.clone()).ok());
    rows.map(constraint).collect()
}

/// The executor that the job wants, and what Chronos told it: data of the job, or its flags and its command.
fn executor(body: &Body, fetches: &[Fetch]) -> Option<Executor> {
    if body.executor.is_empty() {
        return None;
    }
    let data = match body.task_info_data.as_str() {
        "" => format!("{}|{}", body.executor_flags, body.command),
        data => data.into(),
    };
    Some(Executor { command: body.executor.clone(), data, fetches: fetches.to_vec() })
}

/// Refuses what cannot be done on Mesos, of a definition in its normal form.
/// # Errors
/// The first thing that is wrong.
pub(super) fn check(fields: &Map<String, Value>) -> Result<(), Problem> {
    engine::mesos::task_info::check(&draft(fields))
        .map_err(|unable| Problem::invalid(&unable.field, unable.message, unable.hint))
}

/// Where the secret values of a job's tasks are found, of any form of its definition.
pub fn secrets(fields: &Map<String, Value>) -> Vec<Secret> {
    draft(fields).secrets
}

/// What can be told of a task before there is one: what it runs, in what, and with which secrets.
fn draft(fields: &Map<String, Value>) -> TaskSpec {
    let body: Body = serde_json::from_value(Value::Object(fields.clone())).unwrap_or_default();
    let executor = executor(&body, &[]);
    let mut secrets = Vec::new();
    for Variable { name, value_from, .. } in body.environment_variables {
        secrets.extend(value_from.map(|from| Secret { name, source: from.into() }));
    }
    let container = body.container.map(Container::from);
    let shell = body.shell.unwrap_or(true) && (container.is_none() || !body.command.trim().is_empty());
    TaskSpec { command: body.command, shell, secrets, container, executor, ..TaskSpec::default() }
}

/// What the container of a job is to be; `None` where its tasks run on the machine itself.
pub fn container(job: &Job) -> Option<Container> {
    let body: Body = serde_json::from_str(&job.body).unwrap_or_default();
    body.container.map(Container::from)
}

/// A command that is nothing but the address of a script: what to run, and what to fetch for it, as in Chronos.
fn fetched(command: &str) -> Option<(String, Fetch)> {
    let uri = command.trim();
    let is_address = ["http://", "https://", "ftp://"].iter().any(|scheme| uri.starts_with(scheme));
    if !is_address || uri.contains(|c: char| c.is_whitespace() || "'\"`$;&|<>()".contains(c)) {
        return None;
    }
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    let (_, name) = path.split_once("://")?.1.rsplit_once('/').filter(|(_, name)| !name.is_empty())?;
    let fetch = Fetch { uri: uri.into(), executable: true, extract: false, output_file: None, cache: false };
    Some((format!("./{name}"), fetch))
}

/// What the job states itself. The defaults of Chronos are in every job that it ever wrote, and nobody chose them:
/// they bound nothing.
fn limits(body: &Body) -> Limits {
    let chosen = |stated: Option<f64>, defaults: [f64; 2]| {
        stated.filter(|stated| defaults.iter().all(|default| (stated - default).abs() > 1e-9))
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from a float saturates"
    )]
    Limits {
        cpu_millis: chosen(body.cpus, [CPUS, unsaid::get().cpus]).map(|cpus| (cpus * 1000.0).round() as u32),
        memory_max: chosen(body.mem, [MEM, unsaid::get().mem]).map(|mem| (mem * 1024.0 * 1024.0) as u64),
    }
}

/// What is listed in `fetch`, then what is listed in its old form.
fn fetches(body: &Body) -> Vec<Fetch> {
    let listed = body.fetch.iter().map(|fetch| Fetch {
        uri: fetch.uri.clone(),
        executable: fetch.executable,
        extract: fetch.extract,
        output_file: Some(fetch.output_file.clone()).filter(|name| !name.is_empty()),
        cache: fetch.cache,
    });
    let old = body.uris.iter().map(|uri| Fetch {
        uri: uri.clone(),
        executable: false,
        extract: true,
        output_file: None,
        cache: false,
    });
    listed.chain(old).collect()
}

type Environment = (Vec<(String, String)>, Vec<Secret>);

fn environment(job: &Job, run: &Run, attempt: u32, body: &Body) -> Environment {
    let task = TaskId::of(&run.job, run.key, attempt).to_string();
    let number = |given: Option<f64>, default: f64| format!("{:?}", given.unwrap_or(default));
    let unsaid = unsaid::get();
    let ours = [
        ("mesos_task_id", task.clone()),
        ("MESOS_TASK_ID", task.clone()),
        ("CHRONOS_TASK_ID", task),
        ("CHRONOS_JOB_OWNER", job.rules.owner().to_string()),
        ("CHRONOS_JOB_NAME", job.name.to_string()),
        ("HOST", host().into()),
        ("CHRONOS_RESOURCE_MEM", number(body.mem, unsaid.mem)),
        ("CHRONOS_RESOURCE_CPU", number(body.cpus, unsaid.cpus)),
        ("CHRONOS_RESOURCE_DISK", number(body.disk, unsaid.disk)),
        ("CHRONOS_JOB_RUN_TIME", run.due.as_millisecond().to_string()),
        ("CHRONOS_JOB_CYCLE", run.cycle.due.as_millisecond().to_string()),
        ("CHRONOS_JOB_RUN_ATTEMPT", attempt.to_string()),
    ];
    let mut all: Vec<(String, String)> = ours.into_iter().map(|(name, value)| (name.into(), value)).collect();
    let mut secrets: Vec<Secret> = Vec::new();
    for Variable { name, value, value_from } in &body.environment_variables {
        // The first wins, as in Chronos: a job cannot take another task's name.
        if all.iter().any(|(taken, _)| taken == name) || secrets.iter().any(|secret| secret.name == *name) {
            continue;
        }
        match value_from {
            None => all.push((name.clone(), value.clone().unwrap_or_default())),
            Some(from) => secrets.push(Secret { name: name.clone(), source: from.clone().into() }),
        }
    }
    (all, secrets)
}

/// The argument as one word of a POSIX shell.
fn quoted(argument: &str) -> String {
    format!("'{}'", argument.replace('\'', r"'\''"))
}

/// The name of this machine; asked once, because it is the machine of all tasks of the local engine.
fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        if name.trim().is_empty() { "localhost".into() } else { name.trim().into() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_argument_is_read_by_the_shell() {
        for text in ["a b", "it's", "; rm -rf /", "$(id)", "`id`", "\"", "\\", "", "a\nb"] {
            let script = format!("printf %s {}", quoted(text));
            let output = std::process::Command::new("/bin/sh")
                .args(["-c", &script])
                .output()
                .expect("there is a shell");
            assert_eq!(String::from_utf8_lossy(&output.stdout), text);
        }
    }
}
