import io
import json
import os
import queue
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT
from tests.helpers import tiny_config
from tests.recognizers import (
    RATE,
    SMALL,
    EverythingIsSpeech,
    babble,
    plain_search,
    plain_text,
    spoken,
    talkative,
    tokenizer,
    write_exported,
)
from todm.config.keys import Config
from todm.decoding import recognizer, transcribe, transcribe_sources
from todm.decoding.stream import Stream
from todm.decoding.transcribe import parse_arguments
from todm.decoding.transcribe_sources import run
from todm.model.transducer import Transducer
from todm.subnet import Subnet
from todm.supernet.extract import extract
from todm.training.experiment import describe
from utils.checkpoint import save_checkpoint
from utils.errors import UserError
from utils.voice_activity import VoiceActivity

TINIEST = "h0f0 - -"
KEYS = {
    "source",
    "subnet",
    "text",
    "tokens",
    "timestamps",
    "probabilities",
    "seconds",
    "words",
    "computing_seconds",
}


@pytest.fixture(autouse=True)
def everything_is_speech(monkeypatch) -> None:
    """These models transcribe tones."""
    monkeypatch.setattr(recognizer.Recognizer, "detector", EverythingIsSpeech)


class Workplace:
    """A folder with a model and some recordings, and what the model hears in them."""

    def __init__(self, folder: Path, direction: str):
        self.folder, self.config = folder, tiny_config(f"model.direction={direction}")
        self.supernet: Transducer = talkative(self.config)
        self.model = write_exported(folder / "small", self.config, self.supernet, SMALL)

    def record(self, name: str, seconds: float, seed: int = 0) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, babble(seconds, seed), RATE, subtype="PCM_16")
        return path

    def text(self, samples: np.ndarray | Path, subnet: str = SMALL, beam: int = 0) -> str:
        """Of samples, or of a file at 16 kHz; by the supernet, at once."""
        if isinstance(samples, Path):
            samples = soundfile.read(samples, dtype="float32")[0]
        return plain_text(plain_search(self.supernet, samples, subnet, beam))


@pytest.fixture(scope="module")
def causal(tmp_path_factory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("causal"), "causal")


@pytest.fixture(scope="module")
def bidirectional(tmp_path_factory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("bidirectional"), "bidirectional")


def call(*arguments) -> int:
    return run(parse_arguments([str(a) for a in arguments]))


def test_one_file_is_its_text(causal, capsys):
    path = causal.record("one.wav", 1.5)
    assert call(causal.model, path) == 0
    captured = capsys.readouterr()
    assert (
        captured.out == causal.text(path) + "\n" and len(captured.out) > 10 and captured.err == ""
    )


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_several_files_are_a_line_each_in_the_order_given(direction, request, capsys):
    place = request.getfixturevalue(direction)
    paths = [
        place.record(f"several/{name}", 1 + 0.3 * i, i)
        for i, name in enumerate(["z.flac", "a.wav", "m m.wav"])
    ]
    assert call(place.model, *paths) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == [f"{path}\t{place.text(path)}" for path in paths]
    assert len({line.split("\t")[1] for line in out.splitlines()}) == 3


def test_subtitles_of_one_file(causal, capsys):
    path = causal.record("talk.wav", 3)
    assert call(causal.model, "--subtitles", "srt", path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1" and re.fullmatch(r"00:00:0\d,\d{3} --> 00:00:0\d,\d{3}", lines[1])
    words = [line for line in lines if not re.fullmatch(r"\d*|.* --> .*", line)]
    assert " ".join(words) == causal.text(path)


def test_subtitles_of_several_files_go_into_a_folder(causal, capsys, tmp_path):
    paths = [causal.record(f"{folder}/talk.wav", 1.5, i) for i, folder in enumerate("xy")]
    out = tmp_path / "new" / "subtitles"
    assert call(causal.model, "--subtitles", "vtt", "--output", out, *paths) == 0
    assert capsys.readouterr().out == ""
    assert sorted(p.name for p in out.iterdir()) == ["talk-2.vtt", "talk.vtt"]
    assert (out / "talk.vtt").read_text().startswith("WEBVTT\n\n1\n00:00:0")
    with pytest.raises(UserError, match="need a folder: --output FOLDER"):
        call(causal.model, "--subtitles", "vtt", *paths)


def test_a_blank_penalty_recognises_more(causal, capsys):
    path = causal.record("penalty.wav", 3)
    counts = []
    for penalty in ("0", "0.7", "50"):
        assert call(causal.model, "--json", "--blank-penalty", penalty, path) == 0
        counts.append(len(json.loads(capsys.readouterr().out)["tokens"]))
    assert counts[0] < counts[1] <= counts[2]


def test_hotwords_are_preferred(causal, capsys, tmp_path):
    path = causal.record("names.wav", 4)
    names = tmp_path / "names.txt"
    names.write_text("SAT\nTEN\nON\n")
    counts = []
    for options in ([], ["--hotwords", names], ["--hotwords", names, "--hotwords-score", "8"]):
        assert call(causal.model, "--beam", "4", *options, path) == 0
        words = capsys.readouterr().out.split()
        counts.append(sum(word in ("SAT", "TEN", "ON") for word in words))
    assert counts[0] <= counts[1] < counts[2]
    names.write_text("ZO\u00cb\n")
    with pytest.raises(UserError, match="names.txt, line 1"):
        call(causal.model, "--beam", "4", "--hotwords", names, path)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_n_best_hypotheses_in_json(causal, capsys, streaming):
    path = causal.record("nbest.wav", 2)
    options = ["--streaming"] * streaming
    assert call(causal.model, "--json", "--beam", "4", "--nbest", "3", *options, path) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nbest"][0]["start"] == 0 and len(found["nbest"]) == 1
    hypotheses = found["nbest"][0]["hypotheses"]
    assert hypotheses[0]["text"] == found["text"]
    assert len({h["text"] for h in hypotheses}) == 3 and all(h["score"] < 0 for h in hypotheses)


def test_the_n_best_of_a_long_recording_say_where_they_begin(causal, capsys):
    path = causal.record("long.wav", 9)
    loaded = recognizer.Recognizer.load(causal.model, 4)
    loaded.longest = 3.0
    loaded.options = replace(loaded.options, nbest=2)
    found = loaded.transcribe([soundfile.read(path, dtype="float32")[0]])
    starts = [a.start for a in found.nbest]
    assert len(starts) > 2 and starts == sorted(starts) and 5 < starts[-1] < 9
    # a stretch may go on with a word
    letters = "".join(a.hypotheses[0].text for a in found.nbest)
    assert letters.replace(" ", "") == found.text.replace(" ", "")


def test_a_folder_is_the_audio_in_it(causal, capsys):
    names = ["b.wav", "A.WAV", "c/d/e.flac", "c/a.wav"]
    paths = [causal.record(f"folder/{name}", 0.7, i) for i, name in enumerate(names)]
    (causal.folder / "folder/notes.txt").write_text("not audio")
    (causal.folder / "folder/c/d.wav.txt").write_text("not audio")
    last = causal.record("after.wav", 0.7, 9)
    assert call(causal.model, causal.folder / "folder", last) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        sorted(lines[:-1]) == sorted(f"{path}\t{causal.text(path)}" for path in paths)
        and lines[-1] == f"{last}\t{causal.text(last)}"
    )
    assert [line.split("\t")[0] for line in lines[:-1]] == sorted(str(path) for path in paths)


def test_a_folder_of_one_file_and_one_without_audio(causal, capsys, tmp_path):
    path = causal.record("single/a.wav", 0.7)
    assert call(causal.model, path.parent) == 0
    assert capsys.readouterr().out == causal.text(path) + "\n"
    with pytest.raises(UserError, match=f"{tmp_path} holds no audio"):
        call(causal.model, tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
def test_json_is_an_object_a_line(causal, capsys, streaming):
    paths = [causal.record(f"json/{i}.wav", 1.5 + i, i) for i in range(2)]
    assert call(causal.model, "--json", *paths, *["--streaming"] * streaming) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, path, seconds in zip(rows, paths, (1.5, 2.5), strict=True):
        hypothesis = plain_search(causal.supernet, soundfile.read(path, dtype="float32")[0], SMALL)
        assert (
            row.keys() == KEYS
            and row["source"] == str(path)
            and row["subnet"] == "h0-1f0-1 f0 h0"
            and row["seconds"] == seconds
        )
        assert row["text"] == plain_text(hypothesis) and row["tokens"] == [
            tokenizer().symbols[t] for t in hypothesis.tokens
        ]
        assert row["timestamps"] == pytest.approx([0.04 * f for f in hypothesis.frames])
        assert row["probabilities"] == pytest.approx(hypothesis.probabilities, abs=1e-4)
        assert [w["word"] for w in row["words"] if w["word"]] == row["text"].split() and all(
            w["start"] in row["timestamps"] for w in row["words"]
        )
        assert 0 < row["computing_seconds"] < 60


def test_json_of_one_file_is_json_too_and_keeps_its_letters(causal, capsys):
    path = causal.record("eins-\u00e4.wav", 1.0)
    assert call(causal.model, path, "--json") == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "\u00e4" in out and "\u2581" in out
    assert json.loads(out)["text"] == causal.text(path)


def test_another_sampling_rate_and_two_channels(causal, capsys):
    """The same tone pattern at 48 kHz: as long, and never without a word."""
    samples = np.repeat(
        babble(2), 3
    )  # each sample held for three: images lie above 8 kHz and are filtered out
    soundfile.write(causal.folder / "48.wav", np.stack([samples, samples], axis=1), 3 * RATE)
    assert call(causal.model, causal.folder / "48.wav", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["seconds"] == pytest.approx(2.0, abs=0.001) and len(row["tokens"]) > 5


def give_stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def pcm(samples: np.ndarray) -> bytes:
    return (samples * 32768).round().clip(-32768, 32767).astype("<i2").tobytes()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("rest", [b"", b"\x01"])
def test_raw_pcm_from_standard_input(causal, capsys, monkeypatch, streaming, rest):
    content = pcm(babble(1.5, 3))
    give_stdin(monkeypatch, content + rest)
    assert call(causal.model, "-", *["--streaming"] * streaming) == 0
    expected = causal.text(np.frombuffer(content, "<i2").astype(np.float32) / 32768)
    assert capsys.readouterr().out == expected + "\n" and len(expected) > 10


def test_raw_pcm_at_another_rate(causal, capsys, monkeypatch):
    give_stdin(monkeypatch, pcm(babble(2, 3)[::2]))
    assert call(causal.model, "--rate", 8000, "-", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["source"] == "-" and row["seconds"] == pytest.approx(2.0, abs=0.001)


def test_nothing_on_standard_input(causal, capsys, monkeypatch):
    for content in (b"", b"\x01"):
        give_stdin(monkeypatch, content)
        assert call(causal.model, "-", "--json") == 0
        row = json.loads(capsys.readouterr().out)
        assert (row["text"], row["tokens"], row["words"], row["seconds"]) == ("", [], [], 0.0)


@pytest.mark.parametrize("beam", [0, 4])
def test_streaming_finds_what_whole_utterances_give(causal, capsys, beam):
    paths = [causal.record(f"streaming/{i}.flac", 0.4 + 0.81 * i, i) for i in range(3)]
    assert call(causal.model, "--streaming", "--beam", beam, *paths) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"{path}\t{causal.text(path, beam=beam)}" for path in paths
    ]
    assert "\r" not in captured.err


def test_partial_texts_go_to_a_terminal(causal, capsys, monkeypatch):
    path = causal.record("partial.wav", 3.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert call(causal.model, "--streaming", path) == 0
    captured = capsys.readouterr()
    shown = [
        text.strip() for text in captured.err.replace("\033[K", "").split("\r") if text.strip()
    ]
    assert captured.out == causal.text(path) + "\n"
    assert (
        len(shown) >= 4
        and all(causal.text(path).startswith(text) for text in shown)
        and captured.err.endswith("\r\033[K")
    )


def test_a_bidirectional_model_refuses_to_stream(bidirectional, capsys):
    path = bidirectional.record("one.wav", 1.0)
    with pytest.raises(UserError, match="model.direction=causal"):
        call(bidirectional.model, "--streaming", path)
    assert capsys.readouterr().out == ""


def test_a_beam_is_used(bidirectional, capsys):
    paths = [bidirectional.record(f"beam/{i}.wav", 2, i) for i in range(4)]
    expected = [bidirectional.text(path, beam=4) for path in paths]
    assert call(bidirectional.model, *paths, "--beam", 4) == 0
    assert [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()] == expected
    assert expected != [bidirectional.text(path) for path in paths]


# Subnets of an experiment


@pytest.fixture(scope="module")
def experiment(bidirectional) -> Path:
    """A supernet with three subnets, of which the one in the middle is the best on dev."""
    exp, config = bidirectional.folder / "exp", bidirectional.config
    described = describe(config, tokenizer()) | {
        "model": bidirectional.supernet.state_dict(),
        "hours": 0.0,
        "seconds": 0.0,
    }
    save_checkpoint(exp / "checkpoints", 3, described, 1)
    entries = [
        {
            "name": name,
            "architecture": architecture,
            "encoder_params": encoder_params(bidirectional, config, architecture),
            "total_params": 0,
            "macs_per_second": 0,
            "how": "by hand",
            "dev_score": score,
        }
        for name, architecture, score in (
            ("big", str(bidirectional.supernet.full), 9.0),
            ("mid", SMALL, 8.0),
            ("tiny", TINIEST, 10.0),
        )
    ]
    (exp / "subnets.json").write_text(
        json.dumps({"method": "uniform", "subnets": entries, "baselines": []})
    )
    return exp


def encoder_params(place: Workplace, config: Config, architecture: str) -> int:
    return sum(
        p.numel()
        for p in extract(place.supernet, config, Subnet.parse(architecture)).encoder.parameters()
    )


@pytest.mark.parametrize(
    "options, architecture",
    [
        ([], None),
        (["--subnet", "mid"], SMALL),
        (["--subnet", "tiny"], TINIEST),
        (["--subnet", "f1 h2 -"], "f1 h2 -"),
        (["--budget", "1"], SMALL),
        (["--budget", "100%"], SMALL),
        (["--budget", "mid"], SMALL),
        (["--budget", "below mid"], TINIEST),
    ],
)
def test_the_subnet_and_the_budget_choose_the_net(
    bidirectional, experiment, capsys, options, architecture
):
    params = encoder_params(bidirectional, bidirectional.config, SMALL)
    options = [
        {"mid": str(params), "below mid": f"{(params - 1) / 1000}k"}.get(o, o)
        if "--budget" in options
        else o
        for o in options
    ]
    path = bidirectional.record("net.wav", 1.5)
    assert call(experiment, path, "--json", *options) == 0
    row = json.loads(capsys.readouterr().out)
    architecture = architecture or str(bidirectional.supernet.full)
    assert row["subnet"] == architecture and row["text"] == bidirectional.text(path, architecture)


def test_subnets_sound_different(bidirectional):
    """Or the test above would say little."""
    path = bidirectional.record("net.wav", 1.5)
    assert (
        len(
            {
                bidirectional.text(path, a)
                for a in (str(bidirectional.supernet.full), SMALL, TINIEST, "f1 h2 -")
            }
        )
        == 4
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (["--subnet", "huge"], "no subnet 'huge'; there are: big, mid, tiny"),
        (["--subnet", "h9 - -"], "does not fit"),
        (["--budget", "10"], "--budget: no subnet fits 10"),
        (["--budget", "little"], "--budget: 'little' is not a budget"),
    ],
)
def test_a_subnet_or_budget_that_can_not_be_met_is_refused(
    bidirectional, experiment, capsys, options, message
):
    with pytest.raises(UserError, match=message):
        call(experiment, bidirectional.record("net.wav", 1.5), *options)
    assert capsys.readouterr().out == ""


# What can go wrong


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_files_are_named_and_the_good_go_on(causal, capsys, streaming):
    good = [causal.record(f"bad/good-{i}.wav", 0.7, i) for i in range(2)]
    folder = good[0].parent
    (folder / "text.wav").write_text("not audio")
    (folder / "empty.wav").write_bytes(b"")
    cut = causal.record("bad/cut.flac", 3)
    cut.write_bytes(cut.read_bytes()[:-2000])
    bad = [folder / "missing.wav", folder / "text.wav", cut, folder / "empty.wav"]
    assert call(causal.model, bad[0], good[0], *bad[1:], good[1], *["--streaming"] * streaming) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"{path}\t{causal.text(path)}" for path in good]
    errors = captured.err.splitlines()
    assert len(errors) == 4 and all(
        line.startswith("ERROR: ") and str(path) in line for line, path in zip(errors, bad)
    )


def test_a_bad_file_alone_prints_no_text(causal, capsys):
    assert call(causal.model, "--json", causal.folder / "missing.wav") == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "missing.wav: no such file" in captured.err


def test_a_file_that_was_cut_short_does_not_pass_for_whole(causal, capsys):
    path = causal.record("short.wav", 2)
    path.write_bytes(path.read_bytes()[:-20000])
    assert call(causal.model, path) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and str(path) in captured.err


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("seconds", [0.0, 0.0001, 0.005, 0.05, 1.0])
def test_silence_and_next_to_nothing_are_no_error(
    causal, capsys, monkeypatch, seconds, rate, streaming
):
    monkeypatch.setattr(recognizer.Recognizer, "detector", VoiceActivity)
    path = causal.folder / f"silence-{seconds}-{rate}.wav"
    soundfile.write(path, np.zeros(round(seconds * rate)), rate)
    assert call(causal.model, path, "--json", *["--streaming"] * streaming) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["seconds"] == pytest.approx(seconds, abs=0.001)
    assert (row["text"], row["tokens"], row["timestamps"], row["words"]) == ("", [], [], [])


def test_an_empty_text_is_an_empty_line(causal, capsys):
    path = causal.folder / "header.wav"
    soundfile.write(path, np.zeros(0), RATE)
    assert call(causal.model, path) == 0
    assert capsys.readouterr().out == "\n"
    assert call(causal.model, path, path) == 0
    assert capsys.readouterr().out == f"{path}\t\n" * 2


def test_a_missing_model_folder(causal, capsys, monkeypatch):
    path = causal.record("one.wav", 1.5)
    with pytest.raises(UserError, match="/nowhere: no such folder"):
        call("/nowhere", path)
    monkeypatch.setattr(sys, "argv", ["transcribe.sh", "/nowhere", str(path)])
    with pytest.raises(SystemExit) as left:
        transcribe.main()
    captured = capsys.readouterr()
    assert left.value.code == 2 and captured.out == ""
    assert (
        captured.err.startswith("ERROR: /nowhere: no such folder") and captured.err.count("\n") == 1
    )


@pytest.mark.parametrize("name", ["conf.yaml", "bpe.model", "model.safetensors", "export.json"])
def test_a_damaged_model_is_one_line_and_status_2(causal, capsys, monkeypatch, tmp_path, name):
    for path in causal.model.iterdir():
        (tmp_path / path.name).write_bytes(
            b"[{ nonsense" if path.name == name else path.read_bytes()
        )
    monkeypatch.setattr(
        sys, "argv", ["transcribe.sh", str(tmp_path), str(causal.record("one.wav", 1.5))]
    )
    with pytest.raises(SystemExit) as left:
        transcribe.main()
    captured = capsys.readouterr()
    assert (
        left.value.code == 2
        and captured.out == ""
        and captured.err.startswith("ERROR: ")
        and name in captured.err
    )


def test_the_status_of_main(causal, capsys, monkeypatch):
    for path, status in ((causal.record("one.wav", 1.5), 0), (causal.folder / "missing.wav", 1)):
        monkeypatch.setattr(sys, "argv", ["transcribe.sh", str(causal.model), str(path)])
        with pytest.raises(SystemExit) as left:
            transcribe.main()
        assert left.value.code == status
    assert "missing.wav" in capsys.readouterr().err


# Arguments


@pytest.mark.parametrize(
    "arguments",
    [
        "MODEL a.wav - folder --json --beam 4 --subnet 1M",
        "--json --beam 4 --subnet 1M MODEL a.wav - folder",
        "MODEL --json a.wav --beam 4 - --subnet 1M folder",
        "--beam=4 MODEL a.wav --json - folder --subnet=1M",
        "--json MODEL --subnet 1M a.wav - --beam 4 folder",
    ],
)
def test_options_may_stand_anywhere(arguments):
    parsed = parse_arguments(arguments.split())
    assert (parsed.model, parsed.audio) == ("MODEL", ["a.wav", "-", "folder"])
    assert (
        parsed.json,
        parsed.beam,
        parsed.subnet,
        parsed.budget,
        parsed.streaming,
        parsed.rate,
    ) == (True, 4, "1M", None, False, 16000)


def test_options_between_files_do_not_change_what_is_printed(causal, capsys):
    paths = [causal.record(f"mixed/{i}.wav", 0.7, i) for i in range(3)]
    assert (
        call("--streaming", causal.model, paths[0], "--json", paths[1], "--beam", 4, paths[2]) == 0
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["source"], row["text"]) for row in rows] == [
        (str(path), causal.text(path, beam=4)) for path in paths
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("", "model"),
        ("MODEL", "give audio files"),
        ("MODEL --json", "give audio files"),
        ("MODEL a.wav --budget 1 --subnet x", "give one"),
        ("MODEL a.wav --beam -1", "--beam"),
        ("MODEL - --rate 0", "--rate"),
        ("MODEL a.wav --threads 0", "--threads"),
        ("MODEL a.wav --nothing", "--nothing"),
        ("MODEL a.wav --beam two", "--beam"),
        ("MODEL a.wav --hotwords names.txt", "are for beam search; give --beam 4"),
        ("MODEL a.wav --beam 4 --hotwords-score 2", "is for --hotwords FILE"),
        ("MODEL a.wav --beam 4 --hotwords n.txt --hotwords-score 0", "must be above 0"),
        ("MODEL a.wav --beam 4 --nbest 2", "is for --json"),
        ("MODEL a.wav --json --nbest 2", "must be from 1 to --beam"),
        ("MODEL a.wav --json --beam 4 --nbest 5", "must be from 1 to --beam"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as left:
        parse_arguments(arguments.split())
    assert left.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_a_microphone_without_its_package_says_what_to_install(causal, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match="pip install sounddevice"):
        call(causal.model, "--microphone")


def give_microphone(monkeypatch, samples: np.ndarray) -> None:
    """One that hears this, and Ctrl-C after it."""

    class InputStream:
        def __init__(self, samplerate: int, channels: int, dtype: str, callback):
            assert (samplerate, channels, dtype) == (RATE, 1, "float32")
            self.callback = callback

        def __enter__(self):
            block = np.empty((1000, 1), np.float32)  # a driver uses its block again
            for start in range(0, len(samples), 1000):
                block[:, 0] = samples[start : start + 1000]
                self.callback(block, 1000, None, None)
            block[:] = 0

        def __exit__(self, *_):
            pass

    class Queue(queue.Queue):
        def get(self):
            if self.empty():
                raise KeyboardInterrupt
            return super().get()

    monkeypatch.setitem(
        sys.modules, "sounddevice", SimpleNamespace(InputStream=InputStream, PortAudioError=OSError)
    )
    monkeypatch.setattr(transcribe_sources, "queue", SimpleNamespace(Queue=Queue))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_microphone_is_heard_until_it_is_interrupted(causal, capsys, monkeypatch, streaming):
    samples = babble(1.5, 6)
    give_microphone(monkeypatch, samples)
    assert call(causal.model, "--microphone", *["--streaming"] * streaming) == 0
    captured = capsys.readouterr()
    assert captured.out == causal.text(samples) + "\n" and "Ctrl-C" in captured.err


def test_an_interrupt_while_decoding_ends_listening_too(causal, capsys, monkeypatch):
    """Ctrl-C does not always come while the queue is waited on."""
    samples, calls = babble(2, 6), []
    give_microphone(monkeypatch, samples)

    class Interrupted(Stream):
        def accept(self, piece: np.ndarray) -> None:
            super().accept(piece)
            calls.append(piece)
            if len(calls) == 24:  # of 32
                raise KeyboardInterrupt

    monkeypatch.setattr(recognizer, "Stream", Interrupted)
    try:
        assert call(causal.model, "--microphone", "--streaming") == 0
    except KeyboardInterrupt:  # which would end pytest
        pytest.fail("what was heard is lost")
    heard = capsys.readouterr().out.strip()
    assert len(heard) > 5 and heard[:5] == causal.text(samples)[:5]


def transcribe_sh(*arguments, **options) -> subprocess.CompletedProcess:
    """./transcribe.sh as a user would call it."""
    return subprocess.run(
        [ROOT / "transcribe.sh", *arguments],
        capture_output=True,
        timeout=600,
        env=os.environ | {"TODM_VENV": str(Path(sys.prefix))},
        **options,
    )


def test_the_script_from_another_folder(tmp_path, speaking):
    """With relative paths, a pipe, and modules of the caller's that are called like ours and
    Python's."""
    model, good, samples = speaking
    for name in ("utils.py", "egs.py", "numpy.py", "runpy.py", "torch.py"):
        (tmp_path / name).write_text("raise SystemExit('this is not the recipe')")
    arguments = [
        os.path.relpath(model, tmp_path),
        os.path.relpath(good, tmp_path),
        "missing.wav",
        "-",
        "--streaming",
    ]
    result = transcribe_sh(*arguments, cwd=tmp_path, input=pcm(samples))
    whole = (
        recognizer.Recognizer.load(model)
        .transcribe_batch([soundfile.read(good, dtype="float32")[0]])[0]
        .text
    )
    assert len(whole) > 5 and result.stdout.decode().splitlines() == [
        f"{arguments[1]}\t{whole}",
        f"-\t{whole}",
    ]
    assert result.returncode == 1 and "ERROR: missing.wav: no such file" in result.stderr.decode()


@pytest.fixture(scope="module")
def speaking(causal) -> tuple[Path, Path, np.ndarray]:
    """A model, a file in which somebody speaks, and its samples."""
    samples = spoken("PLEASE SET A TIMER FOR TEN MINUTES")
    path = causal.folder / "spoken.wav"
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    return causal.model, path, samples


def test_plain_sh_is_understood():
    result = subprocess.run(
        ["sh", str(ROOT / "transcribe.sh"), "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0 and result.stdout.startswith("usage: transcribe.sh")


def test_help_imports_nothing_heavy():
    """No PyTorch, no NumPy: it answers at once, also where nothing is installed."""
    code = (
        "import sys; sys.argv = ['transcribe.sh', '--help']\ntry:\n  from "
        "todm.decoding.transcribe import main; main()\nfinally:\n"
        "  assert not {'numpy', 'torch', 'soundfile', 'lhotse', 'omegaconf'} & sys.modules.keys()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0 and "--budget" in result.stdout, result.stderr
    result = transcribe_sh("--help", cwd="/")
    assert result.returncode == 0 and b"--budget" in result.stdout


@pytest.mark.parametrize(
    "kind, subtype",
    [
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("AIFF", "PCM_24"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_on_standard_input_is_not_taken_for_raw_pcm(
    causal, capsys, monkeypatch, kind, subtype, streaming
):
    content = io.BytesIO()
    soundfile.write(content, babble(1.5, 3), RATE, format=kind, subtype=subtype)
    give_stdin(monkeypatch, content.getvalue())
    assert call(causal.model, "-", *["--streaming"] * streaming) == 0
    captured = capsys.readouterr()
    assert (
        captured.out
        == causal.text(soundfile.read(io.BytesIO(content.getvalue()), dtype="float32")[0]) + "\n"
        and len(captured.out) > 10
    )
    assert f"standard input is {kind.replace('OGG', 'Ogg')}, not raw PCM" in captured.err


def test_the_header_of_a_file_on_standard_input_says_the_rate(causal, capsys, monkeypatch):
    content = io.BytesIO()
    soundfile.write(content, np.stack([babble(2)[::2]] * 2, axis=1), 8000, format="WAV")
    give_stdin(monkeypatch, content.getvalue())
    assert call(causal.model, "--rate", 48000, "-", "--json") == 0
    assert json.loads(capsys.readouterr().out)["seconds"] == pytest.approx(2.0, abs=0.001)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_named_pipe(causal, capsys, tmp_path, name):
    path, fifo = causal.record(f"pipe/{name}", 1.5), tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(path.read_bytes()))
    writer.start()
    assert call(causal.model, fifo) == 0
    writer.join()
    assert capsys.readouterr().out == causal.text(path) + "\n"


@pytest.mark.parametrize(
    "sample, message",
    [
        (np.nan, "NaN"),
        (np.inf, "NaN or infinity"),
        (-3e38, "between -1 and 1"),
        (30000, "as large as 30000"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_samples_that_are_no_numbers_stop_nothing_else(causal, capsys, sample, message, streaming):
    samples = np.stack([babble(1)] * 2, axis=1)
    samples[9000] = sample
    bad, good = causal.folder / "numbers.wav", causal.record("numbers-good.wav", 1.0)
    soundfile.write(bad, samples, RATE, subtype="FLOAT")
    assert call(causal.model, bad, good, *["--streaming"] * streaming) == 1
    captured = capsys.readouterr()
    assert (
        captured.out == f"{good}\t{causal.text(good)}\n"
        and str(bad) in captured.err
        and message in captured.err
    )


def test_folders_that_can_not_be_read_stop_nothing_else(causal, capsys, monkeypatch, tmp_path):
    """Root may read everything, so that the system's answer is made up."""
    inner, good = tmp_path / "inner" / "closed", causal.record("open/good.wav", 1.0)
    inner.mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    soundfile.write(tmp_path / "inner" / "a.wav", babble(1), RATE)
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert call(causal.model, tmp_path / "inner", tmp_path / "empty", good) == 1
    captured = capsys.readouterr()
    assert [line.split("\t")[0] for line in captured.out.splitlines()] == [
        str(tmp_path / "inner" / "a.wav"),
        str(good),
    ]
    assert (
        f"ERROR: {inner} can not be read: Permission denied" in captured.err
        and f"ERROR: {tmp_path / 'empty'} holds no audio" in captured.err
    )


def test_a_file_that_disappears_stops_nothing_else(causal, capsys, monkeypatch):
    """While the one before it is decoded."""
    first, second, third = (causal.record(f"vanish/{i}.wav", 0.7, i) for i in range(3))
    decoded = transcribe_sources.transcribe

    def and_removes(*arguments):
        second.unlink(missing_ok=True)
        return decoded(*arguments)

    monkeypatch.setattr(transcribe_sources, "transcribe", and_removes)
    assert call(causal.model, first.parent) == 1
    captured = capsys.readouterr()
    assert [line.split("\t")[0] for line in captured.out.splitlines()] == [
        str(first),
        str(third),
    ] and f"{second}: no such file" in captured.err


def test_names_of_any_bytes(causal, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.wav"
    Path(os.fsdecode(path)).write_bytes(causal.record("bytes.wav", 0.7).read_bytes())
    result = transcribe_sh(causal.model, path, b"/missing-\xff.wav", cwd=tmp_path)
    assert (
        result.stdout == path + b"\t\n"
        and b"ERROR: /missing-\xff.wav: no such file" in result.stderr
    )


@pytest.mark.parametrize("script", ["run.sh", "transcribe.sh"])
def test_a_link_to_a_script_finds_the_recipe(tmp_path, script):
    link = tmp_path / "link.sh"
    link.symlink_to(ROOT / script)
    environment = os.environ | {"TODM_VENV": str(Path(sys.prefix))}
    found = subprocess.run([link, "--help"], capture_output=True, text=True, env=environment)
    assert found.returncode == 0 and "usage" in found.stdout.lower(), found.stderr


def test_files_of_one_name_are_numbered_without_trying_every_number():
    names = [f"{i}/a.wav" for i in range(5000)] + ["b/a-2.wav"]
    targets = transcribe_sources.subtitle_files(
        names, parse_arguments(["m", *names, "--subtitles", "srt", "--output", "o"])
    )
    assert [targets[name].name for name in names[:3]] == ["a.srt", "a-2.srt", "a-3.srt"]
    assert len(set(targets.values())) == len(names)
