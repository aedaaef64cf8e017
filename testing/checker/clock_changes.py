#!/usr/bin/env python3
"""Holds the clock changes of the scheduler's golden file against the zones of this machine, as Python reads them.

    testing/checker/clock_changes.py [crates/scheduler/tests/golden/dst.txt]

Shares nothing with what wrote the file. Not in CI: the file has the zones that come with the program, and those of a machine
may be older or newer, which is a difference and no error. Exit code 1 if they differ.
"""

import datetime
import pathlib
import re
import sys
import zoneinfo

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
UTC = datetime.timezone.utc
FROM, UNTIL = (datetime.datetime(year, 1, 1, tzinfo=UTC) for year in (2024, 2031))
# No zone changes its clock twice within this.
STEP = datetime.timedelta(days=1)


def offset(zone, at):
    return at.astimezone(zone).utcoffset()


def changes(zone):
    """Each instant at which the offset changes, to the second."""
    at = FROM
    while at < UNTIL:
        before, after = at, at + STEP
        if offset(zone, before) != offset(zone, after):
            while after - before > datetime.timedelta(seconds=1):
                middle = before + (after - before) // 2
                middle = middle.replace(microsecond=0)
                before, after = (middle, after) if offset(zone, middle) == offset(zone, before) else (before, middle)
            yield after, offset(zone, before), offset(zone, after)
        at += STEP


def width(text):
    """`+05:30` or `-03` as a length of time."""
    sign, hours, minutes = re.fullmatch(r"([+-])(\d\d)(?::?(\d\d))?", text).groups()
    length = datetime.timedelta(hours=int(hours), minutes=int(minutes or 0))
    return -length if sign == "-" else length


def main():
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "crates/scheduler/tests/golden/dst.txt"
    golden, zone = {}, None
    for line in path.read_text().splitlines():
        if line.startswith("# "):
            zone = golden.setdefault(line[2:], [])
        elif found := re.match(r"(\S+Z) (\S+) -> (\S+): ", line):
            at, before, after = found.groups()
            zone.append((datetime.datetime.fromisoformat(at.replace("Z", "+00:00")), width(before), width(after)))
    differ = 0
    for name, listed in golden.items():
        here = list(changes(zoneinfo.ZoneInfo(name)))
        for change in sorted(set(listed) ^ set(here)):
            differ += 1
            print(f"{name}: {change[0].isoformat()} {change[1]} -> {change[2]}: only {'in the file' if change in listed else 'here'}")
    print(f"{sum(map(len, golden.values()))} changes of clocks in {len(golden)} zones, {differ} of them not alike")
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
