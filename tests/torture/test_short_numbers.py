"""The short forms of the sections numbers and load, with the tests' own experiment."""

import importlib

import pytest

from tests.torture.trials import Setting


@pytest.mark.parametrize("section", ["numbers", "load"])
def test_short_form_survives(section, tiny_run, tmp_path):
    module = importlib.import_module(f"tests.torture.{section}")
    trials = list(module.trials(Setting(tmp_path, short=True, experiment=tiny_run[0])))
    assert trials and not [trial for trial in trials if not trial.survived]
