"""As a program (`python fuzz_shards.py SEED COUNT`): read many mutated shards; die of whatever is not refused.

Half of the mutations change bytes anywhere. The other half change HDF5's metadata and then put the checksums right,
as an enemy would, so that they come past them into the library. It runs in a process of its own, since the library
might crash or search for ever: an alarm ends a read that takes 10 seconds.
"""

from __future__ import annotations

import random
import signal
import sys

import caches

from kdcache.cache.shard import decode_shard, encode_shard
from kdcache.errors import CorruptError

WORD = 0xFFFFFFFF
SIGNATURES = (b"OHDR", b"OCHK", b"FAHD", b"FADB")
SUPERBLOCK = (0, 44)
LONGEST = 400

# The rounds of Jenkins' hash "lookup3": which of a, b, c (0, 1, 2) is changed by which other, and the rotation.
MIXING = ((0, 2, 4), (1, 0, 6), (2, 1, 8), (0, 2, 16), (1, 0, 19), (2, 1, 4))
FINAL = ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24))


def rotated(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & WORD


def checksum(data: bytes) -> int:
    """The checksum of HDF5's metadata."""
    state = [(0xDEADBEEF + len(data)) & WORD] * 3
    if not data:
        return state[2]
    blocks = [data[i : i + 12] for i in range(0, len(data), 12)]
    for number, block in enumerate(blocks):
        words = [int.from_bytes(block[i : i + 4], "little") for i in (0, 4, 8)]
        state = [(one + word) & WORD for one, word in zip(state, words, strict=True)]
        if number < len(blocks) - 1:
            for changed, by, rotation in MIXING:
                state[changed] = (state[changed] - state[by]) & WORD ^ rotated(state[by], rotation)
                added = 3 - changed - by
                state[by] = (state[by] + state[added]) & WORD
    for changed, by, rotation in FINAL:
        state[changed] = ((state[changed] ^ state[by]) - rotated(state[by], rotation)) & WORD
    return state[2]


def sealed_parts(data: bytes) -> list[tuple[int, int]]:
    """Where the parts with a checksum begin and end; the checksum follows."""
    parts = [SUPERBLOCK]
    for signature in SIGNATURES:
        start = data.find(signature)
        while start >= 0:
            ends = range(start + 8, min(start + LONGEST, len(data) - 4))
            parts += [
                (start, end) for end in ends if checksum(data[start:end]).to_bytes(4, "little") == data[end : end + 4]
            ][:1]
            start = data.find(signature, start + 1)
    return parts


def mutate_bytes(data: bytearray, generator: random.Random) -> None:
    """Overwrite, remove, insert or copy a few bytes anywhere."""
    for _ in range(generator.choice([1, 1, 2, 8, 64])):
        at, length = generator.randrange(len(data)), generator.choice([1, 1, 2, 4, 8, 100])
        other = generator.randrange(len(data))
        copied = data[other : other + length]
        what = generator.choice([generator.randbytes(length), bytes([255]) * length, bytes(length), copied, b""])
        removed = generator.choice([0, len(what), length])
        data[at : at + removed] = what


def mutate_sealed(data: bytearray, parts: list[tuple[int, int]], generator: random.Random) -> None:
    """Change one to three values inside the metadata and put the checksums right."""
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        start, end = generator.choice(parts)
        at = generator.randrange(start + 4, end)
        other = generator.randrange(*generator.choice(parts))
        values = (
            generator.randbytes(1),
            bytes([data[at] ^ 1 << generator.randrange(8)]),
            generator.choice([b"\xff", b"\0"]) * generator.choice([2, 4, 8]),
            generator.choice([generator.randrange(len(data)), 1 << generator.randrange(64)]).to_bytes(8, "little"),
            bytes(data[other:][: generator.choice([1, 2, 4, 8, 20])]),
        )
        value = generator.choice(values)[: end - at]
        data[at : at + len(value)] = value
        data[end : end + 4] = checksum(bytes(data[start:end])).to_bytes(4, "little")


def main(seed: int, count: int) -> None:
    """Read `count` mutated shards; end with an exception at the first that gives other values."""
    plan = caches.make_plan()
    wanted = caches.make_arrays(plan, 1)
    good, generator = encode_shard(wanted, plan, 1), random.Random(seed)
    parts = sealed_parts(good)
    refused = 0
    for number in range(count):
        data = bytearray(good)
        if number % 2:
            mutate_sealed(data, parts, generator)
        else:
            mutate_bytes(data, generator)
        signal.alarm(10)
        try:
            if not caches.equal(decode_shard(bytes(data), plan, 1, "here"), wanted):
                raise SystemExit(f"seed {seed}, number {number}: other values were read")
        except CorruptError:
            refused += 1
        signal.alarm(0)
    print(len(parts), refused)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
