// A disk that fails, lies or rots, and what happens at the same time.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "engine/store/backing_store.h"
#include "engine/store/posix_file_io.h"
#include "tests/testing/faulty_file_io.h"
#include "tests/testing/stored_pages.h"

namespace thermocline {
namespace {

using Call = FaultyFileIo::Call;
using Fault = FaultyFileIo::Fault;

class FailingDisk : public testing::Test {
 protected:
  std::unique_ptr<BackingStore> Opened(uint64_t memory_pages = 10, uint64_t disk_pages = 100) {
    auto store = BackingStore::Create(TestConfig(folder_.path(), memory_pages, disk_pages), io_);
    CHECK(store.ok());
    return std::move(*store);
  }
  static void Put(BackingStore& store, uint64_t number, Tier tier = Tier::kHot,
                  Tier loss = Tier::kHot) {
    ASSERT_TRUE(store.Put(TestHash(number), TestPage(number, tier, loss)).ok()) << number;
  }
  void Leave(uint64_t num_pages) {
    const auto store = Opened();
    for (uint64_t number = 0; number < num_pages; ++number) {
      Put(*store, number);
    }
    ASSERT_TRUE(store->Flush().ok());
  }
  // The call that fails in place of all of its kind; `fault_` says how, nothing: it does not.
  void FailOn(Call failing) {
    io_.on_call = [this, failing](Call call, const std::string& path) -> std::optional<Fault> {
      return call == failing && !path.ends_with("hash.key") && failing_ ? std::optional(fault_)
                                                                        : std::nullopt;
    };
  }

  TestFolder folder_;
  PosixFileIo posix_;
  FaultyFileIo io_{posix_};
  Fault fault_;
  std::atomic<bool> failing_ = true;
};

struct WriteFault {
  const char* name;
  Call call;
  StatusCode code;
  size_t num_bytes;
};

class FailingWrites : public FailingDisk, public testing::WithParamInterface<WriteFault> {};

TEST_P(FailingWrites, LeaveThePageInMemoryAndLaterOnesAreTriedAnew) {
  fault_ = {.status = Status(GetParam().code, "the disk says no"),
            .num_bytes = GetParam().num_bytes};
  auto store = Opened();
  FailOn(GetParam().call);
  Put(*store, 0);
  const Status flushed = store->Flush();
  EXPECT_EQ(flushed.code(), StatusCode::kUnavailable);
  EXPECT_THAT(flushed.message(), testing::HasSubstr("the disk says no"));
  EXPECT_TRUE(store->Get(TestHash(0)).value() == TestPage(0));
  EXPECT_TRUE(store->usage().disk_failing);
  EXPECT_GE(store->usage().num_write_errors, 1U);
  EXPECT_EQ(store->usage().disk_bytes, 0U);
  EXPECT_TRUE(folder_.Files(".page").empty());
  EXPECT_TRUE(folder_.Files(".tmp").empty());

  failing_ = false;
  Put(*store, 1);
  EXPECT_TRUE(store->Flush().ok());  // writes 0 too
  EXPECT_FALSE(store->usage().disk_failing);
  store.reset();
  store = Opened();
  EXPECT_TRUE(store->Get(TestHash(0)).value() == TestPage(0));
  EXPECT_TRUE(store->Get(TestHash(1)).value() == TestPage(1));
}

TEST_P(FailingWrites, OfABetterCopyLeaveTheOneThatWasThere) {
  fault_ = {.status = Status(GetParam().code, "the disk says no"),
            .num_bytes = GetParam().num_bytes};
  auto store = Opened(/*memory_pages=*/2);
  Put(*store, 0, Tier::kCold, Tier::kCold);
  ASSERT_TRUE(store->Flush().ok());
  FailOn(GetParam().call);
  Put(*store, 0, Tier::kHot);
  EXPECT_FALSE(store->Flush().ok());
  EXPECT_TRUE(store->Get(TestHash(0)).value() == TestPage(0, Tier::kHot));
  EXPECT_EQ(folder_.Files(".page").size(), 1U);
  for (uint64_t number = 1; number <= 6; ++number) {  // the better one leaves memory
    Put(*store, number);
  }
  // The new one, if the disk failed once it was in its place.
  const Tier tier = GetParam().call == Call::kSyncDirectory ? Tier::kHot : Tier::kCold;
  const StoredPage left = TestPage(0, tier, tier);
  ASSERT_TRUE(store->Find(TestHash(0)).has_value());
  EXPECT_TRUE(store->Get(TestHash(0)).value() == left);
  store.reset();
  failing_ = false;
  EXPECT_TRUE(Opened()->Get(TestHash(0)).value() == left);
}

INSTANTIATE_TEST_SUITE_P(
    Each, FailingWrites,
    testing::Values(WriteFault{"DiskFull", Call::kWrite, StatusCode::kResourceExhausted, 0},
                    WriteFault{"ShortWrite", Call::kWrite, StatusCode::kResourceExhausted, 100},
                    WriteFault{"InputOutputError", Call::kWrite, StatusCode::kDataLoss, 300},
                    WriteFault{"Rename", Call::kRename, StatusCode::kDataLoss, 0},
                    WriteFault{"SyncOfTheDirectory", Call::kSyncDirectory, StatusCode::kDataLoss,
                               0}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST_F(FailingDisk, WithMemoryFullCostsTheOldestPagesAndIsCounted) {
  fault_ = {.status = ResourceExhausted("no space left")};
  const auto store = Opened(/*memory_pages=*/2);
  FailOn(Call::kWrite);
  for (uint64_t number = 0; number < 10; ++number) {
    Put(*store, number);
  }
  EXPECT_FALSE(store->Flush().ok());
  EXPECT_EQ(store->usage().num_evictions, 10 - store->usage().num_pages);
  EXPECT_GE(store->usage().num_pages, 1U);
  EXPECT_TRUE(store->Get(TestHash(9)).value() == TestPage(9));
  EXPECT_FALSE(store->Find(TestHash(0)).has_value());
}

TEST_F(FailingDisk, WithAllOfMemoryPinnedTakesNothingMore) {
  fault_ = {.status = ResourceExhausted("no space left")};
  const auto store = Opened(/*memory_pages=*/2);
  FailOn(Call::kWrite);
  for (const uint64_t number : {0, 1}) {
    store->SetPinned(TestHash(number), true);
    ASSERT_TRUE(store->Put(TestHash(number), TestPage(number, Tier::kHot)).ok());
  }
  EXPECT_FALSE(store->Flush().ok());
  EXPECT_EQ(store->Put(TestHash(2), TestPage(2)).code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(store->Get(TestHash(0)).value() == TestPage(0));
}

TEST_F(FailingDisk, WithAllFilesPinnedKeepsThePageInMemory) {
  const auto store = Opened(/*memory_pages=*/4, /*disk_pages=*/2);
  for (const uint64_t number : {0, 1}) {
    store->SetPinned(TestHash(number), true);
    Put(*store, number);
  }
  ASSERT_TRUE(store->Flush().ok());
  Put(*store, 2);
  EXPECT_FALSE(store->Flush().ok());
  EXPECT_THAT(store->usage().last_error, testing::HasSubstr("pinned"));
  EXPECT_FALSE(store->usage().disk_failing);
  EXPECT_TRUE(store->Get(TestHash(2)).value() == TestPage(2));
}

// It said that all is written.
TEST_F(FailingDisk, ThatLiesIsFoundOutByTheChecksumOnce) {
  fault_ = {.status = Status(), .num_bytes = kTestPageBytes - 1};
  auto store = Opened();
  FailOn(Call::kWrite);
  Put(*store, 0);
  ASSERT_TRUE(store->Flush().ok());
  for (uint64_t number = 1; number <= 10; ++number) {  // 0 leaves memory
    Put(*store, number);
  }
  EXPECT_EQ(store->Get(TestHash(0)).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(store->Get(TestHash(0)).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store->usage().num_damaged, 1U);
  ASSERT_TRUE(store->Flush().ok());
  store.reset();
  failing_ = false;
  store = Opened();
  EXPECT_EQ(store->usage().num_pages, 0U);
  EXPECT_EQ(store->usage().num_damaged, 10U);
  EXPECT_TRUE(folder_.Files(".page").empty());
}

TEST_F(FailingDisk, RotInAnyByteIsNoPageAndNeverAWrongOne) {
  Leave(1);
  const std::filesystem::path file = folder_.Files(".page").at(0);
  const std::string good = ReadText(file);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    WriteText(file, bad);
    const auto store = Opened();
    const Result<StoredPage> page = store->Get(TestHash(0));
    ASSERT_FALSE(page.ok()) << i;
    ASSERT_EQ(store->usage().num_damaged, 1U) << i;
    ASSERT_FALSE(store->Find(TestHash(0)).has_value()) << i;
    ASSERT_TRUE(store->Flush().ok());
    ASSERT_TRUE(folder_.Files(".page").empty()) << i;
    WriteText(file, good);
  }
}

TEST_F(FailingDisk, AFileOfAnotherPageIsNoPage) {
  Leave(2);
  const auto files = folder_.Files(".page");
  std::filesystem::copy_file(files[0], files[1], std::filesystem::copy_options::overwrite_existing);
  const auto store = Opened();
  EXPECT_EQ(store->usage().num_pages, 1U);
  EXPECT_EQ(store->usage().num_damaged, 1U);
}

TEST_F(FailingDisk, AReadErrorCostsThePageAndWantOfFilesDoesNot) {
  Leave(1);
  const auto store = Opened();
  FailOn(Call::kRead);
  fault_ = {.status = Unavailable("too many open files")};
  EXPECT_EQ(store->Get(TestHash(0)).status().code(), StatusCode::kUnavailable);
  EXPECT_TRUE(store->Find(TestHash(0)).has_value());
  fault_ = {.status = DataLoss("input/output error")};
  EXPECT_EQ(store->Get(TestHash(0)).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(store->Get(TestHash(0)).status().code(), StatusCode::kNotFound);
}

TEST_F(FailingDisk, AReadErrorLeavesTheFileForAnotherDay) {
  Leave(1);
  {
    const auto store = Opened();
    FailOn(Call::kRead);
    fault_ = {.status = DataLoss("input/output error")};
    EXPECT_FALSE(store->Get(TestHash(0)).ok());
    EXPECT_FALSE(store->Find(TestHash(0)).has_value());
    ASSERT_TRUE(store->Flush().ok());
    EXPECT_EQ(store->usage().disk_bytes, kTestPageBytes);
  }
  failing_ = false;
  EXPECT_TRUE(Opened()->Get(TestHash(0)).value() == TestPage(0));
}

TEST_F(FailingDisk, VerifyForgetsWhatIsDamagedOrGoneAndWritesAgainWhatMemoryHas) {
  auto store = Opened(/*memory_pages=*/10);
  for (const uint64_t number : {0, 1, 2}) {
    Put(*store, number);
  }
  ASSERT_TRUE(store->Flush().ok());
  EXPECT_TRUE(store->Verify(TestHash(0)).ok());
  EXPECT_EQ(store->Verify(TestHash(9)).code(), StatusCode::kNotFound);
  for (const auto& file : folder_.Files(".page")) {
    std::filesystem::remove(file);
  }
  for (const uint64_t number : {0, 1, 2}) {
    EXPECT_TRUE(store->Verify(TestHash(number)).ok());  // memory has it
    EXPECT_TRUE(store->Flush(TestHash(number)).ok());
  }
  EXPECT_EQ(folder_.Files(".page").size(), 3U);
  store.reset();
  store = Opened();
  const auto files = folder_.Files(".page");
  std::filesystem::remove(files[0]);
  WriteText(files[1], std::string(kTestPageBytes, 'x'));
  size_t num_found = 0;
  for (const uint64_t number : {0, 1, 2}) {
    const bool is_good = store->Verify(TestHash(number)).ok();
    EXPECT_EQ(store->Find(TestHash(number)).has_value(), is_good);
    num_found += is_good ? 1 : 0;
  }
  EXPECT_EQ(num_found, 1U);
}

TEST_F(FailingDisk, AFileThatCannotBeRemovedIsCounted) {
  Leave(1);
  const auto store = Opened();
  FailOn(Call::kRemove);
  fault_ = {.status = Unavailable("read-only file system")};
  store->Erase(TestHash(0));
  EXPECT_TRUE(store->Flush().ok());
  EXPECT_FALSE(store->Find(TestHash(0)).has_value());
  EXPECT_EQ(store->usage().num_write_errors, 1U);
  EXPECT_EQ(store->usage().disk_bytes, kTestPageBytes);
}

TEST_F(FailingDisk, ThatTakesNothingBackKeepsWhatItHas) {
  Leave(2);
  const auto store = Opened(/*memory_pages=*/4, /*disk_pages=*/2);
  FailOn(Call::kRemove);
  fault_ = {.status = Unavailable("read-only file system")};
  for (const uint64_t number : {2, 3, 4}) {
    Put(*store, number);
  }
  EXPECT_FALSE(store->Flush().ok());
  EXPECT_EQ(store->usage().num_evictions, 0U);
  for (uint64_t number = 0; number < 5; ++number) {
    EXPECT_TRUE(store->Get(TestHash(number)).value() == TestPage(number));
  }
}

class DuringAGet : public FailingDisk {
 protected:
  // Does `once` when the file of a page is about to be read, and then as it says.
  void InTheMiddle(std::function<std::optional<Fault>()> once) {
    io_.on_call = [once = std::move(once), done = false](
                      Call call, const std::string& path) mutable -> std::optional<Fault> {
      if (call != Call::kRead || !path.ends_with(".page") || done) {
        return std::nullopt;
      }
      done = true;
      return once();
    };
  }
  void LeaveCold() {
    const auto store = Opened();
    Put(*store, 0, Tier::kCold, Tier::kCold);
    ASSERT_TRUE(store->Flush().ok());
  }
};

TEST_F(DuringAGet, APutOfABetterCopyGivesTheNewFileWhole) {
  LeaveCold();
  std::unique_ptr<BackingStore> store;
  InTheMiddle([&]() -> std::optional<Fault> {
    Put(*store, 0, Tier::kHot);
    CHECK(store->Flush().ok());
    return std::nullopt;
  });
  store = Opened();
  EXPECT_TRUE(store->Get(TestHash(0)).value() == TestPage(0, Tier::kHot));
}

TEST_F(DuringAGet, DamageOfTheOldCopyDoesNotCostTheNewOne) {
  LeaveCold();
  std::unique_ptr<BackingStore> store;
  InTheMiddle([&]() -> std::optional<Fault> {
    Put(*store, 0, Tier::kHot);
    return Fault{.status = DataLoss("the old file is damaged")};
  });
  store = Opened();
  EXPECT_TRUE(store->Get(TestHash(0)).value() == TestPage(0, Tier::kHot));
  EXPECT_EQ(store->usage().num_damaged, 0U);
}

TEST_F(DuringAGet, AnErasureIsAMissAndNoDamage) {
  LeaveCold();
  std::unique_ptr<BackingStore> store;
  InTheMiddle([&]() -> std::optional<Fault> {
    store->Erase(TestHash(0));
    CHECK(store->Flush().ok());
    return std::nullopt;
  });
  store = Opened();
  EXPECT_EQ(store->Get(TestHash(0)).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store->usage().num_damaged, 0U);
}

class DuringAWrite : public FailingDisk {
 protected:
  void InTheMiddle(std::function<void()> once) {
    io_.on_call = [once = std::move(once), done = false](
                      Call call, const std::string& path) mutable -> std::optional<Fault> {
      if (call == Call::kRename && path.ends_with(".page") && !done) {
        done = true;
        once();
      }
      return std::nullopt;
    };
  }
};

TEST_F(DuringAWrite, AnErasureRemovesTheFileToo) {
  std::unique_ptr<BackingStore> store;
  InTheMiddle([&] { store->Erase(TestHash(0)); });
  store = Opened();
  Put(*store, 0);
  ASSERT_TRUE(store->Flush().ok());
  ASSERT_TRUE(store->Flush().ok());  // of what was queued in the middle of the first
  EXPECT_TRUE(folder_.Files(".page").empty());
  EXPECT_EQ(store->usage().disk_bytes, 0U);
}

TEST_F(DuringAWrite, ABetterCopyIsWrittenAfterIt) {
  std::unique_ptr<BackingStore> store;
  InTheMiddle([&] { Put(*store, 0, Tier::kHot); });
  store = Opened();
  Put(*store, 0, Tier::kCold, Tier::kCold);
  ASSERT_TRUE(store->Flush().ok());
  ASSERT_TRUE(store->Flush().ok());
  EXPECT_EQ(store->usage().disk_bytes, kTestPageBytes);
  store.reset();
  EXPECT_TRUE(Opened()->Get(TestHash(0)).value() == TestPage(0));
}

TEST_F(FailingDisk, ManyThreadsOnFewPagesNeverSeeWrongBytes) {
  constexpr uint64_t kNumbers = 6;
  io_.on_call = [](Call call, const std::string& path) -> std::optional<Fault> {
    // Every eighth file cannot be written.
    static std::atomic<int> num_writes = 0;
    if (call == Call::kWrite && path.ends_with(".tmp") && ++num_writes % 8 == 0) {
      return Fault{.status = ResourceExhausted("no space left"), .num_bytes = 50};
    }
    return std::nullopt;
  };
  auto store = Opened(/*memory_pages=*/2, /*disk_pages=*/4);
  const auto work = [&](uint64_t seed) {
    std::mt19937_64 random(seed);
    for (int step = 0; step < 4000; ++step) {
      const uint64_t number = random() % kNumbers;
      const ContentHash hash = TestHash(number);
      const auto tier = static_cast<Tier>(random() % 3);
      const Tier loss = random() % 2 == 0 ? Tier::kCold : Tier::kHot;
      switch (random() % 8) {
        case 0:
          store->Erase(hash);
          break;
        case 1:
          store->SetPinned(hash, true);
          (void)store->Find(hash);
          store->SetPinned(hash, false);
          break;
        case 2:
        case 3:
        case 4:
          ASSERT_TRUE(store->Put(hash, TestPage(number, tier, loss)).ok());
          break;
        default:
          if (const Result<StoredPage> page = store->Get(hash); page.ok()) {
            ASSERT_TRUE(*page == TestPage(number, page->tier, page->loss));
          } else {
            ASSERT_EQ(page.status().code(), StatusCode::kNotFound) << page.status().message();
          }
      }
      const StoreUsage usage = store->usage();
      ASSERT_LE(usage.memory_bytes, 2 * kTestPageBytes);
      ASSERT_LE(usage.disk_bytes, 4 * kTestPageBytes);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (uint64_t seed = 0; seed < 4; ++seed) {
      threads.emplace_back(work, seed);
    }
  }
  (void)store->Flush();
  EXPECT_EQ(store->usage().num_damaged, 0U);
  const StoreUsage before = store->usage();
  uint64_t bytes = 0;
  for (const auto& file : folder_.Files(".page")) {
    bytes += std::filesystem::file_size(file);
  }
  EXPECT_EQ(before.disk_bytes, bytes);
  store.reset();
  store = Opened();
  EXPECT_EQ(store->usage().num_pages, before.num_disk_pages);
  EXPECT_EQ(store->usage().num_damaged, 0U);
}

}  // namespace
}  // namespace thermocline
