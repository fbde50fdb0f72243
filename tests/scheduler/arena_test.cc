#include "scheduler/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <vector>

namespace thermocline {
namespace {

constexpr std::array<uint32_t, kNumTiers> kPageBytes = {3 * 4096, 2 * 4096, 100, 0, 0};

TEST(Arena, RoundsPagesUpToUnitsAndLeavesNoPartUnit) {
  const Arena arena(kPageBytes, 10 * 4096 + 4095);
  EXPECT_EQ(arena.num_units(), 10U);
  EXPECT_EQ(arena.units_per_page(Tier::kHot), 3U);
  EXPECT_EQ(arena.units_per_page(Tier::kCold), 1U);
  EXPECT_EQ(arena.num_free_places(Tier::kHot), 3U);
}

TEST(Arena, TierWithoutPageSizeHasNoPlaces) {
  Arena arena(kPageBytes, 10 * 4096);
  EXPECT_FALSE(arena.Allocate(Tier::kArchive).has_value());
}

TEST(Arena, RoomGivenBackByOneTierServesAnother) {
  Arena arena(kPageBytes, 6 * 4096);
  const PageEntry first = arena.Allocate(Tier::kHot).value();
  const PageEntry second = arena.Allocate(Tier::kHot).value();
  EXPECT_FALSE(arena.Allocate(Tier::kCold).has_value());
  arena.Free(first);
  arena.Free(second);
  EXPECT_EQ(arena.num_free_places(Tier::kCold), 6U);
  for (int i = 0; i < 6; ++i) {
    EXPECT_TRUE(arena.Allocate(Tier::kCold).has_value());
  }
  EXPECT_FALSE(arena.Allocate(Tier::kCold).has_value());
}

// A hot page of SmolLM2-135M has 360 units, a warm one 186, a cold one 74.
TEST(Arena, SuperblocksWasteLittleOnAnyTier) {
  constexpr std::array<uint32_t, kNumTiers> kBytes = {360 * 4096, 186 * 4096, 74 * 4096, 0, 0};
  const Arena arena(kBytes, uint64_t{512} * 360 * 4096);
  EXPECT_EQ(arena.num_places(Tier::kHot), 512U);
  EXPECT_GE(arena.num_places(Tier::kWarm), 512U * 360 / 186 * 95 / 100);
  EXPECT_GE(arena.num_places(Tier::kCold), 512U * 360 / 74 * 98 / 100);
}

// Against a plain array of unit owners.
TEST(Arena, LongRandomHistoriesKeepEveryUnitInOnePlace) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    Arena arena(kPageBytes, 61 * 4096);
    std::vector<bool> taken(61, false);
    std::vector<PageEntry> places;
    for (int step = 0; step < 2000; ++step) {
      if (random() % 5 < 3) {
        const auto tier = static_cast<Tier>(random() % 3);
        const uint64_t num_free = arena.num_free_places(tier);
        const std::optional<PageEntry> place = arena.Allocate(tier);
        ASSERT_EQ(place.has_value(), num_free > 0);
        if (!place) {
          continue;
        }
        ASSERT_EQ(arena.num_free_places(tier), num_free - 1);
        ASSERT_EQ(place->tier(), tier);
        for (uint32_t i = 0; i < arena.units_per_page(tier); ++i) {
          ASSERT_FALSE(taken.at(place->unit() + i));
          taken.at(place->unit() + i) = true;
        }
        places.push_back(*place);
      } else if (!places.empty()) {
        const size_t which = random() % places.size();
        const PageEntry place = places[which];
        places.erase(places.begin() + static_cast<std::ptrdiff_t>(which));
        arena.Free(place);
        for (uint32_t i = 0; i < arena.units_per_page(place.tier()); ++i) {
          taken.at(place.unit() + i) = false;
        }
      }
      const auto num_free = std::count(taken.begin(), taken.end(), false);
      ASSERT_EQ(arena.bytes_free(), static_cast<uint64_t>(num_free) * 4096);
    }
    for (const PageEntry place : places) {
      arena.Free(place);
    }
    ASSERT_EQ(arena.num_free_places(Tier::kHot), arena.num_places(Tier::kHot));
  }
}

}  // namespace
}  // namespace thermocline
