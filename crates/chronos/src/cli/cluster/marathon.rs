//! Instances that are tasks of an app of Marathon.

use reqwest::{Method, StatusCode};
use serde_json::{Map, Value};

use super::kept::Kept;
use super::{LauncherArgs, Patience, count, say};
use crate::cli::ServerAt;
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};

/// What the app was, as Marathon said: it is deployed again from this.
const APP: &str = "app.json";
/// What Marathon tells of an app and does not take back.
const TOLD: [&str; 13] = [
    "version",
    "versionInfo",
    "tasks",
    "tasksStaged",
    "tasksRunning",
    "tasksHealthy",
    "tasksUnhealthy",
    "taskStats",
    "deployments",
    "lastTaskFailure",
    "readinessCheckResults",
    "identity",
    "roles",
];

pub(super) struct Marathon {
    client: Client,
    /// Its id, with a slash at the beginning.
    app: String,
}

impl Marathon {
    pub(super) fn new(args: &LauncherArgs) -> Result<Self, Failure> {
        let at = ServerAt {
            server: args.marathon.clone(),
            user: args.marathon_user.clone(),
            ca_file: args.ca_file.clone(),
        };
        let parts: Vec<&str> = args.app.split('/').filter(|part| !part.is_empty()).collect();
        let plain = |part: &&str| {
            part.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
                && !part.starts_with('.')
        };
        if parts.is_empty() || !parts.iter().all(plain) {
            return Err(Failure::usage(format!("--app: `{}` is not the id of an app of Marathon", args.app))
                .hint("write something like /chronos or /ops/chronos"));
        }
        Ok(Self { client: Client::of(&at)?, app: format!("/{}", parts.join("/")) })
    }

    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), Failure> {
        let query: Vec<_> = query.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        self.client.plain(method, path, &query, body).await.map_err(|failure| {
            failure.context("cannot speak to Marathon").hint("--marathon says where it is; see that it runs")
        })
    }

    async fn ask_of_app(
        &self,
        method: Method,
        query: &[(&str, &str)],
    ) -> Result<(StatusCode, Value), Failure> {
        let path: Vec<&str> = ["v2", "apps"].into_iter().chain(self.app.split('/').skip(1)).collect();
        self.ask(method, &path, query, None).await
    }

    fn refused(&self, status: StatusCode, body: &Value, what: &str) -> Failure {
        let said = body["message"].as_str().map(|text| format!(": {text}")).unwrap_or_default();
        let details = match &body["details"] {
            Value::Null => String::new(),
            details => format!(" {details}"),
        };
        let message =
            format!("Marathon at {} does not {what} ({status}{said}{details})", self.client.shown());
        let hint = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "CHRONOS_MARATHON_USER or --marathon_user says who asks"
            }
            _ => "see whether --marathon and --app are right",
        };
        let exit = if status.is_server_error() { Exit::Unreachable } else { Exit::Refused };
        Failure::new(exit, anyhow::anyhow!(message)).hint(hint)
    }

    /// The app as it is, if it is.
    async fn app(&self) -> Result<Option<Value>, Failure> {
        match self.ask_of_app(Method::GET, &[]).await? {
            (StatusCode::OK, body) if body["app"].is_object() => Ok(Some(body["app"].clone())),
            // Other programs say that too, but not of an app.
            (StatusCode::NOT_FOUND, body) if body["message"].is_string() => Ok(None),
            (StatusCode::OK | StatusCode::NOT_FOUND, _) => {
                let message = format!("what answers at {} is no Marathon", self.client.shown());
                Err(Failure::usage(message).hint("--marathon says where it is"))
            }
            (status, body) => Err(self.refused(status, &body, "show the app")),
        }
    }

    pub(super) async fn look(&self, kept: &Kept) -> Result<String, Failure> {
        let (app, at) = (&self.app, self.client.shown());
        Ok(match self.app().await? {
            Some(found) => {
                let tasks = found["tasks"].as_array().map_or(0, Vec::len);
                let wanted = found["instances"].as_u64().unwrap_or_default();
                format!("app {app} of Marathon at {at}: {} of {wanted}", count(tasks, "instance"))
            }
            None if kept.is_under_way() && kept.read(APP)?.is_some() => {
                format!("app {app} of Marathon at {at}: gone; what it was is in {}", kept.path(APP).display())
            }
            None => {
                let message = format!("Marathon at {at} has no app {app}");
                return Err(Failure::usage(message).hint("--app says which it is; nothing was done"));
            }
        })
    }

    pub(super) async fn stop(&self, kept: &Kept, patience: Patience) -> Result<(), Failure> {
        let app = &self.app;
        if let Some(found) = self.app().await? {
            kept.write(APP, &found)?;
            say("stop", format!("wrote what {app} is into {}", kept.path(APP).display()))?;
            // What is stuck is no reason to wait.
            match self.ask_of_app(Method::DELETE, &[("force", "true")]).await? {
                (StatusCode::NOT_FOUND, _) => {}
                (status, _) if status.is_success() => {}
                (status, body) => return Err(self.refused(status, &body, "remove the app")),
            }
            say("stop", format!("told Marathon to remove {app}"))?;
        } else {
            say("stop", format!("Marathon has no {app} any more"))?;
        }
        patience.until("stop", async || Ok(self.left().await?.map_or(Ok(()), Err))).await?;
        say("stop", format!("no task of {app} is left"))
    }

    /// What is left of the app after it was removed, in words.
    async fn left(&self) -> Result<Option<String>, Failure> {
        let (status, tasks) = self.ask(Method::GET, &["v2", "tasks"], &[], None).await?;
        if status != StatusCode::OK {
            return Err(self.refused(status, &tasks, "list tasks"));
        }
        let tasks = tasks["tasks"].as_array().map_or(&[][..], Vec::as_slice);
        let ours: Vec<_> = tasks.iter().filter(|task| task["appId"] == *self.app).collect();
        if let Some(first) = ours.first() {
            let host = first["host"].as_str().unwrap_or("?");
            return Ok(Some(format!(
                "{} of {} not gone yet, one at {host}",
                count(ours.len(), "task"),
                self.app
            )));
        }
        let (status, all) = self.ask(Method::GET, &["v2", "deployments"], &[], None).await?;
        if status != StatusCode::OK {
            return Err(self.refused(status, &all, "list deployments"));
        }
        let all = all.as_array().map_or(&[][..], Vec::as_slice);
        let is_ours = |one: &&Value| {
            one["affectedApps"].as_array().is_some_and(|apps| apps.iter().any(|app| *app == *self.app))
        };
        Ok(all.iter().find(is_ours).map(|one| {
            format!(
                "Marathon is still ending the tasks of {}, deployment {}",
                self.app,
                one["id"].as_str().unwrap_or("?")
            )
        }))
    }

    pub(super) async fn start(&self, kept: &Kept, patience: Patience) -> Result<(), Failure> {
        let app = &self.app;
        if self.app().await?.is_some() {
            say("start", format!("Marathon has {app} already"))?;
        } else {
            let path = kept.path(APP);
            let saved = kept.read(APP)?.ok_or_else(|| {
                let message = format!("nothing says what {app} was: there is no `{}`", path.display());
                Failure::usage(message).hint("deploy it by hand, or say with --keep where that file is")
            })?;
            let (status, body) =
                self.ask(Method::POST, &["v2", "apps"], &[], Some(&definition(&saved))).await?;
            // Somebody else was faster.
            if !status.is_success() && status != StatusCode::CONFLICT {
                let failure = self.refused(status, &body, "take the app back");
                let hint = format!("what it was is in {}", path.display());
                return Err(failure.hint(hint));
            }
            say("start", format!("deployed {app} as {} says", path.display()))?;
        }
        patience
            .until("start", async || {
                let Some(now) = self.app().await? else {
                    return Ok(Err(format!("Marathon does not show {app} yet")));
                };
                Ok(ready(&now))
            })
            .await?;
        say("start", format!("all instances of {app} run and are healthy"))
    }
}

/// Whether an app is as it is meant to be; else what is missing.
fn ready(app: &Value) -> Result<(), String> {
    let number = |key: &str| app[key].as_u64().unwrap_or_default();
    let (wanted, running, healthy) = (number("instances"), number("tasksRunning"), number("tasksHealthy"));
    let checked = app["healthChecks"].as_array().is_some_and(|checks| !checks.is_empty());
    if running < wanted {
        return Err(format!("{running} of {wanted} instances run"));
    }
    if checked && healthy < wanted {
        return Err(format!("{healthy} of {wanted} instances are healthy"));
    }
    match app["deployments"].as_array().is_some_and(|deployments| !deployments.is_empty()) {
        true => Err("the deployment is not over".into()),
        false => Ok(()),
    }
}

/// What Marathon showed of an app, as it takes it: without what it only tells, and without older spellings beside newer
/// ones, which it shows both and takes one of.
fn definition(shown: &Value) -> Value {
    let Value::Object(fields) = shown else { return shown.clone() };
    let kept = fields.iter().filter(|(key, value)| !value.is_null() && !TOLD.contains(&key.as_str()));
    let mut kept: Map<String, Value> = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
    let has = |fields: &Map<String, Value>, key: &str| {
        fields.get(key).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
    };
    let container = kept.get("container").cloned().unwrap_or_default();
    let mapped = ["/portMappings", "/docker/portMappings"].iter().any(|at| container.pointer(at).is_some());
    if has(&kept, "fetch") {
        kept.remove("uris");
    }
    if mapped {
        kept.remove("ports");
        kept.remove("portDefinitions");
    } else if has(&kept, "portDefinitions") {
        kept.remove("ports");
    }
    Value::Object(kept)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_shown_is_taken_back() {
        let shown = json!({
            "id": "/chronos", "cmd": "chronos run_jar", "args": null, "instances": 3, "cpus": 0.1, "mem": 256,
            "container": { "type": "DOCKER", "docker": { "image": "chronos", "network": "BRIDGE",
                "portMappings": [{ "containerPort": 4400, "hostPort": 0, "servicePort": 10001 }] } },
            "constraints": [["hostname", "UNIQUE"]], "env": { "WEAVE_CIDR": "net:10.32.1.0/24" },
            "ports": [10001], "portDefinitions": [{ "port": 10001 }], "uris": ["http://a/b"], "fetch": [{ "uri": "http://a/b" }],
            "version": "2030-01-01T00:00:00.000Z", "versionInfo": {}, "tasks": [{}], "tasksRunning": 3, "tasksStaged": 0,
            "tasksHealthy": 3, "tasksUnhealthy": 0, "deployments": [], "lastTaskFailure": {},
        });
        let taken = definition(&shown);
        let keys: Vec<_> = taken.as_object().expect("an object").keys().cloned().collect();
        assert_eq!(
            keys,
            ["id", "cmd", "instances", "cpus", "mem", "container", "constraints", "env", "fetch"]
        );
        assert_eq!(taken["container"], shown["container"]);
        let bare =
            json!({ "id": "/a", "ports": [1], "portDefinitions": [{ "port": 1 }], "uris": [], "fetch": [] });
        assert_eq!(
            definition(&bare),
            json!({ "id": "/a", "portDefinitions": [{ "port": 1 }], "uris": [], "fetch": [] })
        );
    }

    #[test]
    fn an_app_is_ready_when_all_of_it_runs() {
        let app = |running: u64, healthy: u64, checks: Value, deployments: Value| {
            ready(&json!({ "instances": 3, "tasksRunning": running, "tasksHealthy": healthy,
                "healthChecks": checks, "deployments": deployments }))
        };
        assert_eq!(app(3, 3, json!([{}]), json!([])), Ok(()));
        assert_eq!(app(3, 0, json!(null), json!([])), Ok(()));
        assert_eq!(app(2, 2, json!([{}]), json!([])), Err("2 of 3 instances run".into()));
        assert_eq!(app(3, 2, json!([{}]), json!([])), Err("2 of 3 instances are healthy".into()));
        assert_eq!(app(3, 3, json!([{}]), json!([{}])), Err("the deployment is not over".into()));
    }
}
