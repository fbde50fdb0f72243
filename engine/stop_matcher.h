#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thermocline {

// Finds stop strings in text that arrives in pieces, and holds back text that may yet become one.
// Which stop string wins does not depend on where the pieces are cut: the one that is complete
// first, and of those that end at the same byte the longest.
// Costs one automaton step per byte and stop string (Knuth-Morris-Pratt).
class StopMatcher {
 public:
  explicit StopMatcher(std::span<const std::string> stops);  // empty ones never match

  // Appends to `out` what is now sure to come before any stop string. When a stop string is
  // complete and `may_stop`, returns its index; `out` then ends before it, or with it if
  // `include_stop`.
  std::optional<size_t> Add(std::string_view text, bool may_stop, bool include_stop,
                            std::string& out);
  // What was held back; for when the text ends otherwise.
  std::string TakeHeld();

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t> borders;  // [n]: longest proper prefix of text[0, n) that is its suffix
    size_t num_matched = 0;       // the longest prefix of `text` that the stream ends with
  };
  static void Advance(Pattern& pattern, char byte);

  std::vector<Pattern> patterns_;
  std::string held_;  // at least as long as any pattern's num_matched
};

}  // namespace thermocline
