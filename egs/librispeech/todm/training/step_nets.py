"""The nets that training steps run beside the largest one: those of the sandwich rule, or those of
learned selection, behind one interface."""

import logging
from pathlib import Path

import torch

from todm.config.keys import Config
from todm.learned_selection.methods import make_selector
from todm.learned_selection.sampler import LearnedSampler
from todm.learned_selection.score_file import append_scores
from todm.learned_selection.selector import Selector
from todm.subnet import Subnet
from todm.supernet.sandwich import SubnetSampler
from todm.supernet.search_space import SearchSpace
from utils import conf as configuration

WATCHED = ("largest", "middle", "smallest")
WATCHED_DUAL = ("largest", "largest causal", "smallest causal")
Step = tuple[list[Subnet], int | None]  # subnets beside the largest net; update, None: no gates


class StepNets:
    """The nets of a training without learned selection: the sandwich rule draws them from the whole
    search space, nothing is learned about them, and so most methods here have nothing to do.

    Attributes:
      selector: the module with the scores that the loss and the optimiser need; here none.
    """

    selector: Selector | None = None

    def __init__(self, space: SearchSpace, rank: int):
        self.space, self.config = space, space.config
        self.sampler = SubnetSampler(space, self.config.train.seed, rank)

    def subnets(self, update: int) -> list[Subnet]:
        """The subnets that an update trains beside the largest net."""
        return self.sampler(update)

    def watched(self) -> dict[str, Subnet]:
        """The nets whose losses on dev are shown, by their names: the largest, which comes first, a
        middle and the smallest; of a dual supernet the largest and both causal ends."""
        dual = len(self.space.kinds) > 1
        return dict(zip(WATCHED_DUAL if dual else WATCHED, self.space.three()))

    def largest_steps(self) -> list[Step]:
        """The steps that need the most memory: every subnet as large as the largest net."""
        method = self.config.method
        count = method.subnets_per_step + method.smallest + len(self.space.kinds) - 1
        return [([self.space.largest] * count, None)]

    def before_step(self, update: int) -> None:
        """Called between an update's backward passes and its optimiser step."""

    def after_update(self, update: int) -> None:
        """Called after every optimiser step with the number of updates done."""

    def log(self, exp: Path, update: int) -> None:
        """Write what has been learned so far to the experiment's folder."""

    def state(self) -> dict:
        """The part of a checkpoint that belongs to the selection."""
        return {"selector": None, "selection": None}

    def load(self, state: dict) -> None:
        """The inverse of :meth:`state`, from a whole checkpoint."""


class LearnedNets(StepNets):
    """The nets of learned selection: none in step 1, whose gated net the loss adds by itself; in
    step 2 those of the frozen masks."""

    selector: Selector

    def __init__(self, space: SearchSpace, rank: int, selector: Selector):
        super().__init__(space, rank)
        self.selector = selector
        self.learned_sampler = LearnedSampler(selector, self.config.train.seed, rank)

    def subnets(self, update: int) -> list[Subnet]:
        """The subnets that an update trains beside the largest net."""
        return self.learned_sampler(update)

    def watched(self) -> dict[str, Subnet]:
        """The largest, a middle and the smallest of the nets that the scores would choose now."""
        nets = self.selector.distinct_nets()
        return dict(zip(WATCHED, (nets[0], nets[len(nets) // 2], nets[-1])))

    def largest_steps(self) -> list[Step]:
        """The steps that need the most memory; one of them runs the gated net."""
        return [*super().largest_steps(), ([], self.selector.first)]

    def before_step(self, update: int) -> None:
        """Outside step 1 the scores rest: the gradient there is the zero that DDP wants."""
        if not self.selector.learns(update):
            for scores in self.selector.parameters():
                scores.grad = None

    def after_update(self, update: int) -> None:
        """Let the selector close gates or freeze its masks, and tell which."""
        if self.selector.after_update(update):
            nets = "; ".join(f"{text}: {net}" for text, net in self.selector.subnets().items())
            logging.info("update %d: the masks are frozen: %s", update, nets)

    def log(self, exp: Path, update: int) -> None:
        """Append the importance of every unit to the file of scores, until masks are frozen."""
        if not self.selector.frozen:
            append_scores(exp, update, self.selector.importance().tolist())

    def state(self) -> dict:
        """Scores and masks, and the schedule that step 1 began with."""
        return {"selector": self.selector.state_dict(), "selection": self.selector.schedule()}

    def load(self, state: dict) -> None:
        """The inverse of :meth:`state`, from a whole checkpoint.

        Raises:
          UserError: ``train.updates`` has been passed before the end of step 1.
        """
        self.selector.load_state_dict(state["selector"])
        then = configuration.from_dict(Config, state["config"])
        self.selector.go_on(state["update"], state.get("selection"), then)


def make_step_nets(space: SearchSpace, rank: int) -> StepNets:
    """The nets of the training that the search space's conf describes.

    Raises:
      UserError: a budget of learned selection that nothing fits.
    """
    # A seed gives the net the same weights, whatever scores are drawn beside it.
    with torch.random.fork_rng(devices=[]):
        selector = make_selector(space.config, space.vocab_size)
    return StepNets(space, rank) if selector is None else LearnedNets(space, rank, selector)
