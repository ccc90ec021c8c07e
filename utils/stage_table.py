"""Stages of a recipe, and the table that says what depends on what.

Whoever has to decide whether something is still good asks it: the skipping of stages, the going on
of a training, the records of a table's runs, kept scores and exported files.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from utils import conf as configuration


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe.

    Attributes:
      keys: the conf keys, or groups of keys, that its result depends on.
      after: the numbers of the stages whose result it reads.
      reads, writes: texts for people, with ``{data}`` and ``{exp}`` for the two folders.
      folder: ``data`` or ``exp``, the folder that its stamp lies in.
      outputs: the paths below its folder that must exist for it to be finished.
      beside: further paths there that it may write, whose damage is found as well.
      judged: paths of ``outputs`` whose damage the stage judges itself; other damaged files are
        moved aside before it runs.
      rewrites: outputs of other stages of its folder that it writes again.
      passive_keys: keys below ``keys`` that change nothing about the result (speed, logging).
      continue_keys: keys below ``keys`` with whose new value it goes on from where it stands,
        instead of beginning anew.
      content_keys: keys below ``keys`` whose effect on later stages is seen in what was written,
        and only there: another test set leaves the training data what they were.
      always: whether it runs whenever it is asked for, because it finds out itself what is left to
        do.
      needs_inputs: whether the stages before it must have finished with a conf.
      idle: why there is nothing to do with a conf; None: there is.
      more: values beside those of the keys, where they count only in some cases.
    """

    number: int
    title: str
    keys: tuple[str, ...]
    after: tuple[int, ...]
    reads: str
    writes: str
    folder: str
    outputs: tuple[str, ...]
    passive_keys: tuple[str, ...] = ()
    continue_keys: tuple[str, ...] = ()
    content_keys: tuple[str, ...] = ()
    always: Callable[[Any], bool] = lambda config: False
    idle: Callable[[Any], str | None] = lambda config: None
    needs_inputs: Callable[[Any], bool] = lambda config: True
    more: Callable[[Any], dict[str, Any]] = lambda config: {}
    beside: tuple[str, ...] = ()
    judged: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()

    def values(self, config: Any) -> dict[str, Any]:
        """The conf values that its result depends on."""
        passive = configuration.select(config, self.passive_keys)
        return {
            k: v for k, v in configuration.select(config, self.keys).items() if k not in passive
        } | self.more(config)

    def changes(self, then: dict[str, Any], config: Any, ignore: Iterable[str] = ()) -> list[str]:
        """Says in words which values are no longer what they were.

        Args:
          then: values of an earlier time; a key that is newer than they are had its default then.
          ignore: keys that do not count.
        """
        defaults = type(config)()
        before = (
            configuration.flatten(configuration.to_dict(defaults)) | self.values(defaults) | then
        )
        now = {k: v for k, v in self.values(config).items() if k not in ignore}
        return [
            f"{key} was {before.get(key)!r}, is {value!r}"
            for key, value in now.items()
            if before.get(key) != value
        ]


class StageTable(dict[int, Stage]):
    """The stages of a recipe by number: what depends on what."""

    def __init__(self, stages: Iterable[Stage]):
        super().__init__((stage.number, stage) for stage in stages)

    def upstream(self, number: int) -> list[int]:
        """The stages that a stage's result comes from, however far back, in order."""
        found = set(self[number].after)
        for before in self[number].after:
            found |= set(self.upstream(before))
        return sorted(found)

    def all_values(self, numbers: Iterable[int], config: Any) -> dict[str, Any]:
        """The conf values that the results of some stages depend on, together."""
        values: dict[str, Any] = {}
        for number in numbers:
            values |= self[number].values(config)
        return values

    def changes_before(self, number: int, saved: Any, config: Any) -> list[str]:
        """Says in words why a stage can not go on with ``config`` from what it made with the conf
        ``saved``; empty: it can.

        The values of the stages before it count, without their ``content_keys``, and its own,
        without its ``continue_keys``.
        """
        reasons = []
        for before in self.upstream(number):
            reasons += self[before].changes(
                self[before].values(saved), config, self[before].content_keys
            )
        return reasons + self[number].changes(
            self[number].values(saved), config, self[number].continue_keys
        )
