#!/usr/bin/env python3
"""Audits what a run on ZooKeeper left behind, from the transaction logs of its servers.

    testing/faults/from_logs.py FOLDER/zookeeper      (FOLDER as it was given to --keep)

A store in ZooKeeper keeps some twenty outcomes of each job, and on a busy machine the suite cannot read them as fast as they
go: what it did not see, it has to call lost. The logs of the servers have every outcome that was ever written. A record
that fewer than two of three servers have was proposed and never applied, so it tells nothing.

Looked at are schedules that nobody changes: each slot of theirs has one outcome, none is missing between the first and
the last; and all tasks: none began twice, each that began has an outcome, each that succeeded began. Tasks of the last
seconds, when the cluster is stopped, have none yet.
"""

import collections
import glob
import os
import re
import sys

HOSTS = ("a", "b", "c")
MAJORITY = 2
# `<batch>,<run>,<outcome>,<first due>,<last due>,<recorded>,<job>` is the name of a record of the history.
RECORD = re.compile(rb"/history/[0-9a-f]+/([^,/\x00]+),([^,\x00]*),(\d+),(\d+),(\d+),(\d+),([A-Za-z0-9_.-]+)")
SUCCEEDED = "0"
# As many outcomes as a job has to have for its period to be told from them.
OUTCOMES_MIN = 20
# What runs when the cluster is stopped.
LAST_MS = 30_000


def records(folder):
    """Records of the history that were applied."""
    seen = collections.defaultdict(set)
    for host in HOSTS:
        for path in sorted(glob.glob(os.path.join(folder, host, "zookeeper", "version-2", "log.*"))):
            with open(path, "rb") as log:
                for found in RECORD.finditer(log.read()):
                    seen[found.groups()].add(host)
    applied = [[part.decode() for part in record] for record, hosts in seen.items() if len(hosts) >= MAJORITY]
    print(f"{len(applied)} records of the history, {len(seen) - len(applied)} proposed and not applied")
    return applied


def tasks(folder):
    """Task -> run, due time and how often it began."""
    begun = {}
    for host in HOSTS:
        with open(os.path.join(folder, host, "lines"), encoding="utf-8") as lines:
            for line in lines:
                words = line.split()
                if words[:1] == ["start"]:
                    task, job = words[1], words[2]
                    run = task[len(job) + 1:task.rindex("-")]
                    begun[task] = (run, int(words[3]), begun.get(task, (0, 0, 0))[2] + 1)
    return begun


def audit(folder):
    applied, begun = records(folder), tasks(folder)
    problems = []
    runs, schedules = collections.defaultdict(list), collections.defaultdict(list)
    for _, run, outcome, first, last, recorded, job in applied:
        if "-" in run:
            runs[run].append((outcome, recorded))
        # Children have no schedule, and the jobs of writers come and go.
        if "-j" not in run and not job.startswith("w"):
            schedules[job, run.split("-")[0]].append((int(first), int(last)))
    problems += [f"run {run} has {len(ends)} outcomes: {ends}" for run, ends in runs.items() if len(ends) > 1]
    problems += [f"task {task} began {times} times" for task, (_, _, times) in begun.items() if times > 1]
    over = max((due for _, due, _ in begun.values()), default=0) - LAST_MS
    unknown = [(task, due) for task, (run, due, _) in begun.items() if run not in runs]
    problems += [f"task {task} began, and its run has no outcome" for task, due in unknown if due < over]
    known = {run for run, _, _ in begun.values()}
    problems += [f"run {run} succeeded, and never began" for run, ends in runs.items() if ends[0][0] == SUCCEEDED and run not in known]
    slots = jobs = 0
    for (job, _), outcomes in schedules.items():
        if len(outcomes) < OUTCOMES_MIN:
            continue
        outcomes.sort()
        steps = collections.Counter(b[0] - a[0] for a, b in zip(outcomes, outcomes[1:]) if a[0] == a[1] < b[0])
        if not steps:
            # Nothing but rows of slots that never became runs.
            continue
        period = steps.most_common(1)[0][0]
        jobs += 1
        slots += sum((last - first) // period + 1 for first, last in outcomes)
        problems += [f"{job}: after the outcome of {a[0]} to {a[1]} comes that of {b[0]}, its period is {period}"
                     for a, b in zip(outcomes, outcomes[1:]) if b[0] != a[1] + period and b[0] < over]
    print(f"{jobs} schedules with {slots} slots; {len(begun)} tasks began, {len(unknown)} of them while the cluster was being stopped")
    for problem in problems[:30]:
        print(f"VIOLATION {problem}")
    print(f"{len(problems)} violations")
    return 1 if problems or not slots else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(audit(sys.argv[1]))
