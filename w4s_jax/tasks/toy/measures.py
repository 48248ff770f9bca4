"""Problems that mix units: a forgotten conversion is an answer off by just that factor.

seeded generator → **Draft** → Item of toy_units, toy_small_units
"""

from __future__ import annotations

import random

from w4s_jax.tasks.toy.draft import Draft
from w4s_jax.tasks.toy.wording import NAMES, THINGS, Scale, distinct, few, many


def pump(rng: random.Random, scale: Scale) -> Draft:
    """Litres a minute over hours."""
    rate, other, hours, deep = many(rng, scale), many(rng, scale), few(rng, scale), few(rng, scale)
    return Draft(
        question=(
            f"In a well {deep} metres deep one pump moves {rate} litres a minute and another one {other} litres a "
            f"minute. Both run for {hours} hours. How many litres do they move together?"
        ),
        givens={"rate": rate, "other": other, "hours": hours, "minutes_per_hour": 60},
        steps=(
            ("minutes", "hours * minutes_per_hour"),
            ("together", "rate + other"),
            ("litres", "together * minutes"),
        ),
        misread=("hours", deep),
        factors=("minutes_per_hour",),
        noun="litres",
    )


def rope(rng: random.Random, scale: Scale) -> Draft:
    """Ropes in metres, asked in centimetres."""
    name, friend = distinct(rng, NAMES, 2)
    ropes, metres, other = few(rng, scale), many(rng, scale), few(rng, scale)
    return Draft(
        question=(
            f"{name} buys {ropes} ropes, each {metres} metres long; {friend} buys {other} such ropes. "
            f"How many centimetres of rope does {name} have?"
        ),
        givens={"ropes": ropes, "metres": metres, "centimetres_per_metre": 100},
        steps=(("each", "metres * centimetres_per_metre"), ("centimetres", "ropes * each")),
        misread=("ropes", other),
        factors=("centimetres_per_metre",),
        noun="centimetres",
    )


def crates(rng: random.Random, scale: Scale) -> Draft:
    """Dozens at a price for one."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    dozens, price, old = many(rng, scale), few(rng, scale), few(rng, scale)
    return Draft(
        question=(
            f"{name} buys {dozens} dozen {thing}. One of the {thing} costs {price} cents; last year it cost {old} "
            f"cents. How many cents does {name} pay?"
        ),
        givens={"dozens": dozens, "price": price, "pieces_per_dozen": 12},
        steps=(("pieces", "dozens * pieces_per_dozen"), ("cents", "pieces * price")),
        misread=("price", old),
        factors=("pieces_per_dozen",),
        noun="cents",
    )


def flour(rng: random.Random, scale: Scale) -> Draft:
    """Sacks in kilograms, asked in grams."""
    name, friend = distinct(rng, NAMES, 2)
    sacks, more, weight, other = few(rng, scale), few(rng, scale), few(rng, scale), few(rng, scale)
    return Draft(
        question=(
            f"{name} has {sacks} sacks of flour of {weight} kilograms each and buys {more} more of them, and {friend} "
            f"has {other} such sacks. How many grams of flour does {name} have?"
        ),
        givens={"sacks": sacks, "more": more, "weight": weight, "grams_per_kilogram": 1000},
        steps=(
            ("in_sack", "weight * grams_per_kilogram"),
            ("all_sacks", "sacks + more"),
            ("grams", "all_sacks * in_sack"),
        ),
        misread=("sacks", other),
        factors=("grams_per_kilogram",),
        noun="grams",
    )


def novel(rng: random.Random, scale: Scale) -> Draft:
    """Pages a day over weeks."""
    name, friend = distinct(rng, NAMES, 2)
    pages, weeks, other = many(rng, scale), few(rng, scale), many(rng, scale)
    return Draft(
        question=(
            f"{name} reads {pages} pages a day for {weeks} weeks. {friend} reads {other} pages a day. "
            f"How many pages does {name} read?"
        ),
        givens={"pages": pages, "weeks": weeks, "days_per_week": 7},
        steps=(("days", "weeks * days_per_week"), ("read", "days * pages")),
        misread=("pages", other),
        factors=("days_per_week",),
        noun="pages",
    )


MEASURES = (pump, rope, crates, flour, novel)


def shift(rng: random.Random, scale: Scale) -> Draft:
    """A word problem of several steps with hours and minutes."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    people, hours, rate, days, age = (
        few(rng, scale),
        few(rng, scale),
        few(rng, scale),
        few(rng, scale),
        few(rng, scale) + 20,
    )
    return Draft(
        question=(
            f"{name}, who is {age} years old, leads {people} people. Each of them makes {rate} {thing} a minute and "
            f"works for {hours} hours a day. How many {thing} do the {people} people make in {days} days?"
        ),
        givens={"people": people, "hours": hours, "rate": rate, "days": days, "minutes_per_hour": 60},
        steps=(
            ("minutes", "hours * minutes_per_hour"),
            ("each", "rate * minutes"),
            ("in_a_day", "people * each"),
            ("made", "in_a_day * days"),
        ),
        misread=("people", age),
        factors=("minutes_per_hour",),
        noun=thing,
    )


def fence(rng: random.Random, scale: Scale) -> Draft:
    """A word problem of several steps with metres and centimetres."""
    name, friend = distinct(rng, NAMES, 2)
    fences, metres, broken, drops, other = (
        few(rng, scale) + 4,
        few(rng, scale),
        rng.randint(1, 3),
        few(rng, scale),
        few(rng, scale),
    )
    return Draft(
        question=(
            f"{name} orders {fences} fences of {metres} metres each and {friend} orders {other + 4} fences. "
            f"{name} sends {broken} fences back and paints the others; a centimetre takes {drops} drops of paint. "
            f"How many drops does {name} need?"
        ),
        givens={"fences": fences, "broken": broken, "metres": metres, "drops": drops, "centimetres_per_metre": 100},
        steps=(
            ("kept", "fences - broken"),
            ("length", "kept * metres"),
            ("centimetres", "length * centimetres_per_metre"),
            ("needed", "centimetres * drops"),
        ),
        misread=("fences", other + 4),
        factors=("centimetres_per_metre",),
        noun="drops",
    )


def market(rng: random.Random, scale: Scale) -> Draft:
    """A word problem of several steps with dozens."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    dozens, kept, price, weeks, year = (
        few(rng, scale) + 4,
        rng.randint(1, 3),
        few(rng, scale),
        few(rng, scale),
        few(rng, scale) + 20,
    )
    return Draft(
        question=(
            f"For {year} years {name} has gone to the market, every week with {dozens} dozen {thing}, of which "
            f"{kept} dozen are for the family. {name} sells the others for {price} cents each. "
            f"How many cents does {name} take in {weeks} weeks?"
        ),
        givens={"dozens": dozens, "kept": kept, "price": price, "weeks": weeks, "pieces_per_dozen": 12},
        steps=(
            ("for_sale", "dozens - kept"),
            ("pieces", "for_sale * pieces_per_dozen"),
            ("in_a_week", "pieces * price"),
            ("taken", "in_a_week * weeks"),
        ),
        misread=("weeks", year),
        factors=("pieces_per_dozen",),
        noun="cents",
    )


LONG_MEASURES = (shift, fence, market)
