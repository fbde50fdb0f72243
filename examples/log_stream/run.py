"""A log that never ends, read through a window: what the prefix cache and the store do when the window slides."""

import pathlib
import random
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import common

HEAD = "The log of a shop's web servers. After it, one line says what is wrong, if anything is.\n\n"
TAIL = "\nWhat is wrong in this log: "
BATCH = 8  # lines that come between two questions


def log_lines(seed):
    """Requests, mostly quick ones; from time to time a disk fills or a database is slow. The same for every run."""
    chance = random.Random(seed)
    second = 9 * 3600
    while True:
        second += chance.randrange(0, 4)
        clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        path = chance.choice(("/", "/cart", "/search", "/item/4711", "/pay"))
        host = f"web-{chance.randrange(1, 5)}"
        if chance.random() < 0.05:
            yield f"{clock} {host} ERROR {chance.choice(('disk full', 'database timeout', 'out of memory'))} at {path}\n"
        else:
            yield f"{clock} {host} GET {path} 200 {chance.randrange(3, 90)} ms\n"


def main():
    args = common.arguments(__doc__).parse_args()
    window_tokens, batches = (1300, 8) if args.quick else (3000, 30)
    answer_tokens = 8 if args.quick else 16

    def stream(server, slide_by_half, seed):
        """(answers, the fullest window before the first slide)"""
        lines, window, answers, full = log_lines(seed), [], [], None
        for _ in range(batches):
            new = [next(lines) for _ in range(BATCH)]
            if len(server.tokenize(HEAD + "".join(window + new))) > window_tokens:
                full = full or list(window)
                # What stays has new positions: all of it is computed again, whether much or little goes.
                window = window[len(window) // 2:] if slide_by_half else window[BATCH:]
            window += new
            answers.append(server.ask(HEAD + "".join(window) + TAIL, answer_tokens))
        print("".join(window[-2:]) + f"{TAIL.strip()}\n    {answers[-1].line}")
        return answers, full

    def run(server):
        rows, full = {}, None
        # Two logs: the second does not find what the first has left.
        for name, slide_by_half, seed in (("a batch at a time", False, 1), ("by half", True, 2)):
            answers, first_window = stream(server, slide_by_half, seed)
            full = full or first_window
            prompt = sum(answer.usage["prompt_tokens"] for answer in answers)
            cached = sum(answer.usage["prompt_tokens_details"]["cached_tokens"] for answer in answers)
            first = [answer.first for answer in answers]
            rows[f"slides {name}: of the prompts computed, tokens"] = f"{prompt - cached} of {prompt}"
            rows[f"slides {name}: to the first token (s), median / longest"] = (
                f"{statistics.median(first):.2f} / {max(first):.2f}")
        rows |= server.memory()
        back = server.ask(HEAD + "".join(full) + "\nHow many errors are in this log:", answer_tokens)
        print(f"How many errors are in this log:\n    {back.line}")
        rows["back to the first full window: prompt / cached / restored tokens"] = common.restored(back)
        rows["back to the first full window: to the first token (s)"] = f"{back.first:.2f}"
        return rows

    # For little more than one window: what has slid out is soon gone from the arena.
    longest = max(2048, window_tokens + 256)
    arena = ("--max-model-len", str(longest),
             "--kv-cache-memory-bytes", str((longest // 64 + 1) * common.HOT_PAGE_BYTES))
    common.compare(args, run, {
        "cold pages and a store": (*arena, "--kv-policy", "cold", "--kv-store-memory-bytes", "1G"),
        "off": (*arena, "--kv-policy", "hot"),
    })


if __name__ == "__main__":
    main()
