"""Transcripts, from files of all kinds to tokens and back: what is scored is what was trained
on."""

import logging
import sys
import unicodedata

import pytest
import sentencepiece
from lhotse import CutSet, MonoCut, SupervisionSegment

from local.corpus_files import read_lines
from local.train_bpe import train_bpe, unknown_characters, warn_of_unknown
from tests.conftest import write_utterance
from tests.local.corpora import scanned
from todm.config.keys import BpeConfig
from utils.scoring import score
from utils.text import normalise_transcript
from utils.tokens import SOS_EOS, UNK, Tokenizer

BPE = BpeConfig(vocab_size=500)
STRANGE = [
    "½ ﬁne … ok",
    "ﬀ ｆｕｌｌ ＷＩＤＴＨ",
    "x² ① ℡",
    "A\u00adB",
    "e\u0301te",
    "a\u3000b",
    "ǆ Å",
    "don’t",
    "ŉ İstanbul ß",
    "हिन्दी",
    "日本 語",
    "* **",
]


@pytest.mark.parametrize(
    "written, expected",
    [
        ("HELLO WORLD", "HELLO WORLD"),
        ("  a\tb\u00a0c\u2003d\u2028e\x85f\x0bg\x0ch\x1ci\r\n", "a b c d e f g h i"),
        ("\ufeffa\u200bb\u200d\u200ec\x00d\x7fe\u00adf", "abcdef"),
        ("½ ﬁne …", "1⁄2 fine ..."),
        ("e\u0301", "é"),
        ("e\u200c\u0301", "é"),
        ("a\u2581b", "a b"),
        ("\u200b \u2060\ufeff\u3164\ufe0f", ""),
        ("\u3000", ""),
    ],
)
def test_normalisation(written, expected):
    assert normalise_transcript(written) == expected


def test_normalising_twice_changes_nothing_and_leaves_only_single_spaces():
    everything = [chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000]
    for i in range(0, len(everything), 512):
        text = normalise_transcript(
            "x".join(everything[i : i + 512]) + "".join(everything[i : i + 512])
        )
        assert text == normalise_transcript(text) == unicodedata.normalize("NFKC", text)
        assert text == " ".join(text.split()) and not set(text) & set(
            "\ufeff\u200b\u200d\u00ad\u2581\x00"
        )


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"1-1-0 A B\n1-1-1 C\n", [("1-1-0", "A B"), ("1-1-1", "C")]),
        (b"\xef\xbb\xbf1-1-0 A\r\n1-1-1 C", [("1-1-0", "A"), ("1-1-1", "C")]),
        (
            "1-1-0 A\n\ufeff1-1-1 C\n".encode(),
            [("1-1-0", "A"), ("1-1-1", "C")],
        ),  # two files with marks, joined
        ("\ufeff 1-1-0 A\n".encode(), [("1-1-0", "A")]),
        (
            "1-1-0\tA\n1-1-1\u00a0B\n1-1-2\u3000C\n 1-1-3  D\n".encode(),
            [("1-1-0", "A"), ("1-1-1", "B"), ("1-1-2", "C"), ("1-1-3", "D")],
        ),
        (
            "1-1-0 A\u2028B\x85C\x0cD\x1eE\rF\n1-1-1 G\n".encode(),
            [("1-1-0", "A\u2028B\x85C\x0cD\x1eE\rF"), ("1-1-1", "G")],
        ),
        (b"1-1-0 A\r1-1-1 B\r", [("1-1-0", "A"), ("1-1-1", "B")]),  # of an old Macintosh
        ("1-1-0 Ä\n1-1-1 B\n".encode("utf-16"), [("1-1-0", "Ä"), ("1-1-1", "B")]),
        ("1-1-0 Ä\n".encode("utf-32"), [("1-1-0", "Ä")]),
        (b"\n  \n1-1-0\n\xe2\x80\x8b\n1-1-1 \n", [("1-1-0", ""), ("1-1-1", "")]),
        (b"", []),
    ],
)
def test_lines_of_a_transcript(tmp_path, content, expected):
    path = tmp_path / "1-1.trans.txt"
    path.write_bytes(content)
    lines = read_lines(path)
    assert [(line.id, line.text) for line in lines] == expected and all(
        line.legible for line in lines
    )


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "cp1251", "utf-16-le", "utf-16-be", "shift-jis"]
)
def test_other_encodings_are_not_guessed(tmp_path, encoding):
    text = {"cp1251": "привет", "shift-jis": "日本"}.get(encoding, "é")
    path = tmp_path / "1-1.trans.txt"
    path.write_bytes(f"1-1-0 {text}\n1-1-1 PLAIN\n".encode(encoding))
    lines = read_lines(path)
    assert [line.id for line in lines] == ["1-1-0", "1-1-1"] and not any(
        line.legible for line in lines
    )


def test_what_stage_1_makes_of_strange_transcripts(tmp_path, caplog):
    split = tmp_path / "train"
    for i in range(4):
        write_utterance(split, f"1-1-000{i}", None)
        write_utterance(split, f"2-1-000{i}", None)
        write_utterance(split, f"3-1-000{i}", None)
    (split / "1/1/1-1.trans.txt").write_bytes(
        "\ufeff1-1-0000\tONE\n1-1-0001\u00a0ﬁve\n1-1-0002 \u200b\u200b\n1-1-0003 "
        "A\u2028B\n".encode()
    )
    (split / "2/1/2-1.trans.txt").write_bytes("2-1-0000 CAFÉ\n2-1-0001 PLAIN\n".encode("latin-1"))
    (split / "3/1/3-1.trans.txt").write_text(
        "3-1-0000 CAF\ufffd\n3-1-0001 a  b\n3-1-0002 c\n", encoding="utf-8"
    )
    with caplog.at_level(logging.INFO):
        cuts, dropped = scanned(tmp_path, "train", True)
    assert {c.id: c.supervisions[0].text for c in cuts} == {
        "1-1-0000": "ONE",
        "1-1-0001": "five",
        "1-1-0003": "A B",
        "3-1-0001": "a b",
        "3-1-0002": "c",
    }
    assert {d.id: d.reason for d in dropped} == {
        "1-1-0002": "empty transcript",
        "2-1-0000": "transcript not in UTF-8",
        "2-1-0001": "transcript not in UTF-8",
        "2-1-0002": "missing transcript",
        "2-1-0003": "missing transcript",
        "3-1-0000": "damaged transcript",
        "3-1-0003": "missing transcript",
    }
    assert all(
        "2-1.trans.txt" in d.detail for d in dropped if d.reason == "transcript not in UTF-8"
    )
    assert (
        "train: 3 transcripts are not as they are written" in caplog.text
        and "1-1-0001: 'ﬁve' is now 'five'" in caplog.text
    )


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_what_encodes_and_decodes_is_the_reference(tmp_path, model_type):
    """Perfect output has no errors, whatever the transcripts are; and no text becomes a control
    id."""
    special = [
        "<blk>",
        "a<blk>b",
        "<sos/eos> x",
        "the <unk> word",
        "<unk>",
        "<s> </s> <pad>",
        "\\u0020 \\n",
        "⁇",
    ]
    texts = [normalise_transcript(text) for text in STRANGE + special + ["HELLO WORLD"]]
    tokenizer = train_bpe(texts * 3, BpeConfig(400, model_type), tmp_path)
    hypotheses = {}
    for text in texts:
        tokens = tokenizer.encode(text)
        assert min(tokens) > SOS_EOS and UNK not in tokens
        hypotheses[text] = tokenizer.decode(tokens)
    assert score({text: text for text in texts}, hypotheses).total == 0
    assert hypotheses == {text: text for text in texts}
    assert (
        tokenizer.symbols[:3] == ["<blk>", "<sos/eos>", "<unk>"]
        and len(set(tokenizer.symbols)) == tokenizer.vocab_size
    )


def test_a_very_long_transcript_is_in_the_vocabulary(tmp_path):
    tokenizer = train_bpe(["A B C", "WORD " * 2000 + "Q"], BPE, tmp_path)
    assert UNK not in tokenizer.encode("Q")


def test_models_of_earlier_versions_have_no_control_ids_either(tmp_path):
    (tmp_path / "text").write_text("HELLO WORLD\nA B\n" * 5)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "old"),
        vocab_size=14,
        minloglevel=2,
        user_defined_symbols=["<blk>", "<sos/eos>"],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
    )
    tokenizer = Tokenizer(tmp_path / "old.model")
    assert min(tokenizer.encode("A<blk>B <sos/eos>")) == UNK
    assert tokenizer.decode(tokenizer.encode("HELLO WORLD")) == "HELLO WORLD"


@pytest.mark.parametrize("model_type, size", [("unigram", 25), ("bpe", 78)])
def test_a_vocabulary_larger_than_the_text_allows_is_smaller_and_said(
    tmp_path, caplog, model_type, size
):
    texts = ["HELLO WORLD", "THE CAT SAT", "ONE TWO THREE FOUR", "A B C"]  # 12 words
    tokenizer = train_bpe(texts, BpeConfig(500, model_type), tmp_path)
    assert tokenizer.vocab_size == size == len((tmp_path / "tokens.txt").read_text().splitlines())
    assert (
        "bpe.vocab_size=500 is more than the 4 train transcripts allow: SentencePiece has made "
        f"{size} tokens" in caplog.text
    )
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts)
    caplog.clear()
    assert (
        train_bpe(texts, BpeConfig(size, model_type), tmp_path).vocab_size == size
        and not caplog.text
    )


@pytest.mark.parametrize("size", [6, 10])
def test_more_characters_than_tokens_make_every_character_a_token(tmp_path, caplog, size):
    """Seven characters, three special tokens and the sign of a word's beginning are 11."""
    tokenizer = train_bpe(["ABCDE", "FG GA"], BpeConfig(size), tmp_path)
    assert sorted(tokenizer.symbols[3:]) == sorted("ABCDEFG\u2581")
    assert f"7 different characters, more than bpe.vocab_size={size} has room for" in caplog.text
    assert tokenizer.decode(tokenizer.encode("FACE AB")) == "FACE AB"


def test_as_many_tokens_as_characters_need_is_no_such_case(tmp_path, caplog):
    assert train_bpe(["ABCDE", "FG GA"], BpeConfig(11), tmp_path).vocab_size == 11
    assert not caplog.text


def test_a_character_that_train_lacks_is_said(tmp_path, caplog):
    tokenizer = train_bpe(["CAFE AU LAIT"], BPE, tmp_path)
    texts = {"a": "CAFE", "b": "CAFÉ", "c": "CAFÉ ÑU", "d": "LAIT"}
    cuts = list(
        CutSet.from_cuts(
            MonoCut(name, 0, 1, 0, supervisions=[SupervisionSegment(name, name, 0, 1, text=text)])
            for name, text in texts.items()
        )
    )
    assert unknown_characters(cuts, tokenizer) == (["É", "Ñ"], ["b", "c"])
    warn_of_unknown("dev", cuts, tokenizer)
    assert "dev: the BPE model has no token for 2 characters" in caplog.text
    assert (
        "É (U+00C9) Ñ (U+00D1)" in caplog.text
        and "2 of 4 utterances" in caplog.text
        and "b: CAFÉ" in caplog.text
    )
