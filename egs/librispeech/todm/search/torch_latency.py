"""Latency in torch: a table of per-block times, measured on one thread, and its check on whole
models."""

import contextlib
from collections.abc import Callable, Iterator

import torch

from todm.config.keys import Config
from todm.data.frames import FRAMES_PER_SECOND, NUM_MEL_BINS
from todm.decoding.transducer_search import greedy_search
from todm.model.transducer import Transducer
from todm.search.timing import (
    REPEATS,
    SECONDS,
    checked_nets,
    compare,
    interleaved,
    never_less_for_more,
)
from todm.subnet import BlockChoice, Subnet
from todm.supernet.latency_table import LatencyTable
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
    """Measures every block size, the fixed part, and three whole models to check the sum against,
    all interleaved.

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
    mask = torch.ones(1, x.shape[1], dtype=torch.bool, device=device)

    def block(size: tuple[int, int]) -> Callable[[], object]:
        choice = BlockChoice(tuple(range(size[0])), tuple(range(size[1])))
        return lambda: encoder.blocks[0](x, mask, choice, operators[0])

    def whole(subnet: Subnet) -> Callable[[], object]:
        return lambda: greedy_search(model, *encoder(features, frames, subnet, operators))

    # how many symbols there are decides what their search takes
    encoded = encoder.encode(x, lengths, space.largest, operators)

    def fixed() -> None:
        encoder.norm(encoder.frontend(features, frames))
        greedy_search(model, encoded, lengths)

    nets = checked_nets(space)
    jobs = (
        {("fixed",): fixed}
        | {size: block(size) for size in sizes}
        | {name: whole(net) for name, net in nets.items()}
    )
    with _one_thread():
        times = interleaved(jobs, seconds, repeats)
    table = LatencyTable(
        machine(),
        "torch",
        times[("fixed",)],
        never_less_for_more({size: times[size] for size in sizes}),
    )
    return table, compare(table, nets, times)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
