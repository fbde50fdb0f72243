#include "kernels/cpu/cpu_ops.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/cpu/panels.h"
#include "kernels/quant/page_codec.h"

namespace thermocline {
namespace {

const IsaTable& TableOf(IsaLevel level) {
  switch (level) {
    case IsaLevel::kAvx512Bf16:
      return Avx512Bf16IsaTable();
    case IsaLevel::kAvx512:
      return Avx512IsaTable();
    case IsaLevel::kAvx2:
      return Avx2IsaTable();
    case IsaLevel::kGeneric:
      break;
  }
  return GenericIsaTable();
}

// Activations of one MatMul, quantised. Kept by the calling thread, so that a step allocates
// nothing after the first.
struct QuantizedRows {
  std::vector<int8_t> codes;            // [num_tokens, num_columns / 32, 2, 32]
  std::vector<ActivationBlock> blocks;  // [num_tokens, num_columns / 32]
};

}  // namespace

CpuOps::CpuOps(IsaLevel isa, ThreadPool& pool) : isa_(TableOf(isa)), pool_(pool) {}

template <typename Body>
void CpuOps::ForRows(int64_t num_rows, int64_t row_elements, Body body) const {
  // Below some 8K elements a loop is shorter than waking a thread for it.
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(row_elements, 1));
  pool_.ParallelFor(num_rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      body(row);
    }
  });
}

Result<std::unique_ptr<Weight>> CpuOps::PrepareWeight(std::span<const WeightSource> parts) const {
  Result<std::unique_ptr<PanelWeight>> weight = PanelWeight::Pack(parts, pool_);
  if (!weight.ok()) {
    return weight.status();
  }
  return std::unique_ptr<Weight>(*std::move(weight));
}

void CpuOps::Embed(std::span<const TokenId> tokens, const WeightSource& table, Tensor out,
                   Stream& /*stream*/) const {
  for (size_t i = 0; i < tokens.size(); ++i) {
    CHECK(tokens[i] >= 0 && tokens[i] < table.rows);
    Dequantize(table.type, table.data + static_cast<size_t>(tokens[i]) * table.row_bytes(),
               table.cols, out.f32() + static_cast<int64_t>(i) * table.cols);
  }
}

void CpuOps::RmsNorm(Tensor x, std::span<const float> gain, float epsilon, Tensor y,
                     Stream& /*stream*/) const {
  const int64_t dim = x.dim(1);
  CHECK(static_cast<int64_t>(gain.size()) == dim && y.dim(1) == dim && y.dim(0) == x.dim(0));
  ForRows(x.dim(0), dim, [&](int64_t row) {
    isa_.rms_norm(x.f32() + row * dim, gain.data(), epsilon, dim, y.f32() + row * dim);
  });
}

void CpuOps::MatMul(Tensor x, const Weight& w, Tensor y, MatMulMode mode,
                    Stream& /*stream*/) const {
  const auto& weight = static_cast<const PanelWeight&>(w);
  const int64_t num_tokens = x.dim(0);
  const int64_t num_columns = weight.cols();
  CHECK(x.dim(1) == num_columns && y.dim(1) == weight.rows() && y.dim(0) == num_tokens);
  thread_local QuantizedRows quantized;
  const int64_t num_blocks = num_columns / kBlockColumns;
  if (weight.has_quantized()) {
    const auto needed = static_cast<size_t>(num_tokens * num_blocks);
    if (quantized.blocks.size() < needed) {
      quantized.codes.resize(needed * 2 * kBlockColumns);
      quantized.blocks.resize(needed);
    }
  }
  // The pool's threads have a `quantized` of their own: hand them this one's memory.
  int8_t* codes = quantized.codes.data();
  ActivationBlock* blocks = quantized.blocks.data();
  if (weight.has_quantized()) {
    ForRows(num_tokens, num_columns, [&](int64_t row) {
      isa_.quantize_row(x.f32() + row * num_columns, num_columns, codes + 2 * row * num_columns,
                        blocks + row * num_blocks);
    });
  }
  for (const PanelWeight::Part& part : weight.parts()) {
    const auto multiply = isa_.panel_product[static_cast<size_t>(part.kind)];
    // About eight turns per thread: even, and each a long stream of memory.
    const int64_t grain = std::max<int64_t>(1, part.num_panels / (8 * pool_.num_threads()));
    pool_.ParallelFor(part.num_panels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t first = p * kPanelRows;
        multiply(
            {.panel = weight.panel(part, p),
             .num_columns = num_columns,
             .num_tokens = num_tokens,
             .codes = codes,
             .blocks = blocks,
             .x = x.f32(),
             .y = y.f32() + part.first_row + first,
             .y_stride = weight.rows(),
             .num_rows = static_cast<int32_t>(std::min<int64_t>(kPanelRows, part.num_rows - first)),
             .add = mode == MatMulMode::kAdd});
      }
    });
  }
}

void CpuOps::AddBias(Tensor x, std::span<const float> bias, Stream& /*stream*/) const {
  const int64_t dim = x.dim(1);
  CHECK(dim == static_cast<int64_t>(bias.size()));
  ForRows(x.dim(0), dim, [&](int64_t row) {
    float* out = x.f32() + row * dim;
    for (int64_t i = 0; i < dim; ++i) {
      out[i] += bias[static_cast<size_t>(i)];
    }
  });
}

void CpuOps::Rope(Tensor qkv, int num_heads, int head_dim, Tensor cos_sin, RopeStyle style,
                  Stream& /*stream*/) const {
  const int64_t num_pairs = cos_sin.dim(1);
  const int64_t width = qkv.dim(1);
  CHECK(2 * num_pairs <= head_dim && int64_t{num_heads} * head_dim <= width);
  CHECK(cos_sin.dim(0) == qkv.dim(0));
  // Pair i of a head: elements i * step and i * step + partner.
  const int64_t step = style == RopeStyle::kInterleaved ? 2 : 1;
  const int64_t partner = style == RopeStyle::kInterleaved ? 1 : num_pairs;
  ForRows(qkv.dim(0), width, [&](int64_t row) {
    const float* angles = cos_sin.f32() + row * num_pairs * 2;
    for (int h = 0; h < num_heads; ++h) {
      float* head = qkv.f32() + row * width + int64_t{h} * head_dim;
      for (int64_t i = 0; i < num_pairs; ++i) {
        const float cos = angles[2 * i];
        const float sin = angles[2 * i + 1];
        const float a = head[i * step];
        const float b = head[i * step + partner];
        head[i * step] = a * cos - b * sin;
        head[i * step + partner] = a * sin + b * cos;
      }
    }
  });
}

void CpuOps::Rotate(Tensor x, int num_heads, std::span<const float> signs, Rotation rotation,
                    Stream& /*stream*/) const {
  const auto head_dim = static_cast<int32_t>(signs.size());
  const int64_t width = x.dim(1);
  CHECK(int64_t{num_heads} * head_dim <= width);
  ForRows(x.dim(0), width, [&](int64_t row) {
    float* head = x.f32() + row * width;
    for (int h = 0; h < num_heads; ++h, head += head_dim) {
      isa_.rotate_vector(head, signs.data(), head_dim, rotation == Rotation::kBack);
    }
  });
}

void CpuOps::TranscodePages(std::span<const PageMove> moves, const KvCacheView& kv,
                            std::span<MoveResult> results, Stream& /*stream*/) const {
  CHECK(results.size() == moves.size());
  const VectorQuantizer quantizer{.turbo = isa_.quantize_turbo,
                                  .int8 = isa_.quantize_int8,
                                  .decode_turbo = isa_.dequantize_turbo,
                                  .decode_int8 = isa_.dequantize_int8,
                                  .half_to_float = isa_.half_to_float,
                                  .float_to_half = isa_.float_to_half};
  for (size_t i = 0; i < moves.size(); ++i) {
    results[i] = TranscodePage(moves[i], kv, quantizer);
  }
}

void CpuOps::AppendKv(Tensor qkv, int k_column, int v_column, const BatchView& batch,
                      const KvCacheView& kv, int layer, Stream& /*stream*/) const {
  const KvLayout& layout = kv.layout;
  const int64_t dim = layout.head_dim;
  for (int s = 0; s < batch.num_sequences; ++s) {
    for (int t = batch.sequence_starts[s]; t < batch.sequence_starts[s + 1]; ++t) {
      const int position = batch.positions[t];
      const int64_t slot = position % layout.page_tokens;
      const PageId page = batch.page_ids[batch.page_starts[s] + position / layout.page_tokens];
      CHECK(kv.page_map[page].tier() == Tier::kHot);  // a page being written is hot
      const float* row = qkv.f32() + int64_t{t} * qkv.dim(1);
      for (int h = 0; h < layout.num_kv_heads; ++h) {
        std::byte* block = kv.block(page, layer, h);
        auto* k = reinterpret_cast<uint16_t*>(block) + slot * dim;
        auto* v = reinterpret_cast<uint16_t*>(block + NativeVOffset(layout)) + slot * dim;
        isa_.float_to_half(row + k_column + h * dim, dim, k);
        isa_.float_to_half(row + v_column + h * dim, dim, v);
      }
    }
  }
}

void CpuOps::GatedActivation(Tensor gate_up, Activation activation, Tensor out,
                             Stream& /*stream*/) const {
  const int64_t dim = out.dim(1);
  CHECK(gate_up.dim(1) == 2 * dim && gate_up.dim(0) == out.dim(0));
  const auto apply = activation == Activation::kSilu ? isa_.gated_silu : isa_.gated_gelu;
  ForRows(out.dim(0), dim, [&](int64_t row) {
    const float* gate = gate_up.f32() + row * 2 * dim;
    apply(gate, gate + dim, dim, out.f32() + row * dim);
  });
}

}  // namespace thermocline
