#include "engine/store/page_record.h"

#include <algorithm>
#include <array>
#include <limits>

#include "engine/store/record.h"

namespace thermocline {
namespace {

constexpr RecordKind kPageKind{.magic = "THRMPAGE", .version = 1, .name = "page"};

// The loss that a record's byte stands for. Older records say 1 for every page that is not exact.
constexpr std::array<Tier, 4> kLosses = {Tier::kHot, Tier::kCold, Tier::kWarm, Tier::kArchive};

struct Fields {
  PageHead head;
  ContentHash previous;
  uint64_t checksum = 0;
  uint64_t num_bytes = 0;  // the page's size
  uint32_t first_position = 0;
  uint32_t tenant_bytes = 0;
  uint32_t num_tokens = 0;
};

uint64_t RecordBytes(uint64_t tenant_bytes, uint64_t num_tokens, uint64_t page_bytes) {
  return kPageHeadBytes + tenant_bytes + num_tokens * sizeof(TokenId) + page_bytes +
         kRecordChecksumBytes;
}

bool IsStoredSize(Tier tier, uint64_t num_bytes, const PageLimits& limits) {
  const auto index = static_cast<size_t>(tier);
  if (index >= limits.page_bytes.size() || num_bytes == 0) {
    return false;
  }
  const uint32_t limit = limits.page_bytes[index];
  return tier >= Tier::kCold ? num_bytes <= limit : num_bytes == limit;
}

// Every number is bounded before any is used.
Result<Fields> TakeFields(RecordReader& reader, uint64_t record_bytes, const PageLimits& limits) {
  Fields fields;
  fields.head.hash = reader.TakeHash();
  fields.previous = reader.TakeHash();
  fields.checksum = reader.Take<uint64_t>();
  fields.num_bytes = reader.Take<uint64_t>();
  fields.first_position = reader.Take<uint32_t>();
  fields.tenant_bytes = reader.Take<uint32_t>();
  fields.num_tokens = reader.Take<uint32_t>();
  const auto tier = reader.Take<uint8_t>();
  const auto loss = reader.Take<uint8_t>();
  const auto zeros = reader.Take<uint16_t>();
  fields.head.tier = static_cast<Tier>(tier);
  if (!reader.good() || tier >= kNumTiers || loss >= kLosses.size() || zeros != 0 ||
      fields.first_position > static_cast<uint32_t>(std::numeric_limits<int32_t>::max()) ||
      fields.tenant_bytes > kMaxTenantBytes || fields.num_tokens > limits.page_tokens ||
      !IsStoredSize(fields.head.tier, fields.num_bytes, limits) ||
      RecordBytes(fields.tenant_bytes, fields.num_tokens, fields.num_bytes) != record_bytes) {
    return DataLoss("a page record of {} bytes that is not one of this model's pages",
                    record_bytes);
  }
  fields.head.loss = kLosses[loss];
  return fields;
}

}  // namespace

Status CheckPage(const StoredPage& page, const PageLimits& limits) {
  if (page.tenant.size() > kMaxTenantBytes) {
    return InvalidArgument("a tenant's name has {} bytes, more than {}", page.tenant.size(),
                           kMaxTenantBytes);
  }
  if (page.tokens.size() > limits.page_tokens || page.first_position < 0 || page.loss > kAnyTier ||
      !IsStoredSize(page.tier, page.bytes.size(), limits)) {
    return InvalidArgument("no page of this model: tier {}, {} bytes, {} tokens from {} on",
                           static_cast<int>(page.tier), page.bytes.size(), page.tokens.size(),
                           page.first_position);
  }
  return {};
}

uint64_t PageRecordBytes(const StoredPage& page) {
  return RecordBytes(page.tenant.size(), page.tokens.size(), page.bytes.size());
}

uint64_t MaxPageRecordBytes(const PageLimits& limits) {
  return RecordBytes(kMaxTenantBytes, limits.page_tokens,
                     *std::max_element(limits.page_bytes.begin(), limits.page_bytes.end()));
}

std::vector<std::byte> EncodePage(const ContentHash& identity, const ContentHash& hash,
                                  const StoredPage& page) {
  RecordWriter writer(kPageKind, identity, PageRecordBytes(page));
  writer.AddHash(hash);
  writer.AddHash(page.previous);
  writer.Add(page.checksum);
  writer.Add(uint64_t{page.bytes.size()});
  writer.Add(static_cast<uint32_t>(page.first_position));
  writer.Add(static_cast<uint32_t>(page.tenant.size()));
  writer.Add(static_cast<uint32_t>(page.tokens.size()));
  writer.Add(static_cast<uint8_t>(page.tier));
  const auto* loss = std::find(kLosses.begin(), kLosses.end(), page.loss);
  writer.Add(static_cast<uint8_t>(loss - kLosses.begin()));
  writer.Add(uint16_t{0});
  writer.AddBytes(std::as_bytes(std::span(page.tenant)));
  writer.AddTokens(page.tokens);
  writer.AddBytes(page.bytes);
  return std::move(writer).Seal();
}

Result<StoredPage> DecodePage(const ContentHash& identity, const ContentHash& hash,
                              std::span<const std::byte> record, const PageLimits& limits) {
  Result<RecordReader> reader = OpenRecord(kPageKind, identity, record);
  if (!reader.ok()) {
    return reader.status();
  }
  const Result<Fields> fields = TakeFields(*reader, record.size(), limits);
  if (!fields.ok()) {
    return fields.status();
  }
  if (fields->head.hash != hash) {
    return DataLoss("page {} where {} was looked for", HexDigits(fields->head.hash),
                    HexDigits(hash));
  }
  StoredPage page{.tier = fields->head.tier,
                  .loss = fields->head.loss,
                  .first_position = static_cast<int32_t>(fields->first_position),
                  .checksum = fields->checksum,
                  .previous = fields->previous,
                  .tenant = reader->TakeString(fields->tenant_bytes),
                  .tokens = reader->TakeTokens(fields->num_tokens)};
  const std::span<const std::byte> bytes = reader->TakeBytes(fields->num_bytes);
  page.bytes.assign(bytes.begin(), bytes.end());
  return page;
}

Result<PageHead> DecodePageHead(const ContentHash& identity, std::span<const std::byte> head,
                                uint64_t record_bytes, const PageLimits& limits) {
  Result<RecordReader> reader = OpenRecordHead(kPageKind, identity, head);
  if (!reader.ok()) {
    return reader.status();
  }
  const Result<Fields> fields = TakeFields(*reader, record_bytes, limits);
  if (!fields.ok()) {
    return fields.status();
  }
  return fields->head;
}

}  // namespace thermocline
