"""What a run comes to, for people."""

import collections
import statistics

from checker import KINDS


def spread(values):
    values = list(values)
    return f"{statistics.median(values):5.1f} {max(values):6.1f}" if values else "    -      -"


def table(cycles):
    """A line for each fault: how often, how long nothing was launched, how long after the heal something was."""
    of_fault = collections.defaultdict(list)
    for cycle in cycles:
        of_fault[cycle.fault.name].append(cycle)
    lines = ["| fault | cycles | silence: median | worst | bound | heal to launch: median | worst | within |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for name in sorted(of_fault):
        those = of_fault[name]
        silences = [c.silence for c in those]
        backs = [c.back - c.healed for c in those]
        bounds = [c.bound for c in those]
        within = sum(1 for c in those if c.silence <= c.bound)
        lines.append(f"| {name} | {len(those)} | {statistics.median(silences):.1f} | {max(silences):.1f} | {max(bounds):.1f} "
                     f"| {statistics.median(backs):.1f} | {max(backs):.1f} | {within} |")
    return lines


def figures(checker):
    c = checker.counts
    broken = {kind: c[kind] for kind in KINDS}
    lines = [
        f"slots {c['slots']}, ran {c['ran']}, missed {c['missed']}, skipped {c['skipped']}, joins {c['joins']}, "
        f"called lost {c['called lost']} (of which had ended {c['ended, called lost']}, "
        f"were never sent {c['never sent, called lost']})",
        f"writes: acknowledged {c['writes done']}, refused with nothing done {c['writes nothing']}, outcome unknown {c['writes unknown']}; "
        f"definitions compared {c['definitions']}",
        f"triggers: acknowledged {c['triggers done']}, outcome unknown {c['triggers unknown']}, asked for again {c['triggers asked for again']}; "
        f"tasks ended where they were cut off: {c['ended in isolation']}",
        ", ".join(f"{kind} {count}" for kind, count in broken.items()),
    ]
    return lines, sum(broken.values())
