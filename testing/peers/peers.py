#!/usr/bin/env python3
"""The same work for Chronos and for what one could pick instead, in one run, on this machine.

Each scheduler has JOBS jobs that are due at every whole second (cron: at every minute, which is all it knows) and run the same
command, which appends the time to a file of its job. Counted from those files alone: slots that never ran, slots that
ran twice, and how long after its due time each command began. Beside it what the scheduler itself took of processor
and memory; what its commands took is the same for all and left out.

Peers that are not here are named with the reason. Ends with a table in Markdown, the last columns relative to Chronos.

Usage: peers.py BINARY [--jobs 200] [--seconds 60] [--python VENV/bin/python] [--only chronos,cron,mcron,apscheduler]
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

# Between a start and the first second that counts.
WARM_S = 5
# After the last second that counts, for what is late.
LATE_S = 10


class Absent(Exception):
    """A peer cannot run here, and why."""


def command(folder, n):
    """One line with the time in milliseconds; a short write to a file opened for appending is never torn."""
    return f"date +%s%3N >> {folder}/{n}"


class Process:
    """A scheduler that runs: what it takes of processor and memory, of its own and not of its commands."""

    def __init__(self, args, **options):
        self.child = subprocess.Popen(args, start_new_session=True, **options)
        self.pids = [self.child.pid]

    def cpu_s(self):
        ticks = 0
        for pid in self.pids:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss_mib(self):
        total = 0
        for pid in self.pids:
            with open(f"/proc/{pid}/status") as file:
                total += next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
        return total / 1024

    def end(self):
        for pid in reversed(self.pids):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()


def start_chronos(args, folder, work):
    process = Process(
        [args.binary, "server", "--http_port", "0", "--data_dir", f"{folder}/data", "--log_level", "warn"],
        stdout=subprocess.PIPE)
    url = process.child.stdout.readline().decode().split()[-1]
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5) as response:
                if json.load(response)["role"] == "leading":
                    break
        except OSError:
            pass  # Not ready is an error status.
        time.sleep(0.1)
    begin = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + WARM_S))
    for n in range(args.jobs):
        job = {"name": f"job-{n}", "schedule": f"R/{begin}/PT1S", "command": command(work, n), "concurrent": True,
               "retries": 0, "catchUp": {"all": {"count": 100, "age": "1m"}}}
        body = json.dumps(job).encode()
        request = urllib.request.Request(f"{url}/v1/scheduler/iso8601", body, {"content-type": "application/json"})
        urllib.request.urlopen(request, timeout=30).close()
    with open(f"/proc/{process.child.pid}/task/{process.child.pid}/children") as file:
        children = file.read().split()
    for pid in children or supervisors(f"{folder}/data"):
        process.pids.append(int(pid))
    return process


def supervisors(data):
    """The parent of all tasks of a data folder, which outlives the server on purpose."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read()
        except OSError:
            continue
        if b"\0supervise\0" in words and os.fsencode(data) in words:
            yield pid


def start_mcron(args, folder, work):
    if not shutil.which("mcron"):
        raise Absent("mcron is not installed (apt-get install mcron)")
    lines = [f"(job '(next-second) \"{command(work, n)}\")" for n in range(args.jobs)]
    config = f"{folder}/jobs.guile"
    with open(config, "w") as file:
        file.write("\n".join(lines) + "\n")
    return Process(["mcron", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def start_cron(args, folder, work):
    """Debian's cron reads fixed paths, so it gets a mount namespace of its own, in which they hold nothing else."""
    cron = shutil.which("cron", path="/usr/sbin:/usr/bin:" + (args.cron_dir or ""))
    if not cron:
        raise Absent("cron is not installed (apt-get install cron, or --cron_dir with its program)")
    if os.geteuid() != 0:
        raise Absent("cron needs root")
    with open(f"{folder}/crontab", "w") as file:
        file.write("SHELL=/bin/sh\n")
        for n in range(args.jobs):
            # A percent sign is a line break to cron.
            file.write(f"* * * * * root {command(work, n)}\n".replace("%", "\\%"))
    script = (
        "set -e; mkdir -p /var/spool/cron /etc/cron.d; mount -t tmpfs none /var/spool/cron; mount -t tmpfs none /run; "
        "mkdir -p /var/spool/cron/crontabs; mount -t tmpfs none /etc/cron.d; [ ! -e /etc/crontab ] || mount --bind /dev/null /etc/crontab; "
        f"cp {folder}/crontab /etc/cron.d/peers; chmod 600 /etc/cron.d/peers; exec {cron} -f")
    return Process(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


APSCHEDULER = """
import subprocess, sys
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.blocking import BlockingScheduler
database, jobs, work = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def run(line):
    subprocess.run(["/bin/sh", "-c", line])

scheduler = BlockingScheduler(
    jobstores={"default": SQLAlchemyJobStore(url=f"sqlite:///{database}")},
    executors={"default": ThreadPoolExecutor(64)},
    job_defaults={"coalesce": False, "max_instances": 100, "misfire_grace_time": 60},
)
for n in range(jobs):
    scheduler.add_job(run, "cron", second="*", args=[f"date +%s%3N >> {work}/{n}"], id=f"job-{n}")
scheduler.start()
"""


def start_apscheduler(args, folder, work):
    try:
        subprocess.run([args.python, "-c", "import apscheduler, sqlalchemy"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise Absent("APScheduler is not installed (pip install 'apscheduler<4' sqlalchemy)") from None
    program = f"{folder}/scheduler.py"
    with open(program, "w") as file:
        file.write(APSCHEDULER)
    return Process([args.python, program, f"{folder}/jobs.db", str(args.jobs), work],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def start_systemd(_args, _folder, _work):
    if not os.path.isdir("/run/systemd/system"):
        raise Absent("systemd does not run on this machine")
    raise Absent("systemd is the first process of this machine, and its timers would be the machine's own")


# Name, how it is started, how many seconds lie between two slots of a job.
PEERS = [
    ("chronos", start_chronos, 1),
    ("mcron", start_mcron, 1),
    ("apscheduler", start_apscheduler, 1),
    ("cron", start_cron, 60),
    ("systemd timers", start_systemd, 60),
]


def wait_for_work(work, period):
    """Some take long to come up; what counts begins when the first command has run. Of minutes, none is wasted."""
    for _ in range(600):
        if period > 1 or os.listdir(work):
            return
        time.sleep(0.1)


def measure(name, start, period, args):
    """Runs one peer; returns its figures."""
    folder = tempfile.mkdtemp(prefix="chronos-peer-")
    work = f"{folder}/work"
    os.makedirs(work)
    try:
        process = start(args, folder, work)
        try:
            wait_for_work(work, period)
            # The first slot that counts is at a time that everybody knows of.
            first = (int(time.time() + WARM_S) // period + 1) * period
            slots = max(1, args.seconds // period)
            time.sleep(max(0, first - 0.5 - time.time()))
            cpu = process.cpu_s()
            memory = []
            end = first + slots * period
            while time.time() < end - 0.5:
                memory.append(process.rss_mib())
                time.sleep(1)
            cpu = process.cpu_s() - cpu
            time.sleep(LATE_S)
        finally:
            process.end()
        return figures(work, args.jobs, first, slots, period, cpu, max(memory))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def figures(work, jobs, first, slots, period, cpu, memory):
    """What the files of the jobs say. The k-th line at or after the first slot belongs to the k-th slot, so a slot that
    is missed makes those after it look late, and one that ran twice makes them look early."""
    lags, missed, more = [], 0, 0
    for n in range(jobs):
        try:
            with open(f"{work}/{n}") as file:
                ran = sorted(int(line) for line in file if line.strip())
        except FileNotFoundError:
            ran = []
        ran = [at for at in ran if at >= first * 1000]
        due = [(first + k * period) * 1000 for k in range(slots)]
        # A scheduler that runs on after the last slot that counts is not at fault.
        within = ran[:slots]
        missed += slots - len(within)
        lags += [at - at_due for at, at_due in zip(within, due)]
        more += sum(1 for k, at in enumerate(within) if at < due[k])
    lags.sort()
    return {
        "slots": jobs * slots,
        "missed": missed,
        "doubled": more,
        "p50": statistics.median(lags) if lags else float("nan"),
        "p99": lags[(len(lags) - 1) * 99 // 100] if lags else float("nan"),
        "cpu": cpu / (jobs * slots) * 1e6,
        "rss": memory,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--cron_dir", help="where the program of cron is, if not installed")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    rows, absent = {}, {}
    for name, start, period in PEERS:
        if args.only and name not in args.only.split(","):
            absent[name] = "not asked for"
            continue
        print(f"{name} ...", file=sys.stderr)
        try:
            rows[name] = measure(name, start, period, args)
        except Absent as reason:
            absent[name] = str(reason)
    print("| scheduler | slots | missed | early or twice | lag p50, ms | lag p99, ms | own CPU, µs a slot | memory, MiB "
          "| lag p99 : Chronos | CPU : Chronos | memory : Chronos |")
    print("| --- |" + " --- |" * 10)
    ours = rows.get("chronos")
    for name, row in rows.items():
        ratios = ["-"] * 3 if ours is None else [f"{row[key] / ours[key]:.2f}" if ours[key] else "-" for key in ("p99", "cpu", "rss")]
        print(f"| {name} | {row['slots']} | {row['missed']} | {row['doubled']} | {row['p50']:.0f} | {row['p99']:.0f} "
              f"| {row['cpu']:.0f} | {row['rss']:.0f} | {' | '.join(ratios)} |")
    for name, reason in absent.items():
        print(f"SKIPPED {name.replace(' ', '-')}: {reason}")


if __name__ == "__main__":
    main()
