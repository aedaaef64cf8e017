"""Questions to a server over HTTP, as a client of it puts them."""

import http.client
import json


# Entries of a page.
PAGE = 1000


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers = status, headers
        try:
            self.body = json.loads(body) if body else None
        except ValueError:
            self.body = None

    @property
    def code(self):
        return self.body.get("code", "") if isinstance(self.body, dict) else ""


class NotSent(OSError):
    """Nobody took the request."""


def ask(address, method, path, body=None, headers=(), timeout=10.0):
    """An [`Answer`], or OSError if there is none; [`NotSent`] if nothing was sent either."""
    host, port = address
    connection = http.client.HTTPConnection(host, port, timeout=min(timeout, 3.0))
    data = json.dumps(body).encode() if body is not None else None
    all_headers = dict(headers)
    if data is not None:
        all_headers["Content-Type"] = "application/json"
    try:
        try:
            connection.connect()
        except OSError as error:
            raise NotSent(str(error)) from error
        connection.sock.settimeout(timeout)
        try:
            connection.request(method, path, data, all_headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        except http.client.HTTPException as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()


def pages(address, path, field):
    """All entries of a list, page by page."""
    cursor = None
    while True:
        joint = "&" if "?" in path else "?"
        answer = ask(address, "GET", f"{path}{joint}limit={PAGE}" + (f"&cursor={cursor}" if cursor else ""), timeout=60)
        if answer.status != 200:
            raise RuntimeError(f"GET {path}: {answer.status} {answer.body}")
        yield from answer.body[field]
        cursor = answer.body.get("next")
        if not cursor:
            return
