"""Problems that mix units: a forgotten conversion is an answer off by a factor.

seeded generator → **Draft** → Item of toy_units, toy_small_units
"""

from __future__ import annotations

import random

from w4s_jax.tasks.toy.draft import Draft
from w4s_jax.tasks.toy.wording import NAMES, THINGS, Scale, distinct, few, many


def pump(rng: random.Random, scale: Scale) -> Draft:
    """Litres a minute over hours and minutes."""
    rate, hours, minutes, deep = many(rng, scale), few(rng, scale), rng.randint(5, 55), few(rng, scale)
    return Draft(
        question=(
            f"A pump in a well {deep} metres deep moves {rate} litres a minute. It runs for {hours} hours and "
            f"{minutes} minutes. How many litres does it move?"
        ),
        givens={"rate": rate, "hours": hours, "minutes": minutes, "minutes_per_hour": 60},
        steps=(
            ("from_hours", "hours * minutes_per_hour"),
            ("running", "from_hours + minutes"),
            ("litres", "rate * running"),
        ),
        misread=("hours", deep),
        factors=("minutes_per_hour",),
        noun="litres",
    )


def rope(rng: random.Random, scale: Scale) -> Draft:
    """Ropes in metres and centimetres."""
    name, friend = distinct(rng, NAMES, 2)
    ropes, metres, rest, other = few(rng, scale), few(rng, scale), rng.randint(5, 95), few(rng, scale)
    return Draft(
        question=(
            f"{name} buys {ropes} ropes, each {metres} metres and {rest} centimetres long; {friend} buys {other} "
            f"such ropes. How many centimetres of rope does {name} have?"
        ),
        givens={"ropes": ropes, "metres": metres, "rest": rest, "centimetres_per_metre": 100},
        steps=(
            ("from_metres", "metres * centimetres_per_metre"),
            ("each", "from_metres + rest"),
            ("centimetres", "ropes * each"),
        ),
        misread=("ropes", other),
        factors=("centimetres_per_metre",),
        noun="centimetres",
    )


def crates(rng: random.Random, scale: Scale) -> Draft:
    """Dozens and single pieces at a price."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    dozens, single, price, old = few(rng, scale), rng.randint(3, 11), few(rng, scale), few(rng, scale)
    return Draft(
        question=(
            f"{name} buys {dozens} dozen {thing} and {single} single {thing}. One of the {thing} costs {price} cents; "
            f"last year it cost {old} cents. How many cents does {name} pay?"
        ),
        givens={"dozens": dozens, "single": single, "price": price, "pieces_per_dozen": 12},
        steps=(
            ("in_dozens", "dozens * pieces_per_dozen"),
            ("pieces", "in_dozens + single"),
            ("cents", "pieces * price"),
        ),
        misread=("price", old),
        factors=("pieces_per_dozen",),
        noun="cents",
    )


def flour(rng: random.Random, scale: Scale) -> Draft:
    """Kilograms in store, grams used."""
    name, friend = distinct(rng, NAMES, 2)
    sacks, weight, other = few(rng, scale), few(rng, scale), few(rng, scale)
    used = rng.randint(20, 950)
    return Draft(
        question=(
            f"{name} has {sacks} sacks of flour of {weight} kilograms each, and {friend} has {other} such sacks. "
            f"{name} bakes with {used} grams. How many grams of flour does {name} have left?"
        ),
        givens={"sacks": sacks, "weight": weight, "used": used, "grams_per_kilogram": 1000},
        steps=(
            ("kilograms", "sacks * weight"),
            ("grams", "kilograms * grams_per_kilogram"),
            ("left", "grams - used"),
        ),
        misread=("sacks", other),
        factors=("grams_per_kilogram",),
        noun="grams",
    )


def novel(rng: random.Random, scale: Scale) -> Draft:
    """Pages a day over weeks and days."""
    name, friend = distinct(rng, NAMES, 2)
    pages, weeks, days, other = many(rng, scale), few(rng, scale), rng.randint(1, 6), many(rng, scale)
    return Draft(
        question=(
            f"{name} reads {pages} pages a day for {weeks} weeks and {days} days. {friend} reads {other} pages a day. "
            f"How many pages does {name} read?"
        ),
        givens={"pages": pages, "weeks": weeks, "days": days, "days_per_week": 7},
        steps=(("from_weeks", "weeks * days_per_week"), ("reading", "from_weeks + days"), ("read", "reading * pages")),
        misread=("pages", other),
        factors=("days_per_week",),
        noun="pages",
    )


MEASURES = (pump, rope, crates, flour, novel)


def shift(rng: random.Random, scale: Scale) -> Draft:
    """A word problem of several steps with hours and minutes."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    people, hours, rate, broken, age = (
        few(rng, scale),
        few(rng, scale),
        few(rng, scale),
        rng.randint(3, 90),
        few(rng, scale),
    )
    return Draft(
        question=(
            f"{name}, who is {age + 20} years old, leads {people} people. Each of the {people} makes {rate} {thing} a "
            f"minute and works for {hours} hours. In all {broken} {thing} break. How many whole {thing} are there?"
        ),
        givens={"people": people, "hours": hours, "rate": rate, "broken": broken, "minutes_per_hour": 60},
        steps=(
            ("minutes", "hours * minutes_per_hour"),
            ("each", "rate * minutes"),
            ("made", "people * each"),
            ("whole", "made - broken"),
        ),
        misread=("people", age + 20),
        factors=("minutes_per_hour",),
        noun=thing,
    )


def fence(rng: random.Random, scale: Scale) -> Draft:
    """A word problem of several steps with metres and centimetres."""
    name, friend = distinct(rng, NAMES, 2)
    sides, metres, used, price, other = (
        few(rng, scale),
        few(rng, scale),
        rng.randint(20, 190),
        few(rng, scale),
        few(rng, scale),
    )
    return Draft(
        question=(
            f"{name} orders {sides} fences of {metres} metres each and {friend} orders {other} fences. {name} cuts off "
            f"{used} centimetres in all and paints the rest; a centimetre takes {price} drops of paint. "
            f"How many drops does {name} need?"
        ),
        givens={"sides": sides, "metres": metres, "used": used, "price": price, "centimetres_per_metre": 100},
        steps=(
            ("ordered", "sides * metres"),
            ("length", "ordered * centimetres_per_metre"),
            ("painted", "length - used"),
            ("drops", "painted * price"),
        ),
        misread=("sides", other),
        factors=("centimetres_per_metre",),
        noun="drops",
    )


def market(rng: random.Random, scale: Scale) -> Draft:
    """A word problem of several steps with dozens."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    dozens, price, fee, gift, last = (
        few(rng, scale),
        few(rng, scale),
        many(rng, scale),
        rng.randint(2, 9),
        few(rng, scale),
    )
    return Draft(
        question=(
            f"{name} brings {dozens + 2} dozen {thing} to the market, {last + 2} dozen less than last week. "
            f"{name} gives {gift} {thing} away, sells all others for {price} cents each and pays a fee of {fee} cents. "
            "How many cents are left?"
        ),
        givens={"dozens": dozens + 2, "gift": gift, "price": price, "fee": fee, "pieces_per_dozen": 12},
        steps=(
            ("pieces", "dozens * pieces_per_dozen"),
            ("sold", "pieces - gift"),
            ("taken", "sold * price"),
            ("left", "taken - fee"),
        ),
        misread=("dozens", last + 2),
        factors=("pieces_per_dozen",),
        noun="cents",
    )


LONG_MEASURES = (shift, fence, market)
