"""Three nodes of Chronos on hosts of their own, and PostgreSQL on a fourth: the cluster of the fault suite, untroubled."""

import pathlib
import sys

from case import BINARY, LOGS, ROOT, WORK, fail, sh, skip

sys.path.insert(0, str(ROOT / "testing" / "faults"))

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

    def __init__(self):
        if missing := stores.Postgres.missing():
            skip(missing)
        sh("mount", "-t", "tmpfs", "-o", "mode=755", "none", FOLDER)
        network = hosts.Network(FOLDER, cluster.NAMES + stores.Postgres.own_hosts)
        store = stores.Postgres(network, LEASE_S, seed=0)
        super().__init__(BINARY, network, store, engines.Local(network), FOLDER)
        for server in self.servers:
            LOGS[server.name] = lambda server=server: pathlib.Path(server.log_path).read_text(errors="replace")
        self.start()

    def settled(self):
        if wrong := self.wait_settled(60):
            fail(f"the cluster is not whole within 60 s: {wrong}")

    def led(self):
        """Who leads."""
        return self.wait_leader() or fail("nobody leads within 60 s")


def name_hosts(nodes):
    """Lets the names that files in deploy/ hold be those of the nodes."""
    names = "".join(f"{server.host.ip} chronos-{server.name}.example.org\n" for server in nodes.servers)
    (WORK / "hosts").write_text("127.0.0.1 localhost\n" + names)
    sh("mount", "--bind", WORK / "hosts", "/etc/hosts")
