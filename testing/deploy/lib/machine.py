"""A machine of its own: this one as it is installed, in a layer that is gone afterwards; with systemd where it can run."""

import os
import subprocess
import time

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


def sh(*words, check=True, **more):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stdout.strip()[-2000:]}")
    return done.stdout.strip() if check else done


def until(what, holds, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds} s: {what}")
        time.sleep(0.1)
    return found


class Machine:
    def __init__(self, folder):
        self.root = os.path.join(folder, "root")
        layer = os.path.join(folder, "layer")
        os.makedirs(self.root)
        os.makedirs(layer)
        sh("mount", "-t", "tmpfs", "none", layer)
        for part in ("upper", "work"):
            os.mkdir(os.path.join(layer, part))
        sh("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={layer}/upper,workdir={layer}/work", self.root)
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

    def run(self, *words, check=True):
        """On this machine, whether it has booted or not."""
        if self.systemd is None:
            return sh("chroot", self.root, *words, check=check, env=self.environment())
        inside = ["nsenter", "--target", str(self.systemd), "--mount", "--pid", "--ipc", "--cgroup", "--root", "--wd"]
        return sh(*inside, *words, check=check, env=self.environment())

    @staticmethod
    def environment():
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}

    def boot(self):
        """Starts systemd as the first process of a namespace. None, or why it cannot run here."""
        if not os.path.exists(self.path(SYSTEMD)):
            return "systemd is not installed here"
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
        words = ["unshare", "--mount", "--pid", "--ipc", "--cgroup", "--fork", "--kill-child", "--mount-proc=" + self.path("proc")]
        with open(self.path("../boot.log"), "wb") as log:
            outer = subprocess.Popen([*words, "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     env={**self.environment(), "container": "case"})
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            children = sh("cat", f"/proc/{outer.pid}/task/{outer.pid}/children", check=False).stdout.split()
            if outer.poll() is not None:
                return f"systemd does not start here: {open(self.path('../boot.log')).read().strip()[-300:]}"
            if children:
                self.systemd = int(children[0])
                state = self.run("systemctl", "is-system-running", check=False)
                if state.stdout.strip() in ("running", "degraded"):
                    return None
            time.sleep(0.1)
        self.systemd = None
        outer.kill()
        return "systemd does not come up here within 30 s"
