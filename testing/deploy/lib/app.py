"""Chronos as an app of Marathon on a real Mesos cluster, its instances being processes of the agents, not containers."""

import json
import os
import subprocess
import sys
import urllib.parse

from case import BINARY, ROOT, WORK, ask, fail, skip, until

INSTANCES = 2
APP = "/v2/apps/chronos"
ZK_PATH = "/chronos/state"
WRAPPER = ROOT / "deploy" / "bin" / "restart_chronos.sh"


class Cell:
    """Masters, agents, ZooKeeper, and Marathon."""

    def __init__(self):
        # Masters at one address, every agent at one of its own, so that an app can ask for a machine for each instance.
        command = [ROOT / "testing" / "mesos-local" / "run", WORK / "mesos", "--masters", "3", "--agents", str(INSTANCES),
                   "--agent-hostname", "127.0.0.1{}", "--resources", "cpus:4;mem:2048;disk:4096"]
        self.mesos = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        word, _, rest = self.mesos.stdout.readline().strip().partition(" ")
        if word != "listening":
            skip(rest or "Mesos does not start here")
        masters, self.zk = rest.split()
        self.masters = masters.split(",")
        self.servers = urllib.parse.urlsplit(self.zk).netloc
        self.marathon_url = "http://127.0.0.1:8080"
        self.marathon = subprocess.Popen(
            [sys.executable, ROOT / "testing" / "marathon-local" / "marathon.py", "run", "--dir", WORK / "marathon",
             "--master", self.zk], stderr=subprocess.DEVNULL)
        until("Marathon is a framework of the cluster", 60, lambda: json.loads(
            ask(f"{self.marathon_url}/v2/info")[1] or "{}").get("frameworkId") if self.is_up() else None)

    def is_up(self):
        if self.marathon.poll() is not None:
            fail("Marathon ended")
        return ask(f"{self.marathon_url}/ping")[0] == 200

    # Mesos

    def order(self, words):
        self.mesos.stdin.write(f"{words}\n")
        self.mesos.stdin.flush()
        word, _, rest = self.mesos.stdout.readline().strip().partition(" ")
        if word != "done":
            fail(f"`{words}` of the cluster: {rest}")
        return rest

    def leading_master(self):
        return self.masters[int(self.order("leader").removeprefix("master-"))]

    def followers(self):
        leader = self.leading_master()
        return [master for master in self.masters if master != leader]

    def frameworks(self):
        """id -> (name, active, tasks that have not ended), of all that the master knows."""
        status, text = ask(f"http://{self.leading_master()}/master/frameworks")
        if status != 200:
            fail(f"the master does not tell its frameworks: {status} {text}")
        told = json.loads(text)
        return {one["id"]: (one["name"], one["active"] and key == "frameworks", one.get("tasks", []))
                for key in ("completed_frameworks", "frameworks") for one in told.get(key, [])}

    def ours(self):
        """Id of the framework of Chronos that is active, if it is one."""
        found = [key for key, (name, active, _) in self.frameworks().items() if name == "chronos" and active]
        return found[0] if len(found) == 1 else None

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

    def post(self):
        status, answer = ask(f"{self.marathon_url}/v2/apps", json.dumps(self.definition()).encode(), "POST")
        if status != 201:
            fail(f"Marathon does not take the app: {status} {answer}")

    def app(self):
        status, text = ask(f"{self.marathon_url}{APP}")
        return json.loads(text)["app"] if status == 200 else {"tasks": []}

    def urls(self):
        return [f"http://{task['host']}:{task['ports'][0]}" for task in self.app()["tasks"] if task.get("ports")]

    def leader(self):
        """URL of the instance that leads and is ready."""
        for url in self.urls():
            status, text = ask(f"{url}/ready", timeout=2)
            if status == 200 and json.loads(text)["role"] == "leading":
                return url
        return None

    def led(self):
        return until(lambda: f"an instance leads: {[ask(url + '/ready') for url in self.urls()]}, {self.app()}", 90, self.leader)

    def jobs(self):
        """name -> definition, of the leader."""
        status, text = ask(f"{self.led()}/v1/scheduler/jobs")
        if status != 200:
            fail(f"the jobs are not told: {status} {text}")
        # What a run that ends changes is no part of a definition.
        keys = ("name", "schedule", "command", "cpus", "mem", "parents", "retries", "epsilon")
        return {job["name"]: {key: job.get(key) for key in keys} for job in json.loads(text)}

    def create(self, job):
        status, answer = ask(f"{self.led()}/v1/scheduler/iso8601", json.dumps(job).encode(), "POST", timeout=15)
        if status // 100 != 2:
            fail(f"`{job['name']}` was refused: {status} {answer}")

    # The command

    def environment(self):
        return {**os.environ, "CHRONOS": BINARY, "CHRONOS_MARATHON": self.marathon_url, "CHRONOS_MASTER": self.zk,
                "CHRONOS_ZK_HOSTS": self.servers, "CHRONOS_ZK_PATH": ZK_PATH}

    def command(self, *words, **more):
        """Exit code and what was said, of the wrapper; `more` are variables."""
        done = subprocess.run([WRAPPER, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, env={**self.environment(), **more})
        return done.returncode, done.stdout

    def does(self, *words, **more):
        status, said = self.command(*words, **more)
        if status:
            fail(f"{' '.join(words)} ended with {status}:\n{said}")
        return said

    def refuses(self, status, why, *words, **more):
        found, said = self.command(*words, **more)
        if found != status or why not in said:
            fail(f"{' '.join(words)} was to end with {status} and to say `{why}`; it ended with {found}:\n{said}")
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

    def end(self):
        self.marathon.terminate()
        self.marathon.wait()
        self.mesos.stdin.close()
        self.mesos.wait()
