"""A malformed model file gives one clear line that names the field, and exit code 1; never a crash."""

import os
import pathlib
import random
import subprocess

import pytest
from gguf_writer import ARRAY, BOOL, F32, I32, I64, STRING, U8, U16, U32, U64, Tensor, Value, tiny_llama

BUILD = pathlib.Path(os.environ["THERMOCLINE_BUILD"])
Q4_K = 12


def load(path):
    """Loads a file as a user would; the server ends by itself only when it cannot."""
    command = [BUILD / "thermocline", "chat", path, "--kv-cache-memory-bytes", "1M"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def setting(key, *value, **more):
    return lambda file: file.set(key, Value(*value, **more))


def without(key):
    return lambda file: file.remove(key)


def no_tensor(name):
    return lambda file: file.tensors.remove(file.tensor(name))


def tensor(which, /, **changes):
    return lambda file: [setattr(found, key, value) for found in [file.tensor(which)] for key, value in changes.items()]


def attribute(**changes):
    return lambda file: [setattr(file, key, value) for key, value in changes.items()]


def more_tensor(name, *dims):
    return lambda file: file.tensors.append(Tensor(name, list(dims)))


def both(*changes):
    return lambda file: [change(file) for change in changes]


def listed(key, change):
    return lambda file: change(file.get(key).value)


TOKENS, TYPES, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"
Q = "blk.0.attn_q.weight"

# What is broken: how, and the field that the message must name.
CASES = {
    "magic": (attribute(magic=b"GGML"), "magic"),
    "version 0": (attribute(version=0), "version"),
    "version 1": (attribute(version=1), "version"),
    "version 4": (attribute(version=4), "version"),
    "version of the other byte order": (attribute(version=3 << 24), "version"),
    "no tensors": (attribute(tensors=[]), "tensor"),
    "more tensors than bytes": (attribute(num_tensors=2**62), "tensor"),
    "tensor count of 2^64 - 1": (attribute(num_tensors=2**64 - 1), "tensor"),
    "more metadata than bytes": (attribute(num_metadata=2**62), "metadata"),
    "fewer metadata than there are": (attribute(num_metadata=3), ""),
    "one tensor too many": (attribute(num_tensors=12), "tensor"),
    "duplicate key": (lambda f: f.metadata.append(("llama.block_count", Value(U32, 1))), "llama.block_count"),
    "empty key": (lambda f: f.metadata.append(("", Value(U32, 1))), "key"),
    "unknown value type": (setting("general.extra", 13, b"1234"), "general.extra"),
    "value type of 2^32 - 1": (setting("general.extra", 2**32 - 1, b""), "general.extra"),
    "array of arrays": (setting("general.extra", ARRAY, [], of=ARRAY, count=1), "general.extra"),
    "array of an unknown type": (setting("general.extra", ARRAY, [], of=99, count=1), "general.extra"),
    "array longer than the file": (setting("general.extra", ARRAY, [], of=U64, count=2**61), "general.extra"),
    "strings more than the file": (setting("general.extra", ARRAY, [], of=STRING, count=2**40), "general.extra"),
    "string longer than the file": (lambda file: None, "general.extra"),
    "alignment 0": (setting("general.alignment", U32, 0), "general.alignment"),
    "alignment 3": (setting("general.alignment", U32, 3), "general.alignment"),
    "alignment of 2^31": (setting("general.alignment", U32, 2**31), "general.alignment"),
    "alignment is text": (setting("general.alignment", STRING, "32"), "general.alignment"),
    "no architecture": (without("general.architecture"), "general.architecture"),
    "another architecture": (setting("general.architecture", STRING, "mamba"), "general.architecture"),
    "architecture is a number": (setting("general.architecture", U32, 1), "general.architecture"),
    "no layers": (setting("llama.block_count", U32, 0), "llama.block_count"),
    "layers without end": (setting("llama.block_count", U32, 2**32 - 1), "llama.block_count"),
    "negative layers": (setting("llama.block_count", I32, -1), "llama.block_count"),
    "layers are a fraction": (setting("llama.block_count", F32, 1.5), "llama.block_count"),
    "one layer too many": (setting("llama.block_count", U32, 2), "blk.1"),
    "no layer count": (without("llama.block_count"), "llama.block_count"),
    "no heads": (setting("llama.attention.head_count", U32, 0), "head_count"),
    "heads that do not divide": (setting("llama.attention.head_count", U32, 3), "head"),
    "no KV heads": (setting("llama.attention.head_count_kv", U32, 0), "head_count_kv"),
    "KV heads that do not divide": (setting("llama.attention.head_count_kv", U32, 7), "head"),
    "heads without end": (setting("llama.attention.head_count", U32, 2**31), "head_count"),
    "no width": (setting("llama.embedding_length", U32, 0), "llama.embedding_length"),
    "width without end": (setting("llama.embedding_length", U32, 2**31), "llama.embedding_length"),
    "another width": (setting("llama.embedding_length", U32, 128), ""),
    "no feed-forward width": (without("llama.feed_forward_length"), "llama.feed_forward_length"),
    "feed-forward width 0": (setting("llama.feed_forward_length", U32, 0), "llama.feed_forward_length"),
    "no context": (setting("llama.context_length", U32, 0), "llama.context_length"),
    "negative context": (setting("llama.context_length", I64, -5), "llama.context_length"),
    "epsilon 0": (setting("llama.attention.layer_norm_rms_epsilon", F32, 0.0), "rms_epsilon"),
    "epsilon is no number": (setting("llama.attention.layer_norm_rms_epsilon", F32, float("nan")), "rms_epsilon"),
    "epsilon is infinite": (setting("llama.attention.layer_norm_rms_epsilon", F32, float("inf")), "rms_epsilon"),
    "rope base negative": (setting("llama.rope.freq_base", F32, -1.0), "rope.freq_base"),
    "rope base is no number": (setting("llama.rope.freq_base", F32, float("nan")), "rope.freq_base"),
    "odd rope dimensions": (setting("llama.rope.dimension_count", U32, 31), "rope.dimension_count"),
    "too many rope dimensions": (setting("llama.rope.dimension_count", U32, 4096), "rope.dimension_count"),
    "unknown rope scaling": (setting("llama.rope.scaling.type", STRING, "magic"), "rope.scaling.type"),
    "heads that differ by layer": (
        both(setting("llama.block_count", U32, 2), setting("llama.attention.head_count", ARRAY, [2, 1], of=U32)),
        "llama.attention.head_count: layers differ"),
    "KV heads for too many layers": (
        setting("llama.attention.head_count_kv", ARRAY, [1, 1], of=U32), "llama.attention.head_count_kv"),
    "no feed-forward widths": (
        setting("llama.feed_forward_length", ARRAY, [], of=U32), "llama.feed_forward_length"),
    "a head larger than kernels hold": (setting("llama.attention.key_length", U32, 1024), "key_length: a head of 1024"),
    "a head just larger than kernels hold": (
        setting("llama.attention.key_length", U32, 514), "llama.attention.key_length"),
    "a large head of a wide model": (
        setting("llama.embedding_length", U32, 2048), "llama.attention.head_count: a head of 1024"),
    "an odd head": (setting("llama.attention.key_length", U32, 33), "llama.attention.key_length"),
    "a head of no dimensions": (setting("llama.attention.key_length", U32, 0), "llama.attention.key_length"),
    "values of another length": (setting("llama.attention.value_length", U32, 64), "llama.attention.value_length"),
    "pages beyond four gigabytes": (
        both(setting("llama.block_count", U32, 4096), setting("llama.attention.head_count", U32, 64),
             setting("llama.attention.head_count_kv", U32, 64), setting("llama.attention.key_length", U32, 512)),
        "llama.attention.head_count_kv"),
    "no epsilon": (without("llama.attention.layer_norm_rms_epsilon"), "rms_epsilon"),
    "infinite rope base": (setting("llama.rope.freq_base", F32, float("inf")), "rope.freq_base"),
    "vocabulary of another size": (setting("llama.vocab_size", U32, 261), "llama.vocab_size"),
    "part of a split file": (
        both(setting("split.no", U16, 0), setting("split.count", U16, 2)), "part 1 of 2"),
    "later part of a split file": (
        both(without("general.architecture"), setting("split.no", U16, 2), setting("split.count", U16, 3)),
        "part 3 of 3"),
    "adapter": (setting("general.type", STRING, "adapter"), 'general.type: "adapter"'),
    "projector": (
        both(setting("general.type", STRING, "mmproj"), setting("general.architecture", STRING, "clip")),
        'general.type: "mmproj"'),
    "importance matrix": (
        both(setting("general.type", STRING, "imatrix"), without("general.architecture")), 'general.type: "imatrix"'),
    "token at the end of prompts": (setting("tokenizer.ggml.add_eos_token", BOOL, 1), "add_eos_token"),
    "space before texts": (setting("tokenizer.ggml.add_space_prefix", BOOL, 1), "add_space_prefix"),
    "character map": (
        setting("tokenizer.ggml.precompiled_charsmap", ARRAY, [1, 2], of=U8), "tokenizer.ggml.precompiled_charsmap"),
    "q norm": (more_tensor("blk.0.attn_q_norm.weight", 32), "blk.0.attn_q_norm.weight"),
    "sinks": (more_tensor("blk.0.attn_sinks.weight", 2), "blk.0.attn_sinks.weight"),
    "bias of a norm": (more_tensor("blk.0.attn_norm.bias", 64), "blk.0.attn_norm.bias"),
    "bias of the last norm": (more_tensor("output_norm.bias", 64), "output_norm.bias"),
    "bias of the head": (more_tensor("output.bias", 260), "output.bias"),
    "norm behind the MLP": (more_tensor("blk.0.post_ffw_norm.weight", 64), "blk.0.post_ffw_norm.weight"),
    "experts without their count": (more_tensor("blk.0.ffn_gate_inp.weight", 64, 8), "blk.0.ffn_gate_inp.weight"),
    "factors of long rope": (more_tensor("rope_factors_long.weight", 16), "rope_factors_long.weight"),
    "factors of rope of a layer": (more_tensor("blk.0.rope_freqs.weight", 16), "blk.0.rope_freqs.weight"),
    "layer behind the last": (more_tensor("blk.1.attn_q.weight", 64, 64), "blk.1.attn_q.weight"),
    "scale of a matrix": (more_tensor("blk.0.attn_q.scale", 1), "blk.0.attn_q.scale"),
    "bias of another length": (more_tensor("blk.0.attn_q.bias", 32), "blk.0.attn_q.bias"),
    "bias of the output of another length": (more_tensor("blk.0.attn_output.bias", 32), "blk.0.attn_output.bias"),
    "more tensors than a line names": (
        both(*(more_tensor(f"blk.0.other{i}.weight", 64) for i in range(9))), "these and 5 more"),
    "a type that is known": (tensor(Q, kind=10), "type Q2_K is not supported (there are F32"),
    "architecture of control characters": (
        setting("general.architecture", STRING, "\x1b[2J\n2020-01-01 error forged"), '"\\x1b[2J\\x0a2020'),
    "rope scaling of control characters": (
        setting("llama.rope.scaling.type", STRING, "\r\x07" + "x" * 9999), "llama.rope.scaling.type"),
    "token of control characters": (
        listed(TOKENS, lambda tokens: tokens.__setitem__(slice(256, 258), ["\x1b[2J\n", "\x1b[2J\n"])), "\\x1b[2J"),
    "no tokenizer": (without("tokenizer.ggml.model"), "tokenizer.ggml.model"),
    "another tokenizer": (setting("tokenizer.ggml.model", STRING, "bert"), "tokenizer.ggml.model"),
    "another pre-tokenizer": (setting("tokenizer.ggml.pre", STRING, "none such"), "tokenizer.ggml.pre"),
    "no tokens": (without(TOKENS), TOKENS),
    "empty vocabulary": (setting(TOKENS, ARRAY, [], of=STRING), TOKENS),
    "tokens are numbers": (setting(TOKENS, ARRAY, [1] * 260, of=U32), TOKENS),
    "fewer tokens than rows": (listed(TOKENS, lambda tokens: tokens.pop()), TOKENS.rsplit(".", 1)[0]),
    "the same token twice": (listed(TOKENS, lambda tokens: tokens.__setitem__(257, "he")), TOKENS),
    "fewer kinds than tokens": (listed(TYPES, lambda types: types.pop()), TYPES),
    "unknown kind": (listed(TYPES, lambda types: types.__setitem__(3, 77)), TYPES),
    "no merges": (without(MERGES), MERGES),
    "merge of an unknown token": (listed(MERGES, lambda merges: merges.append("zq qz")), MERGES),
    "merge of one part": (listed(MERGES, lambda merges: merges.append("he")), MERGES),
    "merge without a result": (listed(MERGES, lambda merges: merges.append("he ll")), MERGES),
    "end token outside the vocabulary": (setting("tokenizer.ggml.eos_token_id", U32, 260), "eos_token_id"),
    "negative start token": (setting("tokenizer.ggml.bos_token_id", I32, -1), "bos_token_id"),
    "template that does not parse": (setting("tokenizer.chat_template", STRING, "{% if %}"), "template"),
    "template is a number": (setting("tokenizer.chat_template", U32, 1), "tokenizer.chat_template"),
    "no embeddings": (no_tensor("token_embd.weight"), "token_embd.weight"),
    "no queries": (no_tensor(Q), Q),
    "no last norm": (no_tensor("output_norm.weight"), "output_norm.weight"),
    "tensor twice": (lambda f: f.tensors.append(Tensor(Q, [64, 64])), Q),
    "tensor without a name": (tensor(Q, name=""), "tensor"),
    "tensor with a name of a kilobyte": (tensor(Q, name="x" * 1024), "tensor"),
    "tensor of no dimensions": (tensor(Q, dims=[], data=bytes(16384)), Q),
    "tensor of five dimensions": (tensor(Q, dims=[64, 64, 1, 1, 1], data=bytes(16384)), Q),
    "tensor of 2^32 - 1 dimensions": (tensor(Q, num_dims=2**32 - 1), Q),
    "tensor of zero rows": (tensor(Q, dims=[64, 0]), Q),
    "tensor whose product overflows": (tensor(Q, dims=[2**32, 2**32], data=b""), Q),
    "tensor of 2^63 columns": (tensor(Q, dims=[2**63, 64], data=b""), Q),
    "tensor of an unknown type": (tensor(Q, kind=77), Q),
    "tensor of a type taken out": (tensor(Q, kind=4), Q),
    "tensor of a type that we do not read": (tensor(Q, kind=16), Q),
    "tensor whose rows are no whole blocks": (tensor(Q, kind=Q4_K), Q),
    "tensor past the end": (tensor("blk.0.ffn_down.weight", offset=1 << 40), "blk.0.ffn_down.weight"),
    "tensor offset that wraps": (tensor(Q, offset=2**64 - 32), Q),
    "tensor that is not aligned": (tensor(Q, offset=33), Q),
    "tensors that overlap": (tensor(Q, offset=0), "overlap"),
    "tensor of another shape": (tensor("blk.0.attn_k.weight", dims=[64, 64], data=bytes(16384)), "blk.0.attn_k.weight"),
    "norm of another length": (tensor("output_norm.weight", dims=[32]), "output_norm.weight"),
    "norm of two rows": (tensor("output_norm.weight", dims=[64, 2], data=bytes(512)), "output_norm.weight"),
}


# Metadata that change what a model computes: what is refused, and what turns them off.
FACTORS = ("logit_scale", "residual_scale", "embedding_scale")
RESULT_KEYS = {
    **{key: (Value(F32, 0.5), Value(F32, 1.0)) for key in FACTORS},
    "attn_logit_softcapping": (Value(F32, 50.0), Value(F32, 0.0)),
    "final_logit_softcapping": (Value(F32, 30.0), Value(F32, 0.0)),
    "attention.sliding_window": (Value(U32, 128), Value(U32, 256)),
    "attention.scale": (Value(F32, 0.5), Value(F32, 32**-0.5)),
    "attention.max_alibi_bias": (Value(F32, 8.0), Value(F32, 0.0)),
    "attention.clamp_kqv": (Value(F32, 8.0), Value(F32, 0.0)),
    "attention.causal": (Value(BOOL, 0), Value(BOOL, 1)),
    "attention.shared_kv_layers": (Value(U32, 1), Value(U32, 0)),
    "attention.temperature_scale": (Value(F32, 0.1), Value(F32, 0.0)),
    "use_parallel_residual": (Value(BOOL, 1), Value(BOOL, 0)),
    "pooling_type": (Value(U32, 1), Value(U32, 0)),
    "expert_count": (Value(U32, 8), Value(U32, 0)),
    "expert_used_count": (Value(U32, 2), Value(U32, 0)),
    "nextn_predict_layers": (Value(U32, 1), Value(U32, 0)),
    "rope.dimension_sections": (Value(ARRAY, [16, 24, 24, 0], of=I32), Value(ARRAY, [0, 0, 0, 0], of=I32)),
    "rope.scaling.yarn_log_multiplier": (Value(F32, 0.1), Value(F32, 0.0)),
    "ssm.state_size": (Value(U32, 16), Value(U32, 0)),
    "hidden_act": (Value(STRING, "gelu"), Value(STRING, "silu")),
}
NUMBERS = [key for key, (on, _) in RESULT_KEYS.items() if on.kind == F32]


def broken(name):
    file = tiny_llama()
    if name == "string longer than the file":
        file.metadata.append(("general.extra", Value(8, "")))
        data, _ = file.encode()
        at = data.index(b"general.extra") + 13 + 4
        return data[:at] + (2**63).to_bytes(8, "little") + data[at + 8 :]
    CASES[name][0](file)
    return file.encode()[0]


def test_the_sound_file_loads(tmp_path):
    for version in (2, 3):
        file = tiny_llama()
        file.version = version
        (tmp_path / "good.gguf").write_bytes(file.encode()[0])
        result = load(tmp_path / "good.gguf")
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", CASES)
def test_broken_field_is_named(tmp_path, name):
    (tmp_path / "bad.gguf").write_bytes(broken(name))
    result = load(tmp_path / "bad.gguf")
    assert result.returncode == 1, result.stderr
    lines = [line for line in result.stderr.splitlines() if " error " in line]
    assert len(lines) == 1, result.stderr
    assert CASES[name][1] in lines[0]


def refused(tmp_path, file):
    (tmp_path / "bad.gguf").write_bytes(file if isinstance(file, bytes) else file.encode()[0])
    result = load(tmp_path / "bad.gguf")
    assert result.returncode == 1, result.stderr
    lines = [line for line in result.stderr.splitlines() if " error " in line]
    assert len(lines) == 1 and all(" " <= c <= "~" for c in lines[0]), result.stderr
    return lines[0]


@pytest.mark.parametrize("key", RESULT_KEYS)
def test_metadata_that_change_results_are_refused_by_name(tmp_path, key):
    file = tiny_llama()
    file.set("llama." + key, RESULT_KEYS[key][0])
    assert f"llama.{key}: " in refused(tmp_path, file)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_no_number_is_no_way_to_turn_a_key_off(tmp_path, value):
    for key in NUMBERS:
        file = tiny_llama()
        file.set("llama." + key, Value(F32, value))
        assert f"llama.{key}: " in refused(tmp_path, file)


def test_metadata_that_are_off_or_only_describe_do_no_harm(tmp_path):
    file = tiny_llama()
    for key, (_, off) in RESULT_KEYS.items():
        file.set("llama." + key, off)
    file.set("llama.vocab_size", Value(U32, 260))
    file.set("llama.attention.key_length", Value(U32, 32))
    file.set("llama.attention.value_length", Value(U32, 32))
    file.set("llama.rope.scaling.type", Value(STRING, "none"))
    file.set("llama.rope.scaling.finetuned", Value(BOOL, 1))
    file.set("llama.tensor_data_layout", Value(STRING, "Meta AI original pth"))
    file.set("llama.of_tomorrow", Value(U32, 1))
    file.set("split.count", Value(U16, 1))
    file.set("general.type", Value(STRING, "model"))
    file.set("tokenizer.ggml.add_space_prefix", Value(BOOL, 0))
    file.set("tokenizer.ggml.scores", Value(ARRAY, [0.0] * 260, F32))
    (tmp_path / "good.gguf").write_bytes(file.encode()[0])
    result = load(tmp_path / "good.gguf")
    assert result.returncode == 0, result.stderr


def test_optional_metadata_may_be_absent(tmp_path):
    file = tiny_llama()
    for name in ("blk.0.attn_k.weight", "blk.0.attn_v.weight"):  # as many KV heads as query heads
        file.tensors[file.tensors.index(file.tensor(name))] = Tensor(name, [64, 64])
    for key in ("llama.attention.head_count_kv", "llama.rope.freq_base", "llama.rope.dimension_count", TYPES,
                "tokenizer.ggml.pre", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"):
        file.remove(key)
    (tmp_path / "good.gguf").write_bytes(file.encode()[0])
    result = load(tmp_path / "good.gguf")
    assert result.returncode == 0, result.stderr


OTHER_FILES = {
    "zip": (b"PK\x03\x04" + bytes(60), "zip"),
    "pickle": (b"\x80\x02}q\x00." + bytes(60), "pickle"),
    "safetensors": ((16).to_bytes(8, "little") + b'{"a": {"b": 1} }' + bytes(40), "safetensors"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 12\n", "LFS"),
    "JSON": (b'{"architectures": ["LlamaForCausalLM"]}', "JSON"),
    "GGML": (b"lmgg" + bytes(60), "before GGUF"),
    "gzip": (b"\x1f\x8b\x08" + bytes(60), "compressed"),
    "zeros": (bytes(64), "zeros"),
    "text": (b"hello \x1b[2J\nworld", 'begins with "hello \\x1b[2J\\x0a'),
    "two bytes": (b"GG", "GGUF"),
    "big endian": (b"GGUF" + (3).to_bytes(4, "big") + bytes(40), "big-endian"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_another_kind_of_file_is_called_by_its_name(tmp_path, name):
    content, word = OTHER_FILES[name]
    assert word in refused(tmp_path, content)


def test_a_directory_says_what_is_in_it(tmp_path):
    def error(path):
        result = load(path)
        assert result.returncode == 1
        (line,) = [line for line in result.stderr.splitlines() if " error " in line]
        return line

    assert "a directory without a GGUF file" in error(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "convert_hf_to_gguf" in error(tmp_path)
    for i in range(7):
        (tmp_path / f"part{i}.gguf").write_bytes(b"")
    assert "part0.gguf, part1.gguf, part2.gguf, part3.gguf, part4.gguf and 2 more" in error(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in error(tmp_path / "fifo")
    assert "No such file" in error(tmp_path / "none.gguf")


def test_truncation_at_every_structure_is_an_error(tmp_path):
    data, borders = tiny_llama().encode()
    places = {place for border in borders for place in (border, border + 1, border + 5)} | {len(data) - 1}
    for place in sorted(place for place in places if place < len(data)):
        (tmp_path / "bad.gguf").write_bytes(data[:place])
        result = load(tmp_path / "bad.gguf")
        assert result.returncode == 1, (place, result.stderr)


def test_there_are_enough_cases():
    assert len(CASES) >= 60


@pytest.mark.skipif(not (BUILD / "gguf_fuzz").exists(), reason="built by clang under the sanitizers only")
def test_the_fuzzer_finds_no_crash(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "good").write_bytes(tiny_llama().encode()[0][:20000])
    for i, name in enumerate(random.Random(1).sample(sorted(CASES), 30)):
        (corpus / str(i)).write_bytes(broken(name)[:20000])
    runs = os.environ.get("THERMOCLINE_FUZZ_RUNS", "20000")
    result = subprocess.run(
        [BUILD / "gguf_fuzz", f"-runs={runs}", "-seed=1", "-max_len=20000", "-rss_limit_mb=2048", corpus],
        capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-4000:]
