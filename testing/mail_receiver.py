#!/usr/bin/python3
"""A real mail server for tests: takes every message and appends it to a file as one line of JSON.

Prints `listening PORT` once it does. Shares no code with the product. Needs aiosmtpd (Debian: python3-aiosmtpd).
"""

import argparse
import asyncio
import json
import ssl

from aiosmtpd.smtp import SMTP, AuthResult


class Keeper:
    def __init__(self, out):
        self.out = out

    async def handle_DATA(self, server, session, envelope):
        message = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "text": envelope.content.decode("utf-8", "replace").replace("\r\n", "\n"),
            "tls": server.transport.get_extra_info("ssl_object") is not None,
            "user": (session.auth_data or b"").decode() if session.authenticated else None,
        }
        with open(self.out, "a", encoding="utf-8") as out:
            out.write(json.dumps(message) + "\n")
        return "250 taken"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 there is no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", choices=["none", "starttls", "tls"], default="none")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--user")
    parser.add_argument("--password")
    args = parser.parse_args()

    context = None
    if args.tls != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(args.cert, args.key)

    def authenticate(server, session, envelope, mechanism, data):
        good = data.login == (args.user or "").encode() and data.password == (args.password or "").encode()
        return AuthResult(success=good, auth_data=data.login) if good else AuthResult(success=False, handled=False)

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    def session():
        return SMTP(
            Keeper(args.out),
            loop=loop,
            hostname="localhost",
            tls_context=context if args.tls == "starttls" else None,
            require_starttls=args.tls == "starttls",
            authenticator=authenticate,
            auth_required=args.user is not None,
            auth_require_tls=False,
        )

    at_once = context if args.tls == "tls" else None
    server = loop.run_until_complete(loop.create_server(session, "127.0.0.1", args.port, ssl=at_once))
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    loop.run_forever()


main()
