"""Thermocline beside llama-server on one machine, one model, in turns: prefill, decode, eight streams.

Both are loaded all the time; only one is asked at a time. Prompts are English words
in random order, new in every repetition, so that no cache of prompts helps anyone; both get token ids.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess

import servers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def prompts(seed, tokenize):
    """A function of a length: so many tokens of English words in random order, new in every call."""
    chance = random.Random(seed)
    words = (ROOT / "tests" / "data" / "oracle_prompts.txt").read_text().split()
    return lambda length: tokenize(" ".join(chance.choices(words, k=length)))[:length]


def cell(values):
    return f"{statistics.median(values):.4g} ({min(values):.4g}-{max(values):.4g})"


def measure(server, seed, tokenize):
    """One repetition on one server: {name: value}."""
    prompt = prompts(seed, tokenize)
    result = {}
    result["prefill 512 (tokens/s)"] = 512 / server.generate(prompt(512), 1)[0]
    times = server.generate(prompt(16), 129)
    result["decode 128, one stream (tokens/s)"] = 128 / (times[-1] - times[0])
    streams, seconds = server.generate_together([prompt(128) for _ in range(8)], 64)
    gaps = [b - a for times in streams for a, b in zip(times, times[1:])]
    result["8 streams, 128 in, 64 out (tokens/s)"] = 8 * 64 / seconds
    result["8 streams: time to first token, median (ms)"] = 1e3 * statistics.median(times[0] for times in streams)
    result["8 streams: time to first token, longest (ms)"] = 1e3 * max(times[0] for times in streams)
    result["8 streams: between tokens, median (ms)"] = 1e3 * statistics.median(gaps)
    result["8 streams: between tokens, 99 % (ms)"] = 1e3 * percentile(gaps, 0.99)
    return result


def in_turn(names, repetition):
    """An order that turns round each time: nobody is always asked first."""
    return names if repetition % 2 == 0 else reversed(names)


def write(out, facts, name, text, **data):
    """<out>/<date>-cpu-<name>.json and .md; the path less its suffix."""
    stem = pathlib.Path(out) / f"{facts['date']}-cpu-{name}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps({"facts": facts, **data}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)
    return stem


def cpu_model():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def git_commit():
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def table(samples):
    lines = ["| | Thermocline | llama-server | ratio of medians |", "|---|---|---|---|"]
    for name in samples["thermocline"][0]:
        cells, medians = [], []
        for server in ("thermocline", "llama-server"):
            values = [sample[name] for sample in samples[server]]
            medians.append(statistics.median(values))
            cells.append(cell(values))
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {medians[0] / medians[1]:.2f} |")
    return "\n".join(lines)


def arguments(description, peer_required=True):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--peer", required=peer_required)
    parser.add_argument("--model", required=True)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results"))
    return parser


def facts_of(args, peer_flags):
    return {
        "date": datetime.date.today().isoformat(),
        "commit": git_commit(),
        "cpu": cpu_model(),
        "threads": args.threads,
        "load_before": os.getloadavg(),
        "model": pathlib.Path(args.model).name,
        "peer": f"llama-server of llama-cpp-python 0.3.36, native build, {peer_flags}",
        "repetitions": args.repetitions,
    }


def main():
    args = arguments(__doc__).parse_args()
    facts = facts_of(args, "-np 8 -c 16384")

    both = []
    try:
        both.append(servers.Thermocline(args.ours, args.model, args.threads))
        both.append(servers.LlamaServer(args.peer, args.model, args.threads))
        for server in both:
            measure(server, 0, both[0].tokenize)  # warms caches and pages of both
        samples = {server.name: [] for server in both}
        for repetition in range(args.repetitions):
            for server in in_turn(both, repetition):
                samples[server.name].append(measure(server, repetition + 1, both[0].tokenize))
        rss = {server.name: server.peak_rss_bytes() for server in both}
    finally:
        for server in both:
            server.stop()

    facts["peak_rss_bytes"] = rss
    text = (
        f"# Thermocline beside llama-server, {facts['date']}\n\n{facts['cpu']}, {args.threads} threads, {facts['model']}, "
        f"commit {facts['commit']}. Medians of {args.repetitions} interleaved repetitions (least-greatest).\n"
        f"Peak resident memory: {rss['thermocline'] >> 20} MiB and {rss['llama-server'] >> 20} MiB.\n\n{table(samples)}\n"
    )
    print(text)
    write(args.out, facts, "peers", text, samples=samples)


if __name__ == "__main__":
    main()
