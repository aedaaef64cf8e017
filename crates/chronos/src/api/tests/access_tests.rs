//! Who may ask, and what browsers are told.

use base64::Engine as _;

use super::*;
use crate::config::{AccessSettings, Credentials};

const USER: &str = "ops:hun:ter2";

impl Server {
    /// A node that wants a password.
    pub(super) async fn guarded(origins: &[&str]) -> Self {
        Self::guarded_on(MemoryStore::new(MemoryCore::new(7)), origins).await
    }

    pub(super) async fn guarded_on(store: MemoryStore, origins: &[&str]) -> Self {
        let settings = AccessSettings {
            credentials: Credentials::parse(USER),
            realm: "Mesosphere".into(),
            allow_unauthenticated: false,
            origins: origins.iter().map(|&origin| origin.into()).collect(),
        };
        let access = access::Access::new(&settings).expect("random numbers");
        let server = Self::behind(access, store, succeed);
        server.until(|node| matches!(node.status().role, Role::Leading(_))).await;
        server
    }

    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> Answered {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.send(request.body(body).expect("a request")).await
    }
}

pub(super) fn login(both: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both))
}

#[tokio::test]
async fn everything_but_ping_wants_the_password() {
    let server = Server::guarded(&[]).await;
    let get = |path: &'static str, headers: Vec<(&'static str, String)>| {
        let server = &server;
        async move {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            server.ask(Method::GET, path, &headers, Value::Null).await
        }
    };
    for path in [
        "/v1/jobs",
        "/",
        "/metrics",
        "/openapi.json",
        "/health",
        "/ready",
        "/scheduler/jobs",
        "/no-such",
        "/ping/",
    ] {
        let refused = get(path, vec![]).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(refused.header("www-authenticate"), "Basic realm=\"Mesosphere\", charset=\"UTF-8\"");
        assert_eq!(refused.json()["code"], "unauthorized");
    }
    assert_eq!(get("/ping", vec![]).await.status, StatusCode::OK);
    let with = |both: &str| vec![("authorization", login(both))];
    assert_eq!(get("/v1/jobs", with(USER)).await.status, StatusCode::OK);
    for wrong in ["ops:hun:ter", "ops:hun:ter22", "ops", "", "root:hun:ter2", "ops:hun"] {
        assert_eq!(get("/v1/jobs", with(wrong)).await.status, StatusCode::UNAUTHORIZED, "{wrong}");
    }
    for odd in ["Bearer x", "Basic ~", "Basic"] {
        assert_eq!(
            get("/v1/jobs", vec![("authorization", odd.into())]).await.status,
            StatusCode::UNAUTHORIZED,
            "{odd}"
        );
    }
    let job = json!({"name": "a", "command": "x", "schedule": FAR});
    let post = [("content-type", "application/json")];
    let refused = server.ask(Method::POST, "/v1/scheduler/iso8601", &post, job).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(server.node.projection.read().state().jobs.is_empty(), "nothing was changed");
}

#[tokio::test]
async fn whoever_guesses_is_slowed() {
    let server = Server::guarded(&[]).await;
    let ask = |both: String| {
        let server = &server;
        async move { server.ask(Method::GET, "/v1/jobs", &[("authorization", &login(&both))], Value::Null).await }
    };
    let begun = std::time::Instant::now();
    let guesses = futures_util::future::join_all((0..40).map(|n| ask(format!("ops:wrong{n}")))).await;
    let told = |status| guesses.iter().filter(|answer| answer.status == status).count();
    assert_eq!(told(StatusCode::UNAUTHORIZED) + told(StatusCode::TOO_MANY_REQUESTS), 40);
    // Some at once, and then one in a second: more only where the machine let that much time pass between two of them.
    let answered = told(StatusCode::UNAUTHORIZED);
    assert!(answered as u64 <= 12 + begun.elapsed().as_secs(), "{answered} were answered");
    let refused = guesses.iter().find(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS).expect("one");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|wait| wait <= 10));
    // The waits of those that were answered are over, so whoever knows the password waits no more than they did.
    let mut right = ask(USER.into()).await;
    for _ in 0..120 {
        if right.status == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        right = ask(USER.into()).await;
    }
    assert_eq!(right.status, StatusCode::OK);
}

#[tokio::test]
async fn pages_of_named_origins_may_ask_and_no_others() {
    let server = Server::guarded(&["https://ops.example.org"]).await;
    let origin = ("origin", "https://ops.example.org");
    let preflight = |origin: (&'static str, &'static str)| {
        let headers = [origin, ("access-control-request-method", "PUT")];
        let server = &server;
        async move { server.ask(Method::OPTIONS, "/v1/jobs/a", &headers, Value::Null).await }
    };
    let allowed = preflight(origin).await;
    assert_eq!(allowed.status, StatusCode::NO_CONTENT);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://ops.example.org");
    assert_eq!(allowed.header("access-control-allow-credentials"), "true");
    assert!(allowed.header("access-control-allow-methods").contains("PUT"));
    let exposed: Vec<_> = allowed.header("access-control-expose-headers").split(", ").collect();
    for header in [
        "x-total-count",
        "x-chronos-warnings",
        "x-chronos-run",
        "x-chronos-stale",
        "x-chronos-age-ms",
        "location",
    ] {
        assert!(exposed.contains(&header), "{header} is not among {exposed:?}");
    }
    assert_eq!(allowed.header("vary"), "Origin");
    let other = preflight(("origin", "https://evil.example.org")).await;
    assert_eq!((other.status, other.header("access-control-allow-origin")), (StatusCode::UNAUTHORIZED, ""));
    // A refusal can be read by the page as well.
    let refused = server.ask(Method::GET, "/v1/jobs", &[origin], Value::Null).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refused.header("access-control-allow-origin"), "https://ops.example.org");
    let change = |origin: (&'static str, &'static str)| {
        let server = &server;
        async move {
            let login = login(USER);
            let headers = [
                origin,
                ("sec-fetch-site", "cross-site"),
                ("content-type", "application/json"),
                ("authorization", &login),
            ];
            server
                .ask(
                    Method::POST,
                    "/v1/scheduler/iso8601",
                    &headers,
                    json!({"name": "a", "command": "x", "schedule": FAR}),
                )
                .await
        }
    };
    assert_eq!(change(("origin", "https://evil.example.org")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(change(origin).await.status, StatusCode::NO_CONTENT);

    let open = Server::guarded(&["*"]).await;
    let any = open.ask(Method::GET, "/ping", &[("origin", "https://x")], Value::Null).await;
    assert_eq!(any.header("access-control-allow-origin"), "*");
    assert_eq!(any.header("access-control-allow-credentials"), "", "never beside `*`");
    let none = Server::start(succeed).await;
    let none = none.ask(Method::GET, "/ping", &[origin], Value::Null).await;
    assert_eq!((none.header("access-control-allow-origin"), none.header("vary")), ("", ""));
}

#[tokio::test]
async fn every_answer_says_what_browsers_may_not_do_with_it() {
    let server = Server::guarded(&[]).await;
    for path in ["/ping", "/v1/jobs"] {
        let answer = server.get(path).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ] {
            assert_eq!(answer.header(name), value, "{path}: {name}");
        }
        assert!(answer.header("cache-control").contains("no-store"), "{path}");
    }
    let page = server.ask(Method::GET, "/", &[("authorization", &login(USER))], Value::Null).await;
    assert!(
        page.header("content-security-policy").contains("nonce-"),
        "{}",
        page.header("content-security-policy")
    );
}

#[tokio::test]
async fn a_request_has_a_name() {
    let server = Server::start(succeed).await;
    let named = server.ask(Method::GET, "/ping", &[("x-request-id", "r-17")], Value::Null).await;
    assert_eq!(named.header("x-request-id"), "r-17");
    let long = "x".repeat(65);
    for odd in ["a b", long.as_str()] {
        let answer = server.ask(Method::GET, "/ping", &[("x-request-id", odd)], Value::Null).await;
        assert_eq!(answer.header("x-request-id").len(), 16, "one of ours instead of {odd}");
    }
}
