"""Times that excuse something: when nobody led, and when the clock of a leader was shifted."""

import bisect
import collections

from evidence import merged

# A decision is carried out within this, on two cores that are busy. Milliseconds.
LATE_MS = 5_000
# What the marks of two clocks are off, and more. Milliseconds.
ROUGH_MS = 100
# What follows from something is recorded so soon after it, beside the time in which nobody decided or could be asked. Milliseconds.
FOLLOWS_MS = 30_000
# A leader whose clock is shifted by more than this decides nothing. Seconds.
LEADS_WITHIN_S = 60


class Unattended:
    """When nobody decided, as the beats tell it.

    A beat that was due when somebody led begins at once, or as soon as the engine begins anything. So the time from when one was due to when it began, or to when
    a later one of its job did if it never began, covers all of that in which nobody decided and it was due; and a beat is
    due every half second. A slot that gives way to its next one was due in such a time, which lasted until the next."""

    def __init__(self, evidence):
        self.usual_ms = evidence.engine.usual_s * 1000
        starts = collections.defaultdict(dict)
        for task in evidence.tasks.values():
            if task.job.startswith("beat-") and task.starts:
                began = (min(at for at, _ in task.starts) + evidence.offset_s) * 1000
                of_job = starts[task.job]
                of_job[task.due_ms] = min(began, of_job.get(task.due_ms, began))
        beats = [job for job in evidence.jobs if job.name in starts]
        self.late = {job.name: list(self.late_times(job, starts[job.name], evidence.end_ms)) for job in beats}
        self.period_ms = max((job.period_ms for job in beats), default=0)
        # One beat is no witness of itself: of what it missed the others tell.
        self.told_to = {name: self.of([other for other in self.late if other != name]) for name in self.late}
        self.told_to_others = self.of(list(self.late))
        self.times = self.told_to_others[1]

    def late_times(self, job, starts, end_ms):
        began = end_ms + LATE_MS
        for index in range(job.last_index(end_ms), job.last_index(min(starts)) - 1, -1):
            due = job.due_ms(index)
            began = starts.get(due, began)
            if began > due + self.usual_ms:
                yield due, began

    def of(self, beats):
        """How far apart these beats are, and when none of them began that was due."""
        times = [time for name in beats for time in self.late[name]]
        return self.period_ms / max(len(beats), 1), merged(times)

    def covers(self, job, from_ms, to_ms, rough_ms):
        """Whether nobody may have decided anything about a job from then to then."""
        apart_ms, times = self.told_to.get(job.name, self.told_to_others)
        if self.usual_ms and to_ms - from_ms <= self.usual_ms + apart_ms:
            # Too short to tell from what an engine takes to begin anything.
            return True
        at = bisect.bisect_right(times, (from_ms + apart_ms + rough_ms, float("inf"))) - 1
        return at >= 0 and times[at][1] + rough_ms >= to_ms


class Clocks:
    """What of a checker is about time."""

    def check_follows(self, what, before_ms, after_ms, least_ms=0):
        """What follows from something comes after it, and not too long after it."""
        apart_ms = after_ms - before_ms
        if least_ms - ROUGH_MS <= apart_ms <= least_ms + FOLLOWS_MS:
            return
        (before_low, before_high), (after_low, after_high) = self.truth_ms(before_ms), self.truth_ms(after_ms)
        # A delay is reckoned by the clock of who decides on it.
        shift = self.shift_ms(before_ms, after_ms)
        nobody = self.unattended.times + [(self.ms(cut.began), self.ms(cut.healed)) for cut in self.e.cuts]
        excused = shift + sum(max(0, min(ended, after_low) - max(began, before_high)) for began, ended in nobody)
        if after_high - before_low < (0 if shift else least_ms) - ROUGH_MS or after_low - before_high - excused > least_ms + FOLLOWS_MS:
            self.fail("order", f"{what}: {apart_ms / 1000:.1f} s apart, expected {least_ms / 1000:.1f} s to {FOLLOWS_MS / 1000:.0f} s more")

    def boot(self, ms):
        return ms / 1000 - self.e.offset_s

    def ms(self, boot_s):
        return (boot_s + self.e.offset_s) * 1000

    def shift_ms(self, from_ms, to_ms):
        """By how much a clock that mattered then may have been off."""
        low, high = self.boot(from_ms) - 1, self.boot(to_ms) + 1
        return max((abs(seconds) * 1000 for began, ended, _, seconds in self.e.shifts
                    if began <= high and ended >= low), default=0)

    def shift_before_ms(self, at_ms):
        """The same, of whoever decided what was carried out by then: on a busy machine some time lies between."""
        return self.shift_ms(at_ms - LATE_MS, at_ms)

    def truth_ms(self, told_ms):
        """From when to when it may have been in truth when the clock of a leader said this: one that was shifted then says what is
        that far from then, and who leads with it goes on for a while with what it was ahead."""
        truths = [told_ms]
        for began, ended, _, seconds in self.e.shifts:
            owed = abs(seconds) if abs(seconds) <= LEADS_WITHIN_S else 0
            if began - owed - 1 <= self.boot(told_ms) - seconds <= ended + owed + 1:
                truths.append(told_ms - seconds * 1000)
        return min(truths), max(truths)

    def shift_of_leaders_ms(self, from_ms, to_ms):
        """By how much the clock of somebody who decided then may have been off."""
        low, high = self.boot(from_ms) - 1, self.boot(to_ms) + 1
        return max((abs(seconds) * 1000 for began, ended, _, seconds in self.e.shifts
                    if abs(seconds) <= LEADS_WITHIN_S and began - abs(seconds) <= high and ended + abs(seconds) >= low), default=0)
