"""Slots: each has one outcome, and each outcome but success has its cause in what was done."""

import collections
import re

from clocks import LATE_MS, ROUGH_MS
from evidence import millis
from workload import iso

# What an agent of Mesos that was killed says of tasks whose executor it does not find again, or not in time; and the master,
# where it took the agent for lost before it heard that.
CUT_SHORT = re.compile("REASON_(EXECUTOR_(TERMINATED|UNREGISTERED|REGISTRATION_TIMEOUT|REREGISTRATION_TIMEOUT)|AGENT_REREGISTERED)")
# What is said of tasks on a node that was silent for long enough.
CUT_OFF = "its node was cut off, and ends its tasks then"
# So long after its last word to the store the tasks of a node have ended, as it has promised; its word came every two
# seconds, on a machine that may be busy. Seconds.
PROMISED_S, WORD_S = 75, 5
# A client gives up asking before that. Milliseconds.
ASKED_MS = 15_000
# Which rule a skip may name under which rule of overlap.
SKIPS = {"skip": "was still busy", "replace": "took its place", "queue": "was waiting already"}


def millis_of(attempt, entry, field="ended"):
    """When that was of the attempt; where that is not told, what the run tells."""
    return millis(attempt.get(field)) or (entry.recorded_ms if field == "ended" else entry.due_ms)


class Slots:
    """What of a checker is about slots, and about outcomes in general."""

    def check_slots(self, job):
        """Every slot from the creation to the end has exactly one outcome."""
        outcomes = collections.defaultdict(list)
        for entry in self.of_job[job.name]:
            if entry.cause == "trigger":
                continue
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
        certain = job.last_index(job.deleted_ms[0] - self.shift_before_ms(job.deleted_ms[0]) - ROUGH_MS) if job.deleted_ms else last
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
        if job.deleted_ms and entry.outcome in ("skipped", "killed") and "deleted" in entry.reason \
                and self.truth_ms(entry.recorded_ms)[1] + ROUGH_MS >= job.deleted_ms[0]:
            return
        if entry.outcome == "missed":
            self.judge_missed(job, index, what, entry)
        elif entry.outcome == "skipped":
            self.judge_skip(job, what, entry)
        else:
            self.judge_end(job, what, entry)

    def judge_end(self, job, what, entry):
        """Of a run that began."""
        if entry.outcome == "killed":
            self.judge_kill(job, what, entry)
        elif entry.outcome == "lost":
            # Whether that is so is asked of each attempt.
            self.counts["called lost"] += 1
            if not entry.attempts or entry.attempts[-1].get("outcome") != "lost":
                self.fail("without cause", f"{what}, was called lost, and its last attempt was not: {entry}")
        elif entry.outcome != "succeeded" and not self.is_cut_short(entry, entry.attempts[-1:]):
            self.fail("without cause", f"{what}, should have succeeded: {entry}")

    def count(self, entry):
        self.counts[entry.outcome if entry.outcome in ("missed", "skipped") else "ran"] += 1
        self.reasons[f"{entry.outcome} {re.sub(r'run .+? (?=was|took)|[0-9]+', '.. ', entry.reason)[:60]}".strip()] += 1

    # --- missed, skipped, killed ---------------------------------------------------------------------------------

    def judge_missed(self, job, index, what, entry):
        """Under `latest` a slot gives way to the next one, where nobody decided from when it was due until that was."""
        due, next_due = job.due_ms(index), job.due_ms(index + 1)
        # It was not there before its job was.
        began, done = job.created_ms
        since = max(due, min(done or began + ASKED_MS, entry.recorded_ms))
        # A clock that jumps ahead passes over slots, and who goes by one that is ahead begins beats before they are due.
        jump = self.shift_of_leaders_ms(due, next_due)
        unattended = job.period_ms <= 2 * jump or self.unattended.covers(job, since, next_due, ROUGH_MS + jump)
        gave_way = next_due <= entry.recorded_ms + self.shift_ms(due, next_due + LATE_MS) and "a later slot came first" in entry.reason
        if job.fields.get("catchUp") or not gave_way or not unattended:
            self.fail("without cause", f"{what}, was missed: {entry}")

    def judge_skip(self, job, what, entry):
        """Only because of another run of the job that was there when this was recorded, and never where runs may overlap."""
        named = re.search(r"run (\S+)", entry.reason)
        other = self.by_key.get(named[1]) if named else None
        fits = other is not None and other.job == job.name and other is not entry and SKIPS[job.overlap] in entry.reason
        if fits:
            # Due times of what has no slot are told by a clock.
            (low, high), (own_low, own_high) = (
                (x.due_ms, x.due_ms) if x.cause == "slot" else self.truth_ms(x.due_ms) for x in (other, entry))
            if "took its place" in entry.reason:
                fits = high > own_low
            else:
                fits = low < own_high and not self.was_over(other, entry.recorded_ms) \
                    and (job.overlap != "queue" or not self.was_at_work(other, entry.recorded_ms))
        if job.overlaps or not fits or not self.was_made(other, entry.recorded_ms):
            self.fail("without cause", f"{what}, was skipped: {entry}")

    # What a run was when something else was recorded. Who leads tells both, by one clock and in the order in which it decided.

    def was_made(self, run, at_ms):
        return self.truth_ms(run.created_ms)[0] <= self.truth_ms(at_ms)[1] + ROUGH_MS

    def was_over(self, run, at_ms):
        return run.outcome is not None and self.truth_ms(run.recorded_ms)[1] + ROUGH_MS < self.truth_ms(at_ms)[0]

    def was_at_work(self, run, at_ms):
        """Whether an attempt of it was under way; between two of them a run waits."""
        low, high = self.truth_ms(at_ms)
        return any(self.truth_ms(millis_of(attempt, run, "launched"))[1] + ROUGH_MS < low
                   and high < self.truth_ms(millis_of(attempt, run))[0] - ROUGH_MS for attempt in run.attempts)

    def judge_kill(self, job, what, entry):
        """Only for the sake of a newer run, which there has to be by then."""
        newer = any(other.due_ms > entry.due_ms and other.created_ms and self.was_made(other, entry.recorded_ms)
                    for other in self.of_job[job.name])
        if job.overlap != "replace" or not newer or "took its place" not in entry.reason:
            self.fail("without cause", f"{what}, was killed: {entry}")

    # --- lost ----------------------------------------------------------------------------------------------------

    def judge_lost(self, entry, attempt, task):
        """Legal only where what ran was cut off for so long that it has ended, or where nobody could tell any more whether it was
        sent."""
        begun = bool(task and task.starts)
        said = attempt.get("message") or entry.reason
        if task and task.finishes:
            self.counts["ended, called lost"] += 1
        if self.e.engine.places:
            # The place was recorded, and whoever was to send it there was gone, or cut off, before it could; or the agent
            # there was killed, and did not find again what ran it.
            if self.met_outage(entry, attempt) and (not begun or CUT_SHORT.search(said)):
                self.counts["never sent, called lost"] += not begun
            else:
                self.fail("without cause", f"task {attempt.get('task')} was called lost: {entry}")
            return
        host = self.e.host_of(attempt.get("node"))
        told = self.boot(millis_of(attempt, entry))
        cut = any(cut.host == host and cut.began + PROMISED_S - WORD_S <= told <= cut.healed + LATE_MS / 1000 for cut in self.e.cuts)
        if not cut or CUT_OFF not in said:
            self.fail("without cause", f"task {attempt.get('task')} was called lost although {host} was not cut off for {PROMISED_S} s: {entry}, {said}")
        if begun and (task.span[1] is None or task.span[1] > told):
            self.fail("isolation", f"task {attempt.get('task')} was called lost at {told:.2f}, and lived until {task.span[1] or 'the end'}")

    def is_cut_short(self, entry, attempts):
        """Whether an agent that was killed while it had these says that they failed: nobody knows how far they came."""
        def is_one(attempt):
            said = attempt.get("message") or (entry.reason if attempt is entry.attempts[-1] else "")
            return attempt.get("outcome") == "failed" and CUT_SHORT.search(said) and self.met_outage(entry, attempt)
        return bool(self.e.engine.places and attempts and all(map(is_one, attempts)))

    def met_outage(self, entry, attempt):
        """Whether something was out of order between the launch of the attempt and the end of its run."""
        began, ended = self.boot(millis_of(attempt, entry, "launched")), self.boot(entry.recorded_ms)
        return any(low <= ended and high >= began for low, high in self.e.outages)
