"""What a supernet step costs: largest + smallest + 1 random net, against the largest net alone.

Steps of the two kinds are interleaved on the same batch, so that a drift of the machine's speed
meets both; the figure is the median of the ratios of neighbours.  Batches are noise of the conf's
size; no data is needed.

    python -m todm.training.benchmark_step --conf conf/mini.yaml --pairs 30
"""

import argparse
import json
import statistics
import time

import torch

from todm.config.keys import Config
from todm.config.load import load
from todm.model.transducer import Transducer
from todm.subnet import Subnet
from todm.supernet.sandwich import SubnetSampler
from todm.supernet.search_space import SearchSpace
from todm.training.optimization import PRECISIONS, make_optimizer
from todm.training.supernet_loss import SupernetLoss, Weights, make_transducer_loss
from utils.distributed import local_device
from utils.progress import progress
from utils.provenance import provenance
from utils.pruned_rnnt import Targets

TOKENS_PER_SECOND = 7


class StepBenchmark:
    """A model, its optimiser, and batches of noise."""

    def __init__(self, config: Config, utterance_seconds: float, device: torch.device):
        self.config, self.device = config, device
        torch.manual_seed(1)
        self.space = SearchSpace(config, config.bpe.vocab_size)
        model = Transducer(config, config.bpe.vocab_size).to(device).train()
        self.loss = SupernetLoss(
            model, config, make_transducer_loss(config.loss, config.loss.backend, device)
        )
        self.optimizer = make_optimizer(config, model)
        batch = max(1, round(config.data.max_duration / utterance_seconds))
        self.features = torch.randn(batch, round(utterance_seconds * 100), 80, device=device)
        tokens = round(utterance_seconds * TOKENS_PER_SECOND)
        self.targets = Targets(
            symbols=torch.randint(3, config.bpe.vocab_size, (batch, tokens), device=device),
            lengths=torch.full((batch,), tokens, device=device),
            frames=torch.full(
                (batch,), model.encoder.frontend.length(self.features.shape[1]), device=device
            ),
            heard=torch.full((batch,), self.features.shape[1], device=device),
        )

    def step(self, subnets: list[Subnet]) -> float:
        """Seconds of one whole update: forward, backward, optimiser."""
        self._synchronize()
        begin = time.perf_counter()
        precision = self.config.train.precision
        with torch.autocast(self.device.type, PRECISIONS[precision], enabled=precision != "fp32"):
            loss, _ = self.loss(self.features, self.targets, subnets, Weights(0.5, 1.0, 1.0))
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-6  # the step is timed, not taken far: weights stay those of the start
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._synchronize()
        return time.perf_counter() - begin

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def run(config: Config, pairs: int, utterance_seconds: float) -> dict:
    """Time ``pairs`` interleaved pairs. Returns medians and quartiles."""
    bench = StepBenchmark(config, utterance_seconds, local_device())
    sampler = SubnetSampler(bench.space, seed=1)
    first = config.method.subnets_from
    for i in range(3):
        bench.step(sampler(first + i))
    alone, together = [], []
    for i in progress(range(pairs), desc="pairs", unit="pair"):
        alone.append(bench.step([]))
        together.append(bench.step(sampler(first + i)))
    ratios = sorted(b / a for a, b in zip(alone, together))
    quartiles = statistics.quantiles(ratios, n=4)
    audio = bench.features.shape[0] * utterance_seconds
    return {
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
        "pairs": pairs,
        "largest_alone_seconds": round(statistics.median(alone), 4),
        "sandwich_seconds": round(statistics.median(together), 4),
        "audio_seconds_per_step": audio,
        "hours_of_audio_per_second": round(audio / 3600 / statistics.median(together), 5),
        "conf": config.name,
        "subnets": f"largest + smallest + {config.method.subnets_per_step} random",
        **provenance(),
    }


def main() -> None:
    """The command line: prints the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conf", default="conf/mini.yaml")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--utterance-seconds", type=float, default=4.0)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    print(
        json.dumps(
            run(
                load(arguments.conf, arguments.overrides),
                arguments.pairs,
                arguments.utterance_seconds,
            ),
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
