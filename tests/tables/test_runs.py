"""Which trainings a conf with tables asks for, and what counts as the record of one."""

from dataclasses import replace

import pytest

from tests.tables.made_up import made_entry, made_record, made_row
from todm.config.keys import Config
from todm.config.load import load
from todm.results.records import Record
from todm.results.subnets import write_subnets
from todm.subnet import Subnet
from todm.supernet.search_space import SearchSpace
from todm.tables.runs import (
    ALONE,
    SAME,
    SUPERNET,
    Records,
    Run,
    Variant,
    ablation_variants,
    best_setting,
    differences,
    individual_variants,
    pinned_subnets,
    run_values,
    searched_subnets,
    supernet_variant,
    three_nets,
)
from utils.errors import ConfigError, UserError

CONF = "conf/tables/mini.yaml"
CONFIG = load(CONF)  # seeds 1 and 2, budgets 0.3, 0.6 and 1.0, train.seed 1
BOTH = "train.lr=0.07 model.dropout=0.03"
GRID = Variant("individual 0.3", ALONE, (SAME, "train.lr=0.07", BOTH), ("net",))


def record(setting: str, wers: dict[str, list[int]]) -> Record:
    """A record with WERs by role, one for each net."""
    rows = [
        made_row(made_entry(f"f{net}"), role, wer)
        for role, found in wers.items()
        for net, wer in enumerate(found)
    ]
    return made_record("Adam", setting, 1, rows)


def plan(variant: Variant, tuned: str | None, config=CONFIG) -> list[tuple[str, int]]:
    return [(run.setting, run.seed) for run in variant.runs(config, tuned)]


@pytest.mark.parametrize(
    "variant, setting, seed, name",
    [
        ("individual 0.45", "train.lr=0.07", 1, "individual-0.45-lr-0.07-seed1"),
        ("individual 0.45", BOTH, 10, "individual-0.45-lr-0.07-dropout-0.03-seed10"),
        ("max + random", SAME, 1, "max-random-seed1"),
    ],
)
def test_name_of_a_run_is_a_file_name(variant, setting, seed, name):
    assert Run(variant, setting, seed, (), ()).name == name


def test_only_the_supernet_of_stage_4_has_its_own_folder():
    runs = (
        Run(SUPERNET, SAME, 1, (), ()),
        Run(SUPERNET, SAME, 2, (), ()),
        Run("Adam", "train.lr=0.002", 1, (), ()),
    )
    folders = [str(run.exp(CONFIG).relative_to("exp/mini-tables")) for run in runs]
    assert folders == [".", "runs/supernet-seed2", "runs/Adam-lr-0.002-seed1"]
    other = load(CONF, ["train.seed=2"])
    assert [Run(SUPERNET, SAME, seed, (), ()).exp(other).name for seed in (1, 2)] == [
        "supernet-seed1",
        "mini-tables",
    ]


def test_overrides_of_a_run_are_those_of_variant_setting_seed_and_folder():
    run = Run("individual 0.3", BOTH, 2, ("method.smallest=false",), ())
    assert run.all_overrides(CONFIG) == [
        "method.smallest=false",
        "train.lr=0.07",
        "model.dropout=0.03",
        "train.seed=2",
        "exp=exp/mini-tables/runs/individual-0.3-lr-0.07-dropout-0.03-seed2",
    ]


def test_first_seed_tries_every_setting_and_the_others_the_same_and_the_tuned_one():
    first = [(SAME, 1), ("train.lr=0.07", 1), (BOTH, 1)]
    assert plan(GRID, None) == [*first, (SAME, 2)]
    assert plan(GRID, BOTH) == [*first, (SAME, 2), (BOTH, 2)]
    assert plan(GRID, SAME) == [*first, (SAME, 2)]


def test_grid_without_the_confs_own_settings_waits_for_the_tuned_one():
    adam = replace(GRID, grid=("train.lr=0.001", "train.lr=0.002"))
    assert plan(adam, None) == [("train.lr=0.001", 1), ("train.lr=0.002", 1)]
    assert plan(adam, "train.lr=0.002") == [
        ("train.lr=0.001", 1),
        ("train.lr=0.002", 1),
        ("train.lr=0.002", 2),
    ]


def test_best_setting_sees_dev_alone_and_takes_the_mean_over_nets():
    """The second is the best on dev (11 against 12 and 13) although its first net is the worst, as
    is its test."""
    records = [
        record("a", {"dev": [10, 14], "test": [1, 1]}),
        record("b", {"dev": [20, 2], "test": [90, 90]}),
        record("c", {"dev": [13, 13], "test": [2, 2]}),
    ]
    assert best_setting(records) == "b"


def test_first_of_equally_good_settings_is_taken():
    assert (
        best_setting(
            [record("worse", {"dev": [9]}), record("a", {"dev": [8]}), record("b", {"dev": [8]})]
        )
        == "a"
    )
    assert best_setting([]) is None


def test_differences_are_told_in_words():
    assert differences({"lr": 0.045, "same": 1, "gone": 1}, {"lr": 0.07, "same": 1, "new": 1}) == [
        "lr was 0.045, is 0.07"
    ]


def test_record_is_of_one_conf_only(tmp_path):
    """As written and read back: whole, of another conf, and of a time before or after some key
    existed."""
    records, run = Records(tmp_path), GRID.run(BOTH, 1)
    values = run_values(CONF, [], CONFIG, run)
    assert records.get(run, values) is None
    row = made_row(made_entry("h0f0"), "dev", 8)
    made = made_record(run.variant, run.setting, run.seed, [row], conf=values)
    made.write(records.path(run))
    assert records.get(run, values) == made
    assert records.get(run, values | {"train.lr": 0.08}) is None
    assert records.get(run, values | {"train.new": 1}) is not None
    assert records.get(run, {k: v for k, v in values.items() if k != "train.lr"}) is not None
    assert records.get(GRID.run(SAME, 1), values) is None and records.all() == [made]


@pytest.mark.parametrize(
    "change, keys",
    [
        ({"setting": "train.lr=0.07"}, {"train.lr"}),
        ({"seed": 2}, {"train.seed"}),
        ({"overrides": ("method.distill=kl",)}, {"method.distill"}),
        (
            {"overrides": ('model.architecture="h0-3f0-7 - h0-3f0-2 - - h0-3f0-1"',)},
            {"model.architecture"},
        ),
        ({"nets": ("another",)}, {"nets"}),
        ({"variant": "another"}, set()),  # its folder alone
    ],
)
def test_values_of_two_runs_differ_in_what_sets_them_apart(change, keys):
    run = Run("supernet", SAME, 1, (), ("net",))
    values, others = (run_values(CONF, [], CONFIG, r) for r in (run, replace(run, **change)))
    assert {
        key for key in values.keys() | others.keys() if values.get(key) != others.get(key)
    } == keys


def test_values_know_of_the_command_line_but_not_of_speed_or_other_stages():
    run = GRID.run(SAME, 1)
    values = run_values(CONF, [], CONFIG, run)
    assert (
        run_values(
            CONF,
            ["tables.workers=1", "train.log_every=3", "search.seed=9", "exp=elsewhere"],
            CONFIG,
            run,
        )
        == values
    )
    assert set(
        differences(values, run_values(CONF, ["bpe.vocab_size=99", "decode.range=2"], CONFIG, run))
    ) == {"bpe.vocab_size was 120, is 99", "decode.range was 3, is 2"}


@pytest.mark.slow
def test_every_run_of_the_conf_resolves_to_what_it_should_be():
    """2 supernets, 4 + 2 models alone for each of 3 budgets, 2 of each of 5 ablations and 2 + 1
    with Adam."""
    nets = [str(net) for net in SearchSpace(CONFIG, CONFIG.bpe.vocab_size).ladder(3)]
    assert three_nets(CONFIG) == tuple(nets)
    searched = dict(zip(CONFIG.tables.budgets, reversed(nets)))
    entries = [made_entry(net, budget=budget) for budget, net in searched.items()]
    supernet, alone = supernet_variant(CONFIG, entries[:1]), individual_variants(CONFIG, entries)
    assert supernet.nets == (nets[2], nets[0], nets[1]) and [v.name for v in alone] == [
        "individual 0.3",
        "individual 0.6",
        "individual 1.0",
    ]
    runs = [
        run
        for v in (supernet, *alone, *ablation_variants(CONFIG))
        for run in v.runs(CONFIG, v.grid[-1])
    ]
    assert len(runs) == 2 + 3 * (4 + 2) + 5 * 2 + (2 + 1) + (
        3 + 1
    )  # the last two: weaker alpha-divergence, Adam
    assert len({run.name for run in runs}) == len({run.exp(CONFIG) for run in runs}) == len(runs)
    for run in runs:
        config = load(CONF, run.all_overrides(CONFIG))
        assert (config.train.seed, config.exp_dir, config.tables) == (
            run.seed,
            run.exp(CONFIG),
            CONFIG.tables,
        )
        settings = dict(item.split("=") for item in run.setting.split())
        assert config.train.lr == float(settings.get("train.lr", 0.045))
        assert config.model.dropout == float(settings.get("model.dropout", 0.1))
        full = SearchSpace(config, config.bpe.vocab_size).largest
        if run.variant.startswith("individual"):
            net = searched[run.variant.removeprefix("individual ")]
            assert (
                config.model.architecture == net == run.nets[0]
                and full == Subnet.parse(net).packed()
            )
            assert (
                config.method.subnets_per_step,
                config.method.smallest,
                config.method.distill,
            ) == (0, False, "none")
        else:
            assert set(run.nets) == set(nets) and all(
                Subnet.parse(net).within(full) for net in nets
            )


@pytest.mark.parametrize(
    "names", ["[{name: a b}, {name: a-b}]", "[{name: supernet}]", "[{name: individual 0.3}]"]
)
def test_two_variants_never_share_a_record(names):
    """Such names are refused, or told apart: one record would replace the other, and the two runs
    would repeat for ever."""
    try:
        config = load(CONF, [f"tables.ablations={names}"])
    except ConfigError:
        return
    alone = individual_variants(
        config, [made_entry("h0f0", budget=b) for b in config.tables.budgets]
    )
    variants = [supernet_variant(config, []), *alone, *ablation_variants(config)]
    found = [run.name for variant in variants for run in variant.runs(config, None)]
    assert len(set(found)) == len(found)


def stage_5(config: Config, nets: dict[str, str]) -> None:
    """Writes what stage 5 would have written: a subnet for every budget, and a baseline."""
    first = next(iter(nets))
    write_subnets(
        config.exp_dir / "subnets.json",
        "evolution",
        [made_entry(net, budget=budget) for budget, net in nets.items()],
        [made_entry("h0f0", budget=first)],
    )


def test_the_subnets_of_stage_5_are_kept_beside_the_records(tmp_path, caplog):
    """The first search's subnets stay those of the tables, with and without the experiment's
    folder."""
    config = load(CONF, [f"exp={tmp_path / 'exp'}", f"tables.records={tmp_path / 'results'}"])
    with pytest.raises(UserError, match="stage 5"):
        pinned_subnets(config)
    nets = {"0.3": "h0f0-1", "0.45": "h0-1f0-1", "0.6": "h0-1f0-2", "1.0": "h0-1f0-3"}
    stage_5(config, nets)
    first = pinned_subnets(config)
    assert searched_subnets(first) == nets
    assert str(first[-1].subnet) == "h0f0"
    stage_5(config, {"0.3": "h0f1", "0.6": "h0-1f1-2", "1.0": "h0-1f0-3"})
    assert pinned_subnets(config) == first and "begin the tables anew" in caplog.text
    (tmp_path / "exp/subnets.json").unlink()
    assert pinned_subnets(config) == first


def test_a_size_that_was_not_searched_is_named(tmp_path):
    config = load(CONF, [f"exp={tmp_path / 'exp'}", f"tables.records={tmp_path / 'results'}"])
    stage_5(config, {"0.3": "h0f0-1", "1.0": "h0-1f0-3"})
    with pytest.raises(UserError, match=r"\['0.6'\]"):
        pinned_subnets(config)
