"""The methods of learned selection by the names that ``select.method`` has for them."""

from collections.abc import Callable

from todm.config.keys import LEARNED, Config
from todm.learned_selection.iterative_zero_out import IterativeZeroOut
from todm.learned_selection.orthosoftmax import OrthoSoftmax
from todm.learned_selection.selector import Selector
from todm.learned_selection.simple_topk import SimpleTopK
from todm.learned_selection.units import Units

SELECTORS: dict[str, Callable[[Config, Units], Selector]] = {
    "simple-topk": SimpleTopK,
    "iterative-zero-out": IterativeZeroOut,
    "orthosoftmax": OrthoSoftmax,
}


def make_selector(config: Config, vocab_size: int) -> Selector | None:
    """The selector that ``select.method`` trains; None for methods that select after training.

    Raises:
      UserError: a budget that nothing fits.
    """
    if config.select.method not in LEARNED:
        return None
    return SELECTORS[config.select.method](
        config, Units(config, vocab_size, config.learn.granularity, config.search.cost)
    )


def restore_selector(config: Config, vocab_size: int, state: dict | None) -> Selector | None:
    """The selector of a trained experiment, with the scores and masks that its checkpoint holds;
    None: the experiment has learnt no selection.

    Args:
      config: the conf it was trained with.
      state: the selector's, from the checkpoint.
    """
    selector = make_selector(config, vocab_size)
    if selector is not None:
        if state is None:
            raise ValueError("the checkpoint holds no scores for the selection its conf names")
        selector.load_state_dict(state)
    return selector
