#include "scheduler/admission.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "tests/testing/page_pools.h"

namespace thermocline {
namespace {

// Running sequences over a pool, and what admission says of another. Pages hold four tokens.
class AdmissionTest : public testing::Test {
 protected:
  void Use(std::unique_ptr<PagePool> pool, KvPolicy policy) {
    pool_ = std::move(pool);
    config_.tiers.policy = policy;
    tiers_ = std::make_unique<TierController>(config_.tiers, *pool_);
    admission_ = std::make_unique<Admission>(config_, *pool_, *tiers_, running_);
  }
  // A sequence of so many tokens, the first `num_computed` of which are in pages.
  std::unique_ptr<QueueEntry> Entry(int num_tokens, int num_computed = 0, int max_tokens = 0) {
    Request request;
    request.prompt.resize(static_cast<size_t>(num_tokens));
    request.stop.max_tokens = max_tokens;
    auto entry = std::make_unique<QueueEntry>();
    entry->sequence.request = std::make_shared<const Request>(request);
    entry->sequence.tokens = request.prompt;
    entry->sequence.num_computed = num_computed;
    for (size_t i = 0; i < pool_->NumPagesFor(static_cast<size_t>(num_computed)); ++i) {
      entry->sequence.pages.Append(pool_->Allocate(kAnyTier).value());
    }
    return entry;
  }
  bool HasRoomFor(int num_tokens, size_t num_shared = 0, bool projects = true) {
    return admission_->HasRoomFor(*Entry(num_tokens), num_shared, projects);
  }
  uint64_t ProjectedUnits(const QueueEntry& entry) {
    return admission_->ProjectedBytes(entry) / kArenaUnitBytes;
  }

  SchedulerConfig config_{.max_num_seqs = 4, .max_num_batched_tokens = 16, .max_model_len = 2000};
  QueueEntries running_;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<TierController> tiers_;
  std::unique_ptr<Admission> admission_;
};

TEST_F(AdmissionTest, PagesAreWantedForTheTokensOfTheNextStepDecodingFirst) {
  Use(MakePool(100), KvPolicy::kHot);
  EXPECT_EQ(admission_->HotPagesWanted(nullptr), 0U);
  running_.push_back(Entry(40));    // a prompt, older than those behind it
  running_.push_back(Entry(9, 8));  // decodes, on a new page
  running_.push_back(Entry(8, 7));  // decodes, on a page that it has
  // Fourteen tokens are left for the prompt: four pages, and one of the second.
  EXPECT_EQ(admission_->HotPagesWanted(nullptr), 5U);
  const auto next = Entry(20);
  EXPECT_EQ(admission_->HotPagesWanted(next.get()), 5U);  // it would get no token
  config_.max_num_prefill_tokens_while_decoding = 4;
  EXPECT_EQ(admission_->HotPagesWanted(nullptr), 2U);
  running_.erase(running_.begin());
  EXPECT_EQ(admission_->HotPagesWanted(next.get()), 2U);
}

TEST_F(AdmissionTest, WhoWaitsForPagesOfTheStoreWantsNone) {
  Use(MakePool(100), KvPolicy::kHot);
  running_.push_back(Entry(40));
  running_[0]->num_loading = 1;
  EXPECT_EQ(admission_->HotPagesWanted(nullptr), 0U);
  running_[0]->num_loading = 0;
  running_[0]->waits_to_wake = true;
  EXPECT_EQ(admission_->HotPagesWanted(nullptr), 0U);
}

TEST_F(AdmissionTest, WithoutDemotionAWholePromptFitsBesideWhatIsStillToCome) {
  Use(MakePool(100), KvPolicy::kHot);
  EXPECT_TRUE(HasRoomFor(400));
  EXPECT_FALSE(HasRoomFor(401));
  running_.push_back(Entry(40, 10));  // has three pages of ten
  // 97 are free, seven of them promised, and one in a hundred is kept free.
  EXPECT_TRUE(HasRoomFor(89 * 4));
  EXPECT_FALSE(HasRoomFor(89 * 4 + 1));
  EXPECT_TRUE(HasRoomFor(90 * 4, /*num_shared=*/1));
}

// Hot pages take four units, warm ones two, cold ones one; the window is 48 pages.
TEST_F(AdmissionTest, AProjectionCountsOutputToComeAndPagesAsColdAsTheyMayBecome) {
  Use(MakeTieredPool(4000), KvPolicy::kAdaptive);
  EXPECT_EQ(ProjectedUnits(*Entry(400, 0, 100)), 2U * 4 + 49 * 2 + 74);
  EXPECT_EQ(ProjectedUnits(*Entry(400, 399, 100)), 1U * 4 + 49 * 2 + 75);
  EXPECT_EQ(ProjectedUnits(*Entry(400, 0, 100000)), 2U * 4 + 49 * 2 + 177);  // 512 at most
  EXPECT_EQ(ProjectedUnits(*Entry(1900, 0, 512)), 2U * 4 + 49 * 2 + 449);    // max_model_len
  const auto hot = Entry(400, 0, 100);
  hot->stays_hot = true;
  EXPECT_EQ(ProjectedUnits(*hot), 125U * 4);
}

TEST_F(AdmissionTest, WhereDemotionLetASequenceDownOnlyRoomThatIsThereCounts) {
  Use(MakeTieredPool(4000), KvPolicy::kAdaptive);
  EXPECT_TRUE(HasRoomFor(100000, 0, false));  // alone it always has room
  running_.push_back(Entry(1600, 1600));      // 400 of 1000 hot pages
  running_.push_back(Entry(1600, 1600));
  // Together they take 1300 hot pages, but less than half of the arena once they are cold.
  EXPECT_TRUE(HasRoomFor(2000, 0, /*projects=*/true));
  EXPECT_FALSE(HasRoomFor(2000, 0, /*projects=*/false));
  EXPECT_TRUE(HasRoomFor(400, 0, /*projects=*/false));
  const auto hot = Entry(2000);
  hot->stays_hot = running_[0]->stays_hot = running_[1]->stays_hot = true;  // 5200 units
  EXPECT_FALSE(admission_->HasRoomFor(*hot, 0, /*projects=*/true));
}

TEST_F(AdmissionTest, ColdPagesThatNobodyReadsCountAsRoom) {
  Use(MakeTieredPool(400), KvPolicy::kAdaptive);
  running_.push_back(Entry(4, 4));
  uint64_t hash = 0;
  while (const std::optional<PageId> page = pool_->Allocate(kAnyTier)) {
    pool_->MarkFull(*page, 0);
    ASSERT_TRUE(pool_->SetHash(*page, {++hash, 0}, std::nullopt));
    pool_->Release(*page, kAnyTier);
    if (hash == 200) {
      break;
    }
    if (auto move = pool_->BeginMove(*page, Tier::kCold)) {
      ASSERT_TRUE(std::move(*move).Commit(0));
    }
  }
  ASSERT_GT(pool_->cold_evictable_bytes(), 100 * kArenaUnitBytes);
  const size_t num_free = pool_->num_free();
  const size_t num_cold = pool_->cold_evictable_bytes() / pool_->PageBytes(Tier::kHot);
  const auto largest = static_cast<int>(num_free + num_cold - 1) * 4;  // one in a hundred is kept
  EXPECT_TRUE(HasRoomFor(largest, 0, /*projects=*/false));
  EXPECT_FALSE(HasRoomFor(largest + 1, 0, /*projects=*/false));
}

}  // namespace
}  // namespace thermocline
