"""What a subnet costs, in closed form: parameters and multiply-accumulates (MACs) per second of
audio."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from todm.config.keys import Config
from todm.data.frames import FRAMES_PER_SECOND, NUM_MEL_BINS, SUBSAMPLING
from todm.model.encoder import block_rates
from todm.model.frontend import subsampled_length
from todm.model.multi_rate import Group, rate_groups
from todm.results.subnets import SubnetEntry
from todm.subnet import Subnet


@dataclass(frozen=True)
class Cost:
    """The cost of one subnet.

    Attributes:
      encoder_params: parameters of frontend, blocks and final norm.
      total_params: with those of predictor and joiner, or of a CTC model's head: what decoding
        needs.
      macs_per_second: of the whole transducer per second of audio, every block at its own frame
        rate.  SSMs count in their recurrent form (4 real MACs for a complex product, 2 for a
        complex by real); predictor and joiner run once per encoder frame.  Norms, biases and
        activations are not counted.
    """

    encoder_params: int
    total_params: int
    macs_per_second: int

    def as_dict(self) -> dict[str, int]:
        """The three numbers by their names."""
        return asdict(self)


class CostModel:
    """The costs of the subnets of one conf, by the sizes of their blocks.

    Args:
      vocab_size: V, of the tokenizer.
    """

    def __init__(self, config: Config, vocab_size: int):
        self.config = config
        self.front = _frontend(config.model.frontend_channels, config.model.dim)
        self.rates = block_rates(config.model)
        self.groups = rate_groups(self.rates)
        self.decoder = _decoder(config, vocab_size)

    def cost(self, subnet: Subnet) -> Cost:
        """The exact cost of a subnet; a test holds the counts to the extracted model's."""
        params = self.front[0]
        frame_macs: float = self.front[1]
        causal = subnet.causal or self.config.model.direction == "causal"
        directions = 1 if causal else 2
        for (heads, chunks), rate in zip(subnet.sizes, self.rates):
            parts = _ssm(self.config, heads, directions), _ffn(self.config, chunks)
            for part_params, part_macs in parts:
                params, frame_macs = params + part_params, frame_macs + part_macs / rate
        params += sum(self._lower_rate(subnet, group) for group in self.groups)
        final_norm = self.config.model.dim
        encoder_params = final_norm + params
        decoder_params, decoder_macs = self.decoder
        frame_macs += decoder_macs
        return Cost(
            encoder_params=encoder_params,
            total_params=encoder_params + decoder_params,
            macs_per_second=round(FRAMES_PER_SECOND / SUBSAMPLING * frame_macs),
        )

    @staticmethod
    def _lower_rate(subnet: Subnet, group: Group) -> int:
        """The parameters of a group's way to its rate, which stays if a block of it does."""
        stays = any(not subnet.blocks[i].dropped for i in group.blocks)
        return group.rate if group.rate > 1 and stays else 0

    def encoder_params(self, subnet: Subnet) -> int:
        """The number of parameters of a subnet's encoder."""
        return self.cost(subnet).encoder_params

    def function(self, name: str) -> Callable[[Subnet], float]:
        """One of the costs as a function of the subnet.

        Args:
          name: as ``search.cost`` has it: ``encoder_params``, ``total_params`` or ``macs``.
        """
        field = {"macs": "macs_per_second"}.get(name, name)
        return lambda subnet: float(getattr(self.cost(subnet), field))


# Of every part: its parameters, and its MACs per frame that it sees.
Part = tuple[int, int]


def _frontend(channels: int, dim: int) -> Part:
    """The convolutions, the projection and the norm; the first convolution makes two frames for
    each of the second."""
    first = max(channels // 4, 1)
    bins1, bins2 = (NUM_MEL_BINS - 1) // 2, subsampled_length(NUM_MEL_BINS)
    params = (
        first * 9 + first + channels * first * 9 + channels + channels * bins2 * dim + dim + dim
    )
    return params, 2 * first * 9 * bins1 + channels * first * 9 * bins2 + channels * bins2 * dim


def _ssm(config: Config, groups: int, directions: int) -> Part:
    """The MH-SSM of one block, with so many head groups; none: it is left out."""
    m = config.model
    if not groups:
        return 0, 0
    head_dim = m.ssm_dim // m.heads
    heads = groups * (2 if m.gating else 1)
    channels = heads * head_dim
    project = m.dim * channels + m.dim * groups * head_dim
    mix = m.stack * channels * directions * head_dim
    states = m.stack * directions * channels * m.modes
    params = project + channels + m.dim + m.dim  # projections with biases, norm
    params += mix + m.stack * channels
    params += 4 * states + 2 * m.stack * directions * channels  # Re A, Im A, C (two numbers); dt, D
    # per state lam x (4), B u (2), Re(C x) (2); per channel D u (1)
    return params, project + mix + 8 * states + m.stack * directions * channels


def _ffn(config: Config, chunks: int) -> Part:
    """The FFN of one block, with so many chunks; none: it is left out."""
    m = config.model
    if not chunks:
        return 0, 0
    hidden = chunks * (m.ffn_dim // config.supernet.ffn_chunks)
    return 2 * m.dim * hidden + hidden + m.dim + m.dim, 2 * m.dim * hidden


def _decoder(config: Config, vocab_size: int) -> Part:
    """Predictor and joiner, which run once per encoder frame; of a CTC model its head."""
    m = config.model
    if config.loss.objective == "ctc":
        return m.dim * vocab_size + vocab_size, m.dim * vocab_size
    predictor_groups = m.predictor_dim // 4 if m.predictor_dim % 4 == 0 else 1
    conv = m.predictor_dim * (m.predictor_dim // predictor_groups) * m.context_size
    joiner = (m.dim + m.predictor_dim + vocab_size) * m.joiner_dim
    embedding, biases = vocab_size * m.predictor_dim, 2 * m.joiner_dim + vocab_size
    return embedding + conv + joiner + biases, conv + joiner


def describe_subnet(config: Config, vocab_size: int, subnet: Subnet, how: str) -> SubnetEntry:
    """The entry of subnets.json for a subnet that nothing has scored yet, named by its size.

    Args:
      how: the way in which it was found, for people.
    """
    found = CostModel(config, vocab_size).cost(subnet)
    name = f"{found.encoder_params / 1e6:.2f}M"
    if subnet.causal:  # beside the others of a dual supernet
        name, how = f"{name}-streaming", f"{how}, streaming"
    counts = found.encoder_params, found.total_params, found.macs_per_second
    return SubnetEntry(name, subnet, *counts, how=how)
