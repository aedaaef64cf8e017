//! Whole requests to a node that leads: method and path with its query on the first line, the body after it. Whatever
//! comes, the answer is no defect of ours, and every refusal says why.

#![no_main]

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use chronos::api::{ApiContext, Settings, router};
use chronos::cluster::Cluster;
use chronos::node::{self, Node, NodeOptions, NodeTask, Role};
use engine::fake::{Behaviour, FakeMachine};
use libfuzzer_sys::fuzz_target;
use metrics_exporter_prometheus::PrometheusBuilder;
use scheduler::limits::Limits;
use scheduler::run::AttemptEnd;
use store::memory::{MemoryCore, MemoryStore};
use store::{Candidate, Retention};
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// After so many requests a new server takes the place of the old one, which has collected jobs.
const REQUESTS: u32 = 20_000;

struct Server {
    runtime: Runtime,
    node: Node,
    app: Router,
    requests: u32,
    _task: NodeTask,
}

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

impl Server {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (node, task, app) = runtime.block_on(async {
            let machine = FakeMachine::new();
            machine.script(|_| Behaviour::End(AttemptEnd::Succeeded));
            let identity = Candidate {
                node: "here".into(),
                addresses: vec!["here:4400".into()],
                pid: 1,
                version: "0".into(),
            };
            let (node, task) = node::start(NodeOptions {
                identity,
                store: Arc::new(MemoryStore::new(MemoryCore::new(7))),
                acquaintance: node::Acquaintance::default(),
                heritage: None,
                engine: Arc::new(machine.engine()),
                zones: scheduler::schedule::Zones::bundled(),
                retention: Retention {
                    age_max: Duration::from_secs(60),
                    count_max: 10,
                    ..Retention::UNBOUNDED
                },
                output: engine::Keep::EVERYTHING,
                kill_grace: Duration::from_secs(1),
                disable_after_failures: 0,
                retry_delay: scheduler::job::Retry::DELAY,
                limits: Limits::default(),
                notifier: Arc::default(),
            });
            while !matches!(node.status().role, Role::Leading(_)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let cluster = Cluster::alone(&node).expect("a client");
            let metrics = PrometheusBuilder::new().build_recorder().handle();
            let settings = Arc::new(Settings::default());
            let app = router(ApiContext {
                node: node.clone(),
                cluster,
                metrics,
                settings,
                turns: Default::default(),
            });
            (node, task, app)
        });
        Self { runtime, node, app, requests: 0, _task: task }
    }

    fn ask(&mut self, request: Request<Body>, shown: &str) {
        self.requests += 1;
        let (app, node) = (&self.app, &self.node);
        self.runtime.block_on(async {
            let answer = app.clone().oneshot(request).await.expect("infallible");
            let status = answer.status();
            assert!(!status.is_server_error(), "{shown} -> {status}");
            if status.is_client_error() {
                let body = to_bytes(answer.into_body(), 1 << 24).await.expect("a body");
                let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                let message = said["message"].as_str().unwrap_or_default();
                assert!(!message.is_empty() || shown.starts_with("HEAD"), "{shown} -> {status}");
            }
            assert!(matches!(node.status().role, Role::Leading(_)), "{shown}: {:?}", node.status());
        });
    }
}

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, body) = data.split_at(at);
    let Ok(line) = std::str::from_utf8(line) else { return };
    let Some((method, uri)) = line.split_once(' ') else { return };
    // Streams that end when their reader goes.
    if uri.starts_with("/v1/events") || uri.contains("/output") {
        return;
    }
    let request = Request::builder().method(method).uri(uri).header("host", "localhost");
    let request = request.header("content-type", "application/json");
    let Ok(request) = request.body(Body::from(body.get(1..).unwrap_or_default().to_vec())) else { return };
    SERVER.with_borrow_mut(|server| {
        if server.as_ref().is_none_or(|server| server.requests >= REQUESTS) {
            *server = Some(Server::start());
        }
        if let Some(server) = server {
            server.ask(request, line);
        }
    });
});
