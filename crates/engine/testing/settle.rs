//! The end of a folder whose supervisor was killed. Included by the tests that use one.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a last supervisor, which ends and settles what is left, and has nothing more to do. It gives way while threads of the
/// dead one still hold the folder, which they may for a moment after the process shows as a zombie.
pub(crate) fn settle(dir: &Path) {
    let since = Instant::now();
    let mut last = Command::new(env!("CARGO_BIN_EXE_supervise-for-tests"));
    last.arg(dir).arg("0").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    while last.status().is_ok_and(|status| !status.success()) && since.elapsed() < Duration::from_secs(20) {
        std::thread::yield_now();
    }
}
