"""Three machines that ansible makes nodes of Chronos, on three ZooKeepers, with tasks on the machines themselves."""

import json
import shutil

from case import BINARY, ROOT, WORK, skip
from debian import Machines, Play

NAMES = ["h1", "h2", "h3"]
GROUPS = {"masters": ["h1"], "agents": ["h2", "h3"], "zookeeper": NAMES, "chronos": NAMES}
OPEN = {"allow_unauthenticated": True}
SETTINGS = {"chronos_binary": BINARY, "zookeeper_heap": "96m", "chronos_on_mesos": False, "chronos_settings": OPEN}
# What the `systemctl` of these machines knows of a unit, where there is none in deploy/systemd.
UNIT = """[Service]
User=chronos
StateDirectory=chronos
WorkingDirectory=/var/lib/chronos
ExecStart=/usr/bin/chronos server --config /etc/chronos/chronos.yaml
"""


class Nodes:
    def __init__(self):
        if not shutil.which("ansible-playbook"):
            skip("ansible-playbook is not here")
        if not (ROOT / "deploy" / "systemd" / "chronos.service").exists():
            (WORK / "chronos.service").write_text(UNIT)
            SETTINGS["chronos_unit"] = str(WORK / "chronos.service")
        self.machines = Machines(*NAMES)

    def play(self, book, *words, groups=GROUPS, of=None, **settings):
        return Play(book, self.machines.inventory(groups, of), "-e", json.dumps({**SETTINGS, **settings}), *words)
