"""What the tasks wrote: it has to agree with the ledger, and tells by itself what ran twice, side by side, early or on."""

import collections

from evidence import GRAIN_S
from slots import millis_of
from workload import RETRY_DELAY_S, iso

# When the tasks of a node that is cut off have to end: 60 s after its last word to the store, which comes every two
# seconds; they are killed 5 s after they were told, and others count on it after 75 s. Seconds after the cut.
ENDED_FROM_S, ENDED_TO_S = 55, 75


class Traces:
    """What of a checker is about tasks."""

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
            if not entry.is_range:
                self.check_attempts(job, entry, tasks)
        for name, task in tasks.items():
            if task.due_ms <= self.e.end_ms:
                self.fail("doubled", f"{job.name}: task {name}, due {iso(task.due_ms)}, ran, and the ledger does not know it")

    def check_attempts(self, job, entry, tasks):
        """Takes the tasks of a run out of those of its job."""
        before = None
        for attempt in entry.attempts:
            name = attempt.get("task")
            task = tasks.pop(name, None)
            outcome = attempt.get("outcome")
            if entry.outcome is None:
                continue
            if before:
                self.check_follows(f"{entry}: an attempt after that which {before.get('outcome')}", millis_of(before, entry),
                                   millis_of(attempt, entry, "launched"), RETRY_DELAY_S * 1000 if before.get("outcome") == "failed" else 0)
            before = attempt
            if outcome == "lost":
                self.judge_lost(entry, attempt, task)
            elif outcome in ("succeeded", "failed"):
                begun, finished = (len(task.starts), len(task.finishes)) if task else (0, 0)
                if (begun < 1 or finished < 1) and not self.is_cut_short(entry, [attempt]):
                    self.fail("disagree", f"{entry}: task {name} {outcome}, but wrote {begun} starts and {finished} finishes")
            if task is None:
                continue
            host = self.e.host_of(attempt.get("node"))
            if task.starts and host not in {host for _, host in task.starts}:
                self.fail("disagree", f"{entry}: task {name} is said to be of {host} and ran on {task.starts[0][1]}")
            # An agent of Mesos that ends takes tasks along that are not told.
            if task.starts and task.span[1] is None and not self.e.engine.places:
                self.fail("disagree", f"{entry}: task {name} {outcome}, and never wrote that it ended")
            elif task.starts and task.span[1] is not None and not self.is_cut_short(entry, [attempt]):
                self.check_follows(f"{entry}: what was told of the end of task {name}", self.ms(task.span[1]), millis_of(attempt, entry))
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

    def spans(self, job):
        """(began, ended, due, cycle, task) of all that began. What has not written that it ended lives until the ledger says
        otherwise, and else still."""
        told = {attempt.get("task"): self.boot(millis_of(attempt, entry))
                for entry in self.of_job[job.name] if entry.outcome for attempt in entry.attempts}
        for name, task in self.tasks_of[job.name].items():
            if task.starts:
                began, ended = task.span
                if ended is None:
                    ended = max(began, told.get(name, float("inf")))
                yield began, ended, task.due_ms, task.cycle, name

    def check_spans(self, job):
        """No two attempts of a run alive at once, nor two runs where that is forbidden; nothing early, nothing after a deletion."""
        last = {}
        for began, ended, due, cycle, name in sorted(self.spans(job)):
            group = (due, cycle) if job.overlaps else None
            before = last.get(group)
            if before and began + GRAIN_S < before[0]:
                self.fail("overlap", f"{job.name}: task {name} began at {began} while {before[1]} lived until {before[0]}")
            if not before or ended > before[0]:
                last[group] = (ended, name)
        for name, task in self.tasks_of[job.name].items():
            for at, _ in task.starts:
                began = self.ms(at)
                # It was decided on a little before, by the clock of that moment.
                shift = self.shift_ms(began - self.e.engine.begins_ms, began)
                # A retry waits for its delay, whatever the clock was when the slot came.
                if not job.parents and task.attempt == 0 and began + 100 + shift < task.due_ms:
                    self.fail("early", f"{job.name}: task {name} began {(task.due_ms - began) / 1000:.2f} s before it was due")
                gone = job.deleted_ms and job.deleted_ms[1]
                if gone and task.due_ms > gone + 100 + self.shift_before_ms(gone):
                    self.fail("doubled", f"{job.name}: task {name} is due {iso(task.due_ms)}, and the job was deleted by {iso(gone)}")

    def check_cut(self, cut):
        """What ran on a node that was cut off, and would have gone on for long, was ended there in time."""
        if self.e.engine.places:
            return
        for name in cut.jobs:
            there = [(task_name, task) for task_name, task in self.tasks_of[name].items()
                     if any(host == cut.host and at < cut.began for at, host in task.starts)]
            if not there:
                self.fail("isolation", f"nothing of {name} ran on {cut.host} when that was cut off at {cut.began:.2f}")
            for task_name, task in there:
                self.counts["ended in isolation"] += 1
                ends = [at - cut.began for at, host in task.ended if host == cut.host]
                if len(ends) != 1 or not ENDED_FROM_S <= ends[0] <= ENDED_TO_S or task.finishes:
                    self.fail("isolation", f"task {task_name} was ended {', '.join(f'{at:.1f} s' for at in ends) or 'never'} after {cut.host} was "
                                           f"cut off, expected {ENDED_FROM_S} to {ENDED_TO_S} s")
