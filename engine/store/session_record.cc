#include "engine/store/session_record.h"

#include <algorithm>

#include "engine/store/page_record.h"
#include "engine/store/record.h"

namespace thermocline {
namespace {

constexpr RecordKind kSessionKind{.magic = "THRMSESS", .version = 1, .name = "session"};
constexpr size_t kMaxSessionIdBytes = 128;
constexpr uint64_t kFieldBytes = 40;

uint64_t RecordBytes(uint64_t tenant_bytes, uint64_t id_bytes, uint64_t num_tokens,
                     uint64_t num_pages) {
  return kRecordStartBytes + kFieldBytes + tenant_bytes + id_bytes + num_tokens * sizeof(TokenId) +
         num_pages * sizeof(ContentHash) + kRecordChecksumBytes;
}

// Whether a record may have this id. "." and ".." were valid once.
bool MayBeRecorded(std::string_view id) {
  return !id.empty() && id.size() <= kMaxSessionIdBytes &&
         std::all_of(id.begin(), id.end(), [](char c) {
           return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
         });
}

}  // namespace

bool ValidSessionId(std::string_view id) { return MayBeRecorded(id) && id != "." && id != ".."; }

Status CheckSession(const SavedSession& session, const SessionLimits& limits) {
  if (!ValidSessionId(session.id)) {
    return InvalidArgument("a session's id is 1 to {} of A-Z, a-z, 0-9, '.', '_' and '-'",
                           kMaxSessionIdBytes);
  }
  if (session.tenant.size() > kMaxTenantBytes) {
    return InvalidArgument("a tenant's name has {} bytes, more than {}", session.tenant.size(),
                           kMaxTenantBytes);
  }
  if (session.tokens.size() > limits.max_tokens || session.pages.size() > session.tokens.size()) {
    return InvalidArgument("a session of {} tokens and {} pages, more than {} tokens or one a page",
                           session.tokens.size(), session.pages.size(), limits.max_tokens);
  }
  return {};
}

uint64_t MaxSessionRecordBytes(const SessionLimits& limits) {
  return RecordBytes(kMaxTenantBytes, kMaxSessionIdBytes, limits.max_tokens, limits.max_tokens);
}

std::vector<std::byte> EncodeSession(const ContentHash& identity, const SavedSession& session) {
  RecordWriter writer(kSessionKind, identity,
                      RecordBytes(session.tenant.size(), session.id.size(), session.tokens.size(),
                                  session.pages.size()));
  writer.Add(static_cast<uint32_t>(session.tenant.size()));
  writer.Add(static_cast<uint32_t>(session.id.size()));
  writer.Add(uint64_t{session.tokens.size()});
  writer.Add(uint64_t{session.pages.size()});
  writer.Add(static_cast<uint64_t>(session.saved_at_unix));
  writer.Add(session.bytes);
  writer.AddBytes(std::as_bytes(std::span(session.tenant)));
  writer.AddBytes(std::as_bytes(std::span(session.id)));
  writer.AddTokens(session.tokens);
  for (const ContentHash& page : session.pages) {
    writer.AddHash(page);
  }
  return std::move(writer).Seal();
}

Result<SavedSession> DecodeSession(const ContentHash& identity, std::span<const std::byte> record,
                                   const SessionLimits& limits) {
  Result<RecordReader> reader = OpenRecord(kSessionKind, identity, record);
  if (!reader.ok()) {
    return reader.status();
  }
  SavedSession session;
  const auto tenant_bytes = reader->Take<uint32_t>();
  const auto id_bytes = reader->Take<uint32_t>();
  const auto num_tokens = reader->Take<uint64_t>();
  const auto num_pages = reader->Take<uint64_t>();
  session.saved_at_unix = static_cast<int64_t>(reader->Take<uint64_t>());
  session.bytes = reader->Take<uint64_t>();
  // Bounded first, so that the sum cannot wrap.
  if (!reader->good() || tenant_bytes > kMaxTenantBytes || id_bytes > kMaxSessionIdBytes ||
      num_tokens > limits.max_tokens || num_pages > num_tokens ||
      RecordBytes(tenant_bytes, id_bytes, num_tokens, num_pages) != record.size()) {
    return DataLoss("a session record of {} bytes that nobody writes", record.size());
  }
  session.tenant = reader->TakeString(tenant_bytes);
  session.id = reader->TakeString(id_bytes);
  session.tokens = reader->TakeTokens(num_tokens);
  session.pages.resize(num_pages);
  for (ContentHash& page : session.pages) {
    page = reader->TakeHash();
  }
  if (!MayBeRecorded(session.id)) {
    return DataLoss("a session record with an id that nobody may give");
  }
  return session;
}

}  // namespace thermocline
