"""A machine of its own: this one as it is installed, in a layer that is gone afterwards; with systemd where it can run."""

import os

from case import LOGS, Program, run, sh, skip, until

SYSTEMD = "/lib/systemd/systemd"
# What has no meaning without hardware and a network, or belongs to the machine outside.
NOT_HERE = """systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket
systemd-modules-load.service systemd-sysctl.service systemd-remount-fs.service systemd-tmpfiles-setup-dev.service
systemd-binfmt.service systemd-update-utmp.service systemd-random-seed.service systemd-journal-flush.service
systemd-network-generator.service systemd-resolved.service systemd-timesyncd.service dev-hugepages.mount dev-mqueue.mount
sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount"""
DEVICES = ["null", "zero", "full", "random", "urandom", "tty"]
TARGET = """[Unit]
Requires=basic.target
After=basic.target
AllowIsolate=yes
"""


def layered(lower, place, folder):
    """Mounts what is at `lower` to `place`, under a layer in memory that takes what is written there."""
    folder.mkdir()
    sh("mount", "-t", "tmpfs", "none", folder)
    for part in ("upper", "work"):
        (folder / part).mkdir()
    sh("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work", place)


class Machine:
    def __init__(self, folder):
        self.root = folder / "root"
        self.root.mkdir(parents=True)
        layered("/", self.root, folder / "layer")
        for kind, place in [("proc", "proc"), ("sysfs", "sys"), ("tmpfs", "dev"), ("tmpfs", "run"), ("tmpfs", "tmp")]:
            sh("mount", "-t", kind, kind, self.path(place))
        for device in DEVICES:
            open(self.path("dev", device), "wb").close()
            sh("mount", "--bind", f"/dev/{device}", self.path("dev", device))
        os.symlink("/proc/self/fd", self.path("dev/fd"))
        for folder in ("pts", "shm", "mqueue", "hugepages"):
            os.mkdir(self.path("dev", folder))
        sh("mount", "-t", "devpts", "-o", "newinstance,ptmxmode=0666", "none", self.path("dev/pts"))
        os.symlink("pts/ptmx", self.path("dev/ptmx"))
        os.chmod(self.path("tmp"), 0o1777)
        self.systemd = None

    def path(self, *parts):
        return os.path.join(self.root, *(part.lstrip("/") for part in parts))

    def read(self, path):
        with open(self.path(path), encoding="utf-8", errors="replace") as file:
            return file.read()

    def write(self, path, text):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "w", encoding="utf-8") as file:
            file.write(text)

    def given(self, folder, *files):
        """Copies these files into a folder; where each is."""
        sh("cp", *files, self.path(folder))
        return [f"/{folder}/{file.name}" for file in files]

    def run(self, *words):
        """On this machine, whether it has booted or not; see `case.run`."""
        return run(*self.inside(), *words, env=self.environment())

    def sh(self, *words):
        """What a command prints; the case fails if that fails."""
        return sh(*self.inside(), *words, env=self.environment())

    def inside(self):
        if self.systemd is None:
            return ["chroot", self.root]
        return ["nsenter", "--target", self.systemd, "--mount", "--pid", "--ipc", "--cgroup", "--root", "--wd"]

    @staticmethod
    def environment():
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}

    def boot(self):
        """Starts systemd as the first process of a namespace, where it can run."""
        if not os.path.exists(self.path(SYSTEMD)):
            skip("systemd is not installed here")
        # Nothing of the machine outside is started.
        for folder in os.scandir(self.path("etc/systemd/system")):
            if folder.name.endswith((".wants", ".requires")):
                sh("rm", "-rf", folder.path)
        for unit in NOT_HERE.split():
            link = self.path("etc/systemd/system", unit)
            sh("ln", "-sf", "/dev/null", link)
        # Where no systemd runs, packages may have been told to start nothing.
        sh("rm", "-f", self.path("usr/sbin/policy-rc.d"))
        self.write("etc/systemd/system/case.target", TARGET)
        self.write("etc/fstab", "")
        # The root is changed for good: services get namespaces of their own, which a chroot would stand in the way of.
        script = f"mount -t cgroup2 none {self.path('sys/fs/cgroup')} && cd {self.root} && pivot_root . . && umount -l . && exec {SYSTEMD} --unit=case.target --log-target=journal"
        outer = Program("systemd", "unshare", "--mount", "--pid", "--ipc", "--cgroup", "--fork", "--kill-child", "--mount-proc=" + self.path("proc"),
                        "sh", "-c", script, env={**self.environment(), "container": "case"})
        LOGS["journal"] = lambda: self.run("journalctl", "-n", "60", "-o", "short-monotonic").stdout

        def up():
            if outer.poll() is not None:
                skip(f"systemd does not start here: {outer.said().strip()[-300:]}")
            self.systemd = outer.first_child()
            return self.systemd and self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

        until("systemd is up", 120, up)
