"""The table of workloads: each can be made, and patterns choose among them."""

import importlib
import inspect
import os
import subprocess
import sys

import pytest

from tests.conftest import PYTHONPATH
from todm.benchmark.estimate import expected_seconds
from todm.benchmark.runner import Limits
from todm.benchmark.workloads import FRESH, WORKLOADS, Workload, chosen_workloads
from todm.config.keys import ModelConfig
from utils.errors import UserError


def names(*patterns: str, device: str = "cpu") -> list[str]:
    return [w.name for w in chosen_workloads(patterns, device)]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_the_program_of_a_workload_takes_its_arguments(workload):
    where, _, name = workload.program.partition(":")
    program = getattr(importlib.import_module(f"todm.benchmark.{where}"), name)
    inspect.signature(program).bind("settings", *workload.arguments)
    assert callable(program.run)
    assert workload.needs in (None, *(w.name for w in WORKLOADS))


@pytest.mark.parametrize("module", ["__main__", "exported"])
def test_the_process_that_asks_and_those_of_exported_encoders_do_without_torch(module):
    code = f"import sys, todm.benchmark.{module}; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_names_are_there_once():
    assert len({w.name for w in WORKLOADS}) == len(WORKLOADS) == len(names())


def test_patterns_choose_workloads_in_the_order_of_the_table():
    assert names("update", "encoder-*s") == ["encoder-3s", "encoder-12s", "encoder-30s", "update"]


def test_what_a_workload_needs_comes_with_it():
    assert names("load-streaming-int8") == ["export-streaming", "load-streaming-int8"]


def test_a_gpu_has_training_alone():
    assert names(device="cuda") == names(
        "encoder*", "update", "memory*", "optimizer", device="cuda"
    )
    with pytest.raises(UserError, match="--only load.*on cuda"):
        names("load*", device="cuda")


def test_a_pattern_that_fits_nothing_lists_what_there_is():
    with pytest.raises(UserError, match="--only updates: .*update, "):
        names("updates")


def test_the_estimate_counts_rounds_sides_and_the_size_of_the_net():
    large = ModelConfig(dim=512, blocks=16, ffn_dim=2048, ssm_dim=512)
    half = ModelConfig(dim=512, blocks=8, ffn_dim=2048, ssm_dim=512)
    workload = Workload("one", "One.", "none:None", (), (), least=3, cost=9.9)
    limits = Limits(rounds=9, seconds=0, timeout=1)
    assert expected_seconds(workload, large, limits, 1) == pytest.approx(3 * 10)
    assert expected_seconds(workload, large, limits, 2) == pytest.approx(2 * 3 * 10)
    assert expected_seconds(workload, half, limits, 1) == pytest.approx(3 * (9.9 / 2 + 0.1))
    assert expected_seconds(workload, large, Limits(9, 60, 1), 1) == pytest.approx(60)
    assert expected_seconds(workload, large, Limits(2, 60, 1), 1) == pytest.approx(2 * 10)
    fresh = Workload("one", "One.", "none:None", (), (), process=FRESH, least=1, cost=8.5)
    assert expected_seconds(fresh, large, limits, 1) == pytest.approx(10)
