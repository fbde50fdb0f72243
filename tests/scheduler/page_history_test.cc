// A million random operations on a pool and on a model that a reader can check by eye: sequences
// that grow, share, end and are cancelled, each accepting pages of so much loss; moves that end
// well, fail or find rubbish; and pages that are saved elsewhere and loaded again, or archived and
// woken.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "scheduler/page_pool.h"
#include "tests/testing/page_pools.h"

namespace thermocline {
namespace {

constexpr size_t kSlots = 4;         // positions of a page
constexpr size_t kMaxSequences = 8;  // that hold pages at once
constexpr uint64_t kNumHashes = 60;

class PageHistory {
 public:
  PageHistory(int num_units, uint32_t seed)
      : pool_(MakeArchivingPool(num_units)),
        losses_(pool_->page_map().size(), Tier::kHot),
        bytes_(static_cast<size_t>(num_units) * kSlots, 0),
        random_(seed) {}

  void RunRandomOperation() {
    const uint32_t dice = random_() % 100;
    if (dice < 50) {
      Append();
    } else if (dice < 55) {
      Fork();
    } else if (dice < 60) {
      FindAgain();
    } else if (dice < 65) {
      Hash();
    } else if (dice < 68) {
      Cancel();
    } else if (dice < 79) {
      Begin();
    } else if (dice < 81) {
      BeginSave();
    } else if (dice < 83) {
      BeginLoad();
    } else if (dice < 86) {
      BeginWake();
    } else if (dice < 89) {
      Compact();
    } else if (dice < 97) {
      End();
    } else {
      EndTransfer();
    }
  }

  // Nobody sees a page that has lost more than he accepts, whether where it is or in what it was
  // computed from, and the pool knows of every loss.
  void ExpectNoReaderDeceived() const {
    for (const Sequence& sequence : sequences_) {
      for (const PageId page : sequence.pages) {
        ASSERT_LE(pool_->tier(page), sequence.accepted) << "page " << page;
        ASSERT_LE(losses_[page], sequence.accepted) << "page " << page;
        ASSERT_EQ(pool_->loss(page), losses_[page]) << "page " << page;
      }
    }
  }

  // Every page that somebody can read holds what was written, wherever it is now.
  void ExpectContent() const {
    std::map<PageId, int> refs;
    for (const Sequence& sequence : sequences_) {
      for (const PageId page : sequence.pages) {
        ++refs[page];
      }
    }
    for (const auto& [page, count] : refs) {
      ASSERT_EQ(pool_->num_refs(page), count);
      ASSERT_EQ(pool_->accepted(page), Accepted(page));
      ExpectPage(page);
    }
    for (const auto& [hash, stamps] : stamps_of_hash_) {
      if (const auto page = pool_->Find({hash, hash})) {
        ASSERT_EQ(stamps_.at(*page), stamps);
        ASSERT_EQ(pool_->loss(*page), losses_[*page]);
        ExpectPage(*page);
      }
    }
    const Status audit = pool_->Audit();
    ASSERT_TRUE(audit.ok()) << audit.message();
  }

  // What is left then is the prefix cache's.
  void EndAll() {
    while (!moves_.empty()) {
      End();
    }
    while (!saves_.empty() || !loads_.empty() || !wakes_.empty()) {
      EndTransfer();
    }
    while (!sequences_.empty()) {
      Release(0);
    }
    for (uint64_t hash = 1; hash <= kNumHashes; ++hash) {
      if (const auto page = pool_->Find({hash, hash})) {
        pool_->Forget(*page);
      }
    }
    ASSERT_EQ(pool_->arena().bytes_free(), bytes_.size() / kSlots * kArenaUnitBytes);
    ASSERT_TRUE(pool_->Audit().ok());
  }

  struct Counts {
    uint64_t commits = 0, failures = 0, corrupt = 0, compactions = 0, shared = 0, cancelled = 0,
             cancelled_in_move = 0, full_arenas = 0, saved = 0, loaded = 0, failed_loads = 0,
             refused_begins = 0, refused_commits = 0, refused_loads = 0, woken = 0, woken_exact = 0,
             computed_lossy = 0;
  };
  const Counts& counts() const { return counts_; }

 private:
  // All pages but the last are full.
  struct Sequence {
    std::vector<PageId> pages;
    size_t num_in_last = 0;
    Tier accepted = Tier::kHot;
  };

  Tier AnyAccepted() {
    constexpr std::array<Tier, 6> kAccepted = {Tier::kHot, Tier::kWarm, Tier::kCold,
                                               kAnyTier,   kAnyTier,    kAnyTier};
    return kAccepted[random_() % kAccepted.size()];
  }

  // By all who read it, or wait for it.
  Tier Accepted(PageId page) const {
    Tier accepted = kAnyTier;
    for (const Sequence& sequence : sequences_) {
      if (std::find(sequence.pages.begin(), sequence.pages.end(), page) != sequence.pages.end()) {
        accepted = std::min(accepted, sequence.accepted);
      }
    }
    for (const Load& load : loads_) {
      if (load.page == page && !load.released) {
        accepted = std::min(accepted, load.accepted);
      }
    }
    return accepted;
  }

  Sequence& AnySequence() { return sequences_[random_() % sequences_.size()]; }

  void ForEachUnit(PageEntry place, auto&& visit) const {
    for (uint32_t i = 0; i < pool_->arena().units_per_page(place.tier()); ++i) {
      visit((place.unit() + i) * kSlots);
    }
  }

  void ExpectPage(PageId page) const {
    const std::vector<uint64_t>& stamps = stamps_.at(page);
    ForEachUnit(pool_->page_map()[page], [&](size_t begin) {
      for (size_t slot = 0; slot < stamps.size(); ++slot) {
        ASSERT_EQ(bytes_[begin + slot], stamps[slot]) << "page " << page << " slot " << slot;
      }
    });
  }

  // One more position of a sequence, or a new sequence.
  void Append() {
    if (sequences_.empty() || (sequences_.size() < kMaxSequences && random_() % 8 == 0)) {
      sequences_.push_back({.accepted = AnyAccepted()});
    }
    Sequence& sequence = AnySequence();
    if (sequence.pages.empty() || sequence.num_in_last == kSlots) {
      const auto page = pool_->Allocate(sequence.accepted);
      if (!page.has_value()) {
        ++counts_.full_arenas;
        Release(sequences_.size() - 1);  // preempts the newest
        return;
      }
      sequence.pages.push_back(*page);
      sequence.num_in_last = 0;
      stamps_[*page].clear();
      losses_[*page] = Tier::kHot;
      corrupt_.erase(*page);
    }
    const PageId page = sequence.pages.back();
    if (pool_->is_moving(page)) {
      return;  // compaction moves what is being written, and no step runs meanwhile
    }
    ASSERT_EQ(pool_->tier(page), Tier::kHot);
    // It is computed from all pages before it, as they are now.
    for (const PageId read : sequence.pages) {
      losses_[page] = std::max(losses_[page], losses_[read]);
    }
    counts_.computed_lossy += losses_[page] > Tier::kHot ? 1 : 0;
    pool_->NoteComputed(page, losses_[page]);
    stamps_[page].push_back(++num_stamps_);
    ForEachUnit(pool_->page_map()[page],
                [&](size_t begin) { bytes_[begin + sequence.num_in_last] = num_stamps_; });
    if (++sequence.num_in_last == kSlots) {
      pool_->MarkFull(page, 0);
    }
  }

  static size_t NumFull(const Sequence& sequence) {
    return sequence.pages.size() - (sequence.num_in_last < kSlots && !sequence.pages.empty());
  }

  // A sequence that begins with full pages of another.
  void Fork() {
    if (sequences_.empty() || sequences_.size() >= kMaxSequences) {
      return;
    }
    const Sequence& from = AnySequence();
    if (const size_t num_full = NumFull(from); num_full > 0) {
      const size_t count = random_() % num_full + 1;
      Sequence sequence{.num_in_last = kSlots, .accepted = AnyAccepted()};
      for (size_t i = 0; i < count && losses_[from.pages[i]] <= sequence.accepted; ++i) {
        sequence.pages.push_back(from.pages[i]);
        pool_->AddRef(from.pages[i], sequence.accepted);
        ++counts_.shared;
      }
      if (!sequence.pages.empty()) {
        sequences_.push_back(std::move(sequence));
      }
    }
  }

  void FindAgain() {
    const uint64_t hash = random_() % kNumHashes + 1;
    const auto page = pool_->Find({hash, hash});
    const Tier accepted = AnyAccepted();
    if (page.has_value() && sequences_.size() < kMaxSequences && losses_[*page] <= accepted) {
      pool_->AddRef(*page, accepted);
      sequences_.push_back({.pages = {*page}, .num_in_last = kSlots, .accepted = accepted});
    }
  }

  void Hash() {
    if (sequences_.empty()) {
      return;
    }
    const Sequence& sequence = AnySequence();
    const size_t num_full = NumFull(sequence);
    if (num_full == 0) {
      return;
    }
    const size_t i = random_() % num_full;
    const PageId page = sequence.pages[i];
    const uint64_t hash = random_() % kNumHashes + 1;
    std::optional<PageId> parent;
    if (i > 0 && pool_->is_hashed(sequence.pages[i - 1])) {
      parent = sequence.pages[i - 1];
    }
    if (!pool_->is_hashed(page) && pool_->SetHash(page, {hash, hash}, parent)) {
      stamps_of_hash_[hash] = stamps_[page];
    }
  }

  void Cancel() {
    if (!sequences_.empty()) {
      ++counts_.cancelled;
      Release(random_() % sequences_.size());
    }
  }

  void Release(size_t index) {
    const std::vector<PageId> pages = sequences_[index].pages;
    const Tier accepted = sequences_[index].accepted;
    sequences_.erase(sequences_.begin() + static_cast<std::ptrdiff_t>(index));
    for (auto page = pages.rbegin(); page != pages.rend(); ++page) {
      counts_.cancelled_in_move += pool_->is_moving(*page) ? 1 : 0;
      pool_->Release(*page, accepted);
    }
  }

  void Begin() {
    if (sequences_.empty()) {
      return;
    }
    const Sequence& sequence = AnySequence();
    if (const size_t num_full = NumFull(sequence); num_full > 0) {
      const PageId page = sequence.pages[random_() % num_full];
      const auto to = static_cast<Tier>(random_() % 4);
      const bool refused = Accepted(page) < to;
      if (const auto move = pool_->BeginMove(page, to)) {
        ASSERT_FALSE(refused);
        moves_.push_back(*move);
      }
      counts_.refused_begins += refused ? 1 : 0;
    }
  }

  void Compact() {
    const auto tier = static_cast<Tier>(random_() % 4);
    for (const PageMove& move : pool_->BeginCompaction(tier, random_() % 3 + 1)) {
      ASSERT_EQ(move.from.tier(), move.to.tier());
      ++counts_.compactions;
      moves_.push_back(move);
    }
  }

  // The copy is made at the end, when the source has seen all that can happen to it meanwhile.
  void End() {
    if (moves_.empty()) {
      return;
    }
    const size_t index = random_() % moves_.size();
    const PageMove move = moves_[index];
    moves_.erase(moves_.begin() + static_cast<std::ptrdiff_t>(index));
    const uint32_t dice = random_() % 16;
    if (dice < 4) {
      // Half-way: rubbish in the new place.
      ForEachUnit(move.to, [&](size_t begin) { bytes_[begin] = ~uint64_t{0}; });
      if (dice == 0 && move.from.tier() != Tier::kHot) {
        Corrupt(move.page);
      }
      ++counts_.failures;
      pool_->AbortMove(move);
      return;
    }
    ForEachUnit(move.to, [&](size_t begin) {
      std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(move.from.unit() * kSlots), kSlots,
                  bytes_.begin() + static_cast<std::ptrdiff_t>(begin));
    });
    const Tier loss = std::max(losses_[move.page], move.to.tier());
    const bool refused = Accepted(move.page) < loss;
    ASSERT_EQ(pool_->CommitMove(move, 0), !refused);
    ++(refused ? counts_.refused_commits : counts_.commits);
    losses_[move.page] = refused ? losses_[move.page] : loss;
  }

  struct Save {
    PageId page;
    PageEntry place;
    uint64_t hash;
    std::vector<uint64_t> stamps;
    Tier loss;
  };
  struct Load {
    PageId page;
    uint64_t hash;
    Tier accepted;
    bool released;
  };
  struct Saved {
    Tier tier;
    std::vector<uint64_t> stamps;
    Tier loss;
  };
  struct Wake {
    PageId page;
    PageEntry place;
    std::vector<uint64_t> stamps;
  };

  void BeginSave() {
    const uint64_t hash = random_() % kNumHashes + 1;
    const auto page = pool_->Find({hash, hash});
    if (page.has_value() && pool_->BeginSave(*page)) {
      saves_.push_back({*page, pool_->page_map()[*page], hash, stamps_.at(*page), losses_[*page]});
    }
  }

  void BeginLoad() {
    const auto saved = saved_.find(random_() % kNumHashes + 1);
    if (saved == saved_.end() || loads_.size() >= 3) {
      return;
    }
    const Tier accepted = std::max(AnyAccepted(), saved->second.loss);
    if (const auto page = pool_->BeginLoad(saved->second.tier, accepted)) {
      ASSERT_EQ(pool_->tier(*page), saved->second.tier);
      stamps_[*page].clear();
      losses_[*page] = Tier::kHot;
      loads_.push_back({*page, saved->first, accepted, false});
    }
  }

  void BeginWake() {
    const size_t num_pages = pool_->page_map().size();
    auto page = static_cast<PageId>(random_() % num_pages);
    for (size_t i = 0; i < num_pages && pool_->tier(page) != Tier::kArchive; ++i) {
      page = static_cast<PageId>((page + 1) % num_pages);
    }
    if (pool_->tier(page) != Tier::kArchive || corrupt_.contains(page)) {
      return;
    }
    if (const auto place = pool_->BeginWake(page, static_cast<Tier>(random_() % 3))) {
      wakes_.push_back({page, *place, stamps_.at(page)});
    }
  }

  void EndTransfer() {
    if (!wakes_.empty() && random_() % 3 == 0) {
      EndWake();
    } else if (!saves_.empty() && (loads_.empty() || random_() % 2 == 0)) {
      EndSave();
    } else if (!loads_.empty()) {
      EndLoad();
    }
  }

  // What comes back may have been computed from exact pages or not.
  void EndWake() {
    const Wake wake = wakes_.front();
    wakes_.erase(wakes_.begin());
    const bool fails = random_() % 4 == 0;
    ForEachUnit(wake.place, [&](size_t begin) {
      for (size_t slot = 0; slot < kSlots; ++slot) {
        bytes_[begin + slot] = fails ? ~uint64_t{0} : wake.stamps[slot];
      }
    });
    if (fails) {
      pool_->AbortWake(wake.page);
      return;
    }
    const Tier loss = random_() % 2 == 0 ? wake.place.tier() : AnyAccepted();
    ASSERT_TRUE(pool_->EndWake(wake.page, loss, 0));  // who reads archived pages reads any
    losses_[wake.page] = std::max(loss, wake.place.tier());
    ++counts_.woken;
    counts_.woken_exact += losses_[wake.page] == Tier::kHot ? 1 : 0;
  }

  // The bytes are read at the end, whatever has become of the page.
  void EndSave() {
    const Save save = saves_.front();
    saves_.erase(saves_.begin());
    if (!corrupt_.contains(save.page)) {
      ForEachUnit(save.place, [&](size_t begin) {
        for (size_t slot = 0; slot < kSlots; ++slot) {
          ASSERT_EQ(bytes_[begin + slot], save.stamps[slot]);
        }
      });
      saved_[save.hash] = {save.place.tier(), save.stamps, save.loss};
      ++counts_.saved;
    }
    pool_->EndSave(save.page, true);
  }

  // Or its request is cancelled, which is known before the load has ended.
  void EndLoad() {
    Load& load = loads_.front();
    if (!load.released && random_() % 4 == 0) {
      load.released = true;
      pool_->Release(load.page, load.accepted);
      return;
    }
    bool fails = random_() % 4 == 0;
    const PageEntry place = pool_->page_map()[load.page];
    // The store may have another copy by now than it had said.
    const Tier loss =
        std::max(random_() % 4 == 0 ? AnyAccepted() : saved_.at(load.hash).loss, place.tier());
    const std::vector<uint64_t>& stamps = saved_.at(load.hash).stamps;
    ForEachUnit(place, [&](size_t begin) {
      for (size_t slot = 0; slot < kSlots; ++slot) {
        bytes_[begin + slot] = fails ? ~uint64_t{0} : stamps[slot];
      }
    });
    if (fails) {
      pool_->AbortLoad(load.page);
      ++counts_.failed_loads;
    } else {
      fails = !load.released && loss > load.accepted;
      ASSERT_EQ(pool_->EndLoad(load.page, loss, 0), !fails);
      ++(fails ? counts_.refused_loads : counts_.loaded);
    }
    if (!load.released && fails) {
      pool_->Release(load.page, load.accepted);
    } else if (!load.released) {
      pool_->MarkFull(load.page, 0);
      stamps_[load.page] = stamps;
      losses_[load.page] = loss;
      sequences_.push_back(
          {.pages = {load.page}, .num_in_last = kSlots, .accepted = load.accepted});
    }
    loads_.erase(loads_.begin());
  }

  // Nobody may read the page any more.
  void Corrupt(PageId page) {
    ++counts_.corrupt;
    corrupt_.insert(page);
    pool_->Pin(page);
    pool_->Forget(page);
    for (size_t i = sequences_.size(); i-- > 0;) {
      const std::vector<PageId>& pages = sequences_[i].pages;
      if (std::find(pages.begin(), pages.end(), page) != pages.end()) {
        Release(i);
      }
    }
    ForEachUnit(pool_->page_map()[page], [&](size_t begin) { bytes_[begin] = ~uint64_t{0}; });
  }

  std::unique_ptr<PagePool> pool_;
  std::vector<Tier> losses_;     // by page, and right while somebody can read it
  std::vector<uint64_t> bytes_;  // [arena units, kSlots]
  std::mt19937 random_;
  std::vector<Sequence> sequences_;  // oldest first
  std::map<PageId, std::vector<uint64_t>> stamps_;
  std::map<uint64_t, std::vector<uint64_t>> stamps_of_hash_;
  std::vector<PageMove> moves_;
  std::vector<Save> saves_;
  std::vector<Load> loads_;
  std::vector<Wake> wakes_;
  std::map<uint64_t, Saved> saved_;  // by hash
  std::set<PageId> corrupt_;
  uint64_t num_stamps_ = 0;
  Counts counts_;
};

TEST(PageHistory, AMillionRandomOperationsKeepEveryByteAndDeceiveNoReader) {
  PageHistory::Counts sum;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    PageHistory history(122 + static_cast<int>(seed % 4) * 40, seed);
    for (int i = 0; i < 50000; ++i) {
      history.RunRandomOperation();
      history.ExpectNoReaderDeceived();
      if (i % 20 == 0) {
        history.ExpectContent();
      }
      if (testing::Test::HasFatalFailure()) {
        FAIL() << "seed " << seed << " operation " << i;
      }
    }
    const PageHistory::Counts& counts = history.counts();
    sum.commits += counts.commits;
    sum.failures += counts.failures;
    sum.corrupt += counts.corrupt;
    sum.compactions += counts.compactions;
    sum.shared += counts.shared;
    sum.cancelled += counts.cancelled;
    sum.cancelled_in_move += counts.cancelled_in_move;
    sum.full_arenas += counts.full_arenas;
    sum.saved += counts.saved;
    sum.loaded += counts.loaded;
    sum.failed_loads += counts.failed_loads;
    sum.refused_begins += counts.refused_begins;
    sum.refused_commits += counts.refused_commits;
    sum.refused_loads += counts.refused_loads;
    sum.woken += counts.woken;
    sum.woken_exact += counts.woken_exact;
    sum.computed_lossy += counts.computed_lossy;
    history.EndAll();
  }
  // The histories do reach what they are for.
  EXPECT_GT(sum.commits, 20000U);
  EXPECT_GT(sum.failures, 5000U);
  EXPECT_GT(sum.corrupt, 200U);
  EXPECT_GT(sum.compactions, 500U);
  EXPECT_GT(sum.shared, 10000U);
  EXPECT_GT(sum.cancelled, 10000U);
  EXPECT_GT(sum.cancelled_in_move, 500U);
  EXPECT_GT(sum.full_arenas, 500U);
  EXPECT_GT(sum.saved, 1500U);
  EXPECT_GT(sum.loaded, 2000U);
  EXPECT_GT(sum.failed_loads, 500U);
  EXPECT_GT(sum.refused_begins, 10000U);
  EXPECT_GT(sum.refused_commits, 200U);
  EXPECT_GT(sum.refused_loads, 100U);
  EXPECT_GT(sum.woken, 500U);
  EXPECT_GT(sum.woken_exact, 100U);
  EXPECT_GT(sum.computed_lossy, 10000U);
}

}  // namespace
}  // namespace thermocline
