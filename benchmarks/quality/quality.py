"""What each policy of the KV cache does to answers: retrieval and greedy text through the real server, and
the next-token distribution through the same engine in one process.

`--kv-policy hot` is the control, asked the same questions in the same run. A cell that it answers too seldom is
not asked of the others. Pages cool between steps, so steps are a page long; a prompt in one step would be read hot.
What is done is kept in the state folder: an interrupted run goes on where it was.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "benchmarks" / "peers"))

import compare
import prose
import report
import servers
import tasks

CONFIGURATIONS = {
    "hot": "--kv-policy hot",
    "warm": "--kv-policy warm",
    "cold": "--kv-policy cold",
    "cold-uncalibrated": "--kv-policy cold --no-calibrate --calibration-dir /dev/null",  # as until it has been measured
    "adaptive-25": "--kv-policy adaptive --kv-budget 0.25",
    "streaming-25": "--kv-policy streaming --kv-budget 0.25",
    "h2o-25": "--kv-policy h2o --kv-budget 0.25",
    "snapkv-25": "--kv-policy snapkv --kv-budget 0.25",
}
LEAST_CONTROL_RATE = 0.6
# cells: (task, filler, tokens, questions). texts: (novel or file, first character, tokens).
SIZES = {
    "full": {  # an hour or more on two cores
        "cells": [
            ("passkey", "repeated", 1024, 18), ("passkey", "natural", 1024, 18),
            ("passkey", "repeated", 2048, 10), ("passkey", "natural", 2048, 10),
            ("passkey", "repeated", 4096, 10), ("passkey", "natural", 4096, 10),
            ("passkey", "repeated", 7168, 10),
            ("multi-key", "repeated", 1024, 12), ("multi-key", "natural", 1024, 12),
            ("multi-key", "natural", 2048, 12), ("multi-key", "natural", 4096, 12),
            ("multi-value", "repeated", 1024, 10), ("multi-value", "repeated", 2048, 10),
            ("variables", "repeated", 1024, 10), ("variables", "repeated", 2048, 10),
        ],
        "greedy": {"prompts": 12, "characters": 6500, "tokens": 64},
        "texts": [("emma", 20_000, 7168), ("persuasion", 20_000, 7168), ("northanger_abbey", 20_000, 7168),
                  ("mansfield_park", 20_000, 2048), ("pride_and_prejudice", 20_000, 2048),
                  ("sense_and_sensibility", 20_000, 2048), ("/usr/share/common-licenses/MPL-1.1", 0, 2048)],
    },
    "short": {  # half of that
        "cells": [
            ("passkey", "repeated", 1024, 18), ("passkey", "natural", 1024, 18), ("passkey", "natural", 2048, 10),
            ("passkey", "repeated", 4096, 10), ("passkey", "repeated", 7168, 10), ("multi-key", "natural", 1024, 12),
            ("multi-value", "repeated", 1024, 10), ("variables", "repeated", 1024, 10),
        ],
        "greedy": {"prompts": 8, "characters": 6500, "tokens": 64},
        "texts": [("emma", 20_000, 7168), ("mansfield_park", 20_000, 2048),
                  ("/usr/share/common-licenses/MPL-1.1", 0, 2048)],
    },
    "quick": {  # minutes
        "cells": [("passkey", "repeated", 1024, 9), ("passkey", "natural", 1024, 9), ("multi-key", "natural", 1024, 8)],
        "greedy": {"prompts": 3, "characters": 3000, "tokens": 32},
        "texts": [("emma", 20_000, 1536), ("/usr/share/common-licenses/MPL-1.1", 0, 1024)],
    },
}


class State:
    """What one configuration has given so far, on disk after every cell."""

    def __init__(self, folder, name, fingerprint):
        self.name = name
        self.path = folder / f"{name}-{fingerprint}.json"
        self.data = json.loads(self.path.read_text()) if self.path.exists() else {"cells": {}, "greedy": [], "texts": {}}

    def save(self):
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.data, ensure_ascii=False))
        partial.replace(self.path)


class Asked:
    """One server with one configuration's flags."""

    def __init__(self, args, name):
        flags = (*CONFIGURATIONS[name].split(), "--max-num-batched-tokens", "64")
        self.server = servers.Thermocline(args.ours, args.model, args.threads, flags)

    def complete(self, prompt, max_tokens, **more):
        body = {"model": self.server.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **more}
        with self.server.post("/v1/completions", body) as answer:
            answer = json.load(answer)
        return answer["choices"][0], answer["usage"]

    def count_tokens(self, text):
        return len(self.server.tokenize(text))

    def answer(self, questions):
        """One record for each question; a context that several share is sent by itself before the first."""
        records, context = [], ""
        for question in questions:
            if question.context != context:
                context = question.context
                self.complete(context, 1)
            choice, usage = self.complete(question.prompt, question.max_tokens)
            records.append({"right": question.is_right(choice["text"]), "answers": question.answers,
                            "text": choice["text"], "after_context": bool(context), "usage": usage})
        return records


def is_kept(control, cell):
    records = control.data["cells"][cell]
    return sum(record["right"] for record in records) >= LEAST_CONTROL_RATE * len(records)


def ask_cells(args, state, control, asked, texts):
    for task, filler, length, count in SIZES[args.size]["cells"]:
        cell = f"{task}/{filler}/{length}"
        if cell in state.data["cells"] or (state is not control and not is_kept(control, cell)):
            continue
        begin = time.monotonic()
        records = asked.answer(tasks.build(texts, task, filler, length, count))
        state.data["cells"][cell] = records
        state.save()
        num_right = sum(record["right"] for record in records)
        say(f"{state.name}: {cell}: {num_right} of {len(records)} ({time.monotonic() - begin:.0f} s)")


def ask_greedy(args, state, asked, texts):
    plan = SIZES[args.size]["greedy"]
    titles = sorted(texts.novels)
    for i in range(len(state.data["greedy"]), plan["prompts"]):
        novel = texts.novels[titles[i % len(titles)]]
        begin = 120_000 + i // len(titles) * 60_000
        prompt = "".join(prose.sentences(novel[begin : begin + plan["characters"]])[1:-1])
        choice, _ = asked.complete(prompt, plan["tokens"], ignore_eos=True, logprobs=0)
        state.data["greedy"].append(choice["logprobs"]["tokens"])
        state.save()
    say(f"{state.name}: greedy text of {plan['prompts']} prompts")


def measure_distributions(args, states, folder):
    """All configurations that lack a text, side by side: the hot engine then reads it once for all."""
    novels = prose.novels()
    for name, first, num_tokens in SIZES[args.size]["texts"]:
        missing = {CONFIGURATIONS[s.name]: s for s in states if s.name != "hot" and name not in s.data["texts"]}
        if not missing:
            continue
        path = folder / f"{pathlib.Path(name).name}.txt"
        text = pathlib.Path(name).read_text() if name.startswith("/") else novels[name]
        path.write_text(text[first : first + 8 * num_tokens])
        say(f"next-token distributions: {num_tokens} tokens of {name}, {len(missing) + 1} engines")
        command = [args.kv_quality, args.model, "--text", str(path), "--tokens", str(num_tokens)]
        for flags in missing:
            command += ["--flags", flags]
        # The calibration that the servers use: the first engine measures it, unless it is kept already.
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        environment = {"THERMOCLINE_CALIBRATION_DIR": str(cache / "thermocline" / "calibration")} | os.environ
        environment |= {"THERMOCLINE_THREADS": str(args.threads)}
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        for line in result.stdout.splitlines():
            values = json.loads(line)
            state = missing[values.pop("flags")]
            state.data["texts"][name] = values
            state.save()


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def known_configurations(program):
    text = subprocess.run([program, "serve", "--help"], capture_output=True).stdout.decode(errors="replace")
    policies = re.search(r"--kv-policy[^\n]*?\{([^}]*)\}", text).group(1)
    known = {name for name, flags in CONFIGURATIONS.items() if re.search(rf"\b{flags.split()[1]}\b", policies)}
    for name in CONFIGURATIONS.keys() - known:
        say(f"{name} is skipped: this binary does not know {CONFIGURATIONS[name]}")
    return [name for name in CONFIGURATIONS if name in known]


def fingerprint(args):
    """Of all that makes an answer: the programs, the model, the questions."""
    state = hashlib.sha256()
    folder = pathlib.Path(__file__).parent
    for path in (args.ours, args.kv_quality, args.model, folder / "tasks.py", folder / "quality.py"):
        state.update(pathlib.Path(path).read_bytes())
    return f"{state.hexdigest()[:12]}-{args.size}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--kv-quality", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--size", choices=SIZES, default="full", help="how many and how long the prompts are")
    parser.add_argument("--only", action="append", metavar="CONFIGURATION",
                        help=f"beside hot; may be repeated: {', '.join(CONFIGURATIONS)}")
    parser.add_argument("--state", default=str(ROOT / "build" / "quality"), help="where finished parts are kept")
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results"))
    args = parser.parse_args()
    if unknown := set(args.only or ()) - CONFIGURATIONS.keys():
        parser.error(f"no such configuration: {', '.join(unknown)}")

    folder = pathlib.Path(args.state)
    folder.mkdir(parents=True, exist_ok=True)
    mark = fingerprint(args)
    names = [name for name in known_configurations(args.ours) if not args.only or name == "hot" or name in args.only]
    states = [State(folder, name, mark) for name in names]
    for state in states:
        asked = Asked(args, state.name)
        try:
            texts = tasks.Texts(asked.count_tokens)
            ask_cells(args, state, states[0], asked, texts)
            ask_greedy(args, state, asked, texts)
        finally:
            asked.server.stop()
    measure_distributions(args, states, folder)
    facts = {
        "date": datetime.date.today().isoformat(),
        "commit": compare.git_commit(),
        "cpu": compare.cpu_model(),
        "threads": args.threads,
        "model": pathlib.Path(args.model).name,
        "size": args.size,
        "flags": {state.name: CONFIGURATIONS[state.name] for state in states},
    }
    stem = f"{facts['date']}-cpu-quality" + ("" if args.size == "full" else f"-{args.size}")
    report.write(facts, {state.name: state.data for state in states}, pathlib.Path(args.out), stem)


if __name__ == "__main__":
    main()
