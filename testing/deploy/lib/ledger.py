"""What the servers say became of the slots of jobs, read again and again: ZooKeeper keeps the last outcomes alone."""

import calendar
import json
import re
import threading

from case import ask

READ_EVERY_S = 1


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
            self.read()

    def read(self):
        """Takes in what is told now; whether anybody told."""
        for url in self.urls():
            status, text = ask(f"{url}/v1/runs?limit=1000", timeout=5)
            if status == 200:
                with self.lock:
                    for run in json.loads(text)["runs"]:
                        if run["state"] == "ended":
                            self.take(run)
                return True
        return False

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

    def end(self):
        self.over.set()
        self.thread.join()
