"""Three machines of a Mesos cluster, and containers of Chronos on them, each behind the bridge of its machine.

Machines and containers are network namespaces; the wires between machines are those of the fault suite. Each has a master
of Mesos and a bridge as Docker makes it: every container is 172.17.0.2 there, goes out under the address of its machine,
and is reached from nowhere else. What leads in is up to whoever builds on this: mapped ports, or an overlay.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request

from case import BINARY, ROOT, WORK, fail, skip, until

MESOS = ROOT / "testing" / "mesos-local"
ZOOKEEPER = "/usr/share/java/zookeeper.jar"
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
# Of every container on its bridge, so that nobody can take it for an address of the cluster.
BRIDGED = "172.17.0.2"
HTTP_PORT = 8080
CONNECT_S = 3
# A change waits for a leader for 15 s.
LED_S = 25


def wires():
    """The network of the fault suite, under a name that nobody else takes."""
    spec = importlib.util.spec_from_file_location("fault_hosts", ROOT / "testing" / "faults" / "hosts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WIRES = wires()
sh = WIRES.sh


@contextlib.contextmanager
def at(name):
    """Meanwhile what this thread opens goes out from the namespace of that name."""
    with open("/proc/thread-self/ns/net", "rb") as here, open(f"/run/netns/{name}", "rb") as there:
        enter(there)
        try:
            yield
        finally:
            enter(here)


def enter(namespace):
    if LIBC.setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def ask(name, url, method="GET", body=None, patience=CONNECT_S):
    """Status and body of an answer to whoever asks from there; none within `patience` seconds is an OSError."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with at(name):
        try:
            with urllib.request.urlopen(request, timeout=patience) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read()


def told(name, url):
    """The JSON of an answer of 200, else None."""
    with contextlib.suppress(OSError, ValueError):
        status, body = ask(name, url)
        return json.loads(body) if status == 200 else None
    return None


def opens(name, url):
    """Why a page cannot be opened from there; None if it can."""
    try:
        status, _ = ask(name, url)
    except OSError as problem:
        return str(getattr(problem, "reason", problem))
    return None if status == 200 else f"status {status}"


class Cluster:
    """The machines, with a ZooKeeper beside them, three masters and an agent."""

    def __init__(self):
        self.programs = installed()
        self.network = WIRES.Network(str(WORK), ["a", "b", "c"])
        self.hosts = list(self.network.hosts.values())
        self.started = []
        self.zookeepers = f"{WIRES.OWN}:2181"
        self.zk = f"zk://{self.zookeepers}/mesos"
        for host in self.hosts:
            bridge(host)

    def start(self):
        """Begins with what takes longest, and waits for all of it at the end."""
        config = WORK / "zoo.cfg"
        config.write_text(f"tickTime=500\nmaxSessionTimeout=60000\nmaxClientCnxns=0\nadmin.enableServer=false\ndataDir={WORK}/zookeeper\n"
                          f"clientPort=2181\nclientPortAddress={WIRES.OWN}\n")
        self.run("zookeeper", ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Dzookeeper.forceSync=no", "-cp",
                               ZOOKEEPER, "org.apache.zookeeper.server.ZooKeeperServerMain", str(config)])
        for host in self.hosts:
            self.run(f"master-{host.name}", host.inside(
                f"{self.programs}/mesos-master", f"--ip={host.ip}", "--port=5050", "--no-hostname_lookup", f"--zk={self.zk}", "--quorum=2",
                f"--work_dir={host.folder}/master", "--zk_session_timeout=2secs"))
        agent = self.hosts[-1]
        work = f"{agent.folder}/agent"
        self.run("agent", agent.inside(
            f"{self.programs}/mesos-agent", f"--ip={agent.ip}", "--port=5051", "--no-hostname_lookup", f"--master={self.zk}",
            f"--work_dir={work}", f"--runtime_dir={work}-run", f"--fetcher_cache_dir={work}-fetch", f"--launcher_dir={self.programs}",
            "--launcher=posix", "--isolation=posix/cpu,posix/mem,disk/du", "--no-systemd_enable_support", "--containerizers=mesos",
            "--registration_backoff_factor=50ms", "--zk_session_timeout=2secs", "--resources=cpus:4;mem:4096;disk:8192;ports:[31000-31999]"))
        until("a master leads and has an agent", 60, lambda: (self.master() or (None, {}))[1].get("activated_slaves"))

    def run(self, name, words, environment=None):
        log = WORK / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=WORK, env=environment)
        self.started.append(process)
        return process

    def master(self):
        """The machine of the leading master, and what that says of the cluster."""
        for host in self.hosts:
            state = told(host.name, f"http://{host.ip}:5050/master/state")
            leader = state and state.get("leader")
            if leader:
                return next(host for host in self.hosts if f"@{host.ip}:" in leader), state
        return None

    def framework(self):
        """The one that is there and active; None while there is none or more than one."""
        found = self.master()
        frameworks = found[1]["frameworks"] if found else []
        return frameworks[0] if len(frameworks) == 1 and frameworks[0]["active"] else None

    def stop(self):
        for process in self.started:
            process.send_signal(signal.SIGKILL)


def installed():
    """The folder of the programs of Mesos. There is no network in here: they are installed before, by testing/deploy/run."""
    done = subprocess.run([sys.executable, "-B", MESOS / "cluster.py", "install"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        skip("no Mesos can be had here")
    if not os.path.exists(ZOOKEEPER):
        skip("ZooKeeper is not here")
    return done.stdout.strip()


def bridge(host):
    """As Docker makes it: containers go out under the address of their machine."""
    sh("ip", "-n", host.name, "link", "add", "name", "docker0", "type", "bridge")
    sh("ip", "-n", host.name, "addr", "add", "172.17.0.1/16", "dev", "docker0")
    sh("ip", "-n", host.name, "link", "set", "docker0", "up")
    sh("ip", "netns", "exec", host.name, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
    iptables(host, "nat", "-A", "POSTROUTING", "-s", "172.17.0.0/16", "!", "-o", "docker0", "-j", "MASQUERADE")


def iptables(host, table, *rule):
    sh("ip", "netns", "exec", host.name, "iptables", "-w", "-t", table, *rule)


class Instance:
    """A container with a server in it, started as Marathon does."""

    def __init__(self, cluster, host):
        self.cluster, self.host = cluster, host
        self.name = f"chronos-{host.name}"
        self.address = BRIDGED
        self.process = None
        self.flags = ""
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(("CHRONOS_", "MARATHON_"))}
        sh("ip", "netns", "add", self.name)
        self.plug("docker0", "eth0", BRIDGED + "/16")
        sh("ip", "-n", self.name, "link", "set", "lo", "up")
        sh("ip", "-n", self.name, "route", "add", "default", "via", "172.17.0.1")

    def plug(self, bridge_name, interface, address):
        """A wire from here to a bridge of the machine."""
        self.wire(interface, address)
        sh("ip", "-n", self.host.name, "link", "set", f"{interface}-c", "master", bridge_name)

    def wire(self, interface, address):
        """One end has this address in here, the other is at the machine."""
        there = f"{interface}-c"
        sh("ip", "-n", self.host.name, "link", "add", "name", there, "type", "veth", "peer", "name", interface, "netns", self.name)
        sh("ip", "-n", self.host.name, "link", "set", there, "up")
        sh("ip", "-n", self.name, "addr", "add", address, "dev", interface)
        sh("ip", "-n", self.name, "link", "set", interface, "up")

    def start(self):
        """With the command of deploy/marathon, whose `hostname -i` is what the container's /etc/hosts says."""
        folder = WORK / self.name
        folder.mkdir(exist_ok=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        command = (f"exec {shlex.quote(BINARY)} run_jar --master {self.cluster.zk} --zk_hosts {self.cluster.zookeepers} --http_port {HTTP_PORT} "
                   f"--hostname $(hostname -i) --zk_timeout 4000 --data_dir {shlex.quote(str(folder / 'data'))} {self.flags}")
        inside = 'mount --bind "$1" /etc/hosts && echo "$2" >/proc/sys/kernel/hostname && exec sh -c "$3"'
        self.process = self.cluster.run(self.name, [
            "ip", "netns", "exec", self.name, "unshare", "--mount", "--uts", "sh", "-c", inside, "sh", str(folder / "hosts"), self.name, command,
        ], self.environment)

    @property
    def here(self):
        """Its API, for who is in the same container."""
        return f"http://127.0.0.1:{HTTP_PORT}"

    @property
    def outside(self):
        """Where others find it."""
        return f"{self.address}:{HTTP_PORT}"

    def get(self, path):
        return told(self.name, self.here + path)

    def ready(self):
        return self.get("/ready") or {}

    def post(self, path, body):
        status, answer = ask(self.name, self.here + path, "POST", body, LED_S)
        if status not in (200, 204):
            fail(f"{self.name}: POST {path} answers {status}: {answer.decode(errors='replace')[:300]}")

    def kill(self):
        self.process.kill()
        self.process.wait()


def settled(instances):
    """One leads and the others stand by: the leader, and one that follows."""
    roles = {instance.name: instance.ready() for instance in instances}
    leaders = [instance for instance in instances if roles[instance.name].get("role") == "leading" and roles[instance.name]["ready"]]
    others = [instance for instance in instances if roles[instance.name].get("role") == "standby" and not roles[instance.name]["reasons"]]
    return (leaders[0], others) if len(leaders) == 1 and len(others) == len(instances) - 1 else None


def succeed(follower, job):
    """A job that is made at a follower, by way of the leader, runs on Mesos, and the follower tells how it ended."""
    follower.post("/v1/scheduler/iso8601", {"name": job, "command": "true", "schedule": "R1//PT1H", "epsilon": "PT10M"})

    def ended():
        runs = (follower.get(f"/v1/runs?job={job}") or {}).get("runs", [])
        return runs and runs[0].get("outcome")

    outcome = until(f"the run of {job} ends", 60, ended)
    if outcome != "succeeded":
        fail(f"the run of {job} {outcome}: {follower.get(f'/v1/runs?job={job}')}")


def doctor(instance):
    """What `chronos doctor` finds wrong, asked in that container."""
    done = subprocess.run(["ip", "netns", "exec", instance.name, BINARY, "doctor", "--server", instance.here, "--output", "json"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return [finding for finding in json.loads(done.stdout) if finding["grade"] == "wrong"]
