"""``faults.failed_calls.certificates``: calls that fail while certificates change every second, on both sides.

A server of two workers with mTLS; callers of the Python client, each with a connection of its own, which call again
when they are answered. Every second the server's files and the callers' are swapped, by one rename each. A caller
makes its channel anew when its files have changed, so there are handshakes all the time; new connections beside them
tell which certificates the workers show.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, rounded, say

from reliable.issuing import Issuer, put, server_options

if TYPE_CHECKING:
    from harness.workers import Measure

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "redis", "hiredis", "protobuf", "cryptography")
WORKERS = 2
_MOST_S = 3_600.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the measurement."""

    rotations: int
    every_s: float = 1.0
    callers: int = 8
    items: int = 100_000
    users: int = 64
    events: int = 1_000
    requests: int = 256
    candidates: int = 200


SIZES = {
    "full": Size(rotations=60),
    "quick": Size(rotations=6, items=20_000, users=16, requests=64),
    "tiny": Size(rotations=2, callers=2, items=1_000, users=4, events=120, requests=8, candidates=20),
}


def failed_calls(folder: Path, size: Size, *, bundles: Path) -> Iterator[Line]:
    """Measure the figure; what is written goes to ``folder``, the bundle to ``bundles``."""
    from harness.serving_parts import server
    from harness.workers import worker
    from ranking import setting as rank_setting

    issuer = Issuer()
    secrets = {side: folder / side for side in ("server", "callers")}
    for secret in secrets.values():
        put(secret, issuer.issue(), 1)
    stop = multiprocessing.get_context("spawn").Event()
    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        bundle = rank_setting.reference_bundle(bundles, items=size.items)
        options = ("--workers", str(WORKERS), *server_options(secrets["server"]))
        _, address = stack.enter_context(server(bundle, setting.redis_url, folder, *options))
        asked = [(request.user, request.candidates.tolist()) for request in setting.requests(histories, size.requests)]
        calls = stack.enter_context(worker(_steady, address, secrets["callers"], asked, size.callers, stop))
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(calls, _MOST_S)
            try:
                issued, seen = _rotate(size, issuer, secrets, address)
            finally:
                stop.set()
            answered, errors = running.result()
    say(f"{answered} calls answered, {sum(errors.values())} failed; {len(seen)} of {issued} certificates seen")
    yield line(
        "faults.failed_calls.certificates", sum(errors.values()), "calls", higher_is_better=False, target=0,
        compared_with="nothing: calls of the Python client that failed, with its own retries and no others",
        calls=answered, errors=dict(errors), rotations=size.rotations, every_s=rounded(size.every_s),
        servers_certificates=issued, seen_by_new_connections=len(seen), workers=WORKERS,
        on=machine(LIBRARIES, **asdict(size)),
    )  # fmt: skip


def _rotate(size: Size, issuer: Issuer, secrets: dict[str, Path], address: str) -> tuple[int, set[bytes]]:
    """Swap the files of both sides again and again; how many the server had, and those that it showed."""
    seen: set[bytes] = set()
    for number in range(2, size.rotations + 2):
        until_s = time.monotonic() + size.every_s
        for secret in secrets.values():
            put(secret, issuer.issue(), number)
        while time.monotonic() < until_s:
            seen.add(_shown(address, secrets["callers"]))
            time.sleep(size.every_s / 20)
    return size.rotations + 1, seen


def _shown(address: str, secret: Path) -> bytes:
    """The certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(secret / "cert", secret / "key")
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as plain, context.wrap_socket(plain) as secured:
        return secured.getpeercert(binary_form=True) or b""


def _steady(address: str, secret: Path, asked: list[tuple[int, list[int]]], callers: int, stop: Any) -> Measure:
    """Calls one after another by each caller until ``stop`` is set; how many were answered, and errors by code."""
    from recsys.client import Client, RpcError, Tls

    def call(number: int) -> tuple[int, Counter[str]]:
        answered, errors = 0, Counter[str]()
        tls = Tls(ca=secret / "ca", certificate=secret / "cert", key=secret / "key")
        with Client(address, timeout_s=10.0, tls=tls) as client:
            while not stop.is_set():
                user, candidates = asked[(number + callers * answered) % len(asked)]
                try:
                    client.rank(user=user, candidates=candidates)
                    answered += 1
                except RpcError as error:
                    errors[error.code] += 1
                    say(f"a call failed: {error}")
        return answered, errors

    def measure(seconds: float) -> tuple[int, Counter[str]]:
        with ThreadPoolExecutor(callers) as pool:
            done = list(pool.map(call, range(callers)))
        return sum(answered for answered, _ in done), sum((errors for _, errors in done), Counter())

    return measure
