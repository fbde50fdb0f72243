"""Writes small GGUF files, sound or broken at will: nothing is checked here."""

import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def scalar(kind, value):
    return text(value) if kind == STRING else struct.pack("<" + _FORMATS[kind], value)


class Value:
    """A metadata value: a kind and what it holds; `of` makes it an array of that kind."""

    def __init__(self, kind, value, of=None, count=None):
        self.kind, self.value, self.of, self.count = kind, value, of, count

    def encode(self):
        if self.kind != ARRAY:
            return struct.pack("<I", self.kind) + (scalar(self.kind, self.value) if self.kind in _FORMATS or self.kind == STRING else self.value)
        count = len(self.value) if self.count is None else self.count
        return struct.pack("<IIQ", ARRAY, self.of, count) + b"".join(scalar(self.of, item) for item in self.value)


class Tensor:
    def __init__(self, name, dims, kind=0, data=None, offset=None, num_dims=None):
        self.name, self.dims, self.kind, self.offset, self.num_dims = name, dims, kind, offset, num_dims
        if data is None:
            count = 1
            for dim in dims:
                count *= dim
            data = bytes(4 * count)
        self.data = data


class File:
    def __init__(self):
        self.magic, self.version, self.alignment = b"GGUF", 3, 32
        self.metadata, self.tensors = [], []
        self.num_metadata = self.num_tensors = None

    def set(self, key, value):
        for i, (known, _) in enumerate(self.metadata):
            if known == key:
                self.metadata[i] = (key, value)
                return
        self.metadata.append((key, value))

    def remove(self, key):
        self.metadata = [(known, value) for known, value in self.metadata if known != key]

    def get(self, key):
        return next(value for known, value in self.metadata if known == key)

    def tensor(self, name):
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def encode(self):
        """The file, and the offsets at which its structures begin."""
        num_tensors = len(self.tensors) if self.num_tensors is None else self.num_tensors
        num_metadata = len(self.metadata) if self.num_metadata is None else self.num_metadata
        out = self.magic + struct.pack("<IQQ", self.version, num_tensors, num_metadata)
        borders = [0, 4, 8, 16, len(out)]
        for key, value in self.metadata:
            out += text(key)
            borders.append(len(out))
            out += value.encode()
            borders.append(len(out))
        data = b""
        for tensor in self.tensors:
            data += bytes(-len(data) % self.alignment)
            offset = len(data) if tensor.offset is None else tensor.offset
            data += tensor.data
            num_dims = len(tensor.dims) if tensor.num_dims is None else tensor.num_dims
            out += text(tensor.name) + struct.pack("<I", num_dims)
            out += b"".join(struct.pack("<Q", dim & (2**64 - 1)) for dim in tensor.dims)
            out += struct.pack("<IQ", tensor.kind, offset)
            borders.append(len(out))
        out += bytes(-len(out) % self.alignment)
        borders.append(len(out))
        return out + data, borders


def byte_alphabet():
    """GPT-2's letters for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, more = {}, 256
    for byte in range(256):
        letters[byte] = chr(byte) if byte in plain else chr(more)
        more += byte not in plain
    return [letters[byte] for byte in range(256)]


def tiny_llama():
    """A whole model: one layer of two heads, 260 tokens."""
    file = File()
    tokens = [*byte_alphabet(), "he", "ll", "<|im_start|>", "<|im_end|>"]
    width, heads, hidden = 64, 2, 64
    for key, value in {
        "general.architecture": Value(STRING, "llama"),
        "llama.context_length": Value(U32, 256),
        "llama.embedding_length": Value(U32, width),
        "llama.block_count": Value(U32, 1),
        "llama.feed_forward_length": Value(U32, hidden),
        "llama.attention.head_count": Value(U32, heads),
        "llama.attention.head_count_kv": Value(U32, 1),
        "llama.attention.layer_norm_rms_epsilon": Value(F32, 1e-5),
        "llama.rope.freq_base": Value(F32, 10000.0),
        "llama.rope.dimension_count": Value(U32, width // heads),
        "tokenizer.ggml.model": Value(STRING, "gpt2"),
        "tokenizer.ggml.pre": Value(STRING, "gpt-2"),
        "tokenizer.ggml.tokens": Value(ARRAY, tokens, STRING),
        "tokenizer.ggml.token_type": Value(ARRAY, [1] * 258 + [3, 3], I32),
        "tokenizer.ggml.merges": Value(ARRAY, ["h e", "l l"], STRING),
        "tokenizer.ggml.bos_token_id": Value(U32, 258),
        "tokenizer.ggml.eos_token_id": Value(U32, 259),
    }.items():
        file.set(key, value)
    kv = width // heads
    for name, dims in {
        "token_embd.weight": [width, len(tokens)],
        "output_norm.weight": [width],
        "blk.0.attn_norm.weight": [width],
        "blk.0.attn_q.weight": [width, width],
        "blk.0.attn_k.weight": [width, kv],
        "blk.0.attn_v.weight": [width, kv],
        "blk.0.attn_output.weight": [width, width],
        "blk.0.ffn_norm.weight": [width],
        "blk.0.ffn_gate.weight": [width, hidden],
        "blk.0.ffn_up.weight": [width, hidden],
        "blk.0.ffn_down.weight": [hidden, width],
    }.items():
        file.tensors.append(Tensor(name, dims))
    return file
