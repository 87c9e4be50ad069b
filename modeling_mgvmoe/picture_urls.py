"""Pictures from the web, fetched within limits and never from the inside of a network."""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from urllib.parse import urljoin, urlsplit

MAX_PICTURE_BYTES = 20 * 2**20
MAX_SECONDS = 30.0
MAX_REDIRECTS = 3
# IPv6 addresses that stand for IPv4 ones, by which a private one could be reached (RFC 6052).
NAT64 = ipaddress.ip_network("64:ff9b::/96")
PIECE = 2**16


def fetch_picture(
    url: str,
    max_bytes: int = MAX_PICTURE_BYTES,
    max_seconds: float = MAX_SECONDS,
    max_redirects: int = MAX_REDIRECTS,
    allow_private: bool = False,
) -> bytes:
    """What lies at an http(s) address.

    Every address that a name stands for must be public, and the connection goes to the address that was checked, so
    that neither a redirect nor a second answer of the name server leads inside. Proxies of the environment are not
    used, for behind one nothing could be checked.

    Args:
        url: beginning with http:// or https://.
        max_bytes: a longer answer is refused.
        max_seconds: for all of it, redirects included.
        max_redirects: so many are followed.
        allow_private: also loopback, private and other addresses that are not public.

    Raises:
        ValueError: naming the rule that is broken, or what the server answered.
    """
    until = time.monotonic() + max_seconds
    for _ in range(max_redirects + 1):
        try:
            status, location, content = _get(url, until, max_bytes, allow_private)
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= until:
                raise ValueError(f"it takes more than {max_seconds:g} seconds") from error
            raise ValueError(f"it cannot be fetched: {error or type(error).__name__}") from error
        if location is None:
            if status != 200:
                raise ValueError(f"the server answered {status} {http.client.responses.get(status, '')}".rstrip())
            return content
        url = urljoin(url, location)
    raise ValueError(f"more than {max_redirects} redirects")


def _get(url: str, until: float, max_bytes: int, allow_private: bool) -> tuple[int, str | None, bytes]:
    """Status, where it leads to if it does, and the content."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"an address must begin with http:// or https:// and name a host, got {url!r:.200}")
    secure = parts.scheme == "https"
    try:
        port = parts.port or (443 if secure else 80)
    except ValueError as error:
        raise ValueError(f"the address has no valid port: {url!r:.200}") from error
    address = _checked_address(parts.hostname, port, allow_private)
    connection = _Connection(parts.hostname, port, address, _left(until), secure)
    # A time limit of the socket is for each wait: a server that sends a byte now and then would never end.
    alarm = threading.Timer(_left(until), connection.give_up)
    alarm.daemon = True
    alarm.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "mg-vmoe", "Accept": "image/*"})
        response = connection.getresponse()
        location = response.getheader("Location") if 300 <= response.status < 400 else None
        if location is not None or response.status != 200:
            return response.status, location, b""
        content = bytearray()
        while piece := response.read1(PIECE):
            content += piece
            if len(content) > max_bytes:
                raise ValueError(f"it has more than {max_bytes:,} bytes")
        if connection.over or response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return response.status, None, bytes(content)
    finally:
        alarm.cancel()
        connection.close()


def _checked_address(host: str, port: int, allow_private: bool) -> str:
    """An IP address of the host; all that it has must be public."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise ValueError(f"the host {host!r} is not known: {error}") from error
    for address in found:
        if not allow_private and not is_public(address):
            raise ValueError(f"the host {host!r} has the address {address}, which is not public")
    return sorted(found, key=lambda address: ":" in address)[0]


def is_public(address: str) -> bool:
    """Whether an IP address is not loopback, private, link-local, multicast or another that means one of these."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv6Address):
        inner = number.ipv4_mapped or number.sixtofour or (number.teredo[1] if number.teredo else None)
        if number in NAT64:
            inner = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return number.is_global and not number.is_multicast


class _Connection(http.client.HTTPConnection):
    """A connection to the address that was checked, under the host's own name."""

    def __init__(self, host: str, port: int, address: str, seconds: float, secure: bool) -> None:
        super().__init__(host, port, timeout=seconds)
        self.address, self.secure, self.over = address, secure, False
        self.opened: socket.socket | None = None
        self.default_port = 443 if secure else 80

    def connect(self) -> None:
        self.sock = socket.create_connection((self.address, self.port), timeout=self.timeout)
        if self.secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
        # `sock` is forgotten as soon as an answer without a length begins.
        self.opened = self.sock

    def give_up(self) -> None:
        """End whatever waits for the server."""
        self.over = True
        if self.opened is not None:
            with contextlib.suppress(OSError):
                self.opened.shutdown(socket.SHUT_RDWR)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is over")
    return left


__all__ = ["fetch_picture", "is_public"]
