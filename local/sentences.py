"""The sentences of the embedded corpus: a small grammar of things people say to a device, with spoken digits."""

import random

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

TEMPLATES = [
    "CALL {name} ON {digit} {digit} {digit} {digit} {digit}",
    "SEND {name} A MESSAGE THAT THE {vehicle} TO {place} LEAVES AT {hour} {minute}",
    "TURN THE {colour} {thing} IN THE {room} ON",
    "PLEASE TURN OFF THE {thing} AND CLOSE THE {room} {thing}",
    "SET THE {room} HEATING TO {tens} {digit} PERCENT",
    "WAKE ME UP AT {hour} {minute} ON {day}",
    "PLAY SOME {music} MUSIC IN THE {room} {part}",
    "IS THERE ANY {weather} IN {place} ON {day}",
    "WILL {name} BE IN THE {room} {part}",
    "PUT {item} {item} AND {item} ON MY SHOPPING LIST",
    "REMIND {name} TO BUY {digit} {colour} {item} {part}",
    "THE CODE FOR THE {room} DOOR IS {digit} {digit} {digit} {digit}",
    "HOW LONG DOES THE {vehicle} FROM {place} TO {place} TAKE",
    "{name} AND {name} WANT TO MEET IN {place} ON {day} {part}",
    "WHAT TIME DOES THE {vehicle} TO {place} LEAVE {part}",
    "ADD {tens} {digit} AND {tens} {digit}",
]


def sentence(rng: random.Random) -> str:
    """One random sentence, upper case, numbers in words."""
    parts = []
    for word in rng.choice(TEMPLATES).split(" "):
        parts.append(rng.choice(SLOTS[word[1:-1]]) if word.startswith("{") else word)
    return " ".join(parts)


def distinct_sentences(rng: random.Random, count: int, exclude: set[str] = frozenset()) -> list[str]:
    """``count`` different sentences, none of them in ``exclude``."""
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        text = sentence(rng)
        if text not in exclude:
            chosen[text] = None
    return list(chosen)


def vocabulary() -> set[str]:
    """Every word the grammar can produce."""
    fixed = {w for t in TEMPLATES for w in t.split() if not w.startswith("{")}
    return fixed | {w for values in SLOTS.values() for v in values for w in v.split()}
