#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/kernels/cuda/attention_rig.h"
#include "tests/kernels/cuda/grid_orders.h"

namespace thermocline {
namespace {

// Archived pages first, then cold, warm and hot ones, the last of them partial unless 64 divides
// the length.
RigSequence Mixed(int length, int num_queries = 1) {
  RigSequence sequence{.pages = {}, .length = length, .num_queries = num_queries};
  const int num_pages = (length + 63) / 64;
  const int first_hot = std::max(0, length - num_queries) / 64;
  for (int i = 0; i < num_pages; ++i) {
    sequence.pages.push_back(i >= first_hot                ? Tier::kHot
                             : i < num_pages / 3           ? Tier::kArchive
                             : i < 2 * (num_pages + 1) / 3 ? Tier::kCold
                                                           : Tier::kWarm);
  }
  return sequence;
}

// Beside double arithmetic over the level bytes; the reference too where it knows what is asked.
void ExpectRight(AttentionRig& rig, const RigShape& shape, bool compare_with_reference) {
  const RigResult got = rig.Run();
  const RigResult exact = rig.Exact();
  EXPECT_LT(WorstRowError(got.out, exact.out, shape.dim), 2e-4);
  EXPECT_LT(WorstEnergyError(got.energies, exact.energies), 2e-3);
  if (compare_with_reference) {
    const RigResult reference = rig.Reference();
    EXPECT_LT(WorstRowError(got.out, reference.out, shape.dim), 8e-3);
    EXPECT_LT(WorstEnergyError(got.energies, reference.energies), 2e-2);
  }
}

TEST(AttentionBatch, LengthsAtPageEdgesAreRight) {
  for (const int dim : {64, 80}) {
    if (kThinTests && dim == 64) {
      continue;
    }
    const RigShape shape{.dim = dim, .kv_heads = 1, .group = 3};
    std::vector<RigSequence> sequences;
    for (const int length : {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 449, 577}) {
      sequences.push_back(Mixed(length));
    }
    AttentionRig rig(shape, sequences);
    ExpectRight(rig, shape, true);
  }
}

TEST(AttentionBatch, OfNoSequenceIsNothing) {
  const RigShape shape;
  AttentionRig rig(shape, {});
  const RigResult got = rig.Run();
  EXPECT_TRUE(got.out.empty());
  EXPECT_TRUE(got.energies.empty());
}

TEST(AttentionBatch, ASequenceWithoutQueriesLeavesOthersAlone) {
  const RigShape shape{.kv_heads = 1};
  AttentionRig rig(shape, {Mixed(70), {.pages = {}, .length = 0, .num_queries = 0}, Mixed(130)});
  ExpectRight(rig, shape, true);
}

TEST(AttentionBatch, EightThousandTokensOfAllTiersAreRight) {
  const RigShape shape{.dim = 128, .kv_heads = 1, .group = 4};
  AttentionRig rig(shape, {Mixed((kThinTests ? 1024 : 8192) - 5)});
  ExpectRight(rig, shape, true);
}

TEST(AttentionBatch, EveryTierOfEverySecondCodecIsRight) {
  for (const int dim : {64, 128, 256}) {
    const RigShape shape{.dim = dim,
                         .kv_heads = 2,
                         .group = 5,
                         .cold = Codec::kTurboK4V3,
                         .archive = Codec::kMergedK3V2};
    AttentionRig rig(shape, {Mixed(300), Mixed(777)});
    ExpectRight(rig, shape, true);
  }
}

TEST(AttentionBatch, QueryTokensSeeNoneOfTheirSuccessors) {
  for (const int group : {1, 3, 8, 16}) {
    const RigShape shape{.kv_heads = 1, .group = group, .seed = 4};
    // The second one's queries begin in the page before the last.
    AttentionRig rig(shape, {Mixed(200, 8), Mixed(66, 5), Mixed(7, 7), Mixed(330, 2)});
    ExpectRight(rig, shape, true);
  }
}

TEST(AttentionBatch, OnlyTheLastSixtyFourTokensCountForEnergies) {
  const RigShape shape{.kv_heads = 1, .group = 2, .seed = 5};
  AttentionRig rig(shape, {Mixed(130, 90)});
  ExpectRight(rig, shape, true);
}

TEST(AttentionBatch, ABiasOfKeysIsAddedToScoresOfCodedPages) {
  for (const int dim : {64, 72, 80, 128, 256}) {
    const RigShape shape{.dim = dim,
                         .kv_heads = 2,
                         .group = 3,
                         .cold = dim == 128 ? Codec::kTurboK4V3 : Codec::kTurbo3,
                         .archive = Codec::kTurbo3,  // none are merged
                         .has_bias = true,
                         .seed = 6};
    AttentionRig rig(shape, {Mixed(300), Mixed(450, 2)});
    ExpectRight(rig, shape, true);
  }
}

TEST(AttentionBatch, WithoutMeanKeysNothingIsAdded) {
  const RigShape shape{.kv_heads = 1, .has_mean = false};
  AttentionRig rig(shape, {Mixed(300)});
  ExpectRight(rig, shape, true);
}

TEST(AttentionBatch, AWindowHidesWhatLiesBehindIt) {
  for (const int window : {1, 16, 40, 64, 65, 200, 1000}) {
    const RigShape shape{.kv_heads = 1,
                         .group = 3,
                         .archive = Codec::kTurboK4V3,  // none are merged
                         .window = window,
                         .seed = 7};
    AttentionRig rig(shape, {Mixed(300), Mixed(450, 8), Mixed(20, 3)});
    ExpectRight(rig, shape, false);
  }
}

TEST(AttentionBatch, ACapBoundsScores) {
  for (const float cap : {0.7F, 5.0F, 50.0F}) {
    const RigShape shape{.kv_heads = 1, .group = 4, .score_cap = cap, .seed = 8};
    AttentionRig rig(shape, {Mixed(400)});
    ExpectRight(rig, shape, false);
  }
}

TEST(AttentionBatch, ASinkTakesItsShareOnce) {
  const RigShape shape{.kv_heads = 2, .group = 4, .has_sinks = true, .seed = 9};
  AttentionRig rig(shape, {Mixed(1), Mixed(700), Mixed(70, 3)});
  ExpectRight(rig, shape, false);
}

TEST(AttentionBatch, OutputsAreTurnedBackFromTheBasisOfPages) {
  for (const int dim : {64, 80, 96, 256}) {
    const RigShape shape{.dim = dim, .kv_heads = 1, .group = 3, .turns_back = true};
    AttentionRig rig(shape, {Mixed(130), Mixed(20)});
    EXPECT_LT(WorstRowError(rig.Run().out, rig.Reference().out, dim), 8e-3);
  }
}

TEST(AttentionBatch, BitsAreTheSameInEveryOrderOfLanesAndBlocks) {
  for (const bool has_bias : {false, true}) {
    const RigShape shape{.dim = 128,
                         .kv_heads = 2,
                         .group = 3,
                         .archive = has_bias ? Codec::kTurboK4V3 : Codec::kMerged2,
                         .has_bias = has_bias,
                         .seed = 10};
    AttentionRig rig(shape, {Mixed(577), Mixed(700, 3), Mixed(1)});
    const RigResult first = rig.Run();
    for (const GridOrder order : kGridOrders) {
      for (const int num_blocks : {1, 2, 5}) {
        if (kThinTests && num_blocks != 2) {
          continue;
        }
        EXPECT_EQ(rig.Run(order, num_blocks), first);
      }
    }
  }
}

TEST(AttentionBatch, BitsOfASequenceAreTheSameAloneAndInABatch) {
  const RigShape shape{.kv_heads = 2, .group = 6, .has_sinks = true, .seed = 11};
  AttentionRig rig(shape, {Mixed(577), Mixed(700, 3), Mixed(1), Mixed(64), Mixed(1500)});
  const RigResult whole = rig.Run();
  for (int sequence = 0; sequence < 5; ++sequence) {
    EXPECT_EQ(rig.RunAlone(sequence, kGridOrders[sequence % 4]), rig.PartOf(whole, sequence));
  }
}

TEST(AttentionPlan, CutsASequenceByItsOwnLengthAndSharesItsBytes) {
  std::vector<PageEntry> page_map;
  std::vector<PageId> ids;
  for (uint32_t i = 0; i < 700; ++i) {
    page_map.emplace_back(i < 350 ? Tier::kCold : Tier::kHot, i);
    ids.push_back(i);
  }
  std::vector<LayerFormat> formats(kNumTiers);
  formats[static_cast<size_t>(Tier::kCold)].codec = Codec::kTurbo3;
  const KvCacheView kv{.page_map = page_map.data(),
                       .formats = formats.data(),
                       .layout = {.num_layers = 1, .num_kv_heads = 1, .head_dim = 128}};
  const int32_t starts[] = {0, 1, 2};
  const int32_t positions[] = {64 * 20 - 1, 64 * 680 - 1};
  const int32_t page_starts[] = {0, 20, 700};
  const AttentionPlan plan =
      PlanAttention({2, 2, starts, positions, page_starts, ids.data()}, 4, kv, 0);
  ASSERT_EQ(plan.tiles.size(), 2U);
  EXPECT_EQ(plan.tiles[0].num_items, 3);   // of 8 pages
  EXPECT_EQ(plan.tiles[1].num_items, 31);  // of 22
  for (const AttentionItem& item : plan.items) {
    int64_t most = 0;
    int64_t total = 0;
    for (int warp = 0; warp < kItemWarps; ++warp) {
      int64_t bytes = 0;
      for (int page = item.warp_begins[warp]; page < item.warp_begins[warp + 1]; ++page) {
        const int at =
            plan.tiles[static_cast<size_t>(item.tile)].first_page + item.first_page + page;
        bytes += plan.pages[static_cast<size_t>(at)].tier() == Tier::kHot ? 32768 : 6400;
      }
      most = std::max(most, bytes);
      total += bytes;
    }
    EXPECT_LE(most, total / kItemWarps + 32768);
  }
}

TEST(AttentionPlan, RefusesPagesThatKernelsCannotRead) {
  KvLayout layout{.num_layers = 1, .num_kv_heads = 1, .head_dim = 128};
  EXPECT_TRUE(CheckAttentionLayout(layout).ok());
  layout.head_dim = 512;
  EXPECT_FALSE(CheckAttentionLayout(layout).ok());
  layout.head_dim = 84;
  EXPECT_FALSE(CheckAttentionLayout(layout).ok());
  layout.head_dim = 64;
  layout.page_tokens = 32;
  EXPECT_FALSE(CheckAttentionLayout(layout).ok());
}

}  // namespace
}  // namespace thermocline
