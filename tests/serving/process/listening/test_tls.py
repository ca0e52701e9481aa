"""A server over TLS: who is let in and who is not, and certificates that change while calls come."""

from __future__ import annotations

import os
import re
import signal
import ssl
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.certificates import DAY, Authority, Secret, files_of, mtls
from support.tiny_bundle import write_tiny_bundle
from support.tiny_server import ServerProcess, server_process
from support.tiny_workers import pids, until
from support.tls_server import SteadyCalls, secured_server, shown_serial, tls_of

from recsys.client import AsyncClient, Client, RpcError, Tls, Unavailable, UserEvents
from recsys.errors import ConfigError
from recsys.serving.process.serve import serve
from recsys.serving.settings import Settings
from recsys.top.page import PageAwayError, read_page

AUTHORITY = Authority()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Secret]]:
    folder = tmp_path_factory.mktemp("secured")
    more = {"RECSYS_HEALTH_PORT": "0", "RECSYS_METRICS_PORT": "0", "RECSYS_MAX_CONNECTION_AGE_S": "1"}
    with secured_server(folder, AUTHORITY, **more) as (server, secret):
        yield server, secret


@pytest.fixture
def callers(tmp_path: Path) -> Secret:
    """Files of a client."""
    return mtls(AUTHORITY, tmp_path / "callers")


def ranked(address: str, tls: Tls | None, *, timeout_s: float = 10.0) -> list[float]:
    with Client(address, timeout_s=timeout_s, tls=tls) as client:
        return client.rank(user=1, candidates=[1, 2]).scores.tolist()


async def test_both_clients_with_certificates_are_let_in(
    secured: tuple[ServerProcess, Secret], callers: Secret
) -> None:
    server, _ = secured
    tls = tls_of(callers)
    async with AsyncClient(server.address, timeout_s=10.0, tls=tls) as client:
        awaited = (await client.rank(user=1, candidates=[1, 2])).scores.tolist()
    assert ranked(server.address, tls) == awaited


def test_the_ready_file_says_how_the_port_is_protected(secured: tuple[ServerProcess, Secret]) -> None:
    server, _ = secured
    assert server.facts["tls"] == "mTLS" and "://" not in server.address


def test_callers_that_are_not_let_in_are_told_why(
    secured: tuple[ServerProcess, Secret], callers: Secret, tmp_path: Path
) -> None:
    server, _ = secured
    other = Authority("another")
    ended = mtls(AUTHORITY, tmp_path / "ended")
    strangers = mtls(other, tmp_path / "strangers")
    strangers.swap(**{**files_of(other, other.issue()), "ca": AUTHORITY.pem})
    cases = [
        (
            Tls(ca=mtls(other, tmp_path / "other") / "ca", certificate=callers / "cert", key=callers / "key"),
            "no CA that",
        ),
        (tls_of(callers, own=False), "if it asks for a certificate, give tls.certificate"),
        (tls_of(callers, server_name="ranker.example"), "another name than the address"),
        (tls_of(strangers), "it may refuse the certificate, which has ended or is of another CA"),
        (None, "if it speaks TLS, give tls"),
    ]
    for tls, words in cases:
        with pytest.raises(RpcError, match=words) as error:
            ranked(server.address, tls)
        assert error.value.code == "UNAVAILABLE", tls
    ended.swap(**files_of(AUTHORITY, AUTHORITY.issue(ends=timedelta(hours=-1))))
    with pytest.raises(ConfigError, match="cert: the certificate ended on"):
        ranked(server.address, tls_of(ended))


def test_a_server_name_may_be_another_than_the_address(secured: tuple[ServerProcess, Secret], callers: Secret) -> None:
    server, secret = secured
    with pytest.raises(RpcError, match="another name"):
        ranked(server.address, tls_of(callers, server_name="ranker.example"))
    secret.swap(**files_of(AUTHORITY, AUTHORITY.issue(names=("ranker.example",))))
    until(lambda: shown_serial(server.address, callers) == serial_of(secret))
    assert len(ranked(server.address, tls_of(callers, server_name="ranker.example"))) == 2
    with pytest.raises(RpcError, match="another name"):
        ranked(server.address, tls_of(callers))
    rotated(server, secret, callers)


def serial_of(secret: Secret) -> int:
    return x509.load_pem_x509_certificate((secret / "cert").read_bytes()).serial_number


def rotated(server: ServerProcess, secret: Secret, callers: Secret) -> int:
    """Put a new certificate of the server's there, and wait until it is shown; its number."""
    pair = AUTHORITY.issue()
    secret.swap(**files_of(AUTHORITY, pair))
    until(lambda: shown_serial(server.address, callers) == pair.serial)
    return pair.serial


def test_certificates_that_change_under_load_fail_no_call(
    secured: tuple[ServerProcess, Secret], callers: Secret
) -> None:
    server, secret = secured
    with SteadyCalls(server.address, tls_of(callers)) as calls:
        calls.more(20)
        serials = set()
        for _ in range(3):
            serials.add(rotated(server, secret, callers))
            callers.swap(**files_of(AUTHORITY, AUTHORITY.issue()))
            calls.more(20)
    assert (calls.errors, len(serials)) == ([], 3)


@pytest.mark.prove
def test_both_sides_may_go_to_another_ca_while_calls_come(
    secured: tuple[ServerProcess, Secret], callers: Secret
) -> None:
    server, secret = secured
    new = Authority("new")
    both = AUTHORITY.pem + new.pem
    with SteadyCalls(server.address, tls_of(callers)) as calls:
        calls.more(10)
        for authority, ca in ((AUTHORITY, both), (new, both), (new, new.pem), (new, both), (AUTHORITY, AUTHORITY.pem)):
            for side in (secret, callers):  # each takes both CAs before either shows a certificate of the new one
                side.swap(**{**files_of(authority, authority.issue()), "ca": ca})
            time.sleep(2.5)
            calls.more(10)
    assert calls.errors == []


def test_new_files_that_are_no_good_change_nothing_and_are_told(
    secured: tuple[ServerProcess, Secret], callers: Secret
) -> None:
    server, secret = secured
    serial = rotated(server, secret, callers)
    assert page(server)["recsys_certificate_files_refused"] == 0
    good, other = AUTHORITY.issue(), AUTHORITY.issue()
    secret.swap(**{**files_of(AUTHORITY, good), "key": other.key})
    until(lambda: page(server)["recsys_certificate_files_refused"] == 1)
    assert shown_serial(server.address, callers) == serial
    assert len(ranked(server.address, tls_of(callers))) == 2
    until(lambda: page(server)['recsys_certificates_total{outcome="refused"}'] >= 1)
    secret.swap(**files_of(AUTHORITY, good))
    until(lambda: shown_serial(server.address, callers) == good.serial)
    until(lambda: page(server)["recsys_certificate_files_refused"] == 0)
    assert page(server)['recsys_certificates_total{outcome="taken"}'] >= 2
    assert abs(page(server)["recsys_certificate_end_timestamp_seconds"] - time.time() - DAY.total_seconds()) < 60


def page(server: ServerProcess) -> dict[str, float]:
    """Samples of the metrics page of a loopback address, which is in the clear."""
    assert server.facts["metrics"].startswith("http://127.0.0.1:")
    with urllib.request.urlopen(server.facts["metrics"], timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_health_is_answered_in_the_clear_on_its_own_port_and_nothing_else(
    secured: tuple[ServerProcess, Secret],
) -> None:
    server, _ = secured
    assert server.facts["health"] != server.address
    with grpc.insecure_channel(server.facts["health"]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "recsys.v1.Ranker", "tiny"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for method in ("/recsys.v1.Ranker/Rank", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"):
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(method)(b"", timeout=10)
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)


def private_names(pid: int) -> list[str]:
    """Sockets without a file that a process listens on, as any process of the machine can list them."""
    inodes = {os.readlink(held) for held in Path(f"/proc/{pid}/fd").iterdir() if held.is_symlink()}
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return [fields[7][1:] for fields in lines if fields[-1].startswith("@") and f"socket:[{fields[6]}]" in inodes]


def test_the_address_of_the_watchdog_is_no_way_past_tls(secured: tuple[ServerProcess, Secret]) -> None:
    server, _ = secured
    (name,) = set(private_names(server.process.pid))
    with grpc.insecure_channel(f"unix-abstract:{name}") as channel:
        for method in ("/recsys.v1.Ranker/Rank", "/recsys.v1.FeatureStore/AppendEventStream"):
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(method)(b"", timeout=10)
            assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED, method
        reflection = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as error:
            list(reflection(iter([b""]), timeout=10))
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_a_certificate_that_grpc_cannot_use_is_not_taken(
    secured: tuple[ServerProcess, Secret], callers: Secret
) -> None:
    """The standard library takes it: gRPC would go on with the old one, or fail each handshake, and say nothing."""
    server, secret = secured
    serial = rotated(server, secret, callers)
    for key in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())):
        secret.swap(**files_of(AUTHORITY, AUTHORITY.issue(key=key)))
        until(lambda: page(server)["recsys_certificate_files_refused"] == 1)
        assert shown_serial(server.address, callers) == serial
        assert len(ranked(server.address, tls_of(callers))) == 2
        secret.swap(**files_of(AUTHORITY, AUTHORITY.issue()))
        until(lambda: page(server)["recsys_certificate_files_refused"] == 0)
        serial = rotated(server, secret, callers)


def test_a_call_goes_on_when_its_connection_has_reached_its_age(
    secured: tuple[ServerProcess, Secret], callers: Secret
) -> None:
    """Connections last a second here; a stream of three is one call."""
    server, _ = secured

    def slowly() -> Iterator[UserEvents]:
        for number in range(6):
            yield UserEvents(user=77, items=[number + 1], timestamps_ms=[1_700_000_000_000 + number])
            time.sleep(0.5)

    with Client(server.address, timeout_s=10.0, tls=tls_of(callers)) as client:
        assert client.append_stream(slowly()).added == 6


def test_a_client_whose_certificate_is_of_no_ca_any_more_loses_its_connection(
    secured: tuple[ServerProcess, Secret], callers: Secret
) -> None:
    server, secret = secured
    other = Authority("other")
    with Client(server.address, timeout_s=10.0, tls=tls_of(callers)) as client:
        assert client.is_ready()
        secret.swap(**{**files_of(AUTHORITY, AUTHORITY.issue()), "ca": other.pem})
        until(lambda: not client.is_ready())
    secret.swap(**files_of(AUTHORITY, AUTHORITY.issue()))
    until(lambda: answers(server.address, tls_of(callers)))


def answers(address: str, tls: Tls | None) -> bool:
    with Client(address, timeout_s=10.0, tls=tls) as client:
        return client.is_ready()


def test_the_page_of_metrics_is_behind_tls_where_others_reach_it(tmp_path: Path, callers: Secret) -> None:
    more = {"RECSYS_METRICS_PORT": "0", "RECSYS_METRICS_HOST": "0.0.0.0"}
    with secured_server(tmp_path, AUTHORITY, **more) as (server, secret):
        address = server.facts["metrics"]
        assert address.startswith("https://0.0.0.0:")
        address = address.replace("0.0.0.0", "127.0.0.1")
        context = ssl.create_default_context(cafile=str(callers / "ca"))
        with pytest.raises(OSError):  # without a certificate
            urllib.request.urlopen(address, context=context, timeout=10)
        with pytest.raises(OSError):
            urllib.request.urlopen(address.replace("https", "http"), timeout=10)
        with pytest.raises(PageAwayError):
            read_page(address, ca=callers / "ca")
        found = read_page(address, ca=callers / "ca", certificate=callers / "cert", key=callers / "key")
        assert found.total("recsys_certificate_files_refused") == 0
        context.load_cert_chain(callers / "cert", callers / "key")
        pair = AUTHORITY.issue()
        for _ in range(2):
            with urllib.request.urlopen(address, context=context, timeout=10) as answer:
                assert b"recsys_certificate_end_timestamp_seconds" in answer.read()
            secret.swap(**files_of(AUTHORITY, pair))
            until(lambda: shown_serial(address[8:].partition("/")[0], callers) == pair.serial)


def test_a_server_without_tls_tells_a_client_that_speaks_it(tmp_path: Path, callers: Secret) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    variables = {"RECSYS_BUNDLE": str(tmp_path / "tiny"), "RECSYS_REDIS_DIR": str(tmp_path / "redis")}
    with server_process(tmp_path, **variables) as server:
        assert server.facts["tls"] == "plaintext"
        with pytest.raises(RpcError, match="the server does not speak TLS") as error:
            ranked(server.address, tls_of(callers))
        assert not isinstance(error.value, Unavailable), "to try again is of no use"


def test_workers_follow_the_files_and_one_that_starts_while_they_are_no_good_has_the_last_good_ones(
    tmp_path: Path, callers: Secret
) -> None:
    more = {"RECSYS_WORKERS": "2", "RECSYS_HEALTH_PORT": "0"}
    with secured_server(tmp_path, AUTHORITY, **more) as (server, secret):
        pair = AUTHORITY.issue()
        secret.swap(**files_of(AUTHORITY, pair))
        until(lambda: {shown_serial(server.address, callers) for _ in range(20)} == {pair.serial})
        secret.swap(**{**files_of(AUTHORITY, pair), "key": b"half"})
        time.sleep(1.5)
        killed, kept = server.facts["workers"]
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(now := pids(tmp_path)) == 2 and killed not in now and kept in now)
        assert {shown_serial(server.address, callers) for _ in range(20)} == {pair.serial}
        for _ in range(10):
            assert len(ranked(server.address, tls_of(callers))) == 2
            with grpc.insecure_channel(
                server.facts["health"], options=[("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_without_a_good_pair_no_server_starts_and_the_file_is_named(tmp_path: Path) -> None:
    secret = mtls(AUTHORITY, tmp_path / "secret")
    files = {"tls_certificate": secret / "cert", "tls_key": secret / "key"}
    secret.swap(**{**files_of(AUTHORITY, AUTHORITY.issue()), "key": AUTHORITY.issue().key})
    for workers in (1, 2):
        with pytest.raises(ConfigError, match=re.escape(f"{secret / 'key'}: the key does not fit the certificate")):
            serve(Settings(bundle=tmp_path, workers=workers, **files))


def test_settings_that_need_each_other_are_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ConfigError, match="tls_certificate is set, and tls_key is not; allowed: both or neither"):
        Settings(tls_certificate=path)
    with pytest.raises(ConfigError, match="tls_key is set, and tls_certificate is not; allowed: both or neither"):
        Settings(tls_key=path)
    with pytest.raises(ConfigError, match="tls_client_ca is set, and tls_certificate is not; allowed"):
        Settings(tls_client_ca=path)
    with pytest.raises(ConfigError, match="health_port is 50051, and so is port; allowed: another one"):
        Settings(health_port=50051)
    assert Settings(health_port=0, port=0).health_port == 0


@pytest.mark.prove
def test_certificates_that_change_every_second_for_a_minute_fail_no_call(tmp_path: Path, callers: Secret) -> None:
    more = {"RECSYS_WORKERS": "2", "RECSYS_MAX_CONNECTION_AGE_S": "2"}
    with secured_server(tmp_path, AUTHORITY, **more) as (server, secret):
        with SteadyCalls(server.address, tls_of(callers), count=4) as calls:
            serials = set()
            for _ in range(60):
                secret.swap(**files_of(AUTHORITY, AUTHORITY.issue()))
                callers.swap(**files_of(AUTHORITY, AUTHORITY.issue()))
                time.sleep(1.0)
                serials.add(shown_serial(server.address, callers))
            calls.more(100)
        assert calls.errors == [] and len(serials) > 30
