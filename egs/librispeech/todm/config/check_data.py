"""Checks of the corpus, its splits and the utterances in them."""

from todm.config.keys import SPOKEN_WORDS, Config
from utils.errors import need

# the splits of the two corpora at OpenSLR, from where stage 0 downloads them
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


def check_data(config: Config) -> None:
    """Checks lengths, splits and the settings of the embedded corpus."""
    data = config.data
    need(
        data.min_seconds < data.max_seconds,
        f"data.min_seconds {data.min_seconds:g} is not below data.max_seconds "
        f"{data.max_seconds:g}: no utterance would be left",
    )
    check_splits(config)
    check_synthetic(config)
    check_augment(config)
    pause = data.join_pause
    need(
        len(pause) == 2 and 0 <= pause[0] <= pause[1],
        f"data.join_pause is {pause}; it must be two numbers of seconds, the shorter first",
    )


def check_augment(config: Config) -> None:
    """Checks the ranges that echo and noise are drawn from."""
    augment = config.augment
    rt60, snr = augment.room_rt60, augment.noise_snr
    need(
        len(rt60) == 2 and 0.01 <= rt60[0] <= rt60[1] <= 10,
        f"augment.room_rt60 is {rt60}; it must be two numbers of seconds from 0.01 to 10, the "
        "shorter first, e.g. augment.room_rt60=[0.1,0.6]",
    )
    need(
        len(snr) == 2 and -200 <= snr[0] <= snr[1] <= 200,
        f"augment.noise_snr is {snr}; it must be [lowest, highest] in dB, from -200 to 200, e.g. "
        "augment.noise_snr=[5,30]",
    )


def check_splits(config: Config) -> None:
    """Refuses missing splits, and splits that share utterances or that the corpus lacks."""
    data = config.data
    need(
        bool(data.train),
        "data.train is empty; it names the splits that are trained on, e.g. "
        "data.train=[train-clean-100]",
    )
    need(
        bool(data.dev),
        "data.dev is empty; training is watched and subnets are selected on it, e.g. "
        "data.dev=[dev-clean]",
    )
    for key, splits in (
        ("data.train", data.train),
        ("data.dev", data.dev),
        ("data.test", data.test),
    ):
        for split in splits:
            check_split(key, split, config.splits)
        need(
            not (data.musan and "musan" in splits),
            f"{key} has a split musan, which is what data.musan's noise is called; rename the "
            "folder",
        )
        need(
            not (data.spoken_words and SPOKEN_WORDS in splits),
            f"{key} has a split {SPOKEN_WORDS}, which is what the split of data.spoken_words is "
            "called; rename the folder",
        )
    shared = set(data.train) & set(data.dev + data.test) | set(data.dev) & set(data.test)
    need(
        not shared, f"{sorted(shared)} stand in more than one of data.train, data.dev and data.test"
    )
    if data.corpus in PARTS and not data.root:
        unknown = [split for split in config.splits_in_root if split not in PARTS[data.corpus]]
        need(
            not unknown,
            f"data.corpus={data.corpus} has no {', '.join(unknown)}; it has: "
            f"{', '.join(PARTS[data.corpus])}. For a corpus of your own: data.root=FOLDER",
        )


def check_split(key: str, split: str, others: list[str]) -> None:
    """Refuses a split that is not the name of a folder, or lies inside one of the others."""
    need(
        not {"", ".", ".."} & set(split.split("/")) and split.isprintable(),
        f"{key} has {split!r}; a split is the name of a folder in data.root, such as train or "
        f"clean/train, or a path: {key}=[/corpora/a/train] or {key}=[my.tsv]",
    )
    within = [other for other in others if split.startswith(other + "/")]
    need(
        not within,
        f"{key} has {split!r}, which lies in {', '.join(within)}, another split: the same "
        "utterances would be in both",
    )


def check_synthetic(config: Config) -> None:
    """Checks the ranges that the embedded corpus draws noise and levels from."""
    synthetic = config.synthetic
    for key, ends, top in (("snr_db", synthetic.snr_db, 200), ("level_db", synthetic.level_db, 0)):
        need(
            len(ends) == 2 and -200 <= ends[0] <= ends[1] <= top,
            f"synthetic.{key} is {ends}; it must be [lowest, highest] in dB, from -200 to {top}, "
            f"e.g. synthetic.{key}={'[25, 40]' if top else '[-12, 0]'}",
        )
