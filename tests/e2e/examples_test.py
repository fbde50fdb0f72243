"""Each example runs at its smallest size, and its table says what the tiers and the store are for."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ON, OFF = 0, -1  # the first column and the last one


def run(name, *flags):
    """{row: [cells]} of the table that ends the example's output."""
    command = [sys.executable, str(ROOT / "examples" / name / "run.py"), "--quick", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")]
             for line in done.stdout.splitlines() if line.startswith("| ")]
    return {row: cells for row, *cells in lines}


def restored(cell):
    """Of "prompt / cached / restored tokens"."""
    return int(cell.split(" / ")[2])


def assert_less_memory(table):
    for row in ("KV cache held (MiB)", "bytes a token held"):
        assert float(table[row][ON]) < 0.6 * float(table[row][OFF]), table
    assert table["store: memory / disk (MiB)"][OFF] == "off"
    assert float(table["store: memory / disk (MiB)"][ON].split(" / ")[0]) > 0, table


def test_a_book_is_answered_from_after_a_restart_without_reading_it_again():
    table = run("book_qa", "--book", str(ROOT / "docs" / "operations.md"))
    assert_less_memory(table)
    row = table["after a restart: prompt / cached / restored tokens"]
    assert restored(row[ON]) > 1000 and restored(row[OFF]) == 0, table
    # With tiers a page may come back less cold than it was, which a small model's words can show.
    assert table["after a restart: the same answer"][OFF] == "yes"


def test_users_share_one_code_base():
    table = run("code_base")
    assert_less_memory(table)
    copies = float(table["one hot copy for each would take (MiB)"][OFF])
    assert float(table["KV cache held (MiB)"][OFF]) < 0.6 * copies, table
    back = table["users after other work: prompt / cached / restored tokens"]
    cached = [int(cell.split(" / ")[1]) for cell in back]
    assert cached[ON] > cached[OFF] and cached[1] > cached[OFF], table
    assert restored(back[1]) > 0 and restored(back[OFF]) == 0, table  # the second column: hot pages and a store


def test_an_agent_goes_on_with_its_memory_after_a_restart():
    table = run("agent_memory")
    assert_less_memory(table)
    assert int(table["restored after a restart, tokens"][ON]) > 900, table
    assert table["restored after a restart, tokens"][OFF] == ""


def test_a_window_that_slides_by_half_is_computed_less_often():
    table = run("log_stream")

    def computed(row):
        tokens, total = table[f"slides {row}: of the prompts computed, tokens"][OFF].split(" of ")
        return int(tokens) / int(total)

    assert computed("by half") < 0.8 * computed("a batch at a time"), table
    back = table["back to the first full window: prompt / cached / restored tokens"]
    assert restored(back[ON]) > 500 and restored(back[OFF]) == 0, table
