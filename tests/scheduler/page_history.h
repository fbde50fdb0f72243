#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "scheduler/page_pool.h"

namespace thermocline {

// Random operations on a pool and on a model that a reader can check by eye: sequences that grow,
// share, end and are cancelled, each accepting pages of so much loss; moves that end well, fail or
// find rubbish; and pages that are saved elsewhere and loaded again, or archived and woken.
class PageHistory {
 public:
  PageHistory(int num_units, uint32_t seed);

  void RunRandomOperation();
  // Nobody sees a page that has lost more than he accepts, whether where it is or in what it was
  // computed from, and the pool knows of every loss.
  void ExpectNoReaderDeceived() const;
  // Every page that somebody can read holds what was written, wherever it is now.
  void ExpectContent() const;
  // What is left then is the prefix cache's.
  void EndAll();

  struct Counts {
    uint64_t commits = 0, failures = 0, corrupt = 0, compactions = 0, shared = 0, cancelled = 0,
             cancelled_in_move = 0, full_arenas = 0, saved = 0, loaded = 0, failed_loads = 0,
             refused_begins = 0, refused_commits = 0, refused_loads = 0, woken = 0, woken_exact = 0,
             computed_lossy = 0;
  };
  const Counts& counts() const { return counts_; }

 private:
  static constexpr size_t kSlots = 4;         // positions of a page
  static constexpr size_t kMaxSequences = 8;  // that hold pages at once
  static constexpr uint64_t kNumHashes = 60;

  // All pages but the last are full.
  struct Sequence {
    std::vector<PageId> pages;
    size_t num_in_last = 0;
    Tier accepted = Tier::kHot;
  };
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

  Tier AnyAccepted();
  Tier Accepted(PageId page) const;  // by all who read the page, or wait for it
  Sequence& AnySequence() { return sequences_[random_() % sequences_.size()]; }
  static size_t NumFull(const Sequence& sequence);
  void ForEachUnit(PageEntry place, auto&& visit) const {
    for (uint32_t i = 0; i < pool_->arena().units_per_page(place.tier()); ++i) {
      visit((place.unit() + i) * kSlots);
    }
  }

  void ExpectPage(PageId page) const;

  // Sequences and moves: page_history.cc.
  void Append();
  void Fork();
  void FindAgain();
  void Hash();
  void Cancel();
  void Release(size_t index);
  void Begin();
  void Compact();
  void End();
  void Corrupt(PageId page);

  // Transfers: page_history_transfers.cc.
  void BeginSave();
  void BeginLoad();
  void BeginWake();
  void EndTransfer();
  void EndWake();
  void EndSave();
  void EndLoad();

  std::unique_ptr<PagePool> pool_;
  std::vector<Tier> losses_;     // by page, and right while somebody can read it
  std::vector<uint64_t> bytes_;  // [arena units, kSlots]
  std::mt19937 random_;
  std::vector<Sequence> sequences_;  // oldest first
  std::map<PageId, std::vector<uint64_t>> stamps_;
  std::map<uint64_t, std::vector<uint64_t>> stamps_of_hash_;
  std::vector<PendingMove> moves_;
  std::vector<Save> saves_;
  std::vector<Load> loads_;
  std::vector<Wake> wakes_;
  std::map<uint64_t, Saved> saved_;  // by hash
  std::set<PageId> corrupt_;
  uint64_t num_stamps_ = 0;
  Counts counts_;
};

}  // namespace thermocline
