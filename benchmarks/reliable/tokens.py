"""``security.cpu_share.token`` and ``.jwt``: CPU of a Rank call with a token over that without access, less one.

Three servers of one bundle on the first core: without access, and two with an access file, whose callers bring a static
token, or a JWT (RS256), which is verified once and remembered. Redis and the callers are on the last core. They take
turns. Without access a server has no interceptor of it at all: ``rpc/access/opened.py``.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from harness.common import Line, cores, line, machine, pinned, rounded, spread
from harness.wire import Wire

from reliable.security import SIZES, Size, calls, cpu_us

__all__ = ["SIZES", "token_share"]

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "redis", "hiredis", "protobuf", "PyJWT", "cryptography")
TARGET = 0.05
_ISSUER, _AUDIENCE = "https://issuer.example", "recsys"


def token_share(folder: Path, size: Size, *, bundles: Path) -> Iterator[Line]:
    """Measure the figures; what is written goes to ``folder``, the bundle to ``bundles``."""
    from harness.serving_parts import server
    from harness.workers import worker
    from ranking import setting as rank_setting

    file, tokens = access_file(folder)
    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        bundle = rank_setting.reference_bundle(bundles, items=size.items)
        sent = rank_setting.messages(setting.requests(histories, size.requests))
        sides = {}
        for name, token in (("off", None), *tokens.items()):
            (folder / name).mkdir()
            options = [] if token is None else ["--access-file", str(file)]
            with pinned(cores()[0]):
                pid, address = stack.enter_context(server(bundle, setting.redis_url, folder / name, *options))
            with pinned(cores()[-1]):
                sides[name] = stack.enter_context(worker(calls, address, pid, Wire(token=token), sent, size.callers))
        taken = cpu_us(sides, rounds=size.rounds, round_s=size.round_s)
    for name in tokens:
        shares = [with_it / off - 1 for off, with_it in zip(taken["off"], taken[name], strict=True)]
        yield line(
            f"security.cpu_share.{name}", median(shares), "share", higher_is_better=False, target=TARGET,
            compared_with="CPU of the same calls without access, server and client together, in turns",
            spread=spread(shares), cpu_us={side: rounded(median(taken[side])) for side in ("off", name)},
            on=machine(LIBRARIES, **asdict(size)),
        )  # fmt: skip


def access_file(folder: Path) -> tuple[Path, dict[str, str]]:
    """An access file that knows a static token and an issuer of JWTs, and one of each, by kind."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import rsa

    from recsys.serving.rpc.access.tokens import make_token, token_entry

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    (folder / "jwks.json").write_text(json.dumps({"keys": [{**public, "kid": "a"}]}))
    claims = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": "web", "groups": ["ranker"], "exp": int(time.time()) + 86_400}
    static, file = make_token(), folder / "access.toml"
    entry = token_entry(static, name="web", roles=("rank",), expires="2999-01-01T00:00:00Z")
    file.write_text(
        f'format = 1\n{entry}calls_per_s = 1000000\n[jwt]\nissuer = "{_ISSUER}"\naudience = "{_AUDIENCE}"\n'
        'algorithms = ["RS256"]\njwks_file = "jwks.json"\nroles_claim = "groups"\ncalls_per_s = 1000000\n'
        '[jwt.roles]\nranker = ["rank"]\n'
    )
    signed = jwt.encode(claims, key, algorithm="RS256", headers={"kid": "a"})
    return file, {"token": static, "jwt": signed}
