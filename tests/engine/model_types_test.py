"""Small random models, one of each weight type, separate head and scaled positions: logits against numpy."""

import dataclasses
import pathlib
import sys

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from numpy_llama import Shape, engine_log_probabilities, forward, kl_divergence, log_softmax

sys.path.insert(0, str(pathlib.Path(__file__).parent / "loader"))
import gguf_writer  # noqa: E402

WIDTH, HIDDEN, TOKENS = 256, 512, 260
SHAPE = Shape(heads=8, kv_heads=2, dim=32, layers=2, rope_base=5000.0, position_scale=2.5)


def random_k_blocks(chance, kind, count):
    """Blocks of random codes whose values are about as large as a weight's: gguf cannot make these."""
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = chance.integers(0, 256, (count // elements, size), dtype=np.uint8)
    scale = {Type.Q4_K: 3e-4, Type.Q5_K: 1.5e-4, Type.Q6_K: 3e-5}[kind]
    at = 208 if kind == Type.Q6_K else 0
    blocks[:, at : at + 2] = np.array([scale], np.float16).view(np.uint8)
    if kind != Type.Q6_K:
        middle = 7.5 if kind == Type.Q4_K else 15.5  # about as much below zero as above
        blocks[:, 2:4] = np.array([scale * middle], np.float16).view(np.uint8)
    return blocks.reshape(-1)


def matrix(chance, kind, rows, cols):
    """(bytes, values) of a random matrix."""
    if kind in (Type.Q4_K, Type.Q5_K, Type.Q6_K):
        data = random_k_blocks(chance, kind, rows * cols).reshape(rows, -1)
    elif kind == Type.F16:
        data = (chance.standard_normal((rows, cols)) * 0.06).astype(np.float16)
    else:
        data = quantize((chance.standard_normal((rows, cols)) * 0.06).astype(np.float32), kind)
    return data.tobytes(), dequantize(data, kind).astype(np.float32).reshape(rows, cols)


def write_model(path, kind, key_bias=None, shape=SHAPE, biases=()):
    """`key_bias`: the size of a coordinate of K's bias; Q and V then have small ones. `biases`: {name: size} of others."""
    chance = np.random.default_rng(5)
    file = gguf_writer.tiny_llama()
    if shape.dim * shape.heads != WIDTH:
        for name in ("key", "value"):
            file.set(f"llama.attention.{name}_length", gguf_writer.Value(gguf_writer.U32, shape.dim))
    for key, value in {
        "embedding_length": WIDTH, "block_count": shape.layers, "feed_forward_length": HIDDEN,
        "attention.head_count": shape.heads, "attention.head_count_kv": shape.kv_heads,
        "rope.dimension_count": shape.rope_dim or shape.dim,
    }.items():
        file.set("llama." + key, gguf_writer.Value(gguf_writer.U32, value))
    file.set("llama.rope.freq_base", gguf_writer.Value(gguf_writer.F32, shape.rope_base))
    file.set("llama.rope.scaling.type", gguf_writer.Value(gguf_writer.STRING, "linear"))
    file.set("llama.rope.scaling.factor", gguf_writer.Value(gguf_writer.F32, shape.position_scale))
    q, kv = shape.heads * shape.dim, shape.kv_heads * shape.dim
    matrices = {"token_embd": (TOKENS, WIDTH), "output": (TOKENS, WIDTH)}
    gains = ["output_norm"]
    for layer in range(shape.layers):
        gains += [f"blk.{layer}.attn_norm", f"blk.{layer}.ffn_norm"]
        for name, size in {
            "attn_q": (q, WIDTH), "attn_k": (kv, WIDTH), "attn_v": (kv, WIDTH), "attn_output": (WIDTH, q),
            "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN),
        }.items():
            matrices[f"blk.{layer}.{name}"] = size
    file.tensors, weights = [], {}
    for name in gains:
        gain = (1 + 0.2 * chance.standard_normal(WIDTH)).astype(np.float32)
        weights[name + ".weight"] = gain
        file.tensors.append(gguf_writer.Tensor(name + ".weight", [WIDTH], data=gain.tobytes()))
    sizes = {name: (size, 0.5) for name, size in dict(biases).items()}
    for layer in range(shape.layers if key_bias is not None else 0):
        for name, size, scale in (("q", q, 0.1), ("k", kv, key_bias), ("v", kv, 0.1)):
            sizes[f"blk.{layer}.attn_{name}.bias"] = (size, scale)
    for name, (size, scale) in sizes.items():
        weights[name] = (scale * chance.standard_normal(size)).astype(np.float32)
        file.tensors.append(gguf_writer.Tensor(name, [size], data=weights[name].tobytes()))
    for name, (rows, cols) in matrices.items():
        data, weights[name + ".weight"] = matrix(chance, kind, rows, cols)
        file.tensors.append(gguf_writer.Tensor(name + ".weight", [cols, rows], int(kind), data))
    path.write_bytes(file.encode()[0])
    return weights


@pytest.mark.parametrize("kind", [
    Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K,
], ids=lambda kind: kind.name)
def test_model_of_one_type_equals_numpy(kind, tmp_path):
    model = tmp_path / "model.gguf"
    weights = write_model(model, kind)
    ids = np.random.default_rng(7).integers(0, TOKENS, 100)
    want = log_softmax(forward(weights, ids, SHAPE))
    entropy = -(np.exp(want) * want).sum(-1).mean()
    assert 1 < entropy < np.log(TOKENS) - 0.05, entropy  # neither certain nor flat: a fault would show
    # A CPU that has bfloat16 rounds values and weights of attention to 8 bits.
    for ops, bound in (("reference", 1e-7), ("cpu", 1e-5)):
        kl = kl_divergence(want, engine_log_probabilities(model, ids, ops))
        print(f"{kind.name} {ops}: mean KL {kl.mean():.2g}, largest {kl.max():.2g}, entropy {entropy:.2f}")
        assert kl.mean() <= bound


def test_bias_of_k_costs_coded_pages_nothing(tmp_path):
    """Pages of a model with a K bias ten times its keys lose little more than those of the model without it."""
    ids = np.random.default_rng(7).integers(0, TOKENS, 250)
    loss = {}
    for key_bias in (0.0, 10.0):
        model = tmp_path / f"model{key_bias}.gguf"
        weights = write_model(model, Type.F32, key_bias)
        want = log_softmax(forward(weights, ids, SHAPE))
        for tier in ("hot", "warm", "cold"):
            for ops in ("reference", "cpu"):
                loss[key_bias, ops, tier] = kl_divergence(want, engine_log_probabilities(model, ids, ops, tier)).mean()
    print({key: f"{value:.2g}" for key, value in loss.items()})
    for ops, bound in (("reference", 1e-7), ("cpu", 2e-5)):  # values in bfloat16, see above
        assert loss[10.0, ops, "hot"] < bound
        for tier in ("warm", "cold"):
            assert 0 < loss[10.0, ops, tier] < 4 * loss[0.0, ops, tier]


def mean_kl(model, weights, shape, ids, ops, *tier):
    return kl_divergence(log_softmax(forward(weights, ids, shape)), engine_log_probabilities(model, ids, ops, *tier)).mean()


BIASES = {"attn_q": 256, "attn_k": 64, "attn_v": 64, "attn_output": 256, "ffn_gate": 512, "ffn_up": 512, "ffn_down": 256}


@pytest.mark.parametrize("name", [*BIASES, "all"])
def test_bias_of_any_matrix_is_added(name, tmp_path):
    """Of all layers, and of the second alone."""
    ids = np.random.default_rng(7).integers(0, TOKENS, 40)
    names = list(BIASES) if name == "all" else [name]
    for layers in ((0, 1), (1,)):
        biases = {f"blk.{layer}.{one}.bias": BIASES[one] for layer in layers for one in names}
        weights = write_model(tmp_path / "model.gguf", Type.F32, biases=biases)
        without = {key: value for key, value in weights.items() if key not in biases}
        want, plain = (log_softmax(forward(some, ids, SHAPE)) for some in (weights, without))
        # The least is K's: without RoPE it would add the same to all scores of a query.
        assert kl_divergence(want, plain).mean() > 1e-4
        for ops, bound in (("reference", 1e-7), ("cpu", 1e-5)):
            assert kl_divergence(want, engine_log_probabilities(tmp_path / "model.gguf", ids, ops)).mean() <= bound


def test_heads_that_rotate_in_part(tmp_path):
    """Also with a K bias, which coded pages hold apart: it turns in the same dimensions."""
    shape = dataclasses.replace(SHAPE, rope_dim=12)
    ids = np.random.default_rng(7).integers(0, TOKENS, 250)
    loss = {}
    for key_bias in (0.0, 10.0):
        model = tmp_path / f"model{key_bias}.gguf"
        weights = write_model(model, Type.F32, key_bias, shape)
        want = log_softmax(forward(weights, ids, shape))
        assert kl_divergence(want, log_softmax(forward(weights, ids, SHAPE))).mean() > 1e-3
        for ops in ("reference", "cpu"):
            for tier in ("hot", "warm", "cold"):
                loss[key_bias, ops, tier] = kl_divergence(want, engine_log_probabilities(model, ids, ops, tier)).mean()
    print({key: f"{value:.2g}" for key, value in loss.items()})
    for ops, bound in (("reference", 1e-7), ("cpu", 2e-5)):
        for key_bias in (0.0, 10.0):
            assert loss[key_bias, ops, "hot"] < bound
        for tier in ("warm", "cold"):
            assert 0 < loss[10.0, ops, tier] < 4 * loss[0.0, ops, tier]


# The smallest head, odd multiples of two, one that fills no vector, the largest; groups of one to 32 query heads.
@pytest.mark.parametrize("dim, heads, kv_heads", [
    (2, 4, 2), (10, 4, 4), (34, 5, 1), (130, 2, 2), (510, 2, 1), (512, 4, 2), (8, 32, 1), (16, 33, 3),
])
def test_any_even_head_and_group_is_served(dim, heads, kv_heads, tmp_path):
    shape = dataclasses.replace(SHAPE, layers=1, dim=dim, heads=heads, kv_heads=kv_heads)
    ids = np.random.default_rng(7).integers(0, TOKENS, 130)
    weights = write_model(tmp_path / "model.gguf", Type.F32, 0.3, shape)
    for ops, bound in (("reference", 1e-6), ("cpu", 2e-5)):
        loss = {tier: mean_kl(tmp_path / "model.gguf", weights, shape, ids, ops, tier) for tier in ("hot", "warm", "cold")}
        print(dim, heads, kv_heads, ops, loss)
        assert loss["hot"] <= bound and loss["warm"] < 1e-3 and loss["cold"] < 0.1
