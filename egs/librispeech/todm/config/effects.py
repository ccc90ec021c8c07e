"""Keys that change nothing as the others are set: which they are, and which key would make them
count."""

from collections.abc import Callable
from dataclasses import dataclass

from todm.config.keys import LEARNED, Config


@dataclass(frozen=True)
class Effect:
    """Keys (or groups of keys) that count only under a condition.

    Attributes:
      counts: tells whether the condition holds for a configuration.
      because: the reason why they do not count, as it follows "because".
      remedy: the setting that makes them count.
    """

    keys: tuple[str, ...]
    counts: Callable[[Config], bool]
    because: str
    remedy: str


def has_subnets(c: Config) -> bool:
    """Whether stage 4 trains smaller subnets beside the largest net."""
    return (
        c.method.subnets_per_step > 0 or c.method.smallest or c.select.method in LEARNED
    ) and c.model.architecture is None


def distils(c: Config) -> bool:
    """Whether the smaller subnets learn from the largest one."""
    return c.method.distill != "none" and has_subnets(c)


def augments(c: Config) -> bool:
    """Whether utterances of train are changed."""
    return c.augment.changes_anything


def searches(c: Config) -> bool:
    """Whether stage 5 searches for subnets."""
    return c.select.method in ("evolution", "random")


def is_transducer(c: Config) -> bool:
    """Whether the model is a transducer, not CTC alone."""
    return c.loss.objective == "transducer"


SEARCH_KEYS = tuple(
    f"search.{name}"
    for name in (
        "seed",
        "population",
        "generations",
        "mutation",
        "crossover",
        "proxy_seconds",
        "finalists",
        "baselines",
    )
)

EFFECTS = (
    Effect(
        ("synthetic",),
        lambda c: c.is_synthetic,
        "no corpus is made (data.root is set, splits have paths, or data.corpus is not synthetic)",
        "data.corpus=synthetic data.root=null makes one",
    ),
    Effect(
        ("data.musan_prob",),
        lambda c: bool(c.data.musan),
        "data.musan is not set",
        "data.musan=FOLDER mixes its noise in",
    ),
    Effect(
        ("data.spoken_language", "data.spoken_words_first"),
        lambda c: c.data.spoken_words > 0,
        "data.spoken_words is 0",
        "data.spoken_words=0.6 adds so many hours of them",
    ),
    Effect(
        ("data.join_pause",),
        lambda c: c.data.join_prob > 0,
        "data.join_prob is 0",
        "data.join_prob=0.3 joins utterances",
    ),
    Effect(
        ("augment.prob", "augment.start", "augment.ramp"),
        augments,
        "nothing of augment changes an utterance",
        "augment.warp=0.1, for one, does",
    ),
    Effect(
        ("augment.room_rt60",),
        lambda c: c.augment.room_prob > 0,
        "augment.room_prob is 0",
        "augment.room_prob=0.3 adds a room's echo",
    ),
    Effect(
        ("augment.noise_snr",),
        lambda c: c.augment.noise_prob > 0,
        "augment.noise_prob is 0",
        "augment.noise_prob=0.3 adds noise",
    ),
    Effect(
        ("decode.max_symbols",),
        lambda c: not is_transducer(c) or c.loss.rnnt_type != "modified",
        "a net trained on the modified lattice emits at most one symbol a frame",
        "loss.rnnt_type=regular trains one that may emit more",
    ),
    Effect(
        ("spec_augment",),
        lambda c: c.spec_augment.enabled,
        "spec_augment.enabled is false",
        "spec_augment.enabled=true",
    ),
    Effect(
        ("spec_augment.max_time_mask", "spec_augment.max_time_fraction"),
        lambda c: c.spec_augment.num_time_masks > 0,
        "spec_augment.num_time_masks is 0",
        "raise it",
    ),
    Effect(
        ("spec_augment.max_freq_mask",),
        lambda c: c.spec_augment.num_freq_masks > 0,
        "spec_augment.num_freq_masks is 0",
        "raise it",
    ),
    Effect(
        ("supernet.min_heads",),
        lambda c: c.supernet.elastic_heads,
        "supernet.elastic_heads is false",
        "supernet.elastic_heads=true",
    ),
    Effect(
        ("supernet.min_ffn_chunks", "supernet.min_blocks", "supernet.elastic_heads"),
        lambda c: c.model.architecture is None,
        "model.architecture makes one net of one size",
        "model.architecture=null trains a supernet",
    ),
    Effect(
        (
            "distill",
            "method.distill",
            "method.lattice",
            "method.subnets_from",
            "loss.subnet_weight",
            "method.subnet_share",
            "loss.subnet_weighting",
        ),
        has_subnets,
        "the largest net trains alone (method.subnets_per_step=0 with method.smallest=false, or "
        "model.architecture)",
        "method.subnets_per_step=1 method.smallest=true model.architecture=null trains smaller "
        "ones with it",
    ),
    Effect(
        ("distill", "method.lattice"),
        lambda c: not has_subnets(c) or distils(c),
        "method.distill is none",
        "method.distill=alpha or kl",
    ),
    Effect(
        ("distill.alpha_minus", "distill.alpha_plus", "distill.clip"),
        lambda c: not distils(c) or c.method.distill == "alpha",
        "method.distill is not alpha",
        "method.distill=alpha",
    ),
    Effect(
        ("distill.start", "distill.ramp"),
        lambda c: c.distill.weight > 0,
        "distill.weight is 0",
        "raise it",
    ),
    Effect(
        (
            "method.lattice",
            "loss.backend",
            "loss.prune_range",
            "loss.rnnt_type",
            "loss.delay_penalty",
            "loss.lm_scale",
            "loss.am_scale",
            "loss.simple_scale",
            "loss.warmup",
            "model.predictor_dim",
            "model.joiner_dim",
            "model.context_size",
            "decode.max_symbols",
            "decode.blank_penalty",
            "decode.hotwords_file",
            "decode.hotwords_score",
        ),
        is_transducer,
        "loss.objective is ctc",
        "loss.objective=transducer",
    ),
    Effect(
        ("loss.ctc_first",),
        lambda c: is_transducer(c) or c.loss.ctc_first == 0,
        "loss.objective is ctc, so that CTC is alone all the time",
        "loss.objective=transducer",
    ),
    Effect(
        ("train.adam_weight_decay",),
        lambda c: c.method.optimizer == "adam",
        "method.optimizer is not adam",
        "method.optimizer=adam",
    ),
    Effect(
        ("select.num_subnets",),
        lambda c: c.select.method == "uniform",
        "select.method is not uniform",
        "select.method=uniform; else search.budgets says how many",
    ),
    Effect(
        ("search.budgets",),
        lambda c: c.select.method != "uniform",
        "select.method is uniform",
        "select.method=evolution (or random, or a learned one) selects a subnet for each",
    ),
    Effect(
        SEARCH_KEYS,
        searches,
        "select.method is not evolution and not random",
        "select.method=evolution",
    ),
    Effect(
        ("search.direction",),
        lambda c: not searches(c) or c.model.direction == "dual",
        "model.direction is not dual, so that all nets have the same direction",
        "model.direction=dual",
    ),
    Effect(
        ("search.mutation", "search.crossover"),
        lambda c: not searches(c) or c.select.method == "evolution",
        "select.method is random",
        "select.method=evolution",
    ),
    Effect(
        ("search.latency_engine", "search.latency_table"),
        lambda c: c.search.cost == "latency",
        "search.cost is not latency",
        "search.cost=latency",
    ),
    Effect(
        ("search.cost",),
        lambda c: c.search.cost != "latency" or searches(c),
        "select.method is not evolution and not random",
        "select.method=evolution searches by latency",
    ),
    Effect(
        ("learn",),
        lambda c: c.select.method in LEARNED,
        "select.method is not a learned one",
        f"select.method={', '.join(LEARNED[:-1])} or {LEARNED[-1]}",
    ),
    Effect(
        ("learn.iterations",),
        lambda c: c.select.method not in LEARNED or c.select.method != "orthosoftmax",
        "select.method is orthosoftmax",
        "select.method=simple-topk or iterative-zero-out",
    ),
    Effect(
        ("learn.penalty",),
        lambda c: c.select.method != "simple-topk",
        "select.method is simple-topk",
        "select.method=iterative-zero-out or orthosoftmax",
    ),
    Effect(
        ("learn.tau_end",),
        lambda c: c.select.method not in LEARNED or c.select.method == "orthosoftmax",
        "select.method is not orthosoftmax",
        "select.method=orthosoftmax",
    ),
    Effect(
        ("decode.range",),
        lambda c: c.decode.weights == "range",
        "decode.weights is not range",
        "decode.weights=range",
    ),
    Effect(
        ("decode.beam",),
        lambda c: "beam" in [*c.decode.methods, *c.export.methods],
        "neither decode.methods nor export.methods has beam",
        "decode.methods=[greedy,beam]",
    ),
    Effect(
        ("decode.hotwords_file",),
        lambda c: "beam" in [*c.decode.methods, *c.export.methods],
        "neither decode.methods nor export.methods has beam, and greedy search takes no hotwords",
        "decode.methods=[greedy,beam]",
    ),
    Effect(
        ("decode.hotwords_score",),
        lambda c: bool(c.decode.hotwords_file),
        "decode.hotwords_file is not set",
        "decode.hotwords_file=FILE, with a word or a phrase a line",
    ),
    Effect(
        ("decode.nbest",),
        lambda c: "beam" in c.decode.methods,
        "decode.methods lacks beam, and greedy search has one hypothesis",
        "decode.methods=[greedy,beam]",
    ),
    Effect(
        ("decode.max_symbols",),
        lambda c: not is_transducer(c) or "greedy" in c.decode.methods or searches(c),
        "decode.methods lacks greedy",
        "decode.methods=[greedy,beam]",
    ),
    Effect(
        ("export.chunk_frames",),
        lambda c: c.model.direction != "bidirectional",
        "model.direction is bidirectional, and only a causal net decodes chunks",
        "model.direction=causal",
    ),
    Effect(
        ("tables",),
        lambda c: bool(c.tables.records),
        "tables.records is not set",
        "tables.records=FOLDER",
    ),
    Effect(
        ("tables.individual_grid",),
        lambda c: bool(c.tables.budgets or not c.tables.individual_grid),
        "tables.budgets is empty",
        "tables.budgets=[...], sizes of search.budgets that are trained alone",
    ),
)

# The switches of the groups above count by themselves.
SWITCHES = ("spec_augment.enabled", "tables.records")


def without_effect(config: Config, keys: set[str]) -> dict[str, Effect]:
    """The keys among ``keys`` that change nothing as the configuration is, each with the first
    reason."""
    found: dict[str, Effect] = {}
    for effect in EFFECTS:
        if not effect.counts(config):
            for key in sorted(keys - set(SWITCHES)):
                if any(key == k or key.startswith(k + ".") for k in effect.keys):
                    found.setdefault(key, effect)
    return found
