"""Every key refuses what can not work, with a sentence; values are read as people mean them; keys
in vain are named."""

import math
import re

import pytest
import torch

from todm.config.check import check
from todm.config.effects import EFFECTS
from todm.config.ineffective import ineffective
from todm.config.keys import CONFS, Config
from todm.config.load import explicit_keys, load, load_file
from todm.config.ranges import RANGES
from todm.data.batches import _spec_augment
from utils import conf as configuration
from utils.conf import flatten, from_dict, to_dict
from utils.config_values import key_type
from utils.errors import ConfigError

DEFAULTS = flatten(to_dict(Config()))
NUMBERS = [
    key
    for key, value in DEFAULTS.items()
    if isinstance(value, (int, float)) and not isinstance(value, bool)
]
CONF_FILES = sorted(path.relative_to(CONFS) for path in CONFS.rglob("*.yaml"))


def of(*overrides: str) -> Config:
    return load_file(None, overrides)


def test_every_number_has_a_range():
    elsewhere = {
        "model.stack",
        "supernet.ffn_chunks",
        "supernet.min_ffn_chunks",
        "supernet.min_blocks",
        "supernet.min_heads",
        "export.chunk_frames",
    }
    assert (
        set(NUMBERS) - set(RANGES) - elsewhere - {"model.tail_frames", "loss.delay_penalty"}
        == set()
    )
    assert set(RANGES) <= set(NUMBERS)


@pytest.mark.parametrize(
    "key", sorted(set(NUMBERS) - {"supernet.min_heads"})
)  # that one is looked at with elastic_heads alone
def test_numbers_that_make_no_sense_are_refused_by_key(key):
    """NaN, infinity, and negative ones; the powers of the alpha-divergence may be negative, within
    reason."""
    group, name = key.split(".")
    for value in (
        math.nan,
        math.inf,
        -math.inf,
        -1e30,
        *(() if key.startswith("distill.alpha") else [-1]),
    ):
        config = Config()
        config.select.method = "simple-topk"  # which looks at learn.*, too
        setattr(getattr(config, group), name, value)
        with pytest.raises(ConfigError, match=key):
            check(config)


@pytest.mark.parametrize(
    "override, message",
    [
        ("decode.beam=0", r"decode.beam is 0; it must be from 1"),
        ("decode.max_duration=0", r"decode.max_duration is 0.0; it must be above 0"),
        ("decode.methods=[]", r"decode.methods is \[\]; known: greedy, beam, at least one"),
        ("decode.methods=[greedy,greedy]", r"decode.methods has 'greedy' more than once"),
        ("decode.range=0", "decode.range is 0; it must be from 1"),
        ("decode.max_symbols=0", "decode.max_symbols is 0; it must be from 1"),
        ("decode.subnets=[x1]", "decode.subnets: 'x1' is not a block"),
        ("decode.nbest=5", "decode.nbest=5 asks for more hypotheses than decode.beam=4"),
        ("decode.subnets=[h0f0,h0f0]", "more than once"),
        ("train.lr=0", "train.lr is 0.0; it must be above 0"),
        ("train.seed=4294967296", "train.seed is 4294967296"),
        ("bpe.vocab_size=3", "bpe.vocab_size is 3; it must be from 4"),
        ("data.min_seconds=30", "is not below data.max_seconds 20"),
        ("spec_augment.max_freq_mask=0", "it must be from 2 to 80"),
        ("spec_augment.max_time_fraction=0.001", "less than a frame"),
        ("model.dim=0", "model.dim is 0; it must be from 1 to 100,000"),
        ("model.dim=1000000000", "model.dim"),
        ("model.context_size=0", "context_size"),
        ("model.architecture=h0f0", "has 1 blocks; model.blocks is 12"),
        ("model.architecture=", None),
        ("model.architecture=x", "is not a block"),
        (
            f"model.architecture={'h0-4f0 ' * 12}",
            "is no part of the largest net, whose blocks are h0-3f0-7",
        ),
        (f"model.architecture={'- ' * 12}", "drops every block"),
        ("loss.lm_scale=0.9", None),
        ("loss.am_scale=0.9", "more than 1 together"),
        ("loss.lm_scale=1.1", "from 0 to 1"),
        ("search.budgets=[0]", "must be above 0"),
        ("search.budgets=[half]", "'half' is not a budget such as"),
        ("search.budgets=[1,1]", "more than once"),
        ("search.budgets=[2ms]", "is a time, and search.cost is encoder_params"),
        ("search.budgets=[1e999]", "above 0"),
        ("search.population=0", "search.population"),
        ("export.budget=x", "export.budget: 'x' is not"),
        ("export.methods=[]", "export.methods is"),
        ("export.chunk_frames=0", "multiple of 4"),
        ("export.chunk_frames=30", "multiple of 4"),
        ("data.train=[]", "data.train is empty"),
        ("data.dev=[]", "data.dev is empty"),
        ("data.train=[a,a]", "data.train has 'a' more than once"),
        ("data.train=[a/train]", None),
        ("data.train=[/a/train]", None),
        ("data.train=[/]", "an empty text is none of its values"),
        ("data.train=[/a/..]", "an empty text is none of its values"),
        ("data.train=[a/../b]", "a split is the name"),
        ("data.train=[a/]", "a split is the name"),
        ("data.train=[dev-clean/x]", "lies in dev-clean, another split"),
        ("data.train=['..']", "a split is the name"),
        ("data.train=['']", "an empty text"),
        ("synthetic.snr_db=[40,25]", r"\[lowest, highest\]"),
        ("synthetic.level_db=[0]", r"\[lowest, highest\]"),
        ("synthetic.train_voices=0", "from 1 to 1000"),
        ("data.num_jobs=100000", "from 0 to 1024"),
        ("tables.workers=0", "from 1 to 1024"),
        ("tables.seeds=[-1]", "tables.seeds"),
        (
            "tables.ablations=[{name: x, overrides: [method.distil=kl]}]",
            "'x'.*did you mean method.distill",
        ),
        ("tables.ablations=[{name: x, overrides: [method.distill=nope]}]", "'x'.*method.distill"),
        ("tables.individual_grid=[train.lr=fast]", "individual_grid.*train.lr"),
        ("tables.individual_grid=[lr]", "not of the form key=value"),
        ("name=", "name is ''"),
        ("name=..", "no dot in front"),
        ("name=a/b", "no slash.*exp=FOLDER"),
        ("name= x", "begin or end with a space"),
        (f"name={'x' * 300}", "at most 200"),
        ("name=a\nb", "no slash"),
        ("exp=", "exp is empty"),
        ("exp=.", "a folder that holds other things"),
        ("exp=/", "a folder that holds other things"),
        ("exp=~", "a folder"),
        ("data.dir=..", "a folder that holds other things"),
        ("data.dir=exp/unnamed/data", "a new training moves all"),
        ("data.root=exp/unnamed", "a new training moves all"),
    ],
)
def test_values_that_are_refused(override, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("{}")

    def read() -> Config:
        return load("c.yaml", [override])

    if message is None:
        read()
    else:
        with pytest.raises(ConfigError, match=message):
            read()


def test_splits_of_a_download_are_the_servers():
    with pytest.raises(
        ConfigError, match="data.corpus=librispeech has no train; it has: dev-clean"
    ):
        of("data.corpus=librispeech", "data.train=[train]")
    assert of("data.corpus=librispeech", "data.train=[train]", "data.root=/corpora").data.train == [
        "train"
    ]
    with pytest.raises(ConfigError, match="split musan"):
        of("data.musan=/m", "data.test=[musan]")


@pytest.mark.parametrize(
    "override, value",
    [
        ("train.lr=1e-3", 1e-3),
        ("train.lr=.5", 0.5),
        ("train.lr='0.1'", 0.1),
        ("train.updates=010", 10),
        ("train.updates=1e5", 100000),
        ("train.updates=1_000", 1000),
        ("train.updates=+7 # seven", 7),
        ("model.gating=no", False),
        ("model.gating=on", True),
        ("data.root=/a#b", "/a#b"),
        ("data.root=/a, b: [c] #d", "/a, b: [c] #d"),
        ("data.root='/a b'", "/a b"),
        ('data.root="/it\'s"', "/it's"),
        ("data.root=/a=b", "/a=b"),
        ("data.root=/ä/€", "/ä/€"),
        ("data.root=null", None),
        ("data.root=", None),
        ("data.root=on", "on"),
        ("data.root=010", "010"),
        ("data.root=1e3", "1e3"),
        ("data.root='null'", "null"),
        ("data.root={x}", "{x}"),
        ("data.root=- a", "- a"),
        ("data.root=!tag", "!tag"),
        ("data.root=\\${x}", "${x}"),
        ("exp=e/${name}", "e/unnamed"),
        ("exp=e/${train.seed}", "e/1"),
        ("name=on", "on"),
        ("name='on'", "on"),
        ("name=2026-01-01", "2026-01-01"),
        ("data.train=train", ["train"]),
        ("data.train='a,b'", ["a,b"]),
        ("data.train=[a, 'b,c', on, 010]", ["a", "b,c", "on", "010"]),
        ("data.train=[a#b]", ["a#b"]),
        ("data.test=${data.train}", ["train-clean-100"]),
        ("search.budgets=[0.3,600k,1.0, 50%]", ["0.3", "600k", "1.0", "50%"]),
        ("search.budgets=600k", ["600k"]),
        ("decode.subnets=h0-3f0,2-3 - h0", None),
        ("decode.subnets='h0-3f0,2-3 - h0'", ["h0-3f0,2-3 - h0"]),
        ("synthetic.snr_db=[1e1, 020]", [10.0, 20.0]),
        ("tables.slurm={mem_gb: 016, x: on}", {"mem_gb": "016", "x": "on"}),
        ("tables.slurm.mem_gb=016", "016"),
        ("tables.seeds=[01, 2]", [1, 2]),
        ("data.train=a,b", None),
        ("data.train=", None),
        ("data.train=[a", None),
        ("data.train=[a #b]", None),
        ("train.updates=1:30", None),
        ("train.updates=1.5", None),
        ("train.updates=", None),
        ("train.lr=fast", None),
        ("train.lr=1:30", None),
        ("model.gating=2x", None),
        ("data.train=[[a]]", None),
        ("data.train=[a: b]", None),
        ("exp=${nam}", None),
        ("name=${exp}", None),
        ("=3", None),
        ("name=${", None),
        ("data.train[0]=x", None),
        ("model={dim: 3, dim: 4}", None),
        ("train.updates=\t3", 3),
    ],
)
def test_override_is_read_as_it_is_meant(override, value):
    """None: an error that names the key, or that the override can not be read."""
    key = override.partition("=")[0]
    if value is None and key != "data.root":
        with pytest.raises(ConfigError, match="override|exp|name|itself"):
            _raw(override)
        return
    got = flatten(to_dict(_raw(override)))
    assert (
        dict(_raw(override).tables.slurm) if override.startswith("tables.slurm={") else got[key]
    ) == value


def _raw(override: str) -> Config:
    layers = configuration.read_layers(Config, None, [override])
    return configuration.build(Config, layers)  # its values are looked at elsewhere


def test_an_error_shows_the_right_form():
    with pytest.raises(ConfigError, match=r"a list is written in brackets: \[a,b\]"):
        of("data.train=a,b")
    with pytest.raises(ConfigError, match=r"exp: .*nam.*\\\$\{"):
        of("exp=e/${nam}")


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "train:\n  lr: 1\n  seed: 2\n  lr: 3\n",
            r"c.yaml: train.lr is given twice, in lines 2 and 4",
        ),
        ("name: a\nname: b\n", "name is given twice, in lines 1 and 2"),
        ("model:\n\tdim: 3\n", r"c.yaml is not valid YAML in line 2.*spaces, not with tabs"),
        ("model.dim: 3\n", "a file every group has lines of its own"),
        ("base: [a]\n", "base is .*the name of one conf"),
        ("a: &x [*x]\n", "c.yaml"),
        ("name: a\n---\nname: b\n", "not valid YAML"),
        ("just text", "one value"),
        ("null", "one value"),
        ("model: !!python/object:x {}\n", "c.yaml"),
    ],
)
def test_files_that_can_not_be_read(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "c.yaml")


def test_files_are_read_with_the_types_of_the_keys(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "\ufeffname: on\nexp: e/${name}-010\ntrain: {lr: 1e-3, updates: 010, seed: 1_0}\ndata:\n  "
        "train: yes\n  dev: [010, no]\n"
        "  root: null\nsearch:\n  budgets: [0.50, 1e6]\nloss: &l\n  warmup: 3\n",
        encoding="utf-8",
    )
    config = load(tmp_path / "c.yaml")
    assert (config.name, config.exp, config.train.lr, config.train.updates, config.train.seed) == (
        "on",
        "e/on-010",
        0.001,
        10,
        10,
    )
    assert (config.data.train, config.data.dev, config.data.root, config.search.budgets) == (
        ["yes"],
        ["010", "no"],
        None,
        ["0.50", "1e6"],
    )
    (tmp_path / "latin.yaml").write_bytes("name: \xe4".encode("latin-1"))
    with pytest.raises(ConfigError, match="not in UTF-8"):
        load(tmp_path / "latin.yaml")


def test_old_values_still_load_but_are_refused_as_new_ones(tmp_path):
    """A checkpoint's conf has worked, whatever is asked of a new one; what it says literally is no
    interpolation."""
    values = to_dict(of("data.root=\\${HOME}/\\\\\\${x}"))
    values["decode"]["methods"], values["decode"]["beam"], values["name"], values["exp"] = (
        [],
        0,
        "a/b",
        "exp/a\\${b",
    )
    config = from_dict(Config, values)
    assert (config.decode.methods, config.decode.beam, config.exp, config.data.root) == (
        [],
        0,
        "exp/a\\${b",
        "${HOME}/\\${x}",
    )
    configuration.save(config, tmp_path / "conf.yaml")
    assert configuration.read_saved(Config, tmp_path / "conf.yaml") == config
    with pytest.raises(ConfigError, match="decode.beam is 0"):
        load(tmp_path / "conf.yaml")


@pytest.mark.parametrize("conf", CONF_FILES, ids=str)
def test_every_conf_of_the_recipe_loads_without_a_warning(conf, tmp_path):
    """But for the one that begins with a supernet that need not be there."""
    path = CONFS / conf
    config = load(path)
    if config.train.init:
        assert (
            "train.init=gone is not there yet"
            in ineffective(load(path, ["train.init=gone"]), {"train.init"})[0]
        )
        config.train.init = str(tmp_path)
    assert ineffective(config, explicit_keys(path)) == []
    assert from_dict(Config, to_dict(config)) == config


@pytest.mark.parametrize(
    "overrides, keys, remedy",
    [
        (
            ["search.budgets=[0.5]"],
            "search.budgets has no effect, because select.method is uniform",
            "select.method=evolution",
        ),
        (
            ["learn.share=0.5", "select.method=evolution"],
            "learn.share has no effect",
            "select.method=simple-topk",
        ),
        (
            ["synthetic.hours=1", "synthetic.seed=3", "data.root=/x"],
            "synthetic.hours, synthetic.seed have no effect",
            "data.root=null",
        ),
        (
            ["data.musan_prob=0.1"],
            "data.musan_prob has no effect, because data.musan is not set",
            "data.musan=FOLDER",
        ),
        (
            ["decode.beam=8", "export.methods=[greedy]"],
            "decode.beam has no effect",
            r"decode.methods=\[greedy,beam\]",
        ),
        (
            ["decode.hotwords_file=x.txt", "export.methods=[greedy]"],
            "decode.hotwords_file has no effect, because neither decode.methods nor export.methods",
            r"decode.methods=\[greedy,beam\]",
        ),
        (
            ["decode.hotwords_score=2"],
            "decode.hotwords_score has no effect, because decode.hotwords_file is not set",
            "decode.hotwords_file=FILE",
        ),
        (
            ["decode.nbest=2"],
            "decode.nbest has no effect, because decode.methods lacks beam",
            r"decode.methods=\[greedy,beam\]",
        ),
        (
            ["decode.range=3", "decode.weights=last"],
            "decode.range has no effect",
            "decode.weights=range",
        ),
        (["export.chunk_frames=16"], "export.chunk_frames has no effect", "model.direction=causal"),
        (
            ["distill.clip=3", "method.distill=kl"],
            "distill.clip has no effect",
            "method.distill=alpha",
        ),
        (["tables.workers=2"], "tables.workers has no effect", "tables.records=FOLDER"),
        (
            ["learn.penalty=3", "select.method=simple-topk"],
            "learn.penalty has no effect",
            "iterative-zero-out or orthosoftmax",
        ),
        (
            ["search.latency_engine=torch", "select.method=evolution"],
            "search.latency_engine has no effect",
            "search.cost=latency",
        ),
        (
            ["spec_augment.time_warp=3", "spec_augment.enabled=false"],
            "spec_augment.time_warp has no effect",
            "spec_augment.enabled=true",
        ),
        (
            ["train.adam_weight_decay=0"],
            "train.adam_weight_decay has no effect",
            "method.optimizer=adam",
        ),
        (
            ["train.updates=450"],
            "method.subnets_from is 450, which is not before the last update",
            "the smaller nets are not trained",
        ),
        (
            ["train.keep_last=3"],
            "decode.range is 3, but only 3 checkpoints are kept",
            "train.keep_last=4",
        ),
    ],
)
def test_keys_in_vain_are_named_with_what_makes_them_count(overrides, keys, remedy):
    warnings = ineffective(load("mini", overrides), explicit_keys("mini", overrides))
    assert any(w.startswith(keys) for w in warnings), warnings
    assert re.search(remedy, "\n".join(warnings))


def test_what_counts_is_not_named():
    for overrides in (
        [
            "search.budgets=[0.5]",
            "select.method=simple-topk",
            "method.subnets_from=100",
            "learn.share=0.5",
        ],
        ["synthetic.hours=1"],
        ["decode.beam=3"],
        ["data.root=/x", "data.corpus=folder"],
        ["export.chunk_frames=16", "model.direction=causal"],
    ):
        assert ineffective(load("mini", overrides), explicit_keys("mini", overrides)) == []


def test_a_users_conf_counts_and_its_bases_in_the_recipe_do_not(tmp_path):
    (tmp_path / "base.yaml").write_text("base: mini.yaml\nlearn: {share: 0.3}\n")
    (tmp_path / "mine.yaml").write_text(
        "base: base.yaml\nsearch: {budgets: [0.5]}\nselect: {method: evolution}\n"
    )
    keys = explicit_keys(tmp_path / "mine.yaml")
    assert {"learn.share", "search.budgets"} <= keys and "model.dim" not in keys
    assert [w.split()[0] for w in ineffective(load(tmp_path / "mine.yaml"), keys)] == [
        "learn.share"
    ]
    overrides = [
        "select.method=uniform"
    ]  # what only an override makes idle is no mistake of the conf
    assert "search.budgets" not in explicit_keys(tmp_path / "mine.yaml", overrides)
    assert "synthetic.hours" in explicit_keys("mini") and "synthetic.hours" not in explicit_keys(
        "mini", ["data.root=/x"]
    )


def test_effects_name_keys_that_exist():
    for effect in EFFECTS:
        assert all(key_type(Config, key) is not None for key in effect.keys), effect.keys


def test_no_time_masks_at_all():
    for override in ("spec_augment.num_time_masks=0", "spec_augment.max_time_fraction=0"):
        augment = _spec_augment(
            of(override, "spec_augment.num_freq_masks=0", "spec_augment.time_warp=0")
        )
        x = torch.randn(2, 50, 80)
        assert all(
            torch.equal(augment(x.clone(), torch.tensor([[0, 0, 50], [1, 0, 50]])), x)
            for _ in range(20)
        )


def test_types_of_keys():
    assert (
        key_type(Config, "train.lr") is float
        and key_type(Config, "tables.slurm.x") is str
        and key_type(Config, "a.b") is None
    )
    assert key_type(Config, "data.root") == str | None
