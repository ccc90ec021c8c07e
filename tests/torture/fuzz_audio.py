"""Audio files made to attack: real ones that are damaged at random, and headers that lie."""

import contextlib
import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from tests.torture.mutate import damaged
from utils.ffmpeg import MissingFfmpeg, ffmpeg

RATE = 16000
FORMATS = {  # by suffix: the format and the subtype that soundfile writes
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "rf64": ("RF64", "PCM_24"),
    "w64": ("W64", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "ULAW"),
    "caf": ("CAF", "PCM_16"),
}


def real_files(folder: Path) -> dict[str, bytes]:
    """A second of sound in every format that libsndfile writes, by suffix."""
    time = np.arange(RATE) / RATE
    samples = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.01 * np.sin(2 * np.pi * 3000 * time)
    found = {}
    for suffix, (kind, subtype) in FORMATS.items():
        path = folder / f"real.{suffix}"
        soundfile.write(path, samples, RATE, format=kind, subtype=subtype)
        found[suffix] = path.read_bytes()
    return found


def wav(
    data: bytes,
    channels: int = 1,
    rate: int = RATE,
    bits: int = 16,
    kind: int = 1,
    says: int | None = None,
) -> bytes:
    """A WAV whose header says anything. ``says``: how many bytes of samples; None: the truth."""
    align = channels * bits // 8 % 65536
    length = len(data) if says is None else says
    form = struct.pack(
        "<HHIIHH", kind, channels % 65536, rate, rate * align % 2**32, align, bits % 65536
    )
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", length)
    return b"RIFF" + struct.pack("<I", (len(head) + len(data)) % 2**32) + head + data


def lies() -> Iterator[tuple[str, bytes]]:
    """Headers that lie, and samples that are none, each with its suffix; what it is stands in
    front."""
    data = np.sin(np.arange(8000)).astype("<f4")
    pcm = (data * 9000).astype("<i2").tobytes()
    for channels in (0, 2, 255, 1024, 65535):
        yield f"channels {channels}.wav", wav(pcm, channels=channels)
    for rate in (0, 1, 2, 7, 999, 11127, 44101, 47999, 191999, 2**24, 2**31 - 1, 2**32 - 1):
        yield f"rate {rate}.wav", wav(pcm, rate=rate)
    yield "rate 2 GHz and 1024 channels.wav", wav(pcm * 8, channels=1024, rate=2**31 - 1)
    yield "rate 1 and long.wav", wav(bytes(2_000_000), rate=1, bits=8)
    for bits in (0, 1, 7, 12, 64, 65535):
        yield f"bits {bits}.wav", wav(pcm, bits=bits)
    for says in (0, 1, 10**9, 2**31, 2**32 - 1):
        yield f"says {says} bytes.wav", wav(pcm, says=says)
    for kind in (0, 2, 3, 6, 7, 17, 49, 85, 65534, 65535):
        yield f"coding {kind}.wav", wav(pcm, kind=kind)
    for name, value in (("NaN", np.nan), ("inf", np.inf), ("huge", 3e38), ("tiny", 1e-40)):
        bad = data.copy()
        bad[5000:5010] = value
        yield f"{name}.wav", wav(bad.tobytes(), bits=32, kind=3)
    yield "nothing.wav", b""
    yield "one byte.wav", b"R"
    yield "zeros.wav", bytes(100_000)
    yield "zeros.mp3", bytes(100_000)
    yield "ID3 that says 256 MiB.mp3", b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(100)
    yield "raw.raw", pcm
    yield "no suffix", wav(pcm)
    yield "playlist.m4a", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    yield "concat.mka", b"ffconcat version 1.0\nfile '/etc/passwd'\n"
    yield "web page.flac", b"<html><body>404 not found</body></html>"


def hidden_silence(blocks: int) -> bytes:
    """A FLAC of 65535 zeros in every 12 bytes or so: what decodes to far more than it is."""
    streaminfo = struct.pack(">HH", 65535, 65535) + bytes(6)
    # 20 bits of rate, 3 of channels - 1, 5 of bits - 1, 36 of samples (0: not known)
    streaminfo += (RATE << 44 | 0 << 41 | 15 << 36).to_bytes(8, "big") + bytes(16)
    out = [b"fLaC\x80" + struct.pack(">I", len(streaminfo))[1:] + streaminfo]
    for number in range(blocks):
        coded = chr(number).encode("utf-8") if number < 0xD800 else None
        if coded is None:
            break
        head = b"\xff\xf8\x70\x08" + coded + struct.pack(">H", 65534)
        frame = head + bytes([_crc(head, 0x07, 8)]) + b"\x00\x00\x00"  # a constant subframe of 0
        out.append(frame + struct.pack(">H", _crc(frame, 0x8005, 16)))
    return b"".join(out)


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    value, top, mask = 0, 1 << bits - 1, (1 << bits) - 1
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & mask
    return value


def hostile_files(folder: Path, rng: random.Random, count: int) -> Iterator[tuple[str, Path]]:
    """Writes so many files, one after the other; yields what each is, and its path."""
    real = real_files(folder)
    fixed = list(lies()) + [("silence of 6 minutes in 1 kB.flac", hidden_silence(90))]
    with contextlib.suppress(MissingFfmpeg):
        m4a = folder / "real.m4a"
        command = [ffmpeg(), "-v", "error", "-i", folder / "real.wav", "-c:a", "aac", m4a]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        real["m4a"] = m4a.read_bytes()
    if count < len(fixed):
        fixed = rng.sample(fixed, count // 2)
    for number in range(count):
        if number < len(fixed):
            name, data = fixed[number]
        else:
            suffix = rng.choice(list(real))
            data = damaged(rng, real[suffix], list(real.values()))
            name = f"damaged {number}.{suffix if rng.random() < 0.8 else rng.choice(list(real))}"
        path = folder / f"{number}" / name
        path.parent.mkdir()
        path.write_bytes(data)
        yield name, path
