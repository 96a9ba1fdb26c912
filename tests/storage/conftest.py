"""A web server on this machine with faults to order, and settings for tests."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fourm_engine.storage import store
from fourm_engine.storage.config import RemoteConfig


class Web:
    """Files by path. `faults`: path -> what each next answer to a GET does instead ("500", "403", "gone", "slow",
    "reset", "truncated", "garbled", "more", "elsewhere"); the first one stays where `forever` holds the path."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.forever: set[str] = set()
        self.ranges = True
        self.requests: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    def fault(self, path):
        faults = self.faults.get(path) or [""]
        return faults[0] if path in self.forever else faults.pop(0)


def handler(web):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            path = self.path.lstrip("/")
            web.requests[f"{self.command} {path}"] += 1
            fault = web.fault(path) if body or path in web.forever else ""
            if fault.isdigit():
                self.say(int(fault), b"")
            elif fault == "gone" or path not in web.files:
                self.say(404, b"nothing here", body=body)
            elif fault == "reset":
                # A close with the linger time of zero is a reset.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
            else:
                if fault == "slow":
                    time.sleep(0.6)
                self.file(path, body, fault)

        def file(self, path, body, fault):
            content, status, headers = web.files[path], 200, {}
            start, stop = 0, len(content)
            if (asked := self.headers.get("Range")) and web.ranges:
                first, last = asked.removeprefix("bytes=").split("-")
                start, stop, status = int(first), min(int(last) + 1, stop), 206
                if start >= len(content):
                    return self.say(416, b"")
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            if not web.ranges:
                headers["Accept-Ranges"] = "none"
            part = content[start:stop]
            if fault == "more" and body:
                part = content * 2
            if fault == "elsewhere":
                headers["Content-Range"] = f"bytes 7-{6 + len(part)}/{len(content)}"
            if fault == "garbled":
                part = bytes(255 - byte for byte in part)
            if fault == "truncated":
                self.close_connection = True
            self.say(status, part, headers, send=part[: len(part) // 2] if fault == "truncated" else part, body=body)
            return None

        def say(self, status, content, headers=(), send=None, body=True):
            try:
                self.send_response(status)
                for key, value in dict(headers).items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    # Counted first: whoever has the last byte may look at the count at once.
                    web.sent[self.path.lstrip("/")] += len(content)
                    self.wfile.write(content if send is None else send)
            except OSError:
                pass

        def log_message(self, *args):
            pass

    return Handler


@pytest.fixture
def web():
    served = Web()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(served))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture
def fast(monkeypatch):
    """Tries follow one another quickly."""
    monkeypatch.setattr(store, "FIRST_WAIT", 0.01)


@pytest.fixture
def config(tmp_path, fast):
    return RemoteConfig(cache=tmp_path / "cache", cache_gb=1, timeout_s=30, give_up_s=60, ahead=2)
