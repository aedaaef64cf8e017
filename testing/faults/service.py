"""Whether somebody led: how long nothing was launched, with each fault and between them."""

import collections

# What a machine with two cores, busy with other things, may add to the bounds of fail-over, beside the time in which it
# can be seen to have done nothing for the suite. Seconds.
SLACK_S = 8.0
# So many cycles of all have to do without that; and so many of those of one fault, where it came that often.
STRICT_SHARE, SHARE_OF_FAULT, CYCLES_MIN = 0.8, 0.5, 5
# Between two beats, where all is well; what is allowed for a planned hand-over; and what starting processes beside
# hundreds of tasks adds to either on two cores. Seconds.
BEAT_S, HANDOVER_S, BUSY_S = 0.5, 0.5, 1.0


def bound_s(cycle, lease_s, tick_s, engine_extra_s):
    """How long nothing may be launched in a cycle, by what its fault takes away; before the heal, so long from the fault on."""
    base = {
        # Nobody knows of it before the lease is over.
        "takeover": lease_s + tick_s + 2,
        # Who leads hands over.
        "handover": HANDOVER_S + BEAT_S + BUSY_S,
        # Who leads goes on.
        "nothing": BEAT_S + BUSY_S,
    }[cycle.takes]
    lasted_s = cycle.healed - cycle.began if cycle.counts_from == "heal" and cycle.healed else 0
    return base + engine_extra_s + cycle.extra_s + lasted_s


class Gaps:
    """The times between two beats, and which of them belong to which fault."""

    def __init__(self, beats, cycles, longest_s, end):
        """`longest_s`: a time that is shorter is none. `end`: until when somebody should have launched."""
        self.cycles = cycles
        times = sorted(at for at in beats if at <= end)
        self.all = [(a, b) for a, b in zip(times, [*times[1:], end]) if b - a > longest_s]

    def silence(self, cycle):
        """The longest one that touches the time from a fault until the cluster was whole again, or until the next fault, of which
        the rest is. What begins with the first launch after the heal counts: to be back is to go on."""
        until = min((c.began for c in self.cycles if c.began > cycle.began), default=float("inf"))
        return max((min(b, until) - a for a, b in self.all if a < cycle.settled and b >= cycle.began), default=0.0)

    def others(self):
        """Those that nothing was done for. A fault begins a moment after that is written down."""
        return [(a, b) for a, b in self.all if not any(a < c.settled and b >= c.began - 0.5 for c in self.cycles)]


def slow(cycles, others, stalled, quiet_max_s):
    """What took too long, in words."""
    found = [f"slow: {c.fault.name}: nothing was launched for {c.silence:.1f} s, of {c.bound:.1f} s"
             for c in cycles if c.silence > c.bound + SLACK_S + c.stalled]
    found += [f"slow: nothing was launched for {b - a:.1f} s, of {quiet_max_s:.1f} s, though nothing was done, from {a:.2f} on"
              for a, b in others if b - a - stalled(a, b) > quiet_max_s]
    within = collections.Counter(c.fault.name for c in cycles if c.silence <= c.bound)
    of_fault = collections.Counter(c.fault.name for c in cycles)
    if within.total() < STRICT_SHARE * len(cycles):
        found.append(f"slow: {within.total()} of {len(cycles)} cycles were within their bounds, expected {STRICT_SHARE:.0%}")
    found += [f"slow: {within[name]} of {count} cycles of {name} were within their bounds, expected {SHARE_OF_FAULT:.0%}"
              for name, count in of_fault.items() if count >= CYCLES_MIN and within[name] < SHARE_OF_FAULT * count]
    if len(others) > (1 - STRICT_SHARE) * len(cycles) + 1:
        found.append(f"slow: {len(others)} times nothing was launched though nothing was done, with {len(cycles)} cycles")
    return found
