"""Tables to look up and to compute with, plain or with ambiguous wording.

seeded generator → **Draft** → Item of toy_table, toy_lookup, toy_table_large, toy_table_ambiguous
"""

from __future__ import annotations

import dataclasses
import random

from w4s_jax.tasks.toy.draft import Draft
from w4s_jax.tasks.toy.wording import DAYS, PLACES, THINGS, Scale, distinct, few, many


@dataclasses.dataclass(frozen=True)
class Table:
    """Counts by place (row) and day (column)."""

    places: list[str]
    days: list[str]
    cells: list[list[int]]

    @classmethod
    def draw(cls, rng: random.Random, scale: Scale, rows: int = 4, columns: int = 4) -> Table:
        """Draws a table whose cells all differ."""
        days = sorted(distinct(rng, DAYS, columns), key=DAYS.index)
        seen: set[int] = set()
        while len(seen) < rows * columns:
            seen.add(many(rng, scale))
        numbers = list(seen)
        rng.shuffle(numbers)
        return cls(distinct(rng, PLACES, rows), days, [numbers[r * columns :][:columns] for r in range(rows)])

    def text(self, thing: str) -> str:
        """The table as the question shows it."""
        lines = [f"{thing.capitalize()} sold by place and day:", "place | " + " | ".join(self.days)]
        lines += [f"{place} | " + " | ".join(map(str, row)) for place, row in zip(self.places, self.cells, strict=True)]
        return "\n".join(lines)


def lookup(rng: random.Random, scale: Scale) -> Draft:
    """One cell, nothing to compute."""
    table, thing = Table.draw(rng, scale), rng.choice(THINGS)
    row, column = rng.randrange(4), rng.randrange(4)
    return Draft(
        question=f"{table.text(thing)}\nHow many {thing} were sold in {table.places[row]} on {table.days[column]}?",
        givens={"sold": table.cells[row][column]},
        steps=(("answer", "sold"),),
        misread=("sold", table.cells[row - 1][column]),
        noun=thing,
    )


def takings(rng: random.Random, scale: Scale) -> Draft:
    """Two cells of a row at a price."""
    table, thing, price = Table.draw(rng, scale), rng.choice(THINGS), few(rng, scale)
    row, (a, b) = rng.randrange(4), sorted(rng.sample(range(4), 2))
    return Draft(
        question=(
            f"{table.text(thing)}\nOne costs {price} coins. How many coins did {table.places[row]} take on "
            f"{table.days[a]} and {table.days[b]} together?"
        ),
        givens={"first": table.cells[row][a], "second": table.cells[row][b], "price": price},
        steps=(("pieces", "first + second"), ("coins", "pieces * price")),
        misread=("second", table.cells[row - 1][b]),
        noun="coins",
    )


def lead(rng: random.Random, scale: Scale) -> Draft:
    """Two rows against a third, at a price."""
    table, thing, price = Table.draw(rng, scale), rng.choice(THINGS), few(rng, scale)
    (a, b, c), day = rng.sample(range(4), 3), rng.randrange(4)
    return Draft(
        question=(
            f"{table.text(thing)}\nOne costs {price} coins. On {table.days[day]}, how many coins more did "
            f"{table.places[a]} and {table.places[b]} take together than {table.places[c]}? "
            "(A negative number if it is less.)"
        ),
        givens={
            "one": table.cells[a][day],
            "two": table.cells[b][day],
            "against": table.cells[c][day],
            "price": price,
        },
        steps=(("both", "one + two"), ("more", "both - against"), ("coins", "more * price")),
        misread=("two", table.cells[b][day - 1]),
        noun="coins",
    )


def restock(rng: random.Random, scale: Scale) -> Draft:
    """A row's sum in crates, some sent back."""
    table, thing, size, back = Table.draw(rng, scale), rng.choice(THINGS), few(rng, scale), few(rng, scale)
    row, (a, b) = rng.randrange(4), sorted(rng.sample(range(4), 2))
    return Draft(
        question=(
            f"{table.text(thing)}\nBefore {table.days[a]} {table.places[row]} had {size} crates of {back} {thing}. "
            f"It sold what the table says on {table.days[a]} and {table.days[b]} and nothing else. "
            f"How many {thing} does it have now? (A negative number if it owes some.)"
        ),
        givens={"crates": size, "in_crate": back, "first": table.cells[row][a], "second": table.cells[row][b]},
        steps=(("stock", "crates * in_crate"), ("sold", "first + second"), ("now", "stock - sold")),
        misread=("first", table.cells[row - 1][a]),
        noun=thing,
    )


TABLES = (takings, lead, restock)


def ambiguous_span(rng: random.Random, scale: Scale) -> Draft:
    """Days "from … to …", both of which count."""
    table, thing, price = Table.draw(rng, scale, columns=5), rng.choice(THINGS), few(rng, scale)
    row, start = rng.randrange(4), rng.randrange(2)
    days = table.cells[row][start : start + 4]
    names = ["first", "second", "third", "fourth"]
    return Draft(
        question=(
            f"{table.text(thing)}\nOne costs {price} coins. How many coins did {table.places[row]} take in the columns "
            f"from {table.days[start]} to {table.days[start + 3]}? (Both ends count.)"
        ),
        givens={**dict(zip(names, days, strict=True)), "price": price},
        steps=(("pieces", "first + second + third + fourth"), ("coins", "pieces * price")),
        other_steps=(("pieces", "first + second + third"), ("coins", "pieces * price")),
        misread=("second", table.cells[row - 1][start + 1]),
        noun="coins",
    )


def ambiguous_times(rng: random.Random, scale: Scale) -> Draft:
    """A cell, then "k times more" than it."""
    table, thing, times, given = Table.draw(rng, scale), rng.choice(THINGS), rng.randint(2, 9), many(rng, scale)
    row, day = rng.randrange(4), rng.randrange(4)
    return Draft(
        question=(
            f"{table.text(thing)}\nA new shop sold {times} times more {thing} than {table.places[row]} did on "
            f"{table.days[day]} and gave {given} away. How many {thing} left the new shop? "
            f'("{times} times more" means {times} times as many here.)'
        ),
        givens={"sold": table.cells[row][day], "times": times, "given": given},
        steps=(("in_shop", "sold * times"), ("gone", "in_shop + given")),
        other_steps=(("in_shop", "sold + sold * times"), ("gone", "in_shop + given")),
        misread=("sold", table.cells[row - 1][day]),
        noun=thing,
    )


def ambiguous_each(rng: random.Random, scale: Scale) -> Draft:
    """A price "for two" that is meant for the pair."""
    table, thing, price = Table.draw(rng, scale), rng.choice(THINGS), 2 * few(rng, scale)
    row, (a, b) = rng.randrange(4), sorted(rng.sample(range(4), 2))
    return Draft(
        question=(
            f"{table.text(thing)}\nTwo of them cost {price} coins. How many coins is what {table.places[row]} sold on "
            f"{table.days[a]} and {table.days[b]} worth? (The price is for the two together, and half of it for one.)"
        ),
        givens={"first": table.cells[row][a], "second": table.cells[row][b], "price": price},
        steps=(("pieces", "first + second"), ("coins", "pieces * price // 2")),
        other_steps=(("pieces", "first + second"), ("coins", "pieces * price")),
        misread=("first", table.cells[row - 1][a]),
        noun="coins",
    )


AMBIGUOUS_TABLES = (ambiguous_span, ambiguous_times, ambiguous_each)
