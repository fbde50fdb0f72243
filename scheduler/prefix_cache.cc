#include "scheduler/prefix_cache.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "kernels/base/check.h"

namespace thermocline {

ContentHash PrefixCache::DefaultHash(std::span<const std::byte> bytes, uint64_t key) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(bytes.data(), bytes.size(), key);
  return {.low = hash.low64, .high = hash.high64};
}

PrefixCache::PrefixCache(PagePool& pool, uint64_t key, HashFunction hash)
    : pool_(pool), key_(key), hash_(hash), contents_(pool.page_map().size()) {}

ContentHash PrefixCache::Root(std::string_view tenant) const {
  return hash_(std::as_bytes(std::span(tenant)), key_);
}

ContentHash PrefixCache::Next(const ContentHash& previous,
                              std::span<const TokenId> page_tokens) const {
  std::vector<std::byte> bytes(sizeof(previous) + page_tokens.size_bytes());
  std::memcpy(bytes.data(), &previous, sizeof(previous));
  std::memcpy(bytes.data() + sizeof(previous), page_tokens.data(), page_tokens.size_bytes());
  return hash_(bytes, key_);
}

std::vector<ContentHash> PrefixCache::NamesOf(std::string_view tenant,
                                              std::span<const TokenId> tokens) const {
  std::vector<ContentHash> names;
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  ContentHash chain = Root(tenant);
  for (size_t begin = 0; begin + page_tokens <= tokens.size(); begin += page_tokens) {
    chain = Next(chain, tokens.subspan(begin, page_tokens));
    names.push_back(chain);
  }
  return names;
}

std::vector<PageId> PrefixCache::Match(std::string_view tenant, std::span<const TokenId> tokens,
                                       size_t max_pages, Tier accepted, ContentHash& chain) {
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  std::vector<PageId> pages;
  chain = Root(tenant);
  while (pages.size() < max_pages && (pages.size() + 1) * page_tokens <= tokens.size()) {
    const std::span<const TokenId> wanted = tokens.subspan(pages.size() * page_tokens, page_tokens);
    const ContentHash next = Next(chain, wanted);
    const std::optional<PageId> page = pool_.Find(next);
    if (!page.has_value()) {
      break;
    }
    const Content& content = contents_[*page];
    if (content.tenant != tenant || content.previous != chain ||
        !std::equal(wanted.begin(), wanted.end(), content.tokens.begin(), content.tokens.end())) {
      break;  // a collision
    }
    if (pool_.loss(*page) > accepted) {
      break;
    }
    pool_.AddRef(*page, accepted);
    pages.push_back(*page);
    chain = next;
  }
  return pages;
}

void PrefixCache::Insert(PageId page, std::string_view tenant, std::span<const TokenId> page_tokens,
                         const ContentHash& previous, bool is_first, const ContentHash& chain) {
  std::optional<PageId> parent;
  if (!is_first) {
    parent = pool_.Find(previous);
    if (!parent.has_value()) {
      return;  // evicted: a page below it could never be found
    }
  }
  if (parent == page || !pool_.SetHash(page, chain, parent)) {
    return;
  }
  contents_[page] = {.tenant = std::string(tenant),
                     .tokens = {page_tokens.begin(), page_tokens.end()},
                     .previous = previous};
}

PageContent PrefixCache::ContentOf(PageId page) const {
  CHECK(pool_.is_hashed(page));
  const Content& content = contents_[page];
  return {.hash = pool_.hash(page),
          .previous = content.previous,
          .tenant = content.tenant,
          .tokens = content.tokens,
          .loss = pool_.loss(page),
          .first_position = pool_.first_position(page),
          .checksum = pool_.checksum(page)};
}

}  // namespace thermocline
