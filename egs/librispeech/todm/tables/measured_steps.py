"""Training steps on noise that are timed, for the dry run of a conf."""

import time

import torch

from todm.config.keys import Config
from todm.model.transducer import Transducer
from todm.subnet import Subnet
from todm.training.optimization import PRECISIONS, make_optimizer
from todm.training.supernet_loss import SupernetLoss, Weights, make_transducer_loss
from utils.pruned_rnnt import Targets

TOKENS_PER_SECOND = 7


class MeasuredSteps:
    """Updates of a conf's largest net and its subnets on a batch of noise, and how long they take.

    Args:
      utterance_seconds: of every utterance; there are as many as fill ``data.max_duration``.
    """

    def __init__(self, config: Config, utterance_seconds: float, device: torch.device):
        self.config, self.device = config, device
        torch.manual_seed(1)
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
