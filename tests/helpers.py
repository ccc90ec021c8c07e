"""What several tests share: a tiny recipe and plain twins of the transducer loss."""

from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor

from todm.config.keys import Config
from todm.config.load import load_file
from todm.model.transducer import Transducer
from utils.pruned_rnnt import Targets
from utils.tokens import BLANK

VOCAB = 11
DEBUG = Path(__file__).resolve().parent.parent / "egs/librispeech/todm/conf/debug.yaml"
# Beside conf/debug.yaml's: the sizes that meet in one product differ, so that none can be taken
# for another; three
# head groups, so that there is one between the first and the last; no dropout, so that two passes
# agree; and slow modes, whose outputs depend on all frames.
UNIT_SIZES = (
    "model.rates=[]",
    "model.dim=16",
    "model.ffn_dim=24",
    "model.ssm_dim=24",
    "model.heads=6",
    "model.modes=3",
    "model.dt_min=0.01",
    "model.dt_max=0.5",
    "model.frontend_channels=8",
    "model.predictor_dim=12",
    "model.joiner_dim=10",
    "model.dropout=0",
)


def debug_overrides(*sections: str) -> list[str]:
    """What conf/debug.yaml sets itself, as overrides (``model.dim=24``); of some sections, or of
    all."""
    conf = yaml.safe_load(DEBUG.read_text(encoding="utf-8"))
    return [
        f"{section}.{key}={override_value(value)}"
        for section, keys in conf.items()
        if isinstance(keys, dict) and section in (sections or conf)
        for key, value in keys.items()
    ]


def override_value(value: object) -> str:
    """A conf's value as it is typed in an override: ``[greedy,beam]``."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def tiny_config(*overrides: str) -> Config:
    """The defaults with a model of 3 blocks of 3 head groups (6 heads) and 4 FFN chunks."""
    return load_file(None, [*debug_overrides("model", "supernet"), *UNIT_SIZES, *overrides])


def tiny_model(config: Config, vocab_size: int = VOCAB, seed: int = 0) -> Transducer:
    """A model none of whose parameters is 0 or 1 only, as some are when new."""
    torch.manual_seed(seed)
    model = Transducer(config, vocab_size)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def make_targets(symbols: list[list[int]], frames: list[int]) -> Targets:
    """Padded targets from token lists."""
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(s) for s in symbols], batch_first=True, padding_value=BLANK
    )
    return Targets(padded, torch.tensor([len(s) for s in symbols]), torch.tensor(frames))


def plain_transducer_loss(
    log_probs: Callable[[int, int], Tensor],
    symbols: list[int],
    frames: int,
    kept: Callable[[int, int], bool] = lambda s, t: True,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
) -> Tensor:
    """-log of the sum over all paths of kept nodes, node by node; log_probs(s, t) -> (V,). Frame
    ``frames`` is the end."""
    ends_frame = rnnt_type != "regular"
    score = {(0, 0): torch.zeros((), dtype=torch.float64)}
    for s in range(len(symbols) + 1):
        for t in range(frames + 1):
            arriving = []
            source = s - 1, t - ends_frame
            if source in score and source[1] < frames:
                arc = log_probs(*source)[symbols[s - 1]] + delay_penalty * (
                    (frames - 1) / 2 - source[1]
                )
                if rnnt_type != "constrained":
                    arriving.append(score[source] + arc)
                elif kept(s, t - 1):
                    arriving.append(score[source] + arc + log_probs(s, t - 1)[BLANK])
            if (s, t - 1) in score:
                arriving.append(score[s, t - 1] + log_probs(s, t - 1)[BLANK])
            if arriving and (t == frames or kept(s, t)):
                score[s, t] = torch.stack(arriving).logsumexp(0)
    return -score[len(symbols), frames]


def plain_simple_loss(
    am: Tensor, lm: Tensor, targets: Targets, lm_scale: float, am_scale: float, **lattice
) -> Tensor:
    """Sum over the batch of the trivial joiner's loss, interpolated with its lm-only and am-only
    versions."""
    unigram = lm.softmax(-1).mean((0, 1)).log()
    total = 0
    for b, (length, frames) in enumerate(zip(targets.lengths.tolist(), targets.frames.tolist())):

        def log_probs(s: int, t: int) -> Tensor:
            return (
                (1 - lm_scale - am_scale) * (am[b, t] + lm[b, s]).log_softmax(-1)
                + lm_scale * lm[b, s].log_softmax(-1)
                + am_scale * (am[b, t] + unigram).log_softmax(-1)
            )

        total = total + plain_transducer_loss(
            log_probs, targets.symbols[b, :length].tolist(), frames, **lattice
        )
    return total


def plain_pruned_loss(logits: Tensor, ranges: Tensor, targets: Targets, **lattice) -> Tensor:
    """Sum over the batch of the loss on the nodes of ``ranges``: logits (B, T, R, V)."""
    total = 0
    for b, (length, frames) in enumerate(zip(targets.lengths.tolist(), targets.frames.tolist())):
        windows = ranges[b].tolist()

        def log_probs(s: int, t: int) -> Tensor:
            return logits[b, t, windows[t].index(s)].log_softmax(-1)

        total = total + plain_transducer_loss(
            log_probs,
            targets.symbols[b, :length].tolist(),
            frames,
            kept=lambda s, t: s in windows[t],
            **lattice,
        )
    return total
