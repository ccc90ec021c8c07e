from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import tiny_config
from tests.recognizers import babble, talkative, talkative_ctc, tokenizer
from todm.decoding.hotwords import Hotword, hotword_graph, hotword_lines, read_hotwords
from todm.decoding.recognizer import Recognizer
from todm.recipe.stages import STAGES
from todm.supernet.cost import describe_subnet
from utils.errors import UserError
from utils.text import TextForm


def recogniser(beam: int, *overrides: str, make: Callable = talkative) -> Recognizer:
    """A random model that talks, with its largest net."""
    config = tiny_config(*overrides)
    model = make(config)
    entry = describe_subnet(config, tokenizer().vocab_size, model.full, "largest")
    return Recognizer(config, model, tokenizer(), [entry], beam)


def hotwords(folder: Path, text: str, **options) -> list[Hotword]:
    path = folder / "hotwords.txt"
    path.write_text(text, encoding="utf-8")
    return read_hotwords(path, tokenizer(), 1.5, **options)


def test_lines_with_and_without_a_boost(tmp_path):
    found = hotwords(tmp_path, "\ufeffSAT ON :2.5\n\n  TEN \nA   TO :-1\n")
    assert [(h.text, h.boost) for h in found] == [("SAT ON", 2.5), ("TEN", 1.5), ("A TO", -1.0)]
    assert [list(h.tokens) for h in found] == [tokenizer().encode(h.text) for h in found]


def test_hotwords_are_brought_into_the_form_of_the_transcripts(tmp_path):
    (found,) = hotwords(tmp_path, "sat, on! :2\n", form=TextForm("upper", True))
    assert found == Hotword("SAT ON", tuple(tokenizer().encode("SAT ON")), 2.0)


@pytest.mark.parametrize(
    "text, message",
    [
        ("SAT\nZO\u00cb :2\n", r"line 2: 'ZO\u00cb' can not be recognised: .*never seen Z \u00cb;"),
        ("sat\n", "line 1: 'sat' .*never seen a s t; write it as the transcripts"),
        ("SAT :two\n", "line 1: ':two' is no boost"),
        ("SAT :nan\n", "line 1: ':nan' is no boost"),
        ("SAT :0\n", "line 1: ':0' is no boost; a number but 0"),
        ("TEN\n :2\n", "line 2: ':2' has no words"),
        ("\n \n", "hotwords.txt has none; write one a line"),
    ],
)
def test_lines_that_can_not_be_recognised_are_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        hotwords(tmp_path, text)


def test_files_that_can_not_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="no.txt can not be read: No such file"):
        read_hotwords(tmp_path / "no.txt", tokenizer(), 1.5)
    (tmp_path / "latin.txt").write_bytes("ZO\u00cb".encode("latin-1"))
    with pytest.raises(UserError, match="latin.txt can not be read: it is not UTF-8"):
        read_hotwords(tmp_path / "latin.txt", tokenizer(), 1.5)


def test_the_lines_for_a_client_are_the_same_hotwords(tmp_path):
    found = hotwords(tmp_path, "SAT ON :2.125\nTEN\n")
    assert hotwords(tmp_path, hotword_lines(found)) == found


def test_the_graph_has_the_boost_of_every_line(tmp_path):
    graph = hotword_graph(hotwords(tmp_path, "SAT :2\nTEN\n"))
    first = {w: graph.step(0, tokenizer().encode(w)[0])[0] for w in ("SAT", "TEN", "ON")}
    assert first == {"SAT": 2.0, "TEN": 1.5, "ON": 0.0}


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_a_recogniser_prefers_hotwords(tmp_path, direction):
    (tmp_path / "names.txt").write_text("SAT\nTEN\nON\n")
    utterances = [babble(3, seed=i) for i in range(6)]

    def count() -> int:
        texts = [t.text.split() for t in recognizer.transcribe_batch(utterances)]
        return sum(word in ("SAT", "TEN", "ON") for text in texts for word in text)

    recognizer = recogniser(4, f"model.direction={direction}")
    before = count()
    recognizer.prefer(tmp_path / "names.txt", 6.0)
    assert count() > before + 3


def test_greedy_search_and_ctc_models_take_none(tmp_path):
    (tmp_path / "names.txt").write_text("SAT\n")
    with pytest.raises(UserError, match="hotwords need beam search"):
        recogniser(0).prefer(tmp_path / "names.txt")
    ctc = recogniser(4, "loss.objective=ctc", "loss.ctc_weight=1", make=talkative_ctc)
    with pytest.raises(UserError, match="for transducers"):
        ctc.prefer(tmp_path / "names.txt")


def test_stages_depend_on_what_the_file_holds(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("SAT\n")
    config = tiny_config(f"decode.hotwords_file={path}", "decode.methods=[beam]")
    for number in (6, 10):
        before = STAGES[number].values(config)
        assert STAGES[number].changes(before, config) == []
        path.write_text("SAT\nTEN\n")
        assert len(STAGES[number].changes(before, config)) == 1
        path.write_text("SAT\n")
        # a stamp of before there were hotwords
        old = {k: v for k, v in STAGES[number].values(tiny_config()).items() if "hotwords" not in k}
        assert STAGES[number].changes(old, tiny_config()) == []
        assert len(STAGES[number].changes(old, config)) >= 2
    assert STAGES[4].changes(STAGES[4].values(tiny_config()), config) == []
