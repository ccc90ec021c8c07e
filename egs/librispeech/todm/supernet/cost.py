"""What a subnet costs, in closed form: parameters and multiply-accumulates (MACs) per second of
audio."""

from dataclasses import asdict, dataclass

from todm.config.keys import Config
from todm.data.frames import FRAMES_PER_SECOND, NUM_MEL_BINS, SUBSAMPLING
from todm.model.frontend import subsampled_length
from todm.results.subnets import SubnetEntry
from todm.subnet import Subnet


@dataclass(frozen=True)
class Cost:
    """Attributes:
    encoder_params: of frontend, blocks and final norm.
    total_params: the encoder's, the predictor's and the joiner's, or of a CTC model the head's:
      what decoding needs.
    macs_per_second: of the whole transducer per second of audio.  SSMs count in their recurrent
      form (4 real MACs for a complex product, 2 for a complex by real); predictor and joiner run
      once per encoder frame.  Norms, biases and activations are not counted.
    """

    encoder_params: int
    total_params: int
    macs_per_second: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def cost(config: Config, vocab_size: int, subnet: Subnet) -> Cost:
    """Exact cost of ``subnet``; a test holds the counts to the extracted model's."""
    m = config.model
    front_params, front_macs = _frontend(m.frontend_channels, m.dim)
    encoder_params, frame_macs = front_params + m.dim, 0
    for heads, chunks in subnet.sizes:
        for params, macs in (_ssm(config, heads), _ffn(config, chunks)):
            encoder_params += params
            frame_macs += macs
    predictor_groups = m.predictor_dim // 4 if m.predictor_dim % 4 == 0 else 1
    conv = m.predictor_dim * (m.predictor_dim // predictor_groups) * m.context_size
    joiner_weights = (m.dim + m.predictor_dim + vocab_size) * m.joiner_dim
    decoder_params = (
        vocab_size * m.predictor_dim + conv + joiner_weights + 2 * m.joiner_dim + vocab_size
    )
    decoder_macs = conv + joiner_weights
    if config.loss.objective == "ctc":
        decoder_macs = m.dim * vocab_size
        decoder_params = decoder_macs + vocab_size
    frames = FRAMES_PER_SECOND / SUBSAMPLING
    return Cost(
        encoder_params=encoder_params,
        total_params=encoder_params + decoder_params,
        macs_per_second=round(frames * (front_macs + frame_macs + decoder_macs)),
    )


def _frontend(channels: int, dim: int) -> tuple[int, int]:
    """Parameters, and MACs per encoder frame (two frames of the first convolution for each of the
    second)."""
    first = max(channels // 4, 1)
    bins1, bins2 = (NUM_MEL_BINS - 1) // 2, subsampled_length(NUM_MEL_BINS)
    params = (
        first * 9 + first + channels * first * 9 + channels + channels * bins2 * dim + dim + dim
    )
    return params, 2 * first * 9 * bins1 + channels * first * 9 * bins2 + channels * bins2 * dim


def _ssm(config: Config, groups: int) -> tuple[int, int]:
    m = config.model
    if not groups:
        return 0, 0
    head_dim, directions = m.ssm_dim // m.heads, 2 if m.direction == "bidirectional" else 1
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


def _ffn(config: Config, chunks: int) -> tuple[int, int]:
    m = config.model
    if not chunks:
        return 0, 0
    hidden = chunks * (m.ffn_dim // config.supernet.ffn_chunks)
    return 2 * m.dim * hidden + hidden + m.dim + m.dim, 2 * m.dim * hidden


def describe_subnet(config: Config, vocab_size: int, subnet: Subnet, how: str) -> SubnetEntry:
    """The entry of subnets.json for a subnet that nothing has scored yet, named by its size.

    Args:
      how: the way in which it was found, for people.
    """
    found = cost(config, vocab_size, subnet)
    name = f"{found.encoder_params / 1e6:.2f}M"
    return SubnetEntry(name, subnet, **found.as_dict(), how=how)
