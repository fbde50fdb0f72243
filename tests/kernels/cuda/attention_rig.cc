#include "tests/kernels/cuda/attention_rig.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/base/check.h"
#include "kernels/base/thread_pool.h"
#include "kernels/core/codebook.h"
#include "kernels/core/half.h"
#include "kernels/core/panel_codes.h"
#include "kernels/cuda/attention/level_bytes.h"
#include "kernels/quant/page_codec.h"
#include "kernels/quant/rotation.h"
#include "kernels/reference/reference_ops.h"
#include "tests/kernels/cuda/no_stream.h"

namespace thermocline {
namespace {

double HalfAt(const std::byte* at) {
  uint16_t half = 0;
  std::memcpy(&half, at, sizeof(half));
  return HalfToFloat(half);
}

// A code of a panel array, as kernels/core/panel_codes.h draws it.
int CodeAt(const std::byte* codes, int bits, int panel_bytes, int lane, int inner) {
  const std::byte* group =
      codes + lane / kPanelLanes * panel_bytes + inner / GroupInner(bits) * GroupBytes(bits);
  return UnpackCode(bits, reinterpret_cast<const uint8_t*>(group), lane % kPanelLanes,
                    inner % GroupInner(bits));
}

// What a code stands for where levels are bytes.
double LevelOf(int bits, int code, const LevelBytes& levels) {
  if (bits == 8) {
    return static_cast<int8_t>(code);
  }
  const auto whole = static_cast<int8_t>(levels.words[code / 4] >> 8 * (code % 4));
  const auto rest = static_cast<int8_t>(levels.rest[code / 4] >> 8 * (code % 4));
  return (whole + (bits == 4 ? rest / 128.0 : 0)) * static_cast<double>(levels.step);
}

}  // namespace

AttentionRig::AttentionRig(const RigShape& shape, std::vector<RigSequence> sequences)
    : shape_(shape), sequences_(std::move(sequences)), random_(shape.seed), formats_(kNumTiers) {
  const KvLayout layout{.num_layers = 1, .num_kv_heads = shape.kv_heads, .head_dim = shape.dim};
  const Codec codecs[kNumTiers] = {Codec::kNative, Codec::kInt8, shape.cold, shape.archive,
                                   Codec::kNative};
  uint32_t most_units = 0;
  for (size_t tier = 0; tier < formats_.size(); ++tier) {
    // A layer's part does not begin the page, and heads do not touch.
    const uint32_t bytes = BlockLayoutOf(codecs[tier], layout).bytes;
    formats_[tier] = {.codec = codecs[tier], .layer_offset = 192, .head_stride = bytes + 64};
    most_units = std::max(most_units, (192 + static_cast<uint32_t>(shape.kv_heads) * (bytes + 64)) /
                                              static_cast<uint32_t>(kArenaUnitBytes) +
                                          1);
  }
  signs_ = RotationSigns(shape.dim, 3);
  kv_.formats = formats_.data();
  kv_.layout = layout;
  if (shape.has_mean) {
    mean_keys_ = Normal(static_cast<size_t>(shape.kv_heads * shape.dim), 1.0F);
    kv_.mean_keys = mean_keys_.data();
  }
  for (const RigSequence& sequence : sequences_) {
    CHECK(static_cast<int>(sequence.pages.size()) == (sequence.length + 63) / 64);
    for (int i = 0; i < sequence.num_queries; ++i) {
      positions_.push_back(sequence.length - sequence.num_queries + i);
    }
    sequence_starts_.push_back(static_cast<int32_t>(positions_.size()));
    for (const Tier tier : sequence.pages) {
      page_ids_.push_back(static_cast<PageId>(page_ids_.size()));
      page_map_.emplace_back(tier, 0);
    }
    page_starts_.push_back(static_cast<int32_t>(page_ids_.size()));
  }
  // Pages lie in the arena in no order.
  std::vector<uint32_t> places(page_ids_.size());
  for (size_t i = 0; i < places.size(); ++i) {
    places[i] = static_cast<uint32_t>(i) * most_units;
  }
  std::shuffle(places.begin(), places.end(), random_);
  for (size_t i = 0; i < places.size(); ++i) {
    page_map_[i] = PageEntry(page_map_[i].tier(), places[i]);
  }
  arena_.resize(places.size() * most_units * kArenaUnitBytes);
  kv_.arena = arena_.data();
  kv_.page_map = page_map_.data();
  if (shape.has_bias) {
    MakeBias();
  }
  for (int s = 0; s < static_cast<int>(sequences_.size()); ++s) {
    for (int i = page_starts_[static_cast<size_t>(s)]; i < page_starts_[static_cast<size_t>(s) + 1];
         ++i) {
      FillPage(static_cast<PageId>(i), s, i - page_starts_[static_cast<size_t>(s)]);
    }
  }
  // Some columns behind the queries, as in a row of Q, K and V.
  q_ = Normal(positions_.size() * static_cast<size_t>(num_heads() * shape.dim + 8), 1.5F);
  if (shape.has_sinks) {
    sinks_ = Normal(static_cast<size_t>(num_heads()), 2.0F);
  }
}

float AttentionRig::scale() const { return 1.0F / std::sqrt(static_cast<float>(shape_.dim)); }

std::vector<float> AttentionRig::Normal(size_t count, float deviation) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> x(count);
  std::generate(x.begin(), x.end(), [&] { return normal(random_); });
  return x;
}

void AttentionRig::MakeBias() {
  // As in Qwen2.5: some dimensions of a size that no code of few bits could hold beside the rest.
  std::vector<float> biases = Normal(static_cast<size_t>(shape_.kv_heads * shape_.dim), 0.5F);
  for (size_t i = 3; i < biases.size(); i += 29) {
    biases[i] *= 40;
  }
  std::vector<float> frequencies;
  for (int i = 0; i < shape_.dim / 2 - 1; ++i) {  // the last pair is not turned
    frequencies.push_back(
        std::pow(10000.0F, -2.0F * static_cast<float>(i) / static_cast<float>(shape_.dim)));
  }
  bias_ = std::make_unique<KeyBias>(
      kv_.layout, biases,
      KeyBias::Rope{.style = RopeStyle::kHalves, .frequencies = frequencies, .magnitude = 1.1F},
      signs_, 64 * static_cast<int>(page_ids_.size()));
  kv_.key_bias = bias_->view();
  bias_angles_ = BiasAngles(kv_.key_bias, 64);
}

void AttentionRig::FillPage(PageId page, int sequence, int index) {
  const auto dim = static_cast<size_t>(shape_.dim);
  const Codec codec = kv_.format(0, page_map_[page].tier()).codec;
  for (int h = 0; h < shape_.kv_heads; ++h) {
    std::vector<float> k = Normal(64 * dim, 1.2F);
    std::vector<float> v = Normal(64 * dim, 0.7F);
    const int used = sequences_[static_cast<size_t>(sequence)].length - 64 * index;
    for (size_t i = 0; i < k.size() && codec == Codec::kNative; ++i) {
      k[i] += shape_.has_mean ? mean_keys_[static_cast<size_t>(h) * dim + i % dim] : 0.0F;
      if (static_cast<int>(i / dim) >= used) {
        k[i] = v[i] = 0;
      }
    }
    CHECK(EncodeBlock(codec, kv_.layout, ReferenceQuantizer(), k.data(), v.data(),
                      kv_.block(page, 0, h))
              .ok());
  }
}

RigResult AttentionRig::RunOnly(GridOrder order, int num_blocks, int sequence) {
  // NaN where a page has no token.
  std::vector<std::byte> arena = arena_;
  for (size_t s = 0; s < sequences_.size(); ++s) {
    const int used = (sequences_[s].length + 63) % 64 + 1;
    const PageId last = static_cast<PageId>(page_starts_[s + 1] - 1);
    for (int h = 0; h < shape_.kv_heads && used < 64 && !sequences_[s].pages.empty(); ++h) {
      CHECK(page_map_[last].tier() == Tier::kHot);
      std::byte* block = arena.data() + (kv_.block(last, 0, h) - arena_.data());
      for (const int part : {0, 1}) {
        const int bytes = 2 * shape_.dim;
        std::memset(block + (part * 64 + used) * bytes, 0x7f,
                    static_cast<size_t>((64 - used) * bytes));
      }
    }
  }
  KvCacheView kv = kv_;
  kv.arena = arena.data();
  const auto first = static_cast<size_t>(std::max(sequence, 0));
  const size_t end = sequence < 0 ? sequences_.size() : first + 1;
  const int32_t first_token = sequence_starts_[first];
  const int32_t num_tokens = sequence_starts_[end] - first_token;
  std::vector<int32_t> starts;
  std::vector<int32_t> page_starts;
  for (size_t s = first; s <= end; ++s) {
    starts.push_back(sequence_starts_[s] - first_token);
    page_starts.push_back(page_starts_[s] - page_starts_[first]);
  }
  const BatchView batch{num_tokens,         static_cast<int>(end - first),
                        starts.data(),      positions_.data() + first_token,
                        page_starts.data(), page_ids_.data() + page_starts_[first]};
  const AttentionPlan plan = PlanAttention(batch, num_heads(), kv, shape_.window);
  AttentionLaunch launch;
  launch.window = shape_.window;
  SetLayer(kv, 0, bias_angles_.data(), launch);
  launch.num_heads = num_heads();
  launch.group = shape_.group;
  launch.row_width = num_heads() * shape_.dim + 8;
  launch.q = q_.data() + first_token * launch.row_width;
  launch.scale = scale();
  launch.positions = batch.positions;
  launch.pages = plan.pages.data();
  launch.score_cap = shape_.score_cap;
  launch.sinks = shape_.has_sinks ? sinks_.data() : nullptr;
  launch.items = plan.items.data();
  launch.num_items = static_cast<int32_t>(plan.items.size());
  launch.tiles = plan.tiles.data();
  launch.num_tiles = static_cast<int32_t>(plan.tiles.size());
  // Nobody clears scratch memory.
  constexpr float kStale = std::numeric_limits<float>::quiet_NaN();
  uint32_t next_item = 77;
  std::vector<float> states(static_cast<size_t>(plan.num_states * kTileRows * (shape_.dim + 2)),
                            kStale);
  std::vector<float> log_energy(static_cast<size_t>(plan.num_energies), kStale);
  RigResult result;
  result.out.assign(static_cast<size_t>(num_tokens * num_heads() * shape_.dim), kStale);
  result.energies.assign(plan.pages.size() * static_cast<size_t>(shape_.kv_heads), kStale);
  launch.next_item = &next_item;
  launch.states = states.data();
  launch.out = result.out.data();
  launch.signs = shape_.turns_back ? signs_.data() : nullptr;
  launch.log_energy = log_energy.data();
  launch.page_energy = result.energies.data();
  launch.num_pages = static_cast<int32_t>(plan.pages.size());
  LaunchAttentionInOrder(launch, num_blocks, order);
  return result;
}

RigResult AttentionRig::Reference() {
  RigResult result;
  const int64_t num_tokens = sequence_starts_.back();
  result.out.resize(static_cast<size_t>(num_tokens * num_heads() * shape_.dim));
  result.energies.resize(page_ids_.size() * static_cast<size_t>(shape_.kv_heads));
  ThreadPool pool(1);
  NoStream stream;
  const ReferenceOps ops(pool);
  const BatchView batch{static_cast<int>(num_tokens), static_cast<int>(sequences_.size()),
                        sequence_starts_.data(),      positions_.data(),
                        page_starts_.data(),          page_ids_.data()};
  const Tensor out(result.out.data(), {num_tokens, num_heads() * shape_.dim});
  ops.PagedAttention(Tensor(q_.data(), {num_tokens, num_heads() * shape_.dim + 8}), num_heads(),
                     batch, kv_, {0, scale(), result.energies.data()}, out, stream);
  if (shape_.turns_back) {
    ops.Rotate(out, num_heads(), Tensor(signs_.data(), {shape_.dim}), Rotation::kBack, stream);
  }
  return result;
}

void AttentionRig::DecodeExactly(PageId page, int index, int kv_head, ExactRows& rows) const {
  const int dim = shape_.dim;
  const Codec codec = kv_.format(0, page_map_[page].tier()).codec;
  const std::byte* block = kv_.block(page, 0, kv_head);
  const int num_rows = BlockRows(codec, kv_.layout);
  const BlockLayout at = BlockLayoutOf(codec, kv_.layout);
  const int key_bits = KeyBits(codec);
  const int value_bits = ValueBits(codec);
  const auto levels_of = [&](int bits) {
    return bits <= 4 ? LevelBytesOf(CodebookFor(dim, bits)) : LevelBytes{};
  };
  const LevelBytes key_levels = levels_of(key_bits);
  const LevelBytes value_levels = levels_of(value_bits);
  std::vector<float> bias(static_cast<size_t>(64 * dim));
  if (shape_.has_bias && codec != Codec::kNative) {
    AddKeyBias(kv_, 0, kv_head, 64 * index, 1.0F, bias.data());
  }
  for (int row = 0; row < num_rows; ++row) {
    rows.positions.push_back(IsMerged(codec) ? -1 : 64 * index + row);
    rows.logs.push_back(IsMerged(codec) ? HalfAt(block + at.log_weights + 2 * row) : 0);
    for (int i = 0; i < dim; ++i) {
      if (codec == Codec::kNative) {
        rows.k.push_back(HalfAt(block + 2 * (row * dim + i)));
        rows.v.push_back(HalfAt(block + at.v_codes + 2 * (row * dim + i)));
        continue;
      }
      const int k = CodeAt(block, key_bits, PanelBytes(key_bits, (dim + 31) / 32 * 32), row, i);
      const int v =
          CodeAt(block + at.v_codes, value_bits, PanelBytes(value_bits, num_rows), i, row);
      const double mean =
          shape_.has_mean ? mean_keys_[static_cast<size_t>(kv_head * dim + i)] : 0.0F;
      rows.k.push_back(HalfAt(block + at.k_scales + 2 * row) * LevelOf(key_bits, k, key_levels) +
                       mean + bias[static_cast<size_t>(row * dim + i)]);
      rows.v.push_back(HalfAt(block + at.v_scales + 2 * row) *
                       LevelOf(value_bits, v, value_levels));
    }
  }
  rows.page_starts.push_back(rows.logs.size());
}

AttentionRig::ExactRows AttentionRig::RowsOf(int sequence, int kv_head) const {
  ExactRows rows;
  rows.page_starts.push_back(0);
  const int first = page_starts_[static_cast<size_t>(sequence)];
  for (int page = first; page < page_starts_[static_cast<size_t>(sequence) + 1]; ++page) {
    DecodeExactly(static_cast<PageId>(page), page - first, kv_head, rows);
  }
  return rows;
}

void AttentionRig::AttendExactly(const ExactRows& rows, int sequence, int token, int head,
                                 RigResult& result) const {
  const auto dim = static_cast<size_t>(shape_.dim);
  const auto num_heads_of = static_cast<size_t>(num_heads());
  const auto t = static_cast<size_t>(token);
  const auto h = static_cast<size_t>(head);
  const float* q = q_.data() + t * (num_heads_of * dim + 8) + h * dim;
  const int position = positions_[t];
  std::vector<double> weights(rows.logs.size());
  double max = shape_.has_sinks ? sinks_[h] : -INFINITY;
  for (size_t row = 0; row < weights.size(); ++row) {
    double score = 0;
    for (size_t i = 0; i < dim; ++i) {
      score += q[i] * rows.k[row * dim + i];
    }
    score *= scale();
    if (shape_.score_cap > 0) {
      score = shape_.score_cap * std::tanh(score / shape_.score_cap);
    }
    const int at = rows.positions[row];
    const bool seen =
        at < 0 || (at <= position && (shape_.window == 0 || at > position - shape_.window));
    weights[row] = seen ? score + rows.logs[row] : -INFINITY;
    max = std::max(max, weights[row]);
  }
  double sum = shape_.has_sinks ? std::exp(sinks_[h] - max) : 0;
  for (double& weight : weights) {
    weight = std::exp(weight - max);
    sum += weight;
  }
  std::vector<double> out(dim);
  for (size_t row = 0; row < weights.size(); ++row) {
    for (size_t i = 0; i < dim; ++i) {
      out[i] += weights[row] / sum * rows.v[row * dim + i];
    }
  }
  std::copy(out.begin(), out.end(),
            result.out.begin() + static_cast<int64_t>((t * num_heads_of + h) * dim));
  const auto s = static_cast<size_t>(sequence);
  if (token < sequence_starts_[s + 1] - kObservedTokens) {
    return;
  }
  for (size_t page = 0; page + 1 < rows.page_starts.size(); ++page) {
    const auto begin = weights.begin() + static_cast<int64_t>(rows.page_starts[page]);
    const auto end = weights.begin() + static_cast<int64_t>(rows.page_starts[page + 1]);
    double mass = 0;
    std::for_each(begin, end, [&](double weight) { mass += weight / sum; });
    float& energy = result.energies[(static_cast<size_t>(page_starts_[s]) + page) *
                                        static_cast<size_t>(shape_.kv_heads) +
                                    h / static_cast<size_t>(shape_.group)];
    energy = std::max(energy, static_cast<float>(mass * *std::max_element(begin, end) / sum));
  }
}

RigResult AttentionRig::Exact() const {
  RigResult result;
  result.out.resize(positions_.size() * static_cast<size_t>(num_heads() * shape_.dim));
  result.energies.resize(page_ids_.size() * static_cast<size_t>(shape_.kv_heads));
  for (int s = 0; s < static_cast<int>(sequences_.size()); ++s) {
    for (int kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
      const ExactRows rows = RowsOf(s, kv_head);
      for (int t = sequence_starts_[static_cast<size_t>(s)];
           t < sequence_starts_[static_cast<size_t>(s) + 1]; ++t) {
        for (int i = 0; i < shape_.group; ++i) {
          AttendExactly(rows, s, t, kv_head * shape_.group + i, result);
        }
      }
    }
  }
  return result;
}

RigResult AttentionRig::PartOf(const RigResult& whole, int sequence) const {
  const auto s = static_cast<size_t>(sequence);
  const int64_t width = int64_t{num_heads()} * shape_.dim;
  RigResult part;
  part.out.assign(whole.out.begin() + sequence_starts_[s] * width,
                  whole.out.begin() + sequence_starts_[s + 1] * width);
  part.energies.assign(whole.energies.begin() + int64_t{page_starts_[s]} * shape_.kv_heads,
                       whole.energies.begin() + int64_t{page_starts_[s + 1]} * shape_.kv_heads);
  return part;
}

double WorstRowError(std::span<const float> got, std::span<const float> want, int dim) {
  CHECK(got.size() == want.size());
  double worst = 0;
  for (size_t row = 0; row < got.size(); row += static_cast<size_t>(dim)) {
    double error = 0;
    double norm = 0;
    for (size_t i = row; i < row + static_cast<size_t>(dim); ++i) {
      error += std::pow(double{got[i]} - double{want[i]}, 2);
      norm += std::pow(double{want[i]}, 2);
    }
    const double share = std::sqrt(error / norm);
    worst = share <= worst ? worst : share;  // NaN is the worst
  }
  return worst;
}

double WorstEnergyError(std::span<const float> got, std::span<const float> want) {
  CHECK(got.size() == want.size());
  const float largest = want.empty() ? 0 : *std::max_element(want.begin(), want.end());
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double share = std::abs(double{got[i]} - double{want[i]}) /
                         std::max(double{want[i]}, 1e-4 * double{largest});
    worst = share <= worst ? worst : share;
  }
  return worst;
}

}  // namespace thermocline
