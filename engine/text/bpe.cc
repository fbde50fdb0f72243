#include "engine/text/bpe.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <functional>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

// For words up to this length, searching all pairs for the best one is faster than a heap.
constexpr size_t kMaxShortWord = 48;

uint64_t PairKey(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

size_t HashPair(uint64_t key) {
  const uint64_t mixed = key * 0x9e3779b97f4a7c15u;  // 2^64 over the golden ratio
  return mixed ^ mixed >> 32;
}

size_t TableSize(size_t num_entries) { return std::bit_ceil(2 * num_entries + 2); }

}  // namespace

BytePairEncoder::BytePairEncoder(const Vocabulary& vocabulary, bool ignore_merges)
    : vocabulary_(vocabulary) {
  AddMerges();
  AddWords(ignore_merges);
}

void BytePairEncoder::AddMerges() {
  const std::vector<TokenMerge>& merges = vocabulary_.merges();
  merges_.resize(TableSize(merges.size()));
  const size_t mask = merges_.size() - 1;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const uint64_t key = PairKey(merges[rank].left, merges[rank].right);
    size_t at = HashPair(key) & mask;
    while (merges_[at].key != kNoKey) {
      at = (at + 1) & mask;
    }
    merges_[at] = {key, {static_cast<uint32_t>(rank), merges[rank].result}};
  }
}

void BytePairEncoder::AddWords(bool ignore_merges) {
  words_.resize(TableSize(static_cast<size_t>(vocabulary_.size())));
  const size_t mask = words_.size() - 1;
  std::vector<TokenId> merged;
  for (TokenId token = 0; token < vocabulary_.size(); ++token) {
    const std::string_view word = vocabulary_.bytes(token);
    if (!vocabulary_.IsByteLevel(token) || word.empty()) {
      continue;
    }
    if (!ignore_merges) {
      merged.clear();
      Encode(word, merged);  // finds no word that is not merged into: those before this one
      if (merged.size() != 1 || merged[0] != token) {
        continue;
      }
    }
    const uint64_t hash = XXH3_64bits(word.data(), word.size());
    size_t at = hash & mask;
    while (words_[at].token >= 0) {
      at = (at + 1) & mask;
    }
    words_[at] = {static_cast<uint32_t>(hash >> 32), token};
    longest_word_ = std::max(longest_word_, word.size());
  }
}

BytePairEncoder::Merge BytePairEncoder::Find(TokenId left, TokenId right) const {
  const uint64_t key = PairKey(left, right);
  const size_t mask = merges_.size() - 1;
  for (size_t at = HashPair(key) & mask; merges_[at].key != kNoKey; at = (at + 1) & mask) {
    if (merges_[at].key == key) {
      return merges_[at].merge;
    }
  }
  return {};
}

TokenId BytePairEncoder::FindWord(std::string_view word) const {
  if (word.size() > longest_word_) {
    return -1;
  }
  const uint64_t hash = XXH3_64bits(word.data(), word.size());
  const auto tag = static_cast<uint32_t>(hash >> 32);
  const size_t mask = words_.size() - 1;
  for (size_t at = hash & mask; words_[at].token >= 0; at = (at + 1) & mask) {
    if (words_[at].tag == tag && vocabulary_.bytes(words_[at].token) == word) {
      return words_[at].token;
    }
  }
  return -1;
}

void BytePairEncoder::Encode(std::string_view word, std::vector<TokenId>& out) const {
  if (const TokenId token = FindWord(word); token >= 0) {
    out.push_back(token);
  } else if (word.size() <= kMaxShortWord) {
    MergeShort(word, out);
  } else {
    MergeLong(word, out);
  }
}

void BytePairEncoder::MergeShort(std::string_view word, std::vector<TokenId>& out) const {
  std::array<TokenId, kMaxShortWord> tokens;
  std::array<Merge, kMaxShortWord> merges;  // element i merges token i with the next
  size_t size = 0;
  for (char byte : word) {
    const TokenId token = vocabulary_.byte_tokens()[static_cast<uint8_t>(byte)];
    if (token >= 0) {
      tokens[size++] = token;
    }
  }
  for (size_t i = 0; i + 1 < size; ++i) {
    merges[i] = Find(tokens[i], tokens[i + 1]);
  }
  while (size > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < size; ++i) {
      if (merges[i].rank < merges[best].rank) {
        best = i;
      }
    }
    if (merges[best].rank == kNoMerge) {
      break;
    }
    tokens[best] = merges[best].result;
    std::copy(&tokens[best] + 2, tokens.data() + size, &tokens[best] + 1);
    std::copy(&merges[best] + 2, merges.data() + size, &merges[best] + 1);
    --size;
    if (best > 0) {
      merges[best - 1] = Find(tokens[best - 1], tokens[best]);
    }
    if (best + 1 < size) {
      merges[best] = Find(tokens[best], tokens[best + 1]);
    }
  }
  out.insert(out.end(), tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(size));
}

void BytePairEncoder::MergeLong(std::string_view word, std::vector<TokenId>& out) const {
  CHECK(word.size() < (size_t{1} << 31));
  struct Symbol {
    TokenId token;  // -1: merged into the one before
    int32_t previous, next;
  };
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (char byte : word) {
    const TokenId token = vocabulary_.byte_tokens()[static_cast<uint8_t>(byte)];
    const auto at = static_cast<int32_t>(symbols.size());
    if (token >= 0) {
      symbols.push_back({token, at - 1, at + 1});
    }
  }
  if (symbols.empty()) {
    return;
  }
  symbols.back().next = -1;
  const auto symbol = [&](int32_t at) -> Symbol& { return symbols[static_cast<size_t>(at)]; };

  // Pairs that may be merged: rank, then index of the left symbol. Stale entries stay in the heap;
  // their rank is no longer that of the pair at that index.
  std::vector<uint64_t> heap;
  const auto merge_at = [&](int32_t at) {
    return symbol(at).next < 0 ? Merge{} : Find(symbol(at).token, symbol(symbol(at).next).token);
  };
  const auto key_of = [](Merge merge, int32_t at) {
    return static_cast<uint64_t>(merge.rank) << 32 | static_cast<uint32_t>(at);
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    const auto at = static_cast<int32_t>(i);
    const Merge merge = merge_at(at);
    if (merge.rank != kNoMerge) {
      heap.push_back(key_of(merge, at));
    }
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](int32_t at) {
    const Merge merge = merge_at(at);
    if (merge.rank == kNoMerge) {
      return;
    }
    heap.push_back(key_of(merge, at));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const auto at = static_cast<int32_t>(top & UINT32_MAX);
    if (symbol(at).token < 0) {
      continue;
    }
    const Merge merge = merge_at(at);
    if (merge.rank != top >> 32) {
      continue;
    }
    const int32_t gone = symbol(at).next;
    const int32_t next = symbol(gone).next;
    symbol(at).token = merge.result;
    symbol(at).next = next;
    symbol(gone).token = -1;
    if (next >= 0) {
      symbol(next).previous = at;
      push(at);
    }
    if (symbol(at).previous >= 0) {
      push(symbol(at).previous);
    }
  }
  for (int32_t at = 0; at >= 0; at = symbol(at).next) {
    out.push_back(symbol(at).token);
  }
}

}  // namespace thermocline
