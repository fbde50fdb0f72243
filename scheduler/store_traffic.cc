#include "scheduler/store_traffic.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace thermocline {
namespace {

// A page stands out when its energy is so many times the median of the archived ones beside it.
constexpr float kJump = 4;
constexpr int kJumpSamples = 2;  // in a row
// Below it even a page that stands out moves no output: mass x largest weight of the head that
// attends to it most.
constexpr float kLeastEnergy = 1e-3F;

}  // namespace

StoreTraffic::StoreTraffic(PagePool& pool, const PrefixCache& prefix_cache,
                           const TierController& tiers, PageFinder* store)
    : pool_(pool),
      prefix_cache_(prefix_cache),
      tiers_(tiers),
      store_(store),
      awaits_save_(pool.page_map().size(), false) {}

void StoreTraffic::SaveLater(PageId page) {
  if (store_ != nullptr && pool_.is_hashed(page) && !pool_.is_saving(page) && !awaits_save_[page] &&
      !StoreHas(page)) {
    awaits_save_[page] = true;
    to_save_.push_back(page);
  }
}

// As good a copy, and now: what was put there once may have been evicted since.
bool StoreTraffic::StoreHas(PageId page) const {
  const std::optional<PageFinder::Info> info = store_->Find(pool_.hash(page));
  return info.has_value() &&
         std::pair(info->loss, info->tier) <= std::pair(pool_.loss(page), pool_.tier(page));
}

void StoreTraffic::SaveCachedPages() {
  for (const PageId page : pool_.OldestCached(pool_.num_evictable())) {
    SaveLater(page);
  }
}

SavedPrefix StoreTraffic::SavePrefix(std::span<const ContentHash> names) {
  SavedPrefix prefix;
  for (const ContentHash& name : names) {
    const bool is_stored = store_->Find(name).has_value();
    const std::optional<PageId> page = pool_.Find(name);
    if (!is_stored && !page.has_value()) {
      break;  // what follows it could never be read
    }
    prefix.pages.push_back(name);
    if (page.has_value() && !StoreHas(*page) && pool_.BeginSave(*page)) {
      prefix.transfers.push_back(BeginSave(*page));
    }
  }
  return prefix;
}

PageTransfer StoreTraffic::BeginSave(PageId page) {
  ++num_saving_;
  return {.kind = PageTransfer::Kind::kSave,
          .page = page,
          .place = pool_.page_map()[page],
          .content = prefix_cache_.ContentOf(page)};
}

std::vector<PageTransfer> StoreTraffic::Take() {
  std::vector<PageTransfer> transfers = std::exchange(begun_, {});
  for (size_t left = to_save_.size(); left > 0 && num_saving_ < kMaxSavesInFlight; --left) {
    const PageId page = to_save_.front();
    to_save_.pop_front();
    awaits_save_[page] = false;
    // It may have been evicted since, and be another page by now: that is saved if it can be found.
    if (!pool_.is_hashed(page) || pool_.is_saving(page) || StoreHas(page)) {
      continue;
    }
    if (!pool_.BeginSave(page)) {
      SaveLater(page);  // it moves just now
      continue;
    }
    transfers.push_back(BeginSave(page));
  }
  return transfers;
}

std::vector<PageId> StoreTraffic::BeginLoads(const Sequence& sequence, ContentHash chain,
                                             Tier accepted) {
  std::vector<PageId> pages;
  // A page that is loaded has no logits, and siblings share what choice 0 loads.
  if (store_ == nullptr || sequence.choice > 0 || sequence.request->num_prompt_logprobs >= 0) {
    return pages;
  }
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  const size_t max_pages = (sequence.tokens.size() - 1) / page_tokens;
  for (size_t i = sequence.pages.size(); i < max_pages; ++i) {
    const auto tokens = std::span(sequence.tokens).subspan(i * page_tokens, page_tokens);
    const ContentHash next = prefix_cache_.Next(chain, tokens);
    const std::optional<PageFinder::Info> info = store_->Find(next);
    if (!info.has_value() || !tiers_.MayHold(info->tier, info->loss) || info->loss > accepted) {
      break;
    }
    const std::optional<PageId> page = pool_.BeginLoad(info->tier, accepted);
    if (!page.has_value()) {
      break;
    }
    pages.push_back(*page);
    begun_.push_back({.kind = PageTransfer::Kind::kLoad,
                      .page = *page,
                      .place = pool_.page_map()[*page],
                      .content = {.hash = next,
                                  .previous = chain,
                                  .tenant = sequence.request->tenant,
                                  .tokens = {tokens.begin(), tokens.end()},
                                  .first_position = static_cast<int32_t>(i * page_tokens)}});
    chain = next;
  }
  return pages;
}

bool StoreTraffic::End(const FinishedTransfer& end, uint64_t step) {
  const PageId page = end.transfer.page;
  switch (end.transfer.kind) {
    case PageTransfer::Kind::kSave:
      --num_saving_;
      pool_.EndSave(page, end.ok);
      return end.ok;
    case PageTransfer::Kind::kWake: {
      const bool woken = EndWake(end, step);
      ++(woken ? num_woken_ : num_unwoken_);
      return woken;
    }
    case PageTransfer::Kind::kLoad:
      break;
  }
  if (end.ok) {
    return pool_.EndLoad(page, end.transfer.content.loss, end.transfer.content.checksum);
  }
  pool_.AbortLoad(page);
  return false;
}

void StoreTraffic::KeepBacked(std::vector<PendingMove>& moves) {
  ReleasePins();
  if (!tiers_.archives()) {
    return;
  }
  std::erase_if(moves, [&](const PendingMove& pending) {
    const PageMove& move = pending.move();
    const bool archives = move.to.tier() == Tier::kArchive && move.from.tier() < Tier::kArchive;
    return archives && !PinCopy(move.page);
  });
}

bool StoreTraffic::PinCopy(PageId page) {
  if (!pool_.is_hashed(page)) {
    return false;
  }
  const ContentHash hash = pool_.hash(page);
  const std::optional<PageFinder::Info> info = store_->Find(hash);
  if (!info.has_value() || info->tier > Tier::kCold) {
    return false;
  }
  pinned_.push_back({page, StorePin(*store_, hash)});
  return true;
}

void StoreTraffic::ReleasePins() {
  std::erase_if(pinned_, [&](const PinnedCopy& copy) {
    const bool archived = pool_.tier(copy.page) == Tier::kArchive || pool_.is_moving(copy.page);
    return !archived || !pool_.is_hashed(copy.page) || pool_.hash(copy.page) != copy.pin.hash();
  });
}

bool StoreTraffic::Wake(PageId page) {
  if (store_ == nullptr || !pool_.is_hashed(page)) {
    return false;
  }
  const std::optional<PageFinder::Info> info = store_->Find(pool_.hash(page));
  if (!info.has_value() || info->tier >= Tier::kArchive) {
    return false;
  }
  const std::optional<PageEntry> place = pool_.BeginWake(page, info->tier);
  if (!place.has_value()) {
    return false;
  }
  begun_.push_back({.kind = PageTransfer::Kind::kWake,
                    .page = page,
                    .place = *place,
                    .content = prefix_cache_.ContentOf(page)});
  return true;
}

bool StoreTraffic::WakeAll(std::span<const PageId> pages) {
  bool any_wakes = false;
  for (const PageId page : pages) {
    if (pool_.tier(page) != Tier::kArchive) {
      continue;
    }
    const bool wakes = pool_.is_waking(page) || Wake(page);
    num_unwoken_ += wakes ? 0 : 1;
    any_wakes |= wakes;
  }
  return any_wakes;
}

void StoreTraffic::WakeJumped(std::span<const PageId> pages, std::span<const PageHeat> heat) {
  const size_t num_pages = std::min(heat.size(), pages.size());
  std::vector<float> energies;
  for (size_t i = 0; i < num_pages; ++i) {
    if (pool_.tier(pages[i]) == Tier::kArchive) {
      energies.push_back(heat[i].peak);
    }
  }
  if (energies.empty()) {
    return;
  }
  const auto middle = energies.begin() + static_cast<std::ptrdiff_t>(energies.size() / 2);
  std::nth_element(energies.begin(), middle, energies.end());
  const float threshold = std::max(kLeastEnergy, kJump * *middle);
  for (size_t i = 0; i < num_pages; ++i) {
    const PageId page = pages[i];
    if (pool_.tier(page) != Tier::kArchive) {
      continue;
    }
    int& num_jumps = pool_.heat(page).num_jumps;
    num_jumps = heat[i].peak > threshold ? num_jumps + 1 : 0;
    if (num_jumps >= kJumpSamples && !pool_.is_waking(page)) {
      num_jumps = 0;
      num_unwoken_ += Wake(page) ? 0 : 1;
    }
  }
}

bool StoreTraffic::EndWake(const FinishedTransfer& end, uint64_t step) {
  const PageId page = end.transfer.page;
  if (!end.ok) {
    pool_.AbortWake(page);
    return false;
  }
  if (!pool_.EndWake(page, end.transfer.content.loss, end.transfer.content.checksum)) {
    return false;
  }
  pool_.heat(page).move_step = step;
  pool_.heat(page).num_jumps = 0;
  return true;
}

}  // namespace thermocline
