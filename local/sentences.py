"""The sentences of the embedded corpus: a small grammar of things people say to a device, with
spoken digits."""

import random
from collections.abc import Set

SLOTS: dict[str, list[str]] = {
    "digit": "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split(),
    "hour": "ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN ELEVEN TWELVE".split(),
    "minute": ["FIFTEEN", "TWENTY", "THIRTY", "FORTY FIVE", "FIFTY"],
    "tens": "TWENTY THIRTY FORTY FIFTY SIXTY SEVENTY EIGHTY NINETY".split(),
    "day": "MONDAY TUESDAY WEDNESDAY THURSDAY FRIDAY SATURDAY SUNDAY".split(),
    "part": ["IN THE MORNING", "IN THE AFTERNOON", "IN THE EVENING", "TONIGHT", "TOMORROW"],
    "name": "ANNA PETER MARIA JOHN SUSAN DAVID LAURA MICHAEL".split(),
    "room": "KITCHEN BEDROOM GARDEN OFFICE GARAGE BATHROOM".split(),
    "thing": "LIGHT HEATING RADIO WINDOW DOOR CAMERA".split(),
    "colour": "RED GREEN BLUE YELLOW WHITE".split(),
    "music": "JAZZ PIANO ROCK CLASSICAL GUITAR".split(),
    "place": "LONDON PARIS BERLIN MADRID BOSTON CHICAGO".split(),
    "vehicle": "TRAIN BUS PLANE".split(),
    "item": "MILK BREAD APPLES COFFEE SUGAR BUTTER POTATOES".split(),
    "weather": "RAIN SNOW SUNSHINE WIND".split(),
}

# {any} is any single word above. A grammar alone is so predictable that a transducer's predictor
# explains it without listening; the sentences with free words make the encoder necessary.
SLOTS["any"] = sorted({word for values in SLOTS.values() for word in values if " " not in word})

TEMPLATES = [
    "CALL {name} ON {digit} {digit} {digit} {digit} {digit}",
    "THE {vehicle} TO {place} LEAVES AT {hour} {minute}",
    "SET THE {room} {thing} TO {tens} {digit} PERCENT",
    "WAKE ME UP AT {hour} {minute} ON {day}",
    "PLAY {music} MUSIC IN THE {room} {part}",
    "PUT {digit} {item} {item} AND {item} ON MY LIST",
    "REMIND {name} TO BUY {digit} {colour} {item}",
    "ADD {tens} {digit} AND {tens} {digit}",
    "TURN THE {colour} {thing} IN THE {room} ON",
    "THE PASSWORD IS {any} {any} {any} {any}",
    "THE CODE IS {digit} {digit} {any} {digit} {digit} {any}",
    "WRITE {any} {any} {any} {any} {any}",
    "SEARCH FOR {any} {any} {any} AND {any}",
    "{name} SAID {any} {any} {any} {any}",
    "SEND {any} {any} {any} TO {name}",
    "NOTE {any} {any} {any} {any} {any} {any}",
    "{any} AND {any} OR {any} AND {any}",
    "PLEASE READ {any} {any} {any} {any} AGAIN",
]


def sentence(rng: random.Random) -> str:
    """Draws a random sentence, in upper case, with numbers in words."""
    parts = []
    for word in rng.choice(TEMPLATES).split(" "):
        parts.append(rng.choice(SLOTS[word[1:-1]]) if word.startswith("{") else word)
    return " ".join(parts)


def distinct_sentences(
    rng: random.Random, count: int, exclude: Set[str] = frozenset()
) -> list[str]:
    """Draws ``count`` different sentences, none of them in ``exclude``."""
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        text = sentence(rng)
        if text not in exclude:
            chosen[text] = None
    return list(chosen)
