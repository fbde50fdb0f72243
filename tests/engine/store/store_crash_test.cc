// Whatever instant a process ends at, the next one finds each page whole or not at all.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <random>
#include <set>

#include "engine/store/backing_store.h"
#include "engine/store/posix_file_io.h"
#include "engine/store/session_store.h"
#include "tests/testing/faulty_file_io.h"
#include "tests/testing/stored_pages.h"

namespace thermocline {
namespace {

constexpr uint64_t kNumbers = 8;

struct Copy {
  uint64_t number = 0;
  Tier tier = Tier::kHot;
  Tier loss = Tier::kHot;
};

// What the store that a crash left finds: right bytes of pages, and nothing else.
std::map<uint64_t, Copy> FoundAfterCrash(const std::string& directory) {
  PosixFileIo io;
  const auto store = BackingStore::Create(TestConfig(directory, 10, 100), io);
  CHECK(store.ok());
  EXPECT_EQ((*store)->usage().num_damaged, 0U);
  std::map<uint64_t, Copy> found;
  for (uint64_t number = 0; number < kNumbers; ++number) {
    const auto info = (*store)->Find(TestHash(number));
    if (!info.has_value()) {
      continue;
    }
    const Result<StoredPage> page = (*store)->Get(TestHash(number));
    EXPECT_TRUE(page.ok() && *page == TestPage(number, info->tier, info->loss)) << number;
    found[number] = {number, info->tier, info->loss};
  }
  EXPECT_EQ((*store)->usage().num_pages, found.size());
  return found;
}

// Writes, replaces, erases and evicts, with a Flush after each, so that a run makes the same calls
// each time. Returns the pages that a Flush called safe and nothing endangered later.
std::set<uint64_t> RunUntilCut(const std::string& directory, FileIo& io) {
  std::set<uint64_t> safe;
  const auto store = BackingStore::Create(TestConfig(directory, 2, 4), io);
  if (!store.ok()) {
    return safe;
  }
  const auto put = [&](const Copy& copy) {
    (void)(*store)->Put(TestHash(copy.number), TestPage(copy.number, copy.tier, copy.loss));
    if ((*store)->Flush().ok()) {
      safe.insert(copy.number);
    }
  };
  put({0, Tier::kCold, Tier::kCold});
  put({1, Tier::kHot, Tier::kHot});
  put({2, Tier::kHot, Tier::kHot});
  (*store)->SetPinned(TestHash(2), true);
  safe.erase(0);  // its file is about to be replaced, which an error may cost
  put({0, Tier::kHot, Tier::kHot});
  safe.erase(1);
  (*store)->Erase(TestHash(1));
  (void)(*store)->Flush();
  put({3, Tier::kHot, Tier::kHot});
  safe.erase(0);  // may be evicted from here on
  safe.erase(3);
  put({4, Tier::kHot, Tier::kHot});
  put({5, Tier::kHot, Tier::kHot});
  safe.erase(4);
  safe.erase(5);
  put({6, Tier::kHot, Tier::kHot});
  return safe;
}

TEST(StoreCrash, AtAnyCallAndAnyByteOfAWriteLeavesWholePages) {
  PosixFileIo posix;
  size_t num_calls = 0;
  {
    const TestFolder folder;
    FaultyFileIo io(posix);
    io.CutAt(~size_t{0}, 0, num_calls);
    EXPECT_EQ(RunUntilCut(folder.path(), io), (std::set<uint64_t>{2, 6}));
  }
  ASSERT_GT(num_calls, 30U);
  const size_t record = kTestPageBytes;
  for (size_t index = 0; index < num_calls; ++index) {
    for (const size_t num_bytes :
         {size_t{0}, size_t{1}, kPageHeadBytes, record / 2, record - 1, record}) {
      const TestFolder folder;
      FaultyFileIo io(posix);
      size_t calls_made = 0;
      io.CutAt(index, num_bytes, calls_made);
      const std::set<uint64_t> safe = RunUntilCut(folder.path(), io);
      const std::map<uint64_t, Copy> found = FoundAfterCrash(folder.path());
      for (const uint64_t number : safe) {
        ASSERT_TRUE(found.contains(number)) << "page " << number << " call " << index;
      }
      ASSERT_TRUE(folder.Files(".tmp").empty());
    }
  }
}

// Puts pages for good and tells of each on `pipe`. Never returns.
[[noreturn]] void WriteForever(const std::string& directory, int pipe, uint64_t seed) {
  PosixFileIo io;
  const auto store = BackingStore::Create(TestConfig(directory, 3, 6), io);
  CHECK(store.ok());
  std::mt19937_64 random(seed);
  for (;;) {
    const uint64_t number = random() % kNumbers;
    const auto tier = static_cast<Tier>(random() % 3);
    CHECK((*store)
              ->Put(TestHash(number),
                    TestPage(number, tier, random() % 2 == 0 ? Tier::kCold : Tier::kHot))
              .ok());
    if (random() % 4 == 0) {
      (*store)->Erase(TestHash(random() % kNumbers));
    }
    const char one = 1;
    CHECK(write(pipe, &one, 1) == 1);
  }
}

TEST(StoreCrash, AKilledProcessLeavesWholePages) {
  std::mt19937_64 random(1);
  size_t num_found = 0;
  const TestFolder folder;
  for (uint64_t round = 0; round < 40; ++round) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(ends[0]);
      WriteForever(folder.path(), ends[1], round);
    }
    close(ends[1]);
    char byte = 0;
    for (uint64_t left = 1 + random() % 300; left > 0; --left) {
      ASSERT_EQ(read(ends[0], &byte, 1), 1);
    }
    kill(child, SIGKILL);
    int ended = 0;
    ASSERT_EQ(waitpid(child, &ended, 0), child);
    ASSERT_TRUE(WIFSIGNALED(ended));
    close(ends[0]);
    num_found += FoundAfterCrash(folder.path()).size();
    ASSERT_FALSE(HasFailure()) << "round " << round;
  }
  EXPECT_GT(num_found, 40U);  // there was something to see
}

SavedSession Session(size_t num_tokens) {
  return {.tenant = "a", .id = "chat", .tokens = std::vector<TokenId>(num_tokens, 7)};
}

TEST(StoreCrash, ASessionIsTheOldOneOrTheNewOne) {
  PosixFileIo posix;
  const SessionLimits limits{.max_tokens = 100};
  const auto run = [&](const std::string& directory, FileIo& io, Status& saved) {
    const auto store = SessionStore::Create(directory, kTestIdentity, io, limits);
    saved = store.ok() ? (*store)->Save(Session(20)) : store.status();
  };
  for (size_t index = 0;; ++index) {
    for (const size_t num_bytes : {size_t{0}, size_t{1}, size_t{60}, size_t{171}, size_t{172}}) {
      const TestFolder folder;
      FaultyFileIo io(posix);
      Status saved;
      run(folder.path(), posix, saved);
      {
        const auto store = SessionStore::Create(folder.path(), kTestIdentity, posix, limits);
        ASSERT_TRUE((*store)->Save(Session(10)).ok());
      }
      size_t num_calls = 0;
      io.CutAt(index, num_bytes, num_calls);
      run(folder.path(), io, saved);
      const auto store = SessionStore::Create(folder.path(), kTestIdentity, posix, limits);
      ASSERT_TRUE(store.ok());
      const Result<SavedSession> session = (*store)->Load("a", "chat");
      ASSERT_TRUE(session.ok()) << "call " << index << ": " << session.status().message();
      ASSERT_TRUE(*session == Session(20) || (!saved.ok() && *session == Session(10)));
      ASSERT_EQ((*store)->num_unreadable(), 0U);
      if (index >= num_calls) {
        ASSERT_TRUE(saved.ok());
        ASSERT_GT(index, 5U);
        return;
      }
    }
  }
}

}  // namespace
}  // namespace thermocline
