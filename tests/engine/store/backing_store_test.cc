// What a store keeps and what it lets go, mostly in memory alone.

#include "engine/store/backing_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "engine/store/posix_file_io.h"
#include "tests/testing/stored_pages.h"

namespace thermocline {
namespace {

class BackingStoreInMemory : public testing::Test {
 protected:
  std::unique_ptr<BackingStore> NewStore(uint64_t num_pages) {
    return std::move(BackingStore::Create(TestConfig("", num_pages, 0), io_)).value();
  }
  PosixFileIo io_;
};

std::vector<uint64_t> FoundOf(const BackingStore& store, uint64_t num_numbers) {
  std::vector<uint64_t> found;
  for (uint64_t number = 0; number < num_numbers; ++number) {
    if (store.Find(TestHash(number)).has_value()) {
      found.push_back(number);
    }
  }
  return found;
}

void PutAll(BackingStore& store, std::initializer_list<uint64_t> numbers) {
  for (const uint64_t number : numbers) {
    ASSERT_TRUE(store.Put(TestHash(number), TestPage(number)).ok()) << number;
  }
}

using Numbers = std::vector<uint64_t>;

TEST_F(BackingStoreInMemory, GivesBackWhatWasPut) {
  const auto store = NewStore(3);
  ASSERT_TRUE(store->Put(TestHash(1), TestPage(1, Tier::kWarm, Tier::kCold)).ok());
  ASSERT_TRUE(store->Find(TestHash(1)).has_value());
  EXPECT_EQ(store->Find(TestHash(1))->tier, Tier::kWarm);
  EXPECT_EQ(store->Find(TestHash(1))->loss, Tier::kCold);
  EXPECT_TRUE(store->Get(TestHash(1)).value() == TestPage(1, Tier::kWarm, Tier::kCold));
  EXPECT_EQ(store->Get(TestHash(2)).status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(store->Find(TestHash(2)).has_value());
  const StoreUsage usage = store->usage();
  EXPECT_EQ(usage.num_hits, 1U);
  EXPECT_EQ(usage.num_misses, 1U);
  EXPECT_EQ(usage.num_pages, 1U);
  EXPECT_EQ(usage.memory_bytes, PageRecordBytes(TestPage(1, Tier::kWarm)));
  EXPECT_EQ(usage.num_disk_pages, 0U);
}

TEST_F(BackingStoreInMemory, HasTheFreshKeyAndNothingToFlush) {
  const auto store = NewStore(1);
  EXPECT_EQ(store->hash_key(), 42U);
  PutAll(*store, {1});
  EXPECT_TRUE(store->Flush().ok());
  EXPECT_EQ(store->usage().num_pending_writes, 0U);
}

TEST_F(BackingStoreInMemory, OfNoBytesTakesNothing) {
  const auto store = NewStore(0);
  EXPECT_EQ(store->Put(TestHash(1), TestPage(1)).code(), StatusCode::kResourceExhausted);
  EXPECT_FALSE(store->Find(TestHash(1)).has_value());
}

TEST_F(BackingStoreInMemory, RefusesWhatIsNoPageOfItsModel) {
  const auto store = NewStore(3);
  StoredPage page = TestPage(1);
  page.bytes.pop_back();
  EXPECT_EQ(store->Put(TestHash(1), page).code(), StatusCode::kInvalidArgument);
  EXPECT_FALSE(store->Find(TestHash(1)).has_value());
}

TEST_F(BackingStoreInMemory, EvictsTheLeastRecentlyUsed) {
  const auto store = NewStore(3);
  PutAll(*store, {0, 1, 2, 0, 3});
  EXPECT_EQ(FoundOf(*store, 4), (Numbers{0, 2, 3}));
  EXPECT_EQ(store->usage().num_evictions, 1U);
}

TEST_F(BackingStoreInMemory, PassesOverOnceWhatWasHit) {
  const auto store = NewStore(3);
  PutAll(*store, {0, 1, 2});
  ASSERT_TRUE(store->Get(TestHash(0)).ok());
  PutAll(*store, {1, 2});  // 0 is the least recently used now
  PutAll(*store, {3});
  EXPECT_EQ(FoundOf(*store, 6), (Numbers{0, 2, 3}));
  PutAll(*store, {4});
  EXPECT_EQ(FoundOf(*store, 6), (Numbers{0, 3, 4}));
  PutAll(*store, {5});
  EXPECT_EQ(FoundOf(*store, 6), (Numbers{3, 4, 5}));
}

TEST_F(BackingStoreInMemory, ToBeFoundIsNoUse) {
  const auto store = NewStore(2);
  PutAll(*store, {0, 1});
  ASSERT_TRUE(store->Find(TestHash(0)).has_value());
  PutAll(*store, {2});
  EXPECT_EQ(FoundOf(*store, 3), (Numbers{1, 2}));
}

TEST_F(BackingStoreInMemory, NeverEvictsWhatIsPinnedAndSaysSoWhenAllIs) {
  const auto store = NewStore(2);
  store->SetPinned(TestHash(0), true);  // before it is there
  PutAll(*store, {0, 1, 2, 3});
  EXPECT_EQ(FoundOf(*store, 4), (Numbers{0, 3}));
  store->SetPinned(TestHash(3), true);
  EXPECT_EQ(store->Put(TestHash(4), TestPage(4)).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(FoundOf(*store, 5), (Numbers{0, 3}));
  store->SetPinned(TestHash(0), false);
  PutAll(*store, {4});
  EXPECT_EQ(FoundOf(*store, 5), (Numbers{3, 4}));
}

TEST_F(BackingStoreInMemory, PinsNest) {
  const auto store = NewStore(1);
  PutAll(*store, {0});
  store->SetPinned(TestHash(0), true);
  store->SetPinned(TestHash(0), true);
  store->SetPinned(TestHash(0), false);
  EXPECT_FALSE(store->Put(TestHash(1), TestPage(1)).ok());
  store->SetPinned(TestHash(0), false);
  EXPECT_TRUE(store->Put(TestHash(1), TestPage(1)).ok());
}

TEST_F(BackingStoreInMemory, AnErasedPageIsGoneThoughPinnedAndItsPinStays) {
  const auto store = NewStore(1);
  PutAll(*store, {0});
  store->SetPinned(TestHash(0), true);
  store->Erase(TestHash(0));
  EXPECT_FALSE(store->Find(TestHash(0)).has_value());
  EXPECT_EQ(store->usage().memory_bytes, 0U);
  PutAll(*store, {0});
  EXPECT_FALSE(store->Put(TestHash(1), TestPage(1)).ok());
}

TEST_F(BackingStoreInMemory, UnpinningWhatIsNotPinnedIsABug) {
  const auto store = NewStore(1);
  EXPECT_DEATH(store->SetPinned(TestHash(0), false), "CHECK failed");
}

TEST_F(BackingStoreInMemory, OnlyABetterCopyReplacesOne) {
  struct Copy {
    Tier tier;
    Tier loss;
  };
  // The best first.
  const std::vector<Copy> copies = {{Tier::kHot, Tier::kHot},     {Tier::kHot, Tier::kWarm},
                                    {Tier::kWarm, Tier::kWarm},   {Tier::kHot, Tier::kCold},
                                    {Tier::kWarm, Tier::kCold},   {Tier::kCold, Tier::kCold},
                                    {Tier::kCold, Tier::kArchive}};
  for (size_t first = 0; first < copies.size(); ++first) {
    for (size_t second = 0; second < copies.size(); ++second) {
      const auto store = NewStore(1);
      ASSERT_TRUE(
          store->Put(TestHash(1), TestPage(1, copies[first].tier, copies[first].loss)).ok());
      ASSERT_TRUE(
          store->Put(TestHash(1), TestPage(1, copies[second].tier, copies[second].loss)).ok());
      const Copy& best = copies[std::min(first, second)];
      EXPECT_TRUE(store->Get(TestHash(1)).value() == TestPage(1, best.tier, best.loss));
      EXPECT_EQ(store->Find(TestHash(1))->tier, best.tier);
      EXPECT_EQ(store->usage().memory_bytes, PageRecordBytes(TestPage(1, best.tier)));
    }
  }
}

// The rule of the header in a few lines, to compare with.
class StoreModel {
 public:
  explicit StoreModel(size_t max_pages) : max_pages_(max_pages) {}

  bool Put(uint64_t number) {
    if (Place(number) != pages_.end()) {
      Use(number, false);
      return true;
    }
    while (pages_.size() == max_pages_) {
      const auto victim = std::find_if(pages_.begin(), pages_.end(),
                                       [this](const Page& p) { return pins_[p.number] == 0; });
      if (victim == pages_.end()) {
        return false;
      }
      if (victim->hit) {
        Use(victim->number, false);
        pages_.back().hit = false;
      } else {
        pages_.erase(victim);
      }
    }
    pages_.push_back({number, false});
    return true;
  }
  bool Get(uint64_t number) {
    const bool there = Place(number) != pages_.end();
    Use(number, true);
    return there;
  }
  void Erase(uint64_t number) {
    if (const auto place = Place(number); place != pages_.end()) {
      pages_.erase(place);
    }
  }
  void Pin(uint64_t number) { ++pins_[number]; }
  // Counts as use, for the store does not know how recent a pinned page is.
  bool Unpin(uint64_t number) {
    if (pins_[number] == 0) {
      return false;
    }
    if (--pins_[number] == 0) {
      Use(number, false);
    }
    return true;
  }
  Numbers found() const {
    Numbers numbers;
    for (const Page& page : pages_) {
      numbers.push_back(page.number);
    }
    std::sort(numbers.begin(), numbers.end());
    return numbers;
  }

 private:
  struct Page {
    uint64_t number;
    bool hit;
  };
  std::vector<Page>::iterator Place(uint64_t number) {
    return std::find_if(pages_.begin(), pages_.end(),
                        [number](const Page& p) { return p.number == number; });
  }
  void Use(uint64_t number, bool hit) {
    if (const auto place = Place(number); place != pages_.end()) {
      place->hit = place->hit || hit;
      std::rotate(place, place + 1, pages_.end());
    }
  }

  size_t max_pages_;
  std::vector<Page> pages_;  // least recently used first
  std::map<uint64_t, int> pins_;
};

TEST_F(BackingStoreInMemory, KeepsWhatItsRuleSaysOverLongRandomHistories) {
  constexpr uint64_t kNumbers = 12;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::mt19937_64 random(seed);
    const auto store = NewStore(5);
    StoreModel model(5);
    for (int step = 0; step < 2000; ++step) {
      const uint64_t number = random() % kNumbers;
      const ContentHash hash = TestHash(number);
      switch (random() % 8) {
        case 0:
          store->Erase(hash);
          model.Erase(number);
          break;
        case 1:
          if (random() % 4 == 0) {
            store->SetPinned(hash, true);
            model.Pin(number);
          }
          break;
        case 2:
          if (model.Unpin(number)) {
            store->SetPinned(hash, false);
          }
          break;
        case 3:
        case 4: {
          const Result<StoredPage> page = store->Get(hash);
          ASSERT_EQ(page.ok(), model.Get(number));
          ASSERT_TRUE(!page.ok() || *page == TestPage(number));
          break;
        }
        default:
          ASSERT_EQ(store->Put(hash, TestPage(number)).ok(), model.Put(number));
      }
      ASSERT_EQ(FoundOf(*store, kNumbers), model.found()) << "seed " << seed << " step " << step;
      ASSERT_LE(store->usage().memory_bytes, 5 * kTestPageBytes);
    }
  }
}

}  // namespace
}  // namespace thermocline
