//! Whether the leader wants the same name and password as this node: what clients send here is judged here first, and there
//! once more where it is handed on.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, StatusCode};

use super::TO;
use super::address::Address;
use crate::config::Credentials;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Wants a login where one is wanted at all, changes nothing, and is answered by the node that is asked.
const ASKED: &str = "/health";
const ADVICE: &str = "set the same --http_credentials on all nodes";

/// How a leader takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Yes,
    No,
}

/// What is wrong between this process, found at this address, and `ours`, if anything is; `Err` where it has not told, and
/// is asked again.
pub(super) async fn compare(
    http: &Client,
    at: &Address,
    instance: &str,
    ours: Option<&Credentials>,
) -> Result<Option<String>, ()> {
    let question = || http.get(format!("{}{ASKED}", at.base())).header(TO, instance).timeout(ANSWER_MAX);
    let bare = taken(question()).await?;
    let wrong = match (bare, ours) {
        (Taken::Yes, None) => None,
        (Taken::Yes, Some(_)) => Some("it wants none, and this node wants one"),
        (Taken::No, None) => Some("it wants one, and this node none"),
        (Taken::No, Some(Credentials { user, both })) => {
            let password = both.0.split_once(':').map(|(_, password)| password);
            match taken(question().basic_auth(user, password)).await? {
                Taken::Yes => None,
                Taken::No => Some("it refuses that of this node"),
            }
        }
    };
    Ok(wrong.map(|wrong| {
        format!("the leader, node {instance}, wants another name and password: {wrong}; {ADVICE}")
    }))
}

async fn taken(question: RequestBuilder) -> Result<Taken, ()> {
    match question.send().await.map_err(drop)?.status() {
        StatusCode::OK => Ok(Taken::Yes),
        StatusCode::UNAUTHORIZED => Ok(Taken::No),
        _ => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;
    use crate::notify::settings::Secret;

    /// A leader that wants this header, if any.
    async fn leader(wants: Option<&'static str>) -> Address {
        let health = move |headers: HeaderMap| async move {
            let given = headers.get("authorization").and_then(|value| value.to_str().ok());
            if wants.is_none() || given == wants { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address").to_string().parse().expect("an address");
        tokio::spawn(axum::serve(listener, Router::new().route(ASKED, get(health))).into_future());
        at
    }

    #[tokio::test]
    async fn another_login_than_that_of_the_leader_is_told() {
        let http =
            Client::builder().tls_backend_preconfigured(crate::tls::unused()).build().expect("a client");
        let ops = Credentials { user: "ops".into(), both: Secret("ops:secret".into()) };
        let check = async |wants, ours: Option<&Credentials>, says: &str| {
            let told = compare(&http, &leader(wants).await, "n.1", ours).await.expect("it answers");
            let fits = told.as_ref().map_or(says.is_empty(), |told| !says.is_empty() && told.contains(says));
            assert!(fits, "{told:?}");
            assert!(told.is_none_or(|told| told.ends_with(ADVICE) && !told.contains("secret")));
        };
        check(None, None, "").await;
        check(Some("Basic b3BzOnNlY3JldA=="), Some(&ops), "").await;
        check(Some("Basic b3BzOm90aGVy"), Some(&ops), "refuses that of this node").await;
        check(Some("Basic b3BzOnNlY3JldA=="), None, "this node none").await;
        check(None, Some(&ops), "this node wants one").await;
        let nobody = "127.0.0.1:1".parse().expect("an address");
        assert_eq!(compare(&http, &nobody, "n.1", None).await, Err(()));
    }
}
