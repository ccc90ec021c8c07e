"""Files that are made to run something, to write elsewhere, or to grow: checkpoints, exported
folders, archives, lists of subnets."""

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PICKLED = ("plain pickle", "old torch", "torch")  # the forms that a checkpoint can have


class _Run:
    """What makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.system, (f"touch '{self.marker}'",)


def write_pickle(path: Path, marker: Path, form: str) -> None:
    """Writes a checkpoint that would make ``marker``."""
    import torch  # heavy

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"model": {}, "config": {}, "run": _Run(marker)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "torch")


def write_growing(path: Path) -> None:
    """Writes a checkpoint of 3 MB whose one tensor has 3 GB of zeros."""
    import torch

    plain = path.with_name("plain.pt")
    torch.save({"model": torch.zeros(4)}, plain)
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            if not name.endswith("data/0"):
                target.writestr(name, source.read(name))
                continue
            with target.open(name, "w", force_zip64=True) as out:
                for _ in range(3000):
                    out.write(bytes(1 << 20))


def write_export(folder: Path) -> Path:
    """Writes an exported folder as stage 10 does."""
    from tests.helpers import tiny_config
    from tests.recognizers import SMALL, talkative, write_exported

    config = tiny_config()
    return write_exported(folder, config, talkative(config), SMALL)


def hostile_exports(good: Path, folder: Path, marker: Path) -> Iterator[tuple[str, Path]]:
    """Copies of an exported folder with one file of each exchanged; the first is as it was."""
    run = f"!!python/object/apply:os.system ['touch {marker}']"
    conf = (good / "conf.yaml").read_text()
    facts = json.loads((good / "export.json").read_text())
    huge = "h0-99999f0-99999 " * 1000
    attacks: dict[str, tuple[str, bytes | Path]] = {
        "nothing changed": ("export.json", json.dumps(facts).encode()),
        "pickle as weights": ("model.safetensors", pickle.dumps(_Run(marker))),
        "pickle as BPE model": ("bpe.model", pickle.dumps(_Run(marker))),
        "python tag as conf": ("conf.yaml", run.encode()),
        "python tag as name": ("conf.yaml", conf.replace("name: ", f"name: {run} # ", 1).encode()),
        "name that leads out": ("export.json", json.dumps(facts | {"name": "../../x"}).encode()),
        "endless architecture": (
            "export.json",
            json.dumps(facts | {"architecture": huge}).encode(),
        ),
        "header of weights that lies": ("model.safetensors", b"\xff" * 7 + b"\x7f{}"),
        "weights from elsewhere": ("model.safetensors", Path("/dev/zero")),
        "facts without an end": ("export.json", b'{"name": ' + b"[" * 100_000),
    }
    for key, value in (("dim", 100_000), ("ffn_dim", 10**9), ("dim", -1)):
        changed = "\n".join(
            f"  {key}: {value}" if line.startswith(f"  {key}:") else line
            for line in conf.split("\n")
        )
        attacks[f"conf with {key} {value}"] = ("conf.yaml", changed.encode())
    for number, (name, (file, content)) in enumerate(attacks.items()):
        target = folder / f"export-{number}"
        shutil.copytree(good, target)
        (target / file).unlink()
        if isinstance(content, Path):
            (target / file).symlink_to(content)
        else:
            (target / file).write_bytes(content)
        yield name, target


def hostile_subnets(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of subnets whose names would be paths, or whose nets fill the memory."""
    good = {"encoder_params": 1, "total_params": 1, "macs_per_second": 1, "how": "x"}
    entries: list[dict[str, Any]] = [
        *(
            {"name": name, "architecture": "h0f0"}
            for name in ("../../out", "/tmp/out", "..", "", "a/b", "a\0b", "x" * 300)
        ),
        {"name": "a", "architecture": "h0-999999999999"},
        {"name": "a", "architecture": "h0-99999 " * 1000},
        {"name": "a", "architecture": "h" + "0," * 500_000 + "0"},
        {"name": "a", "architecture": "h" + "9" * 5000},
    ]
    for number, entry in enumerate(entries):
        path = folder / f"subnets-{number}.json"
        path.write_text(json.dumps({"subnets": [good | entry]}))
        name, net = entry["name"][:20], entry["architecture"][:20]
        yield f"subnet {name!r} of architecture {net}", path


def hostile_archives(folder: Path, outside: Path) -> Iterator[tuple[str, Path]]:
    """Archives that stand for LibriSpeech's; the first is a good one."""
    inside = "LibriSpeech/dev-clean-2/"
    link: dict[str, Any] = {"type": tarfile.SYMTYPE, "linkname": str(outside)}
    up = {"type": tarfile.SYMTYPE, "linkname": "../../../../../.."}
    members: dict[str, list[tuple[str, dict[str, Any], bytes]]] = {
        "good archive": [(inside + "a.txt", {}, b"a")],
        "name that leads up": [("../../../escaped", {}, b"a")],
        "absolute name": [(str(outside / "escaped"), {}, b"a")],
        "link that leads out": [(inside + "out", link, b""), (inside + "out/escaped", {}, b"a")],
        "link that leads up": [(inside + "out", up, b""), (inside + "out/escaped", {}, b"a")],
        "hard link out": [
            (inside + "h", {"type": tarfile.LNKTYPE, "linkname": str(outside / "there")}, b""),
            (inside + "h", {}, b"changed"),
        ],
        "device": [(inside + "zero", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}, b"")],
        "pipe": [(inside + "pipe", {"type": tarfile.FIFOTYPE}, b"")],
        "200 MB in 200 kB": [(inside + f"{i}", {}, bytes(20_000_000)) for i in range(10)],
    }
    for number, (name, entries) in enumerate(members.items()):
        path = folder / f"{number}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for called, values, data in entries:
                member = tarfile.TarInfo(called)
                member.size = len(data)
                for key, value in values.items():
                    setattr(member, key, value)
                archive.addfile(member, io.BytesIO(data))
        yield name, path
    good = (folder / "0.tar.gz").read_bytes()
    for name, data in (
        ("half an archive", good[: len(good) // 2]),
        ("web page as archive", b"<html>404</html>"),
        ("empty archive", b""),
        ("damaged archive", good[:20] + bytes(20) + good[40:]),
    ):
        path = folder / f"{name}.tar.gz"
        path.write_bytes(data)
        yield name, path
