//! Where a task was placed: all that is needed to ask for it and to read its output, without the master.

use std::fmt;
use std::str::FromStr;

/// An agent, and the framework whose task it has. Written as `mesos://HOST:PORT/AGENT/FRAMEWORK`, where a run is kept. What
/// follows after a `#` tells apart places that a task was told of one after the other, and is no part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Where the agent answers.
    pub url: AgentUrl,
    /// Id of the agent.
    pub agent: String,
    /// Id of the framework.
    pub framework: String,
}

/// Where an agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AgentUrl {
    /// Whether it speaks HTTPS.
    pub tls: bool,
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// The text is not the place of a task on Mesos.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the place of a task on Mesos")]
pub struct NoPlace(pub String);

impl AgentUrl {
    /// Host and port, as in a URL.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for AgentUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, agent, framework } = self;
        write!(
            f,
            "{}://{}/{agent}/{framework}",
            if url.tls { "mesos+https" } else { "mesos" },
            url.authority()
        )
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        read(text).ok_or_else(|| NoPlace(text.into()))
    }
}

fn read(text: &str) -> Option<Place> {
    let (scheme, rest) = text.split_once("://")?;
    let tls = match scheme {
        "mesos" => false,
        "mesos+https" => true,
        _ => return None,
    };
    let (authority, ids) = rest.split_once('/')?;
    let (agent, framework) = ids.split_once('#').map_or(ids, |(ids, _)| ids).split_once('/')?;
    let (host, port) = authority.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']')?,
        None => host,
    };
    if [host, agent, framework].iter().any(|part| part.is_empty() || part.contains('/')) {
        return None;
    }
    let url = AgentUrl { tls, host: host.into(), port: port.parse().ok()? };
    Some(Place { url, agent: agent.into(), framework: framework.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for text in [
            "mesos://10.0.0.1:5051/a-S0/f-0000",
            "mesos+https://agent.example.org:1/S/F",
            "mesos://[::1]:5051/S/F",
        ] {
            let place: Place = text.parse().expect(text);
            assert_eq!(place.to_string(), text);
        }
        let again: Place = "mesos://h:1/S/F#2".parse().expect("a place");
        assert_eq!(again.to_string(), "mesos://h:1/S/F");
        let place: Place = "mesos://[::1]:5051/S/F".parse().expect("a place");
        assert_eq!((place.url.to_string(), place.url.host.as_str()), ("http://[::1]:5051".into(), "::1"));
    }

    #[test]
    fn what_is_no_place_is_told_from_one() {
        for text in [
            "",
            "mesos",
            "node-1",
            "mesos://h:1/S",
            "mesos://h/S/F",
            "mesos://h:1/S/F/x",
            "mesos://:1/S/F",
            "http://h:1/S/F",
        ] {
            assert_eq!(text.parse::<Place>(), Err(NoPlace(text.into())));
        }
    }
}
