"""What object files built for one instruction set offer to the linker, and what their hot loops keep in registers."""

import os
import pathlib
import re
import subprocess

import pytest

BUILD = pathlib.Path(os.environ["THERMOCLINE_BUILD"])


def isa_objects():
    folder = BUILD / "kernels" / "cpu" / "CMakeFiles" / "thermocline_isa.dir" / "isa"
    return [folder / f"{name}.cc.o" for name in ("avx2", "avx_vnni", "avx512", "amx")]


def test_isa_objects_have_no_weak_symbols():
    for path in isa_objects():
        lines = subprocess.run(["nm", "-C", path], check=True, capture_output=True, text=True).stdout
        shared = [line for line in lines.splitlines() if line[17:18] in "WVu" and "sanitizer" not in line]
        # Instrumented builds add comdat symbols of their own, with reserved names.
        ours = [line for line in shared if " __" not in line and "DW.ref" not in line]
        assert not ours, (path.name, ours)


def test_isa_objects_export_only_their_table():
    for path in isa_objects():
        lines = subprocess.run(["nm", "-C", path], check=True, capture_output=True, text=True).stdout
        exported = [line[19:] for line in lines.splitlines() if line[17:18] == "T"]
        assert len(exported) == 1 and exported[0].endswith("IsaTable()"), exported


def functions(path):
    """Of an object file: the lines of each function by its demangled name."""
    lines = subprocess.run(["objdump", "-d", "-C", path], check=True, capture_output=True, text=True).stdout
    found, current = {}, []
    for line in lines.splitlines():
        if line.endswith(">:"):
            current = found.setdefault(line.split(" ", 1)[1], [])
        else:
            current.append(line)
    return found


# PanelKind 7 has two scales for each block and is let off.
@pytest.mark.parametrize(("name", "function", "product", "count"), [
    ("avx512", r"MultiplyTile<\(thermocline::PanelKind\)[0-6], 8>", "vpdpbusd", 128),
    ("amx", r"MultiplyGroup<\(thermocline::PanelKind\)[0-6]>", "tdpbsud", 6),
])
def test_sums_of_a_tile_stay_in_registers(name, function, product, count):
    # Of a build without instrumentation.
    if "CMAKE_BUILD_TYPE:STRING=Release" not in (BUILD / "CMakeCache.txt").read_text():
        pytest.skip("not a release build")
    path = next(path for path in isa_objects() if path.name == f"{name}.cc.o")
    tiles = {name: lines for name, lines in functions(path).items() if re.search(function, name)}
    assert len(tiles) == 7
    for tile, lines in tiles.items():
        reloads = [line for line in lines if re.search(r"\(%r[sb]p[^)]*\),.*%zmm", line)]
        assert sum(product in line for line in lines) == count, tile
        assert not reloads, (tile, reloads)
