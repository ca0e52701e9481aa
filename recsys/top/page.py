"""Page: the metrics page of a server, found and read."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from recsys.errors import ConfigError, RecsysError

_MOST_BYTES = 32 << 20
_OURS = "recsys_"

Labels = Mapping[str, str]


class PageAwayError(RecsysError):
    """No page of a server of recsys can be read there; the message says why."""


@dataclass(frozen=True)
class Page:
    """One reading.

    Attributes:
        at_s: when, ``time.monotonic`` seconds.
        samples: name -> (labels, value) of each series.
    """

    at_s: float
    samples: Mapping[str, tuple[tuple[Labels, float], ...]]

    def of(self, name: str, **labels: str) -> Iterator[tuple[Labels, float]]:
        """The series of a name that have these labels."""
        for own, value in self.samples.get(name, ()):
            if all(own.get(label) == wanted for label, wanted in labels.items()):
                yield own, value

    def total(self, name: str, **labels: str) -> float:
        """The sum of the series of a name that have these labels; 0 if there are none."""
        return sum(value for _, value in self.of(name, **labels))


def parse_page(text: str, *, at_s: float) -> Page:
    """Read a page's text.

    Raises:
        PageAwayError: it is none of a server of recsys.
    """
    samples: dict[str, list[tuple[Labels, float]]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    except ValueError as error:
        raise PageAwayError(f"what answers is no metrics page: {error}") from None
    if not any(name.startswith(_OURS) for name in samples):
        raise PageAwayError("what answers is another program's page: it has no recsys_ metric")
    return Page(at_s, {name: tuple(found) for name, found in samples.items()})


def read_page(
    url: str,
    *,
    timeout_s: float = 5.0,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> Page:
    """Read the page at a URL.

    Args:
        url: of the page.
        timeout_s: longest wait for a part of it.
        ca: certificates (PEM) that its server's must lead to; None: the system's.
        certificate, key: to show to a server that asks for them (PEM); None: none.

    Raises:
        PageAwayError: it cannot be read.
        ConfigError: the URL is none of HTTP.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"metrics URL {url!r}: expected http://HOST:PORT/metrics")
    try:
        context = ssl.create_default_context(cafile=ca) if url.startswith("https:") else None
        if context is not None and certificate is not None:
            context.load_cert_chain(certificate, key)
        # Directly: a proxy knows nothing of this machine's own addresses.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            *([urllib.request.HTTPSHandler(context=context)] if context is not None else []),
        )
        with opener.open(url, timeout=timeout_s) as answer:
            text = answer.read(_MOST_BYTES).decode(errors="replace")
    except urllib.error.HTTPError as error:
        raise PageAwayError(f"{url}: HTTP {error.code} {error.reason}") from None
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise PageAwayError(f"{url}: {getattr(reason, 'strerror', None) or reason}") from None
    except ValueError as error:
        raise ConfigError(f"metrics URL {url!r}: {error}") from None
    return parse_page(text, at_s=time.monotonic())


def url_of_ready_file(path: Path) -> str:
    """The address of the metrics page of the server that wrote this ready file.

    Raises:
        PageAwayError: there is no such file now: the server does not serve.
        ConfigError: it names no metrics page.
    """
    try:
        facts = json.loads(path.read_text())
    except OSError as error:
        raise PageAwayError(f"ready file {str(path)!r}: {error.strerror}; the server does not serve") from None
    except ValueError:
        raise ConfigError(f"{str(path)!r} is no ready file of a server: expected a line of JSON") from None
    if not isinstance(facts, dict) or "metrics" not in facts:
        raise ConfigError(f"the server of {str(path)!r} has no metrics page; start it with --metrics-port")
    return str(facts["metrics"])
