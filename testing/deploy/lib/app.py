"""Chronos as an app of Marathon whose instances are processes of the agents, not containers."""

import json
import os
import subprocess

from case import BINARY, ROOT, ask, fail, run, told, until
from cell import Cell

INSTANCES = 2
ZK_PATH = "/chronos/state"
WRAPPER = ROOT / "deploy" / "bin" / "restart_chronos.sh"


class App(Cell):
    def __init__(self):
        # Masters at one address, every agent at one of its own, so that an app can ask for a machine for each instance.
        super().__init__("127.0.0.1", "--agents", str(INSTANCES), "--agent-hostname", "127.0.0.1{}",
                         "--resources", "cpus:4;mem:2048;disk:4096")

    # Mesos

    def followers(self):
        leader = self.leading_master()
        return [master for master in self.masters if master != leader]

    def ours(self):
        """Id of the framework that is active, if it is one."""
        found = [key for key, one in self.frameworks().items() if one["active"]]
        return found[0] if len(found) == 1 else None

    def tasks(self, framework):
        """What runs of it."""
        return self.frameworks().get(framework, {"tasks": []})["tasks"]

    def teardown(self, framework):
        status, text = ask(f"http://{self.leading_master()}/master/teardown", f"frameworkId={framework}".encode(), "POST")
        if status != 200:
            fail(f"the master does not end {framework}: {status} {text}")

    # The app

    def definition(self):
        command = (f"exec {BINARY} run_jar --master {self.zk} --zk_hosts {self.servers} --zk_path {ZK_PATH} --zk_timeout 4000 "
                   "--http_port $PORT0 --hostname $HOST --mesos_task_mem 32 --mesos_task_disk 16 "
                   "--min_revive_offers_interval 500")
        return {"id": "chronos", "instances": INSTANCES, "cpus": 0.1, "mem": 128, "cmd": command, "ports": [0],
                "constraints": [["hostname", "UNIQUE"]], "env": {"RUST_BACKTRACE": "0"},
                "healthChecks": [{"protocol": "HTTP", "portIndex": 0, "path": "/ping", "gracePeriodSeconds": 30,
                                  "intervalSeconds": 1, "maxConsecutiveFailures": 10}]}

    def start(self):
        self.post(json.dumps(self.definition()))

    def urls(self):
        return [f"http://{task['host']}:{task['ports'][0]}" for task in self.app()["tasks"] if task.get("ports")]

    def leader(self):
        """URL of the instance that leads and is ready."""
        return next((url for url in self.urls() if (told(f"{url}/ready") or {}).get("role") == "leading"), None)

    def led(self):
        return until(lambda: f"an instance leads: {[ask(url + '/ready') for url in self.urls()]}, {self.app()}", 90, self.leader)

    def of_leader(self, path):
        """What whoever leads answers there; it may be another one meanwhile."""
        [answer] = until(f"the leader tells {path}", 60, lambda: None if (found := told(self.led() + path)) is None else [found])
        return answer

    def jobs(self):
        """name -> definition, of the leader."""
        # What a run that ends changes is no part of a definition.
        keys = ("name", "schedule", "command", "cpus", "mem", "parents", "retries", "epsilon")
        return {job["name"]: {key: job.get(key) for key in keys} for job in self.of_leader("/v1/scheduler/jobs")}

    def create(self, job):
        def taken():
            status, answer = ask(f"{self.led()}/v1/scheduler/iso8601", json.dumps(job).encode(), "POST", timeout=20)
            if status // 100 == 4:
                fail(f"`{job['name']}` was refused: {status} {answer}")
            return status // 100 == 2
        until(f"`{job['name']}` is taken", 60, taken)

    # The command

    def environment(self):
        return {**os.environ, "CHRONOS": BINARY, "CHRONOS_MARATHON": self.marathon_url, "CHRONOS_MASTER": self.zk,
                "CHRONOS_ZK_HOSTS": self.servers, "CHRONOS_ZK_PATH": ZK_PATH}

    def command(self, *words, **more):
        """Exit code and what was said, of the wrapper; `more` are variables."""
        done = run(WRAPPER, *words, env={**self.environment(), **more})
        return done.returncode, done.stdout

    def does(self, *words, **more):
        status, said = self.command(*words, **more)
        if status:
            fail(f"{' '.join(map(str, words))} ended with {status}:\n{said}")
        return said

    def refuses(self, status, why, *words, **more):
        found, said = self.command(*words, **more)
        if found != status or why not in said:
            fail(f"{' '.join(map(str, words))} was to end with {status} and to say `{why}`; it ended with {found}:\n{said}")
        return said

    def cut(self, when, *words, **more):
        """Runs the command, and kills it as soon as it has said so many lines, or this; whether it was cut, and what it said."""
        child = subprocess.Popen([WRAPPER, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True, env={**self.environment(), **more})
        said = []
        for line in child.stdout:
            said.append(line)
            if len(said) == when or line.startswith(str(when)):
                child.kill()
                break
        rest = child.stdout.read()
        return child.wait() != 0, "".join(said) + rest
