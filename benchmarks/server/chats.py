"""Chats a second with a model that takes no time (instant_model), asked by wrk over connections that stay open.

    chats.py --instant build/release/instant_model --model FILE [--seconds 10] [--rounds 5]

Rounds take turns: /live (HTTP alone), chats of 3 and of 51 messages, and the same 3 as a raw completion (no template).
wrk is a Debian package. Medians (least to greatest), and what wrk itself took of the machine's processors.
"""
import argparse
import json
import os
import pathlib
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile

TEXT = "The quick brown fox jumps over the lazy dog near the river bank while the evening sun sets."


def messages(count):
    roles = ["system"] + ["user", "assistant"] * count
    return [{"role": roles[i], "content": f"{i}. {TEXT}"} for i in range(count - 1)] + [{"role": "user", "content": "Hi"}]


def chat(count):
    return "/v1/chat/completions", {"model": "instant", "messages": messages(count), "max_tokens": 1}


CASES = {
    "live": ("/live", None),
    "completion": ("/v1/completions", {"model": "instant", "prompt": TEXT * 2, "max_tokens": 1}),
    "chat of 3 messages": chat(3),
    "chat of 51 messages": chat(51),
}


def script(body):
    if body is None:
        return ""
    quoted = json.dumps(json.dumps(body))  # plain ASCII: also a Lua string
    return f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = {quoted}\n'


def cpu_seconds(pid):
    """Of the process and of the children that it has waited for or that still run."""
    total = 0
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(entry.name) == pid or int(fields[1]) == pid:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure(server, url, case, seconds, folder):
    path, body = CASES[case]
    file = pathlib.Path(folder) / "ask.lua"
    file.write_text(script(body))
    before, own = cpu_seconds(server.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(["wrk", "-t1", "-c32", f"-d{seconds}s", "-s", str(file), url + path],
                         capture_output=True, text=True, check=True).stdout
    after, end = cpu_seconds(server.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit(out)
    return {"per_second": float(re.search(r"Requests/sec:\s+([0-9.]+)", out).group(1)),
            "server_cpu": (after - before) / seconds,
            "wrk_cpu": (end.ru_utime + end.ru_stime - own.ru_utime - own.ru_stime) / seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--instant", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt-get install wrk")
    server = subprocess.Popen([args.instant, args.model, "0"], stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().split()[-1]
        results = {case: [] for case in CASES}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(args.rounds):
                for case in CASES:
                    results[case].append(measure(server, url, case, args.seconds, folder))
    finally:
        server.terminate()
        server.wait()
    print("| | a second | server, cores | wrk, cores | server's microseconds a request |\n|---|---|---|---|---|")
    for case, runs in results.items():
        rates = sorted(run["per_second"] for run in runs)
        cpu = statistics.median(run["server_cpu"] for run in runs)
        wrk = statistics.median(run["wrk_cpu"] for run in runs)
        cost = statistics.median(1e6 * run["server_cpu"] / run["per_second"] for run in runs)
        print(f"| {case} | {statistics.median(rates):.0f} ({rates[0]:.0f}-{rates[-1]:.0f}) | {cpu:.2f} | {wrk:.2f} | {cost:.0f} |")


if __name__ == "__main__":
    main()
