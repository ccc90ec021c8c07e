import pytest

from todm.config.keys import Config
from todm.config.load import load as load_recipe
from todm.config.load import load_file
from utils.conf import flatten, from_dict, save, select, to_dict
from utils.errors import ConfigError


def write(folder, name: str, text: str):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "key, known",
    [
        ("model.dmi", "model.dim"),
        ("updates", "train.updates"),
        ("loss.prune_rang", "loss.prune_range"),
        ("modle", "model"),
    ],
)
def test_unknown_key_names_the_nearest(key, known):
    with pytest.raises(ConfigError, match=rf"unknown key {key}; did you mean {known}\?"):
        load_file(None, [f"{key}=3"])


def test_unknown_key_like_no_other_lists_its_group():
    with pytest.raises(ConfigError, match="known here: bpe.model_type, bpe.vocab_size"):
        load_file(None, ["bpe.zzzzzzzz=3"])


def test_unknown_key_in_a_file_names_the_file(tmp_path):
    path = write(tmp_path, "a.yaml", "model:\n  dimm: 3\n")
    with pytest.raises(
        ConfigError, match=r"a\.yaml: unknown key model\.dimm; did you mean model\.dim\?"
    ):
        load_file(path)


@pytest.mark.parametrize(
    "override, key",
    [
        ("model.dim=wide", "model.dim"),
        ("model.gating=3.5", "model.gating"),
        ("tables.seeds=x", "tables.seeds"),
        ("method.distill=beta", "method.distill"),
        ("model=3", "model"),
        ("model.rates={a: 1}", "model.rates"),
    ],
)
def test_wrong_type_names_the_key(override, key):
    with pytest.raises(ConfigError, match=key):
        load_file(None, [override])


@pytest.mark.parametrize("override", ["model.dim", "data.train=[a"])
def test_an_override_that_can_not_be_read(override):
    with pytest.raises(ConfigError, match="override"):
        load_file(None, [override])


def test_missing_file_names_the_nearest(tmp_path):
    write(tmp_path, "mini.yaml", "")
    with pytest.raises(ConfigError, match=r"no such conf: .*mimi\.yaml; did you mean .*mini\.yaml"):
        load_file(tmp_path / "mimi.yaml")


@pytest.mark.parametrize(
    "text, message",
    [
        ("model: [", "not valid YAML"),
        ("- a\n- b\n", "a list where a mapping"),
        ("model:\n", "model is a group of keys"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=rf"broken\.yaml.*{message}"):
        load_file(write(tmp_path, "broken.yaml", text))


def test_later_layers_win(tmp_path):
    """Base, conf, overrides; what a layer does not name stays."""
    write(
        tmp_path, "root.yaml", "model:\n  dim: 32\n  modes: 5\n  stack: 2\ndata:\n  train: [x, y]\n"
    )
    write(tmp_path, "middle.yaml", "base: root.yaml\nmodel:\n  modes: 6\n")
    path = write(
        tmp_path,
        "leaf.yaml",
        "base: middle.yaml\nname: leaf\nmodel:\n  stack: 1\ndata:\n  train: [z]\n",
    )
    config = load_file(path, ["model.stack=2", "data.dev=[v, w]"])
    assert (config.model.dim, config.model.modes, config.model.stack) == (32, 6, 2)
    assert config.model.ffn_dim == Config().model.ffn_dim
    assert config.data.train == ["z"] and config.data.dev == ["v", "w"]
    assert config.exp == "exp/leaf" and str(config.data_dir) == "data/leaf"


def test_a_missing_base_is_named(tmp_path):
    (tmp_path / ".hidden.yaml").touch()
    with pytest.raises(ConfigError, match=r"no such conf: .*gone\.yaml(?!.*hidden)"):
        load_file(write(tmp_path, "leaf.yaml", "base: gone.yaml\n"))


def test_saved_conf_reads_back(tmp_path):
    config = load_file(
        None,
        [
            "name=x",
            "model.architecture='h0f0 -'",
            "model.blocks=2",
            "supernet.min_blocks=1",
            "data.train=[a, b]",
            "train.lr=1e-3",
            "data.root=/r",
        ],
    )
    save(config, tmp_path / "saved" / "conf.yaml")
    assert (
        load_file(tmp_path / "saved" / "conf.yaml") == config == from_dict(Config, to_dict(config))
    )
    assert config.train.lr == 0.001 and config.model.architecture == "h0f0 -"


@pytest.mark.parametrize("name", ["mini", "conf/mini.yaml", "mini.yaml", "conf/mini"])
def test_recipe_confs_go_by_name(name):
    assert load_recipe(name, ["model.dim=10"]).model.dim == 10
    assert load_recipe(name).name == "mini"


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.stack=3", "model.stack is 3; 1 or 2"),
        ("model.ssm_dim=100", "ssm_dim 100 is not divisible by model.heads 8"),
        ("model.heads=1", "must be even, not 1"),
        ("supernet.ffn_chunks=7", "1024 is not divisible by supernet.ffn_chunks 7"),
        (
            "supernet.min_ffn_chunks=9",
            "min_ffn_chunks 9 is not between 1 and supernet.ffn_chunks 8",
        ),
        ("supernet.min_blocks=0", "min_blocks 0 is not between 1 and model.blocks 12"),
        ("supernet.min_blocks=13", "min_blocks 13"),
        ("model.dt_min=0", "dt_min is 0.0; it must be above 0"),
        ("model.dt_min=1", "at most model.dt_max 0.1"),
        ("model.dropout=1", "dropout is 1.0; it must be at least 0 and below 1"),
        ("loss.prune_range=1", "prune_range is 1; it must be from 2"),
        ("loss.delay_penalty=-0.1", "delay_penalty is -0.1; it must be 0 or more"),
        ("loss.rnnt_type=modifed", "loss.rnnt_type.*regular.*modified.*constrained"),
        ("model.tail_frames=-4", "tail_frames is -4; it must be from 0 to 1000"),
        ("loss.ctc_first=5", "loss.ctc_weight must be above 0"),
        ("method.subnets_per_step=-1", "subnets_per_step is -1; it must be from 0"),
        ("select.num_subnets=0", "num_subnets is 0; it must be from 1"),
        ("train.updates=0", "train.updates is 0; it must be from 1 to 1,000,000,000"),
        ("data.max_duration=0", "data.max_duration is 0"),
        ("decode.methods=[greedy,gready]", "gready.*known: greedy, beam"),
        ("data.dev=[train-clean-100]", "train-clean-100.*more than one"),
    ],
)
def test_values_that_can_not_work_together(override, message):
    with pytest.raises(ConfigError, match=message):
        load_file(None, [override])


def test_a_loss_that_may_be_negative_makes_no_weights():
    with pytest.raises(ConfigError, match="loss.delay_penalty.*loss.subnet_weighting=saturating"):
        load_file(None, ["loss.delay_penalty=0.01", "loss.subnet_weighting=saturating"])


@pytest.mark.parametrize("heads", [0, 5])
def test_elastic_heads_need_a_possible_minimum(heads):
    with pytest.raises(
        ConfigError, match=f"min_heads {heads} is not between 1 and the 4 head groups"
    ):
        load_file(None, ["supernet.elastic_heads=true", f"supernet.min_heads={heads}"])


def test_selection_takes_keys_and_groups():
    config = load_file(None, ["bpe.vocab_size=7"])
    assert select(config, ("bpe", "train.seed")) == {
        "bpe.vocab_size": 7,
        "bpe.model_type": "unigram",
        "train.seed": 1,
    }
    assert select(config, ("data.tra",)) == {}
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": 3}) == {"a.b": 1, "a.c.d": [2], "e": 3}


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f"])
def test_control_characters_are_no_yaml(tmp_path, character):
    """PyYAML refuses them before it reads."""
    with pytest.raises(ConfigError, match="a.yaml is not valid YAML: "):
        load_file(write(tmp_path, "a.yaml", f"name: a{character}\n"))
    with pytest.raises(ConfigError, match="can not be read: it is not valid YAML"):
        load_file(None, [f"train.updates={character}"])
