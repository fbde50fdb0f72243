#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kernels/base/token.h"
#include "scheduler/page_pool.h"
#include "scheduler/page_transfer.h"

namespace thermocline {

// Finds the full pages that a prompt shares with earlier ones of the same tenant. A page is known
// by a 128-bit hash of its tokens and of the hash before it; the chain starts from a per-process
// key and the tenant, so tenants never meet. A hash is only where to look: token ids and tenant are
// compared before a page is reused. Not thread-safe: only the engine thread calls it.
class PrefixCache {
 public:
  using HashFunction = ContentHash (*)(std::span<const std::byte> bytes, uint64_t key);
  // XXH3, 128 bits, keyed.
  static ContentHash DefaultHash(std::span<const std::byte> bytes, uint64_t key);

  // `key`: random, so that nobody outside can aim for a collision. `hash`: another one in tests.
  PrefixCache(PagePool& pool, uint64_t key, HashFunction hash = DefaultHash);

  // The start of a tenant's chains, and the link after `previous` for one page of tokens.
  ContentHash Root(std::string_view tenant) const;
  ContentHash Next(const ContentHash& previous, std::span<const TokenId> page_tokens) const;

  // The names of all full pages that tokens begin with, wherever they are.
  std::vector<ContentHash> NamesOf(std::string_view tenant, std::span<const TokenId> tokens) const;

  // The longest run of known pages at the start of `tokens`, at most max_pages, with one reference
  // taken on each. `chain` becomes the hash of the last (of the root when there is none).
  // Ends before a page of more loss than `accepted`, which is what the references accept.
  std::vector<PageId> Match(std::string_view tenant, std::span<const TokenId> tokens,
                            size_t max_pages, Tier accepted, ContentHash& chain);

  // Makes a full page known under `chain`, the hash that follows `previous`. `is_first`: the page
  // starts its sequence. Nothing happens when the same content is known already or the page before
  // it no longer is.
  void Insert(PageId page, std::string_view tenant, std::span<const TokenId> page_tokens,
              const ContentHash& previous, bool is_first, const ContentHash& chain);

  // What a hashed page holds, for a store outside the arena.
  PageContent ContentOf(PageId page) const;

 private:
  struct Content {
    std::string tenant;
    std::vector<TokenId> tokens;
    ContentHash previous;
  };

  PagePool& pool_;
  uint64_t key_;
  HashFunction hash_;
  std::vector<Content> contents_;  // by PageId; meaningful while the page is hashed
};

}  // namespace thermocline
