"""One training step's loss: the largest net on the transcripts, its subnets on the transcripts and on its outputs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from egs.librispeech.todm.config import Config, DistillConfig, LossConfig
from egs.librispeech.todm.data import Batch
from egs.librispeech.todm.distillation import LatticeDistillation
from egs.librispeech.todm.frontend import subsampled_length
from egs.librispeech.todm.subnet import Subnet
from egs.librispeech.todm.transducer import Transducer
from utils.tokens import BLANK, Tokenizer
from utils.transducer_loss import Targets, TransducerLoss


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of the loss at one update."""

    simple: float
    pruned: float
    distill: float

    @classmethod
    def at(cls, update: int, loss: LossConfig, distill: DistillConfig) -> "Weights":
        """Simple 1 -> simple_scale and pruned 0.1 -> 1 over the warm-up; distillation 0 -> weight over its ramp.

        In the first ``ctc_first`` updates CTC trains the encoder alone; the warm-up begins after them.
        """
        if update < loss.ctc_first:
            return cls(0.0, 0.0, 0.0)
        done = _ramp(update, loss.ctc_first, loss.warmup)
        return cls(1 + done * (loss.simple_scale - 1), 0.1 + 0.9 * done, distill.weight * _ramp(update, distill.start, distill.ramp))

    @property
    def ctc_alone(self) -> bool:
        """Whether the transducer is not trained yet."""
        return self.simple == self.pruned == 0


def _ramp(update: int, start: int, length: int) -> float:
    """0 before ``start``, 1 from ``start + length`` on, linear between."""
    return min(1.0, max(0.0, (update - start) / length)) if length else float(update >= start)


def make_targets(batch: Batch, tokenizer: Tokenizer) -> Targets:
    """Token ids of a batch's transcripts, and the lengths that the losses need."""
    tokens = [torch.tensor(tokenizer.encode(text), dtype=torch.long) for text in batch.texts]
    device = batch.features.device
    symbols = nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=BLANK).to(device)
    lengths = torch.tensor([len(t) for t in tokens], device=device)
    return Targets(symbols, lengths, subsampled_length(batch.lengths))


class SupernetLoss(nn.Module):
    """The model together with its loss, so that DDP wraps both and one forward gives one scalar.

    What does not depend on the subnet is computed once: frontend, SSM operators, predictor, pruning ranges and the
    predictor's part of the pruned joiner input.  With no subnets this is the loss of an ordinary single-size model.
    """

    def __init__(self, model: Transducer, config: Config, transducer_loss: TransducerLoss):
        super().__init__()
        self.model, self.config, self.loss = model, config, transducer_loss

    def forward(self, features: Tensor, targets: Targets, subnets: list[Subnet], weights: Weights) -> tuple[Tensor, list[Tensor]]:
        """Args:
          features: (B, T, 80). subnets: beside the largest net, which always runs.
        Returns:
          The loss summed over the batch, and every net's transducer loss (largest first), detached; its CTC loss
          while CTC trains alone.
        """
        model, config = self.model, self.config
        x, operators = model.encoder.frontend(features), model.encoder.operators()
        if weights.ctc_alone:
            nets = [self._ctc(model.encoder.encode(x, targets.frames, net, operators), targets) for net in [model.full, *subnets]]
            untrained = sum(p.sum() for p in self.parameters()) * 0.0  # DDP wants a gradient for every parameter
            return nets[0] + config.loss.subnet_weight * sum(nets[1:]) + untrained, [ctc.detach() / config.loss.ctc_weight for ctc in nets]
        predicted = model.predictor.teacher_forced(targets.symbols)
        encoded = model.encoder.encode(x, targets.frames, model.full, operators)
        simple, ranges = self.loss.simple(model.heads.simple_am(encoded), model.heads.simple_lm(predicted), targets)
        projected = model.joiner.encoder_proj(encoded)
        am_nodes, lm_nodes = self.loss.prune(projected, model.joiner.predictor_proj(predicted), ranges)  # (B, T, R, J)
        logits = model.joiner(am_nodes, lm_nodes)
        pruned = self.loss.pruned(logits, ranges, targets)
        total = weights.simple * simple + weights.pruned * pruned + self._ctc(encoded, targets)
        losses = [pruned.detach()]
        distill = self._distillation(weights, subnets, ranges, targets)
        teacher = distill.log_probs(logits.detach()) if distill else None
        for subnet in subnets:
            encoded = model.encoder.encode(x, targets.frames, subnet, operators)
            logits = model.joiner(model.joiner.encoder_proj(encoded)[:, :, None], lm_nodes)
            pruned = self.loss.pruned(logits, ranges, targets)
            losses.append(pruned.detach())
            total = total + config.loss.subnet_weight * weights.pruned * pruned
            if distill:
                total = total + weights.distill * distill(teacher, distill.log_probs(logits))
        return total, losses

    def _distillation(self, weights: Weights, subnets: list[Subnet], ranges: Tensor, targets: Targets) -> LatticeDistillation | None:
        if self.config.method.distill == "none" or weights.distill == 0 or not subnets:
            return None
        return LatticeDistillation(self.config.method, self.config.distill, ranges, targets)

    def _ctc(self, encoded: Tensor, targets: Targets) -> Tensor | float:
        if self.config.loss.ctc_weight == 0:
            return 0.0
        log_probs = self.model.heads.ctc(encoded).float().log_softmax(-1).transpose(0, 1)
        loss = nn.functional.ctc_loss(log_probs, targets.symbols, targets.frames, targets.lengths, blank=BLANK,
                                      reduction="sum", zero_infinity=True)
        return self.config.loss.ctc_weight * loss
