"""How cost grows, beside llama-server: long prompts, decoding far into a context and beside what memory can deliver,
many streams, the start, memory.

In turns on one machine, with one model. Prompts are English words in random order. Decoding at a depth asks
for the same prompt over and over, whose K and V both servers keep; all other prompts are new each time. A server
that is not asked idles; the pairs of servers of a part exist only while it is measured.
"""

import contextlib
import pathlib
import subprocess
import time

import gguf

import compare
import servers

STREAM_ROOM = 256  # tokens: llama-server counts a stream's room in steps of it


@contextlib.contextmanager
def running(*makers):
    both = []
    try:
        for make in makers:
            both.append(make())
        yield both
    finally:
        for server in both:
            server.stop()


def take_turns(repetitions, names, measure):
    """{name: [values]}; measure(name, repetition) in an order that turns round each time."""
    samples = {name: [] for name in names}
    for repetition in range(repetitions):
        for name in compare.in_turn(names, repetition):
            samples[name].append(measure(name, repetition))
    return samples


def prefill(args, ours, peer):
    with running(lambda: ours(), lambda: peer("-np", "1", "-c", "8192", "-fa", "on")) as both:
        tokens = compare.prompts(1, both[0].tokenize)
        by_name = dict(zip(("thermocline", "llama-server"), both))
        for server in both:
            server.generate(tokens(64), 1)
        for length in (512, 2048, 4096):
            given = [tokens(length) for _ in range(args.repetitions)]
            yield f"prefill {length} (tokens/s)", take_turns(
                args.repetitions, list(by_name), lambda name, i: length / by_name[name].generate(given[i], 1)[0])


def depth(args, ours, peer):
    makers = {
        "thermocline hot": lambda: ours("--kv-policy", "hot", caching=True),
        "thermocline cold": lambda: ours("--kv-policy", "cold", caching=True),
        "llama-server f16": lambda: peer("-np", "1", "-c", "8192", "-fa", "on", cache_prompt=True),
        "llama-server q8_0": lambda: peer("-np", "1", "-c", "8192", "-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0",
                                          cache_prompt=True),
    }
    with running(*makers.values()) as all_four:
        by_name = dict(zip(makers, all_four))
        tokens = compare.prompts(1, all_four[0].tokenize)
        for length in (64, 4096, 7680):
            prompt = tokens(length)
            for server in all_four:
                server.generate(prompt, 2)

            def rate(name, _):
                times = by_name[name].generate(prompt, 65)
                return 64 / (times[-1] - times[0])

            yield f"decode 64 at {length} (tokens/s)", take_turns(args.repetitions, list(by_name), rate)


def roofline(args, ours, peer):
    """What decoding reads each second, of weights and of the KV cache, and what threads get that only read."""
    tensors = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(args.model).tensors}
    if "output.weight" in tensors:
        tensors.pop("token_embd.weight")  # of which a token reads one row
    length, output = 64, 65
    with running(lambda: ours(), lambda: peer("-np", "1", "-c", "8192", "-fa", "on")) as both:
        kv = both[0].kv()
        token_bytes = kv["tiers"]["hot"]["page_bytes"] // kv["page_tokens"]
        step_bytes = sum(tensors.values()) + token_bytes * (length + output // 2)
        tokens = compare.prompts(1, both[0].tokenize)
        by_name = dict(zip(("thermocline", "llama-server"), both))

        def rate(name, _):
            if name == "reading alone":
                program = pathlib.Path(args.ours).with_name("read_peak")
                return float(subprocess.run([program, str(args.threads)], check=True, capture_output=True).stdout) / 1e9
            times = by_name[name].generate(tokens(length), output)
            return step_bytes * (output - 1) / (times[-1] - times[0]) / 1e9

        yield f"decode {output - 1} at {length}: memory read (GB/s)", take_turns(
            args.repetitions, [*by_name, "reading alone"], rate)


def streams(args, ours, peer):
    yield from together(ours, peer, (8, 32), 128, 64, args.repetitions)


def long_streams(args, ours, peer):
    yield from together(ours, peer, (8, 32), 1024, 128, min(3, args.repetitions))


def together(ours, peer, counts, length, output, repetitions):
    for count in counts:
        room = (length + output + 64 + STREAM_ROOM - 1) // STREAM_ROOM * STREAM_ROOM
        flags = ("-np", str(count), "-c", str(count * room))
        with running(lambda: ours(), lambda: peer(*flags)) as both:
            tokens = compare.prompts(1, both[0].tokenize)
            by_name = dict(zip(("thermocline", "llama-server"), both))
            gaps = {name: [] for name in by_name}

            def rate(name, _):
                times, seconds = by_name[name].generate_together([tokens(length) for _ in range(count)], output)
                between = [b - a for one in times for a, b in zip(one, one[1:])]
                gaps[name].append(1e3 * compare.percentile(between, 0.99))
                return count * output / seconds

            name = f"{count} streams, {length} in, {output} out"
            yield f"{name} (tokens/s)", take_turns(repetitions, list(by_name), rate)
            yield f"{name}: between tokens, 99 % (ms)", gaps


def start(args, ours, peer):
    """From the start of the process to the first token, with the model's file in memory."""
    makers = {"thermocline": lambda: ours(), "llama-server": lambda: peer("-np", "1", "-c", "8192")}
    with running(makers["thermocline"]) as (server,):
        prompt = server.tokenize("The capital of France is")

    def seconds(name, _):
        begin = time.perf_counter()
        with running(makers[name]) as (server,):
            server.generate(prompt, 1)
            return time.perf_counter() - begin

    yield "start to first token (s)", take_turns(args.repetitions, list(makers), seconds)


def memory(args, ours, peer):
    """The most that was resident, less the model's file and what of the KV cache is resident, after streams that fill it.

    Both have a cache for 8 streams of 1,280 tokens. Ours is asked for more than it holds and gives none of its memory
    back, so that the end tells what was ever used. llama-server sets all of its cache to zero at the start, so all of
    it is subtracted; its second cache of prompts (--cache-ram) is off.
    """
    count, length, output, room = 8, 1024, 64, 5 * STREAM_ROOM
    with running(lambda: ours()) as (server,):
        kv = server.kv()
        cache_bytes = count * room * kv["tiers"]["hot"]["page_bytes"] // kv["page_tokens"]
        tokens = compare.prompts(1, server.tokenize)
        prompts = [tokens(length) for _ in range(2 * count)]
    makers = {
        "thermocline": lambda: ours(caching=True, arena=cache_bytes),
        "thermocline hot": lambda: ours("--kv-policy", "hot", caching=True, arena=cache_bytes),
        "llama-server": lambda: peer("-np", str(count), "-c", str(count * room), "--cache-ram", "0"),
    }

    def beyond(name, _):
        with running(makers[name]) as (server,):
            for half in (prompts[:count], prompts[count:]):
                server.generate_together(half, output)
            used = cache_bytes if name == "llama-server" else server.resident_bytes(cache_bytes)
            return (server.peak_rss_bytes() - pathlib.Path(args.model).stat().st_size - used) / 1e6

    yield "memory beyond the model's file and the KV cache, at most (MB)", take_turns(
        min(3, args.repetitions), list(makers), beyond)


PARTS = {"prefill": prefill, "depth": depth, "roofline": roofline, "streams": streams, "long-streams": long_streams,
         "start": start, "memory": memory}


def table(results):
    lines = []
    names = None
    for title, samples in results:
        if names != list(samples):
            names = list(samples)
            lines += ["", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        lines.append(f"| {title} | {' | '.join(compare.cell(samples[name]) for name in names)} |")
    return "\n".join(lines)


def save(args, facts, results):
    text = (f"# How cost grows, beside llama-server, {facts['date']}\n\n{facts['cpu']}, {args.threads} threads, "
            f"{facts['model']}, commit {facts['commit']}. Medians of {args.repetitions} repetitions in turns (least-greatest).\n"
            f"{table(results)}\n")
    compare.write(args.out, facts, "context", text, results=results)


def main():
    parser = compare.arguments(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()

    def ours(*flags, caching=False, arena="1G"):
        caching_flags = () if caching else ("--no-enable-prefix-caching",)
        return servers.Thermocline(args.ours, args.model, args.threads, (*caching_flags, *flags), arena)

    def peer(*flags, cache_prompt=False):
        return servers.LlamaServer(args.peer, args.model, args.threads, flags, cache_prompt)

    facts = compare.facts_of(args, "flash attention on but for the streams, the start and memory")
    results = []
    for part in args.parts:
        for title, samples in PARTS[part](args, ours, peer):
            results.append((title, samples))
            print(title, {name: compare.cell(values) for name, values in samples.items()}, flush=True)
            save(args, facts, results)


if __name__ == "__main__":
    main()
