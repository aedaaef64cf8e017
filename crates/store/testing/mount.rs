//! A small file system of a test's own. Included by the tests that use one.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// In memory, in a temporary folder; needs root. Unmounted when dropped.
pub(crate) struct Mount(tempfile::TempDir);

#[allow(dead_code, clippy::allow_attributes, reason = "not all of it by all who include this")]
impl Mount {
    /// With such options; `None` where it cannot be.
    pub(crate) fn new(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success()).then(|| Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn remount(&self, options: &str) {
        let status =
            Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.0.path()).status();
        assert!(status.expect("mount is there").success());
    }

    /// Leaves no room. Who removes the file makes some.
    pub(crate) fn fill(&self) -> PathBuf {
        let ballast = self.0.path().join("ballast");
        let mut file = File::create(&ballast).expect("an empty file needs no room");
        for size in [1 << 20, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        ballast
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: somebody may still have a file open there.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
