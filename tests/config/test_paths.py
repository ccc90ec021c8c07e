"""Confs, bases and inputs are found from where the user stands; paths may have any character a file
system allows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PYTHONPATH, ROOT, tiny_arguments, write_utterance
from todm.config.keys import CONFS
from todm.config.load import load
from utils.errors import ConfigError
from utils.files import read_json

HOME_KEYS = ("data.root", "data.musan", "data.dir", "exp", "search.latency_table", "tables.records")


@pytest.fixture
def user(tmp_path, monkeypatch) -> Path:
    """The folder a user stands in, while the recipe runs in the repository, as run.sh has it."""
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.setenv("TODM_CALLER", str(folder))
    monkeypatch.chdir(ROOT)
    return folder


def test_home_is_expanded_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for key in HOME_KEYS:
        config = load("mini", [f"{key}=~/x y"])
        for part in key.split("."):
            config = getattr(config, part)
        assert config == str(tmp_path / "x y"), key
    (tmp_path / "c.yaml").write_text(
        "base: mini\nexp: ~/e/${name}\ndata:\n  root: ~/r\n  musan: ~\n"
    )
    config = load("~/c.yaml")
    assert (config.exp, config.data.root, config.data.musan) == (
        f"{tmp_path}/e/mini",
        f"{tmp_path}/r",
        None,
    )
    assert load("mini", ["data.root=/a/~b"]).data.root == "/a/~b"


def test_a_conf_is_looked_for_where_the_user_stands_then_in_the_repository_then_by_name(
    user, monkeypatch
):
    (user / "mine.yaml").write_text("name: mine\n")
    assert (
        load("mine.yaml").name
        == load("./mine.yaml").name
        == load(user / "mine.yaml").name
        == load("../user/mine.yaml").name
        == "mine"
    )
    assert (
        load("egs/librispeech/todm/conf/mini.yaml").name
        == load("conf/mini.yaml").name
        == load("mini").name
        == "mini"
    )
    (user / "conf").mkdir()
    (user / "conf" / "mini.yaml").write_text("name: his\n")
    assert load("conf/mini.yaml").name == "his" and load("mini").name == "mini"
    monkeypatch.delenv("TODM_CALLER")
    monkeypatch.chdir(user)
    assert (
        load("mine.yaml").name == "mine"
        and load("egs/librispeech/todm/conf/mini.yaml").name == "mini"
    )


def test_a_conf_that_is_missing_says_where_it_was_looked_for(user):
    (user / "mine.yaml").write_text("")
    with pytest.raises(ConfigError, match=f"did you mean {user / 'mine.yaml'}"):
        load("mines")
    with pytest.raises(ConfigError) as caught:
        load("mien.yaml")
    for place in (user / "mien.yaml", ROOT / "mien.yaml", CONFS / "mien.yaml", "did you mean"):
        assert str(place) in str(caught.value)
    for strange in ("", ".", "/", "conf", "x" * 5000, "a\0b", str(user)):
        with pytest.raises(ConfigError, match="no such conf|is a folder, not a conf"):
            load(strange)


@pytest.mark.parametrize(
    "base",
    [
        "mini.yaml",
        "mini",
        "conf/mini.yaml",
        "conf/mini",
        "tables/mini.yaml",
        str(CONFS / "mini.yaml"),
    ],
)
def test_a_base_of_the_recipe_can_be_named_from_anywhere(user, base):
    (user / "leaf.yaml").write_text(f"base: {base}\ndata:\n  train: [mine]\n")
    config = load("leaf.yaml")
    assert config.data.train == ["mine"] and config.model.dim == 144


def test_a_base_beside_the_conf_comes_first_and_a_copy_of_a_conf_is_not_its_own_base(user):
    (user / "small-corpus.yaml").write_text("base: mini.yaml\nname: beside\n")
    (user / "leaf.yaml").write_text("base: small-corpus.yaml\n")
    assert load("leaf.yaml").name == "beside"
    (user / "mini.yaml").write_text("base: mini.yaml\nname: copy\n")
    assert load("mini.yaml").name == "copy" and load("leaf.yaml").model.dim == 144
    (user / "leaf.yaml").write_text("base: leaf.yaml\n")
    with pytest.raises(ConfigError, match="is its own base"):
        load("leaf.yaml")
    (user / "leaf.yaml").write_text("base: gone.yaml\n")
    with pytest.raises(
        ConfigError,
        match=f"base of .*leaf.yaml: no such conf: gone.yaml; looked for {user}/gone.yaml, "
        f"{CONFS}/gone.yaml",
    ):
        load("leaf.yaml")


def test_a_relative_input_is_where_the_user_stands_or_beside_his_conf(user):
    for name in ("corpus", "in", "in/corpus"):
        (user / name).mkdir()
    for key, read in (
        ("data.root", lambda c: c.data.root),
        ("data.musan", lambda c: c.data.musan),
        ("search.latency_table", lambda c: c.search.latency_table),
        ("decode.hotwords_file", lambda c: c.decode.hotwords_file),
    ):
        assert (
            read(load("mini", [f"{key}=corpus"]))
            == read(load("mini", [f"{key}=../user/./corpus"]))
            == str(user / "corpus")
        )
        assert (
            read(load("mini", [f"{key}=nowhere"])) == "nowhere"
        )  # as it is: a stage says that it is missing
        assert (
            read(load("mini", [f"{key}=tests"])) == "tests"
        )  # in the repository, where stages run
    (user / "in" / "leaf.yaml").write_text("base: mini\ndata:\n  root: corpus\n  musan: tests\n")
    config = load("in/leaf.yaml")
    assert (config.data.root, config.data.musan) == (str(user / "in" / "corpus"), "tests")
    outputs = load("mini", ["exp=corpus", "data.dir=in"])
    assert (outputs.exp, outputs.data.dir) == ("corpus", "in")


def test_an_input_with_an_interpolation_in_its_name_is_that_input(user):
    (user / "a${name}").mkdir()
    assert load("mini", ["data.root=a${name}"]).data.root == str(user / "a${name}")
    assert load("mini", [f"data.root={user}/a${{name}}"]).data.root == str(user / "a${name}")
    assert load("mini", ["data.root=b${name}"]).data.root == "bmini"


@pytest.mark.parametrize(
    "name", ["a #b, c=d: [e] 'f' \"g\" ${h} \\i ä€ {j} %k &l *m !n | o", "'quoted'"]
)
@pytest.mark.slow
def test_a_corpus_in_a_strange_place_goes_through_stages_0_and_1(user, name):
    corpus = user / name
    for split in ("train", "dev"):
        write_utterance(corpus / split, f"{'12'[split == 'dev']}-2-0001", "SOME WORDS")
    shared = [
        "--conf",
        "small-corpus",
        f"exp={user / 'exp'}",
        f"data.dir={user / 'out #1, two'}",
        "data.train=train",
        "data.dev=[dev]",
        "data.test=[]",
        "data.num_jobs=1",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH}
    root = f'"{name}"' if name[0] == "'" else name  # a name in quotes is written in other quotes
    for module in ("local.make_corpus", "local.prepare_manifests"):
        result = subprocess.run(
            [sys.executable, "-m", module, *shared, f"data.root={root}"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
    assert (user / "out #1, two" / "manifests" / "train.jsonl.gz").is_file()
    assert read_json(user / "out #1, two" / ".stamps" / "stage-0.json")["conf"]["data.root"] == str(
        corpus
    )


def test_an_experiment_that_can_not_be_written_is_a_sentence(tiny_run, tmp_path):
    """A path below a file: nobody, not even root, can make it."""
    folder, _ = tiny_run
    (tmp_path / "file").write_text("")
    arguments = [*tiny_arguments(folder), f"exp={tmp_path / 'file' / 'exp'}"]
    result = subprocess.run(
        [sys.executable, "-m", "todm.training.train", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH},
    )
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert f"ERROR: stage 4: {tmp_path / 'file'}" in result.stderr
