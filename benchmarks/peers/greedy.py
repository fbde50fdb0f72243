"""Greedy text of 20 prompts x 64 tokens on both servers, and why they part where they do.

Where the texts part, both servers are asked how likely they hold the two candidates after the text that
is still common. A near tie: in one of them the two lie less than 0.25 nats apart, a gap that
the peer's 8-bit activations alone open and close on this model.
"""

import argparse
import datetime
import json
import os
import pathlib

import servers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NEAR_TIE_NATS = 0.25


def explain(ours, peer, prompt, our_text, peer_text, peer_tokens):
    """The first of the peer's tokens that ours would not have taken, and what both think of the two candidates."""
    common = os.path.commonprefix([our_text, peer_text])
    ids = ours.tokenize(prompt)
    kept = len(peer_tokens)
    while kept > 0 and not common.startswith(ours.detokenize(peer_tokens[:kept])):
        kept -= 1
    # A character cut into tokens hides the place by one or two.
    places = [n for n in (kept - 1, kept, kept - 2, kept + 1) if 0 <= n < len(peer_tokens)]
    for num_kept in places:
        taken = ours.detokenize([peer_tokens[num_kept]])
        tops = [server.top(ids + peer_tokens[:num_kept]) for server in (ours, peer)]
        best = [max(top, key=top.get) for top in tops]
        if best[0] != taken or best[1] != taken:
            break
    # Asked anew, with the text as a prompt, the peer may itself prefer ours: its own sums depend on the batch.
    pair = (best[0], taken) if best[0] != taken else (best[0], best[1])
    gaps = [abs(top[pair[0]] - top[pair[1]]) if pair[0] in top and pair[1] in top else None for top in tops]
    near = pair[0] != pair[1] and any(gap is not None and gap < NEAR_TIE_NATS for gap in gaps)
    return {"after": common[-60:], "num_tokens": num_kept, "pair": pair, "gaps_nats": gaps, "near_tie": near}


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
            our_text = both[0].greedy(prompt, 64)
            peer_text, peer_tokens = both[1].greedy(prompt, 64)
            texts = [our_text, peer_text]
            result = {"prompt": prompt[:60], "texts": texts, "same": texts[0] == texts[1]}
            if not result["same"]:
                result["parting"] = explain(*both, prompt, *texts, peer_tokens)
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
