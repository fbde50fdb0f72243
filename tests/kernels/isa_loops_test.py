"""The innermost loops of products keep their sums in registers: one kept on the stack halves their speed."""

import os
import pathlib
import re
import subprocess

import pytest

BUILD = pathlib.Path(os.environ["THERMOCLINE_BUILD"])
PRODUCT = re.compile(r"^(vfmadd|vpdp)")
STORE_ON_STACK = re.compile(r"^vmov\w+ +%zmm\d+,.*(%rsp|-0x\w+\(%rbp)")
ATTENTION = re.compile(r"(::(HalfPage|WidenedPage|SpreadPage|CodedPage)|MultiplySixteens|Attend\w*Page)\b")


def instructions(path):
    """Of one object: (address, text, function)."""
    text = subprocess.run(["objdump", "-d", "-C", "--no-show-raw-insn", path], check=True, capture_output=True,
                          text=True).stdout
    function, found = "", []
    for line in text.splitlines():
        if start := re.match(r"^[0-9a-f]+ <(.*)>:$", line):
            function = start[1]
        elif one := re.match(r"^ *([0-9a-f]+):\s+(.*)$", line):
            found.append((int(one[1], 16), one[2], function))
    return found


def innermost_loops(found):
    """(function, instructions) of what ends in a jump back and has no other jump in it. Sections begin at 0."""
    for end, (address, text, function) in enumerate(found):
        target = re.match(r"j\w+\s+([0-9a-f]+)", text)
        if not target or int(target[1], 16) >= address:
            continue
        begin = end
        while found[begin][0] > int(target[1], 16) and (begin == end or found[begin][1][0] != "j"):
            begin -= 1
        if found[begin][0] == int(target[1], 16):
            yield function, [one for _, one, _ in found[begin : end + 1]]


@pytest.mark.parametrize("name", ["avx512.cc.o", "amx.cc.o"])
def test_attention_products_stay_in_registers(name):
    path = BUILD / "kernels" / "cpu" / "CMakeFiles" / "thermocline_isa.dir" / "isa" / name
    seen = 0
    for function, loop in innermost_loops(instructions(path)):
        products = [one for one in loop if PRODUCT.match(one)]
        if len(products) < 8 or not ATTENTION.search(function):
            continue
        seen += 1
        assert not [one for one in loop if STORE_ON_STACK.search(one)], function
    assert seen > 4
