#include "scheduler/demotion_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace thermocline {
namespace {

constexpr size_t kMaxIdlePages = 256;  // cached pages looked at in one call
constexpr double kIdleValue = 1e-9;    // of a page that nobody reads
constexpr double kRecencyValue = 1e-6;

constexpr size_t kSortedAtOnce = 256;  // edges
constexpr size_t kSamples = 31;
constexpr size_t kPivotSample = 3;  // an eighth of the edges lie before it, or so

bool IsDearer(const DemotionEdge& edge, const DemotionEdge& other) { return other < edge; }

}  // namespace

void DemotionCandidates::Fill(const PagePool& pool, std::span<const SequencePages> sequences,
                              Tier coldest, Tier recent) {
  for (const Candidate& candidate : all_) {
    index_of_page_[candidate.page] = kNone;
  }
  index_of_page_.resize(pool.page_map().size(), kNone);
  all_.clear();
  readers_.clear();
  for (size_t s = 0; s < sequences.size(); ++s) {
    const SequencePages& sequence = sequences[s];
    const Tier settled = sequence.in_prompt ? Tier::kCold : Tier::kArchive;
    for (size_t i = 0; i < sequence.pages.size(); ++i) {
      Candidate& candidate = Get(pool, sequence.pages[i], coldest);
      const Tier allowed = i >= sequence.num_settled ? recent : (i == 0 ? Tier::kWarm : settled);
      candidate.coldest = std::min(candidate.coldest, allowed);
      ++candidate.num_readers;
      if (candidate.first_reader == kNone) {
        candidate.first_reader = static_cast<uint32_t>(s);
      } else {
        readers_.push_back({static_cast<uint32_t>(s), candidate.more_readers});
        candidate.more_readers = static_cast<uint32_t>(readers_.size() - 1);
      }
    }
  }
}

void DemotionCandidates::AddIdle(const PagePool& pool, Tier coldest, size_t max_pages) {
  for (const PageId page : pool.OldestCached(max_pages)) {
    Candidate& candidate = Get(pool, page, coldest);
    candidate.coldest = std::min(candidate.coldest, Tier::kCold);
  }
}

DemotionCandidates::Candidate& DemotionCandidates::Get(const PagePool& pool, PageId page,
                                                       Tier coldest) {
  uint32_t& index = index_of_page_[page];
  if (index == kNone) {
    index = static_cast<uint32_t>(all_.size());
    all_.push_back({.page = page,
                    .now = pool.tier(page),
                    .tier = pool.tier(page),
                    .coldest = std::min(coldest, pool.coldest_allowed(page))});
  }
  return all_[index];
}

void EdgeQueue::Sort() {
  next_ = num_sorted_ = 0;
  ends_.assign(1, edges_.size());
}

const DemotionEdge* EdgeQueue::First() {
  if (next_ == num_sorted_ && next_ < edges_.size()) {
    SortMore();
  }
  const bool any_left = next_ < edges_.size();
  if (pushed_.empty() || (any_left && edges_[next_] < pushed_.front())) {
    return any_left ? &edges_[next_] : nullptr;
  }
  return &pushed_.front();
}

void EdgeQueue::Pop() {
  if (First() != pushed_.data()) {
    ++next_;
    return;
  }
  std::pop_heap(pushed_.begin(), pushed_.end(), IsDearer);
  pushed_.pop_back();
}

void EdgeQueue::Push(const DemotionEdge& edge) {
  pushed_.push_back(edge);
  std::push_heap(pushed_.begin(), pushed_.end(), IsDearer);
}

void EdgeQueue::SortMore() {
  const auto at = [&](size_t index) { return edges_.begin() + static_cast<std::ptrdiff_t>(index); };
  while (ends_.back() <= next_) {
    ends_.pop_back();
  }
  while (ends_.back() - next_ > kSortedAtOnce) {
    std::array<DemotionEdge, kSamples> samples;
    const size_t stride = (ends_.back() - next_) / kSamples;
    for (size_t i = 0; i < kSamples; ++i) {
      samples[i] = edges_[next_ + i * stride];
    }
    std::sort(samples.begin(), samples.end());
    // No two edges are equal, so some lie before the pivot and it is not among them: each part is
    // smaller than the whole.
    const DemotionEdge pivot = samples[kPivotSample];
    const auto end = std::partition(at(next_), at(ends_.back()),
                                    [&](const DemotionEdge& edge) { return edge < pivot; });
    if (end == at(next_)) {
      break;  // costs that are not numbers: in any order
    }
    ends_.push_back(static_cast<size_t>(end - edges_.begin()));
  }
  num_sorted_ = ends_.back();
  std::sort(at(next_), at(num_sorted_));
}

HeatDecay::HeatDecay() {
  for (size_t i = 0; i < fractions_.size(); ++i) {
    fractions_[i] = std::exp2(-static_cast<double>(i) / kHeatHalfLife);
  }
}

double HeatDecay::At(uint64_t age) const {
  const uint64_t num_halvings = age / kHeatHalfLife;
  if (num_halvings > 1000) {
    return std::exp2(-static_cast<double>(age) / kHeatHalfLife);  // not a normal number, or nearly
  }
  // To halve a double is to take one from its exponent.
  return std::bit_cast<double>(std::bit_cast<uint64_t>(fractions_[age % kHeatHalfLife]) -
                               (num_halvings << 52));
}

void DemotionPlan::Begin(const PagePool& pool, std::span<const SequencePages> sequences,
                         const TierDemand& demand, bool keeps_last) {
  pool_ = &pool;
  sequences_ = sequences;
  demand_ = demand;
  keeps_last_ = keeps_last;
  for (size_t from = 0; from < kNumTiers; ++from) {
    page_bytes_[from] = pool.PageBytes(static_cast<Tier>(from));
    for (size_t coldest = 0; coldest < kNumTiers; ++coldest) {
      next_tier_[from][coldest] = NextTier(static_cast<Tier>(from), static_cast<Tier>(coldest));
    }
  }
  // What is not urgent does not reach the recent window: pages that go on to cold when they leave
  // it would move twice.
  const Tier coldest = demand.archives ? Tier::kArchive : Tier::kCold;
  candidates_.Fill(pool, sequences, coldest, demand.urgent ? Tier::kWarm : Tier::kHot);
  candidates_.AddIdle(pool, coldest, kMaxIdlePages);
  errors_.assign(sequences.size(), 0.0);
  planned_bytes_.assign(sequences.size(), 0);
  for (size_t s = 0; s < sequences.size(); ++s) {
    double error = 0;
    uint64_t bytes = 0;
    for (const PageId page : sequences[s].pages) {
      const Tier tier = pool.tier(page);
      error += static_cast<double>(pool.heat(page).mean) * TierError(tier);
      bytes += page_bytes_[static_cast<size_t>(tier)];
    }
    errors_[s] = error;
    planned_bytes_[s] = bytes;
  }
  taken_.clear();
}

double DemotionPlan::Value(const Candidate& candidate, const PagePool::Heat& heat) const {
  if (candidate.num_readers == 0) {
    return kIdleValue;
  }
  const double decay = decay_.At(demand_.step - heat.peak_step);
  return static_cast<double>(candidate.num_readers) *
         (static_cast<double>(heat.peak) * decay + kRecencyValue * decay);
}

// Costs rise with each step down (the errors of the tiers do so by far faster than what they free),
// so a page's next edge is looked for once the one before it is taken.
void DemotionPlan::AddEdge(uint32_t index, bool is_first) {
  const Candidate& candidate = candidates_.all()[index];
  const Tier to =
      next_tier_[static_cast<size_t>(candidate.tier)][static_cast<size_t>(candidate.coldest)];
  if (to == candidate.tier) {
    return;
  }
  const PagePool::Heat& heat = pool_->heat(candidate.page);
  const bool archives = to == Tier::kArchive;
  const bool is_new = heat.move_step > 0 && demand_.step < heat.move_step + kMinDwellSteps;
  if (is_new && (archives || !demand_.urgent)) {
    return;
  }
  if (archives && (candidate.now != Tier::kCold || !pool_->is_saved(candidate.page))) {
    return;
  }
  const uint64_t freed =
      page_bytes_[static_cast<size_t>(candidate.tier)] - page_bytes_[static_cast<size_t>(to)];
  const DemotionEdge edge{.cost = Value(candidate, heat) *
                                  (TierError(to) - TierError(candidate.tier)) /
                                  static_cast<double>(freed),
                          .candidate = index,
                          .to = to};
  is_first ? queue_.Add(edge) : queue_.Push(edge);
}

// What finds no place in a tier goes on to the next.
Tier DemotionPlan::NextTier(Tier from, Tier coldest) const {
  for (const Tier to : {Tier::kWarm, Tier::kCold, Tier::kArchive}) {
    const bool has_room = pool_->arena().num_partial_places(to) > 0 ||
                          pool_->arena().num_empty_superblocks() > NumKeptEmpty(to);
    if (to > from && to <= coldest && has_room && pool_->PageBytes(to) < pool_->PageBytes(from)) {
      return to;
    }
  }
  return from;
}

void DemotionPlan::FreeOf(size_t sequence, uint64_t bytes) {
  queue_.Start();
  for (const PageId page : sequences_[sequence].pages) {
    AddEdge(candidates_.IndexOf(page), /*is_first=*/true);
  }
  TakeFirst(bytes, /*within_errors=*/false);
}

void DemotionPlan::Free(uint64_t bytes) {
  if (bytes == 0) {
    return;
  }
  queue_.Start();
  for (uint32_t i = 0; i < candidates_.all().size(); ++i) {
    AddEdge(i, /*is_first=*/true);
  }
  TakeFirst(bytes, /*within_errors=*/true);
}

void DemotionPlan::TakeFirst(uint64_t bytes, bool within_errors) {
  queue_.Sort();
  uint64_t freed = 0;
  for (const DemotionEdge* first = nullptr; freed < bytes && (first = queue_.First()) != nullptr;) {
    const DemotionEdge edge = *first;
    queue_.Pop();
    const double more = AddedError(edge);
    if (within_errors && !Fits(edge, more)) {
      continue;
    }
    freed += Take(edge, more);
    AddEdge(edge.candidate, /*is_first=*/false);
  }
}

std::vector<TierChange> DemotionPlan::Changes() const {
  std::vector<TierChange> changes;
  changes.reserve(taken_.size());
  for (const uint32_t index : taken_) {
    const Candidate& candidate = candidates_.all()[index];
    changes.push_back(
        {.page = candidate.page, .to = candidate.tier, .keep_empty = NumKeptEmpty(candidate.tier)});
  }
  return changes;
}

double DemotionPlan::AddedError(const DemotionEdge& edge) const {
  const Candidate& candidate = candidates_.all()[edge.candidate];
  return static_cast<double>(pool_->heat(candidate.page).mean) *
         (TierError(edge.to) - TierError(candidate.tier));
}

// Whether each reader can bear so much `more` error.
bool DemotionPlan::Fits(const DemotionEdge& edge, double more) const {
  bool fits = true;
  candidates_.ForEachReader(candidates_.all()[edge.candidate], [&](uint32_t reader) {
    fits = fits && errors_[reader] + more <= MaxError(sequences_[reader].fidelity);
  });
  return fits;
}

// Returns the bytes that it frees.
uint64_t DemotionPlan::Take(const DemotionEdge& edge, double more) {
  Candidate& candidate = candidates_.all()[edge.candidate];
  if (candidate.tier == candidate.now) {
    taken_.push_back(edge.candidate);
  }
  const uint64_t freed =
      page_bytes_[static_cast<size_t>(candidate.tier)] - page_bytes_[static_cast<size_t>(edge.to)];
  candidate.tier = edge.to;
  candidates_.ForEachReader(candidate, [&](uint32_t reader) {
    errors_[reader] += more;
    planned_bytes_[reader] -= freed;
  });
  return freed;
}

}  // namespace thermocline
