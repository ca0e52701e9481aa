"""The committed protobuf code is what the proto files say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from support.paths import ROOT

from recsys.features.values import MIN_TIME_MS
from recsys.proto.limits import NAME_BYTES
from recsys.serving.handlers import append
from recsys.serving.handlers import queries as recommend_types
from recsys.serving.inference import retrieval_session as retrieval
from recsys.serving.rpc import store_service
from recsys.serving.rpc.convert import entities as convert_entities
from recsys.serving.rpc.convert import events as convert_events
from recsys.serving.rpc.convert import rank as convert
from recsys.serving.rpc.convert import retrieval as convert_retrieval
from recsys.serving.settings import Settings


def test_generated_code_matches_its_sources(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "generate_protos.py"))
    script["generate"](tmp_path)
    committed = {p.name: p.read_text() for p in script["OUT"].glob("*_pb2*.py*")}
    assert {p.name: p.read_text() for p in tmp_path.glob("*.py*")} == committed
    script["describe"](tmp_path / "recsys.pb")
    assert (tmp_path / "recsys.pb").read_bytes() == script["DESCRIPTORS"].read_bytes()


def test_every_call_field_and_value_is_explained() -> None:
    for file in (ROOT / "protos").rglob("*.proto"):
        lines = [line.strip() for line in file.read_text().splitlines()]
        for before, line in zip(lines, lines[1:], strict=False):
            if re.match(r"(service|enum|rpc) |.* = \d+;$", line):
                assert before.startswith("//"), f"{file.name}: {line!r} has no comment"


def comments_of(name: str) -> str:
    return " ".join((ROOT / "protos/recsys/v1" / name).read_text().replace("//", "").split())


def test_the_proto_of_the_ranker_states_the_limits_that_hold() -> None:
    comments = comments_of("ranker.proto")
    for limit in (
        f"1 to the server's limit ({Settings().max_candidates:,} unless configured otherwise)",
        f"1 to {convert.MAX_BATCH} requests; their candidates together",
        f"from {MIN_TIME_MS:,};",
        f"How many items: 1 to {retrieval.MAX_ITEMS:,}. uint32",
        f"How many items: 1 to {retrieval.MAX_ITEMS:,}, and at most what one Rank request may have",
        f"those of the user's history; up to {convert_retrieval.MAX_EXCLUDED:,}.",
        f"0 for {recommend_types.CANDIDATES} or top_k, whichever is more",
    ):
        assert limit in comments


def test_the_proto_of_the_feature_store_states_the_limits_that_hold() -> None:
    comments = comments_of("feature_store.proto")
    for limit in (
        f"1 to {convert_entities.MAX_ENTITIES:,}; of equal ones",
        f"1 to {convert_entities.MAX_ENTITIES:,}, duplicates",
        f"1 to {convert_events.MAX_EVENTS:,} events",
        f"up to {convert_events.MAX_EVENTS:,}; 0 for",
        f"1 to {convert_events.MAX_USERS:,}, duplicates",
        f"up to {convert_events.MAX_EVENTS_OF_USERS:,}.",
        f"up to {NAME_BYTES} bytes",
        f"The first {append.MAX_REJECTIONS} of these",
        f"from {MIN_TIME_MS:,}",
        f"may take {store_service._STREAM_S / 60:.0f} minutes",
    ):
        assert limit in comments
