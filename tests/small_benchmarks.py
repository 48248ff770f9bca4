"""Every benchmark in small: files of our own making with the hub's fields, so that no test needs the hub.

`write_small_benchmarks(folder)` makes a data directory; each `NAME_row(i)` makes the i-th row of a benchmark
for any i, so that pools of any size can be made. No question is of the real data; every gold answer is right.
"""

import json
import math

NAMES = ("Ada", "Bela", "Cleo", "Dina", "Edo", "Fay", "Gus")
THINGS = ("pears", "marbles", "stamps", "candles", "bricks")
PLACES = ("Orvale", "Tarnmouth", "Quillsby", "Hexford", "Brannock")
SUBJECTS = {
    "algebra": "Algebra",
    "counting_and_probability": "Counting & Probability",
    "geometry": "Geometry",
    "intermediate_algebra": "Intermediate Algebra",
    "number_theory": "Number Theory",
    "prealgebra": "Prealgebra",
    "precalculus": "Precalculus",
}
CATEGORIES = ("computer science", "law", "physics", "history")


# --- numbers ----------------------------------------------------------------


def _story(i):
    """Who, what, and two numbers that no other i has."""
    return NAMES[i % 7], THINGS[i % 5], 3 + i % 11, 12 + i


def gsm8k_row(i):
    who, what, boxes, each = _story(i)
    total, left = boxes * each, boxes * each - boxes
    return {
        "question": f"{who} packs {boxes} boxes with {each} {what} each and gives one from each box away. "
        f"How many {what} are left?",
        "answer": f"There are {boxes}*{each}=<<{boxes}*{each}={total}>>{total} {what}.\n"
        f"Then {total}-{boxes}=<<{total}-{boxes}={left}>>{left} are left.\n#### {left:,}",
    }


def gsm_hard_row(i):
    who, what, days, _ = _story(i)
    a_day = 1_203_457 + 911 * i
    return {
        "input": f"{who}'s factory makes {a_day} {what} a day. How many in {days} days?",
        "code": f"def solution():\n    a_day = {a_day}\n    days = {days}\n    return a_day * days\n",
        "target": float(a_day * days),
    }


def svamp_row(i):
    who, what, some, more = _story(i)
    return {
        "ID": f"chal-{i}",
        "Body": f"{who} had {more} {what} and {some + 40} ribbons, and bought {some} {what}.",
        "Question": f"How many {what} does {who} have now?",
        "Equation": f"( {more}.0 + {some}.0 )",
        "Answer": str(more + some),
        "Type": "Addition",
    }


def mgsm_row(i, language):
    who, _, some, more = _story(i)
    texts = {
        "en": f"{who} reads {some} pages in the morning and {more} in the evening. How many pages a day?",
        "de": f"{who} liest morgens {some} und abends {more} Seiten. Wie viele Seiten sind das am Tag?",
    }
    return {"question": texts[language], "answer": None, "answer_number": some + more, "equation_solution": None}


def gsm_plus_row(i):
    """Eight rows a seed problem; the last of them has no answer."""
    kinds = "numerical substitution,digit expansion,integer-decimal-fraction conversion,adding operation"
    kind = f"{kinds},reversing operation,problem understanding,distraction insertion,critical thinking".split(",")[
        i % 8
    ]
    seed, turn = divmod(i, 8)
    who, what, some, more = _story(seed)
    question = f"{who} has {some} bags of {more} {what}"
    total = some * (more + turn)
    lost = kind == "critical thinking"
    answer = "None" if lost else "1/4" if i == 2 else str(total)
    asked = "One lot is gone. What fraction is that of four lots?" if i == 2 else f"How many {what} is that?"
    return {
        "question": f"{question} and {turn} loose ones for each bag. {asked}"
        if not lost
        else f"{question}, or fewer. ?",
        "solution": f"It is {some}*{more + turn}=<<{some}*{more + turn}={total}>>{total}.\n#### {answer}",
        "answer": answer,
        "perturbation_type": kind,
        "seed_question": f"{question}. How many {what} is that?",
        "seed_solution": f"<<{some}*{more}={some * more}>>\n#### {some * more}",
        "seed_answer": str(some * more),
    }


def math_row(i, subject):
    problems = (
        (f"Write $0.{(i % 8) + 1}5$ as a fraction in lowest terms.", None),
        (f"Simplify $\\sqrt{{{5 * (i + 2) ** 2}}}$.", f"{i + 2}\\sqrt{{5}}"),
        (f"Solve $x - {i} \\ge 2$ for $x < {i + 9}$.", f"[{i + 2},{i + 9})"),
        (f"Where does $y = x^2 + {i}$ meet the line $x = 2$?", f"(2,{i + 4})"),
        (f"What is $7 \\cdot {i + 3}$?", str(7 * (i + 3))),
    )
    problem, answer = problems[i % 5]
    if answer is None:
        top = 10 * (i % 8 + 1) + 5
        answer = f"\\frac{{{top // math.gcd(top, 100)}}}{{{100 // math.gcd(top, 100)}}}"
    first = "" if i % 5 == 4 else "A first guess is $\\boxed{0}$. In fact, "
    box = f"\\boxed {answer}" if i % 5 == 4 else f"\\fbox{{{answer}}}" if i % 10 == 3 else f"\\boxed{{{answer}}}"
    return {
        "problem": f"{problem} (Sheet {i} of {SUBJECTS[subject]}.)",
        "solution": f"{first}the answer is ${box}$.",
        "level": f"Level {i % 5 + 1}",
        "type": SUBJECTS[subject],
    }


def math_500_row(i):
    subject = list(SUBJECTS)[i % 7]
    row = math_row(i, subject)
    answer = row["solution"].rpartition("answer is $")[2].removesuffix("$.")
    bare = answer.removeprefix("\\boxed ") if "\\boxed " in answer else answer.partition("{")[2].removesuffix("}")
    return {
        "problem": row["problem"].replace("Sheet", "Page"),
        "solution": row["solution"],
        "answer": bare,
        "subject": row["type"],
        "level": i % 5 + 1,
        "unique_id": f"test/{subject}/{i}.json",
    }


# --- functions --------------------------------------------------------------


def _function(i):
    """Name, parameters, sentence, body, and calls with what they return."""
    k = i // 6 + 2
    name, parameters, sentence, body, does, inputs = (
        (f"shift_{k}", "x", f"adds {k} to a number", f"x + {k}", lambda x: x + k, (0, 5, -k)),
        (f"scale_{k}", "xs", f"multiplies each number by {k}", f"[{k} * x for x in xs]",
         lambda xs: [k * x for x in xs], ([1, 2], [], [-3])),
        (f"count_over_{k}", "xs", f"counts the numbers above {k}", f"sum(x > {k} for x in xs)",
         lambda xs: sum(x > k for x in xs), ([k, k + 1], [], [0, 99 + k])),
        (f"every_{k}", "text", f"keeps every {k}th letter, from the first on", f"text[::{k}]",
         lambda text: text[::k], ("workflow", "", "a")),
        (f"share_{k}", "n", f"splits a number of coins among {k} and tells each share and the rest",
         f"(n // {k}, n % {k})", lambda n: (n // k, n % k), (7, 0, 12 * k + 1)),
        (f"mean_with_{k}", "xs", f"gives the mean of some numbers and {k}",
         f"math.fsum([*xs, {k}]) / (len(xs) + 1)", lambda xs: math.fsum([*xs, k]) / (len(xs) + 1), ([k], [1, 2], [])),
    )[i % 6]  # fmt: skip
    return name, parameters, sentence, body, [(repr(value), repr(does(value))) for value in inputs]


def humaneval_row(i):
    name, parameters, sentence, body, calls = _function(i)
    example = f"    >>> {name}({calls[0][0]})\n    {calls[0][1]}\n"
    docstring = f'    """A function that {sentence}.\n\n{example}    """\n'
    checks = "".join(f"    assert candidate({given}) == {want}\n" for given, want in calls)
    return {
        "task_id": f"HumanEval/{i}",
        "prompt": f"import math\n\n\ndef {name}({parameters}):\n{docstring}",
        "canonical_solution": f"    return {body}\n",
        "test": f"METADATA = {{}}\n\n\ndef check(candidate):\n{checks}",
        "entry_point": name,
    }


def mbpp_row(i):
    """Each twelfth row has a single assertion; those of means need an import."""
    name, parameters, sentence, body, calls = _function(i)
    close = name.startswith("mean")
    helper = f"def helper_{name}(x):\n  return x\n"
    tests = [f"assert math.isclose({name}({a}), {b})" if close else f"assert {name}({a}) == {b}" for a, b in calls]
    return {
        "source_file": "Small.ipynb",
        "task_id": i + 2,
        "prompt": f"Write a python function that {sentence} (exercise {i}).",
        "code": f"import math\n{helper}def {name}({parameters}):\n  return helper_{name}({body})\n",
        "test_imports": ["import math"] if close else [],
        "test_list": tests[:1] if i % 12 == 9 else tests,
    }


# --- texts ------------------------------------------------------------------


def drop_row(i):
    """Answers of one span that annotators agree on, of several spans, numbers and dates, in turn."""
    who, what, some, more = _story(i)
    place, day = PLACES[i % 5], i % 28 + 1
    question, spans, kinds = (
        (f"How many {what} were sold on both days?", [str(some + more), str(some + more)], ["number", "number"]),
        ("Who opened the market?", [who, f"Mayor {who}"], ["span", "span"]),
        ("Which goods were sold?", [what, "ribbons", what, "ribbons"], ["span"] * 4),
        ("When was the market opened?", [f"{day} May 1911"], ["date"]),
    )[i % 4]
    return {
        "section_id": f"history_{i}",
        "query_id": f"5a{i:04x}-small",
        "passage": f"On {day} May 1911 Mayor {who} opened the market of {place}. {some} {what} were sold on the first "
        f"day and {more} on the second, beside ribbons.",
        "question": question,
        "answers_spans": {"spans": spans, "types": kinds},
    }


def eleuther_drop_row(i):
    """The same with the fields of the other copy on the hub; each fourth row has a second annotator's answer."""
    row = drop_row(i)
    spans, kinds = row["answers_spans"]["spans"], row["answers_spans"]["types"]
    no_date = {"day": "", "month": "", "year": ""}
    answer = {"number": "", "date": no_date, "spans": [], "worker_id": "", "hit_id": ""}
    if kinds[0] == "date":
        answer |= {"date": dict(zip(no_date, spans[0].split(), strict=True))}
    else:
        answer |= {"number": spans[0]} if kinds[0] == "number" else {"spans": spans[: (len(spans) + 1) // 2]}
    second = {"number": [""], "date": [no_date], "spans": [[spans[1]] if i % 4 == 1 else []]}
    validated = second | {"worker_id": [""], "hit_id": [""]}
    return {key: row[key] for key in ("section_id", "query_id", "passage", "question")} | {
        "answer": answer,
        "validated_answers": validated,
    }


def hotpotqa_row(i):
    who, what, some, _ = _story(i)
    place, other = PLACES[i % 5], PLACES[(i + 1) % 5]
    question, answer, kind = (
        (f"In which town was the founder of the works for {what} no. {i} born?", place, "bridge"),
        (f"Were both {who} and the works no. {i} founded in {place}?", "no", "comparison"),
        (f"How many looms had the works no. {i} of the founder who was born in {place}?", f"{some} looms", "bridge"),
    )[i % 3]
    sentences = {
        f"Works no. {i}": [f"Works no. {i} made {what} with {some} looms.", f" They were founded by {who} in {other}."],
        who: [f"{who} was a weaver.", f" Born in {place}, {who} never left the county."],
        other: [f"{other} is a town on a river.", ""],
    }
    return {
        "id": f"5b{i:06x}",
        "question": question,
        "answer": answer,
        "type": kind,
        "level": "hard",
        "supporting_facts": {"title": [f"Works no. {i}", who], "sent_id": [1, 1]},
        "context": {"title": list(sentences), "sentences": list(sentences.values())},
    }


# --- options ----------------------------------------------------------------


def mmlu_pro_row(i):
    who, what, some, more = _story(i)
    options = [f"{some * more + step} {what}" for step in range(4 + i % 7)]
    right = i % len(options)
    options[0], options[right] = options[right], options[0]
    return {
        "question_id": 70 + i,
        "question": f"By the rule of {who}, how many {what} are in {some} crates of {more}?",
        "options": options,
        "answer": "ABCDEFGHIJ"[right],
        "answer_index": right,
        "cot_content": "",
        "category": CATEGORIES[i % 4],
        "src": "small",
    }


def gpqa_row(i):
    who, what, some, more = _story(i)
    return {
        "Record ID": f"recSmall{i:04}",
        "Question": f"{who} weighs {some} {what} of {more} g each.\nWhat is their mass?\n",
        "Correct Answer": f"{some * more} g\n",
        "Incorrect Answer 1": f"{some + more} g",
        "Incorrect Answer 2": f"{some * more + 1} g",
        "Incorrect Answer 3": f"{some * more / 10} kg",
        "High-level domain": "Physics",
        "Subdomain": "Mechanics",
    }


def gaia_row(i):
    """Each sixth question has a table, each sixth another one a picture."""
    who, what, some, more = _story(i)
    file_name = {4: f"small-{i}.csv", 5: f"small-{i}.png"}.get(i % 6, "")
    question, answer = (
        (f"{who} has {some} times {more} {what}. How many is that?", str(some * more)),
        (f"Name, in this order and with commas, the places {PLACES[i % 5]} and {NAMES[i % 7]}.",
         f"{PLACES[i % 5]}, {NAMES[i % 7]}"),
        (f"Which town is written {PLACES[i % 5][::-1]} backwards (riddle {i})?", PLACES[i % 5]),
    )[i % 3]  # fmt: skip
    return {
        "task_id": f"{i:08x}-small",
        "Question": question,
        "Level": str(i % 3 + 1),
        "Final answer": answer,
        "file_name": file_name,
        "file_path": f"2023/validation/{file_name}" if file_name else "",
        "Annotator Metadata": {"Steps": "1. Read.", "Number of steps": "1", "Tools": "None"},
    }


# --- files ------------------------------------------------------------------


def _some(make, n, start=0, **fields):
    return [make(i, **fields) for i in range(start, start + n)]


def small_files(n=24):
    """Rows by file, relative to a data directory and without a suffix; folders and names in every spelling."""
    maths = {f"math/{s}_test": _some(math_row, max(4, n // 6), subject=s) for s in SUBJECTS}
    return maths | {
        "gsm8k/test": _some(gsm8k_row, n),
        "gsm8k/main_train": _some(gsm8k_row, n // 2, start=10_000),
        "gsm-hard/train": _some(gsm_hard_row, n),
        "svamp/test": _some(svamp_row, n),
        "svamp/train": _some(svamp_row, n // 2, start=10_000),
        "mgsm/en_test": _some(mgsm_row, n, language="en"),
        "mgsm/de_test": _some(mgsm_row, n, language="de"),
        "gsm-plus/testmini": _some(gsm_plus_row, n),
        "math-500/test": _some(math_500_row, n),
        "humaneval/test": _some(humaneval_row, n),
        "mbpp/sanitized_train": _some(mbpp_row, n // 3),
        "mbpp/test": _some(mbpp_row, n - n // 3, start=n // 3),
        "drop/validation": _some(drop_row, n),
        "hotpotqa/distractor_validation": _some(hotpotqa_row, n),
        "mmlu-pro/test": _some(mmlu_pro_row, n),
        "mmlu-pro/validation": _some(mmlu_pro_row, n // 2, start=10_000),
        "gpqa/train": _some(gpqa_row, n),
        "gaia/2023_all_validation": _some(gaia_row, n),
    }


def write_rows(path, rows):
    """Writes one file of JSON lines, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_small_benchmarks(folder, n=24):
    """Writes every benchmark into a data directory, about n rows of each; returns the directory."""
    for stem, rows in small_files(n).items():
        write_rows(folder / f"{stem}.jsonl", rows)
    for row in _some(gaia_row, n):
        if row["file_name"].endswith(".csv"):
            (folder / "gaia" / row["file_name"]).write_text(f"thing,count\n{row['task_id']},7\n")
        elif row["file_name"]:
            (folder / "gaia" / row["file_name"]).write_bytes(b"\x89PNG\r\n")
    return folder
