"""Whether there is enough to judge: a run that did or saw little shows little."""

import collections

# What has to be there for each cycle, as a cycle takes some seconds: of what was launched, of what clients were told was done.
OF_EACH_CYCLE = {"ran": 10, "joins": 1, "writes done": 1, "triggers done": 0.2}
# What has to be there at all.
AT_ALL = ("slots", "definitions", "skipped", "triggers asked for again")
# With so many cycles some of them have cost a slot.
MISSED_FROM = 10

# With so many there is something of all that may be spoiled to prove a rule.
ALL_FROM = 20


def of_faults(cycles, order):
    """Every cycle that was meant to be was one."""
    meant, came = (collections.Counter(map(name, those)) for name, those in (
        (lambda fault: fault.name, order), (lambda cycle: cycle.fault.name, cycles)))
    return [f"too little: {name} came {came[name]} times, expected {count}" for name, count in meant.items() if came[name] != count]


def of_evidence(checker, cycles):
    counts = checker.counts
    found = [f"too little: {what}: {counts[what]}, expected {cycles * least:.0f} in {cycles} cycles"
             for what, least in OF_EACH_CYCLE.items() if counts[what] < max(1, cycles * least)]
    wanted = AT_ALL + (("missed",) if cycles >= MISSED_FROM else ())
    return found + [f"too little: {what}: none" for what in wanted if not counts[what]]
