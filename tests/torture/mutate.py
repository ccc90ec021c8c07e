"""Random damage to bytes and texts, from a seed."""

import random
import struct

# numbers that headers lie with, in both orders of bytes and of 1, 2, 4 and 8 bytes
_NUMBERS = (0, 1, 2, 7, 127, 255, 1024, 44101, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63)
HEADER = 128  # bytes in which most damage is done

# texts that stand where an id, a path, a number or a transcript is expected
NASTY = (
    "",
    " ",
    "\0",
    "a\0b.wav",
    ".",
    "..",
    "/",
    "../../../../../../tmp/outside",
    "/etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "-",
    "| touch marker",
    "$(touch marker)",
    "touch marker |",
    "http://127.0.0.1:9/a.wav",
    "\x1b[2J\x07",
    "\u202e\u2066abc",
    "\ufeff",
    "\ud800",
    "\ud800.m4a",
    "\udcff.wav",
    "\ufffd",
    "\ufdfa" * 500,
    "a" + "\u0301\u0327" * 50_000,
    "x" * 70_000,
    "\u2581" * 300,
    "<blk> <unk> <s>",
    "<script>alert(1)</script>",
    "nan",
    "inf",
    "-1",
    "1e308",
    "1e-320",
    "9" * 400,
    "9" * 5000,
    "0x10",
    "1_000",
    "true",
    "null",
    "[" * 3000,
    "{" * 3000,
    "${oc.env:HOME}",
    "${data.root}",
    "${" * 300,
    "\\" * 2000 + "${",
    "!!python/object/apply:os.system ['touch marker']",
    "&a [*a, *a]",
    "a: b: c",
    "%s%n",
)


def damaged(rng: random.Random, data: bytes, others: list[bytes] = []) -> bytes:  # noqa: B006
    """The bytes with one to four faults.

    Args:
      others: of which parts may be put in.
    """
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(out), HEADER) if rng.random() < 0.7 else len(out)) if out else 0
        kind = rng.randrange(8)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind in (1, 2):
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(_NUMBERS) % (1 << 8 * size)
            order = rng.choice("<>")
            out[at : at + size] = struct.pack(f"{order}{'xBHxIxxxQ'[size]}", number)
        elif kind == 3:
            del out[at : at + rng.choice((1, 2, 4, 1000, 100_000))]
        elif kind == 4:
            out[at:at] = out[at : at + rng.choice((1, 4, 100, 5000))]
        elif kind == 5:
            del out[at:]
        elif kind == 6:
            out[at:at] = rng.randbytes(rng.choice((1, 4, 64, 3000)))
        elif others:
            other = rng.choice(others)
            begin = rng.randrange(len(other))
            out[at:at] = other[begin : begin + 4000]
    return bytes(out)


def nasty(rng: random.Random) -> str:
    """One of the nasty texts, alone or in another text."""
    text = rng.choice(NASTY)
    return text if rng.random() < 0.7 else f"A {text} B"


def as_bytes(text: str) -> bytes:
    """The text in UTF-8, surrogates as they come."""
    return text.encode("utf-8", "surrogatepass")
