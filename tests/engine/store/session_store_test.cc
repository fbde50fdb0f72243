#include "engine/store/session_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "engine/store/page_record.h"
#include "engine/store/posix_file_io.h"
#include "engine/store/record.h"
#include "tests/testing/faulty_file_io.h"
#include "tests/testing/stored_pages.h"

namespace thermocline {
namespace {

constexpr SessionLimits kSmallLimits{
    .max_sessions_per_tenant = 3, .max_sessions = 5, .max_tokens = 50};

SavedSession TestSession(const std::string& tenant, const std::string& id, int64_t saved_at = 100) {
  return {.tenant = tenant,
          .id = id,
          .tokens = {5, -6, 7, 8, 9},
          .pages = {TestHash(1), TestHash(2)},
          .saved_at_unix = saved_at,
          .bytes = 12345};
}

StatusCode SessionCodeOf(std::span<const std::byte> record) {
  return DecodeSession(kTestIdentity, record, kSmallLimits).status().code();
}

TEST(SessionId, IsShortAndOfPlainCharacters) {
  EXPECT_TRUE(ValidSessionId("chat-1_B.x"));
  EXPECT_TRUE(ValidSessionId(std::string(128, 'a')));
  EXPECT_FALSE(ValidSessionId(""));
  EXPECT_FALSE(ValidSessionId(std::string(129, 'a')));
  for (const std::string_view bad :
       {".", "..", "a/b", "a b", "\xc3\xa4", "a\n", "a:", "a@", "[", "`", "{"}) {
    EXPECT_FALSE(ValidSessionId(bad)) << bad;
  }
  EXPECT_FALSE(ValidSessionId(std::string_view("a\0b", 3)));
}

TEST(SessionRecord, GivesBackEveryField) {
  const SavedSession session = TestSession("tenant", "chat", -1);
  const auto decoded =
      DecodeSession(kTestIdentity, EncodeSession(kTestIdentity, session), kSmallLimits);
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_TRUE(*decoded == session);
}

TEST(SessionRecord, AnyFlippedBitTruncationOrTailIsDamage) {
  std::vector<std::byte> record = EncodeSession(kTestIdentity, TestSession("tenant", "chat"));
  for (size_t i = 0; i < record.size() * 8; ++i) {
    std::vector<std::byte> bad = record;
    bad[i / 8] ^= std::byte{1} << (i % 8);
    ASSERT_EQ(SessionCodeOf(bad), StatusCode::kDataLoss) << "bit " << i;
  }
  for (size_t size = 0; size < record.size(); ++size) {
    ASSERT_EQ(SessionCodeOf(std::span(record).first(size)), StatusCode::kDataLoss) << size;
  }
  record.push_back({});
  EXPECT_EQ(SessionCodeOf(record), StatusCode::kDataLoss);
}

TEST(SessionRecord, OfAnotherIdentityOrALaterVersionIsRefusedAsSuch) {
  EXPECT_EQ(SessionCodeOf(EncodeSession({.low = 9, .high = 9}, TestSession("a", "b"))),
            StatusCode::kFailedPrecondition);
  RecordWriter writer({.magic = "THRMSESS", .version = 2, .name = "later"}, kTestIdentity, 0);
  EXPECT_EQ(SessionCodeOf(std::move(writer).Seal()), StatusCode::kUnimplemented);
  EXPECT_EQ(SessionCodeOf(EncodePage(kTestIdentity, TestHash(1), TestPage(1))),
            StatusCode::kDataLoss);
}

TEST(SessionRecord, NumbersOutOfBoundsAreDamageEvenUnderARightChecksum) {
  const std::vector<std::byte> good = EncodeSession(kTestIdentity, TestSession("tenant", "chat"));
  const auto forged = [&good](size_t offset, auto value) {
    std::vector<std::byte> bytes = good;
    std::memcpy(bytes.data() + offset, &value, sizeof(value));
    RecordWriter writer({.magic = "THRMSESS", .name = "forged"}, kTestIdentity, bytes.size());
    writer.AddBytes(
        std::span(bytes).first(bytes.size() - kRecordChecksumBytes).subspan(kRecordStartBytes));
    return std::move(writer).Seal();
  };
  ASSERT_EQ(SessionCodeOf(forged(32, uint32_t{6})), StatusCode::kOk);
  EXPECT_EQ(SessionCodeOf(forged(32, ~uint32_t{0})), StatusCode::kDataLoss);
  EXPECT_EQ(SessionCodeOf(forged(36, ~uint32_t{0})), StatusCode::kDataLoss);
  EXPECT_EQ(SessionCodeOf(forged(40, ~uint64_t{0})), StatusCode::kDataLoss);
  EXPECT_EQ(SessionCodeOf(forged(40, uint64_t{1} << 62)), StatusCode::kDataLoss);
  EXPECT_EQ(SessionCodeOf(forged(48, uint64_t{6})), StatusCode::kDataLoss);
  EXPECT_EQ(SessionCodeOf(forged(48, uint64_t{1} << 60)), StatusCode::kDataLoss);
  EXPECT_EQ(SessionCodeOf(forged(78, '/')), StatusCode::kDataLoss);  // in the id
}

TEST(SessionRecord, MoreOfAnythingThanMayBeIsDamageThoughTheLengthsFit) {
  const auto code_of = [](const SavedSession& session) {
    return SessionCodeOf(EncodeSession(kTestIdentity, session));
  };
  SavedSession session = TestSession("tenant", "chat");
  session.pages.resize(session.tokens.size() + 1);
  EXPECT_EQ(code_of(session), StatusCode::kDataLoss);
  session = TestSession("tenant", "chat");
  session.tokens.resize(kSmallLimits.max_tokens + 1);
  EXPECT_EQ(code_of(session), StatusCode::kDataLoss);
  EXPECT_EQ(code_of(TestSession(std::string(kMaxTenantBytes + 1, 'x'), "chat")),
            StatusCode::kDataLoss);
  EXPECT_EQ(code_of(TestSession("tenant", std::string(129, 'x'))), StatusCode::kDataLoss);
  EXPECT_EQ(code_of(TestSession("tenant", "")), StatusCode::kDataLoss);
}

class Sessions : public testing::TestWithParam<bool> {
 protected:
  std::string Directory() const { return GetParam() ? folder_.path() : ""; }
  std::unique_ptr<SessionStore> Opened(const SessionLimits& limits = kSmallLimits) {
    return std::move(SessionStore::Create(Directory(), kTestIdentity, io_, limits)).value();
  }

  TestFolder folder_;
  PosixFileIo io_;
};

INSTANTIATE_TEST_SUITE_P(Each, Sessions, testing::Bool(), [](const auto& tested) {
  return std::string(tested.param ? "OnDisk" : "InMemory");
});

TEST_P(Sessions, AreLoadedAsTheyWereSaved) {
  const auto store = Opened();
  ASSERT_TRUE(store->Save(TestSession("a", "chat")).ok());
  EXPECT_TRUE(store->Load("a", "chat").value() == TestSession("a", "chat"));
  EXPECT_EQ(store->Load("a", "other").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store->Load("b", "chat").status().code(), StatusCode::kNotFound);
}

TEST_P(Sessions, AreTheirTenantsAlone) {
  const auto store = Opened();
  SavedSession other = TestSession("b", "chat");
  other.tokens = {1};
  other.pages = {};
  ASSERT_TRUE(store->Save(TestSession("a", "chat")).ok());
  ASSERT_TRUE(store->Save(other).ok());
  ASSERT_TRUE(store->Save(TestSession("ac", "hat")).ok());
  EXPECT_TRUE(store->Load("a", "chat").value() == TestSession("a", "chat"));
  EXPECT_TRUE(store->Load("b", "chat").value() == other);
  EXPECT_EQ(store->List("a").size(), 1U);
  EXPECT_EQ(store->all().size(), 3U);
  EXPECT_EQ(store->Remove("c", "chat").code(), StatusCode::kNotFound);
  ASSERT_TRUE(store->Remove("a", "chat").ok());
  EXPECT_EQ(store->Load("a", "chat").status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(store->Load("b", "chat").ok());
  EXPECT_EQ(store->Remove("a", "chat").code(), StatusCode::kNotFound);
}

TEST_P(Sessions, AreReplacedByTheirNextSave) {
  const auto store = Opened();
  ASSERT_TRUE(store->Save(TestSession("a", "chat", 1)).ok());
  SavedSession longer = TestSession("a", "chat", 2);
  longer.tokens.push_back(10);
  ASSERT_TRUE(store->Save(longer).ok());
  EXPECT_TRUE(store->Load("a", "chat").value() == longer);
  EXPECT_EQ(store->List("a").size(), 1U);
}

TEST_P(Sessions, AreListedNewestFirst) {
  const auto store = Opened();
  ASSERT_TRUE(store->Save(TestSession("a", "x", 20)).ok());
  ASSERT_TRUE(store->Save(TestSession("a", "y", 30)).ok());
  ASSERT_TRUE(store->Save(TestSession("a", "z", 10)).ok());
  const std::vector<SavedSessionInfo> infos = store->List("a");
  ASSERT_EQ(infos.size(), 3U);
  EXPECT_EQ(infos[0].id + infos[1].id + infos[2].id, "yxz");
  EXPECT_EQ(infos[0].num_tokens, 5U);
  EXPECT_EQ(infos[0].saved_at_unix, 30);
  EXPECT_EQ(infos[0].bytes, 12345U);
  EXPECT_TRUE(infos[0].pages == TestSession("a", "y").pages);
  EXPECT_TRUE(store->List("b").empty());
}

TEST_P(Sessions, AreLimitedByTenantAndInAll) {
  const auto store = Opened();
  for (const char* id : {"1", "2", "3"}) {
    ASSERT_TRUE(store->Save(TestSession("a", id)).ok());
  }
  EXPECT_EQ(store->Save(TestSession("a", "4")).code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(store->Save(TestSession("a", "3", 5)).ok());  // that one is there already
  ASSERT_TRUE(store->Save(TestSession("b", "1")).ok());
  ASSERT_TRUE(store->Save(TestSession("c", "1")).ok());
  EXPECT_EQ(store->Save(TestSession("d", "1")).code(), StatusCode::kFailedPrecondition);
  ASSERT_TRUE(store->Remove("a", "1").ok());
  EXPECT_TRUE(store->Save(TestSession("d", "1")).ok());
}

TEST_P(Sessions, OutOfTheirLimitsAreRefused) {
  const auto store = Opened();
  SavedSession session = TestSession("a", "../../x");
  EXPECT_EQ(store->Save(session).code(), StatusCode::kInvalidArgument);
  session = TestSession(std::string(kMaxTenantBytes + 1, 'a'), "x");
  EXPECT_EQ(store->Save(session).code(), StatusCode::kInvalidArgument);
  session = TestSession("a", "x");
  session.tokens.resize(51);
  EXPECT_EQ(store->Save(session).code(), StatusCode::kInvalidArgument);
  session.tokens.resize(1);
  EXPECT_EQ(store->Save(session).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(store->all().empty());
}

class SessionsOnDisk : public testing::Test {
 protected:
  std::unique_ptr<SessionStore> Opened(const ContentHash& identity = kTestIdentity) {
    return std::move(SessionStore::Create(folder_.path(), identity, io_, kSmallLimits)).value();
  }
  std::filesystem::path OnlyFile() const {
    const auto files = folder_.Files(".session");
    CHECK(files.size() == 1);
    return files[0];
  }
  void Leave() { ASSERT_TRUE(Opened()->Save(TestSession("../tenant", "chat")).ok()); }

  TestFolder folder_;
  PosixFileIo posix_;
  FaultyFileIo io_{posix_};
};

TEST_F(SessionsOnDisk, SurviveARestart) {
  Leave();
  const auto store = Opened();
  ASSERT_EQ(store->all().size(), 1U);
  EXPECT_EQ(store->all()[0].tenant, "../tenant");
  EXPECT_TRUE(store->Load("../tenant", "chat").value() == TestSession("../tenant", "chat"));
  ASSERT_TRUE(store->Remove("../tenant", "chat").ok());
  EXPECT_TRUE(folder_.Files(".session").empty());
}

TEST_F(SessionsOnDisk, AreNamedByDigests) {
  Leave();
  const std::string name = OnlyFile().filename().string();
  EXPECT_EQ(name.size(), 32 + std::string(".session").size());
  EXPECT_EQ(name.find_first_not_of("0123456789abcdef"), 32U);
}

TEST_F(SessionsOnDisk, OfAnotherModelAreNotFoundAndStay) {
  Leave();
  EXPECT_TRUE(Opened({.low = 1, .high = 1})->all().empty());
  EXPECT_EQ(Opened()->all().size(), 1U);
}

TEST_F(SessionsOnDisk, AreOfOneProcessAtATime) {
  const auto first = Opened();
  const auto second = SessionStore::Create(folder_.path(), kTestIdentity, io_, kSmallLimits);
  EXPECT_EQ(second.status().code(), StatusCode::kFailedPrecondition);
}

TEST_F(SessionsOnDisk, ShareTheirDirectoryWithPages) {
  const auto sessions = Opened();
  const auto pages = BackingStore::Create(TestConfig(folder_.path(), 2, 4), io_);
  EXPECT_TRUE(pages.ok());
}

TEST_F(SessionsOnDisk, DamagedOnesAreToldOnceAndNeverLoaded) {
  Leave();
  const auto store = Opened();
  std::string bytes = ReadText(OnlyFile());
  bytes[90] = static_cast<char>(bytes[90] ^ 1);
  WriteText(OnlyFile(), bytes);
  EXPECT_EQ(store->Load("../tenant", "chat").status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(store->Load("../tenant", "chat").status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(folder_.Files(".session").empty());
}

TEST_F(SessionsOnDisk, DamagedAtStartAreCountedAndLeft) {
  Leave();
  WriteText(OnlyFile(), "no session");
  const auto store = Opened();
  EXPECT_TRUE(store->all().empty());
  EXPECT_EQ(store->num_unreadable(), 1U);
  EXPECT_EQ(ReadText(OnlyFile()), "no session");
}

TEST_F(SessionsOnDisk, UnderAnotherOnesNameAreNotTaken) {
  Leave();
  ASSERT_TRUE(Opened()->Save(TestSession("b", "mine")).ok());
  const auto files = folder_.Files(".session");
  ASSERT_EQ(files.size(), 2U);
  const auto store = Opened();
  std::filesystem::rename(files[0], files[1]);
  EXPECT_FALSE(store->Load("../tenant", "chat").ok());
  EXPECT_FALSE(store->Load("b", "mine").ok());
}

TEST_F(SessionsOnDisk, UnderAnotherOnesNameAreNotTakenAtStart) {
  Leave();
  std::filesystem::rename(OnlyFile(),
                          OnlyFile().parent_path() / (std::string(32, 'a') + ".session"));
  const auto store = Opened();
  EXPECT_TRUE(store->all().empty());
  EXPECT_EQ(store->num_unreadable(), 1U);
}

TEST_F(SessionsOnDisk, AFailedSaveLeavesTheOldOne) {
  Leave();
  const auto store = Opened();
  io_.on_call = [](FaultyFileIo::Call call,
                   const std::string&) -> std::optional<FaultyFileIo::Fault> {
    if (call == FaultyFileIo::Call::kWrite) {
      return FaultyFileIo::Fault{.status = ResourceExhausted("no space left"), .num_bytes = 10};
    }
    return std::nullopt;
  };
  EXPECT_EQ(store->Save(TestSession("../tenant", "chat", 999)).code(),
            StatusCode::kResourceExhausted);
  EXPECT_TRUE(store->Load("../tenant", "chat").value() == TestSession("../tenant", "chat"));
  EXPECT_EQ(store->all()[0].saved_at_unix, 100);
  EXPECT_TRUE(folder_.Files(".tmp").empty());
}

TEST_F(SessionsOnDisk, ThatFailLateAreWhatTheDiskHas) {
  Leave();
  const auto store = Opened();
  io_.on_call = [](FaultyFileIo::Call call,
                   const std::string&) -> std::optional<FaultyFileIo::Fault> {
    if (call == FaultyFileIo::Call::kSyncDirectory) {
      return FaultyFileIo::Fault{.status = DataLoss("input/output error")};
    }
    return std::nullopt;
  };
  const SavedSession next = TestSession("../tenant", "chat", 999);
  EXPECT_EQ(store->Save(next).code(), StatusCode::kDataLoss);
  EXPECT_EQ(store->Find("../tenant", "chat")->saved_at_unix, 999);
  EXPECT_TRUE(store->Load("../tenant", "chat").value() == next);
}

TEST_F(SessionsOnDisk, LongerThanMayBeSavedTodayAreStillSessions) {
  Leave();
  const SessionLimits shorter{.max_sessions_per_tenant = 3, .max_sessions = 5, .max_tokens = 2};
  const auto store =
      std::move(SessionStore::Create(folder_.path(), kTestIdentity, io_, shorter)).value();
  ASSERT_EQ(store->List("../tenant").size(), 1U);
  EXPECT_EQ(store->num_unreadable(), 0U);
  EXPECT_TRUE(store->Load("../tenant", "chat").value() == TestSession("../tenant", "chat"));
  EXPECT_TRUE(store->Remove("../tenant", "chat").ok());
  EXPECT_TRUE(folder_.Files(".session").empty());
}

TEST_F(SessionsOnDisk, ThatCouldNotBeReadAreNeverOverwrittenAndCanBeRemoved) {
  Leave();
  const std::string before = ReadText(OnlyFile());
  bool failing = true;
  io_.on_call = [&](FaultyFileIo::Call call,
                    const std::string&) -> std::optional<FaultyFileIo::Fault> {
    if (call == FaultyFileIo::Call::kRead && failing) {
      return FaultyFileIo::Fault{.status = DataLoss("input/output error")};
    }
    return std::nullopt;
  };
  const auto store = Opened();
  failing = false;
  EXPECT_EQ(store->num_unread(), 1U);
  EXPECT_EQ(store->Save(TestSession("../tenant", "chat", 5)).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReadText(OnlyFile()), before);
  EXPECT_TRUE(store->Save(TestSession("../tenant", "other")).ok());
  EXPECT_TRUE(store->Remove("../tenant", "chat").ok());
  EXPECT_TRUE(store->Save(TestSession("../tenant", "chat", 5)).ok());
}

TEST_F(SessionsOnDisk, OfALaterProgramAreNeverOverwritten) {
  Leave();
  RecordWriter writer({.magic = "THRMSESS", .version = 2, .name = "later"}, kTestIdentity, 0);
  ASSERT_TRUE(WriteWholeFile(posix_, OnlyFile().string(), std::move(writer).Seal()).ok());
  const std::string before = ReadText(OnlyFile());
  const auto store = Opened();
  EXPECT_EQ(store->num_unread(), 1U);
  EXPECT_EQ(store->Save(TestSession("../tenant", "chat")).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReadText(OnlyFile()), before);
}

TEST_F(SessionsOnDisk, WhoseFileHasGoneAreNotFound) {
  Leave();
  const auto store = Opened();
  std::filesystem::remove(OnlyFile());
  EXPECT_EQ(store->Load("../tenant", "chat").status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(store->all().empty());
}

TEST_F(SessionsOnDisk, WhatCannotBeReadNowIsNotLost) {
  Leave();
  const auto store = Opened();
  io_.on_call = [](FaultyFileIo::Call call,
                   const std::string&) -> std::optional<FaultyFileIo::Fault> {
    if (call == FaultyFileIo::Call::kRead) {
      return FaultyFileIo::Fault{.status = Unavailable("too many open files")};
    }
    return std::nullopt;
  };
  EXPECT_EQ(store->Load("../tenant", "chat").status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(store->all().size(), 1U);
}

}  // namespace
}  // namespace thermocline
