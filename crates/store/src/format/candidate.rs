//! Who leads, as it is written beside what is led.

use serde::{Deserialize, Serialize};

use crate::Candidate;

/// See [`Candidate`].
#[derive(Serialize, Deserialize)]
struct StoredCandidate {
    node: String,
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    version: String,
}

/// Writes it on one line, without the line's end.
pub(crate) fn write_candidate(candidate: &Candidate) -> String {
    let Candidate { node, addresses, pid, version } = candidate.clone();
    serde_json::to_string(&StoredCandidate { node, addresses, pid, version })
        .expect("texts and a number can be written")
}

/// Reads what [`write_candidate`] wrote; `None` for anything else.
pub(crate) fn read_candidate(line: &str) -> Option<Candidate> {
    let StoredCandidate { node, addresses, pid, version } = serde_json::from_str(line).ok()?;
    Some(Candidate { node, addresses, pid, version })
}
