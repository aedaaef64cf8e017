"""Chronos as an app of Marathon whose instances are containers.

All of it is in the network of the case. Masters and ZooKeeper are at one address there and every agent has one of its own,
which containers reach like those of other machines, behind the bridge and the mapped ports of Docker.
"""

from case import sh, told
from cell import Cell
from containers import Engine

AGENTS = 3


class Fleet(Cell):
    def __init__(self, device="lo", network="10.90.0"):
        self.network = network
        address = f"{network}.1"
        for each in [address, *self.hosts()]:
            sh("ip", "address", "add", f"{each}/32", "dev", device)
        self.engine = Engine()
        super().__init__(address, "--agents", str(AGENTS), "--agent-hostname", f"{network}.1{{}}", "--containerizers", "docker,mesos",
                         f"--agent-flag=--docker_socket={self.engine.socket}",
                         # What an app is given of processors is a bound, as on clusters that many share.
                         "--agent-flag=--cgroups_enable_cfs=true")

    def hosts(self):
        return [f"{self.network}.1{number}" for number in range(AGENTS)]

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
            if said := told(f"{url}/v1/status"):
                found.append({**said, "task": task, "url": url})
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
        super().end()
        self.engine.end()
