"""An agent that remembers everything: hundreds of turns in one conversation, saved by name over a restart."""

import pathlib
import random
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import common

ROOMS = ("kitchen", "cellar", "attic", "garden", "library", "garage", "hall", "workshop")
THINGS = ("lamp", "ladder", "toolbox", "kettle", "map", "rope", "bucket", "radio", "blanket", "clock")
HEAD = "An assistant in a house notes what it sees, each time in a few words, and forgets nothing.\n\n"


def observations(seed):
    """What the agent sees: one thing in one room at a time, the same for every run."""
    chance = random.Random(seed)
    number = 0
    while True:
        number += 1
        room, thing = chance.choice(ROOMS), chance.choice(THINGS)
        yield f"Observation {number}: the {thing} is in the {room}, {chance.randrange(2, 40)} degrees there.\nNote:"


def main():
    args = common.arguments(__doc__).parse_args()
    end = 1100 if args.quick else 7600  # tokens
    note_tokens = 8 if args.quick else 10
    question = "\nQuestion: where was the first thing that you observed?\nAnswer: it was in the"

    def run(server):
        history, first, tokens, see = HEAD, [], 0, observations(1)
        while tokens < end:
            history += next(see)
            answer = server.ask(history, note_tokens, stop=["\n"], session_id="agent")
            history += f" {answer.text}\n"
            first.append(answer.first)
            tokens = answer.usage["total_tokens"]
        print(history[:300] + "...\n" + "\n".join(history.splitlines()[-4:]))
        tenth = max(1, len(first) // 10)
        rows = {
            "turns": str(len(first)),
            "tokens at the end": str(tokens),
            **server.memory(),
            "first tenth: to the first token (ms)": f"{1e3 * statistics.median(first[:tenth]):.0f}",
            "last tenth: to the first token (ms)": f"{1e3 * statistics.median(first[-tenth:]):.0f}",
        }
        has_store = rows["store: memory / disk (MiB)"] != "off"
        if has_store:
            saved = server.post("/v1/kv/sessions/agent/save", {})
            rows["saved: tokens, MiB"] = f"{saved['saved_tokens']}, {common.mebibytes(saved['bytes'])}"
        if server.restart() and has_store:
            rows["restored after a restart, tokens"] = str(
                server.post("/v1/kv/sessions/agent/restore", {})["restored_tokens"])
        answer = server.ask(history + question, 8, session_id="agent")
        print(f"{question.strip()}\n    {answer.line}\n    (seen: {history.splitlines()[2]})")
        rows["question: prompt / cached / restored tokens"] = common.restored(answer)
        rows["question: to the first token (s)"] = f"{answer.first:.2f}"
        return rows

    arena = ("--max-model-len", "8192", "--kv-cache-memory-bytes", "256M")
    common.compare(args, run, {
        "a quarter of the bytes and a store": (*arena, "--kv-budget", "0.25", "--kv-store-dir", "STORE"),
        "off": (*arena, "--kv-policy", "hot"),
    })


if __name__ == "__main__":
    main()
