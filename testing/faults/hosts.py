"""Hosts: network namespaces on one bridge, and what can go wrong between them.

The bridge is in the network namespace that the whole suite runs in, which nobody else is in: the packet filter of the
machine, and that of a Docker Engine on it, have no say here.
"""

import os
import subprocess

NETWORK = "10.77.0."
# Where the suite itself is.
OWN = NETWORK + "254"


def sh(*words, check=True):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")


class Host:
    """A machine of the cluster."""

    def __init__(self, name, number, folder):
        self.name = name
        self.ip = NETWORK + str(number)
        self.folder = os.path.join(folder, name)
        os.makedirs(self.folder, exist_ok=True)
        os.chmod(self.folder, 0o755)

    def inside(self, *words):
        """The command that runs `words` on this host. It replaces itself: its pid is that of the program."""
        named = ["unshare", "--uts", "sh", "-c", 'echo "$0" >/proc/sys/kernel/hostname; exec "$@"', self.name]
        return ["ip", "netns", "exec", self.name, *named, *words]

    def __repr__(self):
        return self.name


class Network:
    """All hosts, each reached by each, until something is cut."""

    def __init__(self, folder, names):
        os.makedirs("/run/netns", exist_ok=True)
        # Ours alone, and gone with the mount namespace.
        sh("mount", "-t", "tmpfs", "none", "/run/netns")
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "link", "add", "name", "faults", "type", "bridge")
        sh("ip", "addr", "add", OWN + "/24", "dev", "faults")
        sh("ip", "link", "set", "faults", "up")
        self.hosts = {name: Host(name, number, folder) for number, name in enumerate(names, 1)}
        for host in self.hosts.values():
            link = f"to-{host.name}"
            sh("ip", "netns", "add", host.name)
            sh("ip", "link", "add", "name", link, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            sh("ip", "link", "set", link, "master", "faults", "up")
            for words in (["addr", "add", host.ip + "/24", "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
                sh("ip", "-n", host.name, *words)
        self.cuts = []

    def _blackhole(self, at, towards):
        sh("ip", "-n", at.name, "route", "add", "blackhole", towards.ip + "/32")
        self.cuts.append(("ip", "-n", at.name, "route", "del", "blackhole", towards.ip + "/32"))

    def _drop(self, at, *what):
        words = ("ip", "netns", "exec", at.name, "iptables", "-w")
        rule = ("INPUT", *what, "-j", "DROP")
        sh(*words, "-A", *rule)
        self.cuts.append((*words, "-D", *rule))

    def deafen(self, at, towards):
        """`at` hears nothing of `towards` any more; what it says still arrives."""
        self._drop(at, "-s", towards.ip)

    def cut(self, some, others, how):
        """Nothing passes between the two sides. By routes, those who send are told so at once; by filters, all is silence."""
        for a in some:
            for b in others:
                for at, towards in ((a, b), (b, a)):
                    (self._blackhole if how == "routes" else self.deafen)(at, towards)

    def close(self, hosts, port):
        """None of these is reached by another of them at this port."""
        for at in hosts:
            for towards in hosts:
                if at is not towards:
                    self._drop(at, "-s", towards.ip, "-p", "tcp", "--dport", str(port))

    def heal(self):
        while self.cuts:
            sh(*self.cuts.pop(), check=False)
