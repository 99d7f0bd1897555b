"""A record is never code: only plain data comes out of a pickle."""

import contextlib
import os
import pickle
import struct
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workshop_lib.data import safe_pickle
from workshop_lib.data.safe_pickle import RefusedPickleError

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
numbers = st.sampled_from(["u1", "<i4", ">i4", "<i8", "<f4", "<f8", "?"]).map(np.dtype)


@given(plain, st.integers(2, 5))
def test_plain_data_comes_through(value, protocol):
    assert safe_pickle.loads(pickle.dumps(value, protocol=protocol)) == value


@given(numbers.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(max_dims=4))), st.integers(2, 5))
def test_arrays_come_through(array, protocol):
    for kind in (array, np.asfortranarray(array)):
        result = safe_pickle.loads(pickle.dumps({"a": kind}, protocol=protocol))["a"]
        assert result.dtype == array.dtype and result.shape == array.shape
        np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("scalar", [np.int32(-5), np.float64(2.5), np.bool_(True)])
def test_numpy_scalars_come_through(scalar):
    assert safe_pickle.loads(pickle.dumps([scalar])) == [scalar]


class Harmful:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_calls_are_refused_and_not_made(tmp_path, protocol):
    victim = tmp_path / "victim"
    for harmful in (
        Harmful(os.system, f"touch {victim}"),
        Harmful(eval, f"open({str(victim)!r}, 'w')"),
        Harmful(subprocess.Popen, ["touch", str(victim)]),
        Harmful(np.save, str(victim), np.zeros(1)),
        Harmful(getattr, "text", "upper"),
    ):
        record = {"raw_video": b"", "sequence_length": harmful}
        with pytest.raises(RefusedPickleError, match="not plain data"):
            safe_pickle.loads(pickle.dumps(record, protocol=protocol))
    assert not victim.exists()


def test_objects_and_object_arrays_are_refused():
    for value in ({1, 2}, np.array([None, "x"], dtype=object), np.dtype("i4"), complex(1)):
        with pytest.raises(RefusedPickleError):
            safe_pickle.loads(pickle.dumps({"value": value}))


@pytest.mark.parametrize(
    "claim",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62),  # bytes of 4 exabytes
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40),  # a bytearray of 1 TB
        b"\x80\x02]r" + struct.pack("<I", 0xFFFFFFFF),  # memo entry number 4 billion
        b"\x80\x02]" + b"X" + struct.pack("<I", 0xFFFFFFF0),  # text of 4 GB
    ],
)
def test_a_huge_claim_costs_no_memory(claim):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RefusedPickleError):
        safe_pickle.loads(claim + b"abc")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_an_array_with_a_wrong_shape_is_refused():
    good = pickle.dumps(np.arange(6, dtype=np.int32), protocol=2)
    place = good.index(b"K\x06\x85")  # the shape (6,)
    with pytest.raises(RefusedPickleError, match="shape"):
        safe_pickle.loads(good[:place] + b"K\x60\x85" + good[place + 3 :])


@given(st.data())
def test_damaged_records_never_raise_anything_else(data):
    good = pickle.dumps(
        {"raw_video": bytes(range(48)), "sequence_length": 1, "actions": np.arange(4)}, protocol=4
    )
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    for attempt in (bytes(damaged), good[:cut], bytes(damaged[:cut])):
        with contextlib.suppress(RefusedPickleError):
            safe_pickle.loads(attempt)
