"""scripts/check_cubins reads what cuobjdump prints, and says one line for each breach of a budget.

The sample is of two small kernels, compiled for sm_90a; lines with the bits of instructions are left out.
"""

import importlib.machinery
import importlib.util
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "tests" / "data" / "cubins"
NAMES = {
    "_ZN11thermocline11ScoreKernelILi64EEEvPKjPii":
        "void thermocline::(anonymous namespace)::ScoreKernel<(int)64>(unsigned int const*, int*, int)",
    "_ZN11thermocline14SpillingKernelEPfi": "thermocline::SpillingKernel(float*, int)",
}
SCORE = {"registers": 30, "must_have": ["IMMA|HMMA"], "loop": {"with": "IMMA", "integers": 22}}
OTHER = {"registers": {"sm_80": 99, "sm_90a": 16}}


def load():
    loader = importlib.machinery.SourceFileLoader("check_cubins", str(ROOT / "scripts" / "check_cubins"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_cubins", loader))
    sys.dont_write_bytecode = True
    sys.modules["check_cubins"] = module
    loader.exec_module(module)
    return module


check_cubins = load()


def found(score=None, other=None, sass=lambda text: text, resources=lambda text: text):
    kernels = check_cubins.parse(resources((SAMPLE / "two_kernels.resources").read_text()),
                                 sass((SAMPLE / "two_kernels.sass").read_text()), NAMES.get)
    budget = {"ScoreKernel<64>": {**SCORE, **(score or {})}, "SpillingKernel": {**OTHER, **(other or {})}}
    return list(check_cubins.breaches(kernels, budget, "sm_90a"))


def test_kernels_within_their_budget_have_no_breach():
    assert found() == []


@pytest.mark.parametrize("score, line", [
    ({"registers": 29}, "30 registers, allowed 29"),
    ({"registers": {"sm_80": 99}}, "30 registers, allowed None"),
    ({"must_have": ["IMMA|HMMA", "LDGSTS|UBLKCP"]}, "no LDGSTS|UBLKCP"),
    ({"at_most": {"LDG": 4}}, "5 LDG, allowed 4"),
    ({"loop": {"with": "IMMA", "integers": 21}}, "22 integer instructions in a loop with IMMA, allowed 21"),
    ({"loop": {"with": "IMMA", "none": "PRMT"}}, "PRMT in a loop with IMMA"),
    ({"loop": {"with": "HMMA", "integers": 21}}, "no loop with HMMA"),
])
def test_each_limit_is_held(score, line):
    assert found(score) == [f"sm_90a ScoreKernel<64>: {line}"]


def test_local_memory_is_a_breach():
    assert found(resources=lambda text: text.replace("REG:30 STACK:0", "REG:30 STACK:8")) == [
        "sm_90a ScoreKernel<64>: 8 bytes of stack, allowed 0"]
    assert found(sass=lambda text: text.replace(" STG.E desc[UR4][R2.64],", " STL [R1], ", 1)) == [
        "sm_90a SpillingKernel: 1 STL, allowed 0"]


def test_local_memory_may_be_allowed():
    def spilled(text):
        return text.replace("REG:30 STACK:0", "REG:30 STACK:8")
    assert found({"stack": {"sm_80": 0, "sm_90a": 8}}, resources=spilled) == []
    assert found({"stack": {"sm_80": 8, "sm_90a": 4}}, resources=spilled) == [
        "sm_90a ScoreKernel<64>: 8 bytes of stack, allowed 4"]


def test_kernels_and_budgets_belong_together():
    kernels = check_cubins.parse((SAMPLE / "two_kernels.resources").read_text(),
                                 (SAMPLE / "two_kernels.sass").read_text(), NAMES.get)
    assert list(check_cubins.breaches(kernels, {"ScoreKernel<64>": SCORE, "Gone": OTHER}, "sm_90a")) == [
        "sm_90a Gone: has a budget and is not there", "sm_90a SpillingKernel: has no budget in cubin_budget.toml"]


def test_a_kernel_that_could_not_be_read_is_a_breach():
    assert "sm_90a SpillingKernel: has no instructions that could be read" in found(sass=lambda text: "")


def test_a_loop_that_only_waits_may_lie_inside():
    # As a spin on a barrier compiles: a jump back to the instruction before it.
    def spin(text):
        lines = text.splitlines()
        at = next(i for i, line in enumerate(lines) if "/*0150*/" in line and i > 80)
        return "\n".join(lines[:at] + ["        /*0150*/               @!P1 BRA 0x140 ;"] + lines[at + 1:])
    assert found({"loop": {"with": "IMMA", "none": "HMMA"}}, sass=spin) == []


def test_every_source_stands_in_the_budget_and_the_other_way_about():
    names = {path.name for path, _ in check_cubins.sources()}
    assert names == set(check_cubins.tomllib.loads(check_cubins.BUDGET.read_text()))
    assert all(path.exists() for path, _ in check_cubins.sources())


def test_a_header_that_changes_is_seen():
    source, _ = next(check_cubins.sources())
    assert ROOT / "kernels" / "core" / "quantize.h" in check_cubins.closure(source)
