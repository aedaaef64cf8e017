use std::process::Command;
use std::sync::Arc;

use super::super::resources::{Amount, Thousandths};
use super::*;
use crate::Executor;

fn resource() -> Resource {
    Resource {
        name: "cpus".into(),
        amount: Amount::Scalar(Thousandths(100)),
        role: "*".into(),
        raw: Arc::new(json!({"name": "cpus", "type": "SCALAR", "allocation_info": {"role": "ops"}})),
        revocable: false,
        shared: false,
    }
}

fn spec(command: &str) -> TaskSpec {
    TaskSpec { command: command.into(), shell: true, ..TaskSpec::default() }
}

fn told(spec: &TaskSpec) -> Value {
    assert_eq!(check(spec), Ok(()));
    let task = TaskId::parse("report-0").expect("a task");
    task_info(&task, spec, "S0", "agent-0.local", &[resource()], Duration::from_secs(10))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.into(), value.into())
}

#[test]
fn mesos_is_told_all_of_a_task() {
    let fetch = Fetch {
        uri: "http://h/a.tgz".into(),
        executable: false,
        extract: true,
        output_file: Some("b".into()),
        cache: true,
    };
    let all = TaskSpec {
        environment: vec![pair("HOST", "server"), pair("A", "1"), pair("A", "2")],
        fetches: vec![fetch],
        title: "ChronosTask:report".into(),
        labels: vec![pair("team", "etl")],
        user_elsewhere: Some("root".into()),
        ..spec("make report")
    };
    let expected = json!({
        "name": "ChronosTask:report",
        "task_id": {"value": "report-0"},
        "agent_id": {"value": "S0"},
        "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}, "allocation_info": {"role": "ops"}}],
        "kill_policy": {"grace_period": {"nanoseconds": 10_000_000_000_i64}},
        "labels": {"labels": [{"key": "team", "value": "etl"}]},
        "command": {
            "shell": true,
            "value": "make report",
            "environment": {"variables": [{"name": "HOST", "value": "agent-0.local"}, {"name": "A", "value": "1"}]},
            "uris": [{"value": "http://h/a.tgz", "executable": false, "extract": true, "cache": true, "output_file": "b"}],
            "user": "root",
        },
    });
    assert_eq!(told(&all), expected);
}

#[test]
fn a_command_means_what_it_means_elsewhere() {
    let form = |spec: &TaskSpec| {
        let mut command = told(spec)["command"].clone();
        let fields = command.as_object_mut().expect("an object");
        fields.remove("environment");
        command
    };
    let arguments = || words(&["a b", "it's"]);
    let program = TaskSpec { shell: false, arguments: arguments(), ..spec("/bin/echo") };
    assert_eq!(
        form(&program),
        json!({"shell": false, "value": "/bin/echo", "arguments": ["/bin/echo", "a b", "it's"]})
    );
    // The entry point of an image stays.
    let image = |kind| Some(Container { kind, image: "i".into(), ..Container::default() });
    let docker = TaskSpec { container: image(ContainerKind::Docker), ..program.clone() };
    assert_eq!(form(&docker), json!({"shell": false, "arguments": ["/bin/echo", "a b", "it's"]}));
    let mesos = TaskSpec { container: image(ContainerKind::Mesos), ..program.clone() };
    assert_eq!(form(&mesos), form(&program));
    let bare = TaskSpec { command: String::new(), ..docker };
    assert_eq!(form(&bare), json!({"shell": false, "arguments": ["a b", "it's"]}));
    // A shell finds them where it finds those of other engines.
    let script = TaskSpec { arguments: arguments(), ..spec(r#"printf '%s|' "$@""#) };
    assert_eq!(run(&form(&script)), (true, "a b|it's|".into()));
}

/// What a command that is told to Mesos says, if a shell of this machine reads it.
fn run(command: &Value) -> (bool, String) {
    let script = command["value"].as_str().expect("a script");
    assert_eq!(command["shell"], true);
    let output = Command::new("/bin/sh").args(["-c", script]).output().expect("a shell");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn an_executor_is_told_the_data() {
    let fetch = |uri: &str| Fetch {
        uri: uri.into(),
        executable: false,
        extract: true,
        output_file: None,
        cache: false,
    };
    let executor = Executor {
        command: "/opt/x".into(),
        data: "-v|http://h/x".into(),
        fetches: vec![fetch("http://h/f")],
    };
    let spec = TaskSpec {
        executor: Some(executor),
        fetches: vec![fetch("http://h/x")],
        container: Some(Container { image: "i".into(), ..Container::default() }),
        ..spec("./x")
    };
    let told = told(&spec);
    assert_eq!((told.get("command"), told.get("container")), (None, None));
    assert_eq!(told["data"], json!(BASE64_STANDARD.encode("-v|http://h/x")));
    let executor = &told["executor"];
    assert_eq!(
        (&executor["type"], &executor["executor_id"]["value"]),
        (&json!("CUSTOM"), &json!("report-0"))
    );
    assert_eq!(
        (&executor["command"]["value"], &executor["command"]["shell"]),
        (&json!("/opt/x"), &json!(true))
    );
    assert_eq!(executor["command"]["uris"][0]["value"], json!("http://h/f"));
    assert_eq!(executor["container"]["docker"]["image"], json!("i"));
}

#[test]
fn containers_are_those_of_the_job() {
    let volume = |path: &str, source, read_only| Volume { container_path: path.into(), source, read_only };
    let external =
        VolumeSource::External { name: "e".into(), driver: "p".into(), options: vec![pair("k", "v")] };
    let docker = Container {
        image: "i".into(),
        force_pull: true,
        network: Network::User,
        networks: words(&["n"]),
        network_labels: vec![("n".into(), "k".into(), "v".into())],
        volumes: vec![
            volume("/a", VolumeSource::Host("/h".into()), true),
            volume("/b", VolumeSource::Empty, false),
            volume("/c", external, false),
        ],
        parameters: vec![pair("--user", "nobody")],
        ..Container::default()
    };
    let told_of = |container: &Container| {
        told(&TaskSpec { container: Some(container.clone()), ..spec("x") })["container"].clone()
    };
    let network_infos = json!([{"name": "n", "labels": {"labels": [{"key": "k", "value": "v"}]}}]);
    let volumes = json!([
        {"container_path": "/a", "mode": "RO", "host_path": "/h"},
        {"container_path": "/b", "mode": "RW"},
        {"container_path": "/c", "mode": "RW", "source": {"type": "DOCKER_VOLUME", "docker_volume": {
            "driver": "p", "name": "e", "driver_options": {"parameter": [{"key": "k", "value": "v"}]}}}},
    ]);
    assert_eq!(
        told_of(&docker),
        json!({
            "type": "DOCKER",
            "docker": {"image": "i", "network": "USER", "force_pull_image": true, "parameters": [{"key": "user", "value": "nobody"}]},
            "network_infos": network_infos,
            "volumes": volumes,
        })
    );
    // Without USER they are for nobody.
    let host = Container { network: Network::Host, ..docker.clone() };
    assert_eq!(
        (told_of(&host)["docker"]["network"].clone(), told_of(&host).get("network_infos")),
        (json!("HOST"), None)
    );
    let mesos = Container { kind: ContainerKind::Mesos, ..host };
    assert_eq!(
        told_of(&mesos),
        json!({
            "type": "MESOS",
            "mesos": {"image": {"type": "DOCKER", "docker": {"name": "i"}, "cached": false}},
            "network_infos": network_infos,
            "volumes": volumes,
        })
    );
}

#[test]
fn a_secret_is_read_on_the_agent_and_never_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("it's secret").to_string_lossy().into_owned();
    let secrets = vec![Secret { name: "PASSWORD".into(), source: SecretSource::File(path.clone()) }];
    let by_shell = TaskSpec {
        secrets: secrets.clone(),
        ..spec(r#"printf '<%s>' "$PASSWORD"; env | grep -c ^PASSWORD="#)
    };
    let by_program = TaskSpec {
        shell: false,
        secrets: secrets.clone(),
        arguments: words(&["PASSWORD"]),
        ..spec("/usr/bin/printenv")
    };
    for (content, value) in
        [("hunter2\n", "hunter2"), ("hunter2", "hunter2"), ("a b\n\n", "a b\n"), ("a'$(id)`\"", "a'$(id)`\"")]
    {
        std::fs::write(&path, content).expect("written");
        let told = [told(&by_shell), told(&by_program)];
        assert!(told.iter().all(|told| !told.to_string().contains("hunter2")));
        assert_eq!(run(&told[0]["command"]), (true, format!("<{value}>1\n")));
        assert_eq!(run(&told[1]["command"]), (true, format!("{value}\n")));
    }
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(run(&told(&by_shell)["command"]), (false, String::new()));
    let executor = Executor { command: "printenv PASSWORD".into(), data: String::new(), fetches: Vec::new() };
    std::fs::write(&path, "x").expect("written");
    let by_executor = TaskSpec { executor: Some(executor), ..by_program };
    assert_eq!(run(&told(&by_executor)["executor"]["command"]), (true, "x\n".into()));
}

#[test]
fn what_cannot_be_done_is_refused() {
    let secret =
        |name: &str, source| TaskSpec { secrets: vec![Secret { name: name.into(), source }], ..spec("x") };
    let file = || SecretSource::File("/s".into());
    let image = |network, networks: &[&str]| {
        let container =
            Container { image: "i".into(), network, networks: words(networks), ..Container::default() };
        TaskSpec { container: Some(container), ..spec("x") }
    };
    for (spec, says) in [
        (secret("A", SecretSource::Env("B".into())), "Mesos would know it"),
        (secret("A-B", file()), "knows no variable of that name"),
        (TaskSpec { command: String::new(), ..secret("A", file()) }, "here is none"),
        (
            TaskSpec { shell: false, container: image(Network::Host, &[]).container, ..secret("A", file()) },
            "here is none",
        ),
        (image(Network::User, &[]), "nothing says which"),
        (image(Network::User, &["a", "b"]), "names 2 networks"),
    ] {
        let error = check(&spec).expect_err(says);
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(check(&image(Network::Host, &["a", "b"])), Ok(()));
}
