"""Conversations that come back: one of 7K tokens after a restart, and many over an arena for few of them."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "peers"))

import agents
import compare
import long_return


def report(facts, results):
    text = (f"# Conversations that come back, {facts['date']}\n\n{facts['cpu']}, {facts['threads']} threads, "
            f"{facts['model']}, commit {facts['commit']}, load average before {facts['load_before'][0]:.1f}, "
            f"`make sessions`.\n")
    if "long" in results:
        peer = ", llama-server with one slot of 8,192 and flash attention" if facts["has_peer"] else ""
        text += (
            f"\n## {facts['history']} tokens and a new message of {long_return.MESSAGE}\n\n"
            f"Repetitions in turns, medians (least-greatest){peer}. A restored page is 64 tokens: of the history's end up "
            f"to 63 tokens are computed with the message. `from memory`: another conversation had taken the arena.\n\n"
            f"{long_return.table(results['long'], results['disk'])}\n")
    if "agents" in results:
        text += (
            f"\n## {facts['conversations']} conversations over an arena for {agents.ARENA_CONVERSATIONS}\n\n"
            f"{facts['turns']} turns, drawn by Zipf's law (s = 1, seed {facts['seed']}), {agents.CLIENTS} at a time. A "
            f"conversation begins with 400 to 800 tokens; each turn adds 100 to 200 and an answer of {agents.OUTPUT}; at "
            f"{agents.END} it begins anew. The arena, {agents.ARENA_BYTES >> 20} MiB, holds "
            f"{agents.ARENA_CONVERSATIONS} of {agents.END} hot tokens. `archive` is `{' '.join(agents.POLICIES['archive'])}`."
            f"\n\n{agents.table(results['agents'])}\n")
    return text


def save(args, facts, results):
    text = report(facts, results)
    compare.write(args.out, facts, "sessions", text, results=results)
    return text


def main():
    parser = compare.arguments(__doc__, peer_required=False)
    parser.add_argument("--parts", nargs="+", choices=("long", "agents"), default=("long", "agents"))
    parser.add_argument("--policies", nargs="+", default=["hot", "cold"], help="of the long conversation")
    parser.add_argument("--history", type=int, default=7000, help="tokens of the long conversation")
    parser.add_argument("--computed-repetitions", type=int, default=2, help="of what is computed, beside the first policy")
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--turns", type=int, default=160)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    facts = {**compare.facts_of(args, "-np 1 -c 8192 -fa on --cache-ram 0"), "has_peer": bool(args.peer),
             "history": args.history, "conversations": args.conversations, "turns": args.turns, "seed": args.seed}
    results = {}
    if "long" in args.parts:
        results["long"], results["disk"] = long_return.measure(args)
        save(args, facts, results)
    if "agents" in args.parts:
        results["agents"] = agents.measure(args)
    print(save(args, facts, results))


if __name__ == "__main__":
    main()
