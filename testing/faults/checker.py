"""Compares what the servers say with what the tasks wrote, slot by slot. Shares no code with the product.

Schedules are worked out anew (anchor plus k periods). Times of the ledger are those of the clocks of leaders, which may
have been shifted; times in the files are those of the boot clock, which all hosts share and nobody shifts. Each story has
a file: `slots.py`, `chains.py`, `traces.py`, `writes.py`; what excuses something by its time is in `clocks.py`.
"""

import collections

from chains import Chains
from clocks import Clocks, Unattended
from slots import Slots
from traces import Traces
from writes import Writes

# What can be wrong.
KINDS = ("lost", "doubled", "write lost", "overlap", "order", "disagree", "without cause", "isolation", "early", "ledger")


class Checker(Clocks, Slots, Chains, Traces, Writes):
    def __init__(self, evidence):
        self.e = evidence
        self.violations = []
        self.counts = collections.Counter()
        self.reasons = collections.Counter()
        self.of_job = collections.defaultdict(list)
        for entry in evidence.entries:
            self.of_job[entry.job].append(entry)
        self.by_key = {entry.key: entry for entry in evidence.entries if entry.key}
        self.tasks_of = collections.defaultdict(dict)
        for name, task in evidence.tasks.items():
            self.tasks_of[task.job][name] = task
        self.unattended = Unattended(evidence)

    def fail(self, kind, text):
        assert kind in KINDS, kind
        self.counts[kind] += 1
        self.violations.append(f"{kind}: {text}")

    def run(self):
        for job in self.e.jobs:
            (self.check_child if job.parents else self.check_slots)(job)
            self.check_files(job)
            self.check_spans(job)
        for name in set(self.tasks_of) - {job.name for job in self.e.jobs}:
            self.fail("doubled", f"tasks of a job that nobody made: {name}")
        for cut in self.e.cuts:
            self.check_cut(cut)
        self.check_definitions()
        self.check_audit()
        self.check_triggers()
        return self.violations
