//! Jobs for a first start.

use std::net::SocketAddr;
use std::path::PathBuf;

use tracing::{error, info};

use crate::cli::apply;
use crate::cli::client::Client;
use crate::cli::netrc::Login;
use crate::cli::progress::Show;
use crate::config::Credentials;
use crate::node::{Node, Role};
use crate::notify::settings::Secret;

/// Once this node leads, and only if there are no jobs. Failures are told; the server goes on without.
pub(super) async fn apply_examples(
    node: Node,
    address: SocketAddr,
    login: Option<Credentials>,
    folder: PathBuf,
) {
    let mut status = node.watch_status();
    if status.wait_for(|status| matches!(status.role, Role::Leading(_))).await.is_err() {
        return;
    }
    if !node.projection.read().state().jobs.is_empty() {
        return;
    }
    let reachable = if address.ip().is_unspecified() {
        SocketAddr::new([127, 0, 0, 1].into(), address.port())
    } else {
        address
    };
    let login = login.map(|Credentials { user, both }| {
        let password = Secret(both.0.split_once(':').map_or("", |(_, password)| password).to_owned());
        Login { user, password }
    });
    let Ok(client) = Client::with_login(&format!("http://{reachable}"), login) else { return };
    let mut tell = |news: apply::News<'_>| {
        match news {
            apply::News::Refused(failure) => {
                error!(problem = failure.to_text().trim_end(), "cannot apply an example")
            }
            apply::News::Applied { job, word, .. } => info!(job, "{word} an example"),
        }
        Ok(())
    };
    if let Err(failure) =
        apply::apply_all(&client, &[folder], apply::Otherwise::OneByOne, Show::Nothing, &mut tell).await
    {
        error!(problem = failure.to_text().trim_end(), "cannot apply the examples");
    }
}
