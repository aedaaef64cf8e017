"""Chains and joins: what the ends of parents lead to."""

import collections

from evidence import GRAIN_S
from workload import iso

# What made a queued run end before it began. Its children are told; of a slot that never became a run they hear nothing.
ENDED_IN_QUEUE = ("took its place", "deleted", "while it was waiting")


def tells_children(entry):
    """Whether this end of a parent's run is one in its children's cycle, see decision 6."""
    if entry.is_range or entry.outcome == "missed":
        return False
    return entry.cause == "join" or entry.outcome != "skipped" or any(words in entry.reason for words in ENDED_IN_QUEUE)


class Chains:
    """What of a checker is about children."""

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
            entry = next(iter(mine.pop(cycle, [])), None)
            there = [p for p in parents if p is not None]
            if cycle > self.e.end_ms or any(p.recorded_ms > self.e.end_ms for p in there):
                continue
            # A parent may have been at work before this was made.
            if job.created_ms[1] is None or any(p.created_ms and p.created_ms <= job.created_ms[1] + 3000 for p in there):
                continue
            self.counts["joins"] += 1
            self.judge_child(job, cycle, parents, entry)
        for cycle, entries in mine.items():
            if not any(live.cycle == cycle for parent in job.parents for live in self.of_job[parent]):
                self.fail("order", f"{job.name}: no parent was ever in cycle {iso(cycle)}: {entries[0]}")
        self.check_order(job)

    def judge_child(self, job, cycle, parents, entry):
        what = f"{job.name}: cycle {iso(cycle)}"
        failed = [p for p in parents if p is not None and p.outcome != "succeeded" and tells_children(p)]
        all_well = all(p is not None and p.outcome == "succeeded" for p in parents)
        if entry is not None and (all_well or failed):
            # The last of those that succeed lets it run, and the first that does not keeps it from that.
            since_ms = max(p.recorded_ms for p in parents) if all_well else min(p.recorded_ms for p in failed)
            self.check_follows(f"{what}: what came of its parents", since_ms, entry.created_ms)
        if entry is None or entry.outcome is None:
            if all_well:
                self.fail("lost", f"{what}: all parents succeeded, but it has no outcome")
            elif failed:
                self.fail("lost", f"{what}: that a parent ended without success has to be told: {failed[0]}")
        elif all_well:
            (self.judge_skip if entry.outcome == "skipped" else self.judge_end)(job, what, entry)
        elif entry.outcome != "skipped":
            self.fail("order", f"{what}: ran although not all parents succeeded: {entry}")
        elif not any(entry.reason == f"upstream {p.job} failed" for p in failed):
            self.fail("without cause", f"{what}: was skipped, and that is not what its parents came to: {entry}")

    def check_order(self, job):
        """By the files alone: nothing began before its parents had finished."""
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
