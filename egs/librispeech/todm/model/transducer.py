"""The transducer: encoder, stateless predictor, joiner, and the linear heads that only training
needs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from todm.config.keys import Config
from todm.config.ranges import RANGES
from todm.model.encoder import Encoder, full_architecture
from todm.subnet import Subnet
from utils.conf import flatten, to_dict
from utils.tokens import BLANK


class Predictor(nn.Module):
    """Stateless predictor, as icefall has it: embeds the last ``context_size`` tokens.

    A negative id embeds as zero: sherpa-onnx starts from the context [-1, ..., 0].
    """

    def __init__(self, vocab_size: int, dim: int, context_size: int):
        super().__init__()
        self.context_size = context_size
        self.embedding = nn.Embedding(vocab_size, dim)
        self.conv = nn.Conv1d(
            dim, dim, context_size, groups=dim // 4 if dim % 4 == 0 else 1, bias=False
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, U + context_size - 1) ids -> (N, U, dim); pass exactly ``context_size`` ids for one
        output."""
        x = self.embedding(tokens.clamp(min=0)) * (tokens >= 0)[..., None]
        return nn.functional.relu(self.conv(x.transpose(1, 2)).transpose(1, 2))

    def start(self, batch: int, device: torch.device) -> Tensor:
        """The context before the first token: [-1, ..., blank], (batch, context_size)."""
        return torch.tensor([-1] * (self.context_size - 1) + [BLANK], device=device).repeat(
            batch, 1
        )

    def teacher_forced(self, targets: Tensor) -> Tensor:
        """Outputs before every token of padded targets (B, S) and after the last: (B, S + 1,
        dim)."""
        return self(torch.cat([self.start(len(targets), targets.device), targets], dim=1))


class Joiner(nn.Module):
    """tanh of the sum of two projections, and a linear layer."""

    def __init__(self, encoder_dim: int, predictor_dim: int, joiner_dim: int, vocab_size: int):
        super().__init__()
        self.encoder_proj = nn.Linear(encoder_dim, joiner_dim)
        self.predictor_proj = nn.Linear(predictor_dim, joiner_dim)
        self.output = nn.Linear(joiner_dim, vocab_size)

    def forward(self, encoder: Tensor, predictor: Tensor) -> Tensor:
        """Projected encoder and predictor outputs, (..., J) each -> logits (..., V)."""
        return self.output(torch.tanh(encoder + predictor))


class TrainingHeads(nn.Module):
    """The linear layers that only the losses need: those of the simple (trivial-joiner) loss, which
    finds the pruning ranges, and the optional CTC head.

    Nothing here has to do with the heads of an MH-SSM.
    """

    def __init__(self, encoder_dim: int, predictor_dim: int, vocab_size: int, ctc: bool):
        super().__init__()
        self.simple_am = nn.Linear(encoder_dim, vocab_size)
        self.simple_lm = nn.Linear(predictor_dim, vocab_size)
        self.ctc = nn.Linear(encoder_dim, vocab_size) if ctc else None
        with torch.no_grad():
            for head in (self.simple_am, self.simple_lm):
                head.weight.mul_(0.25)
                head.bias.mul_(0.25)


def require_no_larger(
    config: Config, vocab_size: int, weights: Mapping[str, Tensor], training_heads: bool = True
) -> None:
    """Refuses a conf whose model is larger than the weights that shall go into it, before memory is
    taken for it: files of others may say anything.

    Raises:
      ValueError: it is larger, or can not be built.
    """
    for key, value in flatten(to_dict(config.model)).items():
        allowed = RANGES.get(f"model.{key}")
        if allowed and value not in allowed:
            raise ValueError(f"model.{key} is {value}; it must be {allowed}")
    m, there = config.model, sum(tensor.numel() for tensor in weights.values())
    # what every model has at least: even the names of a huge one's parts would take minutes
    needed = m.dim * m.joiner_dim
    if not m.architecture:
        needed = max(needed, m.blocks * (m.heads + config.supernet.ffn_chunks))
    if needed <= there:
        with torch.device("meta"):  # shapes alone
            model = Transducer(config, vocab_size, training_heads=training_heads)
        needed = sum(tensor.numel() for tensor in model.state_dict().values())
    if needed > there:
        raise ValueError(f"the model has {needed:,} values, and the file {there:,}")


class Transducer(nn.Module):
    """A supernet, or one stand-alone net of it.

    With ``loss.objective=ctc`` (:attr:`is_ctc`) the encoder and its CTC head are the model, and the
    rest is not trained.

    Args:
      config: the recipe's configuration.
      vocab_size: V.
      architecture: build only this subnet; default: ``config.model.architecture``, else the largest
        net.
      training_heads: build what only the losses need (a CTC model keeps its CTC head).
    """

    def __init__(
        self,
        config: Config,
        vocab_size: int,
        architecture: Subnet | None = None,
        training_heads: bool = True,
    ):
        super().__init__()
        m = config.model
        if architecture is None:
            architecture = configured_architecture(config)
        self.vocab_size, self.is_ctc = vocab_size, config.loss.objective == "ctc"
        self.encoder = Encoder(
            m, config.supernet.ffn_chunks, architecture, config.method.dropout == "adaptive"
        )
        self.predictor = Predictor(vocab_size, m.predictor_dim, m.context_size)
        self.joiner = Joiner(m.dim, m.predictor_dim, m.joiner_dim, vocab_size)
        with_ctc = config.loss.ctc_weight > 0
        self.heads = (
            TrainingHeads(m.dim, m.predictor_dim, vocab_size, with_ctc)
            if training_heads or self.is_ctc
            else None
        )

    @property
    def full(self) -> Subnet:
        """The largest net that this model holds."""
        return self.encoder.full

    def ctc_log_probs(self, encoded: Tensor) -> Tensor:
        """The CTC head's log-probabilities, in fp32: encoder output (..., dim) -> (..., V)."""
        if self.heads is None or self.heads.ctc is None:
            raise ValueError("this model was built without a CTC head")
        return self.heads.ctc(encoded).float().log_softmax(-1)

    @property
    def training_heads(self) -> TrainingHeads:
        """The heads that the losses need.

        Raises:
          ValueError: the model was built without them.
        """
        if self.heads is None:
            raise ValueError("this model was built without the heads that the losses need")
        return self.heads


def configured_architecture(config: Config) -> Subnet:
    """The net that the conf describes: ``model.architecture`` or the largest."""
    if config.model.architecture:
        return Subnet.parse(config.model.architecture)
    return full_architecture(config.model, config.supernet.ffn_chunks)
