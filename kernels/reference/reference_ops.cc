#include "kernels/reference/reference_ops.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numbers>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/core/hadamard.h"
#include "kernels/core/half.h"
#include "kernels/core/page_energies.h"
#include "kernels/core/softmax_state.h"
#include "kernels/quant/key_bias.h"
#include "kernels/quant/page_codec.h"
#include "kernels/sampling/token_drawer.h"

namespace thermocline {
namespace {

class FloatWeight final : public Weight {
 public:
  FloatWeight(int64_t rows, int64_t cols, std::vector<float> values)
      : rows_(rows), cols_(cols), values_(std::move(values)) {}
  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  size_t num_bytes() const override { return values_.size() * sizeof(float); }
  const float* row(int64_t i) const { return values_.data() + i * cols_; }

 private:
  int64_t rows_;
  int64_t cols_;
  std::vector<float> values_;  // [rows, cols]
};

// Sixteen partial sums, added pairwise at the end: the compiler may use vector registers, and the
// order of additions is the same on every machine.
float Dot(const float* a, const float* b, int64_t count) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes] = {};
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      lanes[j] += a[i + j] * b[i + j];
    }
  }
  for (int64_t i = whole; i < count; ++i) {
    lanes[i - whole] += a[i] * b[i];
  }
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t j = 0; j < width; ++j) {
      lanes[j] += lanes[j + width];
    }
  }
  return lanes[0];
}

float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1.0F + std::exp(-x));
    case Activation::kGeluTanh: {
      // x / 2 (1 + tanh u), written so that nothing cancels where x is negative.
      const float u = std::sqrt(2.0F / std::numbers::pi_v<float>) * (x + 0.044715F * x * x * x);
      return x / (1.0F + std::exp(-2.0F * u));
    }
  }
  return x;
}

// The rows of some pages, whatever their tier.
struct PageRows {
  std::vector<float> k;            // [num_rows, head_dim]; what coded K is short by is added
  std::vector<float> v;            // [num_rows, head_dim]
  std::vector<float> log_weights;  // [num_rows]; -infinity: the query does not see it
  std::vector<size_t> starts;      // [pages + 1]
};

// Of the pages that hold the first `length` positions of sequence s, which the query sees.
PageRows DecodePages(const BatchView& batch, int s, const KvCacheView& kv, int layer, int kv_head,
                     int length) {
  const KvLayout& layout = kv.layout;
  const auto dim = static_cast<size_t>(layout.head_dim);
  const float* mean_key = kv.mean_key(layer, kv_head);
  PageRows rows;
  rows.starts.push_back(0);
  for (int first = 0; first < length; first += layout.page_tokens) {
    const PageId page = batch.page_ids[batch.page_starts[s] + first / layout.page_tokens];
    const Codec codec = kv.format(layer, kv.page_map[page].tier()).codec;
    const std::byte* block = kv.block(page, layer, kv_head);
    CHECK(!IsMerged(codec) || (first + layout.page_tokens <= length && !kv.key_bias.has(layer)));
    const size_t start = rows.starts.back();
    const auto num_rows = static_cast<size_t>(BlockRows(codec, layout));
    rows.starts.push_back(start + num_rows);
    rows.k.resize(rows.starts.back() * dim);
    rows.v.resize(rows.k.size());
    rows.log_weights.resize(rows.starts.back());
    float* k = rows.k.data() + start * dim;
    DecodeBlock(codec, layout, block, k, rows.v.data() + start * dim);
    DecodeLogWeights(codec, layout, block, rows.log_weights.data() + start);
    if (codec != Codec::kNative) {
      AddKeyBias(kv, layer, kv_head, first, 1.0F, k);
    }
    for (size_t i = 0; i < num_rows * dim && codec != Codec::kNative && mean_key != nullptr; ++i) {
      k[i] += mean_key[i % dim];
    }
    for (size_t i = 0; i < num_rows && !IsMerged(codec); ++i) {
      const bool seen = first + static_cast<int>(i) < length;
      rows.log_weights[start + i] = seen ? 0 : -INFINITY;
    }
  }
  return rows;
}

}  // namespace

Result<std::unique_ptr<Weight>> ReferenceOps::PrepareWeight(
    std::span<const WeightSource> parts) const {
  CHECK(!parts.empty());
  const int64_t cols = parts[0].cols;
  int64_t rows = 0;
  for (const WeightSource& part : parts) {
    CHECK(part.cols == cols);
    rows += part.rows;
  }
  std::vector<float> values(static_cast<size_t>(rows * cols));
  float* out = values.data();
  for (const WeightSource& part : parts) {
    Dequantize(part.type, part.data, part.rows * cols, out);
    out += part.rows * cols;
  }
  return std::unique_ptr<Weight>(std::make_unique<FloatWeight>(rows, cols, std::move(values)));
}

void ReferenceOps::Embed(const BatchView& batch, const Weight& table, Tensor out,
                         Stream& /*stream*/) const {
  const auto& weight = static_cast<const FloatWeight&>(table);
  for (int64_t i = 0; i < batch.num_tokens; ++i) {
    const TokenId token = batch.tokens[i];
    CHECK(token >= 0 && token < weight.rows());
    std::copy_n(weight.row(token), weight.cols(), out.f32() + i * weight.cols());
  }
}

void ReferenceOps::GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out,
                              Stream& /*stream*/) const {
  const int64_t dim = x.dim(1);
  CHECK(out.dim(1) == dim && out.dim(0) == static_cast<int64_t>(rows.size()));
  for (size_t i = 0; i < rows.size(); ++i) {
    CHECK(rows[i] >= 0 && rows[i] < x.dim(0));
    std::copy_n(x.f32() + rows[i] * dim, dim, out.f32() + static_cast<int64_t>(i) * dim);
  }
}

void ReferenceOps::RmsNorm(Tensor x, Tensor gain, float epsilon, Tensor y,
                           Stream& /*stream*/) const {
  const int64_t dim = x.dim(1);
  CHECK(gain.dim(0) == dim && y.dim(1) == dim);
  for (int64_t t = 0; t < x.dim(0); ++t) {
    const float* in = x.f32() + t * dim;
    float* out = y.f32() + t * dim;
    const float mean = Dot(in, in, dim) / static_cast<float>(dim);
    const float scale = 1.0F / std::sqrt(mean + epsilon);
    for (int64_t i = 0; i < dim; ++i) {
      out[i] = in[i] * scale * gain.f32()[i];
    }
  }
}

void ReferenceOps::MatMul(Tensor x, const Weight& w, Tensor y, MatMulMode mode,
                          Stream& /*stream*/) const {
  const auto& weight = dynamic_cast<const FloatWeight&>(w);
  const int64_t rows = weight.rows();
  const int64_t cols = weight.cols();
  CHECK(x.dim(1) == cols && y.dim(1) == rows && x.dim(0) == y.dim(0));
  pool_.ParallelFor(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t t = 0; t < x.dim(0); ++t) {
        const float dot = Dot(x.f32() + t * cols, weight.row(r), cols);
        float& out = y.f32()[t * rows + r];
        out = mode == MatMulMode::kAdd ? out + dot : dot;
      }
    }
  });
}

void ReferenceOps::AddBias(Tensor x, Tensor bias, Stream& /*stream*/) const {
  CHECK(x.dim(1) == bias.dim(0));
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    x.f32()[i] += bias.f32()[i % bias.dim(0)];
  }
}

void ReferenceOps::Rope(Tensor qkv, int num_heads, int head_dim, Tensor cos_sin, RopeStyle style,
                        Stream& /*stream*/) const {
  const int64_t num_pairs = cos_sin.dim(1);
  CHECK(2 * num_pairs <= head_dim && int64_t{num_heads} * head_dim <= qkv.dim(1));
  for (int64_t t = 0; t < qkv.dim(0); ++t) {
    const float* angles = cos_sin.f32() + t * num_pairs * 2;
    for (int h = 0; h < num_heads; ++h) {
      float* head = qkv.f32() + t * qkv.dim(1) + int64_t{h} * head_dim;
      for (int64_t i = 0; i < num_pairs; ++i) {
        float& a = style == RopeStyle::kInterleaved ? head[2 * i] : head[i];
        float& b = style == RopeStyle::kInterleaved ? head[2 * i + 1] : head[i + num_pairs];
        const float cos = angles[2 * i];
        const float sin = angles[2 * i + 1];
        const float rotated = a * cos - b * sin;
        b = a * sin + b * cos;
        a = rotated;
      }
    }
  }
}

void ReferenceOps::Rotate(Tensor x, int num_heads, Tensor signs, Rotation rotation,
                          Stream& /*stream*/) const {
  const auto head_dim = static_cast<int>(signs.dim(0));
  CHECK(int64_t{num_heads} * head_dim <= x.dim(1));
  for (int64_t t = 0; t < x.dim(0); ++t) {
    for (int h = 0; h < num_heads; ++h) {
      float* head = x.f32() + t * x.dim(1) + int64_t{h} * head_dim;
      rotation == Rotation::kForward ? RotateForward(head, signs.f32(), head_dim)
                                     : RotateBack(head, signs.f32(), head_dim);
    }
  }
}

void ReferenceOps::TranscodePages(std::span<const PageMove> moves, const KvCacheView& kv,
                                  std::span<MoveResult> results, Stream& /*stream*/) const {
  CHECK(results.size() == moves.size());
  for (size_t i = 0; i < moves.size(); ++i) {
    results[i] = TranscodePage(moves[i], kv, ReferenceQuantizer());
  }
}

void ReferenceOps::AppendKv(Tensor qkv, int k_column, int v_column, const BatchView& batch,
                            const KvCacheView& kv, int layer, Stream& /*stream*/) const {
  const KvLayout& layout = kv.layout;
  for (int s = 0; s < batch.num_sequences; ++s) {
    for (int t = batch.sequence_starts[s]; t < batch.sequence_starts[s + 1]; ++t) {
      const int position = batch.positions[t];
      const int slot = position % layout.page_tokens;
      const PageId page = batch.page_ids[batch.page_starts[s] + position / layout.page_tokens];
      CHECK(kv.page_map[page].tier() == Tier::kHot);  // a page being written is hot
      const float* row = qkv.f32() + t * qkv.dim(1);
      for (int h = 0; h < layout.num_kv_heads; ++h) {
        std::byte* block = kv.block(page, layer, h);
        auto* k = reinterpret_cast<uint16_t*>(block) + slot * layout.head_dim;
        auto* v =
            reinterpret_cast<uint16_t*>(block + NativeVOffset(layout)) + slot * layout.head_dim;
        for (int i = 0; i < layout.head_dim; ++i) {
          k[i] = FloatToHalf(row[k_column + h * layout.head_dim + i]);
          v[i] = FloatToHalf(row[v_column + h * layout.head_dim + i]);
        }
      }
    }
  }
}

namespace {

// One query's softmax over one page: its state, its values in `o` [dim], not divided by the sum.
struct PageSoftmax {
  float max = -INFINITY;
  float sum = 0;
  std::vector<float> o;
};

PageSoftmax AttendToPage(const float* q, int dim, float scale, const PageRows& rows, size_t page) {
  PageSoftmax state{.o = std::vector<float>(static_cast<size_t>(dim))};
  std::vector<float> scores;
  for (size_t row = rows.starts[page]; row < rows.starts[page + 1]; ++row) {
    const float* key = rows.k.data() + static_cast<int64_t>(row) * dim;
    scores.push_back(Dot(q, key, dim) * scale + rows.log_weights[row]);
    state.max = std::max(state.max, scores.back());
  }
  for (size_t i = 0; i < scores.size() && state.max > -INFINITY; ++i) {
    const float weight = std::exp(scores[i] - state.max);
    const float* value = rows.v.data() + static_cast<int64_t>(rows.starts[page] + i) * dim;
    state.sum += weight;
    for (size_t d = 0; d < state.o.size() && weight > 0; ++d) {
      state.o[d] += weight * value[d];
    }
  }
  return state;
}

void Merge(const PageSoftmax& from, PageSoftmax& to) {
  if (from.sum == 0) {
    return;
  }
  const SoftmaxMerge merge = MergeSoftmax(to.max, from.max, [](float x) { return std::exp(x); });
  to.max = merge.max;
  to.sum = to.sum * merge.to_scale + from.sum * merge.from_scale;
  for (size_t d = 0; d < to.o.size(); ++d) {
    to.o[d] = to.o[d] * merge.to_scale + from.o[d] * merge.from_scale;
  }
}

}  // namespace

void ReferenceOps::PagedAttention(Tensor qkv, int num_heads, const BatchView& batch,
                                  const KvCacheView& kv, const AttentionParams& params, Tensor out,
                                  Stream& /*stream*/) const {
  const KvLayout& layout = kv.layout;
  const int dim = layout.head_dim;
  const int group = num_heads / layout.num_kv_heads;
  CHECK(num_heads % layout.num_kv_heads == 0);
  std::mutex mutex;  // guards params.page_energy
  const auto attend = [&](int s, int t, int h) {
    const int length = batch.positions[t] + 1;
    const float* q = qkv.f32() + t * qkv.dim(1) + int64_t{h} * dim;
    const PageRows rows = DecodePages(batch, s, kv, params.layer, h / group, length);
    const size_t num_pages = rows.starts.size() - 1;
    std::vector<PageSoftmax> pages;
    PageSoftmax all{.o = std::vector<float>(static_cast<size_t>(dim))};
    for (size_t page = 0; page < num_pages; ++page) {
      pages.push_back(AttendToPage(q, dim, params.scale, rows, page));
      Merge(pages.back(), all);
    }
    float* o = out.f32() + (int64_t{t} * num_heads + h) * dim;
    std::transform(all.o.begin(), all.o.end(), o, [&](float x) { return x / all.sum; });
    if (params.page_energy == nullptr || t < batch.sequence_starts[s + 1] - kObservedTokens) {
      return;
    }
    const std::lock_guard lock(mutex);
    float* energy = params.page_energy + batch.page_starts[s] * layout.num_kv_heads + h / group;
    for (const PageSoftmax& page : pages) {
      const float log_energy = LogEnergyOfPage(page.max, page.sum, page.max);
      *energy = std::max(*energy, std::exp(log_energy - 2 * LogSum(all.max, all.sum)));
      energy += layout.num_kv_heads;
    }
  };
  if (params.page_energy != nullptr) {
    std::fill_n(params.page_energy, batch.page_starts[batch.num_sequences] * layout.num_kv_heads,
                0.0F);
  }
  for (int s = 0; s < batch.num_sequences; ++s) {
    const int first = batch.sequence_starts[s];
    const int64_t count = int64_t{batch.sequence_starts[s + 1] - first} * num_heads;
    pool_.ParallelFor(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        attend(s, first + static_cast<int>(i / num_heads), static_cast<int>(i % num_heads));
      }
    });
  }
}

void ReferenceOps::GatedActivation(Tensor gate_up, Activation activation, Tensor out,
                                   Stream& /*stream*/) const {
  const int64_t dim = out.dim(1);
  CHECK(gate_up.dim(1) == 2 * dim && gate_up.dim(0) == out.dim(0));
  for (int64_t t = 0; t < out.dim(0); ++t) {
    const float* gate = gate_up.f32() + t * 2 * dim;
    for (int64_t i = 0; i < dim; ++i) {
      out.f32()[t * dim + i] = Activate(activation, gate[i]) * gate[dim + i];
    }
  }
}

void ReferenceOps::FoldEnergies(Tensor energies, Tensor heat, Stream& /*stream*/) const {
  CHECK(heat.dim(0) == energies.dim(1) && heat.dim(1) == 2);
  for (int64_t page = 0; page < heat.dim(0); ++page) {
    const FoldedEnergy folded =
        FoldEnergyOfPage(energies.f32(), energies.dim(0), energies.dim(1), energies.dim(2), page);
    heat.f32()[2 * page] = folded.peak;
    heat.f32()[2 * page + 1] = folded.mean;
  }
}

void ReferenceOps::DrawTokens(Tensor logits, int vocab_size, std::span<const RowDraw> draws,
                              TokenId* tokens, Stream& /*stream*/) const {
  CHECK(vocab_size <= logits.dim(1));
  TokenDrawer drawer;
  for (size_t i = 0; i < draws.size(); ++i) {
    CHECK(draws[i].row >= 0 && draws[i].row < logits.dim(0));
    tokens[i] = drawer.Draw(
        {logits.f32() + draws[i].row * logits.dim(1), static_cast<size_t>(vocab_size)}, draws[i]);
  }
}

}  // namespace thermocline
