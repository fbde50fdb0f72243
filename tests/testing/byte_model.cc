#include "tests/testing/byte_model.h"

#include <array>
#include <limits>

#include "kernels/base/check.h"
#include "kernels/core/half.h"
#include "kernels/quant/page_codec.h"
#include "tests/testing/fake_model.h"
#include "tests/testing/token_hash.h"

namespace thermocline {
namespace {

constexpr auto kDim = static_cast<size_t>(kSmallLayout.head_dim);
constexpr auto kTokens = static_cast<size_t>(kSmallLayout.page_tokens);

// One value in [-1, 1) of a vector.
float Value(uint64_t state, int head, size_t i) {
  const uint64_t bits = Mix(state + static_cast<uint64_t>(head) * 1000 + i);
  return static_cast<float>(static_cast<int64_t>(bits)) * 0x1p-63F;
}

bool IsNear(const float* x, uint64_t state, int head, size_t offset, double max_error) {
  double error = 0;
  double length = 0;
  for (size_t i = 0; i < kDim; ++i) {
    const double expected = Value(state, head, offset + i);
    error += (x[i] - expected) * (x[i] - expected);
    length += expected * expected;
  }
  return error <= max_error * length;  // not, when a value is not finite
}

}  // namespace

std::unique_ptr<PagePool> MakeBytePool(int num_units) {
  return std::make_unique<PagePool>(kSmallLayout,
                                    PageBytes(kSmallLayout, DefaultKvFormats(kSmallLayout)),
                                    static_cast<uint64_t>(num_units) * kArenaUnitBytes);
}

PageBytesModel::PageBytesModel(const PagePool& pool, Device& device)
    : pool_(pool),
      stream_(device.NewStream()),
      cache_(*KvCache::Create(device, pool.layout(), DefaultKvFormats(pool.layout()),
                              pool.arena().num_units() * kArenaUnitBytes)) {}

void PageBytesModel::Sync() {
  CHECK(stream_->Sync().ok());
  staged_.clear();
}

void PageBytesModel::SetFormats(KvFormats formats) {
  cache_.SetFormats(std::move(formats), *stream_);
  Sync();
}

void PageBytesModel::Stage(PageId page, int slot, uint64_t state, bool finite) {
  CHECK(pool_.num_refs(page) > 0 && pool_.tier(page) == Tier::kHot);
  constexpr size_t kBytes = kDim * sizeof(uint16_t);
  for (int head = 0; head < kSmallLayout.num_kv_heads; ++head) {
    for (const size_t first : {size_t{0}, kDim}) {  // K, V
      std::vector<uint16_t>& halves = staged_.emplace_back();
      for (size_t i = 0; i < kDim; ++i) {
        halves.push_back(FloatToHalf(Value(state, head, first + i)));
      }
      if (!finite && first == 0) {
        halves[0] = FloatToHalf(std::numeric_limits<float>::infinity());
      }
      std::byte* at = BlockOf(page, head) + (first == 0 ? 0 : NativeVOffset(kSmallLayout));
      stream_->Copy(at + static_cast<size_t>(slot) * kBytes,
                    std::as_bytes(std::span(halves)).data(), kBytes);
    }
  }
}

bool PageBytesModel::Holds(PageId page, std::span<const uint64_t> states) {
  const Tier tier = pool_.tier(page);
  const double max_error = tier == Tier::kHot ? 1e-5 : tier == Tier::kWarm ? 1e-3 : 0.1;
  std::array<float, kTokens * kDim> k{};
  std::array<float, kTokens * kDim> v{};
  const LayerFormat format = view().format(0, tier);
  std::vector<std::byte> blocks(size_t{format.head_stride} * kSmallLayout.num_kv_heads);
  stream_->Copy(blocks.data(), BlockOf(page, 0), blocks.size());
  Sync();
  for (int head = 0; head < kSmallLayout.num_kv_heads; ++head) {
    DecodeBlock(format.codec, kSmallLayout,
                blocks.data() + static_cast<size_t>(head) * format.head_stride, k.data(), v.data());
    for (size_t t = 0; t < states.size(); ++t) {
      if (!IsNear(k.data() + t * kDim, states[t], head, 0, max_error) ||
          !IsNear(v.data() + t * kDim, states[t], head, kDim, max_error)) {
        return false;
      }
    }
  }
  return true;
}

void PageBytesModel::FlipBit(PageId page) {
  CHECK(pool_.tier(page) != Tier::kHot);
  std::byte first{};
  stream_->Copy(&first, BlockOf(page, 0), 1);
  Sync();
  first ^= std::byte{1};
  stream_->Copy(BlockOf(page, 0), &first, 1);
  Sync();
}

ByteRunner::ByteRunner(const PagePool& pool, Device& device, int vocab_size)
    : pool_(pool), vocab_size_(vocab_size), bytes_(pool, device), migrator_(device, bytes_.view()) {
  CHECK(vocab_size > kInfiniteToken);
}

Result<RunResult> ByteRunner::Run(const StepPlan& plan) {
  ++num_runs_;
  const size_t count = plan.sequences.size();
  RunResult result(count);
  for (size_t i = 0; i < count; ++i) {
    const ScheduledSequence& scheduled = plan.sequences[i];
    Compute(scheduled);
    if (scheduled.samples()) {
      const Sequence& sequence = *scheduled.sequence;
      result.step.accepted[i] =
          FakeRunner::ExpectedOutput(sequence.tokens, sequence.choice, 1, vocab_size_);
    }
  }
  return result;
}

void ByteRunner::Compute(const ScheduledSequence& scheduled) {
  const Sequence& sequence = *scheduled.sequence;
  const auto begin = static_cast<size_t>(sequence.num_computed);
  const size_t end = begin + static_cast<size_t>(scheduled.num_tokens);
  states_.clear();
  for (size_t i = 0; i < end; ++i) {
    states_.push_back(NextState(i == 0 ? 0 : states_.back(), sequence.tokens[i]));
  }
  for (size_t i = begin; i < end; ++i) {
    bytes_.Stage(sequence.pages[i / kTokens], static_cast<int>(i % kTokens), states_[i],
                 sequence.tokens[i] != kInfiniteToken);
  }
  bytes_.Sync();
  const size_t index = num_runs_ % ((end - 1) / kTokens + 1);
  const size_t first = index * kTokens;
  const size_t last = std::min(end, first + kTokens);
  bool finite = true;
  for (size_t i = first; i < last; ++i) {
    finite = finite && sequence.tokens[i] != kInfiniteToken;
  }
  const PageId page = sequence.pages[index];
  CHECK(pool_.num_refs(page) > 0);
  if (finite && !bytes_.Holds(page, std::span(states_).subspan(first, last - first))) {
    ++num_wrong_pages_;
  }
}

}  // namespace thermocline
