"""The pages for people name only what is there: links, paths, modules, options, keys and
messages."""

import ast
import functools
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from tests.conftest import ROOT
from todm.config.keys import CONFS, RECIPE, Config
from todm.config.load import load
from todm.recipe.stages import STAGES
from utils.conf import ConfigError

PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "results").rglob("*.md")),
    )
}
GUIDES = [name for name in PAGES if not name.startswith(("RESULTS.md", "results/"))]
GROUPS = {
    f.name: {k.name for k in fields(f.default_factory)}
    for f in fields(Config)
    if f.name not in ("name", "exp")
}
SOURCES = ("py", "sh", "yaml", "yml", "toml")  # a file with such a name is one of ours
OTHER_FILES = ("json", "jsonl", "md", "log", "html", "onnx", "png")  # train.log is no key
TOP = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"exp", "data", ".venv"}
FOLDERS = TOP | {path.name for path in RECIPE.iterdir() if path.is_dir()} - {"data"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@functools.cache
def text_of(page: str) -> str:
    """A page as it stands in its file."""
    return PAGES[page].read_text(encoding="utf-8")


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", text_of(page))


def blocks(page: str, *languages: str) -> list[str]:
    """The blocks of code of a page in some languages."""
    return [code for language, code in FENCE.findall(text_of(page)) if language in languages]


def spans(page: str) -> list[str]:
    """The texts in backticks outside of a page's blocks of code, on one line or over two."""
    return [
        " ".join(span.split()) for span in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", prose(page))
    ]


def commands(page: str) -> Iterator[list[str]]:
    """The command lines of a page's blocks and backticks, as a shell splits them, without variables
    in front."""
    lines = spans(page)
    for block in blocks(page, "bash"):
        lines += block.replace("\\\n", " ").splitlines()
    for line in lines:
        if re.match(r"(\w+=\S+ )*(\./|\.ci/|local/|python -m|torchrun)", line):
            words = shlex.split(line, comments=True)
            while "=" in words[0]:
                del words[0]
            yield words


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def placeholder(path: str) -> bool:
    """Whether a path names something that only a user has or that a run makes, as ``exp/NAME``
    does; README.md, though in capitals, does not."""
    return bool(re.search(r"\b[A-Z]{3,}\b|\.\.\.|^[~/$]|^(exp|data)/\w+/?", path)) and not any(
        Path(path).name == page.name for page in PAGES.values()
    )


def candidates(path: str) -> list[Path]:
    """Where a path of a page may lie: in the repository, in the recipe, among its confs."""
    return [found for folder in (ROOT, RECIPE, CONFS) for found in folder.glob(path.strip("/"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (PAGES[page].parent / path).resolve() if path else PAGES[page]
        assert found.exists(), f"{page} links to {target}"
        assert ROOT in [found, *found.parents], f"{page} links out of the repository: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page} links to {target}"


@pytest.mark.parametrize("page", GUIDES)
def test_paths_are_there(page):
    names = [
        name
        for name in spans(page)
        if re.fullmatch(r"[\w./*-]+", name)
        and not placeholder(name)
        and (name.rpartition(".")[2] in SOURCES or "/" in name and name.split("/")[0] in FOLDERS)
    ]
    assert not [name for name in names if not candidates(name)]


@pytest.mark.parametrize("page", PAGES)
def test_modules_can_be_run(page):
    for name in re.findall(r"(?:python3? |^|\s)-m ([a-z_][\w.]*)", text_of(page), re.MULTILINE):
        if name not in ("pytest", "pip", "venv"):
            found = importlib.util.find_spec(name)
            assert found and found.origin, f"{page} runs {name}"
            program = Path(found.origin)
            if program.name == "__init__.py":  # python -m of a package runs its __main__.py
                assert program.with_name("__main__.py").is_file(), f"{page} runs {name}"
            else:
                text = program.read_text(encoding="utf-8")
                assert "__main__" in text, f"{page} runs {name}, which is no program"


@pytest.mark.parametrize("page", PAGES)
def test_python_of_the_pages_imports_what_is_there(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f"{page} imports {name.name}"


@pytest.mark.parametrize("page", PAGES)
def test_options_are_known(page):
    """Every ``--option`` of a command is one of the script that it is given to."""
    sources = {
        "./run.sh": ROOT / "run.sh",
        "local/setup.sh": ROOT / "local/setup.sh",
        "./transcribe.sh": RECIPE / "decoding/transcribe.py",
    }
    for words in commands(page):
        if words[0] not in sources:
            continue
        source = sources[words[0]].read_text(encoding="utf-8")
        for word in words[1:]:
            option = word.partition("=")[0]
            if option.startswith("--"):
                assert re.search(rf"{option}\b(?!-)", source), f"{page}: {words[0]} has no {option}"


@pytest.mark.parametrize("page", PAGES)
def test_keys_are_those_of_the_configuration(page):
    """``group.key`` in backticks, and every ``key=value`` of a command, is a key of the
    configuration, or a group of keys."""
    texts = [*spans(page), *(word for words in commands(page) for word in words)]
    for text in texts:
        for key in re.findall(r"(?<![\w./-])([a-z_]+\.[a-z_]\w*)(?![\w./(-])", text):
            group, _, name = key.partition(".")
            if name not in (*SOURCES, *OTHER_FILES):
                assert name in GROUPS.get(group, {name}), f"{page} names the key {key}"


@pytest.mark.parametrize("page", GUIDES)
def test_commands_of_run_sh_have_confs_that_load(page):
    for words in commands(page):
        if words[0] != "./run.sh":
            continue
        text = " ".join(words)
        if "..." in text or "~" in text:  # a pattern, or a conf that only the user has
            continue
        conf = words[words.index("--conf") + 1] if "--conf" in words else "conf/mini.yaml"
        overrides = [w for w in words[1:] if re.match(r"[a-z_.]+=", w)]
        try:
            load(conf, overrides)
        except ConfigError as error:
            pytest.fail(f"{page}: {text}: {error}")


def texts_of_the_code() -> str:
    """The texts in the recipe's Python and shell files, those that are joined in one piece."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "local").glob("*.sh")]
    for folder in (RECIPE, ROOT / "local", ROOT / "utils"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    texts.append(
                        "".join(
                            getattr(part, "value", "")
                            for part in node.values
                            if isinstance(part, ast.Constant)
                        )
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_messages_in_troubleshooting_are_those_of_the_code():
    texts = texts_of_the_code()
    rows = re.findall(r"^\| (`.*?) \|", text_of("docs/troubleshooting.md"), re.MULTILINE)
    assert rows
    for message in re.findall(r"`([^`]+)`", " ".join(rows)):
        missing = [part for part in message.split("...") if part.strip() not in texts]
        assert not missing or message.startswith("exp/"), message


def test_readme_is_short_and_leads_to_every_guide():
    assert len(text_of("README.md").splitlines()) <= 150
    missing = [
        name for name in GUIDES if name != "README.md" and f"]({name}" not in text_of("README.md")
    ]
    assert not missing


def test_every_stage_stands_in_the_readme():
    rows = [int(n) for n in re.findall(r"^\| (\d+) \|", text_of("README.md"), re.MULTILINE)]
    assert rows == sorted(STAGES)


def test_pictures_in_results_are_shown():
    """A picture that no page shows is not kept."""
    shown = {
        (path.parent / target).resolve()
        for page, path in PAGES.items()
        for target in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", prose(page))
    }
    assert {p.resolve() for p in (ROOT / "results").rglob("*.png")} <= shown
