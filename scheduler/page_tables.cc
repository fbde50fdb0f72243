#include "scheduler/page_tables.h"

#include <algorithm>

namespace thermocline {

std::vector<PageId> PageTables::Share(const QueueEntry& entry, const Sequence* leader,
                                      ContentHash& chain) {
  const Sequence& sequence = entry.sequence;
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  const size_t max_pages = (sequence.tokens.size() - 1) / page_tokens;
  chain = prefix_cache_.Root(sequence.request->tenant);
  if (sequence.request->num_prompt_logprobs >= 0 && sequence.choice == 0) {
    return {};  // every position's logits are asked for
  }
  std::vector<PageId> pages;
  if (caches_) {
    pages = prefix_cache_.Match(sequence.request->tenant, sequence.tokens, max_pages,
                                entry.accepted, chain);
  }
  if (leader != nullptr) {
    const size_t num_prompt = static_cast<size_t>(sequence.num_prompt());
    const size_t num_shared = std::min(max_pages, num_prompt / page_tokens);
    for (size_t i = pages.size(); i < num_shared; ++i) {
      const PageId page = leader->pages[i];
      if (pool_.loss(page) > entry.accepted) {
        break;  // one that has to stay hot reads less than its siblings
      }
      pages.push_back(page);
      pool_.AddRef(page, entry.accepted);
      chain = prefix_cache_.Next(chain,
                                 std::span(sequence.tokens).subspan(i * page_tokens, page_tokens));
    }
  }
  return pages;
}

void PageTables::Adopt(QueueEntry& entry, const std::vector<PageId>& shared,
                       const ContentHash& chain) {
  for (const PageId page : shared) {
    entry.sequence.pages.Append(page);
  }
  entry.chain = chain;
  entry.num_hashed = entry.num_full = entry.num_reused = shared.size();
  entry.sequence.num_computed = static_cast<int>(shared.size()) * pool_.layout().page_tokens;
}

void PageTables::Return(const QueueEntry& entry, const std::vector<PageId>& shared) {
  for (auto page = shared.rbegin(); page != shared.rend(); ++page) {
    pool_.Release(*page, entry.accepted);
  }
}

int PageTables::Extend(QueueEntry& entry, int num_tokens) {
  Sequence& sequence = entry.sequence;
  const size_t num_pages =
      pool_.NumPagesFor(static_cast<size_t>(sequence.num_computed + num_tokens));
  while (sequence.pages.size() < num_pages) {
    const std::optional<PageId> page = pool_.Allocate(entry.accepted);
    if (!page.has_value()) {
      break;
    }
    sequence.pages.Append(*page);
  }
  const auto capacity = static_cast<int>(sequence.pages.size()) * pool_.layout().page_tokens;
  return std::clamp(capacity - sequence.num_computed, 0, num_tokens);
}

// Pages may cool, and archived ones wake, before the page that is being written is full. So its
// loss is noted with each step.
void PageTables::NoteRead(QueueEntry& entry, int num_tokens) {
  Sequence& sequence = entry.sequence;
  if (entry.loss_seen != pool_.num_loss_changes()) {
    entry.loss_seen = pool_.num_loss_changes();
    for (size_t i = 0; i < sequence.pages.size(); ++i) {
      const Tier loss = pool_.loss(sequence.pages[i]);
      entry.loss = std::max(entry.loss, loss);
      sequence.reused_lossy |= i < entry.num_reused && loss > Tier::kHot;
    }
  }
  if (entry.loss > Tier::kHot) {
    const size_t end = pool_.NumPagesFor(static_cast<size_t>(sequence.num_computed + num_tokens));
    for (auto i = static_cast<size_t>(sequence.num_computed / pool_.layout().page_tokens); i < end;
         ++i) {
      pool_.NoteComputed(sequence.pages[i], entry.loss);
    }
  }
}

void PageTables::NoteComputed(QueueEntry& entry, uint64_t step) {
  MarkFull(entry, step);
  if (caches_) {
    Hash(entry);
  }
}

void PageTables::MarkFull(QueueEntry& entry, uint64_t step) {
  const Sequence& sequence = entry.sequence;
  const auto num_full = static_cast<size_t>(sequence.num_computed / pool_.layout().page_tokens);
  for (size_t& i = entry.num_full; i < num_full; ++i) {
    pool_.heat(sequence.pages[i]).peak_step = step;  // a new page is not an old cold one
    pool_.MarkFull(sequence.pages[i], static_cast<int32_t>(i) * pool_.layout().page_tokens);
  }
}

void PageTables::Hash(QueueEntry& entry) {
  const Sequence& sequence = entry.sequence;
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  const size_t num_full = static_cast<size_t>(sequence.num_computed) / page_tokens;
  for (size_t& i = entry.num_hashed; i < num_full; ++i) {
    const auto tokens = std::span(sequence.tokens).subspan(i * page_tokens, page_tokens);
    const ContentHash previous = entry.chain;
    entry.chain = prefix_cache_.Next(previous, tokens);
    prefix_cache_.Insert(sequence.pages[i], sequence.request->tenant, tokens, previous, i == 0,
                         entry.chain);
  }
}

void PageTables::Truncate(QueueEntry& entry, size_t size) {
  Sequence& sequence = entry.sequence;
  for (size_t i = sequence.pages.size(); i > size; --i) {
    pool_.Release(sequence.pages[i - 1], entry.accepted);
  }
  sequence.pages.Truncate(size);
  entry.num_loading = 0;
}

// Leaves of the prefix tree are to be older than what they hang from.
std::vector<PageId> PageTables::Release(QueueEntry& entry) {
  const std::span<const PageId> pages = entry.sequence.pages.ids();
  std::vector<PageId> released(pages.rbegin(), pages.rend());
  for (const PageId page : released) {
    pool_.Release(page, entry.accepted);
  }
  entry.sequence.pages.Clear();
  entry.num_hashed = entry.num_full = entry.num_loading = entry.num_reused = 0;
  entry.loss = Tier::kHot;
  entry.loss_seen = 0;
  entry.waits_to_wake = false;
  return released;
}

}  // namespace thermocline
