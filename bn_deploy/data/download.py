"""Fetching one published file over https: bounded, resumed where it was cut, checked before it gets its name.

What has come so far is kept beside the target under a name of its own (`.part`), and only bytes with the
right SHA-256 ever become the target. So a part that two processes or two mirrors have mixed up costs a second
download, never a wrong file.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from bn_deploy.artifact import sha256_bytes, write_bytes
from bn_deploy.errors import DataError, InputError
from bn_deploy.spec import Track, silent

HTTPS_ONLY = ("https",)

BLOCK_BYTES = 1 << 16

TIMEOUT_S = 10.0
"""How long a mirror may stay silent: without a network, the mirrors together keep nobody waiting long."""

ATTEMPTS = 5
"""How often one mirror is asked, as long as each answer brings the file further."""


class FetchError(DataError):
    """No mirror gave the file; the message has each one's reason."""


class _AttemptFailed(Exception):
    """One request did not bring what was asked for; the message says why."""


def fetch(
    target: Path,
    *,
    sha256: str,
    size_bytes: int,
    mirrors: Sequence[str],
    track: Track = silent,
    schemes: Sequence[str] = HTTPS_ONLY,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Downloads `target.name` from the first mirror that gives it, and writes it whole or not at all.

    Args:
        target: the file to write; its name is what the mirrors are asked for.
        sha256: digest that the content must have.
        size_bytes: size that the content must have; not a byte more is read.
        mirrors: addresses of folders, each ending with a slash, in the order in which to try them.
        track: shows the progress.
        schemes: what an address, and whatever it redirects to, may begin with.
        timeout_s: how long a mirror may stay silent.

    Raises:
        FetchError: no mirror gave the file, or it cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    faults = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for mirror in mirrors:
            requests = _Requests(mirror + target.name, part, size_bytes, schemes, timeout_s, track)
            try:
                content = requests.until_whole(sha256)
            except _AttemptFailed as fault:
                faults.append(f"{urlsplit(mirror).hostname}: {fault}")
                continue
            write_bytes(target, content)
            part.unlink(missing_ok=True)
            return
    except OSError as error:
        raise FetchError(f"cannot keep a download in {target.parent}: {error.strerror}") from error
    except InputError as error:  # from write_bytes
        raise FetchError(f"cannot keep a download: {error}") from error
    raise FetchError(f"cannot download {target.name} ({'; '.join(faults)})")


@dataclass(frozen=True)
class _Requests:
    """The requests to one mirror, each of which adds to the part."""

    url: str
    part: Path
    size_bytes: int
    schemes: Sequence[str]
    timeout_s: float
    track: Track

    def until_whole(self, sha256: str) -> bytes:
        """The file's content, with the right digest.

        Raises:
            _AttemptFailed: an attempt brought nothing, or what came is another file.
            OSError: the part cannot be written.
        """
        for _ in range(ATTEMPTS):
            before_bytes = self._have_bytes()
            try:
                self._advance()
            except _AttemptFailed:
                if self._have_bytes() <= before_bytes:
                    raise
                continue
            content = self.part.read_bytes()
            if sha256_bytes(content) == sha256:
                return content
            self.part.unlink(missing_ok=True)
            # A part from elsewhere may be what was wrong: only a file that came whole tells of the mirror.
            if before_bytes == 0:
                raise _AttemptFailed(
                    f"sent another file: its SHA-256 is {sha256_bytes(content)}, not {sha256}"
                )
        raise _AttemptFailed(f"was cut {ATTEMPTS} times; what came is kept for the next run")

    def _have_bytes(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _advance(self) -> None:
        """Makes one request for what the part lacks, and adds what comes."""
        start = self._have_bytes()
        if start > self.size_bytes:
            self.part.unlink(missing_ok=True)
            start = 0
        if start == self.size_bytes:
            return
        with self._open(start) as response:
            start = self._agreed_start(response, start)
            with self.part.open("ab") as stream:
                stream.truncate(start)
                self._write(response, stream, self.size_bytes - start)
        if (have := self._have_bytes()) < self.size_bytes:
            raise _AttemptFailed(f"was cut after {have} of {self.size_bytes} bytes")

    def _write(self, response: http.client.HTTPResponse, stream: IO[bytes], wanted_bytes: int) -> None:
        blocks = -(-wanted_bytes // BLOCK_BYTES)
        name = self.part.name.removesuffix(".part")
        for block in self.track(_blocks(response, wanted_bytes), f"download {name}", blocks):
            stream.write(block)

    def _open(self, start: int) -> http.client.HTTPResponse:
        _check_scheme(self.url, self.schemes)
        headers = {"User-Agent": "bn-deploy"} | ({"Range": f"bytes={start}-"} if start else {})
        request = urllib.request.Request(self.url, headers=headers)  # noqa: S310 - checked above
        opener = urllib.request.build_opener(_CheckedRedirects(self.schemes))
        try:
            response: http.client.HTTPResponse = opener.open(request, timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise _AttemptFailed(f"HTTP {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            raise _AttemptFailed(_in_words(error)) from error
        return response

    def _agreed_start(self, response: http.client.HTTPResponse, start: int) -> int:
        """Where the answer's first byte belongs: a server that ignores Range sends the whole file again."""
        if response.status == http.client.PARTIAL_CONTENT:
            stated_range = response.headers.get("Content-Range", "")
            if not stated_range.startswith(f"bytes {start}-"):
                raise _AttemptFailed(
                    f"answered with {stated_range or 'no range'} when asked from byte {start}"
                )
        else:
            start = 0
        # A log-in page or an error page betrays itself here, before it spoils the part.
        wanted_bytes = self.size_bytes - start
        if response.length is not None and response.length != wanted_bytes:
            raise _AttemptFailed(f"offers {response.length} bytes instead of {wanted_bytes}")
        return start


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to an allowed scheme; the standard handler would go from https to http."""

    def __init__(self, schemes: Sequence[str]) -> None:
        self._schemes = schemes

    def redirect_request(  # noqa: PLR0917 - the standard library's signature
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        with fp:
            _check_scheme(newurl, self._schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str, schemes: Sequence[str]) -> None:
    if urlsplit(url).scheme not in schemes:
        raise _AttemptFailed(f"refused {url}: only {' or '.join(schemes)} is allowed")


def _blocks(response: http.client.HTTPResponse, wanted_bytes: int) -> Iterator[bytes]:
    """Yields at most `wanted_bytes` of the answer's body.

    Raises:
        _AttemptFailed: the connection broke; told apart here from a disk that cannot be written.
    """
    while wanted_bytes > 0:
        try:
            block = response.read(min(BLOCK_BYTES, wanted_bytes))
        except (OSError, http.client.HTTPException) as error:
            raise _AttemptFailed(_in_words(error)) from error
        if not block:
            return
        wanted_bytes -= len(block)
        yield block


def _in_words(error: OSError | http.client.HTTPException) -> str:
    """The cause, without the wrapping that urllib puts around it."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
