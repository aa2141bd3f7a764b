"""An object store on this machine, behind a proxy that can refuse, delay and count."""

import http.client
import http.server
import threading
import time
from collections import Counter

import numpy as np
import pytest
import s3fs
from moto.server import ThreadedMotoServer

WORDS = ("testing-name", "testing-word")


class Proxy(http.server.ThreadingHTTPServer):
    """Forwards to a server, but for what `fault` makes of a request."""

    daemon_threads = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind = port
        self.counts, self.paths, self.lock = Counter(), [], threading.Lock()
        self.fault = lambda *_: None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self):
        proxy = self.server
        body = self.read_body()
        with proxy.lock:
            proxy.counts[self.command] += 1
            proxy.paths.append((self.command, self.path))
            fault = proxy.fault(self.command, self.path)
        if isinstance(fault, float):
            time.sleep(fault)
        if isinstance(fault, int):
            self.answer(fault, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        behind = http.client.HTTPConnection("127.0.0.1", proxy.behind)
        kept = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
        behind.request(self.command, self.path, body, kept)
        reply = behind.getresponse()
        self.answer(reply.status, reply.getheaders(), reply.read())
        behind.close()

    def read_body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status, headers, body):
        self.send_response(status)
        told = {"content-length", "transfer-encoding", "connection", "date", "server"}
        length = {k.lower(): v for k, v in headers}.get("content-length", len(body))
        for key, value in headers:
            if key.lower() not in told:
                self.send_header(key, value)
        self.send_header("Content-Length", str(length if self.command == "HEAD" else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815 - its base's names

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def moto_port():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def s3(moto_port, monkeypatch):
    """Return a proxy before an empty bucket `bucket`, which the environment leads to."""
    proxy = Proxy(moto_port)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    for name, value in (
        ("AWS_ACCESS_KEY_ID", WORDS[0]),
        ("AWS_SECRET_ACCESS_KEY", WORDS[1]),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", proxy.url),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    forget()
    files = s3fs.S3FileSystem()
    if files.exists("bucket"):
        files.rm("bucket", recursive=True)
    files.mkdir("bucket")
    proxy.files, proxy.words = files, WORDS
    proxy.counts.clear()
    yield proxy
    proxy.shutdown()
    proxy.server_close()
    forget()


def forget():
    """Have file systems made anew: they keep the endpoint of when they were made."""
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def records():
    """Return two records of three blocks each."""
    return np.random.default_rng(3).standard_normal((2, 300_001)).astype(np.float32)
