"""Pass keys in archived pages: answered from the rows that are left, and after waking.

A first request carries the text with the key and writes on for a while, so that its pages cool and are archived.
Then the key is asked for twice. Of the text alone: every configuration is asked the same tokens, and of what it has
of them nothing was computed over archived pages, so that right and wrong are a matter of the pages that come back.
And as the next turn of the conversation, as a user would: what the first request wrote lies between; it was written
over archived pages and differs between configurations.

`hot`: nothing cools. `cold`: adaptive, the pages cool as those that will be archived do, but without a store none is
archived; what waking promises is this. `kept rows`: a forced policy archives and, without a store, reads what is left.
`waking`: adaptive with a store and a budget that cold pages do not meet; the exact bytes come back before the question.
"""

import argparse
import datetime
import json
import pathlib
import random
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "benchmarks" / "peers"))

import compare
import counts
import servers
import tasks

ADAPTIVE = "--kv-policy adaptive --kv-budget 0.14 --kv-fidelity max"
CONFIGURATIONS = {
    "hot": "--kv-policy hot",
    "cold": ADAPTIVE,
    "kept rows": "--kv-policy archive",
    "waking": f"{ADAPTIVE} --kv-store-memory-bytes 2G",
}
WRITTEN = 96  # tokens of the first answer: pages are archived once they have been cold for 32 steps
CELLS = [("repeated", 1024), ("natural", 1024), ("repeated", 2048), ("natural", 2048)]
QUESTION = "\n\nWhat is the pass key? The pass key is"
ASKED = {"text": "of the text", "turn": "as the next turn"}


def questions(texts, filler_kind, length, count):
    """(text with a key, key), each text another one: nothing is found in the prefix cache but the turn before."""
    chance = random.Random(f"waking {filler_kind} {length}")
    head = "There is a pass key hidden in the following text. Find it and remember it.\n\n"
    for number in range(count):
        key = tasks.number(chance)
        needle = f"The pass key is {key}. Remember it. {key} is the pass key. "
        filler = tasks.filler_of(texts, filler_kind, length - 60, number // len(tasks.DEPTHS))
        depth = tasks.DEPTHS[number % len(tasks.DEPTHS)]
        yield f"Text {number}. " + head + tasks.plant(filler, [(depth, needle)], 1 - tasks.RECENT_TOKENS / length), key


class Asked:
    def __init__(self, args, flags):
        self.server = servers.Thermocline(args.ours, args.model, args.threads,
                                          (*flags.split(), "--max-num-batched-tokens", "64"))

    def complete(self, prompt, max_tokens, **more):
        body = {"model": self.server.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **more}
        with self.server.post("/v1/completions", body) as answer:
            answer = json.load(answer)
        return answer["choices"][0]["text"], answer["usage"]

    def wakes(self):
        """Pages that have woken so far, and that could not."""
        store = self.server.kv()["store"]
        return (store["woken_pages"], store["failed_wakes"]) if store else (0, 0)

    def question(self, before, key):
        woken, failed = self.wakes()
        answer, usage = self.complete(before + QUESTION, 10)
        woken_after, failed_after = self.wakes()
        return {"right": tasks.Question("", (key,)).is_right(answer), "answer": answer,
                "cached": usage["prompt_tokens_details"]["cached_tokens"],
                "woken": woken_after - woken, "failed_wakes": failed_after - failed}

    def ask(self, text, key):
        written, usage = self.complete(text, WRITTEN, ignore_eos=True)
        return {"tokens": usage["kv_tokens"], "kv_bytes": usage["kv_bytes"],
                "text": self.question(text, key), "turn": self.question(text + written, key)}

    def count_tokens(self, text):
        return len(self.server.tokenize(text))


def row(name, policy, records):
    """`records`: of every policy."""
    cells = [name, policy]
    ours, hot, cold = records[policy], records["hot"], records["cold"]
    for asked in ASKED:
        rights = [(record[asked]["right"], control[asked]["right"]) for record, control in zip(ours, hot)]
        right = sum(right for right, _ in rights)
        low, high = counts.wilson(right, len(rights))
        cells += [f"{right} of {len(rights)}", f"{100 * low:.0f} to {100 * high:.0f}",
                  f"{rights.count((False, True))} / {rights.count((True, False))}",
                  str(sum(record[asked]["answer"] == control[asked]["answer"] for record, control in zip(ours, cold)))]
    total = sum(sum(record["tokens"].values()) for record in ours)
    archived = sum(record["tokens"].get("archive", 0) for record in ours)
    cells += [f"{100 * archived / total:.0f} %"]
    cells += [str(sum(record[asked][fact] for asked in ASKED for record in ours)) for fact in ("woken", "failed_wakes")]
    cells += [f"{sum(record['kv_bytes'] for record in ours) / total:.0f}"]
    return "| " + " | ".join(cells) + " |"


def table(results):
    """By cell, and of all of them at the end."""
    columns = ["text", "policy"]
    for asked in ASKED.values():
        columns += [f"answered, {asked}", "95 % (%)", "lost / gained", "word for word as `cold`"]
    columns += ["archived tokens", "pages woken", "not woken", "bytes per token"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    names = ["/".join(map(str, cell)) for cell in CELLS]
    for name in names:
        records = {policy: results[policy][name] for policy in CONFIGURATIONS}
        lines += [row(name, policy, records) for policy in CONFIGURATIONS]
    every = {policy: [record for name in names for record in results[policy][name]] for policy in CONFIGURATIONS}
    lines += [row("**all**", policy, every) for policy in CONFIGURATIONS]
    return "\n".join(lines)


def summary(records):
    """What is kept of one cell: which questions were answered (1 or 0 each, in order) and what that took."""
    kept = {asked: {"right": "".join(str(int(record[asked]["right"])) for record in records),
                    **{fact: sum(record[asked][fact] for record in records) for fact in ("woken", "failed_wakes")}}
            for asked in ASKED}
    kept["kv_bytes"] = sum(record["kv_bytes"] for record in records)
    kept["tokens"] = {tier: sum(record["tokens"].get(tier, 0) for record in records)
                      for tier in sorted({tier for record in records for tier in record["tokens"]})}
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=18, help="questions of each cell")
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results"))
    args = parser.parse_args()
    results = {}
    for policy, flags in CONFIGURATIONS.items():
        asked = Asked(args, flags)
        texts = tasks.Texts(asked.count_tokens)
        results[policy] = {}
        try:
            for filler, length in CELLS:
                records = [asked.ask(text, key) for text, key in questions(texts, filler, length, args.count)]
                results[policy][f"{filler}/{length}"] = records
                right = ", ".join(f"{sum(r[name]['right'] for r in records)} {words}" for name, words in ASKED.items())
                print(f"{policy}: {filler}/{length}: of {len(records)} {right}, "
                      f"woken {sum(r[name]['woken'] for r in records for name in ASKED)}", flush=True)
        finally:
            asked.server.stop()
    facts = {"date": datetime.date.today().isoformat(), "commit": compare.git_commit(), "cpu": compare.cpu_model(),
             "flags": CONFIGURATIONS, "written_tokens": WRITTEN}
    text = f"# Pass keys in archived pages\n\n{json.dumps(facts)}\n\n{table(results)}\n"
    kept = {policy: {cell: summary(records) for cell, records in cells.items()} for policy, cells in results.items()}
    compare.write(args.out, facts, "waking", text, results=kept)
    print(text)


if __name__ == "__main__":
    main()
