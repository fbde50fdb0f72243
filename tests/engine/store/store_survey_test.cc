#include "engine/store/store_survey.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/store/backing_store.h"
#include "engine/store/posix_file_io.h"
#include "engine/store/record.h"
#include "engine/store/session_store.h"
#include "engine/store/store_removal.h"
#include "tests/testing/faulty_file_io.h"
#include "tests/testing/stored_pages.h"

namespace thermocline {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

constexpr ContentHash kOtherIdentity{.low = 0x07e4, .high = 0xabcdef};

// A directory with pages and sessions of two models, as their servers left them.
class SurveyedStore : public testing::Test {
 protected:
  SurveyedStore() {
    AddPages(kTestIdentity, {Tier::kHot, Tier::kHot, Tier::kCold});
    AddPages(kOtherIdentity, {Tier::kWarm});
    AddSession(kTestIdentity, "winter", {TestHash(0), TestHash(2), TestHash(9), TestHash(1)}, 200);
    AddSession(kOtherIdentity, "winter", {TestHash(0)}, 100);
  }

  void AddPages(const ContentHash& identity, const std::vector<Tier>& tiers) {
    BackingStore::Config config = TestConfig(folder_.path(), 10, 100);
    config.identity = identity;
    const auto store = BackingStore::Create(config, io_);
    CHECK(store.ok());
    for (size_t i = 0; i < tiers.size(); ++i) {
      CHECK((*store)->Put(TestHash(i), TestPage(i, tiers[i], tiers[i])).ok());
    }
    CHECK((*store)->Flush().ok());
  }
  void AddSession(const ContentHash& identity, const std::string& id,
                  std::vector<ContentHash> pages, int64_t saved_at) {
    const auto store = SessionStore::Create(folder_.path(), identity, io_, kTestSessionLimits);
    CHECK(store.ok());
    CHECK((*store)
              ->Save({.tenant = "default",
                      .id = id,
                      .tokens = {1, 2, 3, 4, 5},
                      .pages = std::move(pages),
                      .saved_at_unix = saved_at,
                      .bytes = 77})
              .ok());
  }
  StoreSurvey Survey() {
    Result<StoreSurvey> survey = SurveyStore(io_, folder_.path());
    CHECK(survey.ok());
    return *std::move(survey);
  }
  // Of the first model, which is the first by digits too.
  StoreSurvey::Identity First() { return Survey().identities.at(0); }
  fs::path FileOf(uint64_t number, const ContentHash& identity = kTestIdentity) const {
    const std::string digits = HexDigits(TestHash(number));
    return fs::path(folder_.path()) / HexDigits(identity) / digits.substr(0, 2) /
           (digits.substr(2) + ".page");
  }
  std::set<std::string> FileNames() const {
    std::set<std::string> names;
    for (const fs::path& path : folder_.Files("")) {
      names.insert(path.string());
    }
    return names;
  }

  TestFolder folder_;
  PosixFileIo io_;
};

TEST_F(SurveyedStore, TellsPagesByModelAndTier) {
  const StoreSurvey survey = Survey();
  ASSERT_EQ(survey.identities.size(), 2);
  const StoreSurvey::Identity& first = survey.identities[0];
  EXPECT_EQ(first.hash, kTestIdentity);
  EXPECT_EQ(first.tiers[0].num_pages, 2);
  EXPECT_EQ(first.tiers[0].bytes, 2 * kTestPageBytes);
  EXPECT_EQ(first.tiers[2].num_pages, 1);
  EXPECT_EQ(first.tiers[2].bytes, fs::file_size(FileOf(2)));
  EXPECT_EQ(first.num_sessions, 1);
  EXPECT_EQ(first.num_unreadable_pages, 0);
  EXPECT_GT(first.oldest_use_unix, 0);
  EXPECT_GE(first.latest_use_unix, first.oldest_use_unix);
  EXPECT_EQ(survey.identities[1].hash, kOtherIdentity);
  EXPECT_EQ(survey.identities[1].tiers[1].num_pages, 1);
}

TEST_F(SurveyedStore, TellsWhichPagesOfASessionAreThere) {
  const StoreSurvey survey = Survey();
  ASSERT_EQ(survey.sessions.size(), 2);
  const StoreSurvey::Session& newest = survey.sessions[0];
  EXPECT_EQ(newest.identity, kTestIdentity);
  EXPECT_EQ(newest.id, "winter");
  EXPECT_EQ(newest.tenant, "default");
  EXPECT_EQ(newest.num_tokens, 5);
  EXPECT_EQ(newest.bytes, 77);
  EXPECT_EQ(newest.saved_at_unix, 200);
  EXPECT_THAT(newest.pages, ElementsAre(Tier::kHot, Tier::kCold, std::nullopt, Tier::kHot));
  // The same hash is another model's page.
  EXPECT_THAT(survey.sessions[1].pages, ElementsAre(Tier::kWarm));
}

TEST_F(SurveyedStore, WorksBesideAServerAndWritesNothing) {
  const auto store = BackingStore::Create(TestConfig(folder_.path(), 10, 100), io_);
  const auto sessions =
      SessionStore::Create(folder_.path(), kTestIdentity, io_, kTestSessionLimits);
  ASSERT_TRUE(store.ok() && sessions.ok());
  const std::set<std::string> before = FileNames();
  EXPECT_EQ(Survey().sessions.size(), 2);
  EXPECT_EQ(FileNames(), before);
}

TEST_F(SurveyedStore, DamagedPagesAreCountedApart) {
  const std::string whole = ReadText(FileOf(0));
  const auto expect_unreadable = [&](const std::string& record, const char* what) {
    WriteText(FileOf(0), record);
    const StoreSurvey::Identity found = First();
    EXPECT_EQ(found.num_unreadable_pages, 1) << what;
    EXPECT_EQ(found.tiers[0].num_pages, 1) << what;
    EXPECT_EQ(Survey().sessions[0].pages[0], std::nullopt) << what;
  };
  expect_unreadable("", "empty");
  expect_unreadable(whole.substr(0, 50), "a part of the head");
  expect_unreadable(whole.substr(0, whole.size() - 1), "cut");
  expect_unreadable(whole + "x", "too long");
  expect_unreadable(std::string(whole.size(), '\xff'), "noise");
  const auto with = [&whole](size_t place, char byte) {
    std::string record = whole;
    record[place] = byte;
    return record;
  };
  expect_unreadable(with(0, 'X'), "magic");
  expect_unreadable(with(8, 2), "a later version");
  expect_unreadable(with(16, 1), "another model");
  expect_unreadable(with(32, static_cast<char>(whole[32] ^ 1)), "another page's");
  expect_unreadable(with(79, '\x7f'), "a size beyond all");
  expect_unreadable(with(91, '\x7f'), "tokens beyond all");
  for (const char tier : {'\x04', '\x05', '\xff'}) {  // backed, and none
    expect_unreadable(with(92, tier), "tier");
  }
  WriteText(FileOf(0), whole);
  EXPECT_EQ(First().num_unreadable_pages, 0);
}

TEST_F(SurveyedStore, DamagedSessionsAreCountedApart) {
  const fs::path file = folder_.Files(".session").at(0);
  const std::string whole = ReadText(file);
  for (const std::string& record : {std::string(), whole.substr(0, 60), whole + "x",
                                    std::string(whole.size(), '\xff'), "X" + whole.substr(1)}) {
    WriteText(file, record);
    const StoreSurvey survey = Survey();
    EXPECT_EQ(survey.sessions.size(), 1);
    EXPECT_EQ(
        survey.identities[0].num_unreadable_sessions + survey.identities[1].num_unreadable_sessions,
        1);
  }
}

TEST_F(SurveyedStore, WhatIsNotTheStoresIsNobodysBusiness) {
  const fs::path root = folder_.path();
  const fs::path mine = root / HexDigits(kTestIdentity);
  WriteText(root / "notes.txt", "mine");
  WriteText(mine / "notes.txt", "mine");
  WriteText(FileOf(0).parent_path() / "notes.page", "mine");
  WriteText(FileOf(0).string() + ".tmp", "torn");
  fs::create_directory(root / "lost+found");
  fs::create_directory(root / std::string(32, 'G'));
  fs::create_directory_symlink("/", root / std::string(32, 'a'));
  fs::create_symlink("/dev/zero", FileOf(0).parent_path() / (std::string(30, 'b') + ".page"));
  ASSERT_EQ(mkfifo((FileOf(0).parent_path() / (std::string(30, 'c') + ".page")).c_str(), 0600), 0);
  const StoreSurvey survey = Survey();
  EXPECT_EQ(survey.identities.size(), 2);
  EXPECT_EQ(survey.identities[0].tiers[0].num_pages, 2);
  EXPECT_EQ(survey.identities[0].num_unreadable_pages, 0);
}

TEST_F(SurveyedStore, APageThatIsReplacedOrRemovedMeanwhileIsNoDamage) {
  const StoredPage better = TestPage(2, Tier::kHot);
  const std::vector<std::byte> record = EncodePage(kTestIdentity, TestHash(2), better);
  FaultyFileIo meanwhile(io_);
  meanwhile.on_call = [&](FaultyFileIo::Call call, const std::string& path) {
    if (call == FaultyFileIo::Call::kReadHead && path == FileOf(2)) {
      CHECK(WriteWholeFile(io_, path, record).ok());
    } else if (call == FaultyFileIo::Call::kReadHead && path == FileOf(1)) {
      fs::remove(path);
    }
    return std::nullopt;
  };
  const Result<StoreSurvey> survey = SurveyStore(meanwhile, folder_.path());
  ASSERT_TRUE(survey.ok()) << survey.status().message();
  EXPECT_EQ(survey->identities[0].num_unreadable_pages, 0);
  EXPECT_EQ(survey->identities[0].tiers[0].num_pages, 2);
  EXPECT_EQ(survey->identities[0].tiers[2].num_pages, 0);
}

TEST_F(SurveyedStore, WhatCannotBeReadIsCountedAndCostsNothingElse) {
  FaultyFileIo failing(io_);
  failing.on_call = [&](FaultyFileIo::Call call,
                        const std::string& path) -> std::optional<FaultyFileIo::Fault> {
    const bool fails = (call == FaultyFileIo::Call::kList && path == FileOf(1).parent_path()) ||
                       (call == FaultyFileIo::Call::kReadHead && path == FileOf(2)) ||
                       (call == FaultyFileIo::Call::kRead &&
                        path.find(HexDigits(kOtherIdentity)) != std::string::npos);
    return fails ? std::optional(FaultyFileIo::Fault{.status = Unavailable("permission denied")})
                 : std::nullopt;
  };
  const Result<StoreSurvey> survey = SurveyStore(failing, folder_.path());
  ASSERT_TRUE(survey.ok()) << survey.status().message();
  EXPECT_EQ(survey->identities[0].num_unreadable_pages, 2);
  EXPECT_EQ(survey->identities[0].tiers[0].num_pages, 1);
  EXPECT_EQ(survey->identities[1].num_unreadable_sessions, 1);
  EXPECT_EQ(survey->sessions.size(), 1);
}

TEST_F(SurveyedStore, ASessionThatCannotBeReadIsRemovedByItsName) {
  for (const fs::path& file : folder_.Files(".session")) {
    WriteText(file, "no session");
  }
  Result<StoreRemoval> removal = StoreRemoval::Open(io_, folder_.path());
  ASSERT_TRUE(removal.ok());
  EXPECT_EQ(removal->RemoveUnreadableSession("default", "summer").code(), StatusCode::kNotFound);
  EXPECT_TRUE(removal->RemoveUnreadableSession("default", "winter").ok());
  EXPECT_TRUE(folder_.Files(".session").empty());
  EXPECT_EQ(folder_.Files(".page").size(), 4U);
}

TEST_F(SurveyedStore, ASessionOfAnyLengthIsListed) {
  const auto store =
      SessionStore::Create(folder_.path(), kTestIdentity, io_, {.max_tokens = size_t{1} << 21});
  ASSERT_TRUE(store.ok());
  ASSERT_TRUE((*store)
                  ->Save({.tenant = "default",
                          .id = "long",
                          .tokens = std::vector<TokenId>((size_t{1} << 20) + 1)})
                  .ok());
  EXPECT_EQ(Survey().sessions.size(), 3);
}

TEST_F(SurveyedStore, ADirectoryWithoutAStoreIsToldApart) {
  const TestFolder empty;
  EXPECT_EQ(SurveyStore(io_, empty.path()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(SurveyStore(io_, empty.path() + "/none").status().code(), StatusCode::kNotFound);
}

TEST_F(SurveyedStore, ARemovedSessionLeavesItsPages) {
  const std::vector<fs::path> pages = folder_.Files(".page");
  Result<StoreRemoval> removal = StoreRemoval::Open(io_, folder_.path());
  ASSERT_TRUE(removal.ok());
  ASSERT_TRUE(removal->RemoveSession(Survey().sessions[0]).ok());
  const StoreSurvey survey = Survey();
  ASSERT_EQ(survey.sessions.size(), 1);
  EXPECT_EQ(survey.sessions[0].identity, kOtherIdentity);
  EXPECT_EQ(folder_.Files(".page"), pages);
}

TEST_F(SurveyedStore, ARemovedModelLeavesTheOtherAndWhatIsNotTheStores) {
  const fs::path note = FileOf(0).parent_path() / "notes.txt";
  WriteText(note, "mine");
  WriteText(FileOf(0).string() + ".tmp", "torn");
  WriteText(FileOf(1), "damaged");
  Result<StoreRemoval> removal = StoreRemoval::Open(io_, folder_.path());
  ASSERT_TRUE(removal.ok());
  ASSERT_TRUE(removal->RemoveIdentity(kTestIdentity).ok());
  EXPECT_EQ(removal->num_files_removed(), 5);  // three pages, a torn one, a session
  EXPECT_TRUE(fs::exists(note));
  EXPECT_THAT(folder_.Files(".page"), ElementsAre(FileOf(0, kOtherIdentity)));
  EXPECT_EQ(folder_.Files(".session").size(), 1);
  EXPECT_EQ(folder_.Files(".tmp").size(), 0);
}

TEST_F(SurveyedStore, NothingBehindALinkIsRemoved) {
  const TestFolder elsewhere;
  const fs::path moved = fs::path(elsewhere.path()) / "pages";
  const fs::path pages = fs::path(folder_.path()) / HexDigits(kTestIdentity);
  fs::copy(pages, moved, fs::copy_options::recursive);
  fs::remove_all(pages);
  fs::create_directory_symlink(moved, pages);
  const size_t num_files = elsewhere.Files(".page").size();
  Result<StoreRemoval> removal = StoreRemoval::Open(io_, folder_.path());
  ASSERT_TRUE(removal.ok());
  ASSERT_TRUE(removal->RemoveIdentity(kTestIdentity).ok());
  EXPECT_EQ(elsewhere.Files(".page").size(), num_files);
  EXPECT_EQ(num_files, 3);
}

TEST_F(SurveyedStore, NothingIsRemovedBesideAServer) {
  {
    const auto store = BackingStore::Create(TestConfig(folder_.path(), 10, 100), io_);
    ASSERT_TRUE(store.ok());
    EXPECT_EQ(StoreRemoval::Open(io_, folder_.path()).status().code(),
              StatusCode::kFailedPrecondition);
  }
  const auto sessions =
      SessionStore::Create(folder_.path(), kTestIdentity, io_, kTestSessionLimits);
  ASSERT_TRUE(sessions.ok());
  EXPECT_EQ(StoreRemoval::Open(io_, folder_.path()).status().code(),
            StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace thermocline
