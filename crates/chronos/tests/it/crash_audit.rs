//! Kills the server again and again while jobs run, then has the ledger audited by a script that shares no code with it.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::server::{BINARY, Ended};
use crate::skip::skip;

#[test]
fn no_slot_is_lost_or_doubled_by_fifty_crashes() {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skip("crash audit", "python3 is not here");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/checker/crash_audit.py");
    let kills = std::env::var("CHRONOS_AUDIT_KILLS").unwrap_or_else(|_| "50".into());
    let audit =
        Ended::of(Command::new("python3").arg("-B").arg(script).arg(BINARY).args(["--kills", &kills]));
    // Not by a macro, whose words are kept from whoever reads the tests when all is well: these are the figures.
    let _ = writeln!(std::io::stderr(), "\n{}", audit.stdout_text());
    audit.success().says("lost 0, doubled 0");
}
