"""The plain reader against files that the real array_record package wrote, whole and broken."""

from __future__ import annotations

import multiprocessing
import pickle
import random
import subprocess
import sys
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_lib.data.plain_array_record import PlainArrayRecordReader
from workshop_lib.errors import WorkshopError

BLOCK = 1 << 16
needs_array_record = pytest.mark.skipif(
    sys.platform == "win32", reason="array_record, which writes these files, is not for Windows"
)


def write_real(path: Path, records: list[bytes], options: str) -> Path:
    # Imported late: PLATFORM's rule is never to touch array_record before someone may fork.
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return path


def read_real(path: Path) -> list[bytes]:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
    records = [reader.read([index])[0] for index in range(reader.num_records())]
    reader.close()
    return records


def read_plain(path: Path) -> list[bytes]:
    reader = PlainArrayRecordReader(path)
    return [reader.read(index) for index in range(len(reader))]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def mixed_records() -> list[bytes]:
    """19 records: not a multiple of 8, so that the last group is short."""
    large = [noise(100_000, 1), bytes(100_000), noise(3_000_000, 2), b"level" * 600_000]
    return [b"", b"a", *large, b"", *(noise(size, size) for size in range(11)), noise(70_000)]


@contextmanager
def refusal_without_memory(message: str):
    tracemalloc.start()
    try:
        with pytest.raises(WorkshopError, match=message):
            yield
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------- whole files


@needs_array_record
@pytest.mark.parametrize("compression", ["zstd:3", "uncompressed", "zstd:19,window_log:24"])
@pytest.mark.parametrize("layout", ["group_size:1", "group_size:8", "group_size:1000"])
@pytest.mark.parametrize("padding", ["", ",pad_to_block_boundary:true"])
def test_reads_what_the_real_package_wrote(tmp_path, layout, compression, padding):
    records = mixed_records()
    path = write_real(tmp_path / "a.array_record", records, f"{layout},{compression}{padding}")
    assert read_real(path) == records
    assert read_plain(path) == records  # in order

    reader = PlainArrayRecordReader(path)  # and in any order, repeats included
    order = random.Random(3).choices(range(len(records)), k=40)
    assert [reader.read(index) for index in order] == [records[index] for index in order]


EDGE_SIZES = [0, 1, 127, 128, 65_300, 65_472, BLOCK - 24, BLOCK, 2 * BLOCK - 100]
one_record = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.sampled_from(EDGE_SIZES), st.integers(0, 80), st.booleans()).map(
        lambda size: noise(size[0] + size[1]) if size[2] else bytes(size[0] + size[1])
    ),
)


@needs_array_record
@settings(max_examples=80, deadline=None)
@given(
    records=st.lists(one_record, max_size=12),
    group_size=st.integers(1, 9),
    compression=st.sampled_from(["zstd:3", "zstd:1", "uncompressed"]),
)
def test_round_trip(records, group_size, compression):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.array_record"
        write_real(path, records, f"group_size:{group_size},{compression}")
        assert read_plain(path) == records


@needs_array_record
def test_chunk_that_begins_anywhere_around_a_block_boundary(tmp_path):
    # Signature 64 bytes, chunk header 40, sizes 5: the second chunk would begin from 75 bytes
    # before the boundary to 45 after it, if there were no block header.
    for size in range(BLOCK - 109 - 75, BLOCK - 109 + 45):
        records = [noise(size), b"second", b"", b"fourth"]
        path = write_real(tmp_path / "a.array_record", records, "group_size:1,uncompressed")
        assert read_plain(path) == records, size


@needs_array_record
def test_many_empty_records_take_only_padding(tmp_path):
    records = [b""] * 2_500 + [b"end"]
    path = write_real(tmp_path / "a.array_record", records, "group_size:1000,zstd:3")
    assert read_plain(path) == records


@needs_array_record
def test_footer_of_many_chunks_counts_no_footer_records(tmp_path):
    records = [str(number).encode() for number in range(5_000)]
    path = write_real(tmp_path / "a.array_record", records, "group_size:1,zstd:3")
    reader = PlainArrayRecordReader(path)
    assert len(reader) == 5_000
    assert [reader.read(index) for index in range(0, 5_000, 7)] == records[::7]


@needs_array_record
def test_file_without_records(tmp_path):
    path = write_real(tmp_path / "none.array_record", [], "group_size:1,zstd:3")
    reader = PlainArrayRecordReader(path)
    assert len(reader) == 0
    with pytest.raises(WorkshopError, match=r"none\.array_record: there is no record 0"):
        reader.read(0)


@needs_array_record
@pytest.mark.parametrize("index", [-1, 3, 10**30])
def test_record_that_does_not_exist(tmp_path, index):
    path = write_real(tmp_path / "three.array_record", [b"a", b"b", b"c"], "group_size:2,zstd:3")
    with pytest.raises(WorkshopError, match=rf"three\.array_record: there is no record {index};"):
        PlainArrayRecordReader(path).read(index)


# ------------------------------------------------------ threads, processes, closing


@needs_array_record
def test_threads_share_one_reader(tmp_path):
    records = [noise(200_000 + 1_000 * seed, seed) for seed in range(16)]
    path = write_real(tmp_path / "a.array_record", records, "group_size:2,zstd:3")
    reader = PlainArrayRecordReader(path)
    order = random.Random(0).choices(range(16), k=400)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(reader.read, order))
    assert read == [records[index] for index in order]


WITHOUT_ARRAY_RECORD = """
import multiprocessing, sys
sys.modules["array_record"] = None  # any import of it fails from here on
from workshop_lib.data.plain_array_record import PlainArrayRecordReader

reader = PlainArrayRecordReader(sys.argv[1])
assert reader.read(3) == b"record 3" * 1000
with multiprocessing.get_context(sys.argv[2]).Pool(2) as pool:
    read = pool.map(reader.read, list(range(50)) * 4, chunksize=1)
assert read == [b"record %d" % index * 1000 for index in range(50)] * 4
"""


@needs_array_record
def test_works_without_the_package_and_in_forked_processes(tmp_path):
    records = [b"record %d" % index * 1000 for index in range(50)]
    path = write_real(tmp_path / "a.array_record", records, "group_size:4,uncompressed")
    assert "fork" in multiprocessing.get_all_start_methods()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ARRAY_RECORD, str(path), "fork"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@needs_array_record
def test_pickled_reader_reads_on(tmp_path):
    path = write_real(tmp_path / "a.array_record", [b"a", b"b"], "group_size:1,zstd:3")
    reader = pickle.loads(pickle.dumps(PlainArrayRecordReader(path)))
    assert (len(reader), reader.read(1)) == (2, b"b")


@needs_array_record
def test_close(tmp_path):
    path = write_real(tmp_path / "a.array_record", [b"a"], "group_size:1,zstd:3")
    reader = PlainArrayRecordReader(path)
    reader.close()
    reader.close()  # twice does no harm
    with pytest.raises(WorkshopError, match=r"a\.array_record: the reader is closed"):
        reader.read(0)


# ------------------------------------------------------------------- broken files


@needs_array_record
@pytest.mark.parametrize("compression", ["zstd:3", "uncompressed"])
def test_every_cut_is_noticed(tmp_path, compression):
    records = [noise(60_000, seed) for seed in range(4)]
    path = write_real(tmp_path / "a.array_record", records, f"group_size:1,{compression}")
    whole = path.read_bytes()
    assert len(whole) >= 5 * BLOCK
    near_blocks = [block + by for block in range(0, len(whole), BLOCK) for by in (-1, 0, 1, 24, 64)]
    cuts = {*near_blocks, *range(0, len(whole), 2_003), *range(len(whole) - 300, len(whole))}
    for cut in sorted(cut for cut in cuts if 0 <= cut < len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(WorkshopError, match=r"a\.array_record: .*; copy or record"):
            PlainArrayRecordReader(path)


@needs_array_record
def test_file_that_shrinks_after_opening(tmp_path):
    path = write_real(tmp_path / "a.array_record", [noise(200_000)] * 3, "group_size:1,zstd:3")
    reader = PlainArrayRecordReader(path)
    path.write_bytes(path.read_bytes()[:300_000])
    assert reader.read(0) == noise(200_000)
    for index in (1, 2):
        with pytest.raises(WorkshopError, match=rf"a\.array_record: record {index}: "):
            reader.read(index)
    path.unlink()
    with pytest.raises(WorkshopError, match=r"record 0: cannot be read .*check the path"):
        reader.read(0)


@needs_array_record
def test_flipped_byte_never_mixes_up_uncompressed_records(tmp_path):
    """At worst the flipped byte itself comes back, in the one record that holds it."""
    records = [noise(300, 1), b"", noise(300, 2), noise(300, 3), noise(80, 4), noise(300, 5)]
    for group_size in (1, 4):
        options = f"group_size:{group_size},uncompressed"
        path = write_real(tmp_path / "a.array_record", records, options)
        for spoiled in read_after_flips(path):
            read = [
                (old, new) for old, new in zip(records, spoiled, strict=True) if new is not None
            ]
            assert all(len(old) == len(new) for old, new in read)
            differing = [a != b for old, new in read for a, b in zip(old, new, strict=True)]
            assert sum(differing) <= 1


@needs_array_record
def test_flipped_byte_raises_nothing_but_workshop_error_with_zstd(tmp_path):
    """zstd may not notice, but the other records stay right and the lengths hold."""
    records = [b"abc" * 100, b"", noise(300, 2), b"level 7" * 20, noise(80, 4), bytes(50_000)]
    path = write_real(tmp_path / "a.array_record", records, "group_size:1,zstd:3")
    for spoiled in read_after_flips(path):
        read = [(old, new) for old, new in zip(records, spoiled, strict=True) if new is not None]
        assert sum(old != new for old, new in read) <= 1
        assert all(len(old) == len(new) for old, new in read)


def read_after_flips(path: Path):
    """For each byte that is not padding, flipped in two ways: what each record then reads as.

    None stands for a WorkshopError that names the file and the record (or the file alone, for
    every record, if it does not open). Any other error escapes and fails the test.
    """
    whole = path.read_bytes()
    num_records = len(PlainArrayRecordReader(path))
    places = [at for at in range(len(whole)) if any(whole[max(at - 8, 0) : at + 8])]
    assert len(places) > 800
    with open(path, "r+b", buffering=0) as file:
        for at in places:
            for flipped in (whole[at] ^ 0xFF, whole[at] ^ (1 << at % 8)):
                file.seek(at)
                file.write(bytes([flipped]))
                yield read_what_can_be_read(path, num_records)
            file.seek(at)
            file.write(whole[at : at + 1])


def read_what_can_be_read(path: Path, num_records: int) -> list[bytes | None]:
    try:
        reader = PlainArrayRecordReader(path)
    except WorkshopError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return [None] * num_records
    assert len(reader) == num_records
    read: list[bytes | None] = []
    for index in range(num_records):
        try:
            read.append(reader.read(index))
        except WorkshopError as error:
            assert str(error).startswith(f"{path}: record {index}: ") and "\n" not in str(error)
            read.append(None)
    return read


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"x", "not an ArrayRecord"),
        (noise(3 * BLOCK), "not an ArrayRecord"),
        (bytes(2 * BLOCK), "not an ArrayRecord"),
        (b"PK\x03\x04" + bytes(BLOCK), "not an ArrayRecord"),
        (bytes.fromhex("83af70d10d884a3f"), "the end is missing"),
        (bytes.fromhex("83af70d10d884a3f") + noise(3 * BLOCK - 8), "the end is missing"),
        (bytes.fromhex("83af70d10d884a3f") + bytes(2 * BLOCK - 8), "the end is missing"),
    ],
    ids=["empty", "x", "noise", "zeros", "zip", "start", "start, noise", "start, zeros"],
)
def test_what_is_no_whole_array_record(tmp_path, content, problem):
    path = tmp_path / "garbage.array_record"
    path.write_bytes(content)
    with pytest.raises(WorkshopError, match=rf"garbage\.array_record: .*{problem}"):
        PlainArrayRecordReader(path)


def test_what_is_no_file(tmp_path):
    with pytest.raises(WorkshopError, match=r"missing\.array_record: cannot be read .*path"):
        PlainArrayRecordReader(tmp_path / "missing.array_record")
    with pytest.raises(WorkshopError, match="cannot be read"):
        PlainArrayRecordReader(tmp_path)


@needs_array_record
@pytest.mark.parametrize("options", ["brotli:3", "snappy", "transpose:true"])
def test_what_is_not_supported_says_how_to_write_it(tmp_path, options):
    path = write_real(tmp_path / "a.array_record", [b"abc" * 9] * 3, f"group_size:1,{options}")
    kind = options.replace("transpose:true", "transposed").removesuffix(":3")
    with pytest.raises(WorkshopError, match=rf'a\.array_record: .*{kind}.*"group_size:1,zstd:3"'):
        PlainArrayRecordReader(path).read(0)


@needs_array_record
def test_limit_of_the_decoded_size(tmp_path):
    records = [b"small", bytes(3_000_000), b"small too"]
    path = write_real(tmp_path / "a.array_record", records, "group_size:1,zstd:3")
    assert PlainArrayRecordReader(path, max_decoded_size=3_000_000).read(1) == records[1]
    reader = PlainArrayRecordReader(path, max_decoded_size=2_999_999)
    assert (reader.read(0), reader.read(2)) == (records[0], records[2])
    with pytest.raises(WorkshopError, match=r"record 1: .*3000000 bytes, over 2999999"):
        reader.read(1)

    write_real(path, records, "group_size:1,uncompressed")
    reader = PlainArrayRecordReader(path, max_decoded_size=300_000)
    assert reader.read(2) == records[2]
    with refusal_without_memory(r"record 1: .* too many to read"):
        reader.read(1)


# ------------------------------------- files made by hand, for lies that no writer tells


def varint(number: int) -> bytes:
    *low, high = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(part | 0x80 for part in low), high])


def message(*numbers: int) -> bytes:
    return b"".join(bytes([8 * field]) + varint(n) for field, n in enumerate(numbers, start=1))


def chunk(data: bytes, num_records: int, decoded_size: int) -> bytes:
    sizes = len(data).to_bytes(8, "little"), num_records.to_bytes(7, "little")
    return (
        bytes(8) + sizes[0] + bytes(8) + b"r" + sizes[1] + decoded_size.to_bytes(8, "little") + data
    )


def plain_chunk(records: list[bytes]) -> bytes:
    sizes = b"".join(varint(len(record)) for record in records)
    data = b"\0" + varint(len(sizes)) + sizes + b"".join(records)
    return chunk(data, len(records), sum(map(len, records)))


def zstd_chunk(sizes: bytes, values: bytes, num_records: int, decoded_size: int) -> bytes:
    """`sizes` and `values` are what stands in the file: a claimed size, then a zstd frame."""
    return chunk(b"z" + varint(len(sizes)) + sizes + values, num_records, decoded_size)


def handmade(path: Path, chunks: list[bytes], lines: list[tuple], totals: tuple) -> Path:
    """A file of one block and a postscript, by the module's docstring; the hashes are zeros."""
    start = bytes.fromhex("83af70d10d884a3f") + bytes(56)
    summary = message(*totals)
    footer = [b"\x0a" + varint(len(summary)) + summary, *(message(*line) for line in lines)]
    body = start + b"".join(chunks) + plain_chunk(footer)
    end = bytes(24) + plain_chunk([message(len(start + b"".join(chunks)), 0x71930E704FDAE05E)] * 3)
    path.write_bytes(body.ljust(BLOCK, b"\0") + end.ljust(BLOCK, b"\0"))
    return path


def test_handmade_file_reads(tmp_path):
    """So that the refusals below refuse the lie, and not the way these files are made."""
    chunks = [plain_chunk([b"one", b""]), plain_chunk([b"three"])]
    lines = [(64, 3, 2), (64 + len(chunks[0]), 5, 1)]
    assert read_plain(handmade(tmp_path / "a", chunks, lines, (1, 2, 3))) == [b"one", b"", b"three"]


@pytest.mark.parametrize(
    ("lines", "totals", "problem"),
    [
        ([(64, 3, 1)], (2, 1, 1), "version 2"),
        ([(64, 3, 1)], (1, 2, 1), "counts do not agree"),
        ([(64, 3, 1)], (1, 1, 2), "counts do not agree"),
        ([(64, 3, 1), (64, 3, 1)], (1, 2, 2), "out of order"),
        ([(64, 3, 2)], (1, 1, 2), "does not agree with the footer"),
        ([(64, 2, 1)], (1, 1, 1), "does not agree with the footer"),
        ([(65, 3, 1)], (1, 1, 1), "no chunk of records at offset 65"),
        ([(1 << 62, 3, 1)], (1, 1, 1), "out of order"),
        ([(64, 3, 1), (1 << 62, 3, 1)], (1, 2, 2), "out of order"),
        ([(0, 3, 1)], (1, 1, 1), "no chunk of records"),
        ([(9, 3, 1)], (1, 1, 1), "no chunk can stand"),
    ],
)
def test_footer_that_lies(tmp_path, lines, totals, problem):
    path = handmade(tmp_path / "lie.array_record", [plain_chunk([b"one"])], lines, totals)
    with pytest.raises(WorkshopError, match=rf"lie\.array_record: .*{problem}"):
        read_plain(path)


@pytest.mark.parametrize(("place", "byte"), [(24, b"t"), (40, b"z"), (40, b"b"), (0, b"\xff")])
def test_last_block_that_is_no_postscript(tmp_path, place, byte):
    path = handmade(tmp_path / "a", [plain_chunk([b"one"])], [(64, 3, 1)], (1, 1, 1))
    with open(path, "r+b") as file:
        file.seek(BLOCK + 24 + place)
        file.write(byte)
    if place == 0:  # a hash, which is not looked at
        assert read_plain(path) == [b"one"]
    else:
        with pytest.raises(WorkshopError, match="the end is missing"):
            PlainArrayRecordReader(path)


frame = zstandard.ZstdCompressor().compress
unsized_frame = zstandard.ZstdCompressor(write_content_size=False).compress
HUGE = 1 << 40
LARGE = 1 << 29  # within the default limit and within what a machine can allocate
# Frame headers without data: "zstd, one segment, so many decoded bytes".
HUGE_FRAME, LARGE_FRAME = (
    bytes.fromhex("28b52ffde0") + size.to_bytes(8, "little") + bytes(3) for size in (HUGE, LARGE)
)
ONE = varint(1) + frame(varint(3))  # the sizes of one record of 3 bytes


CHUNKS_THAT_LIE = {  # name: (chunk, number of records and decoded size in the footer)
    "huge everywhere": (zstd_chunk(ONE, varint(HUGE) + HUGE_FRAME, 1, HUGE), 1, HUGE),
    "huge claim and frame": (zstd_chunk(ONE, varint(HUGE) + HUGE_FRAME, 1, 3), 1, 3),
    "huge frame": (zstd_chunk(ONE, varint(3) + HUGE_FRAME, 1, 3), 1, 3),
    "large claim and frame": (zstd_chunk(ONE, varint(LARGE) + LARGE_FRAME, 1, 3), 1, 3),
    "large frame": (zstd_chunk(ONE, varint(3) + LARGE_FRAME, 1, 3), 1, 3),
    "huge sizes": (zstd_chunk(varint(HUGE) + HUGE_FRAME, varint(3) + frame(b"one"), 1, 3), 1, 3),
    "more records than bytes": (
        zstd_chunk(varint(10**7) + frame(bytes(10**7)), varint(0), 10**7, 0),
        10**7,
        0,
    ),
    "2^50 records": (chunk(b"\0\1\3one", 1 << 50, 3), 1 << 50, 3),
    "bomb": (zstd_chunk(ONE, varint(3) + frame(bytes(10**7)), 1, 3), 1, 3),
    "bomb of unsaid size": (zstd_chunk(ONE, varint(3) + unsized_frame(bytes(10**7)), 1, 3), 1, 3),
    "more after the frame": (zstd_chunk(ONE, varint(3) + frame(b"one") + b"more", 1, 3), 1, 3),
    "frame cut short": (zstd_chunk(ONE, varint(3) + frame(b"one")[:-2], 1, 3), 1, 3),
    "no frame": (zstd_chunk(ONE, varint(3) + b"none", 1, 3), 1, 3),
    "number without end": (zstd_chunk(ONE, b"\xff" * 20, 1, 3), 1, 3),
    "size without end": (
        zstd_chunk(varint(2) + frame(b"\xff\xff"), varint(3) + frame(b"one"), 1, 3),
        1,
        3,
    ),
    "record too long": (chunk(b"\0\1\4one", 1, 3), 1, 3),
    "record too short": (chunk(b"\0\1\3onetwo", 1, 3), 1, 3),
    "huge size of the sizes": (chunk(b"\0" + varint(HUGE) + b"\3one", 1, 3), 1, 3),
    "no data": (chunk(b"", 1, 3), 1, 3),
    "data past the end": (chunk(b"\0\1\3one", 1, 3).replace(b"\6", b"\xf6", 1), 1, 3),
    "unknown compression": (chunk(b"?\1\3one", 1, 3), 1, 3),
}


@pytest.mark.parametrize(
    ("body", "num_records", "decoded_size"), CHUNKS_THAT_LIE.values(), ids=CHUNKS_THAT_LIE
)
def test_chunk_that_lies_costs_no_memory(tmp_path, body, num_records, decoded_size):
    line, totals = (64, decoded_size, num_records), (1, 1, num_records)
    path = handmade(tmp_path / "lie.array_record", [body], [line], totals)
    reader = PlainArrayRecordReader(path)
    with refusal_without_memory(r"lie\.array_record: record 0: .*; copy or record"):
        reader.read(0)
