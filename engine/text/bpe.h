#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/text/vocabulary.h"
#include "kernels/base/token.h"

namespace thermocline {

// Byte pair encoding. It starts with the bytes of a word, then replaces the pair of lowest rank
// (the leftmost among equals) by what it merges into, until no pair merges. Immutable; any thread
// may use it.
class BytePairEncoder {
 public:
  // The vocabulary outlives it. With `ignore_merges`, a word that is a token is that token.
  BytePairEncoder(const Vocabulary& vocabulary, bool ignore_merges);

  // Appends the tokens of a word of less than 2^31 bytes. A byte that the vocabulary has no token
  // for is left out. Time is O(n log n).
  void Encode(std::string_view word, std::vector<TokenId>& out) const;

 private:
  struct Merge {
    uint32_t rank = kNoMerge;
    TokenId result = -1;
  };
  struct MergeSlot {
    uint64_t key = kNoKey;
    Merge merge;
  };
  struct WordSlot {
    uint32_t tag = 0;
    TokenId token = -1;
  };
  static constexpr uint32_t kNoMerge = UINT32_MAX;
  static constexpr uint64_t kNoKey = UINT64_MAX;

  Merge Find(TokenId left, TokenId right) const;
  TokenId FindWord(std::string_view word) const;
  void AddMerges();
  void AddWords(bool ignore_merges);
  void MergeShort(std::string_view word, std::vector<TokenId>& out) const;
  void MergeLong(std::string_view word, std::vector<TokenId>& out) const;

  const Vocabulary& vocabulary_;
  // Open addressing, at most half full, sizes powers of two.
  std::vector<MergeSlot> merges_;
  std::vector<WordSlot> words_;  // the tokens that their own bytes merge into: most words of a text
  size_t longest_word_ = 0;
};

}  // namespace thermocline
