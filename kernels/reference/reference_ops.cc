#include "kernels/reference/reference_ops.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numbers>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/core/hadamard.h"
#include "kernels/core/half.h"
#include "kernels/quant/key_bias.h"
#include "kernels/quant/page_codec.h"

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

// K and V [whole pages, head_dim] of the pages that hold the first `length` positions of sequence
// s, whatever their tier. What coded K is short by is added.
void DecodePages(const BatchView& batch, int s, const KvCacheView& kv, int layer, int kv_head,
                 int length, std::vector<float>& k, std::vector<float>& v) {
  const KvLayout& layout = kv.layout;
  const int num_pages = (length + layout.page_tokens - 1) / layout.page_tokens;
  const auto page_size =
      static_cast<size_t>(layout.page_tokens) * static_cast<size_t>(layout.head_dim);
  k.resize(static_cast<size_t>(num_pages) * page_size);
  v.resize(k.size());
  const float* mean_key = kv.mean_key(layer, kv_head);
  for (int i = 0; i < num_pages; ++i) {
    const PageId page = batch.page_ids[batch.page_starts[s] + i];
    const Codec codec = kv.format(layer, kv.page_map[page].tier()).codec;
    float* page_k = k.data() + static_cast<size_t>(i) * page_size;
    DecodeBlock(codec, layout, kv.block(page, layer, kv_head), page_k,
                v.data() + static_cast<size_t>(i) * page_size);
    if (codec != Codec::kNative) {
      AddKeyBias(kv, layer, kv_head, i * layout.page_tokens, 1.0F, page_k);
    }
    for (size_t j = 0; j < page_size && codec != Codec::kNative && mean_key != nullptr; ++j) {
      page_k[j] += mean_key[j % static_cast<size_t>(layout.head_dim)];
    }
  }
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

void ReferenceOps::Embed(std::span<const TokenId> tokens, const WeightSource& table, Tensor out,
                         Stream& /*stream*/) const {
  for (size_t i = 0; i < tokens.size(); ++i) {
    CHECK(tokens[i] >= 0 && tokens[i] < table.rows);
    Dequantize(table.type, table.data + static_cast<size_t>(tokens[i]) * table.row_bytes(),
               table.cols, out.f32() + static_cast<int64_t>(i) * table.cols);
  }
}

void ReferenceOps::RmsNorm(Tensor x, std::span<const float> gain, float epsilon, Tensor y,
                           Stream& /*stream*/) const {
  const int64_t dim = x.dim(1);
  CHECK(static_cast<int64_t>(gain.size()) == dim && y.dim(1) == dim);
  for (int64_t t = 0; t < x.dim(0); ++t) {
    const float* in = x.f32() + t * dim;
    float* out = y.f32() + t * dim;
    const float mean = Dot(in, in, dim) / static_cast<float>(dim);
    const float scale = 1.0F / std::sqrt(mean + epsilon);
    for (int64_t i = 0; i < dim; ++i) {
      out[i] = in[i] * scale * gain[static_cast<size_t>(i)];
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

void ReferenceOps::AddBias(Tensor x, std::span<const float> bias, Stream& /*stream*/) const {
  CHECK(x.dim(1) == static_cast<int64_t>(bias.size()));
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    x.f32()[i] += bias[static_cast<size_t>(i) % bias.size()];
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

void ReferenceOps::Rotate(Tensor x, int num_heads, std::span<const float> signs, Rotation rotation,
                          Stream& /*stream*/) const {
  const auto head_dim = static_cast<int>(signs.size());
  CHECK(int64_t{num_heads} * head_dim <= x.dim(1));
  for (int64_t t = 0; t < x.dim(0); ++t) {
    for (int h = 0; h < num_heads; ++h) {
      float* head = x.f32() + t * x.dim(1) + int64_t{h} * head_dim;
      rotation == Rotation::kForward ? RotateForward(head, signs.data(), head_dim)
                                     : RotateBack(head, signs.data(), head_dim);
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

// `weights` / sum are one row's; energies, `stride` apart, are by page.
void AddEnergies(const std::vector<float>& weights, float sum, int page_tokens, float* energies,
                 int stride) {
  for (size_t first = 0; first < weights.size(); first += static_cast<size_t>(page_tokens)) {
    float mass = 0;
    float largest = 0;
    for (size_t p = first; p < std::min(weights.size(), first + static_cast<size_t>(page_tokens));
         ++p) {
      mass += weights[p] / sum;
      largest = std::max(largest, weights[p] / sum);
    }
    *energies = std::max(*energies, mass * largest);
    energies += stride;
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
    std::vector<float> scores(static_cast<size_t>(length));
    std::vector<float> k;
    std::vector<float> v;
    DecodePages(batch, s, kv, params.layer, h / group, length, k, v);
    float max = -INFINITY;
    for (int p = 0; p < length; ++p) {
      const PageId page = batch.page_ids[batch.page_starts[s] + p / layout.page_tokens];
      if ((kv.keep_mask(page, params.layer, h / group) >> (p % layout.page_tokens) & 1) == 0) {
        scores[static_cast<size_t>(p)] = -INFINITY;
        continue;
      }
      scores[static_cast<size_t>(p)] = Dot(q, k.data() + int64_t{p} * dim, dim) * params.scale;
      max = std::max(max, scores[static_cast<size_t>(p)]);
    }
    float sum = 0;
    for (float& score : scores) {
      score = std::exp(score - max);
      sum += score;
    }
    float* o = out.f32() + (int64_t{t} * num_heads + h) * dim;
    std::fill(o, o + dim, 0.0F);
    for (int p = 0; p < length; ++p) {
      for (int i = 0; i < dim; ++i) {
        o[i] += scores[static_cast<size_t>(p)] / sum * v[static_cast<size_t>(p * dim + i)];
      }
    }
    const std::lock_guard lock(mutex);
    if (params.page_energy != nullptr && t >= batch.sequence_starts[s + 1] - kObservedTokens) {
      AddEnergies(scores, sum, layout.page_tokens,
                  params.page_energy + batch.page_starts[s] * layout.num_kv_heads + h / group,
                  layout.num_kv_heads);
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

}  // namespace thermocline
