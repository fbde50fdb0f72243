"""Retrieval tasks as raw completion prompts whose answers are exact digits.

A task is a list of Questions, in an order in which each prompt begins like those before it: the prefix
cache then computes what they share once. Everything is drawn from a seed, so each configuration gets the same.
"""

import dataclasses
import random
import re

import prose

DEPTHS = [(i + 0.5) / 9 for i in range(9)]
RECENT_TOKENS = 256  # no needle lies there: those pages are hot under every policy
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
NAMES = ("apple river candle garden marble winter copper violin meadow lantern harbor pepper saddle anchor "
         "basket ribbon timber walnut falcon mirror").split()


@dataclasses.dataclass
class Question:
    prompt: str
    answers: tuple  # numbers, as strings
    max_tokens: int = 10
    context: str = ""  # sent by itself before, so that its pages have cooled when the prompt comes

    def is_right(self, text):
        """One answer: it is the first number. Several: they are all among as many numbers."""
        numbers = re.findall(r"\d+", text)[: len(self.answers)]
        return set(numbers) == set(self.answers)


class Texts:
    """Filler of a wanted number of tokens, as a list of sentences."""

    def __init__(self, count_tokens):
        self.count_tokens = count_tokens
        self.novels = prose.novels()
        self.rates = {}

    def repeated(self, num_tokens):
        unit = prose.sentences(FILLER)
        return (unit * (num_tokens // 20))[: round(num_tokens * len(unit) / self.count_tokens(FILLER))]

    def natural(self, num_tokens, passage):
        """Passages do not overlap, up to 12 of them of 7K tokens in each novel."""
        titles = sorted(self.novels)
        novel = self.novels[titles[passage % len(titles)]]
        start = novel.index("\n\n", passage // len(titles) * 40_000) + 2
        text = novel[start : start + 8 * num_tokens]
        if passage not in self.rates:
            sample = text[:8000]
            self.rates[passage] = self.count_tokens(sample) / len(sample)
        return prose.sentences(text[: round(num_tokens / self.rates[passage])])


def number(chance):
    return str(chance.randrange(10_000, 100_000))


def plant(filler, needles, share):
    """`needles`: (depth, sentence) pairs; depth 1 is at `share` of the filler."""
    places = sorted((round(depth * share * len(filler)), sentence) for depth, sentence in needles)
    pieces = []
    begin = 0
    for place, sentence in places:
        pieces += filler[begin:place] + [sentence]
        begin = place
    return "".join(pieces + filler[begin:])


def passkey(texts, filler_kind, length, count, chance):
    """One needle at nine depths, the deepest first: what lies before it was computed for the one before."""
    head = "There is a pass key hidden in the following text. Find it and remember it.\n\n"
    tail = "\n\nWhat is the pass key? The pass key is"
    questions = []
    num_rounds = -(-count // len(DEPTHS))
    for chunk in range(num_rounds):
        filler = filler_of(texts, filler_kind, length - 60, chunk)
        depths = DEPTHS if chunk < num_rounds - 1 else spread(count - chunk * len(DEPTHS))
        for depth in sorted(depths, reverse=True):
            key = number(chance)
            needle = f"The pass key is {key}. Remember it. {key} is the pass key. "
            body = plant(filler, [(depth, needle)], 1 - RECENT_TOKENS / length)
            questions.append(Question(head + body + tail, (key,)))
    return questions


def spread(count):
    return [DEPTHS[round((i + 0.5) * len(DEPTHS) / count - 0.5)] for i in range(count)]


def filler_of(texts, filler_kind, num_tokens, passage):
    return texts.natural(num_tokens, passage) if filler_kind == "natural" else texts.repeated(num_tokens)


def multi_key(texts, filler_kind, length, count, chance, num_keys=4):
    """Several needles in one context that is computed before any question; each question asks for another."""
    head = "Some special magic numbers are hidden in the following text. Remember them.\n\n"
    questions = []
    for passage in range(count // num_keys):
        names = chance.sample(NAMES, num_keys)
        keys = {name: number(chance) for name in names}
        needles = [(depth, f"The special magic number for {name} is {keys[name]}. Remember it. ")
                   for name, depth in zip(names, spread(num_keys))]
        filler = filler_of(texts, filler_kind, length - 45 - 25 * num_keys, passage)
        context = head + plant(filler, needles, 1 - RECENT_TOKENS / length) + "\n\n"
        for name in chance.sample(names, num_keys):
            tail = f"What is the special magic number for {name}? The special magic number for {name} is"
            questions.append(Question(context + tail, (keys[name],), context=context))
    return questions


def multi_value(texts, filler_kind, length, count, chance):
    """One key with two values; both have to be told."""
    head = "Some special magic numbers are hidden in the following text. Remember them.\n\n"
    questions = []
    for first in spread(count)[::-1]:
        name, values = chance.choice(NAMES), (number(chance), number(chance))
        needles = [(depth, f"One of the special magic numbers for {name} is: {value}. ")
                   for value, depth in zip(values, (first / 2, (1 + first) / 2))]
        body = plant(filler_of(texts, filler_kind, length - 110, 0), needles, 1 - RECENT_TOKENS / length)
        tail = (f"\n\nWhat are the two special magic numbers for {name} in the text? "
                f"The two special magic numbers for {name} are:")
        questions.append(Question(head + body + tail, values, max_tokens=24))
    return questions


def variable_tracking(texts, filler_kind, length, count, chance):
    """VAR X1 = 12345 at one place, VAR X2 = X1 at a later one; the value of X2 is asked."""
    head = ("Remember the variables in the following text. An example: VAR LEMON = 52184. VAR TABLE = LEMON. "
            "So TABLE = LEMON = 52184.\n\n")
    questions = []
    for first in spread(count)[::-1]:
        one, two = (name.upper() for name in chance.sample(NAMES, 2))
        value = number(chance)
        needles = [(first / 2, f"VAR {one} = {value}. "), ((1 + first) / 2, f"VAR {two} = {one}. ")]
        body = plant(filler_of(texts, filler_kind, length - 110, 0), needles, 1 - RECENT_TOKENS / length)
        questions.append(Question(head + body + f"\n\nSo {two} =", (value,), max_tokens=16))
    return questions


TASKS = {"passkey": passkey, "multi-key": multi_key, "multi-value": multi_value, "variables": variable_tracking}


def build(texts, task, filler_kind, length, count):
    return TASKS[task](texts, filler_kind, length, count, random.Random(f"{task} {filler_kind} {length}"))
