"""The bytes of a state: what goes in comes out within fp16's rounding, and nothing else is taken for one."""

from __future__ import annotations

import re

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.paths import DOCS, TESTS

from recsys.errors import InvalidInputError, StoreFormatError
from recsys.feature_store.redis.keys import state_key
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.feature_store.redis.values.state import HEADER_BYTES, StoredState, pack_state, record_hash, unpack_state
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.history.records import make_events

SPEC = (DOCS / "specs/redis_format.md").read_text()
GOLDEN = TESTS / "golden/state_v1.bin"
VERSION = "0123456789abcdef"
SHOP = FeatureSet(
    name="shop", user_id=Categorical(name="user_id"), item_id=Categorical(name="item_id"), history=History()
)
LAST = make_events(SHOP, item=[42], timestamp_ms=[2000], arrival_ms=[2005])
EXAMPLE = StoredState(
    np.array([[1.0, -2.5], [0.0, 100_000.0]], dtype=np.float32), 3, 10, 5000, 1000, record_hash(LAST, 0), 2
)
PACKED = pack_state(EXAMPLE, version=VERSION)


def test_the_example_in_the_specification_is_what_is_written() -> None:
    found = re.search(r"```state\n(.*?)```", SPEC, re.DOTALL)
    assert found is not None
    assert bytes.fromhex(found.group(1)) == PACKED


def test_the_golden_file_reads_as_ever() -> None:
    state = unpack_state(GOLDEN.read_bytes(), version=VERSION, rows=2, width=2)
    assert GOLDEN.read_bytes() == PACKED
    # fp16 has 11 bits, so 100,000 is stored as a multiple of 64.
    assert state.sums.tolist() == [[1.0, -2.5], [0.0, 99_968.0]]
    assert state[1:] == EXAMPLE[1:] and state.covered == 7


def test_the_key_is_that_of_the_specification() -> None:
    assert "`recsys:v1:{<fs>:u:<user>}:s:<version>`" in SPEC
    assert state_key("shop", 7, VERSION) == b"recsys:v1:{shop:u:7}:s:0123456789abcdef"


async def test_redis_holds_the_example_bytes_until_they_expire(redis_url: str, redis_admin: redis.Redis) -> None:
    store = RedisFeatureStore.connect(redis_url, SHOP)
    await store.put_states([(7, PACKED)], version=VERSION, ttl_s=100, timeout_s=5)
    await store.close()
    key = state_key("shop", 7, VERSION)
    assert redis_admin.get(key) == PACKED
    assert 95 < redis_admin.ttl(key) <= 100


_sums = arrays(np.float32, (3, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32))


@given(sums=_sums, exponent=st.integers(-60, 20))
def test_sums_come_back_within_one_rounding_of_the_largest(sums: np.ndarray, exponent: int) -> None:
    sums = sums * np.float32(2.0**exponent)
    packed = pack_state(EXAMPLE._replace(sums=sums), version=VERSION)
    found = unpack_state(packed, version=VERSION, rows=3, width=4).sums
    largest = float(np.abs(sums).max())
    # Half a unit of the 11th bit, and no more where a sum is so small beside the largest that it has fewer bits.
    # Of numbers below float32's normal ones nothing is promised.
    allowed = np.maximum(np.abs(sums).astype(np.float64) * 2.0**-11, largest * 2.0**-38)
    assert (np.abs(found.astype(np.float64) - sums) <= allowed + 2.0**-126).all()


@given(sums=arrays(np.float32, (3, 4), elements=st.integers(-2047, 2047).map(float)))
def test_sums_of_few_bits_are_exact(sums: np.ndarray) -> None:
    packed = pack_state(EXAMPLE._replace(sums=sums), version=VERSION)
    np.testing.assert_array_equal(unpack_state(packed, version=VERSION, rows=3, width=4).sums, sums)


def test_packing_again_what_was_read_changes_nothing() -> None:
    state = unpack_state(PACKED, version=VERSION, rows=2, width=2)
    assert pack_state(state, version=VERSION) == PACKED


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_sums_that_are_not_finite_are_refused(value: float) -> None:
    sums = np.full((2, 2), value, dtype=np.float32)
    with pytest.raises(InvalidInputError, match="hold inf or NaN; allowed: finite numbers"):
        pack_state(EXAMPLE._replace(sums=sums), version=VERSION)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a state: expected 80 bytes or more that start with b'RSS1', found 0 bytes"),
        (b"RSH1" + PACKED[4:], "not a state: .* starting with b'RSH1'"),
        (PACKED[:4] + b"\x02\x00" + PACKED[6:], "state format 2, but this program reads up to 1: upgrade it"),
        (pack_state(EXAMPLE, version="ab" * 8), "state of version abababababababab, not of 0123456789abcdef"),
        (PACKED[:-1], "cut-off state: 87 bytes of 88"),
        (PACKED + b"\0", "cut-off state: 89 bytes of 88"),
        (pack_state(EXAMPLE._replace(first=10), version=VERSION), "state of the events 10 to 10; allowed: one event"),
    ],
)
def test_what_is_no_state_of_this_bundle_is_named(data: bytes, message: str) -> None:
    with pytest.raises(StoreFormatError, match=message):
        unpack_state(data, version=VERSION, rows=2, width=2)


def test_a_state_of_another_shape_is_refused() -> None:
    with pytest.raises(StoreFormatError, match=r"state of shape \[2, 2\]; the bundle's is \[4, 1\]"):
        unpack_state(PACKED, version=VERSION, rows=4, width=1)


def test_a_state_cut_off_anywhere_is_refused() -> None:
    for length in range(len(PACKED)):
        with pytest.raises(StoreFormatError):
            unpack_state(PACKED[:length], version=VERSION, rows=2, width=2)


def test_a_state_with_any_bit_changed_is_refused() -> None:
    for place in range(8 * len(PACKED)):
        altered = bytearray(PACKED)
        altered[place // 8] ^= 1 << place % 8
        with pytest.raises(StoreFormatError):
            unpack_state(bytes(altered), version=VERSION, rows=2, width=2)


def test_a_header_is_as_long_as_the_specification_says() -> None:
    assert HEADER_BYTES == 80
