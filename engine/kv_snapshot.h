#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine_stats.h"
#include "kernels/page_format.h"
#include "scheduler/request.h"

namespace thermocline {

class PagePool;   // scheduler/page_pool.h
class Scheduler;  // scheduler/scheduler.h

// How many pages of one tier have which energy, see TierPolicy: the decayed peak, in powers of two.
struct EnergyHistogram {
  static constexpr int kNumBuckets = 24;
  // buckets[i]: at least 2^-i, less than twice that; the last also takes all that is less.
  std::array<uint32_t, kNumBuckets> buckets{};
  uint32_t num_unseen = 0;  // no query was measured since they were written
};

// The KV cache page by page, between two steps. Holds neither tokens nor text.
struct KvSnapshot {
  struct Sequence {
    RequestId request = 0;
    int choice = 0;
    std::string label;        // the request's
    int num_tokens = 0;       // in the cache
    std::vector<Tier> pages;  // in order of position
  };
  EngineStats stats;
  int page_tokens = 0;
  std::vector<Sequence> sequences;  // those that run, oldest first
  std::array<EnergyHistogram, kNumTiers> energy;
};

// All but `stats`. Linear in the pages there are: for when somebody asks, not for every step.
KvSnapshot TakeKvSnapshot(const Scheduler& scheduler, const PagePool& pool);

}  // namespace thermocline
