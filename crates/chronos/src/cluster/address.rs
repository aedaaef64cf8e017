//! Where a node may be reached: `host:port`, or `https://host:port` where it speaks TLS there.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// One of the addresses that a node publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    tls: bool,
    /// An IPv6 address is without brackets.
    host: String,
    port: u16,
}

impl Address {
    /// Where HTTP, or HTTPS, is spoken.
    pub(crate) fn new(tls: bool, host: &str, port: u16) -> Self {
        Self { tls, host: host.trim_start_matches('[').trim_end_matches(']').into(), port }
    }

    /// Whether HTTPS is spoken there.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// What requests begin with.
    pub(crate) fn base(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// `host:port`, as Chronos wrote it.
    pub(crate) fn authority(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) => format!("[{}]:{}", self.host, self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tls { f.write_str(&self.base()) } else { f.write_str(&self.authority()) }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err(format!("`{text}` is neither http nor https")),
            None => (false, text),
        };
        let wanted =
            || format!("`{text}` is not an address as in `10.0.0.1:4400` or `https://a.example.org:4443`");
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(wanted)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wanted)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_name = |host: &str| {
            !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        };
        match bare {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => Ok(Self::new(tls, v6, port)),
            None if is_name(host) => Ok(Self::new(tls, host, port)),
            _ => Err(wanted()),
        }
    }
}

/// `host:port` of the first address of a node, for people and for clients of Chronos.
pub(crate) fn first(addresses: &[String]) -> Option<String> {
    let first = addresses.first()?;
    Some(first.parse().map_or_else(|_| first.clone(), |address: Address| address.authority()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, base) in [
            ("10.0.0.1:4400", "http://10.0.0.1:4400"),
            ("http://a.example.org:80", "http://a.example.org:80"),
            ("https://a_b-c:4443/", "https://a_b-c:4443"),
            ("[::1]:1", "http://[::1]:1"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.base(), base);
            assert_eq!(address.to_string().parse(), Ok(address));
        }
        for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "ftp://a:1", "a b:1", "::1:1", "[a]:1", "a/b:1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert_eq!(first(&["https://a:1".into(), "b:2".into()]).as_deref(), Some("a:1"));
    }
}
