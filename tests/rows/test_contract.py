"""Fast paths over columns and blocks give what the verdict on each value and the reading of each line give."""

from __future__ import annotations

import csv
import decimal
import io
import json
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from contracts.row_contract import INTEGERS, NUMBERS, ODD, TEXTS, TIMES
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataFileError
from recsys.features import values as verdicts
from recsys.features.columns import id_column, label_column, number_column, time_column
from recsys.features.feature_set import Categorical, Numeric
from recsys.features.values import RefusedValueError
from recsys.rows.contract import ReadOptions, entity_rows, event_rows, impression_rows
from recsys.rows.label_rule import parse_label
from recsys.rows.read import record_of
from recsys.rows.text import CsvLines, JsonLines

INT, TEXT, NUMBER = Categorical(name="n"), Categorical(name="t", id_type="string"), Numeric(name="x", default=-1.0)
ODD_VALUES = [value for table in (INTEGERS, TEXTS, NUMBERS, TIMES) for value, _ in table]
plain = st.one_of(
    st.lists(st.integers(-(2**70), 2**70) | st.none()),
    st.lists(st.floats() | st.none()),
    st.lists(st.text("0123456789+-. eE_naif", max_size=8)),
    st.lists(st.text(max_size=5) | st.none()),
    st.lists(st.booleans() | st.none()),
    st.lists(st.sampled_from(ODD_VALUES)),
)


def one_by_one(verdict: Any, values: list[Any]) -> tuple[list[Any], list[int]]:
    """Verdicts on values, None where they are refused; and where."""
    found, refused = [], []
    for place, value in enumerate(values):
        try:
            found.append(verdict(value))
        except RefusedValueError:
            found.append(None)
            refused.append(place)
    return found, refused


def equal(column: np.ndarray[Any, Any], refused: dict[int, Any], expected: tuple[list[Any], list[int]]) -> None:
    assert sorted(refused) == expected[1]
    for place, (got, wanted) in enumerate(zip(column.tolist(), expected[0], strict=True)):
        assert place in refused or got == wanted, place


@given(plain)
def test_a_column_has_the_verdict_on_each_of_its_values(values: list[Any]) -> None:
    for feature in (INT, TEXT):
        equal(*id_column(feature, values), one_by_one(lambda v, f=feature: verdicts.id_key(f, v), values))

    def number(value: Any) -> float:
        found = verdicts.number("x", value)
        return -1.0 if found is None else float(np.float32(found))

    equal(*number_column(NUMBER, values), one_by_one(number, values))
    for unit in ("s", "ms", "us", "ns"):
        expected = one_by_one(lambda v, u=unit: verdicts.time_ms("t", v, unit=u), values)
        found = [-1 if v is None else v for v in expected[0]]
        equal(*time_column("t", values, unit=unit), (found, expected[1]))
    expected = one_by_one(lambda v: verdicts.label("label", v), values)
    equal(*label_column("label", values), ([255 if v is None else v for v in expected[0]], expected[1]))


@given(plain)
def test_a_column_in_arrow_has_the_verdicts_of_its_values_as_a_list(values: list[Any]) -> None:
    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return  # nothing that Arrow holds
    same = column.to_pylist()
    contract = event_rows(ODD)
    for name in ("user", "item", "timestamp_ms", "hour", "page", "dwell", "label"):
        field = next(f for f in contract.fields if f.column == name)
        (left, refused), (right, also) = (contract._encoded(field, given, {}) for given in (column, same))
        assert sorted(refused) == sorted(also), name
        places = [place for place in range(len(values)) if place not in refused]
        np.testing.assert_array_equal(left[places], right[places], err_msg=name)


@given(st.lists(st.lists(st.text('ab1,"\r\n |ä', max_size=4), min_size=3, max_size=3), max_size=8), st.integers(1, 40))
def test_rows_of_csv_are_read_back_whatever_they_hold_and_wherever_a_block_ends(rows: list[list[str]], at: int) -> None:
    rows = [row for row in rows if any(row)]
    text = io.StringIO(newline="")
    returns = any("\r" in value for row in rows for value in row)  # which Python writes without quotes
    quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(rows)
    data = text.getvalue().encode()
    parser = CsvLines(("a", "b", "c"), ("a", "b", "c"))
    found: list[list[str | None]] = []
    pending = b""
    for begin in range(0, len(data) + at, at):
        pending += data[begin : begin + at]
        last = begin + at >= len(data)
        end = len(pending) if last else pending.rfind(b"\n") + 1
        block = parser.parse(pending[:end], last=last)
        assert block.malformed == []
        columns = [list(map(_text, block.columns[name])) for name in "abc"] if block.length else [[], [], []]
        found += [list(row) for row in zip(*columns, strict=True)]
        pending = pending[block.used :]
        if last:
            break
    assert found == [[value or None for value in row] for row in rows]


def _text(value: Any) -> Any:
    return value.as_py() if isinstance(value, pa.Scalar) else value


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line), max_size=12))
def test_arrow_reads_a_block_of_csv_as_the_reader_of_lines_does(lines: list[bytes]) -> None:
    data = b"\n".join([b"1,2", *lines, b"3,4"]) + b"\n"
    parser = CsvLines(("a", "b"), ("a", "b"))
    fast, slow = parser._fast(data), parser._slow(data, last=True)
    if fast is None:
        return
    assert slow.malformed == [] and fast.rows == slow.rows
    assert fast.spans.tolist() == slow.spans.tolist() and fast.numbers.tolist() == slow.numbers.tolist()
    assert [list(map(_text, fast.columns[name])) for name in "ab"] == [slow.columns[name] for name in "ab"]


def test_a_quote_that_does_not_end_costs_its_own_line_alone() -> None:
    data = b'1,a\n2,"b\n3,c\n"4","d\ne"\n5,f"g\n6,"h"i\n7,j\n'
    block = CsvLines(("n", "t"), ("n", "t")).parse(data, last=True)
    assert block.columns == {"n": ["1", "3", "4", "5", "7"], "t": ["a", "c", "d\ne", 'f"g', "j"]}
    assert [(m.number, m.text) for m in block.malformed] == [(1, '2,"b'), (5, '6,"h"i')]
    assert block.numbers.tolist() == [0, 2, 3, 4, 6] and block.rows == 7


def test_a_line_of_json_that_is_no_row_is_set_aside_with_its_number() -> None:
    data = b'{"user": 1}\n\n{"user": \n[1]\n{"user": 2, "usr": 3}\nnull\n{"user": 4}\n'
    block = JsonLines(event_rows(ODD)).parse(data, last=True)
    assert block.columns["user"] == [1, 4]
    reasons = [(m.number, str(m.error).partition(":")[0]) for m in block.malformed]
    assert reasons[:2] == [(1, "not JSON"), (2, "expected a JSON object, got [1]")]
    assert reasons[2] == (3, "field 'usr' is not declared") and reasons[3][0] == 4


def test_the_first_field_at_fault_in_the_order_of_the_contract_is_named() -> None:
    encoded = event_rows(ODD).encode(
        {"user": ["x", 1], "item": ["a", 5], "timestamp_ms": [1_700_000_000, 3], "dwell": ["bad", 1]}, 2
    )
    assert {place: error.field for place, error in encoded.refused.items()} == {0: "user", 1: "item"}
    assert len(encoded.kept) == 0


def test_options_that_contradict_the_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="--timestamp user: that column holds an id"):
        event_rows(ODD, ReadOptions(timestamp="user"))
    with pytest.raises(ConfigError, match="--time-unit min: .*valid: ms, ns, s, us"):
        ReadOptions(unit="min")  # type: ignore[arg-type]


def test_any_column_can_be_the_time_and_any_declared_one_be_left_out() -> None:
    contract = event_rows(ODD, ReadOptions(timestamp="when", unit="s", ignored=("dwell",)))
    assert contract.check_header(("user", "item", "when", "dwell"), where="f") == ("user", "item", "when")
    encoded = contract.encode({"user": [1], "item": ["a"], "when": [1_600_000_000], "dwell": ["bad"]}, 1)
    assert encoded.columns["timestamp_ms"].tolist() == [1_600_000_000_000]
    assert np.isnan(encoded.columns["context.dwell"]).all()
    with pytest.raises(DataFileError, match="the time is read from column 'when', which is missing; --timestamp NAME"):
        contract.check_header(("user", "item", "timestamp_ms"), where="f")


def test_a_label_rule_gives_no_label_where_there_is_no_value_and_refuses_what_it_cannot_compare() -> None:
    rule = parse_label("dwell>=4")
    encoded = event_rows(ODD, rule=rule).encode(
        {
            "user": [1] * 6,
            "item": ["a"] * 6,
            "timestamp_ms": [1_600_000_000_000] * 6,
            "dwell": [5, 3, float("nan"), None, "4", "four"],
        },
        6,
    )
    assert encoded.columns["label"].tolist() == [1, 0, 255, 255, 1] and list(encoded.refused) == [5]
    text = impression_rows(ODD, rule=parse_label("page==click"))
    assert text.required == ("user", "item", "timestamp_ms", "page")


def test_a_column_that_is_ignored_in_the_log_is_read_from_the_file_of_the_entity_that_declares_it() -> None:
    for name, entity in (("user", ODD.entity("user")), ("item", ODD.entity("item"))):
        declared = tuple(f.name for f in entity.features)
        both = ReadOptions(ignored=(*declared, "page"))
        assert entity_rows(ODD, name, both).columns == (entity.id.name, *declared)
        assert entity_rows(ODD, name, both).check_header([entity.id.name, *declared, "page"], where="f.csv")


def test_a_refusal_goes_to_another_process_and_back() -> None:
    errors = [RefusedValueError("f", 5, "less"), verdicts.missing_field("g")]
    for error, again in zip(errors, pickle.loads(pickle.dumps(errors)), strict=True):
        assert (str(again), again.field, again.value, again.allowed) == (
            str(error), error.field, error.value, error.allowed,
        )  # fmt: skip


@pytest.mark.parametrize("text", ["1e9999999999999999999", "1e-9999999999999999999", "9e99999999", "-1e999999999"])
def test_a_number_of_any_exponent_is_refused_as_a_time_and_ends_nothing(text: str) -> None:
    for unit in ("s", "ms", "us", "ns"):
        assert list(time_column("t", [text, 1_700_000_000_000], unit=unit)[1])[:1] == [0]


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        (np.array([16_777_215, 16_777_216, 16_777_217], dtype=np.float32), [1, 2]),
        (np.array([2047, 2048], dtype=np.float16), [1]),
        (np.array([2.0**53 - 1, 2.0**53]), [1]),
        ([decimal.Decimal("9007199254740993"), decimal.Decimal("9007199254740993.4")], [1]),
        (["9007199254740991.0", "9007199254740993.0"], [1]),
    ],
)
def test_floats_that_do_not_tell_integers_apart_are_no_ids(values: Any, refused: list[int]) -> None:
    assert sorted(id_column(INT, values)[1]) == refused


@pytest.mark.parametrize(
    ("column", "refused"),
    [
        (pa.array([1_700_000_000_000_000, 9 * 10**18], pa.timestamp("us")), {1}),
        (pa.array([1_700_000_000, -(2**62)], pa.timestamp("s", "Europe/Berlin")), {1}),
        (pa.array([18_000, 2**31 - 1], pa.date32()), {1}),
        (pa.DictionaryArray.from_arrays(pa.array([0, None], pa.uint32()), pa.array(["2026-01-01"])), {1}),
        (pa.array(["1700000000000", None], pa.string_view()), {1}),
    ],
)
def test_odd_columns_of_arrow_have_verdicts_and_their_rows_can_be_shown(column: Any, refused: set[int]) -> None:
    encoded = event_rows(ODD).encode({"user": [1, 2], "item": ["a", "b"], "timestamp_ms": column}, 2)
    assert set(encoded.refused) == refused
    assert json.dumps(record_of({"timestamp_ms": column}, 1), default=str)


def test_text_in_arrow_that_is_no_utf8_is_refused_alone() -> None:
    column = pa.array([b"good", b"\xff\xfe"]).cast(pa.binary()).view(pa.string())
    encoded = event_rows(ODD).encode({"user": [1, 2], "item": column, "timestamp_ms": [1_700_000_000_000] * 2}, 2)
    assert set(encoded.refused) == {1} and len(encoded.kept) == 1


def test_a_line_that_is_no_utf8_is_malformed_whatever_its_neighbours_are() -> None:
    for neighbour in (b"y,z\n", b'y,"z"\n'):
        block = CsvLines(("s", "b"), ("s",)).parse(b"x,\xff\n" + neighbour, last=True)
        assert [one.number for one in block.malformed] == [0] and block.length == 1
