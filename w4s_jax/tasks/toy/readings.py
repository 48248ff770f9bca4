"""Word problems whose wording has two readings; a convention says which one counts.

seeded generator → **Draft** → Item of toy_ambiguous
"""

from __future__ import annotations

import random

from w4s_jax.tasks.toy.draft import Draft
from w4s_jax.tasks.toy.wording import NAMES, THINGS, Scale, distinct, few, many


def times_more(rng: random.Random, scale: Scale) -> Draft:
    """Takes "k times more" as k times as many."""
    name, friend = distinct(rng, NAMES, 2)
    thing, own, times, lost, bought = (
        rng.choice(THINGS),
        many(rng, scale),
        rng.randint(2, 9),
        few(rng, scale),
        few(rng, scale),
    )
    return Draft(
        question=(
            f"{name} has {own} {thing}. {friend} has {times} times more {thing} than {name}, loses {lost} and then "
            f"buys {bought}. How many {thing} does {friend} have now? "
            f'("{times} times more" means {times} times as many here.)'
        ),
        givens={"own": own, "times": times, "lost": lost, "bought": bought},
        steps=(("before", "own * times"), ("rest", "before - lost"), ("now", "rest + bought")),
        other_steps=(("before", "own + own * times"), ("rest", "before - lost"), ("now", "rest + bought")),
        misread=("own", own + lost),
        noun=thing,
    )


def both_ends(rng: random.Random, scale: Scale) -> Draft:
    """Counts both ends of "from page a to page b"."""
    name = rng.choice(NAMES)
    first, length, words, skipped = many(rng, scale), few(rng, scale) + 2, many(rng, scale), few(rng, scale)
    return Draft(
        question=(
            f"{name} copies a book from page {first} to page {first + length}. Every page has {words} words, and "
            f"{name} leaves out {skipped} words in all. How many words does {name} write? (Both pages count.)"
        ),
        givens={"first": first, "last": first + length, "words": words, "skipped": skipped},
        steps=(("pages", "last - first + 1"), ("copied", "pages * words"), ("written", "copied - skipped")),
        other_steps=(("pages", "last - first"), ("copied", "pages * words"), ("written", "copied - skipped")),
        misread=("words", words + skipped),
        noun="words",
    )


def biweekly(rng: random.Random, scale: Scale) -> Draft:
    """Takes "biweekly" as twice a week."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    weeks, each, own = 2 * few(rng, scale), many(rng, scale), many(rng, scale)
    return Draft(
        question=(
            f"{name} owns {own} {thing} and gets a biweekly parcel with {each} {thing} for {weeks} weeks. "
            f"How many {thing} does {name} have in the end? (Biweekly means twice a week here.)"
        ),
        givens={"own": own, "each": each, "weeks": weeks},
        steps=(("parcels", "weeks * 2"), ("sent", "parcels * each"), ("total", "sent + own")),
        other_steps=(("parcels", "weeks // 2"), ("sent", "parcels * each"), ("total", "sent + own")),
        misread=("each", own if own != each else own + 1),
        noun=thing,
    )


def discounts(rng: random.Random, scale: Scale) -> Draft:
    """Two discounts, both of the first price."""
    name, price = rng.choice(NAMES), 100 * many(rng, scale)
    one, two, fee = 10 * rng.randint(1, 5), 10 * rng.randint(1, 4), few(rng, scale)
    return Draft(
        question=(
            f"A boat costs {price} coins. {name} gets {one} percent off and another {two} percent off, and pays a fee "
            f"of {fee} coins. How many coins does {name} pay? (Both percentages are of the first price.)"
        ),
        givens={"price": price, "one": one, "two": two, "fee": fee},
        steps=(("percent", "100 - one - two"), ("reduced", "price * percent // 100"), ("paid", "reduced + fee")),
        other_steps=(
            ("percent", "(100 - one) * (100 - two)"),
            ("reduced", "price * percent // 10000"),
            ("paid", "reduced + fee"),
        ),
        misread=("two", one if one != two else two + 10),
        noun="coins",
    )


def dozens(rng: random.Random, scale: Scale) -> Draft:
    """Takes "a dozen" as a baker's dozen."""
    name, guests = rng.choice(NAMES), few(rng, scale)
    count, eaten, old = few(rng, scale) + 4, many(rng, scale), few(rng, scale) + 40
    return Draft(
        question=(
            f"For {guests} guests {name} bakes {count} dozen rolls and has {old} rolls of yesterday. {eaten} rolls are "
            "eaten. How many rolls are left? (A dozen means a baker's dozen, 13, here.)"
        ),
        givens={"count": count, "old": old, "eaten": eaten},
        steps=(("baked", "count * 13"), ("all_rolls", "baked + old"), ("left", "all_rolls - eaten")),
        other_steps=(("baked", "count * 12"), ("all_rolls", "baked + old"), ("left", "all_rolls - eaten")),
        misread=("count", guests),
        noun="rolls",
    )


READINGS = (times_more, both_ends, biweekly, discounts, dozens)
