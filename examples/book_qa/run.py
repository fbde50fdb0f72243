"""Questions about one long book: it is read once, and kept as the prefix that all questions share."""

import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import common

sys.path.insert(0, str(common.ROOT / "benchmarks" / "quality"))
import prose

QUESTIONS = [
    "Who is the heroine of this book?",
    "What is her father's profession?",
    "How many brothers and sisters does she have?",
    "Which town do the Allens take her to?",
    "Who is Mr. Tilney?",
]


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--book", help="a text file, instead of Northanger Abbey")
    parser.add_argument("--question", action="append", help="instead of ours; may be given again")
    args = parser.parse_args()
    book = pathlib.Path(args.book).read_text() if args.book else prose.novels()["northanger_abbey"]
    book = book[book.find("CHAPTER 1"):] if "CHAPTER 1" in book else book
    questions = args.question or QUESTIONS
    length, answer_tokens = (1200, 8) if args.quick else (6800, 40)

    def run(server):
        text = server.cut(book, length)
        system = {"role": "system", "content": "Answer questions about this book, in one sentence.\n\n" + text}

        def ask(question):
            return server.ask([system, {"role": "user", "content": question}], answer_tokens)

        answers = [ask(question) for question in questions]
        for question, answer in zip(questions, answers):
            print(f"{question}\n    {answer.line}")
        rows = {
            **server.memory(),
            "first question: to the first token (s)": f"{answers[0].first:.2f}",
            "later questions: to the first token (s), median": f"{statistics.median(a.first for a in answers[1:]):.2f}",
        }
        if server.restart():
            again = ask(questions[0])
            rows["after a restart: prompt / cached / restored tokens"] = common.restored(again)
            rows["after a restart: to the first token (s)"] = f"{again.first:.2f}"
            rows["after a restart: the same answer"] = "yes" if again.text == answers[0].text else "no"
        return rows

    arena = ("--max-model-len", "8192", "--kv-cache-memory-bytes", "256M")
    common.compare(args, run, {
        "cold pages and a store": (*arena, "--kv-policy", "cold", "--kv-store-dir", "STORE"),
        "off": (*arena, "--kv-policy", "hot"),
    })


if __name__ == "__main__":
    main()
