#include "engine/calibration/cold_formats.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "scheduler/tier_policy.h"

namespace thermocline {
namespace {

// SmolLM2-135M's.
constexpr KvLayout kLayout = {
    .num_layers = 30, .num_kv_heads = 3, .head_dim = 64, .page_tokens = 64};

// Layer 29 loses most, layer 0 least.
std::vector<float> RisingLosses() {
  std::vector<float> losses(static_cast<size_t>(kLayout.num_layers));
  for (size_t i = 0; i < losses.size(); ++i) {
    losses[i] = 1e-5F * static_cast<float>(i + 1);
  }
  return losses;
}

std::ptrdiff_t Count(const KvFormats& formats, Codec codec) {
  return std::count(formats.cold.begin(), formats.cold.end(), codec);
}

TEST(ColdFormats, BytesThatAreGivenGoToAllLayersBeforeOneGetsMore) {
  KvFormats formats = DefaultKvFormats(kLayout);
  WidenColdFormats(kLayout, RisingLosses(), 4.37, formats);
  const std::ptrdiff_t num_better = Count(formats, Codec::kTurboK4V3);
  EXPECT_GT(num_better, 15);
  EXPECT_LT(num_better, 30);
  EXPECT_EQ(Count(formats, Codec::kTurbo3), 30 - num_better);
  // Those that lose most.
  EXPECT_TRUE(std::is_sorted(formats.cold.begin(), formats.cold.end(), [](Codec a, Codec b) {
    return a == Codec::kTurbo3 && b == Codec::kTurboK4V3;
  }));
  EXPECT_GE(ColdRatio(kLayout, formats), 4.37);
  // No byte is left that would do for one more.
  KvFormats more = formats;
  *std::find(more.cold.rbegin(), more.cold.rend(), Codec::kTurbo3) = Codec::kTurboK4V3;
  EXPECT_LT(ColdRatio(kLayout, more), 4.37);

  WidenColdFormats(kLayout, RisingLosses(), 3.5, formats);
  EXPECT_EQ(Count(formats, Codec::kTurbo3), 0);
  EXPECT_GT(Count(formats, Codec::kInt8), 0);
  EXPECT_EQ(formats.cold.back(), Codec::kInt8);
}

TEST(ColdFormats, NothingWidensWhereThereAreNoBytesForIt) {
  KvFormats formats = DefaultKvFormats(kLayout);
  const KvFormats before = formats;
  WidenColdFormats(kLayout, RisingLosses(), 5, formats);
  EXPECT_EQ(formats.cold, before.cold);
}

TEST(ColdFormats, ColdPagesOfABudgetFillIt) {
  const std::array<uint32_t, kNumTiers> bytes = PageBytes(kLayout, DefaultKvFormats(kLayout));
  const double hot = bytes[static_cast<size_t>(Tier::kHot)];
  const double warm = bytes[static_cast<size_t>(Tier::kWarm)];
  for (const double budget : {0.25, 0.3, 0.5}) {
    const double ratio = ColdRatioOfBudget(kLayout, budget, 8192).value();
    // 128 pages and the one to come: two are hot, the first and three of the window warm.
    EXPECT_NEAR(2 * hot + 4 * warm + 123 * hot / ratio, budget * 129 * hot, 1) << budget;
  }
  EXPECT_NEAR(ColdRatioOfBudget(kLayout, 0.25, 8192).value(), 4.37, 0.02);
}

TEST(ColdFormats, ABudgetThatHotPagesUseUpHasNoColdPages) {
  EXPECT_FALSE(ColdRatioOfBudget(kLayout, 0.02, 8192).has_value());
  EXPECT_FALSE(ColdRatioOfBudget(kLayout, 0.25, 256).has_value());
  EXPECT_FALSE(ColdRatioOfBudget(kLayout, 0, 8192).has_value());
}

}  // namespace
}  // namespace thermocline
