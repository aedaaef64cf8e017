"""What a case has to work with, and how it says what it shows."""

import http.client
import json
import os
import pathlib
import signal
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
# Whoever is told to end has so long for it.
END_S = 90
# name -> a function that answers what it has said so far; the last lines are shown where a case fails.
LOGS = {}
LINES_SHOWN = 10


def ok(text):
    print(f"ok: {text}", flush=True)


def fail(text):
    last_words()
    sys.exit(f"failed: {text}")


def skip(reason):
    print(reason, flush=True)
    sys.exit(SKIPPED)


def last_words():
    logs = dict(LOGS)
    LOGS.clear()
    for name, said in logs.items():
        try:
            lines = said().splitlines()[-LINES_SHOWN:]
        except Exception as error:  # pylint: disable=broad-except # it must not hide what the case fails of
            lines = [repr(error)]
        if lines:
            print(f"--- {name}", *lines, sep="\n", flush=True)


def broken(*error):
    last_words()
    sys.__excepthook__(*error)


sys.excepthook = broken


class Program(subprocess.Popen):
    """One that runs beside the case, and ends with it. Its output is kept in WORK; if it ends before it is told to, whoever
    waits for anything is told."""

    running = []

    def __init__(self, name, *words, **more):
        self.name, self.log = name, WORK / f"{name}.log"
        with self.log.open("ab") as output:
            super().__init__(list(map(str, words)), **{"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output,
                                                       "start_new_session": True, **more})
        Program.running.append(self)
        LOGS[name] = self.said

    def said(self):
        return self.log.read_text(errors="replace")

    def first_child(self):
        """Number of the process that it has started first: of `unshare`, the first one of the namespaces. None if there is none."""
        try:
            return int(open(f"/proc/{self.pid}/task/{self.pid}/children").read().split()[0])
        except (OSError, IndexError):
            return None

    def end(self, how=signal.SIGTERM):
        Program.running.remove(self)
        self.send_signal(how)
        self.ended()

    def ended(self):
        try:
            return self.wait(END_S)
        except subprocess.TimeoutExpired:
            return fail(f"{self.name} was told to end, and has not within {END_S} s")


class Keeper(Program):
    """A program of testing/ that says what it holds, answers orders by lines, and ends when its standard input is closed."""

    def __init__(self, name, *words):
        super().__init__(name, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        word, self.holds = self.answer()
        if word == "cannot":
            skip(self.holds)
        if word != "listening":
            fail(f"{name} says: {word} {self.holds}")

    def answer(self):
        word, _, rest = self.stdout.readline().strip().partition(" ")
        return (word, rest) if word else fail(f"{self.name} has ended")

    def order(self, words):
        try:
            self.stdin.write(f"{words}\n")
            self.stdin.flush()
        except BrokenPipeError:
            fail(f"{self.name} has ended")
        return self.answer()

    def end(self, how=None):
        Program.running.remove(self)
        self.stdin.close()
        self.ended()


def until(what, seconds, look):
    """What `look` answers as soon as that is something; ends the case if it never is."""
    end = time.monotonic() + seconds
    while True:
        last = time.monotonic() > end
        if found := look():
            return found
        ended = [program for program in Program.running if program.poll() is not None]
        if ended or last:
            wanted = what() if callable(what) else what
            why = f"{ended[0].name} ended with {ended[0].returncode}" if ended else f"not within {seconds} s"
            fail(f"{why}: {wanted}")
        time.sleep(LOOK_S)


def run(*command, **more):
    """A command that has ended, however it did, with what it said in `stdout`."""
    nothing = {} if "input" in more else {"stdin": subprocess.DEVNULL}
    return subprocess.run(list(map(str, command)), **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **nothing, **more})


def sh(*command, **more):
    """What a command prints; the case fails with what it says if that fails."""
    done = run(*command, **more)
    if done.returncode:
        fail(f"`{' '.join(map(str, command))}` ended with {done.returncode}: {done.stdout.strip()[-2000:]}")
    return done.stdout.strip()


def ask(url, data=None, method=None, timeout=5, headers=()):
    """Status and text of an answer; (0, why) if there is none."""
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers))
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
    except (OSError, ValueError, http.client.HTTPException) as error:
        # A server that is killed may do so in the middle of an answer.
        return 0, str(getattr(error, "reason", error)) or repr(error)


def told(url, **more):
    """The JSON of an answer of 200, else None."""
    status, text = ask(url, **more)
    return json.loads(text) if status == 200 else None
