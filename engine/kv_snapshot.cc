#include "engine/kv_snapshot.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "scheduler/page_pool.h"
#include "scheduler/scheduler.h"
#include "scheduler/tier_policy.h"

namespace thermocline {
namespace {

void Count(const PagePool::Heat& heat, uint64_t step, EnergyHistogram& histogram) {
  if (heat.peak <= 0) {
    ++histogram.num_unseen;
    return;
  }
  const double peak = std::max(PeakAt(heat, step), std::numeric_limits<double>::min());
  const int bucket = std::clamp(-std::ilogb(peak), 0, EnergyHistogram::kNumBuckets - 1);
  ++histogram.buckets[static_cast<size_t>(bucket)];
}

}  // namespace

KvSnapshot TakeKvSnapshot(const Scheduler& scheduler, const PagePool& pool) {
  KvSnapshot snapshot{.page_tokens = pool.layout().page_tokens};
  for (const Sequence* sequence : scheduler.RunningSequences()) {
    KvSnapshot::Sequence& taken = snapshot.sequences.emplace_back();
    taken.request = sequence->request->id;
    taken.choice = sequence->choice;
    taken.label = sequence->request->label;
    taken.num_tokens = sequence->num_computed;
    taken.pages.reserve(sequence->pages.size());
    for (const PageId page : sequence->pages.ids()) {
      taken.pages.push_back(pool.tier(page));
    }
  }
  const std::span<const PageEntry> page_map = pool.page_map();
  for (size_t page = 0; page < page_map.size(); ++page) {
    if (const Tier tier = page_map[page].tier(); tier != Tier::kBacked) {  // else free
      Count(pool.heat(static_cast<PageId>(page)), scheduler.num_steps(),
            snapshot.energy[static_cast<size_t>(tier)]);
    }
  }
  return snapshot;
}

}  // namespace thermocline
