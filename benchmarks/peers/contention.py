"""Time between tokens when the machine is wanted by others: alone, beside busy HTTP, with a core taken.

Busy HTTP is a fixed number of requests a second for /health and /tokenize of the server that is measured, the same for
both. The core is taken by another process, which computes without end on the last of them. In turns, as in compare.py.
"""

import contextlib
import http.client
import json
import multiprocessing
import os
import subprocess
import sys
import time

import compare
import context
import servers

RATE = 200  # requests a second
TEXT = "The quick brown fox jumps over the lazy dog. " * 20
STREAM_IN = 64
STREAM_OUT = {1: 256, 8: 64}  # by number of streams; of 63 gaps the 99th percentile would be the longest


@contextlib.contextmanager
def alone(_):
    yield {}


@contextlib.contextmanager
def core_taken(_):
    core = max(os.sched_getaffinity(0))
    program = f"import os\nos.sched_setaffinity(0, [{core}])\nprint(flush=True)\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    process.stdout.readline()  # it is there
    try:
        yield {}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(port, body, end, reached):
    """RATE requests a second over one connection that is kept, until `end`; then says how many a second they were."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    begin, number = time.monotonic(), 0
    while not end.is_set():
        if number % 2 == 0:
            connection.request("GET", "/health")
        else:
            connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status} of a busy server")
        number += 1
        time.sleep(max(0.0, begin + number / RATE - time.monotonic()))
    reached.put(number / (time.monotonic() - begin))
    connection.close()


@contextlib.contextmanager
def busy_http(server):
    """A process that asks: what reads the tokens is not to wait for the interpreter's lock. The dictionary is filled
    at the end."""
    told = {}
    end, reached = multiprocessing.Event(), multiprocessing.Queue()
    key = "prompt" if isinstance(server, servers.Thermocline) else "content"
    body = json.dumps({key: TEXT, "add_special_tokens": False})
    client = multiprocessing.Process(target=ask, args=(server.port, body, end, reached), daemon=True)
    client.start()
    try:
        yield told
        end.set()
        told["requests a second"] = reached.get(timeout=120)
    finally:
        end.set()
        client.join()


SITUATIONS = {"alone": alone, "beside busy HTTP": busy_http, "with one core taken": core_taken}


def measure(server, situation, tokens, count):
    with SITUATIONS[situation](server) as told:
        streams, seconds = server.generate_together([tokens(STREAM_IN) for _ in range(count)], STREAM_OUT[count])
    gaps = [1e3 * (b - a) for times in streams for a, b in zip(times, times[1:])]
    return {"tokens/s": count * STREAM_OUT[count] / seconds, "between tokens, median (ms)": compare.percentile(gaps, 0.5),
            "99 % (ms)": compare.percentile(gaps, 0.99), **told}


def table(samples):
    lines = ["| streams | | | tokens/s | between tokens, median (ms) | 99 % (ms) |", "|---" * 6 + "|"]
    for count in STREAM_OUT:
        for situation in SITUATIONS:
            for name in ("thermocline", "llama-server"):
                mine = [s["values"] for s in samples if (s["streams"], s["situation"], s["server"]) == (count, situation, name)]
                cells = [compare.cell([one[key] for one in mine])
                         for key in ("tokens/s", "between tokens, median (ms)", "99 % (ms)")]
                lines.append(f"| {count} | {situation} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    args = compare.arguments(__doc__).parse_args()
    facts = compare.facts_of(args, "-np 8 -c 4096") | {"http_requests_per_second": RATE}
    samples = []
    with context.running(lambda: servers.Thermocline(args.ours, args.model, args.threads),
                         lambda: servers.LlamaServer(args.peer, args.model, args.threads, ("-np", "8", "-c", "4096"))) as both:
        tokens = compare.prompts(1, both[0].tokenize)
        for server in both:
            measure(server, "alone", tokens, 8)
        for repetition in range(args.repetitions):
            for count in STREAM_OUT:
                for situation in SITUATIONS:
                    for server in compare.in_turn(both, repetition):
                        samples.append({"streams": count, "situation": situation, "server": server.name,
                                        "values": measure(server, situation, tokens, count)})
                        print(samples[-1], flush=True)
    reached = {name: compare.cell([s["values"]["requests a second"] for s in samples
                                   if s["server"] == name and s["situation"] == "beside busy HTTP"])
               for name in ("thermocline", "llama-server")}
    text = (f"# Time between tokens on a machine that others want, {facts['date']}\n\n{facts['cpu']}, {args.threads} threads, "
            f"{facts['model']}, commit {facts['commit']}. {STREAM_IN} tokens in; out {STREAM_OUT[1]} of one stream, "
            f"{STREAM_OUT[8]} of each of eight. Busy HTTP: {RATE} requests a second wanted, {reached['thermocline']} and "
            f"{reached['llama-server']} reached. Medians of {args.repetitions} repetitions in turns "
            f"(least-greatest).\n\n{table(samples)}\n")
    print(text)
    compare.write(args.out, facts, "contention", text, samples=samples)


if __name__ == "__main__":
    main()
