#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/base/token.h"
#include "kernels/page_format.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// A full page of a conversation as it is kept outside the arena, with what is needed to load it:
// its tenant, its tokens and the page before it.
struct StoredPage {
  Tier tier = Tier::kHot;
  Tier loss = Tier::kHot;      // see PagePool
  int32_t first_position = 0;  // its first token's
  uint64_t checksum = 0;       // PageMove::checksum of `bytes`; 0 while hot
  ContentHash previous;        // names the page before it, or is its tenant's root
  std::string tenant;          // at most kMaxTenantBytes
  std::vector<TokenId> tokens;
  std::vector<std::byte> bytes;  // the same as in the arena

  bool operator==(const StoredPage&) const = default;
};

inline constexpr size_t kMaxTenantBytes = 256;

// Bounds of a page of this model. A tier of 0 bytes is not stored.
struct PageLimits {
  uint32_t page_tokens = 0;
  // Indexed by tier. Hot and warm pages have exactly this size. Colder ones have at most this size:
  // it depends on the formats that they were coded in.
  std::array<uint32_t, kNumTiers> page_bytes{};
};

// Writes one page as one run of bytes (docs/store_format.md): a head of kPageHeadBytes, tenant,
// tokens, the page's bytes, and XXH3 (128 bits) of all that. `identity` names the model file, the
// formats of its pages and the seed of their rotation: pages of another identity mean nothing here.
inline constexpr size_t kPageHeadBytes = 96;

// kInvalidArgument: the page is not within `limits`.
Status CheckPage(const StoredPage& page, const PageLimits& limits);
// The size of the page's record.
uint64_t PageRecordBytes(const StoredPage& page);
uint64_t MaxPageRecordBytes(const PageLimits& limits);

std::vector<std::byte> EncodePage(const ContentHash& identity, const ContentHash& hash,
                                  const StoredPage& page);
// Reads any bytes. kDataLoss: they are not what EncodePage wrote for `hash`, or not within
// `limits`. kUnimplemented: whole, but of a later version. kFailedPrecondition: whole, but of
// another identity.
Result<StoredPage> DecodePage(const ContentHash& identity, const ContentHash& hash,
                              std::span<const std::byte> record, const PageLimits& limits);

// What a record's first kPageHeadBytes say. They have no checksum of their own: only DecodePage of
// the whole record shows that they are true.
struct PageHead {
  ContentHash hash;
  Tier tier = Tier::kHot;
  Tier loss = Tier::kHot;
};
// `record_bytes`: the whole record's size, which the head must fit. Errors are DecodePage's.
Result<PageHead> DecodePageHead(const ContentHash& identity, std::span<const std::byte> head,
                                uint64_t record_bytes, const PageLimits& limits);

}  // namespace thermocline
