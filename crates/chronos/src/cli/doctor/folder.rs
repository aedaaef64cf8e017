//! What a data folder shows without a server.

use std::path::Path;

use store::StoreError;
use store::sqlite::Inspection;

use super::finding::{Finding, good, look, wrong};
use super::status::room;

pub(super) fn of_folder(folder: &Path, found: Result<Inspection, StoreError>) -> Vec<Finding> {
    let shown = folder.display();
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            let advice = match &error {
                StoreError::Newer { .. } => "use the newer version of Chronos that wrote it",
                StoreError::Damaged(_) => {
                    "move it away, start a server on an empty folder, and `chronos restore` a backup"
                }
                _ => "name the folder that the server was given with --data_dir",
            };
            return vec![wrong("store", error.to_string(), advice)];
        }
    };
    let mut findings = vec![good("store", format!("{shown}: {} jobs, change {}", found.jobs, found.seq.0))];
    findings.push(if found.faults.is_empty() {
        good("file", "SQLite finds the file whole")
    } else {
        let advice = "stop the server, keep a copy, and restore the last backup";
        wrong("file", format!("SQLite finds faults: {}", found.faults.join("; ")), advice)
    });
    findings.push(if found.version == found.newest {
        good("schema", format!("schema {}, that of this program", found.version))
    } else {
        let what = format!("schema {}; this program's is {}", found.version, found.newest);
        look("schema", what, "the next server of this version converts it; take a backup before")
    });
    findings.push(match &found.holder {
        Some(holder) => {
            let at = holder.addresses.first().map(String::as_str).unwrap_or("an unknown address");
            good("leader", format!("process {} leads here, at {at}", holder.pid))
        }
        None => good("leader", "no server leads here now"),
    });
    if !found.writable {
        let advice = "make the folder and its files writable for the user of the server";
        findings.push(look("rights", "this user may not write here", advice));
    }
    findings.extend(found.disk.map(room));
    findings
}
