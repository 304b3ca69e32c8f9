"""One OpenAI-compatible server over HTTP: bounded retries, deadlines, and errors that say what came back.

Only the standard library. No redirect is followed (a key must not travel to another host) and no text that goes to
the user ever holds the key.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ropewalk._version import __version__
from ropewalk.errors import RopewalkError, UsageError, one_line

MAX_REPLY_BYTES = 256 << 20
# No standard says how a prompt is refused for its length: these are the words of vLLM, SGLang, llama.cpp and others.
_TOO_LONG = re.compile(
    r"context[ _](?:length|window|size)|too (?:long|many tokens)|longer than|exceed|n_ctx|"
    r"max(?:imum)?[ _](?:model|seq)",
    re.IGNORECASE,
)
Complaint = Callable[[Any], str | None]


class EndpointError(RopewalkError):
    """The server is down, too slow, or answers with something else than it should."""


class TooLongError(EndpointError):
    """The server says that the prompt is longer than its window."""


class UnsupportedError(EndpointError):
    """The server does not have the path or the option that was asked for."""


class _Retry(Exception):
    """A failure that may pass: tried again while tries are left."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait_s = reason, wait_s


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def check_url(url: str) -> str:
    """The base address without a slash at its end; anything but http(s)://host... is refused."""
    way = "write http://127.0.0.1:8000/v1"
    try:
        parts = urllib.parse.urlsplit(url.strip())
    except ValueError as error:
        raise UsageError(f"{one_line(url, 80)!r} is not an address ({error})", hint=way) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{one_line(url, 80)!r} is not an address", hint=way)
    try:
        # Checked here, since http.client speaks ASCII and would fail inside a request without a word for the user.
        parts.hostname.encode("idna")
        parts.path.encode("ascii")
    except UnicodeError as error:
        raise UsageError(
            f"the address {one_line(url, 80)!r} cannot be asked for ({one_line(error, 80)})",
            hint=f"{way}, and letters beyond ASCII in its path as %XX",
        ) from error
    try:
        _ = parts.port
    except ValueError as error:
        raise UsageError("the port of the address is not a number", hint=way) from error
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "the address holds a name, a password or a query",
            hint="write the plain address and put the key into ROPEWALK_API_KEY",
        )
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass
class Endpoint:
    """A base address such as http://127.0.0.1:8000/v1.

    `timeout_s` bounds one whole exchange; `tries` counts the first attempt too; waits double from `backoff_s`.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 300.0
    tries: int = 4
    backoff_s: float = 1.0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self.url = check_url(self.url)
        if self.timeout_s <= 0 or self.tries < 1 or self.backoff_s < 0:
            raise UsageError(
                f"timeout_s={self.timeout_s:g}, tries={self.tries}, backoff_s={self.backoff_s:g} cannot work",
                hint="use a positive timeout, one try or more, and a wait of 0 or more",
            )
        if self.api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", self.api_key):
            # http.client would print the whole header in its own complaint.
            raise UsageError("the API key holds spaces, line breaks or other letters", hint="copy it again")
        host = urllib.parse.urlsplit(self.url).hostname or ""
        handlers: list[Any] = [_NoRedirect()]
        # A proxy that the environment names would be asked for this machine's own servers, and knows none of them.
        if _is_loopback(host):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str) -> Any:
        """The JSON document at a path."""
        return self._exchange(path, None)

    def post(self, path: str, body: dict[str, Any], complaint: Complaint | None = None) -> Any:
        """The JSON answer to a JSON question; one that `complaint` finds fault with is asked for again."""
        return self._exchange(path, json.dumps(body).encode("utf-8"), complaint)

    def scrub(self, text: object) -> str:
        """Foreign text for one line, with the key blotted out."""
        flat = str(text)
        if self.api_key:
            flat = flat.replace(self.api_key, "***")
        return one_line(flat, 200)

    def _exchange(self, path: str, data: bytes | None, complaint: Complaint | None = None) -> Any:
        reason = ""
        for attempt in range(self.tries):
            try:
                document = self._once(path, data)
                fault = complaint(document) if complaint is not None else None
                if fault is None:
                    return document
                reason = f"the server answers {fault}: {self.scrub(document)!r}"
                self._wait(attempt, None)
            except _Retry as failure:
                reason = failure.reason
                self._wait(attempt, failure.wait_s)
        raise EndpointError(
            f"{self.url}{path}: {reason} ({self.tries} tries)",
            hint="check that the server runs, its address (it usually ends with /v1) and its log",
        )

    def _wait(self, attempt: int, asked_s: float | None) -> None:
        if attempt + 1 < self.tries:
            # A Retry-After of an hour is not waited for: whoever measures would rather hear of it.
            self.sleep(min(60.0, self.backoff_s * 2**attempt if asked_s is None else asked_s))

    def _once(self, path: str, data: bytes | None) -> Any:
        headers = {"Accept": "application/json", "User-Agent": f"ropewalk/{__version__}"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        deadline = time.monotonic() + self.timeout_s
        try:
            with self._opener.open(request, timeout=self.timeout_s) as reply:
                return self._document(self._read(reply, deadline), reply.headers.get("Content-Type", ""))
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error, self._error_text(error, deadline))
        except TimeoutError as error:
            raise _Retry(f"no answer within {self.timeout_s:g} s") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _Retry(f"no answer within {self.timeout_s:g} s") from error
            raise _Retry(f"cannot connect ({self.scrub(error.reason)})") from error
        except (http.client.HTTPException, OSError) as error:
            raise _Retry(f"the connection broke ({self.scrub(error) or type(error).__name__})") from error

    def _read(self, reply: Any, deadline: float) -> bytes:
        parts, size = [], 0
        while part := reply.read1(1 << 16):
            size += len(part)
            parts.append(part)
            if size > MAX_REPLY_BYTES:
                raise EndpointError(
                    f"{self.url}: an answer of more than {MAX_REPLY_BYTES} bytes", hint="ask for less"
                )
            # A server that drips its answer never meets the socket's own timeout.
            if time.monotonic() > deadline:
                raise TimeoutError
        # http.client ends in silence where a connection breaks inside a body whose length was announced.
        if reply.length not in (None, 0):
            raise http.client.IncompleteRead(b"", reply.length)
        return b"".join(parts)

    def _document(self, content: bytes, kind: str) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            start = self.scrub(content[:80].decode("utf-8", errors="replace"))
            looks = (
                "an HTML page"
                if "html" in kind or content.lstrip()[:1] == b"<"
                else "something that is not JSON"
            )
            raise _Retry(f"the server answers with {looks}: {start!r}") from error

    def _error_text(self, error: urllib.error.HTTPError, deadline: float) -> str:
        try:
            content = self._read(error, deadline)
        # A refusal without a body has nothing that could be read.
        except (OSError, http.client.HTTPException, AttributeError):
            return ""
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            return self.scrub(content[:200].decode("utf-8", errors="replace"))
        # OpenAI nests the message, FastAPI calls it `detail`, others answer with a bare string.
        inner = document.get("error", document) if isinstance(document, dict) else document
        message = inner.get("message", inner.get("detail", inner)) if isinstance(inner, dict) else inner
        return self.scrub(message)

    def _refused(self, error: urllib.error.HTTPError, text: str) -> NoReturn:
        code = error.code
        said = f"HTTP {code}" + (f" ({text})" if text else "")
        # What a server under load says and may take back; 501 is a path or option that it will never have.
        if code in (408, 409, 425, 429) or (code >= 500 and code != 501):
            raise _Retry(f"the server answers {said}", _seconds(error.headers.get("Retry-After")))
        if code in (401, 403):
            raise EndpointError(
                f"{self.url}: the server wants another key: {said}", hint="put the key into ROPEWALK_API_KEY"
            )
        if code in (400, 413, 422) and _TOO_LONG.search(text):
            raise TooLongError(
                f"{self.url}: the prompt is longer than the server's window: {said}", hint="shorten it"
            )
        if 300 <= code < 400:
            raise EndpointError(
                f"{self.url}: the server sends elsewhere: {said}", hint="give the address that it points to"
            )
        raise UnsupportedError(
            f"{self.url}: {said}", hint="check the address (it usually ends with /v1) and the model's name"
        )


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
