"""Features, batches and training across processes."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lhotse import CutSet
from torch.nn.parallel import DistributedDataParallel

from local.compute_features import compute
from local.prepare_manifests import prepare
from local.sentences import SLOTS, TEMPLATES
from local.synthetic import make_sentences, make_voices
from tests.conftest import tiny_arguments, write_utterance
from todm.config.keys import Config, DataConfig, FeatureConfig
from todm.config.load import load
from todm.data.batches import Batch, joined
from todm.data.features import make_extractor
from todm.data.frames import SILENCE
from todm.data.learnt_length import learnt_seconds, learnt_seconds_of_data
from todm.data.loaders import eval_loader, train_loader
from todm.decoding.recognizer import Recognizer
from todm.model.transducer import Transducer
from todm.results.subnets import SubnetEntry
from todm.supernet.exported import write_model
from todm.supernet.extract import extract
from todm.training.experiment import load_experiment
from todm.training.supernet_loss import SupernetLoss, Weights
from utils import pruned_rnnt_torch as transducer_loss_torch
from utils.errors import UserError
from utils.pruned_rnnt import Targets, TransducerLoss


@pytest.fixture(scope="module")
def tiny_config(tiny_run) -> Config:
    return load("conf/mini.yaml", tiny_arguments(tiny_run[0]))


def test_features_are_kaldi_fbank():
    """Against torchaudio's compliance with Kaldi, at the settings sherpa-onnx uses."""
    fbank = pytest.importorskip("torchaudio.compliance.kaldi").fbank
    samples = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32))
    ours = torch.from_numpy(make_extractor(FeatureConfig()).extract(samples.numpy(), 16000))
    theirs = fbank(
        samples[None],
        num_mel_bins=80,
        sample_frequency=16000,
        dither=0.0,
        snip_edges=False,
        high_freq=-400,
        energy_floor=0.0,
        window_type="povey",
    )
    assert ours.shape == theirs.shape == (100, 80)
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_kaldifeat_gives_the_same_features():
    pytest.importorskip(
        "kaldifeat", reason="kaldifeat is an optional extra: local/setup.sh --kaldifeat"
    )
    samples = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    lhotse, kaldifeat = (
        make_extractor(FeatureConfig(extractor=e)).extract(samples, 16000)
        for e in ("lhotse", "kaldifeat")
    )
    np.testing.assert_allclose(lhotse, np.asarray(kaldifeat), atol=2e-3)


def test_statistics_are_of_the_train_features(tiny_config):
    features = np.concatenate(
        [
            c.load_features()
            for c in CutSet.from_file(tiny_config.data_dir / "features/train.jsonl.gz")
        ]
    ).astype(np.float64)
    from utils.files import read_json

    statistics = read_json(tiny_config.data_dir / "cuts/statistics.json")
    np.testing.assert_allclose(statistics["mean"], features.mean(0), atol=1e-4)
    np.testing.assert_allclose(statistics["std"], features.std(0), atol=1e-4)


def test_batches_pair_features_with_their_transcripts(tiny_config):
    cuts = {c.id: c for c in CutSet.from_file(tiny_config.data_dir / "cuts/dev.jsonl.gz")}
    seen = set()
    for batch in eval_loader(tiny_config, ["dev"], max_duration=8):
        for i, name in enumerate(batch.ids):
            assert batch.texts[i] == cuts[name].supervisions[0].text
            length = int(batch.lengths[i])
            np.testing.assert_allclose(
                batch.features[i, :length].numpy(), cuts[name].load_features(), atol=1e-6
            )
            assert (batch.features[i, length:] < -23.0).all()
        seen.update(batch.ids)
    assert seen == set(cuts)


def test_a_loader_pins_the_features_of_a_batch(monkeypatch):
    """For a GPU: torch pins what has a method of that name, and leaves anything else as it is."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)
    batch = batch_of([9, 7])
    pinned = torch.utils.data._utils.pin_memory.pin_memory(batch)
    assert torch.equal(pinned.features, batch.features + 1)
    assert torch.equal(pinned.lengths, batch.lengths) and pinned.ids == batch.ids


def test_a_resumed_epoch_begins_at_the_batch_it_stopped_at(tiny_config):
    loader, sampler = train_loader(tiny_config)
    sampler.start(epoch=1, skip=0)
    whole = [batch.ids for batch in loader]
    sampler.start(epoch=1, skip=2)
    assert [batch.ids for batch in loader] == whole[2:]
    sampler.start(epoch=2, skip=0)
    assert [batch.ids for batch in loader] != whole


def test_batches_hold_at_most_max_duration(tiny_config):
    loader, sampler = train_loader(tiny_config)
    sampler.start(0, 0)
    assert all(batch.seconds <= tiny_config.data.max_duration for batch in loader)


@pytest.mark.parametrize("on_the_fly", [False, True])
def test_speed_perturbation_and_features_on_the_fly(tmp_path, on_the_fly):
    for i in range(3):
        write_utterance(tmp_path / "train", f"1-1-000{i}", "A B", seconds=1.0 + i)
    config = Config(
        name="x",
        data=DataConfig(
            root=str(tmp_path),
            dir=str(tmp_path / "out"),
            train=["train"],
            dev=[],
            test=[],
            num_jobs=1,
            speed_perturb=True,
        ),
        features=FeatureConfig(on_the_fly=on_the_fly),
    )
    prepare(config, None)
    compute(config, None)
    cuts = list(CutSet.from_file(tmp_path / "out/features/train.jsonl.gz"))
    assert sorted(round(c.duration, 2) for c in cuts) == [
        0.91,
        1.0,
        1.11,
        1.82,
        2.0,
        2.22,
        2.73,
        3.0,
        3.33,
    ]
    assert {c.has_features for c in cuts} == {not on_the_fly}


def test_kaldifeat_missing_says_how_to_build_it(monkeypatch):
    import lhotse.features.kaldifeat as module

    def missing(*arguments, **keywords):
        raise ImportError("No module named 'kaldifeat'")

    monkeypatch.setattr("lhotse.KaldifeatFbank", missing)
    monkeypatch.setattr(module, "KaldifeatFbank", missing)
    with pytest.raises(UserError, match="local/setup.sh --kaldifeat"):
        make_extractor(FeatureConfig(extractor="kaldifeat"))


def test_synthetic_splits_share_no_voice_and_test_sentences_are_new():
    config = load("conf/mini.yaml").synthetic
    voices = {split: {v.variant for v in group} for split, group in make_voices(config).items()}
    assert (
        not voices["train"] & voices["dev"]
        and not voices["train"] & voices["test"]
        and not voices["dev"] & voices["test"]
    )
    assert len({(v.accent, v.variant, v.pitch, v.rate) for v in make_voices(config)["train"]}) >= 30
    sentences = {split: set(texts) for split, texts in make_sentences(config).items()}
    assert not sentences["test"] & (sentences["train"] | sentences["dev"])
    fixed = {w for t in TEMPLATES for w in t.split() if not w.startswith("{")}
    vocabulary = fixed | {w for values in SLOTS.values() for v in values for w in v.split()}
    assert (
        len(vocabulary) >= 100 and {w for t in sentences["test"] for w in t.split()} <= vocabulary
    )


def test_the_embedded_corpus_is_deterministic(tiny_run, tmp_path):
    """Texts and lengths of all files, and the sound of most voices: espeak-ng itself makes some of
    them anew in every process."""
    import soundfile

    from local.synthetic import make_corpus

    config = load("conf/mini.yaml", tiny_arguments(tmp_path))
    make_corpus(
        config.synthetic, config.corpus_root, {s: s for s in ("train", "dev", "test")}, jobs=1
    )
    first = tiny_run[0] / "data/corpus/LibriSpeech"
    files = sorted(p.relative_to(first) for p in first.rglob("*.*"))
    audio = [f for f in files if f.suffix == ".flac"]
    assert (
        len(audio) == 30 and len(files) == 36
    )  # five voices with a transcript each, and SPEAKERS.TXT
    different = [
        f for f in files if (first / f).read_bytes() != (config.corpus_root / f).read_bytes()
    ]
    assert all(f in audio for f in different) and len({f.parts[1] for f in different}) <= 2
    assert all(
        soundfile.info(first / f).frames == soundfile.info(config.corpus_root / f).frames
        for f in audio
    )


def loss_and_gradients(rank: int, world_size: int, store: str, output: str) -> None:
    """One step on this rank's half of a batch; rank 0 saves the gradients."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = load(
        "conf/mini.yaml",
        [
            "model.dim=16",
            "model.ssm_dim=16",
            "model.ffn_dim=32",
            "model.blocks=2",
            "model.rates=[]",
            "method.subnet_share=1.0",
            "supernet.min_blocks=1",
            "model.dropout=0",
            "model.predictor_dim=8",
            "model.joiner_dim=8",
            "model.frontend_channels=4",
        ],
    )
    module = SupernetLoss(
        Transducer(config, 12), config, TransducerLoss(transducer_loss_torch, 3, 0.25, 0.0)
    )
    features, symbols = torch.randn(4, 80, 80), torch.randint(3, 12, (4, 5))
    targets = [symbols, torch.tensor([5, 4, 3, 2]), torch.tensor([19, 17, 15, 12])]
    if world_size > 1:
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
        module = DistributedDataParallel(module)
        half = slice(rank * 2, rank * 2 + 2)
        features, targets = features[half], [t[half] for t in targets]
    from todm.supernet.search_space import SearchSpace

    loss, _ = module(
        features, Targets(*targets), [SearchSpace(config, 12).smallest], Weights(0.5, 1.0, 1.0)
    )
    (loss * world_size).backward()  # as the trainer does: DDP takes the mean over ranks
    if rank == 0:
        torch.save(
            {n.removeprefix("module."): p.grad for n, p in module.named_parameters()}, output
        )
    if world_size > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path):
    store = f"file://{tmp_path / 'store'}"
    loss_and_gradients(0, 1, store, str(tmp_path / "one.pt"))
    mp.spawn(loss_and_gradients, (2, store, str(tmp_path / "two.pt")), nprocs=2)
    one, two = (
        torch.load(tmp_path / "one.pt", weights_only=True),
        torch.load(tmp_path / "two.pt", weights_only=True),
    )
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, rtol=1e-4, atol=1e-5)


# Joined utterances


def batch_of(lengths: list[int]) -> Batch:
    """Every frame of utterance i is i + a number of its own; the third frame of each is its
    quietest."""
    features = torch.full((len(lengths), max(lengths), 80), -23.0)
    for i, length in enumerate(lengths):
        features[i, :length] = i + torch.arange(length)[:, None] / 1000
        features[i, 2] = -10 - i
    return Batch(
        features,
        torch.tensor(lengths),
        [f"TEXT {i}" for i in range(len(lengths))],
        [f"id-{i}" for i in range(len(lengths))],
    )


@pytest.mark.parametrize("seed", range(4))
def test_joined_utterances_are_two_and_two_with_a_pause_between(seed):
    random.seed(seed)
    batch, lengths = batch_of([9, 7, 8, 6, 5]), [9, 7, 8, 6, 5]
    got = joined(batch, DataConfig(join_pause=[0.1, 0.4]))
    assert got.texts == ["TEXT 0 TEXT 1", "TEXT 2 TEXT 3", "TEXT 4"] and got.ids == [
        "id-0+id-1",
        "id-2+id-3",
        "id-4",
    ]
    for row, (first, second) in enumerate([(0, 1), (2, 3)]):
        length, (a, b) = int(got.lengths[row]), (lengths[first], lengths[second])
        assert 10 <= length - a - b <= 40
        torch.testing.assert_close(got.features[row, :a], batch.features[first, :a])
        torch.testing.assert_close(
            got.features[row, length - b : length], batch.features[second, :b]
        )
        assert {round(level) for level in got.features[row, a : length - b].unique().tolist()} <= {
            -10 - first,
            -10 - second,
            round(SILENCE),
        }
        assert (got.features[row, length:] < -23).all()
    torch.testing.assert_close(got.features[2, :5], batch.features[4, :5])


def test_joined_utterances_are_not_longer_than_allowed():
    random.seed(0)
    got = joined(batch_of([60, 50, 30, 20]), DataConfig(join_pause=[0.2, 0.2], max_seconds=1.0))
    assert got.texts == ["TEXT 0", "TEXT 1", "TEXT 2 TEXT 3"] and got.lengths.tolist() == [
        60,
        50,
        70,
    ]


def test_the_pauses_are_noise_or_digital_silence_and_draw_from_pythons_generator():
    pauses = set()
    for seed in range(40):
        random.seed(seed)
        first = joined(batch_of([9, 7]), DataConfig(join_pause=[0.1, 0.4]))
        random.seed(seed)
        assert torch.equal(
            first.features, joined(batch_of([9, 7]), DataConfig(join_pause=[0.1, 0.4])).features
        )
        pauses.add((len(first.features[0]), round(float(first.features[0, 9, 0]))))
    assert {level for _, level in pauses} == {-10, -11, round(SILENCE)} and len(
        {length for length, _ in pauses}
    ) > 10


@pytest.mark.parametrize("on_the_fly", [False, True])
def test_a_share_of_the_training_is_joined_and_nothing_is_lost(tiny_config, on_the_fly):
    config = replace(
        tiny_config,
        data=replace(tiny_config.data, join_prob=0.5, num_workers=0),
        features=replace(tiny_config.features, on_the_fly=on_the_fly),
    )
    everything = {
        c.id: c.supervisions[0].text
        for c in CutSet.from_file(config.data_dir / "cuts/train.jsonl.gz")
    }
    random.seed(1)
    seen, pairs = [], 0
    loader, sampler = train_loader(config)
    for epoch in range(4):
        sampler.start(epoch, 0)
        for batch in loader:
            for name, text, length in zip(batch.ids, batch.texts, batch.lengths.tolist()):
                assert text == " ".join(everything[n] for n in name.split("+"))
                seen += name.split("+")
                pairs += "+" in name
            assert batch.features.shape[1] == batch.lengths.max()
    assert sorted(seen) == sorted(list(everything) * 4) and 0.2 < 2 * pairs / len(seen) < 0.8
    plain, _ = train_loader(tiny_config)
    assert not any("+" in name for batch in plain for name in batch.ids)


# How long a stretch a net has learnt


@pytest.mark.parametrize(
    "durations, overrides, expected",
    [
        ([3.0] * 100, [], 3.0),
        ([3.0] * 90 + [4.0] * 10, [], 4.0),
        (np.linspace(1, 11, 101), [], 11.0),
        ([3.0] * 99 + [19.0], [], 3.75),
        ([0.5] * 100, [], 2.0),
        ([], [], 4.0),
        ([], ["data.max_seconds=3"], 3.0),
        ([3.0] * 100, ["data.join_prob=0.5", "data.join_pause=[0.2,0.8]"], 6.5),
        ([3.0] * 100, ["data.join_prob=0.01"], 3.75),
        ([3.0] * 100, ["data.join_prob=0.5", "data.max_seconds=5"], 3.0),
    ],
)
def test_what_a_net_has_learnt_to_recognise_at_once(durations, overrides, expected):
    assert learnt_seconds(
        load("conf/mini.yaml", ["data.join_prob=0", *overrides]), list(durations)
    ) == pytest.approx(expected)


def test_what_was_learnt_is_kept_with_the_experiment(tiny_run, tiny_config, tmp_path):
    """In checkpoints and exported folders; of older checkpoints it is taken from the data."""
    folder = tiny_run[0]
    durations = [c.duration for c in CutSet.from_file(tiny_config.data_dir / "cuts/train.jsonl.gz")]
    longest = learnt_seconds(tiny_config, durations)
    assert Recognizer.load(folder / "exp").longest == longest
    assert learnt_seconds_of_data(tiny_config) == longest
    trained = load_experiment(folder / "exp", None, None, torch.device("cpu"))
    entry = SubnetEntry("largest", trained.model.full, 0, 0, 0, "by hand")
    write_model(
        tmp_path,
        extract(trained.model, trained.config, trained.model.full),
        trained.config,
        trained.tokenizer,
        32,
        entry,
        12.5,
    )
    assert trained.longest == longest and Recognizer.load(tmp_path).longest == 12.5
