"""The range of every key that is a number."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``.

    Attributes:
      open: ``low``, ``high`` or ``low high``, the ends that do not belong to the range.
    """

    low: float
    high: float = math.inf
    open: str = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if "low" in self.open else value >= self.low
        return above and (value < self.high if "high" in self.open else value <= self.high)

    def __str__(self) -> str:
        """The range in words, as they follow "it must be"."""
        low, high = (f"{end:,.12g}" if end >= 1e5 else f"{end:g}" for end in (self.low, self.high))
        if self.high == math.inf and self.low == 0 and not self.open:
            return "0 or more"
        above = f"{'above' if 'low' in self.open else 'at least'} {low}"
        if self.high == math.inf:
            return above
        if not self.open:
            return f"from {low} to {high}"
        return f"{above} and {'below' if 'high' in self.open else 'at most'} {high}"


POSITIVE = Range(0, open="low")
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
PROCESSES = Range(0, 1024)
WIDTH = Range(1, 100_000)
COUNT = Range(1, 10**9)
SEED = Range(0, 2**31 - 1)

RANGES: dict[str, Range] = {
    "synthetic.seed": SEED,
    "synthetic.hours": Range(0, 1000, "low"),
    "synthetic.train_voices": Range(1, 1000),
    "synthetic.dev_voices": Range(1, 1000),
    "synthetic.test_voices": Range(1, 1000),
    "synthetic.dev_utterances": Range(1, 100_000),
    "synthetic.test_utterances": Range(1, 100_000),
    "data.min_seconds": NOT_NEGATIVE,
    "data.max_seconds": POSITIVE,
    "data.spoken_words": Range(0, 1000),
    "data.spoken_words_first": NOT_NEGATIVE,
    "data.musan_prob": SHARE,
    "data.join_prob": SHARE,
    "data.max_duration": POSITIVE,
    "data.num_buckets": Range(1, 10_000),
    "data.num_workers": PROCESSES,
    "data.num_jobs": PROCESSES,
    "augment.prob": SHARE,
    "augment.start": NOT_NEGATIVE,
    "augment.ramp": NOT_NEGATIVE,
    "augment.warp": Range(0, 0.5),
    "augment.tempo": Range(0, 1),
    "augment.gain": Range(0, 60),
    "augment.channel": Range(0, 60),
    "augment.room_prob": SHARE,
    "augment.noise_prob": SHARE,
    "spec_augment.time_warp": NOT_NEGATIVE,
    "spec_augment.num_time_masks": NOT_NEGATIVE,
    "spec_augment.max_time_mask": Range(2, 10**9),
    "spec_augment.max_time_fraction": SHARE,
    "spec_augment.num_freq_masks": Range(0, 1000),
    "spec_augment.max_freq_mask": Range(2, 80),
    "bpe.vocab_size": Range(4, 1_000_000),
    "model.dim": WIDTH,
    "model.blocks": Range(1, 1000),
    "model.ffn_dim": WIDTH,
    "model.ssm_dim": WIDTH,
    "model.heads": WIDTH,
    "model.modes": Range(1, 10_000),
    "model.frontend_channels": WIDTH,
    "model.predictor_dim": WIDTH,
    "model.joiner_dim": WIDTH,
    "model.dt_min": Range(0, 1000, "low"),
    "model.dt_max": Range(0, 1000, "low"),
    "model.context_size": Range(1, 100),
    "model.tail_frames": Range(0, 1000),
    "model.dropout": Range(0, 1, "high"),
    "method.subnets_per_step": Range(0, 1000),
    "method.subnets_from": NOT_NEGATIVE,
    "method.subnet_share": Range(0, 1, "low"),
    "loss.prune_range": Range(2, 10_000),
    "loss.lm_scale": SHARE,
    "loss.am_scale": SHARE,
    "loss.simple_scale": NOT_NEGATIVE,
    "loss.warmup": NOT_NEGATIVE,
    "loss.delay_penalty": NOT_NEGATIVE,
    "loss.ctc_weight": NOT_NEGATIVE,
    "loss.ctc_first": NOT_NEGATIVE,
    "loss.subnet_weight": NOT_NEGATIVE,
    "distill.weight": NOT_NEGATIVE,
    "distill.alpha_minus": Range(-100, 100),
    "distill.alpha_plus": Range(-100, 100),
    "distill.clip": POSITIVE,
    "distill.start": NOT_NEGATIVE,
    "distill.ramp": NOT_NEGATIVE,
    "train.seed": SEED,
    "train.updates": COUNT,
    "train.lr": Range(0, 1000, "low"),
    "train.ssm_lr_scale": Range(0, 1000),
    "train.lr_batches": POSITIVE,
    "train.lr_epochs": POSITIVE,
    "train.lr_warmup": NOT_NEGATIVE,
    "train.adam_weight_decay": NOT_NEGATIVE,
    "train.cpu_processes": Range(1, 1024),
    "train.accumulate": COUNT,
    "train.average_every": COUNT,
    "train.save_every": COUNT,
    "train.keep_last": COUNT,
    "train.valid_every": COUNT,
    "train.valid_batches": NOT_NEGATIVE,
    "train.log_every": COUNT,
    "train.max_bad_batches": COUNT,
    "select.num_subnets": Range(1, 10_000),
    "learn.share": Range(0, 1, "low high"),
    "learn.iterations": COUNT,
    "learn.penalty": NOT_NEGATIVE,
    "learn.tau_end": Range(0, 1, "low"),
    "learn.lr_scale": POSITIVE,
    "learn.stochastic_depth": Range(0, 1, "high"),
    "search.seed": SEED,
    "search.population": COUNT,
    "search.generations": Range(0, 10**9),
    "search.mutation": SHARE,
    "search.crossover": SHARE,
    "search.proxy_seconds": POSITIVE,
    "search.finalists": COUNT,
    "decode.beam": Range(1, 10_000),
    "decode.max_symbols": Range(1, 10_000),
    "decode.range": COUNT,
    "decode.max_duration": POSITIVE,
    "decode.blank_penalty": Range(0, 100),
    "decode.hotwords_score": Range(0.001, 100),
    "decode.nbest": Range(0, 10_000),
    "export.int8_tolerance": NOT_NEGATIVE,
    "export.benchmark_seconds": POSITIVE,
    "export.benchmark_rounds": Range(1, 100_000),
    "tables.workers": Range(1, 1024),
    "tables.processes": PROCESSES,
}
