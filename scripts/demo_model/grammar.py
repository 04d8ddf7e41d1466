"""The story grammar: draws a cast and a plot, and expands templates into one story with its questions and answers.

Template language: `{slot}` is replaced by the slot's value (values may hold slots), `[one|two|]` by one of its options
(they nest), and "a(n) " by the right article. All randomness comes from the `random.Random` that the caller passes.
"""

import random
import re
import zlib
from dataclasses import dataclass
from math import prod

from scripts.demo_model import words
from scripts.demo_model.more_plots import SECOND_PLOTS
from scripts.demo_model.plot_type import Plot
from scripts.demo_model.plots import FIRST_PLOTS

PLOTS: tuple[Plot, ...] = FIRST_PLOTS + SECOND_PLOTS
# Hero, friend and stranger, and which of the listed names are usually theirs: a small network learns sooner that two
# characters do not share a name if each role has names of its own.
_ROLES = {"": slice(0, None, 2), "f": slice(1, None, 4), "o": slice(3, None, 4)}
HELD_OUT_SHARE = 40  # one (name, kind, plot, place) combination in so many is kept out of training

_ONCE = (
    "Once upon a time, [there was|there lived] {hero_phrase} [named|called] {name}. {He} lived {home}.",
    "Once upon a time there was {hero_phrase} who lived {home}, and {name} was {his} name.",
    "Once upon a time, {home}, there lived {hero_phrase} [named|called] {name}.",
    "Once upon a time, {hero_phrase} named {name} lived {home}.",
    "Once upon a time {name}, {hero_phrase}, lived {home}.",
)
_OTHER = (
    "Long ago, [there was|there lived] {hero_phrase} [named|called] {name}. {He} lived {home}.",
    "{name} was {hero_phrase} who lived {home}.",
    "This is the story of {name}, {hero_phrase} who lived {home}.",
    "[Far away|In a far-off land], {home}, lived {hero_phrase} [named|called] {name}.",
    "There was once {hero_phrase} called {name}, who lived {home}.",
    "[Many years ago|One summer|One winter|In the old days], {hero_phrase} lived {home}: {name}.",
    "Have you heard of {name}? {He} was {hero_phrase}, and {he} lived {home}.",
    "The {kind} {name} lived {home}. {He} was [very|a little|always] {trait}.",
)
_LOVE = (
    "{He} loved {hobby}.",
    "{name} loved {hobby}[ more than anything else|].",
    "[Every day|In the evening], {name} [was busy {hobby}|spent hours {hobby}].",
    "{His} favourite thing was {hobby}.",
)
_FRIEND = (
    "{His} best friend was {fname}, a(n) {ftrait} {fkind}.",
    "{name} had a [good|dear] friend, a(n) {ftrait} {fkind} named {fname}.",
    "Next door lived {fname}, a(n) {ftrait} {fkind}, and the two were [good friends|always together].",
    "A(n) {ftrait} {fkind} called {fname} was {his} best friend.",
)
_CLOSE = (
    "And {name} learned that {moral}.",
    "From that day on, {name} knew that {moral}.",
    "And so {name} found out that {moral}. The end.",
    "That night, {name} fell asleep with a smile. {He} had learned that {moral}.",
    "And they all lived happily ever after, for {moral}.",
    "So remember: {moral}.",
    '"Now I know that {moral}," said {name}. And they lived happily ever after.',
    "The moral of the story is that {moral}.",
)
_QUESTIONS = (
    ("[Who is the story about|Who was the hero]?", "The story is about {name}, {hero_phrase}."),
    ("What [kind of creature|] was {name}?", "{name} was {hero_phrase}."),
    ("Where did {name} live?", "{name} lived {home}."),
    ("What did {name} love?", "{name} loved {hobby}."),
    ("Who was {name}'s [best |]friend?", "{name}'s [best |]friend was {fname} the {fkind}."),
    ("Who was {oname}?", "{oname} was a(n) {okind}."),
    ("Who was {fname}?", "{fname} was a(n) {fkind}, {name}'s friend."),
    ("[What did {name} learn|What is the moral]?", "[{name} learned|The moral is] that {moral}."),
)

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([aA])\(n\) (?=(\w+))")
_START = re.compile(r"(^|[.!?:] |\n)(\"?)([a-z])")


@dataclass(frozen=True)
class Story:
    """One story: its text, its slots, and true (question, answer) pairs about it."""

    text: str
    plot: str
    slots: dict[str, str]
    questions: tuple[tuple[str, str], ...]


def expand(template: str, slots: dict[str, str], rng: random.Random) -> str:
    """Resolve choices, then slots (repeatedly), then articles and capitals."""
    text = template
    while "{" in text or "[" in text:
        while match := _CHOICE.search(text):
            text = text[: match.start()] + rng.choice(match.group(1).split("|")) + text[match.end() :]
        text = _SLOT.sub(lambda found: slots[found.group(1)], text)
    text = _ARTICLE.sub(_article, text)
    text = re.sub(" {2,}", " ", text).strip()
    return _START.sub(_capital, text)


def _article(match: re.Match[str]) -> str:
    vowel = match.group(2)[0].lower() in "aeiou" or match.group(2).startswith("honest")
    return match.group(1) + ("n " if vowel else " ")


def _capital(match: re.Match[str]) -> str:
    if match.group(1) == ": " and not match.group(2):
        return match.group(0)
    return match.group(1) + match.group(2) + match.group(3).upper()


def invented_name(rng: random.Random) -> str:
    """A name that is in no list, of two or three syllables."""
    parts = words.SYLLABLES if rng.random() < 0.6 else words.SYLLABLES[::2]
    return "".join(rng.choice(part) for part in parts)


def draw_cast(rng: random.Random, *, invented: float = 0.12) -> dict[str, str]:
    """Draw three characters with distinct names and kinds, and the props. `invented`: how often the hero's name is."""
    slots: dict[str, str] = {}
    names: set[str] = set()
    kinds: set[str] = set()
    for prefix in _ROLES:
        slots.update(_character(rng, prefix, names, kinds, invented))
    slots |= {
        "home": rng.choice(words.HOMES),
        "hobby": rng.choice(words.HOBBIES),
        "colour": rng.choice(words.COLOURS),
        "treasure": rng.choice(words.TREASURES),
        "food": rng.choice(words.FOODS),
    }
    slots["place"], slots["place2"] = rng.sample(words.PLACES, 2)
    return slots


def _character(rng: random.Random, prefix: str, names: set[str], kinds: set[str], invented: float) -> dict[str, str]:
    she = rng.random() < 0.5
    options = (words.ANIMALS * 2) + words.PEOPLE + 4 * (words.SHE_ONLY if she else words.HE_ONLY)
    kind = rng.choice([option for option in options if option not in kinds])
    known = words.SHE if she else words.HE
    usual = known[_ROLES[prefix]]
    name = rng.choice(known if rng.random() < 0.1 else usual)
    if rng.random() < (invented if not prefix else invented / 4):
        name = invented_name(rng)
    while name in names:
        name = rng.choice(usual)
    names.add(name)
    kinds.add(kind)
    he, him, his = ("she", "her", "her") if she else ("he", "him", "his")
    trait = rng.choice(words.TRAITS)
    phrase = f"a(n) {trait} {kind}"
    values = {"name": name, "kind": kind, "trait": trait, "he": he, "him": him, "his": his}
    slots = {prefix + key: value for key, value in values.items()}
    slots |= {(prefix + key).capitalize(): values[key].capitalize() for key in ("he", "his")}
    return slots | {"himself": him + "self", "hero_phrase": phrase} if not prefix else slots


def _tables(plot: Plot, rng: random.Random) -> dict[str, str]:
    slots: dict[str, str] = {}
    for keys, rows in plot.tables.items():
        slots |= dict(zip(keys, rng.choice(rows), strict=True))
    if "gift" in slots:
        slots["gift_the"] = re.sub("^an? ", "the ", slots["gift"])
        slots["missing_bare"] = re.sub("^an? ", "", slots["missing"])
    if "clue" in slots:
        slots["clue_the"] = "the " + re.sub("^an? ", "", slots["clue"])
    return slots


def is_held_out(slots: dict[str, str], plot: str) -> bool:
    """Whether this combination of hero, kind, plot and place is kept out of training."""
    key = "|".join((slots["name"], slots["kind"], plot, slots["place"]))
    return zlib.crc32(key.encode()) % HELD_OUT_SHARE == 0


def tell(
    rng: random.Random,
    *,
    held_out: bool = False,
    invented: float = 0.12,
    plots: tuple[Plot, ...] = PLOTS,
) -> Story:
    """Draw stories until one is on the wanted side of the held-out split, and tell it."""
    while True:
        plot = rng.choice(plots)
        slots = draw_cast(rng, invented=invented) | _tables(plot, rng)
        slots["moral"] = rng.choice(plot.morals)
        clash = slots.get("villain") in (slots["kind"], slots["fkind"], slots["okind"])
        if not clash and is_held_out(slots, plot.name) == held_out:
            return _write(plot, slots, rng)


def _write(plot: Plot, slots: dict[str, str], rng: random.Random) -> Story:
    opening = rng.choice(_ONCE if rng.random() < 0.6 else _OTHER)
    intro = [opening, rng.choice(_LOVE), rng.choice(_FRIEND)]
    told = [rng.choice(beat) for beat in plot.beats]
    said = [expand(template, slots, rng) for template in [*intro, *told, rng.choice(_CLOSE)]]
    breaks = {3, 6, 8} if rng.random() < 0.5 else set()
    text = "".join(("\n\n" if i in breaks else " " if i else "") + part for i, part in enumerate(said))
    pairs = (*_QUESTIONS, *plot.questions, *plot.questions)  # the plot's own questions are asked more often
    questions = tuple((expand(q, slots, rng), expand(a, slots, rng)) for q, a in pairs)
    return Story(text, plot.name, slots, questions)


def count_choices(template: str) -> int:
    """In how many ways the choices of a template can be resolved (slots count once)."""
    while match := _CHOICE.search(template):
        options = sum(map(_product, match.group(1).split("|")))
        template = f"{template[: match.start()]}\x00{options}\x00{template[match.end() :]}"
    return _product(template)


def _product(text: str) -> int:
    """The product of the counts that `count_choices` has put into the text."""
    return prod(int(count) for count in re.findall("\x00(\\d+)\x00", text))


def count_stories() -> int:
    """How many different stories the grammar can tell with listed names (slot fillings times sentence choices).

    Slots that a plot does not mention (a colour in a story without one) are not counted.
    """
    return sum(_count_plot(plot) for plot in PLOTS)


def _count_plot(plot: Plot) -> int:
    told = (_ONCE + _OTHER, _LOVE, _FRIEND, *plot.beats, _CLOSE)
    sentences = prod(sum(map(count_choices, alternatives)) for alternatives in told)
    names = (len(words.SHE) + len(words.HE)) ** 3
    kinds = (len(words.ANIMALS) + len(words.PEOPLE)) ** 3
    traits = len(words.TRAITS) ** 2  # the hero's and the friend's
    used = "".join(t for beat in plot.beats for t in beat) + "".join(str(r) for r in plot.tables.values())
    sizes = {"{place}": words.PLACES, "{place2}": words.PLACES, "{colour}": words.COLOURS}
    sizes |= {"{treasure}": words.TREASURES, "{food}": words.FOODS}
    props = prod(len(values) for slot, values in sizes.items() if slot in used)
    tables = prod(len(rows) for rows in plot.tables.values())
    fixed = len(words.HOMES) * len(words.HOBBIES) * len(plot.morals)
    return sentences * names * kinds * traits * props * tables * fixed
