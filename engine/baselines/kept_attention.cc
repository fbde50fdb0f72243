#include "engine/baselines/kept_attention.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/base/check.h"

namespace thermocline {

KeptAttention::KeptAttention(const KvLayout& layout, ThreadPool& pool)
    : layout_(layout), num_kv_heads_(layout.num_kv_heads), pool_(pool) {
  layout_.num_layers = 1;
  layout_.num_kv_heads = 1;
  page_units_ =
      static_cast<uint32_t>((NativeHeadBytes(layout_) + kArenaUnitBytes - 1) / kArenaUnitBytes);
  std::fill(std::begin(formats_), std::end(formats_),
            LayerFormat{.head_stride = NativeHeadBytes(layout_)});
}

void KeptAttention::Run(const Ops& ops, const KeptTokens& kept, Tensor qkv, int num_heads,
                        const BatchView& batch, const KvCacheView& kv,
                        const AttentionParams& params, Tensor out, Stream& stream) {
  CHECK(params.page_energy == nullptr);  // nobody demotes pages under a baseline
  if (!CountKept(kept, batch, params.layer)) {
    ops.PagedAttention(qkv, num_heads, batch, kv, params, out, stream);
    return;
  }
  PlanPages();
  const int group = num_heads / num_kv_heads_;
  const auto width = static_cast<size_t>(group * layout_.head_dim);
  const int64_t num_rows = int64_t{batch.num_tokens} * num_kv_heads_;
  q_.resize(static_cast<size_t>(num_rows) * width);
  out_.resize(q_.size());
  const auto for_parts = [&](const auto& body) {
    pool_.ParallelFor(static_cast<int64_t>(parts_.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        body(parts_[static_cast<size_t>(i)], starts_[static_cast<size_t>(i)]);
      }
    });
  };
  // Where rows of all heads, side by side, have a part's token `i`.
  const auto in_all = [&](const Part& part, const Tensor& all, int i) {
    return all.f32() + (batch.sequence_starts[part.sequence] + i) * all.dim(1) +
           static_cast<int64_t>(part.kv_head) * static_cast<int64_t>(width);
  };
  for_parts([&](const Part& part, int32_t first_row) {
    CopyPart(kept, batch, kv, params.layer, part);
    for (int i = 0; i < part.num_tokens; ++i) {
      std::copy_n(in_all(part, qkv, i), width,
                  q_.data() + static_cast<size_t>(first_row + i) * width);
    }
  });
  const auto row_width = static_cast<int64_t>(width);
  ops.PagedAttention(Tensor(q_.data(), {num_rows, row_width}), group, PartsAsBatch(),
                     PartsAsCache(), {.layer = 0, .scale = params.scale},
                     Tensor(out_.data(), {num_rows, row_width}), stream);
  for_parts([&](const Part& part, int32_t first_row) {
    for (int i = 0; i < part.num_tokens; ++i) {
      std::copy_n(out_.data() + static_cast<size_t>(first_row + i) * width, width,
                  in_all(part, out, i));
    }
  });
}

bool KeptAttention::CountKept(const KeptTokens& kept, const BatchView& batch, int layer) {
  parts_.clear();
  bool has_lost = false;
  for (int s = 0; s < batch.num_sequences; ++s) {
    const int num_computed = batch.positions[batch.sequence_starts[s]];
    for (int h = 0; h < num_kv_heads_; ++h) {
      Part part{.sequence = s,
                .kv_head = h,
                .num_tokens = batch.sequence_starts[s + 1] - batch.sequence_starts[s]};
      const PageId* pages = batch.page_ids + batch.page_starts[s];
      for (int i = 0; i * layout_.page_tokens < num_computed; ++i) {
        part.num_before += std::popcount(kept.below(num_computed, i, pages[i], layer, h));
      }
      has_lost |= part.num_before < num_computed;
      parts_.push_back(part);
    }
  }
  return has_lost;
}

void KeptAttention::PlanPages() {
  num_pages_ = 0;
  starts_.assign(1, 0);
  page_starts_.assign(1, 0);
  positions_.clear();
  for (Part& part : parts_) {
    part.first_page = num_pages_;
    const int length = part.num_before + part.num_tokens;
    num_pages_ += (length + layout_.page_tokens - 1) / layout_.page_tokens;
    for (int position = part.num_before; position < length; ++position) {
      positions_.push_back(position);
    }
    starts_.push_back(static_cast<int32_t>(positions_.size()));
    page_starts_.push_back(num_pages_);
  }
  for (auto i = static_cast<uint32_t>(page_ids_.size()); i < static_cast<uint32_t>(num_pages_);
       ++i) {
    page_ids_.push_back(i);
    page_map_.emplace_back(Tier::kHot, i * page_units_);
  }
  const size_t num_bytes = page_ids_.size() * page_units_ * kArenaUnitBytes;
  if (arena_.size() * sizeof(Line) < num_bytes) {
    arena_.resize(num_bytes / sizeof(Line));
  }
}

void KeptAttention::CopyPart(const KeptTokens& kept, const BatchView& batch, const KvCacheView& kv,
                             int layer, const Part& part) {
  const int page_tokens = layout_.page_tokens;
  const int num_computed = batch.positions[batch.sequence_starts[part.sequence]];
  const int length = num_computed + part.num_tokens;
  const PageId* pages = batch.page_ids + batch.page_starts[part.sequence];
  const auto vector_bytes = static_cast<size_t>(NativeVectorBytes(layout_));
  const size_t v_offset = NativeVOffset(layout_);
  const KvCacheView to = PartsAsCache();
  int num_copied = 0;
  for (int i = 0; i * page_tokens < length; ++i) {
    const std::byte* from = kv.block(pages[i], layer, part.kv_head);
    uint64_t left = kept.below(length, i, pages[i], layer, part.kv_head);
    while (left != 0) {
      const int slot = std::countr_zero(left);
      const int to_slot = num_copied % page_tokens;
      const int count = std::min(std::countr_one(left >> slot), page_tokens - to_slot);
      std::byte* block =
          to.block(static_cast<PageId>(part.first_page + num_copied / page_tokens), 0, 0);
      const size_t num_bytes = static_cast<size_t>(count) * vector_bytes;
      const std::byte* k = from + static_cast<size_t>(slot) * vector_bytes;
      std::byte* to_k = block + static_cast<size_t>(to_slot) * vector_bytes;
      std::memcpy(to_k, k, num_bytes);
      std::memcpy(to_k + v_offset, k + v_offset, num_bytes);
      left &= ~(~uint64_t{0} >> (64 - count) << slot);
      num_copied += count;
    }
  }
  CHECK(num_copied == part.num_before + part.num_tokens);
}

BatchView KeptAttention::PartsAsBatch() const {
  return {.num_tokens = static_cast<int>(positions_.size()),
          .num_sequences = static_cast<int>(parts_.size()),
          .sequence_starts = starts_.data(),
          .positions = positions_.data(),
          .page_starts = page_starts_.data(),
          .page_ids = page_ids_.data()};
}

KvCacheView KeptAttention::PartsAsCache() {
  return {.arena = arena_.empty() ? nullptr : arena_.front().bytes,
          .page_map = page_map_.data(),
          .formats = formats_,
          .layout = layout_};
}

}  // namespace thermocline
