"""Word problems with an irrelevant number in each; the scale makes them small or huge.

seeded generator → **Draft** → Item of toy_small, toy_large
"""

from __future__ import annotations

import random

from w4s_jax.tasks.toy.draft import Draft
from w4s_jax.tasks.toy.wording import NAMES, THINGS, Scale, distinct, few, many


def packing(rng: random.Random, scale: Scale) -> Draft:
    """Boxes packed, some sold."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    boxes, each, shelf = few(rng, scale), many(rng, scale), few(rng, scale)
    sold = rng.randint(1, boxes * each - 1)
    return Draft(
        question=(
            f"{name} packs {boxes} boxes with {each} {thing} in each box. The shelf could hold {shelf} boxes. "
            f"Then {name} sells {sold} {thing}. How many {thing} does {name} have left?"
        ),
        givens={"boxes": boxes, "each": each, "sold": sold},
        steps=(("packed", "boxes * each"), ("left", "packed - sold")),
        misread=("boxes", shelf),
        noun=thing,
    )


def saving(rng: random.Random, scale: Scale) -> Draft:
    """Weekly pay, an expense and a gift."""
    name, friend = distinct(rng, NAMES, 2)
    pay, weeks, gift, price = many(rng, scale), few(rng, scale), many(rng, scale), many(rng, scale)
    friend_pay = many(rng, scale)
    return Draft(
        question=(
            f"{name} earns {pay} coins a week and {friend} earns {friend_pay} coins a week. After {weeks} weeks {name} "
            f"buys a lamp for {price} coins and gets {gift} coins as a gift. How many coins does {name} have then?"
        ),
        givens={"pay": pay, "weeks": weeks, "price": price, "gift": gift},
        steps=(("earned", "pay * weeks"), ("rest", "earned - price"), ("coins", "rest + gift")),
        misread=("pay", friend_pay),
        noun="coins",
    )


def mills(rng: random.Random, scale: Scale) -> Draft:
    """Two machines that run for different times."""
    thing = rng.choice(THINGS)
    old, new, days, other_days, idle = (
        many(rng, scale),
        many(rng, scale),
        few(rng, scale),
        few(rng, scale),
        few(rng, scale),
    )
    return Draft(
        question=(
            f"An old machine makes {old} {thing} a day and ran for {days} days. A new machine makes {new} {thing} a "
            f"day and ran for {other_days} days after standing still for {idle} days. "
            f"How many {thing} did both machines make together?"
        ),
        givens={"old": old, "days": days, "new": new, "other_days": other_days},
        steps=(("by_old", "old * days"), ("by_new", "new * other_days"), ("together", "by_old + by_new")),
        misread=("other_days", idle),
        noun=thing,
    )


def orchard(rng: random.Random, scale: Scale) -> Draft:
    """Rows of trees, a yield each, some lost."""
    name, thing = rng.choice(NAMES), rng.choice(("apples", "pears", "lemons", "plums", "figs", "olives"))
    rows, trees, age, each, spoilt = (
        few(rng, scale),
        few(rng, scale),
        few(rng, scale),
        few(rng, scale),
        many(rng, scale),
    )
    return Draft(
        question=(
            f"{name} has {rows} rows of {trees} trees, and the orchard is {age} years old. Every tree gives "
            f"{each} {thing}. Of all the {thing}, {spoilt} are spoilt. How many good {thing} are "
            "there?"
        ),
        givens={"rows": rows, "trees": trees, "each": each, "spoilt": spoilt},
        steps=(("all_trees", "rows * trees"), ("picked", "all_trees * each"), ("good", "picked - spoilt")),
        misread=("trees", age),
        noun=thing,
    )


def school(rng: random.Random, scale: Scale) -> Draft:
    """An order for classes and the office, some returned."""
    thing = rng.choice(THINGS)
    classes, each, office, returned, last_year = (
        few(rng, scale),
        many(rng, scale),
        many(rng, scale),
        few(rng, scale),
        many(rng, scale),
    )
    return Draft(
        question=(
            f"A school orders {each} {thing} for each of its {classes} classes and {office} {thing} for the office; "
            f"last year it was {last_year} {thing} for the office. It sends {returned} {thing} back. "
            f"How many {thing} does it keep?"
        ),
        givens={"each": each, "classes": classes, "office": office, "returned": returned},
        steps=(("for_classes", "each * classes"), ("ordered", "for_classes + office"), ("kept", "ordered - returned")),
        misread=("office", last_year),
        noun=thing,
    )


STORIES = (packing, saving, mills, orchard, school)
