"""Threads that have work until the end."""

import threading
import traceback


class Worker(threading.Thread):
    """One of them. It does not end unnoticed."""

    def __init__(self):
        super().__init__(daemon=True)
        # Why it ended, if by a fault of its own.
        self.died_of = None

    def run(self):
        try:
            self.work()
        except Exception:  # noqa: BLE001 (told by the verdict)
            self.died_of = traceback.format_exc()

    def work(self):
        raise NotImplementedError
