"""Machines for ansible: namespaces whose root is that of this machine with a layer of their own over it.

What is written there is gone with the case. Two things are played, and nothing else: `ssh`, which enters the namespaces of
a machine in place of a connection, and `systemctl`, which starts what a unit says as the user that it names, since no
systemd runs in there.
"""

import os
import re

from case import LOGS, ROOT, WORK, Program, fail, run, sh, skip, until

NETWORK = "10.60.0"
PYTHON = "/usr/bin/python3"

SSH = f"""#!{PYTHON}
# In place of ssh: enters the namespaces of a machine of the test.
import os, sys
words, user = sys.argv[1:], "root"
while words and words[0].startswith("-"):
    if words[0] in ("-o", "-i", "-p", "-F", "-S", "-l", "-c"):
        if words[0] == "-l" or words[1].startswith("User="):
            user = words[1].partition("=")[2].strip('"') or words[1]
        words = words[2:]
    else:
        words = words[1:]
if len(words) < 2:
    sys.exit(0)
try:
    pid = open("{WORK}/machines/" + words[0] + ".pid").read()
except OSError:
    sys.stdin.read()
    print("ssh: connect to host " + words[0] + " port 22: No route to host", file=sys.stderr)
    sys.exit(255)
enter = ["nsenter", "-t", pid, "-m", "-n", "-p", "-u", "-r", "-w"]
os.environ.clear()
os.environ.update(PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL="C.UTF-8", HOME="/root")
if user != "root":
    enter += ["setpriv", "--reuid", user, "--regid", "nogroup", "--clear-groups"]
os.execvp(enter[0], [*enter, "sh", "-c", " ".join(words[1:])])
"""

SYSTEMCTL = f"""#!{PYTHON}
{(ROOT / "testing" / "deploy" / "lib" / "unit.py").read_text()}
# In place of systemctl, where no systemd runs: starts what a unit says, as the user that it names.
import configparser, pwd, shlex
words = [word for word in sys.argv[1:] if not word.startswith("-")]
verb, name = words[0], (words[1:] or [""])[0].removesuffix(".service")
path, pidfile = f"/etc/systemd/system/{{name}}.service", f"/run/{{name}}.pid"
enabled = f"/etc/systemd/system/multi-user.target.wants/{{name}}.service"
with open("/var/log/systemctl.orders", "a") as orders:
    orders.write(" ".join(words) + "\\n")
def begin():
    unit = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#", ";"))
    unit.optionxform = str
    unit.read(path)
    service = unit["Service"]
    who = pwd.getpwnam(service.get("User", "root"))
    if folder := service.get("StateDirectory"):
        os.makedirs(f"/var/lib/{{folder}}", exist_ok=True)
        os.chown(f"/var/lib/{{folder}}", who.pw_uid, who.pw_gid)
    start(pidfile, shlex.split(service["ExecStart"]), f"/var/log/{{name}}.log", user=who.pw_uid, group=who.pw_gid, extra_groups=[],
          cwd=service.get("WorkingDirectory", "/"), env={{"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": who.pw_dir}})
there = os.path.exists(path)
if verb == "daemon-reload":
    pass
elif verb == "show":
    print(f"Id={{name}}.service\\nLoadState={{'loaded' if there else 'not-found'}}\\nActiveState={{'active' if pid(pidfile) else 'inactive'}}")
elif verb == "is-enabled":
    print("enabled" if os.path.lexists(enabled) else "disabled")
    sys.exit(0 if os.path.lexists(enabled) else 1)
elif not there:
    sys.exit(f"Unit {{name}}.service could not be found.")
elif verb == "enable":
    os.makedirs(os.path.dirname(enabled), exist_ok=True)
    os.path.lexists(enabled) or os.symlink(path, enabled)
elif verb == "cat":
    print(open(path).read())
elif verb in ("start", "stop", "restart"):
    if verb != "start":
        stop(pidfile)
    if verb != "stop":
        begin()
else:
    sys.exit(f"unknown order: {{verb}}")
"""

# The first process of a machine: it buries those whose parents have ended.
INIT = "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True: time.sleep(3600)"
SET_UP = """
mount --make-rprivate / && mount -t tmpfs -o mode=755 tmpfs "$0" && cd "$0" && mkdir upper work root &&
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root &&
mount --rbind /dev root/dev && mount -t proc proc root/proc && mount -t tmpfs tmpfs root/run &&
mount -t tmpfs -o mode=1777 tmpfs root/tmp && cp "$1" root/usr/local/bin/systemctl &&
rm -rf root/etc/chronos root/etc/zookeeper root/var/lib/zookeeper root/var/lib/chronos root/etc/mesos* &&
exec chroot root /usr/bin/python3 -c "$2"
"""


class Machines:
    def __init__(self, *names):
        folder = WORK / "machines"
        folder.mkdir()
        for name, text in (("ssh", SSH), ("systemctl", SYSTEMCTL)):
            (WORK / name).write_text(text)
            (WORK / name).chmod(0o755)
        sh("ip", "link", "add", "wire", "type", "bridge")
        sh("ip", "address", "add", f"{NETWORK}.1/24", "dev", "wire")
        sh("ip", "link", "set", "wire", "up")
        self.addresses, self.pids = {}, {}
        for number, name in enumerate(names, 11):
            root = folder / name
            root.mkdir()
            process = Program(name, "unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "sh", "-c",
                              SET_UP, root, WORK / "systemctl", INIT)
            pid = until(f"{name} starts", 60, lambda: self.first(process))
            sh("ip", "link", "add", f"wire{number}", "type", "veth", "peer", "name", "eth0", "netns", pid)
            sh("ip", "link", "set", f"wire{number}", "master", "wire", "up")
            self.addresses[name], self.pids[name] = f"{NETWORK}.{number}", pid
            (folder / f"{name}.pid").write_text(pid)
            LOGS[f"Chronos on {name}"] = lambda name=name: self.read(name, "/var/log/chronos.log")
            for words in (f"address add {self.addresses[name]}/24 dev eth0", "link set eth0 up", "link set lo up"):
                self.sh(name, f"ip {words}")

    @staticmethod
    def first(process):
        """The first process of a machine, once it is in its own root."""
        if process.poll() is not None:
            skip(f"this machine lets nobody mount a layer over its root: {process.said().strip()}")
        pid = process.first_child()
        try:
            there = pid and b"signal" in open(f"/proc/{pid}/cmdline", "rb").read() and "python" in os.readlink(f"/proc/{pid}/exe")
            return str(pid) if there else None
        except OSError:
            return None

    def sh(self, name, command):
        return sh("nsenter", "-t", self.pids[name], "-m", "-n", "-p", "-u", "-r", "-w", "sh", "-c", command)

    def put(self, name, path, text):
        """A program on a machine."""
        sh("nsenter", "-t", self.pids[name], "-m", "-r", "-w", "sh", "-c", f"cat > {path} && chmod 755 {path}", input=text)

    def read(self, name, path):
        return self.sh(name, f"cat {path} 2>/dev/null || true")

    def inventory(self, groups, of=None):
        """A file with these groups; `of` are variables of single machines, which take the place of their address."""
        lines = []
        for name in sorted({name for names in groups.values() for name in names}):
            own = (of or {}).get(name, f"private_ipv4={self.addresses.get(name)}")
            lines.append(f"{name} {own}")
        for group, names in groups.items():
            lines += [f"[{group}]", *names]
        lines += ["[mesos:children]", *[group for group in ("masters", "agents") if group in groups]]
        wanted = {"ansible_ssh_executable": WORK / "ssh", "ansible_ssh_transfer_method": "piped", "ansible_user": "root",
                  "ansible_python_interpreter": PYTHON}
        lines += ["[all:vars]", *[f"{key}={value}" for key, value in wanted.items()]]
        path = WORK / "inventory.ini"
        path.write_text("\n".join(lines) + "\n")
        return path


class Play:
    """One run of a playbook of deploy/ansible."""

    def __init__(self, book, inventory, *words):
        folder = ROOT / "deploy" / "ansible"
        done = run("ansible-playbook", "-i", inventory, folder / book, *words, cwd=folder,
                   env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCAL_TEMP": str(WORK / "ansible"), "HOME": str(WORK),
                        "ANSIBLE_REMOTE_TMP": "/tmp/ansible"})
        self.status, self.said = done.returncode, done.stdout
        self.changed = {name: int(count) for name, count in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", self.said, re.M)}

    def succeeds(self, label):
        if self.status:
            fail(f"{label}: ansible ended with {self.status}:\n{self.said[-6000:]}")
        return self

    def changes_nothing(self, label):
        self.succeeds(label)
        if any(self.changed.values()):
            changing = re.findall(r"^TASK \[(.*?)\](?:(?!^TASK).)*?^changed: (.*?)$", self.said, re.M | re.S)
            fail(f"{label}: {self.changed} were changed: {changing}")
        return self

    def is_refused(self, why):
        """It ends with this sentence, and has changed nothing."""
        if not self.status or why not in self.said or any(self.changed.values()):
            fail(f"this was to be refused with `{why}` and nothing changed; it ended with {self.status}, {self.changed}:\n{self.said[-4000:]}")
        return self
