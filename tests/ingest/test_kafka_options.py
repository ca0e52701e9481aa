"""Options of librdkafka: from a file, and no secret of theirs in an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_bundle import FEATURES

from recsys.errors import ConfigError
from recsys.ingest.kafka import KafkaSource
from recsys.ingest.kafka_options import is_secret, parse_options, read_options, without_secrets
from recsys.ingest.source import Pace
from recsys.rows.contract import ReadOptions, event_rows

CANARY = "c4n4ry-s3cr3t"


def test_a_file_has_an_option_a_line(tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text(f"# ours\n\nsecurity.protocol = SASL_SSL\nsasl.password={CANARY}=x\n")
    assert read_options(file) == {"security.protocol": "SASL_SSL", "sasl.password": f"{CANARY}=x"}
    with pytest.raises(ConfigError, match="none: No such file"):
        read_options(tmp_path / "none")


@pytest.mark.parametrize("option", [CANARY, f"sasl.password:{CANARY}", f"sasl password={CANARY}", f"={CANARY}"])
def test_what_is_no_option_is_named_by_its_number_and_not_shown(option: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(["a=b", option], where="--kafka-option")
    assert str(caught.value).startswith("--kafka-option, number 2: expected name=value") and CANARY not in str(
        caught.value
    )


def test_secret_options_are_known_by_their_names() -> None:
    secret = ["sasl.password", "ssl.key.password", "ssl.keystore.password", "sasl.oauthbearer.client.secret"]
    secret += ["ssl.key.pem", "sasl.username", "sasl.oauthbearer.config"]
    assert all(map(is_secret, secret))
    assert not any(map(is_secret, ["security.protocol", "session.timeout.ms", "ssl.ca.location", "sasl.mechanism"]))


def test_a_message_is_without_them() -> None:
    options = {"sasl.password": CANARY, "security.protocol": "SSL", "ssl.key.password": ""}
    assert without_secrets(f"bad {CANARY} of SSL", options) == "bad *** of SSL"


@pytest.mark.parametrize("option", ["sasl.oauthbearer.method", "sasl.password", "ssl.key.pem"])
async def test_librdkafkas_own_errors_show_none(option: str) -> None:
    pytest.importorskip("confluent_kafka")
    options = {option: CANARY, "security.protocol": "nonsense", "sasl.token": CANARY}
    source = KafkaSource(
        "t",
        event_rows(FEATURES, ReadOptions()),
        brokers="127.0.0.1:1",
        group="g",
        options=options,
        pace=Pace(follow=False),
    )
    with pytest.raises(ConfigError) as caught:
        await source.start({})
    assert CANARY not in str(caught.value) and CANARY not in repr(source)
