"""One training step's loss: the largest net on the transcripts, its subnets on the transcripts and
on its outputs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from todm.config.keys import Config, DistillConfig, LossConfig
from todm.data.batches import Batch
from todm.learned_selection.selector import Selector
from todm.learned_selection.stochastic_depth import stochastic_depth
from todm.model.frontend import subsampled_length
from todm.model.gates import Gates
from todm.model.transducer import Transducer
from todm.subnet import Subnet
from todm.training.distillation import LatticeDistillation, node_divergence
from utils.pruned_rnnt import Targets, TransducerLoss, choose_backend
from utils.tokens import BLANK, Tokenizer


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of the loss at one update."""

    simple: float
    pruned: float
    distill: float

    @classmethod
    def at(cls, update: int, loss: LossConfig, distill: DistillConfig) -> "Weights":
        """Simple 1 -> simple_scale and pruned 0.1 -> 1 over the warm-up; distillation 0 -> weight
        over its ramp.

        In the first ``ctc_first`` updates CTC trains the encoder alone; the warm-up begins after
        them.  A CTC model has nothing else, but is distilled.
        """
        if loss.objective == "ctc":
            return cls(0.0, 0.0, distill.weight * _ramp(update, distill.start, distill.ramp))
        if update < loss.ctc_first:
            return cls(0.0, 0.0, 0.0)
        done = _ramp(update, loss.ctc_first, loss.warmup)
        return cls(
            1 + done * (loss.simple_scale - 1),
            0.1 + 0.9 * done,
            distill.weight * _ramp(update, distill.start, distill.ramp),
        )

    @classmethod
    def scoring(cls, loss: LossConfig) -> "Weights":
        """Those under which the loss of every net is what it is judged by on dev."""
        return cls(0.0, 0.0, 0.0) if loss.objective == "ctc" else cls(1.0, 1.0, 0.0)

    @property
    def ctc_alone(self) -> bool:
        """Whether the transducer is not trained (yet)."""
        return self.simple == self.pruned == 0


def _ramp(update: int, start: int, length: int) -> float:
    """0 before ``start``, 1 from ``start + length`` on, linear between."""
    return min(1.0, max(0.0, (update - start) / length)) if length else float(update >= start)


def make_targets(batch: Batch, tokenizer: Tokenizer, tail_frames: int) -> Targets:
    """Token ids of a batch's transcripts, and the lengths that the losses need; ``tail_frames`` is
    the model's."""
    tokens = [torch.tensor(tokenizer.encode(text), dtype=torch.long) for text in batch.texts]
    device = batch.features.device
    symbols = nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=BLANK).to(device)
    lengths = torch.tensor([len(t) for t in tokens], device=device)
    return Targets(symbols, lengths, subsampled_length(batch.lengths, tail_frames), batch.lengths)


def make_transducer_loss(config: LossConfig, backend: str, device: torch.device) -> TransducerLoss:
    """The transducer loss as a conf describes it, computed by ``backend`` (as ``loss.backend``) on
    ``device``."""
    return TransducerLoss(
        choose_backend(backend, device),
        config.prune_range,
        config.lm_scale,
        config.am_scale,
        config.rnnt_type,
        config.delay_penalty,
    )


class SupernetLoss(nn.Module):
    """The model together with its loss, so that DDP wraps both and one forward gives one scalar.

    What does not depend on the subnet is computed once: frontend, SSM operators, predictor, pruning
    ranges and the predictor's part of the pruned joiner input.  With no subnets this is the loss of
    an ordinary single-size model.
    """

    def __init__(
        self,
        model: Transducer,
        config: Config,
        transducer_loss: TransducerLoss,
        selector: Selector | None = None,
    ):
        super().__init__()
        self.model, self.config, self.loss = model, config, transducer_loss
        self.selector = selector

    def forward(
        self,
        features: Tensor,
        targets: Targets,
        subnets: list[Subnet],
        weights: Weights,
        update: int | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Args:
          features: (B, T, 80). subnets: beside the largest net, which always runs.
          update: the number of this update, for learned selection; None: not training.
        Returns:
          The loss summed over the batch, and every net's transducer loss (largest first; the gated
          net of learned selection last), detached; its CTC loss where CTC trains alone.
        """
        model = self.model
        if model.encoder.frontend.tail_frames and targets.heard is None:
            raise ValueError(
                "a model with a tail (model.tail_frames) needs targets that know the utterances' "
                "own frames"
            )
        x, operators = model.encoder.frontend(features, targets.heard), model.encoder.operators()
        gates, penalty = self._learned_gates(update)
        total = penalty * int(targets.frames.sum()) + self._untrained(weights)
        others: list[tuple[Subnet, Gates | None]] = [(subnet, None) for subnet in subnets]
        if gates is not None:
            others.append((model.full, gates))

        def encode(net: Subnet, gates: Gates | None) -> Tensor:
            return model.encoder.encode(x, targets.frames, net, operators, gates)

        if weights.ctc_alone:
            return self._ctc_losses(
                [
                    encode(model.full, self._depth_gates(update)),
                    *(encode(*other) for other in others),
                ],
                targets,
                weights,
                total,
            )
        predicted = model.predictor.teacher_forced(targets.symbols)
        encoded = encode(model.full, self._depth_gates(update))
        simple, ranges = self.loss.simple(
            model.heads.simple_am(encoded), model.heads.simple_lm(predicted), targets
        )
        projected = model.joiner.encoder_proj(encoded)
        am_nodes, lm_nodes = self.loss.prune(
            projected, model.joiner.predictor_proj(predicted), ranges
        )  # (B, T, R, J)
        logits = model.joiner(am_nodes, lm_nodes)
        pruned = self.loss.pruned(logits, ranges, targets)
        total = (
            total + weights.simple * simple + weights.pruned * pruned + self._ctc(encoded, targets)
        )
        losses = [pruned.detach()]
        distill = self._distillation(weights, others, ranges, targets)
        teacher = distill.log_probs(logits.detach()) if distill else None
        for other in others:
            logits = model.joiner(model.joiner.encoder_proj(encode(*other))[:, :, None], lm_nodes)
            pruned = self.loss.pruned(logits, ranges, targets)
            losses.append(pruned.detach())
            total = total + self._subnet_weight(pruned, targets) * weights.pruned * pruned
            if distill:
                total = total + weights.distill * distill(teacher, distill.log_probs(logits))
        return total, losses

    def _ctc_losses(
        self, encoded: list[Tensor], targets: Targets, weights: Weights, total: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """CTC of every net, and with a weight the distillation of frame posteriors (a CTC model
        alone has it)."""
        losses = [self._ctc(one, targets) for one in encoded]
        total = (
            total
            + losses[0]
            + sum(
                self._subnet_weight(loss / self.config.loss.ctc_weight, targets) * loss
                for loss in losses[1:]
            )
        )
        if weights.distill and self.config.method.distill != "none" and len(encoded) > 1:
            teacher, *students = (
                self.model.heads.ctc(one).float().log_softmax(-1) for one in encoded
            )
            for student in students:
                divergence = node_divergence(
                    self.config.method, self.config.distill, teacher.detach(), student
                )  # (B, T)
                total = (
                    total
                    + weights.distill
                    * divergence.masked_fill(~targets.real_frames(divergence.shape[1]), 0.0).sum()
                )
        return total, [loss.detach() / self.config.loss.ctc_weight for loss in losses]

    def _untrained(self, weights: Weights) -> Tensor | float:
        """0, with a gradient (of 0) for parameters that this update does not use: DDP wants one for
        each."""
        selector = self.selector
        parameters = (
            self.parameters()
            if weights.ctc_alone
            else selector.parameters()
            if selector is not None
            else ()
        )
        return sum(p.sum() for p in parameters) * 0.0

    def _subnet_weight(self, loss: Tensor, targets: Targets) -> Tensor | float:
        """``loss.subnet_weight``; saturating: times 1 - exp(-loss per frame), a number without
        gradient (arXiv 2501.18895)."""
        weight = self.config.loss.subnet_weight
        if self.config.loss.subnet_weighting == "constant":
            return weight
        return weight * (1 - torch.exp(-loss.detach() / targets.frames.sum()))

    def _learned_gates(self, update: int | None) -> tuple[Gates | None, Tensor | float]:
        """Step 1 of learned selection: the gates of this update, and the penalty of the scores per
        frame."""
        selector = self.selector
        if selector is None or update is None or not selector.learns(update):
            return None, 0.0
        values, penalty = selector.gates(update)
        return selector.units.gates(values), penalty

    def _depth_gates(self, update: int | None) -> Gates | None:
        """Stochastic depth of the largest net's pass in step 2 of learned selection."""
        selector, probability = self.selector, self.config.learn.stochastic_depth
        if selector is None or update is None or not probability or not selector.frozen:
            return None
        values = stochastic_depth(selector.units, selector.distinct_nets()[-1], probability)
        return selector.units.gates(values.to(next(self.parameters()).device))

    def _distillation(
        self, weights: Weights, others: list, ranges: Tensor, targets: Targets
    ) -> LatticeDistillation | None:
        if self.config.method.distill == "none" or weights.distill == 0 or not others:
            return None
        return LatticeDistillation(
            self.config.method, self.config.distill, ranges, targets, self.config.loss.rnnt_type
        )

    def _ctc(self, encoded: Tensor, targets: Targets) -> Tensor | float:
        if self.config.loss.ctc_weight == 0:
            return 0.0
        log_probs = self.model.heads.ctc(encoded).float().log_softmax(-1).transpose(0, 1)
        loss = nn.functional.ctc_loss(
            log_probs,
            targets.symbols,
            targets.frames,
            targets.lengths,
            blank=BLANK,
            reduction="sum",
            zero_infinity=True,
        )
        return self.config.loss.ctc_weight * loss
