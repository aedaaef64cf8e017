#!/usr/bin/env python3
"""Audits what a run on ZooKeeper left behind, from the transaction logs of its servers.

    testing/faults/from_logs.py FOLDER/zookeeper      (FOLDER as it was given to --keep)

A store in ZooKeeper keeps some outcomes of each job; where the suite did not read them as fast as they go, it has to call
lost what it did not see. The logs of the servers have every outcome that was ever written. A record that fewer than two of
three servers have was proposed and never applied, so it tells nothing.

What is found is given to the checker of the suite, but for what clients were told, and for jobs that come and go. What
was due in the last seconds, when the cluster is stopped, is left out.
"""

import collections
import glob
import json
import os
import re
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import report  # noqa: E402 (found by the line above)
from checker import Checker  # noqa: E402
from engines import Local  # noqa: E402
from evidence import Cut, Entry, Evidence, millis, read_files  # noqa: E402
from prove import Spoiler, part_of  # noqa: E402
from workload import Job  # noqa: E402

HOSTS = ("a", "b", "c")
MAJORITY = 2
# Kind of a record, and the rest of its name.
RECORD = re.compile(rb"/g\d+/(history|jobs|progress)/[0-9a-f]+/([^/\x00]+)\x00")
BYTES_MAX = 1 << 20
CAUSES = {"i": "slot", "j": "join", "t": "trigger"}
# Reasons as the API tells them, by how they are stored.
REASONS = {
    "gave_way": "a later slot came first (catchUp: latest)", "catch_up_bound": "it was beyond the bounds of catchUp: all",
    "replaced": "a newer run took its place", "deleted": "its job was deleted",
    "withdrawn": "the job was deleted, disabled or given another schedule",
}
SKIPPED = {"overlaps": "run {} was still busy", "superseded": "run {} was waiting already", "replaced": "run {} took its place",
           "upstream": "upstream {0[parent]} failed"}
# What is cut off for longer than this is told so by `faults.log` under this name.
CUT_LONG = "cut-long"
# What runs when the cluster is stopped.
LAST_S = 30


def records(folder):
    """(kind, name) -> what it said first, and last, of those that were applied."""
    seen = collections.defaultdict(set)
    first, last = {}, {}
    for host in HOSTS:
        for path in sorted(glob.glob(os.path.join(folder, host, "zookeeper", "version-2", "log.*"))):
            with open(path, "rb") as log:
                text = log.read()
            for found in RECORD.finditer(text):
                # Its data follow its path, after their length, of which the expression has taken the first byte.
                begin = found.end() - 1
                size = int.from_bytes(text[begin:begin + 4], "big")
                if not 0 < size < BYTES_MAX:
                    continue
                try:
                    said = json.loads(text[begin + 4:begin + 4 + size])
                except ValueError:
                    # Another operation names it.
                    continue
                key = (found[1].decode(), found[2].decode())
                seen[key].add(host)
                first.setdefault(key, said)
                last[key] = said
    applied = [key for key, hosts in seen.items() if len(hosts) >= MAJORITY]
    return {key: first[key] for key in applied}, {key: last[key] for key in applied}, len(seen) - len(applied)


def parts(outcome):
    """The word of an outcome, and what it says beside."""
    return (outcome, None) if isinstance(outcome, str) else next(iter(outcome.items()))


def raw(record):
    """A record of the history as the API tells it."""
    (is_run, said), = record.items()
    word, more = parts(said["outcome"])
    if word == "skipped" and isinstance(more, dict):
        (rule, other), = more.items()
        reason = SKIPPED.get(rule, rule).format(other)
    else:
        reason = REASONS.get(more, more)
    told = {"job": said["name"], "outcome": {"timed_out": "timedOut"}.get(word, word), "reason": reason}
    if is_run == "range":
        return {**told, "cause": "slot", "count": said["count"], "firstDue": said["first"]["due"], "lastDue": said["last"]["due"],
                "ended": said["recorded"]}
    key = said["key"]
    attempts = []
    for attempt in said.get("attempts", []):
        end, details = parts(attempt["end"])
        message = details.get("message") if isinstance(details, dict) else None
        attempts.append({**attempt, "outcome": end, "message": message, "task": f"{said['name']}-{key}-{attempt['number']}"})
    cycle = said.get("cycle", {}).get("due", said["due"])
    return {**told, "key": key, "cause": CAUSES.get(key.split("-", 1)[1][0]), "cycle": cycle, "due": said["due"],
            "created": said["created"], "ended": said["ended"], "attempts": attempts}


def made(folder, jobs, progress):
    """The jobs that were there from the beginning to the end."""
    names = {job["uid"]: job["name"] for job in jobs.values()}
    for key, job in jobs.items():
        rules, name = job.get("rules", {}), job["name"]
        if not re.match(r"g\d+-|beat-", name):
            continue
        overlap = rules.get("overlap")
        fields = {"concurrent": True} if isinstance(overlap, dict) else {"overlap": overlap} if overlap else {}
        if rules.get("catch_up"):
            fields["catchUp"] = rules["catch_up"]
        period = anchor = None
        if "schedule" in job:
            _, start, period = job["schedule"]["text"].split("/")
            period, anchor = int(period[2:-1]), millis(start)
        parents = [names[uid] for uid in job.get("parents", [])]
        made = Job(name, folder, period, anchor, parents, fails=int("retried" in name), **fields)
        since = progress.get(key, {}).get("accounted_since", job["created"])
        made.created_ms = (since, since)
        yield made


def faults(folder):
    """When something was out of order, clocks that were shifted, hosts that were cut off for long, and what to add to the boot
    clock for the time of day; by what the suite has noted itself."""
    outages, shifts, cuts = [], [], []
    name = began = None
    with open(os.path.join(folder, "faults.log"), encoding="utf-8") as log:
        for line in log:
            text = line.split(" ", 3)[3].strip()
            at = float(line.split(" ", 3)[2])
            begins = re.match(r"cycle \d+: (\S+);", text)
            healed = re.match(r"healed: \S+ of (\S*) ?(.*)", text)
            if begins:
                name, began = begins[1], at
            elif healed:
                outages.append((began - 0.5, at + LAST_S))
                by = re.search(r"by ([+-]\d+) s", healed[2])
                if by:
                    shifts.append((began, at + 1.5, healed[1], int(by[1])))
                if name == CUT_LONG:
                    cuts.append(Cut(healed[1], began, []))
                    cuts[-1].healed = at
    return outages, shifts, cuts


def audit(folder):
    first, last, proposed = records(folder)
    told = collections.Counter(kind for kind, _ in first)
    print(f"{told['history']} records of the history, {proposed} records proposed and not applied")
    of_kind = lambda all_of, kind: {name: said for (k, name), said in all_of.items() if k == kind}  # noqa: E731
    jobs = list(made(folder, of_kind(last, "jobs"), of_kind(first, "progress")))
    names = {job.name for job in jobs}
    entries = [entry for entry in (Entry(raw(said)) for said in of_kind(last, "history").values()) if entry.job in names]
    tasks, wrong = read_files([(host, os.path.join(folder, host, "lines")) for host in HOSTS])
    tasks = {name: task for name, task in tasks.items() if task.job in names}
    nodes = {}
    for host in HOSTS:
        with open(os.path.join(folder, host, "data", "node"), encoding="ascii") as file:
            nodes[file.read().strip()] = host
    outages, shifts, cuts = faults(folder)
    # Beats begin when they are due, but after faults; so the boot clock is known by those that were the soonest.
    beats = [(at, task.due_ms / 1000 - at) for task in tasks.values() if task.job.startswith("beat-") for at, _ in task.starts
             if not any(began - 5 <= at <= ended + 5 for began, ended, *_ in shifts)]
    offset_s = max(offset for _, offset in beats)
    end_s = max(at for at, _ in beats) - LAST_S
    # What was being written when all was stopped has no outcome yet.
    known = {attempt["task"] for entry in entries for attempt in entry.attempts}
    tasks = {name: task for name, task in tasks.items() if name in known or all(at <= end_s for at, _ in task.starts + task.ended)}
    evidence = Evidence(jobs, entries, tasks, outages, cuts, shifts, Local, offset_s, int((end_s + offset_s) * 1000), nodes.get, {}, [], [], {}, [])
    checker = Checker(evidence)
    problems = wrong + checker.run()
    lines, _ = report.figures(checker)
    # Of what clients were told nothing is known here.
    print(f"{lines[0]}\n{lines[-1]}")
    for problem in problems[:30]:
        print(f"VIOLATION {problem}")
    print(f"{len(jobs)} jobs, {len(tasks)} tasks; {len(problems)} violations")
    unnoticed = [] if problems else Spoiler(part_of(evidence)).all()[0]
    for name in unnoticed:
        print(f"VIOLATION the checker does not notice {name}")
    return 1 if problems or unnoticed or not checker.counts["slots"] else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(audit(sys.argv[1]))
