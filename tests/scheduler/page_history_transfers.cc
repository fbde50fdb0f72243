// The pages that PageHistory saves, loads and wakes.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/scheduler/page_history.h"

namespace thermocline {

void PageHistory::BeginSave() {
  const uint64_t hash = random_() % kNumHashes + 1;
  const auto page = pool_->Find({hash, hash});
  if (page.has_value() && pool_->BeginSave(*page)) {
    saves_.push_back({*page, pool_->page_map()[*page], hash, stamps_.at(*page), losses_[*page]});
  }
}

void PageHistory::BeginLoad() {
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

void PageHistory::BeginWake() {
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

void PageHistory::EndTransfer() {
  if (!wakes_.empty() && random_() % 3 == 0) {
    EndWake();
  } else if (!saves_.empty() && (loads_.empty() || random_() % 2 == 0)) {
    EndSave();
  } else if (!loads_.empty()) {
    EndLoad();
  }
}

// What comes back may have been computed from exact pages or not.
void PageHistory::EndWake() {
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
void PageHistory::EndSave() {
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
void PageHistory::EndLoad() {
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
    sequences_.push_back({.pages = {load.page}, .num_in_last = kSlots, .accepted = load.accepted});
  }
  loads_.erase(loads_.begin());
}

}  // namespace thermocline
