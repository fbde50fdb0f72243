"""More sequences than the KV arena holds at full precision: what the policy does to them, beside `hot`.

The arena holds --arena-sequences sequences of --prompt + --output tokens, all hot; --sequences of them come at
once. Each prompt hides a pass key of its own and ends with the question for it, so that quality is seen under the
same load; prompts differ from their first page on. The control is an arena in which nothing has to be demoted.
"""

import argparse
import dataclasses
import datetime
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import threading
import time

import httpx

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "benchmarks" / "peers"))

import compare

PAGE_TOKENS = 64
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "


@dataclasses.dataclass
class Answer:
    """One request: arrival times of its tokens in seconds after all were sent, and whether it knew its key."""

    times: list
    text: str
    key: str

    @property
    def right(self):
        return self.text.strip().startswith(self.key)


class Server:
    def __init__(self, binary, model, policy, arena_bytes, max_model_len, max_num_seqs, more):
        command = [binary, "serve", model, "--port", "0", "--served-model-name", "model", "--kv-policy", policy,
                   "--kv-cache-memory-bytes", str(arena_bytes), "--max-model-len", str(max_model_len),
                   "--max-num-seqs", str(max_num_seqs), *more]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("Serving on "):
            raise RuntimeError(f"the server did not start: {' '.join(command)}")
        self.url = line.split()[-1]
        self.http = httpx.Client(base_url=self.url, timeout=None)
        while self.http.get("/v1/kv").json()["calibration"]["state"] in ("measuring", "switching"):
            time.sleep(0.1)  # once per model

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()

    def tokenize(self, text):
        body = {"prompt": text, "add_special_tokens": False}
        return self.http.post("/tokenize", json=body).json()["tokens"]

    def state(self):
        """What the server says of itself: /load, and /v1/kv where there is one."""
        state = {"load": self.http.get("/load").json()}
        kv = self.http.get("/v1/kv")
        if kv.status_code == 200:
            state["kv"] = kv.json()
        return state


def build_prompt(server, number, length, chance):
    """`length` tokens with a pass key somewhere, the question last; the pass key."""
    key = str(chance.randrange(10000, 100000))
    head = server.tokenize(
        f"Text {number}. There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
        "I will quiz you about the important information there.\n")
    needle = server.tokenize(f" The pass key is {key}. Remember it. {key} is the pass key. ")
    question = server.tokenize("\nWhat is the pass key? The pass key is")
    filler = server.tokenize(FILLER)
    room = length - len(head) - len(needle) - len(question)
    text = (filler * (room // len(filler) + 1))[:room]
    # Between two rounds of the filler, neither in the first page nor in the recent window.
    rounds = room // len(filler)
    first, last = PAGE_TOKENS // len(filler) + 1, rounds - 256 // len(filler) - 1
    at = chance.randrange(first, max(first + 1, last)) * len(filler)
    return head + text[:at] + needle + text[at:] + question, key


def ask(url, prompt, key, num_tokens, begin, answers, index):
    body = {"model": "model", "prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True,
            "stream": True}
    answer = Answer(times=[], text="", key=key)
    with httpx.Client(base_url=url, timeout=None) as http, http.stream("POST", "/v1/completions", json=body) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(event)
                answer.times.append(time.perf_counter() - begin)
                answer.text += "".join(choice["text"] for choice in event["choices"])
    answers[index] = answer


def watch(server, samples, done):
    """Samples the server's state until `done`."""
    while not done.wait(1.0):
        samples.append(server.state())


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def wilson(right, total, z=1.96):
    share = right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return middle - half, middle + half


def run(server, args):
    """All sequences on one server: what came out, and what it took."""
    chance = random.Random(args.seed)
    prompts = [build_prompt(server, number, args.prompt, chance) for number in range(args.sequences)]
    answers = [None] * len(prompts)
    samples, done = [], threading.Event()
    watcher = threading.Thread(target=watch, args=(server, samples, done))
    begin = time.perf_counter()
    threads = [threading.Thread(target=ask, args=(server.url, prompt, key, args.output, begin, answers, i))
               for i, (prompt, key) in enumerate(prompts)]
    for thread in [watcher, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    done.set()
    watcher.join()
    if None in answers:
        raise RuntimeError("a request did not end")
    samples.append(server.state())
    last = samples[-1]["load"]
    first = [answer.times[0] for answer in answers]
    gaps = [b - a for answer in answers for a, b in zip(answer.times, answer.times[1:])]
    num_tokens = args.sequences * (args.prompt + args.output)
    return {
        "seconds": seconds,
        "tokens_per_second": num_tokens / seconds,
        "output_tokens_per_second": args.sequences * args.output / seconds,
        "preemptions": last["num_preemptions"],
        "most_running": max(sample["load"]["num_running"] for sample in samples),
        "first_token_p50": statistics.median(first),
        "first_token_p99": percentile(first, 0.99),
        "between_tokens_p50": statistics.median(gaps),
        "between_tokens_p99": percentile(gaps, 0.99),
        "right": sum(answer.right for answer in answers),
        "answers": [[answer.key, answer.text[:20], answer.right] for answer in answers],
        **kv_facts(samples[-1]),
    }


def kv_facts(state):
    """Moves and their share of step time, from /v1/kv."""
    moves = state.get("kv", {}).get("moves", {})
    return {"moves": sum(moves.get("ended", {}).values()), "move_seconds": moves.get("seconds", 0.0),
            "move_share": moves.get("share_of_step_time", 0.0)}


ROWS = (
    ("seconds for all", lambda r: f"{r['seconds']:.0f}"),
    ("tokens/s, prompts and output", lambda r: f"{r['tokens_per_second']:.0f}"),
    ("output tokens/s", lambda r: f"{r['output_tokens_per_second']:.1f}"),
    ("preemptions", lambda r: str(r["preemptions"])),
    ("most running at once", lambda r: str(r["most_running"])),
    ("first token p50 / p99 (s)", lambda r: f"{r['first_token_p50']:.1f} / {r['first_token_p99']:.1f}"),
    ("between tokens p50 / p99 (ms)",
     lambda r: f"{1e3 * r['between_tokens_p50']:.0f} / {1e3 * r['between_tokens_p99']:.0f}"),
    ("page moves", lambda r: str(r["moves"])),
    ("moves, share of step time", lambda r: f"{100 * r['move_share']:.1f} %"),
    ("pass keys right (95 % interval)",
     lambda r: f"{r['right']} of {r['sequences']} ({100 * r['interval'][0]:.0f}-{100 * r['interval'][1]:.0f} %)"),
)


def table(results):
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    for name, cell in ROWS:
        lines.append(f"| {name} | " + " | ".join(cell(result) for result in results.values()) + " |")
    return "\n".join(lines)


def report(facts, results):
    fit = facts["arena_bytes"] / 2**20
    return (
        f"# {facts['sequences']} sequences of {facts['prompt'] + facts['output']} tokens in an arena for "
        f"{facts['arena_sequences']}, {facts['date']}\n\n{facts['cpu']}, {facts['threads']} threads, {facts['model']}, "
        f"commit {facts['commit']}, {facts['machine']}. Arena {fit:.0f} MiB; prompts of "
        f"{facts['prompt']} tokens that differ from the first page on, all sent at once, {facts['output']} tokens each.\n\n"
        f"{table(results)}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--arena-sequences", type=int, default=8)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=3328)
    parser.add_argument("--output", type=int, default=704)
    parser.add_argument("--page-bytes", type=int, default=1474560, help="of a hot page of 64 tokens")
    parser.add_argument("--policies", nargs="+", default=["adaptive", "hot"])
    parser.add_argument("--control", action="store_true", help="also hot pages alone in an arena for all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results"))
    args = parser.parse_args()

    pages = math.ceil((args.prompt + args.output) / PAGE_TOKENS)
    arena_bytes = args.arena_sequences * pages * args.page_bytes
    runs = {policy: (policy, arena_bytes) for policy in args.policies}
    if args.control:
        runs["hot, arena for all"] = ("hot", (args.sequences + 1) * pages * args.page_bytes)
    facts = {
        "date": datetime.date.today().isoformat(), "commit": compare.git_commit(), "cpu": compare.cpu_model(),
        "threads": os.cpu_count(), "machine": f"load average before {os.getloadavg()[0]:.1f}", "model": pathlib.Path(args.model).name,
        "arena_bytes": arena_bytes, "arena_sequences": args.arena_sequences, "sequences": args.sequences,
        "prompt": args.prompt, "output": args.output, "seed": args.seed,
    }
    results = {}
    for name, (policy, num_bytes) in runs.items():
        # The arena alone is to say how many run at once.
        server = Server(args.binary, args.model, policy, num_bytes, args.prompt + args.output, 2 * args.sequences,
                        ["--max-num-prefill-tokens-while-decoding", "0"])
        try:
            result = run(server, args)
        finally:
            server.stop()
        results[name] = {**result, "sequences": args.sequences,
                         "interval": wilson(result["right"], args.sequences)}
        print(f"{name}: {result['seconds']:.0f} s, {result['preemptions']} preemptions", flush=True)
    write(args.out, facts, results)


def write(out, facts, results):
    text = report(facts, results)
    print(text)
    stem = pathlib.Path(out) / f"{facts['date']}-cpu-load-{facts['sequences']}x{facts['prompt'] + facts['output']}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
