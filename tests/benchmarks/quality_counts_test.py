"""What the quality harness counts: intervals, paired tests, right answers, planted needles."""

import pathlib
import struct
import sys
import zlib

import pytest

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent.parent / "benchmarks" / "quality"))

import counts
import prose
import report
import tasks


@pytest.mark.parametrize("right, asked, low, high", [
    (0, 10, 0.0, 0.2775),  # Newcombe 1998 and R's prop.test(correct = FALSE)
    (10, 10, 0.7225, 1.0),
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
])
def test_wilson_interval_is_that_of_the_literature(right, asked, low, high):
    assert counts.wilson(right, asked) == pytest.approx((low, high), abs=1e-4)


def test_nothing_asked_says_nothing():
    assert counts.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("lost, gained, p", [(0, 0, 1), (1, 1, 1), (5, 0, 2 / 32), (8, 2, 112 / 1024), (2, 8, 112 / 1024)])
def test_mcnemar_is_the_two_sided_binomial(lost, gained, p):
    assert counts.mcnemar(lost, gained) == pytest.approx(p)


def test_exact_digits_decide():
    one = tasks.Question("", ("12345",))
    assert one.is_right(" 12345. The pass key")
    assert not one.is_right(" 123456")
    assert not one.is_right(" 54321 or 12345")
    both = tasks.Question("", ("12345", "67890"))
    assert both.is_right(" 67890 and 12345.")
    assert not both.is_right(" 12345 and 12345.")


def test_needles_are_planted_in_order_and_out_of_the_recent_part():
    filler = [f"s{i} " for i in range(100)]
    text = tasks.plant(filler, [(1.0, "LATE "), (0.0, "EARLY ")], share=0.5)
    assert text.startswith("EARLY s0 ")
    assert "s49 LATE s50 " in text


class WordCounts(tasks.Texts):
    def __init__(self):
        self.count_tokens = lambda text: len(text.split())
        self.novels = {"novel": "\n\n" + "It was a fine day. " * 20_000 + "\n\n"}
        self.rates = {}


@pytest.mark.parametrize("task", tasks.TASKS)
def test_a_task_is_the_same_every_time_and_as_long_as_wanted(task):
    first, second = (tasks.build(WordCounts(), task, "repeated", 1024, 12) for _ in range(2))
    assert first == second
    assert len(first) == 12
    for question in first:
        assert 800 < len(question.prompt.split()) < 1100
        assert question.prompt.startswith(question.context)
        assert all(answer not in question.prompt[-150:] for answer in question.answers)


def test_later_passkey_prompts_reuse_what_was_computed():
    prompts = [question.prompt for question in tasks.build(WordCounts(), "passkey", "repeated", 1024, 9)]
    places = [prompt.index("The pass key is") for prompt in prompts]
    assert places == sorted(places, reverse=True)
    assert all(a[:place] == b[:place] for a, b, place in zip(prompts, prompts[1:], places[1:]))


def test_sentences_joined_are_the_text():
    text = 'He came. "Did he?" she asked!  Yes.\n\nThen, nothing'
    assert "".join(prose.sentences(text)) == text
    assert prose.sentences(text)[0] == "He came. "


def test_vectors_of_strings_are_read_from_an_r_database():
    def vector(lines):
        data = b"X\n" + struct.pack(">iiii", 3, 0x40200, 0x30500, 5) + b"UTF-8" + struct.pack(">ii", 16, len(lines))
        for line in lines:
            data += struct.pack(">ii", 0x40009, len(line.encode())) + line.encode()
        return struct.pack(">I", len(data)) + zlib.compress(data)

    books = [["EMMA", "", "by her"], ["Persuasion"]]
    assert list(prose.character_vectors(b"".join(vector(book) for book in books))) == books
    assert prose.paragraphs(["one", "two", "", "", "three"]) == "one two\n\nthree"


def test_distributions_are_summed_by_context():
    text = {"kl": [0.0] * 600 + [1.0] * 400 + [3.0] * 24, "same_top": [1] * 1024, "nll_hot": [2.0] * 1024,
            "nll": [2.1] * 1024}
    summary = report.distribution([text])
    assert list(summary) == ["0.5-1K"]
    one = summary["0.5-1K"]
    assert one["positions"] == 512
    assert one["mean_kl"] == pytest.approx((400 + 72) / 512)
    assert one["p99_kl"] == 3.0
    assert one["perplexity_change"] == pytest.approx(0.10517, abs=1e-4)
