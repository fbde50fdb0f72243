#include "engine/store/page_record.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "engine/store/record.h"
#include "tests/testing/stored_pages.h"

namespace thermocline {
namespace {

const ContentHash kHash = TestHash(7);

StoredPage SmallPage() {
  StoredPage page = TestPage(7, Tier::kWarm, Tier::kCold);
  page.tenant = "tenant";
  return page;
}

std::vector<std::byte> Record(const StoredPage& page = SmallPage()) {
  return EncodePage(kTestIdentity, kHash, page);
}

StatusCode CodeOf(std::span<const std::byte> record) {
  return DecodePage(kTestIdentity, kHash, record, kTestLimits).status().code();
}

// The record with `value` at `offset`, behind the start, and a checksum that fits.
template <typename T>
std::vector<std::byte> Forged(size_t offset, T value) {
  std::vector<std::byte> record = Record();
  std::memcpy(record.data() + offset, &value, sizeof(value));
  RecordWriter writer({.magic = "THRMPAGE", .name = "forged"}, kTestIdentity, record.size());
  writer.AddBytes(
      std::span(record).first(record.size() - kRecordChecksumBytes).subspan(kRecordStartBytes));
  return std::move(writer).Seal();
}

TEST(PageRecord, GivesBackEveryFieldOfEveryTier) {
  for (const Tier tier : {Tier::kHot, Tier::kWarm, Tier::kCold}) {
    for (const Tier loss : {Tier::kHot, Tier::kWarm, Tier::kCold, Tier::kArchive}) {
      const StoredPage page = TestPage(7, tier, loss);
      const Result<StoredPage> decoded =
          DecodePage(kTestIdentity, kHash, Record(page), kTestLimits);
      ASSERT_TRUE(decoded.ok()) << decoded.status().message();
      EXPECT_TRUE(*decoded == page);
      EXPECT_EQ(Record(page).size(), PageRecordBytes(page));
    }
  }
}

TEST(PageRecord, TakesTheLongestTenantAndNoTokens) {
  StoredPage page = TestPage(7);
  ASSERT_EQ(page.tenant.size(), kMaxTenantBytes);
  page.tokens.clear();
  const Result<StoredPage> decoded = DecodePage(kTestIdentity, kHash, Record(page), kTestLimits);
  ASSERT_TRUE(decoded.ok());
  EXPECT_TRUE(*decoded == page);
}

TEST(PageRecord, LaysItsFieldsOutAsTheDocumentSays) {
  const std::vector<std::byte> record = Record();
  EXPECT_EQ(std::memcmp(record.data(), "THRMPAGE\x01\0\0\0\0\0\0\0", 16), 0);
  const auto at = [&record](size_t offset, auto value) {
    std::memcpy(&value, record.data() + offset, sizeof(value));
    return value;
  };
  const StoredPage page = SmallPage();
  EXPECT_EQ(at(16, uint64_t{}), kTestIdentity.low);
  EXPECT_EQ(at(24, uint64_t{}), kTestIdentity.high);
  EXPECT_EQ(at(32, uint64_t{}), kHash.low);
  EXPECT_EQ(at(48, uint64_t{}), page.previous.low);
  EXPECT_EQ(at(64, uint64_t{}), page.checksum);
  EXPECT_EQ(at(72, uint64_t{}), 80U);
  EXPECT_EQ(at(80, uint32_t{}), 28U);
  EXPECT_EQ(at(84, uint32_t{}), 6U);
  EXPECT_EQ(at(88, uint32_t{}), 4U);
  EXPECT_EQ(at(92, uint8_t{}), 1U);
  EXPECT_EQ(at(93, uint8_t{}), 1U);
  EXPECT_EQ(std::memcmp(record.data() + 96, "tenant", 6), 0);
  EXPECT_EQ(at(106, int32_t{}), -2);
  EXPECT_EQ(std::memcmp(record.data() + 118, page.bytes.data(), 80), 0);
  EXPECT_EQ(record.size(), 118U + 80 + 16);
}

TEST(PageRecord, AnyFlippedBitIsDamage) {
  const std::vector<std::byte> good = Record();
  for (size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::vector<std::byte> bad = good;
      bad[i] ^= std::byte{1} << bit;
      ASSERT_EQ(CodeOf(bad), StatusCode::kDataLoss) << "byte " << i << " bit " << bit;
    }
  }
}

TEST(PageRecord, AnyTruncationAndAnyTailIsDamage) {
  std::vector<std::byte> record = Record();
  for (size_t size = 0; size < record.size(); ++size) {
    ASSERT_EQ(CodeOf(std::span(record).first(size)), StatusCode::kDataLoss) << size;
  }
  record.push_back({});
  EXPECT_EQ(CodeOf(record), StatusCode::kDataLoss);
}

TEST(PageRecord, OfAnotherIdentityIsRefusedAsSuch) {
  const auto foreign = EncodePage({.low = 1, .high = 2}, kHash, TestPage(7));
  EXPECT_EQ(CodeOf(foreign), StatusCode::kFailedPrecondition);
  EXPECT_EQ(DecodePageHead(kTestIdentity, foreign, foreign.size(), kTestLimits).status().code(),
            StatusCode::kFailedPrecondition);
}

TEST(PageRecord, OfALaterVersionIsRefusedAsSuch) {
  RecordWriter writer({.magic = "THRMPAGE", .version = 2, .name = "later"}, kTestIdentity, 0);
  writer.AddBytes(std::as_bytes(std::span("whatever may come then")));
  EXPECT_EQ(CodeOf(std::move(writer).Seal()), StatusCode::kUnimplemented);
}

TEST(PageRecord, OfAnotherHashIsDamage) {
  EXPECT_EQ(DecodePage(kTestIdentity, TestHash(8), Record(), kTestLimits).status().code(),
            StatusCode::kDataLoss);
}

// Whole records, as a program with a bug or a person with bad intent would write them.
TEST(PageRecord, NumbersOutOfBoundsAreDamageEvenUnderARightChecksum) {
  ASSERT_EQ(CodeOf(Forged(92, uint8_t{1})), StatusCode::kOk);  // the tier it has
  EXPECT_EQ(CodeOf(Forged(72, uint64_t{81})), StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(Forged(72, ~uint64_t{0})), StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(Forged(80, uint32_t{0x80000000})), StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(Forged(84, uint32_t{257})), StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(Forged(84, ~uint32_t{0})), StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(Forged(88, uint32_t{5})), StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(Forged(88, ~uint32_t{0})), StatusCode::kDataLoss);
  for (const int tier : {0, 2, 3, 4, 5, 255}) {
    EXPECT_EQ(CodeOf(Forged(92, static_cast<uint8_t>(tier))), StatusCode::kDataLoss) << tier;
  }
  EXPECT_EQ(CodeOf(Forged(93, uint8_t{4})), StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(Forged(94, uint16_t{1})), StatusCode::kDataLoss);
}

TEST(PageRecord, MoreTokensOrTenantThanMayBeAreDamageThoughTheLengthsFit) {
  StoredPage page = SmallPage();
  page.tokens.push_back(5);
  EXPECT_EQ(CodeOf(Record(page)), StatusCode::kDataLoss);
  page = SmallPage();
  page.tenant = std::string(kMaxTenantBytes + 1, 'x');
  EXPECT_EQ(CodeOf(Record(page)), StatusCode::kDataLoss);
  page = SmallPage();
  page.bytes.push_back({});
  EXPECT_EQ(CodeOf(Record(page)), StatusCode::kDataLoss);
}

TEST(PageRecord, HeadTellsTierAndLossFromItsFirstBytesAndTheFilesSize) {
  const std::vector<std::byte> record = Record();
  const auto head = std::span(record).first(kPageHeadBytes);
  const Result<PageHead> decoded = DecodePageHead(kTestIdentity, head, record.size(), kTestLimits);
  ASSERT_TRUE(decoded.ok());
  EXPECT_TRUE(decoded->hash == kHash);
  EXPECT_EQ(decoded->tier, Tier::kWarm);
  EXPECT_EQ(decoded->loss, Tier::kCold);
  EXPECT_EQ(DecodePageHead(kTestIdentity, head, record.size() - 1, kTestLimits).status().code(),
            StatusCode::kDataLoss);
  for (size_t size = 0; size < kPageHeadBytes; ++size) {
    EXPECT_FALSE(DecodePageHead(kTestIdentity, head.first(size), record.size(), kTestLimits).ok());
  }
}

TEST(PageRecord, CheckPageRefusesWhatDecodePageWould) {
  EXPECT_TRUE(CheckPage(TestPage(7), kTestLimits).ok());
  StoredPage page = TestPage(7);
  page.tenant = std::string(kMaxTenantBytes + 1, 'x');
  EXPECT_EQ(CheckPage(page, kTestLimits).code(), StatusCode::kInvalidArgument);
  page = TestPage(7);
  page.tokens.push_back(5);
  EXPECT_EQ(CheckPage(page, kTestLimits).code(), StatusCode::kInvalidArgument);
  page = TestPage(7);
  page.bytes.pop_back();
  EXPECT_EQ(CheckPage(page, kTestLimits).code(), StatusCode::kInvalidArgument);
  page = TestPage(7);
  page.tier = Tier::kBacked;
  EXPECT_EQ(CheckPage(page, kTestLimits).code(), StatusCode::kInvalidArgument);
  page = TestPage(7);
  page.first_position = -1;
  EXPECT_EQ(CheckPage(page, kTestLimits).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace thermocline
