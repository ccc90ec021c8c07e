"""The errors that a person can mend: entry points print them as one sentence, without a
traceback."""


class UserError(Exception):
    """Something that the user asked for, or has, can not work; the message says what to do
    instead."""
