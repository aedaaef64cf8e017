//! Which file systems cannot be trusted with locks and shared memory between machines.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Kinds of file systems that several machines may mount, as the kernel names them. SQLite's write-ahead log needs
/// memory shared by all who use it, and a lock must hold everywhere at once.
const NETWORK: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "ceph",
    "lustre",
    "afs",
    "gfs2",
    "ocfs2",
    "glusterfs",
    "beegfs",
    "gpfs",
    "ncpfs",
    "coda",
    "davfs",
    "fuse.sshfs",
    "fuse.davfs",
    "fuse.davfs2",
    "fuse.s3fs",
    "fuse.rclone",
    "fuse.goofys",
    "fuse.gcsfuse",
    "fuse.blobfuse",
    "fuse.ceph",
    "fuse.glusterfs",
    "fuse.juicefs",
    "fuse.mfs",
    "fuse.lizardfs",
    "fuse.curlftpfs",
    "fuse.moosefs",
];

/// The kind of the network file system that a folder is on; `None` for a local one, or where nobody can tell.
///
/// The mount table is asked instead of `statfs`, which calls everything in user space just "fuse".
pub(super) fn network_kind(dir: &Path) -> Option<String> {
    let device = dir.metadata().ok()?.dev();
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    kind_of(&table, device, &dir.canonicalize().ok()?).filter(|kind| NETWORK.contains(&kind.as_str()))
}

/// The kind of the file system with this device number; where several mounts have none of their own, of the one
/// nearest to the folder.
fn kind_of(table: &str, device: u64, dir: &Path) -> Option<String> {
    // How the kernel packs a device number: see `gnu_dev_major` in glibc.
    let major = (device >> 8) & 0xfff | (device >> 32) & !0xfff;
    let minor = device & 0xff | (device >> 12) & 0xffff_ff00;
    let number = format!("{major}:{minor}");
    let mounts = table.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let fields: Vec<&str> = mount.split(' ').collect();
        Some((*fields.get(2)?, *fields.get(4)?, rest.split(' ').next()?))
    });
    let mut by_device = mounts.clone().filter(|(dev, ..)| *dev == number);
    let found = by_device.next().or_else(|| {
        let above = mounts.filter(|(_, point, _)| dir.starts_with(unescaped(point)));
        above.max_by_key(|(_, point, _)| point.len())
    });
    found.map(|(.., kind)| kind.to_owned())
}

/// Mount points with blanks are written with octal escapes.
fn unescaped(point: &str) -> String {
    point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
24 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 24 0:27 / /dev/shm rw shared:4 - tmpfs tmpfs rw
88 24 0:52 / /srv/nfs rw shared:9 - nfs4 server:/export rw
89 24 0:53 / /mnt/ssh\\040box rw shared:9 - fuse.sshfs me@host: rw
";

    #[track_caller]
    fn check(device: (u64, u64), dir: &str, kind: &str) {
        let device = device.0 << 8 | device.1;
        assert_eq!(kind_of(TABLE, device, Path::new(dir)).as_deref(), Some(kind));
    }

    #[test]
    fn by_device_then_by_path() {
        check((254, 0), "/var", "ext4");
        check((0, 52), "/srv/nfs/chronos", "nfs4");
        check((0, 53), "/mnt/ssh box", "fuse.sshfs");
        check((0, 99), "/mnt/ssh box/btrfs-subvolume", "fuse.sshfs"); // a number that is not in the table
        check((0, 99), "/srv", "ext4");
    }

    #[test]
    fn what_is_refused() {
        for kind in ["nfs4", "cifs", "9p", "fuse.sshfs"] {
            assert!(NETWORK.contains(&kind));
        }
        for kind in ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuse.mergerfs"] {
            assert!(!NETWORK.contains(&kind));
        }
    }
}
