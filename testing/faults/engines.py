"""Where tasks run: on the hosts of Chronos themselves, or on a cluster of Mesos beside them."""

import os
import subprocess
import sys

from stores import Child

HERE = os.path.dirname(os.path.abspath(__file__))
CLUSTER = os.path.join(HERE, "..", "mesos-local")


class Local:
    """Processes of the node that leads."""

    name = "local"
    own_hosts = []
    # What is added to the bound of a cycle, and the place of tasks that are on none of the servers.
    extra_s = 0.0
    places = {}
    # From the decision to the first line of a task, on a busy machine: the decision is kept first.
    begins_ms = 5_000
    # What an engine of its own troubles takes longer, beyond `extra_s`, to be as before.
    recovers_s = 0.0
    # Longer than that there is no time between two beats when all is well.
    quiet_s = 1.0
    # What begins so soon after it was due was not held up by anything.
    usual_s = 0.0

    @staticmethod
    def missing():
        """What is not here, if something is not."""

    def __init__(self, _network):
        pass

    def flags(self):
        return []

    def place(self, _node):
        return None


class Mesos:
    """Three masters and two agents, all on one host that is not among those of Chronos."""

    name = "mesos"
    own_hosts = ["mesos"]
    # A new leader subscribes; then offers come, once a second.
    extra_s = 4.0
    # An offer is waited for, and an executor started: some ten in a second, on a busy machine fewer.
    begins_ms = 20_000
    MASTERS, AGENTS = 3, 2
    # How long the agents have to answer the masters, and what they need to find each other again.
    UNREACHABLE_S, BACK_S = 6.0, 14.0
    recovers_s = BACK_S
    quiet_s = 2.0
    usual_s = 3.0

    @staticmethod
    def missing():
        """What is not here, if something is not."""
        done = subprocess.run([sys.executable, "-B", os.path.join(CLUSTER, "cluster.py"), "install"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]

    def __init__(self, network):
        self.host = network.hosts["mesos"]
        # Agents name themselves to their tasks; what those write is in a folder of that name.
        self.places = {f"m{n}": os.path.join(os.path.dirname(self.host.folder), f"m{n}") for n in range(self.AGENTS)}
        for folder in self.places.values():
            os.makedirs(folder, exist_ok=True)
            open(os.path.join(folder, "lines"), "ab").close()
        words = ["--masters", str(self.MASTERS), "--agents", str(self.AGENTS), "--ip", self.host.ip, "--agent-hostname", "m{}"]
        self.cluster = Child(self.host.inside(os.path.join(CLUSTER, "run"), os.path.join(self.host.folder, "cluster"), *words),
                             os.path.join(self.host.folder, "log"))
        said = self.cluster.answer().split(" ")
        self.zk = said[2]
        first = int(said[1].split(",")[0].rsplit(":", 1)[1]) + 1
        # Agents listen on the ports after that of the first master.
        self.of_port = {str(first + n): f"m{n}" for n in range(self.AGENTS)}

    def flags(self):
        return ["--master", self.zk, "--mesos_framework_name", "faults", "--mesos_task_cpu", "0.05", "--mesos_task_mem", "16",
                "--mesos_task_disk", "8", "--min_revive_offers_interval", "500", "--failover_timeout", "600"]

    def place(self, node):
        """The agent of `mesos://HOST:PORT/AGENT/FRAMEWORK`."""
        parts = (node or "").split("/")
        return self.of_port.get(parts[2].rsplit(":", 1)[-1]) if len(parts) > 2 else None

    def order(self, what, name):
        self.cluster.order(f"{what} {name}")

    def leader(self):
        """The master that leads."""
        answer = self.cluster.order("leader")
        return answer.split(" ")[1] if answer.startswith("done") else "master-0"


ENGINES = {engine.name: engine for engine in (Local, Mesos)}
