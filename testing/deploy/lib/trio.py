"""Three nodes of Chronos on hosts of their own, and PostgreSQL on a fourth: the cluster of the fault suite, untroubled."""

import os
import subprocess
import sys

ROOT = os.environ["CHRONOS_ROOT"]
sys.path.insert(0, os.path.join(ROOT, "testing", "faults"))

import api  # noqa: E402,F401 (found by the line above, and used by cases)
import cluster  # noqa: E402
import engines  # noqa: E402
import hosts  # noqa: E402
import stores  # noqa: E402

# Nobody shifts a clock here.
cluster.faketime = lambda: None
# The shortest that Chronos takes: fail-overs are what is waited for.
LEASE_S = 4
# The database runs as another user, who may not look into the folder of the case.
FOLDER = "/mnt"


class Trio(cluster.Cluster):
    """Started, and settled: one leads, the others stand by."""

    def __init__(self, binary=os.environ["CHRONOS_BIN"]):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", FOLDER], check=True)
        missing = stores.Postgres.missing()
        if missing:
            raise SystemExit(missing)
        network = hosts.Network(FOLDER, cluster.NAMES + stores.Postgres.own_hosts)
        store = stores.Postgres(network, LEASE_S)
        super().__init__(binary, network, store, engines.Local(network), FOLDER)
        self.start()

    def settled(self):
        wrong = self.wait_settled(60)
        if wrong:
            raise SystemExit(f"the cluster is not whole within 60 s: {wrong}\n{self.logs()}")

    def logs(self, lines=15):
        """The end of what each node has said."""
        told = []
        for server in self.servers:
            with open(server.log_path, encoding="utf-8", errors="replace") as log:
                told += [f"--- {server.name}", *log.read().splitlines()[-lines:]]
        return "\n".join(told)


def name_hosts(cluster_of, work):
    """Lets the names that files in deploy/ hold be those of the nodes."""
    path = os.path.join(work, "hosts")
    with open(path, "w", encoding="ascii") as file:
        file.write("127.0.0.1 localhost\n")
        for server in cluster_of.servers:
            file.write(f"{server.host.ip} chronos-{server.name}.example.org\n")
    subprocess.run(["mount", "--bind", path, "/etc/hosts"], check=True)
