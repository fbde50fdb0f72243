"""An include may point left, never right: kernels <- scheduler <- engine <- server.

Inside engine/ and server/ the same holds for their folders: see FOLDERS.
"""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYERS = ["kernels", "scheduler", "engine", "server"]
# What each folder of a layer may include beside itself. Files that stand in no folder of the layer may
# include all of them, and none includes those.
FOLDERS = {
    "engine": {
        "worker": [],
        "loader": [],
        "store": [],
        "text": ["loader", "worker"],
        "model": ["loader"],
        "baselines": ["runner.h"],
        "sampling": [],
        "kv": ["loader", "model", "store"],
        "calibration": ["kv", "loader", "model", "store", "text"],
    },
    "server": {
        "http": [],
        "api": ["http"],
        "web": ["http"],
        "cli": ["http", "api", "web"],
    },
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
# Baselines are not of the product: this file alone puts them into an engine, and others know their names.
BASELINES, BASELINE_LOADER, BASELINE_NAMES = "engine/baselines/", "engine/engine_loader.cc", "engine/baselines/baseline.h"
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
        if kind == '"' and first == layer and layer in FOLDERS and path.count("/") > 1:
            folder, target_folder = path.split("/")[1], target.split("/")[1]
            if target_folder not in [folder, *FOLDERS[layer][folder]]:
                found.append(f"{path}: {layer}/{folder} includes {target}")
        if target.startswith(BASELINES) and target != BASELINE_NAMES:
            if path != BASELINE_LOADER and not path.startswith(BASELINES):
                found.append(f"{path}: the product includes a baseline's {target}")
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


@pytest.mark.parametrize("layer", FOLDERS)
def test_every_folder_has_its_place(layer):
    files = [name.split("/") for name in product_files() if name.startswith(layer + "/")]
    assert {name[1] for name in files if len(name) > 2} == set(FOLDERS[layer])


def test_only_main_stands_in_no_folder_of_the_server():
    assert [name for name in product_files() if name.startswith("server/") and name.count("/") == 1] == ["server/main.cc"]


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
        ("engine/engine.cc", '  #  include "server/http/router.h"'),
        ("engine/engine.cc", "#include <nlohmann/json.hpp>"),
        ("engine/engine.cc", '#include "tests/testing/fake_model.h"'),
        ("server/main.cc", "#include <cuda_runtime.h>"),
        ("engine/kv/kv_store.cc", '#include "engine/engine_config.h"'),
        ("engine/kv/kv_cache.h", '#include "engine/calibration/calibration.h"'),
        ("engine/store/record.cc", '#include "engine/kv/kv_cache.h"'),
        ("engine/model_runner.h", '#include "engine/baselines/evictor.h"'),
        ("engine/engine_core.cc", '#include "engine/baselines/evicting_runner.h"'),
        ("server/cli/serve_command.cc", '#include "engine/baselines/eviction_rules.h"'),
        ("engine/baselines/evicting_runner.h", '#include "engine/model_runner.h"'),
        ("server/http/router.cc", '#include "server/api/openai_api.h"'),
        ("server/api/openai_api.cc", '#include "server/cli/log.h"'),
        ("server/api/openai_api.cc", '#include "server/web/web_pages.h"'),
        ("server/web/web_pages.cc", '#include "server/api/json.h"'),
    ],
)
def test_an_include_that_points_right_is_seen(path, include):
    assert len(violations(path, f"#pragma once\n{include}\n")) == 1


def test_includes_that_point_left_are_fine():
    assert violations("server/main.cc", '#include "kernels/base/status.h"\n#include <boost/asio.hpp>\n') == []
    assert violations("server/main.cc", '#include "server/cli/log.h"\n') == []
    assert violations("engine/engine_core.h", '#include "engine/kv/kv_cache.h"\n') == []
    assert violations("engine/calibration/calibration.h", '#include "engine/kv/kv_cache.h"\n') == []
    assert violations("engine/engine_loader.cc", '#include "engine/baselines/evicting_runner.h"\n') == []
    assert violations("engine/engine_config.h", '#include "engine/baselines/baseline.h"\n') == []
    assert violations("engine/baselines/evicting_runner.h", '#include "engine/runner.h"\n') == []
    assert violations("server/cli/shutdown.h", '#include "server/api/openai_api.h"\n') == []
    assert violations("server/api/openai_api.h", '#include "server/http/router.h"\n') == []
    assert violations("scheduler/arena.h", '#include "kernels/page_format.h"\n#include <map>\n') == []
