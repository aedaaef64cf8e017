"""The overlay of Docker itself: an engine on each machine, a swarm of them, and a network that containers attach to."""

import os

import machines
import overlay
from case import BINARY, LOGS, WORK, Program, fail, run, sh, skip, until
from containers import lent_root
from machines import HTTP_PORT

NETWORK = "chronos"


class Engine:
    """The Docker Engine of one machine. Not started by `ip netns exec`, which hides the control groups."""

    def __init__(self, host):
        self.host = host
        self.folder = WORK / f"docker-{host.name}"
        self.folder.mkdir()
        self.process = Program(
            f"dockerd-{host.name}", "nsenter", f"--net=/run/netns/{host.name}", "dockerd", "--host", f"unix://{self.folder}/sock",
            "--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec", "--pidfile", f"{self.folder}/pid", "--bridge", "none")

    def words(self, *words):
        return ["docker", "-H", f"unix://{self.folder}/sock", *words]

    def ask(self, *words):
        return sh(*self.words(*words))

    def answers(self):
        if self.process.poll() is not None:
            skip(f"no Docker Engine starts here: {self.process.said()[-300:]}")
        return (self.folder / "sock").exists() and run(*self.words("version")).returncode == 0


class Swarm:
    """Engines that know each other, and one network of them."""

    name = "Docker's overlay"

    def __init__(self, cluster):
        self.engines = [Engine(host) for host in cluster.hosts]
        for engine in self.engines:
            until(f"the Docker Engine of {engine.host.name} answers", 60, engine.answers)
        first, *others = self.engines
        first.ask("swarm", "init", "--advertise-addr", first.host.ip)
        token = first.ask("swarm", "join-token", "--quiet", "worker")
        for engine in others:
            engine.ask("swarm", "join", "--advertise-addr", engine.host.ip, "--token", token, f"{first.host.ip}:2377")
        first.ask("network", "create", "--driver", "overlay", "--attachable", "--subnet", f"{overlay.SUBNET}.0/24", NETWORK)
        sh("tar", "-C", lent_root("machine", "data"), "-c", "-f", WORK / "machine.tar", ".")
        for engine in self.engines:
            engine.ask("import", WORK / "machine.tar", "machine")

    def end(self):
        for engine in self.engines:
            if running := engine.ask("ps", "--quiet").split():
                run(*engine.words("kill", *running))
            engine.process.end()


class Container(machines.Instance):
    """A server in a container of such an engine."""

    def __init__(self, cluster, engine, number):  # pylint: disable=super-init-not-called
        self.cluster, self.engine, self.host = cluster, engine, engine.host
        self.name = f"chronos-{self.host.name}"
        self.address = f"{overlay.SUBNET}.{number}"
        self.flags = ""
        self.published = None

    @property
    def outside(self):
        return self.published or super().outside

    def publish(self, port):
        """From the next start on."""
        self.published = f"{self.host.ip}:{port}"
        self.flags = f"--webui_url http://{self.published}"

    def start(self):
        ports = ["--publish", f"{self.published.rsplit(':', 1)[1]}:{HTTP_PORT}"] if self.published else []
        command = (f"exec /opt/chronos run_jar --master {self.cluster.zk} --zk_hosts {self.cluster.zookeepers} --http_port {HTTP_PORT} "
                   f"--hostname $(hostname -i) --zk_timeout 4000 --data_dir /data {self.flags}")
        self.engine.ask("run", "--detach", "--name", self.name, "--network", NETWORK, "--ip", self.address, *ports,
                        "--volume", "/usr:/usr:ro", "--volume", "/etc/ssl:/etc/ssl:ro", "--volume", f"{BINARY}:/opt/chronos:ro", "machine", "/bin/sh", "-c", command)
        pid = self.engine.ask("inspect", "--format", "{{.State.Pid}}", self.name)
        LOGS[self.name] = lambda: run(*self.engine.words("logs", self.name)).stdout
        if pid == "0":
            fail(f"{self.name} does not run: {self.engine.ask('logs', self.name)}")
        # So that it is entered like any other namespace.
        link = f"/run/netns/{self.name}"
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(f"/proc/{pid}/ns/net", link)

    def kill(self):
        self.engine.ask("rm", "--force", self.name)
