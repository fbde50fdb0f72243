"""Pass keys in archived pages: answered from the rows that are left, and after waking.

A first request carries the text with the key and writes on for a while, so that its pages cool and are archived.
A second one, a new turn of the same conversation, asks for the key. Under `archive` (a forced policy without a
store) it reads the archived pages as they are; under `adaptive` with a budget that cold pages do not meet, their
exact bytes come back first. `hot` is the control: the same turns, nothing cooled.
"""

import argparse
import datetime
import json
import pathlib
import random
import sys
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "benchmarks" / "peers"))

import compare
import counts
import servers
import tasks

CONFIGURATIONS = {
    "hot": "--kv-policy hot",
    "kept rows": "--kv-policy archive",
    "waking": "--kv-policy adaptive --kv-budget 0.14 --kv-fidelity max --kv-store-memory-bytes 2G",
}
WRITTEN = 96  # tokens of the first answer: pages are archived once they have been cold for 32 steps
CELLS = [("repeated", 1024), ("natural", 1024), ("repeated", 2048), ("natural", 2048)]


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

    def num_woken(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port}/v1/kv") as answer:
            store = json.load(answer)["store"]
        return (store["woken_pages"], store["failed_wakes"]) if store else (0, 0)

    def count_tokens(self, text):
        return len(self.server.tokenize(text))


def ask(asked, text, key):
    written, first = asked.complete(text, WRITTEN, ignore_eos=True)
    before = asked.num_woken()
    answer, second = asked.complete(text + written + "\n\nWhat is the pass key? The pass key is", 10)
    after = asked.num_woken()
    return {"right": tasks.Question("", (key,)).is_right(answer), "text": answer, "tokens": first["kv_tokens"],
            "kv_bytes": first["kv_bytes"], "cached": second["prompt_tokens_details"]["cached_tokens"],
            "woken": after[0] - before[0], "failed_wakes": after[1] - before[1]}


def table(results):
    lines = ["| filler | tokens | policy | answered | 95 % | lost / gained | archived tokens | woken pages | bytes per token |",
             "|---|---|---|---|---|---|---|---|---|"]
    for cell in CELLS:
        name = "/".join(map(str, cell))
        for policy in CONFIGURATIONS:
            records = results[policy].get(name)
            if not records:
                continue
            control = results["hot"][name]
            right = sum(record["right"] for record in records)
            lost = sum(c["right"] and not r["right"] for c, r in zip(control, records))
            gained = sum(r["right"] and not c["right"] for c, r in zip(control, records))
            low, high = counts.wilson(right, len(records))
            total = sum(sum(record["tokens"].values()) for record in records)
            archived = sum(record["tokens"].get("archive", 0) for record in records)
            lines.append(
                f"| {cell[0]} | {cell[1]} | {policy} | {right} of {len(records)} | {low:.2f} to {high:.2f} | {lost} / {gained} "
                f"| {archived / total:.0%} | {sum(r['woken'] for r in records)} (failed {sum(r['failed_wakes'] for r in records)}) "
                f"| {sum(record['kv_bytes'] for record in records) / total:.0f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
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
                records = [ask(asked, text, key) for text, key in questions(texts, filler, length, args.count)]
                results[policy][f"{filler}/{length}"] = records
                print(f"{policy}: {filler}/{length}: {sum(r['right'] for r in records)} of {len(records)}, "
                      f"woken {sum(r['woken'] for r in records)}", flush=True)
        finally:
            asked.server.stop()
    facts = {"date": datetime.date.today().isoformat(), "commit": compare.git_commit(), "cpu": compare.cpu_model(),
             "flags": CONFIGURATIONS, "written_tokens": WRITTEN}
    stem = pathlib.Path(args.out) / f"{facts['date']}-cpu-waking"
    stem.with_suffix(".json").write_text(json.dumps({"facts": facts, "results": results}, indent=1))
    text = f"# Pass keys in archived pages\n\n{json.dumps(facts)}\n\n{table(results)}\n"
    stem.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
