"""Splits made to attack: transcripts, tables, Kaldi folders and manifests, damaged at random or
with nasty texts where an id, a path, a time or a transcript stands."""

import gzip
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet

from tests.torture.mutate import as_bytes, damaged, nasty

RATE = 16000
WORDS = ("ONE TWO", "CAF\u00c9 AU LAIT", "\u4f60\u597d")
NUMBERS: tuple[Any, ...] = (10**400, -1, 1e308, float("nan"), float("inf"), True, [], {}, None)


def write_audio(folder: Path) -> list[Path]:
    """Three short files, called as LibriSpeech's are."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.1, RATE // 2)
    paths = [folder / f"1-2-{i}.wav" for i in range(3)]
    for path in paths:
        soundfile.write(path, noise, RATE)
    return paths


def rows(rng: random.Random, audio: list[Path], attacked: bool) -> list[dict[str, Any]]:
    """What a table says of the files; with nasty values in a few cells where it attacks."""
    found: list[dict[str, Any]] = [
        {"id": f"u{i}", "audio": str(path), "text": text, "start": 0.1, "end": 0.4, "speaker": "s"}
        for i, (path, text) in enumerate(zip(audio, WORDS))
    ]
    for _ in range(rng.randint(1, 3) if attacked else 0):
        row = rng.choice(found)
        key = rng.choice(list(row))
        if rng.random() < 0.1:
            del row[key]
        else:
            row[key] = rng.choice(NUMBERS) if rng.random() < 0.3 else nasty(rng)
    return found


def table(rng: random.Random, audio: list[Path], attacked: bool) -> tuple[str, bytes]:
    """A TSV or CSV: its name and content."""
    suffix, between = rng.choice((("tsv", "\t"), ("csv", ",")))
    found = rows(rng, audio, attacked)
    lines = [between.join(found[0]), *(between.join(map(str, row.values())) for row in found)]
    return f"train.{suffix}", as_bytes("\n".join(lines) + "\n")


def json_lines(rng: random.Random, audio: list[Path], attacked: bool) -> tuple[str, bytes]:
    """JSON lines, compressed or not."""
    lines = [json.dumps(row) for row in rows(rng, audio, attacked)]
    if attacked and rng.random() < 0.2:
        lines.insert(0, '{"audio": "a.wav", "text": ' + rng.choice(("[" * 9999, "9" * 5000)))
    data = as_bytes("\n".join(lines))
    return ("train.jsonl.gz", gzip.compress(data)) if rng.random() < 0.3 else ("train.jsonl", data)


def lhotse_lines(rng: random.Random, audio: list[Path], attacked: bool) -> dict[str, bytes]:
    """Lhotse's cuts, or its supervisions and recordings: the first is the one to read."""
    recordings = [Recording.from_file(path) for path in audio]
    segments = [
        SupervisionSegment(f"s{r.id}", r.id, 0.1, 0.3, text=text, speaker="x")
        for r, text in zip(recordings, WORDS)
    ]
    if rng.random() < 0.5:
        cuts = [MonoCut(r.id, 0, 0.5, 0, [s], recording=r) for r, s in zip(recordings, segments)]
        sets: dict[str, Any] = {"cuts.jsonl": CutSet.from_cuts(cuts)}
    else:
        sets = {
            "supervisions.jsonl": SupervisionSet.from_segments(segments),
            "recordings.jsonl": RecordingSet.from_recordings(recordings),
        }
    files = {}
    for name, items in sets.items():
        values = [item.to_dict() for item in items]
        for _ in range(rng.randint(1, 3) if attacked else 0):
            _attack(rng, rng.choice(values))
        files[name] = as_bytes("\n".join(json.dumps(value) for value in values))
    return files


def _attack(rng: random.Random, value: Any) -> None:
    """Replaces something in nested containers."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        below = value[key]
        if isinstance(below, dict | list) and below and rng.random() < 0.8:
            value = below
            continue
        value[key] = rng.choice(NUMBERS) if rng.random() < 0.4 else nasty(rng)
        return


def kaldi(rng: random.Random, audio: list[Path], attacked: bool) -> dict[str, bytes]:
    """A Kaldi folder."""
    names = [path.stem for path in audio]
    files = {
        "wav.scp": [[name, str(path)] for name, path in zip(names, audio)],
        "text": [[f"{name}-u", text] for name, text in zip(names, WORDS)],
        "segments": [[f"{name}-u", name, "0.1", "0.4"] for name in names],
        "utt2spk": [[f"{name}-u", "speaker"] for name in names],
    }
    for _ in range(rng.randint(1, 4) if attacked else 0):
        line = rng.choice(files[rng.choice(list(files))])
        line[rng.randrange(len(line))] = nasty(rng)
    return {k: as_bytes("".join(" ".join(line) + "\n" for line in v)) for k, v in files.items()}


def layout(rng: random.Random, audio: list[Path], attacked: bool) -> dict[str, bytes]:
    """A transcript in LibriSpeech layout; the audio lies beside it."""
    lines = [[path.stem, text] for path, text in zip(audio, WORDS)]
    for _ in range(rng.randint(1, 3) if attacked else 0):
        rng.choice(lines)[rng.randrange(2)] = nasty(rng)
    text = rng.choice(("\n", "\r\n", "\r")).join(" ".join(line) for line in lines)
    if attacked and rng.random() < 0.2:
        return {"1-2.trans.txt": text.encode(rng.choice(("utf-16", "utf-8")), "ignore")}
    return {"1-2.trans.txt": as_bytes(text)}


def long_attacks(audio: list[Path]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Attacks of many megabytes, which take seconds to make and to read."""
    name, end = audio[0].stem, "\n"
    yield "a line of 20 MB", {"1-2.trans.txt": as_bytes(f"{name} {'WORD ' * 4_000_000}{end}")}
    yield "20 MB of white space", {"1-2.trans.txt": b" \t" * 10_000_000}
    yield "a million lines", {"1-2.trans.txt": b"x y\n" * 1_000_000}
    many = {f"{i:x}": i for i in range(200_000)}
    yield "200,000 keys", {"train.jsonl": as_bytes(json.dumps(many) + end)}
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=1) as table:
        table.write(b'{"audio": "')
        for _ in range(1500):  # never all of it in this process
            table.write(b"a" * 1_000_000)
        table.write(b'"}')
    yield "a manifest that grows 200-fold", {"train.jsonl.gz": bomb.getvalue()}


def short_attacks(audio: list[Path]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Other attacks that no chance would find."""
    name, end = audio[0].stem, "\n"
    marks = "a" + "\u0301\u0327" * 400_000
    yield "a line of marks", {"1-2.trans.txt": as_bytes(f"{name} {marks}{end}")}
    yield "an id of marks", {"1-2.trans.txt": as_bytes(f"{marks} WORD{end}")}
    yield "zeros", {"1-2.trans.txt": bytes(1_000_000)}
    yield "an empty table", {"train.tsv": b""}
    yield "a table of one column", {"train.csv": b"text\n" + b"a\n" * 10}
    yield "a cell of 1 MB", {"train.csv": b"audio,text\na.wav," + b"W" * 1_000_000 + b"\n"}
    yield "an open quote", {"train.csv": b'audio,text\na.wav,"' + b"W\n" * 100_000}
    command = (
        '{"id": "r", "sources": [{"type": "command", "channels": [0], "source": "touch marker"}]'
    )
    recording = command + ', "sampling_rate": 16000, "num_samples": 8000, "duration": 0.5}'
    segment = (
        '{"id": "s", "recording_id": "r", "start": 0, "duration": 0.5, "channel": 0, "text": "A"}'
    )
    cut = (
        '{"id": "c", "start": 0, "duration": 0.5, "channel": 0, "type": "MonoCut", '
        f'"supervisions": [{segment}], "recording": {recording}}}'
    )
    yield "a command as a recording", {"cuts.jsonl": as_bytes(cut)}
    yield "a command of Kaldi", {"wav.scp": b"u touch marker |\n", "text": b"u A\n"}


def hostile_splits(folder: Path, rng: random.Random, count: int) -> Iterator[tuple[str, Path]]:
    """Writes so many splits, one after the other; yields what each is, and its path."""
    audio = write_audio(folder / "audio")
    certain = list(short_attacks(audio))
    if count // 3 < len(certain):
        certain = rng.sample(certain, count // 3)
    else:
        certain += long_attacks(audio)
    for number in range(count):
        attacked = rng.random() < 0.7
        if number < len(certain):
            name, files = certain[number]
        else:
            maker = rng.choice((table, json_lines, lhotse_lines, kaldi, layout))
            made = maker(rng, audio, attacked)
            files = dict([made]) if isinstance(made, tuple) else made
            name = f"{maker.__name__} {number}, {'nasty' if attacked else 'damaged'}"
            if not attacked:
                which = rng.choice(list(files))
                files[which] = damaged(rng, files[which])
        below = folder / str(number)
        below.mkdir()
        for called, data in files.items():
            (below / called).write_bytes(data)
        if any(called.endswith(".trans.txt") for called in files):
            for path in audio:
                (below / path.name).hardlink_to(path)
        first = next(iter(files))
        yield name, below / first if "json" in first or first.endswith("sv") else below
