"""Many conversations that come back at random over an arena for an eighth of them.

Who comes next is drawn by Zipf's law from a seed, never one that may still be answered. Each turn sends the whole
conversation again with a new message, as agents do; one that has grown to its end begins anew.
"""

import concurrent.futures
import contextlib
import json
import random
import statistics
import tempfile
import threading
import time

import compare
import long_return
import servers

CLIENTS = 4
OUTPUT = 48  # tokens of an answer
END = 2048  # tokens of a conversation
ARENA_CONVERSATIONS = 8
ARENA_BYTES = ARENA_CONVERSATIONS * (END // long_return.PAGE_TOKENS) * long_return.PAGE_BYTES
POLICIES = {
    "hot": ("--kv-policy", "hot"),
    "adaptive": ("--kv-policy", "adaptive"),
    # A budget that cold pages do not meet: those of long conversations are archived while they run, and wake.
    "archive": ("--kv-policy", "adaptive", "--kv-budget", "0.14", "--kv-fidelity", "max"),
}
STORES = {
    "no store": lambda folder: (),
    "memory": lambda folder: ("--kv-store-memory-bytes", "1G"),
    "disk": lambda folder: ("--kv-store-dir", folder, "--kv-store-memory-bytes", "32M"),
}
CONFIGURATIONS = [("hot", "no store"), ("adaptive", "no store"), ("adaptive", "memory"), ("archive", "memory"),
                  ("hot", "disk"), ("adaptive", "disk")]
TIERS = ("hot", "warm", "cold", "archive")


def schedule(num_conversations, num_turns, seed):
    """Numbers of conversations, the smaller the more often; each differs from the CLIENTS - 1 before it."""
    chance = random.Random(seed)
    numbers = range(num_conversations)
    weights = [1 / (number + 1) for number in numbers]
    turns = []
    while len(turns) < num_turns:
        number = chance.choices(numbers, weights)[0]
        if number not in turns[-(CLIENTS - 1):]:
            turns.append(number)
    return turns


class Conversation:
    """Token ids so far; a turn at a time. Its messages depend on the seed and its number alone."""

    def __init__(self, number, words):
        self.words = words
        self.chance = random.Random(number)
        self.lock = threading.Lock()  # one turn after another
        self.tokens = []

    def next_prompt(self):
        """The prompt, and how much of it was there before."""
        length = self.chance.randrange(100, 201)
        if len(self.tokens) + length + OUTPUT > END:
            self.tokens = []
        before = len(self.tokens)
        if before == 0:
            length = self.chance.randrange(400, 801)  # what the agent is told first
        self.tokens = self.tokens + self.words(length)
        return self.tokens, before


def turn(server, conversation):
    """One request: when its first token came, and what its usage says."""
    with conversation.lock:
        prompt, before = conversation.next_prompt()
        body = {**server.body(prompt, OUTPUT), "logprobs": None, "stream_options": {"include_usage": True}}
        begin = time.perf_counter()
        first, usage, text = None, None, ""
        with server.post(server.path, body) as stream:
            for line in stream:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    text += "".join(choice["text"] for choice in event["choices"])
                    if first is None:
                        first = time.perf_counter() - begin
                    usage = event.get("usage") or usage
        if usage["completion_tokens"] != OUTPUT:
            raise RuntimeError(f"not {OUTPUT} tokens: {usage}")
        # As with every client that keeps text: its tokens need not be those that were generated.
        conversation.tokens = prompt + server.tokenize(text)
        return {"before": before, "first": first, "prompt": len(prompt), **usage["prompt_tokens_details"],
                "bytes": {tier: facts["bytes"] for tier, facts in server.kv()["tiers"].items()}}


def run(args, policy, store):
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=compare.ROOT / "build"))
        server = servers.Thermocline(
            args.ours, args.model, args.threads,
            (*POLICIES[policy], "--max-model-len", str(END + long_return.PAGE_TOKENS), *STORES[store](folder)),
            ARENA_BYTES)
        stack.callback(server.stop)
        texts = {number: compare.prompts(number, server.tokenize) for number in range(args.conversations)}
        long_return.complete(server, texts[0](long_return.PAGE_TOKENS))
        conversations = [Conversation(number, texts[number]) for number in range(args.conversations)]
        order = schedule(args.conversations, args.turns, args.seed)
        begin, processor_begin = time.perf_counter(), server.processor_seconds()
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
            turns = list(clients.map(lambda number: turn(server, conversations[number]), order))
        seconds, processor_seconds = time.perf_counter() - begin, server.processor_seconds() - processor_begin
        return {"seconds": seconds, "processor_seconds": processor_seconds,
                **summary(turns, seconds, server.kv())}


def summary(turns, seconds, kv):
    first = [turn["first"] for turn in turns]
    returns = [turn["first"] for turn in turns if turn["before"] > 0]
    prompt = sum(turn["prompt"] for turn in turns)
    return {
        "turns": len(turns), "returns": len(returns), "prompt_tokens": prompt,
        "hit_rate": sum(turn["cached_tokens"] for turn in turns) / prompt,
        # If no page were ever lost: of what was there before, whole pages.
        "hit_limit": long_return.PAGE_TOKENS * sum(turn["before"] // long_return.PAGE_TOKENS for turn in turns) / prompt,
        "restored_tokens": sum(turn["restored_tokens"] for turn in turns),
        "first_token_p50": statistics.median(first), "first_token_p99": compare.percentile(first, 0.99),
        "return_p50": statistics.median(returns), "return_p99": compare.percentile(returns, 0.99),
        "tokens_per_second": (prompt + OUTPUT * len(turns)) / seconds,
        "output_tokens_per_second": OUTPUT * len(turns) / seconds,
        "preemptions": kv["preemptions"],
        "bytes": {tier: statistics.mean(turn["bytes"][tier] for turn in turns) for tier in TIERS},
        "store": kv["store"], "moves": kv["moves"],
    }


def mebibytes(num_bytes):
    return f"{num_bytes / 2**20:.0f}"


def store_bytes(result):
    store = result["store"]
    return "" if store is None else f"{mebibytes(store['memory']['bytes'])} / {mebibytes(store['disk']['bytes'])}"


def woken(result):
    store = result["store"]
    return "" if store is None else f"{store['woken_pages']} / {store['failed_wakes']}"


ROWS = (
    ("seconds for all", lambda r: f"{r['seconds']:.0f}"),
    ("processor seconds of the server", lambda r: f"{r['processor_seconds']:.0f}"),
    ("prompt tokens in whole pages of the turns before", lambda r: f"{100 * r['hit_limit']:.1f} %"),
    ("prompt tokens found in the cache", lambda r: f"{100 * r['hit_rate']:.1f} %"),
    ("of these restored, tokens", lambda r: str(r["restored_tokens"])),
    ("to the first token, all turns, p50 / p99 (ms)",
     lambda r: f"{1e3 * r['first_token_p50']:.0f} / {1e3 * r['first_token_p99']:.0f}"),
    ("to the first token, returns, p50 / p99 (ms)",
     lambda r: f"{1e3 * r['return_p50']:.0f} / {1e3 * r['return_p99']:.0f}"),
    ("tokens/s, prompts and output", lambda r: f"{r['tokens_per_second']:.0f}"),
    ("output tokens/s", lambda r: f"{r['output_tokens_per_second']:.1f}"),
    ("preemptions", lambda r: str(r["preemptions"])),
    ("arena after a turn, mean: " + " / ".join(TIERS) + " (MiB)",
     lambda r: " / ".join(mebibytes(r["bytes"][tier]) for tier in TIERS)),
    ("pages woken / not woken", woken),
    ("store at the end: memory / disk (MiB)", store_bytes),
    ("moves / of these inside a tier", lambda r: f"{sum(r['moves']['ended'].values())} / {r['moves']['compactions']}"),
    ("moves, share of step time", lambda r: f"{100 * r['moves']['share_of_step_time']:.1f} %"),
)


def measure(args):
    """{"policy, store": result}"""
    results = {}
    for policy, store in CONFIGURATIONS:
        result = results[f"{policy}, {store}"] = run(args, policy, store)
        print(f"{policy}, {store}: {result['seconds']:.0f} s, {100 * result['hit_rate']:.1f} % found", flush=True)
    return results


def table(results):
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    for name, cell in ROWS:
        lines.append(f"| {name} | " + " | ".join(cell(result) for result in results.values()) + " |")
    return "\n".join(lines)
