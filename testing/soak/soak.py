#!/usr/bin/env python3
"""Runs the server under mixed load for a long time and watches what it holds: memory, open files, threads.

Jobs every second to five, chains, failures with retries, output, triggers, jobs made and deleted, questions and event
streams that are broken off. Nothing is restarted. Every few seconds the server and its supervisor are looked at;
through the second half of the samples a straight line is laid, and what it rises by in that time must be small.
Ends with a table, and with exit code 1 if something grew, something that should answer did not, or a process is gone.

Usage: soak.py BINARY [--seconds 3600] [--every 5] [--jobs 100] [--seed 1] [--keep FOLDER]
"""

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# What the line may rise by in half of the time: this share of the median, or this much, whichever is more. Memory may
# take a few pages more for a larger history; files and threads follow what happens to run at the moment.
BOUNDS = {"rss_kib": (0.05, 4096), "fds": (0.10, 4), "threads": (0.10, 2)}
# Made by the load and deleted again; at most so many are there.
PASSING_MAX = 50


def jobs(dice, count):
    """Definitions: of ten jobs, six are quick, one fails and is retried, one writes much, two are a chain."""
    for n in range(count // 10):
        def named(word, **fields):
            period = dice.choice([1, 2, 3, 5])
            return {"name": f"{word}-{n}", "schedule": f"R//PT{period}S", "retries": 0, **fields}

        for k in range(6):
            yield named(f"quick{k}", command="echo $CHRONOS_JOB_RUN_TIME")
        yield named("failing", command="echo no >&2; exit 3", retries=2, retryDelay="PT1S")
        yield named("wordy", command="head -c 100000 /dev/zero | tr '\\0' x", schedule="R//PT5S")
        yield named("parent", command="sleep 0.2")
        yield {"name": f"child-{n}", "parents": [f"parent-{n}"], "command": "true", "retries": 0}


class Server:
    """The real binary on a folder of its own."""

    def __init__(self, binary, folder):
        self.data = os.path.join(folder, "data")
        self.log = open(os.path.join(folder, "log"), "wb")
        command = [binary, "server", "--http_port", "0", "--data_dir", self.data, "--log_level", "warn",
                   "--history_age_max", "10m"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log)
        self.url = self.process.stdout.readline().decode().split()[-1]
        self.host = self.url.removeprefix("http://")
        self.asked, self.failed = 0, []

    def ask(self, method, path, body=None, refusals=()):
        """Returns what was answered, or None after writing down what went wrong, unless it is one of `refusals`."""
        self.asked += 1
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "accept": "*/*"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.read()
        except (urllib.error.URLError, OSError) as error:
            if getattr(error, "code", None) not in refusals:
                self.failed.append(f"{method} {path}: {error}")
            return None

    def break_off_a_stream(self):
        """Listens to events for a moment and goes away without a word."""
        connection = http.client.HTTPConnection(self.host, timeout=5)
        try:
            connection.request("GET", "/v1/events")
            connection.getresponse().read(10)
        except OSError as error:
            self.failed.append(f"GET /v1/events: {error}")
        finally:
            connection.close()

    def wait_until_it_leads(self):
        for _ in range(600):
            try:
                with urllib.request.urlopen(self.url + "/ready", timeout=5) as response:
                    if json.load(response).get("role") == "leading":
                        return
            except (urllib.error.URLError, OSError):
                pass  # Not ready is an error status.
            time.sleep(0.1)
        raise SystemExit("soak: the server does not lead")

    def supervisor(self):
        """The process that is the parent of all tasks of the folder: of those with its words the oldest, as a child has
        them too until it has become its task, and may have the lower number."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
                if b"supervise" in words and os.fsencode(os.path.realpath(self.data)) in b"".join(words):
                    with open(f"/proc/{pid}/stat") as file:
                        found.append((int(file.read().rpartition(")")[2].split()[19]), int(pid)))
            except OSError:
                continue  # It has ended meanwhile.
        return min(found)[1] if found else None


def look(pid):
    """What a process holds; raises OSError when it is gone."""
    status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status") if ":" in line)
    return {
        "rss_kib": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "fds": len(os.listdir(f"/proc/{pid}/fd")),
    }


class Load:
    """What happens every second besides the schedules."""

    def __init__(self, server, dice, names):
        self.server, self.dice, self.names = server, dice, names
        self.made, self.passing = 0, []

    def step(self):
        server, dice = self.server, self.dice
        for name in dice.sample(self.names, 3):
            # A job that fails at once is slowed down, and has enough runs waiting some day.
            server.ask("PUT", f"/v1/scheduler/job/{name}", refusals=[409])
        for _ in range(2):
            self.made += 1
            job = {"name": f"passing-{self.made}", "schedule": "R//PT2S", "command": "sleep 0.5; echo done"}
            if server.ask("POST", "/v1/scheduler/iso8601", job) is not None:
                self.passing.append(job["name"])
        while len(self.passing) > PASSING_MAX:
            server.ask("DELETE", f"/v1/scheduler/job/{self.passing.pop(dice.randrange(len(self.passing)))}")
        server.ask("GET", "/v1/jobs?search=quick&limit=20")
        server.ask("GET", "/v1/scheduler/jobs/summary")
        server.ask("GET", "/metrics")
        runs = json.loads(server.ask("GET", "/v1/runs?limit=20") or b"{}").get("runs", [])
        ended = [run["key"] for run in runs if run.get("attempts")]
        if ended:
            # Output may be gone where the run never began; the answer does not matter here, what is held does.
            run = dice.choice(ended)
            try:
                urllib.request.urlopen(f"{server.url}/v1/runs/{run}/output", timeout=30).read()
            except (urllib.error.URLError, OSError):
                pass
        server.break_off_a_stream()


def rise(samples, key):
    """What the line of least squares through the second half of the samples rises by, from its begin to its end."""
    half = samples[len(samples) // 2:]
    times, values = [at for at, _ in half], [held[key] for _, held in half]
    if len(half) < 3:
        return 0.0, statistics.median(values)
    slope = statistics.linear_regression(times, values).slope
    return slope * (times[-1] - times[0]), statistics.median(values)


def report(samples_of):
    """Prints the table; returns whether all is flat."""
    flat = True
    print(f"\n{'process':<11} {'what':<8} {'first':>8} {'median':>8} {'max':>8} {'last':>8} {'rise':>8} {'bound':>7}  flat")
    for process, samples in samples_of.items():
        for key, (share, least) in BOUNDS.items():
            values = [held[key] for _, held in samples]
            grown, median = rise(samples, key)
            bound = max(share * median, least)
            flat &= grown <= bound
            print(f"{process:<11} {key:<8} {values[0]:>8} {median:>8.0f} {max(values):>8} {values[-1]:>8} "
                  f"{grown:>8.1f} {bound:>7.1f}  {'yes' if grown <= bound else 'NO'}")
    return flat


def soak(args, folder):
    dice = random.Random(args.seed)
    server = Server(args.binary, folder)
    samples_of = {"server": [], "supervisor": []}
    gone = []
    try:
        server.wait_until_it_leads()
        definitions = list(jobs(dice, args.jobs))
        for job in definitions:
            server.ask("POST", "/v1/scheduler/dependency" if "parents" in job else "/v1/scheduler/iso8601", job)
        load = Load(server, dice, [job["name"] for job in definitions])
        begun = time.monotonic()
        next_look = 0.0
        while (now := time.monotonic() - begun) < args.seconds and not gone:
            load.step()
            if now >= next_look:
                next_look = now + args.every
                pids = {"server": server.process.pid, "supervisor": server.supervisor()}
                for process, pid in pids.items():
                    try:
                        samples_of[process].append((now, look(pid)))
                    except (OSError, KeyError):
                        gone.append(process)
            time.sleep(max(0.0, 1.0 - (time.monotonic() - begun - now)))
        metrics = (server.ask("GET", "/metrics") or b"").decode()
        counted = [line for line in metrics.splitlines() if line.startswith(("chronos_launches_total", "chronos_runs_total"))]
        print("\n".join(counted))
    finally:
        supervisor = server.supervisor()
        server.process.terminate()
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            server.process.kill()
        if supervisor:
            os.kill(supervisor, signal.SIGTERM)
    print(f"{server.asked} requests, {len(server.failed)} not answered as they should be")
    for failure in server.failed[:10]:
        print(f"  {failure}")
    for process in gone:
        print(f"the {process} is gone")
    return report(samples_of) and not gone and not server.failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--every", type=float, default=5)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", help="work in this folder and leave it")
    args = parser.parse_args()
    folder = args.keep or tempfile.mkdtemp(prefix="chronos-soak-")
    os.makedirs(folder, exist_ok=True)
    try:
        flat = soak(args, folder)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print("soak: flat" if flat else "soak: NOT flat, or not sound")
    sys.exit(0 if flat else 1)


if __name__ == "__main__":
    main()
