"""Roll calls: short texts that say the same few names and things again and again.

A small network that trains on stories alone learns their sentences at once, but for thousands of steps not to repeat
their names. Roll calls teach just that, in a minute, and are needed at the beginning only.
"""

import random

from scripts.demo_model.grammar import draw_cast, expand

_SENTENCES = (
    "{a} saw {b}.",
    "{a} the {ka} saw {b} the {kb}.",
    "{a} waved to {b}.",
    '"Hello, {a}!" said {b}.',
    '"I am {a}," said {a}.',
    "{a} and {b} went to {place}.",
    "Where is {a}? {a} is with {b}.",
    "{a} gave the {treasure} to {b}.",
    "{b} thanked {a}.",
    "Then {a} looked for {b}.",
    "{a} the {ka} loved {b}.",
    '"Where is {a}?" asked {b} the {kb}.',
    "Who was {a}? {a} was a(n) {ka}.",
    "{a}, {b} and {c} sat down.",
    "{a} had a(n) {colour} {treasure}.",
    "The {colour} {treasure} was near {place}.",
    '"Give me the {treasure}!" said {a}.',
    "Who has the {treasure}? {a} has the {colour} {treasure}.",
    "{a} ate {food}.",
    "{a} gave some {food} to {b} the {kb}.",
    "The {villain} wanted the {food}.",
    "The {villain} saw {a}.",
    "{a} was afraid of the {villain}.",
    '"I am the {villain}," said the {villain}.',
    "{a} lived {home}.",
    "Where did {a} live? {a} lived {home}.",
    "{a} loved {hobby}.",
    "They met near {place}.",
)
_VILLAINS = ("fox", "wolf", "crow", "weasel", "cat", "goblin", "rat", "ogre", "pirate", "snake")


def roll_call(rng: random.Random) -> str:
    """Sentences about three characters and a few things, in no order."""
    slots = draw_cast(rng, invented=0.35) | {"villain": rng.choice(_VILLAINS)}
    cast = [(slots[prefix + "name"], slots[prefix + "kind"]) for prefix in ("", "f", "o")]
    said = []
    for _ in range(rng.randint(10, 20)):
        (a, ka), (b, kb), (c, _) = rng.sample(cast, 3)
        said.append(expand(rng.choice(_SENTENCES), slots | {"a": a, "ka": ka, "b": b, "kb": kb, "c": c}, rng))
    return " ".join(said)
