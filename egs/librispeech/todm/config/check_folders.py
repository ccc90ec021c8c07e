"""Checks of the conf's name and of the folders that it reads and writes."""

import os
from pathlib import Path

from todm.config.keys import Config
from utils.errors import need
from utils.text import folder_name_problem


def check_folders(config: Config) -> None:
    """Checks the name and every path."""
    check_name(config.name)
    check_paths(config)
    check_written_folders(config)
    init = config.train.init
    need(
        not init or os.path.realpath(init) != os.path.realpath(config.exp),
        f"train.init={init} is the folder that the training writes into (exp); give the new one "
        "another name: exp=exp/NAME",
    )


def check_name(name: str) -> None:
    """Refuses a name that can not be the name of a folder."""
    problem = folder_name_problem(name)
    need(
        problem is None,
        f"name is {name!r}; {problem}; another place for them: exp=FOLDER data.dir=FOLDER",
    )


def check_paths(config: Config) -> None:
    """Refuses paths that are empty or hold control characters; only data.root may be empty."""
    paths = {
        "exp": config.exp,
        "data.dir": config.data.dir,
        "data.root": config.data.root,
        "data.musan": config.data.musan,
        "search.latency_table": config.search.latency_table,
        "decode.hotwords_file": config.decode.hotwords_file,
        "tables.records": config.tables.records,
    }
    for key, value in paths.items():
        need(
            value is None or value.isprintable(),
            f"{key} is {value!r}, which has a character that no path should have",
        )
        need(
            value is None or bool(value.strip()) or key == "data.root",
            f"{key} is empty; a path is needed",
        )


def check_written_folders(config: Config) -> None:
    """Refuses an experiment or data folder that holds other things, such as the user's home, and
    data inside the experiment: a new training moves all of an earlier one aside."""
    home = Path.home()
    for key, path, kind in (("exp", config.exp, "exp"), ("data.dir", config.data.dir, "data")):
        need(
            resolved(path) not in (Path.cwd(), *Path.cwd().parents, home, *home.parents),
            f"{key}={path} is a folder that holds other things; give one of its own, e.g. "
            f"{key}={kind}/{config.name}",
        )
    exp = resolved(config.exp)
    for key, outside in (("data.dir", config.data.dir), ("data.root", config.data.root)):
        inside = resolved(outside) if outside else None
        need(
            inside is None or exp != inside and exp not in inside.parents,
            f"{key}={outside} lies in exp={config.exp}, and a new training moves all that is "
            "there into its folder earlier; take another place",
        )


def resolved(path: str) -> Path:
    """The absolute path, with links followed as far as they lead."""
    return Path(os.path.realpath(path))
