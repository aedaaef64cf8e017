"""What was acknowledged: it is there as acknowledged, and was done once."""

import collections
import json

from workload import iso


class Writes:
    """What of a checker is about what clients were told."""

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
                wanted = job.definition()
                if any(there.get(field) != wanted[field] for field in ("command", "schedule") if field in wanted) \
                        or sorted(there.get("parents") or []) != sorted(job.parents):
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

    def check_triggers(self):
        """What was asked for under one key is one run, however often it was asked for and through whichever node."""
        runs = collections.defaultdict(list)
        for entry in self.e.entries:
            if entry.cause == "trigger":
                runs[entry.arguments].append(entry)
        for trigger in self.e.triggers:
            self.counts[f"triggers {trigger.result}"] += 1
            self.counts["triggers asked for again"] += trigger.asked > 1
            mine = runs.pop(trigger.key, [])
            what = f"{trigger.job.name} was triggered at {iso(trigger.began_ms)}, {trigger.result} after {trigger.asked} requests"
            if len(mine) > 1 or len(trigger.runs) > 1 or (trigger.result == "nothing" and mine):
                self.fail("doubled", f"{what}: {len(mine)} runs ({', '.join(map(str, mine))}), {len(trigger.runs)} were told of")
            elif trigger.result == "done" and (not mine or mine[0].outcome is None or {mine[0].key} != trigger.runs):
                self.fail("write lost", f"{what} as {', '.join(map(str, trigger.runs))}, and the ledger has {mine[0] if mine else 'nothing'}")
            for entry in mine:
                if entry.outcome:
                    self.judge_end(trigger.job, f"{trigger.job.name}: triggered {iso(entry.due_ms)}", entry)
        for key, entries in runs.items():
            self.fail("doubled", f"{entries[0]} was triggered by nobody ({key})")
