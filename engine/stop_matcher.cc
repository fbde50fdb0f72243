#include "engine/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace thermocline {

StopMatcher::StopMatcher(std::span<const std::string> stops) {
  for (const std::string& stop : stops) {
    Pattern pattern{.text = stop, .borders = std::vector<size_t>(stop.size() + 1)};
    size_t border = 0;
    for (size_t n = 1; n < stop.size(); ++n) {
      while (border > 0 && stop[n] != stop[border]) {
        border = pattern.borders[border];
      }
      border += stop[n] == stop[border] ? 1 : 0;
      pattern.borders[n + 1] = border;
    }
    patterns_.push_back(std::move(pattern));
  }
}

void StopMatcher::Advance(Pattern& pattern, char byte) {
  size_t& matched = pattern.num_matched;
  while (matched > 0 && (matched == pattern.text.size() || pattern.text[matched] != byte)) {
    matched = pattern.borders[matched];
  }
  matched += !pattern.text.empty() && pattern.text[matched] == byte ? 1 : 0;
}

std::optional<size_t> StopMatcher::Add(std::string_view text, bool may_stop, bool include_stop,
                                       std::string& out) {
  for (const char byte : text) {
    held_ += byte;
    std::optional<size_t> complete;
    for (size_t i = 0; i < patterns_.size(); ++i) {
      Advance(patterns_[i], byte);
      const size_t size = patterns_[i].text.size();
      if (size > 0 && patterns_[i].num_matched == size &&
          (!complete || size > patterns_[*complete].text.size())) {
        complete = i;
      }
    }
    if (complete && may_stop) {
      const size_t dropped = include_stop ? 0 : patterns_[*complete].text.size();
      out.append(held_, 0, held_.size() - dropped);
      held_.clear();
      return complete;
    }
  }
  size_t num_held = 0;
  for (const Pattern& pattern : patterns_) {
    // A whole match that may not stop cannot become one later; what follows its border can.
    const bool whole = pattern.num_matched == pattern.text.size();
    num_held =
        std::max(num_held, whole ? pattern.borders[pattern.num_matched] : pattern.num_matched);
  }
  out.append(held_, 0, held_.size() - num_held);
  held_.erase(0, held_.size() - num_held);
  return std::nullopt;
}

std::string StopMatcher::TakeHeld() { return std::exchange(held_, {}); }

}  // namespace thermocline
