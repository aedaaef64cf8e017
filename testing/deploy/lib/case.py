"""What a case has to work with, and how it says what it shows."""

import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(os.environ["CHRONOS_ROOT"])
WORK = pathlib.Path(os.environ["CHRONOS_WORK"])
BINARY = os.environ["CHRONOS_BIN"]
SKIPPED = 77
# How often a state that is waited for is looked at.
LOOK_S = 0.1


def ok(text):
    print(f"ok: {text}", flush=True)


def fail(text):
    sys.exit(f"failed: {text}")


def skip(reason):
    print(reason, flush=True)
    sys.exit(SKIPPED)


def until(what, seconds, look):
    """What `look` answers as soon as that is something; ends the case if it never is."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            fail(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(LOOK_S)
    return found


def sh(*command, **more):
    """What a command prints; the case fails with what it says if that fails."""
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode:
        fail(f"`{' '.join(map(str, command))}` ended with {done.returncode}: {done.stdout.strip()[-2000:]}")
    return done.stdout.strip()


def ask(url, data=None, method=None, timeout=5):
    """Status and text of an answer; (0, why) if there is none."""
    request = urllib.request.Request(url, data=data, method=method)
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, ValueError) as error:
        return 0, str(error)
