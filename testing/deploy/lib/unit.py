"""A unit without systemd: a process, and a file that says its number. The text of this is put before scripts that are run in
place of ssh and systemctl, where nothing of this folder is."""

import os
import signal
import subprocess
import sys
import time

STOPS_WITHIN_S = 60


def pid(file):
    """Number of the process, if it lives."""
    try:
        number = int(open(file).read())
        return number if open(f"/proc/{number}/stat").read().rpartition(")")[2].split()[0] not in "ZX" else None
    except (OSError, ValueError):
        return None


def stop(file):
    if number := pid(file):
        os.kill(number, signal.SIGTERM)
        end = time.monotonic() + STOPS_WITHIN_S
        while pid(file):
            if time.monotonic() > end:
                sys.exit(f"{file}: process {number} does not stop within {STOPS_WITHIN_S} s")
            time.sleep(0.05)


def start(file, words, log, **more):
    if not pid(file):
        child = subprocess.Popen(words, start_new_session=True, stdin=subprocess.DEVNULL, stdout=open(log, "ab"),
                                 stderr=subprocess.STDOUT, **more)
        # Whoever reads it reads all of it.
        open(file + ".new", "w").write(str(child.pid))
        os.rename(file + ".new", file)
