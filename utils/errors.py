"""The errors that a person can mend. Entry points print them as one sentence, without a
traceback."""


class UserError(Exception):
    """A request, or a thing that the user has, that can not work; the message says what to do
    instead."""


class ConfigError(UserError, ValueError):
    """A mistake in a conf or an override; the message says where and what would be right."""


def need(condition: object, message: str) -> None:
    """Raises ConfigError with the message unless the condition is true."""
    if not condition:
        raise ConfigError(message)
