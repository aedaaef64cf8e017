"""Containers on an overlay of 10.32.1.0/24, and what holds with every program that makes one: nobody outside reaches them,
until the machines of the masters are given an address there."""

import ctypes
import fcntl
import os
import socket
import struct

import machines
from case import WORK, Program, fail, ok, sh, until
from machines import HTTP_PORT, at, opens

SUBNET = "10.32.1"
BRIDGE = "overlay"
# What VXLAN adds to a packet is 50 bytes.
MTU = 1450


class Vxlan:
    """That of the kernel: what a machine sends to all goes to each other machine."""

    name = "the kernel's VXLAN"

    def __init__(self, hosts):
        for host in hosts:
            sh("ip", "-n", host.name, "link", "add", "name", BRIDGE, "mtu", str(MTU), "type", "bridge")
            sh("ip", "-n", host.name, "link", "set", BRIDGE, "up")
            sh("ip", "-n", host.name, "link", "add", "name", "vxlan0", "type", "vxlan", "id", "42", "dstport", "4789", "local", host.ip,
               "dev", "eth0")
            sh("ip", "-n", host.name, "link", "set", "vxlan0", "mtu", str(MTU), "master", BRIDGE, "up")
            for other in hosts:
                if other is not host:
                    sh("ip", "netns", "exec", host.name, "bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vxlan0", "dst", other.ip)

    def join(self, instance, number):
        """Its address, which is what its name means in there from now on."""
        instance.plug(BRIDGE, "ethwe", f"{SUBNET}.{number}/24")
        sh("ip", "-n", instance.name, "link", "set", "ethwe", "mtu", str(MTU))
        instance.address = f"{SUBNET}.{number}"

    def expose(self, host, number):
        """What `weave expose` does: the machine itself is in the overlay."""
        sh("ip", "-n", host.name, "addr", "add", f"{SUBNET}.{number}/24", "dev", BRIDGE)


class OpenVSwitch:
    """Debian's, with its datapath in user space, where it needs no module of the kernel: taps and raw sockets carry all."""

    name = "Open vSwitch (datapath in user space)"
    SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"

    def __init__(self, cluster):
        for host in cluster.hosts:
            # It hands on frames as it finds them: what a sender leaves to its network card, nobody would do.
            checksums_in_software(None, f"to-{host.name}")
            self.daemons(host)
            # The address of the machine moves to the bridge that its wire is in, or tunnels find no way out.
            self.bridge(host, "underlay")
            self.vsctl(host, "add-port", "underlay", "eth0")
            sh("ip", "-n", host.name, "addr", "del", host.ip + "/24", "dev", "eth0")
            sh("ip", "-n", host.name, "addr", "add", host.ip + "/24", "dev", "underlay")
            self.bridge(host, BRIDGE)
            for other in cluster.hosts:
                if other is not host:
                    port = f"to-{other.name}"
                    # Protected ports hand nothing to each other, or a frame for all would go round for ever.
                    self.vsctl(host, "add-port", BRIDGE, port, "--", "set", "port", port, "protected=true", "--", "set", "interface", port,
                               "type=vxlan", f"options:remote_ip={other.ip}", "options:key=42")

    def daemons(self, host):
        folder = WORK / f"ovs-{host.name}"
        folder.mkdir()
        environment = {**os.environ, **{f"OVS_{kind}DIR": str(folder) for kind in ("RUN", "LOG", "DB", "SYSCONF")}}
        sh("ovsdb-tool", "create", str(folder / "conf.db"), self.SCHEMA)
        remote = f"unix:{folder}/db.sock"
        Program(f"ovsdb-{host.name}", *host.inside("ovsdb-server", folder / "conf.db", f"--remote=p{remote}"), cwd=WORK, env=environment)
        until("the database of Open vSwitch listens", 60, (folder / "db.sock").exists)
        sh("ovs-vsctl", f"--db={remote}", "--no-wait", "init")
        Program(f"vswitchd-{host.name}", *host.inside("ovs-vswitchd", remote), cwd=WORK, env=environment)

    def vsctl(self, host, *words):
        sh("ovs-vsctl", f"--db=unix:{WORK}/ovs-{host.name}/db.sock", "--timeout=60", *words)

    def bridge(self, host, name):
        self.vsctl(host, "add-br", name, "--", "set", "bridge", name, "datapath_type=netdev")
        sh("ip", "-n", host.name, "link", "set", name, "up", "mtu", "1500" if name == "underlay" else str(MTU))

    def join(self, instance, number):
        instance.address = f"{SUBNET}.{number}"
        instance.wire("ethwe", instance.address + "/24")
        sh("ip", "-n", instance.name, "link", "set", "ethwe", "mtu", str(MTU))
        checksums_in_software(instance.name, "ethwe")
        self.vsctl(instance.host, "add-port", BRIDGE, "ethwe-c")

    expose = Vxlan.expose


def checksums_in_software(name, interface):
    """`ethtool -K INTERFACE tx off`, in a namespace or here."""
    value = ctypes.create_string_buffer(struct.pack("II", 0x17, 0))
    request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))

    def ask():
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, 0x8946, request)

    if name is None:
        ask()
    else:
        with at(name):
            ask()


def prove(overlay, cluster):
    """All that is promised of instances on an overlay. `overlay` is laid already."""
    instances = [machines.Instance(cluster, host) for host in cluster.hosts]
    for number, instance in enumerate(instances, 1):
        overlay.join(instance, number)
        instance.start()
    leader, _, framework = closed(overlay.name, cluster, instances)

    for number, host in enumerate(cluster.hosts, 1):
        overlay.expose(host, 250 + number)
    opened(cluster, instances, framework["webui_url"])
    ok("after exposure every machine of a master opens it, and reaches every instance")

    leader.kill()
    left = [instance for instance in instances if instance is not leader]
    heir, others = until("another leads", 60, lambda: machines.settled(left))
    again = cluster.framework(heir.outside)
    if again["id"] != framework["id"]:
        fail(f"the framework was {framework['id']} and is {again['id']}")
    for host in cluster.hosts:
        machines.reaches(host, again["webui_url"])
    machines.succeed(others[0], "after-exposure")
    ok(f"{leader.name} is killed: {heir.name} leads under the same framework id, and the web UI is its own")
    return heir, others


def closed(name, cluster, instances):
    """Registration and forwarding work, and no machine opens the web UI: the leader, the others, the framework."""
    leader, others = until("one leads, two stand by", 60, lambda: machines.settled(instances))
    framework = cluster.framework(leader.outside)
    ok(f"on {name}: {leader.name} leads, the framework is registered once and active")

    machines.published(leader, [f"{instance.address}:{HTTP_PORT}" for instance in instances])
    machines.succeed(others[0], "before-exposure")
    ok("a follower hands a new job to the leader over the overlay, and its task runs on an agent")

    url = framework["webui_url"]
    for host in cluster.hosts:
        if opens(host.name, url) is None:
            fail(f"{host.name} opens {url} though nothing has been exposed")
    machines.reaches(others[0], url)
    ok(f"before exposure no machine of a master opens the web UI {url}; containers on the overlay do")
    return leader, others, framework


def opened(cluster, instances, url):
    """Every machine opens the web UI, and reaches every instance."""
    for host in cluster.hosts:
        for page in (url, *[f"http://{instance.outside}/ping" for instance in instances]):
            machines.reaches(host, page)
