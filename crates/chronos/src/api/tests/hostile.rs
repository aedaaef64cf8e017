//! Input that nobody meant: every operation of the document gets names, queries and bodies that are odd, huge, torn or
//! almost right. Whatever comes, the answer is no defect of ours, it says what is wrong, and the server goes on.
//!
//! `CHRONOS_HOSTILE_CASES` requests (3,000), of a fixed seed; `CHRONOS_HOSTILE_SEED` takes another.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Map;

use super::*;

/// Streams that end when their reader goes.
const ENDLESS: [&str; 2] = ["/v1/events", "/v1/runs/{key}/output"];

/// Fragments of what is right, so that much of it gets past the first check.
const WORDS: &[&str] = &[
    "",
    "a",
    "report",
    "../../etc/passwd",
    "null",
    "-1",
    "0",
    "9223372036854775807",
    "1e999",
    "NaN",
    "true",
    "R/2030-01-01T00:00:00Z/PT1H",
    "R0//PT0S",
    "R99999999999999999999/2030-01-01T00:00:00Z/P1Y",
    "R/9999-12-31T23:59:59Z/P9999Y",
    "R//P-1D",
    "R/2024-W52-1T10/PT1,5S",
    "* * * * *",
    "H H(0-99) 31 2 *",
    "*/0 0 0 0 0",
    "@reboot",
    "Europe/Berlin",
    "PST",
    "GMT+25:99",
    "name,-next",
    "\u{0}",
    "\u{202e}\u{fffd}",
    "%",
    "%00%ff",
    "<script>",
    "'; DROP TABLE jobs; --",
    "2030-01-01T00:00:00Z",
    "2030-02-30",
    "*",
    "W/\"x\"",
    "follow",
    "\u{1f9e8}",
];

/// Fields of jobs, sets, backfills and all that is posted.
const KEYS: &[&str] = &[
    "name",
    "command",
    "schedule",
    "scheduleTimeZone",
    "parents",
    "disabled",
    "retries",
    "cpus",
    "mem",
    "disk",
    "owner",
    "labels",
    "alerts",
    "catchUp",
    "overlap",
    "maxConcurrent",
    "retryDelay",
    "retryBackoff",
    "jitter",
    "epsilon",
    "lostAfter",
    "dstPolicy",
    "guarantee",
    "environmentVariables",
    "value",
    "valueFrom",
    "file",
    "env",
    "arguments",
    "fetch",
    "uris",
    "uri",
    "container",
    "image",
    "volumes",
    "constraints",
    "runAsUser",
    "maxCompletionTime",
    "jobs",
    "dryRun",
    "from",
    "to",
    "order",
    "rate",
    "parallel",
    "children",
    "reason",
    "until",
    "version",
    "statusCode",
    "numAdditionalElementsProcessed",
    "channel",
];

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(WORDS).prop_map(String::from),
        2 => ".{0,24}",
        1 => prop::sample::select(WORDS).prop_flat_map(|word| (1_usize..4000).prop_map(move |n| word.repeat(n))),
        1 => (prop::sample::select(WORDS), prop::sample::select(WORDS)).prop_map(|(a, b)| format!("{a}/{b}")),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let key = prop::sample::select(KEYS);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6).prop_map(|fields| {
                fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>().into()
            }),
        ]
    })
}

/// A definition that is right but for some fields.
fn any_job() -> impl Strategy<Value = Value> {
    prop::collection::vec((prop::sample::select(KEYS), any_value()), 0..4).prop_map(|odd| {
        let mut job = json!({"name": "a", "command": "true", "schedule": FAR});
        odd.into_iter().for_each(|(key, value)| job[key] = value);
        job
    })
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let written = prop_oneof![
        any_job(),
        prop::collection::vec(any_job(), 0..3).prop_map(|jobs| json!({"jobs": jobs})),
        any_value(),
    ];
    let bytes = written.prop_map(|value| value.to_string().into_bytes());
    (bytes, 0..10_u8, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, fate, at, byte)| {
        let at = at.index(bytes.len().max(1)).min(bytes.len());
        match fate {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, byte),
            2 => bytes.iter_mut().skip(at).take(1).for_each(|present| *present = byte),
            3 => bytes = b"[".repeat(at * 50),
            _ => {}
        }
        bytes
    })
}

/// What stands in a path or a query for any text.
fn encoded(text: &str) -> String {
    text.bytes()
        .take(2000)
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Every operation of the document, with its parameters of the query.
fn operations() -> Vec<(Method, String, Vec<String>)> {
    let document: Value = serde_json::from_str(include_str!("../../../../../openapi.json")).expect("JSON");
    let mut found = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else { continue };
            if ENDLESS.contains(&path.as_str()) || !operation["responses"].is_object() {
                continue;
            }
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let of_query = parameters.filter(|parameter| parameter["in"] == "query");
            let names = of_query.filter_map(|parameter| parameter["name"].as_str().map(String::from));
            found.push((method, path.clone(), names.collect::<Vec<_>>()));
        }
    }
    assert!(found.len() > 40, "{found:?}");
    assert!(found.iter().any(|(_, path, names)| path == "/v1/runs" && names.contains(&"outcome".into())));
    found
}

fn runner() -> TestRunner {
    match std::env::var("CHRONOS_HOSTILE_SEED").ok().and_then(|seed| seed.parse::<u64>().ok()) {
        None => TestRunner::deterministic(),
        Some(seed) => {
            let bytes: Vec<u8> = seed.to_le_bytes().into_iter().cycle().take(32).collect();
            let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
            TestRunner::new_with_rng(Config::default(), rng)
        }
    }
}

fn one<S: Strategy>(runner: &mut TestRunner, strategy: S) -> S::Value {
    strategy.new_tree(runner).expect("it has values").current()
}

#[tokio::test]
async fn whatever_is_asked_is_answered() {
    let cases = std::env::var("CHRONOS_HOSTILE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3000);
    let server = Server::start(succeed).await;
    server.create(json!({"name": "report", "command": "true", "schedule": FAR})).await;
    let (mut runner, operations) = (runner(), operations());
    let mut refused = 0;
    for _ in 0..cases {
        let (method, path, parameters) = one(&mut runner, prop::sample::select(operations.clone()));
        let mut uri = String::new();
        for piece in path.split('/').skip(1) {
            let named =
                if piece.starts_with('{') { encoded(&one(&mut runner, any_text())) } else { piece.into() };
            uri.push('/');
            uri.push_str(&named);
        }
        let count = one(&mut runner, 0..3_usize).min(parameters.len());
        let asked = one(&mut runner, prop::sample::subsequence(parameters, count));
        for (n, name) in asked.iter().enumerate() {
            let value = encoded(&one(&mut runner, any_text()));
            uri.push_str(&format!("{}{name}={value}", if n == 0 { '?' } else { '&' }));
        }
        let body = if method == Method::GET { Vec::new() } else { one(&mut runner, any_body()) };
        let shown = String::from_utf8_lossy(&body[..body.len().min(2000)]).into_owned();
        let request = Request::builder().method(method.clone()).uri(&uri).header("host", "localhost");
        let request = request.header("content-type", "application/json").body(Body::from(body));
        let Ok(request) = request else { continue };
        let answer = server.send(request).await;
        let told = || format!("{method} {uri}\n{shown}\n-> {} {}", answer.status, answer.text);
        assert!(!answer.status.is_server_error(), "{}", told());
        if answer.status.is_client_error() {
            refused += 1;
            let said: Value = serde_json::from_str(&answer.text).unwrap_or_default();
            assert!(said["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", told());
        }
    }
    assert!(refused > cases / 10, "hostile input is refused: {refused} of {cases}");
    let still = server.get("/v1/scheduler/jobs").await;
    assert_eq!(still.status, StatusCode::OK, "{}", still.text);
    assert!(matches!(server.node.status().role, Role::Leading(_)), "{:?}", server.node.status());
}
