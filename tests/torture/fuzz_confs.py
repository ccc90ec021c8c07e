"""Confs and overrides made to attack: those of the recipe with nasty values, or damaged."""

import random
from collections.abc import Iterator
from pathlib import Path

from tests.torture.mutate import as_bytes, damaged, nasty
from todm.config.keys import CONFS, Config
from utils.conf import flatten, to_dict

KEYS = tuple(flatten(to_dict(Config())))


def bombs() -> Iterator[tuple[str, str]]:
    """Confs that are small and could grow, run something, or never end."""
    yield "python tag", "name: !!python/object/apply:os.system ['touch marker']\n"
    yield "python module tag", "name: !!python/module:antigravity\n"
    yield "python name tag", "data: !!python/name:os.system\n"
    lists = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 12))
    yield "a billion laughs", "x0: &x0 [a, b]\n" + lists
    maps = "".join(
        f"x{i}: &x{i} {{{', '.join(f'k{j}: *x{i - 1}' for j in range(9))}}}\n" for i in range(1, 12)
    )
    yield "a billion keys", "x0: &x0 {a: b}\n" + maps
    merges = "".join(f"x{i}: &x{i} {{<<: [*x{i - 1}, *x{i - 1}]}}\n" for i in range(1, 40))
    yield "merges of merges", "x0: &x0 {a: b}\n" + merges
    known = "data:\n  train: &a [x, x]\n  dev: &b [*a, *a, *a]\n"
    yield "aliases below known keys", known
    yield "itself", "data: &a\n  train: *a\n"
    yield "deep", "data: " + "[" * 5000
    yield "deep maps", "".join(" " * i + "a:\n" for i in range(2000))
    yield "interpolation of itself", "name: ${name}\n"
    yield "interpolations in a circle", "name: ${data.dir}\ndata:\n  dir: ${name}\n"
    yield (
        "interpolations that grow",
        (f"name: '{'x' * 1000}'\nexp: '{'${name}' * 1000}'\ndata:\n  dir: '{'${exp}' * 1000}'\n"),
    )
    yield "many interpolations", f"name: '{'${' * 5000}'\n"
    yield "backslashes", f"name: '{chr(92) * 200_000}'\n"
    yield "its own base", "base: {path}\n"
    yield "base that never ends", "base: /dev/zero\n"
    yield "base that is a folder", "base: /\n"
    yield "base with a zero", 'base: "a\\0b"\n'
    yield "a huge number", f"train:\n  updates: {'9' * 100_000}\n"
    yield "a huge exponent", "train:\n  lr: 1e999999999\n  updates: 1e400\n"
    yield "a huge text", f"name: {'x' * 2_000_000}\n"
    yield "many keys", "".join(f"k{i}: 1\n" for i in range(100_000))
    yield "a name that leads out", "name: ../../../../outside\n"
    yield "control characters", "name: a\x07b\n"
    yield "documents", "name: a\n---\nname: b\n"
    yield "binary", "name: !!binary aGFsbG8=\n"
    yield "a set and a time", "name: !!set {a, b}\nexp: !!timestamp 2001-99-99\n"
    yield "keys that are no names", "1: 2\n? [a, b]\n: c\nnull: d\n? {a: b}\n: e\n"


def override(rng: random.Random) -> str:
    """An override of any key, or what is none."""
    key = rng.choice(KEYS) if rng.random() < 0.9 else nasty(rng)[:1000]
    if rng.random() < 0.1:
        key = f"{key}.{rng.choice(('x', '', '..'))}"
    return f"{key}={nasty(rng)}".replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def hostile_confs(
    folder: Path, rng: random.Random, count: int
) -> Iterator[tuple[str, Path, list[str]]]:
    """Writes so many confs; yields what each is, its path, and overrides."""
    real = [path.read_bytes() for path in sorted(CONFS.glob("[!.]*.yaml"))]
    certain = list(bombs())
    if count < len(certain) * 2:
        certain = rng.sample(certain, count // 3)
    for number in range(count):
        path, overrides = folder / f"{number}.yaml", list[str]()
        if number < len(certain):
            name, text = certain[number]
            data = as_bytes(text.replace("{path}", str(path)))
        elif rng.random() < 0.4:
            name, data = f"overrides {number}", b"base: mini\n"
            overrides = [override(rng) for _ in range(rng.randint(1, 3))]
        elif rng.random() < 0.5:
            name, data = f"damaged {number}", damaged(rng, rng.choice(real), real)
        else:
            name, lines = f"nasty {number}", rng.choice(real).decode().split("\n")
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(lines))
                lines[at] = f"{lines[at].partition(':')[0]}: {nasty(rng)}"
            data = as_bytes("\n".join(lines))
        path.write_bytes(data)
        yield name, path, overrides
