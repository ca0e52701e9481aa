"""A retrieval session runs a bundle's graph, after checking that it is the graph the bundle promises."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.paths import TESTS
from support.tiny_retrieval import TEXT_FEATURES, best_items, tiny_tables, tiny_text_tables, write_tiny_retrieval

from recsys.bundle import Bundle, TensorInfo, open_bundle
from recsys.errors import BundleError, InvalidInputError
from recsys.features.hashing import string_key, string_keys
from recsys.features.names import ITEM_NAMES
from recsys.serving.inference.candidate_index import Allowed
from recsys.serving.inference.ranking_session import open_ranking_session
from recsys.serving.inference.retrieval_session import MAX_ITEMS, open_retrieval

NOTHING = np.empty(0, dtype=np.int64)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_tiny_retrieval(tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


def test_a_session_finds_what_the_bundles_vectors_say(bundle: Bundle) -> None:
    session = open_retrieval(bundle)
    items, scores = best_items(tiny_tables(), 3, [2, 9], 4)
    got = session.retrieve(3, np.array([2, 9, 2]), 4)
    assert got.items.tolist() == items.tolist() and got.scores.tolist() == scores.tolist() and got.known is True
    assert got.items.dtype == np.int64 and got.scores.dtype == np.float32
    assert (session.model, session.version) == ("finder", bundle.manifest.version)


def test_threads_do_not_disturb_each_other(bundle: Bundle) -> None:
    session = open_retrieval(bundle)

    def work(user: int) -> bool:
        items, _ = best_items(tiny_tables(), user, [user], 5)
        return all(session.retrieve(user, np.array([user]), 5).items.tolist() == items.tolist() for _ in range(200))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(1, 8)))


@pytest.mark.parametrize("k", [0, -1, MAX_ITEMS + 1])
def test_k_must_be_in_range(k: int, bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match=f"{k:,} items were asked for; allowed: 1 to 10,000"):
        open_retrieval(bundle).retrieve(1, NOTHING, k)


def test_the_two_kinds_of_bundles_are_told_apart(bundle: Bundle, tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="tiny: a ranking bundle; expected a retrieval bundle, which `recsys export`"):
        open_retrieval(open_bundle(tiny_bundle))
    with pytest.raises(BundleError, match="bundle: no graph 'user'"):
        open_ranking_session(bundle)


def edited(bundle: Bundle, edit: Callable[[onnx.ModelProto], None]) -> None:
    """The graph file, changed; the manifest is not asked."""
    path = bundle.graph_path("retrieve")
    model = onnx.load(path, load_external_data=False)
    edit(model)
    path.write_bytes(model.SerializeToString())


def test_a_graph_of_another_signature_than_the_manifests_is_refused(bundle: Bundle) -> None:
    graph = bundle.manifest.graphs["retrieve"]
    inputs = {**graph.inputs, "user_id": TensorInfo(dtype="int64", shape=(2,))}
    manifest = dataclasses.replace(bundle.manifest, graphs={"retrieve": dataclasses.replace(graph, inputs=inputs)})
    with pytest.raises(
        BundleError,
        match=r"graph 'retrieve', input 'user_id': the graph has int64 \[1\], the manifest says int64 \[2\]",
    ):
        open_retrieval(Bundle(bundle.path, manifest))


def test_a_graph_with_an_output_that_nobody_expects_is_refused(bundle: Bundle) -> None:
    extra = helper.make_tensor_value_info("rows", TensorProto.INT64, ["K"])
    edited(bundle, lambda model: model.graph.output.append(extra))
    graph = bundle.manifest.graphs["retrieve"]
    outputs = {**graph.outputs, "rows": TensorInfo(dtype="int64", shape=("K",))}
    manifest = dataclasses.replace(bundle.manifest, graphs={"retrieve": dataclasses.replace(graph, outputs=outputs)})
    with pytest.raises(
        BundleError, match=r"output 'rows': the graph has int64 \['K'\], the specification says nothing"
    ):
        open_retrieval(Bundle(bundle.path, manifest))


def test_a_graph_that_does_not_load_is_refused(bundle: Bundle) -> None:
    bundle.graph_path("retrieve").write_bytes(b"half")
    with pytest.raises(BundleError, match="graph 'retrieve' does not load"):
        open_retrieval(bundle)


def test_a_bundle_without_a_table_is_refused(bundle: Bundle) -> None:
    (bundle.path / "tables" / "item_id.rows.bin").unlink()
    with pytest.raises(BundleError, match=r"tables/item_id.rows.bin is missing"):
        open_bundle(bundle.path)
    with pytest.raises(BundleError, match="graph 'retrieve' does not load"):
        open_retrieval(bundle)


@pytest.mark.parametrize(
    ("table", "came"),
    [
        ("item_id.popularity", r"\[1, 2\] came with scores \[inf, inf\]"),
        ("item_id.rows", r"\[\] came with scores \[\]"),  # infinity times nothing is no number, which none is below
    ],
)
def test_tables_that_answer_nonsense_are_refused(table: str, came: str, bundle: Bundle) -> None:
    file = bundle.path / "tables" / f"{table}.bin"
    file.write_bytes(np.full(file.stat().st_size // 4, np.inf, dtype=np.float32).tobytes())
    with pytest.raises(BundleError, match=f"2 items were asked for and {came}; expected 1 or 2 keys"):
        open_retrieval(bundle)
    with pytest.raises(BundleError, match=f"{table}.bin was altered"):
        open_bundle(bundle.path)


@pytest.fixture
def text_bundle(tmp_path: Path) -> Bundle:
    """A bundle whose items are named by strings."""
    write_tiny_retrieval(tmp_path / "texts", tiny_text_tables(), features=TEXT_FEATURES)
    return open_bundle(tmp_path / "texts")


def test_items_have_the_names_they_were_given_where_these_are_strings(bundle: Bundle, text_bundle: Bundle) -> None:
    session = open_retrieval(text_bundle)
    assert session.names is not None
    assert session.names.of(session.retrieve(77, NOTHING, 3).items) == ["Nº 20", "Nº 19", "Nº 18"]
    assert session.names.of(session.retrieve(77, string_keys(["Nº 20", "Nº 18"]), 1).items) == ["Nº 19"]
    assert open_retrieval(bundle).names is None


def test_a_missing_or_short_file_of_names_is_refused_by_name(text_bundle: Bundle) -> None:
    file = text_bundle.path / ITEM_NAMES
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=f"{ITEM_NAMES} has {len(whole) - 1} bytes, the manifest says {len(whole)}"):
        open_bundle(text_bundle.path, verify="sizes")
    with pytest.raises(BundleError, match=f"{ITEM_NAMES}: has .* bytes of names"):
        open_retrieval(text_bundle)
    file.write_bytes(whole[:-1] + b"?")
    with pytest.raises(BundleError, match=f"{ITEM_NAMES} was altered: its SHA-256 is not the manifest's"):
        open_bundle(text_bundle.path)
    file.unlink()
    with pytest.raises(BundleError, match=f"{ITEM_NAMES} is missing; export the bundle again"):
        open_bundle(text_bundle.path)
    with pytest.raises(BundleError, match=f"{ITEM_NAMES}: cannot be read"):
        open_retrieval(text_bundle)


def test_names_that_the_manifest_does_not_list_are_refused(tmp_path: Path) -> None:
    write_tiny_retrieval(tmp_path / "texts", tiny_tables(), features=TEXT_FEATURES)
    with pytest.raises(BundleError, match=f"its items are named by strings, but {ITEM_NAMES} is not in its list of f"):
        open_retrieval(open_bundle(tmp_path / "texts"))


def test_names_of_other_keys_are_refused(tmp_path: Path) -> None:
    made = tiny_text_tables()
    assert made.item_names_M is not None
    made = dataclasses.replace(made, item_names_M=[f"{name}?" for name in made.item_names_M])
    write_tiny_retrieval(tmp_path / "texts", made, features=TEXT_FEATURES)
    with pytest.raises(
        BundleError, match=f"{ITEM_NAMES}: names the item of key {string_key('Nº 20')} 'Nº 20\\?', whose"
    ):
        open_retrieval(open_bundle(tmp_path / "texts"))


def test_keys_that_are_not_ascending_have_no_names(text_bundle: Bundle) -> None:
    file = text_bundle.path / "tables" / "item_id.keys.bin"
    keys = np.fromfile(file, dtype=np.int64)
    file.write_bytes(keys[::-1].tobytes())
    with pytest.raises(BundleError, match="expected a table 'item_id.keys' of ascending int64 keys"):
        open_retrieval(text_bundle)
    file.write_bytes((keys + np.arange(len(keys)) // (len(keys) - 1)).tobytes())
    with pytest.raises(BundleError, match="has the names of 20 keys, which are not those of the 20 items in 'item_id"):
        open_retrieval(text_bundle)


def test_a_bundle_without_users_retrieves_what_is_popular(tmp_path: Path) -> None:
    made = tiny_tables()
    write_tiny_retrieval(
        tmp_path / "nobody", dataclasses.replace(made, user_keys=made.user_keys[:0], users_ND=made.users_ND[:0])
    )
    got = open_retrieval(open_bundle(tmp_path / "nobody")).retrieve(1, NOTHING, 2)
    assert got.items.tolist() == [20, 19] and not got.known


def test_vectors_of_items_are_the_rows_by_which_they_are_found(tmp_path: Path) -> None:
    tables = tiny_tables(items=20)
    write_tiny_retrieval(tmp_path / "finder", tables)
    session = open_retrieval(open_bundle(tmp_path / "finder"))
    found = session.vectors(np.array([3, 999, 20, -5, 3]))
    assert found.dtype == np.float32 and found.shape == (5, tables.items_MD.shape[1])
    np.testing.assert_array_equal(found[[0, 2, 4]], tables.items_MD[[2, 19, 2]])
    assert not found[[1, 3]].any(), "an item that is not there has zeros"
    assert session.vectors(np.empty(0, dtype=np.int64)).shape == (0, tables.items_MD.shape[1])


def test_a_bundle_of_an_earlier_version_finds_what_is_allowed_though_its_graph_takes_no_such_rows() -> None:
    session = open_retrieval(open_bundle(TESTS / "golden" / "compatibility" / "finder"))
    items, nothing = len(session.keys), np.zeros(0, dtype=np.int64)
    for user in (0, 1, 10**9):
        every = session.retrieve(user, nothing, items).items
        for rows_L in ([], [2], [1, 3], list(range(1, items + 1))):
            bits = np.isin(np.arange(items + 1), rows_L)
            expected = every[np.isin(every, session.keys[np.array(rows_L, dtype=np.int64) - 1])].tolist()
            for allowed in (
                Allowed(rows_L=np.array(rows_L, dtype=np.int64)),
                Allowed(mask=np.packbits(bits, bitorder="little")),
            ):
                found = session.retrieve(user, nothing, items, allowed=allowed)
                assert found.items.tolist() == expected
                one_less = session.retrieve(user, found.items[:1], items, allowed=allowed)
                assert one_less.items.tolist() == expected[1:]
