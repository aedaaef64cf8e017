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

import case
from case import BINARY, ROOT, WORK, Program, fail, run, sh, skip, until

MESOS = ROOT / "testing" / "mesos-local"
ZOOKEEPER = "/usr/share/java/zookeeper.jar"
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
# Of every container on its bridge, so that nobody can take it for an address of the cluster.
BRIDGED = "172.17.0.2"
HTTP_PORT = 8080
# A change waits for a leader for 15 s.
LED_S = 25


def wires():
    """The network of the fault suite, under a name that nobody else takes."""
    spec = importlib.util.spec_from_file_location("fault_hosts", ROOT / "testing" / "faults" / "hosts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WIRES = wires()


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


def ask(name, *words, **more):
    """What `case.ask` answers to whoever asks from there."""
    with at(name):
        return case.ask(*words, **more)


def told(name, *words, **more):
    """What `case.told` answers to whoever asks from there."""
    with at(name):
        return case.told(*words, **more)


def opens(name, url):
    """Why a page cannot be opened from there; None if it can."""
    status, why = ask(name, url)
    return None if status == 200 else f"{status} {why}"


def reaches(place, url):
    """Waits until whoever is there can open the page: the first packet may find nobody who knows the way yet."""
    until(lambda: f"{place.name} opens {url}: {opens(place.name, url)}", 60, lambda: opens(place.name, url) is None)


class Cluster:
    """The machines, with a ZooKeeper beside them, three masters and an agent."""

    def __init__(self):
        self.programs = installed()
        self.network = WIRES.Network(str(WORK), ["a", "b", "c"])
        self.hosts = list(self.network.hosts.values())
        self.zookeepers = f"{WIRES.OWN}:2181"
        self.zk = f"zk://{self.zookeepers}/mesos"
        for host in self.hosts:
            bridge(host)

    def start(self):
        """Begins with what takes longest, and waits for all of it at the end."""
        config = WORK / "zoo.cfg"
        config.write_text(f"tickTime=500\nmaxSessionTimeout=60000\nmaxClientCnxns=0\nadmin.enableServer=false\ndataDir={WORK}/zookeeper\n"
                          f"clientPort=2181\nclientPortAddress={WIRES.OWN}\n")
        Program("zookeeper", "java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Dzookeeper.forceSync=no", "-cp",
                ZOOKEEPER, "org.apache.zookeeper.server.ZooKeeperServerMain", config, cwd=WORK)
        for host in self.hosts:
            Program(f"master-{host.name}", *host.inside(
                f"{self.programs}/mesos-master", f"--ip={host.ip}", "--port=5050", "--no-hostname_lookup", f"--zk={self.zk}", "--quorum=2",
                f"--work_dir={host.folder}/master", "--zk_session_timeout=10secs"), cwd=WORK)
        agent = self.hosts[-1]
        work = f"{agent.folder}/agent"
        Program("agent", *agent.inside(
            f"{self.programs}/mesos-agent", f"--ip={agent.ip}", "--port=5051", "--no-hostname_lookup", f"--master={self.zk}",
            f"--work_dir={work}", f"--runtime_dir={work}-run", f"--fetcher_cache_dir={work}-fetch", f"--launcher_dir={self.programs}",
            "--launcher=posix", "--isolation=posix/cpu,posix/mem,disk/du", "--no-systemd_enable_support", "--containerizers=mesos",
            "--registration_backoff_factor=50ms", "--zk_session_timeout=10secs", "--resources=cpus:4;mem:4096;disk:8192;ports:[31000-31999]"), cwd=WORK)
        until("a master leads and has an agent", 60, lambda: (self.master() or (None, {}))[1].get("activated_slaves"))

    def master(self):
        """The machine of the leading master, and what that says of the cluster."""
        for host in self.hosts:
            state = told(host.name, f"http://{host.ip}:5050/master/state")
            leader = state and state.get("leader")
            if leader:
                return next(host for host in self.hosts if f"@{host.ip}:" in leader), state
        return None

    def framework(self, address):
        """The only one, waited for until it is active and leads whoever clicks on it to that address."""
        def there():
            state = (self.master() or (None, {"frameworks": []}))[1]
            return [(one["active"], one["webui_url"], one) for one in state["frameworks"]]

        def leads_there():
            found = there()
            return found[0][2] if len(found) == 1 and found[0][0] and f"//{address}" in found[0][1] else None

        return until(lambda: f"the framework is at the master, once, active, and leads to {address}: {[one[:2] for one in there()]}",
                     60, leads_there)


def installed():
    """The folder of the programs of Mesos. There is no network in here: they are installed before, by testing/deploy/run."""
    done = run(sys.executable, "-B", MESOS / "cluster.py", "install", stderr=subprocess.PIPE)
    if done.returncode != 0:
        skip(f"no Mesos can be had here: {done.stderr.strip()[-300:]}")
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
        self.process = Program(self.name, "ip", "netns", "exec", self.name, "unshare", "--mount", "--uts", "sh", "-c", inside, "sh",
                               folder / "hosts", self.name, command, cwd=WORK, env=self.environment)

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
        """The answer to a change."""
        return ask(self.name, self.here + path, json.dumps(body).encode(), timeout=LED_S)

    def kill(self):
        self.process.end(signal.SIGKILL)


def settled(instances):
    """One leads and the others stand by: the leader, and one that follows."""
    roles = {instance.name: instance.ready() for instance in instances}
    leaders = [instance for instance in instances if roles[instance.name].get("role") == "leading" and roles[instance.name]["ready"]]
    others = [instance for instance in instances if roles[instance.name].get("role") == "standby" and not roles[instance.name]["reasons"]]
    return (leaders[0], others) if len(leaders) == 1 and len(others) == len(instances) - 1 else None


def succeed(follower, job):
    """A job that is made at a follower, by way of the leader, runs on Mesos, and the follower tells how it ended."""
    status, answer = follower.post("/v1/scheduler/iso8601", {"name": job, "command": "true", "schedule": "R1//PT1H", "epsilon": "PT10M"})
    if status // 100 != 2:
        fail(f"{follower.name} answers {status} when {job} is made there: {answer[:300]}")

    def ended():
        runs = (follower.get(f"/v1/runs?job={job}") or {}).get("runs", [])
        return runs and runs[0].get("outcome")

    outcome = until(f"the run of {job} ends", 60, ended)
    if outcome != "succeeded":
        fail(f"the run of {job} {outcome}: {follower.get(f'/v1/runs?job={job}')}")


def doctor(instance):
    """What `chronos doctor` finds wrong, asked in that container."""
    done = run("ip", "netns", "exec", instance.name, BINARY, "doctor", "--server", instance.here, "--output", "json", stderr=subprocess.DEVNULL)
    return [finding for finding in json.loads(done.stdout) if finding["grade"] == "wrong"]


def published(leader, wanted):
    """The addresses of each node, once all that are wanted are among them."""
    def there():
        found = [node["addresses"] for node in (leader.get("/v1/nodes") or {"nodes": []})["nodes"]]
        return found if set(wanted) <= set(sum(found, [])) else None

    return until(lambda: f"nodes publish {wanted}: {leader.get('/v1/nodes')}", 60, there)
