"""Which values of the configuration can work: ranges of single keys, and what keys ask of each
other."""

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from todm.config.keys import LEARNED, Config
from todm.subnet import Subnet
from utils.conf import ConfigError, check_types, flatten, read_layers, to_dict
from utils.text import file_name

BUDGET = re.compile(
    r"^((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(k|M|G|ms|%)?$"
)  # a number and perhaps a unit
METHODS = ("greedy", "beam")
# What OpenSLR has; stage 0 downloads nothing else.
PARTS = {
    "librispeech": (
        "dev-clean",
        "dev-other",
        "test-clean",
        "test-other",
        "train-clean-100",
        "train-clean-360",
        "train-other-500",
    ),
    "mini-librispeech": ("dev-clean-2", "train-clean-5"),
}
Need = Callable[[bool, str], None]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, with these or (``open``) without them."""

    low: float
    high: float = math.inf
    open: str = ""  # "low", "high" or "low high": the ends that do not belong to it

    def __contains__(self, value: float) -> bool:
        above = value > self.low if "low" in self.open else value >= self.low
        return above and (value < self.high if "high" in self.open else value <= self.high)

    def __str__(self) -> str:
        low, high = (f"{end:,.12g}" if end >= 1e5 else f"{end:g}" for end in (self.low, self.high))
        if self.high == math.inf:
            return (
                "above 0"
                if "low" in self.open
                else "0 or more"
                if self.low == 0
                else f"at least {low}"
            )
        if not self.open:
            return f"from {low} to {high}"
        return (
            f"{'above' if 'low' in self.open else 'at least'} {low} and "
            f"{'below' if 'high' in self.open else 'at most'} {high}"
        )


POSITIVE, NOT_NEGATIVE = Range(0, open="low"), Range(0)
SHARE, PROCESSES, WIDTH, COUNT, SEED = (
    Range(0, 1),
    Range(0, 1024),
    Range(1, 100_000),
    Range(1, 10**9),
    Range(0, 2**31 - 1),
)

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
    "data.musan_prob": SHARE,
    "data.join_prob": SHARE,
    "data.max_duration": POSITIVE,
    "data.num_buckets": Range(1, 10_000),
    "data.num_workers": PROCESSES,
    "data.num_jobs": PROCESSES,
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
    "export.int8_tolerance": NOT_NEGATIVE,
    "export.benchmark_seconds": POSITIVE,
    "export.benchmark_rounds": Range(1, 100_000),
    "tables.workers": Range(1, 1024),
    "tables.processes": PROCESSES,
}


def check(config: Config) -> None:
    """Refuse values that can not work, alone or together, with what would.

    Raises:
      ConfigError: the first such value.
    """

    def need(condition: bool, message: str) -> None:
        if not condition:
            raise ConfigError(message)

    values = flatten(to_dict(config))
    for key, value in values.items():
        for number in value if isinstance(value, list) else [value]:
            need(
                not isinstance(number, float) or math.isfinite(number),
                f"{key} is {value}; a finite number is needed",
            )
    for key, allowed in RANGES.items():
        if (
            not key.startswith("learn.") or config.select.method in LEARNED
        ):  # config_effects says that they do not count
            need(values[key] in allowed, f"{key} is {values[key]}; it must be {allowed}")
    check_distinct(values, need)
    for part in (
        check_folders,
        check_data,
        check_model,
        check_training,
        check_selection,
        check_decoding,
        check_tables,
    ):
        part(config, need)


def check_distinct(values: dict, need: Need) -> None:
    """No list names the same thing twice; none holds an empty text."""
    for key, value in values.items():
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            twice = sorted({item for item in value if value.count(item) > 1})
            need(
                not twice,
                f"{key} has {', '.join(map(repr, twice))} more than once; leave the others out",
            )
            need(
                all(item.strip() for item in value),
                f"{key} is {value}; an empty text is none of its values",
            )


def check_folders(config: Config, need: Need) -> None:
    """The name, and the folders that are written: training moves all of an earlier one's folder
    aside."""
    name = config.name
    need(
        bool(name.strip()) and name == name.strip(),
        f"name is {name!r}; it must not be empty nor begin or end with a space: it names folders",
    )
    need(
        "/" not in name
        and not name.startswith(".")
        and name.isprintable()
        and len(name.encode()) <= 200,
        f"name is {name!r}; it names folders, so it has no slash, no dot in front and at most 200 "
        "characters; another place for them: "
        "exp=FOLDER data.dir=FOLDER",
    )
    places = {
        "exp": config.exp,
        "data.dir": config.data.dir,
        "data.root": config.data.root,
        "data.musan": config.data.musan,
        "search.latency_table": config.search.latency_table,
        "tables.records": config.tables.records,
    }
    for key, value in places.items():
        need(
            value is None or value.isprintable(),
            f"{key} is {value!r}, which has a character that no path should have",
        )
        need(
            value is None or bool(value.strip()) or key == "data.root",
            f"{key} is empty; a path is needed",
        )
    exp, home = resolved(config.exp), Path.home()
    for key in ("exp", "data.dir"):
        folder = resolved(places[key])
        need(
            folder not in (Path.cwd(), *Path.cwd().parents, home, *home.parents),
            f"{key}={places[key]} is a folder that holds other things; give one of its own, e.g. "
            f"{key}={'exp' if key == 'exp' else 'data'}/{name}",
        )
    for key in ("data.dir", "data.root"):
        inside = resolved(places[key]) if places[key] else None
        need(
            inside is None or exp != inside and exp not in inside.parents,
            f"{key}={places[key]} lies in exp={config.exp}, and a new training moves all that is "
            "there into its folder earlier; take another place",
        )


def resolved(path: str) -> Path:
    """Absolute, links followed as far as they lead."""
    return Path(os.path.realpath(path))


def check_data(config: Config, need: Need) -> None:
    d, s = config.data, config.synthetic
    need(
        d.min_seconds < d.max_seconds,
        f"data.min_seconds {d.min_seconds:g} is not below data.max_seconds {d.max_seconds:g}: no "
        "utterance would be left",
    )
    need(
        bool(d.train),
        "data.train is empty; it names the splits that are trained on, e.g. "
        "data.train=[train-clean-100]",
    )
    need(
        bool(d.dev),
        "data.dev is empty; training is watched and subnets are selected on it, e.g. "
        "data.dev=[dev-clean]",
    )
    for key, splits in (("data.train", d.train), ("data.dev", d.dev), ("data.test", d.test)):
        for split in splits:
            need(
                not {"", ".", ".."} & set(split.split("/")) and split.isprintable(),
                f"{key} has {split!r}; a split is the name of a folder in the corpus, such as "
                "train or clean/train. For /corpora/a/train: "
                f"data.root=/corpora/a {key}=[train]; folders that lie elsewhere can be linked "
                "into one: ln -s",
            )
            within = [other for other in config.splits if split.startswith(other + "/")]
            need(
                not within,
                f"{key} has {split!r}, which lies in {', '.join(within)}, another split: the same "
                "utterances would be in both",
            )
        need(
            not (d.musan and "musan" in splits),
            f"{key} has a split musan, which is what data.musan's noise is called; rename the "
            "folder",
        )
    shared = set(d.train) & set(d.dev + d.test) | set(d.dev) & set(d.test)
    need(
        not shared, f"{sorted(shared)} stand in more than one of data.train, data.dev and data.test"
    )
    if d.corpus in PARTS and not d.root:
        unknown = [split for split in config.splits if split not in PARTS[d.corpus]]
        need(
            not unknown,
            f"data.corpus={d.corpus} has no {', '.join(unknown)}; it has: "
            f"{', '.join(PARTS[d.corpus])}. For a corpus of your own: data.root=FOLDER",
        )
    for key, ends, top in (("snr_db", s.snr_db, 200), ("level_db", s.level_db, 0)):
        need(
            len(ends) == 2 and -200 <= ends[0] <= ends[1] <= top,
            f"synthetic.{key} is {ends}; it must be [lowest, highest] in dB, from -200 to {top}, "
            f"e.g. synthetic.{key}={'[25, 40]' if top else '[-12, 0]'}",
        )
    pause = config.data.join_pause
    need(
        len(pause) == 2 and 0 <= pause[0] <= pause[1],
        f"data.join_pause is {pause}; it must be two numbers of seconds, the shorter first",
    )


def check_model(config: Config, need: Need) -> None:
    m, s = config.model, config.supernet
    groups = m.heads // 2 if m.gating else m.heads
    need(
        m.stack in (1, 2),
        f"model.stack is {m.stack}; 1 or 2 SSM convolutions per head are supported",
    )
    need(
        m.ssm_dim % m.heads == 0,
        f"model.ssm_dim {m.ssm_dim} is not divisible by model.heads {m.heads}",
    )
    need(
        not m.gating or m.heads % 2 == 0,
        f"model.gating pairs heads, so model.heads must be even, not {m.heads}",
    )
    need(
        s.ffn_chunks >= 1 and m.ffn_dim % s.ffn_chunks == 0,
        f"model.ffn_dim {m.ffn_dim} is not divisible by supernet.ffn_chunks {s.ffn_chunks}",
    )
    need(
        1 <= s.min_ffn_chunks <= s.ffn_chunks,
        f"supernet.min_ffn_chunks {s.min_ffn_chunks} is not between 1 and supernet.ffn_chunks "
        f"{s.ffn_chunks}",
    )
    need(
        1 <= s.min_blocks <= m.blocks,
        f"supernet.min_blocks {s.min_blocks} is not between 1 and model.blocks {m.blocks}",
    )
    need(
        not s.elastic_heads or 1 <= s.min_heads <= groups,
        f"supernet.min_heads {s.min_heads} is not between 1 and the {groups} head groups",
    )
    need(
        m.dt_min <= m.dt_max,
        f"model.dt_min {m.dt_min:g} must be positive and at most model.dt_max {m.dt_max:g}",
    )
    if m.architecture is not None:
        check_architecture("model.architecture", m.architecture, config, need)


def check_architecture(key: str, text: str, config: Config, need: Need) -> None:
    """An architecture must be a part of the conf's largest net."""
    try:
        subnet = Subnet.parse(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    m = config.model
    largest = Subnet.leading(
        [(m.heads // 2 if m.gating else m.heads, config.supernet.ffn_chunks)] * m.blocks
    )
    need(
        len(subnet.blocks) == m.blocks,
        f"{key} {text!r} has {len(subnet.blocks)} blocks; model.blocks is {m.blocks} (a dropped "
        "block is -)",
    )
    need(
        subnet.within(largest),
        f"{key} {text!r} is no part of the largest net, whose blocks are {str(largest).split()[0]}",
    )
    need(not all(block.dropped for block in subnet.blocks), f"{key} {text!r} drops every block")


def check_training(config: Config, need: Need) -> None:
    loss, a = config.loss, config.spec_augment
    shortest = max(
        7, 100 * config.data.min_seconds / 1.1
    )  # frames of an utterance that gives one encoder frame
    need(
        not (a.enabled and a.num_time_masks and a.max_time_fraction)
        or a.max_time_fraction * shortest >= 1,
        f"spec_augment.max_time_fraction {a.max_time_fraction:g} is less than a frame (10 ms) of "
        "the shortest utterances (data.min_seconds "
        f"{config.data.min_seconds:g}); raise one of them, or spec_augment.num_time_masks=0 masks "
        "no time",
    )
    need(
        loss.lm_scale + loss.am_scale <= 1,
        f"loss.lm_scale {loss.lm_scale:g} and loss.am_scale {loss.am_scale:g} are more than 1 "
        "together",
    )
    need(
        loss.delay_penalty == 0 or loss.subnet_weighting == "constant",
        "loss.delay_penalty can make a loss negative, of which loss.subnet_weighting=saturating "
        "makes no weight: set one of them alone",
    )
    need(
        loss.ctc_first == 0 or loss.ctc_weight > 0,
        "loss.ctc_first is set, so loss.ctc_weight must be above 0",
    )
    need(
        loss.objective == "transducer" or loss.ctc_weight > 0,
        "loss.objective is ctc, so loss.ctc_weight must be above 0",
    )


def check_selection(config: Config, need: Need) -> None:
    s, learn = config.search, config.learn
    need(bool(s.budgets), "search.budgets is empty")
    for text in s.budgets:
        check_budget("search.budgets", text, s.cost, need)
    if config.select.method in LEARNED:
        last = round(learn.share * config.train.updates)
        need(
            config.method.subnets_from < last,
            f"step 1 ends at update {last:.0f} (learn.share), before it begins "
            "(method.subnets_from)",
        )
        need(
            s.cost != "latency",
            f"select.method={config.select.method} counts parameters or MACs, not latency: "
            "search.cost=macs",
        )
        need(
            not config.model.architecture,
            f"select.method={config.select.method} needs the whole search space, not "
            "model.architecture",
        )


def check_budget(key: str, text: str, cost: str, need: Need) -> None:
    """A budget as people write it; whether a subnet is that small is known when the net is."""
    match = BUDGET.match(text.strip())
    need(bool(match), f"{key}: {text!r} is not a budget such as 0.5, 50%, 600k or 3M")
    need(0 < float(match[1]) < math.inf, f"{key}: {text!r} must be above 0")
    need(
        (match[2] == "ms") <= (cost == "latency"),
        f"{key}: {text!r} is a time, and search.cost is {cost}; search.cost=latency counts "
        "milliseconds",
    )
    need(
        cost != "latency" or match[2] not in ("k", "M", "G"),
        f"{key}: {text!r} is a size, and search.cost is latency; write e.g. 2.5ms or 50%",
    )


def check_decoding(config: Config, need: Need) -> None:
    d, e = config.decode, config.export
    for key, methods in (("decode.methods", d.methods), ("export.methods", e.methods)):
        need(
            bool(methods) and set(methods) <= set(METHODS),
            f"{key} is {methods}; known: {', '.join(METHODS)}, at least one of them",
        )
    for text in d.subnets:
        try:
            Subnet.parse(text)
        except ValueError as error:
            raise ConfigError(f"decode.subnets: {error}") from error
    need(
        4 <= e.chunk_frames <= 100_000 and e.chunk_frames % 4 == 0,
        f"export.chunk_frames {e.chunk_frames} is not a multiple of 4, the subsampling, from 4 to "
        "100,000",
    )
    need(
        not (e.subnets and e.budget),
        "export.subnets and export.budget are both set; one of them says what is exported",
    )
    if e.budget is not None:
        check_budget("export.budget", e.budget, config.search.cost, need)


def check_tables(config: Config, need: Need) -> None:
    t = config.tables
    names = [file_name(variant.name) for variant in t.ablations + t.selections]
    need(
        all(names)
        and len(set(names)) == len(names)
        and not any(n.startswith(("supernet", "individual")) for n in names),
        "tables.ablations and tables.selections need distinct names that do not begin like "
        f"supernet or individual; as file names they are {names}",
    )
    need(
        not t.records or bool(t.seeds) and len(set(t.seeds)) == len(t.seeds),
        f"tables.seeds must be distinct and at least one, not {t.seeds}",
    )
    need(all(seed in SEED for seed in t.seeds), f"tables.seeds is {t.seeds}; each must be {SEED}")
    need(
        not t.records or config.train.seed in t.seeds,
        f"train.seed {config.train.seed} is not among tables.seeds {t.seeds}",
    )
    strange = [b for b in t.budgets if b not in config.search.budgets]
    need(
        not strange,
        f"tables.budgets has {strange}, which search.budgets {config.search.budgets} lacks",
    )
    settings = [("tables.individual_grid", setting.split()) for setting in t.individual_grid]
    for variant in t.ablations + t.selections:
        where = f"tables, {variant.name!r}"
        need(
            len(set(variant.overrides)) == len(variant.overrides)
            and len(set(variant.grid)) == len(variant.grid),
            f"{where} has an override or a setting of its grid twice",
        )
        settings += [
            (where, variant.overrides),
            *((where, setting.split()) for setting in variant.grid),
        ]
    check_settings(settings)


def check_settings(settings: list[tuple[str, list[str]]]) -> None:
    """Overrides that runs will be made with, and where they stand: wrong ones are found now, not in
    stage 7 or 8."""
    layers = []
    for where, overrides in settings:
        try:
            layers += [
                replace(layer, source=f"{where}: {layer.source}")
                for layer in read_layers(Config, None, overrides)
            ]
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    if layers:
        check_types(Config, layers)
