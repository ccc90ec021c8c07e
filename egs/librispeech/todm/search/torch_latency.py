"""Latency in torch: a table of per-block times, measured on one thread, and its check on whole
models."""

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

import torch

from todm.config.keys import Config
from todm.data.frames import FRAMES_PER_SECOND, NUM_MEL_BINS
from todm.decoding.transducer_search import greedy_search
from todm.model.encoder import block_rates
from todm.model.multi_rate import LowerRate
from todm.model.transducer import Transducer
from todm.search.timing import REPEATS, SECONDS, checked_nets, compare, interleaved
from todm.subnet import BlockChoice, Subnet
from todm.supernet.latency_table import LatencyTable, TimedBlock, needed_blocks
from todm.supernet.search_space import SearchSpace
from utils.provenance import machine


@torch.no_grad()
def measure(
    model: Transducer,
    config: Config,
    space: SearchSpace,
    sizes: list[tuple[int, int]],
    seconds: float = SECONDS,
    repeats: int = REPEATS,
) -> tuple[LatencyTable, list[dict]]:
    """Measures every block size at every rate, the way to every lower rate and back, the fixed
    part, and three whole models to check the sum against, all interleaved.

    Args:
      seconds: of the audio that is decoded. repeats: of every job, in turns.
    Returns:
      The table, and per whole model ``net``, ``table_ms`` and ``measured_ms``.
    """
    model.eval()
    device = next(model.parameters()).device
    features = torch.randn(1, round(seconds * FRAMES_PER_SECOND), NUM_MEL_BINS, device=device)
    encoder = model.encoder
    frames = torch.tensor([features.shape[1]], device=device)
    lengths = encoder.frontend.length(frames)
    operators = encoder.operators()  # of the weights alone: made once when a model is loaded
    x = encoder.frontend(features, frames)
    rates = tuple(block_rates(config.model))
    padded = torch.nn.functional.pad(x, (0, 0, 0, -x.shape[1] % encoder.multiple))
    mask = torch.ones(padded.shape[:2], dtype=torch.bool, device=device)

    def block(timed: TimedBlock) -> Callable[[], object]:
        rate, heads, chunks = timed
        choice, number = BlockChoice(tuple(range(heads)), tuple(range(chunks))), rates.index(rate)
        run, seen, there = encoder.blocks[number], padded[:, ::rate].contiguous(), mask[:, ::rate]
        return lambda: run(seen, there, choice, operators[number])

    def group(rate: int) -> Callable[[], object]:
        number = next(i for i, of_group in enumerate(encoder.groups) if of_group.rate == rate)
        lower = cast(LowerRate, encoder.lower[str(number)])
        return lambda: lower.up(padded, lower.down(padded, mask))

    def whole(subnet: Subnet) -> Callable[[], object]:
        return lambda: greedy_search(model, *encoder(features, frames, subnet, operators))

    # how many symbols there are decides what their search takes
    encoded = encoder.encode(x, lengths, space.largest, operators)

    def fixed() -> None:
        encoder.norm(encoder.frontend(features, frames))
        greedy_search(model, encoded, lengths)

    nets = checked_nets(space)
    blocks = needed_blocks(rates, sizes)
    lower_rates = sorted(set(rates) - {1})
    jobs = (
        {("fixed",): fixed}
        | {timed: block(timed) for timed in blocks}
        | {("group", rate): group(rate) for rate in lower_rates}
        | {name: whole(net) for name, net in nets.items()}
    )
    with _one_thread():
        times = interleaved(jobs, seconds, repeats)
    table = LatencyTable(
        machine(),
        "torch",
        rates,
        times[("fixed",)],
        _never_less_for_more({timed: times[timed] for timed in blocks}),
        {rate: times["group", rate] for rate in lower_rates},
    )
    return table, compare(table, nets, times)


def _never_less_for_more(times: dict[TimedBlock, float]) -> dict[TimedBlock, float]:
    """The times, raised where a block that keeps more seems to take less.

    Only the clock's noise can say so, and the search relies on costs that grow.
    """
    return {
        (rate, h, c): max(ms for (r, a, b), ms in times.items() if r == rate and a <= h and b <= c)
        for rate, h, c in times
    }


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
