"""Programs that make overlays, played by recorders, and machines that ansible sets up with them.

**None of them is the real one**: they note their words and answer as the real one would. Weave, calicoctl and flanneld cannot
be had here; what Docker and Open vSwitch make of theirs is shown by the cases about networks.
"""

import json
import shutil

from case import fail, skip
from debian import PYTHON, Machines, Play

NAMES = ["m1", "a1", "a2"]
GROUPS = {"masters": ["m1"], "agents": ["a1", "a2"], "zookeeper": ["m1"]}
LOG = "/var/log/recorder.log"

RECORDER = f"""#!{PYTHON}
# RECORDER: no part of the program of this name. It notes how it is called, and answers as that program would.
import json, os, sys, time
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
path = f"/var/lib/recorder-{{name}}.json"
state = json.load(open(path)) if os.path.exists(path) else {{}}
def changes(**more):
    said = sys.stdin.read() if words[-1:] == ["-"] else ""
    open("{LOG}", "a").write(json.dumps([name, *words, *([said] if said else [])]) + "\\n")
    json.dump({{**state, **more}}, open(path, "w"))
def known():
    sys.exit(f"{{name}}: unknown: {{words}}")
if name == "weave":
    if words == ["status"]:
        sys.exit(0 if state.get("runs") else 1)
    elif words == ["ps", "weave:expose"]:
        print("weave:expose 7a:01:02:03:04:05 " + state["has"] if state.get("has") else "", end="")
    elif words[0] == "launch":
        sys.exit("weave is already running") if state.get("runs") else changes(runs=True)
    elif words == ["stop"]:
        changes(runs=False, has=None)
    elif words[0] == "expose":
        changes(has="10.32.1.1/24")
        print("10.32.1.1")
    else:
        known()
elif name == "docker":
    if words[0] == "info":
        print("active" if state.get("swarm") else "inactive")
    elif words[:2] == ["swarm", "join-token"]:
        print("SWMTKN-1-word")
    elif words[:2] in (["swarm", "init"], ["swarm", "join"]):
        changes(swarm=True)
    elif words[:2] == ["network", "ls"]:
        print(state.get("network", ""))
    elif words[:2] == ["network", "create"]:
        changes(network="f00d")
    else:
        known()
elif name == "ovs-vsctl":
    if words[0] == "br-exists":
        sys.exit(0 if state.get("bridge") else 2)
    elif "find" in words:
        print("".join('{{remote_ip="' + peer + '"}}\\n\\n' for peer in state.get("peers", [])), end="")
    elif "add-br" in words:
        changes(bridge=True)
    elif "add-port" in words:
        changes(peers=[*state.get("peers", []), words[-1].partition("=")[2]])
    else:
        known()
elif name == "calicoctl":
    if words == ["node", "status"]:
        sys.exit(0 if state.get("node") else 1)
    elif words[:2] == ["node", "run"]:
        changes(node=True)
    elif words[:2] == ["get", "ippool"]:
        sys.exit(0 if state.get("pool") else 1)
    elif words[0] == "apply":
        changes(pool=True)
    else:
        known()
elif name == "flanneld":
    changes()
    file = next(word for word in words if word.startswith("--subnet-file=")).partition("=")[2]
    os.makedirs(os.path.dirname(file), exist_ok=True)
    open(file, "w").write("FLANNEL_SUBNET=10.32.1.0/26\\n")
    time.sleep(10**6)
"""

LAUNCH = ["weave", "launch", "--rewrite-inspect", "--no-default-ipalloc", "--ipalloc-range", "10.32.0.0/16"]
FLANNEL = ["flanneld", "--etcd-endpoints=http://10.60.0.1:2379", "--etcd-prefix=/chronos/network"]
POOL = {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "chronos"},
        "spec": {"cidr": "10.32.1.0/24", "ipipMode": "Always", "natOutgoing": True}}
M1, A1, A2 = "10.60.0.11", "10.60.0.12", "10.60.0.13"


def vxlan(peer):
    port = "vx" + peer.replace(".", "")
    return ["ovs-vsctl", "--may-exist", "add-port", "chronos", port, "--", "set", "interface", port, "type=vxlan",
            f"options:remote_ip={peer}"]


BRIDGE = ["ovs-vsctl", "--may-exist", "add-br", "chronos", "--", "set", "bridge", "chronos", "rstp_enable=true"]
GOLDEN = {
    "weave": {"m1": [[*LAUNCH, A1, A2], ["weave", "expose", "net:10.32.1.0/24"]], "a1": [[*LAUNCH, M1, A2]], "a2": [[*LAUNCH, M1, A1]]},
    # On two of the machines.
    "docker": {"m1": [["docker", "swarm", "init", "--advertise-addr", M1],
                      ["docker", "network", "create", "--driver", "overlay", "--attachable", "--subnet", "10.32.1.0/24", "chronos"]],
               "a1": [["docker", "swarm", "join", "--token", "SWMTKN-1-word", f"{M1}:2377"]]},
    "ovs": {"m1": [BRIDGE, vxlan(A1)], "a1": [BRIDGE, vxlan(M1)]},
    "calico": {"m1": [["calicoctl", "node", "run", f"--ip={M1}", "--name=m1"], ["calicoctl", "apply", "-f", "-", json.dumps(POOL)]],
               "a1": [["calicoctl", "node", "run", f"--ip={A1}", "--name=a1"]]},
    "flannel": {name: [[*FLANNEL, f"--public-ip={at}", f"--iface={at}", "--subnet-file=/run/flannel/chronos.env"]]
                for name, at in (("m1", M1), ("a1", A1))},
}
PROGRAMS = ["weave", "docker", "ovs-vsctl", "calicoctl", "flanneld"]
FEWER = {"masters": ["m1"], "agents": ["a1"], "zookeeper": ["m1"]}


class Recorded:
    """Machines with recorders."""

    def __init__(self):
        if not shutil.which("ansible-playbook"):
            skip("ansible-playbook is not here")
        self.machines = Machines(*NAMES)
        for name in NAMES:
            for program in PROGRAMS:
                self.machines.put(name, f"/usr/local/bin/{program}", RECORDER)

    def play(self, book, *words, groups=GROUPS, **settings):
        settings = {"overlay_etcd": "http://10.60.0.1:2379", **settings}
        return Play(book, self.machines.inventory(groups), "-e", json.dumps(settings), *words)

    def told(self):
        """What the recorders were told since the last look."""
        found = {}
        for name in NAMES:
            found[name] = [json.loads(line) for line in self.machines.read(name, LOG).split("\n") if line]
            self.machines.sh(name, f"rm -f {LOG}")
        return found

    def is_golden(self, driver):
        found = self.told()
        for name, wanted in GOLDEN[driver].items():
            # JSON that is given to a program is compared as what it means.
            plain = [[json.dumps(json.loads(word)) if word.startswith("{") else word for word in words] for words in found[name]]
            if sorted(plain) != sorted(wanted):
                fail(f"{driver}: {name} was told {plain}, and {wanted} is wanted")

    def sockets(self):
        """That of Docker which agents are told, of each."""
        return [self.machines.read(name, "/etc/mesos-slave/docker_socket") for name in ("a1", "a2")]
