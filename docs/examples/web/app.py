"""Answers every request with a greeting."""

import os

from bottle import route, run


@route("/")
def hello() -> str:
    """Says hello."""
    return f"hello from uid {os.getuid()}\n"


run(host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), quiet=True)
