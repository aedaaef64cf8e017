//! Jobs with a container, with the real binary and a real Docker Engine.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::server::{Folder, TestServer, by_hand};
use crate::skip::skip;
use crate::wait;

#[path = "../../../engine/testing/dockerd.rs"]
mod dockerd;

use dockerd::Dockerd;
pub(crate) use dockerd::docker;

/// Where Docker is; says so where it cannot be.
pub(crate) fn host() -> Option<String> {
    dockerd::shared().map_err(|reason| skip("docker", &reason)).ok()
}

fn server(folder: Arc<Folder>, host: &str) -> TestServer {
    let server = TestServer::launch(folder, &["--docker_host", host, "--kill_grace", "1s"]);
    server.wait_ready();
    server
}

fn in_container(name: &str, command: &str, more: Value) -> Value {
    let mut job = by_hand(name, command);
    job["container"] = json!({ "type": "DOCKER", "image": "chronos-test", "network": "NONE" });
    for (key, value) in more.as_object().into_iter().flatten() {
        job["container"][key] = value.clone();
    }
    job
}

/// The containers of a server's tasks, running or not.
fn containers(host: &str, job: &str) -> Vec<String> {
    let filter = format!("name=^{job}-");
    let names =
        docker(host, &["ps", "--all", "--no-trunc", "--filter", &filter, "--format", "{{.Names}} {{.ID}}"]);
    names.lines().map(str::to_owned).collect()
}

#[test]
fn a_job_in_a_container_and_one_without_run_in_one_server() {
    let Some(host) = host() else { return };
    let server = server(Folder::new(), &host);
    server.put(in_container(
        "boxed",
        "echo $CHRONOS_JOB_NAME; hostname; exit 0",
        json!({ "parameters": [{ "key": "hostname", "value": "box" }] }),
    ));
    server.put(by_hand("plain", "echo $CHRONOS_JOB_NAME; [ -e /bin/bash ] && echo on the machine"));
    let mut greedy = in_container("greedy", "head -c 200000000 /dev/zero | tail", Value::Null);
    greedy["mem"] = json!(32);
    server.put(greedy);
    for job in ["boxed", "plain", "greedy"] {
        server.cli(["run", job]).success();
    }
    server.wait_for("boxed", "succeeded");
    server.wait_for("plain", "succeeded");
    server.cli(["logs", "boxed"]).stdout("boxed\nbox\n").success();
    server.cli(["logs", "plain"]).stdout("plain\non the machine\n").success();
    let greedy = server.wait_for("greedy", "failed");
    assert_eq!(greedy["attempts"][0]["message"], "out of memory: exceeded 32 MiB", "{greedy}");
    server.put(in_container("endless", "echo up; sleep 1000", Value::Null));
    server.cli(["run", "endless"]).success();
    wait::until("it runs", || {
        (docker(&host, &["ps", "-q", "--filter", "name=^endless-"]).len() > 1).then_some(())
    });
    server.cli(["kill", "endless"]).success();
    server.wait_for("endless", "killed");
    assert_eq!(docker(&host, &["ps", "-q", "--filter", "name=^endless-"]), "");
    // What no Docker could run is refused at the door.
    let bad = in_container("bad", "true", json!({ "parameters": [{ "key": "restart", "value": "always" }] }));
    let refused = server.post("/v1/scheduler/iso8601", bad.to_string().as_bytes()).expect("an answer");
    assert_eq!((refused.status, &refused.json()["field"]), (400, &json!("container.parameters[0]")));
}

/// Kill -9 of the server while a container runs, and one while another has ended in between.
#[test]
fn a_container_outlives_its_server() {
    let Some(host) = host() else { return };
    let folder = Folder::new();
    let server = self::server(folder.clone(), &host);
    let dir = folder.path().display().to_string();
    let volumes = json!({ "volumes": [{ "containerPath": "/shared", "hostPath": dir, "mode": "RW" }] });
    let command = |name: &str| {
        format!(
            "echo start >> /shared/{name}.starts; echo before; until [ -e /shared/{name}.go ]; do sleep 0.05; done; echo after"
        )
    };
    let jobs = ["waits", "ends"];
    for job in jobs {
        server.put(in_container(job, &command(job), volumes.clone()));
        server.cli(["run", job]).success();
        wait::until("it has started", || folder.path().join(format!("{job}.starts")).exists().then_some(()));
        wait::until("its output is followed", || {
            (server.cli(["logs", job]).stdout_text() == "before\n").then_some(())
        });
    }
    let before = jobs.map(|job| containers(&host, job));
    assert!(before.iter().all(|containers| containers.len() == 1), "{before:?}");
    let folder = server.kill();
    folder.file("ends.go", "");
    wait::until("it ends without a server", || {
        docker(&host, &["ps", "-q", "--filter", "name=^ends-"]).is_empty().then_some(())
    });

    let server = self::server(folder.clone(), &host);
    server.wait_for("ends", "succeeded");
    assert_eq!(
        docker(&host, &["ps", "-q", "--filter", "name=^waits-"]).lines().count(),
        1,
        "it was left alone"
    );
    folder.file("waits.go", "");
    server.wait_for("waits", "succeeded");
    for job in jobs {
        server.cli(["logs", job]).stdout("before\nafter\n").success();
        assert_eq!(std::fs::read_to_string(folder.path().join(format!("{job}.starts"))).unwrap(), "start\n");
        assert_eq!(server.runs(job).len(), 1);
        assert_eq!(server.runs(job)[0]["attempts"].as_array().map(Vec::len), Some(1));
    }
    assert_eq!(jobs.map(|job| containers(&host, job)), before, "the same containers, and no others");
}

/// Where Docker cannot be reached, jobs without a container run, the others wait and say why, and begin when it comes.
#[test]
fn without_docker_only_its_jobs_wait() {
    let folder = Folder::new();
    let socket = folder.path().join("docker.sock");
    let server = server(folder, &format!("unix://{}", socket.display()));
    server.put(in_container("boxed", "echo here", Value::Null));
    server.put(by_hand("plain", "true"));
    assert_eq!(
        server.get_json("/ready")["notes"]
            .as_array()
            .map_or(0, |notes| notes.iter().filter(|n| n.to_string().contains("container")).count()),
        0
    );
    server.cli(["run", "boxed"]).success();
    server.cli(["run", "plain"]).success();
    server.wait_for("plain", "succeeded");
    wait::until("why says so", || {
        let why = server.cli(["why", "boxed"]).stdout_text();
        (why.contains("waits for its container") && why.contains("docker.sock")).then_some(())
    });
    let ready = server.get_json("/ready");
    assert!(ready["notes"].to_string().contains("jobs with a container wait"), "{ready}");
    let Some(host) = host() else { return };
    std::os::unix::fs::symlink(host.trim_start_matches("unix://"), &socket).unwrap();
    server.wait_for("boxed", "succeeded");
    server.cli(["logs", "boxed"]).stdout("here\n").success();
    assert!(!server.get_json("/ready")["notes"].to_string().contains("jobs with a container wait"));
}

/// Files of a job are fetched for its container, too.
#[test]
fn a_container_sees_what_its_job_fetches() {
    let Some(host) = host() else { return };
    let folder = Folder::new();
    let file = folder.path().join("greeting");
    std::fs::write(&file, "from the machine\n").expect("written");
    let server = server(folder, &host);
    let mut job = in_container("fetching", "cat $MESOS_SANDBOX/greeting", Value::Null);
    job["uris"] = json!([file]);
    server.put(job);
    server.cli(["run", "fetching"]).success();
    server.wait_for("fetching", "succeeded");
    server.cli(["logs", "fetching"]).stdout("from the machine\n").success();
}

/// An image of a registry that wants a password, by the login that the server is pointed to.
#[test]
fn an_image_is_fetched_with_the_login_that_was_named() {
    let registries = Dockerd::start().and_then(|mut dockerd| {
        let [_, closed] = dockerd.registries()?;
        Ok((dockerd, closed))
    });
    let (dockerd, closed) = match registries {
        Ok(registries) => registries,
        Err(reason) => return skip("docker-registry", &reason),
    };
    let (host, folder) = (dockerd.host(), Folder::new());
    let config = folder.path().join("config.json");
    // `ops:s3cret?~>`
    let logins = json!({ "auths": { &closed: { "auth": "b3BzOnMzY3JldD9+Pg==" } } });
    std::fs::write(&config, logins.to_string()).expect("written");
    let image = format!("{closed}/tools/busybox:1");
    docker(&host, &["tag", "chronos-test", &image]);
    docker(&host, &["--config", &folder.path().display().to_string(), "push", &image]);
    docker(&host, &["rmi", &image]);
    let config = config.display().to_string();
    let server = TestServer::launch(folder, &["--docker_host", &host, "--docker_config", &config]);
    server.wait_ready();
    server.put(in_container("private", "echo hi", json!({ "image": image })));
    server.cli(["run", "private"]).success();
    server.wait_for("private", "succeeded");
}
