import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers import VOCAB, tiny_config, tiny_model
from tests.learned import CHUNK, FIXED, HEAD, MODULE
from todm.model.blockwise import BlockwiseOperators
from todm.model.transducer import Transducer
from todm.subnet import Subnet
from todm.supernet.cost import CostModel
from todm.supernet.extract import extract

CONFS = [
    (),
    ("model.gating=false",),
    ("model.stack=2", "model.direction=causal"),
    ("model.rates=[4,1,2]",),
    ("model.predictor_dim=10", "model.context_size=3", "model.frontend_channels=3"),
]
SUBNETS = ["h0-2f0-3 h0-2f0-3 h0-2f0-3", "h0f0 - h0-1f0-2", "h0 f0-1 h0,2f1,3"]


def one_second_of_macs(model: Transducer) -> int:
    """Multiply-accumulates of one more second of audio, SSMs left out: torch counts two runs, of 28
    and of 128 encoder frames, which every rate divides."""
    counts = []
    for frames in (115, 515):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encoded, lengths = model.encoder(torch.zeros(1, frames, 80), torch.tensor([frames]))
            context = torch.zeros(int(lengths), model.predictor.context_size, dtype=torch.long)
            predicted = model.joiner.predictor_proj(model.predictor(context)[:, 0])
            model.joiner(model.joiner.encoder_proj(encoded[0]), predicted)
        counts.append(counter.get_total_flops() // 2)
    return (counts[1] - counts[0]) // 4


def one_second_of_recurrence(model: Transducer) -> int:
    """25 frames, at lower rates fewer: per mode lam x 4, B u 2 and Re(C x) 2, per channel D u 1, of
    what the model really holds."""
    total = 0.0
    for rate, blocks in model.encoder.groups:
        modules = [model.encoder.blocks[i].ssm for i in blocks]
        ssms = [ssm for module in modules if module is not None for ssm in module.ssms]
        total += 25 / rate * sum(8 * ssm.a_imag.numel() + ssm.d.numel() for ssm in ssms)
    return round(total)


@pytest.mark.parametrize("text", SUBNETS)
@pytest.mark.parametrize("overrides", CONFS)
def test_parameters_are_those_of_the_extracted_model(overrides, text):
    config, subnet = tiny_config(*overrides), Subnet.parse(text)
    model = extract(tiny_model(config), config, subnet)
    counted = CostModel(config, VOCAB).cost(subnet)
    assert counted.encoder_params == sum(p.numel() for p in model.encoder.parameters())
    assert counted.total_params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("text", SUBNETS)
@pytest.mark.parametrize("overrides", CONFS)
def test_macs_are_what_torch_counts_and_the_recurrence(overrides, text, monkeypatch):
    monkeypatch.setattr(
        BlockwiseOperators, "run", lambda operators, u: u
    )  # whose products are not those of the recurrence
    config, subnet = tiny_config(*overrides), Subnet.parse(text)
    model = extract(tiny_model(config), config, subnet)
    assert CostModel(config, VOCAB).cost(subnet).macs_per_second == one_second_of_macs(
        model
    ) + one_second_of_recurrence(model)


def test_as_dict_has_the_three_numbers():
    """Of the largest net, counted by hand: 9 head groups, 12 chunks, 6 modules and what stays."""
    counted = CostModel(tiny_config(), VOCAB).cost(Subnet.parse(SUBNETS[0])).as_dict()
    assert list(counted) == ["encoder_params", "total_params", "macs_per_second"]
    assert counted["encoder_params"] == FIXED + 9 * HEAD + 12 * CHUNK + 6 * MODULE
    predictor = VOCAB * 12 + 12 * 4 * 2  # embedding; convolution over 2 symbols, in groups of 4
    joiner = (16 + 1) * 10 + (12 + 1) * 10 + (10 + 1) * VOCAB
    assert counted["total_params"] == counted["encoder_params"] + predictor + joiner
