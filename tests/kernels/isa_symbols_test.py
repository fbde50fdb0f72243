"""Object files built for one instruction set must not offer symbols that the linker could keep for all."""

import os
import pathlib
import subprocess

BUILD = pathlib.Path(os.environ["THERMOCLINE_BUILD"])


def isa_objects():
    folder = BUILD / "kernels" / "cpu" / "CMakeFiles" / "thermocline_isa.dir" / "isa"
    return sorted(folder.glob("avx*.cc.o"))


def test_isa_objects_have_no_weak_symbols():
    objects = isa_objects()
    assert len(objects) == 3, objects
    for path in objects:
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
