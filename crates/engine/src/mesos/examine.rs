//! What stands between us and tasks on the cluster, leg by leg, for `chronos doctor`.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::timeout;

use super::{Shared, connection};
use crate::{Finding, Grade, since_boot};

/// For the answer of a master, or of whoever is at the address that it shows for us.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Longest answer that is read: one framework with its tasks, and those that it had.
const ANSWER_MAX: usize = 16 << 20;

/// What a master says of frameworks.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Frameworks {
    frameworks: Vec<Framework>,
    completed_frameworks: Vec<Framework>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Framework {
    id: String,
    name: String,
    active: bool,
}

fn found(leg: &'static str, grade: Grade, what: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { leg, grade, what: what.into(), advice: advice.into() }
}

/// See the module.
pub(super) async fn examine(shared: &Shared) -> Vec<Finding> {
    let (subscribed, not_ready, heard, supply) = {
        let state = shared.state();
        (state.subscribed.clone(), state.not_ready.clone(), state.heard, state.table.supply())
    };
    let masters = &shared.options.masters;
    let Some((master, id)) = subscribed else {
        let advice = "see --master, and whether a master answers there from this machine; nothing begins until one listens";
        return vec![found("master", Grade::Wrong, not_ready, advice)];
    };
    let ago = |at: Duration| since_boot().saturating_sub(at).as_secs();
    let heard = heard.map(|at| format!(", heard {} s ago", ago(at))).unwrap_or_default();
    let leads = format!("the master at {master} leads ({} {masters}){heard}", masters.how());
    let mut findings = vec![found("master", Grade::Good, leads, "")];
    findings.push(framework(shared, &master, &id).await);
    let waiting = match supply.waiting {
        0 => "nothing waits for more".to_owned(),
        count => format!("{count} tasks wait for more, `chronos why JOB` says for what"),
    };
    findings.push(match supply.seen {
        Some(at) => {
            let what = format!("offers of {} agent(s) have come, the last {} s ago; {waiting}", supply.agents, ago(at));
            found("offers", Grade::Good, what, "")
        }
        None => {
            let what = format!("no agent has made an offer to role `{}` yet; {waiting}", shared.options.role);
            let advice = "see that the master has agents with something free, and that quota, weights and reservations leave \
                          this role of --mesos_role some of it";
            found("offers", Grade::Look, what, advice)
        }
    });
    findings.push(webui(shared).await);
    findings
}

/// Whether the master shows us, under our id and our name.
async fn framework(shared: &Shared, master: &str, id: &str) -> Finding {
    let leg = "framework";
    let name = &shared.options.name;
    let listed = match frameworks(shared, master, id).await {
        Ok(listed) => listed,
        Err(why) => {
            let what = format!("it is subscribed as {id}, but the master does not show it: {why}");
            let advice = "where the master has --acls or --authenticate_http_readonly, let the principal of this server view \
                          frameworks; tasks run without that";
            return found(leg, Grade::Look, what, advice);
        }
    };
    let again = "restart this server; if it stays so, see the log of the master";
    if listed.completed_frameworks.iter().any(|one| one.id == id) {
        let what = format!("the master has ended {id}");
        return found(leg, Grade::Wrong, what, "wait a moment: it begins anew under another id");
    }
    match listed.frameworks.iter().find(|one| one.id == id) {
        None => found(leg, Grade::Wrong, format!("the master at {master} does not list {id}"), again),
        Some(one) if !one.active => found(
            leg,
            Grade::Wrong,
            format!("the master lists {id} as `{}`, but not as active", one.name),
            again,
        ),
        Some(one) if one.name != *name => {
            let what = format!("{id} is active there, but as `{}` and not as `{name}`", one.name);
            let advice =
                "masters keep the name that a framework first had; --mesos_framework_name can be set to it";
            found(leg, Grade::Look, what, advice)
        }
        Some(_) => found(leg, Grade::Good, format!("`{name}` is active there, as {id}"), ""),
    }
}

async fn frameworks(shared: &Shared, master: &str, id: &str) -> Result<Frameworks, String> {
    let request = shared.http.get(format!("{master}/master/frameworks?framework_id={id}"));
    let request = connection::logged_in(request, shared.options.login.as_ref());
    let asked = async {
        let mut response = request.send().await.map_err(|error| connection::described(&error))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(status.to_string());
        }
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| connection::described(&error))? {
            if body.len() + piece.len() > ANSWER_MAX {
                return Err("its answer is too long".into());
            }
            body.extend_from_slice(&piece);
        }
        serde_json::from_slice(&body).map_err(|error| format!("its answer makes no sense: {error}"))
    };
    timeout(ANSWER_WITHIN, asked).await.unwrap_or_else(|_| Err("it does not answer".into()))
}

/// Whether anybody answers at the address that the master shows for us.
async fn webui(shared: &Shared) -> Finding {
    let leg = "webui";
    let Some(url) = &shared.options.webui_url else {
        let advice = "--webui_url says where people find this server";
        return found(leg, Grade::Look, "the master shows no address of this server", advice);
    };
    let answer = timeout(ANSWER_WITHIN, shared.http.get(url).send()).await;
    let why = match answer {
        // Who asks for a password, or leads elsewhere, is there.
        Ok(Ok(response)) if !response.status().is_server_error() => {
            return found(leg, Grade::Good, format!("{url} answers, which the master shows as ours"), "");
        }
        Ok(Ok(response)) => response.status().to_string(),
        Ok(Err(error)) => connection::described(&error),
        Err(_) => "no answer".into(),
    };
    let advice = "whoever follows the link in the pages of Mesos comes to nothing: --webui_url, or --hostname, says where \
                  this server is found from outside";
    found(
        leg,
        Grade::Look,
        format!("the master shows {url} as ours, and nobody answers there: {why}"),
        advice,
    )
}
