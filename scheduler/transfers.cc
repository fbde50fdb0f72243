#include <algorithm>
#include <utility>

#include "kernels/base/check.h"
#include "scheduler/scheduler.h"

// Pages that go to the store outside the arena once nobody reads them, and those that come back
// from it when a prompt begins with them.

namespace thermocline {

void Scheduler::SaveLater(PageId page) {
  if (index_ != nullptr && pool_.is_hashed(page) && !pool_.is_saving(page) && !awaits_save_[page] &&
      !StoreHas(page)) {
    awaits_save_[page] = true;
    to_save_.push_back(page);
  }
}

bool Scheduler::StoreHas(PageId page) const {
  const std::optional<PageFinder::Info> info = index_->Find(pool_.hash(page));
  return info.has_value() &&
         std::pair(info->loss, info->tier) <= std::pair(pool_.loss(page), pool_.tier(page));
}

std::vector<ContentHash> Scheduler::PrefixOf(std::string_view tenant,
                                             std::span<const TokenId> tokens) const {
  std::vector<ContentHash> pages;
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  ContentHash chain = prefix_cache_.Root(tenant);
  for (size_t begin = 0; begin + page_tokens <= tokens.size(); begin += page_tokens) {
    chain = prefix_cache_.Next(chain, tokens.subspan(begin, page_tokens));
    pages.push_back(chain);
  }
  return pages;
}

SavedPrefix Scheduler::SavePrefix(std::string_view tenant, std::span<const TokenId> tokens) {
  SavedPrefix prefix;
  for (const ContentHash& hash : PrefixOf(tenant, tokens)) {
    const bool is_stored = index_->Find(hash).has_value();
    const std::optional<PageId> page = pool_.Find(hash);
    if (!is_stored && !page.has_value()) {
      break;  // what follows it could never be read
    }
    prefix.pages.push_back(hash);
    if (page.has_value() && !StoreHas(*page) && pool_.BeginSave(*page)) {
      prefix.transfers.push_back(SaveOf(*page));
    }
  }
  return prefix;
}

PageTransfer Scheduler::SaveOf(PageId page) {
  ++num_saving_;
  return {.kind = PageTransfer::Kind::kSave,
          .page = page,
          .place = pool_.page_map()[page],
          .content = prefix_cache_.ContentOf(page)};
}

void Scheduler::SaveCachedPages() {
  for (const PageId page : pool_.OldestCached(pool_.num_evictable())) {
    SaveLater(page);
  }
}

std::vector<PageTransfer> Scheduler::TakeTransfers() {
  std::vector<PageTransfer> transfers = std::exchange(loads_, {});
  for (size_t left = to_save_.size(); left > 0 && num_saving_ < kMaxSavesInFlight; --left) {
    const PageId page = to_save_.front();
    to_save_.pop_front();
    awaits_save_[page] = false;
    // Evicted since, perhaps another page by now: whatever it is, it is saved if it can be found.
    if (!pool_.is_hashed(page) || pool_.is_saving(page) || StoreHas(page)) {
      continue;
    }
    if (!pool_.BeginSave(page)) {
      SaveLater(page);  // it moves just now
      continue;
    }
    transfers.push_back(SaveOf(page));
  }
  return transfers;
}

// The pages that follow those that `entry` has, as far as the store has them and its fidelity
// accepts them.
void Scheduler::BeginLoads(Entry& entry) {
  Sequence& sequence = entry.sequence;
  if (index_ == nullptr || sequence.choice > 0 || sequence.request->num_prompt_logprobs >= 0) {
    return;
  }
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  const size_t max_pages = (sequence.tokens.size() - 1) / page_tokens;
  ContentHash chain = entry.chain;
  for (size_t i = sequence.pages.size(); i < max_pages; ++i) {
    const auto tokens = std::span(sequence.tokens).subspan(i * page_tokens, page_tokens);
    const ContentHash next = prefix_cache_.Next(chain, tokens);
    const std::optional<PageFinder::Info> info = index_->Find(next);
    if (!info.has_value() || !tiers_.MayHold(info->tier, info->loss) ||
        info->loss > entry.accepted) {
      return;
    }
    const std::optional<PageId> page = pool_.BeginLoad(info->tier, entry.accepted);
    if (!page.has_value()) {
      return;
    }
    sequence.pages.Append(*page);
    ++entry.num_loading;
    loads_.push_back({.kind = PageTransfer::Kind::kLoad,
                      .page = *page,
                      .place = pool_.page_map()[*page],
                      .content = {.hash = next,
                                  .previous = chain,
                                  .tenant = sequence.request->tenant,
                                  .tokens = {tokens.begin(), tokens.end()},
                                  .first_position = static_cast<int32_t>(i * page_tokens)}});
    chain = next;
  }
}

// Whether another sequence is about to have pages that `sequence` could share, once they are there.
bool Scheduler::WaitsForLoad(const Sequence& sequence) const {
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  return std::any_of(running_.begin(), running_.end(), [&](const std::unique_ptr<Entry>& entry) {
    const Sequence& other = entry->sequence;
    const size_t num_shared = static_cast<size_t>(other.num_computed) + page_tokens;
    return entry->num_loading > 0 && other.request->tenant == sequence.request->tenant &&
           sequence.tokens.size() > num_shared &&
           std::equal(other.tokens.begin(),
                      other.tokens.begin() + static_cast<std::ptrdiff_t>(num_shared),
                      sequence.tokens.begin());
  });
}

void Scheduler::EndTransfers(std::span<const FinishedTransfer> finished) {
  for (const FinishedTransfer& end : finished) {
    const PageId page = end.transfer.page;
    if (end.transfer.kind == PageTransfer::Kind::kSave) {
      --num_saving_;
      pool_.EndSave(page, end.ok);
      continue;
    }
    if (end.transfer.kind == PageTransfer::Kind::kWake) {
      EndWake(end);
      continue;
    }
    const auto reader =
        std::find_if(running_.begin(), running_.end(), [&](const std::unique_ptr<Entry>& entry) {
          return entry->num_loading > 0 && NextLoading(*entry) == page;
        });
    // Ended first: a page that was released meanwhile is free now.
    bool ok = end.ok;
    if (ok) {
      ok = pool_.EndLoad(page, end.transfer.content.loss, end.transfer.content.checksum);
    } else {
      pool_.AbortLoad(page);
    }
    if (reader != running_.end()) {
      EndLoad(**reader, ok);
    }
  }
}

// Loads of one sequence end in the order of its pages.
PageId Scheduler::NextLoading(const Entry& entry) const {
  return entry.sequence
      .pages[static_cast<size_t>(entry.sequence.num_computed / pool_.layout().page_tokens)];
}

void Scheduler::EndLoad(Entry& entry, bool ok) {
  Sequence& sequence = entry.sequence;
  const int page_tokens = pool_.layout().page_tokens;
  const auto index = static_cast<size_t>(sequence.num_computed / page_tokens);
  if (!ok) {
    // Without this page the ones behind it mean nothing: all are computed again.
    for (size_t i = sequence.pages.size(); i > index; --i) {
      pool_.Release(sequence.pages[i - 1], entry.accepted);
    }
    sequence.pages.Truncate(index);
    entry.num_loading = 0;
    return;
  }
  --entry.num_loading;
  sequence.num_computed += page_tokens;
  ++entry.num_reused;
  if (sequence.num_preemptions == 0) {
    sequence.num_cached += page_tokens;
    sequence.num_restored += page_tokens;
    stats_.prefix_hit_tokens += static_cast<uint64_t>(page_tokens);
  }
  stats_.restored_tokens += static_cast<uint64_t>(page_tokens);
  MarkFullPages(entry);
  HashFullPages(entry);
  pool_.heat(sequence.pages[index]).move_step = num_steps_;  // to be seen before it cools further
}

std::vector<const Sequence*> Scheduler::PrefetchedSequences() const {
  std::vector<const Sequence*> sequences;
  for (const std::unique_ptr<Entry>& entry : running_) {
    const bool waits = entry->num_loading > 0 || entry->waits_to_wake;
    if (entry->sequence.request->prefetch_only && !waits) {
      sequences.push_back(&entry->sequence);
    }
  }
  return sequences;
}

}  // namespace thermocline
