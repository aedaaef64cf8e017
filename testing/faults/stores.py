"""The stores that a cluster may have: how one is started on the hosts, and how it is troubled."""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


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

    def __init__(self, host, store_port):
        program = os.path.join(HERE, "proxy.py")
        super().__init__(host.inside(sys.executable, "-B", program, str(self.PORT), str(store_port)),
                         os.path.join(host.folder, "proxy.log"))
        self.answer()


class Postgres:
    """One PostgreSQL server, on a host of its own."""

    name = "postgres"
    # Beside the three on which Chronos runs.
    own_hosts = ["db"]
    # What is added to the lease until somebody launches again, in DESIGN.
    tick_s = 0.0

    def __init__(self, network, lease_s):
        self.lease_s = lease_s
        self.host = network.hosts["db"]
        run = os.path.join(HERE, "..", "postgres-local", "run")
        self.server = Child(self.host.inside(run, os.path.join(self.host.folder, "postgres")), os.path.join(self.host.folder, "log"))
        url = self.server.answer().removeprefix("listening ")
        port = url.rsplit(":", 1)[1].split("/")[0]
        self.proxies = [Proxy(self.host, port)]
        self.url = f"postgres://postgres@{self.host.ip}:{Proxy.PORT}/postgres"

    def flags(self):
        return ["--database_url", self.url, "--database_lease", f"{self.lease_s}s"]

    def hosts_beside(self, _host):
        """What of the store is on none of the three."""
        return [self.host]

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


STORES = {Postgres.name: Postgres}
