"""sherpa-onnx on exported folders, against torch on the same samples."""

import copy
import difflib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import sherpa_onnx
import soundfile
import soxr
import torch

from local.espeak import speak
from tests.conftest import ROOT
from tests.helpers import tiny_config
from tests.recognizers import RATE, SMALL, babble, talkative, tokenizer
from todm.data.online_features import filterbank
from todm.decoding.recognizer import Recognizer
from todm.decoding.search import start_search
from todm.decoding.transcript import WORD_START, Transcript
from todm.deploy.benchmark_client import measure
from todm.deploy.client import Client, Recognized, with_tail
from todm.deploy.client_check import streamed_texts
from todm.deploy.export import write_subnet
from todm.deploy.onnx_export import export_joiner
from todm.deploy.quantize import quantize
from todm.results.subnets import SubnetEntry
from todm.subnet import Subnet
from todm.supernet.cost import describe_subnet
from todm.training.experiment import Experiment
from utils.errors import UserError
from utils.tokens import BLANK, UNK

pytestmark = pytest.mark.slow  # exports whole nets
CHUNK = 32


@dataclass(frozen=True)
class Exported:
    """A random model that talks, a subnet of it in a folder with all files of stage 10 but the
    reports."""

    folder: Path
    experiment: Experiment
    entry: SubnetEntry

    def recognizer(self, method: str) -> Recognizer:
        e = self.experiment
        return Recognizer(
            e.config, e.model, e.tokenizer, [self.entry], 4 if method == "beam" else 0, CHUNK
        )


def exported(folder: Path, direction: str, *overrides: str) -> Exported:
    config = tiny_config(f"model.direction={direction}", f"export.chunk_frames={CHUNK}", *overrides)
    experiment = Experiment(config, talkative(config), tokenizer(), 0, 0.0, 0.0, "random weights")
    entry = describe_subnet(config, tokenizer().vocab_size, Subnet.parse(SMALL), "by hand")
    write_subnet(folder, config, experiment, entry)
    for part in ["encoder", *(["streaming-encoder"] if direction == "causal" else [])]:
        quantize(folder / f"{part}.onnx", folder / f"{part}.int8.onnx")
    return Exported(folder, experiment, entry)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Exported]:
    """By direction."""
    return {
        direction: exported(tmp_path_factory.mktemp(direction), direction)
        for direction in ("bidirectional", "causal")
    }


@pytest.fixture(scope="module")
def utterances() -> list[np.ndarray]:
    """Of different lengths: speech of espeak-ng, some of it cut off, babble, noise, a rising
    tone."""
    spoken = []
    for text, voice in [
        ("how much wood would a woodchuck chuck", "en-us+f3"),
        ("a bird sang to the sun", "en-us+m1"),
    ]:
        samples, rate = speak(text, voice)
        spoken.append(soxr.resample(samples, rate, RATE).astype(np.float32))
    time = np.arange(2 * RATE) / RATE
    tone = (0.3 * np.sin(2 * np.pi * (200 + 1500 * time) * time)).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, round(1.37 * RATE)).astype(np.float32)
    return [
        spoken[0],
        spoken[1],
        spoken[0][5000:],
        babble(3.21),
        babble(5.5, seed=5),
        noise,
        tone,
        np.concatenate([spoken[1], noise, spoken[0]]),
    ]


def assert_same(found: list[Recognized], expected: list[Transcript]) -> None:
    assert [r.text for r in found] == [t.text for t in expected]
    for r, t in zip(found, expected):
        assert r.timestamps == pytest.approx(t.timestamps, abs=1e-3)


def assert_telling(expected: list[Transcript]) -> None:
    """Expectations that a wrong client would hardly meet: something everywhere, neither all blank
    nor all symbols, many different ones."""
    frames = sum(t.seconds / 0.04 for t in expected)
    assert (
        all(t.text for t in expected)
        and 0.15 * frames < sum(len(t.tokens) for t in expected) < 0.9 * frames
    )
    assert len({token for t in expected for token in t.tokens}) > 12


def test_hotwords_are_heard_more_often_in_sherpa_onnx(models, utterances, tmp_path):
    """bpe.vocab is what the client spells them with."""
    folder = models["bidirectional"].folder
    words = {"TEN", "ON", "SAT", "TO"}  # of the letters that this tokenizer has
    assert all(UNK not in tokenizer().encode(word) for word in words)
    (tmp_path / "hotwords.txt").write_text("".join(f"{word}\n" for word in words))

    def count(**options) -> int:
        recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
            **{part: str(folder / f"{part}.onnx") for part in ("encoder", "decoder", "joiner")},
            tokens=str(folder / "tokens.txt"),
            decoding_method="modified_beam_search",
            **options,
        )
        streams = [recognizer.create_stream() for _ in utterances]
        for stream, samples in zip(streams, utterances):
            stream.accept_waveform(RATE, samples)
        recognizer.decode_streams(streams)
        texts = [stream.result.text.split() for stream in streams]
        return sum(word in words for text in texts for word in text)

    hotwords = {
        "hotwords_file": str(tmp_path / "hotwords.txt"),
        "modeling_unit": "bpe",
        "bpe_vocab": str(folder / "bpe.vocab"),
    }
    assert count(hotwords_score=10.0, **hotwords) > count()


def some_hotwords(seed: int) -> str:
    """Lines of words of one to three letters or pairs of them, each with its boost: many begin as
    others do, end within others or go on where others end."""
    rng = random.Random(seed)
    lines = []
    while len(lines) < 40:
        words = ["".join(rng.choices("THENOSAI", k=rng.randint(1, 3))) for _ in range(3)]
        text = " ".join(words[: rng.choice((1, 1, 2))])
        if UNK not in tokenizer().encode(text):
            lines.append(f"{text} :{rng.uniform(0.5, 3):.2f}\n")
    return "".join(lines)


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
@pytest.mark.parametrize("seed", [0, 1])
def test_hotwords_have_the_same_effect_in_torch_and_in_sherpa_onnx(
    models, direction, seed, tmp_path
):
    """Where the client streams, a hotword that is not complete at the end keeps its bonus."""
    exported, path = models[direction], tmp_path / "hotwords.txt"
    path.write_text(some_hotwords(seed))
    streaming = direction == "causal"
    utterances = [babble(2 + 0.3 * i, seed=i) for i in range(12)]
    recognizer = exported.recognizer("beam")
    without = recognised(recognizer, utterances, streaming)
    recognizer.prefer(path)
    expected = recognised(recognizer, utterances, streaming)
    client = Client(exported.folder, "fp32", "beam", streaming, hotwords=path)
    assert [r.text for r in client.decode(utterances)] == expected
    assert sum(a != b for a, b in zip(without, expected)) > 8


def recognised(recognizer: Recognizer, utterances: list[np.ndarray], streaming: bool) -> list[str]:
    """The texts in torch, whole or streamed with the client's silence."""
    if streaming:
        batch = [(str(i), samples, "") for i, samples in enumerate(utterances)]
        return list(streamed_texts(recognizer, batch).values())
    return [t.text for t in recognizer.transcribe_batch(utterances)]


def test_a_client_takes_hotwords_with_a_beam_alone(models, tmp_path):
    with pytest.raises(UserError, match="hotwords need a transducer and a search with a beam"):
        Client(models["causal"].folder, hotwords=tmp_path / "hotwords.txt")


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_a_blank_penalty_is_the_clients_too(models, utterances, method):
    """More symbols than without it, and the same ones as in torch."""
    model, recognizer = models["causal"], models["causal"].recognizer(method)
    plain = recognizer.transcribe_batch(utterances)
    recognizer.options = replace(recognizer.options, blank_penalty=0.7)
    expected = recognizer.transcribe_batch(utterances)
    assert sum(len(t.tokens) for t in expected) > 1.1 * sum(len(t.tokens) for t in plain)
    assert_same(Client(model.folder, method=method, blank_penalty=0.7).decode(utterances), expected)


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


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_the_tail_is_in_the_offline_graph_and_not_in_the_streaming_one(
    utterances, tmp_path, method
):
    """Torch is held to it in the one as in the other; times go on in the tail, where torch gives
    the end of the audio."""
    model = exported(tmp_path, "causal", "model.tail_frames=47")
    expected = model.recognizer(method).transcribe_batch(utterances)
    found = Client(model.folder, method=method).decode(utterances)
    assert [r.text for r in found] == [t.text for t in expected]
    for r, t in zip(found, expected):
        assert [min(time, round(t.seconds, 2)) for time in r.timestamps] == pytest.approx(
            t.timestamps, abs=1e-3
        )
    assert sum(time > t.seconds for r, t in zip(found, expected) for time in r.timestamps) > 4
    streams = [model.recognizer(method).stream(endpoints=False) for _ in utterances]
    for stream, samples in zip(streams, utterances):
        stream.accept(with_tail(samples, CHUNK))
    assert_same(
        Client(model.folder, method=method, streaming=True).decode(utterances),
        [stream.finish(tail=False) for stream in streams],
    )


def frames_of_whole_chunks(frames: int, chunk: int = CHUNK) -> int:
    """Encoder frames that the client decodes of so many filterbank frames: it waits for more than a
    chunk and its look-ahead of 3."""
    chunks = 0
    while chunks * chunk + chunk + 3 < frames:
        chunks += 1
    return chunks * chunk // 4


@torch.no_grad()
def streamed_in_torch(
    model: Exported, method: str, samples: np.ndarray, count: int | None = None
) -> Transcript:
    """The whole utterance through the encoder at once, and the search over ``count`` frames: as
    many as the client decodes."""
    recognizer, features = model.recognizer(method), filterbank(samples)
    encoded, _ = recognizer.model.encoder(
        features[None], torch.tensor([len(features)]), Subnet.parse(SMALL)
    )
    count = frames_of_whole_chunks(len(features)) if count is None else count
    search = start_search(recognizer.model, 1, torch.device("cpu"), recognizer.options)
    search.accept(encoded[:, :count], torch.tensor([count]))
    return recognizer.transcript(search.hypotheses()[0], len(samples) / RATE)


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_streams_are_recognised_as_whole_utterances_in_torch(models, utterances, method):
    model = models["causal"]
    expected = [
        streamed_in_torch(model, method, with_tail(samples, CHUNK)) for samples in utterances
    ]
    assert_telling(expected)
    client = Client(model.folder, method=method, streaming=True)
    assert_same(client.decode(utterances), expected)
    assert_same([client.decode([samples])[0] for samples in utterances], expected)


@pytest.mark.parametrize("chunk", [4, 32, 100])
def test_the_tail_is_silence_after_which_nothing_is_left(utterances, chunk):
    """Every frame is decoded, so that a torch stream, which decodes an unfinished chunk too,
    decodes no more than the client."""
    for samples in [
        *utterances,
        utterances[0][:0],
        *(utterances[0][: 9000 + 37 * i] for i in range(40)),
    ]:
        tailed = with_tail(samples, chunk)
        np.testing.assert_array_equal(tailed[: len(samples)], samples)
        assert tailed.dtype == np.float32 and not tailed[len(samples) :].any()
        assert RATE - 160 <= len(tailed) - len(samples) <= RATE + 160 * (chunk + 5)
        frames = round(len(tailed) / 160)
        assert frames_of_whole_chunks(frames, chunk) == (frames - 3) // 4


@pytest.mark.parametrize("piece", [160, 1777])
def test_partial_texts_are_what_was_heard_so_far(models, utterances, piece):
    """A frame is ready 280 samples after its beginning: half a shift and half a window."""
    model, samples = models["causal"], utterances[0]
    whole = with_tail(samples, CHUNK)
    heard, texts = zip(*Client(model.folder, streaming=True).partial(samples, piece))
    assert heard == (*range(piece, len(whole), piece), len(whole))
    ready = [
        frames_of_whole_chunks((count - 280) // 160 + 1 if count >= 280 else 0) for count in heard
    ]
    expected = {
        count: streamed_in_torch(model, "greedy", whole, count).text for count in set(ready)
    }
    assert [" ".join(text.split()) for text in texts] == [
        expected[count] for count in ready
    ] and len(set(texts)) > 4


@pytest.mark.parametrize("method", ["greedy", "beam"])
@pytest.mark.parametrize(
    "direction, streaming", [("bidirectional", False), ("causal", False), ("causal", True)]
)
def test_int8_graphs_alone_are_enough_and_say_about_the_same(
    models, utterances, tmp_path, direction, streaming, method
):
    fp32 = Client(models[direction].folder, "fp32", method, streaming).decode(utterances)
    for path in models[direction].folder.iterdir():
        if path.suffix != ".onnx" or path.name.endswith(".int8.onnx"):
            shutil.copy(path, tmp_path)
    int8 = Client(tmp_path, "int8", method, streaming).decode(utterances)
    assert all(r.text and r.timestamps == sorted(r.timestamps) for r in int8)
    assert (
        difflib.SequenceMatcher(
            None, *(" / ".join(r.text for r in found) for found in (fp32, int8)), autojunk=False
        ).ratio()
        > 0.5
    )
    with pytest.raises(UserError, match="encoder.onnx"):
        Client(tmp_path, "fp32", method, streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_missing_file_is_named(models, tmp_path, precision, streaming):
    end = "onnx" if precision == "fp32" else "int8.onnx"
    folder = shutil.copytree(models["causal"].folder, tmp_path / "copy")
    for name in [
        f"streaming-encoder.{end}" if streaming else f"encoder.{end}",
        f"decoder.{end}",
        f"joiner.{end}",
        "tokens.txt",
    ]:
        (folder / name).rename(tmp_path / "aside")
        with pytest.raises(UserError, match=name.replace(".", r"\.")) as error:
            Client(folder, precision, streaming=streaming)
        assert str(folder) in str(error.value) and "stage 10" in str(error.value).lower()
        (tmp_path / "aside").rename(folder / name)
    Client(folder, precision, streaming=streaming)
    with pytest.raises(UserError, match="joiner"):
        Client(tmp_path / "no such folder", precision, streaming=streaming)


IN_A_PROCESS = """
import json, sys
import numpy as np
from pathlib import Path
from todm.deploy.client import Client

audio, found = np.load(sys.argv[1]), []
for folder, *how in json.loads(sys.argv[2]):
    client = Client(Path(folder), *how)
    for names in [list(audio.files), *([name] for name in audio.files)]:
        results = client.decode([audio[name] for name in names])
        found.append({name: [r.text, r.timestamps] for name, r in zip(names, results, strict=True)})
print(json.dumps(found))
"""


def in_a_process(
    clients: list[tuple], path: Path, audio: dict[str, np.ndarray]
) -> list[dict[str, tuple[str, list[float]]]]:
    """sherpa-onnx ends the process when something goes wrong: not this one.

    Args:
      clients: arguments of Client. audio: by name; every client decodes all of it as one batch,
        then each utterance alone.
    Returns:
      Text and time stamps by name, batch by batch.
    """
    np.savez(path, **audio)
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, path, json.dumps(clients)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


def test_silence_and_next_to_nothing_give_text(models, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 12000).astype(np.float32)
    audio = {
        "nothing": noise[:0],
        "one": noise[:1],
        "short": noise[:800],
        "a frame": noise[:1120],
        "silence": np.zeros(RATE, np.float32),
        "noise": noise,
    }
    kinds = [
        (d, precision, method, streaming)
        for d, streaming in [("bidirectional", False), ("causal", False), ("causal", True)]
        for precision in ("fp32", "int8")
        for method in ("greedy", "beam")
    ]
    found = in_a_process(
        [(str(models[d].folder), *how) for d, *how in kinds], tmp_path / "audio.npz", audio
    )
    expected = {
        (d, m): dict(zip(audio, models[d].recognizer(m).transcribe_batch(list(audio.values()))))
        for d in models
        for m in ("greedy", "beam")
    }
    for (direction, precision, method, streaming), by_name in zip(
        [kind for kind in kinds for _ in range(1 + len(audio))], found, strict=True
    ):
        for name, (text, timestamps) in by_name.items():
            assert isinstance(text, str) and len(timestamps) >= bool(text)
            if not streaming and precision == "fp32":
                assert text == expected[direction, method][name].text
                assert timestamps == pytest.approx(
                    expected[direction, method][name].timestamps, abs=1e-3
                )
            elif not streaming and name in ("nothing", "one", "short"):
                assert (text, timestamps) == ("", [])
    assert not any(
        by_name[name].text for by_name in expected.values() for name in ("nothing", "one", "short")
    )
    assert all(by_name["noise"].text for by_name in expected.values())


def test_no_utterances_give_no_texts(models, tmp_path):
    clients = [
        (str(models["causal"].folder), "fp32", "greedy", streaming) for streaming in (True, False)
    ]
    assert in_a_process(clients, tmp_path / "audio.npz", {}) == [{}, {}]


def test_the_folders_own_torch_model_says_the_same(models, utterances):
    """model.safetensors and the graphs are one model."""
    for model in models.values():
        assert_same(
            Client(model.folder).decode(utterances),
            Recognizer.load(model.folder).transcribe_batch(utterances),
        )


def taciturn(model: Exported, folder: Path, bias: float) -> Exported:
    """A copy of the folder whose joiner prefers blank."""
    changed = copy.deepcopy(model.experiment.model)
    with torch.no_grad():
        changed.joiner.output.bias[BLANK] += bias
    shutil.copytree(model.folder, folder)
    export_joiner(changed, folder / "joiner.onnx")
    return Exported(folder, replace(model.experiment, model=changed), model.entry)


def with_a_beginning(
    model: Exported,
    utterances: list[np.ndarray],
    folder: Path,
    wanted: Callable[[Transcript], bool],
) -> tuple[Exported, np.ndarray, Transcript]:
    """A copy that prefers blank as much as it takes for the transcript of an utterance to begin as
    wanted."""
    for bias in range(1, 12):
        changed = taciturn(model, folder / str(bias), bias)
        for samples in utterances:
            transcript = streamed_in_torch(changed, "greedy", with_tail(samples, CHUNK))
            if len(transcript.tokens) > 1 and wanted(transcript):
                return changed, samples, transcript
    pytest.fail("no utterance begins so")


def test_the_benchmark_by_hand(models, utterances, tmp_path):
    """A chunk is decoded when 36 frames from its beginning are there, 367.5 ms after it: with
    pieces of 10 ms it is shown after 370 ms."""
    model, samples, transcript = with_a_beginning(
        models["causal"],
        utterances,
        tmp_path,
        lambda t: t.tokens[0] != WORD_START and t.timestamps[0] > 0.4,
    )
    soundfile.write(tmp_path / "speech.wav", samples, RATE, subtype="FLOAT")
    command = [
        sys.executable,
        "-m",
        "todm.deploy.benchmark_client",
        model.folder,
        tmp_path / "speech.wav",
        "--mode",
        "streaming",
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert (
        0 < figures["real_time_factor"] < 5
        and figures["load_seconds"] > 0
        and 0 < figures["model_mib"] <= figures["peak_mib"] < 1000
    )
    assert figures["latency_ms"] == pytest.approx(figures["real_time_factor"] * 10 * CHUNK)
    begin = round(1000 * transcript.timestamps[0])
    computing = figures["first_token_ms"] - (begin // 320 * 320 + 370 - begin)
    assert -0.01 < computing < 400 < begin


def test_another_chunk_length_than_the_encoders_is_refused(models, utterances):
    with pytest.raises(UserError, match=f"advances {CHUNK} frames.*--chunk-samples {160 * CHUNK}"):
        measure(models["causal"].folder, "fp32", True, utterances[1:2], 160 * CHUNK // 2)


WITHOUT_TRAINING = """
import runpy, sys
for name in ("torch", "lhotse", "onnx", "omegaconf", "scipy", "soxr"):
    sys.modules[name] = None  # to import it fails
sys.argv = ["benchmark_client", *sys.argv[1:]]
runpy.run_module("todm.deploy.benchmark_client", run_name="__main__")
"""


@pytest.mark.parametrize("mode", ["offline", "streaming"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_benchmark_needs_nothing_of_the_training(models, utterances, tmp_path, mode, precision):
    """On a device there are numpy, onnxruntime, soundfile and sherpa-onnx."""
    soundfile.write(tmp_path / "speech.wav", utterances[1], RATE, subtype="FLOAT")
    command = [sys.executable, "-c", WITHOUT_TRAINING, models["causal"].folder]
    options = ["--mode", mode, "--precision", precision, "--json"]
    done = subprocess.run(
        [*command, tmp_path / "speech.wav", *options], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert set(figures) == {
        *("real_time_factor", "latency_ms", "load_seconds", "model_mib", "peak_mib"),
        *(["first_token_ms"] if mode == "streaming" else []),
    }


def test_a_benchmark_of_a_folder_that_lacks_files_says_which(tmp_path, utterances):
    soundfile.write(tmp_path / "speech.wav", utterances[1], RATE, subtype="FLOAT")
    command = [sys.executable, "-m", "todm.deploy.benchmark_client", tmp_path]
    done = subprocess.run(
        [*command, tmp_path / "speech.wav"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and f"ERROR: {tmp_path} lacks encoder.onnx" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_first_token_that_is_a_space_is_not_late(models, utterances, tmp_path):
    """It has a time stamp but nothing to show. What is shown is shown with its chunk, 90 to 370 ms
    after its time stamp, and computing."""
    model, samples, transcript = with_a_beginning(
        models["causal"],
        utterances,
        tmp_path,
        lambda t: t.tokens[0] != t.tokens[1] and t.timestamps[1] - t.timestamps[0] > 0.8,
    )
    exchanged = {transcript.tokens[0]: WORD_START, WORD_START: transcript.tokens[0]}
    lines = [line.split() for line in (model.folder / "tokens.txt").read_text().splitlines()]
    (model.folder / "tokens.txt").write_text(
        "".join(f"{exchanged.get(symbol, symbol)} {i}\n" for symbol, i in lines)
    )
    assert (
        90 < measure(model.folder, "fp32", True, [samples], 160 * CHUNK).first_token_ms < 370 + 400
    )


def test_of_a_model_that_says_nothing_the_benchmark_is_json_too(models, utterances, tmp_path):
    model = taciturn(models["causal"], tmp_path / "copy", 1000.0)
    figures = measure(model.folder, "fp32", True, utterances[:1], 160 * CHUNK)
    assert (
        Client(model.folder, streaming=True).decode(utterances[:1]) == [Recognized("", [])]
        and figures.real_time_factor > 0
    )
    json.dumps(asdict(figures), allow_nan=False)  # NaN is no JSON
