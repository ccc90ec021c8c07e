"""The configuration of the recipe: every key a conf or a command line may set, with its default and
meaning.

A comment stands behind its key, or above it where it is longer.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from utils.text import TextForm

RECIPE = Path(__file__).resolve().parents[1]
CONFS = RECIPE / "conf"
SPLIT_KEYS = ("train", "dev", "test")  # of data: the lists of splits
SPOKEN_WORDS = "spoken-words"  # the split of data.spoken_words
# values of select.method that are learned in training
LEARNED = ("simple-topk", "iterative-zero-out", "orthosoftmax")


@dataclass
class SyntheticConfig:
    """The embedded corpus of stage 0: speech of espeak-ng in LibriSpeech layout."""

    seed: int = 1
    hours: float = 1.5  # of train, about
    train_voices: int = 40
    dev_voices: int = 6  # dev and test voices never occur in train
    test_voices: int = 6
    dev_utterances: int = 180
    test_utterances: int = 180  # test sentences never occur in train or dev
    # signal-to-noise ratio in dB, drawn per utterance between these two: the noise is light
    snr_db: list[float] = field(default_factory=lambda: [25.0, 40.0])
    # peak level in dB of full scale, drawn per utterance between these two
    level_db: list[float] = field(default_factory=lambda: [-12.0, 0.0])


@dataclass
class DataConfig:
    """The corpus, its splits, and how utterances become batches."""

    corpus: Literal["synthetic", "librispeech", "mini-librispeech", "folder"] = "folder"
    # a folder in LibriSpeech layout, which is used as it is; null: stage 0 makes or downloads one
    root: str | None = None
    dir: str = "data/${name}"  # manifests, features and BPE of this conf
    train: list[str] = field(default_factory=lambda: ["train-clean-100"])
    dev: list[str] = field(default_factory=lambda: ["dev-clean"])
    test: list[str] = field(default_factory=lambda: ["test-clean"])
    # where splits lie that are not folders in root, as SPLIT=PATH; a path in train, dev or test
    # (a table, a manifest, a folder elsewhere) comes here, under its own name
    paths: list[str] = field(default_factory=list)
    min_seconds: float = 0.3  # train utterances outside [min, max] are dropped, and listed
    max_seconds: float = 20.0
    # decode every file once in stage 1, so that truncated ones are found there
    verify_audio: bool = True
    speed_perturb: bool = False  # train at 0.9, 1.0 and 1.1 times the speed
    # hours of synthetic speech that stage 1 adds to train, its words in random order by many voices
    # of espeak-ng: where the vocabulary is small and the talkers are few
    spoken_words: float = 0.0
    # updates, or a share of them, in which only these are trained on: a net that hears real speech
    # of few sentences from the start learns the sentences first, and may never get further
    spoken_words_first: float = 0.0
    spoken_language: str = "en"  # of espeak-ng, such as de, fr or cmn
    musan: str | None = None  # MUSAN's folder: mixes its noise into train at 10 to 20 dB
    musan_prob: float = 0.5
    # share of the training utterances that are joined two by two, so that the net hears pauses
    join_prob: float = 0.0
    # seconds between the two, drawn; together they have at most max_seconds
    join_pause: list[float] = field(default_factory=lambda: [0.1, 1.0])
    max_duration: float = 200.0  # seconds of audio in a batch
    num_buckets: int = 10
    num_workers: int = 2  # 0: the training process itself loads
    num_jobs: int = 0  # processes of stages 1 and 2; 0: one per core


@dataclass
class FeatureConfig:
    """80-dim log-mel filterbank, 25 ms windows every 10 ms, as sherpa-onnx computes it."""

    extractor: Literal["lhotse", "kaldifeat"] = "lhotse"
    on_the_fly: bool = False  # compute while training instead of storing


@dataclass
class TextConfig:
    """The form of the transcripts, which are in NFKC with single spaces in any case."""

    normalize: Literal["none", "upper", "lower"] = "none"
    punctuation: Literal["keep", "strip"] = "keep"  # an apostrophe inside a word stays

    @property
    def form(self) -> TextForm:
        """The form that stage 1 brings transcripts into."""
        return TextForm(self.normalize, self.punctuation == "strip")


@dataclass
class AugmentConfig:
    """Other talkers, rooms and microphones than those of train, drawn anew every time that an
    utterance is read. They are made in the stored features, before SpecAugment."""

    prob: float = 1.0  # share of the utterances that are changed; the others are left as they are
    # update (below 1: a share of train.updates) from which utterances are changed: a net that has
    # yet to find alignments finds them sooner in speech as it is
    start: float = 0
    ramp: float = 0  # updates, or a share of them, over which the share of utterances grows to prob
    # most by which the frequencies are stretched or squeezed, as a vocal tract of another length
    # does (VTLP): 0.15 is from 1 / 1.15 to 1.15 times; 0: not at all
    warp: float = 0.0
    tempo: float = 0.0  # most by which an utterance is sped up or slowed down; 0: not at all
    gain: float = 0.0  # dB by which it is made louder or softer, at most
    channel: float = 0.0  # dB of a microphone's uneven response, at most
    room_prob: float = 0.0  # share of utterances that echo as in a room
    # seconds in which the echo loses 60 dB, drawn
    room_rt60: list[float] = field(default_factory=lambda: [0.1, 0.6])
    noise_prob: float = 0.0  # share of utterances with steady noise of any colour
    noise_snr: list[float] = field(default_factory=lambda: [5.0, 30.0])  # dB, drawn

    @property
    def changes_anything(self) -> bool:
        """Whether an utterance that is drawn is changed at all."""
        changes = (self.warp, self.tempo, self.gain, self.channel, self.room_prob, self.noise_prob)
        return any(changes)


@dataclass
class SpecAugmentConfig:
    """SpecAugment (arXiv 1904.08779), as lhotse has it."""

    enabled: bool = True
    time_warp: int = 80  # frames; 0: none
    num_time_masks: int = 10
    max_time_mask: int = 100  # frames
    max_time_fraction: float = 0.15  # of the utterance, in all time masks together
    num_freq_masks: int = 2
    max_freq_mask: int = 27  # mel bins


@dataclass
class BpeConfig:
    """The SentencePiece model of stage 3."""

    vocab_size: int = 500  # with <blk> 0, <sos/eos> 1, <unk> 2
    model_type: Literal["unigram", "bpe", "char"] = "unigram"


@dataclass
class ModelConfig:
    """The largest net. Its encoder is blocks x (MultiHeadSSM + FFN) of width dim, after
    convolutional subsampling by 4."""

    dim: int = 256
    blocks: int = 12
    # encoder frames for one frame of every block, e.g. [1, 2, 4, 4, 2, 1]: blocks at a lower frame
    # rate cost a half or a quarter; empty: every block sees every frame
    rates: list[int] = field(default_factory=list)
    ffn_dim: int = 1024
    ssm_dim: int = 256  # channels of the state space models, split evenly over the heads
    heads: int = 8  # with gating: heads/2 value heads, each gated by one of the other half
    modes: int = 8  # complex modes per channel and direction: a state of 2 * modes real numbers
    stack: int = 1  # SSM convolutions per head, 1 or 2
    gating: bool = True  # inter-head gating
    # dual: a supernet with nets of both kinds; of the causal ones the backward direction is left
    # out
    direction: Literal["bidirectional", "causal", "dual"] = "bidirectional"
    # the heads' time steps start log-spaced between these two (S4D: 0.001 and 0.1)
    dt_min: float = 0.001
    dt_max: float = 0.1
    frontend_channels: int = 32
    # frames (10 ms) of silence behind every utterance, in training, decoding and exported models
    tail_frames: int = 0
    predictor_dim: int = 256
    joiner_dim: int = 256
    context_size: int = 2  # of the stateless predictor
    dropout: float = 0.1  # p_max
    # only this subnet of the above is built, e.g. "h0-3f0-7 - h0-3f0-2"; null: the whole net
    architecture: str | None = None


@dataclass
class SupernetConfig:
    """The search space: what may be left out of the largest net."""

    ffn_chunks: int = 8  # every FFN is ffn_chunks slices of ffn_dim / ffn_chunks channels
    min_ffn_chunks: int = 2
    min_blocks: int = 6
    elastic_heads: bool = False
    min_heads: int = 2  # head groups (a value head with its gate) that always stay


@dataclass
class MethodConfig:
    """The axes of the paper's ablations, in one place.

    A plain model is trained with ``subnets_per_step=0`` and ``smallest=false``.
    """

    distill: Literal["alpha", "kl", "none"] = "alpha"
    lattice: Literal["full", "collapsed"] = "full"
    dropout: Literal["adaptive", "constant"] = "adaptive"
    optimizer: Literal["scaled_adam", "adam"] = "scaled_adam"
    subnets_per_step: int = 1  # random subnets in every step, beside the largest
    # update at which the subnets join; before it the largest net trains alone. Below 1 it is a
    # share of train.updates
    subnets_from: float = 0
    smallest: bool = True  # the smallest subnet is in every step, too (the sandwich rule)
    # of the utterances of a batch, how many every subnet trains on, drawn anew for each; their loss
    # counts as that of all
    subnet_share: float = 1.0


@dataclass
class LossConfig:
    """The hard-label losses: the pruned transducer loss and CTC."""

    backend: Literal["auto", "k2", "fast_rnnt", "torch"] = "auto"
    prune_range: int = 5
    lm_scale: float = 0.25
    am_scale: float = 0.0
    # modified, constrained: at most one symbol a frame, as greedy and beam search and sherpa-onnx
    # decode; constrained: and blank before the next frame
    rnnt_type: Literal["regular", "modified", "constrained"] = "regular"
    # lowers the loss of symbols that come early (k2's; small: 0.001 to 0.01); 0: none
    delay_penalty: float = 0.0
    simple_scale: float = 0.5  # weight of the trivial-joiner loss; starts at 1
    # updates (below 1: a share) over which simple goes 1 -> simple_scale and pruned 0.1 -> 1
    warmup: float = 2000
    # weight of a CTC loss on the largest net's encoder; above 0 the model has a CTC head
    ctc_weight: float = 0.0
    # first updates (below 1: a share) in which CTC trains the encoder alone: it finds alignments
    # sooner
    ctc_first: float = 0
    # ctc: the encoder and its CTC head are the model
    objective: Literal["transducer", "ctc"] = "transducer"
    # saturating: each subnet's loss times 1 - exp(-loss per frame), without gradient
    subnet_weighting: Literal["constant", "saturating"] = "constant"
    # weight of the hard-label loss of each smaller subnet (transducer; CTC while it trains alone)
    subnet_weight: float = 1.0


@dataclass
class DistillConfig:
    """In-place distillation from the largest net to the smaller ones, by the alpha-divergence."""

    weight: float = 1.0  # per frame, mean over the pruned lattice's nodes of that frame
    alpha_minus: float = -1.0
    alpha_plus: float = 1.0
    clip: float = 5.0  # beta: upper bound of (p/q)^alpha
    # update (below 1: a share of train.updates) at which distillation begins: the largest net must
    # be a teacher first
    start: float = 0
    ramp: float = 2000  # updates, or a share of them, over which its weight then grows from 0


@dataclass
class TrainConfig:
    """Stage 4: optimiser, schedule, checkpoints and validation."""

    seed: int = 1
    # the folder of an experiment (exp/NAME) or of an exported model whose weights a new training
    # starts from, as far as they fit; null: random weights
    init: str | None = None
    # modules whose weights stay what they are, e.g. [encoder.frontend,encoder.blocks.0]
    freeze: list[str] = field(default_factory=list)
    updates: int = 100000
    lr: float = 0.045  # base of Eden for ScaledAdam; for Adam something like 0.002
    ssm_lr_scale: float = 0.05  # of dt, A (the dynamics) relative to lr
    lr_batches: float = 7500.0  # Eden's B, in updates (below 1: a share of them), and E
    lr_epochs: float = 3.5
    lr_warmup: float = 500  # updates, or a share of them
    adam_weight_decay: float = 0.01
    # processes where there is no GPU; each trains on its own data.max_duration, as GPUs do
    cpu_processes: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = 1  # batches per update
    average_every: int = 200  # batches between updates of the running model average
    save_every: int = 4000
    keep_last: int = 10
    valid_every: int = 4000
    valid_batches: int = 0  # of dev looked at; 0: all
    log_every: int = 50
    max_bad_batches: int = 10  # non-finite batches in a row before training stops
    scan_batches: bool = True  # try the largest batch of every bucket first (GPU only)


@dataclass
class SelectConfig:
    """Stage 5: which subnets are decoded, exported and reported."""

    method: Literal[
        "uniform", "evolution", "random", "simple-topk", "iterative-zero-out", "orthosoftmax"
    ] = "uniform"
    # uniform: a ladder from the largest to the smallest, evenly spaced in encoder parameters
    num_subnets: int = 5


@dataclass
class LearnConfig:
    """Learned selection (select.method=simple-topk, iterative-zero-out or orthosoftmax): stage 4
    learns which parts every size of search.budgets keeps, in step 1; in step 2 the sizes are
    trained as they are."""

    # what is kept or left out: whole SSMs and FFNs, or head groups and FFN chunks
    granularity: Literal["module", "component"] = "component"
    share: float = 0.6  # of train.updates that step 1 ends at; it begins at method.subnets_from
    # simple-topk, iterative-zero-out: in which step 1 shrinks to the smallest size
    iterations: int = 8
    # weight per frame: orthosoftmax 1 (ramped up from 0), iterative-zero-out 5 in their papers
    penalty: float = 1.0
    tau_end: float = 0.01  # orthosoftmax: temperature at the end of step 1, from 1, exponentially
    lr_scale: float = 1.0  # learning rate of the scores relative to train.lr
    # step 2: probability with which the largest net's pass drops a module that the smallest lacks
    stochastic_depth: float = 0.0


@dataclass
class SearchConfig:
    """The search of select.method=evolution or random. It looks at dev alone."""

    # one subnet is chosen for each: a fraction or per cent of the largest net's cost, or an
    # absolute cost, such as 600k, 3M or 2.5ms
    budgets: list[str] = field(default_factory=lambda: ["0.3", "0.5", "0.75", "1"])
    cost: Literal["encoder_params", "total_params", "macs", "latency"] = "encoder_params"
    # model.direction=dual: which of its nets are searched, and whose largest one a fraction in
    # budgets is of
    direction: Literal["bidirectional", "causal"] = "bidirectional"
    # search.cost=latency: what runs the net while the clock runs
    latency_engine: Literal["sherpa-onnx", "torch"] = "sherpa-onnx"
    # a table that was measured on the device; null: measured here, once per machine
    latency_table: str | None = None
    seed: int = 1
    population: int = 64  # candidates of a generation
    generations: int = 20  # after the first
    mutation: float = 0.2  # probability of every gene
    crossover: float = 0.5  # share of children with two parents; the others are mutants
    # seconds of dev, drawn once, on which every candidate's transducer loss is measured
    proxy_seconds: float = 600
    # the best by loss within a budget that are decoded: the lowest WER on dev is chosen
    finalists: int = 5
    # also random search with as many candidates, and the best uniform net, for comparison
    baselines: bool = True


@dataclass
class DecodeConfig:
    """Stage 6: how the subnets are decoded, and with which weights."""

    methods: list[str] = field(default_factory=lambda: ["greedy"])  # greedy, beam
    beam: int = 4
    # symbols that greedy search may emit in a frame; sherpa-onnx allows 1, and so does
    # loss.rnnt_type=modified
    max_symbols: int = 1
    weights: Literal["last", "running", "range"] = "range"
    # range: the mean over the updates between the last checkpoint and the one this many before
    range: int = 4
    max_duration: float = 300.0  # seconds of audio in a batch
    # taken from blank's logit by a transducer's searches, in torch and in the client: against
    # deletions, to be tuned on dev
    blank_penalty: float = 0.0
    # a file of words and phrases that a transducer's beam search prefers in stage 6, and in the
    # client in stage 10: a line each, WORDS or WORDS :boost
    hotwords_file: str | None = None
    # what each of their tokens adds to a hypothesis' log-probability, where a line has no boost
    hotwords_score: float = 1.5
    # hypotheses of beam search, of which stage 6 scores the best one for every utterance (oracle
    # WER); at most decode.beam; 0: none
    nbest: int = 0
    # what does not count as an error; recognisers write what the net has learnt all the same
    ignore_case: bool = False
    ignore_punctuation: bool = False
    # architectures to decode instead of those of subnets.json, e.g. ["h0-3f0-7 - h0-3f0-2"]
    subnets: list[str] = field(default_factory=list)

    @property
    def form(self) -> TextForm:
        """The form in which references and hypotheses are compared."""
        return TextForm("lower" if self.ignore_case else "none", self.ignore_punctuation)


@dataclass
class ExportConfig:
    """Stage 10: which subnets become files for a device, and how they are checked there."""

    # names of subnets.json, or architectures; empty: all of subnets.json
    subnets: list[str] = field(default_factory=list)
    # instead: the best of subnets.json within e.g. 600k or 0.5 of search.cost
    budget: str | None = None
    # streaming: filterbank frames (10 ms) decoded at a time; a multiple of 4
    chunk_frames: int = 32
    # search methods that the client decodes dev with; it decodes test with the first
    methods: list[str] = field(default_factory=lambda: ["greedy", "beam"])
    # WER on dev that int8 may cost, relative; if it costs more, the layers that err most stay in
    # fp32
    int8_tolerance: float = 0.03
    benchmark_seconds: float = 60  # of dev that real-time factor and latency are measured on
    # every exported subnet in turn, as often as this; medians are reported
    benchmark_rounds: int = 5


@dataclass
class VariantConfig:
    """A row of the tables of ablations and of learned selections."""

    name: str = ""
    # what differs from the full method, e.g. ["method.distill=kl"]
    overrides: list[str] = field(default_factory=list)
    # settings tried with the first seed, e.g. "train.lr=0.002 model.dropout=0": the best on dev is
    # trained with the other seeds; empty: none is tuned
    grid: list[str] = field(default_factory=list)


@dataclass
class TablesConfig:
    """Stages 7 and 8: the trainings that the paper's tables compare. Confs with tables are in
    conf/tables."""

    # folder in the repository for tables and, below it, a small file of every finished run; null:
    # this conf has no tables
    records: str | None = None
    seeds: list[int] = field(default_factory=lambda: [1, 2])  # the first is that of stage 4
    # those of search.budgets whose sizes are trained alone, too
    budgets: list[str] = field(default_factory=list)
    # settings tuned on dev for every size; the conf's own are always trained as well
    individual_grid: list[str] = field(default_factory=list)
    # rows of table (b)
    ablations: list[VariantConfig] = field(default_factory=list)
    # rows of table (d): learned selections, each scored at its own nets
    selections: list[VariantConfig] = field(default_factory=list)
    workers: int = 1  # runs at a time on this machine
    processes: int = 0  # of every run, as --world-size; 0: as stage 4 does by default
    # slurm: through submitit, where it is installed
    launcher: Literal["local", "slurm", "submitit-local"] = "local"
    # submitit's parameters, e.g. slurm_partition: gpu, timeout_min: 600
    slurm: dict[str, str] = field(default_factory=dict)


@dataclass
class Config:
    """All of the configuration: the name, the experiment's folder, and the groups of keys above."""

    name: str = "unnamed"
    exp: str = "exp/${name}"
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    bpe: BpeConfig = field(default_factory=BpeConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    supernet: SupernetConfig = field(default_factory=SupernetConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    tables: TablesConfig = field(default_factory=TablesConfig)

    @property
    def corpus_root(self) -> Path:
        """The folder in LibriSpeech layout that holds the splits."""
        if self.data.root:
            return Path(self.data.root)
        return Path(self.data.dir) / "corpus" / "LibriSpeech"

    @property
    def splits(self) -> list[str]:
        """Every split of the corpus once: train, then dev, then test."""
        return list(dict.fromkeys(self.data.train + self.data.dev + self.data.test))

    @property
    def splits_in_root(self) -> list[str]:
        """The splits that are folders of the corpus, and have no path of their own."""
        elsewhere = {entry.partition("=")[0] for entry in self.data.paths}
        return [split for split in self.splits if split not in elsewhere]

    @property
    def is_synthetic(self) -> bool:
        """Whether the corpus is the embedded one, which stage 0 makes."""
        data = self.data
        return data.corpus == "synthetic" and not data.root and bool(self.splits_in_root)

    def source(self, split: str) -> Path:
        """The path of a split: a folder, or a file that lists its utterances."""
        where = dict(entry.split("=", 1) for entry in self.data.paths)
        return Path(where[split]) if split in where else self.corpus_root / split

    @property
    def train_splits(self) -> list[str]:
        """The splits that are trained on: the corpus's, and the one that stage 1 makes."""
        return [*self.data.train, *([SPOKEN_WORDS] if self.data.spoken_words else [])]

    @property
    def prepared_splits(self) -> list[str]:
        """Every split that the stages after stage 1 have."""
        return list(dict.fromkeys(self.train_splits + self.splits))

    @property
    def exp_dir(self) -> Path:
        """The folder of the experiment: checkpoints, subnets, results, exported files."""
        return Path(self.exp)

    @property
    def records_dir(self) -> Path:
        """The folder that keeps the finished runs of the tables, where ``tables.records`` is set.

        Raises:
          ValueError: it is not set.
        """
        if self.tables.records is None:
            raise ValueError("this conf has no tables: tables.records is not set")
        return Path(self.tables.records) / "records"

    @property
    def data_dir(self) -> Path:
        """The folder of the data stages: corpus, manifests, features, BPE model."""
        return Path(self.data.dir)

    @property
    def lang_dir(self) -> Path:
        """The folder of the BPE model and ``tokens.txt``."""
        return self.data_dir / "lang"
