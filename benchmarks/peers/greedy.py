"""Greedy text of 20 prompts x 64 tokens on both servers, and why they part where they do.

Where the texts part, both servers are asked how likely they hold the two candidates after the text that
is still common. A near tie: in one of them the two lie less than 0.25 nats apart, a gap that
8-bit activations alone open and close on this model.
"""

import argparse
import datetime
import json
import os
import pathlib

import servers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NEAR_TIE_NATS = 0.25


def explain(both, prompt, texts):
    """Where two texts part: the common part and each server's best next tokens after it."""
    common = os.path.commonprefix(texts)
    # Back to a place where both surely had whole tokens: the last space.
    while True:
        tops = [server.top(prompt + common) for server in both]
        best = [max(top, key=top.get) for top in tops]
        if best[0] != best[1] or " " not in common:
            break
        common = common[: common.rstrip().rfind(" ")] if " " in common else ""
    gaps = [abs(top[best[0]] - top[best[1]]) if best[0] in top and best[1] in top else None for top in tops]
    return {"after": common[-60:], "best": best, "gaps_nats": gaps,
            "near_tie": any(gap is not None and 0 < gap < NEAR_TIE_NATS for gap in gaps)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results"))
    args = parser.parse_args()
    prompts = (ROOT / "tests" / "data" / "oracle_prompts.txt").read_text().split("\n---\n")
    both = []
    try:
        both.append(servers.Thermocline(args.ours, args.model, os.cpu_count()))
        both.append(servers.LlamaServer(args.peer, args.model, os.cpu_count()))
        results = []
        for prompt in prompts:
            texts = [server.greedy(prompt, 64) for server in both]
            result = {"prompt": prompt[:60], "texts": texts, "same": texts[0] == texts[1]}
            if not result["same"]:
                result["parting"] = explain(both, prompt, texts)
            results.append(result)
    finally:
        for server in both:
            server.stop()
    num_same = sum(result["same"] for result in results)
    num_ties = sum(not result["same"] and result["parting"]["near_tie"] for result in results)
    print(f"greedy: {num_same} of {len(results)} texts are the same, {num_ties} part at a near tie, "
          f"{len(results) - num_same - num_ties} otherwise")
    out = pathlib.Path(args.out) / f"{datetime.date.today().isoformat()}-cpu-greedy.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
