//! Finds the address at which a certain process answers.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use reqwest::Client;
use store::Candidate;

use super::NODE;
use super::address::Address;

/// An address that does not take a connection in this time is passed by: nodes of a cluster are near each other.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Longest wait for a connection and its answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Addresses that are tried; whoever publishes more has made a mistake.
const ADDRESSES_MAX: usize = 16;

/// The address at which this process answers: the one where it did last, if it still does, else the first that does so,
/// those of HTTPS before the others. `passwords` says whether some go along.
/// # Errors
/// What came of each address.
pub(super) async fn reach(
    http: &Client,
    node: &Candidate,
    last: Option<&Address>,
    passwords: bool,
) -> Result<Address, String> {
    let wanted = node.instance();
    if let Some(last) = last
        && ask(http, last, &wanted).await.is_ok()
    {
        return Ok(last.clone());
    }
    if node.addresses.is_empty() {
        return Err("it publishes no address; give it one with --hostname or --advertise_address".into());
    }
    let parsed = node.addresses.iter().take(ADDRESSES_MAX).map(|text| text.parse::<Address>());
    let (addresses, problems): (Vec<_>, Vec<_>) = parsed.partition(Result::is_ok);
    let mut problems: Vec<String> = problems.into_iter().filter_map(Result::err).collect();
    let (tls, plain): (Vec<_>, Vec<_>) = addresses.into_iter().flatten().partition(Address::is_tls);
    // Where HTTPS is spoken, passwords do not go another way because it fails.
    let plain = if passwords && !tls.is_empty() { Vec::new() } else { plain };
    for addresses in [tls, plain] {
        let mut tries: FuturesUnordered<_> = addresses
            .into_iter()
            .map(async |address| {
                ask(http, &address, &wanted).await.map_err(|why| format!("{address}: {why}"))?;
                Ok::<_, String>(address)
            })
            .collect();
        while let Some(tried) = tries.next().await {
            match tried {
                Ok(address) => return Ok(address),
                Err(why) => problems.push(why),
            }
        }
    }
    problems.sort_unstable();
    Err(problems.join("; "))
}

/// An address at which any process of this node answers: it may have begun anew since it published them.
pub(super) async fn find(http: &Client, node: &Candidate) -> Option<Address> {
    let addresses = node.addresses.iter().take(ADDRESSES_MAX).filter_map(|text| text.parse::<Address>().ok());
    let mut tries: FuturesUnordered<_> = addresses
        .map(async |address| {
            let process = who(http, &address).await.ok()?;
            process.rsplit_once('.').is_some_and(|(id, _)| id == node.node).then_some(address)
        })
        .collect();
    while let Some(tried) = tries.next().await {
        if tried.is_some() {
            return tried;
        }
    }
    None
}

/// Whether this process answers there.
async fn ask(http: &Client, address: &Address, wanted: &str) -> Result<(), String> {
    match who(http, address).await? {
        node if node == wanted => Ok(()),
        other => Err(format!("another node answers, {other}")),
    }
}

/// Which process answers there. No name and no password is sent to who is not known.
async fn who(http: &Client, address: &Address) -> Result<String, String> {
    let asked = http.get(format!("{}/ping", address.base())).timeout(ANSWER_MAX).send().await;
    let answer = asked.map_err(|problem| cause(&problem))?;
    let node = answer.headers().get(NODE).and_then(|node| node.to_str().ok());
    node.map(Into::into).ok_or_else(|| "something else answers there, not a node of Chronos".into())
}

/// The innermost reason, which is the one that says something.
fn cause(problem: &reqwest::Error) -> String {
    if problem.is_timeout() {
        return format!(
            "no answer within {} s",
            if problem.is_connect() { CONNECT_MAX } else { ANSWER_MAX }.as_secs()
        );
    }
    let chain = std::iter::successors(Some(problem as &dyn std::error::Error), |error| error.source());
    chain.last().map_or_else(String::new, ToString::to_string)
}
