"""One training step's loss: the largest net on the transcripts, its subnets on the transcripts and
on its outputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from todm.config.keys import Config, DistillConfig, LossConfig
from todm.config.phases import ramp
from todm.data.batches import Batch
from todm.learned_selection.selector import Selector
from todm.learned_selection.stochastic_depth import stochastic_depth
from todm.model.encoder import Operators
from todm.model.frontend import subsampled_length
from todm.model.gates import Gates
from todm.model.transducer import Transducer
from todm.subnet import Subnet
from todm.training.distillation import LatticeDistillation, node_divergence
from todm.training.share import Share
from utils.pruned_rnnt import Targets, TransducerLoss, choose_backend
from utils.tokens import BLANK, Tokenizer


@dataclass(frozen=True)
class Weights:
    """The weights of the parts of the loss at one update.

    Attributes:
      simple, pruned: of the transducer's simple and pruned loss. distill: of the distillation.
      ctc_alone: CTC trains the encoder alone, and no part of the transducer runs; what is distilled
        is then the CTC head's output.
    """

    simple: float
    pruned: float
    distill: float
    ctc_alone: bool = False

    @classmethod
    def of_ctc(cls, distill: float = 0.0) -> "Weights":
        """The weights under which CTC trains the encoder alone."""
        return cls(0.0, 0.0, distill, ctc_alone=True)

    @classmethod
    def at(cls, update: int, loss: LossConfig, distill: DistillConfig) -> "Weights":
        """The weights at an update: simple 1 -> simple_scale and pruned 0.1 -> 1 over the warm-up;
        distillation 0 -> weight over its ramp.

        In the first ``ctc_first`` updates CTC trains the encoder alone; the warm-up begins after
        them.  A CTC model has nothing else, but is distilled.
        """
        distilled = distill.weight * ramp(update, distill.start, distill.ramp)
        if loss.objective == "ctc":
            return cls.of_ctc(distilled)
        if update < loss.ctc_first:
            return cls.of_ctc()
        done = ramp(update, loss.ctc_first, loss.warmup)
        return cls(1 + done * (loss.simple_scale - 1), 0.1 + 0.9 * done, distilled)

    @classmethod
    def scoring(cls, loss: LossConfig) -> "Weights":
        """The weights under which the loss of every net is what it is judged by on dev."""
        return cls.of_ctc() if loss.objective == "ctc" else cls(1.0, 1.0, 0.0)


def make_targets(batch: Batch, tokenizer: Tokenizer, tail_frames: int) -> Targets:
    """The token ids of a batch's transcripts, and the lengths that the losses need, in the CPU's
    memory: :meth:`~utils.pruned_rnnt.Targets.to` copies them to a GPU.

    Args:
      tail_frames: ``model.tail_frames``.
    """
    tokens = [torch.tensor(tokenizer.encode(text), dtype=torch.long) for text in batch.texts]
    symbols = nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=BLANK)
    lengths = torch.tensor([len(t) for t in tokens])
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

    Shapes: B utterances, T filterbank frames, T' encoder frames, S symbols, R symbols in a pruning
    range, J joiner channels, V vocabulary.

    Args:
      selector: the scores and masks of learned selection, which train with the model; None: there
        is no learned selection.
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
        operators: Operators | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss of the largest net and of subnets on one batch.

        Args:
          features: (B, T, 80). subnets: beside the largest net, which always runs.
          update: the number of this update, for learned selection; None: not training.
          operators: the encoder's, where the weights do not change from batch to batch; None: they
            are made here.
        Returns:
          The loss summed over the batch, and every net's transducer loss (largest first; the gated
          net of learned selection last), detached; its CTC loss where CTC trains alone.
        """
        encoder = self.model.encoder
        if encoder.frontend.tail_frames and targets.heard is None:
            raise ValueError(
                "a model with a tail (model.tail_frames) needs targets that know the utterances' "
                "own frames"
            )
        # shared by all nets: frontend output (B, T', dim), and the SSMs' operators
        x = encoder.frontend(features, targets.heard)
        operators = operators or encoder.operators()
        # the nets of this step, each with its gates: the largest, the subnets, and in step 1 of
        # learned selection the largest again under the gates that the scores give
        gates, penalty = self._learned_gates(update)
        everything, share = Share(), self.subnet_share(len(x))
        nets = [
            (encoder.full, self._depth_gates(update), everything),
            *((subnet, None, share()) for subnet in subnets),
        ]
        if gates is not None:
            nets.append((encoder.full, gates, everything))
        total = penalty * int(targets.host.frames.sum()) + self._untrained(weights)
        # every net's share of the batch, of B' utterances, and its encoder output (B', T', dim),
        # computed when its loss asks for it
        encoded = (
            (part, encoder.encode(part.of(x), part.of(targets.frames), net, operators, its_gates))
            for net, its_gates, part in nets
        )
        if weights.ctc_alone:
            return self._ctc_losses(total, list(encoded), targets, weights)
        return self._transducer_losses(total, encoded, len(nets), targets, weights)

    def subnet_share(self, batch: int) -> Callable[[], Share]:
        """A function that draws the share of a batch that a subnet sees: in training
        ``method.subnet_share`` of its utterances, otherwise all."""
        share = self.config.method.subnet_share if self.training else 1.0
        count = max(1, round(share * batch))
        return lambda: Share() if count == batch else Share.drawn(count, batch)

    def _transducer_losses(
        self,
        total: Tensor | float,
        encoded: Iterator[tuple[Share, Tensor]],
        nets: int,
        targets: Targets,
        weights: Weights,
    ) -> tuple[Tensor, list[Tensor]]:
        """The simple, pruned and CTC loss of the largest net; of every subnet the pruned loss and
        the distillation from the largest, on the largest net's pruning ranges.

        Args:
          total: to which the losses are added.
          encoded: of ``nets`` nets, the largest first, which has the whole batch: the share, and
            its encoder output.
        """
        heads, joiner = self.model.training_heads, self.model.joiner
        # predictor before every token and after the last: (B, S) -> (B, S+1, predictor_dim)
        predicted = self.model.predictor.teacher_forced(targets.symbols)
        _, largest = next(encoded)
        # the simple loss on (B, T', V) and (B, S+1, V), which finds the ranges (B, T', R)
        simple, ranges = self.loss.simple(
            heads.simple_am(largest), heads.simple_lm(predicted), targets
        )
        # joiner inputs on the kept nodes, two of (B, T', R, J)
        am_nodes, lm_nodes = self.loss.prune(
            joiner.encoder_proj(largest), joiner.predictor_proj(predicted), ranges
        )
        # the largest net on the kept nodes: (B, T', R, V)
        logits = joiner(am_nodes, lm_nodes)
        pruned = self.loss.pruned(logits, ranges, targets)
        ctc = self._ctc(largest, targets) if self.config.loss.ctc_weight else 0.0
        total = total + weights.simple * simple + weights.pruned * pruned + ctc
        losses = [pruned.detach()]
        # what it teaches: the classes that are compared on every node, (B, T', R, V or 3)
        teaches = weights.distill and self.config.method.distill != "none" and nets > 1
        teacher = (
            self._distillation(ranges, targets).log_probs(logits.detach()) if teaches else None
        )
        for part, student in encoded:
            # a subnet on the same nodes: (B', T', J) -> (B', T', 1, J) -> (B', T', R, V)
            its_ranges, its_targets = part.of(ranges), part.of_targets(targets)
            logits = joiner(joiner.encoder_proj(student)[:, :, None], part.of(lm_nodes))
            pruned = part.scale * self.loss.pruned(logits, its_ranges, its_targets)
            losses.append(pruned.detach())
            total = total + self._subnet_weight(pruned, targets) * weights.pruned * pruned
            if teacher is not None:
                distill = self._distillation(its_ranges, its_targets)
                divergence = distill(part.of(teacher), distill.log_probs(logits))
                total = total + weights.distill * part.scale * divergence
        return total, losses

    def _ctc_losses(
        self,
        total: Tensor | float,
        encoded: list[tuple[Share, Tensor]],
        targets: Targets,
        weights: Weights,
    ) -> tuple[Tensor, list[Tensor]]:
        """The CTC loss of every net, and with a weight the distillation of frame posteriors, which
        a CTC model alone has.

        Args:
          total: to which the losses are added.
          encoded: of every net, the largest first: its share of the batch and its encoder output.
        """
        losses = [part.scale * self._ctc(one, part.of_targets(targets)) for part, one in encoded]
        ctc_weight = self.config.loss.ctc_weight
        total = (
            total
            + losses[0]
            + sum(self._subnet_weight(loss / ctc_weight, targets) * loss for loss in losses[1:])
        )
        if weights.distill and self.config.method.distill != "none" and len(encoded) > 1:
            # frame posteriors of the largest net, (B, T', V)
            teacher = self.model.ctc_log_probs(encoded[0][1]).detach()
            real = targets.real_frames(teacher.shape[1])  # (B, T')
            for part, student in encoded[1:]:
                divergence = node_divergence(
                    self.config.method,
                    self.config.distill,
                    part.of(teacher),
                    self.model.ctc_log_probs(student),
                )  # (B', T', V) twice -> (B', T')
                divergence = divergence.masked_fill(~part.of(real), 0.0).sum()
                total = total + weights.distill * part.scale * divergence
        return total, [loss.detach() / ctc_weight for loss in losses]

    def _untrained(self, weights: Weights) -> Tensor | float:
        """0, with a gradient of 0 for the parameters that this update may not use: DDP wants one
        for each."""
        if weights.ctc_alone:
            unused = list(self.parameters())
        else:
            unused = [] if self.selector is None else list(self.selector.parameters())
        return sum(p.sum() for p in unused) * 0.0

    def _subnet_weight(self, loss: Tensor, targets: Targets) -> Tensor | float:
        """The weight of a subnet's own loss: ``loss.subnet_weight``; saturating (arXiv 2501.18895):
        times 1 - exp(-loss per frame), a number without gradient."""
        weight = self.config.loss.subnet_weight
        if self.config.loss.subnet_weighting == "constant":
            return weight
        return weight * (1 - torch.exp(-loss.detach() / targets.frames.sum()))

    def _learned_gates(self, update: int | None) -> tuple[Gates | None, Tensor | float]:
        """The gates of this update in step 1 of learned selection, and the penalty of the scores
        per frame; in other updates no gates."""
        selector = self.selector
        if selector is None or update is None or not selector.learns(update):
            return None, 0.0
        values, penalty = selector.gates(update)
        return selector.units.gates(values), penalty

    def _depth_gates(self, update: int | None) -> Gates | None:
        """The gates of stochastic depth for the largest net's pass in step 2 of learned
        selection."""
        selector, probability = self.selector, self.config.learn.stochastic_depth
        if selector is None or update is None or not probability or not selector.frozen:
            return None
        values = stochastic_depth(selector.units, selector.distinct_nets()[-1], probability)
        return selector.units.gates(values.to(next(self.parameters()).device))

    def _distillation(self, ranges: Tensor, targets: Targets) -> LatticeDistillation:
        """The distillation on the nodes that pruning kept."""
        return LatticeDistillation(
            self.config.method, self.config.distill, ranges, targets, self.config.loss.rnnt_type
        )

    def _ctc(self, encoded: Tensor, targets: Targets) -> Tensor:
        """The weighted CTC loss of one net, summed over the batch: (B, T', dim) -> ()."""
        # (B, T', dim) -> (T', B, V), as torch wants it
        log_probs = self.model.ctc_log_probs(encoded).transpose(0, 1)
        loss = nn.functional.ctc_loss(
            log_probs,
            targets.symbols,
            targets.host.frames,
            targets.host.lengths,
            blank=BLANK,
            reduction="sum",
            zero_infinity=True,
        )
        return self.config.loss.ctc_weight * loss
