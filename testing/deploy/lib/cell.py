"""Three masters of Mesos, a ZooKeeper, agents, and Marathon on them, which starts instances of Chronos as its app."""

import sys
import urllib.parse

from case import LOGS, ROOT, WORK, Keeper, Program, ask, fail, told, until

APP = "/v2/apps/chronos"
# No case is about masters or agents that die. On a busy machine a master that misses its session would, for good.
PATIENT = ["--master-flag=--zk_session_timeout=10secs", "--agent-flag=--zk_session_timeout=10secs",
           "--master-flag=--max_agent_ping_timeouts=60"]
INSTANCES_SHOWN = 3


class Cell:
    def __init__(self, address, *options):
        self.mesos = Keeper("mesos", ROOT / "testing" / "mesos-local" / "run", WORK / "mesos", "--masters", "3", "--ip", address,
                            *PATIENT, *options)
        masters, self.zk = self.mesos.holds.split()
        self.masters = masters.split(",")
        self.servers = urllib.parse.urlsplit(self.zk).netloc
        self.marathon_url = f"http://{address}:8080"
        self.marathon = Program("marathon", sys.executable, ROOT / "testing" / "marathon-local" / "marathon.py", "run", "--dir",
                                WORK / "marathon", "--ip", address, "--hostname", address, "--port", "8080", "--master", self.zk)
        LOGS["marathon.log"] = self.scheduled
        for age in range(INSTANCES_SHOWN, 0, -1):
            LOGS[f"instance of Chronos, the last but {age - 1}"] = lambda age=age: self.said(age)
        until("Marathon is a framework of the cluster", 60, lambda: (told(f"{self.marathon_url}/v2/info") or {}).get("frameworkId"))

    @staticmethod
    def scheduled():
        """What Marathon has done; what it was asked is most of its log."""
        lines = (WORK / "marathon" / "marathon.log").read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if " api " not in line)

    @staticmethod
    def said(age):
        """What an instance has said, by its age."""
        files = WORK.glob("mesos/agent-*/slaves/*/frameworks/*/executors/chronos.*/runs/*/stderr")
        files = [path for path in files if not path.parent.is_symlink()]
        return sorted(files, key=lambda path: path.stat().st_mtime)[-age].read_text(errors="replace") if len(files) >= age else ""

    # Mesos

    def leading_master(self):
        def leads():
            word, name = self.mesos.order("leader")
            return self.masters[int(name.removeprefix("master-"))] if word == "done" else None
        return until("a master leads", 60, leads)

    def frameworks(self, name="chronos"):
        """id -> what the leading master says of it, of all of that name; those that are over are not active."""
        said = until("the leading master tells its frameworks", 60, lambda: told(f"http://{self.leading_master()}/master/frameworks"))
        return {one["id"]: {"tasks": [], **one, "active": one["active"] and key == "frameworks"}
                for key in ("completed_frameworks", "frameworks") for one in said.get(key, []) if one["name"] == name}

    # The app

    def post(self, definition):
        status, answer = ask(f"{self.marathon_url}/v2/apps", definition.encode(), "POST")
        if status != 201:
            fail(f"Marathon does not take the app: {status} {answer}")

    def remove(self):
        """Takes the app away, and waits until its tasks are gone."""
        status, answer = ask(f"{self.marathon_url}{APP}", method="DELETE")
        if status != 200:
            fail(f"Marathon does not delete the app: {status} {answer}")
        until("the app is gone", 60, lambda: told(f"{self.marathon_url}/v2/deployments") == [])

    def app(self):
        return (told(f"{self.marathon_url}{APP}") or {}).get("app", {"tasks": [], "tasksHealthy": 0, "deployments": [{}]})

    def end(self):
        self.marathon.end()
        self.mesos.end()
