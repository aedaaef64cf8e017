"""A Mesos cluster whose agents run containers, Marathon on it, and Chronos as an app of Marathon.

All of it is in the network of the case. Masters and ZooKeeper are at one address there and every agent has one of its own,
which containers reach like those of other machines, behind the bridge and the mapped ports of Docker.
"""

import json
import subprocess
import sys
import urllib.parse

from case import ROOT, WORK, ask, fail, sh, skip, until
from containers import Engine

AGENTS = 3
APP = "/v2/apps/chronos"


class Fleet:
    def __init__(self, device="lo", network="10.90.0"):
        self.network = network
        self.masters_at = f"{network}.1"
        for address in [self.masters_at, *self.hosts()]:
            sh("ip", "address", "add", f"{address}/32", "dev", device)
        self.engine = Engine()
        command = [ROOT / "testing" / "mesos-local" / "run", WORK / "mesos", "--masters", "3", "--agents", str(AGENTS),
                   "--ip", self.masters_at, "--agent-hostname", f"{network}.1{{}}", "--containerizers", "docker,mesos",
                   f"--agent-flag=--docker_socket={self.engine.socket}",
                   # What an app is given of processors is a bound, as on clusters that many share.
                   "--agent-flag=--cgroups_enable_cfs=true"]
        with (WORK / "mesos.said").open("w") as said:
            self.mesos = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
                                          start_new_session=True)
        word, _, rest = self.mesos.stdout.readline().strip().partition(" ")
        if word != "listening":
            skip(rest or "Mesos does not start here")
        masters, self.zk = rest.split()
        self.masters = masters.split(",")
        self.servers = urllib.parse.urlsplit(self.zk).netloc
        self.begin_marathon()

    def hosts(self):
        return [f"{self.network}.1{number}" for number in range(AGENTS)]

    # Mesos

    def leading_master(self):
        self.mesos.stdin.write("leader\n")
        self.mesos.stdin.flush()
        word, name = self.mesos.stdout.readline().split(maxsplit=1)
        if word != "done":
            fail(f"no master leads: {name}")
        return self.masters[int(name.strip().removeprefix("master-"))]

    def frameworks(self, name):
        """Those of that name which the leading master knows, also such as are over."""
        status, text = ask(f"http://{self.leading_master()}/master/frameworks")
        if status != 200:
            fail(f"the master does not tell its frameworks: {status} {text}")
        told = json.loads(text)
        return [framework for key in ("frameworks", "completed_frameworks") for framework in told.get(key, [])
                if framework["name"] == name]

    # Marathon

    def begin_marathon(self):
        self.marathon_url = f"http://{self.masters_at}:8080"
        self.marathon = subprocess.Popen(
            [sys.executable, ROOT / "testing" / "marathon-local" / "marathon.py", "run", "--dir", WORK / "marathon", "--ip",
             self.masters_at, "--hostname", self.masters_at, "--port", "8080", "--master", self.zk],
            start_new_session=True)
        until("Marathon is a framework of the cluster", 60, lambda: json.loads(
            ask(f"{self.marathon_url}/v2/info")[1] or "{}").get("frameworkId") if self.is_up() else None)

    def is_up(self):
        if self.marathon.poll() is not None:
            fail("Marathon ended")
        return ask(f"{self.marathon_url}/ping")[0] == 200

    def post(self, file):
        """Posts a definition as it is."""
        status, answer = ask(f"{self.marathon_url}/v2/apps", file.read_bytes(), "POST")
        if status != 201:
            fail(f"Marathon does not take {file.name}: {status} {answer}")

    def remove(self):
        """Takes the app away, and waits until its containers are gone."""
        status, answer = ask(f"{self.marathon_url}{APP}", method="DELETE")
        if status != 200:
            fail(f"Marathon does not delete the app: {status} {answer}")
        until("the app is gone", 60, lambda: not json.loads(ask(f"{self.marathon_url}/v2/deployments")[1] or "[0]"))

    def app(self):
        status, text = ask(f"{self.marathon_url}{APP}")
        return json.loads(text)["app"] if status == 200 else {"tasks": [], "tasksHealthy": 0, "deployments": [{}]}

    def healthy(self):
        """Its instances, if all of them run on machines of their own, and all checks of their health are good."""
        app = self.app()
        tasks = app["tasks"]
        whole = len(tasks) == app["tasksHealthy"] == app.get("instances") and not app["deployments"]
        return tasks if whole and len({task["host"] for task in tasks}) == len(tasks) else None

    def container(self, task):
        return self.engine.docker("ps", "-q", "--filter", f"label=MESOS_TASK_ID={task['id']}")

    # Chronos

    def instances(self):
        """What each instance that answers says of itself, with its task and its address."""
        found = []
        for task in self.app()["tasks"]:
            if not task["ports"]:
                continue
            url = f"http://{task['host']}:{task['ports'][0]}"
            status, text = ask(f"{url}/v1/status", timeout=2)
            if status == 200:
                found.append({**json.loads(text), "task": task, "url": url})
        return found

    def settled(self):
        """(leader, the others), if one leads, and all others stand by and know it."""
        found = self.instances()
        leaders = [one for one in found if one["role"] == "leading"]
        others = [one for one in found if one["role"] == "standby" and one["ready"]]
        if len(leaders) == 1 and len(others) == AGENTS - 1 and leaders[0]["ready"]:
            return leaders[0], others
        return None

    def end(self):
        self.marathon.terminate()
        self.marathon.wait()
        self.mesos.stdin.close()
        self.mesos.wait()
        self.engine.end()
