"""The stores that a cluster may have: how one is started on the hosts, and how it is troubled."""

import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "zookeeper-local"))

import zookeeper_versions  # noqa: E402 (found by the line above)


class Child:
    """A program that takes orders on its standard input and answers each with a line."""

    def __init__(self, words, log):
        self.log = open(log, "ab")
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        start_new_session=True)

    def answer(self):
        line = self.process.stdout.readline().decode().strip()
        if not line or line.startswith("cannot"):
            raise RuntimeError(f"{self.process.args}: {line or 'it has ended'}, see {self.log.name}")
        return line

    def order(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()
        return self.answer()


class Proxy(Child):
    """See proxy.py. Where a server finds the store is this one's port."""

    PORT = 6001

    def __init__(self, host, store_port, seed):
        program = os.path.join(HERE, "proxy.py")
        super().__init__(host.inside(sys.executable, "-B", program, str(self.PORT), str(store_port), f"{seed} {host.name}"),
                         os.path.join(host.folder, "proxy.log"))
        self.answer()


class Postgres:
    """One PostgreSQL server, on a host of its own."""

    name = "postgres"
    # Beside the three on which Chronos runs.
    own_hosts = ["db"]
    # What is added to the lease until somebody launches again, in the target.
    tick_s = 0.0
    # For how long an outcome of a run of this suite is there; None until its end.
    history_lasts_s = None
    # What a store that has to elect a leader of its own needs for that.
    election_s = 0.0

    @staticmethod
    def missing():
        """What is not here, if something is not."""
        there = shutil.which("initdb") or glob.glob("/usr/lib/postgresql/*/bin/initdb")
        return None if there else "no PostgreSQL is here"

    def __init__(self, network, lease_s, seed):
        self.lease_s = lease_s
        self.host = network.hosts["db"]
        self.own = [self.host]
        run = os.path.join(HERE, "..", "postgres-local", "run")
        self.server = Child(self.host.inside(run, os.path.join(self.host.folder, "postgres")), os.path.join(self.host.folder, "log"))
        url = self.server.answer().removeprefix("listening ")
        port = url.rsplit(":", 1)[1].split("/")[0]
        self.proxies = [Proxy(self.host, port, seed)]
        self.url = f"postgres://postgres@{self.host.ip}:{Proxy.PORT}/postgres"

    def flags(self):
        return ["--database_url", self.url, "--database_lease", f"{self.lease_s}s", "--history_count_max", "100000000"]

    def settle(self):
        """One server has nobody to agree with."""

    def is_led_from(self, _hosts):
        """Whether the store loses a leader of its own with these hosts."""
        return False

    def cut_from(self, network, host, how):
        """This host does not reach the store any more, and still reaches the others."""
        network.cut([host], self.own, how)

    def stop(self):
        self.server.order("stop")

    def start(self):
        self.server.order("start")

    def freeze(self):
        self.server.order("pause")

    def thaw(self):
        self.server.order("go on")

    def trouble(self, order):
        for proxy in self.proxies:
            proxy.order(order)


class ZooKeeper:
    """Three servers of ZooKeeper, one on each host of Chronos."""

    name = "zookeeper"
    own_hosts = []
    own = []
    # Short, so that elections take part of a second and sessions of four seconds are allowed.
    tick_s = 0.5
    # How many outcomes of a job are kept, and how long they last of one that is due each second.
    HISTORY_COUNT = 200
    history_lasts_s = HISTORY_COUNT * 0.9
    # Six ticks until the others miss it, and the election.
    election_s = 5.0
    # Who looks for a leader asks the others again after twice the time, up to a minute as it comes: after a partition that is
    # over two servers may both wait for the third, and that was seen to ask 0.4, 0.8, 1.6, 3.2 and 6.4 s later.
    ELECTION_ASKS_MAX_MS = 1600
    # Who leads waits so long for the others to come. One that was elected by those whom it did not hear, and comes to lead when
    # they have given it up, was seen to wait for 20 s before it asked again.
    INIT_TICKS = 12
    # Within this all are together again, whatever was done to them. Seconds.
    TOGETHER_S = 60
    VERSIONS = zookeeper_versions.VERSIONS
    # The newest that is known, as the others lose what they have acknowledged.
    version = zookeeper_versions.NEWER
    PORT = 2181

    @staticmethod
    def missing():
        """What is not here, if something is not and cannot be fetched."""
        return zookeeper_versions.missing(ZooKeeper.version)

    def __init__(self, network, lease_s, seed):
        self.lease_s = lease_s
        self.hosts = list(network.hosts.values())
        self.running = {}
        peers = "".join(f"server.{n}={host.ip}:2888:3888\n" for n, host in enumerate(self.hosts, 1))
        for number, host in enumerate(self.hosts, 1):
            data = os.path.join(host.folder, "zookeeper")
            os.makedirs(data)
            with open(os.path.join(data, "myid"), "w", encoding="ascii") as file:
                file.write(f"{number}\n")
            with open(os.path.join(host.folder, "zoo.cfg"), "w", encoding="ascii") as file:
                file.write(f"tickTime={int(self.tick_s * 1000)}\ninitLimit={self.INIT_TICKS}\nsyncLimit=6\nmaxSessionTimeout=60000\nmaxClientCnxns=0\n"
                           f"admin.enableServer=false\n4lw.commands.whitelist=srvr\ndataDir={data}\n"
                           f"clientPort={self.PORT}\nclientPortAddress=127.0.0.1\n{peers}")
            self.launch(host)
        self.proxies = [Proxy(host, self.PORT, seed) for host in self.hosts]
        self.wait_served(self.hosts)

    def launch(self, host):
        flags = ["-Xms32m", "-Xmx256m", "-Dzookeeper.preAllocSize=1024",
                 f"-Dzookeeper.fastleader.maxNotificationInterval={self.ELECTION_ASKS_MAX_MS}"]
        words = zookeeper_versions.command(self.version, flags, "quorum.QuorumPeerMain", os.path.join(host.folder, "zoo.cfg"))
        with open(os.path.join(host.folder, "zookeeper.log"), "ab") as log:
            self.running[host.name] = subprocess.Popen(host.inside(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                       cwd=host.folder, start_new_session=True)

    def said(self, host, word):
        """What a server says of itself after this word; None if it does not serve."""
        try:
            with socket.create_connection((host.ip, Proxy.PORT), 1) as link:
                link.settimeout(1)
                link.sendall(b"srvr")
                said = b""
                while piece := link.recv(4096):
                    said += piece
        except OSError:
            return None
        found = [line[len(word):].strip() for line in said.decode(errors="replace").splitlines() if line.startswith(word)]
        return found[0] if found else None

    def mode(self, host):
        """Whether it leads or follows."""
        return self.said(host, "Mode:")

    def settle(self):
        """Waits until all servers serve: what a fault takes away, and how long nobody may launch, is known only then. After a cut
        of 80 s one was seen to find the others 28 s after the heal, as connections send again ever more seldom. Where they are old
        also until they are in one epoch and have been for a moment: ZooKeeper before 3.9.4 loses what it has acknowledged if its
        leader dies while another server is brought up to date: not a fault of Chronos, and not one to be found here again and
        again."""
        deadline = time.monotonic() + self.TOGETHER_S
        while time.monotonic() < deadline and any(self.mode(host) is None for host in self.hosts):
            time.sleep(0.1)
        if self.version != zookeeper_versions.DEBIAN:
            return
        deadline = time.monotonic() + 30
        since, epochs = time.monotonic(), None
        while time.monotonic() < deadline and (epochs is None or time.monotonic() - since < 0.7):
            ids = [self.said(host, "Zxid:") for host in self.hosts]
            now = {int(one, 16) >> 32 for one in ids if one}
            whole = now if None not in ids and len(now) == 1 else None
            if whole is None or whole != epochs:
                since, epochs = time.monotonic(), whole
            time.sleep(0.1)

    def wait_served(self, hosts):
        deadline = time.monotonic() + 90
        while waiting := [host.name for host in hosts if self.mode(host) is None]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the ZooKeeper of {', '.join(waiting)} does not serve")
            time.sleep(0.1)

    def flags(self):
        hosts = ",".join(f"{host.ip}:{Proxy.PORT}" for host in self.hosts)
        return ["--zk_hosts", hosts, "--zk_path", "/chronos/state", "--zk_timeout", str(self.lease_s * 1000),
                "--history_count_max", str(self.HISTORY_COUNT)]

    def is_led_from(self, hosts):
        return self.leader() in hosts

    def cut_from(self, _network, host, _how):
        self.trouble(f"mute {host.ip}")

    def leader(self):
        return next((host for host in self.hosts if self.mode(host) == "leader"), self.hosts[0])

    def kill(self, hosts):
        for host in hosts:
            self.running[host.name].kill()
        for host in hosts:
            self.running[host.name].wait()

    def stop(self):
        self.kill(self.hosts)

    def start(self):
        """Those that are not there."""
        for host in self.hosts:
            if self.running[host.name].poll() is not None:
                self.launch(host)
        self.wait_served(self.hosts)

    def freeze(self):
        for process in self.running.values():
            process.send_signal(signal.SIGSTOP)

    def thaw(self):
        for process in self.running.values():
            process.send_signal(signal.SIGCONT)

    def trouble(self, order):
        for proxy in self.proxies:
            proxy.order(order)


STORES = {store.name: store for store in (Postgres, ZooKeeper)}
