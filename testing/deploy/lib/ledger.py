"""What the servers say became of the slots of jobs, read again and again: ZooKeeper keeps the last outcomes alone."""

import calendar
import re
import threading
import time

from case import fail, told, until

READ_EVERY_S = 1
# Half of what ZooKeeper keeps of a job: what has ended meanwhile is in the other half.
RECENT = 10


def seconds(text):
    match = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?Z", text)
    return calendar.timegm(tuple(map(int, match.groups())) + (0, 0, 0))


class Ledger:
    def __init__(self, urls):
        """`urls()` are the addresses of servers, of which the first that answers is asked."""
        self.urls = urls
        self.entries = {}  # identity -> entry
        self.wrong = []
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self):
        while not self.over.wait(READ_EVERY_S):
            runs = self.read()
            with self.lock:
                for run in runs:
                    if run["state"] == "ended":
                        self.take(run)

    def read(self):
        """What is told now."""
        return next((said["runs"] for url in self.urls() if (said := told(f"{url}/v1/runs?limit=1000"))), [])

    def take(self, run):
        entry = {key: run.get(key) for key in ("job", "key", "cause", "due", "cycle", "firstDue", "lastDue", "count", "outcome")}
        identity = run.get("key") or f"{run['job']} from {run['firstDue']}"
        known = self.entries.setdefault(identity, entry)
        # A row of slots may grow at its end.
        if known != entry and (run.get("key") or known["outcome"] != entry["outcome"] or known["count"] > entry["count"]):
            self.wrong.append(f"{known} became {entry}")
        self.entries[identity] = entry

    def of(self, job):
        with self.lock:
            return [entry for entry in self.entries.values() if entry["job"] == job]

    def slots(self, job, period):
        """due time of each slot, in seconds -> its outcomes."""
        found = {}
        for entry in self.of(job):
            if entry["count"] is not None:
                first = seconds(entry["firstDue"])
                for number in range(entry["count"]):
                    found.setdefault(first + number * period, []).append(entry["outcome"])
            elif entry["cause"] == "slot":
                found.setdefault(seconds(entry["due"]), []).append(entry["outcome"])
        return found

    def whole(self, job, first, period, label):
        """Waits until each slot from `first` up to now has an outcome, and fails where one has two, one has changed, or what
        was told last is not told any more; how many slots there are."""
        due = set(range(first, int(time.time()), period))
        until(lambda: f"{label}: slots of {job} without an outcome: {sorted(due - set(self.slots(job, period)))} of {len(due)}", 60,
              lambda: due <= set(self.slots(job, period)))
        slots = {slot: outcomes for slot, outcomes in self.slots(job, period).items() if slot >= first}
        if twice := {slot: outcomes for slot, outcomes in slots.items() if len(outcomes) != 1}:
            fail(f"{label}: slots of {job} with other than one outcome: {twice}")
        if odd := [slot for slot in slots if (slot - first) % period]:
            fail(f"{label}: slots that the schedule of {job} does not have: {odd}")
        if self.wrong:
            fail(f"{label}: outcomes that changed: {self.wrong}")
        runs = [entry for entry in self.of(job) if entry["key"] and entry["due"]]
        recent = {entry["key"] for entry in sorted(runs, key=lambda entry: entry["due"])[-RECENT:]}

        def lost():
            return recent - {run.get("key") for run in self.read()}

        # One that has just begun to stand by may be behind.
        until(lambda: f"{label}: lost from the ledger: {lost()}", 60, lambda: not lost())
        return len(due)

    def end(self):
        self.over.set()
        self.thread.join()
