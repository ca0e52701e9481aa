"""`recsys release`: what it prints, what it changes, and its exit codes."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support.command_line import recsys
from support.release_bundles import alter, push_three, write_bundles
from typer.testing import CliRunner

from recsys.cli import app, exit_codes
from recsys.errors import RecsysError
from recsys.releases.served import read_served
from recsys.releases.status import ServerStatus, write_status
from recsys.releases.store import list_releases


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def store(bundles: Path, tmp_path: Path) -> Path:
    """Three releases; the second is live, the first the previous."""
    push_three(tmp_path / "store", bundles)
    return tmp_path / "store"


class Ended:
    """The output of a command, and its end."""

    def __init__(self, result: Result) -> None:
        self.stdout, self.stderr = result.stdout, result.stderr
        error = result.exception
        if isinstance(error, RecsysError):
            self.code = next(code for kind, code in exit_codes().items() if isinstance(error, kind))
            self.said = str(error)
        else:
            assert error is None or isinstance(error, SystemExit), error
            self.code, self.said = result.exit_code, ""

    @property
    def values(self) -> Any:
        assert self.code in (0, 3), self.said
        return json.loads(self.stdout)


def release(*arguments: str | Path, store: Path, columns: int = 200) -> Ended:
    environment = {"RECSYS_RELEASES": str(store), "COLUMNS": str(columns)}
    return Ended(CliRunner().invoke(app, ["release", *map(str, arguments)], env=environment))


def names_of(store: Path) -> list[str]:
    return [each.release.name for each in list_releases(store)]


def say_served(store: Path, **more: Any) -> None:
    """Write the status of a server that does what served.json says, but for ``more``."""
    served = read_served(store)
    assert served is not None
    values = {"server": "s:1", "at": "", "revision": served.revision, "models": served.models, **more}
    write_status(store, ServerStatus(**values))


def test_push_says_what_it_stored_and_shared_and_that_a_release_was_there(bundles: Path, tmp_path: Path) -> None:
    first = release("push", bundles / "first", "--note", "a try", store=tmp_path)
    (name,) = names_of(tmp_path)
    assert f"pushed {name}: number 1, 5.9 KB stored, 0 bytes shared" in first.stdout
    assert f"Next: recsys release promote {name} --store {tmp_path}" in first.stdout.replace("\n", " ").replace(
        "  ", " "
    )
    again = release("push", bundles / "first", "--note", "another", store=tmp_path)
    assert f"{name} is there already: the same bundles" in again.stdout and "its note stays 'a try'" in again.stderr
    second = release("push", bundles / "second", "--retrieval", bundles / "finder", "--json", store=tmp_path).values
    assert second["new"] and second["shared_bytes"] == 1116 and second["release"]["retrieval"]["model"] == "finder"


def test_push_takes_a_retrieval_bundle_alone_and_not_two(bundles: Path, tmp_path: Path) -> None:
    assert release("push", bundles / "finder", "--json", store=tmp_path).values["release"]["ranking"] is None
    two = release("push", bundles / "finder", "--retrieval", bundles / "texts", store=tmp_path)
    assert two.code == 2 and "a release has a ranking bundle, a retrieval bundle, or one of each" in two.said


def test_push_says_what_it_repaired(store: Path, bundles: Path) -> None:
    alter(store / "releases" / names_of(store)[0] / "ranking" / "user.onnx")
    shown = release("show", names_of(store)[0], "--verify", store=store)
    assert shown.code == 3 and "user.onnx: was altered" in shown.stdout and "push its bundles again" in shown.stdout
    assert release("show", names_of(store)[0], store=store).code == 0, "sizes are right"
    repaired = release("push", bundles / "first", store=store)
    assert repaired.stderr.count("had been altered or lost, and was repaired") == 4
    assert release("show", names_of(store)[0], "--verify", store=store).code == 0


def test_list_has_the_newest_first_and_the_use_of_each(store: Path) -> None:
    names = names_of(store)
    lines = release("list", store=store).stdout.splitlines()
    assert [line.split()[1] for line in lines[1:]] == names[::-1]
    assert "live as tiny" in lines[2] and "previous of tiny" in lines[3]
    values = release("list", "--json", store=store).values
    assert [each["used"] for each in values["releases"]] == [[], ["live as tiny"], ["previous of tiny"]]
    (store / "releases" / names[0] / "release.json").unlink()
    values = release("list", "--json", store=store).values
    assert len(values["releases"]) == 2 and names[0] in values["damaged"][0]


def test_show_says_all_there_is_to_know(store: Path) -> None:
    name = names_of(store)[1]
    shown = release("show", name[:9], store=store).stdout
    for part in (
        name,
        "number 2",
        "model tiny",
        "shared with other releases: 1.1 KB",
        "FeatureSet: tiny",
        "live as tiny",
    ):
        assert part in shown, part
    assert release("show", name, "--json", "--verify", store=store).values["altered"] == []
    unknown = release("show", "tony", store=store)
    assert unknown.code == 3 and "no release 'tony'" in unknown.said


def test_rollback_says_what_is_live_now_and_from_guards_it(store: Path) -> None:
    names = names_of(store)
    refused = release("rollback", "--from", names[0], store=store)
    assert refused.code == 3 and f"{names[1]} is live as tiny, not {names[0]}" in refused.said
    back = release("rollback", "tiny", "--from", names[1], "--why", "it is worse", store=store)
    assert f"{names[0]} is live as tiny; {names[1]} is the previous" in back.stdout
    assert release("rollback", "--from", names[1], store=store).code == 3, "the second of two who roll back"
    served = read_served(store)
    assert served is not None and (served.models["tiny"].live, served.why) == (names[0], "it is worse")
    unknown = release("rollback", "tony", store=store)
    assert unknown.code == 3 and "did you mean 'tiny'" in unknown.said


def test_split_and_shadow_set_take_out_and_end_shares(store: Path) -> None:
    live, other = names_of(store)[1:]
    refused = release("split", "tiny", f"{other}=10", store=store)
    assert refused.code == 3 and f"{other} may not answer anybody: " in refused.said and "--anyway" in refused.said
    done = release("split", "tiny", f"{other[:10]}=10%", "--anyway", "a test", store=store)
    assert f"split of tiny: {other} 10 %; {live} 90 %" in done.stdout and "no parity certificate" in done.stderr
    served = read_served(store)
    assert served is not None
    assert served.why.startswith(
        f"split of tiny: {other} 10 %; anyway: a test (in spite of: {other}: ranking: no parity"
    )
    values = release("shadow", "tiny", f"{other}=2.5", "--json", store=store).values
    assert values["changed"] and values["models"]["tiny"]["shadow"] == {other: 2.5}
    assert not release("shadow", "tiny", f"{other}=2.5", "--json", store=store).values["changed"]
    assert "split of tiny: none" in release("split", "tiny", f"{other}=0", store=store).stdout
    assert "shadow of tiny: none" in release("shadow", "tiny", "none", store=store).stdout


@pytest.mark.parametrize(
    ("share", "says"),
    [("x", "'x': allowed: RELEASE=PERCENT"), ("x=101", "0 to 100"), ("=5", "allowed"), ("x=5", "no release 'x'")],
)
def test_a_share_that_is_none_is_refused(store: Path, share: str, says: str) -> None:
    for side in ("split", "shadow"):
        ended = release(side, "tiny", share, store=store)
        assert ended.code in (2, 3) and says in ended.said


def test_status_shows_differences_first_and_exits_with_3(store: Path) -> None:
    assert "no server has written a status" in release("status", store=store).stdout
    say_served(store, phase="serving", warnings=("low on memory",))
    same = release("status", store=store)
    assert same.code == 0 and "serving" in same.stdout and "s:1: low on memory" in same.stderr
    say_served(store, server="a:1", models={}, refused="drift 0.4", revision=1)
    ended = release("status", store=store)
    assert ended.code == 3 and "a:1: refused: drift 0.4" in ended.stdout and "at revision 1 of 2" in ended.stdout
    values = release("status", "--json", store=store).values
    assert [(each["server"], each["as_served"]) for each in values["servers"]] == [("a:1", False), ("s:1", True)]
    (store / "status" / "b-1.json").write_text("{")
    assert "b-1.json: no status" in release("status", store=store).stderr


def test_names_are_whole_however_narrow_the_terminal_is(store: Path) -> None:
    say_served(store)
    shown = {each: release(*each.split(), store=store, columns=40).stdout for each in ("list", "status")}
    first, second, third = names_of(store)
    assert [line.split()[1] for line in shown["list"].splitlines()[1:]] == [third, second, first]
    assert all(name in shown["status"] for name in (first, second))


def test_status_counts_the_refusals_that_a_promotion_overrode(store: Path) -> None:
    file = store / "served.json"
    values = json.loads(file.read_text())
    values["changed"]["why"] = "sold out (in spite of: ranking: auc: 0.1 | ranking: gauc: 0.2)"
    file.write_text(json.dumps(values))
    first = release("status", store=store).stdout.splitlines()[0]
    assert first.endswith(": sold out (in spite of 2 refusals, which served.json has)")


def test_status_shows_what_servers_serve_though_served_json_cannot_be_read(store: Path) -> None:
    say_served(store, phase="watching", progress="for 9 of 300 s")
    assert "s:1: watching: for 9 of 300 s" in release("status", store=store).stdout
    (store / "served.json").write_text("{")
    shown = release("status", store=store)
    assert shown.code == 3 and "served.json: not JSON" in shown.said
    assert f"s:1: watching, serves {names_of(store)[1]} as tiny" in shown.stdout


def test_wait_returns_when_servers_follow_and_fails_if_one_refuses(store: Path) -> None:
    say_served(store)
    timer = threading.Timer(0.4, lambda: say_served(store))
    timer.start()
    done = release("rollback", "--wait", "20", store=store)
    assert done.code == 0 and "served by s:1" in done.stdout and "waiting: s:1: is at revision 2 of 3" in done.stderr
    timer.join()
    timer = threading.Timer(0.4, lambda: say_served(store, models={}, refused="the store has not its features"))
    timer.start()
    refused = release("rollback", "--wait", "20", store=store)
    assert (
        refused.code == 3 and "s:1 does not serve what served.json says: the store has not its features" in refused.said
    )
    timer.join()
    assert release("status", "--wait", "0.1", store=store).code == 3


def test_prune_says_what_goes_what_stays_and_why(store: Path) -> None:
    names = names_of(store)
    dry = release("prune", "--keep", "1", "--dry-run", store=store)
    assert "0 releases of 3" in dry.stdout and f"kept {names[0]}: served.json names it" in dry.stdout
    (store / "served.json").unlink()
    dry = release("prune", "--keep", "1", "--dry-run", store=store)
    assert f"would delete {names[0]}" in dry.stdout and names_of(store) == names
    values = release("prune", "--keep", "1", "--json", store=store).values
    assert values["removed"] == names[:2] and values["freed_bytes"] > 0 and names_of(store) == names[2:]


def test_a_store_that_is_not_there_is_exit_code_3_and_one_line(tmp_path: Path) -> None:
    for command in (("list",), ("status",), ("prune",), ("rollback",), ("show", "x"), ("split", "tiny", "none")):
        ended = release(*command, store=tmp_path / "away")
        assert ended.code == 3 and "away: no such folder; `recsys release push` makes" in ended.said, command
    assert not (tmp_path / "away").exists()


def test_the_command_line_shows_errors_as_others_do(tmp_path: Path) -> None:
    ended = recsys("release", "show", "x", "--store", "away", cwd=tmp_path)
    assert ended.returncode == 3 and ended.stderr.startswith("error: away: no such folder")
    helped = recsys("release", "push", "--help", cwd=tmp_path)
    assert "RECSYS_RELEASES" in helped.stdout and "runs/releases" in helped.stdout
