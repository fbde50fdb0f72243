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
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(arena.Allocate(Tier::kWarm).has_value());
  }
  EXPECT_FALSE(arena.Allocate(Tier::kCold).has_value());
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
        const uint32_t units = arena.units_per_page(tier);
        const std::optional<PageEntry> place = arena.Allocate(tier);
        bool fits = false;
        for (uint32_t begin = 0; begin + units <= taken.size() && !fits; ++begin) {
          fits = true;
          for (uint32_t i = 0; i < units; ++i) fits = fits && !taken[begin + i];
        }
        ASSERT_EQ(place.has_value(), fits);
        if (!place) continue;
        ASSERT_EQ(place->tier(), tier);
        for (uint32_t i = 0; i < units; ++i) {
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
  }
}

}  // namespace
}  // namespace thermocline
