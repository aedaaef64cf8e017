"""What was seen: the ledger as the servers tell it, and what the tasks wrote themselves."""

import calendar
import re

from workload import iso

# Two marks of /proc/uptime in hundredths, each cut off.
GRAIN_S = 0.03


def millis(text):
    """Epoch milliseconds of an RFC 3339 time in UTC, or of a number that is one already."""
    if text is None or isinstance(text, (int, float)):
        return text
    match = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?Z", text)
    if not match:
        raise ValueError(f"not a time in UTC: {text!r}")
    *fields, fraction = match.groups()
    return calendar.timegm(tuple(map(int, fields)) + (0, 0, 0)) * 1000 + int(((fraction or "") + "000")[:3])


class Entry:
    """One line of the ledger: a run, or a range of slots that share a fate."""

    def __init__(self, raw):
        self.job, self.key = raw["job"], raw.get("key")
        self.cause = raw.get("cause")
        self.outcome = raw.get("outcome")  # None while it lives
        self.reason = raw.get("reason") or ""
        self.arguments = raw.get("arguments")
        self.cycle = millis(raw.get("cycle"))
        self.is_range = raw.get("count") is not None
        self.due_ms = millis(raw["firstDue"] if self.is_range else raw["due"])
        self.last_due_ms = millis(raw["lastDue"]) if self.is_range else self.due_ms
        self.count = raw["count"] if self.is_range else 1
        self.created_ms = millis(raw.get("created"))
        self.recorded_ms = millis(raw.get("ended") or raw.get("recorded") or raw.get("created"))
        self.attempts = raw.get("attempts") or []

    def __str__(self):
        return f"{self.job} {self.key or 'range'} due {iso(self.due_ms)} {self.outcome} {self.reason}".strip()


class Task:
    """What one task wrote: (boot clock in s, host) of each start and each end."""

    def __init__(self, job, due, cycle, attempt):
        self.job, self.due_ms, self.cycle, self.attempt = job, due, cycle, attempt
        self.starts, self.finishes, self.ended = [], [], []

    @property
    def span(self):
        """From when to when it lived at least."""
        ends = [at for at, _ in self.finishes + self.ended]
        return min(at for at, _ in self.starts), max(ends, default=None)


def read_files(files):
    """task id -> [`Task`], and what makes no sense."""
    tasks, wrong = {}, []
    line = re.compile(r"(start|finish|ended) ([a-z0-9-]+) (\S+) (\d+) (\d+) (\d+) (\w+) (\d+\.\d+)")
    for place, path in files:
        with open(path, encoding="ascii") as file:
            for number, text in enumerate(file, 1):
                match = line.fullmatch(text.rstrip("\n"))
                if not match or match[7] != place:
                    wrong.append(f"{path}:{number}: not a line of a task: {text!r}")
                    continue
                word, name, job, due, cycle, attempt, host, up = match.groups()
                told = (job, int(due), int(cycle), int(attempt))
                task = tasks.setdefault(name, Task(*told))
                if (task.job, task.due_ms, task.cycle, task.attempt) != told:
                    wrong.append(f"{path}:{number}: task {name} has two identities")
                {"start": task.starts, "finish": task.finishes, "ended": task.ended}[word].append((float(up), host))
    return tasks, wrong


def merged(spans):
    """The same times, in order and without overlaps."""
    together = []
    for began, ended in sorted(spans):
        if together and began <= together[-1][1]:
            together[-1] = (together[-1][0], max(ended, together[-1][1]))
        else:
            together.append((began, ended))
    return together


class Cut:
    """A host that was cut off for longer than its tasks may live then. Times are those of the boot clock, in seconds."""

    def __init__(self, host, began, jobs):
        self.host, self.began, self.healed = host, began, None
        # Names of jobs of which a task ran there that would have gone on for much longer.
        self.jobs = jobs


class Evidence:
    """All that was seen. Times are those of the boot clock, in seconds."""

    def __init__(self, jobs, entries, tasks, outages, cuts, shifts, engine, offset_s, end_ms, host_of, states, writes, audit, shown, triggers):
        self.jobs = jobs  # [Job]
        self.entries = entries  # [Entry]
        self.tasks = tasks  # task id -> Task
        self.outages = merged(outages)  # (from, to): something was out of order. When nobody led is told by the beats
        self.cuts = cuts  # [Cut]
        self.shifts = shifts  # (from, to, host, seconds)
        self.engine = engine  # what runs the tasks, see engines.py
        self.offset_s = offset_s  # boot clock + this = time of day
        self.end_ms = end_ms  # what was due by then was waited for
        self.host_of = host_of  # the node that an attempt names -> name of the host where it ran
        self.states = states  # name -> the descriptions it may have; None for absent
        self.writes = writes  # [Write]
        self.audit = audit  # entries of the audit
        self.shown = shown  # host -> name -> what it lists of a job
        self.triggers = triggers  # [Trigger]
