"""sherpa-onnx on exported folders, against torch on the same samples."""

import difflib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from egs.librispeech.todm.client import Client, Recognized, with_tail
from egs.librispeech.todm.experiment import Experiment
from egs.librispeech.todm.export import write_subnet
from egs.librispeech.todm.features import filterbank
from egs.librispeech.todm.quantize import quantize
from egs.librispeech.todm.recognizer import Recognizer, Transcript
from egs.librispeech.todm.subnet import Subnet
from egs.librispeech.todm.subnets_file import describe_subnet
from local.espeak import speak
from tests.conftest import ROOT
from tests.helpers import tiny_config
from tests.recognizers import RATE, SMALL, babble, talkative, tokenizer
from utils.stages import StageError

CHUNK = 32


@dataclass(frozen=True)
class Exported:
    """A random model that talks, a subnet of it in a folder with all files of stage 10 but the reports."""

    folder: Path
    experiment: Experiment
    entry: dict

    def recognizer(self, method: str) -> Recognizer:
        e = self.experiment
        return Recognizer(e.config, e.model, e.tokenizer, [self.entry], 4 if method == "beam" else 0, CHUNK)


def exported(folder: Path, direction: str) -> Exported:
    config = tiny_config(f"model.direction={direction}", f"export.chunk_frames={CHUNK}")
    experiment = Experiment(config, talkative(config), tokenizer(), 0, 0.0, 0.0, "random weights")
    entry = describe_subnet(config, tokenizer().vocab_size, Subnet.parse(SMALL), "by hand")
    write_subnet(folder, config, experiment, entry)
    for part in ["encoder", *(["streaming-encoder"] if direction == "causal" else [])]:
        quantize(folder / f"{part}.onnx", folder / f"{part}.int8.onnx")
    return Exported(folder, experiment, entry)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Exported]:
    """By direction."""
    return {direction: exported(tmp_path_factory.mktemp(direction), direction) for direction in ("bidirectional", "causal")}


@pytest.fixture(scope="module")
def utterances() -> list[np.ndarray]:
    """Of different lengths: speech of espeak-ng, some of it cut off, babble, noise, a rising tone."""
    spoken = []
    for text, voice in [("how much wood would a woodchuck chuck", "en-us+f3"), ("a bird sang to the sun", "en-us+m1")]:
        samples, rate = speak(text, voice)
        spoken.append(soxr.resample(samples, rate, RATE).astype(np.float32))
    time = np.arange(2 * RATE) / RATE
    tone = (0.3 * np.sin(2 * np.pi * (200 + 1500 * time) * time)).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, round(1.37 * RATE)).astype(np.float32)
    return [spoken[0], spoken[1], spoken[0][5000:], babble(3.21), babble(9.5, seed=5), noise, tone, np.concatenate([spoken[1], noise, spoken[0]])]


def assert_same(found: list[Recognized], expected: list[Transcript]) -> None:
    assert [r.text for r in found] == [t.text for t in expected]
    for r, t in zip(found, expected):
        assert r.timestamps == pytest.approx(t.timestamps, abs=1e-3)


def assert_telling(expected: list[Transcript]) -> None:
    """Expectations that a wrong client would hardly meet: something everywhere, neither all blank nor all symbols, many different ones."""
    frames = sum(t.seconds / 0.04 for t in expected)
    assert all(t.text for t in expected) and 0.15 * frames < sum(len(t.tokens) for t in expected) < 0.9 * frames
    assert len({token for t in expected for token in t.tokens}) > 12


@pytest.mark.parametrize("method", ["greedy", "beam"])
@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
def test_whole_utterances_are_recognised_as_in_torch(models, utterances, direction, method):
    model = models[direction]
    expected = model.recognizer(method).transcribe_batch(utterances)
    assert_telling(expected)
    client = Client(model.folder, method=method)
    assert_same(client.decode(utterances), expected)
    assert_same([client.decode([samples])[0] for samples in utterances], expected)
    assert_same(client.decode(utterances[::-1]), expected[::-1])


def frames_of_whole_chunks(frames: int) -> int:
    """Encoder frames that the client decodes of so many filterbank frames: it waits for more than a chunk and its look-ahead of 3."""
    chunks = 0
    while chunks * CHUNK + CHUNK + 3 < frames:
        chunks += 1
    return chunks * CHUNK // 4


@torch.no_grad()
def streamed_in_torch(model: Exported, method: str, samples: np.ndarray, frames: int | None = None) -> Transcript:
    """The whole utterance through the encoder at once, and the search over as much of it as the client decodes."""
    recognizer, features = model.recognizer(method), filterbank(samples)
    encoded, _ = recognizer.model.encoder(features[None], torch.tensor([len(features)]), Subnet.parse(SMALL))
    count = frames_of_whole_chunks(len(features) if frames is None else frames)
    search = recognizer.search(1)
    search.accept(encoded[:, :count], torch.tensor([count]))
    return recognizer.transcript(search.hypotheses()[0], len(samples) / RATE)


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_streams_are_recognised_as_whole_utterances_in_torch(models, utterances, method):
    model = models["causal"]
    expected = [streamed_in_torch(model, method, np.concatenate([samples, np.zeros(RATE, np.float32)])) for samples in utterances]
    assert_telling(expected)
    client = Client(model.folder, method=method, streaming=True)
    assert_same(client.decode(utterances), expected)
    assert_same([client.decode([samples])[0] for samples in utterances], expected)


def test_the_tail_is_long_enough_for_the_last_words(models, utterances):
    """Every frame of the utterance itself is decoded."""
    for samples in utterances:
        assert frames_of_whole_chunks(len(filterbank(with_tail(samples)))) * 4 >= len(filterbank(samples))
        np.testing.assert_array_equal(with_tail(samples)[: len(samples)], samples)
        assert with_tail(samples).dtype == np.float32 and not with_tail(samples)[len(samples) :].any()


@pytest.mark.parametrize("piece", [160, 1777])
def test_partial_texts_are_what_was_heard_so_far(models, utterances, piece):
    """A frame is ready 280 samples after its beginning: half a shift and half a window."""
    model, samples = models["causal"], utterances[0]
    whole = with_tail(samples)
    heard, texts = zip(*Client(model.folder, streaming=True).partial(samples, piece))
    assert heard == (*range(piece, len(whole), piece), len(whole))
    for count, text in list(zip(heard, texts))[:: 1 if piece > 1000 else 10]:
        ready = (count - 280) // 160 + 1 if count >= 280 else 0
        assert text.strip() == streamed_in_torch(model, "greedy", whole, ready).text
    assert len(set(texts)) > 4


@pytest.mark.parametrize("method", ["greedy", "beam"])
@pytest.mark.parametrize("direction, streaming", [("bidirectional", False), ("causal", False), ("causal", True)])
def test_int8_graphs_alone_are_enough_and_say_about_the_same(models, utterances, tmp_path, direction, streaming, method):
    fp32 = Client(models[direction].folder, "fp32", method, streaming).decode(utterances)
    for path in models[direction].folder.iterdir():
        if path.suffix != ".onnx" or path.name.endswith(".int8.onnx"):
            shutil.copy(path, tmp_path)
    int8 = Client(tmp_path, "int8", method, streaming).decode(utterances)
    assert all(r.text and r.timestamps == sorted(r.timestamps) for r in int8)
    assert difflib.SequenceMatcher(None, *(" / ".join(r.text for r in found) for found in (fp32, int8)), autojunk=False).ratio() > 0.5
    with pytest.raises(StageError, match="encoder.onnx"):
        Client(tmp_path, "fp32", method, streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_missing_file_is_named(models, tmp_path, precision, streaming):
    end = "onnx" if precision == "fp32" else "int8.onnx"
    folder = shutil.copytree(models["causal"].folder, tmp_path / "copy")
    for name in [f"streaming-encoder.{end}" if streaming else f"encoder.{end}", f"decoder.{end}", f"joiner.{end}", "tokens.txt"]:
        (folder / name).rename(tmp_path / "aside")
        with pytest.raises(StageError, match=name.replace(".", r"\.")) as error:
            Client(folder, precision, streaming=streaming)
        assert str(folder) in str(error.value) and "stage 10" in str(error.value).lower()
        (tmp_path / "aside").rename(folder / name)
    Client(folder, precision, streaming=streaming)
    with pytest.raises(StageError, match="joiner"):
        Client(tmp_path / "no such folder", precision, streaming=streaming)


IN_A_PROCESS = """
import json, sys
import numpy as np
from pathlib import Path
from egs.librispeech.todm.client import Client

audio = np.load(sys.argv[1])
batches = [list(audio.files), *([name] for name in audio.files)] if sys.argv[2] == "edges" else [[]]
found = []
for folder, streaming in ((sys.argv[3], False), (sys.argv[4], False), (sys.argv[4], True)):
    for precision in ("fp32", "int8"):
        for method in ("greedy", "beam"):
            client = Client(Path(folder), precision, method, streaming)
            for names in batches:
                results = client.decode([audio[name] for name in names])
                found.append([Path(folder).name, streaming, precision, method, {n: [r.text, r.timestamps] for n, r in zip(names, results, strict=True)}])
print(json.dumps(found))
"""


def in_a_process(models: dict[str, Exported], what: str, path: Path, **audio: np.ndarray) -> list:
    """sherpa-onnx ends the process when something goes wrong: not this one."""
    np.savez(path, **audio)
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS, path, what, models["bidirectional"].folder, models["causal"].folder], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


def test_silence_and_next_to_nothing_give_text(models, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 12000).astype(np.float32)
    audio = {"nothing": noise[:0], "one": noise[:1], "short": noise[:800], "a frame": noise[:1120], "silence": np.zeros(RATE, np.float32), "noise": noise}
    found = in_a_process(models, "edges", tmp_path / "audio.npz", **audio)
    assert len(found) == 3 * 2 * 2 * 7
    expected = {(d, m): dict(zip(audio, models[d].recognizer(m).transcribe_batch(list(audio.values())))) for d in models for m in ("greedy", "beam")}
    assert any(t.text for by_name in expected.values() for t in by_name.values())
    for folder, streaming, precision, method, by_name in found:
        direction = next(d for d in models if folder == models[d].folder.name)
        for name, (text, timestamps) in by_name.items():
            if not streaming and (precision == "fp32" or name in ("nothing", "one", "short")):
                right = expected[direction, method][name]
                assert text == right.text and timestamps == pytest.approx(right.timestamps, abs=1e-3)
            assert isinstance(text, str) and bool(timestamps) >= bool(text)
    assert not any(expected[key][name].text for key in expected for name in ("nothing", "one", "short"))


def test_no_utterances_give_no_texts(models, tmp_path):
    assert all(by_name == {} for *_, by_name in in_a_process(models, "none", tmp_path / "audio.npz"))


def test_the_folders_own_torch_model_says_the_same(models, utterances):
    """model.safetensors and the graphs are one model."""
    for model in models.values():
        assert_same(Client(model.folder).decode(utterances), Recognizer.load(model.folder).transcribe_batch(utterances))


@pytest.mark.parametrize("mode", ["offline", "streaming"])
def test_the_benchmark_by_hand(models, utterances, tmp_path, mode):
    """The first token is shown when its chunk is complete: 37 pieces of 10 ms (36 frames) after it began, so at least 370 - 280 ms after it."""
    soundfile.write(tmp_path / "speech.wav", utterances[0], RATE)
    command = [sys.executable, "-m", "egs.librispeech.todm.benchmark_client", models["causal"].folder, tmp_path / "speech.wav", "--mode", mode]
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert 0 < figures["real_time_factor"] < 5 and figures["load_seconds"] > 0 and 0 < figures["model_mib"] <= figures["peak_mib"] < 1000
    if mode == "streaming":
        assert figures["latency_ms"] == pytest.approx(figures["real_time_factor"] * 10 * CHUNK)
        (result,) = Client(models["causal"].folder, streaming=True).decode([utterances[0]])
        chunk = int(result.timestamps[0] / 0.04) // 8
        shown = 320 * chunk + 370
        assert shown <= figures["first_token_ms"] + 1000 * result.timestamps[0] < shown + 500
    else:
        assert figures["latency_ms"] == pytest.approx(1000 * figures["real_time_factor"] * len(utterances[0]) / RATE, rel=1e-3)
        assert "first_token_ms" not in figures
