// libFuzzer's entry: whatever the bytes are, decoding them as a record of the stores gives the one
// thing that is encoded so, or an error. What a checksum would keep out gets a right one, so that
// the checks behind it are reached too. Built by clang under the sanitizers, and by
// store_mutation_test for a run in every build.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/store/page_record.h"
#include "engine/store/record.h"
#include "engine/store/session_record.h"
#include "kernels/base/check.h"
#include "tests/testing/stored_pages.h"

namespace thermocline {
namespace {

constexpr SessionLimits kSessionLimits{.max_tokens = 64};

void DecodeAll(std::span<const std::byte> record) {
  const Result<PageHead> head =
      DecodePageHead(kTestIdentity, record.first(std::min(record.size(), kPageHeadBytes)),
                     record.size(), kTestLimits);
  const ContentHash hash = head.ok() ? head->hash : ContentHash{};
  if (const auto page = DecodePage(kTestIdentity, hash, record, kTestLimits); page.ok()) {
    CHECK(CheckPage(*page, kTestLimits).ok());
    CHECK(head.ok() && head->tier == page->tier && head->loss == page->loss);
    CHECK(std::ranges::equal(EncodePage(kTestIdentity, hash, *page), record));
  }
  if (const auto session = DecodeSession(kTestIdentity, record, kSessionLimits); session.ok()) {
    CHECK(CheckSession(*session, kSessionLimits).ok());
    CHECK(std::ranges::equal(EncodeSession(kTestIdentity, *session), record));
  }
}

}  // namespace
}  // namespace thermocline

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using thermocline::RecordWriter;
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  thermocline::DecodeAll(bytes);
  for (const char* magic : {"THRMPAGE", "THRMSESS"}) {
    const size_t start = std::min(size, thermocline::kRecordStartBytes);
    const size_t end = size - std::min(size - start, thermocline::kRecordChecksumBytes);
    RecordWriter writer({.magic = magic, .name = "fuzzed"}, thermocline::kTestIdentity, size);
    writer.AddBytes(bytes.subspan(start, end - start));
    thermocline::DecodeAll(std::move(writer).Seal());
  }
  return 0;
}
