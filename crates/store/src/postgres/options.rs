//! Where the store is, and what can be wrong with that before anything is connected to.

use std::time::Duration;

use super::lease::{LEASE, LEASE_MIN};

/// Where the store is.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=/etc/ca.pem`, as libpq takes them.
    pub url: String,
    /// The schema that the tables are in; made if it is not there.
    pub schema: String,
    /// How long a leader that is not heard of keeps the right to lead; at least [`LEASE_MIN`].
    pub lease: Duration,
    /// The id of the only store that is meant; another one is not touched, and none is made.
    pub expected: Option<String>,
}

impl PostgresOptions {
    /// The schema that is used if nobody says otherwise.
    pub const SCHEMA: &'static str = "chronos";

    /// The usual schema and lease.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), schema: Self::SCHEMA.into(), lease: LEASE, expected: None }
    }
}

impl std::fmt::Debug for PostgresOptions {
    /// The URL has a password in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { url: _, schema, lease, .. } = self;
        f.debug_struct("PostgresOptions")
            .field("schema", schema)
            .field("lease", lease)
            .finish_non_exhaustive()
    }
}

/// What is wrong with the options. Nothing was connected to yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Not one of PostgreSQL.
    #[error(
        "the URL of the database is not valid: {0}; it is like postgres://user:password@host:5432/database"
    )]
    Url(String),
    /// Another word.
    #[error("`sslmode={0}` is not known; it is one of disable, prefer, require, verify-ca, verify-full")]
    SslMode(String),
    /// Certificates or a key.
    #[error("TLS to the database cannot be set up: {0}")]
    Tls(String),
    /// A name that would need quoting.
    #[error(
        "`{0}` is no name for a schema here; it is at most 40 of a-z, 0-9 and _, begins with a letter, and not with pg_"
    )]
    Schema(String),
    /// Too short.
    #[error("a lease of {0:?} is too short; the shortest is {LEASE_MIN:?}")]
    Lease(Duration),
}
