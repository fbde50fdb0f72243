#include "engine/sampling/top_tokens.h"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace thermocline {

// Keeps up to twice `count` candidates and a bar that a new one must clear. Only when the room is
// full are the worse half thrown out and the bar raised, so a pass costs little more than one
// comparison a token.
void SelectTop(std::span<const float> scores, int count, std::vector<ScoredToken>& top) {
  top.clear();
  const size_t keep = std::min(static_cast<size_t>(std::max(count, 0)), scores.size());
  if (keep == 0) {
    return;
  }
  constexpr size_t kMinRoom = 64;
  const size_t room = std::max(2 * keep, kMinRoom);
  top.reserve(room);
  float bar = -std::numeric_limits<float>::infinity();
  bool full = false;  // `keep` candidates stand at the bar or above it
  for (size_t i = 0; i < scores.size(); ++i) {
    // Ids rise, so among equal scores an earlier one ranks before: equal to the bar is too late.
    if (full && !(scores[i] > bar)) {
      continue;
    }
    top.push_back({scores[i], static_cast<TokenId>(i)});
    if (top.size() == room) {
      const auto last_kept = top.begin() + static_cast<ptrdiff_t>(keep - 1);
      std::nth_element(top.begin(), last_kept, top.end(), RanksBefore);
      bar = last_kept->score;
      full = true;
      top.resize(keep);
    }
  }
  const auto end_kept = top.begin() + static_cast<ptrdiff_t>(keep);
  std::partial_sort(top.begin(), end_kept, top.end(), RanksBefore);
  top.resize(keep);
}

}  // namespace thermocline
