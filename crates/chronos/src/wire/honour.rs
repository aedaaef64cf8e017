//! What of a job definition has no effect where its tasks run.
//!
//! Users of Chronos have jobs that say more than one machine can do. They are kept as they are, and nobody is left to
//! find out: the answer to a write, the job and its `why` name every such field.

use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::container;
use super::unsaid::{DISK, USER};

/// What decides whether a field has an effect.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// The engine that runs the tasks.
    pub engine: &'static str,
    /// Whether the server is root, so that tasks without a user of their own are.
    pub root: bool,
    /// Why a local task cannot be this user, if it cannot.
    pub user_refusal: fn(&str) -> Option<String>,
}

impl Surroundings {
    /// Those of this process.
    pub fn of(engine: &'static str) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        // Asked once: it stays so, and lists of jobs ask for each.
        static ROOT: OnceLock<bool> = OnceLock::new();
        let is_root = || std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        let user_refusal = engine::local::launch::user_refusal;
        Self { engine, root: *ROOT.get_or_init(is_root), user_refusal }
    }
}

/// What has no effect of what is stored of a job; one sentence each, the fields named first.
pub fn unhonoured(body: &str, surroundings: Surroundings) -> Vec<String> {
    let body: Map<String, Value> = serde_json::from_str(body).unwrap_or_default();
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
    let list = |key: &str| body.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut told = Vec::new();
    if surroundings.engine != "mesos" {
        let executor: Vec<_> = ["executor", "executorFlags", "taskInfoData"]
            .into_iter()
            .filter(|key| !text(key).is_empty())
            .collect();
        if !executor.is_empty() {
            let named = executor.join("`, `");
            told.push(format!(
                "`{named}`: no effect without Mesos, whose executors they are for: the command is run"
            ));
        }
        if !list("constraints").is_empty() {
            told.push("`constraints`: no effect without Mesos: there is no choice of machines".into());
        }
        let disk = body.get("disk").and_then(Value::as_f64).filter(|disk| (disk - DISK).abs() > 1e-9);
        if disk.is_some() {
            told.push("`disk`: bounds nothing here; the task finds it in CHRONOS_RESOURCE_DISK".into());
        }
        if list("fetch").iter().any(|fetch| fetch.get("cache") == Some(&Value::Bool(true))) {
            told.push("`fetch`: `cache` has no effect here: every attempt fetches its files anew".into());
        }
        let contained = body.get("container").is_some_and(Value::is_object);
        if text("runAsUser") == USER && !surroundings.root && !contained {
            told.push(
                "`runAsUser`: root, which Chronos wrote into every job, means unset here: tasks run as the user of the server"
                    .into(),
            );
        }
    }
    let contained = body.get("container").is_some_and(Value::is_object);
    if surroundings.engine == "local"
        && !contained
        && let Some(why) = (surroundings.user_refusal)(text("runAsUser"))
    {
        told.push(format!("`runAsUser`: its runs fail: {why}"));
    }
    if surroundings.engine == "mesos" {
        told.extend(container::unhonoured_on_mesos(&body));
        // Such a job was written while tasks ran elsewhere.
        if let Err(unable) = super::task::check(&body) {
            told.push(format!("`{}`: its runs fail: {}: {}", unable.field, unable.message, unable.hint));
        }
    } else {
        told.extend(container::unhonoured(&body));
    }
    if body.get("async") == Some(&Value::Bool(true)) {
        told.push("`async`: no effect: a task ends when its command ends".into());
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, engine: &'static str, root: bool, fields: &[&str]) {
        let user_refusal = |name: &str| (name == "nosuchuser").then(|| "there is no such user".to_owned());
        let told = unhonoured(body, Surroundings { engine, root, user_refusal });
        let named: Vec<_> = told.iter().map(|told| told.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(named, fields, "{told:?}");
    }

    #[test]
    fn every_field_without_effect_is_named() {
        let body = r#"{"executor":"/x","executorFlags":"","taskInfoData":"d","disk":1.0,"runAsUser":"root","async":true,
            "constraints":[["rack","EQUALS","r1"]],"fetch":[{"uri":"u","cache":true}]}"#;
        let all =
            ["`executor`, `taskInfoData`", "`constraints`", "`disk`", "`fetch`", "`runAsUser`", "`async`"];
        check(body, "local", false, &all);
        check(body, "mesos", false, &["`async`"]);
    }

    #[test]
    fn what_mesos_cannot_do_is_named() {
        let body = r#"{"command":"x","environmentVariables":[{"name":"A","valueFrom":{"env":"CHRONOS_SECRET_A"}}],"container":
            {"type":"MESOS","image":"i","network":"BRIDGE","parameters":[{"key":"k","value":"v"}],"networkInfos":
            [{"name":"n","protocol":"IPv4","portMappings":[{"hostPort":"1","containerPort":"2"}]}]}}"#;
        let infos = "`container.networkInfos`";
        let fields =
            [infos, infos, "`container.parameters`", "`container.network`", "`environmentVariables`"];
        check(body, "mesos", false, &fields);
        check(
            r#"{"container":{"image":"i","network":"HOST","networkInfos":[{"name":"n"}]}}"#,
            "mesos",
            false,
            &[infos],
        );
        check(
            r#"{"command":"x","container":{"image":"i"},"runAsUser":"ops","disk":1.0}"#,
            "mesos",
            false,
            &[],
        );
    }

    #[test]
    fn what_chronos_wrote_into_every_job_is_no_news() {
        let exported = r#"{"executor":"","executorFlags":"","taskInfoData":"","disk":256.0,"constraints":[],"async":false,
            "fetch":[{"uri":"u","cache":false}],"runAsUser":"root"}"#;
        check(exported, "local", true, &[]);
        check(exported, "local", false, &["`runAsUser`"]);
        check("{}", "local", false, &[]);
        check(r#"{"runAsUser":"www-data"}"#, "local", false, &[]);
    }

    #[test]
    fn a_user_that_is_not_there_is_named() {
        let job = r#"{"runAsUser":"nosuchuser"}"#;
        check(job, "local", true, &["`runAsUser`"]);
        check(job, "mesos", true, &[]);
        check(job, "shadow", true, &[]);
        let contained = r#"{"runAsUser":"nosuchuser","container":{"image":"i"}}"#;
        let told = unhonoured(
            contained,
            Surroundings { user_refusal: |_| Some("no".into()), ..Surroundings::of("local") },
        );
        assert!(told.iter().all(|told| !told.contains("its runs fail")), "{told:?}");
    }
}
