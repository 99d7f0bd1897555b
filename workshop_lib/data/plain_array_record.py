"""Reads ArrayRecord files without the `array_record` package, which cannot load on Windows.

An ArrayRecord file is a Riegeli file (riegeli_records_file_format.md in google/riegeli) with a
table of contents at its end (layout.proto in google/array_record):

    +------------------------ a multiple of 64 KiB ------------------------+-- 64 KiB ----+
    | signature | chunk | chunk | ... | footer chunk | padding             | postscript   |
    +-----------+-------+-------+-----+--------------+---------------------+--------------+
                                       ^ where each chunk is, how much       ^ where the
                                         it holds (no user records)            footer is

    chunk  = hash 8, data size 8, hash 8, type 1, number of records 7, decoded size 8, then data
    data   = compression 1, size of the next part, the records' sizes, the records joined
             (type 'r'; with zstd, sizes and records are two frames, each after its decoded size)

Header numbers are little-endian, numbers in the data are varints (7 bits a byte, low bits first),
and the footer's and postscript's records are small protocol buffers. Every 64 KiB of the file
begin with a 24-byte block header, even in the middle of a chunk; it serves recovery only, so it
is cut out and not looked at.

Not verified: the HighwayHash of headers and data (too slow in Python). Sizes are held against
each other and against the file, so a damaged length is noticed, but a flipped bit inside a record
is noticed only if zstd stumbles over it: `read` may then return bytes that were never written.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import BinaryIO, NamedTuple

import zstandard

from workshop_lib.errors import WorkshopError

_BLOCK = 1 << 16
_BLOCK_HEADER = 24
_CHUNK_HEADER = 40
_RIEGELI_START = bytes.fromhex("83af70d10d884a3f")  # the first block header is always the same
_POSTSCRIPT_MAGIC = 0x71930E704FDAE05E
_NOT_READ = {b"b": "brotli", b"s": "snappy"}
_MAX_VARINT = 10  # bytes of the longest 64-bit varint


class _Chunk(NamedTuple):
    """What the footer says of one chunk."""

    start: int  # file offset, bytes
    end: int  # file offset where the next chunk begins; there may be padding before it
    decoded_size: int  # of all its records together, bytes
    num_records: int


class PlainArrayRecordReader:
    """Random access to the records of one closed ArrayRecord file, zstd or uncompressed.

    Opening reads only the footer; the index is all that stays in memory. Every read opens the
    file anew, which costs little beside the decompression and makes one reader safe in several
    threads, after a fork, and through pickle. A read decodes the record's whole chunk
    (`group_size` records) and caches nothing.

    path: the file. max_decoded_size: bytes; a chunk that claims more decoded is refused.
    Raises WorkshopError naming the file if it is missing, empty, cut short, no ArrayRecord,
    damaged, or uses what is not read here (transposed chunks; brotli or snappy).
    """

    def __init__(self, path: str | os.PathLike[str], max_decoded_size: int = 1 << 30) -> None:
        self._path = os.fspath(path)
        self._max_decoded_size = max_decoded_size
        self._closed = False
        with self._opened() as file:
            postscript_start = file.seek(0, os.SEEK_END) - _BLOCK
            footer_start = _find_footer(file, postscript_start)
            footer = _read_chunk(file, footer_start, postscript_start, max_decoded_size)
            self._chunks = _parse_footer(*footer, footer_start)
        self._records_up_to = list(accumulate(chunk.num_records for chunk in self._chunks))

    def __len__(self) -> int:
        """The number of records."""
        return self._records_up_to[-1] if self._records_up_to else 0

    def read(self, index: int) -> bytes:
        """The record at `index`, 0 to len - 1, as it was written.

        Raises WorkshopError naming the file and the record if there is no such record, or if its
        chunk is damaged, too large, or no longer there.
        """
        if self._closed:
            raise WorkshopError(f"{self._path}: the reader is closed; open the file again")
        if not 0 <= index < len(self):
            raise WorkshopError(
                f"{self._path}: there is no record {index}; it has {len(self)} records, from 0"
            )
        number = bisect_right(self._records_up_to, index)
        chunk = self._chunks[number]
        with self._opened(f"record {index}: ") as file:
            bounds, values = _read_chunk(
                file, chunk.start, chunk.end, self._max_decoded_size, chunk
            )
        place = index - self._records_up_to[number] + chunk.num_records
        return values[bounds[place] : bounds[place + 1]]

    def close(self) -> None:
        """Ends reading: a later `read` raises WorkshopError. No file is held open in between."""
        self._closed = True

    @contextmanager
    def _opened(self, record: str = "") -> Iterator[BinaryIO]:
        """The file, opened for this once; every failure inside becomes a WorkshopError."""
        try:
            with open(self._path, "rb") as file:
                yield file
        except OSError as error:
            raise WorkshopError(
                f"{self._path}: {record}cannot be read ({error.strerror}); check the path"
            ) from error
        except NotImplementedError as error:
            raise WorkshopError(
                f"{self._path}: {record}{error}, which is not read here; "
                'write it with the options "group_size:1,zstd:3"'
            ) from error
        except (ValueError, MemoryError, zstandard.ZstdError) as error:
            problem = str(error) or "there is too little memory for it"
            raise WorkshopError(
                f"{self._path}: {record}{problem}; copy or record the file again"
            ) from error


def _find_footer(file: BinaryIO, postscript_start: int) -> int:
    """File offset of the footer chunk, from the postscript in the last 64 KiB."""
    file.seek(0)
    signature = file.read(len(_RIEGELI_START))
    if not signature:
        raise ValueError("the file is empty")
    if signature != _RIEGELI_START:
        raise ValueError("this is not an ArrayRecord file")
    postscript: dict[int, int] = {}
    try:
        bounds, values = _read_chunk(file, postscript_start, postscript_start + _BLOCK, _BLOCK)
        postscript, _ = _parse_message(values[: bounds[1]])
    except (ValueError, NotImplementedError, zstandard.ZstdError):
        pass  # something else stands there: said below
    if postscript.get(2) != _POSTSCRIPT_MAGIC:
        raise ValueError("the end is missing: cut short, or its writer was never closed")
    return postscript.get(1, 0)


def _parse_footer(bounds: list[int], values: bytes, footer_start: int) -> list[_Chunk]:
    """The footer's lines, one a chunk. Its first record is a summary that must agree with them."""
    records = [values[begin:end] for begin, end in pairwise(bounds)]
    _, summary = _parse_message(records[0])
    totals, _ = _parse_message(summary.get(1, b""))
    if totals.get(1) != 1:
        raise NotImplementedError(f"the file has ArrayRecord version {totals.get(1)}")
    lines = [_parse_message(record)[0] for record in records[1:]]
    ends = [*(line.get(1, 0) for line in lines[1:]), footer_start]
    chunks = [
        _Chunk(line.get(1, 0), end, line.get(2, 0), line.get(3, 0))
        for line, end in zip(lines, ends, strict=False)
    ]
    num_records = sum(chunk.num_records for chunk in chunks)
    if (len(chunks), num_records) != (totals.get(2, 0), totals.get(3, 0)):
        raise ValueError("the footer's counts do not agree")
    if any(chunk.start >= chunk.end for chunk in chunks):
        raise ValueError("the footer's chunks are out of order")
    return chunks


def _read_chunk(
    file: BinaryIO, start: int, end: int, max_decoded_size: int, expected: _Chunk | None = None
) -> tuple[list[int], bytes]:
    """The chunk from the file offset `start` on; `end` is where the next thing begins.

    Returns the n + 1 bounds of its n >= 1 records in the joined records, and these.
    """
    # Stored and padded, a chunk can be somewhat larger than decoded, but not by this much.
    if end - start > 2 * (max_decoded_size + _BLOCK):
        raise ValueError(f"the chunk may take {end - start} bytes, too many to read")
    stored = _read_without_block_headers(file, start, end)
    data_size = int.from_bytes(stored[8:16], "little")
    chunk_type = stored[24:25]
    num_records = int.from_bytes(stored[25:32], "little")
    decoded_size = int.from_bytes(stored[32:40], "little")
    data = stored[_CHUNK_HEADER : _CHUNK_HEADER + data_size]
    if chunk_type == b"t":
        raise NotImplementedError("the chunk is transposed")
    if chunk_type != b"r":
        raise ValueError(f"there is no chunk of records at offset {start}")
    if expected is not None and expected[2:] != (decoded_size, num_records):
        raise ValueError("the chunk's header does not agree with the footer")
    # The writer pads, so that a chunk has at least one byte of the file for each record.
    if len(data) != data_size or not 0 < num_records <= end - start:
        raise ValueError(f"the chunk does not fit between the offsets {start} and {end}")
    if decoded_size > max_decoded_size:
        raise ValueError(f"the chunk decodes to {decoded_size} bytes, over {max_decoded_size}")
    return _decode_chunk(data, num_records, decoded_size)


def _read_without_block_headers(file: BinaryIO, start: int, end: int) -> bytes:
    """The file's bytes from the offset `start` to `end`, less what belongs to no chunk."""
    if not 0 <= start < end or 0 < start % _BLOCK <= _BLOCK_HEADER:
        raise ValueError(f"no chunk can stand between the offsets {start} and {end}")
    file.seek(start)
    stored = memoryview(file.read(end - start))
    blocks = range(-(start % _BLOCK), len(stored), _BLOCK)  # where blocks begin in `stored`
    return b"".join(stored[max(block + _BLOCK_HEADER, 0) : block + _BLOCK] for block in blocks)


def _decode_chunk(data: bytes, num_records: int, decoded_size: int) -> tuple[list[int], bytes]:
    """Splits a chunk's data into sizes and joined records, and undoes the compression."""
    compression = data[:1]
    if compression in _NOT_READ:
        raise NotImplementedError(f"the chunk is compressed with {_NOT_READ[compression]}")
    if compression not in (b"\0", b"z"):
        raise ValueError(f"no compression is marked {compression!r}")
    sizes_size, position = _parse_varint(data, 1)
    packed_sizes = data[position : position + sizes_size]
    values = data[position + sizes_size :]
    if compression == b"z":
        packed_sizes = _decompress(packed_sizes, num_records * _MAX_VARINT)
        values = _decompress(values, decoded_size)
    sizes = []
    position = 0
    for _ in range(num_records):
        size, position = _parse_varint(packed_sizes, position)
        sizes.append(size)
    if sum(sizes) != decoded_size or len(values) != decoded_size:
        raise ValueError("the sizes of the chunk's records do not agree with its header")
    return list(accumulate(sizes, initial=0)), values


def _decompress(data: bytes, max_size: int) -> bytes:
    """One zstd frame after its decoded size; nothing larger than `max_size` is allocated."""
    size, position = _parse_varint(data, 0)
    frame = data[position:]
    # The frame may name a size of its own (or none, -1), which zstandard would allocate.
    if size > max_size or zstandard.frame_content_size(frame) not in (-1, size):
        raise ValueError(f"compressed data claims {size} decoded bytes, {max_size} fit")
    return zstandard.ZstdDecompressor().decompress(
        frame, max_output_size=size, allow_extra_data=False
    )


def _parse_varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of 7 bits a byte, low bits first, and the position after it."""
    value = 0
    for place, byte in enumerate(data[position : position + _MAX_VARINT]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, position + place + 1
    raise ValueError("a number has no end")


def _parse_message(message: bytes) -> tuple[dict[int, int], dict[int, bytes]]:
    """A protocol buffer's fields by number: the whole numbers, and the byte strings."""
    numbers: dict[int, int] = {}
    strings: dict[int, bytes] = {}
    position = 0
    while position < len(message):
        key, position = _parse_varint(message, position)
        value, position = _parse_varint(message, position)
        if key % 8 == 0:
            numbers[key // 8] = value
        elif key % 8 == 2:
            strings[key // 8] = message[position : position + value]
            position += value
        else:
            raise ValueError("the footer holds an unknown kind of field")
    return numbers, strings
