#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "scheduler/demotion_plan.h"
#include "scheduler/tier_policies.h"
#include "tests/scheduler/plain_policy.h"
#include "tests/testing/page_pools.h"

namespace thermocline {
namespace {

constexpr uint64_t kStep = 10000;

// A full page whose energy was seen at kStep, and which moved long ago.
PageId AddPage(PagePool& pool, float peak, float mean, Tier tier = Tier::kHot) {
  const PageId page = pool.Allocate(kAnyTier).value();
  pool.MarkFull(page, 0);
  if (tier > Tier::kHot) {
    EXPECT_TRUE(pool.BeginMove(page, tier).value().Commit(0));
  }
  pool.heat(page) = {.peak = peak, .mean = mean, .peak_step = kStep, .move_step = 1};
  return page;
}

// Eight units a hot page, four warm, two cold, one archived: with room for all that a test adds.
class TierPolicyTest : public testing::Test {
 protected:
  SequencePages Sequence(const std::vector<PageId>& pages) const {
    return {.pages = pages, .num_settled = pages.size(), .fidelity = KvFidelity::kMax};
  }
  std::vector<TierChange> Propose(const std::vector<SequencePages>& sequences,
                                  const TierDemand& demand, double budget = 0) {
    AdaptivePolicy policy(budget);
    return policy.Propose(*pool_, sequences, demand);
  }

  std::unique_ptr<PagePool> pool_ = MakeArchivingPool(4000);
};

std::vector<PageId> PagesOf(const std::vector<TierChange>& changes) {
  std::vector<PageId> pages;
  for (const TierChange& change : changes) {
    pages.push_back(change.page);
  }
  return pages;
}

TEST_F(TierPolicyTest, PagesOfLeastEnergyCoolFirst) {
  std::vector<PageId> pages;
  for (const float peak : {0.9F, 0.5F, 0.1F, 0.7F, 0.3F}) {
    pages.push_back(AddPage(*pool_, peak, 0));
  }
  const TierDemand demand{.step = kStep, .bytes_wanted = 12 * kArenaUnitBytes, .urgent = true};
  const std::vector<TierChange> changes = Propose({Sequence(pages)}, demand);
  // Hot to warm frees four units: three pages make twelve.
  EXPECT_EQ(PagesOf(changes), (std::vector<PageId>{pages[2], pages[4], pages[1]}));
  for (const TierChange& change : changes) {
    EXPECT_EQ(change.to, Tier::kWarm);
  }
}

TEST_F(TierPolicyTest, NothingIsProposedWhereNothingIsWanted) {
  const std::vector<PageId> pages = {AddPage(*pool_, 0.1F, 0), AddPage(*pool_, 0.1F, 0)};
  EXPECT_TRUE(Propose({Sequence(pages)}, {.step = kStep}).empty());
  EXPECT_TRUE(Propose({Sequence(pages)}, {.step = kStep, .urgent = true}, /*budget=*/1).empty());
}

TEST_F(TierPolicyTest, TheFirstPageAndTheRecentWindowAreNeverBelowWarm) {
  std::vector<PageId> pages;
  for (int i = 0; i < 10; ++i) {
    pages.push_back(AddPage(*pool_, 0.001F, 0));
  }
  SequencePages sequence = Sequence(pages);
  sequence.num_settled = 7;
  for (const bool urgent : {true, false}) {
    const std::vector<TierChange> changes =
        Propose({sequence}, {.step = kStep, .bytes_wanted = ~uint64_t{0}, .urgent = urgent});
    std::map<PageId, Tier> to;
    for (const TierChange& change : changes) {
      EXPECT_TRUE(to.emplace(change.page, change.to).second) << "one change for each page";
    }
    EXPECT_EQ(to.at(pages[0]), Tier::kWarm);
    for (size_t i = 1; i < 7; ++i) {
      EXPECT_EQ(to.at(pages[i]), Tier::kCold);
    }
    // What is not urgent does not reach the window.
    for (size_t i = 7; i < 10; ++i) {
      EXPECT_EQ(to.count(pages[i]), urgent ? 1U : 0U);
      EXPECT_TRUE(!urgent || to.at(pages[i]) == Tier::kWarm);
    }
  }
}

TEST_F(TierPolicyTest, APageThatSeveralReadObeysAllAndCountsForEach) {
  const PageId shared = AddPage(*pool_, 0.2F, 0.4F);
  const PageId own = AddPage(*pool_, 0.3F, 0.4F);
  const PageId first = AddPage(*pool_, 1, 0);
  const std::vector<PageId> one = {first, shared, own};
  const std::vector<PageId> other = {first, shared};
  const TierDemand demand{.step = kStep, .bytes_wanted = 1, .urgent = true};
  // Alone the shared page would be the cheaper one; two readers make it cost 0.4.
  EXPECT_EQ(PagesOf(Propose({Sequence(one)}, demand)), (std::vector<PageId>{shared}));
  EXPECT_EQ(PagesOf(Propose({Sequence(one), Sequence(other)}, demand)), (std::vector<PageId>{own}));
  // In the window of one it goes no further than warm, wherever it is in the other.
  SequencePages recent = Sequence(other);
  recent.num_settled = 1;
  for (const TierChange& change :
       Propose({Sequence(one), recent},
               {.step = kStep, .bytes_wanted = ~uint64_t{0}, .urgent = true})) {
    EXPECT_EQ(change.to, change.page == own ? Tier::kCold : Tier::kWarm);
  }
}

TEST_F(TierPolicyTest, NoReaderIsBroughtOverItsError) {
  std::vector<PageId> pages = {AddPage(*pool_, 1, 0)};
  for (int i = 0; i < 20; ++i) {
    pages.push_back(AddPage(*pool_, 0.1F, 0.1F));
  }
  // A cold page of this energy adds 0.0034.
  const std::map<KvFidelity, int> num_cold = {
      {KvFidelity::kExact, 0}, {KvFidelity::kHigh, 1}, {KvFidelity::kBalanced, 5}};
  for (const auto& [fidelity, expected] : num_cold) {
    SequencePages sequence = Sequence(pages);
    sequence.fidelity = fidelity;
    double error = 0;
    int count = 0;
    for (const TierChange& change :
         Propose({sequence}, {.step = kStep, .bytes_wanted = ~uint64_t{0}, .urgent = true})) {
      error += static_cast<double>(pool_->heat(change.page).mean) * TierError(change.to);
      count += change.to == Tier::kCold ? 1 : 0;
    }
    EXPECT_LE(error, MaxError(fidelity));
    EXPECT_EQ(count, expected);
  }
}

TEST_F(TierPolicyTest, ASequenceIsHeldToItsPartWhateverItsError) {
  std::vector<PageId> pages;
  std::vector<PageId> others;
  for (int i = 0; i < 39; ++i) {
    pages.push_back(AddPage(*pool_, 0.1F, 0.5F));
  }
  for (int i = 0; i < 4; ++i) {
    others.push_back(AddPage(*pool_, 0.001F, 0, Tier::kWarm));
  }
  const std::vector<TierChange> changes =
      Propose({Sequence(pages), Sequence(others)}, {.step = kStep, .urgent = true}, 0.6);
  // Forty pages take 320 units. 192 are allowed, eight of them for the next page: 128 go.
  uint64_t freed = 0;
  for (const TierChange& change : changes) {
    EXPECT_TRUE(std::find(pages.begin(), pages.end(), change.page) != pages.end());
    freed += pool_->PageBytes(Tier::kHot) - pool_->PageBytes(change.to);
  }
  EXPECT_EQ(freed, 128 * kArenaUnitBytes);
}

TEST_F(TierPolicyTest, APageStaysForAWhileUnlessMemoryIsShort) {
  const std::vector<PageId> pages = {AddPage(*pool_, 1, 0), AddPage(*pool_, 0.1F, 0, Tier::kWarm)};
  for (const uint64_t age : {kMinDwellSteps - 1, kMinDwellSteps}) {
    pool_->heat(pages[1]).move_step = kStep - age;
    for (const bool urgent : {true, false}) {
      TierDemand demand{.step = kStep, .bytes_wanted = ~uint64_t{0}, .urgent = urgent};
      const std::vector<PageId> moved = PagesOf(Propose({Sequence(pages)}, demand));
      EXPECT_EQ(std::count(moved.begin(), moved.end(), pages[1]),
                urgent || age == kMinDwellSteps ? 1 : 0);
    }
  }
}

TEST_F(TierPolicyTest, OnlySavedPagesThatHaveBeenColdForAWhileAreArchived) {
  std::vector<PageId> pages = {AddPage(*pool_, 1, 0)};
  for (int i = 0; i < 4; ++i) {
    pages.push_back(AddPage(*pool_, 0.001F, 0, i == 0 ? Tier::kWarm : Tier::kCold));
  }
  for (const size_t saved : {1U, 2U, 3U}) {
    ASSERT_TRUE(pool_->BeginSave(pages[saved]));
    pool_->EndSave(pages[saved], true);
  }
  pool_->heat(pages[3]).move_step = kStep - 1;
  const std::vector<PageId> table = pages;
  TierDemand demand{.step = kStep, .bytes_wanted = ~uint64_t{0}, .urgent = true, .archives = true};
  std::vector<PageId> archived;
  for (const TierChange& change : Propose({Sequence(table)}, demand)) {
    if (change.to == Tier::kArchive) {
      archived.push_back(change.page);
    }
  }
  EXPECT_EQ(archived, std::vector<PageId>{pages[2]});
  SequencePages in_prompt = Sequence(table);
  in_prompt.in_prompt = true;
  for (const TierChange& change : Propose({in_prompt}, demand)) {
    EXPECT_NE(change.to, Tier::kArchive);
  }
}

TEST_F(TierPolicyTest, PagesThatCannotMoveAreLeftOut) {
  std::vector<PageId> pages;
  for (int i = 0; i < 5; ++i) {
    pages.push_back(AddPage(*pool_, 0.001F, 0));
  }
  pages.push_back(pool_->Allocate(kAnyTier).value());  // not full
  pool_->Pin(pages[1]);
  const PendingMove moving = pool_->BeginMove(pages[2], Tier::kCold).value();
  pool_->AddRef(pages[3], Tier::kHot);  // a reader that accepts no loss
  const std::vector<TierChange> changes =
      Propose({Sequence(pages)}, {.step = kStep, .bytes_wanted = ~uint64_t{0}, .urgent = true});
  std::vector<PageId> moved = PagesOf(changes);
  std::sort(moved.begin(), moved.end());
  EXPECT_EQ(moved, (std::vector<PageId>{pages[0], pages[4]}));
}

TEST_F(TierPolicyTest, AForcedPolicySendsAllSettledPagesToItsTierByWayOfCold) {
  std::vector<PageId> pages = {AddPage(*pool_, 1, 1), AddPage(*pool_, 1, 1),
                               AddPage(*pool_, 1, 1, Tier::kCold), AddPage(*pool_, 1, 1)};
  SequencePages sequence = Sequence(pages);
  sequence.num_settled = 3;
  const std::vector<SequencePages> sequences = {sequence};
  for (const Tier tier : {Tier::kWarm, Tier::kCold, Tier::kArchive}) {
    ForcedPolicy policy(tier);
    std::map<PageId, Tier> to;
    for (const TierChange& change : policy.Propose(*pool_, sequences, {.step = kStep})) {
      to.emplace(change.page, change.to);
    }
    std::map<PageId, Tier> expected = {{pages[0], Tier::kWarm},
                                       {pages[1], std::min(tier, Tier::kCold)}};
    if (tier == Tier::kArchive) {
      expected[pages[2]] = Tier::kArchive;
    }
    EXPECT_EQ(to, expected);
  }
}

TEST(EdgeQueue, GivesEveryEdgeInOrderOfCostHoweverManyAreAlike) {
  std::mt19937 random(3);
  for (const size_t size : {0U, 1U, 256U, 257U, 3000U, 20000U}) {
    for (const uint32_t num_costs : {1U, 5U, 1000000U}) {
      EdgeQueue queue;
      std::vector<DemotionEdge> edges;
      queue.Start();
      for (uint32_t i = 0; i < size; ++i) {
        edges.push_back({.cost = static_cast<double>(random() % num_costs), .candidate = i});
        queue.Add(edges.back());
      }
      queue.Sort();
      // Each that is taken adds a dearer one now and then, as pages do.
      std::vector<DemotionEdge> given;
      auto next = static_cast<uint32_t>(size);
      while (const DemotionEdge* edge = queue.First()) {
        given.push_back(*edge);
        queue.Pop();
        if (random() % 4 == 0) {
          edges.push_back({.cost = given.back().cost + static_cast<double>(random() % num_costs),
                           .candidate = next++});
          queue.Push(edges.back());
        }
      }
      std::sort(edges.begin(), edges.end());
      ASSERT_EQ(given.size(), edges.size());
      for (size_t i = 0; i < given.size(); ++i) {
        ASSERT_EQ(given[i].candidate, edges[i].candidate) << "edge " << i << " of " << size;
      }
    }
  }
}

TEST(HeatDecay, IsExp2ToTheLastBit) {
  const HeatDecay decay;
  for (uint64_t age = 0; age < 300000; ++age) {
    ASSERT_EQ(decay.At(age), std::exp2(-static_cast<double>(age) / kHeatHalfLife)) << age;
  }
}

// Random pages of all tiers, read by several sequences, cached, moving, pinned and saved.
class RandomPages {
 public:
  explicit RandomPages(uint32_t seed)
      : random_(seed), pool_(MakeArchivingPool(static_cast<int>(random_() % 3000) + 800)) {
    const auto num_pages = static_cast<size_t>(random_() % 90) + 1;
    for (size_t i = 0; i < num_pages; ++i) {
      AddPage();
    }
    const size_t num_sequences = random_() % 5;
    for (size_t s = 0; s < num_sequences && !pages_.empty(); ++s) {
      AddSequence();
    }
    for (size_t i = 0; i < tables_.size(); ++i) {
      sequences_.push_back({.pages = tables_[i],
                            .num_settled = random_() % 4 == 0
                                               ? 0
                                               : tables_[i].size() - random_() % tables_[i].size(),
                            .fidelity = static_cast<KvFidelity>(random_() % 4),
                            .in_prompt = random_() % 4 == 0});
    }
  }

  const PagePool& pool() const { return *pool_; }
  const std::vector<SequencePages>& sequences() const { return sequences_; }
  TierDemand Demand() {
    return {.step = kStep,
            .bytes_wanted = random_() % 5 == 0 ? 0 : random_() % 300 * kArenaUnitBytes,
            .urgent = random_() % 2 == 0,
            .archives = random_() % 2 == 0};
  }
  double Budget() { return random_() % 2 == 0 ? 0 : static_cast<double>(random_() % 10 + 1) / 10; }

 private:
  void AddPage() {
    const std::optional<PageId> page = pool_->Allocate(kAnyTier);
    if (!page.has_value()) {
      return;
    }
    pages_.push_back(*page);
    if (random_() % 10 == 0) {
      return;  // being written
    }
    pool_->MarkFull(*page, 0);
    const auto tier = static_cast<Tier>(random_() % 4);
    if (auto move = pool_->BeginMove(*page, tier)) {
      EXPECT_TRUE(std::move(*move).Commit(0));
    }
    pool_->heat(*page) = {.peak = static_cast<float>(random_() % 8) / 8,
                          .mean = static_cast<float>(random_() % 4) / 20,
                          .peak_step = kStep - random_() % 600,
                          .move_step = random_() % 2 == 0 ? 0 : kStep - random_() % 64};
    if (random_() % 3 == 0 && pool_->BeginSave(*page)) {
      pool_->EndSave(*page, true);
    }
    const uint32_t dice = random_() % 16;
    if (dice == 0) {
      pool_->Pin(*page);
    } else if (dice == 1) {
      if (auto move = pool_->BeginMove(*page, Tier::kCold)) {
        moving_.push_back(std::move(*move));
      }
    } else if (dice < 5 && pool_->SetHash(*page, {*page + 1, 0}, std::nullopt)) {
      pool_->Release(*page, kAnyTier);  // cached
      pages_.pop_back();
    }
  }

  // The start of another's table, then pages of its own.
  void AddSequence() {
    std::vector<PageId> table;
    if (!tables_.empty() && random_() % 2 == 0) {
      const std::vector<PageId>& other = tables_[random_() % tables_.size()];
      table.assign(other.begin(),
                   other.begin() + static_cast<std::ptrdiff_t>(random_() % (other.size() + 1)));
    }
    for (size_t count = random_() % 30 + 1; count > 0 && !pages_.empty(); --count) {
      table.push_back(pages_.back());
      pages_.pop_back();
    }
    if (!table.empty()) {
      tables_.push_back(std::move(table));
    }
  }

  std::mt19937 random_;
  std::unique_ptr<PagePool> pool_;
  std::vector<PendingMove> moving_;
  std::vector<PageId> pages_;  // that no table has
  std::vector<std::vector<PageId>> tables_;
  std::vector<SequencePages> sequences_;
};

TEST(AdaptivePolicy, ProposesChangeByChangeWhatThePlainOneDoes) {
  size_t num_changes = 0;
  size_t num_archived = 0;
  size_t num_kept_empty = 0;
  std::map<double, AdaptivePolicy> policies;  // kept between calls, as a controller keeps one
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    RandomPages pages(seed);
    for (int i = 0; i < 3; ++i) {
      const TierDemand demand = pages.Demand();
      const double budget = pages.Budget();
      const std::vector<TierChange> expected =
          PlainPropose(pages.pool(), pages.sequences(), demand, budget);
      const std::vector<TierChange> changes =
          policies.try_emplace(budget, budget)
              .first->second.Propose(pages.pool(), pages.sequences(), demand);
      ASSERT_EQ(changes.size(), expected.size()) << "seed " << seed;
      for (size_t c = 0; c < changes.size(); ++c) {
        ASSERT_EQ(changes[c].page, expected[c].page) << "seed " << seed << " change " << c;
        ASSERT_EQ(changes[c].to, expected[c].to) << "seed " << seed << " change " << c;
        ASSERT_EQ(changes[c].keep_empty, expected[c].keep_empty) << "seed " << seed;
        num_archived += changes[c].to == Tier::kArchive ? 1 : 0;
        num_kept_empty += changes[c].keep_empty;
      }
      num_changes += changes.size();
    }
  }
  // The cases do reach what they are for.
  EXPECT_GT(num_changes, 20000U);
  EXPECT_GT(num_archived, 200U);
  EXPECT_GT(num_kept_empty, 1000U);
}

}  // namespace
}  // namespace thermocline
