"""Cutting a subnet out of the supernet: an ordinary stand-alone model of just those weights."""

from dataclasses import replace

import torch
from torch import Tensor

from todm.config.keys import Config
from todm.model.encoder import Block
from todm.model.transducer import Transducer
from todm.subnet import BlockChoice, Subnet


def extract(model: Transducer, config: Config, subnet: Subnet) -> Transducer:
    """A stand-alone model that computes what ``model`` computes under ``subnet``, without its
    training heads.

    Its weights are copies: a checkpoint of it holds its own parameters only.

    Raises:
      ValueError: the subnet keeps something that the model does not have.
    """
    model.encoder.require(subnet)
    alone = Transducer(extracted_config(config, subnet), model.vocab_size, training_heads=False)
    state = model.state_dict()
    for i, (block, choice) in enumerate(zip(model.encoder.blocks, subnet.blocks)):
        prefix = f"encoder.blocks.{i}."
        for name, index in _block_indices(block, choice, subnet.causal).items():
            state[prefix + name] = state[prefix + name][index]
    alone.load_state_dict({name: state[name].clone() for name in alone.state_dict()})
    return alone.to(next(model.parameters()).device).train(model.training)


def extracted_config(config: Config, subnet: Subnet) -> Config:
    """The conf of the model that :func:`extract` cuts out: its architecture is the subnet, and its
    direction, where the supernet has two to choose from, the subnet's."""
    direction = config.model.direction
    if direction == "dual":
        direction = "causal" if subnet.causal else "bidirectional"
    model = replace(config.model, architecture=str(subnet.packed()), direction=direction)
    return replace(config, model=model)


def _block_indices(
    block: Block, choice: BlockChoice, causal: bool
) -> dict[str, Tensor | slice | tuple]:
    """Per parameter that shrinks: the index that takes the subnet's part of it."""
    indices: dict[str, Tensor | slice | tuple] = {}
    device = (
        next(block.parameters()).device
        if any(True for _ in block.parameters())
        else torch.device("cpu")
    )
    if block.ffn is not None and choice.ffn:
        hidden = block.ffn.hidden_index(choice.ffn, device)
        indices |= {
            "ffn.up.weight": hidden,
            "ffn.up.bias": hidden,
            "ffn.down.weight": (slice(None), hidden),
        }
    if block.ssm is not None and choice.heads:
        ssm = block.ssm
        channels = ssm.channel_index(choice.heads, ssm.heads_per_group * ssm.head_dim, device)
        heads = ssm.channel_index(choice.heads, ssm.heads_per_group, device)
        out = ssm.channel_index(choice.heads, ssm.head_dim, device)
        indices |= {
            "ssm.project_in.weight": channels,
            "ssm.project_in.bias": channels,
            "ssm.project_out.weight": (slice(None), out),
        }
        directions = slice(0, ssm.kept_directions(causal))
        for i, state_space in enumerate(ssm.ssms):
            indices |= {f"ssm.mix_weight.{i}": (heads, directions), f"ssm.mix_bias.{i}": heads}
            for name, _ in state_space.named_parameters():
                indices[f"ssm.ssms.{i}.{name}"] = ssm.ssm_index(choice.heads, causal, device)
    return indices
