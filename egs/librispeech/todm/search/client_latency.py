"""Latency as the client has it: a table of per-block times, measured in sherpa-onnx on one thread.

The search uses it where ``search.latency_engine=sherpa-onnx``.  By hand, on the device that subnets
are chosen for:
``python -m todm.search.client_latency exp/NAME latency.json``, then
``search.latency_table=latency.json``.
"""

import argparse
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from todm.config.keys import Config
from todm.deploy.client import Client
from todm.deploy.onnx_export import export_decoder, export_joiner, export_offline_encoder
from todm.model.encoder import block_rates
from todm.model.transducer import Transducer
from todm.recipe.command_line import setup_logging
from todm.results.export_files import TOKENS, graph, parts
from todm.search.timing import REPEATS, SECONDS, checked_nets, compare, interleaved, log_check
from todm.subnet import Subnet
from todm.supernet.extract import extract
from todm.supernet.latency_table import LatencyTable, timed_parts
from todm.supernet.search_space import SearchSpace
from todm.training.experiment import load_experiment
from utils.audio import SAMPLE_RATE
from utils.errors import UserError
from utils.files import write_json_atomic
from utils.progress import progress
from utils.provenance import machine

ENGINE = "sherpa-onnx"
FIXED = "fixed"  # what every net takes


def measure(
    model: Transducer,
    config: Config,
    space: SearchSpace,
    sizes: list[tuple[int, int]],
    seconds: float = SECONDS,
    repeats: int = REPEATS,
) -> tuple[LatencyTable, list[dict]]:
    """Measures nets that have blocks of one size at one rate, and finds the times of the blocks
    that explain those of the nets best.

    Args:
      seconds: of the audio that is decoded. repeats: of every job, in turns.
    Returns:
      The table, and its check on three whole nets, as
      :func:`todm.search.torch_latency.measure` has it.
    Raises:
      UserError: the supernet has one block alone.
    """
    if len(model.full.blocks) == 1:
        raise UserError("search.cost=latency needs a supernet of more than one block")
    rates = tuple(block_rates(config.model))
    nets, checked = timed_nets(rates, sizes), checked_nets(space)
    samples = _noise(seconds)
    with tempfile.TemporaryDirectory() as folder:
        named = dict(enumerate(nets)) | checked
        clients = _clients(model, config, named, Path(folder))
        jobs = {key: _decoding(client, samples) for key, client in clients.items()}
        times = interleaved(jobs, seconds, repeats)
    table = table_of([times[number] for number in range(len(nets))], nets, rates)
    return table, compare(table, checked, times)


def timed_nets(rates: tuple[int, ...], sizes: list[tuple[int, int]]) -> list[Subnet]:
    """The nets whose times tell those of the blocks: for every rate and size the one that has all
    blocks of that rate, and for the largest and the smallest size the one that has the first of
    them alone."""
    nets = []
    for rate in sorted(set(rates)):
        first = rates.index(rate)
        for size in sizes:
            nets.append(Subnet.leading(size if r == rate else (0, 0) for r in rates))
            if size in (sizes[0], sizes[-1]):
                nets.append(
                    Subnet.leading(size if i == first else (0, 0) for i in range(len(rates)))
                )
    return list(dict.fromkeys(nets))


def table_of(times: list[float], nets: list[Subnet], rates: tuple[int, ...]) -> LatencyTable:
    """The table that explains the measured times of some nets best: least squares of the relative
    errors, in which no part of a net takes less than nothing, and no block less than a smaller one.

    Args:
      times: in ms per second of audio.
    """
    timed = [timed_parts(net, rates) for net in nets]
    blocks = sorted({block for of_blocks, _ in timed for block in of_blocks})
    # What a block takes is the sum over all that are as large or smaller of what each adds.
    below = {
        (rate, h, c): [(r, a, b) for r, a, b in blocks if r == rate and a <= h and b <= c]
        for rate, h, c in blocks
    }
    rows = [
        Counter([FIXED, *groups, *(part for block in of_blocks for part in below[block])])
        for of_blocks, groups in timed
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    counts = np.array([[row[name] for name in names] for row in rows], dtype=float)
    solution, _ = nnls(counts / np.array(times)[:, None], np.ones(len(times)))
    found: dict[Any, float] = dict(zip(names, solution.tolist()))
    return LatencyTable(
        machine(),
        ENGINE,
        rates,
        found[FIXED],
        {block: sum(found[part] for part in below[block]) for block in blocks},
        {rate: ms for rate, ms in found.items() if isinstance(rate, int)},
    )


def _noise(seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE))).astype(
        np.float32
    )


def _decoding(client: Client, samples: np.ndarray) -> Callable[[], object]:
    return lambda: client.decode([samples])


def _clients(model: Transducer, config: Config, nets: dict, root: Path) -> dict[object, Client]:
    """Each net in the client, from a folder that is gone afterwards. Predictor and joiner, which a
    CTC model lacks, are the same for all."""
    common = root / "common"
    common.mkdir()
    encoder, *others = parts("offline", model.is_ctc)
    for part, write in zip(others, (export_decoder, export_joiner)):
        write(model, common / graph(part, "fp32"))
    # The client looks for blank by this name.
    symbols = ["<blk>", *map(str, range(1, model.vocab_size))]
    (common / TOKENS).write_text(
        "".join(f"{symbol} {i}\n" for i, symbol in enumerate(symbols)), encoding="utf-8"
    )
    clients = {}
    for number, (key, net) in enumerate(
        progress(nets.items(), desc="export for the latency table", unit="net")
    ):
        folder = root / str(number)
        shutil.copytree(common, folder)
        export_offline_encoder(
            extract(model, config, net).eval(), folder / graph(encoder, "fp32"), "latency"
        )
        clients[key] = Client(folder)
    return clients


def main() -> None:
    """Measures a table by hand, of an experiment, on this device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path)
    parser.add_argument("table", type=Path, help="the JSON file to write")
    arguments = parser.parse_args()
    setup_logging()
    try:
        experiment = load_experiment(arguments.experiment, None, None, torch.device("cpu"))
    except UserError as error:
        parser.exit(2, f"ERROR: {error}\n")
    space = SearchSpace(experiment.config, experiment.tokenizer.vocab_size)
    table, check = measure(
        experiment.model,
        experiment.config,
        space,
        [(h, w) for h in space.heads for w in space.widths],
    )
    write_json_atomic(arguments.table, table.as_dict() | {"check": check})
    log_check(check)
    logging.info("written: %s", arguments.table)


if __name__ == "__main__":
    main()
