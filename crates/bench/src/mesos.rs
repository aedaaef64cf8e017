//! Short tasks end to end on a real cluster of Mesos, one master and one agent: from the request that starts each run to
//! the durable end of the last. Beside it a framework that does nothing but launch the same tasks on the same cluster.

use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::Bench;
use super::population::Place;
use super::serving::Server;
use super::table::{Line, Target};

/// Tasks of one measurement: some ten seconds of them.
const TASKS: usize = 500;
/// What each asks for: forty fit at once, so that nobody waits for room.
const CPUS: f64 = 0.1;
const MEM: f64 = 32.0;
const COMMAND: &str = "true";
/// Nothing here takes longer, or it has failed.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn rate(bench: &mut Bench) -> anyhow::Result<()> {
    let dir = bench.folder("mesos")?;
    let Some(keeper) = bench.keeper("mesos-local", &dir) else { return Ok(()) };
    let master = keeper.at.split_whitespace().next().context("it says where the master is")?.to_owned();
    let bounded = |what| tokio::time::timeout(PATIENCE, what);
    // Before and after, because a busy machine changes its mind.
    let before = bounded(bare(&master)).await.context("the bare framework does not come to an end")??;
    let ours = ours(bench, &master, &dir).await?;
    let after = bounded(bare(&master)).await.context("the bare framework does not come to an end")??;
    let bare = f64::midpoint(before, after);
    let what = format!("Mesos: {TASKS} short tasks end to end, asked for one by one");
    bench.tell(Line::new(what, ours, "tasks/s", Target::None).beside("a bare framework, tasks/s", bare));
    for (when, rate) in [("before", before), ("after", after)] {
        let what = format!("Mesos: a bare framework that only launches, {when}");
        bench.tell(Line::new(what, rate, "tasks/s", Target::None));
    }
    Ok(())
}

/// By the product: a second, from the first request to start a run until none is open.
async fn ours(bench: &Bench, master: &str, dir: &std::path::Path) -> anyhow::Result<f64> {
    let dir = dir.join("server");
    let place = Place::Folder(dir.clone());
    let server = Server::start_with(&bench.program, &place, &dir, &["--master", master])?;
    server.leads().await?;
    let job = json!({
        "name": "short", "schedule": "R1/2099-01-01T00:00:00Z/P1D", "command": COMMAND, "concurrent": true,
        "cpus": CPUS, "mem": MEM, "disk": 16,
    });
    server.post("/v1/scheduler/iso8601", job.to_string()).await?;
    // One run first, so that the framework is known and has had offers.
    server.start_runs("short", 1).await?;
    server.no_run_is_open(PATIENCE).await?;
    let begun = Instant::now();
    server.start_runs("short", TASKS).await?;
    server.no_run_is_open(PATIENCE).await?;
    let time = begun.elapsed();
    let ended = server.json("/v1/runs?job=short&outcome=succeeded&limit=1000").await?;
    let succeeded = ended["runs"].as_array().map_or(0, Vec::len);
    anyhow::ensure!(succeeded == TASKS + 1, "{succeeded} of {} runs have succeeded", TASKS + 1);
    Ok(TASKS as f64 / time.as_secs_f64())
}

/// By a framework that launches whatever fits as soon as it is offered, keeps nothing, and acknowledges at once.
async fn bare(master: &str) -> anyhow::Result<f64> {
    let mut framework = Bare::subscribe(master).await?;
    let (mut launched, mut ended) = (0, 0);
    let begun = Instant::now();
    while ended < TASKS {
        let event = framework.next().await?;
        match event["type"].as_str() {
            Some("OFFERS") => {
                for offer in event["offers"]["offers"].as_array().into_iter().flatten() {
                    let tasks = framework.fill(offer, &mut launched);
                    let accept = json!({
                        "offer_ids": [offer["id"]], "filters": {"refuse_seconds": 0.0},
                        "operations": [{"type": "LAUNCH", "launch": {"task_infos": tasks}}],
                    });
                    framework.call("ACCEPT", "accept", accept).await?;
                }
            }
            Some("UPDATE") => {
                let status = &event["update"]["status"];
                if status["uuid"].is_string() {
                    let told = json!({
                        "agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"],
                    });
                    framework.call("ACKNOWLEDGE", "acknowledge", told).await?;
                }
                match status["state"].as_str().unwrap_or_default() {
                    "TASK_STAGING" | "TASK_STARTING" | "TASK_RUNNING" => {}
                    "TASK_FINISHED" => ended += 1,
                    _ => anyhow::bail!("a task has not succeeded: {status}"),
                }
            }
            Some("ERROR") => anyhow::bail!("the master says {event}"),
            _ => {}
        }
    }
    let time = begun.elapsed();
    framework.call("TEARDOWN", "teardown", json!({})).await?;
    Ok(TASKS as f64 / time.as_secs_f64())
}

struct Bare {
    http: Client,
    url: String,
    id: Value,
    stream: String,
    events: Response,
    /// What has come and was not read.
    read: Vec<u8>,
}

impl Bare {
    async fn subscribe(master: &str) -> anyhow::Result<Self> {
        let http = Client::builder().no_proxy().build()?;
        let url = format!("http://{master}/api/v1/scheduler");
        let info =
            json!({"name": "bare", "user": "root", "roles": ["*"], "capabilities": [{"type": "MULTI_ROLE"}]});
        let call = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}});
        let events = post(&http, &url, &call).send().await?.error_for_status()?;
        let stream = events.headers().get("mesos-stream-id").context("it is a master of Mesos")?;
        let stream = stream.to_str()?.to_owned();
        let mut this = Self { http, url, id: Value::Null, stream, events, read: Vec::new() };
        let subscribed = this.next().await?;
        this.id = subscribed["subscribed"]["framework_id"].clone();
        Ok(this)
    }

    /// The next event: its length as text, a newline, its JSON.
    async fn next(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let length: usize = std::str::from_utf8(&self.read[..end])?.trim().parse()?;
                if self.read.len() > end + length {
                    let event = serde_json::from_slice(&self.read[end + 1..=end + length])?;
                    self.read.drain(..=end + length);
                    return Ok(event);
                }
            }
            let more = self.events.chunk().await?.context("the master has ended the connection")?;
            self.read.extend_from_slice(&more);
        }
    }

    async fn call(&self, kind: &str, name: &str, body: Value) -> anyhow::Result<()> {
        let call = json!({"framework_id": self.id, "type": kind, name: body});
        let request = post(&self.http, &self.url, &call).header("Mesos-Stream-Id", &self.stream);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// As many of the tasks that were not launched yet as an offer has room for.
    fn fill(&self, offer: &Value, launched: &mut usize) -> Vec<Value> {
        let amount = |name: &str| {
            let all = offer["resources"].as_array().into_iter().flatten();
            all.filter(|resource| resource["name"] == name)
                .filter_map(|resource| resource["scalar"]["value"].as_f64())
                .sum::<f64>()
        };
        let room = (amount("cpus") / CPUS + 1e-6).min(amount("mem") / MEM);
        let mut tasks = Vec::new();
        while (tasks.len() + 1) as f64 <= room && *launched < TASKS {
            *launched += 1;
            let scalar = |name: &str, value: f64| json!({"name": name, "type": "SCALAR", "scalar": {"value": value}, "allocation_info": {"role": "*"}});
            tasks.push(json!({
                "name": "bare", "task_id": {"value": format!("bare-{launched}")}, "agent_id": offer["agent_id"],
                "resources": [scalar("cpus", CPUS), scalar("mem", MEM)],
                "command": {"shell": true, "value": COMMAND},
            }));
        }
        tasks
    }
}

fn post(http: &Client, url: &str, call: &Value) -> reqwest::RequestBuilder {
    let request =
        http.post(url).header("content-type", "application/json").header("accept", "application/json");
    request.body(call.to_string())
}
