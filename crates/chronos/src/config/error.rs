//! Why settings were refused, and what to do about it.

use std::net::IpAddr;
use std::path::PathBuf;

/// Why settings were refused. Every variant is the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or not for us.
    #[error("cannot read the configuration `{}`", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// It is not YAML, or has a key or value that means nothing.
    #[error("the configuration `{}` is not valid", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        cause: serde_norway::Error,
    },
    /// Anyone on the network could run commands here.
    #[error("listening on {0} without credentials lets anyone who can connect run commands on this machine")]
    Exposed(IpAddr),
    /// A value outside its bounds.
    #[error("`{name}` is {value}; {rule}")]
    Bounds {
        /// Which setting.
        name: &'static str,
        /// As it was meant.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// No master of Mesos can be found by what was said.
    #[error("`master` is `{text}`; {why}")]
    Master {
        /// As written, without passwords.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file that a setting names is not there or not for us.
    #[error("`{name}`: cannot read `{}`", path.display())]
    File {
        /// Which setting.
        name: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The log filter makes no sense.
    #[error("`log_level` is `{text}`, which is not a level")]
    Level {
        /// As written.
        text: String,
        /// Why.
        #[source]
        cause: tracing_subscriber::filter::ParseError,
    },
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "check the path given with --config, and who may read it",
            Self::Malformed { .. } => {
                "it is YAML with the names of the flags as keys; `chronos server --help` lists them"
            }
            Self::Exposed(_) => {
                "say --http_credentials, or listen on 127.0.0.1 with --http_address, or say --allow_unauthenticated if \
                 everyone on that network may do so"
            }
            Self::Master { .. } => {
                "write zk://a.example.org:2181,b.example.org:2181/mesos, or where masters answer, as in a.example.org:5050"
            }
            Self::File { .. } => "check the path, and who may read it",
            Self::Bounds { .. } => "`chronos server --help` describes each setting",
            Self::Level { .. } => "write one of error, warn, info, debug, trace, or `info,store=debug`",
        }
    }
}
