// What a store has on disk: restarts, caps, whose files they are.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "engine/store/backing_store.h"
#include "engine/store/posix_file_io.h"
#include "engine/store/record.h"
#include "engine/store/session_store.h"
#include "tests/testing/faulty_file_io.h"
#include "tests/testing/stored_pages.h"

namespace thermocline {
namespace {

namespace fs = std::filesystem;
using Call = FaultyFileIo::Call;

class BackingStoreOnDisk : public testing::Test {
 protected:
  Result<std::unique_ptr<BackingStore>> Open(uint64_t memory_pages = 10,
                                             uint64_t disk_pages = 100) {
    return BackingStore::Create(TestConfig(folder_.path(), memory_pages, disk_pages), io_);
  }
  std::unique_ptr<BackingStore> Opened(uint64_t memory_pages = 10, uint64_t disk_pages = 100) {
    auto store = Open(memory_pages, disk_pages);
    CHECK(store.ok());
    return std::move(*store);
  }
  static void Put(BackingStore& store, uint64_t number, Tier tier = Tier::kHot,
                  Tier loss = Tier::kHot) {
    ASSERT_TRUE(store.Put(TestHash(number), TestPage(number, tier, loss)).ok()) << number;
  }
  static void Flush(BackingStore& store) {
    const Status status = store.Flush();
    ASSERT_TRUE(status.ok()) << status.message();
  }
  static bool Has(const BackingStore& store, uint64_t number) {
    return store.Find(TestHash(number)).has_value();
  }
  // Puts pages 0 .. n-1 into a store that then ends.
  void Leave(uint64_t num_pages) {
    const auto store = Opened();
    for (uint64_t number = 0; number < num_pages; ++number) {
      Put(*store, number);
    }
    Flush(*store);
  }
  fs::path FileOf(uint64_t number) const {
    const std::string digits = HexDigits(TestHash(number));
    return fs::path(folder_.path()) / HexDigits(kTestIdentity) / digits.substr(0, 2) /
           (digits.substr(2) + ".page");
  }

  TestFolder folder_;
  PosixFileIo posix_;
  FaultyFileIo io_{posix_};
};

TEST_F(BackingStoreOnDisk, ARestartFindsAllThatWasFlushed) {
  {
    const auto store = Opened();
    Put(*store, 0);
    Put(*store, 1, Tier::kWarm, Tier::kCold);
    Put(*store, 2, Tier::kCold, Tier::kCold);
    Flush(*store);
    EXPECT_EQ(store->usage().num_disk_pages, 3U);
  }
  const auto store = Opened();
  EXPECT_EQ(store->usage().num_pages, 3U);
  EXPECT_EQ(store->usage().num_memory_pages, 0U);
  EXPECT_EQ(store->usage().num_damaged, 0U);
  EXPECT_EQ(store->Find(TestHash(1))->tier, Tier::kWarm);
  EXPECT_EQ(store->Find(TestHash(1))->loss, Tier::kCold);
  EXPECT_EQ(store->Find(TestHash(0))->loss, Tier::kHot);
  EXPECT_TRUE(store->Get(TestHash(0)).value() == TestPage(0));
  EXPECT_TRUE(store->Get(TestHash(1)).value() == TestPage(1, Tier::kWarm, Tier::kCold));
  EXPECT_TRUE(store->Get(TestHash(2)).value() == TestPage(2, Tier::kCold, Tier::kCold));
}

TEST_F(BackingStoreOnDisk, FilesAreNamedByDigestsAndForTheirOwnerAlone) {
  Leave(1);
  EXPECT_TRUE(fs::exists(FileOf(0)));
  for (const auto& entry : fs::recursive_directory_iterator(folder_.path())) {
    EXPECT_EQ(entry.path().string().find("ttt"), std::string::npos);
    EXPECT_EQ(entry.status().permissions() & (fs::perms::group_all | fs::perms::others_all),
              fs::perms::none)
        << entry.path();
  }
}

TEST_F(BackingStoreOnDisk, AWrittenPageLeavesMemoryForTheNext) {
  const auto store = Opened(/*memory_pages=*/2);
  for (uint64_t number = 0; number < 20; ++number) {
    Put(*store, number);
    EXPECT_LE(store->usage().memory_bytes, 2 * kTestPageBytes);
  }
  Flush(*store);
  EXPECT_EQ(store->usage().num_evictions, 0U);
  for (uint64_t number = 0; number < 20; ++number) {
    EXPECT_TRUE(store->Get(TestHash(number)).value() == TestPage(number));
  }
}

// The writer stands still in each write: all that Puts have accepted by then is in memory.
TEST_F(BackingStoreOnDisk, MemoryStaysWithinItsCapHoweverSlowTheWriterIs) {
  std::unique_ptr<BackingStore> store;
  uint64_t most = 0;
  io_.on_call = [&](Call call, const std::string&) -> std::optional<FaultyFileIo::Fault> {
    if (call == Call::kWrite && store != nullptr) {
      most = std::max(most, store->usage().memory_bytes);
    }
    return std::nullopt;
  };
  store = Opened(/*memory_pages=*/3);
  for (uint64_t number = 0; number < 40; ++number) {
    Put(*store, number);
  }
  Flush(*store);
  EXPECT_GE(most, kTestPageBytes);
  EXPECT_LE(most, 3 * kTestPageBytes);
  EXPECT_EQ(store->usage().num_pages, 40U);
}

TEST_F(BackingStoreOnDisk, APageThatWaitsToBeWrittenIsFoundAndRead) {
  std::unique_ptr<BackingStore> store;
  bool was_right = false;
  io_.on_call = [&](Call call, const std::string&) -> std::optional<FaultyFileIo::Fault> {
    if (call == Call::kWrite && store != nullptr) {
      was_right = Has(*store, 5) && store->Get(TestHash(5)).value() == TestPage(5) &&
                  store->usage().num_pending_writes == 1 && store->usage().num_disk_pages == 0;
    }
    return std::nullopt;
  };
  store = Opened();
  Put(*store, 5);
  Flush(*store);
  EXPECT_TRUE(was_right);
  EXPECT_EQ(store->usage().num_pending_writes, 0U);
}

TEST_F(BackingStoreOnDisk, FilesStayWithinTheirCapByTheSameRule) {
  const auto store = Opened(/*memory_pages=*/2, /*disk_pages=*/4);
  for (const uint64_t number : {0, 1, 2, 3}) {
    Put(*store, number);
    Flush(*store);
  }
  ASSERT_TRUE(store->Get(TestHash(0)).ok());
  for (const uint64_t number : {1, 2, 3}) {
    Put(*store, number);  // used; 0 was hit
  }
  store->SetPinned(TestHash(1), true);
  for (const uint64_t number : {4, 5}) {
    Put(*store, number);
    Flush(*store);
  }
  EXPECT_TRUE(Has(*store, 0));
  EXPECT_TRUE(Has(*store, 1));
  EXPECT_FALSE(Has(*store, 2));
  EXPECT_FALSE(Has(*store, 3));
  EXPECT_EQ(store->usage().num_evictions, 2U);
  EXPECT_EQ(store->usage().disk_bytes, 4 * kTestPageBytes);
  EXPECT_EQ(folder_.Files(".page").size(), 4U);
}

TEST_F(BackingStoreOnDisk, ALowerCapEvictsTheOldestAtStart) {
  Leave(6);
  for (const uint64_t number : {0, 1, 2, 3, 4, 5}) {  // 0 the newest
    fs::last_write_time(FileOf(number),
                        fs::file_time_type::clock::now() - std::chrono::hours(number));
  }
  const auto store = Opened(/*memory_pages=*/2, /*disk_pages=*/2);
  EXPECT_EQ(store->usage().num_pages, 2U);
  EXPECT_TRUE(Has(*store, 0));
  EXPECT_TRUE(Has(*store, 1));
  EXPECT_EQ(folder_.Files(".page").size(), 2U);
}

TEST_F(BackingStoreOnDisk, ALowerCapNeverCostsAPageThatASessionNeeds) {
  Leave(6);
  for (const uint64_t number : {0, 1, 2, 3, 4, 5}) {  // 0 and 1 the oldest
    fs::last_write_time(FileOf(number),
                        fs::file_time_type::clock::now() - std::chrono::hours(10 - number));
  }
  BackingStore::Config config = TestConfig(folder_.path(), 10, 2);
  config.pinned = {TestHash(0), TestHash(1), TestHash(4)};
  size_t num_when_told = 0;
  config.notice = [&](const std::string&) { num_when_told = folder_.Files(".page").size(); };
  const auto store = std::move(BackingStore::Create(config, io_)).value();
  EXPECT_EQ(num_when_told, 6U);  // before any is removed
  for (const uint64_t number : {0, 1, 4}) {
    EXPECT_TRUE(store->Get(TestHash(number)).value() == TestPage(number));
  }
  EXPECT_EQ(folder_.Files(".page").size(), 3U);
  Put(*store, 7);  // has no room on disk, and costs none of them
  EXPECT_FALSE(store->Flush().ok());
  EXPECT_EQ(store->Flush(TestHash(7)).code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(store->Flush(TestHash(0)).ok());
  EXPECT_EQ(folder_.Files(".page").size(), 3U);
}

TEST_F(BackingStoreOnDisk, AFileOrFolderThatCannotBeReadCostsWhatIsInItAndStays) {
  Leave(4);
  io_.on_call = [&](Call call, const std::string& path) -> std::optional<FaultyFileIo::Fault> {
    if ((call == Call::kReadHead && path == FileOf(1)) ||
        (call == Call::kList && path == FileOf(2).parent_path())) {
      return FaultyFileIo::Fault{.status = Unavailable("permission denied")};
    }
    return std::nullopt;
  };
  {
    const auto store = Opened();
    EXPECT_TRUE(Has(*store, 0));
    EXPECT_FALSE(Has(*store, 1));
    EXPECT_FALSE(Has(*store, 2));
    EXPECT_TRUE(Has(*store, 3));
    EXPECT_EQ(store->num_unreadable(), 2U);
    EXPECT_EQ(store->usage().num_damaged, 0U);
  }
  io_.on_call = [](Call, const std::string&) { return std::nullopt; };
  EXPECT_EQ(Opened()->usage().num_pages, 4U);
}

TEST_F(BackingStoreOnDisk, APageOfALaterProgramStays) {
  Leave(1);
  RecordWriter writer({.magic = "THRMPAGE", .version = 2, .name = "later"}, kTestIdentity, 100);
  writer.AddBytes(std::vector<std::byte>(100));
  WriteText(FileOf(0), "");
  ASSERT_TRUE(WriteWholeFile(posix_, FileOf(0).string(), std::move(writer).Seal()).ok());
  EXPECT_FALSE(Has(*Opened(), 0));
  EXPECT_TRUE(fs::exists(FileOf(0)));
}

TEST_F(BackingStoreOnDisk, NothingIsWrittenThroughLinksOrIntoPipes) {
  const TestFolder elsewhere;
  WriteText(elsewhere.path() + "/mine", "mine");
  fs::create_directories(FileOf(0).parent_path());
  fs::create_directories(FileOf(1).parent_path());
  fs::create_symlink(elsewhere.path() + "/mine", FileOf(0));
  fs::create_symlink(elsewhere.path() + "/mine", FileOf(0).string() + ".tmp");
  ASSERT_EQ(mkfifo(FileOf(1).c_str(), 0600), 0);
  ASSERT_EQ(mkfifo((FileOf(1).string() + ".tmp").c_str(), 0600), 0);
  fs::create_directory_symlink(elsewhere.path(), FileOf(2).parent_path());
  const auto store = Opened();
  Put(*store, 0);
  Put(*store, 1);
  Put(*store, 2);
  EXPECT_FALSE(store->Flush().ok());
  EXPECT_TRUE(store->Flush(TestHash(0)).ok());
  EXPECT_TRUE(store->Flush(TestHash(1)).ok());
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(FileOf(0))));
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(FileOf(1))));
  EXPECT_EQ(ReadText(elsewhere.path() + "/mine"), "mine");
  EXPECT_EQ(elsewhere.Files("").size(), 1U);
  EXPECT_TRUE(store->Get(TestHash(2)).value() == TestPage(2));  // in memory
}

TEST_F(BackingStoreOnDisk, BeingGotMakesAFileYoungForTheNextStart) {
  Leave(3);
  for (const uint64_t number : {0, 1, 2}) {
    fs::last_write_time(FileOf(number),
                        fs::file_time_type::clock::now() - std::chrono::hours(10 - number));
  }
  ASSERT_TRUE(Opened()->Get(TestHash(0)).ok());
  const auto store = Opened(/*memory_pages=*/2, /*disk_pages=*/2);
  EXPECT_TRUE(Has(*store, 0));
  EXPECT_FALSE(Has(*store, 1));
  EXPECT_TRUE(Has(*store, 2));
}

TEST_F(BackingStoreOnDisk, AnErasedPageIsErasedOnDisk) {
  const auto store = Opened();
  Put(*store, 0);
  Put(*store, 1);
  Flush(*store);
  store->Erase(TestHash(0));
  Flush(*store);
  EXPECT_FALSE(fs::exists(FileOf(0)));
  EXPECT_TRUE(fs::exists(FileOf(1)));
  EXPECT_EQ(store->usage().disk_bytes, kTestPageBytes);
}

TEST_F(BackingStoreOnDisk, ABetterCopyReplacesTheFile) {
  const auto store = Opened();
  Put(*store, 0, Tier::kCold, Tier::kCold);
  Flush(*store);
  Put(*store, 0);
  Flush(*store);
  Put(*store, 0, Tier::kWarm, Tier::kCold);
  Flush(*store);
  EXPECT_EQ(store->usage().disk_bytes, kTestPageBytes);
  EXPECT_EQ(ReadText(FileOf(0)).size(), kTestPageBytes);
}

TEST_F(BackingStoreOnDisk, ASecondStoreOfTheSameDirectoryIsRefused) {
  const auto first = Opened();
  const auto second = Open();
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.status().message(), testing::HasSubstr("in use by another process"));
}

TEST_F(BackingStoreOnDisk, NeedsRoomForAPage) {
  BackingStore::Config config = TestConfig(folder_.path(), 1, 100);
  config.memory_bytes = 10;
  EXPECT_EQ(BackingStore::Create(config, io_).status().code(), StatusCode::kInvalidArgument);
  config = TestConfig(folder_.path(), 1, 0);
  EXPECT_EQ(BackingStore::Create(config, io_).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(BackingStoreOnDisk, PagesOfOtherIdentitiesAreNotFoundButStayWithinHalfOfTheCap) {
  for (uint64_t model = 1; model <= 3; ++model) {
    BackingStore::Config config = TestConfig(folder_.path(), 10, 100);
    config.identity = {.low = model, .high = 0};
    const auto store = std::move(BackingStore::Create(config, io_)).value();
    for (uint64_t number = 0; number < 4; ++number) {
      Put(*store, number);
    }
    Flush(*store);
  }
  for (const fs::path& path : folder_.Files(".page")) {  // model 1 the oldest
    const std::string identity = path.parent_path().parent_path().filename().string();
    const int hours = 10 - (identity.back() - '0');
    fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(hours));
  }
  const auto store = Opened(/*memory_pages=*/10, /*disk_pages=*/16);
  EXPECT_EQ(store->usage().num_pages, 0U);
  EXPECT_EQ(folder_.Files(".page").size(), 8U);
  EXPECT_FALSE(fs::exists(fs::path(folder_.path()) / HexDigits({.low = 1, .high = 0})));
  for (uint64_t number = 0; number < 10; ++number) {
    Put(*store, number);
  }
  Flush(*store);
  EXPECT_EQ(store->usage().num_disk_pages, 8U);
  EXPECT_EQ(folder_.Files(".page").size(), 16U);
}

TEST_F(BackingStoreOnDisk, PagesThatASessionOfAnotherIdentityNeedsStayWhateverTheCap) {
  const ContentHash other{.low = 1, .high = 0};
  {
    BackingStore::Config config = TestConfig(folder_.path(), 10, 100);
    config.identity = other;
    const auto store = std::move(BackingStore::Create(config, io_)).value();
    for (uint64_t number = 0; number < 6; ++number) {
      Put(*store, number);
    }
    Flush(*store);
    const auto sessions =
        std::move(SessionStore::Create(folder_.path(), other, io_, kTestSessionLimits)).value();
    ASSERT_TRUE(sessions
                    ->Save({.tenant = "a",
                            .id = "chat",
                            .tokens = std::vector<TokenId>(20),
                            .pages = {TestHash(0), TestHash(3), TestHash(5)}})
                    .ok());
  }
  {
    const auto store = Opened(/*memory_pages=*/10, /*disk_pages=*/4);
    EXPECT_EQ(folder_.Files(".page").size(), 3U);
    Put(*store, 0);
    EXPECT_TRUE(store->Flush().ok());  // one is left
    Put(*store, 1);
    EXPECT_TRUE(store->Flush().ok());
    EXPECT_EQ(folder_.Files(".page").size(), 4U);
  }
  Opened(/*memory_pages=*/10, /*disk_pages=*/2).reset();  // less than what the other needs
  BackingStore::Config config = TestConfig(folder_.path(), 10, 100);
  config.identity = other;
  const auto store = std::move(BackingStore::Create(config, io_)).value();
  for (const uint64_t number : {0, 3, 5}) {
    EXPECT_TRUE(store->Get(TestHash(number)).value() == TestPage(number)) << number;
  }
}

TEST_F(BackingStoreOnDisk, WhatACrashLeftHalfWrittenIsRemovedAndWhatIsNotOursStays) {
  Leave(1);
  const fs::path temporary = FileOf(0).string() + ".tmp";
  const fs::path foreign = FileOf(0).parent_path() / "notes.txt";
  WriteText(temporary, "half");
  WriteText(foreign, "mine");
  const auto store = Opened();
  EXPECT_FALSE(fs::exists(temporary));
  EXPECT_TRUE(fs::exists(foreign));
  EXPECT_TRUE(Has(*store, 0));
}

TEST_F(BackingStoreOnDisk, AFolderThatSomebodyRemovedIsMadeAgain) {
  const auto store = Opened();
  Put(*store, 0);
  Flush(*store);
  fs::remove_all(FileOf(0).parent_path().parent_path());
  Put(*store, 1);
  Flush(*store);
  EXPECT_TRUE(fs::exists(FileOf(1)));
}

class HashKey : public BackingStoreOnDisk {
 protected:
  fs::path KeyFile() const { return fs::path(folder_.path()) / "hash.key"; }
  fs::path Copy() const { return fs::path(folder_.path()) / "hash.key.copy"; }
  std::unique_ptr<BackingStore> OpenedWithKey(uint64_t fresh_key) {
    BackingStore::Config config = TestConfig(folder_.path(), 10, 100);
    config.fresh_key = fresh_key;
    return std::move(BackingStore::Create(config, io_)).value();
  }
};

TEST_F(HashKey, SurvivesARestartAndOnlyItsOwnerReadsIt) {
  EXPECT_EQ(OpenedWithKey(1)->hash_key(), 1U);
  EXPECT_EQ(OpenedWithKey(2)->hash_key(), 1U);
  EXPECT_EQ(fs::status(KeyFile()).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(HashKey, DamagedItIsMadeAnewAndNoPageOfTheOldOneIsLeft) {
  Leave(3);
  const std::string good = ReadText(KeyFile());
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    WriteText(KeyFile(), bad);
    WriteText(Copy(), bad);
    const auto store = OpenedWithKey(100 + i);
    ASSERT_EQ(store->hash_key(), 100 + i);
    ASSERT_EQ(store->usage().num_pages, 0U);
    ASSERT_TRUE(folder_.Files(".page").empty());
    Put(*store, 0);
    Flush(*store);
  }
  EXPECT_EQ(OpenedWithKey(1)->hash_key(), 100 + good.size() - 1);
}

TEST_F(HashKey, DamagedOrLostItIsMendedFromItsCopyAndTheCopyFromIt) {
  Leave(3);
  const std::string good = ReadText(KeyFile());
  for (const fs::path& file : {KeyFile(), Copy()}) {
    for (const bool is_lost : {false, true}) {
      if (is_lost) {
        fs::remove(file);
      } else {
        WriteText(file, "no key");
      }
      EXPECT_EQ(OpenedWithKey(7)->usage().num_pages, 3U);
      EXPECT_EQ(ReadText(file), good);
    }
  }
}

TEST_F(HashKey, LostWithItsCopyItCostsNoPageThatASessionNeeds) {
  Leave(3);
  {
    const auto sessions =
        std::move(SessionStore::Create(folder_.path(), kTestIdentity, io_, kTestSessionLimits))
            .value();
    ASSERT_TRUE(
        sessions->Save({.tenant = "a", .id = "chat", .tokens = {1}, .pages = {TestHash(0)}}).ok());
  }
  fs::remove(KeyFile());
  fs::remove(Copy());
  const auto store = Open();
  EXPECT_EQ(store.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(store.status().message(), testing::HasSubstr("hash.key"));
  EXPECT_EQ(folder_.Files(".page").size(), 3U);
}

TEST_F(HashKey, LostItIsMadeAnewToo) {
  Leave(3);
  fs::remove(KeyFile());
  fs::remove(Copy());
  const auto store = OpenedWithKey(7);
  EXPECT_EQ(store->hash_key(), 7U);
  EXPECT_EQ(store->usage().num_pages, 0U);
}

TEST_F(HashKey, ThatCannotBeReadNowCostsNoPage) {
  Leave(3);
  io_.on_call = [](Call call, const std::string& path) -> std::optional<FaultyFileIo::Fault> {
    if (call == Call::kReadHead && path.find("hash.key") != std::string::npos) {
      return FaultyFileIo::Fault{.status = DataLoss("input/output error")};
    }
    return std::nullopt;
  };
  EXPECT_EQ(Open().status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(folder_.Files(".page").size(), 3U);
}

TEST_F(HashKey, OfALaterProgramIsLeftAlone) {
  Leave(3);
  RecordWriter writer({.magic = "THRMHKEY", .version = 2, .name = "key"}, ContentHash{}, 0);
  ASSERT_TRUE(WriteWholeFile(posix_, KeyFile().string(), std::move(writer).Seal()).ok());
  EXPECT_EQ(Open().status().code(), StatusCode::kUnimplemented);
  EXPECT_EQ(folder_.Files(".page").size(), 3U);
}

}  // namespace
}  // namespace thermocline
