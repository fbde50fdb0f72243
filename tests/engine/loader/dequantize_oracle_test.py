"""Every weight type decodes to the bits that the `gguf` package decodes it to."""

import os
import subprocess

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
# Where a block keeps its 16-bit scales, in bytes from its start.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "Q6_K": [208]}


@pytest.mark.parametrize("name", TYPES)
def test_bits_are_those_of_the_gguf_package(name):
    quantization = GGMLQuantizationType[name]
    block_bytes = GGML_QUANT_SIZES[quantization][1]
    chance = np.random.default_rng(7)
    blocks = chance.integers(0, 256, (2000, block_bytes), dtype=np.uint8)
    for at in SCALES.get(name, []):  # finite, of every size down to denormal and zero
        scales = (chance.standard_normal(2000) * 10.0 ** chance.uniform(-8, 3, 2000)).astype(np.float16)
        scales[:20] = 0
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    out = subprocess.run(
        [os.environ["THERMOCLINE_BUILD"] + "/dequantize_dump", str(quantization.value)],
        input=blocks.tobytes(), capture_output=True, check=True)
    got = np.frombuffer(out.stdout, np.float32)
    with np.errstate(all="ignore"):
        if name == "F32":
            want = blocks.reshape(-1).view(np.float32)
        elif name == "F16":
            want = blocks.reshape(-1).view(np.float16).astype(np.float32)
        else:
            want = dequantize(blocks, quantization).reshape(-1)
    assert got.shape == want.shape
    numbers = ~np.isnan(want)
    assert (np.isnan(got) == ~numbers).all()
    assert (got.view(np.uint32)[numbers] == want.astype(np.float32).view(np.uint32)[numbers]).all()
