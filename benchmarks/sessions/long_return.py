"""One conversation of 7K tokens comes back: how long until its first token.

In turns: computed again; restored from a directory after a restart, with the files in the page cache and without;
restored from memory after another conversation took the arena; the same file operations by llama-server's slots.
Each return ends with a message that nobody has seen, which everybody has to compute.
"""

import contextlib
import itertools
import json
import os
import pathlib
import tempfile
import time

import compare
import context
import servers

PAGE_TOKENS = 64
PAGE_BYTES = 1474560  # of a hot page
MESSAGE = 100  # tokens of the new message


def complete(server, prompt, num_tokens=1, **more):
    """Seconds until all of the answer was there, and the answer."""
    body = {**server.body(prompt, num_tokens), "stream": False, **more}
    begin = time.perf_counter()
    with server.post(server.path, body) as answer:
        answer = json.load(answer)
    return time.perf_counter() - begin, answer


def drop_from_page_cache(folder):
    """Files are asked for from the disk the next time, as after a night of other work."""
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read_from_disk(server):
    counts = pathlib.Path(f"/proc/{server.process.pid}/io").read_text()
    return int(counts.split("\nread_bytes:")[1].split()[0])


class Conversation:
    """Token ids: a history that was there before, and messages that are new each time."""

    def __init__(self, length, tokenize):
        # Drawn at once: later no server may be there to be asked.
        self.supply = iter(compare.prompts(7, tokenize)(2 * length + 50_000))
        self.history = self.words(length)
        self.other = self.words(length)
        self.arena = (length + MESSAGE + 1 + PAGE_TOKENS - 1) // PAGE_TOKENS + 1  # hot pages

    def words(self, length):
        return list(itertools.islice(self.supply, length))

    def comes_back(self):
        return self.history + self.words(MESSAGE)


class Ours:
    """What is measured of Thermocline under one policy. Each way gives (seconds, facts)."""

    def __init__(self, args, policy, conversation, folder):
        self.args, self.policy, self.conversation, self.folder = args, policy, conversation, folder
        self.stack = contextlib.ExitStack()
        with self.running("--kv-store-dir", folder) as server:
            complete(server, conversation.history)
        self.in_memory = self.stack.enter_context(self.running("--kv-store-memory-bytes", "1G"))
        self.leave(conversation.history)

    def leave(self, prompt, **more):
        """A conversation ends, and its pages have had the time to be stored."""
        complete(self.in_memory, prompt, **more)
        stored, quiet = -1, 0
        while quiet < 10:
            time.sleep(0.05)
            now = self.in_memory.kv()["store"]["pages"]
            stored, quiet = now, quiet + 1 if now == stored else 0

    @contextlib.contextmanager
    def running(self, *flags):
        arena = self.conversation.arena
        server = servers.Thermocline(
            self.args.ours, self.args.model, self.args.threads,
            ("--kv-policy", self.policy, "--max-model-len", str((arena - 1) * PAGE_TOKENS), *flags), arena * PAGE_BYTES)
        try:
            complete(server, self.conversation.words(PAGE_TOKENS))  # weights and buffers are in memory
            yield server
        finally:
            server.stop()

    def measure(self, server):
        read = bytes_read_from_disk(server)
        seconds, answer = complete(server, self.conversation.comes_back())
        details = answer["usage"]["prompt_tokens_details"]
        return seconds, {**details, "read_from_disk": bytes_read_from_disk(server) - read}

    def again(self):
        with self.running() as server:
            return self.measure(server)

    def disk(self, page_cache):
        if not page_cache:
            drop_from_page_cache(self.folder)
        with self.running("--kv-store-dir", self.folder) as server:
            return self.measure(server)

    def memory(self):
        # Pages of an exact request stay hot, so that it needs the arena, but for the few pages of its message.
        self.leave(self.conversation.other, kv_fidelity="exact")
        return self.measure(self.in_memory)

    def ways(self):
        return {
            f"{self.policy}: computed again": self.again,
            f"{self.policy}: from disk, not in the page cache": lambda: self.disk(page_cache=False),
            f"{self.policy}: from disk, in the page cache": lambda: self.disk(page_cache=True),
            f"{self.policy}: from memory": self.memory,
        }


class Peer:
    """llama-server with one slot that was saved once; a return is the restoring and the first token."""

    def __init__(self, args, conversation, folder):
        self.conversation, self.folder = conversation, folder
        # Its own cache of prompts in memory would answer for the file.
        self.server = servers.LlamaServer(
            args.peer, args.model, args.threads,
            ("-np", "1", "-c", "8192", "-fa", "on", "--slot-save-path", folder, "--cache-ram", "0"), cache_prompt=True)
        complete(self.server, conversation.history)
        self.saved = self.slot("save")

    def slot(self, action):
        with self.server.post(f"/slots/0?action={action}", {"filename": "conversation"}) as answer:
            return json.load(answer)

    def measure(self, restore):
        self.slot("erase")
        prompt = self.conversation.comes_back()
        read = bytes_read_from_disk(self.server)
        begin = time.perf_counter()
        if restore:
            self.slot("restore")
        _, answer = complete(self.server, prompt)
        seconds = time.perf_counter() - begin
        cached = len(prompt) - answer["timings"]["prompt_n"]
        return seconds, {"cached_tokens": cached, "restored_tokens": cached,
                         "read_from_disk": bytes_read_from_disk(self.server) - read}

    def from_disk(self, page_cache):
        if not page_cache:
            drop_from_page_cache(self.folder)
        return self.measure(restore=True)

    def ways(self):
        return {
            "llama-server: computed again": lambda: self.measure(restore=False),
            "llama-server: slot, not in the page cache": lambda: self.from_disk(page_cache=False),
            "llama-server: slot, in the page cache": lambda: self.from_disk(page_cache=True),
        }


def check(way, facts, length):
    """A number is worth nothing when what it is of did not happen."""
    if way.endswith("computed again"):
        happened = facts["cached_tokens"] == 0
    else:
        # In the arena are still the pages that the other conversation could do without: those of a message.
        left = 4 * PAGE_TOKENS if way.endswith("from memory") else 0
        found = length // PAGE_TOKENS * PAGE_TOKENS
        happened = facts["cached_tokens"] >= found and facts["restored_tokens"] >= found - left
    if not happened:
        raise RuntimeError(f"{way}: {facts}")


def bytes_of(folder):
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())


def measure(args):
    """{way: {"seconds": [...], "facts": [...]}}, and bytes on disk of the history by who wrote it."""
    with contextlib.ExitStack() as stack:
        def folder():
            return stack.enter_context(tempfile.TemporaryDirectory(dir=compare.ROOT / "build"))

        with context.running(lambda: servers.Thermocline(args.ours, args.model, args.threads)) as (server,):
            conversation = Conversation(args.history, server.tokenize)
        ways, disk = {}, {}
        for policy in args.policies:
            ours = Ours(args, policy, conversation, folder())
            stack.push(ours.stack)
            disk[policy] = bytes_of(ours.folder)
            ways |= ours.ways()
        if args.peer:
            peer = Peer(args, conversation, folder())
            stack.callback(peer.server.stop)
            disk["llama-server"] = bytes_of(peer.folder)
            ways |= peer.ways()
        samples = {way: {"seconds": [], "facts": []} for way in ways}
        for repetition in range(args.repetitions):
            for way in compare.in_turn(ways, repetition):
                # Computing takes most of the time; beside the first policy's, fewer of it will do.
                if way.endswith("computed again") and not way.startswith(args.policies[0]) and (
                        repetition >= args.computed_repetitions):
                    continue
                seconds, facts = ways[way]()
                check(way, facts, args.history)
                samples[way]["seconds"].append(seconds)
                samples[way]["facts"].append(facts)
                print(f"{way}: {seconds:.3f} s", flush=True)
    return samples, disk


def table(samples, disk):
    lines = ["| | n | to the first token (s) | restored tokens | read from disk (MiB) |", "|---|---|---|---|---|"]
    for way, sample in samples.items():
        last = sample["facts"][-1]
        lines.append(f"| {way} | {len(sample['seconds'])} | {compare.cell(sample['seconds'])} | "
                     f"{last['restored_tokens']} | {last['read_from_disk'] / 2**20:.0f} |")
    sizes = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in disk.items())
    return "\n".join(lines) + f"\n\nThe history on disk: {sizes}."
