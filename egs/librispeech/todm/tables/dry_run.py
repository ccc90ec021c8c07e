"""The dry run of a conf: what it would train and what that costs, without data: sizes, updates,
hours, memory, the runs of its tables.

    ./run.sh --conf conf/librispeech-960h.yaml --world-size 4 --dry-run

A few steps of the conf's own model, on noise and with little audio, are measured on this machine
and extrapolated. Hours on a GPU come from the number of operations and an assumed speed when there
is no GPU here.
"""

import argparse
import statistics
import sys
from dataclasses import replace

import torch

from todm.config.keys import Config
from todm.config.load import load
from todm.config.phases import in_updates
from todm.data.frames import FRAMES_PER_SECOND, SUBSAMPLING
from todm.recipe.processes import default_processes
from todm.subnet import Subnet
from todm.supernet.budget import check_budgets, cost_function, parse_budgets
from todm.supernet.sandwich import SubnetSampler
from todm.supernet.search_space import SearchSpace
from todm.tables.measured_steps import MeasuredSteps
from todm.tables.runs import SAME, SUPERNET, Variant, ablation_variants, selection_variants
from todm.training.supernet_loss import Weights
from utils.distributed import local_device
from utils.errors import UserError
from utils.provenance import machine
from utils.text import markdown_table

UTTERANCE_SECONDS = 8.0
AUDIO_SECONDS = 24.0  # of the steps that are measured
GIB = 2**30


class Estimate:
    """Costs of the trainings of one conf.

    Args:
      processes: of a training. tflops: assumed effective speed of a GPU.
    """

    def __init__(self, config: Config, processes: int, tflops: float, steps: int = 3):
        self.config, self.processes, self.tflops = config, processes, tflops
        self.vocab_size = config.bpe.vocab_size
        self.space = SearchSpace(config, self.vocab_size)
        self.device = local_device()
        small = replace(config, data=replace(config.data, max_duration=AUDIO_SECONDS))
        self.bench = MeasuredSteps(small, UTTERANCE_SECONDS, self.device)
        self.steps = steps

    @property
    def audio_per_update(self) -> float:
        """Seconds of audio of an update, over all processes."""
        return self.config.data.max_duration * self.processes * self.config.train.accumulate

    @property
    def audio_hours(self) -> float:
        """Hours of audio of a whole training."""
        return self.config.train.updates * self.audio_per_update / 3600

    def seconds_per_audio_second(self, subnets: list[list[Subnet]]) -> float:
        """Seconds that this machine takes for a second of audio in a training step: the median.

        Args:
          subnets: of every step that is measured.
        """
        self.bench.step(subnets[0])
        return statistics.median(self.bench.step(nets) for nets in subnets) / AUDIO_SECONDS

    def sandwich(self) -> list[list[Subnet]]:
        """The subnets of the steps that are measured, as the training would draw them."""
        sampler = SubnetSampler(self.space, seed=1)
        first = round(in_updates(self.config).method.subnets_from)
        return [sampler(first + i) for i in range(self.steps)]

    def operations(self, nets: list[Subnet]) -> float:
        """The floating point operations of a training step per second of audio: forward, and twice
        that backward."""
        lattice = (
            FRAMES_PER_SECOND
            / SUBSAMPLING
            * (self.config.loss.prune_range - 1)
            * self.vocab_size
            * self.config.model.joiner_dim
        )
        return sum(6 * (self.space.costs.cost(net).macs_per_second + lattice) for net in nets)

    def shares(self) -> tuple[float, float]:
        """The shares of the updates with the largest net alone, and with subnets."""
        first = in_updates(self.config).method.subnets_from
        alone = min(1.0, first / self.config.train.updates)
        return alone, 1 - alone

    def process_hours(self, subnets: list[list[Subnet]]) -> tuple[float, float]:
        """The process hours of one training: on this machine from measured steps, and on the
        assumed GPU."""
        alone, together = self.shares() if subnets[0] else (1.0, 0.0)
        here = self.audio_hours * (
            alone * self.seconds_per_audio_second([[]] * self.steps)
            + (together * self.seconds_per_audio_second(subnets) if together else 0)
        )
        largest = self.space.largest
        operations = alone * self.operations([largest]) + together * statistics.mean(
            self.operations([largest, *nets]) for nets in subnets
        )
        return here, self.audio_hours * operations / (self.tflops * 1e12)

    def memory(self) -> tuple[float, float]:
        """The GiB of one process: weights with gradients, optimiser state and average; what a batch
        keeps for its backward pass."""
        parameters = sum(
            p.numel() for group in self.bench.optimizer.param_groups for p in group["params"]
        )
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        precision = self.config.train.precision
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast(self.device.type, torch.bfloat16, enabled=precision != "fp32"),
        ):
            loss, _ = self.bench.loss(
                self.bench.features, self.bench.targets, self.sandwich()[0], Weights(0.5, 1.0, 1.0)
            )
        own = {p.untyped_storage().data_ptr() for p in self.bench.loss.parameters()}
        activations = sum(size for address, size in saved.items() if address not in own)
        return parameters * (
            4 + 4 + 8 + 8
        ) / GIB, activations / AUDIO_SECONDS * self.config.data.max_duration / GIB


def describe(config: Config, processes: int, tflops: float) -> str:
    """The whole text of a dry run."""
    estimate = Estimate(config, processes, tflops)
    here, gpu = estimate.process_hours(estimate.sandwich())
    weights, activations = estimate.memory()
    lines = [
        f"# {config.name}: dry run, nothing is read, written or trained\n",
        describe_sizes(estimate),
        "",
        f"- an update: {processes} process(es) x {config.data.max_duration:g} s x "
        f"{config.train.accumulate} = {estimate.audio_per_update:,.0f} s of audio; "
        f"{config.train.updates:,} updates: {estimate.audio_hours:,.0f} h of audio",
        f"- a training of the supernet: {here:,.1f} process hours on this machine ({machine()}), "
        f"from {estimate.steps} measured steps of "
        f"{AUDIO_SECONDS:g} s of audio each; {here / processes:,.1f} h of wall clock if "
        f"{processes} such machines or GPUs share it",
    ]
    if estimate.device.type == "cpu":
        lines.append(
            f"- on GPUs about {gpu:,.1f} GPU hours, {gpu / processes:,.1f} h of wall clock: "
            f"operations counted, at an ASSUMED {tflops:g} TFLOP/s "
            "effective each (--tflops; 12 is 4 % of an A100's bf16 peak: small matrices, scans "
            "and the lattice are bound by memory); where there is a GPU it is measured"
        )
    lines.append(
        f"- memory of a process: {weights:.2f} GiB of weights, gradients, optimiser and average, "
        f"and {activations:.1f} GiB of activations for "
        f"{config.data.max_duration:g} s ({config.train.precision}), extrapolated from "
        f"{AUDIO_SECONDS:g} s"
    )
    if config.select.method != "uniform":
        lines.append(describe_search(config, estimate.space))
    if config.tables.records:
        lines += ["", describe_tables(config, estimate, (here, gpu))]
    return "\n".join(lines)


def describe_sizes(estimate: Estimate) -> str:
    """The table of the largest and the smallest net."""
    rows = []
    for title, net in estimate.space.ends().items():
        sizes = estimate.space.costs.cost(net)
        rows.append(
            [
                title,
                f"{sizes.encoder_params / 1e6:.2f} M",
                f"{sizes.total_params / 1e6:.2f} M",
                f"{sizes.macs_per_second / 1e9:.3f} G",
            ]
        )
    return markdown_table(["net", "encoder params", "all params", "MACs per s of audio"], rows)


def describe_search(config: Config, space: SearchSpace) -> str:
    """The line about the search of stage 5.

    Raises:
      UserError: a budget that no net fits.
    """
    check_budgets(config, space)
    s = config.search
    return (
        f"- search: {s.population} x {s.generations + 1} = "
        f"{s.population * (s.generations + 1):,} candidates"
        f"{', as many by random search' if s.baselines else ''}; budgets "
        f"{', '.join(s.budgets)} of {s.cost}"
    )


def describe_tables(config: Config, estimate: Estimate, supernet: tuple[float, float]) -> str:
    """The table of every run of the tables, with its cost; settings that tuning will choose are
    counted as one more run."""
    rows, total = [], [0.0, 0.0]

    def add(variant: Variant, hours: tuple[float, float]) -> None:
        tuned = (
            len(config.tables.seeds) - 1
            if len(variant.grid) > (1 if SAME in variant.grid else 0)
            else 0
        )
        runs = [run.name for run in variant.runs(config, None)] + [
            "with the best setting on dev, another seed"
        ] * tuned
        for name in runs:
            rows.append([name, f"{hours[0]:,.2f}", f"{hours[1]:,.2f}"])
            total[:] = total[0] + hours[0], total[1] + hours[1]

    add(Variant(SUPERNET, (), (SAME,), ()), supernet)
    for budget in config.tables.budgets:
        add(
            Variant(f"individual {budget}", (), (SAME, *config.tables.individual_grid), ()),
            individual_hours(config, estimate, budget),
        )
    for variant in ablation_variants(config) + selection_variants(config):
        add(variant, supernet)
    rows.append([f"all {len(rows)} runs", f"{total[0]:,.2f}", f"{total[1]:,.2f}"])
    return (
        f"Tables: {config.tables.workers} run(s) at a time, launcher {config.tables.launcher}, "
        f"records in {config.tables.records}\n\n"
        + markdown_table(["run", "process hours here", "GPU hours, assumed speed"], rows)
    )


def individual_hours(config: Config, estimate: Estimate, budget: str) -> tuple[float, float]:
    """The process hours of a model of one size, here and on the assumed GPU.

    Its architecture is not known before the search: the hours are those of the largest net alone,
    scaled by the operations of the best uniform net within the budget.
    """
    space = estimate.space
    name = config.search.cost if config.search.cost != "latency" else "macs"
    cost = cost_function(name, space.costs)
    limit = parse_budgets(config, cost(space.smallest), cost(space.largest))[budget]
    uniform = [
        space.uniform(d, w, h) for d in space.depths for w in space.widths for h in space.heads
    ]
    net = max((n for n in uniform if cost(n) <= limit), key=cost)
    share = estimate.operations([net]) / estimate.operations([space.largest])
    here, gpu = estimate.process_hours([[]])
    return here * share, gpu * share


def main() -> None:
    """Prints the dry run of a conf."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conf", default="conf/mini.yaml")
    parser.add_argument("--world-size", type=int, help="processes of a training")
    parser.add_argument(
        "--tflops", type=float, default=12.0, help="assumed effective TFLOP/s of a GPU"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    try:
        config = load(arguments.conf, arguments.overrides)
        processes = arguments.world_size or config.tables.processes or default_processes(config)
        print(describe(config, processes, arguments.tflops))
    except UserError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
