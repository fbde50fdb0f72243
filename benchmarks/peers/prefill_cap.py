"""What --max-num-prefill-tokens-while-decoding trades: streams that come together, at several values, in turns.

All servers are loaded all the time; only one is asked at a time. Prompts are new in every repetition, as in compare.py.
With --processor-time the clock is the server's processor time: on a machine that others use, with --threads 1, it says
what the clock on the wall would say on a quiet one.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import sys

import compare
import servers


def shape_of(text):
    num_streams, num_in, num_out = map(int, text.split(","))
    return num_streams, num_in, num_out


def measure(server, shape, prompt):
    """One burst: {name: value}."""
    num_streams, num_in, num_out = shape
    streams, seconds = server.generate_together([prompt(num_in) for _ in range(num_streams)], num_out)
    gaps = [b - a for times in streams for a, b in zip(times, times[1:])]
    firsts = [times[0] for times in streams]
    return {
        "tokens/s": num_streams * num_out / seconds,
        "between tokens, median (ms)": 1e3 * statistics.median(gaps),
        "99 % (ms)": 1e3 * compare.percentile(gaps, 0.99),
        "longest (ms)": 1e3 * max(gaps),
        "to first token, median (ms)": 1e3 * statistics.median(firsts),
        "99 % of first (ms)": 1e3 * compare.percentile(firsts, 0.99),
    }


def table(samples, shape):
    names = list(samples[0]["values"])
    lines = [f"| cap | {' | '.join(names)} |", f"|{'---|' * (len(names) + 1)}"]
    for cap in dict.fromkeys(sample["cap"] for sample in samples):
        of_cap = [s["values"] for s in samples if s["cap"] == cap and s["shape"] == shape]
        lines.append(f"| {cap or 'none'} | {' | '.join(compare.cell([v[name] for v in of_cap]) for name in names)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--caps", type=int, nargs="+", default=[0, 32, 64, 96, 128, 256])
    parser.add_argument("--shapes", type=shape_of, nargs="+", default=[(8, 128, 64), (32, 128, 64), (8, 1024, 128)],
                        metavar="STREAMS,IN,OUT")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--out", default=str(compare.ROOT / "benchmarks" / "results"))
    args = parser.parse_args()
    facts = {"date": datetime.date.today().isoformat(), "commit": compare.git_commit(), "cpu": compare.cpu_model(),
             "threads": args.threads, "model": pathlib.Path(args.model).name, "load_before": os.getloadavg(),
             "clock": "the server's processor time" if args.processor_time else "wall"}

    by_cap, samples = {}, []
    try:
        for cap in args.caps:
            flags = ("--no-enable-prefix-caching", "--max-num-prefill-tokens-while-decoding", str(cap))
            by_cap[cap] = servers.Thermocline(args.ours, args.model, args.threads, flags)
            if args.processor_time:
                by_cap[cap].clock = by_cap[cap].processor_seconds
        prompt = compare.prompts(1, next(iter(by_cap.values())).tokenize)
        for server in by_cap.values():
            measure(server, args.shapes[0], prompt)  # warms caches and pages
        for repetition in range(args.repetitions):
            order = args.caps[repetition % len(args.caps):] + args.caps[:repetition % len(args.caps)]
            for shape in args.shapes:
                for cap in order:
                    samples.append({"cap": cap, "shape": shape, "values": measure(by_cap[cap], shape, prompt)})
                    print(json.dumps(samples[-1]), file=sys.stderr, flush=True)
    finally:
        for server in by_cap.values():
            server.stop()

    facts["load_after"] = os.getloadavg()
    samples.sort(key=lambda sample: args.caps.index(sample["cap"]))
    text = (f"# Prompt tokens beside decoding, {facts['date']}\n\n{facts['cpu']}, {args.threads} threads, {facts['model']}, "
            f"commit {facts['commit']}, clock: {facts['clock']}. Medians of {args.repetitions} interleaved repetitions (least-greatest); load average "
            f"{facts['load_before'][0]:.1f} before, {facts['load_after'][0]:.1f} after.\n")
    for shape in args.shapes:
        text += f"\n## {shape[0]} streams, {shape[1]} tokens in, {shape[2]} out\n\n{table(samples, shape)}\n"
    print(text)
    compare.write(args.out, facts, "prefill-cap", text, samples=samples)


if __name__ == "__main__":
    main()
