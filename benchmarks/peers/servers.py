"""The two servers that are compared, and one way to ask both for tokens."""

import bisect
import itertools
import json
import pathlib
import selectors
import socket
import subprocess
import time
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running server; generate() streams greedy tokens after a prompt of token ids."""

    name = ""
    path = ""
    clock = staticmethod(time.perf_counter)  # seconds

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(60000):
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} did not start: {' '.join(command)}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.01)
        raise RuntimeError(f"{self.name} did not become ready")

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def processor_seconds(self):
        """Processor time of all its threads so far: a clock that other work on the machine does not move."""
        process_clock = (~self.process.pid << 3) | 2  # CPUCLOCK_SCHED, see clock_getcpuclockid(3)
        return time.clock_gettime(process_clock)

    def peak_rss_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def resident_bytes(self, mapped_bytes):
        """Of the one mapping of no file that has this many bytes, to the next of its pages."""
        found, is_it = [], False
        for line in pathlib.Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            words = line.split()
            if "-" in words[0]:  # a mapping's first line: addresses, rights, offset, device, inode, perhaps a name
                begin, end = (int(address, 16) for address in words[0].split("-"))
                is_it = words[4] == "0" and -(mapped_bytes // -4096) * 4096 == end - begin
            elif is_it and words[0] == "Rss:":
                found.append(int(words[1]) * 1024)
        if len(found) != 1:
            raise RuntimeError(f"{self.name} has {len(found)} mappings of {mapped_bytes} bytes")
        return found[0]

    def post(self, path, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return urllib.request.urlopen(request, timeout=600)

    def generate(self, prompt, num_tokens):
        """Arrival times of the request's tokens, in seconds after it was sent."""
        return self.generate_together([prompt], num_tokens)[0][0]

    def generate_together(self, prompts, num_tokens):
        """For each prompt what generate() says, and the seconds until all had ended.

        One thread only stores what comes and when, and reads it afterwards: the client is to take as little as
        possible of the cores that the server computes on.
        """
        requests = []
        for prompt in prompts:
            body = json.dumps(self.body(prompt, num_tokens)).encode()
            head = (f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n")
            requests.append(head.encode() + body)
        received = [[] for _ in prompts]
        clock = self.clock
        with selectors.DefaultSelector() as selector:
            begin = clock()
            for request, parts in zip(requests, received):
                connection = socket.create_connection(("127.0.0.1", self.port), timeout=600)
                connection.sendall(request)
                selector.register(connection, selectors.EVENT_READ, parts)
            while selector.get_map():
                ready = selector.select(600)
                if not ready:
                    raise RuntimeError(f"{self.name} sent nothing for ten minutes")
                for key, _ in ready:
                    data = key.fileobj.recv(1 << 16)
                    if data:
                        key.data.append((clock() - begin, data))
                    else:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
            seconds = clock() - begin
        return [self.token_times(parts, num_tokens) for parts in received], seconds

    def token_times(self, parts, num_tokens):
        """Arrival times of tokens. llama-server sends no event for one that ends inside a character: it counts with
        the one after it."""
        times = []
        missing = 0
        for arrival, line in lines_of(parts):
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                times += [arrival] * self.count(event)
                missing = max(missing, event.get("tokens_predicted", 0) - len(times))
        times += times[-1:] * missing
        if len(times) != num_tokens:
            raise RuntimeError(f"{self.name} gave {len(times)} of {num_tokens} tokens")
        return times


def lines_of(parts):
    """The lines of a chunked answer received as (time, bytes): (when the chunk that ends it was there, line)."""
    stream = b"".join(data for _, data in parts)
    ends = list(itertools.accumulate(len(data) for _, data in parts))
    head, _, _ = stream.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0] or b"chunked" not in head.lower():
        raise RuntimeError(f"not a stream of events: {stream[:500]!r}")
    at = len(head) + 4
    line = b""
    while True:
        size_end = stream.index(b"\r\n", at)
        size = int(stream[at:size_end], 16)
        if size == 0:
            return
        at = size_end + 2 + size
        arrival = parts[bisect.bisect_right(ends, at - 1)][0]
        *complete, line = (line + stream[at - size:at]).split(b"\n")
        for one in complete:
            yield arrival, one
        at += 2


class Thermocline(Server):
    name = "thermocline"
    path = "/v1/completions"

    def __init__(self, program, model, threads, flags=("--no-enable-prefix-caching",), arena="1G"):
        self.port = free_port()
        super().__init__([str(program), "serve", str(model), "--port", str(self.port), "--threads", str(threads),
                          "--kv-cache-memory-bytes", str(arena), *flags])
        while self.kv()["calibration"]["state"] in ("measuring", "switching"):  # once per model
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models") as answer:
            self.model = json.load(answer)["data"][0]["id"]

    def body(self, prompt, num_tokens):
        return {"model": self.model, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0,
                "ignore_eos": True, "stream": True, "logprobs": 0}

    @staticmethod
    def count(event):
        return sum(len(choice["logprobs"]["tokens"]) for choice in event["choices"] if choice.get("logprobs"))

    def tokenize(self, text):
        with self.post("/tokenize", {"prompt": text, "add_special_tokens": False}) as answer:
            return json.load(answer)["tokens"]

    def detokenize(self, tokens):
        with self.post("/detokenize", {"tokens": tokens}) as answer:
            return json.load(answer)["prompt"]

    def kv(self):
        """What it says of its KV cache: GET /v1/kv."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/kv") as answer:
            return json.load(answer)

    def top(self, prompt, count=5):
        """The most likely next tokens as {text: log probability}."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": count}
        with self.post(self.path, body) as answer:
            return json.load(answer)["choices"][0]["logprobs"]["top_logprobs"][0]

    def greedy(self, prompt, num_tokens):
        body = {"model": self.model, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0}
        with self.post(self.path, body) as answer:
            return json.load(answer)["choices"][0]["text"]


class LlamaServer(Server):
    name = "llama-server"
    path = "/completion"

    def __init__(self, program, model, threads, flags=("-np", "8", "-c", "16384"), cache_prompt=False):
        self.port = free_port()
        self.cache_prompt = cache_prompt
        super().__init__([str(program), "-m", str(model), "--port", str(self.port), "-t", str(threads),
                          "-tb", str(threads), "--no-webui", *flags])

    def body(self, prompt, num_tokens):
        return {"prompt": prompt, "n_predict": num_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                "cache_prompt": self.cache_prompt, "return_tokens": True}

    @staticmethod
    def count(event):
        return 0 if event.get("stop") else len(event.get("tokens", []))

    def top(self, prompt, count=5):
        body = {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": count, "cache_prompt": False}
        with self.post(self.path, body) as answer:
            entry = json.load(answer)["completion_probabilities"][0]
        return {one["token"]: one["logprob"] for one in entry["top_logprobs"]}

    def greedy(self, prompt, num_tokens):
        """The text and its token ids."""
        body = {"prompt": prompt, "n_predict": num_tokens, "temperature": 0, "cache_prompt": False,
                "return_tokens": True}
        with self.post(self.path, body) as answer:
            result = json.load(answer)
        return result["content"], result["tokens"]
