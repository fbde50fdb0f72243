#include "kernels/cpu/cpu_ops.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/core/page_energies.h"
#include "kernels/cpu/cpu_step.h"
#include "kernels/cpu/panels.h"
#include "kernels/quant/page_codec.h"
#include "kernels/sampling/token_drawer.h"

namespace thermocline {
namespace {

const IsaTable& TableOf(IsaLevel level) {
  switch (level) {
    case IsaLevel::kAmx:
      return AmxIsaTable();
    case IsaLevel::kAvx512:
      return Avx512IsaTable();
    case IsaLevel::kAvxVnni:
      return AvxVnniIsaTable();
    case IsaLevel::kAvx2:
      return Avx2IsaTable();
    case IsaLevel::kGeneric:
      break;
  }
  return GenericIsaTable();
}

struct alignas(64) CacheLine {
  std::array<uint8_t, 64> bytes;
};
static_assert(sizeof(CacheLine) == kBlockCodes);

// Activations of one MatMul, quantised. Kept by the calling thread, so that a step allocates
// nothing after the first.
struct QuantizedRows {
  std::vector<CacheLine> lines;         // codes as PanelProduct has them, a block each
  std::vector<ActivationBlock> blocks;  // likewise

  int8_t* codes() { return reinterpret_cast<int8_t*>(lines.data()); }

  void Reserve(int64_t num_tokens, int64_t group_tokens, int64_t num_blocks) {
    const int64_t num_groups = (num_tokens + group_tokens - 1) / group_tokens;
    const auto needed = static_cast<size_t>(num_groups * num_blocks * group_tokens);
    if (blocks.size() < needed) {
      lines.resize(needed);
      blocks.resize(needed);
    }
  }
};

// A MatMul cut into tiles that threads take one by one: some panels times some tokens, of which
// neither is more than stays in a core's second cache. Many tiles let all threads end together,
// but each starts a stream of memory anew, which is what a few tokens wait for.
struct MatMulTiles {
  static constexpr int64_t kTokens = 64;  // at most; whole groups, and tiles of AMX
  int64_t num_panels;                     // of a tile, at most
  int64_t panel_tiles;
  int64_t token_tiles;

  MatMulTiles(const PanelWeight& weight, int64_t num_tokens, int num_threads) {
    constexpr int64_t kCacheBytes = 256 << 10;
    constexpr int64_t kStreamBytes = 256 << 10;  // of a tile at least, times tokens
    const int64_t all = weight.num_panels();
    const int64_t panel_bytes = static_cast<int64_t>(weight.num_bytes()) / all;
    token_tiles = (num_tokens + kTokens - 1) / kTokens;
    const int64_t even = all * token_tiles / (num_threads * (token_tiles == 1 ? 8 : 32));
    const int64_t stream =
        std::min(kStreamBytes / (panel_bytes * num_tokens), (all + num_threads - 1) / num_threads);
    const int64_t most = num_tokens == 1 ? all : kCacheBytes / panel_bytes;
    num_panels = std::max<int64_t>(1, std::min(std::max(even, stream), most));
    panel_tiles = (all + num_panels - 1) / num_panels;
  }
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
  Result<std::unique_ptr<PanelWeight>> weight = PanelWeight::Pack(parts, slabs_, pool_);
  if (!weight.ok()) {
    return weight.status();
  }
  return std::unique_ptr<Weight>(*std::move(weight));
}

std::unique_ptr<StepData> CpuOps::NewStepData(const StepLimits& limits,
                                              const KvLayout& /*layout*/) const {
  auto step = std::make_unique<CpuStep>();
  step->num_heads = limits.num_heads;
  return step;
}

void CpuOps::LoadStep(const BatchView& batch, const KvCacheView& kv, Stream& /*stream*/) const {
  auto& step = static_cast<CpuStep&>(*batch.on_device);
  CutIntoTiles(batch, kv.layout, step.num_heads, step.tiles);
  FindSlots(batch, kv, step.slots);
}

void CpuOps::Embed(const BatchView& batch, const Weight& table, Tensor out,
                   Stream& /*stream*/) const {
  const auto& weight = static_cast<const PanelWeight&>(table);
  ForRows(batch.num_tokens, weight.cols(),
          [&](int64_t i) { weight.ReadRow(batch.tokens[i], out.f32() + i * weight.cols()); });
}

void CpuOps::GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out,
                        Stream& /*stream*/) const {
  const int64_t dim = x.dim(1);
  CHECK(out.dim(1) == dim && out.dim(0) == static_cast<int64_t>(rows.size()));
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(x.f32() + rows[i] * dim, dim, out.f32() + static_cast<int64_t>(i) * dim);
  }
}

void CpuOps::RmsNorm(Tensor x, Tensor gain, float epsilon, Tensor y, Stream& /*stream*/) const {
  const int64_t dim = x.dim(1);
  CHECK(gain.dim(0) == dim && y.dim(1) == dim && y.dim(0) == x.dim(0));
  ForRows(x.dim(0), dim, [&](int64_t row) {
    isa_.rms_norm(x.f32() + row * dim, gain.f32(), epsilon, dim, y.f32() + row * dim);
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
  const int64_t group_tokens =
      isa_.has_tiles && num_tokens >= kTileTokens ? kTileTokens : kGroupTokens;
  if (weight.has_quantized()) {
    quantized.Reserve(num_tokens, group_tokens, num_blocks);
  }
  // The pool's threads have a `quantized` of their own: hand them this one's memory.
  int8_t* codes = quantized.codes();
  ActivationBlock* blocks = quantized.blocks.data();
  if (weight.has_quantized()) {
    ForRows(num_tokens, num_columns, [&](int64_t row) {
      const int64_t first =
          row / group_tokens * group_tokens * num_blocks + row % group_tokens;  // block of the row
      isa_.quantize_row(x.f32() + row * num_columns, num_columns, group_tokens,
                        codes + first * kBlockCodes, blocks + first);
    });
  }
  const MatMulTiles tiles(weight, num_tokens, pool_.num_threads());
  // Each thread's own, for the weights of a panel.
  const auto unpacking_room = [&]() -> uint8_t* {
    if (group_tokens != kTileTokens) {
      return nullptr;
    }
    thread_local std::vector<CacheLine> room;
    const auto needed = static_cast<size_t>(num_columns * kPanelRows) / sizeof(CacheLine);
    room.resize(std::max(room.size(), needed));
    return room.data()->bytes.data();
  };
  const auto multiply = [&](const PanelWeight::Part& part, int64_t begin, int64_t end,
                            int64_t token) {
    const int64_t first_row = begin * kPanelRows;
    const int64_t first_block = weight.has_quantized() ? token * num_blocks : 0;  // else none
    isa_.panel_product[static_cast<size_t>(part.kind)](
        {.panels = weight.panel(part, begin),
         .panel_bytes = static_cast<int64_t>(part.panel_bytes),
         .num_panels = end - begin,
         .num_columns = num_columns,
         .num_tokens = std::min(MatMulTiles::kTokens, num_tokens - token),
         .group_tokens = group_tokens,
         .codes = codes + first_block * kBlockCodes,
         .blocks = blocks + first_block,
         .x = x.f32() + token * num_columns,
         .room = unpacking_room(),
         .y = y.f32() + token * weight.rows() + part.first_row + first_row,
         .y_stride = weight.rows(),
         .num_rows = part.num_rows - first_row,
         .add = mode == MatMulMode::kAdd});
  };
  const auto run_tile = [&](int64_t tile) {
    const int64_t token = tile / tiles.panel_tiles * MatMulTiles::kTokens;
    const int64_t begin = tile % tiles.panel_tiles * tiles.num_panels;
    const int64_t end = begin + tiles.num_panels;
    for (const PanelWeight::Part& part : weight.parts()) {
      const int64_t from = std::max(begin, part.first_panel);
      const int64_t to = std::min(end, part.first_panel + part.num_panels);
      if (from < to) {
        multiply(part, from - part.first_panel, to - part.first_panel, token);
      }
    }
  };
  pool_.ParallelFor(tiles.panel_tiles * tiles.token_tiles, 1, [&](int64_t first, int64_t last) {
    for (int64_t tile = first; tile < last; ++tile) {
      run_tile(tile);
    }
  });
}

void CpuOps::AddBias(Tensor x, Tensor bias, Stream& /*stream*/) const {
  const int64_t dim = x.dim(1);
  CHECK(dim == bias.dim(0));
  ForRows(x.dim(0), dim, [&](int64_t row) {
    float* out = x.f32() + row * dim;
    for (int64_t i = 0; i < dim; ++i) {
      out[i] += bias.f32()[i];
    }
  });
}

void CpuOps::Rope(Tensor qkv, int num_heads, int head_dim, Tensor cos_sin, RopeStyle style,
                  Stream& /*stream*/) const {
  const int64_t num_pairs = cos_sin.dim(1);
  const int64_t width = qkv.dim(1);
  CHECK(2 * num_pairs <= head_dim && int64_t{num_heads} * head_dim <= width);
  CHECK(cos_sin.dim(0) == qkv.dim(0));
  ForRows(qkv.dim(0), width, [&](int64_t row) {
    isa_.rope({.heads = qkv.f32() + row * width,
               .num_heads = num_heads,
               .head_dim = head_dim,
               .angles = cos_sin.f32() + row * num_pairs * 2,
               .num_pairs = static_cast<int32_t>(num_pairs),
               .interleaved = style == RopeStyle::kInterleaved});
  });
}

void CpuOps::Rotate(Tensor x, int num_heads, Tensor signs, Rotation rotation,
                    Stream& /*stream*/) const {
  const auto head_dim = static_cast<int32_t>(signs.dim(0));
  const int64_t width = x.dim(1);
  CHECK(int64_t{num_heads} * head_dim <= width);
  ForRows(x.dim(0), width, [&](int64_t row) {
    float* head = x.f32() + row * width;
    for (int h = 0; h < num_heads; ++h, head += head_dim) {
      isa_.rotate_vector(head, signs.f32(), head_dim, rotation == Rotation::kBack);
    }
  });
}

void CpuOps::TranscodePages(std::span<const PageMove> moves, const KvCacheView& kv,
                            std::span<MoveResult> results, Stream& /*stream*/) const {
  CHECK(results.size() == moves.size());
  const VectorQuantizer quantizer{.turbo = isa_.quantize_turbo,
                                  .int8 = isa_.quantize_int8,
                                  .keys = isa_.quantize_keys,
                                  .distances = isa_.measure_keys,
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
  thread_local std::vector<TokenSlot> found;
  const auto* step = static_cast<const CpuStep*>(batch.on_device);
  if (step == nullptr) {
    FindSlots(batch, kv, found);
  }
  const std::vector<TokenSlot>& slots = step == nullptr ? found : step->slots;
  ForRows(batch.num_tokens, 2 * layout.num_kv_heads * dim, [&](int64_t t) {
    const TokenSlot& to = slots[static_cast<size_t>(t)];
    CHECK(to.page.tier() == Tier::kHot);  // a page being written is hot
    const float* row = qkv.f32() + t * qkv.dim(1);
    for (int h = 0; h < layout.num_kv_heads; ++h) {
      std::byte* block = kv.block_at(to.page, layer, h);
      auto* k = reinterpret_cast<uint16_t*>(block) + to.slot * dim;
      auto* v = reinterpret_cast<uint16_t*>(block + NativeVOffset(layout)) + to.slot * dim;
      isa_.float_to_half(row + k_column + h * dim, dim, k);
      isa_.float_to_half(row + v_column + h * dim, dim, v);
    }
  });
}

void CpuOps::FoldEnergies(Tensor energies, Tensor heat, Stream& /*stream*/) const {
  const int64_t num_pages = energies.dim(1);
  CHECK(heat.dim(0) == num_pages && heat.dim(1) == 2);
  ForRows(num_pages, energies.dim(0) * energies.dim(2), [&](int64_t page) {
    const FoldedEnergy folded =
        FoldEnergyOfPage(energies.f32(), energies.dim(0), num_pages, energies.dim(2), page);
    heat.f32()[2 * page] = folded.peak;
    heat.f32()[2 * page + 1] = folded.mean;
  });
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

void CpuOps::DrawTokens(Tensor logits, int vocab_size, std::span<const RowDraw> draws,
                        TokenId* tokens, Stream& /*stream*/) const {
  const int64_t width = logits.dim(1);
  CHECK(vocab_size <= width);
  ForRows(static_cast<int64_t>(draws.size()), vocab_size, [&](int64_t i) {
    thread_local TokenDrawer drawer;
    const RowDraw& draw = draws[static_cast<size_t>(i)];
    tokens[i] =
        drawer.Draw({logits.f32() + draw.row * width, static_cast<size_t>(vocab_size)}, draw);
  });
}

}  // namespace thermocline
