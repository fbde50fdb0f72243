"""An include may point left, never right: kernels <- scheduler <- engine <- server."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYERS = ["kernels", "scheduler", "engine", "server"]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
# What only one folder may name, by the start of the header's path.
SERVER_ONLY = ("boost/", "nlohmann/", "CLI/", "spdlog/")
CUDA = ("cuda", "nv")


def violations(path, text):
    """What is wrong with the includes of the file `path`, relative to the root."""
    layer = path.split("/")[0]
    found = []
    for kind, target in INCLUDE.findall(text):
        first = target.split("/")[0]
        if kind == '"' and first in LAYERS and LAYERS.index(first) > LAYERS.index(layer):
            found.append(f"{path}: {layer} includes {target}")
        if kind == '"' and first == "tests":
            found.append(f"{path}: the product includes a test's {target}")
        if kind == '"' and layer == "scheduler" and first == "kernels":
            if not target.startswith("kernels/base/") and target != "kernels/page_format.h":
                found.append(f"{path}: scheduler includes {target}")
        if path.startswith("kernels/cpu/isa/") and kind == '"' and first != "kernels" and "/" in target:
            found.append(f"{path}: a kernel includes {target}")
        if target.startswith(SERVER_ONLY) and layer != "server":
            found.append(f"{path}: {target} is for server/ alone")
        if kind == "<" and target.startswith(CUDA) and not path.startswith("kernels/cuda/"):
            found.append(f"{path}: {target} is for kernels/cuda/ alone")
    return found


def product_files():
    names = subprocess.run(["git", "ls-files", *LAYERS], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in names.stdout.split() if name.endswith((".h", ".cc", ".inl", ".cu", ".cuh"))]


def test_every_include_points_left():
    files = product_files()
    assert len(files) > 100
    assert [v for name in files for v in violations(name, (ROOT / name).read_text())] == []


@pytest.mark.parametrize(
    "path, include",
    [
        ("kernels/cpu/cpu_ops.cc", '#include "scheduler/arena.h"'),
        ("scheduler/arena.cc", '#include "engine/engine.h"'),
        ("scheduler/arena.cc", '#include "kernels/ops.h"'),
        ("engine/engine.cc", '  #  include "server/router.h"'),
        ("engine/engine.cc", "#include <nlohmann/json.hpp>"),
        ("engine/engine.cc", '#include "tests/testing/fake_model.h"'),
        ("server/main.cc", "#include <cuda_runtime.h>"),
    ],
)
def test_an_include_that_points_right_is_seen(path, include):
    assert len(violations(path, f"#pragma once\n{include}\n")) == 1


def test_includes_that_point_left_are_fine():
    assert violations("server/main.cc", '#include "kernels/base/status.h"\n#include <boost/asio.hpp>\n') == []
    assert violations("scheduler/arena.h", '#include "kernels/page_format.h"\n#include <map>\n') == []
