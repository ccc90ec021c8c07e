"""The search of stage 5: evolution over everything elastic, its baselines, finalists by WER, one
subnet per budget."""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from todm.config.keys import Config
from todm.recipe.lineage import split_digest, weights_digest
from todm.recipe.stages import score_values
from todm.results.search_results import ScoredNet, SearchResults, SearchSettings
from todm.results.subnets import SubnetEntry
from todm.search.budgeted_space import BudgetedSpace, Genome
from todm.search.candidate_scores import CandidateScores, ScoreCache
from todm.search.evolution import Candidate, CandidateSearch, Evolution, RandomSearch, pareto_front
from todm.search.measured_latency import latency_table
from todm.supernet.budget import UNIT_OF_COST, cost_function, parse_budgets, searches_causal
from todm.supernet.cost import describe_subnet
from todm.supernet.search_space import SearchSpace
from todm.training.experiment import Experiment
from utils.errors import UserError
from utils.progress import progress

FAMILIES = {
    "evolution": "evolutionary search",
    "random": "random search",
    "uniform": "the largest uniform net within the budget",
}


@dataclass(frozen=True)
class Chosen:
    """The winner of one way of searching at one budget.

    Attributes:
      budget: as the conf has it. limit: the bound of the cost. wer: on dev, in percent.
    """

    how: str
    budget: str
    limit: float
    candidate: Candidate
    wer: float


class SubnetSearch:
    """One experiment's search.

    Attributes:
      candidates: all that were scored, by the way they were found. chosen: a winner per way and
        budget.
      front: the Pareto front of loss against cost over all candidates of ``select.method``.

    Raises:
      UserError: a budget that nothing fits, or an experiment of one fixed architecture.
    """

    def __init__(self, config: Config, experiment: Experiment, folder: Path, device: torch.device):
        self.config, self.experiment = config, experiment
        trained, vocab_size = experiment.config, experiment.tokenizer.vocab_size
        self.inner = SearchSpace(trained, vocab_size)
        if self.inner.fixed or self.inner.largest == self.inner.smallest:
            raise UserError(
                f"{config.exp_dir} holds a model of one size: there is nothing to search"
            )
        latency = None
        if config.search.cost == "latency":
            latency = latency_table(
                folder / "latency.json",
                config.search.latency_table,
                config.search.latency_engine,
                experiment.model,
                trained,
                self.inner,
            )
        self.cost = cost_function(config.search.cost, self.inner.costs, latency)
        self.space = BudgetedSpace(self.inner, self.cost, searches_causal(config, self.inner))
        self.limits = parse_budgets(config, self.space.low, self.space.high)
        key = {
            "model": weights_digest(experiment.model),
            "utterances": split_digest(config, config.data.dev),
            **score_values(config),
        }
        self.scores = CandidateScores(
            experiment, config, ScoreCache(folder / "scores.jsonl", key), device
        )
        self.candidates: dict[str, list[Candidate]] = {}
        self.seconds: dict[str, float] = {}

    def run(self) -> None:
        """Searches in every way, and chooses the winners by their WER on dev."""
        s = self.config.search
        method = self.config.select.method
        total = s.population * (s.generations + 1)
        searches = {method: self.make(method)}
        if s.baselines:
            searches |= {how: self.make(how) for how in ("random",) if how not in searches}
        for how, search in searches.items():
            begin = time.monotonic()
            self.search(how, search, total)
            total = len(search.scored)  # the baseline gets as many candidates as the search had
            self.seconds[how] = time.monotonic() - begin
            self.candidates[how] = list(search.scored.values())
            logging.info(
                "%s: %d candidates scored in %.0f s",
                FAMILIES[how],
                len(search.scored),
                self.seconds[how],
            )
        self.front = pareto_front(self.candidates[method])
        if s.baselines:
            ladder = self.ladder()
            self.candidates["uniform"] = list(ladder.scored.values())
            searches["uniform"] = ladder
        begin = time.monotonic()
        self.chosen: list[Chosen] = []
        jobs = [
            (how, budget)
            for how in searches
            for budget in sorted(self.limits, key=lambda budget: self.limits[budget])
        ]
        for how, budget in progress(jobs, desc="finalists", unit="budget"):
            self.chosen.append(self.choose(how, budget, searches[how]))
        self.seconds["finalists"] = time.monotonic() - begin
        logging.info(
            "finalists: %d decoded (%d of them now) in %.0f s",
            sum(kind == "wer" for kind, _ in self.scores.cache.values),
            self.scores.computed["wer"],
            self.seconds["finalists"],
        )

    def make(self, how: str) -> CandidateSearch:
        """A new search of one way."""
        s, limits = self.config.search, list(self.limits.values())
        if how == "random":
            return RandomSearch(self.space, limits, self.scores.losses, s.seed)
        return Evolution(self.space, limits, self.scores.losses, s.seed, s.mutation, s.crossover)

    def search(self, how: str, search: CandidateSearch, total: int) -> None:
        """Scores generations until there are ``total`` candidates, or the space has nothing new."""
        size = self.config.search.population
        with progress(total=total, desc=FAMILIES[how], unit="candidate") as bar:
            while len(search.scored) < total:
                wanted = min(size, total - len(search.scored))
                added = search.add(
                    search.generation(wanted) if search.scored else search.first_generation(wanted)
                )
                bar.update(added)
                if not added:
                    logging.info("%s: no candidate is left that was not scored", FAMILIES[how])
                    return
                bar.set_postfix_str(
                    ", ".join(
                        f"{b}: {found[0].loss:.4f}"
                        for b, limit in self.limits.items()
                        if (found := search.best(limit, 1))
                    )
                )

    def ladder(self) -> CandidateSearch:
        """The baseline without a search: for every budget the uniform net of the highest cost
        within it."""
        inner, space = self.inner, self.space
        uniform = [
            Genome(d, (h,) * space.blocks, (w,) * space.blocks)
            for d in inner.depths
            for h in inner.heads
            for w in inner.widths
        ]
        ladder = self.make("random")
        ladder.add(
            max(
                (g for g in uniform if self.cost(space.subnet(g)) <= limit),
                key=lambda g: self.cost(space.subnet(g)),
            )
            for limit in self.limits.values()
        )
        return ladder

    def choose(self, how: str, budget: str, search: CandidateSearch) -> Chosen:
        """The finalist of the lowest WER on dev; of equals, of the lowest loss. Winners of smaller
        budgets are finalists, too."""
        limit = self.limits[budget]
        if how == "uniform":
            finalists = [max(search.best(limit, len(self.limits)), key=lambda c: c.cost)]
        else:
            finalists = search.best(limit, self.config.search.finalists) + [
                c.candidate for c in self.chosen if c.how == how
            ]
        winner = min(finalists, key=lambda c: (self.scores.wer(c.subnet), c.loss))
        return Chosen(how, budget, limit, winner, self.scores.wer(winner.subnet))

    def entries(self, how: str) -> list[SubnetEntry]:
        """The entries of subnets.json for the winners of one way."""
        suffix = "" if how == self.config.select.method else f"-{how}"
        return [self.entry(chosen, suffix) for chosen in self.chosen if chosen.how == how]

    def entry(self, chosen: Chosen, suffix: str) -> SubnetEntry:
        """A winner as subnets.json has it; ``suffix`` marks the names of baselines."""
        subnet = chosen.candidate.subnet
        entry = describe_subnet(
            self.experiment.config,
            self.experiment.tokenizer.vocab_size,
            subnet,
            FAMILIES[chosen.how],
        )
        return replace(
            entry,
            name=entry.name + suffix,
            dev_score=round(chosen.wer, 3),
            dev_loss=round(chosen.candidate.loss, 5),
            budget=chosen.budget,
            cost=round(chosen.candidate.cost, 4),
            limit=round(chosen.limit, 4),
            cost_unit=UNIT_OF_COST[self.config.search.cost],
        )

    def results(self) -> SearchResults:
        """The content of search.json: settings, every candidate, the front, the winners, counts and
        times."""
        s = self.config.search

        def rounded(candidates: list[Candidate]) -> tuple[ScoredNet, ...]:
            return tuple(
                ScoredNet(c.subnet, round(c.cost, 4), round(c.loss, 6)) for c in candidates
            )

        return SearchResults(
            SearchSettings(
                s.cost,
                UNIT_OF_COST[s.cost],
                self.limits,
                s.seed,
                s.population,
                s.generations,
                s.proxy_seconds,
            ),
            seconds={how: round(taken, 1) for how, taken in self.seconds.items()},
            computed_now=self.scores.computed,
            chosen={how: tuple(self.entries(how)) for how in self.candidates},
            front=rounded(self.front),
            candidates={how: rounded(found) for how, found in self.candidates.items()},
        )
