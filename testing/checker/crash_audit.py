#!/usr/bin/env python3
"""Kills the server at random moments while jobs run, then audits its ledger against what the jobs wrote.

Shares no code with the product: schedules are worked out anew here, and the only witnesses are the REST API and
the files that the commands of the jobs wrote. Ends with figures, and with exit code 1 if a promise was broken:

    slots N, ran N, missed N, skipped N, lost 0, doubled 0

Usage: crash_audit.py BINARY [--kills 50] [--seed 1] [--jobs 200] [--keep FOLDER]
"""

import argparse
import calendar
import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# A slot may be noticed this long after a restart was done: two cores are busy then. Milliseconds.
LATE_MS = 5_000
# How long all may take to settle at the end. Seconds.
SETTLE_S = 300
# How long the server may take to be ready, to end, or to answer: far more than it needs, as a busy machine takes its time.
PATIENCE_S = 120


class Violation(Exception):
    """A promise that was broken, in words."""


# --- the jobs -----------------------------------------------------------------------------------------------------


class Job:
    """A job as this script means it, and what it expects of it."""

    def __init__(self, name, folder, period_ms=None, anchor_ms=None, parents=(), sleep=0.0, fails=0, **fields):
        self.name = name
        self.period_ms = period_ms
        self.anchor_ms = anchor_ms
        self.parents = list(parents)
        self.file = os.path.join(folder, name)
        self.fails = fails
        self.fields = fields
        self.posted_ms = None  # (before the request, after its answer)
        # One printf of a short line is one write to a file opened for appending: lines never mix.
        line = '"$CHRONOS_TASK_ID $CHRONOS_JOB_RUN_TIME $CHRONOS_JOB_RUN_ATTEMPT"'
        steps = [f"exec 3>>'{self.file}'", f"printf 'start %s\\n' {line} >&3"]
        if sleep:
            steps.append(f"sleep {sleep}")
        steps.append(f"printf 'finish %s\\n' {line} >&3")
        if fails:
            steps.append(f'[ "$CHRONOS_JOB_RUN_ATTEMPT" -ge {fails} ]')
        self.command = "; ".join(steps)

    def definition(self):
        job = {"name": self.name, "command": self.command, "retries": 0, **self.fields}
        if self.parents:
            job["parents"] = self.parents
        else:
            period = f"PT{self.period_ms // 1000}S" if self.period_ms % 1000 == 0 else f"PT{self.period_ms / 1000}S"
            job["schedule"] = f"R/{iso(self.anchor_ms)}/{period}"
        return job

    def due_ms(self, index):
        """The instant of slot `index`: nothing but anchor plus k periods."""
        return self.anchor_ms + index * self.period_ms

    def last_index(self, now_ms):
        return (now_ms - self.anchor_ms) // self.period_ms if now_ms >= self.anchor_ms else -1


def make_jobs(dice, folder, count, now_ms):
    """Schedules of one to five seconds; of ten jobs, two are links of a chain and one is a join of two parents."""
    jobs = []

    def root(name, periods=(1000, 1500, 2000, 3000, 4000, 5000), **fields):
        # Half begin in the past: of those only the latest past slot exists.
        anchor = now_ms + dice.randrange(-600_000, 8_000)
        job = Job(name, folder, period_ms=dice.choice(periods), anchor_ms=anchor, **fields)
        jobs.append(job)
        return job

    for group in range(count // 10):
        tag = f"g{group:02}"
        root(f"{tag}-quick")
        root(f"{tag}-short", sleep=0.3)
        # Long periods: what an outage left is made up for before the next slots come, even on a busy machine.
        root(f"{tag}-all", periods=(4000, 5000), sleep=0.1, catchUp={"all": {"count": 100, "age": "1h"}})
        root(f"{tag}-long", sleep=round(dice.uniform(1, 4), 2), overlap="skip")
        root(f"{tag}-busy", sleep=round(dice.uniform(1, 3), 2), concurrent=True)
        root(f"{tag}-retried", fails=1, retries=2, retryDelay="PT1S")
        base = root(f"{tag}-root", sleep=0.1)
        left = Job(f"{tag}-left", folder, parents=[base.name], sleep=round(dice.uniform(0, 1), 2))
        right = Job(f"{tag}-right", folder, parents=[base.name], sleep=round(dice.uniform(0, 1), 2))
        join = Job(f"{tag}-join", folder, parents=[left.name, right.name])
        jobs += [left, right, join]
    return jobs


# --- the server ---------------------------------------------------------------------------------------------------


class Server:
    """The real binary on one data folder; restarted as often as wanted."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.data = os.path.join(folder, "data")
        self.log = open(os.path.join(folder, "log"), "ab")
        self.process, self.url = None, None
        self.outages = []  # (from, to) in ms: nobody led

    def start(self):
        # A port of its own each time: what is left of the last server cannot be mistaken for this one.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CHRONOS_")}
        self.process = subprocess.Popen(
            [self.binary, "server", "--http_port", "0", "--data_dir", self.data, "--history_count_max", "1000000"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, env=environment)
        line = self.process.stdout.readline().decode()
        if not line.startswith("listening on "):
            raise Violation(f"the server did not start: {line!r}, see {self.log.name}")
        self.url = line.removeprefix("listening on ").strip()

    def wait_ready(self):
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                if self.get("/ready")["role"] == "leading":
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise Violation(f"the server was not ready within {PATIENCE_S} s, see {self.log.name}")

    def stop(self, how):
        began = now()
        self.process.send_signal(how)
        self.process.wait(timeout=PATIENCE_S)
        self.process.stdout.close()
        return began

    def restart(self, how, away=0.0):
        began = self.stop(how)
        time.sleep(away)
        self.start()
        self.wait_ready()
        self.outages.append((began, now()))

    def supervisors(self):
        """Processes of this data folder, found by their command line."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if b"supervise" in words and any(word.startswith(self.data.encode()) for word in words):
                yield int(pid)

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for how in (signal.SIGTERM, signal.SIGKILL):
            for pid in list(self.supervisors()):
                try:
                    os.kill(pid, how)
                except ProcessLookupError:
                    pass
            deadline = time.monotonic() + 5
            while list(self.supervisors()) and time.monotonic() < deadline:
                time.sleep(0.05)

    def ask(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data=data, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def get(self, path):
        return self.ask("GET", path)


# --- the ledger, as the REST API tells it -------------------------------------------------------------------------


class Entry:
    """One line of the ledger: a run, or a range of slots that share a fate."""

    def __init__(self, raw):
        self.raw = raw
        self.job = raw["job"]
        self.outcome = raw.get("outcome")  # None while it lives
        self.reason = raw.get("reason") or ""
        self.key = raw.get("key")
        self.cycle = raw.get("cycle")
        self.is_range = raw.get("count") is not None
        self.due_ms = millis(raw["firstDue"] if self.is_range else raw["due"])
        self.last_due_ms = millis(raw["lastDue"]) if self.is_range else self.due_ms
        self.count = raw["count"] if self.is_range else 1
        self.recorded_ms = millis(raw.get("ended") or raw.get("recorded") or raw.get("created"))
        self.attempts = raw.get("attempts") or []

    def __str__(self):
        return f"{self.job} {self.key or 'range'} due {iso(self.due_ms)} {self.outcome} {self.reason}".strip()


def read_ledger(server):
    """All pages: the runs that live, then the history. A run that ends meanwhile is in both; its end counts."""
    entries, live, cursor = [], {}, None
    while True:
        page = server.get("/v1/runs?limit=1000" + (f"&cursor={cursor}" if cursor else ""))
        for raw in page["runs"]:
            entry = Entry(raw)
            if entry.outcome is None:
                live[entry.key] = entry
            else:
                entries.append(entry)
        cursor = page.get("next")
        if not cursor:
            ended = {entry.key for entry in entries}
            return entries + [entry for key, entry in live.items() if key not in ended]


# --- what the jobs wrote ------------------------------------------------------------------------------------------


def read_files(jobs):
    """Per job: task id -> [starts, finishes, due in ms, attempt]."""
    written = {}
    for job in jobs:
        tasks = written.setdefault(job.name, {})
        if not os.path.exists(job.file):
            continue
        with open(job.file, encoding="ascii") as file:
            for number, line in enumerate(file, 1):
                match = re.fullmatch(r"(start|finish) ([a-z0-9-]+) (\d+) (\d+)\n", line)
                if not match:
                    raise Violation(f"{job.file}:{number}: not a line of a task: {line!r}")
                word, task, due, attempt = match.groups()
                seen = tasks.setdefault(task, [0, 0, int(due), int(attempt)])
                seen[0 if word == "start" else 1] += 1
                if seen[2:] != [int(due), int(attempt)]:
                    raise Violation(f"{job.name}: task {task} has two identities")
    return written


# --- the audit ----------------------------------------------------------------------------------------------------


class Audit:
    def __init__(self, jobs, entries, written, outages, end_ms):
        self.jobs = {job.name: job for job in jobs}
        self.entries = collections.defaultdict(list)
        self.written, self.outages, self.end_ms = written, outages, end_ms
        self.violations = []
        self.counts = collections.Counter()
        self.reasons = collections.Counter()
        for entry in entries:
            if entry.job in self.jobs:
                self.entries[entry.job].append(entry)

    def fail(self, text):
        self.violations.append(text)

    def run(self):
        for job in self.jobs.values():
            if job.parents:
                self.check_child(job)
            else:
                self.check_slots(job)
            self.check_files(job)
        return self.violations

    def check_slots(self, job):
        """Every slot from the creation to the end has exactly one outcome."""
        outcomes = collections.defaultdict(list)
        for entry in self.entries[job.name]:
            first, remainder = divmod(entry.due_ms - job.anchor_ms, job.period_ms)
            last, remainder_last = divmod(entry.last_due_ms - job.anchor_ms, job.period_ms)
            if remainder or remainder_last or first < 0:
                self.fail(f"no slot of {job.name} is due then: {entry}")
                continue
            if last - first + 1 != entry.count:
                self.fail(f"a range of {entry.count} from slot {first} to slot {last}: {entry}")
            for index in range(first, last + 1):
                outcomes[index].append(entry)
        # If the start has passed, the latest past slot exists and none before it. That moment lies between the
        # request and its answer.
        before, after = (max(job.last_index(at), 0) for at in job.posted_ms)
        begun = min(outcomes, default=after)
        if not before <= begun <= after:
            self.fail(f"{job.name}: its first slot is {begun}, expected {before} to {after}")
        last = job.last_index(self.end_ms)
        for index in range(begun, last + 1):
            self.counts["slots"] += 1
            self.judge(job, index, outcomes.get(index, []))

    def judge(self, job, index, entries):
        what = f"{job.name}: slot {index}, due {iso(job.due_ms(index))}"
        if len(entries) > 1:
            self.counts["doubled"] += 1
            self.fail(f"{what}, has {len(entries)} outcomes: {', '.join(map(str, entries))}")
        if not entries or entries[0].outcome is None:
            self.counts["lost"] += 1
            self.fail(f"{what}, has no outcome" + (f": {entries[0]}" if entries else ""))
            return
        entry = entries[0]
        self.count(entry)
        if entry.outcome == "missed":
            # Under `latest` a slot gives way to the next, if that was due when somebody could look again.
            outage = any(began - job.period_ms - LATE_MS <= job.due_ms(index) <= ended + LATE_MS
                         for began, ended in self.outages)
            gave_way = job.due_ms(index + 1) <= entry.recorded_ms
            if job.fields.get("catchUp") or not outage or not gave_way:
                self.fail(f"{what}, was missed without cause: {entry}")
        elif entry.outcome == "skipped":
            # Only because an earlier run of the job was busy, and never where runs may overlap.
            busy = any(other is not entry and other.outcome not in ("missed", "skipped")
                       and other.due_ms < entry.due_ms and other.recorded_ms + LATE_MS >= entry.due_ms
                       for other in self.entries[job.name])
            if job.fields.get("concurrent") or not busy:
                self.fail(f"{what}, was skipped without cause: {entry}")
        elif entry.outcome != "succeeded":
            self.fail(f"{what}, should have succeeded: {entry}")

    def count(self, entry):
        group = entry.outcome if entry.outcome in ("missed", "skipped") else "ran"
        self.counts[group] += 1
        word = re.sub(r"run \S+|\d+", "..", entry.reason)[:60]
        self.reasons[f"{entry.outcome} {word}".strip()] += 1

    def check_child(self, job):
        """One outcome for each cycle in which the parents arrived; those that have just arrived may be on their way."""
        mine = collections.defaultdict(list)
        for entry in self.entries[job.name]:
            mine[cycle_of(entry)].append(entry)
        for cycle, entries in mine.items():
            if len(entries) > 1:
                self.counts["doubled"] += 1
                self.fail(f"{job.name}: cycle {cycle} has {len(entries)} outcomes: {', '.join(map(str, entries))}")
        arrived = [{cycle_of(e): e for e in self.entries[parent] if not e.is_range and e.outcome} for parent in job.parents]
        for cycle in set().union(*arrived):
            parents = [of_parent.get(cycle) for of_parent in arrived]
            if any(parent is not None and parent.recorded_ms > self.end_ms for parent in parents):
                continue
            self.counts["joins"] += 1
            all_well = all(parent is not None and parent.outcome == "succeeded" for parent in parents)
            entry = next(iter(mine.pop(cycle, [])), None)
            if entry is None or entry.outcome is None:
                # A parent that was skipped or missed ends the cycle; whether that leaves a line is up to the join.
                if all_well:
                    self.counts["lost"] += 1
                    self.fail(f"{job.name}: all parents succeeded in cycle {cycle}, but it has no outcome")
                continue
            if entry.outcome not in ("succeeded", "skipped"):
                self.fail(f"{job.name}: should have succeeded: {entry}")
            if entry.outcome == "succeeded" and not all_well:
                self.fail(f"{job.name}: ran in cycle {cycle} although not all parents succeeded: {entry}")
        for cycle, entries in mine.items():
            if not any(cycle in of_parent for of_parent in arrived) and not any(
                    cycle_of(live) == cycle for parent in job.parents for live in self.entries[parent]):
                self.fail(f"{job.name}: no parent was ever in cycle {cycle}: {entries[0]}")

    def check_files(self, job):
        """Succeeded means started once and finished once; nothing ran that the ledger does not know of."""
        tasks = dict(self.written[job.name])
        finished_of_due = collections.Counter()
        for task, (starts, finishes, due, attempt) in tasks.items():
            if starts != 1 or finishes > 1:
                self.counts["doubled"] += 1
                self.fail(f"{job.name}: task {task} started {starts} times and finished {finishes} times")
            if finishes and attempt >= job.fails:
                finished_of_due[due] += 1
        if not job.parents:
            for due, times in finished_of_due.items():
                if times > 1:
                    self.counts["doubled"] += 1
                    self.fail(f"{job.name}: the slot of {iso(due)} was carried out {times} times")
        for entry in self.entries[job.name]:
            if entry.is_range:
                continue
            for attempt in entry.attempts:
                task = attempt.get("task")
                starts, finishes, due, number = tasks.pop(task, (0, 0, None, None))
                if entry.outcome is None:
                    continue
                if attempt.get("outcome") in ("succeeded", "failed") and (starts, finishes) != (1, 1):
                    self.fail(f"{entry}: task {task} ended {attempt['outcome']}, but wrote {starts} starts and {finishes} finishes")
                if due is not None and (number != attempt.get("number") or due != entry.due_ms):
                    self.fail(f"{entry}: task {task} was told attempt {number} and due time {iso(due)}")
            if entry.outcome == "succeeded" and len(entry.attempts) != job.fails + 1:
                self.fail(f"{entry}: {len(entry.attempts)} attempts, expected {job.fails + 1}")
            if entry.outcome in ("skipped", "missed") and entry.attempts:
                self.fail(f"{entry}: it has attempts")
        for task, (_, _, due, _) in tasks.items():
            if due <= self.end_ms:
                self.counts["doubled"] += 1
                self.fail(f"{job.name}: task {task} ran, and the ledger does not know it")


def prove(audit):
    """Spoils what was found well in ways that the audit must notice. Returns what it did not."""

    def spoiled(change):
        entries = {job: list(of_job) for job, of_job in audit.entries.items()}
        written = {job: {task: list(seen) for task, seen in tasks.items()} for job, tasks in audit.written.items()}
        change(entries, written)
        flat = [entry for of_job in entries.values() for entry in of_job]
        return Audit(audit.jobs.values(), flat, written, audit.outages, audit.end_ms).run()

    def some(entries, outcome, child=False):
        for job, of_job in entries.items():
            for entry in of_job:
                if (entry.outcome == outcome and bool(audit.jobs[job].parents) == child and not entry.is_range
                        and entry.recorded_ms < audit.end_ms):
                    return of_job, entry
        raise Violation(f"nothing {outcome} to spoil")

    def forget(entries, _):
        of_job, entry = some(entries, "succeeded")
        of_job.remove(entry)

    def repeat(entries, _):
        of_job, entry = some(entries, "succeeded")
        of_job.append(entry)

    def forget_child(entries, _):
        of_job, entry = some(entries, "succeeded", child=True)
        of_job.remove(entry)

    def run_twice(entries, written):
        _, entry = some(entries, "succeeded")
        written[entry.job][entry.attempts[0]["task"]][0] += 1

    def never_ran(entries, written):
        _, entry = some(entries, "succeeded")
        del written[entry.job][entry.attempts[0]["task"]]

    def ran_unknown(entries, written):
        _, entry = some(entries, "succeeded")
        written[entry.job]["x-1-i0-0"] = [1, 1, entry.due_ms, 0]

    def call_it_missed(entries, _):
        of_job, entry = some(entries, "succeeded")
        false = Entry({**entry.raw, "outcome": "missed", "attempts": []})
        false.recorded_ms = entry.due_ms
        of_job[of_job.index(entry)] = false

    planted = [forget, repeat, forget_child, run_twice, never_ran, ran_unknown, call_it_missed]
    return [change.__name__ for change in planted if not spoiled(change)]


def cycle_of(entry):
    return json.dumps(entry.cycle, sort_keys=True)


# --- the course of events -----------------------------------------------------------------------------------------


def now():
    return time.time_ns() // 1_000_000


def iso(ms):
    seconds, millis_ = divmod(ms, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{millis_:03}Z"


def millis(text):
    """Epoch milliseconds of an RFC 3339 time in UTC, or of a number that is one already."""
    if isinstance(text, (int, float)):
        return int(text)
    match = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?Z", text)
    if not match:
        raise Violation(f"not a time in UTC: {text!r}")
    *fields, fraction = match.groups()
    seconds = calendar.timegm(tuple(map(int, fields)) + (0, 0, 0))
    return seconds * 1000 + int(((fraction or "") + "000")[:3])


def torment(server, dice, kills, pause):
    """Kills without warning, now and then politely, and starts again: mostly at once, sometimes slots pass meanwhile."""
    for number in range(1, kills + 1):
        time.sleep(dice.uniform(*pause))
        # Every eighth end is polite; it does not count as a kill.
        if dice.random() < 0.125:
            server.restart(signal.SIGTERM)
            time.sleep(dice.uniform(*pause))
        if server.process.poll() is not None:
            raise Violation(f"the server ended by itself with {server.process.returncode}, see {server.log.name}")
        server.restart(signal.SIGKILL, away=dice.uniform(2, 6) if dice.random() < 0.1 else 0)
        if number % 10 == 0:
            print(f"  {number} of {kills} kills", flush=True)
    # One that comes in the middle of a start.
    server.stop(signal.SIGKILL)
    began = now()
    server.start()
    time.sleep(dice.uniform(0, 0.3))
    server.stop(signal.SIGKILL)
    server.start()
    server.wait_ready()
    server.outages.append((began, now()))


def settle(server, jobs, end_ms):
    """Waits until all that was due by `end_ms` is over, and returns the ledger."""
    roots = [job for job in jobs if not job.parents]
    deadline = time.monotonic() + SETTLE_S
    while True:
        entries = read_ledger(server)
        live = [entry for entry in entries if entry.outcome is None and entry.due_ms <= end_ms]
        reached = collections.defaultdict(int)
        for entry in entries:
            reached[entry.job] = max(reached[entry.job], entry.last_due_ms)
        behind = [job.name for job in roots
                  if job.last_index(end_ms) >= 0 and reached[job.name] < job.due_ms(job.last_index(end_ms))]
        if not live and not behind:
            # Children follow within moments; what a parent's end starts is waited for like the rest.
            if now() > end_ms + LATE_MS:
                return entries
        elif time.monotonic() > deadline:
            samples = ", ".join([str(entry) for entry in live[:5]] + behind[:5])
            raise Violation(f"not settled within {SETTLE_S} s: {len(live)} live, {len(behind)} behind: {samples}")
        time.sleep(0.5)


def create(server, jobs):
    """All at once: posted one by one on a busy machine, a parent may have run before its child is there."""
    before = now()
    try:
        server.ask("POST", "/v1/apply", {"jobs": [job.definition() for job in jobs]})
    except urllib.error.HTTPError as error:
        raise Violation(f"the jobs were refused: {error.read().decode()}") from error
    for job in jobs:
        job.posted_ms = (before, now())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", help="the chronos binary")
    parser.add_argument("--kills", type=int, default=50, help="kill -9 so often; 1000 for a long night")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments and the jobs")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--pause", type=float, nargs=2, default=(0.2, 3.0), help="seconds between kills, least and most")
    parser.add_argument("--keep", help="work in this folder and leave it there")
    args = parser.parse_args()
    dice = random.Random(args.seed)
    folder = os.path.abspath(args.keep) if args.keep else tempfile.mkdtemp(prefix="chronos-audit-")
    witnesses = os.path.join(folder, "witnesses")
    os.makedirs(witnesses, exist_ok=True)
    print(f"crash audit: seed {args.seed}, {args.kills} kills, {args.jobs} jobs, in {folder}", flush=True)
    server = Server(os.path.abspath(args.binary), folder)
    well = False
    try:
        server.start()
        server.wait_ready()
        jobs = make_jobs(dice, witnesses, args.jobs, now())
        create(server, jobs)
        torment(server, dice, args.kills, args.pause)
        end_ms = now()
        entries = settle(server, jobs, end_ms)
        # Tasks of later slots go on writing meanwhile: only what was due by the end is judged.
        audit = Audit(jobs, entries, read_files(jobs), server.outages, end_ms)
        violations = audit.run()
        counts = audit.counts
        blind = [] if violations else prove(audit)
        violations += [f"the audit did not notice: {name}" for name in blind]
        for text in violations[:40]:
            print(f"VIOLATION {text}")
        if len(violations) > 40:
            print(f"and {len(violations) - 40} more")
        for reason, count in sorted(audit.reasons.items()):
            print(f"  {count:6} {reason}")
        outage = sum(ended - began for began, ended in server.outages) / 1000
        print(f"kills {args.kills}, joins {counts['joins']}, outage {outage:.1f} s, violations {len(violations)}")
        print(f"slots {counts['slots']}, ran {counts['ran']}, missed {counts['missed']}, "
              f"skipped {counts['skipped']}, lost {counts['lost']}, doubled {counts['doubled']}")
        well = not violations and counts["slots"] > 0 and counts["ran"] > 0
    except Violation as violation:
        print(f"VIOLATION {violation}")
    finally:
        server.end()
        if well and not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
        elif not well:
            print(f"the folder is kept: {folder} (seed {args.seed})")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
