import pytest
import torch
from torch import Tensor

from tests.helpers import VOCAB, tiny_config, tiny_model
from todm.config.keys import Config
from todm.model.transducer import Transducer
from todm.subnet import Subnet
from todm.supernet.cost import CostModel
from todm.supernet.extract import extract

SUBNETS = ["h0-2f0-3 h0-2f0-3 h0-2f0-3", "h0f0 - h0-1f0-2", "h0,2f1,3 f2 h1", "- - -"]
LENGTHS = torch.tensor([120, 61])


def outputs(model: Transducer, subnet: Subnet | None) -> tuple[Tensor, Tensor]:
    """Encoder output, and the joiner's logits of every frame and some contexts."""
    features = torch.randn(2, 120, 80, generator=torch.Generator().manual_seed(0))
    encoded, _ = model.encoder(features, LENGTHS, subnet)
    predicted = model.predictor.teacher_forced(torch.tensor([[3, 4, 5], [6, 7, 8]]))
    joiner = model.joiner
    return encoded, joiner(
        joiner.encoder_proj(encoded)[:, :, None], joiner.predictor_proj(predicted)[:, None]
    )


def extracted(config: Config, text: str) -> tuple[Transducer, Transducer]:
    model = tiny_model(config).eval()
    model.encoder.frontend.set_statistics(torch.randn(80).tolist(), (1 + torch.rand(80)).tolist())
    return model, extract(model, config, Subnet.parse(text))


@pytest.mark.parametrize("text", SUBNETS)
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.gating=false",),
        ("model.stack=2",),
        ("model.direction=causal",),
        ("model.tail_frames=20",),
        ("model.rates=[4,1,2]",),
    ],
)
def test_an_extracted_model_computes_what_the_supernet_does(overrides, text):
    model, alone = extracted(tiny_config(*overrides), text)
    for got, expected in zip(outputs(alone, None), outputs(model, Subnet.parse(text))):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_another_subnet_computes_something_else():
    model, _ = extracted(tiny_config(), SUBNETS[0])
    first, second = (
        outputs(model, Subnet.parse(text))[0] for text in ("h0f0 h0f0 h0f0", "h0f1 h0f0 h0f0")
    )
    assert not torch.allclose(first, second, atol=1e-3)


def test_its_file_holds_its_own_parameters_only(tmp_path):
    config = tiny_config("model.ffn_dim=4096")
    model, alone = extracted(config, "h0f0 - h0-1f0,3")
    torch.save(model.state_dict(), tmp_path / "supernet.pt")
    torch.save(alone.state_dict(), tmp_path / "alone.pt")
    state = torch.load(tmp_path / "alone.pt", weights_only=True)
    statistics = 160
    numbers = (
        CostModel(config, VOCAB).cost(Subnet.parse("h0f0 - h0-1f0,3")).total_params + statistics
    )
    assert sum(v.untyped_storage().nbytes() for v in state.values()) == 4 * numbers
    assert (tmp_path / "alone.pt").stat().st_size < 4 * numbers + 1000 * len(state)
    assert (tmp_path / "supernet.pt").stat().st_size > 2 * (tmp_path / "alone.pt").stat().st_size


def test_changing_it_leaves_the_supernet_unchanged():
    model, alone = extracted(tiny_config(), SUBNETS[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for value in alone.state_dict().values():
            value.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_trains_without_the_supernet():
    model, alone = extracted(tiny_config(), "h0f0 - h0-1f0-2")
    sum(x.sum() for x in outputs(alone, None)).backward()
    assert all(p.grad is not None for p in alone.parameters()) and all(
        p.grad is None for p in model.parameters()
    )


def test_a_subnet_of_an_extracted_model_is_extracted_again():
    config = tiny_config()
    model, alone = extracted(config, "h0,2f1,3 f2 h1")
    again = extract(alone, config, Subnet.parse("h1f0 - h0"))
    for got, expected in zip(outputs(again, None), outputs(model, Subnet.parse("h2f1 - h1"))):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", ["h0f0", "h3f0 - -", "f4 - -"])
def test_a_subnet_that_the_model_lacks_is_refused(text):
    config = tiny_config()
    model = tiny_model(config)
    with pytest.raises(ValueError, match="does not fit"):
        extract(model, config, Subnet.parse(text))
    with pytest.raises(ValueError, match="does not fit"):
        outputs(model, Subnet.parse(text))


def test_training_heads_stay_behind():
    _, alone = extracted(tiny_config(), SUBNETS[1])
    assert alone.heads is None and not any(name.startswith("heads") for name in alone.state_dict())
