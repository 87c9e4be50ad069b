"""Images: any image a user may pass, as an upright 8-bit RGB PIL image; by address within limits."""

import base64
import contextlib
import importlib
import ipaddress
import os
import socket
import ssl
import struct
import threading
import time
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_IMAGE_BYTES = 20 * 2**20
MAX_SECONDS = 30.0
MAX_REDIRECTS = 3
# IPv6 addresses that stand for IPv4 ones, by which a private one could be reached (RFC 6052).
NAT64 = ipaddress.ip_network("64:ff9b::/96")
MAX_PORT = 65535


def fetch_image(
    url: str,
    max_bytes: int = MAX_IMAGE_BYTES,
    max_seconds: float = MAX_SECONDS,
    max_redirects: int = MAX_REDIRECTS,
    allow_private: bool = False,
) -> bytes:
    """Download the bytes at an http(s) address.

    Every address that a name stands for must be public, and the connection goes to the address that was checked, so
    that neither a redirect nor a second answer of the name server leads inside. Proxies of the environment are not
    used, for behind one nothing could be checked.

    Args:
        url: beginning with http:// or https://.
        max_bytes: a longer answer is refused.
        max_seconds: for all of it, redirects included.
        max_redirects: this many are followed.
        allow_private: also loopback, private and other addresses that are not public.

    Raises:
        ValueError: naming the rule that is broken, or what the server answered.
    """
    httpx, until = _httpx(), time.monotonic() + max_seconds
    for _ in range(max_redirects + 1):
        try:
            target = httpx.URL(url)
            response, content = _get(httpx, target, until, max_bytes, allow_private)
        except httpx.InvalidURL as error:
            raise ValueError(f"an address must be a URL, got {url!r:.200}: {error}") from error
        except (OSError, httpx.HTTPError) as error:
            if time.monotonic() >= until:
                raise ValueError(f"it takes more than {max_seconds:g} seconds") from error
            raise ValueError(f"it cannot be fetched: {error or type(error).__name__}") from error
        if not response.has_redirect_location:
            if response.status_code != 200:
                raise ValueError(f"the server answered {response.status_code} {response.reason_phrase}".rstrip())
            return content
        url = str(target.join(response.headers["location"]))
    raise ValueError(f"more than {max_redirects} redirects")


def _httpx() -> Any:
    """The library httpx, under the name by which the installed huggingface_hub brings it.

    Not by an import statement: transformers requires every name that one mentions in a file from the Hub.

    Raises:
        ImportError: it is not installed.
    """
    for name in ("httpx2", "httpx"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise ImportError("httpx must be installed to fetch images by address: pip install httpx")


def _get(httpx: Any, url: Any, until: float, max_bytes: int, allow_private: bool) -> tuple[Any, bytes]:
    """The response, and its content if it answers 200 and leads nowhere else."""
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"an address must begin with http:// or https:// and name a host, got {str(url)!r:.200}")
    if not 0 < (url.port or 80) <= MAX_PORT:
        raise ValueError(f"the address has no valid port: {str(url)!r:.200}")
    address = _checked_address(url.host, url.port or url.scheme, allow_private)
    with (
        _Deadline(until) as deadline,
        httpx.Client(timeout=deadline.left(), trust_env=False, verify=ssl.create_default_context()) as client,
    ):
        request = client.build_request(
            "GET",
            # The host's name stays in the header, and is what a certificate must be for.
            url.copy_with(host=address, userinfo=b"", fragment=None),
            headers={
                "Host": url.netloc.decode(),
                "User-Agent": "mg-vmoe",
                "Accept": "image/*",
                "Accept-Encoding": "identity",
            },
            extensions={"sni_hostname": url.raw_host.decode(), "trace": deadline.watch},
        )
        response = client.send(request, stream=True)
        content = bytearray()
        if response.status_code == 200:
            for piece in response.iter_raw():
                content += piece
                if len(content) > max_bytes:
                    raise ValueError(f"it has more than {max_bytes:,} bytes")
        deadline.left()  # a connection that was ended looks like the end of an answer without a length
        return response, bytes(content)


class _Deadline:
    """Ends the connection when the time is over.

    Time limits of httpx are for each wait: a server that sends a byte now and then would never reach them.
    """

    def __init__(self, until: float) -> None:
        self.until = until
        self.socket: socket.socket | None = None
        self.alarm = threading.Timer(self.left(), self.end)
        self.alarm.daemon = True

    def __enter__(self) -> "_Deadline":
        self.alarm.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.alarm.cancel()

    def left(self) -> float:
        """Seconds that are left.

        Raises:
            TimeoutError: none.
        """
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is over")
        return left

    def watch(self, event: str, details: dict[str, Any]) -> None:
        """Called by httpx: keeps the socket of a new connection."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self.socket = details["return_value"].get_extra_info("socket")

    def end(self) -> None:
        """End whatever waits for the server."""
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)


def _checked_address(host: str, port: int | str, allow_private: bool) -> str:
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


MAX_UINT16 = 65535
# PIL's own bound for a warning, about a quarter of a GiB as RGB; it refuses twice as many.
MAX_PIXELS = 89_478_485
# Formats of photos and drawings. PIL knows 40 others: some run programs (EPS), most nobody has looked at for years.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "AVIF")
SVG_BEGINNINGS = (b"<svg", b"<?xml", b"<!DOCTYPE svg", b"\xef\xbb\xbf<")


def to_rgb(image: Any, where: str = "images", allow_urls: bool | str = False) -> Image.Image:
    """Reads one image.

    The EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled (not clipped) to 8 bits,
    and of an animation the first frame is taken.

    Args:
        image: A PIL image of any mode; a path; a data URL; with `allow_urls` an http(s) URL; encoded bytes; a
            `datasets` dict with "bytes" and "path"; or a numpy array or torch tensor, (H,W), (H,W,C) or (C,H,W) with
            C 1, 3 or 4, uint8 or floating point in [0,1]. Where both layouts fit, an array is read as (H,W,C), a
            tensor as (C,H,W).
        where: How to call the argument in messages.
        allow_urls: Fetch http(s) addresses of public hosts, within the limits of [`fetch_image`]; "private": also of
            other hosts. Not by default: who decides what a server fetches can look behind its walls.

    Returns:
        An RGB image.

    Raises:
        ValueError: If the image cannot be read, naming it, with the cause chained.
    """
    if allow_urls not in (False, True, "private"):
        raise ValueError(f'allow_image_urls must be False, True or "private", got {allow_urls!r}')
    try:
        if isinstance(image, (np.ndarray, torch.Tensor)):
            return _from_array(image)
        return _flatten(_open(image, allow_urls))
    except Exception as error:  # PIL and the file system raise a dozen kinds
        raise ValueError(f"{where}: cannot read image {_name(image)}: {error}") from error


def _name(image: Any) -> str:
    if isinstance(image, dict):
        path = image.get("path")
        return repr(path) if path else _name(image.get("bytes"))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return f"<{len(image)} bytes>"
    if isinstance(image, (str, os.PathLike)):
        name = str(image)
        return repr(name if len(name) <= 200 else name[:200] + "...")
    if isinstance(image, (np.ndarray, torch.Tensor)):
        return f"<{type(image).__name__} of shape {tuple(image.shape)}, {image.dtype}>"
    if isinstance(image, Image.Image):
        return f"<PIL image, mode {image.mode}, size {image.size}>"
    return f"<{type(image).__name__}>"


def _open(image: Any, allow_urls: bool | str) -> Image.Image:
    if isinstance(image, dict):
        encoded, path = image.get("bytes"), image.get("path")
        if encoded is None and path is None:
            raise ValueError("an image dict needs 'bytes' or 'path'")
        image = path if encoded is None else encoded
    if isinstance(image, (str, os.PathLike)):
        image = _content(os.fspath(image), allow_urls)
    if isinstance(image, (bytes, bytearray, memoryview)):
        image = _decoded(bytes(image))
    if not isinstance(image, Image.Image):
        raise ValueError(
            "a PIL image, path, URL, bytes, array, tensor or dict of bytes and path is needed "
            f"(got {type(image).__name__})"
        )
    _check_size(image)
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, struct.error):  # broken EXIF; the pixels may be whole
        return image


def _content(source: str | bytes, allow_urls: bool | str) -> bytes:
    """Read the bytes at an address, in a data URL or in a file."""
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        if not allow_urls:
            raise ValueError("addresses are fetched only with allow_image_urls=True")
        # The bytes, and not transformers' `load_image`, which drops transparency and clips 16-bit greys.
        return fetch_image(source, allow_private=allow_urls == "private")
    if isinstance(source, str) and source.startswith("data:"):
        head, _, content = source.partition(",")
        if not head.endswith(";base64"):
            raise ValueError("a data URL must begin with data:image/...;base64,")
        return base64.b64decode("".join(content.split()), validate=True)
    if not os.path.exists(source):
        raise FileNotFoundError("there is no such file")
    if not os.path.isfile(source):
        raise ValueError("it is no file")  # a pipe or a device would never end
    with open(source, "rb") as file:
        return file.read()


def _decoded(content: bytes) -> Image.Image:
    """An image of a file's bytes; it is read here, so that a truncated one fails here and not later."""
    if not content:
        raise ValueError("it is empty")
    if content.lstrip()[:14].startswith(SVG_BEGINNINGS) and b"<svg" in content[:4096]:
        raise ValueError("it is an SVG drawing, which is not read: save it as PNG")
    Image.init()  # or PIL does not know all that it can read
    try:
        opened = Image.open(BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise ValueError(f"it is no image of the formats {', '.join(FORMATS)}") from error
    _check_size(opened)
    opened.load()
    return opened


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,} in all are refused")


def _flatten(image: Image.Image) -> Image.Image:
    """Brings any mode to RGB."""
    if image.width == 0 or image.height == 0:
        raise ValueError(f"the image is empty (size {image.size})")
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_grey_to_uint8(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _grey_to_uint8(values: np.ndarray, mode: str) -> np.ndarray:
    """Scales grey values of more than 8 bits; PIL's own convert("RGB") clips them at 255."""
    lowest, highest = float(values.min()), float(values.max())
    if mode == "F":
        if not (lowest >= 0 and highest <= 255):  # also catches NaN
            raise ValueError(f"mode F needs values in [0,1] or [0,255] (got {lowest:g} to {highest:g})")
        scale = 255.0 if highest <= 1 else 1.0
    else:
        if not 0 <= lowest <= highest <= MAX_UINT16:
            raise ValueError(f"mode {mode} needs values in [0,{MAX_UINT16}] (got {lowest:g} to {highest:g})")
        # "I" is a 32-bit container that also carries 8-bit values; "I;16" is what it says.
        scale = 1.0 if mode == "I" and highest <= 255 else 255.0 / MAX_UINT16
    return np.rint(values.astype(np.float64) * scale).astype(np.uint8)


def _from_array(image: np.ndarray | torch.Tensor) -> Image.Image:
    channels_first = isinstance(image, torch.Tensor)
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    values = image
    if values.ndim == 3:
        fits_first, fits_last = values.shape[0] in (1, 3, 4), values.shape[2] in (1, 3, 4)
        if fits_first and (channels_first or not fits_last):
            values = values.transpose(1, 2, 0)
        elif not fits_last:
            raise ValueError(f"an array needs 1, 3 or 4 channels, first or last (got shape {values.shape})")
        values = values[:, :, 0] if values.shape[2] == 1 else values
    if values.ndim not in (2, 3) or values.size == 0:
        raise ValueError(f"an array is (H,W), (H,W,C) or (C,H,W) and not empty (got shape {image.shape})")
    if np.issubdtype(values.dtype, np.floating):
        lowest, highest = float(values.min()), float(values.max())
        if not (lowest >= 0 and highest <= 1):  # also catches NaN
            raise ValueError(f"a {values.dtype} array needs values in [0,1] (got {lowest:g} to {highest:g})")
        values = np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise ValueError(f"an array is uint8 or floating point in [0,1] (got {values.dtype})")
    return _flatten(Image.fromarray(np.ascontiguousarray(values)))


__all__ = [
    "fetch_image",
    "is_public",
]
