"""How cost grows beside llama-server, as curves: with the context, the number of streams, and the threads.

A prompt is computed once for a server and then asked for again with some tokens to decode behind it, its K and V kept.
Streams are short, so that the cost of one more of them shows and not that of its context; their rate is that of the
time in which all of them decode. Each point is the median of few repetitions: what is claimed is measured by
compare.py and context.py.
"""

import statistics

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

import compare
import context
import servers

LENGTHS = (256, 512, 1024, 2048, 4096, 7680)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
THREADS = (1, 2)
DECODED = 33  # tokens behind a context; the first belongs to its prefill
STREAM_IN, STREAM_OUT = 8, 32
COLOURS = {"thermocline hot": "C0", "thermocline cold": "C2", "llama-server f16": "C1"}


def makers(args, threads):
    """{name: a function that starts a server which keeps what it has computed}"""
    def ours(policy):
        return servers.Thermocline(args.ours, args.model, threads, ("--kv-policy", policy))

    return {
        "thermocline hot": lambda: ours("hot"),
        "thermocline cold": lambda: ours("cold"),
        "llama-server f16": lambda: servers.LlamaServer(
            args.peer, args.model, threads, ("-np", "1", "-c", "8192", "-fa", "on"), cache_prompt=True),
    }


def contexts(args, threads):
    """(curve, name, length, tokens/s) of prefill and of decoding behind it."""
    by_name = makers(args, threads)
    with context.running(*by_name.values()) as all_of_them:
        tokens = compare.prompts(threads, all_of_them[0].tokenize)
        for server in all_of_them:
            server.generate(tokens(64), 2)
        for length in LENGTHS:
            for repetition in range(args.repetitions if length <= 2048 else 1):
                given = tokens(length)
                for name, server in compare.in_turn(list(zip(by_name, all_of_them)), repetition):
                    yield "prefill", name, length, length / server.generate(given, 1)[0]
                    times = server.generate(given, DECODED)
                    yield "decode", name, length, (DECODED - 1) / (times[-1] - times[0])


def rate_of_all(streams):
    """Tokens/s of all, from when the last of them has begun until the first ends."""
    begin, end = max(times[0] for times in streams), min(times[-1] for times in streams)
    inside = [[time for time in times if begin <= time <= end] for times in streams]
    return sum((len(times) - 1) / (times[-1] - times[0]) for times in inside)


def batches(args, threads):
    """("streams", name, number, tokens/s of all)."""
    most = max(BATCHES)
    with context.running(
            lambda: servers.Thermocline(args.ours, args.model, threads,
                                        ("--no-enable-prefix-caching", "--max-num-seqs", str(most))),
            lambda: servers.LlamaServer(args.peer, args.model, threads,
                                        ("-np", str(most), "-c", str(most * context.STREAM_ROOM)))) as both:
        tokens = compare.prompts(threads + 100, both[0].tokenize)
        for server in both:
            server.generate(tokens(STREAM_IN), 2)
        for count in BATCHES:
            for repetition in range(args.repetitions if count <= 8 else 1):
                for name, server in compare.in_turn(list(zip(("thermocline hot", "llama-server f16"), both)), repetition):
                    streams, _ = server.generate_together([tokens(STREAM_IN) for _ in range(count)], STREAM_OUT)
                    yield "streams", name, count, rate_of_all(streams)


def curves(points):
    """{(curve, threads): {name: {x: [values]}}}"""
    result = {}
    for point in points:
        of_curve = result.setdefault((point["curve"], point["threads"]), {})
        of_curve.setdefault(point["name"], {}).setdefault(point["x"], []).append(point["tokens/s"])
    return result


TITLES = {"prefill": "Prefill (tokens/s) by tokens of the prompt", "decode": "Decode (tokens/s) by tokens of context",
          "streams": "Decode of short streams (tokens/s of all) by their number"}


def table(points):
    lines = []
    for (curve, threads), by_name in curves(points).items():
        xs = list(next(iter(by_name.values())))
        lines += ["", f"{TITLES[curve]}, {threads} thread{'s' if threads > 1 else ''}", "",
                  f"| | {' | '.join(map(str, xs))} |", "|---" * (len(xs) + 1) + "|"]
        for name, values in by_name.items():
            cells = [f"{statistics.median(values[x]):.4g}" if x in values else "" for x in xs]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(points, path):
    figure, places = pyplot.subplots(1, len(TITLES), figsize=(15, 4.5))
    for axes, (curve, title) in zip(places, TITLES.items()):
        for (name_of_curve, threads), by_name in curves(points).items():
            for name, values in by_name.items() if name_of_curve == curve else ():
                medians = [statistics.median(values[x]) for x in values]
                axes.plot(list(values), medians, "o--" if threads == 1 else "o-", markersize=4, color=COLOURS[name],
                          label=f"{name}, {threads} thread{'s' if threads > 1 else ''}")
        axes.set_title(title, fontsize=10)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def save(args, facts, points):
    text = (f"# How cost grows, beside llama-server, {facts['date']}\n\n{facts['cpu']}, {facts['model']}, commit "
            f"{facts['commit']}. Medians of {args.repetitions} repetitions in turns up to 2,048 tokens and 8 streams, of one "
            f"beyond.\n{table(points)}\n")
    return compare.write(args.out, facts, "growth", text, points=points)


def main():
    parser = compare.arguments(__doc__)
    parser.set_defaults(repetitions=3)
    args = parser.parse_args()
    facts = compare.facts_of(args, "flash attention on but for the streams")
    points = []
    for threads in THREADS[:1] if args.threads == 1 else THREADS:
        for measure in (contexts, batches):
            for curve, name, x, rate in measure(args, threads):
                points.append({"curve": curve, "threads": threads, "name": name, "x": x, "tokens/s": rate})
                print(points[-1], flush=True)
                stem = save(args, facts, points)  # after each: a run that is cut loses nothing
    draw(points, stem.with_suffix(".png"))
    print(table(points))


if __name__ == "__main__":
    main()
