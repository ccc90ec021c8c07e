import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from utils.audio import AudioError, pcm_pieces, read_pieces

RATE = 16000


def sine(frequency: float, seconds: float, rate: int, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Exact in 16 bits."""
    return np.random.default_rng(seed).integers(-8000, 8000, round(seconds * rate)) / 32768


def read(path: Path) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *read_pieces(path)])


@pytest.mark.parametrize(
    "suffix, subtype",
    [
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "FLOAT"),
        ("flac", "PCM_16"),
        ("flac", "PCM_24"),
    ],
)
@pytest.mark.parametrize("seconds", [0.05, 0.5, 1.2345])
def test_samples_at_16_khz_come_back_as_they_were(tmp_path, suffix, subtype, seconds):
    samples = noise(seconds)
    soundfile.write(tmp_path / f"a.{suffix}", samples, RATE, subtype=subtype)
    got = read(tmp_path / f"a.{suffix}")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, samples)


def test_channels_are_averaged(tmp_path):
    left, right, third = (noise(0.7, seed=i) for i in range(3))
    soundfile.write(tmp_path / "2.wav", np.stack([left, right], axis=1), RATE)
    soundfile.write(tmp_path / "3.flac", np.stack([left, right, third], axis=1), RATE)
    np.testing.assert_allclose(read(tmp_path / "2.wav"), (left + right) / 2, atol=1e-7)
    np.testing.assert_allclose(read(tmp_path / "3.flac"), (left + right + third) / 3, atol=1e-7)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_a_sine_keeps_its_pitch_level_and_length(tmp_path, rate, channels, suffix):
    soundfile.write(
        tmp_path / f"a.{suffix}", np.stack([sine(1000, 2.6, rate)] * channels, axis=1), rate
    )
    got = read(tmp_path / f"a.{suffix}")
    assert abs(len(got) - 2.6 * RATE) <= 1
    np.testing.assert_allclose(
        got[800:-800], sine(1000, 2.6, RATE)[: len(got)][800:-800], atol=2e-3
    )  # phase too: no delay
    spectrum = np.abs(np.fft.rfft(got[: 2 * RATE] * np.hanning(2 * RATE)))
    assert (
        spectrum.argmax() == 2000
        and np.delete(spectrum, range(1990, 2011)).max() < 1e-3 * spectrum.max()
    )


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
@pytest.mark.parametrize("seconds", [0.01, 0.3, 3.333])
def test_resampling_in_pieces_is_resampling_at_once(tmp_path, rate, seconds):
    samples = noise(seconds, rate)
    soundfile.write(tmp_path / "a.wav", samples, rate)
    expected = soxr.resample(samples.astype(np.float32), rate, RATE)
    np.testing.assert_allclose(read(tmp_path / "a.wav"), expected, atol=1e-5)


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_compressed_files_are_read(tmp_path, suffix):
    soundfile.write(tmp_path / f"a.{suffix}", sine(1000, 2.0, RATE), RATE)
    got = read(tmp_path / f"a.{suffix}")
    assert abs(len(got) - 2 * RATE) <= 2400
    assert np.abs(np.fft.rfft(got[4000:20000] * np.hanning(16000))).argmax() == 1000


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_pieces_are_short(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", noise(5, rate), rate)
    sizes = [len(piece) for piece in read_pieces(tmp_path / "a.wav")]
    assert len(sizes) >= 10 - 4 and max(sizes) <= RATE


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_wav_that_is_a_header_only_is_no_audio_and_no_error(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), rate)
    assert (tmp_path / "a.wav").stat().st_size == 44
    assert len(read(tmp_path / "a.wav")) == 0


def refused(path: Path) -> str:
    with pytest.raises(AudioError) as raised:
        read(path)
    assert str(path) in str(raised.value)
    return str(raised.value).replace(str(path), "")


def test_what_is_no_audio_is_refused_by_name(tmp_path):
    assert "no such file" in refused(tmp_path / "missing.wav")
    assert "no such file" in refused(tmp_path)
    (tmp_path / "empty.wav").write_bytes(b"")
    assert "empty" in refused(tmp_path / "empty.wav")
    (tmp_path / "text.wav").write_text("this is not audio")
    assert "not audio" in refused(tmp_path / "text.wav")
    (tmp_path / "text.flac").write_text("fLaC this is not audio")
    assert "not audio" in refused(tmp_path / "text.flac")


def test_a_name_that_no_file_can_have_is_refused_too(tmp_path):
    refused(tmp_path / ("a" * 300 + ".wav"))


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("part", [0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_a_truncated_flac_is_refused(tmp_path, rate, part):
    soundfile.write(tmp_path / "a.flac", noise(3, rate), rate)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[: int(part * len(content))])
    assert any(word in refused(tmp_path / "a.flac") for word in ("damaged", "truncated"))


def test_a_flac_without_its_last_frame_is_refused(tmp_path):
    """Cut between two frames, so that every frame that is left is whole."""
    samples = noise(1)
    soundfile.write(tmp_path / "a.flac", samples, RATE)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(
        content[: content.rfind(content[content.find(b"\xff\xf8") :][:3])]
    )
    refused(tmp_path / "a.flac")


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_wav_is_refused(tmp_path, rate, part, subtype):
    soundfile.write(tmp_path / "a.wav", noise(3, rate), rate, subtype=subtype)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[: int(part * len(content))])
    assert any(word in refused(tmp_path / "a.wav") for word in ("damaged", "truncated"))


def test_a_wav_cut_inside_its_header_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(1), RATE)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:30])
    refused(tmp_path / "a.wav")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF024])
def test_a_wav_from_a_pipe_is_read_to_its_end(tmp_path, size):
    """ffmpeg and sox do not know the length when they write the header: theirs promises 2 or 4
    GB."""
    samples = noise(1.3)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    assert content[36:40] == b"data"
    content[4:8] = content[40:44] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(content)
    np.testing.assert_array_equal(read(tmp_path / "a.wav"), samples)


def test_a_flac_from_a_pipe_is_read_to_its_end(tmp_path):
    """Its header says 0 samples: not known. The 36 bits are at byte 21 of the file."""
    samples = noise(1.3)
    soundfile.write(tmp_path / "a.flac", samples, RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    assert int.from_bytes(content[21:26], "big") & 0xFFFFFFFFF == len(samples)
    content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])
    (tmp_path / "a.flac").write_bytes(content)
    np.testing.assert_array_equal(read(tmp_path / "a.flac"), samples)


class Dripping(io.RawIOBase):
    """A stream that gives so many bytes at a time, whatever is asked for, and remembers what was
    asked for."""

    def __init__(self, content: bytes, sizes: list[int]):
        self.content, self.sizes, self.asked = content, list(sizes), []

    def read1(self, size: int) -> bytes:
        self.asked.append(size)
        count = min(self.sizes.pop(0) if self.sizes else size, size)
        got, self.content = self.content[:count], self.content[count:]
        return got

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("read waits until it has all that was asked for")


def test_pcm_is_16_bit_little_endian():
    values = [0, 1, -1, 256, -256, 12345, 32767, -32768]
    (got,) = pcm_pieces(io.BytesIO(struct.pack("<8h", *values)), RATE)
    assert got.dtype == np.float32 and got.tolist() == [v / 32768 for v in values]


@pytest.mark.parametrize("sizes", [[1] * 50, [3, 5, 7, 1, 1, 1, 2], [3199, 3201, 1], []])
@pytest.mark.parametrize("rest", [b"", b"\x7f"])
def test_pieces_may_split_a_sample_and_a_last_odd_byte_is_dropped(sizes, rest):
    samples = noise(0.5)
    content = (samples * 32768).astype("<i2").tobytes() + rest
    got = list(pcm_pieces(Dripping(content, sizes), RATE))
    np.testing.assert_array_equal(np.concatenate(got), samples)


def test_half_a_sample_is_none():
    assert (
        sum(map(len, pcm_pieces(io.BytesIO(b"\x01"), RATE)))
        == sum(map(len, pcm_pieces(io.BytesIO(b""), RATE)))
        == 0
    )


def test_pcm_is_handed_on_as_it_arrives():
    stream = Dripping(bytes(100_000), [400, 600])
    pieces = pcm_pieces(stream, RATE)
    assert len(next(pieces)) == 200 and len(stream.asked) == 1
    assert len(next(pieces)) == 300 and len(stream.asked) == 2
    assert (
        max(stream.asked) <= 2 * RATE // 4
    )  # a quarter of a second at the most, however much is there


@pytest.mark.parametrize("rate", [8000, 44100])
def test_pcm_of_another_rate_is_resampled_over_odd_pieces(rate):
    samples = noise(1.7, rate)
    stream = Dripping((samples * 32768).astype("<i2").tobytes(), [1, 2, 3, 801, 5] * 40)
    expected = soxr.resample(samples.astype(np.float32), rate, RATE)
    np.testing.assert_allclose(np.concatenate(list(pcm_pieces(stream, rate))), expected, atol=1e-5)


def test_a_stream_that_has_only_read_will_do():
    class OnlyRead:
        def __init__(self):
            self.left = [b"\x00\x40\x00", b"\xc0", b""]

        def read(self, size: int) -> bytes:
            return self.left.pop(0)

    assert np.concatenate(list(pcm_pieces(OnlyRead(), RATE))).tolist() == [0.5, -0.5]
