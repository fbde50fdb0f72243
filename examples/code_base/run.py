"""A code base that several users ask about at once: one prefix in memory, not one for each of them."""

import concurrent.futures
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import common

QUESTIONS = [
    "Which class hands out pages?",
    "What does PageTable hold?",
    "When is a page evicted?",
    "What is a tier?",
    "Who calls Scheduler?",
    "What is a StepPlan?",
]


def sources(folder):
    """Our headers of one folder, each after its name."""
    files = sorted((common.ROOT / folder).glob("*.h"))
    return "\n".join(f"// {file.relative_to(common.ROOT)}\n{file.read_text()}" for file in files)


def main():
    args = common.arguments(__doc__).parse_args()
    length, users, answer_tokens = (1400, 3, 8) if args.quick else (6400, 6, 32)
    longest = max(2048, length + 256)

    def run(server):
        codes = {folder: server.cut(sources(folder), length) for folder in ("scheduler", "engine")}

        def ask(folder, question, max_tokens=answer_tokens):
            system = {"role": "system", "content": "You know this code:\n\n" + codes[folder]}
            return server.ask([system, {"role": "user", "content": question}], max_tokens)

        def ask_all(folder):
            with concurrent.futures.ThreadPoolExecutor(users) as pool:
                return list(pool.map(lambda question: ask(folder, question), QUESTIONS[:users]))

        opened = ask("scheduler", "Hello", 1)  # the prefix is computed once, before anybody shares it
        answers = ask_all("scheduler")
        for question, answer in zip(QUESTIONS, answers):
            print(f"{question}\n    {answer.line}")
        memory = server.memory()
        each = sum(answer.usage["prompt_tokens"] for answer in answers) * common.HOT_PAGE_BYTES // 64
        ask("engine", "Hello", 1)  # other work, which wants the arena
        server.memory()  # once it is stored
        back = ask_all("scheduler")
        return {
            "users at once": str(users),
            "one hot copy for each would take (MiB)": common.mebibytes(each),
            **memory,
            "opening: to the first token (s)": f"{opened.first:.2f}",
            "users: to the first token (s), median": f"{statistics.median(answer.first for answer in answers):.2f}",
            "users after other work: prompt / cached / restored tokens": common.restored(*back),
            "users after other work: to the first token (s), median":
                f"{statistics.median(answer.first for answer in back):.2f}",
            "users after other work: until all have ended (s)": f"{max(answer.total for answer in back):.2f}",
        }

    # For one code base and what its users add to it.
    pages = longest // 64 + users
    arena = ("--max-model-len", str(longest), "--kv-cache-memory-bytes", str(pages * common.HOT_PAGE_BYTES))
    common.compare(args, run, {
        "cold pages and a store": (*arena, "--kv-policy", "cold", "--kv-store-memory-bytes", "512M"),
        "hot pages and a store": (*arena, "--kv-policy", "hot", "--kv-store-memory-bytes", "512M"),
        "off": (*arena, "--kv-policy", "hot"),
    })


if __name__ == "__main__":
    main()
