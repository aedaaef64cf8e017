//! Which versions the servers of an ensemble are: older ones lose what they have acknowledged, and people are told.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::locked;

/// Versions before this one lose what they have acknowledged, in one way or another: ZOOKEEPER-4643, 4646, 4712, 4785, and
/// 4925 in 3.9.3.
const SOUND: [u32; 3] = [3, 9, 4];
/// Between two looks: servers are brought to another version one by one, and that takes its time.
const LOOK_EVERY: Duration = Duration::from_mins(10);
/// How long a server may take to answer.
const WITHIN: Duration = Duration::from_secs(3);
/// What a server says of itself is shorter than this.
const ANSWER_MAX: u64 = 4096;

/// What was found the last time.
#[derive(Debug, Default)]
pub(super) struct Versions(Arc<Mutex<Found>>);

#[derive(Debug, Default)]
struct Found {
    looked: Option<Instant>,
    /// Servers whose version is too old, and that version.
    old: Vec<(String, String)>,
}

impl Versions {
    /// Asks the servers, if they have not been asked lately. Nobody waits for it.
    pub(super) fn look(&self, hosts: &str) {
        let now = Instant::now();
        let mut found = locked(&self.0);
        if found.looked.is_some_and(|looked| now.duration_since(looked) < LOOK_EVERY) {
            return;
        }
        found.looked = Some(now);
        let (hosts, found) = (hosts.to_owned(), self.0.clone());
        tokio::spawn(async move {
            let mut old = Vec::new();
            for host in hosts.split(',') {
                // One that does not answer, or may not, has nothing to tell.
                if let Ok(Some(version)) = timeout(WITHIN, version_of(host)).await
                    && !is_sound(&version)
                {
                    old.push((host.to_owned(), version));
                }
            }
            locked(&found).old = old;
        });
    }

    /// What is to be told about them, if anything is.
    pub(super) fn note(&self) -> Option<String> {
        let found = locked(&self.0);
        let (_, version) = found.old.first()?;
        let servers: Vec<&str> = found.old.iter().map(|(host, _)| host.as_str()).collect();
        let servers = servers.join(", ");
        let [major, minor, patch] = SOUND;
        Some(format!(
            "ZooKeeper at {servers} is version {version}: servers before {major}.{minor}.{patch} can lose what they have \
             acknowledged when one of them fails; upgrade the ensemble, see docs/guides/zookeeper.md"
        ))
    }
}

/// What a server answers to `srvr`, which every server since 3.5 does unless it was forbidden.
async fn version_of(host: &str) -> Option<String> {
    let mut server = TcpStream::connect(host).await.ok()?;
    server.write_all(b"srvr").await.ok()?;
    let mut said = Vec::new();
    server.take(ANSWER_MAX).read_to_end(&mut said).await.ok()?;
    version_in(&String::from_utf8_lossy(&said))
}

/// `3.8.0` in `Zookeeper version: 3.8.0--1, built on ..`; what follows the numbers differs by who built it.
fn version_in(said: &str) -> Option<String> {
    let version = said.lines().find_map(|line| line.strip_prefix("Zookeeper version: "))?;
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    numbers(&version[..end]).map(|_| version[..end].to_owned())
}

fn numbers(version: &str) -> Option<[u32; 3]> {
    let parts: Vec<u32> = version.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    parts.try_into().ok()
}

fn is_sound(version: &str) -> bool {
    numbers(version).is_none_or(|numbers| numbers >= SOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_a_server_says() {
        let said = |version: &str| {
            format!("Zookeeper version: {version}\nLatency min/avg/max: 0/0.0/0\nMode: follower\n")
        };
        for (text, version) in [
            ("3.8.0--1, built on 2024-02-18 10:02 UTC", Some("3.8.0")),
            ("3.9.5-293c895a8d966a3ecb92872be4a1daf87d725da2, built on 2026-02-11 20:18 UTC", Some("3.9.5")),
            (
                "3.4.14-4c25d480e66aadd371de8bd2fd8da255ac140bcf, built on 03/06/2019 16:18 GMT",
                Some("3.4.14"),
            ),
            ("3.10.0", Some("3.10.0")),
            ("next", None),
            ("3.9", None),
            ("3.9.99999999999", None),
        ] {
            assert_eq!(version_in(&said(text)).as_deref(), version, "{text}");
        }
        assert_eq!(version_in("srvr is not executed because it is not in the whitelist.\n"), None);
        assert_eq!(version_in(""), None);
    }

    #[test]
    fn old_ones_are_told_from_sound_ones() {
        for (version, sound) in [
            ("3.4.14", false),
            ("3.8.0", false),
            ("3.8.4", false),
            ("3.9.3", false),
            ("3.9.4", true),
            ("3.9.5", true),
            ("3.10.0", true),
            ("4.0.0", true),
        ] {
            assert_eq!(is_sound(version), sound, "{version}");
        }
    }

    #[test]
    fn all_old_servers_are_named_in_one_note() {
        let versions = Versions::default();
        assert_eq!(versions.note(), None);
        let old = |host: &str| (host.to_owned(), "3.8.0".to_owned());
        locked(&versions.0).old = vec![old("zk1:2181"), old("zk2:2181")];
        let note = versions.note().expect("two of them are old");
        assert!(note.starts_with("ZooKeeper at zk1:2181, zk2:2181 is version 3.8.0: "), "{note}");
    }
}
