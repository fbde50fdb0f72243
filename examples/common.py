"""What the examples share: a server of their own or a running one, a request with its times, the table at the end."""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import tempfile
import time

import httpx

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "thermocline"
MODEL = os.environ.get("THERMOCLINE_MODEL") or CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
BUILD = pathlib.Path(os.environ.get("THERMOCLINE_BUILD") or ROOT / "build" / "release")
HOT_PAGE_BYTES = 1474560  # 64 tokens of SmolLM2-135M


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="the smallest size that shows the same")
    parser.add_argument("--url", help="of a server that runs already, instead of servers with tiers on and off")
    return parser


@dataclasses.dataclass
class Answer:
    text: str
    usage: dict
    first: float  # seconds until the first token
    total: float

    @property
    def line(self):
        return " ".join(self.text.split())


class Server:
    """`thermocline serve` with these flags on a free port, or the one at `url`."""

    def __init__(self, *flags, url=None):
        self.flags, self.url, self.process = flags, url, None
        if url is None:
            self.start()
        self.model = httpx.get(self.url + "/v1/models", timeout=60).json()["data"][0]["id"]

    def start(self):
        self.process = subprocess.Popen([str(BUILD / "thermocline"), "serve", str(MODEL), "--port", "0", *self.flags],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("Serving on "):
            raise SystemExit(f"the server did not start: {' '.join(map(str, self.process.args))}")
        self.url = line.split()[-1]

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process.stdout.close()

    def restart(self):
        """False for a server that is not ours."""
        if self.process is None:
            return False
        self.stop()
        self.start()
        return True

    def post(self, path, body):
        answer = httpx.post(self.url + path, json=body, timeout=600)
        answer.raise_for_status()
        return answer.json()

    def tokenize(self, text):
        return self.post("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]

    def cut(self, text, num_tokens):
        """The beginning of the text, so many tokens long."""
        return self.post("/detokenize", {"tokens": self.tokenize(text)[:num_tokens]})["prompt"]

    def ask(self, prompt, max_tokens, **more):
        """A completion of a text, or an answer to a list of chat messages; greedy."""
        chat = isinstance(prompt, list)
        path = "/v1/chat/completions" if chat else "/v1/completions"
        body = {"model": self.model, "messages" if chat else "prompt": prompt, "max_tokens": max_tokens,
                "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, **more}
        begin, first, text, usage = time.perf_counter(), None, "", None
        with httpx.stream("POST", self.url + path, json=body, timeout=600) as stream:
            for line in stream.iter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "choices" not in event:
                    raise SystemExit(f"{path}: {event}")
                for choice in event["choices"]:
                    text += choice["delta"].get("content") or "" if chat else choice["text"]
                if text and first is None:
                    first = time.perf_counter() - begin
                usage = event.get("usage") or usage
        total = time.perf_counter() - begin
        return Answer(text.strip(), usage, total if first is None else first, total)

    def memory(self):
        """Rows of the table: what the KV cache holds now. Waits until nothing is on its way to the store."""
        last = None
        while True:
            kv = httpx.get(self.url + "/v1/kv", timeout=60).json()
            store = kv["store"]
            now = (kv["moves"]["in_flight"], store and (store["pages"], store["pending_writes"]))
            if now == last:
                break
            last = now
            time.sleep(0.5)
        tiers = kv["tiers"]
        held = sum(tier["bytes"] for tier in tiers.values())
        tokens = kv["page_tokens"] * sum(tier["pages"] for tier in tiers.values())
        return {
            "KV cache held (MiB)": mebibytes(held),
            "bytes a token held": str(round(held / max(1, tokens))),
            "arena: hot / warm / cold (MiB)":
                " / ".join(mebibytes(tiers[name]["bytes"]) for name in ("hot", "warm", "cold")),
            "store: memory / disk (MiB)":
                " / ".join(mebibytes(store[place]["bytes"]) for place in ("memory", "disk")) if store else "off",
        }


def mebibytes(num_bytes):
    return f"{num_bytes / 2**20:.1f}"


def restored(*answers):
    """Of the prompts, tokens that were found in the cache, and of these what the store gave."""
    details = [answer.usage["prompt_tokens_details"] for answer in answers]
    counts = (sum(answer.usage["prompt_tokens"] for answer in answers), sum(d["cached_tokens"] for d in details),
              sum(d["restored_tokens"] for d in details))
    return " / ".join(map(str, counts))


def compare(args, run, configurations):
    """The table of run(server) for each {name: flags}; a flag "STORE" stands for a new folder's path."""
    if args.url:
        configurations = {args.url: ()}
    columns = {}
    for name, flags in configurations.items():
        print(f"\n--- {name}", flush=True)
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            server = Server(*(folder if flag == "STORE" else flag for flag in flags), url=args.url)
            stack.callback(server.stop)
            begin = time.perf_counter()
            columns[name] = run(server)
            columns[name]["all of it (s)"] = f"{time.perf_counter() - begin:.1f}"
    print("\n| | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for row in dict.fromkeys(row for column in columns.values() for row in column):
        print(f"| {row} | " + " | ".join(column.get(row, "") for column in columns.values()) + " |")
