#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

namespace thermocline {

// Finds the tokens of a text that are matched as they are spelled, before anything is merged:
// control tokens and user-defined ones. The leftmost match wins, of those the longest. Immutable.
class AddedTokens {
 public:
  struct Match {
    TokenId token = 0;
    size_t begin = 0;
    size_t end = 0;
  };

  explicit AddedTokens(const Vocabulary& vocabulary);

  // The first match at or after `from`. See Tokenizer::Encode for the rest.
  std::optional<Match> Find(std::string_view text, size_t from, SpecialTokens special,
                            std::span<const ByteRange> plain_ranges) const;

 private:
  // A trie of spellings. Its depth, and so the work per byte of text, is the longest spelling.
  struct Node {
    std::vector<std::pair<char, uint32_t>> children;
    TokenId token = -1;
    bool is_special = false;
  };

  void Add(std::string_view spelling, TokenId token, bool is_special);
  const Node* Child(const Node& node, char byte) const;
  std::optional<Match> MatchAt(std::string_view text, size_t begin, SpecialTokens special,
                               std::span<const ByteRange> plain_ranges) const;

  std::vector<Node> nodes_;
  // Whether a match can start with a byte. Indexed by SpecialTokens.
  std::array<std::array<bool, 256>, 2> starts_{};
  std::array<bool, 2> any_{};  // whether there is anything to find; indexed by SpecialTokens
};

}  // namespace thermocline
