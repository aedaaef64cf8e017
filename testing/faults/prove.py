"""Spoils what was found well, once for each rule: the checker has to notice, and to call it what it is."""

import collections
import copy
import re

import service
from checker import Checker
from clocks import LATE_MS, ROUGH_MS
from evidence import GRAIN_S, Entry, Evidence, Task, millis
from slots import CUT_OFF, millis_of
from workload import RETRY_DELAY_S

# What is chosen to be spoiled began so soon after it was due.
PROMPT_MS = 400
# What a job does so soon after it was made is in doubt. Milliseconds.
YOUNG_MS = 10_000


def changed(entry, **fields):
    other = copy.copy(entry)
    vars(other).update(fields)
    return other


def moved(task, starts=0.0, finishes=0.0):
    """The same task, begun or finished later by so many seconds."""
    other = Task(task.job, task.due_ms, task.cycle, task.attempt)
    other.starts = [(at + starts, host) for at, host in task.starts]
    other.finishes = [(at + finishes, host) for at, host in task.finishes]
    other.ended = list(task.ended)
    return other


class Spoiler:
    """Finds in the evidence what nothing excuses, and spoils copies of it."""

    def __init__(self, evidence):
        self.e = evidence
        self.jobs = {job.name: job for job in evidence.jobs}
        self.permanent = {name for name, job in self.jobs.items() if not job.deleted_ms and job.created_ms and job.created_ms[1]}
        # What ended by then was waited for.
        self.middle = evidence.end_ms - 3_000
        self.checker = Checker(evidence)
        # Names of what was not noticed, and of what there was not.
        self.unnoticed, self.absent = [], []

    def spoil(self, name, kind, change):
        """`kind` is what has to be found wrong."""
        e = Evidence(**vars(self.e))
        e.entries, e.tasks, e.audit = list(self.e.entries), dict(self.e.tasks), list(self.e.audit)
        e.shown = {host: dict(jobs) for host, jobs in self.e.shown.items()}
        e.jobs, e.triggers = list(self.e.jobs), list(self.e.triggers)
        try:
            change(e)
        except StopIteration:
            self.absent.append(name)
            return
        checker = Checker(e)
        checker.run()
        if not checker.counts[kind]:
            self.unnoticed.append(f"{name}, as {kind}")

    # --- what is spoiled -----------------------------------------------------------------------------------------

    def some(self, wanted=lambda entry: True, child=False, outcomes=("succeeded",), clear_ms=(LATE_MS, LATE_MS)):
        """A run that went as it should, whose end was waited for, by clocks that were right from so long before it was due until so
        long after it ended."""
        return next(x for x in self.e.entries if x.outcome in outcomes and x.job in self.permanent and x.cause != "trigger"
                    and bool(self.jobs[x.job].parents) == child and x.recorded_ms < self.middle and x.due_ms < self.middle
                    and x.due_ms > self.jobs[x.job].created_ms[1] + YOUNG_MS
                    and x.attempts and x.attempts[-1]["task"] in self.e.tasks and self.task(x).starts
                    and not self.checker.shift_ms(x.due_ms - clear_ms[0], max(x.due_ms, x.recorded_ms) + clear_ms[1])
                    and self.certain(x) and wanted(x))

    def certain(self, entry):
        """Whether no shifted clock can have told when it was."""
        told = [entry.created_ms, entry.recorded_ms, *(millis_of(attempt, entry, field) for attempt in entry.attempts for field in ("launched", "ended"))]
        return all(self.checker.truth_ms(at) == (at, at) for at in told)

    def task(self, entry):
        return self.e.tasks[entry.attempts[-1]["task"]]

    def prompt(self, entry):
        """Whether it began as soon as it was due, as did the next one: somebody led."""
        job = self.jobs[entry.job]
        return not job.fields.get("catchUp") and not job.fails and not self.checker.unattended.covers(
            job, entry.due_ms, entry.due_ms + job.period_ms, PROMPT_MS)

    def followers(self, entry):
        """Other tasks of the job, which may not live beside it, that began within half a minute after it."""
        began, ended = self.task(entry).span
        return [] if ended is None else [other for other in self.checker.tasks_of[entry.job].values() if other.starts
                                         and other.span[1] is not None and began < other.span[0] < ended + 30 - 2 * GRAIN_S]

    def parents_tasks(self, entry):
        return [task for task in self.checker.tasks_of[self.jobs[entry.job].parents[0]].values()
                if task.cycle == entry.cycle and task.finishes]

    def parents_of(self, entry):
        return [x for name in self.jobs[entry.job].parents for x in self.checker.of_job[name] if x.cycle == entry.cycle and not x.is_range]

    def has_parents(self, entry):
        """Whether all of its parents are known, were at work after it was made, and tell the time by clocks that were right: else what
        came of it may not be judged."""
        job, parents = self.jobs[entry.job], self.parents_of(entry)
        return len(parents) == len(job.parents) and all(x.created_ms > job.created_ms[1] + YOUNG_MS and self.certain(x) for x in parents)

    def is_join(self, entry):
        return len(self.jobs[entry.job].parents) > 1 and self.has_parents(entry)

    def newer(self, entry):
        """Runs that were due later."""
        return [x for x in self.checker.of_job[entry.job] if x.due_ms > entry.due_ms and x.created_ms]

    def replace(self, e, old, **fields):
        e.entries[e.entries.index(old)] = changed(old, **fields)

    # --- how -----------------------------------------------------------------------------------------------------

    def all(self):
        self.outcomes()
        self.causes()
        self.tasks()
        self.chains()
        self.acknowledged()
        return self.unnoticed, self.absent

    def outcomes(self):
        self.spoil("a forgotten outcome", "lost", lambda e: e.entries.remove(self.some()))
        self.spoil("a run that never ended", "lost", lambda e: self.replace(e, self.some(), outcome=None))
        self.spoil("a second outcome", "doubled", lambda e: e.entries.append(self.some()))
        self.spoil("an outcome of no slot", "ledger", lambda e: self.replace(e, self.some(), due_ms=self.some().due_ms + 1))

    def causes(self):
        """Outcomes for which there was no reason."""
        # Some jobs are replaced each time.
        began = ("succeeded", "killed")

        def missed(e):
            entry = self.some(self.prompt)
            e.entries.remove(entry)
            job = self.jobs[entry.job]
            e.entries.append(Entry({"job": job.name, "cause": "slot", "outcome": "missed", "count": 1, "firstDue": entry.due_ms,
                                    "lastDue": entry.due_ms, "ended": entry.due_ms + job.period_ms + 1,
                                    "reason": "a later slot came first (catchUp: latest)"}))

        def unexcused(e):
            """What is missed for good reason, of a job that catches up with all."""
            entry = next(x for x in self.e.entries if x.outcome == "missed" and x.job in self.permanent and x.due_ms < self.middle
                         and not self.jobs[x.job].fields.get("catchUp"))
            job = self.jobs[entry.job]
            e.jobs[e.jobs.index(job)] = changed(job, fields={**job.fields, "catchUp": {"all": {}}})

        def skipped(reason, overlap, since_ms):
            """Behind the run before it, which was over so long before."""
            def change(e):
                entry = self.some(lambda x: self.jobs[x.job].overlap == overlap and not self.jobs[x.job].overlaps and before(x), outcomes=began,
                                  clear_ms=(LATE_MS, 5 * LATE_MS))
                self.replace(e, entry, outcome="skipped", reason=f"run {before(entry).key} {reason}", attempts=[], recorded_ms=entry.due_ms)

            def before(entry):
                earlier = (x for x in self.checker.of_job[entry.job] if x.outcome in began and x.recorded_ms < entry.due_ms - since_ms and self.certain(x))
                return max(earlier, key=lambda x: x.recorded_ms, default=None)
            return change

        def behind_one_at_work(e):
            """Of a child, as those last for a while: behind the run before it, when that did not wait any more."""
            def at_work(x):
                """The attempt of a run that is long enough to be sure of, and the run after it."""
                began, ended = millis(x.attempts[-1]["launched"]), millis(x.attempts[-1]["ended"])
                after = [y for y in self.newer(x) if y.outcome == "succeeded" and y.recorded_ms < self.middle and self.certain(y) and self.has_parents(y)]
                return ended - began > 4 * ROUGH_MS and after and (min(after, key=lambda y: y.due_ms), (began + ended) // 2)
            one = self.some(at_work, child=True, clear_ms=(LATE_MS, 5 * LATE_MS))
            entry, at_ms = at_work(one)
            self.replace(e, entry, outcome="skipped", reason=f"run {one.key} was waiting already", attempts=[], recorded_ms=at_ms)

        def before_newer(outcome, reason, **fields):
            """For a newer run, before there was one."""
            def change(e):
                entry = self.some(lambda x: self.jobs[x.job].overlap == "replace" and not self.jobs[x.job].overlaps and self.newer(x), outcomes=began)
                at_ms, one = min((self.checker.truth_ms(x.created_ms)[0], x.key) for x in self.newer(entry))
                self.replace(e, entry, outcome=outcome, reason=reason.format(one), recorded_ms=at_ms - 2 * ROUGH_MS, **fields)
            return change

        def lost(e):
            entry = self.some()
            attempt = dict(entry.attempts[-1], outcome="lost", message=f"node x: {CUT_OFF}")
            self.replace(e, entry, outcome="lost", reason=attempt["message"], attempts=entry.attempts[:-1] + [attempt])

        def killed(e):
            """And nothing took its place."""
            entry = self.some(lambda x: self.jobs[x.job].overlap == "replace", outcomes=began)
            e.entries = [x for x in e.entries if x.job != entry.job or x.due_ms <= entry.due_ms]
            self.replace(e, entry, outcome="killed", reason="a newer run took its place")

        def deleted(change, since):
            """Of a job that was deleted a moment after one of its slots was due, or was over."""
            def spoiled(e):
                entry = self.some(clear_ms=(2 * LATE_MS, LATE_MS))
                job = self.jobs[entry.job]
                e.jobs[e.jobs.index(job)] = changed(job, deleted_ms=(getattr(entry, since) + 2 * ROUGH_MS,) * 2)
                change(e, entry)
            return spoiled

        self.spoil("a slot forgotten before the deletion", "lost", deleted(lambda e, entry: e.entries.remove(entry), "due_ms"))
        self.spoil("a skip for a deletion that was to come", "without cause", deleted(
            lambda e, entry: self.replace(e, entry, outcome="skipped", reason="the job was deleted, disabled or given another schedule", attempts=[]), "recorded_ms"))
        self.spoil("a miss without cause", "without cause", missed)
        self.spoil("a miss of a job that catches up with all", "without cause", unexcused)
        self.spoil("a failure without cause", "without cause", lambda e: self.replace(e, self.some(), outcome="failed"))
        for rule, words in (("skip", "was still busy"), ("queue", "was waiting already"), ("replace", "took its place")):
            self.spoil(f"a skip without cause, under {rule}", "without cause", skipped(words, rule, 2 * ROUGH_MS))
        self.spoil("a skip behind a run that did not wait any more", "without cause", behind_one_at_work)
        self.spoil("a skip for a run that was not there yet", "without cause", before_newer("skipped", "run {} took its place", attempts=[]))
        self.spoil("a kill for a run that was not there yet", "without cause", before_newer("killed", "a newer run took its place"))
        self.spoil("a skip by the rule of other jobs", "without cause", skipped("was still busy", "queue", 0))
        self.spoil("a kill without cause", "without cause", killed)
        self.spoil("a kill by the rule of other jobs", "without cause", lambda e: self.replace(
            e, self.some(lambda x: self.jobs[x.job].overlap != "replace"), outcome="killed", reason="a newer run took its place"))
        self.spoil("a run that was given up without cause", "without cause", lost)

    def tasks(self):
        def twice(e):
            name = self.some().attempts[-1]["task"]
            e.tasks[name] = other = moved(e.tasks[name])
            other.starts.append((other.starts[0][0] + 9, "elsewhere"))

        def longer(e):
            name = self.some(lambda x: not self.jobs[x.job].overlaps and self.followers(x)).attempts[-1]["task"]
            e.tasks[name] = moved(e.tasks[name], finishes=30)

        def beside(e):
            """Two attempts of one run, of a job whose runs may be there side by side."""
            entry = self.some(lambda x: self.jobs[x.job].overlaps and self.task(x).span[1] and self.task(x).span[1] - self.task(x).span[0] > 1)
            e.tasks["x-1"] = other = Task(entry.job, entry.due_ms, entry.cycle, 1)
            other.starts = [(self.task(entry).span[1] - 0.5, "elsewhere")]

        def forgotten_attempt(e):
            entry = self.some(lambda x: len(x.attempts) == 2)
            self.replace(e, entry, attempts=entry.attempts[1:])

        def retold(field, since, by_ms):
            """The second attempt of a run is told to have been so long after the first or the second ended."""
            def change(e):
                entry = self.some(lambda x: len(x.attempts) == 2)
                told = millis(entry.attempts[since]["ended"]) + by_ms
                self.replace(e, entry, attempts=[entry.attempts[0], dict(entry.attempts[1], **{field: told})])
            return change

        def endless(e):
            name = self.some().attempts[-1]["task"]
            e.tasks[name] = other = moved(e.tasks[name])
            other.finishes = other.ended = []

        def early(e):
            entry = self.some(lambda x: len(x.attempts) == 1, clear_ms=(LATE_MS + self.e.engine.begins_ms, LATE_MS))
            name = entry.attempts[-1]["task"]
            e.tasks[name] = moved(e.tasks[name], starts=self.checker.boot(entry.due_ms) - 1 - e.tasks[name].span[0])

        def unknown(e):
            entry = self.some()
            e.tasks["x-0"] = other = Task(entry.job, entry.due_ms, entry.cycle, 0)
            other.starts = other.finishes = [(1.0, "elsewhere")]

        def after_deletion(e):
            """Of a job that was gone before one of its slots was due."""
            entry = self.some(clear_ms=(4 * LATE_MS, LATE_MS))
            e.jobs[e.jobs.index(self.jobs[entry.job])] = changed(self.jobs[entry.job], deleted_ms=(entry.due_ms - 2 * LATE_MS,) * 2)

        def elsewhere(e):
            name = self.some().attempts[-1]["task"]
            e.tasks[name] = other = moved(e.tasks[name])
            other.starts = [(at, "elsewhere") for at, _ in other.starts]

        self.spoil("a task begun twice", "doubled", twice)
        self.spoil("a task that never ran", "disagree", lambda e: e.tasks.pop(self.some().attempts[-1]["task"]))
        self.spoil("a task that ran elsewhere", "disagree", elsewhere)
        self.spoil("a task nobody knows", "doubled", unknown)
        self.spoil("a task after the deletion", "doubled", after_deletion)
        self.spoil("a task before its time", "early", early)
        self.spoil("a forbidden overlap", "overlap", longer)
        self.spoil("two attempts of a run at once", "overlap", beside)
        self.spoil("an attempt too few", "disagree", forgotten_attempt)
        self.spoil("an end that was told before it was", "order", retold("ended", 0, 0))
        self.spoil("an end that was told an hour late", "order", retold("ended", 1, 3_600_000))
        self.spoil("an attempt before its delay was over", "order", retold("launched", 0, RETRY_DELAY_S * 1000 - 2 * ROUGH_MS))
        if not self.e.engine.places:
            self.spoil("a task that did not end", "disagree", endless)
            self.cuts()

    def cuts(self):
        def on_the_victim(e, **how):
            cut = next(cut for cut in self.e.cuts if cut.jobs)
            name = next(name for name, task in e.tasks.items() if task.job == cut.jobs[0] and any(host == cut.host and at < cut.began for at, host in task.starts))
            e.tasks[name] = other = moved(e.tasks[name])
            other.ended = [(at + how["ended"], host) for at, host in other.ended] if how else []

        def lived_on(e):
            """After it was called lost."""
            name, told_ms = next((attempt["task"], millis_of(attempt, x)) for x in self.e.entries for attempt in x.attempts
                                 if x.outcome and attempt.get("outcome") == "lost" and attempt["task"] in e.tasks and e.tasks[attempt["task"]].starts)
            e.tasks[name] = other = moved(e.tasks[name])
            other.ended = [(self.checker.boot(told_ms) + 1, "elsewhere")]

        if self.e.cuts:
            self.spoil("a task that lived on after it was called lost", "isolation", lived_on)
        if any(cut.jobs for cut in self.e.cuts):
            self.spoil("a task that lived on where it was cut off", "isolation", on_the_victim)
            self.spoil("a task that was ended late where it was cut off", "isolation", lambda e: on_the_victim(e, ended=20))

    def chains(self):
        def late_parent(e):
            child = self.some(lambda x: len(self.parents_tasks(x)) == 1 and self.task(x).span[0] < self.parents_tasks(x)[0].finishes[0][0] + 60, child=True)
            old, = self.parents_tasks(child)
            name = next(name for name, task in e.tasks.items() if task is old)
            e.tasks[name] = moved(old, finishes=60)

        def failed_parent(e, child):
            """Of which the child has to be told, unless it is not there."""
            self.replace(e, self.parents_of(child)[0], outcome="failed")

        def untold(e):
            child = self.some(self.is_join, child=True)
            failed_parent(e, child)
            e.entries.remove(child)

        def skipped(e, reason):
            child = self.some(self.is_join, child=True)
            self.replace(e, child, outcome="skipped", reason=reason(child), attempts=[])

        def early_child(e):
            child = self.some(self.is_join, child=True)
            self.replace(e, child, created_ms=child.created_ms - 3 * ROUGH_MS)

        self.spoil("a child before the end of its parents", "order", early_child)
        self.spoil("a forgotten child", "lost", lambda e: e.entries.remove(self.some(child=True)))
        self.spoil("a second child", "doubled", lambda e: e.entries.append(self.some(child=True)))
        self.spoil("a child that is not told of a failure", "lost", untold)
        self.spoil("a child that ran after a failure", "order", lambda e: failed_parent(e, self.some(self.is_join, child=True)))
        self.spoil("a child skipped for no failure", "without cause", lambda e: skipped(e, lambda x: f"upstream {self.jobs[x.job].parents[0]} failed"))
        self.spoil("a child skipped for no other run", "without cause", lambda e: skipped(e, lambda x: "run x-1 was waiting already"))
        self.spoil("a parent that finished late", "order", late_parent)

    def acknowledged(self):
        acknowledged = {write.request for write in self.e.writes if write.result == "done"}

        def shown(e):
            return e.shown[next(iter(e.shown))]

        def redefined(child=False, **fields):
            def change(e):
                name = self.some(child=child).job
                shown(e)[name] = dict(shown(e)[name], **fields)
            return change

        def trigger(e, wanted):
            return next(t for t in e.triggers if t.result == "done" and any(x.arguments == t.key for x in e.entries) and wanted(t))

        def run_of(e, trigger):
            return next(x for x in e.entries if x.arguments == trigger.key)

        def twice(e):
            run = run_of(e, trigger(e, lambda t: True))
            e.entries.append(changed(run, key=f"{run.key}-again"))

        def told_apart(e):
            found = trigger(e, lambda t: t.asked > 1)
            e.triggers[e.triggers.index(found)] = changed(found, runs=found.runs | {"x-1"})

        self.spoil("a lost job", "write lost", lambda e: shown(e).pop(self.some().job))
        self.spoil("a job nobody made", "write lost", lambda e: shown(e).update({"x": {}}))
        self.spoil("an older definition", "write lost", redefined(description="0"))
        self.spoil("another schedule", "write lost", redefined(schedule="R//PT1H"))
        self.spoil("another command", "write lost", redefined(command="true"))
        self.spoil("other parents", "write lost", redefined(child=True, parents=[]))
        self.spoil("a write that was refused and done", "write lost", lambda e: e.audit.append(
            {"request": next(write.request for write in e.writes if write.result == "nothing")}))
        self.spoil("a write that left no trace", "write lost", lambda e: e.audit.remove(next(a for a in e.audit if a.get("request") in acknowledged)))
        self.spoil("a write that was done twice", "write lost", lambda e: e.audit.append(next(a for a in e.audit if a.get("request") in acknowledged)))
        self.spoil("a trigger that came to nothing", "write lost", lambda e: e.entries.remove(run_of(e, trigger(e, lambda t: True))))
        self.spoil("a trigger that ran twice", "doubled", twice)
        self.spoil("a key under which two runs were told of", "doubled", told_apart)


# Groups of jobs that are spoiled: the checker looks at all of them anew for each rule, and a long run has many.
GROUPS = 3


def part_of(evidence):
    """The same with fewer jobs: beats, some groups, and all that is not in one."""
    part = Evidence(**vars(evidence))
    part.jobs = [job for job in evidence.jobs if not re.match(r"g\d+-|w\d+-", job.name) or int(job.name[1:].split("-")[0]) < GROUPS and job.name[0] == "g"]
    names = {job.name for job in part.jobs}
    part.entries = [entry for entry in evidence.entries if entry.job in names]
    part.tasks = {name: task for name, task in evidence.tasks.items() if task.job in names}
    part.shown = {host: {name: job for name, job in jobs.items() if name in names} for host, jobs in evidence.shown.items()}
    return part


def prove(evidence, reader):
    """Names of what was spoiled and not noticed, and of what there was nothing of to spoil."""
    unnoticed, absent = Spoiler(part_of(evidence)).all()
    return unnoticed + prove_reader(reader), absent


def prove_reader(reader):
    """What was shown once has changed, is shown twice, or is gone."""
    before = list(reader.complaints)
    known = [raw for _, raw in reader.known.values()]
    raw = next(raw for raw in known if raw["outcome"] == "succeeded")
    reader.take(dict(raw, outcome="failed"))
    changes = len(reader.complaints) > len(before)
    reader.complaints = list(before)
    reader.note_twice([raw, raw])
    doubles = len(reader.complaints) > len(before)
    reader.complaints = before
    # The last but one of the job with the most: many older ones are there.
    most, _ = collections.Counter(raw["job"] for raw in known).most_common(1)[0]
    one = [raw for raw in known if raw["job"] == most][-2]
    goes = one in reader.compare([raw for raw in known if raw is not one])[1]
    found = {"a history that changes": changes, "an outcome that is listed twice": doubles, "an outcome that is gone": goes}
    return [name for name, noticed in found.items() if not noticed]


def prove_service(nemesis, witness, end, engine, quiet_max_s):
    """Times without a launch: with a fault, after the first launch that followed it, between faults, and at the end; and many
    that are a little too long."""
    unnoticed = []
    cycles, times = nemesis.cycles, witness.times()
    long_s = max(cycle.bound for cycle in cycles) + service.SLACK_S + quiet_max_s

    def silent(name, of, began, ended, words):
        those = [copy.copy(cycle) for cycle in of]
        gaps = service.Gaps([at for at in times if not began < at < ended], those, engine.quiet_s, max(end, ended))
        for cycle in those:
            cycle.silence = max(cycle.silence, gaps.silence(cycle))
        if not any(words in found for found in service.slow(those, gaps.others(), lambda a, b: 0.0, quiet_max_s)):
            unnoticed.append(name)

    first = cycles[0]
    silent("that nobody led with a fault", [first], first.began, first.began + long_s, first.fault.name)
    silent("a relapse after the first launch", [first], first.back, first.back + long_s, first.fault.name)
    silent("that nobody led between faults", [], first.began, first.began + long_s, "nothing was done")
    silent("that nobody led at the end", [], end - 1, end + long_s, "nothing was done")
    for cycle in (late := [copy.copy(cycle) for cycle in cycles]):
        cycle.silence = cycle.bound + 1
    if not any("cycles were within" in found for found in service.slow(late, [], witness.stalled, quiet_max_s)):
        unnoticed.append("bounds that are missed by a little, always")
    name, count = collections.Counter(cycle.fault.name for cycle in late).most_common(1)[0]
    found = service.slow([cycle for cycle in late if cycle.fault.name == name], [], witness.stalled, quiet_max_s)
    if count >= service.CYCLES_MIN and not any(f"cycles of {name}" in words for words in found):
        unnoticed.append("the bound of one fault that is always missed by a little")
    return unnoticed
