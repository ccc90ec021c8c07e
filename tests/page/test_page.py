"""The report page: what it shows, with and without a browser."""

import base64
import gzip
import html
import io
import re
import shutil
import subprocess
import sys

import pytest
import soundfile

from tests.browser import Browser, browser_path
from tests.conftest import ROOT, tiny_arguments
from tests.tables.made_up import made_entry, made_row
from todm.config.keys import Config
from todm.config.load import load
from todm.page.page import collect, render, write_page
from todm.page.plots import draw_subnets
from todm.page.utterances import (
    direction,
    evenly,
    find_errors,
    frequent,
    interlinear,
    visible,
    with_audio,
)
from todm.recipe.summary import deployed_rows
from todm.results.decode_results import read_results
from utils.files import read_json, write_json_atomic
from utils.scoring import align, read_recogs, score, write_recogs

BAD = "</script><script>window.bad=1</script>"
NASTY = {
    "ref": f'{BAD} <img/src=x/onerror=window.bad=1> O\'NEIL "Q" {{{{7*7}}}} ÜBER',
    "hyp": "<b>x</b> \u202e é \u200b",
}
LONG = " ".join(f"WORD{i}" for i in range(500))


@pytest.fixture
def tiny(tiny_run, tmp_path) -> Config:
    """The tiny experiment, in a copy of its folder."""
    exp = tmp_path / "exp"
    shutil.copytree(tiny_run[0] / "exp", exp, ignore=shutil.ignore_patterns("checkpoints"))
    return load("mini", [*tiny_arguments(tiny_run[0]), f"exp={exp}"])


def page_text(config: Config) -> str:
    """The page without plotly's code."""
    text = write_page(config, "conf/mini.yaml").read_text(encoding="utf-8")
    start = text.index("<script>/**")
    return text[:start] + text[text.index("</script>", start) :]


def change_results(config: Config, change) -> None:
    """Edit every row of results.json."""
    run = read_json(config.exp_dir / "results.json")
    run["results"] = [change(row) for row in run["results"]]
    write_json_atomic(config.exp_dir / "results.json", run)


def nasty(config: Config) -> None:
    """Names and texts that a page must not take for its own, and utterances of every kind."""
    run = read_json(config.exp_dir / "results.json")
    write_json_atomic(
        config.exp_dir / "results.json",
        run
        | {
            "name": f'{BAD} "x"',
            "corpus": f"/data/{BAD}",
            "command": "a </code><img src=x onerror=window.bad=1>",
        },
    )
    change_results(
        config,
        lambda r: (
            r | {"how": f"a {BAD} ladder"} | ({"wer": float("inf")} if r["split"] == "test" else {})
        ),
    )
    for path in config.exp_dir.glob("decode/recogs-dev-*"):
        references, hypotheses = read_recogs(path)
        first, second, third, fourth = sorted(references)
        references |= {first: NASTY["ref"], second: "שלום עולם", third: LONG, fourth: ""}
        hypotheses |= {first: NASTY["hyp"], second: "שלום", third: "WORD0", fourth: "ALL INSERTED"}
        write_recogs(path, references, hypotheses)


# ---- the parts


def test_recogs_are_read_back(tmp_path):
    references = {"a:\tref=b": "A 'B' \"C\" ]", "b": "", "ü-1": "é \u2028x [\\n]"}
    hypotheses = {"a:\tref=b": "", "b": "hyp=['X']", "ü-1": "\u200b"}
    write_recogs(tmp_path / "r.txt", references, hypotheses)
    words = [
        {k: " ".join(v.split()) for k, v in texts.items()} for texts in (references, hypotheses)
    ]
    assert list(read_recogs(tmp_path / "r.txt")) == words


def test_lines_stand_below_each_other():
    reference = "THE CAT SAT"
    hypotheses = {"big": "THE CAT SAT", "mid": "OH THE HAT SAT DOWN THERE", "small": "CAT SAT UP"}
    by_size = {size: align(reference.split(), text.split()) for size, text in hypotheses.items()}
    lines, words = interlinear(by_size)
    assert words == 3 and {len(line.cells) for line in lines} == {6}
    found = {line.label: [(cell.kind, cell.text) for cell in line.cells] for line in lines}
    gap = ("gap", "")
    assert found["reference"] == [gap, ("ref", "THE"), ("ref", "CAT"), ("ref", "SAT"), gap, gap]
    assert found["big"] == [gap, ("ok", "THE"), ("ok", "CAT"), ("ok", "SAT"), gap, gap]
    assert found["mid"] == [
        ("ins", "OH"),
        ("ok", "THE"),
        ("sub", "HAT"),
        ("ok", "SAT"),
        ("ins", "DOWN"),
        ("ins", "THERE"),
    ]
    assert found["small"] == [gap, ("del", "THE"), ("ok", "CAT"), ("ok", "SAT"), ("ins", "UP"), gap]


def test_frequent_errors_are_those_of_the_scoring():
    references = {"a": "ON THE TOP", "b": "ON TOP", "c": "OFF"}
    hypotheses = {
        "big": {"a": "ON A TOP", "b": "TOP", "c": "OFF OFF"},
        "small": {"a": "ON A TOP", "b": "", "c": ""},
    }
    aligned = {
        ("dev", name): {
            size: align(text.split(), texts[name].split()) for size, texts in hypotheses.items()
        }
        for name, text in references.items()
    }
    tables = {table.title: table.rows for table in frequent(aligned, ["big", "small"])}
    assert tables["Taken for another word"] == [("THE", "A", [1, 1])]
    assert tables["Left out"] == [
        ("ON", "", [1, 1]),
        ("OFF", "", [0, 1]),
        ("TOP", "", [0, 1]),
    ] and tables["Put in"] == [("", "OFF", [1, 0])]
    for i, size in enumerate(["big", "small"]):
        assert (
            sum(counts[i] for rows in tables.values() for _, _, counts in rows)
            == score(references, hypotheses[size]).total
        )


@pytest.mark.parametrize(
    "text, expected",
    [
        ("HELLO שלום", "ltr"),
        ("שלום HELLO", "rtl"),
        ("123 مرحبا", "rtl"),
        ("", "ltr"),
        ("1 2", "ltr"),
    ],
)
def test_direction(text, expected):
    assert direction(text) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("A\u200b", "A⟨U+200B⟩"),
        ("\u202e", "⟨U+202E⟩"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\u200d", "⟨U+200D⟩"),
        ("O'NEIL", "O'NEIL"),
    ],
)
def test_invisible_characters_are_named(text, expected):
    assert visible(text) == expected


def test_evenly():
    assert evenly([1, 2], 8) == [1, 2] and evenly(list(range(20)), 3) == [0, 10, 19]


# ---- the page


def test_run_sh_made_the_page(tiny_run):
    folder, output = tiny_run
    path = folder / "exp/report.html"
    assert str(path) in output and path.stat().st_size < 8e6
    text = path.read_text(encoding="utf-8")
    run = read_json(folder / "exp/results.json")
    assert text.count("/**\n* plotly.js v") == 1 and text.startswith("<!DOCTYPE html>")
    start = text.index("<script>/**")
    rest = text[:start] + text[text.index("</script>", start) :]
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|url\(|@import""", rest)
    for row in run["results"]:
        assert row["name"] in rest and f">{row['wer']:.2f}<" in rest
    assert (
        f"./transcribe.sh {folder / 'exp'}" in rest and "--stage 10" in rest and "name=tiny" in rest
    )
    sounds = re.findall(r'src="data:audio/[a-z]+;base64,([^"]+)"', rest)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[0])))
    assert rate == 16000 and samples.ndim == 1 and len(samples) > 8000 and abs(samples).max() > 0.01


def test_names_and_transcripts_stay_text(tiny):
    nasty(tiny)
    text = page_text(tiny)
    for raw in ("<script>window.bad", "<img", "<b>x", "\u202e", "\u200b"):
        assert raw not in text
    assert (
        html.escape(BAD) in text
        and "{{7*7}}" in text
        and "⟨U+202E⟩" in text
        and 'dir="rtl"' in text
    )
    assert ">∞</td>" in text and "NaN" not in text and "Infinity" not in text
    assert "WORD118" in text and "380 more words are not shown" in text


def test_what_is_missing_is_said(tiny, tmp_path):
    for path in tiny.exp_dir.glob("decode/recogs-*"):
        path.unlink()
    shutil.rmtree(tiny.exp_dir / "tensorboard")
    (tiny.exp_dir / "conf.yaml").unlink()
    (tiny.exp_dir / "subnets.json").unlink()
    text = page_text(tiny)
    for words in (
        "No training curves",
        "Stage 4 writes them",
        "stage 6 writes them",
        "The recognised texts are missing",
        "Nothing is exported yet",
    ):
        assert words in text
    assert 'id="search"' not in text and 'id="selection"' not in text and "<audio" not in text


@pytest.mark.parametrize(
    "method, words",
    [
        ("evolution", "search.json is missing. Stage 5 writes it"),
        ("orthosoftmax", "No scores over time"),
    ],
)
def test_a_search_without_its_file(tiny, method, words):
    write_json_atomic(
        tiny.exp_dir / "subnets.json", read_json(tiny.exp_dir / "subnets.json") | {"method": method}
    )
    assert words in page_text(tiny)


def test_a_damaged_file_is_left_out(tiny, caplog):
    (tiny.exp_dir / "export").mkdir()
    (tiny.exp_dir / "export/results.json").write_text('{"rows": [')
    assert (
        "Nothing is exported yet" in page_text(tiny)
        and "export/results.json can not be read" in caplog.text
    )


def test_audio_that_is_gone_is_said(tiny, tiny_run, tmp_path):
    data = tmp_path / "data"
    (data / "cuts").mkdir(parents=True)
    with (
        gzip.open(tiny.data_dir / "cuts/dev.jsonl.gz", "rt") as source,
        gzip.open(data / "cuts/dev.jsonl.gz", "wt") as target,
    ):
        for i, line in enumerate(source):
            target.write(line.replace(str(tiny_run[0]), "/nowhere") if i else "")
    tiny.data.dir = str(data)
    text = page_text(tiny)
    assert (
        ".flac is gone." in text
        and "it is not among the cuts of stage 3" in text
        and "<audio" not in text
    )
    (data / "cuts/dev.jsonl.gz").unlink()
    assert f"No audio: {data}/cuts/dev.jsonl.gz is missing." in page_text(tiny)


def test_audio_is_bounded(tiny):
    rows = deployed_rows(tiny.exp_dir, read_results(tiny.exp_dir / "results.json"))
    whole = find_errors(tiny, rows).worst
    size = len(base64.b64decode(whole[0].audio.uri.partition(",")[2]))
    few = with_audio(tiny, whole, most=size + 10)
    assert few[0].audio == whole[0].audio and not any(u.audio for u in few[1:])
    assert "stays small" in few[1].note
    cut = with_audio(tiny, whole, longest=0.5)[0]
    assert cut.audio.cut == 0.5 and cut.seconds > 0.5
    assert len(cut.audio.uri) < len(whole[0].audio.uri)


def test_worst_utterances_have_most_errors(tiny):
    rows = deployed_rows(tiny.exp_dir, read_results(tiny.exp_dir / "results.json"))
    found = find_errors(tiny, rows)
    for u in found.worst:
        assert u.split == "dev"
    totals = [sum(u.errors.values()) for u in found.worst]
    assert totals == sorted(totals, reverse=True)
    expected = sum(row.errors for row in rows if row.split == "dev")
    assert sum(totals) == expected  # of four utterances all are shown


def test_several_dev_splits_and_no_errors(tiny):
    """Two dev splits with the same ids, all right: nothing to listen to."""
    run = read_json(tiny.exp_dir / "results.json")
    for path in tiny.exp_dir.glob("decode/recogs-dev-*"):
        references, _ = read_recogs(path)
        write_recogs(path, references, references)
        write_recogs(
            path.with_name(path.name.replace("recogs-dev-", "recogs-dev2-")), references, references
        )
    run["results"] += [row | {"split": "dev2"} for row in run["results"] if row["split"] == "dev"]
    write_json_atomic(tiny.exp_dir / "results.json", run)
    found = collect(tiny, "").findings
    assert (
        found.splits == ["dev", "dev2"]
        and found.utterances == 8
        and found.worst == []
        and not found.missing
    )
    assert "every word of every utterance was recognised" in page_text(tiny)


def test_search_baselines_and_export(tiny):
    """Of records in the repository: an evolution's search, and exported nets of another
    training."""
    found = read_json(ROOT / "results/mini-tables/search.json")
    write_json_atomic(tiny.exp_dir / "search/search.json", found)
    shutil.copy(ROOT / "results/mini-tables/subnets.json", tiny.exp_dir / "subnets.json")
    write_json_atomic(
        tiny.exp_dir / "export/results.json", read_json(ROOT / "results/mini-export.json")
    )
    run = read_json(tiny.exp_dir / "results.json")
    entries = read_json(tiny.exp_dir / "subnets.json")
    rows = [r for r in run["results"] if r["name"] == run["results"][0]["name"]]
    run |= {
        "largest": read_json(ROOT / "results/mini.json")["largest"],
        "results": [r | entry for entry in entries["subnets"] + entries["baselines"] for r in rows],
    }
    write_json_atomic(tiny.exp_dir / "results.json", run)
    page = collect(tiny, "conf/mini.yaml")
    assert [net.name for net in page.deployed] == [
        "1.27M",
        "1.08M",
        "0.76M",
        "0.62M",
        "0.40M",
    ] and len(page.nets) == 15
    assert page.export.outdated and len(page.export.rows) == 10
    assert set(page.plots) == {
        *("wer", "curves", "calibration", "candidates", "winners", "deployed")
    }
    assert sum(len(trace["x"]) for trace in page.plots["candidates"]["data"]) == 383 + 382 + 5 + 26
    text = render(page)
    assert (
        "Not of the results above." in text
        and 'id="search"' in text
        and "Nets after the first 5 stand for comparison" in text
    )


def test_a_ctc_model_of_one_size(tiny):
    conf = (tiny.exp_dir / "conf.yaml").read_text()
    conf = (
        conf.replace("objective: transducer", "objective: ctc")
        .replace("subnets_per_step: 1", "subnets_per_step: 0")
        .replace("smallest: true", "smallest: false")
    )
    (tiny.exp_dir / "conf.yaml").write_text(conf)
    run = read_json(tiny.exp_dir / "results.json")
    run["results"] = [row for row in run["results"] if row["name"] == run["results"][0]["name"]]
    write_json_atomic(tiny.exp_dir / "results.json", run)
    text = page_text(tiny)
    assert (
        "A CTC model" in text
        and "One net of one size, trained alone" in text
        and '<button type="button" data-net' not in text
        and "recognisers" not in text
    )


def test_points_know_their_net():
    rows = [
        made_row(made_entry("h0f0", params, name=name), "dev", 3, wer=wer)
        for name, params, wer in (("<b>", 2_000_000, 3.0), ("small", 1_000_000, float("inf")))
    ]
    (trace,) = draw_subnets(rows, {"<b>": 0, "small": 1})["data"]
    assert (
        trace["x"] == [1.0, 2.0]
        and trace["y"] == [None, 3.0]
        and trace["customdata"] == [[1, "small"], [0, "&lt;b&gt;"]]
    )


def test_it_can_be_made_again_by_hand(tiny, tiny_run):
    command = [
        sys.executable,
        "-m",
        "todm.page.page",
        *tiny_arguments(tiny_run[0]),
        f"exp={tiny.exp}",
    ]
    (tiny.exp_dir / "report.html").unlink()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tiny.exp_dir / "report.html").is_file()
    (tiny.exp_dir / "results.json").unlink()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (
        result.returncode
        and "results.json is missing; stage 6 makes it" in result.stderr
        and "Traceback" not in result.stderr
    )


# ---- in a browser


@pytest.mark.skipif(browser_path() is None, reason="no Chromium here (apt-get install chromium)")
def test_in_a_browser(tiny):
    """Pictures are drawn, nothing fails or asks for a network, nothing is wider than the screen,
    and a click shows a net."""
    nasty(tiny)
    path = write_page(tiny, "conf/mini.yaml")
    with Browser() as browser:
        for width, scheme in ((1280, "light"), (390, "dark")):
            browser.open(path.as_uri(), width=width, scheme=scheme)
            assert browser.evaluate(
                "[...document.querySelectorAll('.plot')].map(p => [p.id, p.dataset.drawn, "
                "p.querySelectorAll('.scatterlayer .trace').length > 0])"
            ) == [[f"plot-{name}", "yes", True] for name in ("wer", "curves", "calibration")]
            assert browser.errors == [] and browser.requests == []
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            assert (
                browser.evaluate("typeof window.bad") == "undefined"
                and browser.evaluate("document.querySelectorAll('img').length") == 0
            )
            ink = browser.evaluate(
                "getComputedStyle(document.querySelector('#plot-wer .xtick text')).fill"
            )
            lightness = sum(map(int, re.findall(r"\d+", ink)[:3])) / 3
            assert lightness < 128 if scheme == "light" else lightness > 128
        shown = (
            "[...document.querySelectorAll('[data-shows]')].filter(a => !a.hidden).map(a => "
            "a.dataset.shows)"
        )
        assert browser.evaluate(shown) == ["0"]
        browser.evaluate("document.querySelector('[data-net=\"2\"]').click()")
        assert (
            browser.evaluate(shown) == ["2"]
            and browser.evaluate("document.querySelector('tr.chosen').dataset.row") == "2"
        )
        browser.evaluate(
            "document.getElementById('plot-wer').emit('plotly_click', {points: [{customdata: [1, "
            "'']}]})"
        )
        assert (
            browser.evaluate(shown) == ["1"]
            and browser.evaluate(
                "document.querySelectorAll('[aria-pressed=true][data-net]').length"
            )
            == 1
        )
        visible_lines = "document.querySelectorAll('#plot-wer .scatterlayer .trace').length"
        before = browser.evaluate(visible_lines)
        browser.evaluate("document.querySelector('#plot-wer + .keys button').click()")
        assert browser.evaluate(visible_lines) == before - 1
        browser.open(path.as_uri(), width=1280)
        assert (
            browser.evaluate(
                "new Promise(done => { const a = document.querySelector('audio'); "
                "a.onloadedmetadata = () => done(a.duration); "
                "a.onerror = () => done(-1); a.load(); })"
            )
            > 0.3
        )
