"""Compares what the servers say with what the tasks wrote, slot by slot. Shares no code with the product.

Schedules are worked out anew (anchor plus k periods). Times of the ledger are those of the clocks of leaders, which may
have been shifted; times in the files are those of the boot clock, which all hosts share and nobody shifts.
"""

import bisect
import calendar
import collections
import json
import re

from workload import iso

# A slot may be noticed this long after somebody led again: two cores are busy then. Milliseconds.
LATE_MS = 5_000
# Two marks of /proc/uptime in hundredths, each cut off.
GRAIN_S = 0.03
# What an agent of Mesos that was killed says of tasks whose executor it does not find again, or not in time; and the master,
# where it took the agent for lost before it heard that.
CUT_SHORT = re.compile("REASON_(EXECUTOR_(TERMINATED|UNREGISTERED|REGISTRATION_TIMEOUT|REREGISTRATION_TIMEOUT)|AGENT_REREGISTERED)")


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
        self.outcome = raw.get("outcome")  # None while it lives
        self.reason = raw.get("reason") or ""
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


class Evidence:
    """All that was seen."""

    def __init__(self, jobs, entries, tasks, outages, isolations, shifts, engine, offset_s, end_ms, host_of, states, writes, audit, shown):
        self.jobs = jobs  # [Job]
        self.entries = entries  # [Entry]
        self.tasks = tasks  # task id -> Task
        self.outages = merged(outages)  # (from, to) on the boot clock, in s
        self.isolations = isolations  # (from, to, [hosts])
        self.shifts = shifts  # (from, to, host, seconds)
        self.engine = engine  # what runs the tasks, see engines.py
        self.offset_s = offset_s  # boot clock + this = time of day
        self.end_ms = end_ms  # what was due by then was waited for
        self.host_of = host_of  # the node that an attempt names -> name of the host where it ran
        self.states = states  # name -> the descriptions it may have; None for absent
        self.writes = writes  # [Write]
        self.audit = audit  # entries of the audit
        self.shown = shown  # host -> name -> what it lists of a job


class Checker:
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

    def fail(self, kind, text):
        self.counts[kind] += 1
        self.violations.append(f"{kind}: {text}")

    def run(self):
        for job in self.e.jobs:
            (self.check_child if job.parents else self.check_slots)(job)
            self.check_files(job)
            self.check_spans(job)
        for name in set(self.tasks_of) - {job.name for job in self.e.jobs}:
            self.fail("doubled", f"tasks of a job that nobody made: {name}")
        self.check_definitions()
        self.check_audit()
        return self.violations

    # --- times ---------------------------------------------------------------------------------------------------

    def boot(self, ms):
        return ms / 1000 - self.e.offset_s

    def ms(self, boot_s):
        return (boot_s + self.e.offset_s) * 1000

    def is_outage(self, job, due_ms):
        """Whether nobody may have looked when this slot was due, or until the one after it."""
        late = LATE_MS / 1000
        low, high = self.boot(due_ms) - late, self.boot(due_ms) + job.period_ms / 1000 + late
        at = bisect.bisect_left(self.e.outages, (low,)) - 1
        return any(began <= high and ended >= low for began, ended in self.e.outages[max(at, 0):at + 40])

    def shift_ms(self, from_ms, to_ms):
        """By how much a clock that mattered then may have been off."""
        low, high = self.boot(from_ms) - 1, self.boot(to_ms) + 1
        return max((abs(seconds) * 1000 for began, ended, _, seconds in self.e.shifts
                    if began <= high and ended >= low), default=0)

    def shift_before_ms(self, at_ms):
        """The same, of whoever decided what was carried out by then: on a busy machine some time lies between."""
        return self.shift_ms(at_ms - LATE_MS, at_ms)

    # --- slots ---------------------------------------------------------------------------------------------------

    def check_slots(self, job):
        """Every slot from the creation to the end has exactly one outcome."""
        outcomes = collections.defaultdict(list)
        for entry in self.of_job[job.name]:
            first, rest = divmod(entry.due_ms - job.anchor_ms, job.period_ms)
            last, rest_of_last = divmod(entry.last_due_ms - job.anchor_ms, job.period_ms)
            if rest or rest_of_last or first < 0:
                self.fail("ledger", f"no slot of {job.name} is due then: {entry}")
                continue
            if last - first + 1 != entry.count:
                self.fail("ledger", f"a range of {entry.count} from slot {first} to slot {last}: {entry}")
            for index in range(first, last + 1):
                outcomes[index].append(entry)
        if job.created_ms is None:
            if outcomes:
                self.fail("ledger", f"{job.name} was never made, and has {len(outcomes)} slots")
            return
        began, done = job.created_ms
        last = job.last_index(self.e.end_ms)
        if job.deleted_ms:
            last = min(last, job.last_index(job.deleted_ms[0]))
        if done is None:
            # It may never have been there; then it has nothing.
            begun = min(outcomes, default=last + 1)
        else:
            # If the start has passed, the latest past slot exists and none before it. That moment lies between the
            # request and its answer, by the leader's clock.
            shift = self.shift_ms(began, done)
            before, after = max(job.last_index(began - shift), 0), max(job.last_index(done + shift), 0)
            begun = min(outcomes, default=after)
            if not before <= begun <= after and begun <= last:
                self.fail("lost", f"{job.name}: its first slot is {begun}, expected {before} to {after}")
        # Slots at the very moment of a deletion may be on either side of it.
        certain = job.last_index(job.deleted_ms[0] - self.shift_before_ms(job.deleted_ms[0]) - LATE_MS) if job.deleted_ms else last
        for index in range(begun, last + 1):
            entries = outcomes.get(index, [])
            if not entries and index > certain:
                continue
            self.counts["slots"] += 1
            self.judge(job, index, entries)
        for index in (index for index in outcomes if index > last):
            if len(outcomes[index]) > 1:
                self.fail("doubled", f"{job.name}: slot {index} has {len(outcomes[index])} outcomes")

    def judge(self, job, index, entries):
        what = f"{job.name}: slot {index}, due {iso(job.due_ms(index))}"
        if len(entries) > 1:
            self.fail("doubled", f"{what}, has {len(entries)} outcomes: {', '.join(map(str, entries))}")
        if not entries or entries[0].outcome is None:
            self.fail("lost", f"{what}, has no outcome" + (f": {entries[0]}" if entries else ""))
            return
        entry = entries[0]
        self.count(entry)
        deleted = job.deleted_ms and "deleted" in entry.reason
        if entry.outcome == "missed":
            # Under `latest` a slot gives way to the next, if that was due when somebody could look again.
            due = job.due_ms(index)
            gave_way = job.due_ms(index + 1) <= entry.recorded_ms + self.shift_ms(due, due + job.period_ms + LATE_MS)
            if job.fields.get("catchUp") or not self.is_outage(job, job.due_ms(index)) or not gave_way:
                self.fail("without cause", f"{what}, was missed: {entry}")
        elif entry.outcome == "skipped":
            if not deleted:
                self.judge_skip(job, what, entry)
        elif entry.outcome == "killed":
            if not deleted and job.fields.get("overlap") != "replace":
                self.fail("without cause", f"{what}, was killed: {entry}")
        elif entry.outcome == "lost":
            self.judge_lost(what, entry)
        elif entry.outcome != "succeeded" and not self.is_cut_short(entry, entry.attempts[-1:]):
            self.fail("without cause", f"{what}, should have succeeded: {entry}")

    def is_cut_short(self, entry, attempts):
        """Whether an agent that was killed while it had these says that they failed: nobody knows how far they came."""
        def is_one(attempt):
            said = attempt.get("message") or (entry.reason if attempt is entry.attempts[-1] else "")
            return attempt.get("outcome") == "failed" and CUT_SHORT.search(said) and self.met_outage(entry, attempt)
        return bool(self.e.engine.places and attempts and all(map(is_one, attempts)))

    def met_outage(self, entry, attempt):
        """Whether something was out of order between the launch of the attempt and the end of its run."""
        began, ended = self.boot(millis(attempt.get("launched")) or entry.due_ms), self.boot(entry.recorded_ms)
        return any(low <= ended and high >= began for low, high in self.e.outages)

    def judge_skip(self, job, what, entry):
        """Only because of another run of the job that lived then, and never where runs may overlap."""
        named = re.search(r"run (\S+)", entry.reason)
        other = self.by_key.get(named[1]) if named else None
        fits = other is not None and other.job == job.name and other is not entry
        if fits and "took its place" in entry.reason:
            fits = other.due_ms > entry.due_ms and job.fields.get("overlap") == "replace"
        elif fits:
            # When it ended, which may be some time later, was told by a clock that may have been behind.
            until = max(entry.due_ms + 4 * LATE_MS, self.lived_until_ms(other) + LATE_MS)
            shift = self.shift_ms(entry.due_ms - LATE_MS, until)
            busy = other.outcome is None or other.recorded_ms + LATE_MS + shift >= entry.due_ms
            fits = other.due_ms < entry.due_ms and busy
        if job.overlaps or not fits:
            self.fail("without cause", f"{what}, was skipped: {entry}")

    def lived_until_ms(self, entry):
        """Until when its tasks were alive, as far as they have written that."""
        tasks = filter(None, (self.e.tasks.get(attempt.get("task")) for attempt in entry.attempts))
        return max((self.ms(at) for task in tasks for at, _ in task.finishes + task.ended), default=entry.due_ms)

    def judge_lost(self, what, entry):
        """Legal only where what ran was cut off from those who tell, or where nobody could tell any more whether it was sent."""
        self.counts["called lost"] += 1
        for attempt in entry.attempts:
            task = self.e.tasks.get(attempt.get("task"))
            host = self.e.host_of(attempt.get("node"))
            began = self.boot(millis(attempt.get("launched")) or entry.due_ms)
            ended = self.boot(entry.recorded_ms)
            cut = any(host in hosts and low <= ended and high >= began for low, high, hosts in self.e.isolations)
            if attempt.get("outcome") == "lost":
                if task and task.finishes:
                    self.counts["ended, called lost"] += 1
                # The place was recorded, and whoever was to send it there was gone, or cut off, before it could; or the agent
                # there was killed, and did not find again what ran it.
                begun, said = bool(task and task.starts), attempt.get("message") or entry.reason
                if self.e.engine.places and self.met_outage(entry, attempt) and (not begun or CUT_SHORT.search(said)):
                    self.counts["never sent, called lost"] += not begun
                elif not cut:
                    self.fail("without cause", f"{what}, was called lost although {host} was not cut off: {entry}")

    def count(self, entry):
        self.counts[entry.outcome if entry.outcome in ("missed", "skipped") else "ran"] += 1
        self.reasons[f"{entry.outcome} {re.sub(r'run .+? (?=was|took)|[0-9]+', '.. ', entry.reason)[:60]}".strip()] += 1

    # --- chains and joins ----------------------------------------------------------------------------------------

    def check_child(self, job):
        """One outcome for each cycle in which the parents arrived; what has just arrived may be on its way."""
        mine = collections.defaultdict(list)
        for entry in self.of_job[job.name]:
            mine[entry.cycle].append(entry)
        for cycle, entries in mine.items():
            if len(entries) > 1:
                self.fail("doubled", f"{job.name}: cycle {iso(cycle)} has {len(entries)} outcomes: {', '.join(map(str, entries))}")
        arrived = [{e.cycle: e for e in self.of_job[parent] if not e.is_range and e.outcome} for parent in job.parents]
        for cycle in set().union(*arrived):
            parents = [of_parent.get(cycle) for of_parent in arrived]
            if cycle > self.e.end_ms or any(p is not None and p.recorded_ms > self.e.end_ms for p in parents):
                mine.pop(cycle, None)
                continue
            if job.created_ms[1] is None or any(p is not None and p.created_ms and p.created_ms <= job.created_ms[1] + 3000 for p in parents):
                # A parent may have been at work before this was made.
                mine.pop(cycle, None)
                continue
            self.counts["joins"] += 1
            all_well = all(p is not None and p.outcome == "succeeded" for p in parents)
            entry = next(iter(mine.pop(cycle, [])), None)
            if entry is None or entry.outcome is None:
                # A parent that was skipped or missed ends the cycle; whether that leaves a line is up to the join.
                if all_well:
                    self.fail("lost", f"{job.name}: all parents succeeded in cycle {iso(cycle)}, but it has no outcome")
                continue
            if entry.outcome == "lost":
                self.judge_lost(f"{job.name}: cycle {iso(cycle)}", entry)
            elif entry.outcome not in ("succeeded", "skipped") and not self.is_cut_short(entry, entry.attempts[-1:]):
                self.fail("without cause", f"{job.name}: should have succeeded: {entry}")
            if entry.outcome == "succeeded" and not all_well:
                self.fail("order", f"{job.name}: ran in cycle {iso(cycle)} although not all parents succeeded: {entry}")
        for cycle, entries in mine.items():
            if not any(live.cycle == cycle for parent in job.parents for live in self.of_job[parent]):
                self.fail("order", f"{job.name}: no parent was ever in cycle {iso(cycle)}: {entries[0]}")
        # By the files alone: nothing began before its parents had finished.
        finished = []
        for parent in job.parents:
            ends = {}
            for task in self.tasks_of[parent].values():
                for at, _ in task.finishes:
                    ends[task.cycle] = min(at, ends.get(task.cycle, at))
            finished.append((parent, ends))
        for name, task in self.tasks_of[job.name].items():
            for at, _ in task.starts:
                for parent, ends in finished:
                    if ends.get(task.cycle, float("inf")) > at + GRAIN_S:
                        self.fail("order", f"{job.name}: task {name} began before {parent} had finished its cycle {iso(task.cycle)}")

    # --- what the tasks wrote ------------------------------------------------------------------------------------

    def check_files(self, job):
        """Succeeded means begun once and finished once; nothing ran that the ledger does not know of."""
        tasks = dict(self.tasks_of[job.name])
        carried_out = collections.Counter()
        # What was given up may be tried again, and may have come to its end where nobody was told.
        given_up = {attempt.get("task") for entry in self.of_job[job.name] for attempt in entry.attempts
                    if attempt.get("outcome") == "lost" or self.is_cut_short(entry, [attempt])}
        for name, task in tasks.items():
            # Who is told to end before it has written that it began has written that it was ended, and nothing else.
            if len(task.starts) > 1 or len(task.finishes) > 1 or (task.finishes and not task.starts):
                places = ", ".join(f"{host} at {at}" for at, host in task.starts)
                self.fail("doubled", f"{job.name}: task {name} began {len(task.starts)} times ({places}), finished {len(task.finishes)} times")
            if task.finishes and task.attempt >= job.fails and name not in given_up:
                carried_out[task.due_ms if not job.parents else task.cycle] += 1
        for due, times in carried_out.items():
            if times > 1:
                self.fail("doubled", f"{job.name}: what is due {iso(due)} was carried out {times} times")
        for entry in self.of_job[job.name]:
            if entry.is_range:
                continue
            for attempt in entry.attempts:
                name = attempt.get("task")
                task = tasks.pop(name, None)
                outcome = attempt.get("outcome")
                if entry.outcome is None:
                    continue
                if outcome in ("succeeded", "failed"):
                    begun, finished = (len(task.starts), len(task.finishes)) if task else (0, 0)
                    if (begun < 1 or finished < 1) and not self.is_cut_short(entry, [attempt]):
                        self.fail("disagree", f"{entry}: task {name} {outcome}, but wrote {begun} starts and {finished} finishes")
                if task is None:
                    continue
                host = self.e.host_of(attempt.get("node"))
                if task.starts and host not in {host for _, host in task.starts}:
                    self.fail("disagree", f"{entry}: task {name} is said to be of {host} and ran on {task.starts[0][1]}")
                if task.attempt != attempt.get("number") or task.due_ms != entry.due_ms:
                    self.fail("disagree", f"{entry}: task {name} was told attempt {task.attempt} and due time {iso(task.due_ms)}")
            if entry.outcome == "succeeded" and len(entry.attempts) != job.fails + 1:
                lost = sum(1 for attempt in entry.attempts if attempt.get("outcome") == "lost")
                # One that was cut short has failed as it was meant to, or once more than that.
                cut_short = sum(1 for attempt in entry.attempts if self.is_cut_short(entry, [attempt]))
                if not job.fails + 1 <= len(entry.attempts) - lost <= job.fails + 1 + cut_short:
                    self.fail("disagree", f"{entry}: {len(entry.attempts)} attempts, expected {job.fails + 1}")
            if entry.outcome in ("skipped", "missed") and entry.attempts:
                self.fail("disagree", f"{entry}: it has attempts")
        for name, task in tasks.items():
            if task.due_ms <= self.e.end_ms:
                self.fail("doubled", f"{job.name}: task {name}, due {iso(task.due_ms)}, ran, and the ledger does not know it")

    def check_spans(self, job):
        """No two attempts of a run alive at once, nor two runs where that is forbidden; nothing early, nothing after a deletion."""
        spans = sorted((*task.span, task.due_ms, task.cycle, name) for name, task in self.tasks_of[job.name].items() if task.starts)
        spans = [span for span in spans if span[1] is not None]
        last = {}
        for began, ended, due, cycle, name in spans:
            group = (due, cycle) if job.overlaps else None
            before = last.get(group)
            if before and began + GRAIN_S < before[0]:
                self.fail("overlap", f"{job.name}: task {name} began at {began} while {before[1]} lived until {before[0]}")
            if not before or ended > before[0]:
                last[group] = (ended, name)
        for name, task in self.tasks_of[job.name].items():
            for at, host in task.starts:
                began = self.ms(at)
                # It was decided on a little before, by the clock of that moment.
                shift = self.shift_ms(began - self.e.engine.begins_ms, began)
                # A retry waits for its delay, whatever the clock was when the slot came.
                if not job.parents and task.attempt == 0 and began + 100 + shift < task.due_ms:
                    self.fail("early", f"{job.name}: task {name} began {(task.due_ms - began) / 1000:.2f} s before it was due")
                gone = job.deleted_ms and job.deleted_ms[1]
                if gone and task.due_ms > gone + 100 + self.shift_before_ms(gone):
                    self.fail("doubled", f"{job.name}: task {name} is due {iso(task.due_ms)}, and the job was deleted by {iso(gone)}")

    # --- what was acknowledged -----------------------------------------------------------------------------------

    def check_definitions(self):
        """Every acknowledged job is there as acknowledged, whichever node is asked."""
        for host, jobs in self.e.shown.items():
            for job in self.e.jobs:
                may_be = self.e.states.get(job.name, {job.description})
                there = jobs.get(job.name)
                self.counts["definitions"] += 1
                if there is None:
                    if None not in may_be:
                        self.fail("write lost", f"{host} does not have {job.name}, which was acknowledged")
                    continue
                if there.get("description") not in may_be:
                    self.fail("write lost", f"{host} has {job.name} as {there.get('description')!r}, expected one of {may_be}")
                if there.get("command") != job.command or sorted(there.get("parents") or []) != sorted(job.parents):
                    self.fail("write lost", f"{host} has another {job.name} than was acknowledged: {json.dumps(there)[:200]}")
            for name in set(jobs) - {job.name for job in self.e.jobs}:
                self.fail("write lost", f"{host} has a job that nobody made: {name}")

    def check_audit(self):
        """What was acknowledged is in the audit once; what was refused is not; of the rest nobody knows, but not twice."""
        seen = collections.Counter(entry.get("request") for entry in self.e.audit)
        for write in self.e.writes:
            self.counts[f"writes {write.result}"] += 1
            times = seen[write.request]
            if times > 1 or (write.result == "done" and times != 1) or (write.result == "nothing" and times):
                self.fail("write lost", f"{write.kind} of {write.name} at {iso(write.began_ms)} was {write.result} ({write.text}), and is in the audit {times} times")


def prove(evidence):
    """Spoils what was found well in ways that the checker must notice. Returns what it did not."""
    missed = []

    def spoil(name, change):
        copy = Evidence(**vars(evidence))
        copy.entries = list(evidence.entries)
        copy.tasks = dict(evidence.tasks)
        copy.shown = {host: dict(jobs) for host, jobs in evidence.shown.items()}
        copy.audit = list(evidence.audit)
        try:
            change(copy)
        except StopIteration:
            missed.append(f"{name} (nothing to spoil)")
            return
        if not Checker(copy).run():
            missed.append(name)

    jobs = {job.name: job for job in evidence.jobs}
    permanent = {name for name, job in jobs.items() if not job.deleted_ms and job.created_ms and job.created_ms[1]}
    acknowledged = {write.request for write in evidence.writes if write.result == "done"}
    middle = evidence.end_ms - 3_000
    shift_ms = Checker(evidence).shift_ms
    tasks_of = collections.defaultdict(list)
    for task in evidence.tasks.values():
        tasks_of[task.job].append(task)

    def some(e, child=False, wanted=lambda entry: True):
        """One that ran as it should, whose end was waited for, by clocks that were right, and that is what is wanted."""
        return next(x for x in e.entries if x.outcome == "succeeded" and x.job in permanent and bool(jobs[x.job].parents) == child
                    and not x.is_range and x.recorded_ms < middle and x.due_ms < middle
                    and x.attempts and x.attempts[-1]["task"] in e.tasks
                    and not shift_ms(x.due_ms, x.due_ms + 20_000) and wanted(x))

    def task_of(entry):
        return evidence.tasks[entry.attempts[-1]["task"]]

    def is_followed(entry):
        """Whether another run of the job, which may not be alive beside it, began within half a minute after it."""
        began, ended = task_of(entry).span
        return not jobs[entry.job].overlaps and ended is not None and any(
            other.starts and other.span[1] is not None and began < other.span[0] < ended + 30 - 2 * GRAIN_S
            for other in tasks_of[entry.job] if other is not task_of(entry))

    def of_cycle(name, cycle):
        return [task for task in tasks_of[name] if task.cycle == cycle and task.finishes]

    def follows_one_task(entry):
        """A parent that was given up may have come to its end all the same, and been tried again."""
        task = task_of(entry)
        ends = [at for parent in of_cycle(jobs[entry.job].parents[0], task.cycle) for at, _ in parent.finishes]
        return len(ends) == 1 and any(at < ends[0] + 60 - 2 * GRAIN_S for at, _ in task.starts)

    def twice(e):
        name = some(e).attempts[-1]["task"]
        old = e.tasks[name]
        e.tasks[name] = new = Task(old.job, old.due_ms, old.cycle, old.attempt)
        new.starts, new.finishes = old.starts + [(old.starts[0][0] + 9, "elsewhere")], old.finishes

    def longer(e):
        """It lives into the next run of the same job."""
        name = some(e, wanted=is_followed).attempts[-1]["task"]
        old = e.tasks[name]
        e.tasks[name] = new = Task(old.job, old.due_ms, old.cycle, old.attempt)
        new.starts, new.finishes = old.starts, [(at + 30, host) for at, host in old.finishes]

    def late_parent(e):
        child = some(e, child=True, wanted=follows_one_task)
        old, = of_cycle(jobs[child.job].parents[0], task_of(child).cycle)
        name = next(name for name, task in e.tasks.items() if task is old)
        e.tasks[name] = new = Task(old.job, old.due_ms, old.cycle, old.attempt)
        new.starts, new.finishes = old.starts, [(at + 60, host) for at, host in old.finishes]

    def missed_without_cause(e):
        entry = some(e)
        e.entries.remove(entry)
        e.entries.append(Entry({"job": entry.job, "key": entry.key, "outcome": "missed", "due": entry.due_ms, "cycle": entry.cycle,
                                "ended": entry.due_ms}))

    spoil("a forgotten outcome", lambda e: e.entries.remove(some(e)))
    spoil("a second outcome", lambda e: e.entries.append(some(e)))
    spoil("a forgotten child", lambda e: e.entries.remove(some(e, child=True)))
    spoil("a task begun twice", twice)
    spoil("a task that never ran", lambda e: e.tasks.pop(some(e).attempts[-1]["task"]))
    spoil("a task nobody knows", lambda e: e.tasks.update({"x-0": stray(some(e))}))
    spoil("a parent that finished late", late_parent)
    spoil("a forbidden overlap", longer)
    spoil("a miss without cause", missed_without_cause)
    spoil("a lost job", lambda e: e.shown[next(iter(e.shown))].pop(some(e).job))
    spoil("a write that left no trace", lambda e: e.audit.remove(next(a for a in e.audit if a.get("request") in acknowledged)))
    return missed


def stray(entry):
    task = Task(entry.job, entry.due_ms, entry.cycle, 0)
    task.starts = task.finishes = [(1.0, "elsewhere")]
    return task
