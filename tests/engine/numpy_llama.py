"""A plain float32 forward pass of the Llama family in numpy, and the engine's logits that are held against it."""

import dataclasses
import os
import subprocess

import numpy as np


@dataclasses.dataclass
class Shape:
    heads: int
    kv_heads: int
    dim: int  # of a head
    layers: int
    rope_base: float
    position_scale: float = 1.0  # linear position interpolation divides positions by it
    rope_dim: int = 0  # of a head's dimensions, those that rotate; 0: all


def norm(x, gain):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * gain


def page_basis(dim, seed=20504):
    """The rotation of the pages as a matrix: Sylvester's Hadamard matrices, the largest first, times the signs that SplitMix64 draws."""
    signs = []
    for _ in range(dim):
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        bits = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
        signs.append(-1.0 if (bits ^ bits >> 31) >> 63 else 1.0)
    basis, at = np.zeros((dim, dim)), 0
    while at < dim:
        hadamard = np.ones((1, 1))
        while 2 * len(hadamard) <= dim - at:
            hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
        end = at + len(hadamard)
        basis[at:end, at:end] = hadamard / len(hadamard)**0.5
        at = end
    return (basis * signs).astype(np.float32)


def as_in_a_hot_page(x):
    """x [..., dim] rounded to half in the basis of the pages."""
    basis = page_basis(x.shape[-1])
    return (x @ basis.T).astype(np.float16).astype(np.float32) @ basis


def log_softmax(z):
    z = z.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def forward(w, ids, shape):
    """Logits [len(ids), vocabulary] of every position; w maps GGUF's tensor names to float32 arrays."""
    count = len(ids)
    x = w["token_embd.weight"][ids]
    rotated = shape.rope_dim or shape.dim
    frequencies = shape.rope_base ** (-2 * np.arange(rotated // 2) / rotated)
    angles = np.arange(count)[:, None] / shape.position_scale * frequencies
    cos, sin = np.cos(angles)[:, None].astype(np.float32), np.sin(angles)[:, None].astype(np.float32)

    def rope(v):
        out = v.copy()
        even, odd = v[..., 0:rotated:2], v[..., 1:rotated:2]
        out[..., 0:rotated:2] = even * cos - odd * sin
        out[..., 1:rotated:2] = even * sin + odd * cos
        return out

    def linear(x, name):
        return x @ w[name + ".weight"].T + w.get(name + ".bias", np.float32(0))

    mask = np.triu(np.full((count, count), -np.inf, np.float32), 1)
    group = shape.heads // shape.kv_heads
    for layer in range(shape.layers):
        p = f"blk.{layer}."
        h = norm(x, w[p + "attn_norm.weight"])
        q, k, v = (linear(h, p + f"attn_{n}") for n in "qkv")
        q = rope(q.reshape(count, shape.heads, shape.dim))
        k = as_in_a_hot_page(rope(k.reshape(count, shape.kv_heads, shape.dim)))
        v = as_in_a_hot_page(v.reshape(count, shape.kv_heads, shape.dim))
        o = np.empty((count, shape.heads, shape.dim), np.float32)
        for i in range(shape.heads):
            scores = q[:, i] @ k[:, i // group].T / np.float32(shape.dim**0.5) + mask
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            o[:, i] = scores / scores.sum(-1, keepdims=True) @ v[:, i // group]
        x = x + linear(o.reshape(count, -1), p + "attn_output")
        h = norm(x, w[p + "ffn_norm.weight"])
        gate = linear(h, p + "ffn_gate")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, p + "ffn_up"), p + "ffn_down")
    head = w.get("output.weight", w["token_embd.weight"])
    return norm(x, w["output_norm.weight"]) @ head.T


def engine_log_probabilities(model, ids, ops, *tier):
    """The engine's, [len(ids), vocabulary], by its "reference" or its "cpu" operations; `tier`: of all full pages."""
    program = os.path.join(os.environ["THERMOCLINE_BUILD"], "logits_dump")
    out = subprocess.run([program, model, ops, *tier], input=" ".join(map(str, ids)).encode(), capture_output=True, check=True)
    return log_softmax(np.frombuffer(out.stdout, np.float32).reshape(len(ids), -1))


def kl_divergence(want, got):
    """Of each position, in nats, from log probabilities."""
    return (np.exp(want) * (want - got)).sum(-1)
