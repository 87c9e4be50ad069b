"""Images by address: only when asked for, within limits, never from the inside of a network."""

import contextlib
import re
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
from PIL import Image

from modeling_mgvmoe import images as picture_urls
from modeling_mgvmoe.images import fetch_image, is_public, to_rgb

RED = (255, 0, 0)


class Handler(BaseHTTPRequestHandler):
    seen = []

    def do_GET(self):
        self.seen.append((self.path, self.headers["Host"]))
        Handler.headers_seen = dict(self.headers)
        name, _, rest = self.path.partition("?")
        if name == "/red.png":
            return self.answer(200, self.server.picture)
        if name == "/to":
            return self.answer(302, b"", Location=rest)
        if name == "/long":
            return self.answer(200, b"x" * 4096)
        if name in ("/drip", "/drip_header"):
            self.send_response(200)
            if name == "/drip":
                self.end_headers()
            else:
                self.flush_headers()
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
            return None
        if name == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            return self.wfile.write(b"x")
        return self.answer(404, b"<html>not here</html>")

    def answer(self, status, content, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    buffer = BytesIO()
    Image.new("RGB", (2, 2), RED).save(buffer, "PNG")
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    running.picture = buffer.getvalue()
    Handler.seen.clear()
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()
    thread.join()


def test_an_image_is_fetched_only_when_asked_for(server):
    with pytest.raises(ValueError, match=r"images: cannot read image 'http.*only with allow_image_urls=True"):
        to_rgb(f"{server}/red.png")
    assert Handler.seen == []
    assert to_rgb(f"{server}/red.png", allow_urls="private").getpixel((0, 0)) == RED
    with pytest.raises(ValueError, match=r"images\[3\]: cannot read image 'http://127.*gone.png': .*404 Not Found"):
        to_rgb(f"{server}/gone.png", "images[3]", allow_urls="private")
    with pytest.raises(ValueError, match="allow_image_urls must be False, True or \"private\", got 'yes'"):
        to_rgb(f"{server}/red.png", allow_urls="yes")


def test_loopback_and_private_hosts_are_not_reached(server):
    port = server.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"):
        with pytest.raises(ValueError, match="not public|not known"):
            fetch_image(f"http://{host}:{port}/red.png")
    with pytest.raises(ValueError, match=r"cannot read image.*address 127.0.0.1, which is not public"):
        to_rgb(f"{server}/red.png", allow_urls=True)
    assert Handler.seen == []


def test_a_redirect_does_not_lead_inside(server, monkeypatch):
    """The first host passes for public; where it sends us does not."""
    port = server.rpartition(":")[2]
    names = {"outside.example": "127.0.0.1", "inside.example": "127.0.0.2"}
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: resolve(names.get(host, host), *rest, **more)
    )
    monkeypatch.setattr(picture_urls, "is_public", lambda address: address == "127.0.0.1")
    assert fetch_image(f"http://outside.example:{port}/red.png")
    assert Handler.seen == [("/red.png", f"outside.example:{port}")]
    with pytest.raises(ValueError, match="'inside.example' has the address 127.0.0.2, which is not public"):
        fetch_image(f"http://outside.example:{port}/to?http://inside.example:{port}/red.png")
    with pytest.raises(ValueError, match="must begin with http:// or https://"):
        fetch_image(f"http://outside.example:{port}/to?file:///etc/hostname")


def test_a_name_is_asked_for_once(server, monkeypatch):
    """A name server that answers differently the second time cannot lead inside: the checked address is used."""
    port = server.rpartition(":")[2]
    asked = []
    resolve = socket.getaddrinfo

    def changing(host, *rest, **more):
        if host == "changing.example":
            asked.append(host)
            host = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    monkeypatch.setattr(picture_urls, "is_public", lambda address: address == "127.0.0.1")
    assert fetch_image(f"http://changing.example:{port}/red.png")
    assert len(asked) == 1


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
     "2002:7f00:1::", "192.0.2.1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_addresses_that_are_public(address):
    assert is_public(address)


def test_size_time_and_redirects_are_limited(server):
    def fetch(path, **limits):
        return fetch_image(server + path, allow_private=True, **limits)

    assert len(fetch("/long", max_bytes=4096)) == 4096
    with pytest.raises(ValueError, match="it has more than 4,095 bytes"):
        fetch("/long", max_bytes=4095)
    for path in ("/drip", "/drip_header"):
        started = time.monotonic()
        with pytest.raises(ValueError, match="it takes more than 0.3 seconds"):
            fetch(path, max_seconds=0.3)
        assert time.monotonic() - started < 2
    with pytest.raises(ValueError, match="cannot be fetched"):
        fetch("/short")
    assert fetch("/to?/to?/red.png", max_redirects=2)
    with pytest.raises(ValueError, match="more than 2 redirects"):
        fetch("/to?/to?/to?/red.png", max_redirects=2)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("ftp://example.org/a.png", "must begin with http:// or https://"),
        ("http:///a.png", "name a host"),
        ("http://example.org:99999/a.png", "no valid port"),
        ("http://no-such-host.invalid/a.png", "is not known"),
    ],
)
def test_what_is_no_address(url, rule):
    with pytest.raises(ValueError, match=re.escape(rule)):
        fetch_image(url)


def test_without_httpx(server, monkeypatch):
    for name in ("httpx", "httpx2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="httpx must be installed"):
        to_rgb(f"{server}/red.png", allow_urls="private")


def test_a_name_and_a_password_of_an_address_are_not_sent(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nor is a proxy asked
    assert fetch_image(server.replace("//", "//kelo:secret@") + "/red.png?a b", allow_private=True)
    assert Handler.seen == [("/red.png?a%20b", server.removeprefix("http://"))]
    assert "Authorization" not in Handler.headers_seen


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ValueError, match="cannot be fetched.*refused"):
        fetch_image(f"http://127.0.0.1:{port}/a.png", allow_private=True)
